//! What is asked of the kernel where nothing beyond the plain server is asked for:
//! helpers, rules by client and the options about uploads cost no system call.
#![cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
#![allow(clippy::disallowed_methods, reason = "a test stands outside the loops")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use common::*;

/// Memory, waiting, and what only builds with debug assertions ask for.
const UNCOUNTED: [&str; 9] = [
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "epoll_wait",
    "epoll_pwait",
    "fcntl",
];

/// A system call, under the name that it has whatever the C library's version, and how
/// often it is made at most.
type Calls = &'static [(&'static str, usize)];

/// From the first socket to the first wait. Capabilities are dropped one by one; their
/// number is the kernel's.
const START: Calls = &[
    ("bind", 1),
    ("capget", 2),
    ("capset", 2),
    ("close", 4),
    ("epoll_create1", 1),
    ("epoll_ctl", 2),
    ("getcwd", 3),
    ("geteuid", 2),
    ("getpid", 1),
    ("getrandom", 1),
    ("getsockname", 1),
    ("landlock_add_rule", 1),
    ("landlock_create_ruleset", 2),
    ("landlock_restrict_self", 1),
    ("linkat", 1),
    ("openat", 3),
    ("openat2", 1),
    ("prctl", 100),
    ("prlimit64", 1),
    ("read", 1),
    ("readlink", 12),
    ("rt_sigprocmask", 2),
    ("setsockopt", 20),
    ("signalfd4", 1),
    ("socket", 7),
    ("stat", 6),
    ("write", 2),
];

/// Of a file of one block.
const DOWNLOAD: Calls = &[
    ("bind", 1),
    ("close", 3),
    ("epoll_ctl", 1),
    ("openat2", 2),
    ("preadv2", 1),
    ("recvfrom", 1),
    ("recvmmsg", 1),
    ("sendto", 1),
    ("setsockopt", 1),
    ("socket", 1),
    ("stat", 3),
    ("write", 1),
];

/// Of a file of one block, the first in its directory, which is looked at for files that
/// were left behind.
const UPLOAD: Calls = &[
    ("bind", 1),
    ("close", 5),
    ("dup", 2),
    ("epoll_ctl", 1),
    ("faccessat2", 1),
    ("fstatfs", 1),
    ("getdents64", 2),
    ("linkat", 1),
    ("lseek", 1),
    ("openat", 2),
    ("openat2", 1),
    ("pwrite64", 1),
    ("recvmmsg", 1),
    ("recvmsg", 1),
    ("sendto", 2),
    ("setsockopt", 1),
    ("socket", 1),
    ("stat", 4),
    ("write", 1),
];

/// How often each call is made in these lines of a trace.
fn counts<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let Some((call, _)) = line.split_once('(') else {
            continue;
        };
        let call = match call {
            "newfstatat" | "fstat" | "lstat" | "statx" => "stat",
            call => call,
        };
        if !UNCOUNTED.contains(&call) {
            *counts.entry(call).or_default() += 1;
        }
    }
    counts
}

#[track_caller]
fn assert_no_more(what: &str, made: &BTreeMap<&str, usize>, calls: Calls) {
    for (call, count) in made {
        let most = calls.iter().find(|(it, _)| it == call);
        let most = most.map_or(0, |(_, most)| *most);
        assert!(*count <= most, "{what}: {count} times {call}, not {most}");
    }
}

#[test]
fn a_plain_start_download_and_upload_cost_these_system_calls_and_no_more() {
    let tried = bounded(10, "strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        skip("strace(1) can't trace here");
        return;
    }
    let args = ["-a", "127.0.0.1", "--busy-poll", "0"];
    let server = Server::start_prepared(&args, |dir| {
        let mut command = Command::new("strace");
        command.args(["-qq", "-f", "-o"]).arg(dir.join("trace"));
        // The server ends with the tracer.
        command.args(["setpriv", "--pdeathsig", "KILL", tftpd()]);
        command
    });
    server.file("f", b"one block");
    let trace = || {
        let text = fs::read_to_string(server.outside().join("trace")).expect("a trace");
        // Without the process.
        let lines = text.lines().filter_map(|it| it.split_once(' '));
        let lines: Vec<_> = lines
            .map(|(_, call)| call.trim_start().to_owned())
            .collect();
        let first = lines.iter().position(|it| it.starts_with("socket("));
        lines[first.expect("a socket")..].to_vec()
    };
    let made = |from: usize| {
        let lines = trace();
        (counts(lines[from..].iter().map(String::as_str)).into_iter())
            .map(|(call, count)| (call.to_owned(), count))
            .collect::<BTreeMap<_, _>>()
    };
    let check = |what: &str, from: usize, calls: Calls| {
        let made = made(from);
        let made = made.iter().map(|(call, count)| (call.as_str(), *count));
        assert_no_more(what, &made.collect(), calls);
        trace().len()
    };
    let lacks = |line: &str| line.contains("without openat2") || line.contains("no sandbox");
    if server.log_lines().iter().any(|line| lacks(line)) {
        skip("this kernel lacks something");
        return;
    }
    let from = check("the start", 0, START);
    let reader = RawClient::new(&server);
    assert_eq!(reader.read("f"), Ok(b"one block".to_vec()));
    server.wait_ended(reader.addr(), 1);
    // Its socket is closed behind that.
    std::thread::sleep(millis(50));
    let from = check("a download", from, DOWNLOAD);
    let writer = RawClient::new(&server);
    assert_eq!(writer.write("new", b"one block"), Ok(()));
    server.wait_ended(writer.addr(), 1);
    check("an upload", from, UPLOAD);
}
