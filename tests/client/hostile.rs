//! A server that errs, lies, repeats itself or isn't who it seems to be.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn an_error_of_each_code_is_told_and_harms_nothing() {
    for code in [0, 1, 2, 3, 5, 6, 7, 9, 999] {
        for args in [&["get", "URL"][..], &["put", "file", "URL"]] {
            let (output, dir) = against(args, |server| {
                server.request();
                server.send(&error(code, "for a reason"));
            });
            assert_status(&output, 1, &[&format!("Error code {code}: for a reason")]);
            assert_unharmed(&dir);
        }
    }
}

#[test]
fn an_error_in_the_middle_harms_nothing() {
    let (output, dir) = against(&["get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&data(1, &[b'x'; 512])), Packet::Ack(1));
        server.send(&error(0, "tired\x1b[2J"));
    });
    assert_status(&output, 1, &[r"tired\x1b[2J"]);
    assert_unharmed(&dir);
}

#[test]
fn silence_in_the_middle_ends_after_the_retries() {
    for options in [&[][..], &["--no-options"]] {
        let args = [options, &["-t", "10", "--retries", "4", "get", "URL"]].concat();
        let (output, dir) = against(&args, |server| {
            server.request();
            assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            for _ in 0..4 {
                assert_eq!(server.receive(), Packet::Ack(1), "{args:?}");
            }
        });
        assert_status(&output, 69, &["fell silent after 512 bytes"]);
        assert_unharmed(&dir);
    }
}

/// An OACK that we can't accept is refused with ERROR 8 (RFC 2347), and the request is
/// repeated without options.
#[test]
fn an_oack_that_nobody_asked_for_is_refused_and_options_are_dropped() {
    let (unasked, larger) = ("Option not asked for", "Option value larger than asked for");
    let no_number = "Option value is no number";
    for (options, problem) in [
        (&[("blksize", "1429")][..], larger),
        (&[("windowsize", "17")], larger),
        (&[("multicast", "")], unasked),
        (&[("timeout", "1")], unasked),
        (
            &[("blksize", "512"), ("blksize", "512")],
            "Option given twice",
        ),
        (&[("blksize", "x")], no_number),
        (&[("blksize", "7")], "Option value too small"),
        (&[("tsize", "-1")], no_number),
        (&[("tsize", "")], no_number),
        (&[("tsize", "large")], no_number),
        (&[("blksize", "512"), ("saved", "1")], unasked),
    ] {
        for args in [&["-v", "get", "URL"][..], &["-v", "put", "file", "URL"]] {
            let (output, dir) = against(args, |server| {
                server.request();
                assert_eq!(
                    server.say(&oack(options)).error_code(),
                    Some(8),
                    "{options:?}"
                );
                let words = server.request();
                assert_eq!(words, ["file", "octet", ""], "{options:?}");
                if args[1] == "get" {
                    assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
                } else {
                    let block = Packet::Data(1, b"as it was".to_vec());
                    assert_eq!(server.say(&ack(0)), block);
                    server.send(&ack(1));
                }
            });
            assert_status(&output, 0, &["without options", problem]);
            let expected = if args[1] == "get" {
                "whole"
            } else {
                "as it was"
            };
            let file = fs::read_to_string(dir.path().join("file")).unwrap();
            assert_eq!(file, expected);
        }
    }
}

#[test]
fn data_larger_than_agreed_is_refused() {
    let (output, dir) = against(&["get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&oack(&[("blksize", "100")])), Packet::Ack(0));
        assert_eq!(server.say(&data(1, &[0; 101])).error_code(), Some(4));
    });
    assert_status(&output, 1, &["broke the protocol"]);
    assert_unharmed(&dir);
}

#[test]
fn strangers_get_error_5_and_change_nothing() {
    let (output, dir) = against(&["-t", "10000", "get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&data(1, &[b'a'; 512])), Packet::Ack(1));
        let stranger = RawClient::to(server.client.unwrap());
        for packet in [data(2, b"evil"), ack(1), oack(&[])] {
            stranger.send(&packet);
            assert_eq!(stranger.expect().0.error_code(), Some(5), "{packet:?}");
        }
        stranger.send(&error(0, "evil"));
        assert_eq!(server.say(&data(2, b"good")), Packet::Ack(2));
    });
    assert_status(&output, 0, &[]);
    let file = [&[b'a'; 512][..], b"good"].concat();
    assert_same("file", &fs::read(dir.path().join("file")).unwrap(), &file);
}

