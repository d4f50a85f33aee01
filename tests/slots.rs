//! Resources that a flood of forged requests must not exhaust: the ports of a range, and
//! the descriptors of a process that has few. A real client is served at once, however
//! slow its path is.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;

/// Requests in the name of ever new victims, none of whom answers.
struct Forger {
    server: SocketAddr,
    request: Vec<u8>,
    sent: AtomicU32,
}

impl Forger {
    fn new(server: &Server, request: Vec<u8>) -> Self {
        Self {
            server: server.addr(),
            request,
            sent: AtomicU32::new(0),
        }
    }

    /// Sends `count` more requests, each from a new address.
    fn send(&self, count: u32) {
        for _ in 0..count {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let source = Ipv4Addr::from_bits(0x7f60_0001 + number);
            let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
            let _ = socket.send_to(&self.request, self.server);
        }
    }

    /// Sends this many requests per second until told to stop. No more than a quarter of
    /// a second's worth waits in the server's socket. Otherwise on a busy machine, where
    /// the server gets too little time, the buffer would fill with 20,000 requests, and
    /// each would wait for all those before it.
    fn flood(&self, server: &Server, each_second: u32, is_over: &AtomicBool) {
        let begin = Instant::now();
        let mut taken = 0;
        while !is_over.load(Ordering::Relaxed) {
            let due = begin.elapsed().as_millis() * u128::from(each_second) / 1000;
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            let sent = self.sent.load(Ordering::Relaxed);
            self.send(due.saturating_sub(sent).min(100));
            if sent >= taken + each_second / 4 {
                server.fence();
                taken = sent;
            }
            thread::sleep(millis(1));
        }
    }
}

/// A range of `count` ports that no other test uses.
fn range(count: u16) -> (u16, String) {
    let low = 25_000 + (std::process::id() % 100) as u16 * 32;
    (low, format!("{low}:{}", low + count - 1))
}

/// Downloads a file, sending the request only once and waiting before the first ACK.
/// Returns the port that served it.
fn slow_read(
    server: &Server,
    name: &str,
    options: &[(&str, &str)],
    wait: Duration,
) -> (Vec<u8>, u16) {
    let client = RawClient::new(server);
    let (mut packet, tid) = client.ask(&rrq(name, options));
    thread::sleep(wait);
    let mut file = Vec::new();
    loop {
        match packet {
            Packet::Oack(_) => client.send_to(&ack(0), tid),
            Packet::Data(block, payload) => {
                if usize::from(block) == file.len() / BLOCK + 1 {
                    file.extend(&payload);
                }
                client.send_to(
                    &ack((file.len() / BLOCK) as u16 + u16::from(payload.len() < BLOCK)),
                    tid,
                );
                if payload.len() < BLOCK {
                    return (file, tid.port());
                }
            }
            other => panic!("{name}: {other:?}"),
        }
        packet = client.expect_from(tid);
    }
}

/// Answers that have left the socket hinder nobody, however many there were.
#[test]
fn forged_requests_keep_no_client_of_a_single_port_out() {
    let server = Server::start(&["-t", "60000", "--single-port"]);
    let file = content(5, 2 * BLOCK + 7);
    server.file("f", &file);
    let flood = Forger::new(&server, rrq("f", &[]));
    for _ in 0..5 {
        flood.send(800);
        let (read, _) = slow_read(&server, "f", &[], Duration::ZERO);
        assert_same("f", &read, &file);
    }
}

/// When a range has fewer ports than there are transfers, several peers share a port, and
/// are told apart by their addresses.
#[test]
fn forged_requests_use_up_no_range_of_ports() {
    for count in [1, 3, 16] {
        let (low, option) = range(count);
        let server = Server::start(&["-t", "60000", "-R", &option]);
        let file = content(4, 5 * BLOCK + 7);
        server.file("f", &file);
        let flood = Forger::new(&server, rrq("f", &[]));
        flood.send(200);
        let begun: Vec<_> = (0..20)
            .map(|_| {
                let client = RawClient::new(&server);
                let tid = client.ask_data(&rrq("f", &[])).1;
                (client, tid)
            })
            .collect();
        flood.send(200);
        let (read, port) = slow_read(&server, "f", &[], Duration::ZERO);
        assert_same("f", &read, &file);
        assert!((low..low + count).contains(&port), "{port}");
        let options = [("windowsize", "4"), ("blksize", "512")];
        let (read, _) = slow_read(&server, "f", &options, Duration::ZERO);
        assert_same("f", &read, &file);
        // The transfers that began in between go on, all at once.
        for block in 1..=6 {
            for (client, tid) in &begun {
                client.send_to(&ack(block), *tid);
            }
            for (client, tid) in begun.iter().filter(|_| block < 6) {
                assert_eq!(client.expect_from(*tid).data_block(), Some(block + 1));
            }
        }
        let uploads: Vec<_> = (0..20)
            .map(|number| {
                let client = RawClient::new(&server);
                let (packet, tid) = client.ask(&wrq(&format!("up{number}"), &[]));
                assert_eq!(packet, Packet::Ack(0));
                (client, tid)
            })
            .collect();
        for (number, (client, tid)) in uploads.iter().enumerate() {
            let content = content(number as u64, BLOCK + number);
            assert_eq!(
                client.say(&data(1, &content[..BLOCK]), *tid),
                Packet::Ack(1)
            );
            assert_eq!(
                client.say(&data(2, &content[BLOCK..]), *tid),
                Packet::Ack(2)
            );
            let stored = std::fs::read(server.root().join(format!("up{number}"))).unwrap();
            assert_same("an upload", &stored, &content);
        }
    }
}

