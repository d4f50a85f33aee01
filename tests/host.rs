//! On a host without systemd: the pid file, the syslog, inetd.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

// --- the pid file -------------------------------------------------------------------

/// Runs a server with the pid file until SIGTERM, and checks the file meanwhile.
fn run_with_pid_file(file: &Path, args: &[&str]) -> String {
    let option = format!("--pid-file={}", file.display());
    let mut server = Server::start(&[args, &[&option]].concat());
    let text = fs::read_to_string(file).expect("a pid file");
    assert_eq!(text, format!("{}\n", server.pid()), "{args:?}");
    server.signal(Signal::SIGTERM);
    assert!(
        server
            .wait_exit(PATIENCE)
            .is_some_and(|status| status.success())
    );
    text
}

#[test]
fn the_pid_file_is_there_as_long_as_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pid");
    for args in [&[][..], &["--no-sandbox"]] {
        run_with_pid_file(&file, args);
        assert!(!file.exists(), "{args:?}: it is left");
    }
    if !geteuid().is_root() {
        skip("only root can become someone else");
        return;
    }
    // The directory belongs to root: the file can't be removed, so it is truncated.
    for args in [
        &["-u", "nobody"][..],
        &["-u", "nobody", "--chroot"],
        &["--chroot"],
    ] {
        run_with_pid_file(&file, args);
        assert_eq!(fs::read(&file).expect("a file"), b"", "{args:?}");
    }
    // A directory that belongs to the user.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("ours to give");
    run_with_pid_file(&file, &["-u", "nobody"]);
    assert!(!file.exists(), "nobody could have removed it");
}

#[test]
fn a_second_start_leaves_the_pid_file_of_the_running_server_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("pid");
    let option = format!("--pid-file={}", file.display());
    let server = Server::start(&[&option]);
    let address = server.addr().to_string();
    let pid = format!("{}\n", server.pid());
    // First the port and the pid file are taken, then only the pid file.
    for args in [&["-a", &address][..], &["-a", "127.0.0.1:0"]] {
        let second = bounded(10, tftpd())
            .arg(&option)
            .args(args)
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(1), "{}", said(&second));
        assert_eq!(fs::read_to_string(&file).unwrap(), pid, "{args:?}");
    }
    drop(server);
    Server::start(&[&option]);
}

#[test]
fn an_unwritable_pid_file_is_reported_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = format!("{}/no/such/pid", dir.path().display());
    let output = bounded(10, tftpd())
        .args(["-a", "127.0.0.1:0", "-P", &file])
        .arg(dir.path())
        .output()
        .expect("tftpd");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with(&format!("tftpd: cannot write the pid file {file}: ")),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

// --- the syslog ---------------------------------------------------------------------

/// The first line containing `word` that the syslog received.
#[track_caller]
fn heard(syslog: &UnixDatagram, word: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let len = uninterrupted(|| syslog.recv(&mut buffer)).expect("a line for the syslog");
        let line = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if line.contains(word) {
            return line;
        }
    }
}

#[test]
fn the_syslog_gets_lines_with_priorities() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let syslog = UnixDatagram::bind(&path).expect("a free name");
    syslog.set_read_timeout(Some(PATIENCE)).expect("a duration");
    let mut child = Command::new(tftpd())
        .args(["-a", "127.0.0.1:0", &format!("--syslog={}", path.display())])
        .arg(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tftpd starts");
    let line = heard(&syslog, "listening on");
    let prefix = format!("<30>tftpd[{}]: ", child.id());
    assert!(line.starts_with(&prefix), "{line}");
    let client = RawClient::to(listening(&line)[0]);
    let (packet, _) = client.ask(&rrq("no\nsuch\u{1b}file", &[]));
    assert_eq!(packet.error_code(), Some(1));
    let line = heard(&syslog, "refused");
    assert!(line.starts_with("<28>tftpd["), "{line}");
    assert!(!line.contains(char::is_control), "{line:?}");
    child.kill().expect("a child of ours");
    let output = child.wait_with_output().expect("a child of ours");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_missing_syslog_is_reported_in_one_line() {
    let output = bounded(10, tftpd())
        .args(["-a", "127.0.0.1:0", "--syslog=/no/such/socket"])
        .output()
        .expect("tftpd");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("tftpd: cannot reach the syslog at /no/such/socket: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

// --- inetd --------------------------------------------------------------------------

/// A server with `socket` as standard input, output and error, as inetd starts it.
fn on_standard_input(socket: &UdpSocket, args: &[&str]) -> Command {
    let copy = || Stdio::from(OwnedFd::from(socket.try_clone().expect("a descriptor")));
    let mut command = Command::new(tftpd());
    command
        .args(args)
        .stdin(copy())
        .stdout(copy())
        .stderr(copy());
    command
}

#[test]
fn the_socket_on_standard_input_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), b"by inetd").expect("a file");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound");
    // A request that came before the server started is served as well.
    let client = RawClient::to(address);
    client.send(&rrq("f", &[]));
    let root = dir.path().to_str().expect("a plain path");
    let mut child = on_standard_input(&socket, &["--idle-exit", "1", root])
        .spawn()
        .expect("tftpd starts");
    let (packet, tid) = client.expect();
    assert_eq!(packet, Packet::Data(1, b"by inetd".to_vec()));
    client.send_to(&ack(1), tid);
    let (packet, from) = client.ask(&rrq("missing", &[]));
    assert_eq!((packet.error_code(), from), (Some(1), address));
    // The server ends by itself, and no line of the log went to a client.
    assert!(child.wait().expect("a child of ours").success());
    assert_eq!(client.recv_now(), None);
}

