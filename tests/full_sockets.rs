//! Full sockets, and segmentation offload that the kernel refuses: on a slow loopback
//! interface, in a network namespace of each test's thread.
//!
//! Needs root and tc(8); skipped without.

#![allow(
    clippy::disallowed_methods,
    reason = "each test has a thread in a namespace of its own"
)]

#[path = "common/skipped.rs"]
mod skipped;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::geteuid;
use skipped::skip;
use tftpd::net::{Binding, ListenSocket, RunSent, TransferSocket};
use tftpd::server::Server;
use tftpd::server::cli::Args;
use tftpd::wire::packet::{BlockNumber, Packet, emit_ack};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs `test` in a network namespace with a loopback interface of `mtu` bytes that sends
/// at `rate`.
fn in_slow_network(mtu: &str, rate: &str, test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        skip("a network namespace needs root");
        return;
    }
    let set_up = format!(
        "ip link set lo mtu {mtu} up && \
         tc qdisc add dev lo root tbf rate {rate} burst 100kb limit 8mb"
    );
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let status = Command::new("sh").args(["-c", &set_up]).status();
        if !status.is_ok_and(|status| status.success()) {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "no slow interface can be had");
            skip("no slow interface can be had");
            return;
        }
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn receiver() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((LOCAL, 0)).expect("a socket");
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).expect("room for all");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a timeout");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Datagrams of `len` bytes, each filled with its number.
fn run_of(count: u8, len: usize) -> Vec<u8> {
    (0..count).flat_map(|number| vec![number; len]).collect()
}

/// Sends runs until `socket` is full, waits for room, sends the rest, and checks that
/// everything arrives in order. Returns how many segments of a run were sent before the
/// socket was full.
fn fill(mut socket: TransferSocket, count: u8, len: usize) -> u16 {
    let (receiver, peer) = receiver();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut next = 0;
        // A datagram of one byte marks the end.
        loop {
            let (got, _) = receiver.recv_from(&mut buffer).expect("a datagram");
            if got == 1 {
                return;
            }
            assert_eq!(got, len);
            assert!(buffer[..got].iter().all(|&byte| byte == next), "{next}");
            next = (next + 1) % count;
        }
    });
    let run = run_of(count, len);
    let mut poll = Poll::new().expect("a poll");
    let interest = Interest::READABLE | Interest::WRITABLE;
    let mut blocked = None;
    for _ in 0..200 {
        let mut rest = &run[..];
        while !rest.is_empty() {
            match socket.send_run(rest, len, peer).expect("no error") {
                RunSent::All => rest = &[],
                RunSent::Blocked { segments } => {
                    blocked = blocked.max(Some(segments));
                    rest = &rest[usize::from(segments) * len..];
                    // Once there is room, the socket is reported as writable.
                    socket
                        .watch(poll.registry(), Token(7), interest)
                        .expect("a watched socket");
                    let mut events = Events::with_capacity(4);
                    poll.poll(&mut events, Some(Duration::from_secs(20)))
                        .expect("events");
                    assert!(events.iter().any(mio::event::Event::is_writable));
                }
            }
        }
    }
    while let Err(error) = socket.send_to(&[0], peer) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        thread::yield_now();
    }
    reader.join().expect("all in order");
    blocked.expect("the socket was never full")
}

#[test]
fn a_full_socket_takes_a_run_whole_or_not_at_all_with_offload() {
    in_slow_network("65536", "100mbit", || {
        let socket = TransferSocket::bind(LOCAL, 0, None, 0).expect("a socket");
        assert_eq!(fill(socket, 16, 1432), 0);
    });
}

/// The kernel can't cut segments longer than the path's MTU: they are sent one by one, in
/// fragments, and the socket gets full in the middle of a run.
#[test]
fn a_full_socket_takes_a_part_of_a_run_where_offload_is_refused() {
    in_slow_network("1500", "100mbit", || {
        let socket = TransferSocket::bind(LOCAL, 0, None, 0).expect("a socket");
        assert!(fill(socket, 16, 4000) > 0);
    });
}

/// The same for a share of a listen socket, which is given the segment size with each run.
/// A share isn't watched itself, so this test doesn't fill it.
#[test]
fn a_shared_port_sends_without_offload_too() {
    in_slow_network("1500", "1gbit", || {
        let address = SocketAddr::new(LOCAL, 0);
        let listener = ListenSocket::bind(address, Binding::default()).expect("a listener");
        listener.prepare_sharing();
        let mut socket = TransferSocket::share(&listener, LOCAL, 0);
        let (receiver, peer) = receiver();
        let mut buffer = vec![0; 65_536];
        // With offload; refused because of the size; and not tried after that.
        for len in [1000, 4000, 1000] {
            let sent = socket.send_run(&run_of(8, len), len, peer);
            assert_eq!(sent.expect("no error"), RunSent::All, "{len}");
            for number in 0..8 {
                let (got, from) = receiver.recv_from(&mut buffer).expect("a datagram");
                assert_eq!((got, buffer[0]), (len, number));
                assert_eq!(from, listener.address());
            }
        }
    });
}

/// A download whose windows are larger than the socket's buffer: it arrives whole, and
/// a full socket isn't taken for silence, so that nothing is sent twice.
fn download_through_full_sockets(mode: &'static [&'static str]) {
    const BLOCK: usize = 8192;
    const WINDOW: u16 = 64;
    in_slow_network("65536", "800mbit", move || {
        let root = tempfile::tempdir().expect("a directory");
        let content: Vec<u8> = (0..4_000_000u32).map(|at| (at / 1000) as u8).collect();
        std::fs::write(root.path().join("file"), &content).expect("a file");
        let words = ["tftpd", "-q", "-p", "0", "-a", "127.0.0.1"];
        let words = words.iter().chain(mode).map(OsString::from);
        let args = Args::read(words.chain([root.path().into()])).expect("a good command line");
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let server = Server::start(&args).expect("the server starts");
            tell.send(server.addresses()).expect("the test waits");
            server.run().expect("the server runs");
        });
        let server = told.recv().expect("an address")[0];
        let (client, _) = receiver();
        let request = b"\0\x01file\0octet\0blksize\x008192\0windowsize\x0064\0timeout\x0020\0";
        client.send_to(request, server).expect("an RRQ");
        let mut buffer = [0; BLOCK + 4];
        let mut got = Vec::new();
        let mut next = 1;
        loop {
            let (len, tid) = client.recv_from(&mut buffer).expect("an answer");
            match Packet::parse(&buffer[..len]).expect("a packet") {
                Packet::Oack(_) => {
                    let ack = emit_ack(BlockNumber(0));
                    client.send_to(&ack, tid).expect("an ACK");
                }
                Packet::Data { block, payload } => {
                    // A shared port's window opens with one block, and a repeated block
                    // asks where the client is.
                    if !mode.is_empty() && block.0 < next {
                        let ack = emit_ack(BlockNumber(next - 1));
                        client.send_to(&ack, tid).expect("an ACK");
                        continue;
                    }
                    assert_eq!(block.0, next, "lost or sent twice");
                    got.extend_from_slice(payload);
                    let is_last = payload.len() < BLOCK;
                    if is_last || next.is_multiple_of(WINDOW) {
                        client.send_to(&emit_ack(block), tid).expect("an ACK");
                    }
                    if is_last {
                        break;
                    }
                    next += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(got == content, "something else came");
    });
}

#[test]
fn a_download_goes_on_when_a_full_socket_has_room() {
    download_through_full_sockets(&[]);
}

#[test]
fn a_download_goes_on_when_a_full_shared_port_has_room() {
    download_through_full_sockets(&["--single-port"]);
}
