//! A final ACK that a full port holds back while others want the session's place or the
//! server is about to stop: the client that sent the file still learns that it is stored.
//! The session is dallying by then, and a session that only dallies is evicted first.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::Outcome;
use tftpd::wire::options::Offer;
use tftpd::wire::packet::{BlockNumber, Direction, Mode, Packet, emit_ack};

use super::all_kernels;
use super::faults::Faults;
use super::files::Trouble;
use super::network::{Act, Cue, LISTEN};
use super::scenario::{Record, Stop, Wish, World};
use super::server::{client_address, request};
use super::weather::{FAIR, Kernels};

const MS: Duration = Duration::from_millis(1);

/// From this time on there is room in the server's ports again.
const ROOM: Duration = Duration::from_secs(3);

/// An upload of one block; the server's ports are full from the answer to the request until
/// [`ROOM`]. Another client may want a file of the same length.
fn upload(kernels: Kernels) -> World {
    let wish = |direction| Wish {
        direction,
        mode: Mode::Octet,
        file: 0,
        size: 100,
        offer: Offer::default(),
        server_trouble: Trouble::None,
        client_trouble: Trouble::None,
        wait: Wait::Adaptive,
    };
    let wishes = [Direction::Write, Direction::Read].map(wish);
    let world = World::new(7, FAIR, kernels, Wait::Adaptive, wishes.into());
    // ACK 0 leaves after one latency, the final ACK would leave after three.
    let full = Faults::full_sockets(MS / 4, ROOM);
    world.net.with(|network| network.faults = full);
    world
}

/// The client learned that its file is stored once there was room to tell it.
fn assert_told(world: &World, what: &str) {
    let client = &world.clients[0].record;
    assert_eq!(client.outcome, Some(Outcome::Completed), "{what}");
    let told = client.ended;
    assert!((ROOM..ROOM + MS * 10).contains(&told), "{what}: {told:?}");
    assert!(is_stored_and_told(&world.served[0]), "{what}");
}

fn is_stored_and_told(served: &[Record]) -> bool {
    matches!(served, [it] if it.is_committed() && it.outcome == Some(Outcome::Completed))
}

#[test]
fn an_eviction_waits_for_a_final_ack_that_a_full_port_keeps_back() {
    for kernels in all_kernels() {
        let what = format!("{kernels:?}");
        let mut world = upload(kernels).with_limit(1);
        // Another client asks for the only slot again and again, and records the answers.
        let answers = Rc::new(RefCell::new(Vec::new()));
        let came = Rc::clone(&answers);
        let rrq = request(Direction::Read, b"file-1", Mode::Octet, &Offer::default());
        let peer = move |now: Duration, cue: Cue<'_>| match cue {
            Cue::Came(datagram) => {
                came.borrow_mut().push((now, datagram.bytes.clone()));
                let ack = emit_ack(BlockNumber(1)).to_vec();
                vec![Act::Says(Duration::ZERO, datagram.from, ack)]
            }
            Cue::Clock if came.borrow().is_empty() => {
                let again = Act::Waits(MS * 900);
                vec![Act::Says(MS * 500, LISTEN, rrq.clone()), again]
            }
            Cue::Clock => Vec::new(),
        };
        let other: SocketAddr = client_address(1);
        world
            .net
            .with(|network| network.play(other, Box::new(peer)));
        world.start_client(0);
        world.go_on();
        assert_told(&world, &what);
        // The first of its requests after that gets the slot.
        let answers = answers.take();
        let [(came, answer)] = &answers[..] else {
            panic!("{what}: {answers:?}");
        };
        assert!((ROOM..ROOM + MS * 1500).contains(came), "{what}: {came:?}");
        let data = Packet::parse(answer);
        assert!(matches!(data, Ok(Packet::Data { .. })), "{what}: {data:?}");
    }
}

#[test]
fn a_shutdown_waits_for_a_final_ack_that_a_full_port_keeps_back() {
    for kernels in all_kernels() {
        let what = format!("{kernels:?}");
        let stop = |grace| Stop {
            at: MS * 1000,
            grace,
        };
        let mut world = upload(kernels).with_stop(stop(MS * 60_000));
        world.start_client(0);
        world.go_on();
        assert_told(&world, &what);
        // The shutdown doesn't wait for dallying.
        let stopped = world.stopped.expect("it stops");
        assert!((ROOM..ROOM + MS).contains(&stopped), "{what}: {stopped:?}");

        // Nor does it wait longer than the grace time; the file stays stored.
        let mut world = upload(kernels).with_stop(stop(MS * 500));
        world.start_client(0);
        world.go_on();
        assert_eq!(world.stopped, Some(MS * 1500), "{what}");
        assert!(is_stored_and_told(&world.served[0]), "{what}");
    }
}
