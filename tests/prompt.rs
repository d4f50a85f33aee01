//! The client's prompt: on a pseudo-terminal, for people, and on a pipe, for scripts.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stands outside: it fails where it stands, measures time and reads a terminal in a thread"
)]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use common::*;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TFTP: &str = env!("CARGO_BIN_EXE_tftp");

/// The client on a pseudo-terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// Output that has not been examined yet.
    shown: String,
}

impl Terminal {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        let keyboard = File::from(master);
        let mut display = keyboard.try_clone().expect("a descriptor");
        let stdio = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let child = Command::new(TFTP)
            .args(args)
            .current_dir(dir)
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("the client starts");
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal without another side gives an error when read.
            while let Ok(len @ 1..) = display.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keyboard,
            screen,
            shown: String::new(),
        }
    }

    /// Waits until `text` is shown; returns what came before it.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("no {text:?} in {:?}: {error}", self.shown),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("a terminal");
    }

    /// Types a line at the prompt and waits for each of `texts`.
    #[track_caller]
    fn command(&mut self, line: &str, texts: &[&str]) {
        self.expect("tftp> ");
        self.press(line);
        self.press("\r");
        for text in texts {
            self.expect(text);
        }
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().expect("a child of ours")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_on_a_terminal() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let (a, c) = (content(1, 100_000), content(2, 3000));
    server.file("a", &a);
    fs::write(dir.path().join("c"), &c).unwrap();
    let (host, port) = (server.addr().ip(), server.port());

    let mut terminal = Terminal::start(dir.path(), &[]);
    terminal.command(&format!("connect {host} {port}"), &[]);
    terminal.command("binary", &[]);
    terminal.command("verbose", &["Verbose mode on."]);
    terminal.command(
        "get a b",
        &[
            &format!("getting from {host}:a to b [octet]"),
            "Received 100000 bytes in ",
            " seconds [",
            "iB/s]",
        ],
    );
    terminal.command(
        "put c",
        &[
            &format!("putting c to {host}:c [octet]"),
            "Sent 3000 bytes in ",
        ],
    );
    // Tab completes commands and local names, with quotes where a name needs them.
    fs::write(dir.path().join("my (old) file"), "old").unwrap();
    let putting = format!("putting my (old) file to {host}:my (old) file [octet]");
    terminal.command("put my\t", &[&putting, "Sent 3 bytes in "]);
    terminal.command("sta\t", &["Mode: octet Verbose: on Tracing: off"]);
    terminal.command("put c\t d", &["putting c to", "Sent 3000 bytes in "]);
    terminal.command("get nothing", &["Error code 1: File not found"]);
    terminal.command("x", &["?Invalid command"]);
    // Ctrl-C discards the line, and the prompt stays.
    terminal.expect("tftp> ");
    terminal.press("get \x03");
    // The up arrow recalls earlier lines.
    terminal.command("\x1b[A\x1b[A", &["Error code 1: File not found"]);
    terminal.command("connect", &["(to) "]);
    terminal.press(&format!("{host} {port}\r"));
    terminal.command("verbose", &["Verbose mode off."]);
    terminal.command("get a", &["a: Received 100000 bytes in "]);
    terminal.command("quit", &[]);
    // One command has failed.
    assert_eq!(terminal.end().code(), Some(1));

    assert_same("get", &fs::read(dir.path().join("b")).unwrap(), &a);
    assert_same("put", &fs::read(server.root().join("c")).unwrap(), &c);
    assert_same("put", &fs::read(server.root().join("d")).unwrap(), &c);
    let old = fs::read(server.root().join("my (old) file")).unwrap();
    assert_same("put", &old, b"old");
}

/// Standard output may be a file, even if a person types the commands.
#[test]
fn without_a_terminal_on_standard_output_the_prompt_is_on_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
    let mut keyboard = File::from(master);
    let child = Command::new(TFTP)
        .current_dir(dir.path())
        .stdin(Stdio::from(slave))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    keyboard.write_all(b"mode\nquit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let [shown, asked] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    assert_eq!(
        (&*shown, &*asked),
        ("Using octet mode to transfer files.\n", "tftp> tftp> ")
    );
}

