//! Several processes on one port (`--workers`): that they are restarted, stopped and
//! replaced, and that clients notice none of it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test measures time and is several clients at once"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use nix::unistd::{Pid, geteuid};

/// A server with this many workers, all ready.
fn start(workers: &str, args: &[&str]) -> Server {
    let server = Server::start(&[&["--workers", workers], &NEVER[..], args].concat());
    wait_up(&server, 1);
    server
}

fn count_lines(server: &Server, text: &str) -> usize {
    let lines = server.log_lines();
    lines.iter().filter(|line| line.contains(text)).count()
}

/// Waits until this many lines contain the text.
#[track_caller]
fn wait_lines(server: &Server, text: &str, count: usize) {
    let seen = server.wait_for_lines(text, count);
    assert!(seen, "{count} times {text:?}: {:#?}", server.log_lines());
}

/// Waits until all processes have been ready for the nth time.
#[track_caller]
fn wait_up(server: &Server, nth: usize) {
    wait_lines(server, "serving with ", nth);
}

/// Replaces all processes; afterwards all are ready for the nth time.
#[track_caller]
fn upgrade(server: &Server, nth: usize) {
    server.signal(Signal::SIGUSR2);
    wait_up(server, nth);
}

/// The pid that was ready last, for each worker's number.
fn workers(server: &Server) -> BTreeMap<usize, Pid> {
    let ready = |line: &String| {
        let (number, rest) = line.split_once("worker ")?.1.split_once(": process ")?;
        let pid = rest.strip_suffix(" is ready")?.parse().ok()?;
        Some((number.parse().ok()?, Pid::from_raw(pid)))
    };
    server.log_lines().iter().filter_map(ready).collect()
}

/// Kills a worker and waits until another is ready.
fn kill_worker(server: &Server, number: usize) {
    let ready = format!("worker {number}: process ");
    let before = count_lines(server, &ready);
    kill(workers(server)[&number], Signal::SIGKILL).expect("it lives");
    // One line for its end, one for its successor.
    wait_lines(server, &ready, before + 2);
}

fn clients(server: &Server, count: usize) -> Vec<RawClient> {
    (0..count).map(|_| RawClient::new(server)).collect()
}

#[test]
fn a_server_without_workers_says_that_sigusr2_cannot_upgrade_it() {
    for args in [&[][..], &["--log-format", "json"]] {
        let server = Server::start(args);
        server.signal(Signal::SIGUSR2);
        wait_lines(
            &server,
            "SIGUSR2 upgrades only a server started with --workers",
            1,
        );
        server.fence();
    }
    // A signal to the whole process group reaches workers too, who leave it to the
    // supervisor.
    let server = start("1", &[]);
    kill(workers(&server)[&1], Signal::SIGUSR2).expect("it lives");
    server.signal(Signal::SIGUSR1);
    wait_lines(&server, "counters ", 1);
    server.fence();
    assert_eq!(count_lines(&server, "SIGUSR2"), 0);
}

#[test]
fn as_many_workers_as_processors_may_be_used_are_started() {
    let count = thread::available_parallelism()
        .expect("a number")
        .get()
        .min(64);
    let server = start("auto", &[]);
    let told = server.log_lines();
    assert_eq!(workers(&server).len(), count, "{told:#?}");
}

// --- the log --------------------------------------------------------------------------

/// The pid of the process that wrote a line, and the line.
fn writer(line: &str) -> (Option<i32>, &str) {
    let process = if line.starts_with('{') {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object");
        object["process"].as_i64().and_then(|it| it.try_into().ok())
    } else {
        let word = line.split(' ').nth(1).unwrap_or_default();
        let number = word
            .strip_prefix("tftpd[")
            .and_then(|it| it.strip_suffix(']'));
        number.and_then(|it| it.parse().ok())
    };
    (process, line)
}

