//! The protocol of the real binary, datagram by datagram: transfer IDs, retransmits,
//! windows, timeouts, endings.
//!
//! Lower bounds on time are strict, as the clock starts before the server's does; upper
//! bounds are generous, as the machine may be busy.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;

/// How much later a timeout may come on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// The next packet from `tid` after those for which `is_before` holds: on a slow machine
/// an earlier packet may have been retransmitted.
#[track_caller]
fn expect_after(
    client: &RawClient,
    tid: SocketAddr,
    is_before: impl Fn(&Packet) -> bool,
) -> Packet {
    loop {
        let packet = client.expect_from(tid);
        if !is_before(&packet) {
            return packet;
        }
    }
}

/// The same after DATA `before`.
#[track_caller]
fn expect_after_data(client: &RawClient, tid: SocketAddr, before: u16) -> Packet {
    expect_after(client, tid, |packet| packet.data_block() == Some(before))
}

/// Asserts that DATA `block`, asked for at `start`, comes from `tid` this many milliseconds
/// after that, never earlier, and that nothing comes in between.
#[track_caller]
fn assert_repeats(client: &RawClient, tid: SocketAddr, block: u16, start: Instant, times: &[u64]) {
    for (nth, at) in times.iter().enumerate() {
        let packet = match nth {
            0 => expect_after_data(client, tid, block - 1),
            _ => client.expect_from(tid),
        };
        let elapsed = start.elapsed();
        assert_eq!(packet.data_block(), Some(block));
        assert!(elapsed >= millis(*at), "{at} ms: came after {elapsed:?}");
        assert!(elapsed < millis(*at) + SLACK, "{at} ms: after {elapsed:?}");
    }
}

// --- waiting -----------------------------------------------------------------

