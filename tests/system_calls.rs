//! The system calls of the plain server: helpers, rules by client and the upload options
//! cost none unless they are used.
#![cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
#![allow(clippy::disallowed_methods, reason = "a test stands outside the loops")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use common::*;

/// Calls for memory and for waiting, and those that only debug builds make.
const UNCOUNTED: [&str; 10] = [
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "epoll_wait",
    "epoll_pwait",
    "timerfd_settime",
    "fcntl",
];

/// The kinds of system calls, under names that don't depend on the C library's version, and
/// the most calls in all.
struct Calls {
    kinds: &'static [&'static str],
    most: usize,
}

/// From the first socket to the first wait. Most of these calls drop capabilities one by
/// one; the kernel determines their number.
const START: Calls = Calls {
    kinds: &[
        "bind",
        "capget",
        "capset",
        "close",
        "epoll_create1",
        "epoll_ctl",
        "faccessat2",
        "getcwd",
        "geteuid",
        "getpid",
        "getrandom",
        "getsockname",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "linkat",
        "openat",
        "openat2",
        "prctl",
        "prlimit64",
        "read",
        "readlink",
        "rt_sigprocmask",
        "setsockopt",
        "signalfd4",
        "socket",
        "stat",
        "sysinfo",
        "timerfd_create",
        "write",
    ],
    most: 250,
};

/// The calls of a download of one block.
const DOWNLOAD: Calls = Calls {
    kinds: &[
        "bind",
        "close",
        "epoll_ctl",
        "openat2",
        "preadv2",
        "recvfrom",
        "recvmmsg",
        "sendto",
        "setsockopt",
        "socket",
        "stat",
        "write",
    ],
    most: 18,
};

/// The calls of an upload of one block, the first in its directory, where the server looks
/// for leftover files.
const UPLOAD: Calls = Calls {
    kinds: &[
        "bind",
        "close",
        "dup",
        "epoll_ctl",
        "faccessat2",
        "fstatfs",
        "getdents64",
        "linkat",
        "lseek",
        "openat",
        "openat2",
        "pwrite64",
        "recvfrom",
        "recvmmsg",
        "sendto",
        "setsockopt",
        "socket",
        "stat",
        "write",
    ],
    most: 32,
};

/// How many times each call occurs in these lines of a trace.
fn counts<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let Some((call, _)) = line.split_once('(') else {
            continue;
        };
        let call = match call {
            "newfstatat" | "fstat" | "lstat" | "statx" => "stat",
            "faccessat" => "faccessat2",
            call => call,
        };
        if !UNCOUNTED.contains(&call) {
            *counts.entry(call).or_default() += 1;
        }
    }
    counts
}

#[track_caller]
fn assert_no_more(what: &str, made: &BTreeMap<String, usize>, calls: &Calls) {
    for call in made.keys() {
        assert!(calls.kinds.contains(&&**call), "{what}: {call} in {made:?}");
    }
    let all: usize = made.values().sum();
    assert!(all <= calls.most, "{what}: {all} calls: {made:?}");
}

/// A server whose system calls are traced, if that is possible here.
fn traced_server(options: &[&str]) -> Option<Server> {
    let tried = bounded(10, "strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        skip("strace(1) can't trace here");
        return None;
    }
    let address = own_address().to_string();
    let args = [&["-a", &address, "--busy-poll", "0"], options].concat();
    let server = Server::start_prepared(&args, |dir| {
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-o"]).arg(dir.join("trace"));
        // The server is killed when the tracer ends.
        command.args(["setpriv", "--pdeathsig", "KILL", tftpd()]);
        command
    });
    Some(server)
}

/// The system calls since the first socket.
fn trace(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.outside().join("trace")).expect("a trace");
    // Without the pid.
    let lines = text.lines().filter_map(|it| it.split_once(' '));
    let lines: Vec<_> = lines
        .map(|(_, call)| call.trim_start().to_owned())
        .collect();
    let first = lines.iter().position(|it| it.starts_with("socket("));
    lines[first.expect("a socket")..].to_vec()
}

