//! Scripted peers, with habits that are met in the field, against the shipped session:
//! each with a port of its own and with a shared one.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::Outcome;
use tftpd::wire::options::Offer;
use tftpd::wire::packet::{BlockNumber, Direction, Mode, Packet, emit_ack, emit_data_header};

use super::faults::Faults;
use super::files::{Trouble, content};
use super::network::{Act, Cue, LISTEN};
use super::scenario::{Record, Wish, World};
use super::server::{client_address, request};
use super::weather::{FAIR, Kernels};
use super::{all_kernels, windows};

const MS: Duration = Duration::from_millis(1);

/// What came to a peer and when, and its means of answering.
struct Field {
    /// The request that it begins with.
    request: Vec<u8>,
    /// The address that the server sends from, once it is known.
    server: SocketAddr,
    /// Everything that came: a block or an ACK by its number, an OACK as 0.
    came: Vec<(Duration, u16)>,
    /// The ERROR that came, if any.
    error: Option<Vec<u8>>,
}

impl Field {
    /// How many times this block came.
    fn copies(&self, block: u16) -> usize {
        self.came.iter().filter(|(_, it)| *it == block).count()
    }

    fn says(&self, after: Duration, bytes: Vec<u8>) -> Act {
        Act::Says(after, self.server, bytes)
    }

    fn acks(&self, after: Duration, block: u16) -> Act {
        self.says(after, emit_ack(BlockNumber(block)).to_vec())
    }

    fn sends(&self, after: Duration, block: u16, payload: &[u8]) -> Act {
        let mut datagram = emit_data_header(BlockNumber(block)).to_vec();
        datagram.extend_from_slice(payload);
        self.says(after, datagram)
    }
}

/// What a peer does when this block or ACK comes or, if `None`, when its own clock asks
/// for it.
type Way = Box<dyn FnMut(&Field, Duration, Option<u16>) -> Vec<Act>>;

/// Lets a peer that behaves in this `way` send its request. Returns the server's records,
/// and what the peer saw.
fn meet(wish: Wish, kernels: Kernels, faults: Faults, mut way: Way) -> (Vec<Record>, Field) {
    let packet = request(wish.direction, b"file-0", wish.mode, &wish.offer);
    let field = Rc::new(RefCell::new(Field {
        request: packet,
        server: LISTEN,
        came: Vec::new(),
        error: None,
    }));
    let mut world = World::new(7, FAIR, kernels, Wait::Adaptive, vec![wish]);
    let seen = Rc::clone(&field);
    let mut has_asked = false;
    let peer = Box::new(move |now: Duration, cue: Cue<'_>| {
        let mut field = seen.borrow_mut();
        let Cue::Came(datagram) = cue else {
            let mut acts = Vec::new();
            if !std::mem::replace(&mut has_asked, true) {
                acts.push(field.says(Duration::ZERO, field.request.clone()));
            }
            acts.extend(way(&field, now, None));
            return acts;
        };
        field.server = datagram.from;
        let number = match Packet::parse(&datagram.bytes).expect("a packet") {
            Packet::Data { block, .. } | Packet::Ack(block) => block.0,
            Packet::Oack(_) => 0,
            _ => {
                field.error = Some(datagram.bytes.clone());
                return Vec::new();
            }
        };
        field.came.push((now, number));
        way(&field, now, Some(number))
    });
    world.net.with(|network| {
        network.faults = faults;
        network.play(client_address(0), peer);
    });
    world.go_on();
    let served = std::mem::take(&mut world.served[0]);
    drop(world);
    let field = Rc::into_inner(field).expect("the world is gone");
    (served, field.into_inner())
}

fn wish(direction: Direction, blocks: u16, offer: Offer) -> Wish {
    Wish {
        direction,
        mode: Mode::Octet,
        file: 0,
        size: 512 * usize::from(blocks) - 5,
        offer,
        server_trouble: Trouble::None,
        client_trouble: Trouble::None,
        wait: Wait::Adaptive,
    }
}

fn assert_completed(served: &[Record], what: &str) {
    let [record] = served else {
        panic!("{what}: {served:?}");
    };
    assert_eq!(record.outcome, Some(Outcome::Completed), "{what}");
}

fn promised(windowsize: u16) -> Offer {
    Offer {
        timeout: Some(5),
        ..windows(windowsize)
    }
}

// --- boot loaders with windows -----------------------------------------------------------