#[test]
fn each_line_tells_which_process_has_written_it() {
    for format in ["text", "json"] {
        let server = start("2", &["--log-format", format]);
        for number in 0..16 {
            RawClient::new(&server).ask(&rrq(&format!("missing{number}"), &[]));
        }
        wait_lines(&server, "missing", 16);
        let lines = server.log_lines();
        let lines: Vec<_> = lines.iter().map(|line| writer(line)).collect();
        let of = |text: &str| -> BTreeSet<_> {
            let lines = lines.iter().filter(|(_, line)| line.contains(text));
            lines
                .map(|(process, _)| process.expect("a process"))
                .collect()
        };
        let (workers, supervisor) = (of("listening on"), server.pid().as_raw());
        assert_eq!(workers.len(), 2, "{lines:#?}");
        assert_eq!(of("missing"), workers, "each has some of them");
        for line in ["is ready", "serving with"] {
            assert_eq!(of(line), BTreeSet::from([supervisor]), "{lines:#?}");
        }
        let told: BTreeSet<_> = lines.iter().map(|it| it.0).collect();
        assert_eq!(told.len(), 3, "{lines:#?}");
    }
    // A server with a single process doesn't name it.
    for format in ["text", "json"] {
        let server = Server::start(&["--log-format", format]);
        server.fence();
        assert!(
            server
                .log_lines()
                .iter()
                .all(|line| writer(line).0.is_none())
        );
    }
}

// --- which process a request belongs to -----------------------------------------------

#[test]
fn a_repeated_request_finds_its_session_after_a_kill_and_an_upgrade() {
    let server = start("2", &[]);
    server.file("f", &content(1, 2 * BLOCK + 7));
    let clients = clients(&server, 16);
    let request = rrq("f", &[]);
    let first: Vec<_> = clients.iter().map(|it| it.ask_data(&request).1).collect();
    kill_worker(&server, 1);
    // A repeated request that comes sooner is merged and not answered.
    thread::sleep(millis(110));
    let mut again = Vec::new();
    for (client, old) in clients.iter().zip(&first) {
        let (_, tid) = client.ask_data(&request);
        if tid != *old {
            // Its process has gone, and with it the transfer.
            client.send_to(&ack(1), *old);
        }
        again.push(tid);
    }
    let kept = first.iter().zip(&again).filter(|(a, b)| a == b).count();
    assert!((1..16).contains(&kept), "{kept} of 16");
    // Each client has one transfer: any other would answer now.
    server.fence();
    assert!(clients.iter().all(|it| it.recv_now().is_none()));

    upgrade(&server, 2);
    let old: BTreeSet<_> = again.iter().collect();
    thread::sleep(millis(110));
    for (client, tid) in clients.iter().zip(&again) {
        assert_eq!(client.ask_data(&request).1, *tid, "another transfer");
        assert_eq!(client.say(&ack(1), *tid).data_block(), Some(2));
        assert_eq!(client.say(&ack(2), *tid).data_block(), Some(3));
        client.send_to(&ack(3), *tid);
    }
    // The new processes serve once the old ones have finished.
    wait_lines(&server, "has finished", 2);
    assert_eq!(workers(&server).len(), 2);
    for client in &clients {
        assert!(!old.contains(&client.ask_data(&request).1));
    }
}

/// A client's packets to the one port reach the process of its transfer, even when
/// another process reads them there.
#[test]
fn uploads_in_single_port_survive_the_replacement_of_their_process() {
    let server = start("2", &["--single-port", "-B", "1024"]);
    let file = content(2, 3 * 1024 + 5);
    let clients = clients(&server, 8);
    let say = |at: usize| {
        for client in &clients {
            let block = file.chunks(1024).nth(at - 1).unwrap_or_default();
            client.send(&data(at as u16, block));
            assert_eq!(client.expect().0, Packet::Ack(at as u16), "block {at}");
        }
    };
    for (number, client) in clients.iter().enumerate() {
        let request = wrq(&format!("f{number}"), &[("blksize", "1024")]);
        assert!(matches!(client.ask(&request).0, Packet::Oack(_)));
    }
    // Three generations of processes, each with transfers of its own.
    for (at, nth) in [(1, 2), (2, 3)] {
        say(at);
        upgrade(&server, nth);
        let late = RawClient::new(&server);
        let request = wrq(&format!("late{nth}"), &[]);
        assert_eq!(late.ask(&request).0, Packet::Ack(0));
        say(at);
        assert_eq!(late.ask(&data(1, b"end")).0, Packet::Ack(1));
        kill(workers(&server)[&1], Signal::SIGKILL).expect("it lives");
    }
    for at in [3, 4] {
        say(at);
    }
    for number in 0..clients.len() {
        let got = fs::read(server.root().join(format!("f{number}"))).expect("a file");
        assert_same("an upload", &got, &file);
    }
}

