//! Signals: the server is told, and nothing is left behind.

use std::process::{Command, Stdio};

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn an_interrupt_tells_the_server_and_leaves_nothing() {
    for (signal, expected) in [
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Scripted::new();
        // Not with timeout(1), which would take the signal.
        let child = Command::new(env!("CARGO_BIN_EXE_tftp"))
            .current_dir(dir.path())
            .args(["get", &server.url()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.request();
        assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(server.receive().error_code(), Some(0));
        let output = child.wait_with_output().unwrap();
        assert_status(&output, expected, &["interrupted"]);
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
}

/// A shell has what it runs in the background ignore the interrupts of the
/// terminal, and nohup(1) its end.
#[test]
fn an_interrupt_that_is_to_be_ignored_is() {
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Scripted::new();
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!(r#"trap "" {name} && exec "$0" get "$1""#);
        let child = Command::new("sh")
            .current_dir(dir.path())
            .args(["-c", &script])
            .args([env!("CARGO_BIN_EXE_tftp"), &server.url()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        server.request();
        assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(server.say(&data(2, b"end")), Packet::Ack(2));
        assert_status(&child.wait_with_output().unwrap(), 0, &[]);
    }
}

/// Then nothing tells which signals are ignored.
#[test]
fn without_proc_too_a_hang_up_that_is_to_be_ignored_is() {
    let unshared = Command::new("unshare").args(["--mount", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "no mount namespace can be had");
        skip("no mount namespace can be had");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut server = Scripted::new();
    let script = r#"mount -t tmpfs none /proc && trap "" HUP && exec "$0" get "$1""#;
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .args([env!("CARGO_BIN_EXE_tftp"), &server.url()])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.request();
    assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGHUP).unwrap();
    assert_eq!(server.say(&data(2, b"end")), Packet::Ack(2));
    assert_status(&child.wait_with_output().unwrap(), 0, &[]);
}

/// A slow reader must not keep a signal from ending the client.
#[test]
fn an_interrupt_ends_a_wait_for_the_reader_too() {
    let server = Server::start(&[]);
    server.file("big", &content(6, 3_000_000));
    let url = format!("tftp://{}/big", server.addr());
    let mut child = Command::new(env!("CARGO_BIN_EXE_tftp"))
        .args(["get", &url, "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    // The first bytes have come; the pipe can't hold everything.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 512]).unwrap();
    kill(pid, Signal::SIGINT).unwrap();
    let stdout = child.stdout.take();
    assert_status(&child.wait_with_output().unwrap(), 130, &["interrupted"]);
    drop(stdout);
}

/// Nobody has answered yet: the ERROR waits for the answer and goes to the port
/// that it comes from, not to the port that requests go to.
#[test]
fn an_interrupt_before_the_first_answer_is_told_to_the_next_answerer() {
    let mut server = Scripted::new();
    let child = Command::new(env!("CARGO_BIN_EXE_tftp"))
        .args(["get", &server.url(), "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.request();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(server.say(&oack(&[("blksize", "512")])), Packet::Ack(0));
    assert_eq!(server.receive().error_code(), Some(0));
    assert_status(&child.wait_with_output().unwrap(), 130, &["interrupted"]);
    server.listen.set_nonblocking(true).unwrap();
    let mut buffer = [0; 600];
    while let Ok(len) = server.listen.recv(&mut buffer) {
        assert_eq!(Packet::parse(&buffer[..len]).error_code(), None);
    }
}
