//! The log of the real binary: JSON lines, repeats, hints.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

fn is_refusal(line: &str) -> bool {
    line.contains("refused peer=") || line.contains("\"refused\"")
}

#[test]
fn json_is_one_object_a_line_whatever_the_name() {
    let server = Server::start(&["--log-format", "json"]);
    let client = RawClient::new(&server);
    let name: Vec<u8> = (1..=255).collect();
    client.ask(&request(1, &name, "octet", &[]));
    let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
    let peer = client.addr();
    assert!(line.starts_with("{\"time\":"), "{line}");
    assert!(line.ends_with('}'), "{line}");
    for part in [
        &format!(r#","level":"warn","event":"refused","peer":"{peer}","op":"read","file":"\\x01"#),
        r##" !\\\"#$%&'()"##,
        r"\\xfe\\xff",
        r#"","code":1,"reason":"File not found (ENOENT)"}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)));
}

/// Whether a line begins like `shape`, where each zero stands for any digit.
fn begins_with(line: &str, shape: &str) -> bool {
    let digits = |letter: char| if letter.is_ascii_digit() { '0' } else { letter };
    let begin: String = line.chars().take(shape.len()).map(digits).collect();
    begin == shape
}

#[test]
fn all_times_are_of_one_length() {
    for (format, shape) in [
        ("text", "0000-00-00T00:00:00.000Z ["),
        ("json", "{\"time\":0000000000.000,\"level\":"),
    ] {
        let server = Server::start(&["-vv", "--log-format", format]);
        // Enough lines that some times end in zeros.
        (0..40).for_each(|_| server.fence());
        let lines = server.log_lines();
        assert!(lines.len() > 100, "{lines:#?}");
        let other = lines.iter().find(|line| !begins_with(line, shape));
        assert_eq!(other, None);
    }
}

/// Makes the server log what it holds back, and waits for the last line of that, which
/// contains `last`.
fn flush(server: &Server, last: &str) -> Vec<String> {
    let count = |lines: &[String]| lines.iter().filter(|l| l.contains(last)).count();
    let before = count(&server.log_lines());
    server.signal(Signal::SIGUSR1);
    let deadline = Instant::now() + PATIENCE;
    while count(&server.log_lines()) == before {
        assert!(Instant::now() < deadline, "no {last}");
        std::thread::yield_now();
    }
    server.log_lines()
}

/// Has the kernel drop datagrams while `process` is stopped, then lets it go on.
fn overflow(server: &Server, process: Pid) {
    kill(process, Signal::SIGSTOP).expect("it lives");
    let client = RawClient::new(server);
    for _ in 0..60_000 {
        client.send(&ack(1));
    }
    kill(process, Signal::SIGCONT).expect("it lives");
}

#[test]
fn what_the_kernel_drops_is_told_and_counted() {
    for format in ["text", "json"] {
        let server = Server::start(&["--log-format", format]);
        let dropped = || {
            let lines = flush(&server, "timer_operations");
            let line = lines.iter().rfind(|it| it.contains("counters")).unwrap();
            let count = line.split(['=', ':', ' ', ',', '}']);
            let mut count = count.skip_while(|it| !it.contains("kernel_dropped"));
            count.nth(1).and_then(|it| it.parse::<u64>().ok())
        };
        overflow(&server, server.pid());
        let is_told = |line: &str| {
            line.to_ascii_lowercase().contains("warn")
                && line.contains("the kernel dropped ")
                && line.contains("net.core.rmem_max")
        };
        assert!(server.wait_for_log(is_told, PATIENCE).is_some(), "{format}");
        let first = dropped().expect("a count");
        assert!(first > 1000, "{first}");
        // Once a minute.
        overflow(&server, server.pid());
        let deadline = Instant::now() + PATIENCE;
        while dropped() == Some(first) {
            assert!(Instant::now() < deadline, "no more are counted");
        }
        let lines = server.log_lines();
        assert_eq!(lines.iter().filter(|it| is_told(it)).count(), 1, "{format}");
    }
}

/// A server that can't keep up never empties its buffer.
#[test]
fn what_the_kernel_drops_is_told_while_more_keeps_coming() {
    let server = Server::start(&[]);
    let is_over = AtomicBool::new(false);
    let line = std::thread::scope(|scope| {
        let flood = || {
            let client = RawClient::new(&server);
            while !is_over.load(Ordering::Relaxed) {
                client.send(&rrq("missing", &[]));
            }
        };
        for _ in 0..3 {
            scope.spawn(flood);
        }
        let line = server.wait_for_log(|line| line.contains("the kernel dropped "), PATIENCE);
        is_over.store(true, Ordering::Relaxed);
        line
    });
    assert!(line.is_some(), "{:#?}", server.log_lines());
}

#[test]
fn a_server_for_which_nothing_was_dropped_says_nothing_of_it() {
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    // More than are read at once, and fewer than the smallest buffer holds.
    for _ in 0..200 {
        client.send(&ack(1));
    }
    server.fence();
    let lines = flush(&server, "counters ");
    assert!(!lines.iter().any(|it| it.contains("kernel")), "{lines:#?}");
}

#[test]
fn a_repeated_miss_is_told_once_and_then_counted() {
    let server = Server::start(&[]);
    for port in 0..25 {
        // From a new port each time, as firmware does.
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&rrq("missing", &[]));
        assert_eq!(packet.error_code(), Some(1), "{port}");
    }
    RawClient::new(&server).ask(&rrq("another", &[]));
    let lines = flush(&server, "counters ");
    let lines: Vec<_> = lines.iter().filter(|line| is_refusal(line)).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(!lines[0].contains("times="), "{lines:#?}");
    assert!(lines[1].contains("another"), "{lines:#?}");
    assert!(lines[2].ends_with(" times=25"), "{lines:#?}");
}

#[test]
fn a_boot_loaders_search_by_misses_is_one_line() {
    let server = Server::start(&[]);
    server.file("pxelinux.cfg/default", b"x");
    let client = RawClient::new(&server);
    for name in [
        "01-88-99-aa-bb-cc-dd",
        "7F000001",
        "7F00000",
        "7F0000",
        "7F",
    ] {
        client.ask(&rrq(&format!("pxelinux.cfg/{name}"), &[]));
    }
    assert_eq!(client.read("pxelinux.cfg/default").unwrap(), b"x");
    let searched = |line: &str| line.contains("searched ");
    let line = server.wait_for_log(searched, PATIENCE).expect("a line");
    let told = r#" directory="pxelinux.cfg/" misses=5 found="default""#;
    assert!(line.contains("INFO") && line.ends_with(told), "{line}");
    // A search that finds nothing is logged as well.
    client.ask(&rrq("grub/grub.cfg-7F000001", &[]));
    client.ask(&rrq("grub/grub.cfg", &[]));
    let lines = flush(&server, "counters ");
    let line = lines.iter().rfind(|line| searched(line)).expect("a line");
    let told = r#" directory="grub/" misses=2 missed="grub.cfg""#;
    assert!(line.contains("WARN") && line.ends_with(told), "{line}");
    assert!(!lines.iter().any(|line| is_refusal(line)), "{lines:#?}");
}

#[test]
fn the_begin_of_a_transfer_is_told_and_what_runs_is_listed() {
    let server = Server::start(&["-v", "-t", "60000"]);
    server.file("f", &content(1, 2 * BLOCK));
    let client = RawClient::new(&server);
    client.ask_data(&rrq("f", &[]));
    let lines = flush(&server, "counters ");
    let peer = client.addr();
    for (word, end) in [
        ("started", "blksize=512 windowsize=1 size=1024"),
        ("running", "retransmits=0 size=1024 state=opening"),
    ] {
        let start = format!("{word} peer={peer} op=read file=\"f\" ");
        let told = |line: &&String| line.contains(&start) && line.ends_with(end);
        assert_eq!(lines.iter().filter(told).count(), 1, "{word}: {lines:#?}");
    }
}

#[test]
fn every_packet_is_traced_with_its_options() {
    let server = Server::start(&[&["-vv"], &NEVER[..]].concat());
    server.file("f", b"x");
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&rrq("f", &[("blksize", "600"), ("tsize", "0")]));
    client.say(&ack(0), tid);
    client.send_to(&ack(1), tid);
    server.wait_ended(client.addr(), 1);
    client.ask(&rrq("missing", &[]));
    server.fence();
    let peer = client.addr().to_string();
    let lines = server.log_lines();
    for packet in [
        "received RRQ <file=f, mode=octet, blksize=600, tsize=0>",
        "sent OACK <blksize=600, tsize=1>",
        "received ACK <block=0>",
        "sent DATA <block=1, 1 bytes>",
        "received ACK <block=1>",
        "received RRQ <file=missing, mode=octet>",
        "sent ERROR <code=1, msg=File not found>",
    ] {
        let told = |line: &&String| line.contains(&peer) && line.ends_with(packet);
        assert_eq!(lines.iter().filter(told).count(), 1, "{packet}: {lines:#?}");
    }
}