/// Plays a server up to the middle of a transfer; returns the client's address.
fn begin_transfer(server: &UdpSocket, size: usize) -> std::net::SocketAddr {
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 600];
    let (_, client) = server.recv_from(&mut buffer).expect("a request");
    let oack = format!("\0\x06tsize\0{size}\0");
    server.send_to(oack.as_bytes(), client).unwrap();
    assert_eq!(server.recv(&mut buffer).unwrap(), 4, "ACK 0");
    server.send_to(&data(1, &[0; 512]), client).unwrap();
    assert_eq!(server.recv(&mut buffer).unwrap(), 4, "ACK 1");
    client
}

#[test]
fn a_bar_shows_the_progress() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{addr}/large");
    for args in [
        &["get", &*url][..],
        &["127.0.0.1", &addr.port().to_string(), "-c", "get", "large"],
    ] {
        let mut terminal = Terminal::start(dir.path(), args);
        let client = begin_transfer(&server, 1024 * 1024);
        terminal.expect("large");
        terminal.expect("1.00 MiB");
        server.send_to(&error(0, "enough"), client).unwrap();
        terminal.expect("Error code 0: enough");
        assert_eq!(terminal.end().code(), Some(1));
    }
    // Without a terminal, no bar is drawn.
    let child = Command::new(TFTP)
        .current_dir(dir.path())
        .args(["get", &url])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = begin_transfer(&server, 515);
    server.send_to(&data(2, b"end"), client).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.starts_with("large: Received 515 bytes"),
        "{errors:?}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors:?}");
}

/// Traced packets would run into the bar, so there is none.
#[test]
fn a_trace_has_its_lines_to_itself() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{addr}/large");
    for args in [
        &["--trace", "get", &*url][..],
        &[
            "--trace",
            "127.0.0.1",
            &addr.port().to_string(),
            "-c",
            "get",
            "large",
        ],
    ] {
        let mut terminal = Terminal::start(dir.path(), args);
        let client = begin_transfer(&server, 1024 * 1024);
        server.send_to(&error(0, "enough"), client).unwrap();
        let before = terminal.expect("Error code 0: enough");
        assert!(before.contains("received DATA <block=1"), "{before:?}");
        assert!(!before.contains("MiB"), "{before:?}");
        assert_eq!(terminal.end().code(), Some(1));
    }
}

/// A prompt whose `get` has been ended by a signal, which the server is told.
fn interrupt_transfer(dir: &Path, signal: Signal) -> Terminal {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let mut terminal = Terminal::start(dir, &["127.0.0.1", &port]);
    terminal.command("get file", &[]);
    begin_transfer(&server, 4096);
    let pid = Pid::from_raw(terminal.child.id().cast_signed());
    kill(pid, signal).unwrap();
    terminal.expect("interrupted");
    let mut buffer = [0; 600];
    let len = server.recv(&mut buffer).unwrap();
    assert_eq!(Packet::parse(&buffer[..len]).error_code(), Some(0));
    terminal
}

#[test]
fn an_interrupt_ends_the_transfer_and_not_the_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = interrupt_transfer(dir.path(), Signal::SIGINT);
    terminal.command("status", &["Connected to 127.0.0.1."]);
    terminal.command("quit", &[]);
    // The prompt goes on, but a command has failed.
    assert_eq!(terminal.end().code(), Some(130));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Nobody is there any more to give another command.
