//! Addresses and ports over the real binary: answers come from where the
//! request went to, transfers have ports of their own, in the range asked for.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use nix::sched::{CloneFlags, unshare};

#[test]
fn the_answer_comes_from_the_address_that_was_asked() {
    for args in [&["-a", "0.0.0.0"][..], &["-4"], &[]] {
        let server = Server::start_bare(args);
        let file = content(17, BLOCK + 1);
        server.file("f", &file);
        for last in [1, 5, 77] {
            let asked = IpAddr::from([127, 0, 0, last]);
            let client = RawClient::to((asked, server.port()).into());
            let (packet, tid) = client.ask(&rrq("f", &[]));
            assert_eq!((packet.data_block(), tid.ip()), (Some(1), asked));
            assert_ne!(tid.port(), server.port());
            assert_eq!(client.say(&ack(1), tid).data_block(), Some(2), "{args:?}");
            client.send_to(&ack(2), tid);

            for refused in [rrq("missing", &[]), request(1, b"f", "mail", &[])] {
                let (packet, from) = client.ask(&refused);
                assert!(packet.error_code().is_some(), "{packet:?}");
                assert_eq!(from.ip(), asked, "{args:?}");
            }
            let client = RawClient::to((asked, server.port()).into());
            let (packet, tid) = client.ask(&wrq(&format!("up{last}"), &[]));
            assert_eq!((packet, tid.ip()), (Packet::Ack(0), asked), "{args:?}");
        }
    }
}

#[test]
fn both_families_are_served() {
    let v6 = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let cases: [(&[&str], bool, bool); 5] = [
        (&[], true, true),
        (&["-6"], false, true),
        (&["-4"], true, false),
        (&["-a", "::1"], false, true),
        (&["-a", "127.0.0.1", "-a", "::1"], true, true),
    ];
    for (args, four, six) in cases {
        if six && !v6 {
            eprintln!("skipped {args:?}: no IPv6 here");
            continue;
        }
        let server = Server::start_bare(args);
        server.file("f", b"dual");
        // With two -a and port 0 each has a port of its own.
        let log = server.log_lines().join("\n");
        for addr in listening(&log) {
            assert!(addr.port() > 0, "{log}");
        }
        let ports: Vec<_> = listening(&log).iter().map(SocketAddr::port).collect();
        let families: [(IpAddr, bool); 2] = [
            (Ipv4Addr::LOCALHOST.into(), four),
            (Ipv6Addr::LOCALHOST.into(), six),
        ];
        for (ip, served) in families {
            let answered = ports.iter().any(|port| {
                let client = RawClient::to((ip, *port).into());
                client.send(&rrq("f", &[]));
                let answer = client.recv(millis(if served { 2000 } else { 50 }));
                answer.is_some_and(|(packet, from)| {
                    assert_eq!(packet, Packet::Data(1, b"dual".to_vec()));
                    assert_eq!(from.ip(), ip);
                    true
                })
            });
            assert_eq!(answered, served, "{args:?} {ip}");
        }
    }
}

#[test]
fn transfers_have_ports_of_their_own() {
    let server = Server::start(&NEVER);
    server.file("f", &content(18, 3 * BLOCK));
    let clients: Vec<_> = (0..20).map(|_| RawClient::new(&server)).collect();
    let mut tids: Vec<u16> = clients
        .iter()
        .map(|client| client.ask_data(&rrq("f", &[])).1.port())
        .collect();
    assert!(tids.iter().all(|port| *port >= 1024), "{tids:?}");
    assert!(!tids.contains(&server.port()));
    tids.sort_unstable();
    tids.dedup();
    assert_eq!(tids.len(), clients.len(), "shared ports");
}

#[test]
fn the_port_range_is_kept() {
    // Below the kernel's own range, apart from other runs of this test.
    let low = 10_000 + (std::process::id() % 1000) as u16 * 16;
    let range = low..=low + 15;
    let option = format!("{}:{}", range.start(), range.end());
    let server = Server::start(&["-t", "60000", "-R", &option]);
    let file = content(19, 3 * BLOCK);
    server.file("f", &file);
    let clients: Vec<_> = (0..8).map(|_| RawClient::new(&server)).collect();
    for client in &clients {
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        assert!(range.contains(&tid.port()), "{tid} not in {option}");
    }
    // Ports come back: more transfers than ports.
    for _ in 0..40 {
        assert_eq!(RawClient::new(&server).read("f").unwrap(), file);
    }
}

#[test]
fn servers_that_say_so_share_a_port() {
    let first = Server::start(&["--reuse-port"]);
    let address = first.addr().to_string();
    let second = Server::start_bare(&["--reuse-port", "-a", &address]);
    assert_eq!(second.addr(), first.addr());
    first.file("who", b"first");
    second.file("who", b"second");
    // Which of them a client gets is drawn once for each of its ports.
    let answers: Vec<_> = (0..64)
        .map(|_| RawClient::new(&first).read("who").unwrap())
        .collect();
    for who in ["first", "second"] {
        assert!(
            answers.iter().any(|answer| answer == who.as_bytes()),
            "{who}"
        );
    }
    let third = bounded(10, tftpd())
        .args(["-a", &address])
        .output()
        .unwrap();
    assert_eq!(third.status.code(), Some(1), "{}", said(&third));
    assert!(said(&third).contains("in use"), "{}", said(&third));
}

#[test]
fn an_address_may_come_later() {
    // This thread alone, and what it starts, is on a network of its own.
    if let Err(reason) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("skipped: no network of our own: {reason}");
        return;
    }
    let ip = |words: &[&str]| {
        let mut busybox = bounded(10, "busybox");
        let done = busybox.arg("ip").args(words).output().expect("busybox");
        assert!(done.status.success(), "{words:?}: {}", said(&done));
    };
    if require("busybox").is_none() {
        return;
    }
    ip(&["link", "set", "lo", "up"]);
    let mut addresses = vec!["192.0.2.1"];
    if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push("2001:db8::1");
    } else {
        eprintln!("skipped 2001:db8::1: no IPv6 here");
    }
    for address in addresses {
        let server = Server::start_bare(&["-a", address]);
        server.file("f", b"late");
        let said = format!("{address} is no address of this machine yet");
        assert!(server.log_lines().iter().any(|line| line.contains(&said)));
        ip(&["addr", "add", address, "dev", "lo"]);
        assert_eq!(server.addr().ip().to_string(), address);
        let client = RawClient::new(&server);
        // IPv6 looks first whether somebody else has the address.
        let (packet, from) = client.ask_patiently(&rrq("f", &[]));
        assert_eq!(packet, Packet::Data(1, b"late".to_vec()));
        assert_eq!(from.ip(), server.addr().ip());
    }
}
