//! A helper, another program beside the server: what it is told, what it is asked, and
//! what a slow, dead, lying or flooding one can do.
#![allow(clippy::disallowed_methods, reason = "a test stands outside the loops")]

mod common;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

/// A helper played by the test, over a socket.
struct Played {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Played {
    fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().expect("the server connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self {
            lines: BufReader::new(stream.try_clone().expect("a descriptor")),
            stream,
        }
    }

    /// The next line.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["v"], 1, "{line}");
        value
    }

    /// The next question: its number, and all of it.
    fn question(&mut self) -> (u64, Value) {
        loop {
            let value = self.next();
            if let Some(number) = value["question"].as_u64() {
                return (number, value);
            }
        }
    }

    /// The next event of this kind.
    fn event(&mut self, kind: &str) -> Value {
        loop {
            let value = self.next();
            if value["event"] == kind {
                return value;
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).expect("a server");
        self.stream.write_all(b"\n").expect("a server");
    }

    fn answer(&mut self, number: u64, rest: &str) {
        self.say(&format!(r#"{{"v":1,"answer":{number}{rest}}}"#));
    }

    fn answer_with(&mut self, number: u64, file: &OwnedFd) {
        let line = format!("{{\"v\":1,\"answer\":{number},\"descriptor\":true}}\n");
        let descriptors = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let parts = [IoSlice::new(line.as_bytes())];
        let flags = MsgFlags::empty();
        sendmsg::<()>(self.stream.as_raw_fd(), &parts, &rights, flags, None).expect("a server");
    }
}

fn memfd(content: &[u8]) -> OwnedFd {
    let name = CString::new("generated").expect("no NUL");
    let file = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let mut file = File::from(file);
    file.write_all(content).expect("memory");
    file.into()
}

/// A server with a helper played by the test.
fn start(args: &[&str]) -> (Server, Played, UnixListener) {
    let mut listener = None;
    let address = own_address().to_string();
    let all: Vec<_> = ["-a", &address].iter().chain(args).copied().collect();
    let server = Server::start_prepared(&all, |dir| {
        let path = dir.join("helper.sock");
        listener = Some(UnixListener::bind(&path).expect("a socket"));
        let mut command = Command::new(tftpd());
        command.arg("--helper-socket").arg(path);
        command
    });
    let listener = listener.expect("a socket");
    let helper = Played::accept(&listener);
    (server, helper, listener)
}

/// A server that starts its helper with a command.
fn start_command(command: &str, args: &[&str]) -> Server {
    let address = own_address().to_string();
    let mut all = vec!["-a", &address, "--helper", command];
    all.extend(args);
    Server::start_bare(&all)
}

#[test]
fn a_helper_names_a_path_an_open_file_an_upload_or_a_refusal() {
    let asks = ["--ask", "gen/**", "--ask-missing", "--ask-timeout", "60s"];
    let (server, mut helper, _listener) = start(&[&asks[..], &NEVER].concat());
    server.file("real", b"real");
    server.file("plain", b"plain");
    let client = RawClient::new(&server);
    // Names that match no pattern aren't asked about.
    assert_eq!(client.read("plain"), Ok(b"plain".to_vec()));
    let ended = helper.event("ended");
    assert_eq!(
        (&ended["file"], ended.get("served")),
        (&"plain".into(), None)
    );

    let options = [("blksize", "600"), ("tsize", "0")];
    let request = rrq("gen/a", &options);
    client.send(&request);
    let (number, question) = helper.question();
    assert_eq!(question["file"], "gen/a");
    assert_eq!(question["op"], "read");
    assert_eq!(question["mode"], "octet");
    assert_eq!(question["options"]["blksize"], "600");
    assert_eq!(question["peer"], client.addr().to_string());
    helper.answer(number, r#","path":"real""#);
    let (oack, tid) = client.expect();
    let told = [("blksize", "600"), ("tsize", "4")].map(|(a, b)| (a.into(), b.into()));
    assert_eq!(oack, Packet::Oack(told.to_vec()));
    assert_eq!(client.say(&ack(0), tid), Packet::Data(1, b"real".to_vec()));
    client.send_to(&ack(1), tid);
    let ended = helper.event("ended");
    assert_eq!(
        (&ended["file"], &ended["served"], &ended["outcome"]),
        (&"gen/a".into(), &"real".into(), &"completed".into())
    );

    // An open file without a name, for a name that doesn't exist.
    let generated = content(3, 3000);
    let client = RawClient::new(&server);
    client.send(&rrq("none", &[]));
    let (number, _) = helper.question();
    helper.answer_with(number, &memfd(&generated));
    let (first, tid) = client.expect();
    assert_eq!(first, Packet::Data(1, generated[..512].to_vec()));
    for block in 1..6u16 {
        let from = usize::from(block) * 512;
        let wanted = generated[from..generated.len().min(from + 512)].to_vec();
        assert_eq!(
            client.say(&ack(block), tid),
            Packet::Data(block + 1, wanted)
        );
    }
    client.send_to(&ack(6), tid);

    let refused = |rest: &str, helper: &mut Played| {
        let client = RawClient::new(&server);
        client.send(&rrq("gen/x", &[]));
        let (number, _) = helper.question();
        helper.answer(number, rest);
        client.expect().0
    };
    let answer = refused(r#","refuse":"Not on a Sunday","code":1"#, &mut helper);
    assert_eq!(answer, Packet::Error(1, "Not on a Sunday".to_owned()));
    let event = helper.event("refused");
    assert_eq!(
        (&event["file"], &event["reason"]),
        (&"gen/x".into(), &"Not on a Sunday".into())
    );
    assert_eq!(
        refused("", &mut helper).error_code(),
        Some(1),
        "as without a helper"
    );

    // An upload under another name.
    let client = RawClient::new(&server);
    client.send(&wrq("gen/up", &[]));
    let (number, question) = helper.question();
    assert_eq!(question["op"], "write");
    helper.answer(number, r#","path":"stored""#);
    let (answer, tid) = client.expect();
    assert_eq!(answer, Packet::Ack(0));
    assert_eq!(client.say(&data(1, b"up"), tid), Packet::Ack(1));
    assert_eq!(fs::read(server.root().join("stored")).unwrap(), b"up");
}

/// While the loop busily polls for one client, it looks at that session only; events for
/// a helper must not wait until another client comes.
#[test]
fn a_helper_is_told_at_once_of_the_end_of_a_busily_polled_transfer() {
    let (server, mut helper, _listener) = start(&["--busy-poll", "1000"]);
    server.file("large", &content(7, 1 << 20));
    let told = std::thread::spawn(move || {
        for _ in 0..5 {
            helper.event("ended");
        }
    });
    for _ in 0..5 {
        RawClient::new(&server).read("large").expect("it is served");
    }
    told.join().expect("it is told in time");
}

/// No answer of a helper leads out of ROOT, or to anything but a file.
#[test]
fn a_lying_helper_gets_nothing_served_that_may_not_be() {
    let (server, mut helper, _listener) = start(&["--ask", "**", "--read-only"]);
    std::os::unix::fs::symlink("/etc/passwd", server.root().join("out")).unwrap();
    server.file("f", b"f");
    fs::write(server.outside().join("secret"), "secret").unwrap();
    let ask = |name: &str, helper: &mut Played| {
        let client = RawClient::new(&server);
        client.send(&rrq(name, &[]));
        (client, helper.question().0)
    };
    for path in [
        "../secret",
        "/etc/passwd",
        "out",
        "..",
        "",
        "x\\u0000y",
        "/proc/self/environ",
    ] {
        let (client, number) = ask("f", &mut helper);
        helper.answer(number, &format!(r#","path":"{path}""#));
        let (answer, _) = client.expect();
        assert!(
            matches!(answer.error_code(), Some(1 | 2)),
            "{path}: {answer:?}"
        );
    }
    // No regular file, no descriptor, one too many, one for an upload.
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let directory: OwnedFd = File::open("/").unwrap().into();
    for file in [&pipe, &null, &directory] {
        let (client, number) = ask("f", &mut helper);
        helper.answer_with(number, file);
        assert_eq!(client.expect().0.error_code(), Some(2));
    }
    let (client, number) = ask("f", &mut helper);
    helper.answer(number, r#","descriptor":true"#);
    assert_eq!(
        client.expect().0,
        Packet::Data(1, b"f".to_vec()),
        "as without it"
    );
    let uploader = RawClient::new(&server);
    uploader.send(&wrq("new", &[]));
    let (number, _) = helper.question();
    helper.answer_with(number, &memfd(b"x"));
    assert_eq!(uploader.expect().0.error_code(), Some(0));
    // Answers to questions that nobody asked, twice, and lines that are no answer.
    let descriptors = server.open_files();
    for line in [
        r#"{"v":1,"answer":999999,"path":"f"}"#,
        r#"{"v":9}"#,
        "nonsense",
        "",
        "\u{0}\u{1}",
        r#"{"v":1,"answer":1,"path":"f"}"#,
    ] {
        helper.say(line);
    }
    for _ in 0..100 {
        helper.answer_with(7_777_777, &memfd(b"leak"));
    }
    let (client, number) = ask("f", &mut helper);
    helper.answer(number, "");
    assert_eq!(client.expect().0, Packet::Data(1, b"f".to_vec()));
    let told = |line: &str| line.contains("makes no sense");
    assert!(server.wait_for_log(told, PATIENCE).is_some());
    let leaked = server.open_files().saturating_sub(descriptors);
    assert!(leaked <= 20, "{leaked} descriptors");
}

/// The helper opens files with its own rights, and doesn't know what may be read.
#[test]
#[cfg(feature = "uploads")]
fn where_nothing_can_be_read_a_helpers_open_file_cannot_either() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let elsewhere = elsewhere.path().to_str().expect("text");
    for (args, is_served) in [
        (&["--ask", "**", "--write-only"][..], false),
        // What isn't there can be read.
        (
            &["--ask", "**", "--write-only", "--upload-root", elsewhere],
            true,
        ),
    ] {
        let (server, mut helper, _listener) = start(args);
        let client = RawClient::new(&server);
        client.send(&rrq("f", &[]));
        let (number, _) = helper.question();
        helper.answer_with(number, &memfd(b"secret"));
        let (answer, tid) = client.expect();
        if is_served {
            assert_eq!(answer, Packet::Data(1, b"secret".to_vec()), "{args:?}");
            client.send_to(&ack(1), tid);
        } else {
            assert_eq!(answer.error_code(), Some(2), "{args:?}: {answer:?}");
        }
    }
}

/// Processor time that the server has taken.
fn processor_time(server: &Server) -> Duration {
    let clock = clock_getcpuclockid(server.pid()).expect("it lives");
    clock_gettime(clock).expect("a clock").into()
}

#[test]
fn an_idle_exit_waits_for_the_answer_of_a_slow_helper() {
    let args = ["--ask", "**", "--ask-timeout", "60s", "--idle-exit", "1"];
    let (mut server, mut helper, _listener) = start(&args);
    server.file("f", b"f");
    let client = RawClient::new(&server);
    client.send(&rrq("slow", &[]));
    let (number, _) = helper.question();
    let before = processor_time(&server);
    assert!(server.wait_exit(millis(2500)).is_none(), "it has ended");
    let took = processor_time(&server).saturating_sub(before);
    assert!(took < millis(500), "{took:?} awake");
    helper.answer(number, r#","path":"f""#);
    let (answer, tid) = client.expect();
    assert_eq!(answer, Packet::Data(1, b"f".to_vec()));
    client.send_to(&ack(1), tid);
    assert!(server.wait_exit(PATIENCE).is_some(), "it stays");
}

#[test]
fn an_idle_exit_counts_from_the_end_of_a_question() {
    let args = ["--ask", "*", "--ask-timeout", "2s", "--idle-exit", "1"];
    let (mut server, mut helper, _listener) = start(&args);
    server.file("f", b"f");
    let client = RawClient::new(&server);
    client.send(&rrq("slow", &[]));
    helper.question();
    let (answer, _) = client.expect();
    assert!(matches!(answer, Packet::Error(..)), "{answer:?}");
    assert!(server.wait_exit(millis(500)).is_none(), "it has ended");
    assert!(server.wait_exit(PATIENCE).is_some(), "it stays");
}

/// A worker's supervisor blocks signals, and so does the worker.
#[test]
#[cfg(feature = "workers")]
fn a_helper_inherits_no_blocked_signal() {
    for args in [&[][..], &["--workers", "1"]] {
        let address = own_address().to_string();
        let all = [&["-a", &address], args].concat();
        let server = Server::start_prepared(&all, |directory| {
            let mask = directory.join("mask");
            let mask = mask.display();
            let script =
                format!("grep SigBlk /proc/self/status >{mask}.new; mv {mask}.new {mask}; cat");
            let mut command = Command::new(tftpd());
            command.args(["--helper", &script]);
            command
        });
        let path = server.outside().join("mask");
        let deadline = Instant::now() + PATIENCE;
        while !path.exists() && Instant::now() < deadline {
            thread::sleep(millis(10));
        }
        let mask = fs::read_to_string(path).expect("a helper");
        assert_eq!(mask, "SigBlk:\t0000000000000000\n", "{args:?}");
    }
}

/// A helper that waits with `select` can't use descriptors above 1023.
#[test]
#[cfg(feature = "workers")]
fn a_helper_may_open_as_many_files_as_the_server_was_started_with() {
    for (args, upgrades, soft, hard) in [
        (&[][..], 0, "200", "300"),
        (&["--workers", "2"], 0, "200", "300"),
        (&["--workers", "1"], 1, "200", "300"),
        // The supervisor holds more files than that, and can start a worker only with its
        // own limit.
        (&["--workers", "16"], 0, "24", "4096"),
    ] {
        let address = own_address().to_string();
        let all = [&["-a", &address], args].concat();
        let limit = format!("--nofile={soft}:{hard}");
        let line = format!("{soft} {hard}\n");
        let server = Server::start_prepared(&all, |directory| {
            let limits = directory.join("limits");
            let script = format!(
                "echo $(ulimit -Sn) $(ulimit -Hn) >>{}; cat",
                limits.display()
            );
            let mut command = Command::new("prlimit");
            command.args([&limit, tftpd(), "--helper", &script]);
            command
        });
        let path = server.outside().join("limits");
        let helpers = args.get(1).map_or(1, |it| it.parse().expect("a number"));
        let limits = |count: usize| {
            let deadline = Instant::now() + PATIENCE;
            let read = || fs::read_to_string(&path).unwrap_or_default();
            while read().lines().count() < count && Instant::now() < deadline {
                thread::sleep(millis(10));
            }
            read()
        };
        assert_eq!(limits(helpers), line.repeat(helpers), "{args:?}");
        if upgrades > 0 {
            assert!(server.wait_for_lines("serving with ", 1));
            server.signal(Signal::SIGUSR2);
            assert_eq!(limits(helpers + 1), line.repeat(helpers + 1), "{args:?}");
        }
        // The server itself uses all that it may.
        let own = server.pid();
        let own = fs::read_to_string(format!("/proc/{own}/limits")).expect("a process");
        let own = own.lines().find(|it| it.starts_with("Max open files"));
        let words: Vec<_> = own.expect("a line").split_whitespace().collect();
        assert_eq!(words[3..5], [hard, hard], "{args:?}");
    }
}

/// A client that asks again from another port, as many do, never answers the first.
#[test]
fn a_client_that_gave_up_on_a_slow_helper_is_not_taken_for_one_behind_a_firewall() {
    let asks = ["--ask", "slow/**", "--ask-timeout", "20s"];
    let (server, mut helper, _listener) =
        start(&[&asks[..], &["-t", "50", "--retries", "1"]].concat());
    server.file("slow/f", b"f");
    server.file("f", b"f");
    for (name, is_asked, hint) in [
        (
            "slow/f",
            true,
            "asked again from another port, while the helper",
        ),
        ("f", false, "no answer ever came: does a firewall"),
    ] {
        let client = RawClient::new(&server);
        client.send(&rrq(name, &[("blksize", "1000")]));
        if is_asked {
            let (number, _) = helper.question();
            thread::sleep(millis(300));
            helper.answer(number, "");
        }
        assert!(matches!(client.expect().0, Packet::Oack(_)));
        let told =
            |line: &str| line.contains(&format!("file=\"{name}\"")) && line.contains("hint=");
        let line = server.wait_for_log(told, PATIENCE);
        assert!(
            line.as_ref().is_some_and(|it| it.contains(hint)),
            "{name}: {line:?}"
        );
    }
}

#[test]
fn a_slow_helper_delays_only_those_it_is_asked_about_and_is_asked_once() {
    let (server, mut helper, _listener) = start(&["--ask", "slow/**", "--ask-timeout", "400"]);
    server.file("slow/f", b"slow");
    server.file("f", b"f");
    let slow = RawClient::new(&server);
    let began = std::time::Instant::now();
    // The retransmits of an impatient client.
    for _ in 0..5 {
        slow.send(&rrq("slow/f", &[]));
    }
    let (number, _) = helper.question();
    assert_eq!(RawClient::new(&server).read("f"), Ok(b"f".to_vec()));
    // After the timeout the request is served as without a helper.
    assert_eq!(slow.expect().0, Packet::Data(1, b"slow".to_vec()));
    assert!(began.elapsed() >= millis(400));
    // The late answer changes nothing, and nothing is asked twice.
    helper.answer(number, r#","refuse":"late""#);
    let other = RawClient::new(&server);
    other.send(&rrq("slow/g", &[]));
    let (number, question) = helper.question();
    assert_eq!(question["file"], "slow/g");
    helper.answer(number, r#","path":"f""#);
    assert_eq!(other.expect().0, Packet::Data(1, b"f".to_vec()));
    // More questions than may wait: some are dropped, other clients aren't affected.
    let many: Vec<_> = (0..140).map(|_| RawClient::new(&server)).collect();
    for client in &many {
        client.send(&rrq("slow/f", &[]));
    }
    assert_eq!(RawClient::new(&server).read("f"), Ok(b"f".to_vec()));
    let told = |line: &str| line.contains("too many questions");
    assert!(server.wait_for_log(told, PATIENCE).is_some());
}

#[test]
fn without_its_helper_the_server_goes_on_and_reconnects_each_second() {
    let (server, mut helper, listener) = start(&["--ask", "f", "--ask-timeout", "60s"]);
    server.file("f", b"f");
    let client = RawClient::new(&server);
    client.send(&rrq("f", &[]));
    helper.question();
    drop(helper);
    // Nobody will answer: the request is served at once, and so are others.
    assert_eq!(client.expect().0, Packet::Data(1, b"f".to_vec()));
    assert_eq!(RawClient::new(&server).read("f"), Ok(b"f".to_vec()));
    let mut helper = Played::accept(&listener);
    let client = RawClient::new(&server);
    client.send(&rrq("f", &[]));
    let (number, _) = helper.question();
    helper.answer(number, r#","refuse":"back""#);
    assert_eq!(client.expect().0.error_code(), Some(2));
}

#[test]
fn a_flooding_helper_that_reads_nothing_costs_bounded_memory_and_no_service() {
    let (server, mut helper, _listener) = start(&[]);
    server.file("f", b"f");
    let before = server.status("VmRSS");
    helper.stream.set_nonblocking(true).unwrap();
    let flood = vec![b'x'; 1 << 20];
    let mut sent = 0;
    for _ in 0..50 {
        // The helper reads no event, and writes one endless line.
        sent += helper.stream.write(&flood).unwrap_or(0);
        let client = RawClient::new(&server);
        assert_eq!(client.read("f"), Ok(b"f".to_vec()));
        for _ in 0..50 {
            client.send(&rrq("no-such-file", &[]));
        }
        for _ in 0..50 {
            assert_eq!(client.expect().0.error_code(), Some(1));
        }
    }
    assert!(sent > 1 << 20, "{sent}");
    let grown = server.status("VmRSS").saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    // When it reads at last, it is told how much was left out.
    helper.stream.set_nonblocking(false).unwrap();
    let reader = RawClient::new(&server);
    let mut left_out = None;
    while left_out.is_none() {
        let event = helper.next();
        if event["event"] == "left_out" {
            left_out = event["lines"].as_u64();
        }
        reader.send(&rrq("no-such-file", &[]));
    }
    assert!(left_out.unwrap() > 0);
}

/// The helper ends in the middle of a line; the server starts it again, and asks again.
#[test]
fn a_child_that_ends_is_started_again_and_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let command = format!(
        r#"echo started >> {starts}; read line
        test "$(wc -l < {starts})" -gt 1 || {{ printf '{{"v":1,"ans'; exit 1; }}
        n=${{line#*\"question\":}}; n=${{n%%,*}}
        printf '{{"v":1,"answer":%s,"path":"f"}}\n' "$n"; cat > /dev/null"#,
        starts = starts.display()
    );
    let mut server = start_command(&command, &["--ask", "g", "--ask-timeout", "60s"]);
    server.file("f", b"f");
    let client = RawClient::new(&server);
    client.send(&rrq("g", &[]));
    let (first, tid) = client.expect();
    assert_eq!(first, Packet::Data(1, b"f".to_vec()));
    client.send_to(&ack(1), tid);
    server.wait_ended(client.addr(), 1);
    let text = fs::read_to_string(&starts).unwrap();
    assert_eq!(text.lines().count(), 2);
    let is_told = |line: &str| {
        line.contains("the helper \"echo started >> ")
            && line.contains("\" ended with exit status 1; it is started again")
    };
    assert!(server.wait_for_log(is_told, PATIENCE).is_some());
    // The helper ends with the server.
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", server.pid());
        let children = fs::read_to_string(path).unwrap_or_default();
        let pids: Vec<PathBuf> = children
            .split_whitespace()
            .map(|pid| PathBuf::from(format!("/proc/{pid}")))
            .collect();
        pids
    };
    let shell = children();
    assert_eq!(shell.len(), 1);
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("an end");
    let deadline = std::time::Instant::now() + PATIENCE;
    let lives = |it: &PathBuf| {
        let stat = fs::read_to_string(it.join("stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z")
    };
    while shell.iter().any(lives) {
        assert!(std::time::Instant::now() < deadline, "the shell lives on");
        std::thread::sleep(millis(20));
    }
}

/// A missing command is reported in one line. A signal to the whole process group ends
/// the helper as well, and that is no error.
#[test]
fn a_command_that_is_missing_is_explained_and_one_that_ends_with_the_server_is_not() {
    let server = start_command("no-such-command-here", &[]);
    let is_told = |line: &str| line.contains("exit status 127, command not found; it is tried");
    assert!(server.wait_for_log(is_told, PATIENCE).is_some());
    // The shell that starts it again ends soon after the server.
    let pid = server.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("a list");
    let shell = Path::new("/proc").join(children.trim()).join("cwd");
    assert!(shell.read_link().is_ok(), "{children}");
    server.signal(Signal::SIGKILL);
    let killed = Instant::now();
    while shell.read_link().is_ok() {
        assert!(killed.elapsed() < millis(6000), "it is still there");
        thread::sleep(millis(50));
    }

    let address = own_address().to_string();
    // A transfer keeps the server up for longer than it waits to report a lost helper.
    let args = [
        "-a",
        &address,
        "--helper",
        "cat > /dev/null",
        "--grace",
        "1500ms",
    ];
    let mut server = Server::start_prepared(&args, |_| {
        let mut command = Command::new(tftpd());
        command.process_group(0);
        command
    });
    server.file("f", &[0; 5000]);
    let client = RawClient::new(&server);
    client.ask_data(&rrq("f", &[]));
    let group = Pid::from_raw(-server.pid().as_raw());
    kill(group, Signal::SIGTERM).expect("a group of ours");
    server.wait_exit(PATIENCE).expect("an end");
    let lines = server.log_lines();
    assert!(lines.iter().any(|it| it.contains("stopping")), "{lines:#?}");
    // The first line names the options.
    let mut later = lines.iter().filter(|it| !it.contains("listening on"));
    assert!(!later.any(|it| it.contains("helper")), "{lines:#?}");
}

#[test]
fn helpers_that_cannot_be_used_end_the_start_in_one_line() {
    for (args, word) in [
        (&["--ask", "x"][..], "nobody to ask"),
        (&["--helper", "true", "--ask", "../x"], "--ask"),
        (&["--helper", "true", "--helper-socket", "/x"], "--helper"),
    ] {
        let output = bounded(10, tftpd())
            .args(["-p", "0"])
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(word), "{told}");
    }
}

/// The path of a helper in `scripts/helpers`.
fn shipped(name: &str) -> String {
    format!("{}/scripts/helpers/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An HTTP server with one file. Counts how many times the file was sent, and how many
/// times "not modified" was answered.
fn http_server(file: Arc<Vec<u8>>) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = Arc::clone(&counts);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
            let head = lines.by_ref().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let is_there = head[0].starts_with("GET /pub/image ");
            let is_known = head.iter().any(|line| line.contains("\"tag\""));
            let reply = match (is_there, is_known) {
                (false, _) => "404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
                (_, true) => "304 Not Modified\r\n\r\n".to_owned(),
                _ => format!(
                    "200 OK\r\nETag: \"tag\"\r\nContent-Length: {}\r\n\r\n",
                    file.len()
                ),
            };
            let _ = stream.write_all(format!("HTTP/1.0 {reply}").as_bytes());
            if is_there {
                counted[usize::from(is_known)].fetch_add(1, Ordering::SeqCst);
                if !is_known {
                    let _ = stream.write_all(&file);
                }
            }
        }
    });
    (address, counts)
}

#[test]
fn tftp_http_fetches_an_image_once_for_a_hundred_clients() {
    if require("python3").is_none() {
        return;
    }
    let image = Arc::new(content(11, 64 << 20));
    let (address, counts) = http_server(Arc::clone(&image));
    let count = |which: usize| counts[which].load(Ordering::SeqCst);
    let command = format!(
        "{} --fresh 0 web=http://{address}/pub",
        shipped("tftp-http")
    );
    let args = [
        "--ask",
        "web/**",
        "--ask-timeout",
        "60s",
        "--max-windowsize",
        "64",
    ];
    let server = start_command(&command, &[&args[..], &NEVER].concat());
    assert_eq!(
        RawClient::new(&server).read("web/none").map_err(|it| it.0),
        Err(1)
    );
    let request = rrq("web/image", &[("blksize", "65464"), ("tsize", "0")]);
    // All ask at once for the beginning; one takes the whole file.
    let clients: Vec<_> = (0..100).map(|_| RawClient::new(&server)).collect();
    for client in &clients {
        client.send(&request);
    }
    for client in &clients {
        let (oack, tid) = client.expect();
        let Packet::Oack(options) = oack else {
            panic!("{oack:?}");
        };
        assert!(options.contains(&("tsize".to_owned(), image.len().to_string())));
        assert_eq!(
            client.say(&ack(0), tid),
            Packet::Data(1, image[..65464].to_vec())
        );
        client.send_to(&error(0, "enough"), tid);
    }
    assert_eq!(count(0), 1);
    let got = RawClient::new(&server).read_with(&request, 65464, 1, 0);
    assert_same("the image", &got.unwrap(), &image);
    assert_eq!(count(0), 1);
    assert!(count(1) > 0, "asked for again by its ETag");
}

/// A server whose uploads tftp-git commits, and the repository. `None` where a program is
/// missing.
fn with_tftp_git() -> Option<(Server, PathBuf)> {
    require("git")?;
    require("python3")?;
    let address = own_address().to_string();
    let server = Server::start_prepared(&["-a", &address, "--overwrite"], |dir| {
        let (root, history) = (dir.join("root"), dir.join("history"));
        let program = shipped("tftp-git");
        let mut command = Command::new(tftpd());
        let helper = format!("{program} {} {}", root.display(), history.display());
        command.arg("--helper").arg(helper);
        command
    });
    let repository = server.outside().join("history");
    Some((server, repository))
}

/// What git says about a repository.
fn git(repository: &Path, words: &[&str]) -> Vec<u8> {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(repository).args(words);
    command.output().expect("git").stdout
}

/// Events carry names as the log shows them.
#[test]
fn tftp_git_commits_uploads_whatever_their_names() {
    let Some((server, repository)) = with_tftp_git() else {
        return;
    };
    let names = [
        &b"plain.cfg"[..],
        b"a name",
        b"q\"uote's",
        "größe".as_bytes(),
        b"\xff.cfg",
        b"\\x41",
    ];
    let client = RawClient::new(&server);
    for name in names {
        let request = request(2, name, "octet", &[]);
        assert_eq!(client.write_with(&request, b"text", BLOCK, 1, 0), Ok(()));
    }
    // A backslash counts as a slash.
    let stored = names.map(|name| if name == b"\\x41" { b"x41" } else { name });
    let mut expected = stored.map(|name| [name, b"\0"].concat());
    expected.sort();
    let deadline = std::time::Instant::now() + 4 * PATIENCE;
    loop {
        let committed = git(&repository, &["ls-tree", "-r", "-z", "--name-only", "main"]);
        if committed == expected.concat() {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{}: {:#?}",
            String::from_utf8_lossy(&committed),
            server.log_lines()
        );
        std::thread::sleep(millis(50));
    }
}

#[test]
fn tftp_git_commits_the_uploads_of_fifty_switches_in_three_nights() {
    let Some((mut server, repository)) = with_tftp_git() else {
        return;
    };
    let switch = |number: u8| RawClient::at(Ipv4Addr::new(127, 9, 0, number), server.addr());
    let git = |words: &[&str]| String::from_utf8(git(&repository, words)).expect("UTF-8");
    for night in 0..3 {
        for number in 1..=50 {
            let name = format!("switch{number}.cfg");
            let config = format!("hostname {number}\nnight {night}\n").repeat(40);
            // Two uploads break off in the middle.
            if night == 1 && number <= 2 {
                let client = switch(number);
                let (_, tid) = client.ask(&wrq(&name, &[]));
                client.say(&data(1, &config.as_bytes()[..512]), tid);
                client.send_to(&error(0, "broke off"), tid);
                continue;
            }
            assert_eq!(switch(number).write(&name, config.as_bytes()), Ok(()));
        }
        // All commits are there before the next night.
        let deadline = std::time::Instant::now() + 4 * PATIENCE;
        let commits = ["50", "98", "148"][night];
        while git(&["rev-list", "--count", "main"]).trim() != commits {
            assert!(
                std::time::Instant::now() < deadline,
                "{}",
                git(&["log", "--oneline"])
            );
            std::thread::sleep(millis(50));
        }
    }
    for (number, nights) in [(1, "2 0"), (2, "2 0"), (3, "2 1 0"), (50, "2 1 0")] {
        let name = format!("switch{number}.cfg");
        let log = git(&["log", "--format=%an", "main", "--", &name]);
        let author = format!("127.9.0.{number}");
        assert!(log.lines().all(|line| line == author), "{log}");
        let versions: Vec<_> = git(&["log", "--format=%H", "main", "--", &name])
            .lines()
            .map(|commit| git(&["show", &format!("{commit}:{name}")]))
            .map(|text| text.lines().nth(1).expect("a line")[6..].to_owned())
            .collect();
        assert_eq!(versions.join(" "), nights, "{name}");
    }
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("an end");
}
