//! At home on a host without systemd: the pid file, the syslog, inetd.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

// --- the pid file -------------------------------------------------------------------

/// Runs a server with the pid file until SIGTERM; what the file held.
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
        eprintln!("skipped: only root can become someone else");
        return;
    }
    // The directory is root's: it can't be removed, but says nothing wrong.
    for args in [
        &["-u", "nobody"][..],
        &["-u", "nobody", "--chroot"],
        &["--chroot"],
    ] {
        run_with_pid_file(&file, args);
        assert_eq!(fs::read(&file).expect("a file"), b"", "{args:?}");
    }
    // A directory of the user's own.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("ours to give");
    run_with_pid_file(&file, &["-u", "nobody"]);
    assert!(!file.exists(), "nobody could have removed it");
}

#[test]
fn a_pid_file_that_cannot_be_written_is_one_line() {
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

/// What the syslog heard: the first line with `word` in it.
#[track_caller]
fn heard(syslog: &UnixDatagram, word: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let len = syslog.recv(&mut buffer).expect("a line for the syslog");
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
fn a_syslog_that_is_not_there_is_one_line() {
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