#[test]
fn lost_and_duplicated_packets_do_no_harm() {
    let (output, dir) = against(&["-t", "1000", "get", "URL"], |server| {
        server.request();
        let agreed = oack(&[("blksize", "8"), ("windowsize", "4")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        // The ACK is lost: the OACK comes again.
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        server.send(&data(1, b"11111111"));
        // Block 2 is lost; one ACK reports that at once.
        assert_eq!(server.say(&data(3, b"33333333")), Packet::Ack(1));
        server.send(&data(4, b"44444444"));
        server.send(&data(2, b"22222222"));
        server.send(&data(3, b"33333333"));
        server.send(&data(3, b"33333333"));
        server.send(&data(4, b"44444444"));
        // On a busy machine the blocks come so late that the client repeats an ACK.
        let mut answer = server.say(&data(5, b"55555555"));
        while matches!(answer, Packet::Ack(1..5)) {
            answer = server.receive();
        }
        assert_eq!(answer, Packet::Ack(5));
        // The final ACK is lost: while the client dallies, it sends the ACK again.
        assert_eq!(server.say(&data(6, b"6")), Packet::Ack(6));
        assert_eq!(server.say(&data(6, b"6")), Packet::Ack(6));
    });
    assert_status(&output, 0, &["Received 41 bytes"]);
    assert_same(
        "file",
        &fs::read(dir.path().join("file")).unwrap(),
        b"11111111222222223333333344444444555555556",
    );
}

#[test]
fn a_doubled_ack_sends_nothing_twice() {
    let args = ["-t", "10000", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        server.request();
        assert_eq!(server.say(&oack(&[("blksize", "8")])).data_block(), Some(1));
        assert_eq!(server.say(&ack(1)), Packet::Data(2, b"s".to_vec()));
        server.send(&ack(1));
        server.send(&ack(0));
        assert!(server.is_quiet());
        server.send(&ack(2));
    });
    assert_status(&output, 0, &["Sent 9 bytes"]);
}

#[test]
fn a_lost_request_and_lost_data_are_sent_again() {
    let args = ["-t", "100", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        let first = server.request();
        assert_eq!(server.request(), first);
        let started = Instant::now();
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        assert_eq!(server.receive(), Packet::Data(1, b"as it was".to_vec()));
        assert!(started.elapsed() >= Duration::from_millis(100));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &[]);
}

/// The OACK and the block after it come at once: the block has the length that the OACK
/// says, and not the default.
#[test]
fn a_block_right_behind_the_oack_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    for windowsize in ["1", "2"] {
        let mut server = Scripted::new();
        let child = Command::new(env!("CARGO_BIN_EXE_tftp"))
            .current_dir(dir.path())
            .args([
                "-t",
                "10000",
                "--windowsize",
                windowsize,
                "get",
                &server.url(),
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        server.request();
        kill(pid, Signal::SIGSTOP).unwrap();
        server.send(&oack(&[("blksize", "1428")]));
        server.send(&data(1, &[b'1'; 1428]));
        kill(pid, Signal::SIGCONT).unwrap();
        // One ACK for both; ACK 0 would confirm less.
        assert_eq!(server.receive(), Packet::Ack(1));
        assert_eq!(server.say(&data(2, b"2")), Packet::Ack(2));
        assert_status(
            &child.wait_with_output().unwrap(),
            0,
            &["Received 1429 bytes"],
        );
    }
}

#[test]
fn a_stray_ack_is_no_answer_to_a_read_request() {
    let (output, _dir) = against(&["get", "URL"], |server| {
        server.request();
        let stranger = RawClient::to(server.client.unwrap());
        stranger.send(&ack(7));
        assert_eq!(stranger.expect().0.error_code(), Some(5));
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["Received 5 bytes"]);
}

#[test]
fn a_stranger_who_is_gone_is_not_the_server() {
    let (output, _dir) = against(&["-t", "200", "get", "URL"], |server| {
        server.request();
        // A stale block for a client that had this port before. The socket receives from
        // port 9 only, so that the ERROR 5 finds it closed.
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stranger.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        let stale = data(7, b"stale");
        stranger.send_to(&stale, server.client.unwrap()).unwrap();
        assert!(server.request().len() > 3, "the repeat");
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["Received 5 bytes"]);
}

/// A server that sends the same thing forever makes no progress.
#[test]
fn repeats_of_one_answer_are_no_progress() {
    let oacks = oack(&[("blksize", "512")]);
    let ways = [
        (data(1, &[0; 512]), &["get", "URL"][..]),
        (oacks.clone(), &["get", "URL"]),
        (oacks, &["put", "file", "URL"]),
        (ack(0), &["put", "file", "URL"]),
    ];
    thread::scope(|scope| {
        for (first, args) in &ways {
            scope.spawn(|| repeats_are_no_progress(first, args));
        }
    });
}

fn repeats_are_no_progress(first: &[u8], args: &[&str]) {
    let args = [&["-t", "50", "--retries", "2"], args].concat();
    let (output, dir) = against(&args, |server| {
        server.request();
        server.send(first);
        server
            .transfer
            .set_read_timeout(Some(millis(1000)))
            .unwrap();
        let started = Instant::now();
        // Each answer brings the same packet again.
        while server.transfer.recv(&mut [0; 600]).is_ok() {
            thread::sleep(millis(10));
            server.send(first);
            assert!(started.elapsed() < PATIENCE, "{args:?}: held forever");
        }
    });
    assert_status(&output, 69, &["after "]);
    assert_unharmed(&dir);
}

/// Nothing but the disk would bound what comes beyond the announced size.
#[test]
fn far_more_than_was_announced_ends_the_transfer() {
    let payload = vec![0; 65_464];
    for local in ["new", "-"] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Scripted::new();
        let out = fs::File::create(dir.path().join("out")).unwrap();
        let child = tftp()
            .current_dir(dir.path())
            .args(["--option", "blksize=65464", "get", &server.url(), local])
            .stdout(out)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.request();
        let options = oack(&[("blksize", "65464"), ("tsize", "10000")]);
        assert_eq!(server.say(&options), Packet::Ack(0));
        let mut taken = 0;
        for block in 1..100 {
            match server.say(&data(block, &payload)) {
                Packet::Ack(number) if number == block => taken += payload.len(),
                Packet::Error(3, why) if why.contains("announced") => break,
                other => panic!("{local}: {other:?}"),
            }
        }
        // Some servers announce a wrong size.
        assert!((1_000_000..1_100_000).contains(&taken), "{local}: {taken}");
        let output = child.wait_with_output().unwrap();
        let came = format!("{} bytes came, ", taken + payload.len());
        assert_status(
            &output,
            1,
            &[&came, "the 10000 bytes that were announced; "],
        );
        let lines = String::from_utf8_lossy(&output.stderr).lines().count();
        assert_eq!(lines, 1, "{}", said(&output));
        assert_eq!(files(dir.path()), ["out"], "{local}");
    }
}

/// The announced size (RFC 2349) is compared with the received bytes.
#[test]
fn a_size_that_was_announced_wrongly_is_told() {
    for (announced, status, word) in [
        ("9", 0, ""),
        ("8", 0, "more than the 8 bytes that were announced"),
        ("10", 1, "9 of 10 bytes that were announced"),
    ] {
        for end in [&["-m", "octet"][..], &["-m", "netascii"]] {
            let netascii = end[1] == "netascii";
            let args = [end, &["get", "URL", "new"]].concat();
            let (output, dir) = against(&args, |server| {
                server.request();
                assert_eq!(server.say(&oack(&[("tsize", announced)])), Packet::Ack(0));
                let answer = server.say(&data(1, b"nine long"));
                // A short file isn't acknowledged as a whole one.
                let is_short = announced == "10" && !netascii;
                let is_right = match &answer {
                    Packet::Error(0, why) => is_short && why.contains("announced"),
                    answer => !is_short && *answer == Packet::Ack(1),
                };
                assert!(is_right, "{answer:?}");
            });
            if netascii {
                // In netascii, the local size differs from the size on the wire.
                assert_status(&output, 0, &["Received 9 bytes"]);
                continue;
            }
            assert_status(&output, status, &[word]);
            let lines = String::from_utf8_lossy(&output.stderr).lines().count();
            let expected = usize::from(status == 0) + usize::from(!word.is_empty());
            assert_eq!(lines, expected, "{}", said(&output));
            let file = fs::read(dir.path().join("new")).ok();
            assert_eq!(file.is_some(), status == 0, "{announced}");
        }
    }
}
