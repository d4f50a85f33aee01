//! How a transfer begins: which options are asked for, what follows silence or a refusal.

use std::fs;
use std::net::UdpSocket;
use std::process::Stdio;

use super::*;

#[test]
fn without_options_where_the_server_refuses_them() {
    for code in [4, 8] {
        let (output, dir) = against(&["-v", "get", "URL"], |server| {
            let words = server.request();
            assert!(words.iter().any(|word| word == "blksize"), "{words:?}");
            server.send(&error(code, "no options here"));
            let words = server.request();
            assert_eq!(words, ["file", "octet", ""]);
            assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
        });
        assert_status(&output, 0, &["without options", "no options here"]);
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"whole");
    }
}

#[test]
fn without_options_where_the_server_keeps_silent() {
    let args = ["-v", "-t", "20", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        let mut words = server.request();
        let mut optioned = 0;
        while words.len() > 3 {
            optioned += 1;
            words = server.request();
        }
        assert_eq!(optioned, 3, "the request and two repeats");
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &["without options", "silent"]);
}

#[test]
fn what_the_server_said_first_counts() {
    // Time enough for the answer, on a busy machine too.
    let args = ["-t", "200", "--retries", "1"];
    for words in [
        &["get", "URL"][..],
        &["put", "file", "URL"],
        &["probe", "URL", "--within", "1s"],
    ] {
        let (output, dir) = against(&[&args, words].concat(), |server| {
            server.request();
            server.send(&error(4, "what?"));
        });
        assert_status(&output, 1, &["Error code 4: what?"]);
        assert_unharmed(&dir);
    }
}

/// It has answered the plain request: what it refused before is no reason any more.
#[test]
fn a_server_that_falls_silent_after_it_refused_options_fell_silent() {
    for (args, told) in [
        (&["get", "URL"][..], "fell silent after 512 bytes"),
        (&["put", "file", "URL"], "fell silent after 0 bytes"),
        (
            &["127.0.0.1", "-c", "get", "URL"],
            "fell silent after 512 bytes",
        ),
    ] {
        let args = [&["-t", "10", "--retries", "2"], args].concat();
        let (output, dir) = against(&args, |server| {
            assert!(server.request().len() > 3);
            server.send(&error(8, "no options here"));
            // Until the ERROR comes, the client may have asked again.
            let mut request = server.request();
            while request.len() > 3 {
                request = server.request();
            }
            assert_eq!(request, ["file", "octet", ""]);
            if args.contains(&"put") {
                assert_eq!(server.say(&ack(0)).data_block(), Some(1));
            } else {
                assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            }
        });
        assert_status(&output, 69, &[told]);
        assert_unharmed(&dir);
    }
}

#[test]
fn silence_ends_after_the_retries() {
    for (args, requests) in [
        (
            &["-t", "10", "--retries", "3", "--no-options", "get", "URL"][..],
            4,
        ),
        // With options, then without.
        (&["-t", "10", "--retries", "3", "get", "URL"], 3 + 4),
    ] {
        let (output, dir) = against(args, |server| {
            (0..requests).for_each(|_| drop(server.request()));
            server.listen.set_read_timeout(Some(millis(300))).unwrap();
            assert!(
                server.listen.recv(&mut [0; 600]).is_err(),
                "{args:?}: one more"
            );
        });
        assert_status(&output, 69, &["no answer from 127.0.0.1"]);
        assert_unharmed(&dir);
    }
}

/// A closed port isn't asked again either: with or without an ICMP error, nobody answers.
#[test]
fn without_retries_each_request_is_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (silent, closed) = (
        silent.local_addr().map(|it| (it, silent)).unwrap(),
        own_port(),
    );
    for addr in [silent.0, closed] {
        let (url, port) = (format!("tftp://{addr}/f"), addr.port().to_string());
        let host = addr.ip().to_string();
        for (args, requests) in [
            (&["--no-options", "get", &url][..], 1),
            // With options, then without.
            (&["get", &url], 2),
            (&["--no-options", "probe", &url, "--within", "2s"], 1),
            (&["probe", &url, "--within", "2s"], 2),
            (&["--no-options", &host, &port, "-c", "get", "f"], 1),
        ] {
            let args = [&["--trace", "-t", "200", "--retries", "0"], args].concat();
            let output = run(dir.path(), &args);
            assert_status(&output, 69, &[&format!("no answer from {addr}")]);
            let told = said(&output);
            assert_eq!(
                told.matches("sent RRQ").count(),
                requests,
                "{args:?}: {told}"
            );
            assert!(!told.contains("asking again"), "{args:?}: {told}");
        }
    }
}

