//! The status port: what it shows agrees with the log, and no viewer, not even one that
//! sends bad requests or doesn't read, delays a transfer.

#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time and waits for sockets to close"
)]
#![allow(
    clippy::cast_sign_loss,
    reason = "counts in Prometheus's format are floats"
)]

#[path = "status/browser.rs"]
mod browser;
mod common;
#[path = "status/crowd.rs"]
mod crowd;
#[path = "status/hints.rs"]
mod hints;
#[path = "status/page.rs"]
mod page;
#[cfg(feature = "workers")]
#[path = "status/workers.rs"]
mod workers;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The status port of a server, from its log.
fn status_of(server: &Server) -> SocketAddr {
    let line = server.wait_for_log(|line| line.contains("status on http://"), PATIENCE);
    let line = line.expect("a status port");
    let (_, rest) = line.split_once("http://").expect("an address");
    rest.trim_end_matches('/').parse().expect("an address")
}

fn start(args: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[args, &["--status", "127.0.0.1:0"]].concat());
    let status = status_of(&server);
    (server, status)
}

/// Sends `request` and reads the whole answer.
fn exchange(status: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(status).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The answer may come before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8(answer).expect("UTF-8")
}

/// The body of the page at `path`.
fn get(status: SocketAddr, path: &str) -> String {
    let answer = exchange(
        status,
        format!("GET {path} HTTP/1.1\r\nHost: {status}\r\n\r\n").as_bytes(),
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    body.to_owned()
}

fn json(status: SocketAddr) -> Value {
    let text = get(status, "/status.json");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The value of a metric, with its labels.
fn metric(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().expect("a number")
}

#[test]
fn metrics_tell_what_every_exporter_tells_in_the_manuals_words() {
    let (server, status) = start(&[]);
    server.fence();
    let text = get(status, "/metrics");
    let cpu = metric(&text, "process_cpu_seconds_total");
    assert!(cpu > 0.0 && cpu < 60.0, "{cpu}");
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"));
    assert!(metric(&text, "process_max_fds") >= metric(&text, "process_open_fds"));
    // The manual's words.
    for line in text.lines().filter(|it| it.starts_with("# HELP ")) {
        let help = line.splitn(4, ' ').last().unwrap_or_default();
        let help = help.to_ascii_lowercase();
        assert!(
            !help.contains("session") && !help.contains("dally"),
            "{line}"
        );
    }
}

#[test]
fn metrics_agree_with_the_log_and_with_promtool() {
    let (server, status) = start(&[]);
    let sizes = [0, 511, 512, 100_000];
    for (index, size) in sizes.into_iter().enumerate() {
        let name = format!("f{index}");
        let content = content(index as u64, size);
        server.file(&name, &content);
        let client = RawClient::new(&server);
        assert_eq!(client.read(&name), Ok(content));
        server.wait_ended(client.addr(), 1);
    }
    let client = RawClient::new(&server);
    let (_, from) = client.ask(&wrq("new", &[]));
    client.send_to(&data(1, b"12345"), from);
    server.wait_ended(client.addr(), 1);
    server.fence();
    // A transfer that its client aborts.
    let client = RawClient::new(&server);
    let (_, from) = client.ask(&rrq("f3", &[]));
    client.send_to(&ack(1), from);
    client.recv(PATIENCE).expect("block 2");
    client.send_to(&error(3, "disk full"), from);
    server.wait_ended(client.addr(), 1);

    let text = get(status, "/metrics");
    // The last line of `fence`, which may come after its answer.
    assert!(server.wait_for_lines(" refused ", 2));
    let log = server.log_lines();
    let field = |line: &str, name: &str| {
        let mut words = line.split(' ');
        let value = words.find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        value.map(str::to_owned).unwrap_or_default()
    };
    for op in ["read", "write"] {
        for outcome in ["completed", "peer_error", "timed_out"] {
            let of_kind = |line: &&String| {
                line.contains(" ended ")
                    && field(line, "op") == op
                    && field(line, "outcome") == outcome
            };
            let told = log.iter().filter(of_kind).count();
            let name = format!("tftpd_transfers_total{{direction=\"{op}\",outcome=\"{outcome}\"}}");
            assert_eq!(metric(&text, &name) as usize, told, "{name}");
        }
        let ended = log
            .iter()
            .filter(|line| line.contains(" ended ") && field(line, "op") == op);
        let bytes: u64 = ended
            .map(|line| field(line, "bytes").parse::<u64>().expect("bytes"))
            .sum();
        let name = if op == "read" {
            "tftpd_sent_bytes_total"
        } else {
            "tftpd_received_bytes_total"
        };
        assert_eq!(metric(&text, name) as u64, bytes, "{name}");
    }
    let refused = log.iter().filter(|line| line.contains(" refused ")).count();
    assert_eq!(refused, 2, "the fence's");
    assert_eq!(
        metric(&text, "tftpd_refusals_total{reason=\"file_not_found\"}") as usize,
        refused
    );
    assert_eq!(
        metric(&text, "tftpd_requests_total{result=\"admitted\"}") as usize,
        sizes.len() + 2
    );
    assert_eq!(
        metric(&text, "tftpd_transfer_duration_seconds_count") as usize,
        sizes.len() + 1
    );
    assert_eq!(
        metric(&text, "tftpd_first_answer_seconds_count") as usize,
        sizes.len() + 2
    );
    assert!(metric(&text, "process_resident_memory_bytes") > 1e6);
    assert!(metric(&text, "tftpd_loop_turn_longest_seconds") > 0.0);
    assert!(metric(&text, "tftpd_kernel_dropped_datagrams_total") < 1.0);

    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(_) if std::env::var_os("CI").is_none() => {
            skip("promtool is not installed (Debian package prometheus)");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    promtool
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("it reads");
    let output = promtool.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn json_shows_what_is_under_way_and_what_has_ended() {
    let args = [&NEVER[..], &["--ignore-case", "--overwrite"]].concat();
    let (server, status) = start(&args);
    server.file("Image.BIN", &content(1, 10_000));
    let client = RawClient::new(&server);
    let options = [("blksize", "1000"), ("windowsize", "2"), ("tsize", "0")];
    let (_, from) = client.ask(&rrq("image.bin", &options));
    let opening = &json(status)["sessions"][0];
    assert_eq!(opening["state"], "opening");
    for number in [0, 2] {
        client.send_to(&ack(number), from);
        client.expect();
        client.expect();
    }
    let all = json(status);
    let session = &all["sessions"][0];
    for (name, expected) in [
        ("peer", Value::from(client.addr().to_string())),
        ("op", "read".into()),
        ("file", "image.bin".into()),
        ("served", "Image.BIN".into()),
        ("bytes", 2000.into()),
        ("size", 10_000.into()),
        ("blksize", 1000.into()),
        ("windowsize", 2.into()),
        ("retransmits", 0.into()),
        ("state", "moving".into()),
    ] {
        assert_eq!(session[name], expected, "{name}: {session}");
    }
    assert!(session["round_trip"].as_f64().is_some() && session["rate"].as_u64().is_some());
    assert_eq!(all["state"], "serving");
    assert_eq!(all["counters"]["admitted"], 1);
    client.send_to(&error(0, "<b>\"no\"</b>\n"), from);
    server.wait_ended(client.addr(), 1);
    let all = json(status);
    assert_eq!(all["sessions"], Value::Array(vec![]));
    let ended = &all["recent"][0];
    assert_eq!(ended["event"], "ended");
    assert_eq!(ended["outcome"], "peer_error");
    assert_eq!(all["failed_or_refused"], 1);
    assert_eq!(ended["message"], r#"<b>\"no\"</b>\x0a"#);
    assert_eq!(all["bytes_sent"], ended["bytes"]);
    // Names with markup, quotes, control characters, and bytes that aren't UTF-8.
    for name in [
        &b"<script>alert(1)</script>"[..],
        b"a'b\"c",
        b"\x1b[31m\x07\r\n",
        b"\xff\xfe/\xe2\x80\xae",
    ] {
        client.ask(&request(1, name, "octet", &[]));
        let all = json(status);
        let shown = all["recent"][0]["file"].as_str().expect("a name");
        assert!(!shown.chars().any(char::is_control), "{shown}");
        let told = format!("file=\"{shown}\"");
        let line = server.wait_for_log(|line| line.contains(&told), PATIENCE);
        assert!(line.is_some(), "{shown}");
    }
}

#[test]
fn healthz_tells_whether_it_admits_or_drains() {
    let (server, status) = start(&["--grace", "10"]);
    server.file("f", &content(1, 10_000));
    assert_eq!(get(status, "/healthz"), "serving\n");
    let client = RawClient::new(&server);
    client.ask(&rrq("f", &[]));
    server.signal(Signal::SIGTERM);
    server
        .wait_for_log(|line| line.contains("stopping"), PATIENCE)
        .expect("a line");
    let answer = exchange(
        status,
        b"GET /healthz HTTP/1.1\r\nHost: pod.example\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let all = json(status);
    assert_eq!(all["state"], "draining");
    // The listen sockets are closed by now.
    assert_eq!(all["listening"][0], server.addr().to_string());
    let metrics = get(status, "/metrics");
    assert!(metric(&metrics, "tftpd_kernel_dropped_datagrams_total") < 1.0);
}

#[test]
fn requests_that_are_malformed_huge_or_for_another_host_get_an_error() {
    let (server, status) = start(&[]);
    let huge = [&b"GET / HTTP/1.1\r\nCookie: "[..], &vec![b'x'; 1_000_000]].concat();
    for (request, code) in [
        (&b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"[..], "421"),
        (
            b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "404",
        ),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"),
        (b"\0\x01f\0octet\0 \r\n\r\n", "400"),
        (&huge, "431"),
    ] {
        let answer = exchange(status, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")),
            "{code}: {answer}"
        );
        assert!(
            !answer.contains("evil") && !answer.contains("xxx"),
            "{answer}"
        );
        assert!(
            answer.contains("Content-Security-Policy: default-src 'none'"),
            "{answer}"
        );
    }
    server.fence();
}

#[test]
fn slow_loris_and_many_connections_keep_nobody_out() {
    let (server, status) = start(&[]);
    server.file("f", &content(1, 40 * BLOCK));
    let before = (server.open_files(), server.status("VmRSS"));
    // Each begins a request and never finishes it.
    let lorises: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(status).expect("a connection");
            let _ = stream.write_all(b"GET /");
            stream
        })
        .collect();
    let file = RawClient::new(&server).read("f").expect("a file");
    assert_eq!(file.len(), 40 * BLOCK);
    assert_eq!(get(status, "/healthz"), "serving\n");
    assert!(
        server.open_files() <= before.0 + 40,
        "{}",
        server.open_files()
    );
    assert!(
        server.status("VmRSS") < before.1 + 2048,
        "{} KiB",
        server.status("VmRSS")
    );
    drop(lorises);
    let deadline = Instant::now() + PATIENCE;
    while server.open_files() > before.0 && Instant::now() < deadline {
        server.fence();
    }
    assert_eq!(server.open_files(), before.0);
}

#[test]
fn a_reader_that_stops_in_the_middle_delays_no_transfer() {
    let (server, status) = start(&NEVER);
    server.file("f", &content(1, 100 * BLOCK));
    let name = format!("{}f", "./".repeat(40));
    let clients: Vec<_> = (0..600)
        .map(|_| {
            let client = RawClient::new(&server);
            client.ask(&rrq(&name, &[]));
            client
        })
        .collect();
    let ask = format!("GET /status.json HTTP/1.1\r\nHost: {status}\r\n\r\n");
    let readers: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(status).expect("a connection");
            stream.write_all(ask.as_bytes()).expect("it is read");
            let mut some = [0; 1000];
            let _ = stream.read(&mut some);
            stream
        })
        .collect();
    let file = RawClient::new(&server).read("f").expect("a file");
    assert_eq!(file.len(), 100 * BLOCK);
    let all = json(status);
    assert_eq!(
        all["sessions"].as_array().map(Vec::len),
        Some(clients.len())
    );
    drop(readers);
}

#[test]
fn without_requests_the_status_port_causes_no_wake_up() {
    let (asked, status) = start(&[]);
    let (never_asked, _) = start(&[]);
    json(status);
    // The connection closes at once. The context switches show whether the servers sleep,
    // for longer than any timer of a second or two.
    let switches = || [&asked, &never_asked].map(|it| it.status("voluntary_ctxt_switches"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = switches();
        thread::sleep(Duration::from_millis(3200));
        if switches() == before {
            break;
        }
        assert!(Instant::now() < deadline, "they never sleep");
    }
}

#[test]
fn a_unix_socket_is_replaced_if_nobody_answers_and_removed_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("status");
    drop(UnixListener::bind(&path).expect("a socket"));
    let place = path.to_str().expect("text");
    let mut server = Server::start(&["--status", place]);
    let mut stream = UnixStream::connect(&path).expect("a connection");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: anything\r\n\r\n")
        .expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("\r\n\r\nserving\n"), "{answer}");
    // A socket that is in use stays, and so does anything that isn't a socket.
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("a file");
    for (taken, said) in [(&path, "stop the server"), (&file, "it is no socket")] {
        let output = Command::new(tftpd())
            .args(["-p", "0", "--status"])
            .arg(taken)
            .arg(dir.path())
            .output()
            .expect("tftpd");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{text}");
    }
    assert_eq!(fs::read(&file).expect("a file"), b"mine");
    assert!(
        path.symlink_metadata()
            .expect("it is there")
            .file_type()
            .is_socket()
    );
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("it ends");
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_belongs_to_the_user_that_the_server_becomes() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can become another user");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("status");
    let place = path.to_str().expect("text");
    let server = Server::start(&["-u", "12345:54321", "--status", place]);
    server.fence();
    let socket = path.symlink_metadata().expect("it is there");
    assert_eq!((socket.uid(), socket.gid()), (12345, 54321));
}

#[test]
fn an_address_of_another_machine_is_reported_in_one_line() {
    let output = bounded(10, tftpd())
        .args(["-p", "0", "--status", "192.0.2.9:8069"])
        .output()
        .expect("timeout(1)");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), told.lines().count()),
        (Some(1), 1),
        "{told}"
    );
    assert!(told.contains("give an address of this machine"), "{told}");
}