/// What one process stores, the others count.
#[test]
#[cfg(feature = "uploads")]
fn all_uploads_together_have_one_limit_for_all_processes() {
    let server = start("2", &["--max-upload-total", "64M"]);
    let upload = |name: &str| RawClient::new(&server).write(name, b"x");
    // By now each process has counted what was there.
    for number in 0..20 {
        upload(&format!("early-{number}")).expect("there is room");
    }
    // As another process would store it.
    let large = fs::File::create(server.root().join("large")).expect("a file");
    large.set_len(64 << 20).expect("a large file");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let names = (0..20).map(|number| format!("late-{number}"));
        let stored: Vec<_> = names.filter(|name| upload(name).is_ok()).collect();
        if stored.is_empty() {
            return;
        }
        for name in stored {
            fs::remove_file(server.root().join(name)).expect("it was stored");
        }
        assert!(Instant::now() < deadline, "what others store isn't counted");
    }
}

/// The kernel spreads clients over all sockets, including those of a dead process.
#[test]
fn a_killed_process_leaves_the_uploads_of_the_others_alone() {
    let server = start("4", &["--single-port"]);
    let file = content(3, 2 * BLOCK + 3);
    let clients = clients(&server, 46);
    for (number, client) in clients.iter().enumerate() {
        let request = wrq(&format!("f{number}"), &[]);
        assert_eq!(client.ask(&request).0, Packet::Ack(0));
    }
    // The clients of the process that is to be killed get no answer any more.
    let victim = workers(&server)[&1];
    kill(victim, Signal::SIGSTOP).expect("it lives");
    for client in &clients {
        client.send(&data(1, &file[..BLOCK]));
    }
    let others: Vec<_> = (0..clients.len())
        .filter(|&number| clients[number].recv(millis(20)).is_some())
        .collect();
    assert!((10..46).contains(&others.len()), "{} of 46", others.len());
    kill_worker(&server, 1);
    for &number in &others {
        let client = &clients[number];
        for (at, block) in file.chunks(BLOCK).enumerate().skip(1) {
            client.send(&data(at as u16 + 1, block));
            assert_eq!(client.expect().0, Packet::Ack(at as u16 + 1), "{number}");
        }
        let got = fs::read(server.root().join(format!("f{number}"))).expect("a file");
        assert_same("an upload", &got, &file);
    }
}

// --- upgrades under load ----------------------------------------------------------------