#[test]
fn a_failure_names_the_port_unless_it_is_the_usual_one() {
    let server = Server::start(&["--read-only"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let [url, other, file] =
        ["f", "d/f", "file"].map(|it| format!("tftp://{}/{it}", server.addr()));
    for (args, status, told) in [
        (
            &["get", &*url][..],
            1,
            format!("tftp: {url}: Error code 1: "),
        ),
        (
            &["put", "file", &file],
            1,
            format!("tftp: {file}: Error code 2: "),
        ),
        (
            &["get", &url, &other, "."],
            64,
            format!("tftp: {url} and {other} would both be "),
        ),
    ] {
        assert_status(&run(dir.path(), args), status, &[&told]);
    }
    let closed = own_port();
    let url = format!("tftp://{closed}/f");
    let output = run(dir.path(), &["-t", "10", "--retries", "1", "get", &url]);
    let told = format!("tftp: {url}: no answer from {closed}: connection refused");
    assert_status(&output, 69, &[&told]);
}

/// Some loaders drop requests with options: one without follows soon, from another
/// port.
#[test]
fn a_plain_request_follows_within_two_seconds() {
    let (output, _dir) = against(&["-v", "put", "file", "URL"], |server| {
        let mut words = server.request();
        let (first, mut optioned) = (server.client, 0);
        while words.len() > 3 {
            optioned += 1;
            words = server.request();
        }
        assert_ne!(server.client, first, "a port of its own");
        // It used to take 7 s: with options, requests are sent at 0, 1, 3 and 7 s.
        assert!(optioned <= 2, "{optioned} of them");
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &["without options", "silent"]);
}

#[test]
fn a_late_answer_to_the_request_with_options_counts() {
    let (output, _dir) = against(&["-v", "get", "URL"], |server| {
        let mut words = server.request();
        let first = server.client;
        while words.len() > 3 {
            words = server.request();
        }
        let second = server.client;
        server.client = first;
        assert_eq!(server.say(&oack(&[("blksize", "600")])), Packet::Ack(0));
        // The other request is answered too late: its transfer is aborted.
        let late = RawClient::to(second.unwrap());
        late.send(&data(1, &[b'x'; 512]));
        assert_eq!(late.expect().0.error_code(), Some(0));
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["blksize=600", "Received 5 bytes"]);
}

/// The refusal comes after the plain request was sent, which is then sent again.
#[test]
fn a_late_refusal_of_options_ends_in_a_plain_transfer() {
    for answer in [error(8, "no options"), oack(&[("blksize", "9999")])] {
        let (output, dir) = against(&["get", "URL"], |server| {
            let mut words = server.request();
            let first = server.client;
            while words.len() > 3 {
                words = server.request();
            }
            server.client = first;
            server.send(&answer);
            let mut words = server.request();
            while words.len() > 3 {
                words = server.request();
            }
            server.transfer = UdpSocket::bind("127.0.0.1:0").unwrap();
            server.transfer.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
        });
        assert_status(&output, 0, &["Received 5 bytes"]);
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"whole");
    }
}

/// tftp-hpa's client sends no options; its scripts talk to devices that know none.
#[test]
fn hpa_style_commands_send_no_options_unless_asked_to() {
    for (args, options) in [
        (&[][..], 3),
        (&["-m", "binary"], 3),
        (&["--blksize", "512"], 5),
        (&["--option", "tsize=9"], 5),
    ] {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "as it was").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let child = tftp()
            .args(args)
            .args(["127.0.0.1", &port, "-c", "put", "file"])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut buffer = [0; 600];
        let (len, client) = server.recv_from(&mut buffer).unwrap();
        let words = buffer[2..len].split(|&byte| byte == 0).count();
        assert_eq!(words, options, "{args:?}");
        server.send_to(&error(0, "enough"), client).unwrap();
        assert_status(&child.wait_with_output().unwrap(), 1, &["enough"]);
    }
}

/// As with `tftp get`: the URL's mode comes first, whatever was set.
#[test]
fn a_mode_in_a_url_holds_for_the_prompts_commands() {
    for (args, name, mode) in [
        (
            &["get", "URL;mode=netascii", "here"][..],
            "file",
            "netascii",
        ),
        (&["get URL;mode=netascii here"], "file", "netascii"),
        (&["mget", "URL;mode=netascii", "."], "file", "netascii"),
        (&["put", "file", "URL;mode=netascii"], "file", "netascii"),
        (
            &["put", "file", "URL/;mode=netascii"],
            "file/file",
            "netascii",
        ),
        (
            &["mput", "file", "URL/d;mode=netascii"],
            "file/d/file",
            "netascii",
        ),
        (&["mput", "file", "URL;mode=octet"], "file/file", "octet"),
        (
            &["mput", "file", "URL/d/;mode=octet"],
            "file/d/file",
            "octet",
        ),
    ] {
        let other = if mode == "octet" { "netascii" } else { "octet" };
        let all = [&["-v", "-m", other, "127.0.0.1", "-c"], args].concat();
        let (output, dir) = against(&all, |server| {
            let words = server.request();
            assert_eq!(words[..2], [name, mode], "{args:?}");
            if args[0].contains("get") {
                assert_eq!(server.say(&data(1, b"a\r\nb")), Packet::Ack(1));
            } else {
                let block = Packet::Data(1, b"as it was".to_vec());
                assert_eq!(server.say(&ack(0)), block);
                server.send(&ack(1));
            }
        });
        assert_status(&output, 0, &[]);
        let told = said(&output);
        assert!(told.contains(&format!("[{mode}]")), "{args:?}: {told}");
        if args[0].starts_with("get") {
            assert_eq!(fs::read(dir.path().join("here")).unwrap(), b"a\nb");
        }
    }
}