/// A boot loader that loses the first copy of one block. It reports the gap once, or for
/// each block that it doesn't expect. It answers the OACK after `first`.
fn loader(blocks: u16, window: u16, loses: u16, nacks_each: bool, first: Duration) -> Way {
    let (mut last, mut nacked, mut next_ack) = (0, None, window);
    Box::new(move |field, _, block| {
        let Some(block) = block else {
            return Vec::new();
        };
        if block == loses && field.copies(block) == 1 {
            return Vec::new();
        }
        if block == last + 1 {
            last = block;
            if block < next_ack.min(blocks) {
                return Vec::new();
            }
        } else if block != 0 && !nacks_each && nacked.replace(last) == Some(last) {
            return Vec::new();
        }
        next_ack = last + window;
        let after = if block == 0 { first } else { Duration::ZERO };
        vec![field.acks(after, last)]
    })
}

#[test]
fn a_boot_loader_that_names_a_gap_waits_for_no_timeout() {
    const WINDOW: u16 = 4;
    const BLOCKS: u16 = 12 * WINDOW;
    for kernels in all_kernels() {
        // On a shared port the first windows are 1, 2 to 3, and 4 to 7.
        let (opening, last) = if kernels.single_port {
            (2 * WINDOW, WINDOW - 1)
        } else {
            (0, 0)
        };
        let is_last = |block: u16| block % WINDOW == last;
        for nacks_each in [false, true] {
            let download = |loses| {
                let way = loader(BLOCKS, WINDOW, loses, nacks_each, Duration::ZERO);
                let wish = wish(Direction::Read, BLOCKS, promised(WINDOW));
                let (served, field) = meet(wish, kernels, Faults::NONE, way);
                let what = format!("{loses} lost, each: {nacks_each}, {kernels:?}");
                assert_completed(&served, &what);
                (field.came.last().expect("blocks").0, field.came.len(), what)
            };
            let (usual, needed, _) = download(BLOCKS + 1);
            for loses in 1..=BLOCKS {
                let (took, sent, what) = download(loses);
                // The loss of a window's last block is noticed by silence only, but soon
                // once the round trip is known. While the window opens, the gap after a
                // block may have been reported when the block came twice, and then isn't
                // reported again.
                let most = match loses {
                    _ if loses >= opening && loses < BLOCKS && !is_last(loses) => MS * 10,
                    _ if loses > 4 * WINDOW => MS * 100,
                    _ => MS * 5100,
                };
                assert!(took < usual + most, "{what}: {took:?}, not {usual:?}");
                assert!(sent <= needed + 3 * usize::from(WINDOW), "{what}: {sent}");
            }
        }
    }
}

/// The first answer took long, because the client erased its flash or was busy. So its
/// NACK comes sooner than any answer so far, like an echo.
#[test]
fn a_nack_sooner_than_the_round_trip_suggests_costs_no_negotiated_timeout() {
    const WINDOW: u16 = 4;
    const BLOCKS: u16 = 6 * WINDOW;
    let first = MS * 60;
    for kernels in all_kernels() {
        for (loses, nacks_each) in (1..2 * WINDOW).flat_map(|it| [(it, false), (it, true)]) {
            let way = loader(BLOCKS, WINDOW, loses, nacks_each, first);
            let wish = wish(Direction::Read, BLOCKS, promised(WINDOW));
            let (served, field) = meet(wish, kernels, Faults::NONE, way);
            let what = format!("{loses} lost, each: {nacks_each}, {kernels:?}");
            assert_completed(&served, &what);
            let took = field.came.last().expect("blocks").0;
            // The loss of a window's last block is silent, and while the window opens, any.
            let is_told = loses > 2 * WINDOW || (!kernels.single_port && loses % WINDOW != 0);
            let most = if is_told { MS * 1000 } else { MS * 5600 };
            assert!(took < most, "{what}: {took:?}");
            let sent = field.came.len();
            let most = usize::from(BLOCKS + 4 * WINDOW);
            assert!(sent <= most, "{what}: {sent}");
        }
    }
}