/// How many times each call was made since the line `from` of the trace.
fn made(server: &Server, from: usize) -> BTreeMap<String, usize> {
    let lines = trace(server);
    (counts(lines[from..].iter().map(String::as_str)).into_iter())
        .map(|(call, count)| (call.to_owned(), count))
        .collect()
}

/// The values set for `IP_MTU_DISCOVER` since the line `from` of the trace.
fn mtu_discovery(server: &Server, from: usize) -> Vec<String> {
    let value = |line: &String| {
        let (_, value) = line.split_once("IP_MTU_DISCOVER, [")?;
        Some(value.split(']').next()?.to_owned())
    };
    trace(server)[from..].iter().filter_map(value).collect()
}

#[test]
fn a_plain_start_download_and_upload_cost_no_other_system_calls() {
    if is_single_port() {
        skip("it is about ports of their own");
        return;
    }
    let Some(server) = traced_server(&[]) else {
        return;
    };
    server.file("f", b"one block");
    let check = |what: &str, from: usize, calls: &Calls| {
        assert_no_more(what, &made(&server, from), calls);
        trace(&server).len()
    };
    let lacks = |line: &str| line.contains("without openat2") || line.contains("no sandbox");
    if server.log_lines().iter().any(|line| lacks(line)) {
        skip("this kernel lacks something");
        return;
    }
    if geteuid().is_root() {
        // The last line before the server waits.
        let last = |line: &str| line.contains("running as root with uploads");
        server.wait_for_log(last, PATIENCE).expect("a warning");
    }
    let from = check("the start", 0, &START);
    let reader = RawClient::new(&server);
    assert_eq!(reader.read("f"), Ok(b"one block".to_vec()));
    server.wait_ended(reader.addr(), 1);
    // The socket is closed after the log line.
    let patience = Instant::now() + PATIENCE;
    while made(&server, from).get("close") != Some(&3) && Instant::now() < patience {
        std::thread::sleep(millis(10));
    }
    // IP_PMTUDISC_DONT: DATA may be fragmented on the way.
    assert_eq!(mtu_discovery(&server, from), ["0"]);
    let from = check("a download", from, &DOWNLOAD);
    let writer = RawClient::new(&server);
    assert_eq!(writer.write("new", b"one block"), Ok(()));
    server.wait_ended(writer.addr(), 1);
    // IP_PMTUDISC_PROBE: ACKs are short, and cost the kernel less.
    assert_eq!(mtu_discovery(&server, from), ["3"]);
    check("an upload", from, &UPLOAD);
}

/// Sends a file to 8 clients, which ask in turn for blocks of 2 KiB; returns the number of
/// calls that read the file, not counting its end.
fn reads_for_eight_clients(server: &Server, file: &[u8]) -> usize {
    let clients: [_; 8] = std::array::from_fn(|_| RawClient::new(server));
    let request = rrq("f", &[("blksize", "2048")]);
    let asked = clients.each_ref().map(|client| client.ask(&request));
    let from = trace(server).len();
    for (block, payload) in (0..).zip(file.chunks(2048)) {
        for (client, (_, tid)) in clients.iter().zip(&asked) {
            let answer = client.say(&ack(block), *tid);
            let is_next = answer == Packet::Data(block + 1, payload.to_vec());
            assert!(is_next, "block {} isn't next: {answer:?}", block + 1);
        }
    }
    let made = made(server, from);
    // A session left behind would take a later request from the same port for its own.
    for (client, (_, tid)) in clients.iter().zip(&asked) {
        client.send_to(&error(0, "enough"), *tid);
        server.wait_ended(client.addr(), 1);
    }
    let reads = ["pread64", "preadv", "preadv2"].map(|call| made.get(call));
    reads.into_iter().flatten().sum()
}