/// A server that is given this socket by the service manager.
fn start_with_stream(listener: impl Into<std::os::fd::OwnedFd>) -> Server {
    let handed = [Stdio::from(listener.into()), Stdio::null()];
    Server::start_handed(handed, &["-a", "127.0.0.1"], |_| {
        let mut shell = Command::new("sh");
        let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        shell.args(["-c", script, tftpd()]);
        shell
    })
}

#[test]
fn unix_sockets_of_the_service_managers_are_status_ports() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("status");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut server = start_with_stream(listener);
    let mut stream = UnixStream::connect(&path).expect("a connection");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: anything\r\n\r\n")
        .expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("\r\n\r\nserving\n"), "{answer}");
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("it ends");
    assert!(path.exists(), "it is the service manager's");
}

#[test]
fn a_socket_of_the_service_managers_is_the_status_port() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let status = listener.local_addr().expect("an address");
    let server = start_with_stream(listener);
    assert_eq!(get(status, "/healthz"), "serving\n");
    server.fence();
}

#[test]
fn tftpd_status_prints_lines_or_json_or_that_nobody_answers() {
    let (server, status) = start(&[]);
    server.file("f", &content(1, 10_000));
    let client = RawClient::new(&server);
    client.ask(&rrq("f", &[]));
    let run = |words: &[&str]| {
        let output = Command::new(tftpd())
            .arg("status")
            .args(words)
            .output()
            .expect("tftpd");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8(text).expect("UTF-8"),
        )
    };
    let place = status.to_string();
    let (code, text) = run(&[&place]);
    let peer = client.addr();
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("session peer={peer} op=read file=\"f\"")),
        "{text}"
    );
    // As the log names it.
    let (code, text) = run(&[&format!("http://{place}/")]);
    assert!(code == Some(0) && text.contains("session peer="), "{text}");
    let (code, text) = run(&["--json", &place]);
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &all["sessions"][0]["file"]), (Some(0), &"f".into()));
    for (words, said) in [
        (&["127.0.0.1:1"][..], "is tftpd running"),
        (&["/no/socket"], "/no/socket"),
    ] {
        let (code, text) = run(words);
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(said), "{text}");
    }
}