/// Replaces all processes this many times while clients download that never retransmit.
fn upgrade_under_load(times: usize, args: &[&str]) {
    let server = start("2", args);
    let file = content(4, 2 * BLOCK + 9);
    server.file("f", &file);
    let (is_over, downloads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = server.addr();
    thread::scope(|scope| {
        let load = || {
            while !is_over.load(Ordering::Relaxed) {
                assert_same("a download", &download_once(address), &file);
                downloads.fetch_add(1, Ordering::Relaxed);
            }
        };
        let threads = [scope.spawn(load), scope.spawn(load), scope.spawn(load)];
        for nth in 0..times {
            let before = downloads.load(Ordering::Relaxed);
            upgrade(&server, nth + 2);
            // The new processes, too, are under load.
            let deadline = Instant::now() + PATIENCE;
            while downloads.load(Ordering::Relaxed) < before + 20 && Instant::now() < deadline {
                thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let failed = threads.into_iter().filter_map(|it| it.join().err()).count();
        assert_eq!(failed, 0, "clients that failed");
    });
    let downloads = downloads.into_inner();
    println!("{downloads} downloads, {times} upgrades, none failed");
    assert!(downloads >= 20 * times, "{downloads} downloads");
}

/// Sends every datagram once, so that any loss shows.
fn download_once(address: SocketAddr) -> Vec<u8> {
    let client = RawClient::to(address);
    client.send(&rrq("f", &[]));
    let mut file = Vec::new();
    loop {
        let (Packet::Data(block, payload), tid) = client.expect() else {
            panic!("no DATA");
        };
        file.extend(&payload);
        client.send_to(&ack(block), tid);
        if payload.len() < BLOCK {
            return file;
        }
    }
}

#[test]
fn upgrades_under_load_lose_no_request_of_clients_that_never_retry() {
    upgrade_under_load(3, &[]);
}

#[test]
#[ignore = "takes long: run it with --ignored"]
fn twenty_upgrades_under_load_lose_no_request() {
    upgrade_under_load(20, &[]);
    upgrade_under_load(20, &["--single-port"]);
}

/// The first transfer of the file "f", one block and a byte, which keeps its process alive
/// until its second block is acknowledged.
fn hold_process(server: &Server) -> impl FnOnce() {
    server.file("f", &content(6, BLOCK + 1));
    let client = RawClient::new(server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    move || {
        assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
        client.send_to(&ack(2), tid);
    }
}

/// Stops a process, and has this sent meanwhile, which the one before it passes on to it.
fn relay_to_stopped(process: Pid, send: impl FnOnce()) {
    kill(process, Signal::SIGSTOP).expect("it lives");
    send();
    // Nothing tells when the last is on its way.
    thread::sleep(millis(300));
}

#[test]
fn a_replaced_process_passes_on_all_that_was_relayed_to_it_before_it_exits() {
    let server = start("1", &[]);
    let end_oldest = hold_process(&server);
    upgrade(&server, 2);
    let middle = workers(&server)[&1];
    upgrade(&server, 3);
    // More than it takes in a turn.
    let late = clients(&server, 100);
    relay_to_stopped(middle, || {
        for client in &late {
            client.send(&rrq("f", &[]));
        }
    });
    end_oldest();
    wait_lines(&server, "has finished", 1);
    kill(middle, Signal::SIGCONT).expect("it lives");
    let has_answer = |client: &&RawClient| client.recv(millis(2000)).is_some();
    assert_eq!(late.iter().take_while(has_answer).count(), late.len());
}

#[test]
fn relayed_requests_are_seen_to_before_newer_ones_on_the_listen_socket() {
    let server = start("1", &[]);
    let end_oldest = hold_process(&server);
    upgrade(&server, 2);
    let next = workers(&server)[&1];
    // More than it takes in a turn.
    let late = clients(&server, 70);
    let client = RawClient::new(&server);
    relay_to_stopped(next, || {
        for client in &late {
            client.send(&rrq("f", &[]));
        }
        client.send(&rrq("older", &[]));
    });
    end_oldest();
    wait_lines(&server, "has finished", 1);
    RawClient::new(&server).send(&rrq("newer", &[]));
    kill(next, Signal::SIGCONT).expect("it lives");
    wait_lines(&server, "newer", 1);
    wait_lines(&server, "older", 1);
    let lines = server.log_lines();
    let place = |text| lines.iter().position(|line| line.contains(text));
    assert!(place("older") < place("newer"), "{lines:#?}");
}

/// What a client sends beside its request ends no wait for the helper.
#[test]
#[cfg(feature = "helper")]
fn a_question_to_the_helper_outlives_other_datagrams_of_its_client_during_a_drain() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    let mut listener = None;
    let address = own_address().to_string();
    let asks = ["--ask", "**", "--ask-timeout", "60s", "--workers", "1"];
    let args = [&["-a", &address], &asks[..], &NEVER].concat();
    let server = Server::start_prepared(&args, |directory| {
        let path = directory.join("helper.sock");
        listener = Some(UnixListener::bind(&path).expect("a socket"));
        let mut command = Command::new(tftpd());
        command.arg("--helper-socket").arg(path);
        command
    });
    let (mut helper, _) = listener
        .as_ref()
        .expect("a socket")
        .accept()
        .expect("it connects");
    helper.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    wait_up(&server, 1);
    server.file("f", b"content");
    let client = RawClient::new(&server);
    client.send(&rrq("asked", &[]));
    let mut lines = BufReader::new(helper.try_clone().expect("a descriptor")).lines();
    let number = loop {
        let line = lines.next().expect("a line").expect("a line");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if let Some(number) = value["question"].as_u64() {
            break number;
        }
    };
    upgrade(&server, 2);
    client.send(&ack(7));
    // Nothing tells when it has been dropped.
    thread::sleep(millis(300));
    writeln!(helper, r#"{{"v":1,"answer":{number},"path":"f"}}"#).expect("it listens");
    assert_eq!(client.expect().0, Packet::Data(1, b"content".to_vec()));
}

// --- starting and stopping --------------------------------------------------------------

#[test]
fn stopping_ends_all_processes_and_lets_transfers_finish() {
    let address = own_address().to_string();
    let args = ["-a", &address, "--workers", "2", "--grace", "20"];
    let mut server = Server::start_prepared(&[&args[..], &NEVER].concat(), |directory| {
        let mut command = Command::new(tftpd());
        command.arg("-P").arg(directory.join("pid"));
        command
    });
    wait_up(&server, 1);
    server.file("f", &content(5, BLOCK + 1));
    // A second server can't join.
    let (ip, port) = (server.addr().ip().to_string(), server.port().to_string());
    for workers in ["1", "2"] {
        let output = bounded(10, tftpd())
            .args(["--workers", workers, "-a", &ip, "-p", &port])
            .arg(server.root())
            .output()
            .expect("tftpd");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("stop the server that has it"), "{text}");
    }
    let pid_file = server.outside().join("pid");
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    assert!(pid_file.exists());
    server.signal(Signal::SIGTERM);
    wait_lines(&server, "stopping; ", 2);
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    client.send_to(&ack(2), tid);
    // The log is closed when the last process has ended.
    let status = server.wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!pid_file.exists());

    // A second signal stops the server at once; the death of the supervisor is a first one.
    for signals in [&[Signal::SIGTERM, Signal::SIGTERM][..], &[Signal::SIGKILL]] {
        let mut server = start("2", &["--grace", "1"]);
        server.file("f", b"content");
        RawClient::new(&server).ask_data(&rrq("f", &[]));
        for (count, &signal) in signals.iter().enumerate() {
            wait_lines(&server, "stopping; ", 2 * count);
            server.signal(signal);
        }
        assert!(server.wait_exit(PATIENCE).is_some(), "{signals:?}");
    }
}

/// The supervisor holds the sockets of all workers: more files than the limit that it was
/// started with allows.
#[test]
fn a_low_limit_on_open_files_keeps_no_worker_from_starting() {
    let address = own_address().to_string();
    let server = Server::start_prepared(&["--workers", "16", "-a", &address], |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=24:4096", tftpd()]);
        command
    });
    wait_up(&server, 1);
    upgrade(&server, 2);
    kill_worker(&server, 16);
    let lines = server.log_lines();
    assert!(
        !lines.iter().any(|it| it.contains("cannot start")),
        "{lines:#?}"
    );
}

#[test]
fn a_worker_that_cannot_start_is_reported_once_and_never_retried_in_a_hurry() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let output = bounded(10, tftpd())
        .args(["--workers", "4", "-p", "0", "-a", "127.0.0.1"])
        .arg(&missing)
        .output()
        .expect("tftpd");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    // Nothing else: a failed start ends with the line that says why.
    let lines: Vec<_> = text.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.contains("missing")),
        "{text}"
    );

    // A worker that has served before is tried again, once a second.
    let server = start("1", &[]);
    wait_lines(&server, "serving with 1 process on ", 1);
    server.file("f", b"content");
    let (root, away) = (server.root(), server.outside().join("away"));
    let broken = "before it was ready";
    fs::rename(&root, &away).expect("a new name");
    server.signal(Signal::SIGUSR2);
    wait_lines(&server, broken, 1);
    // An upgrade that fails leaves the old process where it is.
    assert_eq!(
        RawClient::new(&server).read("f").expect("it serves"),
        b"content"
    );
    let begun = Instant::now();
    kill(workers(&server)[&1], Signal::SIGKILL).expect("it lives");
    wait_lines(&server, "starting another", 3);
    assert!(begun.elapsed() >= millis(900), "{:?}", begun.elapsed());
    fs::rename(&away, &root).expect("its name");
    assert_eq!(
        RawClient::new(&server).read("f").expect("it serves"),
        b"content"
    );
}

