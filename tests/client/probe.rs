//! `tftp probe`: one line, within its time.

use std::net::UdpSocket;
use std::time::Instant;

use super::*;

#[test]
fn a_probe_tells_in_one_line() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.file("file", &content(5, 100_000));
    let url = format!("tftp://{}/file", server.addr());
    let output = run(dir.path(), &["probe", &url, "--within", "3s"]);
    assert_status(&output, 0, &[]);
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    for word in [
        &*url,
        "100000 bytes",
        "ms",
        "blksize=1428",
        "windowsize=16",
        "tsize=100000",
    ] {
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());

    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("tftp://{}/file", silent.local_addr().unwrap());
    let started = Instant::now();
    let output = run(dir.path(), &["probe", &url, "--within", "200ms"]);
    let told = format!(
        "no answer from {}; gave up after 200ms",
        silent.local_addr().unwrap()
    );
    assert_status(&output, 69, &[&format!("tftp: {url}: {told}")]);
    assert!(started.elapsed() >= millis(200));
}

/// Otherwise the server repeats its last block until it gives up.
#[test]
fn a_probe_repeats_its_last_ack_where_that_was_lost() {
    let (output, _dir) = against(&["-t", "1000", "probe", "URL"], |server| {
        server.request();
        let agreed = oack(&[("blksize", "8")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        // It has lost something before: it stays for a whole wait.
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
    });
    assert_status(&output, 0, &[]);
}

/// It waits for repeats no longer than `--within` allows.
#[test]
fn a_probe_that_has_lost_a_packet_stays_within_its_time() {
    let mut last = Instant::now();
    let args = ["-t", "8s", "probe", "URL", "--within", "600ms"];
    let (output, _dir) = against(&args, |server| {
        server.request();
        let agreed = oack(&[("blksize", "8")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
        last = Instant::now();
    });
    let stayed = last.elapsed();
    assert_status(&output, 0, &[]);
    assert!(stayed < millis(1600), "{stayed:?}");
}

#[test]
fn a_probe_that_is_late_asks_no_more() {
    let args = ["-t", "250", "probe", "URL", "--within", "600ms"];
    let (output, _dir) = against(&args, |server| {
        assert!(server.request().len() > 3);
        assert!(server.request().len() > 3, "the repeat");
        server.listen.set_read_timeout(Some(millis(1000))).unwrap();
        let mut buffer = [0; 600];
        let mut more = 0;
        while let Ok(len) = server.listen.recv(&mut buffer) {
            // A transfer that hasn't begun needs no ERROR.
            assert_eq!(Packet::parse(&buffer[..len]).error_code(), None);
            more += 1;
        }
        assert!(more <= 1, "{more} requests more in 350 ms");
    });
    assert_status(&output, 69, &["; gave up after 600ms"]);
}

#[test]
fn a_probe_that_is_late_says_how_far_it_came() {
    for (tsize, told) in [
        (Some("2000"), "only 512 of 2000 bytes came within 400ms; "),
        (None, "only 512 bytes came within 400ms; "),
    ] {
        let args = ["-t", "5000", "probe", "URL", "--within", "400ms"];
        let (output, _dir) = against(&args, |server| {
            server.request();
            if let Some(tsize) = tsize {
                assert_eq!(server.say(&oack(&[("tsize", tsize)])), Packet::Ack(0));
            }
            assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            assert_eq!(
                server.receive().error_code(),
                Some(0),
                "nobody waits any more"
            );
        });
        assert_status(&output, 69, &[told, "allow more time with --within"]);
    }
}
