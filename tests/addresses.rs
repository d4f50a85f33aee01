//! Addresses and ports of the real binary: answers come from the address that the
//! request went to, and transfers have ports of their own, in the requested range.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::Command;
use std::time::Duration;

use common::*;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

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
    let v6 = has_ipv6();
    let cases: [(&[&str], bool, bool); 5] = [
        (&[], true, true),
        (&["-6"], false, true),
        (&["-4"], true, false),
        (&["-a", "::1"], false, true),
        (&["-a", "127.0.0.1", "-a", "::1"], true, true),
    ];
    for (args, four, six) in cases {
        if six && !v6 {
            skip(format_args!("{args:?}: no IPv6 here"));
            continue;
        }
        let server = Server::start_bare(args);
        server.file("f", b"dual");
        // With two -a and port 0, each address has a port of its own.
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
    // Below the ephemeral ports, and different for parallel runs of this test.
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
    // Ports are freed: more transfers than ports.
    for _ in 0..40 {
        assert_eq!(RawClient::new(&server).read("f").unwrap(), file);
    }
}

#[test]
fn servers_with_reuse_port_share_a_port() {
    let first = Server::start(&["--reuse-port"]);
    let address = first.addr().to_string();
    let second = Server::start_bare(&["--reuse-port", "-a", &address]);
    assert_eq!(second.addr(), first.addr());
    first.file("who", b"first");
    second.file("who", b"second");
    // The kernel picks one of the servers for each port of a client.
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

/// Whether this machine has IPv6.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Reads `f` from `address`, and checks the address that the answers come from.
fn assert_answers(server: &Server, address: SocketAddr) {
    let file = content(5, BLOCK + 1);
    server.file("f", &file);
    let client = RawClient::to(address);
    // A new IPv6 address can't be used until duplicate address detection has finished.
    let (packet, tid) = client.ask_patiently(&rrq("f", &[]));
    assert_eq!(packet.data_block(), Some(1), "{address}");
    assert_eq!(tid.ip(), address.ip());
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2), "{address}");
    client.send_to(&ack(2), tid);
    let (packet, from) = client.ask(&rrq("missing", &[]));
    assert_eq!((packet.error_code(), from), (Some(1), address));
}

#[test]
fn link_local_addresses_keep_their_scope() {
    let Some(ip) = own_network() else { return };
    if !has_ipv6() {
        skip("no IPv6 here");
        return;
    }
    // Nobody else has the address, so duplicate address detection isn't needed.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    ip(&["link", "add", "a0", "type", "veth", "peer", "name", "b0"]);
    for (interface, address) in [("a0", "fe80::1/64"), ("b0", "fe80::2/64")] {
        ip(&["addr", "add", address, "dev", interface]);
        ip(&["link", "set", interface, "up"]);
    }
    let scope = nix::net::if_::if_nametoindex("a0").expect("an interface");
    let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, scope);
    for address in [
        format!("fe80::1%{scope}"),
        "fe80::1%a0".to_owned(),
        "[fe80::1%a0]:0".to_owned(),
        format!("[fe80::1%{scope}]:0"),
    ] {
        for mode in [&[][..], &["--single-port"]] {
            let server = Server::start_bare(&[&["-a", &address], mode].concat());
            let SocketAddr::V6(bound) = server.addr() else {
                panic!("{:?}", server.addr());
            };
            assert_eq!((bound.ip(), bound.scope_id()), (expected.ip(), scope));
            assert_answers(&server, bound.into());
        }
    }
}

#[test]
fn an_interface_by_name_follows_its_addresses() {
    let Some(ip) = own_network() else { return };
    let server = Server::start_bare(&["-a", "lo"]);
    let port = server.port();
    assert_answers(&server, (Ipv4Addr::LOCALHOST, port).into());
    ip(&["addr", "add", "192.0.2.1/32", "dev", "lo"]);
    assert_answers(&server, (Ipv4Addr::new(192, 0, 2, 1), port).into());
    if has_ipv6() {
        assert_answers(&server, (Ipv6Addr::LOCALHOST, port).into());
        ip(&["addr", "add", "2001:db8::1/128", "dev", "lo"]);
        let added: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_answers(&server, (added, port).into());
    }
}

