//! Names with several addresses, zones, and answers from elsewhere.

use std::fs;
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// Sockets on the two addresses of localhost, in the name service's order, with the same
/// port.
fn both_localhosts() -> Option<(UdpSocket, UdpSocket)> {
    let port = own_port().port();
    let (Ok(six), Ok(addresses)) = (
        UdpSocket::bind(("::1", port)),
        std::net::ToSocketAddrs::to_socket_addrs("localhost:1"),
    ) else {
        skip("no IPv6 here");
        return None;
    };
    let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
    let four = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    match addresses[..] {
        [ip, _, ..] if ip.is_ipv6() => Some((six, four)),
        [_, _, ..] => Some((four, six)),
        _ => {
            skip("localhost has one address here");
            None
        }
    }
}

/// A name with two addresses: the second is only used if nobody answers at the first.
#[test]
fn another_address_is_no_way_out_of_a_transfer() {
    let Some((first, second)) = both_localhosts() else {
        return;
    };
    let port = first.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://localhost:{port}/file");
    let args = ["-t", "200", "--retries", "1", "get", &url, "-"];
    let child = tftp()
        .args(args)
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, client) = first.recv_from(&mut [0; 600]).unwrap();
    first.send_to(&data(1, &[b'1'; 512]), client).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 69, &["fell silent after 512 bytes"]);
    assert_eq!(output.stdout.len(), 512);
    second.set_nonblocking(true).unwrap();
    assert!(second.recv(&mut [0; 600]).is_err(), "asked as well");
}

/// If one of several addresses is unreachable, the next is asked at once and without a
/// message.
#[test]
fn an_unreachable_address_is_passed_over() {
    let Some((first, second)) = both_localhosts() else {
        return;
    };
    let port = first.local_addr().unwrap().port();
    drop(first);
    let dir = tempfile::tempdir().unwrap();
    let child = tftp()
        .args(["get", &format!("tftp://localhost:{port}/file")])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, client) = second.recv_from(&mut [0; 600]).unwrap();
    second.send_to(&data(1, b"right"), client).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 0, &["Received 5 bytes"]);
    let lines = String::from_utf8_lossy(&output.stderr).lines().count();
    assert_eq!(lines, 1, "{}", said(&output));
}

/// A server with several addresses that answers from the wrong one.
#[test]
fn answers_from_another_address_are_told() {
    for args in [
        &["-t", "300", "--retries", "1", "get"][..],
        &["-t", "300", "probe", "--within", "1s"],
    ] {
        let listen = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.2:0").unwrap();
        listen.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("tftp://{}/file", listen.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let child = tftp()
            .args(args)
            .arg(&url)
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (_, client) = listen.recv_from(&mut [0; 600]).unwrap();
        other.send_to(&data(1, b"from elsewhere"), client).unwrap();
        let told = format!("answers came from {}", other.local_addr().unwrap());
        assert_status(&child.wait_with_output().unwrap(), 69, &[&told]);
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
}

/// The addresses of a name are tried in parallel: a silent one doesn't delay the others.
#[test]
fn addresses_of_a_name_are_raced() {
    let Some((silent, second)) = both_localhosts() else {
        return;
    };
    let port = silent.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://localhost:{port}/file");
    let child = tftp()
        .args(["get", &url])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.recv(&mut [0; 600]).unwrap();
    let started = Instant::now();
    let (_, client) = second.recv_from(&mut [0; 600]).unwrap();
    // It used to take 22 s.
    assert!(started.elapsed() < Duration::from_secs(5));
    second.send_to(&data(1, b"right"), client).unwrap();
    assert_status(&child.wait_with_output().unwrap(), 0, &["Received 5 bytes"]);
}

/// A server asked at an IPv4-mapped address answers from the IPv4 address.
#[test]
fn a_mapped_address_is_that_of_ipv4() {
    let server = Server::start(&[]);
    server.file("file", b"bytes");
    let dir = tempfile::tempdir().unwrap();
    let (ip, port) = (server.addr().ip(), server.port().to_string());
    let mapped = format!("::ffff:{ip}");
    let url = format!("tftp://[{mapped}]:{port}/file");
    for words in [
        &["get", &*url][..],
        &["-4", "get", &url],
        &[&mapped, &port, "-c", "get", "file"],
    ] {
        assert_status(&run(dir.path(), words), 0, &[]);
    }
    assert_status(&run(dir.path(), &["-6", "get", &url]), 68, &["IPv6"]);
}

/// A link-local address has a zone; in a URL the percent sign is written %25 (RFC 6874).
#[test]
fn a_link_local_address_has_its_zone() {
    let script = r#"
        ip link set lo up
        ip -6 address add fe80::7/64 dev lo nodad
        "$TFTPD" -6 -p 6969 --grace 0 root 2>log & server=$!
        until grep -q 'listening on' log; do kill -0 $server || exit 1; done
        status=0
        for url in 'tftp://[fe80::7%25lo]:6969/f' 'tftp://[fe80::7%lo]:6969/f' \
            'tftp://[fe80::7%251]:6969/f'; do
            "$TFTP" -q -t 200 get "$url" got || status=1
        done
        "$TFTP" -q -t 200 'fe80::7%lo' 6969 -c get f got || status=1
        "$TFTP" -q get 'tftp://[fe80::7%25nowhere]:6969/f' got 2>errors && status=1
        kill $server
        exit $status"#;
    if !can_make_networks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("root/f"), "bytes").unwrap();
    let output = run_in_network(dir.path(), script);
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(output.status.success(), "{}{log}", said(&output));
    assert_eq!(fs::read(dir.path().join("got")).unwrap(), b"bytes");
    let errors = fs::read_to_string(dir.path().join("errors")).unwrap();
    assert!(errors.contains("no such address or interface"), "{errors}");
}