/// A server that was started through a symlink, and the symlink.
fn start_by_link(prepare: impl FnOnce(&mut Command)) -> (Server, PathBuf) {
    let address = own_address().to_string();
    let server = Server::start_prepared(&["-a", &address, "--workers", "1"], |directory| {
        let link = directory.join("tftpd");
        symlink(tftpd(), &link).expect("a free name");
        fs::write(directory.join("root/f"), b"content").expect("a file");
        let mut command = Command::new(link);
        prepare(&mut command);
        command
    });
    wait_up(&server, 1);
    let link = server.outside().join("tftpd");
    (server, link)
}

/// Replaces a program with a script. Another process writes it: if a child of this one
/// inherited the file still open, it couldn't be executed.
fn put_script(path: &Path, script: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0.new\" && chmod 755 \"$0.new\" && \
                 mv \"$0.new\" \"$0\"";
    let mut command = bounded(10, "sh");
    command.args(["-c", write]).arg(path).arg(script);
    assert!(command.status().expect("sh(1)").success());
}

#[track_caller]
fn assert_serves(server: &Server) {
    let client = RawClient::new(server);
    assert_eq!(client.read("f").expect("it serves"), b"content");
}

#[test]
fn an_upgrade_that_cannot_take_over_is_refused_and_the_old_program_goes_on() {
    let (server, link) = start_by_link(|_| {});
    let pid = workers(&server)[&1];
    let input = PathBuf::from(format!("/proc/{}/fd/0", server.pid()));
    let (before, files) = (fs::read_link(&input).expect("open"), server.open_files());
    for (script, why) in [
        (
            "echo first \"$1\" >&2; echo unquoted >&2; exit 2",
            "first --part=trial\"; going",
        ),
        ("exit 3", "status 3"),
        // A program older than the trial.
        (
            "echo \"tftpd: unexpected argument '$1'\" >&2; exit 2",
            "unexpected argument",
        ),
        // A program that doesn't know the trial, and exits with success.
        ("exit 0", "another program, or an older version; going"),
        ("echo serving >&2", "it says \"serving\"; going"),
        ("kill -9 $$", "SIGKILL"),
        // A program that can no longer be executed.
        ("echo 'it can take over' >&2; rm \"$0\"", "no such file"),
    ] {
        put_script(&link, script);
        server.signal(Signal::SIGUSR2);
        wait_lines(&server, why, 1);
        assert_eq!(workers(&server)[&1], pid);
        assert_serves(&server);
        assert_eq!(fs::read_link(&input).expect("open"), before, "{script}");
        assert_eq!(server.open_files(), files, "{script}");
    }
    assert_eq!(count_lines(&server, "unquoted"), 0);
    symlink(tftpd(), &link).expect("a free name");
    upgrade(&server, 2);
    assert_serves(&server);
}