#[test]
fn names_and_a_port_alone_are_listened_on() {
    let server = Server::start_bare(&["-a", "localhost"]);
    assert_answers(&server, (Ipv4Addr::LOCALHOST, server.port()).into());
    // Debian's default file for tftp-hpa says `:69`.
    let server = Server::start_bare(&["-a", ":0"]);
    let other = Ipv4Addr::new(127, 0, 0, 9);
    assert_answers(&server, (other, server.port()).into());
    let unknown = bounded(10, tftpd())
        .args(["-a", "nowhere.invalid"])
        .output()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
    assert!(said(&unknown).contains("no interface and no host"));
}

/// Containers often have no IPv6.
#[test]
fn without_ipv6_the_default_is_ipv4_alone_and_says_so() {
    let Some(_ip) = own_network() else { return };
    // The family may be there without an address.
    let off = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    if std::path::Path::new(off).exists() && std::fs::write(off, "1").is_err() {
        skip("IPv6 can't be switched off");
        return;
    }
    for args in [&[][..], &["-a", ":0"], &["-a", "lo"]] {
        let server = Server::start_bare(args);
        let v4 = listening(&server.log_lines().join("\n"))[0].port();
        assert_answers(&server, (Ipv4Addr::LOCALHOST, v4).into());
    }
}

#[test]
fn an_address_may_come_later() {
    let Some(ip) = own_network() else { return };
    let mut addresses = vec!["192.0.2.1"];
    if has_ipv6() {
        addresses.push("2001:db8::1");
    } else {
        skip("2001:db8::1: no IPv6 here");
    }
    for address in addresses {
        let server = Server::start_bare(&["-a", address]);
        server.file("f", b"late");
        let said = format!("{address} is not an address of this machine yet");
        assert!(server.log_lines().iter().any(|line| line.contains(&said)));
        ip(&["addr", "add", address, "dev", "lo"]);
        assert_eq!(server.addr().ip().to_string(), address);
        let client = RawClient::new(&server);
        // A new IPv6 address can't be used until duplicate address detection has finished.
        let (packet, from) = client.ask_patiently(&rrq("f", &[]));
        assert_eq!(packet, Packet::Data(1, b"late".to_vec()));
        assert_eq!(from.ip(), server.addr().ip());
    }
}

// --- a network namespace with clients in another --------------------------------------

/// Runs `clients` in a network namespace that two pairs of interfaces connect to this
/// thread's: a0 and c0 here (192.0.2.1 and `2001:db8::1`; 198.51.100.1), b0 and d0 there
/// (the same with 2). `start` starts the servers first. Does nothing but print the reason
/// if that isn't possible.
fn beside_another_network<S: Sync>(start: impl FnOnce() -> S, clients: impl FnOnce(&S) + Send) {
    let Some(ip) = own_network() else { return };
    let there = Command::new("unshare")
        .args(["--net", "sleep", "60"])
        .spawn();
    let mut there = there.expect("unshare(1)");
    let network = format!("/proc/{}/ns/net", there.id());
    let ours = std::fs::read_link("/proc/thread-self/ns/net").expect("a network");
    while std::fs::read_link(&network).is_ok_and(|it| it == ours || it == first_network()) {
        std::thread::yield_now();
    }
    let pid = there.id().to_string();
    for (here, other, address) in [("a0", "b0", "192.0.2.1"), ("c0", "d0", "198.51.100.1")] {
        ip(&[
            "link", "add", here, "type", "veth", "peer", "name", other, "netns", &pid,
        ]);
        ip(&["addr", "add", &format!("{address}/24"), "dev", here]);
        ip(&["link", "set", here, "up"]);
    }
    if has_ipv6() {
        for address in ["2001:db8::1/64", "fe80::1/64"] {
            ip(&["addr", "add", address, "dev", "a0", "nodad"]);
        }
    }
    // Answers to there leave by c0, unless their socket is bound to a0.
    ip(&["route", "add", "203.0.113.0/24", "dev", "c0"]);
    ip(&[
        "route",
        "add",
        "203.0.113.0/24",
        "dev",
        "a0",
        "metric",
        "100",
    ]);
    let network = std::fs::File::open(network).expect("a network");
    let servers = start();
    let done = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            setns(network, CloneFlags::CLONE_NEWNET).expect("root may");
            // `has_ipv6` looks for its address.
            ip(&["link", "set", "lo", "up"]);
            for (interface, addresses) in [
                ("b0", &["192.0.2.2/24", "203.0.113.9/32"][..]),
                ("d0", &["198.51.100.2/24"]),
            ] {
                for address in addresses {
                    ip(&["addr", "add", address, "dev", interface]);
                }
                ip(&["link", "set", interface, "up"]);
            }
            if has_ipv6() {
                for address in ["2001:db8::2/64", "fe80::2/64"] {
                    ip(&["addr", "add", address, "dev", "b0", "nodad"]);
                }
            }
            clients(&servers);
        });
        client.join()
    });
    let _ = there.kill();
    let _ = there.wait();
    done.expect("the clients are content");
}

