//! Requests over the real binary: what is granted, what is refused and how,
//! names, options, netascii, block numbers past 65535.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A wait that no test lives to see: what comes was sent at once.
const NEVER: [&str; 2] = ["-t", "60000"];

type Options<'a> = &'a [(&'a str, &'a str)];

/// What the server grants of `asked`; empty where it answers without an OACK.
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
        // Spelling and order are the client's.
        ("f", &[("BlkSize", "1428")], &[("BlkSize", "1428")]),
        (
            "f",
            &[("timeout", "3"), ("TSIZE", "0"), ("blksize", "8")],
            &[("timeout", "3"), ("TSIZE", "70000"), ("blksize", "8")],
        ),
        // Only what was asked for, only what is known.
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
        // Below the minimum, out of range, no plain decimal: as if unknown.
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
        // The size of an empty file is left out (curl refuses it).
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

/// Strict clients (EDK2) refuse an OACK with anything they did not ask for.
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
        // 2 or 6 are both right for a directory in the way.
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

/// Requests that are none: ERROR 4 for a malformed one, silence for anything
/// that is no request at all.
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
    }
    server.assert_quiet(&client);
}

#[test]
fn a_thousand_misses_are_quick() {
    let server = Server::start(&[]);
    let before = server.open_files();
    let client = RawClient::new(&server);
    let start = Instant::now();
    for miss in 0..1000 {
        let name = format!("pxelinux.cfg/{miss:08X}");
        let (packet, _) = client.ask(&rrq(&name, &[("tsize", "0")]));
        assert_eq!(packet.error_code(), Some(1), "{packet:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(server.open_files(), before);
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

// --- names -------------------------------------------------------------------------

#[test]
fn names_are_read_leniently() {
    let server = Server::start(&NEVER);
    server.file("hello.txt", b"hello");
    server.file("sub/dir/nested.bin", b"nested");
    server.file("with space", b"space");
    symlink("hello.txt", server.root().join("link")).unwrap();
    let root = server.root().canonicalize().unwrap();
    let root = root.to_str().unwrap();
    let prefixed = format!("{root}/sub/dir/nested.bin");
    let cases: [(&[u8], &[u8]); 13] = [
        (b"hello.txt", b"hello"),
        (b"/hello.txt", b"hello"),
        (b"//hello.txt", b"hello"),
        (b"./hello.txt", b"hello"),
        (b"\\hello.txt", b"hello"),
        (b"sub\\dir\\nested.bin", b"nested"),
        (b"\\sub\\dir/nested.bin", b"nested"),
        (b"sub/../hello.txt", b"hello"),
        (b"link", b"hello"),
        (b"with space", b"space"),
        (b"hello.txt\xff", b"hello"),
        (b"hello.txt\xff\xff\xff", b"hello"),
        (prefixed.as_bytes(), b"nested"),
    ];
    for (name, wanted) in cases {
        let client = RawClient::new(&server);
        let (payload, _) = client.ask_data(&request(1, name, "octet", &[]));
        assert_eq!(payload, wanted, "{}", String::from_utf8_lossy(name));
    }
    // Names are bytes, not text.
    let odd = OsStr::from_bytes(b"odd\xfename");
    fs::write(server.root().join(odd), b"odd").unwrap();
    let (payload, _) = RawClient::new(&server).ask_data(&request(1, b"odd\xfename", "octet", &[]));
    assert_eq!(payload, b"odd");
}

#[test]
fn requests_are_read_leniently() {
    let server = Server::start(&NEVER);
    server.file("f", &content(4, 2000));
    let mut padded = rrq("f", &[]);
    padded.resize(516, 0);
    let mut garbage = rrq("f", &[]);
    garbage.resize(516, 0xa5);
    let no_options = [
        ("OCTET", request(1, b"f", "OCTET", &[])),
        ("OcTeT", request(1, b"f", "OcTeT", &[])),
        ("no final NUL", b"\0\x01f\0octet".to_vec()),
        ("NULs behind (PA-RISC)", padded),
        ("garbage behind (PA-RISC)", garbage),
        ("an odd option", b"\0\x01f\0octet\0blksize\0".to_vec()),
    ];
    for (what, packet) in no_options {
        let (payload, _) = RawClient::new(&server).ask_data(&packet);
        assert_eq!(payload, content(4, BLOCK), "{what}");
    }
    let mut padded = rrq("f", &[("blksize", "1024")]);
    padded.resize(516, 0);
    let mut cut = rrq("f", &[("blksize", "1024")]);
    cut.pop();
    let mut odd = rrq("f", &[("blksize", "1024")]);
    odd.extend(b"tsize\0");
    let one_option = [
        ("NULs behind", padded),
        ("no final NUL", cut),
        ("an odd option behind", odd),
    ];
    for (what, packet) in one_option {
        let (packet, _) = RawClient::new(&server).ask(&packet);
        let wanted = owned(&[("blksize", "1024")]);
        assert_eq!(packet, Packet::Oack(wanted), "{what}");
    }
}

#[test]
fn nothing_outside_the_root_is_reached() {
    let server = Server::start(&["--overwrite"]);
    let secret = server.outside().join("secret");
    fs::write(&secret, b"secret").unwrap();
    server.file("sub/f", b"inside");
    let absolute = secret.to_str().unwrap();
    let root = server.root();
    let root = root.to_str().unwrap();
    symlink(&secret, server.root().join("absolute-link")).unwrap();
    symlink("../secret", server.root().join("relative-link")).unwrap();
    symlink("..", server.root().join("up")).unwrap();
    symlink("/proc/self/root", server.root().join("proc")).unwrap();
    symlink("loop", server.root().join("loop")).unwrap();
    let names = [
        "../secret",
        "/../secret",
        "sub/../../secret",
        "..\\secret",
        "\\..\\secret",
        "./.././secret",
        "sub/..\\..\\secret",
        "absolute-link",
        "relative-link",
        "up/secret",
        "proc/etc/passwd",
        "loop",
        absolute,
        "/etc/passwd",
        "/proc/self/environ",
        &format!("{root}/../secret"),
        &format!("{root}-other/secret"),
        &format!("{root}/{root}/../secret"),
    ];
    let before = server.tree();
    for name in names {
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&rrq(name, &[("tsize", "0")]));
        let refused = matches!(packet, Packet::Error(1 | 2, _));
        assert!(refused, "{name}: {packet:?}");
    }
    for name in ["../secret", "up/secret", "/../../secret", absolute] {
        // Refused, or written below the root: both keep the promise.
        let _ = RawClient::new(&server).write(name, b"overwritten");
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{name}");
    }
    for kept in before.keys().filter(|path| !path.ends_with("secret")) {
        assert_eq!(server.tree().get(kept), before.get(kept), "{kept:?}");
    }
    assert_eq!(fs::read_dir(server.outside()).unwrap().count(), 2);
}

/// A name is the network's: what it does to a terminal must not be ours.
#[test]
fn no_control_character_of_a_name_reaches_the_log() {
    let server = Server::start(&["-v", "-v", "-v"]);
    let evil = "evil\x1b[31m\x1b]0;title\x07\r\n2024 INFO forged=1\x7f\u{9b}0m";
    let client = RawClient::new(&server);
    client.ask(&rrq(evil, &[]));
    let (_, tid) = client.ask(&wrq(evil, &[(evil, evil)]));
    client.send_to(&error(0, evil), tid);
    server.wait_ended(client.addr(), 1);
    let told = server.wait_for_log(|line| line.contains("evil"), PATIENCE);
    assert!(told.is_some(), "the name is not in the log");
    for line in server.log_lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.starts_with("2024 INFO forged"), "{line:?}");
    }
}

