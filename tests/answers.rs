//! Requests to the real binary: which options are granted, what is refused and how,
//! and uploads.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::*;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

type Options<'a> = &'a [(&'a str, &'a str)];

/// The options that the server grants out of `asked`; none if it answers without OACK.
fn granted(server: &Server, opcode: u16, name: &str, mode: &str, asked: Options) -> Granted {
    let client = RawClient::new(server);
    let (packet, tid) = client.ask(&request(opcode, name.as_bytes(), mode, asked));
    client.send_to(&error(0, "enough"), tid);
    match packet {
        Packet::Oack(options) => options,
        Packet::Data(1, _) | Packet::Ack(0) => Vec::new(),
        other => panic!("{asked:?}: {other:?}"),
    }
}

type Granted = Vec<(String, String)>;

fn owned(options: Options) -> Granted {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    options.iter().map(own).collect()
}

// --- options -------------------------------------------------------------------

#[test]
fn options_are_granted_as_the_design_says() {
    let server = Server::start(&NEVER);
    server.file("f", &content(1, 70_000));
    server.file("empty", b"");
    let cases: &[(&str, Options, Options)] = &[
        // The client's spelling and order are kept.
        ("f", &[("BlkSize", "1428")], &[("BlkSize", "1428")]),
        (
            "f",
            &[("timeout", "3"), ("TSIZE", "0"), ("blksize", "8")],
            &[("timeout", "3"), ("TSIZE", "70000"), ("blksize", "8")],
        ),
        // Only what was asked for and is known.
        (
            "f",
            &[("msftwindow", "31416"), ("blksize", "512"), ("x", "y")],
            &[("blksize", "512")],
        ),
        ("f", &[("x", "y")], &[]),
        ("f", &[], &[]),
        // Above the maximum: the maximum.
        ("f", &[("blksize", "65464")], &[("blksize", "65464")]),
        ("f", &[("blksize", "65465")], &[("blksize", "65464")]),
        ("f", &[("windowsize", "64")], &[("windowsize", "64")]),
        ("f", &[("windowsize", "65535")], &[("windowsize", "64")]),
        ("f", &[("windowsize", "1")], &[("windowsize", "1")]),
        // Below the minimum, out of range, or no plain decimal: treated as unknown.
        ("f", &[("blksize", "7")], &[]),
        ("f", &[("blksize", "0")], &[]),
        ("f", &[("blksize", "-512")], &[]),
        ("f", &[("blksize", "+512")], &[]),
        ("f", &[("blksize", "0x200")], &[]),
        ("f", &[("blksize", " 512")], &[]),
        ("f", &[("blksize", "512 ")], &[]),
        ("f", &[("blksize", "many")], &[]),
        ("f", &[("windowsize", "0")], &[]),
        ("f", &[("timeout", "0")], &[]),
        ("f", &[("timeout", "1")], &[("timeout", "1")]),
        ("f", &[("timeout", "255")], &[("timeout", "255")]),
        ("f", &[("timeout", "256")], &[]),
        (
            "f",
            &[("timeout", "1000"), ("blksize", "1468")],
            &[("blksize", "1468")],
        ),
        ("f", &[("utimeout", "500000")], &[("utimeout", "500000")]),
        ("f", &[("rollover", "0")], &[("rollover", "0")]),
        ("f", &[("rollover", "1")], &[("rollover", "1")]),
        ("f", &[("rollover", "2")], &[]),
        ("f", &[("blksize2", "1500")], &[("blksize2", "1024")]),
        ("f", &[("blksize2", "1024")], &[("blksize2", "1024")]),
        // The first of several wins; an empty value is skipped (U-Boot).
        (
            "f",
            &[("blksize", "600"), ("BLKSIZE", "900")],
            &[("blksize", "600")],
        ),
        (
            "f",
            &[("multicast", ""), ("blksize", "1468")],
            &[("blksize", "1468")],
        ),
        ("f", &[("tsize", ""), ("timeout", "5")], &[("timeout", "5")]),
        // An empty file's size is left out, because curl refuses it.
        ("empty", &[("tsize", "0")], &[]),
        (
            "empty",
            &[("tsize", "0"), ("blksize", "512")],
            &[("blksize", "512")],
        ),
    ];
    for (name, asked, wanted) in cases {
        let got = granted(&server, 1, name, "octet", asked);
        assert_eq!(got, owned(wanted), "{name} {asked:?}");
    }
    let got = granted(&server, 1, "f", "netascii", &[("tsize", "0")]);
    assert_eq!(got, [], "netascii's size is not known beforehand");
}

