//! What the real binary withstands: idleness, crowds, floods, signals and sudden
//! death.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

/// Waits until `value` gives what is wanted: for things that the kernel reports and the
/// server's log doesn't.
#[track_caller]
fn eventually<T: PartialEq + std::fmt::Debug>(wanted: &T, mut value: impl FnMut() -> T) {
    let start = Instant::now();
    loop {
        let got = value();
        if got == *wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{got:?}, wanted {wanted:?}");
        std::thread::yield_now();
    }
}

/// Lets this process open as many sockets as it may.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("within the hard limit");
}

// --- idleness and memory --------------------------------------------------------

/// How many times the server has slept and been woken.
fn switches(server: &Server) -> (u64, u64) {
    (
        server.status("voluntary_ctxt_switches"),
        server.status("nonvoluntary_ctxt_switches"),
    )
}

#[test]
fn an_idle_server_never_wakes() {
    let server = Server::start(&["-t", "50", "--retries", "1"]);
    server.file("f", &content(1, 3 * BLOCK));
    let silent = RawClient::new(&server);
    let fds = server.open_files();
    let assert_idle = |when: &str| {
        // It may be about to sleep: wait until two looks are equal.
        let mut before = switches(&server);
        let nothing_comes = |wait| assert!(silent.recv(wait).is_none());
        eventually(&true, || {
            nothing_comes(millis(50));
            let now = switches(&server);
            std::mem::replace(&mut before, now) == now
        });
        nothing_comes(millis(1200));
        assert_eq!(switches(&server), before, "{when}: woke up");
    };
    assert_idle("fresh");
    let client = RawClient::new(&server);
    client.read("f").unwrap();
    client.write("g", b"x").unwrap();
    server.wait_ended(client.addr(), 2);
    // The upload dallies; only the descriptors show when it is over.
    eventually(&fds, || server.open_files());
    assert_idle("after work");
}

#[test]
fn a_thousand_stalled_sessions_cost_little() {
    const SESSIONS: usize = 1000;
    raise_descriptor_limit();
    let mut server = Server::start(&NEVER);
    server.file("f", &content(2, 50 * BLOCK));
    let idle = server.status("RssAnon");
    let resident = server.status("VmRSS");
    let clients: Vec<_> = (0..SESSIONS).map(|_| RawClient::new(&server)).collect();
    for (index, client) in clients.iter().enumerate() {
        // Some wait for the first ACK, some stall in the middle, some upload.
        match index % 3 {
            0 => drop(client.ask_data(&rrq("f", &[]))),
            1 => {
                let (_, tid) = client.ask(&rrq("f", &[("windowsize", "8")]));
                client.send_to(&ack(0), tid);
                (0..8).for_each(|_| drop(client.expect_from(tid)));
            }
            _ => {
                let (_, tid) = client.ask(&wrq(&format!("up{index}"), &[]));
                client.say(&data(1, &[1; BLOCK]), tid);
            }
        }
    }
    let grown = server.status("RssAnon").saturating_sub(idle);
    eprintln!("idle: {idle} kB anonymous, {resident} kB resident; 1000 stalled: +{grown} kB");
    assert!(grown <= 704, "{SESSIONS} stalled sessions: {grown} kB");
    if !cfg!(debug_assertions) {
        assert!(resident <= 3072, "idle: {resident} kB resident");
    }
    // They are still alive, and so is the server. While the transfer counts as moving, for
    // four of its round trips, another request is dropped: the client asks again.
    let (packet, _) = clients[1].ask_patiently(&rrq("f", &[]));
    assert_eq!(packet.data_block(), Some(1));
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGTERM);
    assert!(server.wait_exit(PATIENCE).is_some());
    assert_eq!(server.tree().len(), 1, "uploads are left");
}

// --- crowds ------------------------------------------------------------------------