// --- netascii -----------------------------------------------------------------------

/// Local text and its form on the wire, CR LF and CR NUL at block borders too.
fn netascii_cases() -> Vec<(Vec<u8>, Vec<u8>)> {
    let pad = |len: usize, tail: &[u8]| [&vec![b'a'; len], tail].concat();
    let mut cases = vec![
        (b"".to_vec(), b"".to_vec()),
        (b"no end".to_vec(), b"no end".to_vec()),
        (b"line\n".to_vec(), b"line\r\n".to_vec()),
        (b"\n\n".to_vec(), b"\r\n\r\n".to_vec()),
        (b"a\rb".to_vec(), b"a\r\0b".to_vec()),
        (b"a\r\nb".to_vec(), b"a\r\0\r\nb".to_vec()),
        (b"ends in\r".to_vec(), b"ends in\r\0".to_vec()),
        (vec![b'\n'; 3000], b"\r\n".repeat(3000)),
        (vec![b'\r'; 3000], b"\r\0".repeat(3000)),
    ];
    for len in [509, 510, 511, 512, 1021, 1022, 1023, 1024] {
        cases.push((pad(len, b"\n"), pad(len, b"\r\n")));
        cases.push((pad(len, b"\r"), pad(len, b"\r\0")));
        cases.push((pad(len, b"\nx\r"), pad(len, b"\r\nx\r\0")));
    }
    cases
}

