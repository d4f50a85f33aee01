//! A device that isn't there yet, and what the network says meanwhile.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;

/// Waits until a line of the client's standard error contains `word`; returns the rest of
/// that output.
#[track_caller]
fn wait_for_line(child: &mut Child, word: &str) -> std::io::BufReader<std::process::ChildStderr> {
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        let len = std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert!(len > 0, "no line with {word:?}");
    }
    lines
}

/// ICMP port unreachable before the first answer is only a hint: the client goes on asking
/// until the device listens (RFC 1122 §3.2.2.1).
#[test]
fn a_client_started_before_its_device_waits_for_it_despite_port_unreachable() {
    for (args, input) in [
        (&["put", "file", "URL"][..], ""),
        (&["get", "URL"], ""),
        (&["-v", "probe", "URL", "--within", "20s"], ""),
        (&["IP", "PORT", "-c", "put", "file"], ""),
        (&["IP", "PORT", "-c", "get", "file"], ""),
        (&["IP", "PORT"], "put file\n"),
        (&["IP", "PORT"], "get file\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "as it was").unwrap();
        let addr = own_port();
        let word = |word: &&str| match *word {
            "URL" => format!("tftp://{addr}/file"),
            "IP" => addr.ip().to_string(),
            "PORT" => addr.port().to_string(),
            word => word.to_owned(),
        };
        let mut child = tftp()
            .args(["-t", "100"])
            .args(args.iter().map(word))
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let _errors = wait_for_line(&mut child, "connection refused");
        let listen = UdpSocket::bind(addr).unwrap();
        listen.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 600];
        let (_, client) = listen.recv_from(&mut buffer).unwrap();
        let is_put = buffer[1] == 2;
        let server = UdpSocket::bind((addr.ip(), 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = if is_put { ack(0) } else { data(1, b"here") };
        server.send_to(&answer, client).unwrap();
        let len = server.recv(&mut buffer).unwrap();
        if is_put {
            let block = Packet::Data(1, b"as it was".to_vec());
            assert_eq!(Packet::parse(&buffer[..len]), block, "{args:?}");
            server.send_to(&ack(1), client).unwrap();
        } else {
            assert_eq!(Packet::parse(&buffer[..len]), Packet::Ack(1), "{args:?}");
        }
        assert_status(&child.wait_with_output().unwrap(), 0, &[]);
    }
}

/// First the network, then the host, then the port is unreachable.
#[test]
fn network_and_host_unreachable_are_hints_as_well() {
    let script = r#"
        "$TFTP" -t 100 put file tftp://192.0.2.1:6969/up 2>errors & client=$!
        until grep -q 'network unreachable' errors; do kill -0 $client || exit 1; done
        ip link set lo up
        ip address add 192.0.2.1/32 dev lo
        "$TFTPD" -4 -p 6969 --grace 0 root 2>log & server=$!
        wait $client; status=$?
        kill $server
        exit $status"#;
    if !can_make_networks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("file"), "as it was").unwrap();
    let output = run_in_network(dir.path(), script);
    let errors = fs::read_to_string(dir.path().join("errors")).unwrap();
    assert!(output.status.success(), "{errors}");
    assert_eq!(fs::read(dir.path().join("root/up")).unwrap(), b"as it was");
}

/// `--wait`: a boot loader listens for a second or so; no request must miss it because of
/// a back-off.
#[test]
fn a_wait_asks_once_a_second_or_faster_and_says_so() {
    let args = [
        "-t",
        "5000",
        "--retries",
        "0",
        "--wait",
        "3500ms",
        "get",
        "URL",
    ];
    let mut requests = [0, 0];
    let (output, dir) = against(&args, |server| {
        // Longer than the time between two requests.
        server.listen.set_read_timeout(Some(millis(2000))).unwrap();
        let mut buffer = [0; 600];
        while let Ok(len) = server.listen.recv(&mut buffer) {
            requests[usize::from(len < 20)] += 1;
        }
    });
    assert_status(
        &output,
        69,
        &["asking again for", "no answer from 127.0.0.1"],
    );
    // With options at 0, 1, 2 and 3 s; without, from 1.3 s on.
    let [with_options, plain] = requests;
    assert!((3..=4).contains(&with_options), "{requests:?}");
    assert!((2..=3).contains(&plain), "{requests:?}");
    assert_unharmed(&dir);
}

/// Once the network has reported that nobody is there, requests don't back off: the device
/// may listen for a short time only.
#[test]
fn a_device_that_was_unreachable_is_asked_every_second() {
    let addr = own_port();
    let dir = tempfile::tempdir().unwrap();
    let mut child = tftp()
        .args(["get", &format!("tftp://{addr}/file")])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _errors = wait_for_line(&mut child, "connection refused");
    let listen = UdpSocket::bind(addr).unwrap();
    listen.set_read_timeout(Some(PATIENCE)).unwrap();
    let (started, mut clients) = (Instant::now(), vec![]);
    while started.elapsed() < millis(5500) {
        clients.push(listen.recv_from(&mut [0; 600]).unwrap().1);
    }
    let first = clients.iter().filter(|it| **it == clients[0]).count();
    // At 1, 2, 3, 4 and 5 s; a back-off would ask at 1 and 3 s.
    assert!((4..=6).contains(&first), "{clients:?}");
    listen.send_to(&error(0, "enough"), clients[0]).unwrap();
    assert_status(&child.wait_with_output().unwrap(), 1, &[]);
}

#[test]
fn the_last_hint_of_the_network_is_the_reason() {
    hint_is_the_reason(own_port());
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => hint_is_the_reason((Ipv6Addr::LOCALHOST, own_port().port()).into()),
        Err(error) => skip(format_args!("no IPv6 here: {error}")),
    }
}

fn hint_is_the_reason(addr: SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{addr}/f");
    for args in [
        &["-t", "10", "--retries", "1", "get", &*url][..],
        &["-q", "-t", "10", "--wait", "200ms", "get", &url],
        &["probe", &url, "--within", "300ms"],
    ] {
        let output = run(dir.path(), args);
        let reason = format!("no answer from {addr}: connection refused");
        assert_status(&output, 69, &[&reason]);
        let lines = String::from_utf8_lossy(&output.stderr).lines().count();
        assert_eq!(
            lines,
            if args[0] == "-t" { 2 } else { 1 },
            "{}",
            said(&output)
        );
    }
}

/// The time that is announced is the time that passes, to the nearest second.
#[test]
fn the_time_of_a_wait_is_the_one_that_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{}/f", own_port());
    // 700 ms with options and 1500 ms without.
    let args = ["-t", "100", "--retries", "3", "get", &url];
    let started = Instant::now();
    let output = run(dir.path(), &args);
    assert!(started.elapsed() >= millis(2200), "{}", said(&output));
    assert_status(&output, 69, &["asking again for 2 s\n"]);
}