#[test]
fn past_the_cap_requests_are_dropped_and_the_others_go_on() {
    let server = Server::start(&["-t", "60000", "--max-sessions", "4"]);
    let file = content(3, 5 * BLOCK + 1);
    server.file("f", &file);
    let clients: Vec<_> = (0..4).map(|_| RawClient::new(&server)).collect();
    let tids: Vec<_> = clients
        .iter()
        .map(|client| client.ask_data(&rrq("f", &[])).1)
        .collect();
    let late = RawClient::new(&server);
    for round in 1..=3 {
        late.send(&rrq("f", &[]));
        for (client, tid) in clients.iter().zip(&tids) {
            let packet = client.say(&ack(round), *tid);
            assert_eq!(packet.data_block(), Some(round + 1));
        }
        let answer = late.recv(millis(20));
        assert!(answer.is_none(), "{answer:?} past the cap");
    }
    clients[2].send_to(&error(0, "off"), tids[2]);
    assert_eq!(late.read("f").unwrap(), file, "no slot after an end");
    for index in [0, 1, 3] {
        let packet = clients[index].say(&ack(4), tids[index]);
        assert_eq!(packet.data_block(), Some(5), "{index}");
    }
}

#[test]
fn two_hundred_transfers_interleave() {
    let server = Server::start(&[]);
    let names: Vec<_> = (0..200).map(|n| format!("f{n}")).collect();
    for (seed, name) in (0..).zip(&names) {
        server.file(name, &content(seed, 10 * BLOCK + seed as usize));
    }
    let clients: Vec<_> = names.iter().map(|_| RawClient::new(&server)).collect();
    for (client, name) in clients.iter().zip(&names) {
        client.send(&rrq(name, &[]));
    }
    let mut got = vec![Vec::new(); clients.len()];
    for block in 1..=11 {
        for (client, file) in clients.iter().zip(&mut got) {
            let tid = loop {
                match client.expect() {
                    (Packet::Data(number, payload), tid) if number == block => {
                        file.extend(payload);
                        break tid;
                    }
                    // A retransmit, as the round takes long.
                    (Packet::Data(..), _) => {}
                    other => panic!("{other:?}"),
                }
            };
            client.send_to(&ack(block), tid);
        }
    }
    for (seed, file) in (0..).zip(&got) {
        assert_same("file", file, &content(seed, 10 * BLOCK + seed as usize));
    }
}

// --- floods --------------------------------------------------------------------------

/// What the kernel holds for the server's port: the bytes that wait, so that a flood can
/// be exactly as fast as the server; and the number of dropped datagrams. `None` if the
/// kernel's table, which isn't read atomically, lacked the line.
fn receive_queue(port: u16) -> Option<(u64, u64)> {
    let table = fs::read_to_string("/proc/net/udp").expect("a table");
    let local = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queues = fields.get(1)?.ends_with(&local).then_some(fields.get(4)?)?;
        let waiting = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
        Some((waiting, fields.get(12)?.parse().ok()?))
    })
}

/// Random bytes, or a real client's request with some bytes changed, cut or repeated.
fn hostile(random: &mut Random, requests: &[Vec<u8>]) -> Vec<u8> {
    if random.below(4) == 0 {
        let len = random.below(600);
        let mut noise = content(random.next(), len);
        // Usually with an opcode that makes the server look further.
        if let (1.., [high, low, ..]) = (random.below(4), &mut noise[..]) {
            (*high, *low) = (0, random.below(8) as u8);
        }
        return noise;
    }
    let mut packet = requests[random.below(requests.len())].clone();
    for _ in 0..random.below(6) {
        let at = random.below(packet.len().max(1));
        match (random.below(4), packet.get_mut(at)) {
            (0, Some(byte)) => *byte = 0,
            (1, Some(byte)) => *byte = random.next() as u8,
            (2, Some(_)) => packet.truncate(at),
            (_, Some(_)) => packet.extend_from_within(..at),
            (_, None) => {}
        }
    }
    packet
}