/// The network namespace that this process was started in.
fn first_network() -> std::path::PathBuf {
    std::fs::read_link("/proc/self/ns/net").expect("a network")
}

/// A client's socket at `local` that sends and receives through b0 only.
fn on_b0(local: &str) -> Socket {
    let local: SocketAddr = local.parse().expect(local);
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None).expect("a socket");
    socket.bind_device(Some(b"b0")).expect("root may");
    socket.set_broadcast(true).expect("a socket");
    socket.bind(&local.into()).expect("an address");
    socket
}

/// The answer to `request` within `patience`, if any: the packet and its sender.
fn asked(
    socket: &Socket,
    request: &[u8],
    to: &str,
    patience: Duration,
) -> Option<(Packet, IpAddr)> {
    let to: SocketAddr = to.parse().expect(to);
    let socket: std::net::UdpSocket = socket.try_clone().expect("a socket").into();
    socket
        .set_read_timeout(Some(patience.min(millis(100))))
        .expect("a socket");
    let mut buffer = [0; 600];
    for _ in 0..=patience.as_millis() / 100 {
        socket.send_to(request, to).expect("it is sent");
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            return Some((Packet::parse(&buffer[..len]), from.ip()));
        }
    }
    None
}

/// A server in this thread's namespace with a file `f`, and the server's port.
fn with_file(args: &[&str]) -> (Server, u16) {
    let server = Server::start_bare(args);
    server.file("f", b"content");
    let port = server.port();
    (server, port)
}

#[test]
fn with_an_interface_only_it_is_served_and_answers_leave_by_it() {
    let start = || {
        // Each has a port of its own, and those that must not answer are asked first: on
        // another interface their port may be free for another server or its transfers.
        let mut servers = vec![];
        for interface in ["c0", "a0"] {
            for mode in [&[][..], &["--single-port"], &["-R", "50000:50010"]] {
                let address = format!(":{}", 6900 + servers.len());
                let args = [&["--interface", interface, "-a", &address], mode].concat();
                servers.push((interface, with_file(&args)));
            }
        }
        servers
    };
    beside_another_network(start, |servers| {
        for (interface, (_, port)) in servers {
            let is_served = *interface == "a0";
            let patience = if is_served { PATIENCE } else { millis(30) };
            let ask = |from: &str, to: &str| {
                let to = format!("{to}:{port}");
                let answer = asked(&on_b0(from), &rrq("f", &[]), &to, patience);
                answer.map(|(packet, from)| (packet, from.to_string()))
            };
            let file = || Packet::Data(1, b"content".to_vec());
            let answer = |ip: &str| is_served.then(|| (file(), ip.to_owned()));
            for client in ["192.0.2.2:0", "203.0.113.9:0"] {
                assert_eq!(ask(client, "192.0.2.1"), answer("192.0.2.1"), "{client}");
            }
            if has_ipv6() {
                let answered = ask("[2001:db8::2]:0", "[2001:db8::1]");
                assert_eq!(answered, answer("2001:db8::1"));
            }
        }
    });
}