/// An explicit limit applies to all sessions, including those that take no slot.
#[test]
fn a_limit_of_sessions_holds_in_a_range_of_ports() {
    let (_, option) = range(16);
    let server = Server::start(&["-t", "60000", "-R", &option, "--max-sessions", "8"]);
    let file = content(4, 3 * BLOCK);
    server.file("f", &file);
    Forger::new(&server, rrq("f", &[])).send(200);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_patiently(&rrq("f", &[]));
    server.signal(Signal::SIGUSR1);
    let line = server.wait_for_log(|line| line.contains("counters "), PATIENCE);
    let line = line.expect("the counters");
    let sessions = line.split_once("sessions=").expect("a count").1;
    let sessions = sessions.split(' ').next().map(str::parse::<u32>);
    assert!(matches!(sessions, Some(Ok(1..=8))), "{line}");
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
}

/// RFC 1350 §4: a datagram to a shared port belongs to its sender's transfer, or to no
/// transfer.
#[test]
fn a_stranger_on_a_shared_port_changes_nothing() {
    let (_, option) = range(1);
    let server = Server::start(&["-t", "60000", "-R", &option]);
    let file = content(5, 3 * BLOCK);
    server.file("f", &file);
    let (client, stranger) = (RawClient::new(&server), RawClient::new(&server));
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    for packet in [
        &data(1, b"x")[..],
        &ack(1),
        &rrq("f", &[]),
        &wrq("g", &[]),
        b"?",
    ] {
        stranger.send_to(packet, tid);
    }
    let (packet, from) = stranger.expect();
    assert_eq!((packet.error_code(), from), (Some(5), tid));
    for block in 1..=3 {
        assert_eq!(client.say(&ack(block), tid).data_block(), Some(block + 1));
    }
    assert_eq!(stranger.recv_now(), None);
    assert_eq!(server.tree().len(), 1);
}

/// A wide range whose ports are all taken but one, which is shared. An upload must have a
/// port of its own, and evicting transfers on the shared port can't free one.
#[test]
fn eviction_for_a_port_spares_the_transfers_that_have_none() {
    let (low, high) = (29_000, 30_023);
    let server = Server::start(&["-t", "60000", "-R", &format!("{low}:{high}")]);
    let file = content(5, 3 * BLOCK);
    server.file("f", &file);
    // The first request opens the shared port.
    RawClient::new(&server).read("f").unwrap();
    server.fence();
    let taken: Vec<_> = (low..=high)
        .filter_map(|port| UdpSocket::bind((server.addr().ip(), port)).ok())
        .collect();
    assert!(taken.len() > 1000, "{} ports", taken.len());
    let reads: Vec<_> = (0..3)
        .map(|_| {
            let client = RawClient::new(&server);
            let (_, tid) = client.ask_data(&rrq("f", &[]));
            (client, tid)
        })
        .collect();
    // None of them has answered, and the grace of each is over.
    thread::sleep(millis(100));
    for number in 0..6 {
        RawClient::new(&server).send(&wrq(&format!("up{number}"), &[]));
    }
    server.fence();
    for (client, tid) in &reads {
        assert_eq!(client.say(&ack(1), *tid).data_block(), Some(2));
    }
}

/// A client on port 69 may be another server. If both have well-known ports, forged
/// requests could make the two send files to each other.
#[test]
fn a_port_is_never_shared_with_a_server() {
    let (_, option) = range(1);
    let server = Server::start(&["-t", "60000", "-R", &option]);
    server.file("f", b"content");
    let address = Ipv4Addr::new(127, 91, 0, 1);
    for (port, is_served) in [(0, true), (69, false), (server.port(), false), (0, true)] {
        let Ok(socket) = UdpSocket::bind((address, port)) else {
            skip(format_args!("no port {port} for us"));
            continue;
        };
        for request in [rrq("f", &[]), wrq("up", &[])] {
            socket.send_to(&request, server.addr()).expect("loopback");
            server.fence();
            let wait = if is_served { PATIENCE } else { millis(50) };
            socket.set_read_timeout(Some(wait)).expect("a duration");
            let answered = socket.recv(&mut [0; 600]).is_ok();
            assert_eq!(answered, is_served, "port {port}");
            if is_served {
                break;
            }
        }
    }
}

