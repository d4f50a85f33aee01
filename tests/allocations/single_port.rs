//! The memory of a session when a single port serves thousands: the growth of
//! everything that the server's thread holds when a thousand more sessions begin.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use tftpd::host::clock;
use tftpd::net::{Batch, Binding, ListenSocket};
use tftpd::wire::packet::{BlockNumber, Direction, Mode, Packet, emit_ack, emit_request};

use super::{SHOWN, serve_in};

/// Bytes per session: a hundred thousand sessions fit into 49 MiB.
const MOST: usize = 512;

/// Powers of two, so that tables that grow by doubling have no spare room.
const FEW: u32 = 1024;
const MANY: u32 = 2048;

const PATIENCE: Duration = Duration::from_secs(30);

static HELD: AtomicIsize = AtomicIsize::new(0);

/// Clients with addresses of their own that share one socket.
struct Clients {
    socket: ListenSocket,
    server: SocketAddr,
    batch: Batch,
}

impl Clients {
    fn send(&self, client: u32, packet: &[u8]) {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + client);
        let sent = self
            .socket
            .answer(packet, self.server, IpAddr::from(address), 0);
        sent.expect("a datagram");
    }

    fn ask(&self, client: u32, name: &str) {
        let mut request = [0; 64];
        let none: [(&str, &str); 0] = [];
        let name = name.as_bytes();
        let len = emit_request(Direction::Read, name, Mode::Octet, none, &mut request)
            .expect("a request");
        self.send(client, &request[..len]);
    }

    /// Receives the next packet, which must match.
    fn receive(&mut self, is_it: impl Fn(&Packet<'_>) -> bool) {
        let since: Instant = clock::now();
        loop {
            match self.socket.receive(&mut self.batch, 1024, 1) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            assert!(clock::now() - since < PATIENCE, "no answer");
            std::thread::yield_now();
        }
        let datagram = self.batch.get(0).expect("a datagram");
        let packet = Packet::parse(datagram.payload).expect("an answer");
        assert!(is_it(&packet), "{packet:?}");
    }

    /// Each client acknowledges a block, and gets the next.
    fn begin(&mut self, clients: std::ops::Range<u32>) {
        let is_block = |number| move |packet: &Packet<'_>| matches!(packet, Packet::Data { block, .. } if block.0 == number);
        for client in clients {
            self.ask(client, "file");
            self.receive(is_block(1));
            self.send(client, &emit_ack(BlockNumber(1)));
            self.receive(is_block(2));
        }
        // Once this is answered, the turn before has ended.
        self.ask(u32::from(u16::MAX), "missing");
        self.receive(|packet| matches!(packet, Packet::Error { .. }));
    }
}

#[test]
fn a_session_of_a_single_port_costs_half_a_kibibyte() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("file"), [7; 4096]).expect("a file");
    let more = ["--single-port", "--max-sessions", "4000"];
    let server = serve_in(directory.path(), &more, || SHOWN.set(Some(&HELD)));
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut clients = Clients {
        socket: ListenSocket::bind(any, Binding::default()).expect("a socket"),
        server,
        batch: Batch::new(1, 1024),
    };
    clients.begin(0..FEW);
    let few = HELD.load(Ordering::SeqCst);
    clients.begin(FEW..MANY);
    let many = HELD.load(Ordering::SeqCst);
    let each = (many - few).cast_unsigned() / (MANY - FEW) as usize;
    println!("{each} bytes a session in all");
    assert!(each <= MOST, "{each}");
}
