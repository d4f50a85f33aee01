//! Abusive clients: those that aren't served, those that take too much, and those
//! with forged addresses. What they get, what it costs the victim of a forged
//! address, and that other clients don't notice.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;
use tftpd::net::{Batch, Binding, ListenSocket};

/// A counter from the log line after SIGUSR1; 0 if it isn't there. Counts everything
/// that was sent before.
fn counter(server: &Server, name: &str) -> u64 {
    server.fence();
    counter_now(server, name)
}

/// The same without waiting for what was sent before.
fn counter_now(server: &Server, name: &str) -> u64 {
    server.counters().get(name).copied().unwrap_or(0)
}

// --- who is served ----------------------------------------------------------------

/// Whether a client from `source` gets an answer. The wait is short if none is
/// `expected`.
fn is_served(server: &Server, source: Ipv4Addr, expected: bool) -> bool {
    let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
    let wait = if expected { PATIENCE } else { millis(150) };
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
        // No fence below: it asks from an address that some cases refuse.
        let server = Server::start(args);
        server.file("f", b"content");
        for (client, served) in [friend, foe, stranger].into_iter().zip(*served) {
            let got = is_served(&server, client, served);
            assert_eq!(got, served, "{args:?}: {client}");
        }
        let refused = served.iter().filter(|&&it| !it).count();
        let lines = server.log_lines();
        let dropped = lines.iter().filter(|l| l.contains("is not served")).count();
        assert_eq!(dropped > 0, refused > 0, "{args:?}: {lines:#?}");
    }
}