#[test]
fn a_strangers_packet_and_its_answer_are_traced() {
    let server = Server::start(&["-vv", "-t", "60000"]);
    server.file("f", b"x");
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&rrq("f", &[]));
    let stranger = RawClient::new(&server);
    stranger.send_to(&data(2, b"evil"), tid);
    assert_eq!(stranger.expect().0.error_code(), Some(5));
    let peer = stranger.addr().to_string();
    for packet in [
        "received DATA <block=2, 4 bytes>",
        "sent ERROR <code=5, msg=Unknown transfer ID>",
    ] {
        let told = |line: &str| line.contains(&peer) && line.ends_with(packet);
        assert!(server.wait_for_log(told, PATIENCE).is_some(), "{packet}");
    }
}

#[test]
fn a_flood_of_one_networks_refusals_leaves_room_for_anothers() {
    let server = Server::start_bare(&["-a", "127.0.0.1"]);
    let noisy = RawClient::to(server.addr());
    // Many at a time, so that it takes only a few seconds even on a busy machine.
    for first in (0..400).step_by(50) {
        for number in first..first + 50 {
            noisy.send(&rrq(&format!("noise{number}"), &[]));
        }
        for _ in 0..50 {
            noisy.expect();
        }
    }
    let honest = rrq("honest", &[]);
    // One of them may fall into the same hash slot as the noisy one.
    for network in 7..10 {
        let socket = UdpSocket::bind(format!("127.9.{network}.9:0")).expect("a loopback address");
        let sent = socket.send_to(&honest, server.addr());
        sent.expect("loopback takes it");
    }
    let told = |line: &str| line.contains("file=\"honest\"");
    assert!(server.wait_for_log(told, PATIENCE).is_some());
    let left_out = |line: &str| line.contains("left_out of=refused lines=");
    assert!(server.wait_for_log(left_out, PATIENCE).is_some());
    let lines = server.log_lines();
    let told = lines.iter().filter(|line| line.contains("noise")).count();
    assert!((50..400).contains(&told), "{told} lines");
}

