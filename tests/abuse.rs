//! Clients that mean harm: those that aren't served, those that take too much,
//! and those that aren't who they say they are. What they get, what it costs
//! whoever they pretend to be, and that the others don't notice.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;

/// The counters as the log has them after SIGUSR1; 0 where nothing happened.
fn counter(server: &Server, name: &str) -> u64 {
    server.fence();
    let count = |lines: &[String]| lines.iter().filter(|l| l.contains("counters ")).count();
    let before = count(&server.log_lines());
    server.signal(Signal::SIGUSR1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = server.log_lines();
        if count(&lines) > before {
            let line = lines.iter().rev().find(|line| line.contains("counters "));
            let words = line.into_iter().flat_map(|line| line.split(' '));
            let found = words.filter_map(|word| word.split_once('='));
            return found
                .filter(|(key, _)| *key == name)
                .find_map(|(_, value)| value.parse().ok())
                .unwrap_or(0);
        }
        assert!(Instant::now() < deadline, "no counters");
        std::thread::yield_now();
    }
}

// --- who is served ----------------------------------------------------------------

/// What a client from `source` gets: a file, or nothing within a moment.
fn is_served(server: &Server, source: Ipv4Addr) -> bool {
    let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
    let wait = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 50 });
    socket.set_read_timeout(Some(wait)).expect("a duration");
    socket
        .send_to(&rrq("f", &[]), server.addr())
        .expect("loopback takes it");
    socket.recv(&mut [0; 600]).is_ok()
}

#[test]
fn only_who_is_allowed_and_not_denied_is_served() {
    let [friend, foe, stranger] =
        [[127, 1, 0, 1], [127, 1, 0, 66], [127, 2, 0, 1]].map(Ipv4Addr::from);
    let cases: &[(&[&str], [bool; 3])] = &[
        (&[], [true, true, true]),
        (&["--allow", "127.1.0.0/16"], [true, true, false]),
        (&["--deny", "127.1.0.66"], [true, false, true]),
        (
            &["--allow", "127.1.0.0/16", "--deny", "127.1.0.66/32"],
            [true, false, false],
        ),
        (
            &["--allow", "127.1.0.1", "--allow", "127.2.0.0/16"],
            [true, false, true],
        ),
        (&["--allow", "2001:db8::/32"], [false, false, false]),
    ];
    for (args, served) in cases {
        // On the wildcard addresses: the fence of others asks from 127.0.0.1.
        let server = Server::start(args);
        server.file("f", b"content");
        let got = [friend, foe, stranger].map(|client| is_served(&server, client));
        assert_eq!(got, *served, "{args:?}");
        let refused = served.iter().filter(|&&it| !it).count();
        let lines = server.log_lines();
        let dropped = lines.iter().filter(|l| l.contains("is not served")).count();
        assert_eq!(dropped > 0, refused > 0, "{args:?}: {lines:#?}");
    }
}

#[test]
fn who_is_not_served_gets_no_error_either_and_fills_no_log() {
    let server = Server::start(&["--deny", "127.9.0.0/16"]);
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 0, 1), 0)).unwrap();
    let datagrams = [rrq("nowhere", &[]), wrq("up", &[]), vec![0, 9], vec![0, 1]];
    for _ in 0..50 {
        for datagram in &datagrams {
            socket.send_to(datagram, server.addr()).unwrap();
        }
    }
    assert_eq!(counter(&server, "denied"), 200);
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 600]).is_err(), "an answer");
    let lines = server.log_lines();
    let about = lines.iter().filter(|l| l.contains("127.9.0.1")).count();
    assert!((1..=3).contains(&about), "{about} lines: {lines:#?}");
}

// --- who takes too much --------------------------------------------------------------

#[test]
fn one_client_gets_its_share_and_leaves_the_rest_to_others() {
    let server = Server::start(&["-t", "60000", "--max-sessions-per-client", "2"]);
    let file = content(1, 3 * BLOCK);
    server.file("f", &file);
    let greedy: Vec<_> = (0..3).map(|_| RawClient::new(&server)).collect();
    let tids: Vec<_> = greedy[..2]
        .iter()
        .map(|client| client.ask_data(&rrq("f", &[])).1)
        .collect();
    greedy[2].send(&rrq("f", &[]));
    let dropped = |line: &str| line.contains("of one client") && line.contains("dropped=1");
    assert!(server.wait_for_log(dropped, PATIENCE).is_some());
    assert!(is_served(&server, Ipv4Addr::new(127, 3, 0, 1)), "another");
    assert_eq!(greedy[2].recv_now(), None, "a third at once");
    // The first ends; there is room for the third.
    greedy[0].send_to(&error(0, "enough"), tids[0]);
    assert_eq!(greedy[2].read("f").unwrap(), file);
    // One that dallies is no longer in the way.
    greedy[2].write("up", b"x").unwrap();
    assert_eq!(greedy[0].read("f").unwrap(), file);
}

// --- who isn't who it says -------------------------------------------------------------