/// What lies at its path by then hasn't been tried, and may be another version.
#[test]
fn a_killed_worker_is_started_again_from_the_program_that_runs() {
    let (server, link) = start_by_link(|_| {});
    put_script(&link, "exit 3");
    kill_worker(&server, 1);
    assert_serves(&server);
    fs::remove_file(&link).expect("a script");
    kill_worker(&server, 1);
    assert_serves(&server);
    // As before, for ps and pgrep.
    let name = fs::read_to_string(format!("/proc/{}/comm", workers(&server)[&1]));
    assert_eq!(name.expect("it lives"), "tftpd\n");
}

/// `install` removes the old file before the new one is there.
#[test]
fn a_server_whose_program_is_replaced_as_it_starts_finds_the_new_one() {
    let address = own_address().to_string();
    let server = Server::start_prepared(&["-a", &address, "--workers", "1"], |directory| {
        fs::write(directory.join("root/f"), b"content").expect("a file");
        // The program that starts is gone by then; its name leads to another.
        let replace = "cp \"$0\" \"$1\"; exec 9<\"$1\"; rm \"$1\"; cp \"$0\" \"$1\"; \
                       exec -a \"$1\" /proc/self/fd/9 \"${@:2}\"";
        let mut command = Command::new("bash");
        command.args(["-c", replace]).arg(tftpd());
        command.arg(directory.join("tftpd"));
        command
    });
    wait_up(&server, 1);
    assert_serves(&server);
    upgrade(&server, 2);
    assert_serves(&server);
}