/// Sends as many hostile datagrams as `FLOOD` says, by default 100,000.
#[test]
fn a_flood_leaves_the_server_as_it_was() {
    let count: usize = std::env::var("FLOOD").map_or(100_000, |n| n.parse().unwrap());
    let server = Server::start(&[
        "-t",
        "20",
        "--retries",
        "1",
        "--max-sessions",
        "300",
        "-r",
        "timeout",
        "-r",
        "utimeout",
    ]);
    for name in ["big.bin", "mid.bin", "text.txt", "boot.ipxe"] {
        server.file(name, &content(4, 20_000));
    }
    let whole = content(5, 40 * BLOCK);
    server.file("whole", &whole);
    let requests: Vec<_> = captured_requests().into_iter().map(|(_, b)| b).collect();
    let clients: Vec<_> = (0..64).map(|_| RawClient::new(&server)).collect();
    let mut random = Random(6);
    let mut flood = |datagrams: usize| {
        for sent in 0..datagrams {
            let client = &clients[random.below(clients.len())];
            client.send(&hostile(&mut random, &requests));
            // Running transfers get their share of it, too.
            if let (0, Some((_, tid))) = (sent % 4, client.recv_now()) {
                client.send_to(&hostile(&mut random, &requests), tid);
            }
            if sent % 64 == 0 {
                let start = Instant::now();
                let is_full = || receive_queue(server.port()).is_some_and(|q| q.0 > 50_000);
                while is_full() && start.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
            }
        }
    };
    let fds = server.open_files();
    // First let the slab and the queues reach their size; after that nothing may grow.
    flood(count / 10);
    eventually(&fds, || server.open_files());
    let memory = server.status("RssAnon");
    flood(count);
    eventually(&fds, || server.open_files());
    let grown = server.status("RssAnon").saturating_sub(memory);
    eprintln!("{count} hostile datagrams: {memory} kB anonymous before, +{grown} kB");
    // This includes the refusals that the log remembers.
    assert!(grown <= 512, "the flood left {grown} kB");
    // No datagram was dropped.
    eventually(&Some(0), || receive_queue(server.port()).map(|q| q.1));
    let honest = RawClient::new(&server);
    assert_same("whole", &honest.read("whole").unwrap(), &whole);
}

/// A log that nobody reads, as in a container whose runtime hangs, must not stop the
/// server: lines are dropped instead.
#[test]
fn an_unread_log_stops_nothing() {
    let root = tempfile::tempdir().unwrap();
    let address = "127.0.0.53:0";
    let mut server = std::process::Command::new(tftpd())
        .args(["-p", "0", "-a", address])
        .arg(root.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::with_capacity(1, server.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    let client = RawClient::to(listening(&line)[0]);
    for miss in 0..3000 {
        let (packet, _) = client.ask(&rrq(&format!("a-name-that-is-not-there-{miss}"), &[]));
        assert_eq!(packet.error_code(), Some(1), "{miss}: {packet:?}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

// --- signals and death -----------------------------------------------------------------

#[test]
fn sigterm_ends_an_idle_server_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&["--grace", "60"]);
        let start = Instant::now();
        server.signal(signal);
        let status = server.wait_exit(PATIENCE).expect("ends");
        assert_eq!(status.code(), Some(0));
        assert!(start.elapsed() < millis(2000));
    }
}

#[test]
fn sigterm_waits_for_a_stalled_transfer_no_longer_than_the_grace() {
    let mut server = Server::start(&["-t", "60000", "--grace", "1"]);
    server.file("f", &content(7, 5 * BLOCK));
    let clients = [RawClient::new(&server), RawClient::new(&server)];
    clients[0].ask_data(&rrq("f", &[]));
    let (_, tid) = clients[1].ask(&wrq("up", &[]));
    clients[1].say(&data(1, &[1; BLOCK]), tid);
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_exit(PATIENCE).expect("ends");
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() >= millis(1000), "no grace at all");
    assert!(start.elapsed() < millis(4000));
    for client in clients {
        let told = client.recv(millis(100));
        let told = told.and_then(|(packet, _)| packet.error_code());
        assert!(told.is_some(), "{told:?}: not told by an ERROR");
    }
    assert_eq!(server.tree().len(), 1, "half an upload is left");
}

#[test]
fn sigterm_lets_running_transfers_end_and_admits_none() {
    let mut server = Server::start(&["-t", "60000", "--grace", "30"]);
    let file = content(8, 20 * BLOCK);
    server.file("f", &file);
    let (reader, writer) = (RawClient::new(&server), RawClient::new(&server));
    let (mut got, read_tid) = reader.ask_data(&rrq("f", &[]));
    let (_, write_tid) = writer.ask(&wrq("up", &[]));
    let late = RawClient::new(&server);
    for block in 1..=20 {
        if block == 5 {
            server.signal(Signal::SIGTERM);
        }
        // By now the server has seen the signal: it has run twice since.
        if block == 7 {
            late.send(&rrq("f", &[]));
        }
        match reader.say(&ack(block), read_tid) {
            Packet::Data(number, payload) if number == block + 1 => got.extend(payload),
            other => panic!("{other:?}"),
        }
        let at = usize::from(block - 1) * BLOCK;
        let answer = writer.say(&data(block, &file[at..at + BLOCK]), write_tid);
        assert_eq!(answer, Packet::Ack(block));
    }
    assert_same("f", &got, &file);
    reader.send_to(&ack(21), read_tid);
    assert_eq!(writer.say(&data(21, b""), write_tid), Packet::Ack(21));
    let start = Instant::now();
    let status = server.wait_exit(PATIENCE).expect("ends");
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < millis(10_000), "waits for nobody");
    assert_same("up", &server.tree()[Path::new("up")], &file);
    let admitted = late.recv(millis(5));
    assert!(
        admitted
            .as_ref()
            .is_none_or(|(p, _)| p.error_code().is_some()),
        "{admitted:?}"
    );
}