#[test]
fn a_start_that_fails_under_inetd_is_told_to_nobody_but_the_syslog() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for (args, status) in [(["/no/such/root"], 1), (["--bogus"], 2)] {
        let ended = on_standard_input(&socket, &args).status();
        assert_eq!(ended.expect("tftpd").code(), Some(status));
    }
}

#[test]
fn a_tcp_socket_on_standard_input_is_reported_in_one_line() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let output = Command::new(tftpd())
        .stdin(Stdio::from(OwnedFd::from(tcp)))
        .output()
        .expect("tftpd");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("dgram udp wait"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// A real inetd with one line of configuration, and the syslog for its servers; stopped
/// when dropped.
struct Inetd {
    child: Child,
    syslog: UnixDatagram,
    dir: TempDir,
}

impl Inetd {
    fn start(address: SocketAddr, args: &str) -> Option<Self> {
        let inetd = peer_program("inetd")?;
        let unshared = Command::new("unshare").args(["--mount", "true"]).status();
        if !unshared.is_ok_and(|status| status.success()) {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "no mount namespace can be had");
            skip("no mount namespace can be had");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let syslog = UnixDatagram::bind(path("log")).expect("a free name");
        syslog.set_read_timeout(Some(PATIENCE)).expect("a duration");
        fs::create_dir(path("root")).expect("a root");
        let (server, root) = (tftpd(), path("root"));
        let line = format!(
            "{address} dgram udp wait root {server} tftpd {args} {}\n",
            root.display()
        );
        fs::write(path("conf"), line).expect("a file");
        // It gets a /dev and a /run of its own.
        let script = r#"mount -t tmpfs none /run && mount -t tmpfs none /dev &&
            ln -s "$1/log" /dev/log && mknod -m 666 /dev/null c 1 3 && exec "$2" -i "$1/conf""#;
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(dir.path())
            .arg(inetd)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare(1)");
        Some(Self { child, syslog, dir })
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_inetd_starts_the_server_again_and_again() {
    let address = own_port();
    let Some(inetd) = Inetd::start(address, "--idle-exit 1") else {
        return;
    };
    let file = content(4, 3 * BLOCK);
    fs::write(inetd.dir.path().join("root/f"), &file).expect("a file");
    let mut servers = Vec::new();
    for _ in 0..2 {
        // Until inetd listens, nobody answers.
        let client = RawClient::to(address);
        let (packet, tid) = client.ask_patiently(&rrq("missing", &[]));
        assert_eq!((packet.error_code(), tid), (Some(1), address));
        assert_eq!(RawClient::to(address).read("f").unwrap(), file);
        let line = heard(&inetd.syslog, "listening on");
        assert_eq!(listening(&line), [address]);
        servers.push(line.split(':').next().expect("a tag").to_owned());
        assert!(
            servers[servers.len() - 1].starts_with("<30>tftpd["),
            "{line}"
        );
        heard(&inetd.syslog, "nothing to do for 1s");
        heard(&inetd.syslog, "stopped");
    }
    assert_ne!(servers[0], servers[1], "it never left");
}

// --- the first process of a container --------------------------------------------------

/// The children of a process.
fn children(pid: impl std::fmt::Display) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .map(|pid| pid.parse().expect("a number"))
        .collect()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test stands outside")]
fn the_first_process_of_a_container_reaps_orphans_and_obeys_sigterm() {
    // Runs a command as the first process, with a child that soon ends.
    let first = ["--pid", "--fork", "--kill-child", "sh", "-c"];
    let script = "sleep 0.2 & exec \"$@\"";
    let tried = Command::new("unshare")
        .args(first)
        .args([script, "sh", "true"])
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip("no PID namespace can be had");
    }
    let mut server = Server::start_prepared(&["-a", &own_address().to_string()], |_| {
        let mut command = Command::new("unshare");
        command.args(first).args([script, "sh", tftpd()]);
        command
    });
    let own = children(server.pid())[0];
    let deadline = std::time::Instant::now() + PATIENCE;
    while !children(own).is_empty() {
        assert!(std::time::Instant::now() < deadline, "a zombie is left");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(own), Signal::SIGTERM).expect("it runs");
    let status = server.wait_exit(PATIENCE);
    assert!(status.is_some_and(|status| status.success()));
}

// --- processors ---------------------------------------------------------------------

#[test]
fn busy_polling_counts_the_machines_processors_and_not_the_affinity() {
    if processors() < 2 || require("taskset").is_none() {
        skip("it takes two processors, and taskset");
        return;
    }
    for args in [&["-v"][..], &["-v", "--no-sandbox"]] {
        let server = Server::start_prepared(args, |_| {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", "0", tftpd()]);
            command
        });
        let says_how_long = |line: &str| line.contains("awake for up to 50µs");
        let said = server.wait_for_log(says_how_long, PATIENCE);
        assert!(said.is_some(), "{args:?}: {:#?}", server.log_lines());
    }
}

/// The number of processors of the machine.
fn processors() -> usize {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").expect("it is always there");
    let is_one = |line: &&str| line.starts_with("processor");
    cpuinfo.lines().filter(is_one).count()
}