/// The old processes serve: what isn't there any more is no reason to end them.
#[test]
fn an_upgrade_takes_over_without_its_pid_file_and_its_service_manager() {
    let file = |server: &Server, name| server.outside().join(name);
    let address = own_address().to_string();
    let mut manager = None;
    let server = Server::start_prepared(&["-a", &address, "--workers", "1"], |directory| {
        let name = directory.join("notify");
        manager = Some(UnixDatagram::bind(&name).expect("a free name"));
        fs::write(directory.join("root/f"), b"content").expect("a file");
        let mut command = Command::new(tftpd());
        command.arg("-P").arg(directory.join("pid"));
        command.env("NOTIFY_SOCKET", name);
        command
    });
    wait_up(&server, 1);
    fs::remove_file(file(&server, "notify")).expect("a socket");
    // What is there can't be replaced by a file.
    fs::remove_file(file(&server, "pid")).expect("a pid file");
    fs::create_dir(file(&server, "pid")).expect("a free name");
    upgrade(&server, 2);
    assert_serves(&server);
    assert_eq!(count_lines(&server, "cannot write the pid file"), 1);
    assert_eq!(count_lines(&server, "cannot reach the service manager"), 1);
}

#[test]
fn an_upgrade_that_is_asked_for_during_a_trial_is_remembered() {
    let (server, link) = start_by_link(|_| {});
    put_script(
        &link,
        "touch \"$0.tried\"; while [ ! -e \"$0.go\" ]; do sleep 0.02; done; exit 3",
    );
    server.signal(Signal::SIGUSR2);
    let file = |name| server.outside().join(name);
    let deadline = Instant::now() + PATIENCE;
    while !file("tftpd.tried").exists() && Instant::now() < deadline {
        thread::sleep(millis(10));
    }
    // The right program is put there while the wrong one is tried.
    symlink(tftpd(), file("new")).expect("a free name");
    fs::rename(file("new"), &link).expect("its name");
    server.signal(Signal::SIGUSR2);
    fs::write(file("tftpd.go"), "").expect("a file");
    wait_up(&server, 2);
    assert_eq!(count_lines(&server, "status 3"), 1);
    assert_serves(&server);
}

/// Runs a worker with ours as its supervisor: `messages`, each with that many sockets.
/// Returns what it told the supervisor, and its output.
fn supervised(messages: &[(&str, usize)]) -> (Vec<String>, Output) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
    let (ours, theirs) = pair.expect("a pair");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    for (text, count) in messages {
        let raw = vec![socket.as_raw_fd(); *count];
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[] } else { &rights[..] };
        let parts = [IoSlice::new(text.as_bytes())];
        let none = MsgFlags::empty();
        sendmsg::<()>(ours.as_raw_fd(), &parts, control, none, None).expect("room");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = bounded(10, tftpd());
    command
        .args(["--part=worker-1", "--workers", "1"])
        .args(NEVER)
        .arg(dir.path())
        .stdin(theirs);
    let output = command.output().expect("tftpd");
    drop(command);
    let mut said = Vec::new();
    let mut buffer = [0; 128];
    while let Ok(len @ 1..) = recv(ours.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        said.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    (said, output)
}