#[test]
fn uploads_echo_tsize() {
    let server = Server::start(&NEVER);
    for asked in [
        &[("tsize", "123"), ("blksize", "1024")][..],
        &[("tsize", "0")],
        &[("windowsize", "8")],
    ] {
        let got = granted(&server, 2, "up", "octet", asked);
        assert_eq!(got, owned(asked));
    }
}

#[test]
fn the_administrators_limits_hold() {
    let asked: Options = &[("blksize", "1428"), ("windowsize", "16"), ("tsize", "0")];
    let cases: [(&[&str], Options); 4] = [
        (
            &["-B", "1000"],
            &[("blksize", "1000"), ("windowsize", "16"), ("tsize", "600")],
        ),
        (
            &["--max-windowsize", "4"],
            &[("blksize", "1428"), ("windowsize", "4"), ("tsize", "600")],
        ),
        (
            &["-r", "blksize"],
            &[("windowsize", "16"), ("tsize", "600")],
        ),
        (
            &["-r", "windowsize", "-r", "tsize", "--refuse", "blksize"],
            &[],
        ),
    ];
    for (args, wanted) in cases {
        let server = Server::start(args);
        server.file("f", &[1; 600]);
        let got = granted(&server, 1, "f", "octet", asked);
        assert_eq!(got, owned(wanted), "{args:?}");
    }
}

/// Strict clients (EDK2) refuse an OACK with anything that they didn't ask for.
#[test]
fn every_captured_request_is_answered() {
    let requests = captured_requests();
    assert!(requests.len() > 90, "the table is cut");
    for (client_name, bytes) in requests {
        let server = Server::start(&NEVER);
        let words: Vec<_> = bytes[2..]
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let read = bytes[1] == 1;
        if read {
            server.file(words[0].trim_start_matches('/'), &content(2, 3000));
        }
        let client = RawClient::new(&server);
        let asked: Vec<_> = words[2..].chunks_exact(2).collect();
        match client.ask(&bytes).0 {
            Packet::Oack(options) => {
                let mut rest = asked.iter();
                for (name, value) in options {
                    let asked = rest.find(|asked| asked[0] == name).unwrap_or_else(|| {
                        panic!("{client_name}: {name} not asked for, or out of order")
                    });
                    let same = asked[1] == value;
                    let known = match name.as_str() {
                        "tsize" if read => value == "3000",
                        "windowsize" => same || value == "64",
                        _ => same,
                    };
                    assert!(known, "{client_name}: {name}={value}");
                }
            }
            Packet::Data(1, payload) if read => {
                assert!(asked.is_empty(), "{client_name}: no OACK for {words:?}");
                let netascii = words[1].eq_ignore_ascii_case("netascii");
                assert!(netascii || payload == content(2, BLOCK), "{client_name}");
            }
            Packet::Ack(0) if !read => {
                assert!(asked.is_empty(), "{client_name}: no OACK for {words:?}");
            }
            other => panic!("{client_name}: {words:?} answered by {other:?}"),
        }
    }
}

// --- refusals --------------------------------------------------------------------