/// Two ACKs of one window wait in the socket: the blocks that only the first asks for
/// aren't sent.
#[test]
fn acks_that_came_together_are_taken_in_before_anything_is_sent() {
    const WINDOW: u16 = 4;
    const BLOCKS: u16 = 12 * WINDOW;
    for kernels in all_kernels() {
        let (mut last, mut next_ack) = (0, WINDOW);
        // How many blocks had come before them, and the second of them.
        let together = Rc::new(RefCell::new(None));
        let both = Rc::clone(&together);
        let way = move |field: &Field, _: Duration, block: Option<u16>| {
            let Some(block) = block else {
                return Vec::new();
            };
            let mut acks = vec![];
            if block == last + 1 {
                last = block;
                if block < next_ack.min(BLOCKS) {
                    return Vec::new();
                }
                if block >= 6 * WINDOW && both.borrow().is_none() {
                    acks.push(block - 3);
                    last = block - 2;
                    *both.borrow_mut() = Some((field.came.len(), last));
                }
            }
            acks.push(last);
            next_ack = last + WINDOW;
            let say = |ack| field.acks(Duration::ZERO, ack);
            acks.into_iter().map(say).collect()
        };
        let wish = wish(Direction::Read, BLOCKS, promised(WINDOW));
        let (served, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
        let what = format!("{kernels:?}");
        assert_completed(&served, &what);
        let (from, acked) = together.borrow().expect("both ACKs");
        let window = field.came[from..].iter().map(|it| it.1).take(4);
        assert!(
            window.eq(acked + 1..=acked + 4),
            "{what}: {:?}",
            &field.came[from..]
        );
    }
}

// --- peers with timers of their own -----------------------------------------------------

/// A client in lockstep repeats its ACK each second; the negotiated timeout is five.
#[test]
fn an_ack_repeated_after_a_second_brings_the_lost_data_in_lockstep() {
    for kernels in all_kernels() {
        for loses in 1..=3 {
            let mut deadline = None;
            let way = move |field: &Field, now: Duration, block: Option<u16>| {
                let last = field.came.iter().map(|it| it.1).filter(|&it| it != loses);
                let last = match field.copies(loses) {
                    0 | 1 => last.max().unwrap_or(0),
                    _ => last.max().unwrap_or(0).max(loses),
                };
                match block {
                    None if deadline.is_none_or(|at| now < at) => return Vec::new(),
                    Some(block) if block == loses && field.copies(block) == 1 => {
                        return Vec::new();
                    }
                    _ => {}
                }
                deadline = (last < 6).then(|| now + MS * 1000);
                vec![field.acks(Duration::ZERO, last), Act::Waits(MS * 1000)]
            };
            let offer = Offer {
                timeout: Some(5),
                ..Offer::default()
            };
            let wish = wish(Direction::Read, 6, offer);
            let (served, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
            let what = format!("{loses} lost, {kernels:?}");
            assert_completed(&served, &what);
            let took = field.came.last().expect("blocks").0;
            assert!(took < MS * 1100, "{what}: {took:?}");
            assert_eq!(field.came.len(), 1 + 6 + 1, "{what}: {:?}", field.came);
        }
    }
}

/// A reader that writes to its flash now and then: it is silent though nothing was lost.
#[test]
fn a_reader_that_pauses_for_every_eighth_block_gets_few_of_them_twice() {
    const BLOCKS: u16 = 121;
    for kernels in all_kernels() {
        let way = |field: &Field, _: Duration, block: Option<u16>| match block {
            Some(block) if field.copies(block) == 1 => {
                let pause = if block.is_multiple_of(8) { 150 } else { 1 };
                vec![field.acks(MS * pause, block)]
            }
            _ => Vec::new(),
        };
        let wish = wish(Direction::Read, BLOCKS, Offer::default());
        let (served, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
        assert_completed(&served, &format!("{kernels:?}"));
        let doubles = field.came.len() - usize::from(BLOCKS);
        assert!(doubles <= 5, "{doubles} doubles, {kernels:?}");
    }
}

/// Its flash takes more than a second for each block, except for the OACK, and the
/// negotiated timeout is longer.
#[test]
fn a_reader_that_is_always_slow_gets_nothing_twice() {
    for kernels in all_kernels() {
        // While a window opens, a reader has to answer what comes twice.
        let windows: &[u16] = if kernels.single_port {
            &[1]
        } else {
            &[1, 4, 16]
        };
        for &window in windows {
            let blocks = 12 * window;
            let way = move |field: &Field, _: Duration, block: Option<u16>| match block {
                Some(0) => vec![field.acks(MS, 0)],
                Some(block) if field.copies(block) == 1 && block % window == 0 => {
                    vec![field.acks(MS * 1500, block)]
                }
                _ => Vec::new(),
            };
            let wish = wish(Direction::Read, blocks, promised(window));
            let (served, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
            let what = format!("windows of {window}, {kernels:?}: {:?}", field.came);
            assert_completed(&served, &what);
            assert_eq!(field.came.len(), 1 + usize::from(blocks), "{what}");
        }
    }
}

/// A writer without the Sorcerer's Apprentice fix (RFC 1123 §4.2.3.1): each ACK brings the
/// next block. An ACK repeated too early makes it send everything twice, to the end.
#[test]
fn a_writer_that_pauses_for_every_eighth_block_is_not_made_a_sorcerers_apprentice() {
    const BLOCKS: u16 = 80;
    let eighth: fn(u16) -> bool = |block| block.is_multiple_of(8);
    let first: fn(u16) -> bool = |block| [2, 3, 5].contains(&block);
    let each: fn(u16) -> bool = |_| true;
    let paces = [
        (eighth, 50, Offer::default()),
        (first, 1600, promised(1)),
        (each, 1000, promised(1)),
    ];
    let met = all_kernels().flat_map(|kernels| paces.clone().map(|pace| (kernels, pace)));
    for (kernels, (is_slow, pause, offer)) in met {
        let bytes = content(0, 512 * usize::from(BLOCKS) - 5);
        let sent = Rc::new(RefCell::new(0));
        let count = Rc::clone(&sent);
        let way = move |field: &Field, _: Duration, ack: Option<u16>| {
            let Some(block) = ack.map(|ack| ack + 1).filter(|&block| block <= BLOCKS) else {
                return Vec::new();
            };
            let start = 512 * usize::from(block - 1);
            let payload = &bytes[start..bytes.len().min(start + 512)];
            *count.borrow_mut() += 1;
            let pause = if is_slow(block) { pause } else { 1 };
            vec![field.sends(MS * pause, block, payload)]
        };
        let wish = wish(Direction::Write, BLOCKS, offer);
        let (served, _) = meet(wish, kernels, Faults::NONE, Box::new(way));
        assert_completed(&served, &format!("{kernels:?}"));
        assert_eq!(*sent.borrow(), BLOCKS, "{pause} ms, {kernels:?}");
    }
}

/// tftp-hpa's client asks again after five seconds, curl after six.
#[test]
fn a_lost_final_ack_is_sent_again_to_a_writer_that_asks_after_six_seconds() {
    for kernels in all_kernels() {
        let way = |field: &Field, _: Duration, ack: Option<u16>| match (ack, field.copies(1)) {
            (Some(0), _) => vec![field.sends(Duration::ZERO, 1, b"whole")],
            (Some(1), 1) => vec![field.sends(MS * 6000, 1, b"whole")],
            _ => Vec::new(),
        };
        let mut wish = wish(Direction::Write, 1, Offer::default());
        wish.size = 5;
        let (served, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
        let what = format!("{kernels:?}: {:?}, {:?}", field.came, field.error);
        assert_completed(&served, &what);
        assert_eq!(field.copies(1), 2, "{what}");
        assert_eq!(field.error, None, "{what}");
    }
}

/// The final ACK meets a socket that is full for longer than any timeout: a stored file
/// doesn't count as failed.
#[test]
fn a_final_ack_that_meets_a_full_socket_is_sent_once_there_is_room() {
    for kernels in all_kernels() {
        let bytes = b"whole";
        let full = Faults::full_sockets(MS * 5, MS * 3000);
        let way = |field: &Field, _: Duration, block: Option<u16>| match block {
            Some(0) => {
                // The request is answered before the socket gets full; then a DATA each
                // second.
                let sends = |second: u32| field.sends(MS * (6 + 1000 * second), 1, bytes);
                (0..3_u32).map(sends).collect()
            }
            _ => Vec::new(),
        };
        let mut wish = wish(Direction::Write, 1, Offer::default());
        wish.size = bytes.len();
        let (served, field) = meet(wish, kernels, full, Box::new(way));
        let what = format!("{kernels:?}: {:?}, {:?}", field.came, field.error);
        assert_completed(&served, &what);
        assert_eq!(field.copies(1), 1, "{what}");
        assert_eq!(field.error, None, "{what}");
    }
}

/// A client that misses the first answers and asks again and again from one port: its
/// requests are answered as long as it asks.
#[test]
fn a_client_that_hears_no_answer_is_answered_each_time_it_asks() {
    for kernels in all_kernels() {
        let reads = [Offer::default(), promised(4)].map(|offer| (Direction::Read, offer));
        let write = (Direction::Write, Offer::default());
        for (direction, offer) in reads.into_iter().chain([write]) {
            let asked = Rc::new(RefCell::new(1));
            let count = Rc::clone(&asked);
            let way = move |field: &Field, now: Duration, block: Option<u16>| {
                let mut acts = Vec::new();
                if block.is_none() && now < MS * 8000 {
                    if now > Duration::ZERO {
                        *count.borrow_mut() += 1;
                        let request = field.request.clone();
                        acts.push(Act::Says(Duration::ZERO, LISTEN, request));
                    }
                    acts.push(Act::Waits(MS * 900));
                }
                acts
            };
            let wish = wish(direction, 1, offer);
            let (_, field) = meet(wish, kernels, Faults::NONE, Box::new(way));
            for nth in 0..*asked.borrow() {
                let at = MS * 900 * nth;
                let is_answer = |&(came, _): &(Duration, u16)| (at..at + MS * 2).contains(&came);
                let answers = field.came.iter().filter(|it| is_answer(it)).count();
                assert_eq!(
                    answers, 1,
                    "{direction:?} {nth}, {kernels:?}: {:?}",
                    field.came
                );
            }
        }
    }
}