#[test]
fn the_timeout_is_exact_doubles_and_ends_after_the_retries() {
    let server = Server::start(&["-t", "100", "--retries", "3"]);
    server.file("f", &content(1, 3 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let start = Instant::now();
    client.send_to(&ack(1), tid);
    assert_repeats(&client, tid, 2, start, &[0, 100, 300, 700]);
    server.wait_ended(client.addr(), 1);
    assert!(start.elapsed() >= millis(1500), "gave up too early");
    server.assert_quiet(&client);
}

#[test]
fn progress_resets_the_retries() {
    let server = Server::start(&["-t", "200", "--retries", "1"]);
    server.file("f", &content(2, 3 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    for block in 2..=4 {
        let start = Instant::now();
        client.send_to(&ack(block - 1), tid);
        assert_repeats(&client, tid, block, start, &[0, 200]);
    }
    client.send_to(&ack(4), tid);
    server.wait_ended(client.addr(), 1);
}

#[test]
fn a_peer_that_never_answers_gets_little() {
    let server = Server::start(&["-t", "30", "--retries", "5"]);
    server.file("f", &content(3, 9 * BLOCK));
    let client = RawClient::new(&server);
    client.send(&rrq("f", &[]));
    server.wait_ended(client.addr(), 1);
    let mut packets = Vec::new();
    while let Some((packet, _)) = client.recv(millis(5)) {
        packets.push(packet.data_block());
    }
    assert!((1..=4).contains(&packets.len()), "{packets:?}");
    assert!(packets.iter().all(|block| *block == Some(1)), "{packets:?}");
}

#[test]
fn without_t_the_first_timeout_is_a_second() {
    let server = Server::start(&[]);
    server.file("f", &content(4, BLOCK));
    let client = RawClient::new(&server);
    let start = Instant::now();
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    assert_repeats(&client, tid, 1, start, &[1000]);
}

#[test]
fn a_negotiated_timeout_overrides_the_servers() {
    for (option, value, wait) in [("timeout", "1", 1000), ("utimeout", "300000", 300)] {
        let server = Server::start(&["-t", "20"]);
        server.file("f", &content(5, 3 * BLOCK));
        let client = RawClient::new(&server);
        let (packet, tid) = client.ask(&rrq("f", &[(option, value)]));
        assert_eq!(packet, Packet::Oack(vec![(option.into(), value.into())]));
        let start = Instant::now();
        client.send_to(&ack(0), tid);
        assert_repeats(&client, tid, 1, start, &[0, wait]);
    }
}

#[test]
fn an_upload_repeats_its_ack_when_no_data_comes() {
    let server = Server::start(&["-t", "60", "--retries", "2"]);
    let client = RawClient::new(&server);
    let (packet, tid) = client.ask(&wrq("f", &[]));
    assert_eq!(packet, Packet::Ack(0));
    let start = Instant::now();
    client.send_to(&data(1, &[7; BLOCK]), tid);
    let answer = expect_after(&client, tid, |packet| *packet == Packet::Ack(0));
    assert_eq!(answer, Packet::Ack(1));
    for at in [60, 180] {
        assert_eq!(client.expect_from(tid), Packet::Ack(1));
        assert!(start.elapsed() >= millis(at));
    }
    server.wait_ended(client.addr(), 1);
    server.assert_quiet(&client);
    assert!(server.tree().is_empty(), "{:?}", server.tree().keys());
}

/// Neither a stranger nor the peer, with packets that it has sent before, may keep a
/// transfer from retransmitting.
#[test]
fn packets_without_progress_do_not_move_the_deadline() {
    let old_ack = ack(1);
    let pokes: [(&str, &[u8], bool); 4] = [
        ("a stranger's ACK", &ack(2), false),
        ("an ACK again", &old_ack, true),
        ("an unknown opcode", &[0, 99, 0, 2], true),
        ("half a packet", &[0], true),
    ];
    for (what, poke, own) in pokes {
        let server = Server::start(&["-t", "150"]);
        server.file("f", &content(6, 5 * BLOCK));
        let client = RawClient::new(&server);
        let stranger = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        let start = Instant::now();
        client.send_to(&old_ack, tid);
        let next = expect_after_data(&client, tid, 1);
        assert_eq!(next.data_block(), Some(2), "{what}");
        let repeated = loop {
            if let Some((packet, _)) = client.recv(millis(20)) {
                break packet;
            }
            assert!(start.elapsed() < SLACK, "{what}: moves the deadline");
            let sender = if own { &client } else { &stranger };
            sender.send_to(poke, tid);
        };
        assert!(start.elapsed() >= millis(150), "{what}: too early");
        assert_eq!(repeated.data_block(), Some(2), "{what}");
    }
}

// --- duplicates and strangers --------------------------------------------------

#[test]
fn twenty_copies_of_a_request_are_one_transfer() {
    let server = Server::start(&NEVER);
    let file = content(7, 2 * BLOCK + 1);
    server.file("f", &file);
    let client = RawClient::new(&server);
    for _ in 0..20 {
        client.send(&rrq("f", &[]));
    }
    let (packet, tid) = client.expect();
    assert_eq!(packet, Packet::Data(1, file[..BLOCK].to_vec()));
    server.fence();
    while let Some((packet, from)) = client.recv(millis(5)) {
        assert_eq!((packet.data_block(), from), (Some(1), tid));
    }
    for block in 1..=2 {
        let packet = client.say(&ack(block), tid);
        assert_eq!(packet.data_block(), Some(block + 1));
    }
    client.send_to(&ack(3), tid);
    server.wait_ended(client.addr(), 1);
    server.fence();
    let log = server.log_lines();
    let ends = log.iter().filter(|l| is_end_of_session(l, client.addr()));
    assert_eq!(ends.count(), 1, "{log:#?}");
}

#[test]
fn twenty_copies_of_a_write_request_are_one_upload() {
    let server = Server::start(&NEVER);
    let client = RawClient::new(&server);
    for _ in 0..20 {
        client.send(&wrq("f", &[]));
    }
    let (packet, tid) = client.expect();
    assert_eq!(packet, Packet::Ack(0));
    server.fence();
    while let Some((packet, from)) = client.recv(millis(5)) {
        assert_eq!((packet, from), (Packet::Ack(0), tid));
    }
    assert_eq!(client.say(&data(1, b"once"), tid), Packet::Ack(1));
    assert_eq!(std::fs::read(server.root().join("f")).unwrap(), b"once");
}

#[test]
fn a_stranger_is_told_error_5_and_changes_nothing() {
    let server = Server::start(&NEVER);
    server.file("f", &content(8, 4 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let stranger = RawClient::new(&server);
    for packet in [ack(1), data(1, b"x"), ack(4)] {
        stranger.send_to(&packet, tid);
        // tftp-hpa acknowledges ERRORs, to this port and from the port of its next
        // request.
        if is_single_port() && packet[1] == 4 {
            server.assert_quiet(&stranger);
            continue;
        }
        let answer = stranger.expect_from(tid);
        assert_eq!(answer.error_code(), Some(5), "{answer:?}");
    }
    // RFC 1350 §4: an ERROR is never answered.
    stranger.send_to(&error(0, "die"), tid);
    server.assert_quiet(&stranger);
    server.assert_quiet(&client);
    for block in 1..=4 {
        let packet = client.say(&ack(block), tid);
        assert_eq!(packet.data_block(), Some(block + 1));
    }
    client.send_to(&ack(5), tid);
    server.wait_ended(client.addr(), 1);
}

/// The Sorcerer's Apprentice bug (RFC 1123 §4.2.3.1).
#[test]
fn a_duplicate_ack_never_sends_data() {
    let server = Server::start(&NEVER);
    server.file("f", &content(9, 4 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    for _ in 0..10 {
        client.send_to(&ack(1), tid);
    }
    client.send_to(&ack(0), tid);
    server.assert_quiet(&client);
    assert_eq!(client.say(&ack(2), tid).data_block(), Some(3));
}

#[test]
fn an_ack_of_what_was_never_sent_is_no_progress() {
    // On a single port such an ACK ends the transfer: only this shows that it is forged.
    if is_single_port() {
        return;
    }
    let server = Server::start(&NEVER);
    server.file("f", &content(10, 4 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    for block in [2, 3, 1000, 65_535] {
        client.send_to(&ack(block), tid);
    }
    server.assert_quiet(&client);
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
}

/// Windows' boot manager sends ACKs of five bytes.
#[test]
fn an_ack_may_be_longer_than_four_bytes() {
    let server = Server::start(&NEVER);
    server.file("f", &content(11, 2 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let mut long = ack(1);
    long.push(0);
    assert_eq!(client.say(&long, tid).data_block(), Some(2));
}

// --- windows -------------------------------------------------------------------

#[track_caller]
fn expect_blocks(client: &RawClient, tid: SocketAddr, blocks: std::ops::RangeInclusive<u16>) {
    for block in blocks {
        assert_eq!(client.expect_from(tid).data_block(), Some(block));
    }
}

#[test]
fn a_read_with_windows_goes_on_from_the_ack() {
    // On a single port windows open slowly.
    if is_single_port() {
        return;
    }
    let server = Server::start(&NEVER);
    server.file("f", &content(12, 20 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&rrq("f", &[("windowsize", "4")]));
    client.send_to(&ack(0), tid);
    expect_blocks(&client, tid, 1..=4);
    server.assert_quiet(&client);
    // An ACK inside the window: the server goes on from there at once (RFC 7440 §4).
    client.send_to(&ack(2), tid);
    expect_blocks(&client, tid, 3..=6);
    // The same ACK again (EDK2 sends it for each block that it doesn't expect): it counts
    // as a NACK if it comes a round trip later, and then brings the window once.
    for _ in 0..4 {
        client.send_to(&ack(2), tid);
    }
    server.fence();
    let mut again = Vec::new();
    while let Some((packet, _)) = client.recv(Duration::from_millis(150)) {
        again.extend(packet.data_block());
    }
    assert!(again.is_empty() || again == [3, 4, 5, 6], "{again:?}");
    client.send_to(&ack(6), tid);
    expect_blocks(&client, tid, 7..=10);
    // An ACK from before the window is old.
    client.send_to(&ack(5), tid);
    server.assert_quiet(&client);
    client.send_to(&ack(10), tid);
    expect_blocks(&client, tid, 11..=14);
    client.send_to(&ack(14), tid);
    expect_blocks(&client, tid, 15..=18);
    client.send_to(&ack(18), tid);
    expect_blocks(&client, tid, 19..=21);
    client.send_to(&ack(21), tid);
    server.wait_ended(client.addr(), 1);
    server.assert_quiet(&client);
}

/// ACKs that wait in the socket are taken in together: the blocks that only the first asks
/// for aren't sent.
#[test]
fn acks_that_came_together_are_answered_once() {
    let server = Server::start(&NEVER);
    server.file("f", &content(14, 40 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&rrq("f", &[("windowsize", "4")]));
    // On a single port the window opens with one block, and the last block sent comes
    // again, to ask for its ACK.
    let mut last = 0;
    let windows = if is_single_port() {
        [1, 3, 7, 11, 15]
    } else {
        [4, 8, 12, 16, 20]
    };
    for end in windows {
        client.send_to(&ack(last), tid);
        while last < end {
            let block = client.expect_from(tid).data_block();
            last = block.filter(|&block| block > last).unwrap_or(last);
        }
    }
    server.signal(Signal::SIGSTOP);
    while client.recv_now().is_some() {}
    client.send_to(&ack(last - 3), tid);
    client.send_to(&ack(last - 2), tid);
    server.signal(Signal::SIGCONT);
    expect_blocks(&client, tid, last - 1..=last + 2);
}

#[test]
fn an_upload_with_windows_acks_windows_gaps_and_the_end() {
    let server = Server::start(&NEVER);
    let client = RawClient::new(&server);
    let file = content(13, 9 * BLOCK + 5);
    let (packet, tid) = client.ask(&wrq("f", &[("windowsize", "4")]));
    assert!(matches!(packet, Packet::Oack(_)), "{packet:?}");
    let send = |block: u16| {
        let start = (usize::from(block) - 1) * BLOCK;
        let end = file.len().min(start + BLOCK);
        client.send_to(&data(block, &file[start..end]), tid);
    };
    (1..=3).for_each(send);
    server.assert_quiet(&client);
    send(4);
    assert_eq!(client.expect_from(tid), Packet::Ack(4));
    // Block 6 is lost: the last block in order is acknowledged, once per gap.
    send(5);
    send(7);
    assert_eq!(client.expect_from(tid), Packet::Ack(5));
    send(8);
    // And again, if this machine took two round trips to send block 8.
    server.fence();
    let named: Vec<_> = std::iter::from_fn(|| client.recv(Duration::from_millis(5)))
        .map(|(packet, _)| packet)
        .collect();
    assert!(matches!(named[..], [] | [Packet::Ack(5)]), "{named:?}");
    (6..=9).for_each(send);
    assert_eq!(client.expect_from(tid), Packet::Ack(9));
    send(10);
    assert_eq!(client.expect_from(tid), Packet::Ack(10));
    assert_same("f", &std::fs::read(server.root().join("f")).unwrap(), &file);
}

// --- ends ----------------------------------------------------------------------

#[test]
fn a_finished_upload_repeats_its_last_ack() {
    let server = Server::start(&["-t", "5000"]);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&wrq("f", &[]));
    assert_eq!(client.say(&data(1, b"whole"), tid), Packet::Ack(1));
    // No final ACK before the file has its final name.
    assert_eq!(std::fs::read(server.root().join("f")).unwrap(), b"whole");
    for _ in 0..3 {
        assert_eq!(client.say(&data(1, b"whole"), tid), Packet::Ack(1));
    }
    assert_eq!(server.tree().len(), 1);
}

/// tftp-hpa's prompt and lPXELINUX use one port for everything: a transfer that they gave
/// up makes room when they retry.
#[test]
fn another_request_replaces_a_transfer_that_has_been_quiet_for_a_moment() {
    let server = Server::start(&["-t", "100"]);
    server.file("a", &[b'a'; 3 * BLOCK]);
    server.file("b", &[b'b'; 3 * BLOCK]);
    for answered in [false, true] {
        let client = RawClient::new(&server);
        // Not after the answer: this thread may hear of it late.
        let quiet_since = Instant::now();
        let (payload, old) = client.ask_data(&rrq("a", &[]));
        assert_eq!(payload, [b'a'; BLOCK]);
        if answered {
            client.send_to(&ack(1), old);
        }
        let new = loop {
            client.send(&rrq("b", &[]));
            // A retransmit of the old transfer may still come.
            match client.recv(millis(50)) {
                Some((Packet::Data(1, payload), tid)) if payload == [b'b'; BLOCK] => break tid,
                Some((_, tid)) => assert_eq!(tid, old),
                None => {}
            }
        };
        assert!(quiet_since.elapsed() >= millis(200), "too early");
        assert_eq!(old == new, is_single_port());
        let start = Instant::now();
        while start.elapsed() < millis(500) {
            let Some(repeated) = client.recv(millis(500)) else {
                break;
            };
            assert_eq!(repeated, (Packet::Data(1, vec![b'b'; BLOCK]), new));
        }
        client.send_to(&ack(1), new);
        let next = expect_after_data(&client, new, 1);
        assert_eq!(next.data_block(), Some(2));
        client.send_to(&error(0, "enough"), new);
    }
}

/// Such requests may be forged: anybody can send one in a client's name.
#[test]
fn duplicate_and_other_requests_change_nothing_while_a_transfer_moves() {
    let server = Server::start(&NEVER);
    let file = content(3, 40 * BLOCK + 7);
    server.file("f", &file);
    server.file("other", b"other");
    let client = RawClient::new(&server);
    let forged = [
        rrq("f", &[]),
        rrq("missing", &[]),
        rrq("other", &[]),
        wrq("new", &[]),
    ];
    let (mut got, tid) = client.ask_data(&rrq("f", &[]));
    for block in 1..=40 {
        for request in &forged {
            client.send(request);
        }
        client.send_to(&ack(block), tid);
        // Only the next block comes: no second transfer, no ERROR.
        match client.expect() {
            (Packet::Data(next, payload), from) if next == block + 1 && from == tid => {
                got.extend(payload);
            }
            other => panic!("after block {block}: {other:?}"),
        }
    }
    client.send_to(&ack(41), tid);
    assert_same("f", &got, &file);
    let ended = server.wait_ended(client.addr(), 1);
    assert!(ended[0].contains("outcome=completed"), "{ended:?}");
}

#[test]
fn a_request_that_is_refused_replaces_nothing() {
    let server = Server::start(&NEVER);
    server.file("f", &content(4, 5 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    let code = loop {
        client.send(&rrq("missing", &[]));
        if let Some((packet, _)) = client.recv(millis(50)) {
            break packet.error_code();
        }
    };
    assert_eq!(code, Some(1));
    // A server that was held up has yet to answer the other requests.
    server.fence();
    while client.recv_now().is_some() {}
    assert_eq!(client.say(&ack(2), tid).data_block(), Some(3));
}

/// A boot ROM with one source port that is switched off and on in the middle.
#[test]
fn a_client_that_starts_over_is_served_again() {
    let server = Server::start(&NEVER);
    server.file("file", &content(1, 5 * BLOCK));
    thread::scope(|scope| {
        for request in [rrq("file", &[]), rrq("file", &[("blksize", "512")])] {
            let server = &server;
            scope.spawn(move || assert_starts_over(server, &request));
        }
    });
}

fn assert_starts_over(server: &Server, request: &[u8]) {
    let client = RawClient::new(server);
    let (first, tid) = client.ask(request);
    let block = first.data_block().unwrap_or(0);
    // Not after the answer: this thread may hear of it late.
    let silent_since = Instant::now();
    assert_eq!(client.say(&ack(block), tid).data_block(), Some(block + 1));
    let (again, new_tid) = loop {
        client.send(request);
        if let Some(answer) = client.recv(millis(100)) {
            break answer;
        }
    };
    assert!(silent_since.elapsed() >= millis(1000), "too early");
    assert_eq!(again, first);
    assert_eq!(new_tid == tid, is_single_port());
    let ended = server.wait_ended(client.addr(), 1);
    assert!(ended[0].contains("outcome=replaced"), "{ended:?}");
    client.send_to(&error(0, "enough"), new_tid);
}

#[test]
fn a_request_replaces_a_dallying_upload() {
    let server = Server::start(&["-t", "5000"]);
    server.file("other", b"other");
    let client = RawClient::new(&server);
    let start = Instant::now();
    client.write("f", b"new").unwrap();
    assert_eq!(client.read("other").unwrap(), b"other");
    assert_eq!(client.read("f").unwrap(), b"new");
    client.write("g", b"").unwrap();
    // The same request while the first upload dallies is a new one.
    let (code, text) = client.write("g", b"").unwrap_err();
    assert_eq!(code, 6, "{text}");
    assert!(start.elapsed() < SLACK, "waited for the dallying one");
}

#[test]
fn an_error_ends_the_session_at_once_and_silently() {
    for (what, request) in [
        ("read", rrq("f", &[])),
        ("read, OACK", rrq("f", &[("tsize", "0")])),
        ("write", wrq("g", &[])),
        ("write, OACK", wrq("g", &[("blksize", "1024")])),
    ] {
        let server = Server::start(&["-t", "40"]);
        server.file("f", &content(14, 3 * BLOCK));
        let before = server.open_files();
        let client = RawClient::new(&server);
        let (_, tid) = client.ask(&request);
        client.send_to(&error(8, "only wanted the size"), tid);
        server.fence();
        // Packets that were sent before the ERROR arrived are no answer to it.
        while client.recv(millis(1)).is_some() {}
        assert!(client.recv(millis(150)).is_none(), "{what}: goes on");
        assert_eq!(server.open_files(), before, "{what}: a descriptor is left");
        assert_eq!(server.tree().len(), 1, "{what}");
    }
}

#[test]
fn a_request_repeated_too_often_ends_as_any_other() {
    // Found in review: it left the session without a deadline, forever.
    let server = Server::start(&["-t", "100", "--retries", "2"]);
    server.file("f", &content(1, 5 * BLOCK));
    let client = RawClient::new(&server);
    for _ in 0..8 {
        client.send(&rrq("f", &[]));
        let asked = Instant::now();
        while asked.elapsed() < millis(60) {
            client.recv(millis(10));
        }
    }
    server.wait_ended(client.addr(), 1);
}

#[test]
fn a_text_that_shrinks_ends_in_an_error_as_well() {
    let server = Server::start(&NEVER);
    let path = server.file("t", &b"line\n".repeat(20_000));
    let client = RawClient::new(&server);
    let (first, tid) = client.ask(&request(1, b"t", "netascii", &[]));
    assert_eq!(first.data_block(), Some(1));
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(2000)
        .unwrap();
    let mut block = 1;
    let error = loop {
        let packet = client.say(&ack(block), tid);
        block += 1;
        match packet.data_block() {
            Some(got) => assert_eq!(got, block),
            None => break packet.error_code(),
        }
    };
    assert_eq!(error, Some(0));
}

#[test]
fn a_file_that_shrinks_ends_in_an_error_not_in_a_short_file() {
    let server = Server::start(&NEVER);
    let path = server.file("f", &content(15, 400 * BLOCK));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(100 * BLOCK as u64 + 17).unwrap();
    for block in 1..=400 {
        match client.say(&ack(block), tid) {
            Packet::Data(number, payload) => {
                assert_eq!((number, payload.len()), (block + 1, BLOCK));
            }
            Packet::Error(code, text) => {
                assert!(code == 0 && !text.is_empty(), "{code} {text}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("no ERROR");
}

#[test]
fn oversized_data_never_reaches_the_file() {
    let server = Server::start(&NEVER);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&wrq("f", &[]));
    client.send_to(&data(1, &[b'x'; BLOCK + 88]), tid);
    server.fence();
    if let Some((packet, _)) = client.recv(millis(5)) {
        assert_eq!(packet.error_code(), Some(4), "{packet:?}");
        assert!(server.tree().is_empty());
    } else {
        assert_eq!(client.say(&data(1, b"fine"), tid), Packet::Ack(1));
        assert_eq!(std::fs::read(server.root().join("f")).unwrap(), b"fine");
    }
}

/// RFC 1350 allows no other packet from the peer: an OACK or a request to a transfer's
/// port gets an ERROR or nothing, but never DATA.
#[test]
fn packets_of_the_wrong_kind_bring_no_data() {
    for packet in [
        vec![0, 6, b'x', 0, b'1', 0],
        data(1, b"data for a reader"),
        rrq("f", &[]),
        vec![0, 0, 0, 1],
        vec![],
    ] {
        let server = Server::start(&NEVER);
        server.file("f", &content(16, 3 * BLOCK));
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        client.send_to(&packet, tid);
        server.fence();
        if let Some((answer, _)) = client.recv(millis(5)) {
            assert_eq!(answer.error_code(), Some(4), "{packet:?}: {answer:?}");
        } else {
            let next = client.say(&ack(1), tid);
            assert_eq!(next.data_block(), Some(2), "{packet:?}");
        }
    }
}