/// A server that may open 1,024 files, as in many containers.
fn in_container(args: &[&str]) -> Server {
    let address = own_address().to_string();
    let args = [&["-a", &address, "-t", "60000"], args].concat();
    Server::start_prepared(&args, |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=1024:1024", tftpd()]);
        command
    })
}

/// Ends a flood, however its test ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs clients during a flood, half of them on a slow path; all must be served at their
/// first request. Returns the number of downloads.
fn served_in_flood(server: &Server, flood: &Forger, each_second: u32) -> u32 {
    let (small, large) = (&content(1, 100), &content(2, 40 * BLOCK + 9));
    server.file("small", small);
    server.file("large", large);
    let is_over = AtomicBool::new(false);
    let read = |number: u32| {
        let wait = millis(400) * (number % 2);
        let (begin, mut downloads) = (Instant::now(), 0);
        while begin.elapsed() < millis(1500) {
            for (name, file) in [("large", large), ("small", small)] {
                let (read, _) = slow_read(server, name, &[], wait);
                assert_same(name, &read, file);
                downloads += 1;
            }
        }
        downloads
    };
    thread::scope(|scope| {
        let _ends = Ends(&is_over);
        scope.spawn(|| flood.flood(server, each_second, &is_over));
        let clients: Vec<_> = (0..4)
            .map(|number| scope.spawn(move || read(number)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("served"))
            .sum()
    })
}

#[test]
fn forged_requests_use_up_no_descriptors() {
    let server = in_container(&[]);
    server.file("forged", &content(3, 50 * BLOCK));
    let flood = Forger::new(&server, rrq("forged", &[]));
    let downloads = served_in_flood(&server, &flood, 3000);
    let (sent, open) = (flood.sent.load(Ordering::Relaxed), server.open_files());
    eprintln!("{sent} forged; {downloads} downloads; {open} files open");
    assert!(open < 400, "{open} files open");
    // There are still slots for uploads.
    let client = RawClient::new(&server);
    let file = content(4, 3 * BLOCK);
    client.write("up", &file).unwrap();
    assert_same(
        "up",
        &std::fs::read(server.root().join("up")).unwrap(),
        &file,
    );
}

/// A peer that has proved that it is there gets the descriptor for its closed file by
/// evicting one that hasn't.
#[test]
fn eviction_finds_a_descriptor_for_a_closed_file() {
    let (_, option) = range(31);
    let args = ["-t", "60000", "-R", &option, "--max-sessions", "5000"];
    let server = Server::start_prepared(&args, |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=64:64", tftpd()]);
        command
    });
    server.file("f", &content(5, 3 * BLOCK));
    // After a quarter of the ports, ports and files are shared, and files get closed.
    let reads: Vec<_> = (0..14)
        .map(|_| {
            let client = RawClient::new(&server);
            let (_, tid) = client.ask_data(&rrq("f", &[]));
            (client, tid)
        })
        .collect();
    assert_eq!(reads[12].1, reads[13].1, "not shared");
    // Uploads take all remaining descriptors.
    let uploads: Vec<_> = (0..30).map(|_| RawClient::new(&server)).collect();
    for (number, client) in uploads.iter().enumerate() {
        client.send(&wrq(&format!("up{number}"), &[]));
    }
    let shown = |line: &str| line.contains("dropped a request") || line.contains("evicted");
    assert!(server.wait_for_log(shown, PATIENCE).is_some());
    thread::sleep(millis(100));
    for (client, tid) in &reads[10..] {
        assert_eq!(client.say(&ack(1), *tid).data_block(), Some(2));
    }
}

/// A room of machines that are switched on at once: all send requests before the first
/// answers. As long as they hold at most a quarter of the descriptors, each gets a port of
/// its own, which proves it; a client on a shared port is held to `--max-unproved-rate`.
#[test]
fn a_quarter_of_the_descriptors_is_for_clients_that_are_yet_to_answer() {
    let server = Server::start_prepared(&["-t", "60000"], |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=512:512", tftpd()]);
        command
    });
    server.file("f", &content(5, 3 * BLOCK));
    let ask = |_| {
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        (client, tid.port())
    };
    // The server itself needs some descriptors.
    let asked: Vec<_> = (0..110).map(ask).collect();
    let ports: BTreeSet<_> = asked.iter().map(|(_, port)| port).collect();
    assert_eq!(ports.len(), asked.len());
    let more: Vec<_> = (0..30).map(ask).collect();
    let ports: BTreeSet<_> = more.iter().map(|(_, port)| port).collect();
    assert!(ports.len() < more.len(), "none is shared");
}