/// Everything that comes back for a request that nobody stands behind: packets
/// and bytes.
fn reflected(server: &Server, request: &[u8]) -> (usize, usize) {
    let victim = RawClient::new(server);
    let name = victim.addr().to_string();
    victim.send(request);
    let ends = ["outcome=timed_out", "refused ", "malformed "];
    let is_over = |line: &str| line.contains(&name) && ends.iter().any(|it| line.contains(it));
    let over = server.wait_for_log(is_over, PATIENCE);
    assert!(over.is_some(), "it never ends");
    // The line may be there before the last datagram; the fence isn't.
    server.fence();
    let (mut packets, mut bytes) = (0, 0);
    while let Some(len) = victim.recv_len_now() {
        packets += 1;
        bytes += len;
    }
    (packets, bytes)
}

/// What the README's table says, row by row.
#[test]
fn a_forged_request_brings_its_victim_no_more_than_is_promised() {
    let long = "x".repeat(400);
    let all = [
        ("blksize", "65464"),
        ("windowsize", "64"),
        ("timeout", "1"),
        ("tsize", "0"),
        ("rollover", "0"),
    ];
    // What is sent; the packets that come back, and how many bytes for each one
    // at most.
    let cases: &[(&str, Vec<u8>, usize, f64)] = &[
        ("shortest read", rrq("f", &[]), 4, 206.4),
        ("netascii", request(1, b"f", "netascii", &[]), 4, 206.4),
        ("shortest write", wrq("n", &[]), 4, 1.6),
        ("block size", rrq("f", &all[..1]), 4, 3.0),
        ("window", rrq("f", &all[1..2]), 4, 3.0),
        ("size", rrq("f", &all[3..4]), 4, 3.0),
        ("write, size", wrq("n", &[("tsize", "9")]), 4, 3.0),
        ("missing", rrq("m", &[]), 1, 5.0),
        ("missing, long", rrq(&long, &[]), 1, 5.0),
        ("directory", rrq("d", &[]), 1, 5.0),
        ("taken", wrq("f", &[]), 1, 5.0),
        ("too large", wrq("n", &[("tsize", "99999")]), 1, 5.0),
        ("without a name", vec![0, 1], 1, 18.0),
        ("without a mode", b"\0\x01f\0".to_vec(), 1, 18.0),
        ("mail", request(1, b"f", "mail", &[]), 1, 18.0),
    ];
    for (name, request, packets, most) in cases {
        let patient = ["-v", "-t", "5", "--retries", "20", "--max-upload", "9999"];
        let server = Server::start(&patient);
        server.file("f", &content(1, 5000));
        server.file("d/f", b"");
        let (got_packets, got_bytes) = reflected(&server, request);
        let len = request.len();
        let factor = f64::from(got_bytes as u32) / f64::from(len as u32);
        eprintln!(
            "{name}: {len} bytes, back {got_packets} packets, {got_bytes} bytes: {factor:.1}"
        );
        assert_eq!(got_packets, *packets, "{name}");
        assert!(factor <= *most, "{name}: {factor}");
    }
}

/// Requests of ever other victims, none of whom answers.
struct Forger {
    sent: u32,
    server: SocketAddr,
}

impl Forger {
    /// Sends `count` more, each from an address of its own.
    fn send(&mut self, count: u32) {
        for _ in 0..count {
            self.sent += 1;
            let source = Ipv4Addr::from_bits(0x7f50_0000 + self.sent);
            let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
            // Not more than the server takes: what it can't is lost to both.
            let _ = socket.send_to(&rrq("f", &[]), self.server);
        }
    }
}

#[test]
fn who_never_answers_makes_room_for_who_does() {
    const TICK: Duration = millis(5);
    let server = Server::start(&["--max-sessions", "100"]);
    server.file("f", &content(2, 3 * BLOCK));
    let mut flood = Forger {
        sent: 0,
        server: server.addr(),
    };
    // 400 a second: in a second four times what the table holds.
    let begin = Instant::now();
    let mut waits: Vec<Duration> = Vec::new();
    let mut dropped = 0;
    while begin.elapsed() < millis(2500) {
        flood.send(2);
        let (client, start) = (RawClient::new(&server), Instant::now());
        client.send(&rrq("f", &[]));
        match client.recv(TICK) {
            Some((_, tid)) => {
                waits.push(start.elapsed());
                client.send_to(&error(0, "enough"), tid);
                while start.elapsed() < TICK {
                    std::thread::yield_now();
                }
            }
            // Before the first of them is overdue, the table may be full.
            None => dropped += 1,
        }
    }
    waits.sort_unstable();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    let (forged, honest) = (flood.sent, waits.len());
    eprintln!("{forged} forged; {honest} served, {dropped} not; {median:?} to {worst:?}");
    assert!(honest > 20 * dropped, "{honest} served, {dropped} not");
    assert!(counter(&server, "evicted") > 0, "nobody made room");
    // The lines about it are bounded.
    let lines = server.log_lines();
    let about = lines.iter().filter(|l| l.contains("outcome=evicted"));
    let (about, seconds) = (about.count() as u64, begin.elapsed().as_secs() + 1);
    assert!(about <= 100 * seconds, "{about} lines in {seconds} s");
    let left_out = lines.iter().any(|l| l.contains("left out "));
    assert!(left_out, "nothing says that lines are missing");
}