// --- a log that nobody reads ----------------------------------------------------------

/// A server that logs to `log`, which nobody reads; killed when dropped.
struct Unread(Child, SocketAddr);

impl Unread {
    fn start(args: &[&str], log: impl Into<Stdio>) -> Self {
        let address = own_port();
        let child = Command::new(tftpd())
            .args(["-a", &address.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("tftpd starts");
        Self(child, address)
    }

    /// Makes the server log more lines than a pipe or a terminal holds; it must still
    /// answer.
    fn assert_awake(&self) {
        let first = RawClient::to(self.1);
        first.ask_patiently(&rrq("missing", &[]));
        for number in 0..1500 {
            let (packet, _) = first.ask(&rrq(&number.to_string(), &[("blksize", "1")]));
            assert_eq!(packet.error_code(), Some(1), "{number}");
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_terminal_that_nobody_reads_does_not_block_the_server() {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().to_str().expect("a plain path");
    // Everything that it does is logged.
    let server = Unread::start(&["-vv", root], terminal.slave.try_clone().unwrap());
    server.assert_awake();
    let flags = nix::fcntl::fcntl(&terminal.slave, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    let leaked = flags & nix::libc::O_NONBLOCK;
    assert_eq!(
        leaked, 0,
        "others that share the terminal don't expect that"
    );
}

#[test]
fn a_pipe_that_nobody_reads_does_not_block_the_server_by_any_name() {
    for args in [&[][..], &["--log-file", "/dev/stderr"]] {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_str().expect("a plain path");
        let server = Unread::start(&[args, &["-vv", root]].concat(), writer);
        server.assert_awake();
    }
}

#[test]
fn a_fifo_without_a_reader_does_not_block_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("log");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a FIFO");
    let [fifo, root] = [&fifo, dir.path()].map(|it: &Path| it.to_str().expect("plain"));
    let server = Unread::start(&["-vv", "--log-file", fifo, root], Stdio::null());
    server.assert_awake();
    // A reader that comes late finds what was written before.
    let file = fs::File::open(fifo).expect("a FIFO");
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("listening on")));
}

// --- a log that moves ---------------------------------------------------------------

/// A directory that only root can change, with a root for the server in it.
fn roots_directory() -> Option<(TempDir, String)> {
    if !geteuid().is_root() {
        skip("only root can become someone else");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a root");
    let root = root.to_str().expect("a plain path").to_owned();
    Some((dir, root))
}

/// The ways to lose the right to open a file in root's directory.
const CONFINED: [&[&str]; 3] = [
    &["-u", "nobody"],
    &["-u", "nobody", "--chroot"],
    &["--chroot", "--no-sandbox"],
];

#[test]
fn a_log_file_that_was_rotated_is_opened_again_whatever_was_given_up() {
    for args in CONFINED {
        let Some((dir, root)) = roots_directory() else {
            return;
        };
        let log = dir.path().join("log");
        let option = format!("--log-file={}", log.display());
        let server = Unread::start(&[args, &[&option, &root]].concat(), Stdio::null());
        let client = RawClient::to(server.1);
        client.ask_patiently(&rrq("first", &[]));
        // As logrotate does it: the new file gets the owner of the old one.
        let old = fs::metadata(&log).expect("a log");
        fs::rename(&log, dir.path().join("log.1")).expect("ours");
        fs::write(&log, b"").expect("ours");
        chown(&log, Some(old.uid()), Some(old.gid())).expect("ours to give");
        fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).expect("ours");
        let pid = Pid::from_raw(server.0.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGHUP).expect("it lives");
        let told = (0..100).any(|round| {
            client.ask(&rrq(&format!("second{round}"), &[]));
            fs::read_to_string(&log).is_ok_and(|text| text.contains("second"))
        });
        assert!(told, "{args:?}");
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_again_stays_in_use_and_says_so() {
    let Some((dir, root)) = roots_directory() else {
        return;
    };
    let [log, old] = ["log", "log.1"].map(|name| dir.path().join(name));
    let option = format!("--log-file={}", log.display());
    let server = Unread::start(&["-u", "nobody", &option, &root], Stdio::null());
    let client = RawClient::to(server.1);
    client.ask_patiently(&rrq("first", &[]));
    fs::rename(&log, &old).expect("ours");
    let pid = Pid::from_raw(server.0.id().try_into().expect("a pid"));
    kill(pid, Signal::SIGHUP).expect("it lives");
    let told = (0..100).any(|round| {
        client.ask(&rrq(&format!("second{round}"), &[]));
        let text = fs::read_to_string(&old).expect("the old log");
        text.contains("cannot open the log file again") && text.contains("second")
    });
    assert!(told, "{:?}", fs::read_to_string(&old));
}

/// Users other than root can write to the log's directory: a link that they put there must
/// not make root write to a file of its own, or give that file away.
#[test]
fn root_opens_no_log_through_a_link_that_others_may_have_put_there() {
    let Some((dir, root)) = roots_directory() else {
        return;
    };
    let victim = dir.path().join("shadow");
    fs::write(&victim, "root:*:\n").expect("ours");
    fs::create_dir(dir.path().join("log")).expect("ours");
    chown(dir.path().join("log"), Some(NOBODY), None).expect("ours to give");
    let log = dir.path().join("log/log");
    let option = format!("--log-file={}", log.display());
    let plants: [fn(&Path, &Path) -> std::io::Result<()>; 2] = [
        |victim, log| symlink(victim, log),
        |victim, log| fs::hard_link(victim, log),
    ];
    for plant in plants {
        plant(&victim, &log).expect("a link");
        for user in ["nobody", "root"] {
            let output = bounded(10, tftpd())
                .args(["-p", "0", "-a", "127.0.0.1", "-u", user, &option, &root])
                .output()
                .expect("it runs");
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains("it is a link"), "{}", said(&output));
            assert_eq!(fs::read(&victim).expect("ours"), b"root:*:\n");
            assert_eq!(fs::metadata(&victim).expect("ours").uid(), 0);
        }
        fs::remove_file(&log).expect("ours");
    }
}

/// In a directory that only root can write to, a link is root's own; and the file that it
/// leads to, which others share, keeps its owner.
#[test]
fn a_log_that_root_shares_with_others_stays_roots() {
    let Some((dir, root)) = roots_directory() else {
        return;
    };
    let [log, target] = ["log", "daemon.log"].map(|name| dir.path().join(name));
    fs::write(&target, "before\n").expect("ours");
    symlink(&target, &log).expect("a link");
    let option = format!("--log-file={}", log.display());
    let server = Unread::start(&["-u", "nobody", &option, &root], Stdio::null());
    RawClient::to(server.1).ask_patiently(&rrq("first", &[]));
    let text = fs::read_to_string(&target).expect("a log");
    assert!(
        text.starts_with("before\n") && text.contains("first"),
        "{text}"
    );
    assert_eq!(fs::metadata(&target).expect("ours").uid(), 0);
}

#[test]
fn a_syslog_that_was_restarted_is_found_again_from_a_chroot() {
    for args in CONFINED {
        let Some((dir, root)) = roots_directory() else {
            return;
        };
        let path = dir.path().join("syslog");
        let listen = || {
            let syslog = UnixDatagram::bind(&path).expect("a free name");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("ours");
            syslog.set_nonblocking(true).expect("a socket");
            syslog
        };
        let syslog = listen();
        let option = format!("--syslog={}", path.display());
        let server = Unread::start(&[args, &[&option, &root]].concat(), Stdio::null());
        let client = RawClient::to(server.1);
        client.ask_patiently(&rrq("first", &[]));
        // A child of another test may hold a copy of the socket until it calls exec.
        syslog.shutdown(Shutdown::Both).expect("a socket");
        drop(syslog);
        fs::remove_file(&path).expect("ours");
        client.ask(&rrq("lost", &[]));
        let syslog = listen();
        client.ask(&rrq("second", &[]));
        client.ask(&rrq("third", &[]));
        let mut buffer = [0; 4096];
        let mut heard = String::new();
        while let Ok(len) = syslog.recv(&mut buffer) {
            heard.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        for word in ["1 line of the log was lost", "file=\"second\""] {
            assert!(heard.contains(word), "{args:?}: no {word}: {heard}");
        }
        // The server is still in its root.
        fs::write(dir.path().join("root/f"), b"x").expect("a file");
        assert_eq!(client.read("f").unwrap(), b"x", "{args:?}");
    }
}

#[test]
fn a_name_in_another_case_is_told() {
    let server = Server::start(&[]);
    server.file("boot/bcd", b"x");
    let client = RawClient::new(&server);
    client.ask(&rrq("Boot/BCD", &[]));
    let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
    let hint = r#" hint="did you mean boot/bcd? try --ignore-case""#;
    assert!(line.ends_with(hint), "{line}");
}

#[test]
fn an_upload_that_is_shorter_than_announced_is_told() {
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    for (mode, name, hint) in [
        ("octet", "short", true),
        ("octet", "whole", false),
        ("netascii", "text", false),
    ] {
        let announced = if name == "whole" { "3" } else { "600" };
        let options = [("tsize", announced)];
        let (_, tid) = client.ask(&request(2, name.as_bytes(), mode, &options));
        client.say(&data(1, b"end"), tid);
        let ended = |line: &str| line.contains("ended") && line.contains(name);
        let line = server.wait_for_log(ended, PATIENCE).expect("a line");
        let told =
            line.ends_with(r#" hint="less came than the client announced: compare the files""#);
        assert_eq!(told, hint, "{line}");
    }
}

#[test]
fn logrotate_goes_on_with_a_new_file_by_the_snippet() {
    let Some(logrotate) = optional("logrotate") else {
        return;
    };
    let Some((dir, root)) = roots_directory() else {
        return;
    };
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (log, pid_file, conf) = (path("tftpd.log"), path("tftpd.pid"), path("conf"));
    let options = [
        format!("--log-file={log}"),
        format!("--pid-file={pid_file}"),
    ];
    let args = ["-u", "nobody", &options[0], &options[1], &root];
    let server = Unread::start(&args, Stdio::null());
    let client = RawClient::to(server.1);
    client.ask_patiently(&rrq("first", &[]));
    let snippet = fs::read_to_string("scripts/logrotate/tftpd").expect("the snippet");
    let snippet = snippet.replace("/var/log/tftpd.log", &log);
    fs::write(&conf, snippet.replace("/run/tftpd.pid", &pid_file)).expect("ours");
    let output = bounded(20, logrotate)
        .args(["--force", "--state", &path("state"), &conf])
        .output()
        .expect("logrotate(8)");
    assert!(output.status.success(), "{}", said(&output));
    let told = (0..100).any(|round| {
        client.ask(&rrq(&format!("second{round}"), &[]));
        fs::read_to_string(&log).is_ok_and(|text| text.contains("second"))
    });
    assert!(told, "{}", said(&output));
    let old = fs::read_to_string(format!("{log}.1")).expect("the old log");
    assert!(old.contains("first"), "{old}");
}

#[test]
fn a_link_that_leaves_the_root_is_told_with_the_remedy() {
    let server = Server::start(&[]);
    let deploy = server.outside().join("deploy");
    fs::create_dir(&deploy).expect("a directory");
    fs::write(deploy.join("kernel"), b"x").expect("a file");
    symlink("../deploy", server.root().join("images")).expect("a link");
    let client = RawClient::new(&server);
    for (request, remedy) in [
        (rrq("images/kernel", &[]), "allow it with --follow-links /"),
        (wrq("images/new", &[]), "uploads stay in ROOT"),
    ] {
        let (packet, _) = client.ask(&request);
        assert_eq!(packet.error_code(), Some(1));
        let told = |line: &str| is_refusal(line) && line.contains(remedy);
        let line = server.wait_for_log(told, PATIENCE).expect(remedy);
        let hint = format!(
            "hint=\"images is a link to {}, outside ROOT: ",
            deploy.display()
        );
        assert!(line.contains(&hint), "{line}");
    }
}

/// Ten misses are logged in one line, with the hint about the link that explains them all.
#[test]
fn a_search_in_a_directory_that_a_link_leaves_is_told_with_the_remedy() {
    let server = Server::start(&[]);
    fs::create_dir(server.outside().join("cfg")).expect("a directory");
    symlink("../cfg", server.root().join("pxelinux.cfg")).expect("a link");
    let client = RawClient::new(&server);
    for name in ["C0A8025B", "C0A8025", "default"] {
        client.ask(&rrq(&format!("pxelinux.cfg/{name}"), &[]));
    }
    let lines = flush(&server, "counters ");
    let searched = |line: &&String| line.contains("searched ");
    let line = lines.iter().rfind(searched).expect("a line");
    let told = r#" misses=3 missed="default" hint="pxelinux.cfg is a link to "#;
    assert!(line.contains(told), "{line}");
}

#[test]
#[cfg(feature = "map")]
fn a_hint_is_about_the_name_that_rules_have_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let map = dir.path().join("map");
    fs::write(&map, "r ^ boot/\n").expect("a file");
    let server = Server::start(&["-m", map.to_str().expect("plain")]);
    // The requested name is such a link too, but nobody looked it up.
    symlink("../elsewhere", server.root().join("kernel")).expect("a link");
    fs::create_dir(server.root().join("boot")).expect("a directory");
    symlink("../../deploy", server.root().join("boot/kernel")).expect("a link");
    RawClient::new(&server).ask(&rrq("kernel", &[]));
    let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
    assert!(line.contains("hint=\"boot/kernel is a link to "), "{line}");
}

/// Otherwise a long name would make its session large.
#[test]
fn a_name_made_long_for_nothing_is_told_as_it_is_on_the_disk() {
    let server = Server::start(&[]);
    server.file("f", b"x");
    let client = RawClient::new(&server);
    client.read(&("./".repeat(200) + "f")).expect("it is there");
    let line = server.wait_ended(client.addr(), 1).remove(0);
    assert!(line.contains(" file=\"f\" "), "{line}");
}

#[test]
fn roots_lack_of_rights_over_others_files_is_told_with_the_remedy() {
    let Some((dir, root)) = roots_directory() else {
        return;
    };
    let file = Path::new(&root).join("f");
    fs::write(&file, b"x").expect("a file");
    chown(&file, Some(NOBODY), None).expect("ours to give");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    let log = dir.path().join("log");
    let option = format!("--log-file={}", log.display());
    let server = Unread::start(&[&option, &root], Stdio::null());
    let (packet, _) = RawClient::to(server.1).ask_patiently(&rrq("f", &[]));
    assert_eq!(packet.error_code(), Some(2));
    let text = fs::read_to_string(&log).expect("a log");
    let line = text.lines().find(|line| is_refusal(line)).expect("a line");
    assert!(
        line.contains("EACCES") && line.contains("-u USER"),
        "{line}"
    );
}

#[test]
fn how_names_and_uploads_are_done_is_told_in_words() {
    let server = Server::start(&["-v"]);
    let told = |line: &str| line.contains("names are resolved ");
    let line = server.wait_for_log(told, PATIENCE).expect("a line");
    assert!(!line.contains('{'), "{line}");
}

#[test]
fn a_probe_for_the_size_is_told_as_one() {
    let server = Server::start(&[]);
    server.file("f", b"x");
    let client = RawClient::new(&server);
    let (_, tid) = client.ask(&rrq("f", &[("tsize", "0")]));
    // The way in which UEFI firmware ends a probe.
    client.send_to(b"\0\x05\0\x08no more\0", tid);
    let line = server.wait_ended(client.addr(), 1).remove(0);
    let is_right = line.contains("[INFO]") && line.ends_with(" outcome=probed");
    assert!(is_right, "{line}");
}

#[test]
fn a_directory_is_told_as_one_in_the_sandbox_and_without() {
    for args in [&[][..], &["--no-sandbox"], &["--read-only"]] {
        let server = Server::start(args);
        fs::create_dir(server.root().join("d")).expect("a directory");
        let (packet, _) = RawClient::new(&server).ask(&rrq("d", &[]));
        assert_eq!(packet.error_code(), Some(2), "{args:?}");
        let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
        assert!(line.contains("Access violation: is a directory"), "{line}");
    }
}