#[test]
fn refusals_have_the_right_code_and_a_text() {
    let server = Server::start(&["--max-upload", "1000"]);
    server.file("there", b"old");
    fs::create_dir(server.root().join("dir")).unwrap();
    mkfifo(&server.root().join("fifo"), Mode::S_IRWXU).unwrap();
    server.file("file/below", b"");
    let long_name = "n".repeat(300);
    let cases: [(&str, Vec<u8>, u16); 12] = [
        ("missing", rrq("missing", &[]), 1),
        ("missing directory", rrq("no/such/file", &[]), 1),
        ("a file as a directory", rrq("there/x", &[]), 1),
        ("a name too long", rrq(&long_name, &[]), 1),
        ("a directory", rrq("dir", &[]), 2),
        ("the root", rrq("/", &[]), 2),
        ("a FIFO", rrq("fifo", &[]), 2),
        ("an upload over a directory", wrq("file", &[]), 0),
        ("an upload into no directory", wrq("no/such/file", &[]), 1),
        ("an upload that exists", wrq("there", &[]), 6),
        ("an upload too large", wrq("big", &[("tsize", "1001")]), 3),
        (
            "an upload far too large",
            wrq("big", &[("tsize", "18446744073709551615")]),
            3,
        ),
    ];
    let before = server.tree();
    let listening = server.addr();
    for (what, packet, code) in cases {
        let client = RawClient::new(&server);
        let (answer, from) = client.ask(&packet);
        let Packet::Error(got, text) = &answer else {
            panic!("{what}: {answer:?}");
        };
        // For a directory in the way, 2 and 6 are both right.
        let right = *got == code || (code == 0 && matches!(got, 2 | 6));
        assert!(right, "{what}: {answer:?}");
        assert!(!text.is_empty(), "{what}");
        let root = server.root();
        assert!(!text.contains(root.to_str().unwrap()), "{what}: {text}");
        assert_eq!(from.ip(), listening.ip());
    }
    let (packet, _) = RawClient::new(&server).ask(&rrq("missing", &[]));
    assert_eq!(packet, Packet::Error(1, "File not found".into()));
    assert_eq!(server.tree(), before);
}

#[test]
fn read_only_takes_no_uploads() {
    let server = Server::start(&["--read-only"]);
    server.file("f", b"served");
    let client = RawClient::new(&server);
    for name in ["new", "f"] {
        let (code, text) = client.write(name, b"x").unwrap_err();
        assert_eq!(code, 2, "{text}");
    }
    assert_eq!(client.read("f").unwrap(), b"served");
    assert_eq!(server.tree().len(), 1);
}

#[test]
fn overwrite_replaces_whole_files_at_once() {
    let server = Server::start(&["--overwrite"]);
    let path = server.file("f", b"the old and longer content");
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&wrq("f", &[]));
    let old = fs::read(&path).unwrap();
    client.say(&data(1, &[b'n'; BLOCK]), tid);
    assert_eq!(fs::read(&path).unwrap(), old, "touched before the end");
    client.say(&data(2, b"ew"), tid);
    assert_eq!(fs::read(&path).unwrap().len(), BLOCK + 2);
    assert_eq!(server.tree().len(), 1);
}

#[test]
fn of_two_writers_each_ends_whole() {
    for (args, code) in [(&["--overwrite"][..], None), (&[], Some(6))] {
        let server = Server::start(args);
        let clients = [RawClient::new(&server), RawClient::new(&server)];
        let tids = clients.each_ref().map(|client| {
            let (packet, tid) = client.ask(&wrq("f", &[]));
            assert_eq!(packet, Packet::Ack(0));
            tid
        });
        for (client, tid) in clients.iter().zip(tids) {
            assert_eq!(client.say(&data(1, &[b'x'; BLOCK]), tid), Packet::Ack(1));
        }
        assert_eq!(clients[0].say(&data(2, b"1"), tids[0]), Packet::Ack(2));
        let answer = clients[1].say(&data(2, b"22"), tids[1]);
        assert_eq!(answer.error_code(), code, "{answer:?}");
        let len = if code.is_none() { 2 } else { 1 };
        assert_eq!(server.tree()[Path::new("f")].len(), BLOCK + len);
        assert_eq!(server.tree().len(), 1);
    }
}

#[test]
fn an_upload_past_the_limit_is_ended_and_gone() {
    let server = Server::start(&["--max-upload", "1500"]);
    let client = RawClient::new(&server);
    let (code, text) = client.write("f", &content(3, 1501)).unwrap_err();
    assert_eq!(code, 3, "{text}");
    assert!(server.tree().is_empty());
    client.write("g", &content(3, 1500)).unwrap();
    assert_same("g", &server.tree()[Path::new("g")], &content(3, 1500));
}