#[test]
fn netascii_translates_both_ways() {
    let server = Server::start(&NEVER);
    for (case, (local, wire)) in netascii_cases().into_iter().enumerate() {
        let (down, up) = (format!("down{case}"), format!("up{case}"));
        server.file(&down, &local);
        for (options, block_size) in [(&[][..], BLOCK), (&[("blksize", "9")], 9)] {
            let client = RawClient::new(&server);
            let packet = request(1, down.as_bytes(), "netascii", options);
            let got = client.read_with(&packet, block_size, 1, 0).unwrap();
            assert_same(&down, &got, &wire);
        }
        let packet = request(2, up.as_bytes(), "NetASCII", &[]);
        let client = RawClient::new(&server);
        client.write_with(&packet, &wire, BLOCK, 1, 0).unwrap();
        assert_same(&up, &fs::read(server.root().join(&up)).unwrap(), &local);
    }
}

// --- block numbers ---------------------------------------------------------------------

#[test]
fn block_numbers_roll_over_as_asked() {
    const BLOCKS: usize = 66_000;
    let server = Server::start(&[]);
    let file = content(5, BLOCKS * 8 + 3);
    server.file("f", &file);
    let plain: Options = &[("blksize", "8"), ("windowsize", "64")];
    for (case, after_last) in [None, Some("0"), Some("1")].into_iter().enumerate() {
        let mut options = plain.to_vec();
        options.extend(after_last.map(|value| ("rollover", value)));
        let after_last = u16::from(after_last == Some("1"));
        let client = RawClient::new(&server);
        let got = client.read_with(&rrq("f", &options), 8, 64, after_last);
        assert_same("download", &got.unwrap(), &file);
        let name = format!("up{case}");
        let packet = wrq(&name, &options);
        let up = client.write_with(&packet, &file, 8, 64, after_last);
        up.unwrap();
        assert_same(
            "upload",
            &fs::read(server.root().join(&name)).unwrap(),
            &file,
        );
    }
}

#[test]
fn every_size_comes_and_goes_whole() {
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    for block_size in [8, 512, 1428, 65_464] {
        let size_option = block_size.to_string();
        let options = [("blksize", size_option.as_str()), ("windowsize", "3")];
        for blocks in [0, 1, 2, 3, 4, 6, 7] {
            for more in [0, 1, block_size - 1] {
                let file = content(6, blocks * block_size + more);
                let name = format!("f{}-{block_size}", file.len());
                let got = client.write_with(&wrq(&name, &options), &file, block_size, 3, 0);
                got.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let got = client.read_with(&rrq(&name, &options), block_size, 3, 0);
                assert_same(&name, &got.unwrap(), &file);
                fs::remove_file(server.root().join(&name)).unwrap();
            }
        }
    }
}