#[test]
fn a_worker_that_cannot_take_over_its_sockets_fails_before_it_is_ready() {
    for (messages, why) in [
        // One more than can be received.
        (&[("sockets", 17), ("listen", 0)][..], "some are lost"),
        (&[("sockets", 0), ("listen", 0)], "some are lost"),
        (&[("sockets", 1), ("hear", 0)], "its socket is lost"),
        (&[("sockets", 1)], "its socket is lost"),
    ] {
        let (said, output) = supervised(messages);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{messages:?}: {text}");
        assert!(text.contains(why), "{messages:?}: {text}");
        assert!(said.is_empty(), "{messages:?}: {said:?}");
    }
    // A worker that is replaced and can't forward what comes ends.
    let (said, output) = supervised(&[("sockets", 1), ("listen", 0), ("replaced", 0)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(said, ["ready"]);
}

#[test]
#[ignore = "takes long: run it with --ignored"]
fn programs_that_hang_are_killed() {
    let (server, link) = start_by_link(|_| {});
    put_script(&link, "exec sleep 100");
    server.signal(Signal::SIGUSR2);
    wait_lines(&server, "doesn't end within 5 s", 1);
    assert_serves(&server);
    // A worker that doesn't get ready.
    let ready = workers(&server)[&1];
    let first = format!("process {ready} ");
    kill(ready, Signal::SIGKILL).expect("it lives");
    let is_killed = |line: &str| line.contains("isn't ready in time: killing it");
    // It has half a minute.
    assert!(server.wait_for_log(is_killed, 3 * PATIENCE).is_some());
    put_script(&link, &format!("exec '{}' \"$@\"", tftpd()));
    // The next may have begun with the old script.
    let is_ready = |line: &str| line.ends_with(" is ready") && !line.contains(&first);
    assert!(server.wait_for_log(is_ready, 3 * PATIENCE).is_some());
    assert_serves(&server);
}

#[test]
fn confined_processes_are_started_again_and_replaced() {
    if !geteuid().is_root() {
        skip("needs root");
        return;
    }
    let address = own_address().to_string();
    let args = ["-a", &address, "--workers", "1", "-u", "nobody", "--chroot"];
    let server = Server::start_prepared(&args, |directory| {
        let pid_file = directory.join("pid");
        fs::write(directory.join("root/f"), b"content").expect("a file");
        let mut command = Command::new(tftpd());
        command.arg("-P").arg(pid_file);
        command
    });
    wait_up(&server, 1);
    let pid_file = server.outside().join("pid");
    let pid = format!("{}\n", server.pid());
    let check = || {
        assert_eq!(
            RawClient::new(&server).read("f").expect("it serves"),
            b"content"
        );
        assert_eq!(fs::read_to_string(&pid_file).expect("a file"), pid);
        let status = fs::read_to_string(format!("/proc/{}/status", workers(&server)[&1]));
        assert!(status.expect("it lives").contains("\nUid:\t65534"));
    };
    check();
    kill_worker(&server, 1);
    check();
    let inode = || fs::metadata(&pid_file).expect("a file").ino();
    let before = inode();
    upgrade(&server, 2);
    check();
    // It can be kept where none can be made any more.
    assert_eq!(inode(), before);
}

// --- the service manager ------------------------------------------------------------------

#[test]
fn the_watchdog_has_a_hung_process_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = dir.path().join("notify");
    let manager = UnixDatagram::bind(&name).expect("a free name");
    let (server, _) = start_by_link(|command| {
        command.env("NOTIFY_SOCKET", &name);
        command.env("WATCHDOG_USEC", "600000");
    });
    // Processes that answer are left alone, and the manager hears of it.
    let mut signs = 0;
    while signs < 3 {
        let mut buffer = [0; 4096];
        let len = uninterrupted(|| manager.recv(&mut buffer)).expect("word from the server");
        signs += usize::from(&buffer[..len] == b"WATCHDOG=1");
    }
    assert_eq!(count_lines(&server, "doesn't answer"), 0);
    kill(workers(&server)[&1], Signal::SIGSTOP).expect("it lives");
    wait_lines(&server, "doesn't answer: killing it", 1);
    wait_lines(&server, " is ready", 2);
    assert_serves(&server);
}

#[test]
fn the_manager_hears_from_the_supervisor_alone_and_its_sockets_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let name = dir.path().join("notify");
    let manager = UnixDatagram::bind(&name).expect("a free name");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a duration");
    let told = || {
        let mut buffer = [0; 4096];
        loop {
            let len = uninterrupted(|| manager.recv(&mut buffer)).expect("word from the server");
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = socket.local_addr().expect("bound");
    let input = [
        Stdio::from(std::os::fd::OwnedFd::from(socket)),
        Stdio::null(),
    ];
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let behind = || {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", tftpd()]);
        command
    };
    let mut server = Server::start_handed(input, &["--workers", "1"], |directory| {
        fs::write(directory.join("root/f"), b"content").expect("a file");
        let mut command = behind();
        command
            .env("NOTIFY_SOCKET", &name)
            .env("WATCHDOG_USEC", "30000000");
        command
    });
    for nth in [1, 2] {
        let ready = told();
        assert!(
            ready.starts_with("READY=1\nSTATUS=serving with 1 process"),
            "{ready}"
        );
        assert_eq!(
            RawClient::to(address).read("f").expect("it serves"),
            b"content"
        );
        if nth == 1 {
            server.signal(Signal::SIGUSR2);
        }
    }
    server.signal(Signal::SIGTERM);
    assert!(told().starts_with("STOPPING=1"));
    assert!(server.wait_exit(PATIENCE).is_some_and(|it| it.success()));

    // Two workers can't share one socket.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let output = behind()
        .args(["--workers", "2"])
        .arg(dir.path())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
        .output()
        .expect("sh(1)");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--workers 1"), "{text}");
}