#[test]
fn blocks_that_several_clients_read_at_once_are_read_once() {
    let Some(server) = traced_server(&NEVER) else {
        return;
    };
    // A read of the first block for each, then one read per three blocks: 15 reads, or 64
    // if each client had its own.
    let file = content(14, 20 * 2048);
    server.file("f", &file);
    // Blocks are read again after 50 ms: on a busy machine hardly any attempt is quick
    // enough.
    let patience = Instant::now() + PATIENCE;
    let mut reads = Vec::new();
    while reads.len() < 5 || Instant::now() < patience {
        reads.push(reads_for_eight_clients(&server, &file));
        if reads.last() < Some(&30) {
            return;
        }
    }
    panic!("{reads:?}");
}

/// A traced server of one process that another follows: both, and the transfer that keeps
/// the first alive.
#[cfg(feature = "workers")]
struct Replaced {
    server: Server,
    oldest: Pid,
    next: Pid,
    client: RawClient,
    tid: std::net::SocketAddr,
}

#[cfg(feature = "workers")]
impl Replaced {
    fn start() -> Option<Self> {
        let server = traced_server(&[&["--workers", "1"][..], &NEVER].concat())?;
        let ready = |count| {
            assert!(server.wait_for_lines("serving with", count), "it isn't up");
            let pid = |line: &String| {
                let pid = line.split_once(": process ")?.1.strip_suffix(" is ready")?;
                pid.parse().ok()
            };
            let last = server.log_lines().iter().filter_map(pid).next_back();
            Pid::from_raw(last.expect("a process"))
        };
        let oldest = ready(1);
        server.file("f", &content(16, BLOCK + 1));
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        // Below the tracer.
        let strace = server.pid();
        let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
        let children = children.expect("the tracer lives");
        let supervisor = Pid::from_raw(children.trim().parse().expect("one child"));
        kill(supervisor, Signal::SIGUSR2).expect("it lives");
        let next = ready(2);
        assert!(server.wait_for_lines("another process takes over", 1));
        Some(Self {
            server,
            oldest,
            next,
            client,
            tid,
        })
    }

    /// What is asked of the kernel to serve so many clients at once, which ask while this
    /// process is stopped.
    fn serve(&self, clients: usize, stopped: Pid) -> Vec<String> {
        let from = trace(&self.server).len();
        kill(stopped, Signal::SIGSTOP).expect("it lives");
        // Nothing tells when it has stopped, or when the last is on its way.
        std::thread::sleep(millis(100));
        let clients: Vec<_> = (0..clients).map(|_| RawClient::new(&self.server)).collect();
        for client in &clients {
            client.send(&rrq("f", &[]));
        }
        std::thread::sleep(millis(300));
        kill(stopped, Signal::SIGCONT).expect("it goes on");
        for client in &clients {
            assert_eq!(client.expect().0.data_block(), Some(1));
        }
        trace(&self.server)[from..].to_vec()
    }

    fn end(self) {
        self.client.send_to(&error(0, "enough"), self.tid);
    }
}

/// What the process before this one passes on is a batch as well.
#[test]
#[cfg(feature = "workers")]
fn relayed_requests_for_one_file_open_it_once() {
    let Some(replaced) = Replaced::start() else {
        return;
    };
    let calls = replaced.serve(20, replaced.next);
    let is_open = |it: &&String| it.starts_with("openat2(") && it.contains("\"f\"");
    let opened = calls.iter().filter(is_open).count();
    assert!(opened <= 2, "{opened} times for 20 clients");
    replaced.end();
}

/// Though each of them may be as long as the next process can want.
#[test]
#[cfg(feature = "workers")]
fn a_process_that_passes_requests_on_receives_them_in_batches() {
    let Some(replaced) = Replaced::start() else {
        return;
    };
    let calls = replaced.serve(20, replaced.oldest);
    // Another process may come between a call and what it returns.
    let receives = calls.iter().filter(|it| it.contains("recvmmsg"));
    let batches: Vec<usize> = receives
        .filter_map(|it| it.rsplit_once(" = ")?.1.trim().parse().ok())
        .collect();
    assert!(batches.iter().any(|&count| count > 10), "{batches:?}");
    replaced.end();
}

