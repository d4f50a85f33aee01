//! The client's binary against real servers, ours and others', and against a hostile one
//! that follows a script.
//!
//! A server that isn't installed is skipped with a message; with `CI=true` the test fails
//! instead. `scripts/peers` installs them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stands outside: it fails where it stands, measures time and plays a server in a thread"
)]

#[path = "client/addresses.rs"]
mod addresses;
mod common;
#[path = "client/hostile.rs"]
mod hostile;
#[path = "client/interrupts.rs"]
mod interrupts;
#[path = "client/local.rs"]
mod local;
#[path = "client/opening.rs"]
mod opening;
#[path = "client/probe.rs"]
mod probe;
#[path = "client/servers.rs"]
mod servers;
#[path = "client/waiting.rs"]
mod waiting;

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::*;
use tempfile::TempDir;

/// The longest time that a client may take, in seconds.
const LIMIT: u32 = 60;

/// Our client, killed when it takes too long.
fn tftp() -> Command {
    bounded(LIMIT, env!("CARGO_BIN_EXE_tftp"))
}

/// Runs our client in `dir`.
fn run<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Output {
    let mut command = tftp();
    command.current_dir(dir).args(args);
    command.output().expect("the client runs")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("an exit status")
}

#[track_caller]
fn assert_status(output: &Output, expected: i32, words: &[&str]) {
    assert_eq!(status(output), expected, "{}", said(output));
    let errors = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(errors.contains(word), "no {word:?}: {}", said(output));
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().display().to_string())
        .collect();
    names.sort();
    names
}

/// A server that does what the test wants, one datagram at a time.
struct Scripted {
    listen: UdpSocket,
    transfer: UdpSocket,
    client: Option<SocketAddr>,
}

impl Scripted {
    fn new() -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        Self {
            listen: socket(),
            transfer: socket(),
            client: None,
        }
    }

    fn url(&self) -> String {
        format!("tftp://{}/file", self.listen.local_addr().unwrap())
    }

    /// The next request: the bytes after the opcode, as words.
    #[track_caller]
    fn request(&mut self) -> Vec<String> {
        let mut buffer = [0; 2048];
        let (len, client) = self.listen.recv_from(&mut buffer).expect("a request");
        self.client = Some(client);
        let words = buffer[2..len].split(|&byte| byte == 0);
        words
            .map(|it| String::from_utf8_lossy(it).into_owned())
            .collect()
    }

    #[track_caller]
    fn send(&self, packet: &[u8]) {
        self.transfer.send_to(packet, self.client.unwrap()).unwrap();
    }

    #[track_caller]
    fn receive(&self) -> Packet {
        let mut buffer = vec![0; 65_536];
        let len = self.transfer.recv(&mut buffer).expect("an answer");
        Packet::parse(&buffer[..len])
    }

    /// Sends a packet and takes the answer.
    #[track_caller]
    fn say(&self, packet: &[u8]) -> Packet {
        self.send(packet);
        self.receive()
    }

    fn is_quiet(&self) -> bool {
        self.transfer.set_read_timeout(Some(millis(50))).unwrap();
        let quiet = self.transfer.recv(&mut [0; 4]).is_err();
        self.transfer.set_read_timeout(Some(PATIENCE)).unwrap();
        quiet
    }
}

fn oack(options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 6];
    for (name, value) in options {
        packet.extend(format!("{name}\0{value}\0").bytes());
    }
    packet
}

/// Runs the client on `args`, with `URL` in them replaced, against `script`; next to it
/// is a file that no failure may harm.
#[track_caller]
fn against(args: &[&str], mut script: impl FnMut(&mut Scripted)) -> (Output, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "as it was").unwrap();
    let mut server = Scripted::new();
    let url = server.url();
    let args: Vec<_> = args.iter().map(|it| it.replace("URL", &url)).collect();
    let child = tftp()
        .current_dir(dir.path())
        .args(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    script(&mut server);
    (child.wait_with_output().unwrap(), dir)
}

#[track_caller]
fn assert_unharmed(dir: &TempDir) {
    assert_eq!(files(dir.path()), ["file"]);
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"as it was");
}

/// Whether a test can have network namespaces; fails where it must be able to.
fn can_make_networks() -> bool {
    let tried = Command::new("unshare")
        .args(["--net", "ip", "link"])
        .output();
    let works = tried.is_ok_and(|output| output.status.success());
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(works || !ci, "no network namespaces here");
    if !works {
        skip("takes root, unshare(1) and ip(8)");
    }
    works
}

/// Runs a script in `dir` and in a network of its own; TFTP and TFTPD name the programs.
fn run_in_network(dir: &Path, script: &str) -> Output {
    let mut command = bounded(LIMIT, "unshare");
    command.args(["--net", "sh", "-c", script]);
    command.env("TFTP", env!("CARGO_BIN_EXE_tftp"));
    command.env("TFTPD", tftpd());
    command.current_dir(dir).output().expect("unshare runs")
}

