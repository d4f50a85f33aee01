//! Clients behind a slow path share the server's port and its send buffer with others,
//! who must not wait behind them.
//!
//! In network namespaces of the test's threads. Needs root, ip(8) and tc(8); skipped
//! without.
#![allow(
    clippy::disallowed_methods,
    reason = "each network has a thread of its own; a test stands outside: it measures time"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::gettid;

/// The number of clients behind the slow path.
const SLOW: u8 = 60;

/// The rate of the slow path, which they share: sending a full buffer of 16 MiB takes half
/// a minute.
const RATE: &str = "4mbit";

/// On average, other clients may wait for a file three times as long as from a quiet
/// server, and this much more. Behind a full buffer some would wait for seconds.
const MORE: Duration = millis(100);

fn run(ip: &Path, words: &str) {
    let done = bounded(10, ip).args(words.split(' ')).output();
    let done = done.expect("ip runs");
    assert!(done.status.success(), "{words}: {}", said(&done));
}

/// A client that reads as fast as it can and never finishes.
struct SlowClient {
    socket: UdpSocket,
    next: u16,
    unacknowledged: u16,
    /// When it last sent an ACK.
    told: Instant,
}

impl SlowClient {
    fn new(number: u8, server: SocketAddr) -> Self {
        let address = Ipv4Addr::new(10, 9, 1, number);
        let socket = UdpSocket::bind((address, 0)).expect("an address of the network");
        socket.set_nonblocking(true).expect("a socket");
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).expect("root");
        let options = [("blksize", "8192"), ("windowsize", "64")];
        socket
            .send_to(&rrq("large", &options), server)
            .expect("a route");
        Self {
            socket,
            next: 0,
            unacknowledged: 0,
            told: Instant::now(),
        }
    }

    fn take_all(&mut self, server: SocketAddr) {
        let mut buffer = [0; 9000];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            match Packet::parse(&buffer[..len]) {
                Packet::Data(block, _) if block == self.next => {
                    self.next = self.next.wrapping_add(1);
                    self.unacknowledged += 1;
                    if self.unacknowledged < 64 {
                        continue;
                    }
                }
                Packet::Oack(_) => self.next = 1,
                // Out of order: it repeats its ACK, but not each time.
                _ if self.told.elapsed() < millis(20) => continue,
                _ => {}
            }
            self.told = Instant::now();
            self.unacknowledged = 0;
            let answer = ack(self.next.wrapping_sub(1));
            let _ = self.socket.send_to(&answer, server);
        }
    }
}

/// Runs the network behind the slow path until the test is over.
fn slow_network(ip: &Path, server: SocketAddr, is_over: &AtomicBool) {
    run(ip, "link set lo up");
    run(ip, "link set b0 mtu 9000 up");
    run(ip, "addr add 10.9.0.2/16 dev b0");
    run(ip, "route add local 10.9.1.0/24 dev lo");
    let mut clients: Vec<_> = (1..=SLOW).map(|it| SlowClient::new(it, server)).collect();
    while !is_over.load(Ordering::Relaxed) {
        for client in &mut clients {
            client.take_all(server);
        }
        thread::sleep(millis(1));
    }
}

#[test]
fn clients_behind_a_slow_path_keep_nobody_else_waiting() {
    let [Some(ip), Some(tc)] = ["ip", "tc"].map(require) else {
        return;
    };
    if let Err(reason) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("skipped: no network of our own: {reason}");
        return;
    }
    for words in [
        "link set lo up",
        "link add a0 type veth peer name b0",
        "addr add 10.9.0.1/16 dev a0",
        "link set a0 mtu 9000 up",
        "route add 10.9.1.0/24 via 10.9.0.2",
    ] {
        run(&ip, words);
    }
    let server = Server::start_bare(&["-4", "--single-port", "--max-unproved-rate", "0"]);
    let large = std::fs::File::create(server.root().join("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    // This server shows how busy the machine is.
    let other = Server::start_bare(&["-4"]);
    let file = content(2, 10 * BLOCK);
    for server in [&server, &other] {
        server.file("f", &file);
    }
    let address = SocketAddr::from(([10, 9, 0, 1], server.port()));
    let is_over = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    let mut waits = [Vec::new(), Vec::new()];
    thread::scope(|scope| {
        let (ip, is_over) = (&ip, &is_over);
        let (go, gone) = mpsc::channel();
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a second network");
            tell.send(gettid()).expect("the test waits");
            if gone.recv().is_ok() {
                slow_network(ip, address, is_over);
            }
        });
        let slow = told.recv().expect("a thread");
        run(ip, &format!("link set b0 netns {slow}"));
        go.send(()).expect("the other network waits");
        // By now the clients' windows are open.
        thread::sleep(millis(1000));
        let shape = format!("qdisc add dev a0 root tbf rate {RATE} burst 20kb limit 64mb");
        let shaped = bounded(10, &tc).args(shape.split(' ')).output();
        let shaped = shaped.expect("tc runs");
        assert!(shaped.status.success(), "{}", said(&shaped));
        thread::sleep(millis(500));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            for (server, waits) in [&server, &other].into_iter().zip(&mut waits) {
                let begin = Instant::now();
                let got = RawClient::to(([127, 0, 0, 1], server.port()).into()).read("f");
                assert_same("f", &got.expect("a file"), &file);
                waits.push(begin.elapsed());
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let [beside, quiet] = waits.map(|waits| {
        let mean = waits.iter().sum::<Duration>() / waits.len() as u32;
        eprintln!(
            "{} downloads: {mean:?}, at most {:?}",
            waits.len(),
            waits.iter().max()
        );
        mean
    });
    assert!(beside < 3 * quiet + MORE, "{beside:?}, else {quiet:?}");
}