/// The kernel sets a timer for each wait that has a timeout, and the poll's are in whole
/// milliseconds.
#[test]
fn a_wait_in_lockstep_is_one_call_and_sets_no_timer() {
    const BLOCKS: usize = 300;
    let Some(server) = traced_server(&[]) else {
        return;
    };
    let file = content(15, (BLOCKS - 1) * BLOCK);
    server.file("f", &file);
    let from = trace(&server).len();
    let reader = RawClient::new(&server);
    let began = Instant::now();
    assert_eq!(reader.read("f"), Ok(file));
    server.wait_ended(reader.addr(), 1);
    let took = began.elapsed();
    let calls = trace(&server);
    let count = |names: &[&str]| {
        let is_one = |line: &&String| names.iter().any(|name| line.starts_with(name));
        calls[from..].iter().filter(is_one).count()
    };
    let waits = count(&["epoll_wait(", "epoll_pwait(", "ppoll("]);
    let timers = count(&["timerfd_settime("]);
    // The deadline moves with each block; the timer checks it again after the shortest
    // timeout.
    let others = 20;
    let most = (took.as_millis() / 20) as usize + others;
    assert!(timers <= most, "{timers} timers in {took:?}");
    assert!(
        waits <= BLOCKS + timers + others,
        "{waits} waits, {timers} timers"
    );
}

/// Receiving and sending code run in batches, and don't alternate for each packet.
#[test]
fn transfers_that_are_ready_together_all_receive_before_any_sends() {
    const CLIENTS: usize = 5;
    let Some(server) = traced_server(&NEVER) else {
        return;
    };
    let block = [7; BLOCK];
    let clients: [_; CLIENTS] = std::array::from_fn(|number| {
        let client = RawClient::new(&server);
        let (_, tid) = client.ask(&wrq(&format!("{number}"), &[]));
        assert_eq!(client.say(&data(1, &block), tid), Packet::Ack(1));
        (client, tid)
    });
    if is_single_port() {
        skip("it is about ports of their own");
        return;
    }
    // The server is the tracer's child. It stops with datagrams unread in its sockets.
    let strace = server.pid();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
    let children = children.expect("the tracer lives");
    let process = Pid::from_raw(children.trim().parse().expect("one child"));
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
        stat.contains(") t ") || stat.contains(") T ")
    };
    let last = || {
        let calls = trace(&server);
        let calls = calls.iter().filter_map(|it| Some(it.split_once('(')?.0));
        let counted: Vec<_> = calls.filter(|it| !UNCOUNTED.contains(it)).collect();
        let last = &counted[counted.len().saturating_sub(3 * CLIENTS)..];
        last.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()
    };
    let received = ["recvfrom", "pwrite64"].repeat(CLIENTS);
    let expected = [received, ["sendto"].repeat(CLIENTS)].concat();
    // Received datagrams wait for at most a millisecond: on a busy machine not every
    // attempt is quick enough.
    for number in 2..12 {
        kill(process, Signal::SIGSTOP).expect("it stops");
        while !is_stopped() {
            std::thread::sleep(millis(1));
        }
        for (client, tid) in &clients {
            client.send_to(&data(number, &block), *tid);
        }
        kill(process, Signal::SIGCONT).expect("it goes on");
        for (client, tid) in &clients {
            assert_eq!(client.expect_from(*tid), Packet::Ack(number));
        }
        // The last call is traced once it has returned.
        for _ in 0..20 {
            if last() == expected {
                return;
            }
            std::thread::sleep(millis(10));
        }
    }
    panic!("{:?}", last());
}