/// No ACK is due in the middle of a window, but the ERROR must not wait for one.
#[test]
fn an_upload_past_the_limit_in_the_middle_of_a_window_is_told_at_once() {
    let server = Server::start(&["--max-upload", "1000"]);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&wrq("f", &[("windowsize", "4")]));
    client.send_to(&data(1, &[b'x'; BLOCK]), tid);
    let answer = client.say(&data(2, &[b'x'; BLOCK]), tid);
    assert_eq!(answer.error_code(), Some(3), "{answer:?}");
    assert!(server.tree().is_empty());
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let server = Server::start(&["--overwrite"]);
    server.file("old", b"old");
    for name in ["new", "old"] {
        let client = RawClient::new(&server);
        let (_, tid) = client.ask(&wrq(name, &[]));
        for block in 1..=3 {
            client.say(&data(block, &[b'x'; BLOCK]), tid);
        }
        client.send_to(&error(3, "my disk is full"), tid);
        server.wait_ended(client.addr(), 1);
    }
    let tree = server.tree();
    assert_eq!(tree.len(), 1, "{:?}", tree.keys());
    assert_eq!(tree[Path::new("old")], b"old");
}

#[test]
fn uploads_get_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("0", 0o666)] {
        let server = Server::start(&["-U", umask]);
        RawClient::new(&server).write("f", b"x").unwrap();
        let meta = fs::metadata(server.root().join("f")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{umask}");
    }
}

/// A malformed request gets ERROR 4; anything that isn't a request at all gets no answer.
#[test]
fn malformed_requests_get_error_4_and_noise_gets_nothing() {
    let server = Server::start(&NEVER);
    server.file("f", b"x");
    let malformed: [&[u8]; 8] = [
        b"\0\x01",
        b"\0\x01\0",
        b"\0\x01\0octet\0",
        b"\0\x01f",
        b"\0\x01f\0",
        b"\0\x01f\0klingon\0",
        b"\0\x01f\0mail\0",
        b"\0\x02user\0MAIL\0",
    ];
    for packet in malformed {
        let client = RawClient::new(&server);
        let (answer, _) = client.ask(packet);
        let Packet::Error(4, text) = &answer else {
            panic!("{packet:?}: {answer:?}");
        };
        assert!(!text.is_empty());
    }
    let noise: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\x01",
        b"\0\0",
        b"\0\x03\0\x01data",
        b"\0\x04\0\0",
        b"\0\x05\0\0bye\0",
        b"\0\x06blksize\x00512\0",
        b"\0\x07",
        b"\x01\0f\0octet\0",
        b"\xff\xfff\0octet\0",
        b"M-SEARCH * HTTP/1.1\r\n",
    ];
    let client = RawClient::new(&server);
    for packet in noise {
        client.send(packet);
        if is_single_port() && packet.starts_with(b"\0\x03") {
            assert_eq!(client.expect().0.error_code(), Some(5));
        }
    }
    server.assert_quiet(&client);
}

#[test]
fn a_thousand_misses_take_a_wake_up_each() {
    let server = Server::start(&[]);
    let before = server.open_files();
    let client = RawClient::new(&server);
    let asleep = server.status("voluntary_ctxt_switches");
    for miss in 0..1000 {
        let name = format!("pxelinux.cfg/{miss:08X}");
        let (packet, _) = client.ask(&rrq(&name, &[("tsize", "0")]));
        assert_eq!(packet.error_code(), Some(1), "{packet:?}");
    }
    // The server sleeps before each miss, but not between a miss and its answer.
    let slept = server.status("voluntary_ctxt_switches") - asleep;
    assert!(slept <= 1000 + 10, "{slept} wake-ups for 1000 misses");
    assert_eq!(server.open_files(), before);
}

/// PXELINUX and GRUB look for their configuration under a row of missing names.
#[test]
fn misses_that_came_together_are_answered_in_one_wake_up() {
    const MISSES: usize = 12;
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    server.signal(Signal::SIGSTOP);
    for miss in 0..MISSES {
        client.send(&rrq(&format!("cfg/{miss}"), &[]));
    }
    let asleep = server.status("voluntary_ctxt_switches");
    server.signal(Signal::SIGCONT);
    for _ in 0..MISSES {
        assert_eq!(client.expect().0.error_code(), Some(1));
    }
    // Continuing after SIGSTOP and writing the log count as wake-ups, too.
    let slept = server.status("voluntary_ctxt_switches") - asleep;
    assert!(slept <= 3, "{slept} wake-ups for {MISSES} misses");
}

#[test]
fn a_dozen_misses_in_a_row_are_each_answered() {
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    for miss in 0..12 {
        client.send(&rrq(&format!("cfg/{miss}"), &[]));
    }
    let answers: BTreeSet<_> = (0..12).map(|_| client.expect().0.error_code()).collect();
    assert_eq!(answers, BTreeSet::from([Some(1)]));
}