#[test]
fn a_transfer_that_outlives_the_grace_is_told() {
    let mut server = Server::start(&["-t", "60000", "--grace", "1"]);
    server.file("f", &content(9, 60_000 * 8));
    let client = RawClient::new(&server);
    let (packet, tid) = client.ask(&rrq("f", &[("blksize", "8")]));
    assert!(matches!(packet, Packet::Oack(_)), "{packet:?}");
    client.send_to(&ack(0), tid);
    server.signal(Signal::SIGTERM);
    // As slow as the first ACKs of a device on battery.
    let told = loop {
        match client.expect_from(tid) {
            Packet::Data(block, _) => {
                let early = client.recv(millis(30));
                if let Some((Packet::Error(code, text), _)) = early {
                    break (code, text);
                }
                client.send_to(&ack(block), tid);
            }
            Packet::Error(code, text) => break (code, text),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told.0, 0, "{told:?}");
    let status = server.wait_exit(PATIENCE).expect("ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["-t", "60000", "--grace", "60"]);
    server.file("f", &content(10, 5 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    server.signal(Signal::SIGTERM);
    // The first signal is handled before the second is sent: signals don't queue.
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    assert_eq!(client.say(&ack(2), tid).data_block(), Some(3));
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_exit(PATIENCE).expect("ends");
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < millis(3000));
}

#[test]
fn kill_9_amid_fifty_uploads_leaves_nothing() {
    let mut server = Server::start(&["-t", "60000", "--overwrite"]);
    for index in 0..25 {
        server.file(&format!("f{index}"), &content(index, 1000));
    }
    let before = server.tree();
    let clients: Vec<_> = (0..50).map(|_| RawClient::new(&server)).collect();
    let tids: Vec<_> = (0..)
        .zip(&clients)
        .map(|(index, client)| {
            // With tsize, space is reserved first; that must not show either.
            let sized: &[(&str, &str)] = &[("tsize", "1000000")];
            let options = if index % 2 == 0 { sized } else { &[] };
            client.ask(&wrq(&format!("f{index}"), options)).1
        })
        .collect();
    for block in 1..=5 {
        for (client, tid) in clients.iter().zip(&tids) {
            let answer = client.say(&data(block, &[0xee; BLOCK]), *tid);
            assert_eq!(answer, Packet::Ack(block));
        }
    }
    server.signal(Signal::SIGKILL);
    assert!(server.wait_exit(PATIENCE).is_some());
    let after = server.tree();
    let names: Vec<_> = after.keys().collect();
    assert_eq!(after.len(), before.len(), "{names:?}");
    assert!(after == before, "a file changed");
}