/// Uploads hold descriptors before they begin; downloads still go on.
#[test]
fn forged_uploads_keep_no_download_out() {
    let server = in_container(&[]);
    let flood = Forger::new(&server, wrq("forged", &[]));
    // Downloads that began before slots ran short hold slots, as all uploads do.
    flood.send(200);
    server.fence();
    let downloads = served_in_flood(&server, &flood, 1500);
    let sent = flood.sent.load(Ordering::Relaxed);
    eprintln!("{sent} forged; {downloads} downloads");
    assert!(!server.root().join("forged").exists());
}

/// In RFC 1350 the port is the only password: whoever forges an upload's request has to
/// find the port, and hits the ports of other transfers on the way.
#[test]
fn a_port_scan_ends_the_uploads_that_were_forged_in_that_name() {
    let server = Server::start(&["-t", "60000"]);
    server.file("f", &content(1, 3 * BLOCK));
    let others: Vec<_> = (0..12)
        .map(|_| {
            let client = RawClient::new(&server);
            let (_, tid) = client.ask_data(&rrq("f", &[]));
            (client, tid)
        })
        .collect();
    // An upload from the same address that has begun.
    let honest = RawClient::new(&server);
    let (_, begun) = honest.ask(&wrq("begun", &[]));
    assert_eq!(honest.say(&data(1, &[7; BLOCK]), begun), Packet::Ack(1));
    let forged = RawClient::new(&server);
    for (tried, is_ended) in [(7, false), (8, true)] {
        let name = format!("up{tried}");
        let (_, tid) = forged.ask_patiently(&wrq(&name, &[]));
        for (_, port) in &others[..tried] {
            // Several datagrams to one port count once.
            forged.send_to(&data(1, b"evil"), *port);
            forged.send_to(&data(1, b"evil"), *port);
        }
        server.fence();
        while forged.recv_now().is_some() {}
        forged.send_to(&data(1, b"late"), tid);
        server.fence();
        assert_eq!(
            server.root().join(&name).exists(),
            !is_ended,
            "{tried} ports"
        );
        drop(forged.recv_now());
        // Counting starts over in the next second.
        thread::sleep(millis(1000));
    }
    let ended = |line: &str| line.contains("outcome=guessed");
    assert!(server.wait_for_log(ended, PATIENCE).is_some());
    // No other transfer is affected.
    assert_eq!(honest.say(&data(2, b"end"), begun), Packet::Ack(2));
    for (client, tid) in &others {
        assert_eq!(client.say(&ack(1), *tid).data_block(), Some(2));
    }
}

/// Sending to the ports of one's own transfers isn't guessing.
#[test]
fn blocks_to_ones_own_ports_end_nobodys_upload() {
    let server = Server::start(&["-t", "60000"]);
    server.file("f", &content(1, 3 * BLOCK));
    let own: Vec<_> = (0..20)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 97, 0, 1), 0)).unwrap();
            socket.send_to(&rrq("f", &[]), server.addr()).unwrap();
            let tid = socket.recv_from(&mut [0; 1000]).unwrap().1;
            (socket, tid)
        })
        .collect();
    let honest = RawClient::new(&server);
    let (_, tid) = honest.ask(&wrq("up", &[]));
    let forged = RawClient::new(&server);
    for (_, port) in &own {
        forged.send_to(&data(1, b"evil"), *port);
    }
    server.fence();
    assert_eq!(honest.say(&data(1, b"up"), tid), Packet::Ack(1));
}

/// A transfer sends the file that it began with, or ends.
#[test]
fn a_closed_file_that_is_replaced_ends_its_transfer() {
    let server = in_container(&[]);
    let file = content(1, 3 * BLOCK);
    server.file("f", &file);
    let flood = Forger::new(&server, rrq("f", &[]));
    flood.send(300);
    server.fence();
    let (client, other) = (RawClient::new(&server), RawClient::new(&server));
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let (_, other_tid) = other.ask_data(&rrq("f", &[]));
    let more: Vec<_> = (0..30).map(|_| RawClient::new(&server)).collect();
    let ports = more.iter().map(|it| it.ask_data(&rrq("f", &[])).1.port());
    let ports: BTreeSet<u16> = ports.collect();
    assert!(ports.len() <= 6, "not shared: {ports:?}");
    assert_eq!(other.say(&ack(1), other_tid).data_block(), Some(2));
    server.file("g", &content(2, 3 * BLOCK));
    std::fs::rename(server.root().join("g"), server.root().join("f")).unwrap();
    assert_eq!(client.say(&ack(1), tid).error_code(), Some(0));
    assert_eq!(other.say(&ack(2), other_tid).data_block(), Some(3));
}