#[test]
fn several_files_go_with_one_call() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (content(1, 2000), content(2, 5000));
    server.file("a/one", &one);
    server.file("two", &two);
    let url = |name: &str| format!("tftp://{}/{name}", server.addr());

    let output = run(dir.path(), &["get", &url("a/one"), &url("two")]);
    assert_status(
        &output,
        0,
        &["a/one: Received 2000 bytes", "two: Received 5000"],
    );
    assert_eq!(files(dir.path()), ["one", "two"]);
    let output = run(dir.path(), &["-q", "get", &url("a/one"), &url("two"), "-"]);
    assert_same(
        "stdout",
        &output.stdout,
        &[one.clone(), two.clone()].concat(),
    );
    assert_eq!(output.stderr, b"");

    // A missing file doesn't keep the others from coming.
    fs::create_dir(dir.path().join("into")).unwrap();
    let output = run(dir.path(), &["get", &url("no"), &url("two"), "into"]);
    let told = format!("tftp: {}: Error code 1: File not found", url("no"));
    assert_status(&output, 1, &[&told]);
    assert_eq!(files(&dir.path().join("into")), ["two"]);
    let output = run(dir.path(), &["get", &url("a/one"), &url("two"), "new"]);
    assert_status(&output, 64, &["new"]);

    let path = dir.path().join("one").display().to_string();
    assert_status(
        &run(dir.path(), &["put", &path, "two", &url("a/")]),
        1,
        &["two"],
    );
    let output = run(dir.path(), &["put", &path, "two", &url("")]);
    assert_status(&output, 1, &["two: Error code 6"]);
    assert_same("put", &fs::read(server.root().join("one")).unwrap(), &one);
    assert_same("put", &fs::read(server.root().join("a/two")).unwrap(), &two);
}

#[test]
fn tftp_hpas_form_works_and_tells_the_truth() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = content(4, 3000);
    server.file("file", &file);
    fs::create_dir(server.root().join("up")).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    for (words, expected, errors) in [
        (&["get", "file"][..], 0, &[][..]),
        (&["get", "file", "here"], 0, &[]),
        (&["put", "here", "there"], 0, &[]),
        (
            &["put", "here", "there"],
            1,
            &["Error code 6: File already exists"],
        ),
        (
            &["put", "here", "up"],
            1,
            &["Error code 2: Access violation: is a directory"],
        ),
        (&["get", "nothing"], 1, &["Error code 1: File not found"]),
        (&["put", "nothing"], 2, &["nothing: no such file"]),
        // Commands as one word, and a directory, since 6.0.
        (&["get file again"], 0, &[]),
        (&["mget", "file", "there", "sub"], 0, &[]),
        (&["mget", "file", "nowhere"], 64, &[]),
        (&["mput", "file", "here", "up"], 0, &[]),
        (&["mput", "file", "up"], 1, &["File already exists"]),
        (&["mput", "file"], 64, &[]),
        (&["foo"], 64, &[]),
    ] {
        let mut args = vec!["-m", "binary", &host, &port, "-c"];
        args.extend(words);
        assert_status(&run(dir.path(), &args), expected, errors);
    }
    let command = ["-v", &host, &port, "-c", "mput", "file", "up/"];
    let told = said(&run(dir.path(), &command));
    assert!(told.contains(":up/file "), "one slash is enough: {told}");
    assert_eq!(files(dir.path()), ["again", "file", "here", "sub"]);
    assert_eq!(files(&dir.path().join("sub")), ["file", "there"]);
    assert_eq!(files(&server.root().join("up")), ["file", "here"]);
    assert_same("here", &fs::read(dir.path().join("here")).unwrap(), &file);
    assert_same(
        "there",
        &fs::read(server.root().join("there")).unwrap(),
        &file,
    );
    // The whole path is typed, but only its last part is sent.
    let path = dir.path().join("typed");
    fs::write(&path, "typed").unwrap();
    let path = path.display().to_string();
    assert_status(
        &run(Path::new("/"), &[&host, &port, "-c", "put", &path]),
        0,
        &[],
    );
    assert_eq!(fs::read(server.root().join("typed")).unwrap(), b"typed");
}

/// The lean server depends on none of the client's crates.
#[test]
fn without_the_client_its_crates_are_gone() {
    let tree = |features: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--edges", "normal", "--prefix", "none"])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .args(features)
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (whole, lean) = (tree(&[]), tree(&["--no-default-features"]));
    for name in ["indicatif", "rustyline", "tempfile"] {
        assert!(whole.contains(name), "{name}: {whole}");
        assert!(!lean.contains(name), "{name}: {lean}");
    }
    assert!(lean.contains("mio"), "{lean}");
}

#[test]
fn one_port_is_enough_for_several_files() {
    let server = Server::start(&[]);
    server.file("a", b"a");
    server.file("b", b"b");
    let dir = tempfile::tempdir().unwrap();
    let port = own_port().port();
    let urls = ["a", "b"].map(|name| format!("tftp://{}/{name}", server.addr()));
    let range = format!("{port}:{port}");
    let output = run(dir.path(), &["-R", &range, "get", &urls[0], &urls[1], "./"]);
    assert_status(&output, 0, &[]);
    assert_eq!(files(dir.path()), ["a", "b"]);
}

#[test]
fn arguments_without_a_file_name_are_quoted() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["127.0.0.1:", "tftp://127.0.0.1/", "tftp://127.0.0.1"] {
        let told = format!("tftp: no file is named in '{word}'; write tftp://HOST/FILE");
        for args in [&["get", word][..], &["probe", word]] {
            assert_status(&run(dir.path(), args), 64, &[&told]);
        }
    }
    let output = run(dir.path(), &["--help"]);
    assert!(said(&output).contains("--within TIME"), "{}", said(&output));
}