#[test]
fn a_hang_up_and_a_termination_end_the_prompt_with_the_transfer() {
    for (signal, status) in [(Signal::SIGHUP, 129), (Signal::SIGTERM, 143)] {
        let dir = tempfile::tempdir().unwrap();
        let mut terminal = interrupt_transfer(dir.path(), signal);
        let ended = || terminal.child.try_wait().expect("a child of ours");
        let deadline = Instant::now() + PATIENCE;
        let ended = std::iter::repeat_with(ended)
            .find(|ended| ended.is_some() || Instant::now() > deadline)
            .flatten();
        let code = ended.and_then(|it| it.code());
        assert_eq!(code, Some(status), "{signal}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// Feeds the client's prompt from a pipe.
fn feed(dir: &Path, args: &[&str], lines: &str) -> Output {
    let mut child = bounded(60, TFTP)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_pipe_is_obeyed_line_by_line() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let host = server.addr().ip().to_string();
    let port = server.port().to_string();
    for name in ["a", "b", "sub/c", "d:e"] {
        server.file(name, name.as_bytes());
    }
    let peer = [&*host, &*port];
    let connected = format!("connect {host} {port}\n");
    let asked = format!("connect\n{host} {port}\nget\na\n");
    let missing = format!("tftp: tftp://{host}:{port}/nothing: Error code 1: File not found\n");
    for (args, lines, status, texts) in [
        (&peer[..], "get a\nquit\n", 0, &[][..]),
        (&peer, "get a", 0, &[]),
        (&peer, "get nothing\nget a\nquit\nget b\n", 1, &[&*missing]),
        (&[], &connected, 0, &[]),
        (&[], &asked, 0, &["a: Received 1 bytes in "]),
        (&peer, "put\n\n", 64, &["usage: put"]),
        (&[], "get a\n", 64, &["No target machine specified."]),
        (&[], "connect no-such-host.invalid\n", 68, &["unknown host"]),
        (
            &peer,
            "frobnicate\n",
            64,
            &["?Invalid command frobnicate; try help"],
        ),
        (&peer, "t\n", 64, &["?Ambiguous command t; try help"]),
        (
            &peer,
            "ver\nget a b sub/c\n",
            0,
            &["to a [octet]", "to b [octet]", "sub/c to c [octet]"],
        ),
        (
            &peer,
            "tr\nget a\n",
            0,
            &[
                "Packet tracing on.",
                "sent RRQ <file=a, mode=octet, tsize=0, blksize=1428, windowsize=16>",
                "received OACK <",
                "received DATA <block=1, 1 bytes>",
                "sent ACK <block=1>",
            ],
        ),
        (&peer, "lit\nget d:e\n", 0, &["Literal mode on."]),
        (
            &peer,
            "mode\nmode netascii\nmode\nmode mail\n",
            64,
            &[
                "Using octet mode",
                "Using netascii mode",
                "mail: unknown mode",
            ],
        ),
        (
            &peer,
            "ascii\nstatus\n",
            0,
            &[
                "Mode: netascii Verbose: off Tracing: off Literal: off",
                "Rexmt-interval: 1 seconds, Max-timeout: 31 seconds",
            ],
        ),
        (
            &peer,
            "rexmt 0.5\ntimeout 3\nblksize 512\nwindowsize 4\nstatus\n",
            0,
            &["Rexmt-interval: 0.5 seconds, Max-timeout: 3 seconds, Blksize: 512, Windowsize: 4"],
        ),
        (
            &peer,
            "rexmt 0\nblksize 7\nwindowsize\n",
            64,
            &["0: bad value", "7: bad value", "usage: windowsize"],
        ),
        (
            &peer,
            "?\nhelp get\n",
            0,
            &[
                "connect to remote tftp",
                "receive file",
                "usage: get REMOTE [LOCAL]",
            ],
        ),
        (&peer, "exit\n", 0, &[]),
    ] {
        let output = feed(dir.path(), args, lines);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(status), "{lines:?}: {text}");
        for wanted in texts {
            assert!(text.contains(wanted), "{lines:?}: no {wanted:?} in {text}");
        }
    }
    for (name, local) in [("a", "a"), ("b", "b"), ("sub/c", "c"), ("d:e", "d:e")] {
        assert_eq!(fs::read(dir.path().join(local)).unwrap(), name.as_bytes());
    }
}

/// A wrong command is told its usage as `help` has it, at the prompt and with `-c`.
#[test]
fn a_command_has_one_usage() {
    let dir = tempfile::tempdir().unwrap();
    for (name, wrong) in [
        ("connect", "connect a b c"),
        ("get", "get"),
        ("put", "put"),
        ("mget", "mget"),
        ("mput", "mput"),
        ("mode", "mode a b"),
        ("rexmt", "rexmt"),
        ("timeout", "timeout"),
        ("blksize", "blksize"),
        ("windowsize", "windowsize"),
    ] {
        let help = feed(dir.path(), &[], &format!("help {name}\n"));
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let usage = help.lines().find(|line| line.starts_with("usage: "));
        let usage = usage.unwrap_or_else(|| panic!("{name}: {help}"));
        let words: Vec<_> = wrong.split(' ').collect();
        let once = feed(dir.path(), &[&["-c"], &words[..]].concat(), "");
        let lines = feed(dir.path(), &[], &format!("{wrong}\n\n"));
        for output in [once, lines] {
            assert_eq!(output.status.code(), Some(64), "{}", said(&output));
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(told.lines().any(|line| line == usage), "{wrong}: {told}");
        }
    }
}

/// At the prompt, with `-c` and with `get`.
#[test]
fn a_mistake_begins_with_the_name_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = "tftp: no-such-host.invalid: unknown host\n";
    let nowhere = "tftp: No target machine specified.\n";
    for (words, lines, status, told) in [
        ("", "get f\n", 64, nowhere),
        ("", "put f\n", 64, nowhere),
        ("-c get f", "", 64, nowhere),
        ("", "connect no-such-host.invalid\n", 68, unknown),
        ("no-such-host.invalid", "", 68, unknown),
        ("no-such-host.invalid -c get f", "", 68, unknown),
        ("-c get no-such-host.invalid:f", "", 68, unknown),
        ("get no-such-host.invalid:f", "", 68, unknown),
        ("", "connect h x\n", 64, "tftp: x: bad port number\n"),
        ("", "mode mail\n", 64, "tftp: mail: unknown mode\n"),
        ("-c rexmt 0", "", 64, "tftp: 0: bad value: "),
        (
            "",
            "connect tftp://h/f\n",
            64,
            "tftp: tftp://h/f: to fetch it, write get tftp://h/f\n",
        ),
        (
            "-c connect tftp://h:70/",
            "",
            64,
            "tftp: tftp://h:70/: to connect to it, write connect h 70\n",
        ),
        (
            "127.0.0.1 -c get a/f b/f c",
            "",
            64,
            "tftp: a/f and b/f would be the same local file\n",
        ),
    ] {
        let words: Vec<_> = words.split_whitespace().collect();
        let output = feed(dir.path(), &words, lines);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with(told), "{words:?} {lines:?}: {text}");
    }
}

