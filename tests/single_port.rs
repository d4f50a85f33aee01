//! `--single-port`: the suites about the protocol and real clients also pass in this
//! mode; and what is special about it.
#![allow(
    clippy::duplicate_mod,
    reason = "each suite brings its helpers, as it does where it stands alone"
)]

mod common;

#[path = "answers.rs"]
mod answers;
#[path = "clients.rs"]
mod clients;
#[path = "contents.rs"]
mod contents;
#[path = "protocol.rs"]
mod protocol;

use std::process::Command;

use common::{
    BLOCK, NEVER, PATIENCE, Packet, RawClient, Server, ack, content, data, error, rrq, tftpd, wrq,
};
use nix::sys::signal::Signal;

#[test]
fn every_datagram_comes_from_the_port_that_was_asked() {
    let server = Server::start(&NEVER);
    server.file("f", &content(1, 700));
    let client = RawClient::new(&server);
    assert_eq!(client.ask(&rrq("f", &[])).1, server.addr());
    client.say(&ack(1), server.addr());
    client.send(&ack(2));
    server.wait_ended(client.addr(), 1);
    let (packet, from) = client.ask(&wrq("new", &[]));
    assert_eq!((packet, from), (Packet::Ack(0), server.addr()));
    assert_eq!(client.say(&data(1, b"x"), server.addr()), Packet::Ack(1));
}

#[test]
fn one_port_of_a_client_is_several_transfers_on_several_addresses() {
    let server = Server::start_bare(&["-4", "-t", "60000"]);
    server.file("f", &content(2, 3 * BLOCK));
    let client = RawClient::to(([127, 0, 0, 1], server.port()).into());
    let first = ([127, 0, 0, 2], server.port()).into();
    let second = ([127, 0, 0, 3], server.port()).into();
    for address in [first, second] {
        client.send_to(&rrq("f", &[]), address);
        assert_eq!(client.expect_from(address).data_block(), Some(1));
    }
    for block in 1..=2 {
        for address in [second, first] {
            let packet = client.say(&ack(block), address);
            assert_eq!(packet.data_block(), Some(block + 1), "{address}");
        }
    }
}

#[test]
fn downloads_of_one_file_take_one_descriptor() {
    let server = Server::start(&NEVER);
    let file = content(3, 3 * BLOCK);
    server.file("f", &file);
    server.file("other", &file);
    let before = server.open_files();
    let clients: Vec<_> = (0..10).map(|_| RawClient::new(&server)).collect();
    for client in &clients {
        client.ask_data(&rrq("f", &[]));
    }
    assert_eq!(server.open_files(), before + 1);
    let other = RawClient::new(&server);
    other.ask_data(&rrq("other", &[]));
    assert_eq!(server.open_files(), before + 2);
    for client in clients.iter().chain([&other]) {
        client.send(&error(0, "enough"));
    }
    server.wait_ended(other.addr(), 1);
    // When the next request is answered, the turn before is over.
    other.ask(&rrq("absent", &[]));
    assert_eq!(server.open_files(), before);
}

/// More transfers than descriptors, all running at once.
#[test]
fn many_downloads_of_one_file_need_few_descriptors() {
    const CLIENTS: usize = 300;
    let server = Server::start_prepared(&NEVER, |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=64:64", tftpd()]);
        command
    });
    let file = content(3, 3 * BLOCK);
    server.file("f", &file);
    let clients: Vec<_> = (0..CLIENTS).map(|_| RawClient::new(&server)).collect();
    for client in &clients {
        client.ask_data(&rrq("f", &[]));
        assert_eq!(client.say(&ack(1), server.addr()).data_block(), Some(2));
    }
    for client in &clients {
        assert_eq!(client.say(&ack(2), server.addr()).data_block(), Some(3));
        assert_eq!(client.say(&ack(3), server.addr()).data_block(), Some(4));
        client.send(&ack(4));
    }
}

/// A retransmitted request that crosses our answer isn't answered, and so uses up none of
/// the answers that unverified peers may get.
#[test]
fn repeats_that_bring_no_answer_leave_room_for_other_clients() {
    let server = Server::start(&NEVER);
    server.file("f", &content(4, 700));
    let eager = RawClient::new(&server);
    eager.ask_data(&rrq("f", &[]));
    for _ in 0..5000 {
        eager.send(&rrq("f", &[]));
    }
    let other = RawClient::new(&server);
    other.ask_data(&rrq("f", &[]));
}

/// The socket holds more than the server takes at once: an ACK after that has still
/// arrived in time.
#[test]
fn an_ack_behind_a_flood_beats_the_retransmission_timeout() {
    let server = Server::start(&["-t", "250"]);
    server.file("f", &content(6, 3 * BLOCK));
    let client = RawClient::new(&server);
    client.ask_data(&rrq("f", &[]));
    server.signal(Signal::SIGSTOP);
    let flood = RawClient::new(&server);
    for _ in 0..300 {
        flood.send(&ack(9));
    }
    client.send(&ack(1));
    server.wait_for_log(|_| false, common::millis(400));
    server.signal(Signal::SIGCONT);
    assert_eq!(client.expect().0.data_block(), Some(2));
}

#[test]
fn running_transfers_finish_and_new_ones_are_left_alone_after_the_signal() {
    let mut server = Server::start(&["--grace", "60"]);
    server.file("f", &content(5, 700));
    let client = RawClient::new(&server);
    client.ask_data(&rrq("f", &[]));
    server.signal(Signal::SIGTERM);
    server
        .wait_for_log(|line| line.contains("stopping"), PATIENCE)
        .expect("a line");
    let late = RawClient::new(&server);
    late.send(&rrq("f", &[]));
    assert_eq!(client.say(&ack(1), server.addr()).data_block(), Some(2));
    client.send(&ack(2));
    assert!(server.wait_exit(PATIENCE).expect("an end").success());
    assert_eq!(late.recv_now(), None);
}

#[test]
fn a_request_that_comes_while_the_server_stops_leaves_a_line() {
    let server = Server::start(&[&NEVER[..], &["--grace", "60"]].concat());
    server.file("f", &content(9, 3 * BLOCK));
    let client = RawClient::new(&server);
    client.ask_data(&rrq("f", &[]));
    server.signal(Signal::SIGTERM);
    let stopping = server.wait_for_log(|line| line.contains("stopping; "), PATIENCE);
    assert!(stopping.is_some());
    let late = RawClient::new(&server);
    late.send(&rrq("f", &[]));
    let told = format!(
        "dropped a request of {}: the server is stopping",
        late.addr()
    );
    let line = server.wait_for_log(|line| line.contains(&told), PATIENCE);
    assert!(
        line.is_some_and(|it| it.contains("WARN")),
        "{:#?}",
        server.log_lines()
    );
}