/// RFC 1123 §4.2.3.4 would allow no answer at all.
#[test]
fn a_broadcast_request_is_answered_if_the_file_exists_and_else_by_silence() {
    let start = || {
        let modes = [
            &["--answer-broadcast"][..],
            &["--answer-broadcast", "--single-port"],
            &["-v"],
        ];
        modes.map(|mode| (mode.contains(&"--answer-broadcast"), with_file(mode)))
    };
    beside_another_network(start, |servers| {
        for (answers, (server, port)) in servers {
            let client = on_b0("192.0.2.2:0");
            let quiet = millis(30);
            let ask = |request: &[u8], to: &str| {
                let patience = if *answers { PATIENCE } else { quiet };
                asked(&client, request, &format!("{to}:{port}"), patience)
            };
            for to in ["192.0.2.255", "255.255.255.255"] {
                let answer = ask(&rrq("f", &[]), to);
                let from = answer.map(|(packet, from)| (packet.data_block(), from.to_string()));
                assert_eq!(
                    from,
                    answers.then(|| (Some(1), "192.0.2.1".to_owned())),
                    "{to}"
                );
                // The block is retransmitted until it is acknowledged.
                let client = on_b0("192.0.2.2:0");
                for request in [
                    rrq("missing", &[]),
                    wrq("new", &[]),
                    data(1, b"x"),
                    vec![0, 1],
                ] {
                    let answer = asked(&client, &request, &format!("{to}:{port}"), quiet);
                    assert_eq!(answer, None, "{to}");
                }
            }
            if !answers {
                // If there is no log line, the request didn't arrive.
                let told = |line: &str| line.contains("see --answer-broadcast");
                assert!(server.wait_for_log(told, PATIENCE).is_some());
            }
            if has_ipv6() && *answers {
                let to = format!("[ff02::1%{}]:{port}", scope("b0"));
                let link_local = format!("[fe80::2%{}]:0", scope("b0"));
                for (client, ours) in [(&*link_local, "fe80::"), ("[2001:db8::2]:0", "2001:")] {
                    let answer = asked(&on_b0(client), &rrq("f", &[]), &to, PATIENCE);
                    let (packet, from) = answer.expect("DATA");
                    assert_eq!(packet.data_block(), Some(1));
                    assert!(from.to_string().starts_with(ours), "{from}");
                }
            }
        }
    });
}

/// Such an address belongs to an interface, which a client's global address doesn't tell.
#[test]
fn a_link_local_address_is_answered_from_to_clients_with_a_global_one() {
    if !has_ipv6() {
        return skip("no IPv6 here");
    }
    let start = || {
        let modes = [
            &["-6"][..],
            &["-6", "--single-port"],
            // The only port is shared by all.
            &["-6", "-R", "50000:50000"],
        ];
        modes.map(|mode| {
            let (server, port) = with_file(mode);
            server.file("four", &content(2, 4 * BLOCK));
            (mode, server, port)
        })
    };
    beside_another_network(start, |servers| {
        let from: Ipv6Addr = "2001:db8::2".parse().expect("an address");
        let ours: Ipv6Addr = "fe80::1".parse().expect("an address");
        for (mode, server, port) in servers {
            let to = SocketAddrV6::new(ours, *port, 0, scope("b0")).into();
            let client = || RawClient::at(from, to);
            let downloading = client();
            let (packet, tid) = downloading.ask(&rrq("four", &[("windowsize", "4")]));
            assert!(matches!(packet, Packet::Oack(_)), "{mode:?}: {packet:?}");
            assert_eq!(tid.ip(), ours, "{mode:?}");
            downloading.send_to(&ack(0), tid);
            let mut next = 1;
            while next <= 5 {
                // The first window may be of one block.
                let packet = downloading.expect_from(tid);
                if packet.data_block() == Some(next) {
                    downloading.send_to(&ack(next), tid);
                    next += 1;
                }
            }
            let uploading = client();
            let (packet, tid) = uploading.ask(&wrq("up", &[]));
            assert_eq!((packet, tid.ip()), (Packet::Ack(0), ours.into()));
            assert_eq!(uploading.say(&data(1, b"up"), tid), Packet::Ack(1));
            assert_eq!(std::fs::read(server.root().join("up")).expect("it"), b"up");
            for (refused, code) in [
                (rrq("missing", &[]), 1),
                (wrq("f", &[]), 6),
                (request(1, b"f", "mail", &[]), 4),
            ] {
                let (packet, from) = client().ask(&refused);
                assert_eq!((packet.error_code(), from), (Some(code), to), "{mode:?}");
            }
        }
    });
}

/// The index of an interface.
fn scope(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("an interface")
}