#[test]
fn each_of_several_files_has_a_line_that_names_it() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    server.file("b", b"b");
    server.file("sub/c", b"c");
    let output = feed(dir.path(), &[&host, &port], "get no never b sub/c\n");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = errors.lines().collect();
    let missing = |name| format!("tftp: tftp://{host}:{port}/{name}: Error code 1: File not found");
    assert_eq!(lines[..2], [missing("no"), missing("never")], "{errors}");
    assert!(lines[2].starts_with("b: Received 1 bytes in "), "{errors}");
    assert!(
        lines[3].starts_with("sub/c: Received 1 bytes in "),
        "{errors}"
    );
}

#[test]
fn files_of_one_command_never_overwrite_each_other() {
    let server = Server::start(&["--overwrite"]);
    let dir = tempfile::tempdir().unwrap();
    for (name, local) in [("f", "b/f"), ("sub/f", "a/f")] {
        server.file(name, name.as_bytes());
        fs::create_dir_all(dir.path().join(local).parent().unwrap()).unwrap();
        fs::write(dir.path().join(local), local).unwrap();
    }
    let before = server.tree();
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    for (line, told) in [
        ("get f sub/f x", "f and sub/f would be the same local file"),
        ("mget f sub/f .", "f and sub/f would be the same local file"),
        (
            "mget localhost:f sub/f .",
            "localhost:f and sub/f would be the same local file",
        ),
        (
            "mget f tftp://localhost/f;mode=octet .",
            "f and tftp://localhost/f;mode=octet would be the same local file",
        ),
        (
            "put a/f b/f .",
            "a/f and b/f would have the same name there",
        ),
        (
            "mput a/f b/f .",
            "a/f and b/f would have the same name there",
        ),
    ] {
        let output = feed(dir.path(), &[&host, &port], &format!("{line}\n"));
        let text = said(&output);
        assert_eq!(output.status.code(), Some(64), "{line}: {text}");
        assert!(text.contains(told), "{line}: {text}");
    }
    assert_eq!(server.tree(), before);
    assert!(!dir.path().join("f").exists());
}