#[test]
fn a_denied_client_gets_no_error_and_fills_no_log() {
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

#[test]
fn anyone_reads_and_creates_and_nobody_overwrites_or_lists() {
    let server = Server::start(&[]);
    let file = content(7, 2 * BLOCK + 1);
    server.file("f", &file);
    server.file("d/f", &file);
    let client = RawClient::new(&server);
    assert_same("f", &client.read("f").unwrap(), &file);
    assert_same("d/f", &client.read("d/f").unwrap(), &file);
    client.write("d/new", b"new").unwrap();
    assert_eq!(std::fs::read(server.root().join("d/new")).unwrap(), b"new");
    let code = |result: Result<(), (u16, String)>| result.unwrap_err().0;
    assert_eq!(code(client.write("f", b"other")), 6, "it exists");
    assert_eq!(code(client.write("no/f", b"")), 1, "no such directory");
    for directory in ["d", "d/", ".", "/"] {
        let listed = client.read(directory).map(drop);
        assert_eq!(code(listed), 2, "{directory}");
    }
    assert_same("f", &std::fs::read(server.root().join("f")).unwrap(), &file);
}

/// Two datagrams from any sender, in the name of an address that is allowed.
#[test]
fn an_allowed_address_is_no_password_on_a_single_port() {
    for (mode, stored) in [(None, false), (Some("--single-port"), true)] {
        // The other network is where `fence` comes from.
        let allowed = ["--allow", "127.4.0.1", "--allow", "127.64.0.0/10"];
        let args: Vec<_> = allowed.into_iter().chain(mode).collect();
        let server = Server::start(&args);
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        let forger = ListenSocket::bind(any, Binding::default()).expect("a port");
        let name = Ipv4Addr::new(127, 4, 0, 1).into();
        for datagram in [wrq("up", &[]), data(1, b"forged")] {
            let sent = forger.answer(&datagram, server.addr(), name, 0);
            sent.expect("loopback takes it");
            server.fence();
        }
        let there = std::fs::read(server.root().join("up"));
        assert_eq!(there.is_ok_and(|it| it == b"forged"), stored, "{mode:?}");
    }
}

// --- clients that take too much ------------------------------------------------------

#[test]
fn one_client_gets_its_share_and_leaves_the_rest_to_others() {
    let server = Server::start(&["-t", "60000", "--max-sessions-per-client", "2"]);
    let file = content(1, 3 * BLOCK);
    server.file("f", &file);
    let greedy: Vec<_> = (0..3).map(|_| RawClient::new(&server)).collect();
    let tids: Vec<_> = greedy[..2]
        .iter()
        .map(|client| {
            let (_, tid) = client.ask_data(&rrq("f", &[]));
            assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
            tid
        })
        .collect();
    greedy[2].send(&rrq("f", &[]));
    let dropped = |line: &str| line.contains("of one client") && line.contains("dropped=1");
    assert!(server.wait_for_log(dropped, PATIENCE).is_some());
    assert!(
        is_served(&server, Ipv4Addr::new(127, 3, 0, 1), true),
        "another"
    );
    assert_eq!(greedy[2].recv_now(), None, "a third at once");
    // When the first ends, there is room for the third.
    greedy[0].send_to(&error(0, "enough"), tids[0]);
    assert_eq!(greedy[2].read("f").unwrap(), file);
    // A session that dallies doesn't count.
    greedy[2].write("up", b"x").unwrap();
    assert_eq!(greedy[0].read("f").unwrap(), file);
}

/// Many boot ROMs never send the last ACK. Their next request doesn't wait for it.
#[test]
fn a_download_that_lacks_only_its_last_ack_gives_way_to_its_clients_next() {
    for mode in [None, Some("--single-port")] {
        let args = ["-t", "60000", "--max-sessions-per-client", "1"];
        let args: Vec<_> = args.into_iter().chain(mode).collect();
        let server = Server::start(&args);
        server.file("f", &content(1, BLOCK + 1));
        server.file("long", &content(1, 3 * BLOCK));
        let fetch = |name| {
            let rom = RawClient::new(&server);
            let (_, tid) = rom.ask_data(&rrq(name, &[]));
            assert_eq!(rom.say(&ack(1), tid).data_block(), Some(2));
            (rom, tid)
        };
        let [first, second, (long, tid)] = ["f", "f", "long"].map(fetch);
        for (rom, _) in [first, second] {
            let line = &server.wait_ended(rom.addr(), 1)[0];
            assert!(
                line.contains("outcome=completed last_ack=missing"),
                "{line}"
            );
        }
        // What isn't sent yet doesn't give way.
        let next = RawClient::new(&server);
        next.send(&rrq("f", &[]));
        let dropped = |line: &str| line.contains("of one client") && line.contains("dropped=1");
        assert!(server.wait_for_log(dropped, PATIENCE).is_some());
        assert_eq!(next.recv_now(), None, "{mode:?}");
        long.send_to(&error(0, "enough"), tid);
        server.wait_ended(long.addr(), 1);
        assert_eq!(counter(&server, "evicted"), 0);
        assert_eq!(counter(&server, "last_ack_missing"), 2);
    }
}

#[test]
fn forged_requests_use_up_nobodys_share() {
    let server = Server::start(&["-t", "60000", "--max-sessions-per-client", "4"]);
    let file = content(2, 5 * BLOCK);
    server.file("f", &file);
    // Nobody answers from these ports of the client.
    let forged: Vec<_> = (0..20).map(|_| RawClient::new(&server)).collect();
    for port in &forged {
        port.ask_data(&rrq("f", &[]));
    }
    let client = RawClient::new(&server);
    assert_same("f", &client.read("f").unwrap(), &file);
    server.fence();
    assert_eq!(counter(&server, "crowded"), 0);
}

/// Eviction among the requests in one client's name would end the transfer of a slow
/// boot loader.
#[test]
fn forged_requests_end_no_transfer_of_a_slow_client() {
    let server = Server::start(&["-t", "60000", "--max-sessions-per-client", "2"]);
    server.file("f", &content(2, 3 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let forged: Vec<_> = (0..40).map(|_| RawClient::new(&server)).collect();
    for port in &forged {
        port.ask_data(&rrq("f", &[]));
    }
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    assert_eq!(counter(&server, "evicted"), 0);
}

/// Requests that come at once are all answered; the excess ones get an ERROR as soon as
/// the peer has proved that it is there.
#[test]
fn one_client_that_asks_for_too_much_at_once_is_told() {
    let server = Server::start(&["-t", "60000", "--max-sessions-per-client", "2"]);
    server.file("f", &content(2, 3 * BLOCK));
    let clients: Vec<_> = (0..3).map(|_| RawClient::new(&server)).collect();
    let asked = clients
        .iter()
        .map(|client| (client, client.ask_data(&rrq("f", &[])).1));
    for (nth, (client, tid)) in asked.collect::<Vec<_>>().into_iter().enumerate() {
        let mut answer = client.say(&ack(1), tid);
        if nth == 2 && answer.data_block() == Some(2) {
            answer = client.expect_from(tid);
        }
        match answer {
            Packet::Error(0, text) if nth == 2 => assert!(text.contains("Too many"), "{text}"),
            answer => assert_eq!((answer.data_block(), nth < 2), (Some(2), true)),
        }
    }
}

// --- forged addresses ------------------------------------------------------------------

/// Everything that comes back for a request whose sender never answers: packets
/// and bytes.
fn reflected(server: &Server, request: &[u8]) -> (usize, usize) {
    let victim = RawClient::new(server);
    let name = victim.addr().to_string();
    victim.send(request);
    let ends = ["outcome=timed_out", "refused ", "malformed "];
    let is_over = |line: &str| line.contains(&name) && ends.iter().any(|it| line.contains(it));
    let over = server.wait_for_log(is_over, PATIENCE);
    assert!(over.is_some(), "it never ends");
    // The log line may come before the last datagram; `fence` waits for that one too.
    server.fence();
    let (mut packets, mut bytes) = (0, 0);
    while let Some(len) = victim.recv_len_now() {
        packets += 1;
        bytes += len;
    }
    (packets, bytes)
}

/// Two packets are a whole small upload where the port is known, or soon guessed.
#[test]
fn forged_uploads_leave_time_to_others() {
    let port = own_port().port();
    let range = format!("{port}:{port}");
    for args in [&["--single-port"][..], &["-R", &range]] {
        let server = Server::start(&[args, &["-t", "60000"]].concat());
        let file = content(2, 5 * BLOCK);
        server.file("f", &file);
        let client = RawClient::new(&server);
        // The same for all in both modes.
        let (_, tid) = client.ask(&wrq("first", &[]));
        assert_eq!(client.say(&data(1, b"x"), tid), Packet::Ack(1));
        let is_told = |line: &str| line.contains("uploads have had their share of the time");
        // An ERROR comes when the server has read what was sent before.
        let wait = || {
            let client = RawClient::new(&server);
            let (answer, _) = client.ask_patiently(&rrq("missing", &[]));
            assert_eq!(answer.error_code(), Some(1));
        };
        let (mut forged, start) = (0, Instant::now());
        while server.wait_for_log(is_told, Duration::ZERO).is_none() {
            assert!(start.elapsed() < PATIENCE, "{args:?}: {forged} were taken");
            let senders: Vec<_> = (0..200)
                .map(|_| {
                    forged += 1;
                    let source = Ipv4Addr::from(0x7f01_0001 + ((forged % 4096) << 8));
                    let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
                    let request = wrq(&format!("forged-{forged}"), &[]);
                    socket.send_to(&request, server.addr()).expect("room");
                    socket
                })
                .collect();
            wait();
            for socket in senders {
                socket.send_to(&data(1, b"x"), tid).expect("room");
            }
            wait();
        }
        // Downloads aren't held up, and an upload that was dropped may begin later.
        let client = RawClient::new(&server);
        assert_same("f", &client.read("f").unwrap(), &file);
        let (answer, _) = client.ask_patiently(&wrq("later", &[]));
        assert_eq!(answer, Packet::Ack(0));
        let names = std::fs::read_dir(server.root()).expect("the root");
        let is_forged =
            |it: &std::fs::DirEntry| it.file_name().as_encoded_bytes().starts_with(b"forged");
        let stored = names.flatten().filter(is_forged).count();
        assert!(stored < forged as usize, "{stored} of {forged}");
    }
}

/// Row by row what the README's table says.
#[test]
fn a_forged_request_brings_its_victim_no_more_than_is_promised() {
    let long = "x".repeat(400);
    let all = [
        ("blksize", "65464"),
        ("windowsize", "64"),
        ("tsize", "0"),
        ("rollover", "0"),
    ];
    // What is sent; the packets that come back; the most bytes back for each byte
    // sent.
    let cases: &[(&str, Vec<u8>, usize, f64)] = &[
        ("shortest read", rrq("f", &[]), 4, 206.4),
        ("netascii", request(1, b"f", "netascii", &[]), 4, 206.4),
        ("shortest write", wrq("n", &[]), 4, 1.6),
        ("block size", rrq("f", &all[..1]), 4, 6.3),
        ("window", rrq("f", &all[1..2]), 4, 6.3),
        ("size", rrq("f", &all[2..3]), 4, 6.3),
        ("size, of 13 digits", rrq("h", &all[2..3]), 4, 6.3),
        ("all options", rrq("f", &all), 4, 6.3),
        ("write, size", wrq("n", &[("tsize", "9")]), 4, 6.3),
        ("missing", rrq("m", &[]), 1, 4.0),
        ("missing, long", rrq(&long, &[]), 1, 4.0),
        ("directory", rrq("d", &[]), 1, 4.0),
        ("taken", wrq("f", &[]), 1, 4.0),
        ("too large", wrq("n", &[("tsize", "99999")]), 1, 4.0),
        ("without a name", vec![0, 1], 1, 18.0),
        ("without a mode", b"\0\x01f\0".to_vec(), 1, 18.0),
        ("mail", request(1, b"f", "mail", &[]), 1, 18.0),
    ];
    for (name, request, packets, most) in cases {
        let patient = ["-v", "-t", "5", "--retries", "20", "--max-upload", "9999"];
        let server = Server::start(&patient);
        server.file("f", &content(1, 5000));
        server.file("d/f", b"");
        let huge = std::fs::File::create(server.root().join("h")).unwrap();
        huge.set_len(8 << 40).unwrap();
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

/// Requests in the name of ever new victims, none of whom answers.
struct Forger {
    sent: u32,
    server: SocketAddr,
}

impl Forger {
    /// Sends `count` more requests, each from a new address.
    fn send(&mut self, count: u32) {
        for _ in 0..count {
            self.sent += 1;
            let source = Ipv4Addr::from_bits(0x7f50_0000 + self.sent);
            let socket = UdpSocket::bind((source, 0)).expect("a loopback address");
            // A request that the server can't take is lost to both sides.
            let _ = socket.send_to(&rrq("f", &[]), self.server);
        }
    }
}

#[test]
fn eviction_makes_room_among_those_that_never_answer() {
    // Longer than a peer has for its first answer, after which it may be evicted.
    const GRACE: Duration = millis(60);
    const SLOTS: u32 = 400;
    let begin = Instant::now();
    let server = Server::start(&["-t", "60000", "--max-sessions", &SLOTS.to_string()]);
    server.file("f", &content(2, 3 * BLOCK));
    let mut flood = Forger {
        sent: 0,
        server: server.addr(),
    };
    while flood.sent < SLOTS {
        flood.send(50);
        // This request is answered after all that came before.
        let client = RawClient::new(&server);
        client.ask_patiently(&rrq("f", &[]));
    }
    // Now all slots are taken; still each client gets one with a single request.
    for _ in 0..8 {
        std::thread::sleep(GRACE);
        flood.send(20);
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        client.send_to(&error(0, "enough"), tid);
    }
    // More at once than sessions are examined in one second.
    std::thread::sleep(GRACE);
    server.signal(Signal::SIGSTOP);
    flood.send(200);
    server.signal(Signal::SIGCONT);
    // Half of the sessions are new by then, so it may take more than one request.
    RawClient::new(&server).ask_patiently(&rrq("f", &[]));
    assert!(counter_now(&server, "evicted") > 200, "nobody made room");
    // The number of lines about evictions is bounded.
    let lines = server.log_lines();
    let about = lines.iter().filter(|l| l.contains("outcome=evicted"));
    let (about, seconds) = (about.count() as u64, begin.elapsed().as_secs() + 1);
    assert!(about <= 100 * seconds, "{about} lines in {seconds} s");
    let left_out = |line: &str| line.contains("left_out ");
    let told = server.wait_for_log(left_out, PATIENCE);
    assert!(told.is_some(), "nothing says that lines are missing");
}

/// When the ports of a range run out, transfers share a port: nothing is evicted.
#[test]
fn when_a_range_of_ports_runs_out_nothing_is_evicted() {
    // Below the ranges of other tests.
    let low = 30_000 + (std::process::id() % 100) as u16 * 16;
    let option = format!("{low}:{}", low + 15);
    let server = Server::start(&["-t", "60000", "-R", &option]);
    let file = content(4, 3 * BLOCK);
    server.file("f", &file);
    let mut flood = Forger {
        sent: 0,
        server: server.addr(),
    };
    for _ in 0..10 {
        flood.send(32);
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        client.send_to(&error(0, "enough"), tid);
    }
    assert_eq!(counter(&server, "evicted"), 0);
    assert_eq!(counter(&server, "shed"), 0);
}

#[test]
fn transfers_have_ports_that_nobody_can_guess() {
    let server = Server::start(&NEVER);
    server.file("f", &content(5, 3 * BLOCK));
    let clients: Vec<_> = (0..256).map(|_| RawClient::new(&server)).collect();
    let ports: Vec<u16> = clients
        .iter()
        .map(|client| client.ask_data(&rrq("f", &[])).1.port())
        .collect();
    // Drawn from all of 1024 to 65535, one as likely as the other.
    assert!(ports.iter().any(|&port| port < 32_768), "{ports:?}");
    assert!(ports.iter().any(|&port| port > 61_000), "{ports:?}");
    let near = |pair: &&[u16]| pair[0].abs_diff(pair[1]) < 16;
    assert!(ports.windows(2).filter(near).count() < 8, "{ports:?}");
}

/// Otherwise a request in the name of another server would make the two serve each other.
#[test]
fn a_single_port_has_no_transfer_with_another_server() {
    for (single_port, served) in [(false, true), (true, false)] {
        let mode = single_port.then_some("--single-port");
        let server = Server::start(&mode.into_iter().collect::<Vec<_>>());
        server.file("f", b"content");
        let address = Ipv4Addr::new(127, 90, 0, 1);
        for port in [69, server.port()] {
            let Ok(socket) = UdpSocket::bind((address, port)) else {
                skip(format_args!("no port {port} for us"));
                continue;
            };
            socket.send_to(&rrq("f", &[]), server.addr()).unwrap();
            socket.send_to(&wrq("up", &[]), server.addr()).unwrap();
            server.fence();
            socket.set_read_timeout(Some(millis(100))).unwrap();
            let answered = socket.recv(&mut [0; 600]).is_ok();
            assert_eq!(answered, served, "port {port}, single port {single_port}");
            if single_port {
                let told = |line: &str| {
                    line.contains("dropped a request of") && line.contains("without --single-port")
                };
                assert!(server.wait_for_log(told, PATIENCE).is_some(), "port {port}");
                assert!(counter_now(&server, "from_servers") >= 2, "port {port}");
            }
        }
    }
}

/// Requests in the name of neighbours that don't exist: the kernel holds each answer
/// while it looks for the neighbour.
#[test]
fn answers_to_nobody_keep_no_honest_client_waiting() {
    let Some(ip) = own_network() else { return };
    for words in [
        "link add a0 type veth peer name b0",
        "addr add 10.9.0.1/16 dev a0",
        "link set a0 up",
        "link set b0 up",
    ] {
        ip(&words.split(' ').collect::<Vec<_>>());
    }
    // With few descriptors most transfers share a port, too.
    let cases: [(&[&str], _); 4] = [
        (&[], "4096"),
        (&["--single-port"], "4096"),
        (&[], "1024"),
        (&["-R", "20000:20007"], "4096"),
    ];
    for (mode, open_files) in cases {
        // A busy machine is late once or twice, and one server in sixty counts two of these
        // networks as one. A full send buffer, though, would delay everyone for seconds in
        // each try.
        let is_prompt = (0..3).any(|_| are_served_promptly(mode, open_files));
        assert!(is_prompt, "{mode:?}");
    }
}

/// Whether a miss and a download are served at once after each of several floods in the
/// name of neighbours that don't exist.
fn are_served_promptly(mode: &[&str], open_files: &str) -> bool {
    use nix::sys::socket::{setsockopt, sockopt};

    let server = Server::start_prepared(&[mode, &["-4"]].concat(), |_| {
        let mut command = Command::new("prlimit");
        command.args([&format!("--nofile={open_files}"), tftpd()]);
        command
    });
    let file = content(6, 20 * BLOCK);
    server.file("f", &file);
    let address: SocketAddr = ([10, 9, 0, 1], server.port()).into();
    let forge = |name: &str, count: u32| {
        for number in 0..count {
            let source = Ipv4Addr::from_bits(0x0a09_0100 + number % 1000);
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
            let socket = socket.expect("a socket");
            setsockopt(&socket, sockopt::IpTransparent, &true).expect("root");
            let bound = SocketAddr::from((source, 0));
            socket.bind(&bound.into()).expect("any address");
            let _ = socket.send_to(&rrq(name, &[]), &address.into());
        }
    };
    // A few times what a send buffer holds: 1280 bytes per datagram.
    let (rounds, many) = match mode {
        ["-R", _] => (2, 5000),
        _ => (6, 250),
    };
    (0..rounds).all(|round| {
        forge("missing", 250);
        forge("f", many);
        server.fence();
        let client = RawClient::to(address);
        client.send(&rrq("missing", &[]));
        let answer = client.recv(millis(500));
        let code = answer.and_then(|(packet, _)| packet.error_code());
        let start = Instant::now();
        assert_same(
            "f",
            &RawClient::to(address).read("f").expect("a download"),
            &file,
        );
        let took = start.elapsed();
        let is_prompt = code == Some(1) && took < millis(900);
        if !is_prompt {
            eprintln!("{mode:?}, round {round}: a miss: {code:?}, a download: {took:?}");
        }
        is_prompt
    })
}

// --- floods --------------------------------------------------------------------------

/// A socket that sends from any address of a loopback network.
struct Network {
    socket: ListenSocket,
    network: [u8; 3],
}

impl Network {
    fn new(network: [u8; 3]) -> Self {
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        let socket = ListenSocket::bind(any, Binding::default()).expect("a port");
        Self { socket, network }
    }

    fn send_from(&self, host: u8, datagram: &[u8], server: SocketAddr) {
        let [a, b, c] = self.network;
        let source = Ipv4Addr::new(a, b, c, host).into();
        let sent = self.socket.answer(datagram, server, source, 0);
        sent.expect("loopback takes it");
    }

    /// The code of the ERROR that comes within `wait`.
    fn answer(&self, wait: Duration) -> Option<u16> {
        let mut batch = Batch::new(1, 1024);
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if self
                .socket
                .receive(&mut batch, 1024, 1)
                .is_ok_and(|it| it == 1)
            {
                let payload = batch.get(0).expect("a datagram").payload;
                return Packet::parse(payload).error_code();
            }
            std::thread::yield_now();
        }
        None
    }
}

/// One sender leaves ERRORs for the others: both those for malformed requests, of
/// which there are few per second, and those for missing files.
#[test]
fn a_flood_from_one_network_leaves_errors_for_another() {
    for mode in [&[][..], &["--single-port"]] {
        // One server in fifty counts the two networks as one.
        assert!((0..3).any(|_| leaves_errors(mode)), "{mode:?}");
    }
}

/// Whether a network gets all its ERRORs after floods from another.
fn leaves_errors(mode: &[&str]) -> bool {
    let server = Server::start(mode);
    let [loud, quiet] = [[127, 0, 1], [127, 0, 2]].map(Network::new);
    // Malformed requests and misses; the code that answers them.
    let cases = [(vec![0, 1], 4, 4), (rrq("missing", &[]), 1, 8)];
    cases.into_iter().all(|(request, code, rounds)| {
        (0..rounds).all(|round| {
            for number in 0..500_u32 {
                loud.send_from(number as u8, &request, server.addr());
            }
            quiet.send_from(1, &request, server.addr());
            let answer = quiet.answer(PATIENCE / 3);
            if answer != Some(code) {
                eprintln!("{mode:?}, round {round}: {answer:?}, not {code}");
            }
            answer == Some(code)
        })
    })
}

#[test]
fn a_flood_in_the_name_of_one_network_leaves_a_single_ports_answers_to_another() {
    let server = Server::start(&["--single-port", "-t", "60000"]);
    server.file("f", &content(7, 700));
    let mut waves: Vec<Network> = Vec::new();
    for _ in 0..12 {
        let loud = Network::new([127, 0, 1]);
        for host in 1..=250 {
            loud.send_from(host, &rrq("f", &[]), server.addr());
        }
        waves.push(loud);
    }
    let client = RawClient::new(&server);
    client.send(&rrq("f", &[]));
    let answer = client.recv(PATIENCE).map(|(packet, _)| packet.data_block());
    assert_eq!(answer, Some(Some(1)));
    // Answers that have left the buffer hinder nobody. The unit tests of `unverified`
    // cover how much of it a network may fill.
    assert_eq!(counter_now(&server, "shed"), 0, "dropped without need");
}

/// The lines about dropped requests are bounded by reason and network.
#[test]
fn one_clients_drops_hide_no_other_network_in_the_log() {
    let server = Server::start(&["--deny", "127.9.0.0/16"]);
    // One of them may fall into the same hash slot as the loud one.
    let [loud, quiet @ ..] = [1, 2, 3, 4].map(|third| Network::new([127, 9, third]));
    for host in 0..200 {
        loud.send_from(host, &rrq("f", &[]), server.addr());
    }
    for network in quiet {
        network.send_from(1, &rrq("f", &[]), server.addr());
    }
    server.fence();
    let is_quiet = |line: &str| line.contains("127.9.") && !line.contains("127.9.1.");
    let of_quiet = |line: &str| is_quiet(line) && line.contains("is not served");
    assert!(server.wait_for_log(of_quiet, PATIENCE).is_some());
    let lines = server.log_lines();
    let about = lines.iter().filter(|l| l.contains("127.9.1.")).count();
    assert!((1..=3).contains(&about), "{about} lines: {lines:#?}");
}

/// Requests of one kind, from one port and ever new addresses.
struct Wave {
    name: &'static str,
    request: Vec<u8>,
    /// The most bytes back for each byte sent: what the README promises.
    factor: f64,
    socket: ListenSocket,
    sent: u32,
    packets: u32,
    bytes: u32,
}

impl Wave {
    fn new((name, request, factor): (&'static str, Vec<u8>, f64)) -> Self {
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        Self {
            name,
            request,
            factor,
            socket: ListenSocket::bind(any, Binding::default()).expect("a port"),
            sent: 0,
            packets: 0,
            bytes: 0,
        }
    }

    fn send(&mut self, server: SocketAddr) {
        self.sent += 1;
        let source = Ipv4Addr::from_bits(0x7f10_0000 + self.sent);
        let sent = self.socket.answer(&self.request, server, source.into(), 0);
        sent.expect("loopback takes it");
    }

    /// Counts what has come back.
    fn take(&mut self, batch: &mut Batch) {
        while let Ok(count) = self.socket.receive(batch, 1024, 64) {
            let lengths = (0..count).filter_map(|index| Some(batch.get(index)?.payload.len()));
            self.bytes += lengths.sum::<usize>() as u32;
            self.packets += count as u32;
        }
    }
}

fn take_all(waves: &mut [Wave], batch: &mut Batch) {
    for wave in waves {
        wave.take(batch);
    }
}

/// The time that an honest client waits for each file, until `is_over`.
fn downloads(server: &Server, file: &[u8], is_over: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    loop {
        let start = Instant::now();
        let got = RawClient::new(server).read("f").expect("a file");
        assert_same("an honest client", &got, file);
        waits.push(start.elapsed());
        if is_over.load(Ordering::Relaxed) {
            return waits;
        }
    }
}

/// How many requests of each kind the flood may be ahead of the server. The server is to
/// be flooded, however fast it is, and not the kernel's queue.
const BACKLOG: u32 = 32;

/// How long the flood waits for the server before it counts answers as lost.
const FLOOD_WAIT: Duration = millis(200);

/// 4,000 requests whose senders never answer, as fast as the server takes them.
/// `FLOOD_REQUESTS=100000` sends more, with the default timeout.
#[test]
fn a_flood_costs_no_more_than_is_promised() {
    let (requests, args): (u32, &[&str]) = match std::env::var("FLOOD_REQUESTS") {
        Ok(text) => (text.parse().expect("a number"), &[]),
        Err(_) => (4_000, &["-t", "100"]),
    };
    let server = Server::start(args);
    let file = content(3, 3 * BLOCK + 1);
    server.file("f", &file);
    server.fence();
    let idle = server.status("VmHWM");
    let options = [("blksize", "65464"), ("windowsize", "64"), ("tsize", "0")];
    let kinds = [
        ("shortest read", rrq("f", &[]), 206.4),
        ("read, options", rrq("f", &options), 6.3),
        ("shortest write", wrq("n", &[]), 1.6),
        ("missing", rrq("m", &[]), 4.0),
    ];
    let mut waves = kinds.map(Wave::new);
    let mut batch = Batch::new(64, 64 * 1024);
    let is_over = AtomicBool::new(false);
    let (begin, mut waits) = (Instant::now(), Vec::new());
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| downloads(&server, &file, &is_over));
        // A miss is answered once and at once, so the misses pace the flood.
        let (mut lost, mut moved) = (0, begin);
        while waves[0].sent < requests / 4 {
            take_all(&mut waves, &mut batch);
            let [.., misses] = &waves;
            let behind = misses.sent.saturating_sub(misses.packets + lost);
            if behind < BACKLOG / 2 || moved.elapsed() > FLOOD_WAIT {
                lost += if behind < BACKLOG / 2 { 0 } else { behind };
                moved = Instant::now();
                for _ in 0..BACKLOG / 2 {
                    for wave in &mut waves {
                        wave.send(server.addr());
                    }
                }
            }
            server.wait_for_log(|_| false, millis(1));
        }
        is_over.store(true, Ordering::Relaxed);
        waits = honest.join().expect("an honest client");
    });
    let took = begin.elapsed();
    let deadline = Instant::now() + 4 * PATIENCE;
    // No fence: after a flood of misses another one may get no answer.
    while counter_now(&server, "sessions") > 0 {
        take_all(&mut waves, &mut batch);
        assert!(Instant::now() < deadline, "sessions are left");
        server.wait_for_log(|_| false, millis(20));
    }
    let (peak, evicted) = (server.status("VmHWM"), counter_now(&server, "evicted"));
    let handled = counter_now(&server, "requests");
    eprintln!("{requests} requests in {took:?}, {handled} handled, {evicted} evicted");
    eprintln!("memory: {idle} kB idle, {peak} kB at most");
    for wave in &mut waves {
        wave.take(&mut batch);
        let Wave { name, sent, .. } = wave;
        let per_request = f64::from(wave.packets) / f64::from(*sent);
        let asked = *sent * wave.request.len() as u32;
        let factor = f64::from(wave.bytes) / f64::from(asked);
        eprintln!("{name}: {sent} sent, {per_request:.2} packets each, {factor:.1} bytes a byte");
        assert!(per_request <= 4.0 && factor <= wave.factor, "{name}");
        assert!(wave.packets > 0, "{name}: no answer at all");
    }
    waits.sort_unstable();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    eprintln!(
        "{} downloads beside it: {median:?} to {worst:?}",
        waits.len()
    );
    assert!(handled > u64::from(requests) / 2, "{handled} handled");
    // 12,288 sessions of less than a KiB, and the buffers of those that are active.
    assert!(
        peak < idle + (12 << 10),
        "{idle} kB idle, {peak} kB at most"
    );
}