#[test]
fn the_mode_of_a_url_is_that_of_one_command() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.file("f", b"f");
    let addr = server.addr();
    let lines = format!("trace\nget tftp://{addr}/f;mode=netascii\nget f\n");
    let text = said(&feed(dir.path(), &[], &lines));
    let asked = |mode: &str| text.find(&format!("sent RRQ <file=f, mode={mode},"));
    assert!(asked("netascii").is_some(), "{text}");
    assert!(asked("netascii") < asked("octet"), "{text}");
}

#[test]
fn a_trace_is_no_part_of_a_file_on_standard_output() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.file("f", b"bytes");
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let url = format!("tftp://{}/f", server.addr());
    for word in ["f", &url] {
        let args = ["-q", "--trace", &host, &port];
        let output = feed(dir.path(), &args, &format!("get {word} -\n"));
        assert_eq!(output.stdout, b"bytes", "{}", said(&output));
        let output = feed(dir.path(), &args, &format!("get {word} -\nget {word}\n"));
        // Nor behind it: the last ACK may be due again.
        assert_eq!(output.stdout, b"bytes", "{}", said(&output));
    }
    // Nor what other commands have to say.
    for (command, told) in [
        ("trace", "Packet tracing on."),
        ("status", "Connected to"),
        ("help", "Commands are:"),
        ("help get", "receive file"),
        ("get", "usage: get"),
        ("nonsense", "?Invalid command"),
    ] {
        let lines = format!("get f -\n{command}\n");
        let output = feed(dir.path(), &["-q", &host, &port], &lines);
        assert_eq!(output.stdout, b"bytes", "{command}: {}", said(&output));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(told), "{command}: {errors}");
    }
    // Neither a prompt nor what is told of other files.
    fs::write(dir.path().join("here"), "here").unwrap();
    let lines = "get f\nput here\nget f -\nget f\n";
    let output = feed(dir.path(), &[&host, &port], lines);
    assert_eq!(output.stdout, b"bytes", "{}", said(&output));
    let errors = String::from_utf8_lossy(&output.stderr);
    let told: Vec<_> = errors.lines().map(|it| &it[..it.len().min(12)]).collect();
    assert_eq!(
        told,
        [
            "f: Received ",
            "here: Sent 4",
            "f: Received ",
            "f: Received "
        ],
        "{errors}"
    );
    // Nor anything with --quiet.
    let output = feed(dir.path(), &["-q", &host, &port], "get f\nget f -\n");
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"bytes"[..], &b""[..])
    );
}

#[test]
fn several_files_go_to_a_directory() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(server.root().join("into")).unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let output = feed(
        dir.path(),
        &[&host, &port],
        "put a b into\nput a into/x\nput b into/\n",
    );
    // The last file is there already.
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let at = |name: &str| fs::read(server.root().join("into").join(name)).unwrap();
    assert_eq!(
        (at("a"), at("b"), at("x")),
        (b"a".to_vec(), b"b".to_vec(), b"a".to_vec())
    );
}
