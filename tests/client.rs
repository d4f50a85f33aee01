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

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

// --- other servers ---------------------------------------------------------------

/// A server and the directory it serves.
struct Peer {
    addr: SocketAddr,
    root: PathBuf,
    can_write: bool,
    _alive: Alive,
}

/// Keeps the server running as long as the test.
enum Alive {
    Ours(#[allow(dead_code, reason = "dropped")] Server),
    Theirs(Child, #[allow(dead_code, reason = "dropped")] TempDir),
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Self::Theirs(child, _) = self {
            // Fails only if it has already ended.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

/// Starts another server on `addr`, with `args`, and waits until it answers.
fn start_peer(name: &str, addr: SocketAddr, dir: TempDir, args: &[String]) -> Option<Peer> {
    let program = peer_program(name)?;
    let root = dir.path().join("root");
    fs::write(root.join("ready"), "").expect("a file");
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let peer = Peer {
        addr,
        root,
        can_write: name != "dnsmasq",
        _alive: Alive::Theirs(child, dir),
    };
    let deadline = Instant::now() + PATIENCE;
    let url = format!("tftp://{addr}/ready");
    while status(&run(Path::new("/"), &["probe", &url, "--within", "1s"])) != 0 {
        assert!(Instant::now() < deadline, "{name} doesn't answer");
    }
    Some(peer)
}

/// A directory for servers that drop their privileges.
fn served_dir() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a root");
    for path in [dir.path(), &root] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("our directory");
    }
    let root = root.display().to_string();
    (dir, root)
}

/// Every installed server, by name.
fn peers() -> Vec<(&'static str, Peer)> {
    let ours = Server::start(&[]);
    let mut all = vec![(
        "ours",
        Peer {
            addr: ours.addr(),
            root: ours.root(),
            can_write: true,
            _alive: Alive::Ours(ours),
        },
    )];
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (dir, root) = served_dir();
    let addr = own_port();
    let args = words(&format!(
        "--foreground --secure --create --user root --address {addr} {root}"
    ));
    all.extend(start_peer("in.tftpd", addr, dir, &args).map(|peer| ("in.tftpd", peer)));
    let (dir, root) = served_dir();
    let addr = own_port();
    let (ip, port) = (addr.ip(), addr.port());
    let args = words(&format!(
        "--daemon --no-fork --user root --bind-address {ip} --port {port} {root}"
    ));
    all.extend(start_peer("atftpd", addr, dir, &args).map(|peer| ("atftpd", peer)));
    let (dir, root) = served_dir();
    // It has no option for the TFTP port.
    let ip = own_address();
    let addr = (ip, 69).into();
    let args = words(&format!(
        "--keep-in-foreground --conf-file=/dev/null --pid-file= --port=0 --bind-interfaces \
         --log-facility=- --enable-tftp --listen-address={ip} --user=root --tftp-root={root}"
    ));
    all.extend(start_peer("dnsmasq", addr, dir, &args).map(|peer| ("dnsmasq", peer)));
    all
}

/// Ways to ask for a file.
const WAYS: [&[&str]; 8] = [
    &[],
    &["--windowsize", "1"],
    &["--no-options"],
    &["--blksize", "8", "--windowsize", "64"],
    &["--blksize", "512", "--windowsize", "1"],
    &["--blksize", "65464", "--windowsize", "4"],
    &["--option", "timeout=3"],
    &["-t", "300", "--option", "x-unheard-of=1"],
];

/// File sizes in bytes, around the ends of blocks and windows.
const SIZES: [usize; 7] = [0, 1, 511, 512, 1428, 1428 * 16, 100_000];

/// Whether this is the dnsmasq release that answers every second request without options
/// with the previous packet's length.
fn is_dnsmasq_2_93() -> bool {
    let program = peer_program("dnsmasq").expect("it has started");
    let version = Command::new(program).arg("--version").output();
    said(&version.expect("it runs")).contains("version 2.93 ")
}

#[test]
fn files_come_and_go_whole_with_every_server() {
    let peers = peers();
    if peers.iter().any(|(name, _)| *name == "dnsmasq") && is_dnsmasq_2_93() {
        skip("dnsmasq 2.93 sends wrong lengths without options");
    }
    thread::scope(|scope| {
        for (name, peer) in &peers {
            scope.spawn(|| files_come_and_go_whole(name, peer));
        }
    });
}

fn files_come_and_go_whole(name: &str, peer: &Peer) {
    let urls = SIZES.map(|len| {
        fs::write(peer.root.join(format!("f{len}")), content(len as u64, len)).unwrap();
        format!("tftp://{}/f{len}", peer.addr)
    });
    let urls = urls.each_ref().map(String::as_str);
    for (way, args) in WAYS.into_iter().enumerate() {
        let what = |len: usize| format!("{name} {args:?} {len} bytes");
        if name == "dnsmasq" && args == ["--no-options"] && is_dnsmasq_2_93() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let output = run(dir.path(), &[args, &["get"], &urls].concat());
        assert_status(&output, 0, &["Received"]);
        for len in SIZES {
            let got = fs::read(dir.path().join(format!("f{len}"))).unwrap();
            assert_same(&what(len), &got, &content(len as u64, len));
        }
        if !peer.can_write {
            continue;
        }
        let into = peer.root.join(format!("way-{way}"));
        fs::create_dir(&into).unwrap();
        fs::set_permissions(&into, fs::Permissions::from_mode(0o777)).unwrap();
        let names = files(dir.path());
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let url = format!("tftp://{}/way-{way}/", peer.addr);
        let output = run(dir.path(), &[args, &["put"], &names, &[&url]].concat());
        assert_status(&output, 0, &["Sent"]);
        for len in SIZES {
            let up = into.join(format!("f{len}"));
            // atftpd answers before it has written everything.
            wait_for(&what(len), || fs::read(&up).is_ok_and(|it| it.len() == len));
            assert_same(
                &what(len),
                &fs::read(&up).unwrap(),
                &content(len as u64, len),
            );
        }
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

#[test]
fn text_comes_and_goes_as_text_with_every_server() {
    let dir = tempfile::tempdir().unwrap();
    let text = b"one\ntwo\r\nthree\r".repeat(1000);
    fs::write(dir.path().join("text"), &text).unwrap();
    for (name, peer) in peers() {
        if !peer.can_write {
            continue;
        }
        let url = format!("tftp://{}/text;mode=netascii", peer.addr);
        assert_status(&run(dir.path(), &["put", "text", &url]), 0, &[]);
        wait_for(name, || {
            fs::read(peer.root.join("text")).is_ok_and(|it| it.len() == text.len())
        });
        assert_same(name, &fs::read(peer.root.join("text")).unwrap(), &text);
        for words in [
            &["get", &url, "back"][..],
            &["-m", "ascii", "get", &url, "back"],
        ] {
            assert_status(&run(dir.path(), words), 0, &[]);
            assert_same(name, &fs::read(dir.path().join("back")).unwrap(), &text);
        }
    }
}

#[test]
fn a_file_whose_block_numbers_wrap_comes_and_goes_whole() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = content(7, 8 * 140_000 + 3);
    server.file("big", &file);
    let url = |name: &str| format!("tftp://{}/{name}", server.addr());
    for rollover in ["rollover=0", "rollover=1"] {
        let args = ["--blksize", "8", "--windowsize", "64", "--option", rollover];
        let (from, to) = (url("big"), url(rollover));
        let get = [&args[..], &["get", &from, "big"]].concat();
        assert_status(&run(dir.path(), &get), 0, &[]);
        assert_same(rollover, &fs::read(dir.path().join("big")).unwrap(), &file);
        let put = [&args[..], &["put", "big", &to]].concat();
        assert_status(&run(dir.path(), &put), 0, &[]);
        assert_same(
            rollover,
            &fs::read(server.root().join(rollover)).unwrap(),
            &file,
        );
    }
}

// --- the command line --------------------------------------------------------------

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
fn pipes_and_devices_take_and_give() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = content(3, 300_000);
    server.file("file", &file);
    let url = |name: &str| format!("tftp://{}/{name}", server.addr());

    let mut child = tftp()
        .args(["put", "-", &url("piped")])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&file).unwrap();
    assert_status(&child.wait_with_output().unwrap(), 0, &["Sent 300000"]);
    assert_same(
        "piped",
        &fs::read(server.root().join("piped")).unwrap(),
        &file,
    );

    let output = run(dir.path(), &["get", &url("file"), "/dev/stdout"]);
    assert_status(&output, 0, &[]);
    assert_same("/dev/stdout", &output.stdout, &file);
    assert_status(
        &run(dir.path(), &["get", &url("file"), "/dev/null"]),
        0,
        &[],
    );
    assert_status(
        &run(dir.path(), &["put", "/proc/version", &url("proc")]),
        0,
        &[],
    );
    let version = fs::read("/proc/version").unwrap();
    assert_same(
        "/proc",
        &fs::read(server.root().join("proc")).unwrap(),
        &version,
    );
    // A device that takes nothing.
    let output = run(dir.path(), &["get", &url("file"), "/dev/full"]);
    assert_status(&output, 2, &["Disk full"]);
    assert_eq!(files(dir.path()), Vec::<String>::new());
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

#[test]
fn a_probe_tells_in_one_line() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    server.file("file", &content(5, 100_000));
    let url = format!("tftp://{}/file", server.addr());
    let output = run(dir.path(), &["probe", &url, "--within", "3s"]);
    assert_status(&output, 0, &[]);
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    for word in [
        &*url,
        "100000 bytes",
        "ms",
        "blksize=1428",
        "windowsize=16",
        "tsize=100000",
    ] {
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());

    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("tftp://{}/file", silent.local_addr().unwrap());
    let started = Instant::now();
    let output = run(dir.path(), &["probe", &url, "--within", "200ms"]);
    let told = format!(
        "no answer from {}; gave up after 200ms",
        silent.local_addr().unwrap()
    );
    assert_status(&output, 69, &[&format!("tftp: {url}: {told}")]);
    assert!(started.elapsed() >= millis(200));
}

#[test]
fn local_failures_have_a_status_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let closed = own_port();
    let (url, unanswered) = (
        format!("tftp://{closed}/f"),
        format!("no answer from {closed}"),
    );
    for (words, expected, errors) in [
        (
            &["-t", "10", "get", &*url][..],
            69,
            &[&unanswered, "connection refused"][..],
        ),
        (
            &["get", "tftp://no-such-host.invalid/f"],
            68,
            &["no-such-host.invalid", "unknown host"],
        ),
        (
            &["no-such-host.invalid", "-c", "get", "f"],
            68,
            &["unknown host"],
        ),
        (
            &["get", "user@127.0.0.1:f"],
            68,
            &["user@127.0.0.1: unknown host", "before the @"],
        ),
        (
            &["user:word@127.0.0.1", "-c", "get", "f"],
            68,
            &["user:word@127.0.0.1: unknown host", "before the @"],
        ),
        (
            &["get", &url, "/nowhere/f"],
            2,
            &["/nowhere/f: no such file"],
        ),
        (&["put", "nothing", &url], 2, &["nothing: no such file"]),
        (&["put", "/", &url], 2, &["/: is a directory"]),
        (&["get", "file"], 64, &["file"]),
        (&["get", "tftp://127.0.0.1/"], 64, &["no file"]),
        (&["put", "-", "tftp://127.0.0.1/"], 64, &["-"]),
        (&["--blksize", "1", "get", &url], 64, &["1"]),
        (&["get", "tftp://[::1]6977/f"], 64, &["after the ]"]),
        (
            &["put", "nothing", "tftp://[::1]6977/f"],
            64,
            &["after the ]"],
        ),
        (&["probe", "tftp://[::1]6977/f"], 64, &["after the ]"]),
    ] {
        assert_status(&run(dir.path(), words), expected, errors);
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

// --- a hostile server ----------------------------------------------------------------

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

#[test]
fn an_error_of_each_code_is_told_and_harms_nothing() {
    for code in [0, 1, 2, 3, 5, 6, 7, 9, 999] {
        for args in [&["get", "URL"][..], &["put", "file", "URL"]] {
            let (output, dir) = against(args, |server| {
                server.request();
                server.send(&error(code, "for a reason"));
            });
            assert_status(&output, 1, &[&format!("Error code {code}: for a reason")]);
            assert_unharmed(&dir);
        }
    }
}

#[test]
fn an_error_in_the_middle_harms_nothing() {
    let (output, dir) = against(&["get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&data(1, &[b'x'; 512])), Packet::Ack(1));
        server.send(&error(0, "tired\x1b[2J"));
    });
    assert_status(&output, 1, &[r"tired\x1b[2J"]);
    assert_unharmed(&dir);
}

#[test]
fn without_options_where_the_server_refuses_them() {
    for code in [4, 8] {
        let (output, dir) = against(&["-v", "get", "URL"], |server| {
            let words = server.request();
            assert!(words.iter().any(|word| word == "blksize"), "{words:?}");
            server.send(&error(code, "no options here"));
            let words = server.request();
            assert_eq!(words, ["file", "octet", ""]);
            assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
        });
        assert_status(&output, 0, &["without options", "no options here"]);
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"whole");
    }
}

#[test]
fn without_options_where_the_server_keeps_silent() {
    let args = ["-v", "-t", "20", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        let mut words = server.request();
        let mut optioned = 0;
        while words.len() > 3 {
            optioned += 1;
            words = server.request();
        }
        assert_eq!(optioned, 3, "the request and two repeats");
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &["without options", "silent"]);
}

#[test]
fn what_the_server_said_first_counts() {
    // Time enough for the answer, on a busy machine too.
    let args = ["-t", "200", "--retries", "1"];
    for words in [
        &["get", "URL"][..],
        &["put", "file", "URL"],
        &["probe", "URL", "--within", "1s"],
    ] {
        let (output, dir) = against(&[&args, words].concat(), |server| {
            server.request();
            server.send(&error(4, "what?"));
        });
        assert_status(&output, 1, &["Error code 4: what?"]);
        assert_unharmed(&dir);
    }
}

/// It has answered the plain request: what it refused before is no reason any more.
#[test]
fn a_server_that_falls_silent_after_it_refused_options_fell_silent() {
    for (args, told) in [
        (&["get", "URL"][..], "fell silent after 512 bytes"),
        (&["put", "file", "URL"], "fell silent after 0 bytes"),
        (
            &["127.0.0.1", "-c", "get", "URL"],
            "fell silent after 512 bytes",
        ),
    ] {
        let args = [&["-t", "10", "--retries", "2"], args].concat();
        let (output, dir) = against(&args, |server| {
            assert!(server.request().len() > 3);
            server.send(&error(8, "no options here"));
            assert_eq!(server.request(), ["file", "octet", ""]);
            if args.contains(&"put") {
                assert_eq!(server.say(&ack(0)).data_block(), Some(1));
            } else {
                assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            }
        });
        assert_status(&output, 69, &[told]);
        assert_unharmed(&dir);
    }
}

#[test]
fn silence_ends_after_the_retries() {
    for (args, requests) in [
        (
            &["-t", "10", "--retries", "3", "--no-options", "get", "URL"][..],
            4,
        ),
        // With options, then without.
        (&["-t", "10", "--retries", "3", "get", "URL"], 3 + 4),
    ] {
        let (output, dir) = against(args, |server| {
            (0..requests).for_each(|_| drop(server.request()));
            server.listen.set_read_timeout(Some(millis(300))).unwrap();
            assert!(
                server.listen.recv(&mut [0; 600]).is_err(),
                "{args:?}: one more"
            );
        });
        assert_status(&output, 69, &["no answer from 127.0.0.1"]);
        assert_unharmed(&dir);
    }
}

/// A closed port isn't asked again either: with or without an ICMP error, nobody answers.
#[test]
fn without_retries_each_request_is_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (silent, closed) = (
        silent.local_addr().map(|it| (it, silent)).unwrap(),
        own_port(),
    );
    for addr in [silent.0, closed] {
        let (url, port) = (format!("tftp://{addr}/f"), addr.port().to_string());
        let host = addr.ip().to_string();
        for (args, requests) in [
            (&["--no-options", "get", &url][..], 1),
            // With options, then without.
            (&["get", &url], 2),
            (&["--no-options", "probe", &url, "--within", "2s"], 1),
            (&["probe", &url, "--within", "2s"], 2),
            (&["--no-options", &host, &port, "-c", "get", "f"], 1),
        ] {
            let args = [&["--trace", "-t", "200", "--retries", "0"], args].concat();
            let output = run(dir.path(), &args);
            assert_status(&output, 69, &[&format!("no answer from {addr}")]);
            let told = said(&output);
            assert_eq!(
                told.matches("sent RRQ").count(),
                requests,
                "{args:?}: {told}"
            );
            assert!(!told.contains("asking again"), "{args:?}: {told}");
        }
    }
}

#[test]
fn a_failure_names_the_port_unless_it_is_the_usual_one() {
    let server = Server::start(&["--read-only"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let [url, other, file] =
        ["f", "d/f", "file"].map(|it| format!("tftp://{}/{it}", server.addr()));
    for (args, status, told) in [
        (
            &["get", &*url][..],
            1,
            format!("tftp: {url}: Error code 1: "),
        ),
        (
            &["put", "file", &file],
            1,
            format!("tftp: {file}: Error code 2: "),
        ),
        (
            &["get", &url, &other, "."],
            64,
            format!("tftp: {url} and {other} would both be "),
        ),
    ] {
        assert_status(&run(dir.path(), args), status, &[&told]);
    }
    let closed = own_port();
    let url = format!("tftp://{closed}/f");
    let output = run(dir.path(), &["-t", "10", "--retries", "1", "get", &url]);
    let told = format!("tftp: {url}: no answer from {closed}: connection refused");
    assert_status(&output, 69, &[&told]);
}

#[test]
fn silence_in_the_middle_ends_after_the_retries() {
    for options in [&[][..], &["--no-options"]] {
        let args = [options, &["-t", "10", "--retries", "4", "get", "URL"]].concat();
        let (output, dir) = against(&args, |server| {
            server.request();
            assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            for _ in 0..4 {
                assert_eq!(server.receive(), Packet::Ack(1), "{args:?}");
            }
        });
        assert_status(&output, 69, &["fell silent after 512 bytes"]);
        assert_unharmed(&dir);
    }
}

/// An OACK that we can't accept is refused with ERROR 8 (RFC 2347), and the request is
/// repeated without options.
#[test]
fn an_oack_that_nobody_asked_for_is_refused_and_options_are_dropped() {
    let (unasked, larger) = ("Option not asked for", "Option value larger than asked for");
    let no_number = "Option value is no number";
    for (options, problem) in [
        (&[("blksize", "1429")][..], larger),
        (&[("windowsize", "17")], larger),
        (&[("multicast", "")], unasked),
        (&[("timeout", "1")], unasked),
        (
            &[("blksize", "512"), ("blksize", "512")],
            "Option given twice",
        ),
        (&[("blksize", "x")], no_number),
        (&[("blksize", "7")], "Option value too small"),
        (&[("tsize", "-1")], no_number),
        (&[("tsize", "")], no_number),
        (&[("tsize", "large")], no_number),
        (&[("blksize", "512"), ("saved", "1")], unasked),
    ] {
        for args in [&["-v", "get", "URL"][..], &["-v", "put", "file", "URL"]] {
            let (output, dir) = against(args, |server| {
                server.request();
                assert_eq!(
                    server.say(&oack(options)).error_code(),
                    Some(8),
                    "{options:?}"
                );
                let words = server.request();
                assert_eq!(words, ["file", "octet", ""], "{options:?}");
                if args[1] == "get" {
                    assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
                } else {
                    let block = Packet::Data(1, b"as it was".to_vec());
                    assert_eq!(server.say(&ack(0)), block);
                    server.send(&ack(1));
                }
            });
            assert_status(&output, 0, &["without options", problem]);
            let expected = if args[1] == "get" {
                "whole"
            } else {
                "as it was"
            };
            let file = fs::read_to_string(dir.path().join("file")).unwrap();
            assert_eq!(file, expected);
        }
    }
}

#[test]
fn data_larger_than_agreed_is_refused() {
    let (output, dir) = against(&["get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&oack(&[("blksize", "100")])), Packet::Ack(0));
        assert_eq!(server.say(&data(1, &[0; 101])).error_code(), Some(4));
    });
    assert_status(&output, 1, &["broke the protocol"]);
    assert_unharmed(&dir);
}

#[test]
fn strangers_get_error_5_and_change_nothing() {
    let (output, dir) = against(&["-t", "10000", "get", "URL"], |server| {
        server.request();
        assert_eq!(server.say(&data(1, &[b'a'; 512])), Packet::Ack(1));
        let stranger = RawClient::to(server.client.unwrap());
        for packet in [data(2, b"evil"), ack(1), oack(&[])] {
            stranger.send(&packet);
            assert_eq!(stranger.expect().0.error_code(), Some(5), "{packet:?}");
        }
        stranger.send(&error(0, "evil"));
        assert_eq!(server.say(&data(2, b"good")), Packet::Ack(2));
    });
    assert_status(&output, 0, &[]);
    let file = [&[b'a'; 512][..], b"good"].concat();
    assert_same("file", &fs::read(dir.path().join("file")).unwrap(), &file);
}

#[test]
fn lost_and_duplicated_packets_do_no_harm() {
    let (output, dir) = against(&["-t", "1000", "get", "URL"], |server| {
        server.request();
        let agreed = oack(&[("blksize", "8"), ("windowsize", "4")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        // The ACK is lost: the OACK comes again.
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        server.send(&data(1, b"11111111"));
        // Block 2 is lost; one ACK reports that at once.
        assert_eq!(server.say(&data(3, b"33333333")), Packet::Ack(1));
        server.send(&data(4, b"44444444"));
        server.send(&data(2, b"22222222"));
        server.send(&data(3, b"33333333"));
        server.send(&data(3, b"33333333"));
        server.send(&data(4, b"44444444"));
        assert_eq!(server.say(&data(5, b"55555555")), Packet::Ack(5));
        // The final ACK is lost: while the client dallies, it sends the ACK again.
        assert_eq!(server.say(&data(6, b"6")), Packet::Ack(6));
        assert_eq!(server.say(&data(6, b"6")), Packet::Ack(6));
    });
    assert_status(&output, 0, &["Received 41 bytes"]);
    assert_same(
        "file",
        &fs::read(dir.path().join("file")).unwrap(),
        b"11111111222222223333333344444444555555556",
    );
}

#[test]
fn a_doubled_ack_sends_nothing_twice() {
    let args = ["-t", "10000", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        server.request();
        assert_eq!(server.say(&oack(&[("blksize", "8")])).data_block(), Some(1));
        assert_eq!(server.say(&ack(1)), Packet::Data(2, b"s".to_vec()));
        server.send(&ack(1));
        server.send(&ack(0));
        assert!(server.is_quiet());
        server.send(&ack(2));
    });
    assert_status(&output, 0, &["Sent 9 bytes"]);
}

#[test]
fn a_lost_request_and_lost_data_are_sent_again() {
    let args = ["-t", "100", "put", "file", "URL"];
    let (output, _dir) = against(&args, |server| {
        let first = server.request();
        assert_eq!(server.request(), first);
        let started = Instant::now();
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        assert_eq!(server.receive(), Packet::Data(1, b"as it was".to_vec()));
        assert!(started.elapsed() >= Duration::from_millis(100));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &[]);
}

/// The OACK and the block after it come at once: the block has the length that the OACK
/// says, and not the default.
#[test]
fn a_block_right_behind_the_oack_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    for windowsize in ["1", "2"] {
        let mut server = Scripted::new();
        let child = Command::new(env!("CARGO_BIN_EXE_tftp"))
            .current_dir(dir.path())
            .args([
                "-t",
                "10000",
                "--windowsize",
                windowsize,
                "get",
                &server.url(),
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        server.request();
        kill(pid, Signal::SIGSTOP).unwrap();
        server.send(&oack(&[("blksize", "1428")]));
        server.send(&data(1, &[b'1'; 1428]));
        kill(pid, Signal::SIGCONT).unwrap();
        // One ACK for both; ACK 0 would confirm less.
        assert_eq!(server.receive(), Packet::Ack(1));
        assert_eq!(server.say(&data(2, b"2")), Packet::Ack(2));
        assert_status(
            &child.wait_with_output().unwrap(),
            0,
            &["Received 1429 bytes"],
        );
    }
}

/// Sockets on the two addresses of localhost, in the name service's order, with the same
/// port.
fn both_localhosts() -> Option<(UdpSocket, UdpSocket)> {
    let port = own_port().port();
    let (Ok(six), Ok(addresses)) = (
        UdpSocket::bind(("::1", port)),
        std::net::ToSocketAddrs::to_socket_addrs("localhost:1"),
    ) else {
        skip("no IPv6 here");
        return None;
    };
    let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
    let four = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    match addresses[..] {
        [ip, _, ..] if ip.is_ipv6() => Some((six, four)),
        [_, _, ..] => Some((four, six)),
        _ => {
            skip("localhost has one address here");
            None
        }
    }
}

/// A name with two addresses: the second is only used if nobody answers at the first.
#[test]
fn another_address_is_no_way_out_of_a_transfer() {
    let Some((first, second)) = both_localhosts() else {
        return;
    };
    let port = first.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://localhost:{port}/file");
    let args = ["-t", "200", "--retries", "1", "get", &url, "-"];
    let child = tftp()
        .args(args)
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, client) = first.recv_from(&mut [0; 600]).unwrap();
    first.send_to(&data(1, &[b'1'; 512]), client).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 69, &["fell silent after 512 bytes"]);
    assert_eq!(output.stdout.len(), 512);
    second.set_nonblocking(true).unwrap();
    assert!(second.recv(&mut [0; 600]).is_err(), "asked as well");
}

#[test]
fn a_stray_ack_is_no_answer_to_a_read_request() {
    let (output, _dir) = against(&["get", "URL"], |server| {
        server.request();
        let stranger = RawClient::to(server.client.unwrap());
        stranger.send(&ack(7));
        assert_eq!(stranger.expect().0.error_code(), Some(5));
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["Received 5 bytes"]);
}

#[test]
fn a_stranger_who_is_gone_is_not_the_server() {
    let (output, _dir) = against(&["-t", "200", "get", "URL"], |server| {
        server.request();
        // A stale block for a client that had this port before. The socket receives from
        // port 9 only, so that the ERROR 5 finds it closed.
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stranger.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        let stale = data(7, b"stale");
        stranger.send_to(&stale, server.client.unwrap()).unwrap();
        assert!(server.request().len() > 3, "the repeat");
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["Received 5 bytes"]);
}

/// Else the server repeats its last block until it gives up.
#[test]
fn a_probe_repeats_its_last_ack_where_that_was_lost() {
    let (output, _dir) = against(&["-t", "1000", "probe", "URL"], |server| {
        server.request();
        let agreed = oack(&[("blksize", "8")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        // It has lost something before: it stays for a whole wait.
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
    });
    assert_status(&output, 0, &[]);
}

/// Nor longer than the user has time.
#[test]
fn a_probe_that_has_lost_a_packet_stays_within_its_time() {
    let mut last = Instant::now();
    let args = ["-t", "8s", "probe", "URL", "--within", "600ms"];
    let (output, _dir) = against(&args, |server| {
        server.request();
        let agreed = oack(&[("blksize", "8")]);
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&agreed), Packet::Ack(0));
        assert_eq!(server.say(&data(1, b"1")), Packet::Ack(1));
        last = Instant::now();
    });
    let stayed = last.elapsed();
    assert_status(&output, 0, &[]);
    assert!(stayed < millis(1600), "{stayed:?}");
}

#[test]
fn a_probe_that_is_late_asks_no_more() {
    let args = ["-t", "250", "probe", "URL", "--within", "600ms"];
    let (output, _dir) = against(&args, |server| {
        assert!(server.request().len() > 3);
        assert!(server.request().len() > 3, "the repeat");
        server.listen.set_read_timeout(Some(millis(1000))).unwrap();
        let mut buffer = [0; 600];
        let mut more = 0;
        while let Ok(len) = server.listen.recv(&mut buffer) {
            // A transfer that hasn't begun needs no ERROR.
            assert_eq!(Packet::parse(&buffer[..len]).error_code(), None);
            more += 1;
        }
        assert!(more <= 1, "{more} requests more in 350 ms");
    });
    assert_status(&output, 69, &["; gave up after 600ms"]);
}

#[test]
fn a_probe_that_is_late_says_how_far_it_came() {
    for (tsize, told) in [
        (Some("2000"), "only 512 of 2000 bytes came within 400ms; "),
        (None, "only 512 bytes came within 400ms; "),
    ] {
        let args = ["-t", "5000", "probe", "URL", "--within", "400ms"];
        let (output, _dir) = against(&args, |server| {
            server.request();
            if let Some(tsize) = tsize {
                assert_eq!(server.say(&oack(&[("tsize", tsize)])), Packet::Ack(0));
            }
            assert_eq!(server.say(&data(1, &[0; 512])), Packet::Ack(1));
            assert_eq!(
                server.receive().error_code(),
                Some(0),
                "nobody waits any more"
            );
        });
        assert_status(&output, 69, &[told, "allow more time with --within"]);
    }
}

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

#[test]
fn standard_output_is_appended_to_and_not_replaced() {
    let server = Server::start(&[]);
    server.file("file", b"file\n");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{}/file", server.addr());
    for name in ["-", "/dev/stdout"] {
        let mut out = fs::File::create(dir.path().join("out")).unwrap();
        out.write_all(b"before\n").unwrap();
        let status = tftp().args(["get", &url, name]).stdout(out).status();
        assert!(status.unwrap().success());
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"before\nfile\n");
    }
}

/// What is told of a transfer is no part of the file.
#[test]
fn standard_output_that_is_the_files_gets_no_line_of_the_prompts() {
    let server = Server::start(&[]);
    let file = content(9, 3000);
    server.file("file", &file);
    server.file("-", &file);
    let dir = tempfile::tempdir().unwrap();
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let url = format!("tftp://{}/file", server.addr());
    for words in [
        &["get", "file", "-"][..],
        &["get", "file", "/dev/stdout"],
        &["get file -"],
        &["get", &url, "-"],
        &["get", "-"],
        &["g", "file", "-"],
    ] {
        for (option, told) in [
            ("-v", &["Connected to", "getting from", "Received 3000"][..]),
            ("--trace", &["sent RRQ <", "received DATA <"]),
        ] {
            let args = [&[option, &host, &port, "-c"], words].concat();
            let output = run(dir.path(), &args);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(status(&output), 0, "{args:?}: {errors}");
            assert_same(&format!("{args:?}"), &output.stdout, &file);
            for word in told {
                assert!(errors.contains(word), "{args:?}: no {word:?}: {errors}");
            }
        }
    }
    // Nor a usage error, as the file of a failed get is empty.
    for words in [&["get", "file", "-"][..], &["get", "tftp:///file", "-"]] {
        let output = run(dir.path(), &[&["-c"], words].concat());
        assert_eq!((status(&output), &*output.stdout), (64, &b""[..]));
        assert!(!output.stderr.is_empty());
    }
    // Where it is not, lines stay where scripts read them.
    let output = run(dir.path(), &["-v", &host, &port, "-c", "get", "file"]);
    let lines = String::from_utf8_lossy(&output.stdout);
    assert!(lines.contains("Received 3000"), "{}", said(&output));
    // Without -v, only failures have a line, as such scripts expect.
    let output = run(dir.path(), &[&*host, &port, "-c", "get", "file"]);
    assert_eq!(&*said(&output), "[exit status: 0]");
    let output = run(dir.path(), &[&*host, &port, "-c", "get", "no", "a", "b"]);
    for name in ["no", "a", "b"] {
        let told = format!("tftp: tftp://{host}:{port}/{name}: Error code 1: File not found\n");
        assert!(said(&output).contains(&told), "{}", said(&output));
    }
}

/// And of the user's own file nothing is said in the words of a server.
#[test]
fn a_link_to_a_file_that_is_not_there_yet_can_be_got_to() {
    let server = Server::start(&[]);
    server.file("file", b"bytes");
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let url = format!("tftp://{}/file", server.addr());
    for words in [
        &["get", &*url, "link"][..],
        &[&host, &port, "-c", "get", "file", "link"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        symlink("new", dir.path().join("link")).unwrap();
        assert_status(&run(dir.path(), words), 0, &[]);
        assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"bytes");
        assert_eq!(files(dir.path()), ["link", "new"]);
        assert!(dir.path().join("link").is_symlink());
    }
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let output = run(dir.path(), &["get", &url, "socket"]);
    assert_status(&output, 2, &["tftp: socket: not a regular file"]);
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

// --- a device that isn't there yet ------------------------------------------------

/// Waits until a line of the client's standard error contains `word`; returns the rest of
/// that output.
#[track_caller]
fn wait_for_line(child: &mut Child, word: &str) -> std::io::BufReader<std::process::ChildStderr> {
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        let len = std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert!(len > 0, "no line with {word:?}");
    }
    lines
}

/// ICMP port unreachable before the first answer is only a hint: the client goes on asking
/// until the device listens (RFC 1122 §3.2.2.1).
#[test]
fn a_client_started_before_its_device_waits_for_it_despite_port_unreachable() {
    for (args, input) in [
        (&["put", "file", "URL"][..], ""),
        (&["get", "URL"], ""),
        (&["-v", "probe", "URL", "--within", "20s"], ""),
        (&["IP", "PORT", "-c", "put", "file"], ""),
        (&["IP", "PORT", "-c", "get", "file"], ""),
        (&["IP", "PORT"], "put file\n"),
        (&["IP", "PORT"], "get file\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "as it was").unwrap();
        let addr = own_port();
        let word = |word: &&str| match *word {
            "URL" => format!("tftp://{addr}/file"),
            "IP" => addr.ip().to_string(),
            "PORT" => addr.port().to_string(),
            word => word.to_owned(),
        };
        let mut child = tftp()
            .args(["-t", "100"])
            .args(args.iter().map(word))
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let _errors = wait_for_line(&mut child, "connection refused");
        let listen = UdpSocket::bind(addr).unwrap();
        listen.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 600];
        let (_, client) = listen.recv_from(&mut buffer).unwrap();
        let is_put = buffer[1] == 2;
        let server = UdpSocket::bind((addr.ip(), 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = if is_put { ack(0) } else { data(1, b"here") };
        server.send_to(&answer, client).unwrap();
        let len = server.recv(&mut buffer).unwrap();
        if is_put {
            let block = Packet::Data(1, b"as it was".to_vec());
            assert_eq!(Packet::parse(&buffer[..len]), block, "{args:?}");
            server.send_to(&ack(1), client).unwrap();
        } else {
            assert_eq!(Packet::parse(&buffer[..len]), Packet::Ack(1), "{args:?}");
        }
        assert_status(&child.wait_with_output().unwrap(), 0, &[]);
    }
}

/// First the network, then the host, then the port is unreachable.
#[test]
fn network_and_host_unreachable_are_hints_as_well() {
    let script = r#"
        "$TFTP" -t 100 put file tftp://192.0.2.1:6969/up 2>errors & client=$!
        until grep -q 'network unreachable' errors; do kill -0 $client || exit 1; done
        ip link set lo up
        ip address add 192.0.2.1/32 dev lo
        "$TFTPD" -4 -p 6969 --grace 0 root 2>log & server=$!
        wait $client; status=$?
        kill $server
        exit $status"#;
    if !can_make_networks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("file"), "as it was").unwrap();
    let output = bounded(60, "unshare")
        .args(["--net", "sh", "-c", script])
        .current_dir(dir.path())
        .env("TFTP", env!("CARGO_BIN_EXE_tftp"))
        .env("TFTPD", tftpd())
        .output()
        .unwrap();
    let errors = fs::read_to_string(dir.path().join("errors")).unwrap();
    assert!(output.status.success(), "{errors}");
    assert_eq!(fs::read(dir.path().join("root/up")).unwrap(), b"as it was");
}

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

/// `--wait`: a boot loader listens for a second or so; no request must miss it because of
/// a back-off.
#[test]
fn a_wait_asks_once_a_second_or_faster_and_says_so() {
    let args = [
        "-t",
        "5000",
        "--retries",
        "0",
        "--wait",
        "3500ms",
        "get",
        "URL",
    ];
    let mut requests = [0, 0];
    let (output, dir) = against(&args, |server| {
        // Longer than the time between two requests.
        server.listen.set_read_timeout(Some(millis(2000))).unwrap();
        let mut buffer = [0; 600];
        while let Ok(len) = server.listen.recv(&mut buffer) {
            requests[usize::from(len < 20)] += 1;
        }
    });
    assert_status(
        &output,
        69,
        &["asking again for", "no answer from 127.0.0.1"],
    );
    // With options at 0, 1, 2 and 3 s; without, from 1.3 s on.
    let [with_options, plain] = requests;
    assert!((3..=4).contains(&with_options), "{requests:?}");
    assert!((2..=3).contains(&plain), "{requests:?}");
    assert_unharmed(&dir);
}

/// Once the network has reported that nobody is there, requests don't back off: the device
/// may listen for a short time only.
#[test]
fn a_device_that_was_unreachable_is_asked_every_second() {
    let addr = own_port();
    let dir = tempfile::tempdir().unwrap();
    let mut child = tftp()
        .args(["get", &format!("tftp://{addr}/file")])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _errors = wait_for_line(&mut child, "connection refused");
    let listen = UdpSocket::bind(addr).unwrap();
    listen.set_read_timeout(Some(PATIENCE)).unwrap();
    let (started, mut clients) = (Instant::now(), vec![]);
    while started.elapsed() < millis(5500) {
        clients.push(listen.recv_from(&mut [0; 600]).unwrap().1);
    }
    let first = clients.iter().filter(|it| **it == clients[0]).count();
    // At 1, 2, 3, 4 and 5 s; a back-off would ask at 1 and 3 s.
    assert!((4..=6).contains(&first), "{clients:?}");
    listen.send_to(&error(0, "enough"), clients[0]).unwrap();
    assert_status(&child.wait_with_output().unwrap(), 1, &[]);
}

#[test]
fn the_last_hint_of_the_network_is_the_reason() {
    hint_is_the_reason(own_port());
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => hint_is_the_reason((Ipv6Addr::LOCALHOST, own_port().port()).into()),
        Err(error) => skip(format_args!("no IPv6 here: {error}")),
    }
}

fn hint_is_the_reason(addr: SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{addr}/f");
    for args in [
        &["-t", "10", "--retries", "1", "get", &*url][..],
        &["-q", "-t", "10", "--wait", "200ms", "get", &url],
        &["probe", &url, "--within", "300ms"],
    ] {
        let output = run(dir.path(), args);
        let reason = format!("no answer from {addr}: connection refused");
        assert_status(&output, 69, &[&reason]);
        let lines = String::from_utf8_lossy(&output.stderr).lines().count();
        assert_eq!(
            lines,
            if args[0] == "-t" { 2 } else { 1 },
            "{}",
            said(&output)
        );
    }
}

/// Some loaders drop requests with options: one without follows soon, from another
/// port.
#[test]
fn a_plain_request_follows_within_two_seconds() {
    let (output, _dir) = against(&["-v", "put", "file", "URL"], |server| {
        let mut words = server.request();
        let (first, mut optioned) = (server.client, 0);
        while words.len() > 3 {
            optioned += 1;
            words = server.request();
        }
        assert_ne!(server.client, first, "a port of its own");
        // It used to take 7 s: with options, requests are sent at 0, 1, 3 and 7 s.
        assert!(optioned <= 2, "{optioned} of them");
        assert_eq!(server.say(&ack(0)), Packet::Data(1, b"as it was".to_vec()));
        server.send(&ack(1));
    });
    assert_status(&output, 0, &["without options", "silent"]);
}

#[test]
fn a_late_answer_to_the_request_with_options_counts() {
    let (output, _dir) = against(&["-v", "get", "URL"], |server| {
        let mut words = server.request();
        let first = server.client;
        while words.len() > 3 {
            words = server.request();
        }
        let second = server.client;
        server.client = first;
        assert_eq!(server.say(&oack(&[("blksize", "600")])), Packet::Ack(0));
        // The other request is answered too late: its transfer is aborted.
        let late = RawClient::to(second.unwrap());
        late.send(&data(1, &[b'x'; 512]));
        assert_eq!(late.expect().0.error_code(), Some(0));
        assert_eq!(server.say(&data(1, b"right")), Packet::Ack(1));
    });
    assert_status(&output, 0, &["blksize=600", "Received 5 bytes"]);
}

/// The refusal comes after the plain request was sent, which is then sent again.
#[test]
fn a_late_refusal_of_options_ends_in_a_plain_transfer() {
    for answer in [error(8, "no options"), oack(&[("blksize", "9999")])] {
        let (output, dir) = against(&["get", "URL"], |server| {
            let mut words = server.request();
            let first = server.client;
            while words.len() > 3 {
                words = server.request();
            }
            server.client = first;
            server.send(&answer);
            let mut words = server.request();
            while words.len() > 3 {
                words = server.request();
            }
            server.transfer = UdpSocket::bind("127.0.0.1:0").unwrap();
            server.transfer.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(server.say(&data(1, b"whole")), Packet::Ack(1));
        });
        assert_status(&output, 0, &["Received 5 bytes"]);
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"whole");
    }
}

/// If one of several addresses is unreachable, the next is asked at once and without a
/// message.
#[test]
fn an_unreachable_address_is_passed_over() {
    let Some((first, second)) = both_localhosts() else {
        return;
    };
    let port = first.local_addr().unwrap().port();
    drop(first);
    let dir = tempfile::tempdir().unwrap();
    let child = tftp()
        .args(["get", &format!("tftp://localhost:{port}/file")])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, client) = second.recv_from(&mut [0; 600]).unwrap();
    second.send_to(&data(1, b"right"), client).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 0, &["Received 5 bytes"]);
    let lines = String::from_utf8_lossy(&output.stderr).lines().count();
    assert_eq!(lines, 1, "{}", said(&output));
}

/// tftp-hpa's client sends no options; its scripts talk to devices that know none.
#[test]
fn hpa_style_commands_send_no_options_unless_asked_to() {
    for (args, options) in [
        (&[][..], 3),
        (&["-m", "binary"], 3),
        (&["--blksize", "512"], 5),
        (&["--option", "tsize=9"], 5),
    ] {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "as it was").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let child = tftp()
            .args(args)
            .args(["127.0.0.1", &port, "-c", "put", "file"])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut buffer = [0; 600];
        let (len, client) = server.recv_from(&mut buffer).unwrap();
        let words = buffer[2..len].split(|&byte| byte == 0).count();
        assert_eq!(words, options, "{args:?}");
        server.send_to(&error(0, "enough"), client).unwrap();
        assert_status(&child.wait_with_output().unwrap(), 1, &["enough"]);
    }
}

/// As with `tftp get`: the URL's mode comes first, whatever was set.
#[test]
fn a_mode_in_a_url_holds_for_the_prompts_commands() {
    for (args, name, mode) in [
        (
            &["get", "URL;mode=netascii", "here"][..],
            "file",
            "netascii",
        ),
        (&["get URL;mode=netascii here"], "file", "netascii"),
        (&["mget", "URL;mode=netascii", "."], "file", "netascii"),
        (&["put", "file", "URL;mode=netascii"], "file", "netascii"),
        (
            &["put", "file", "URL/;mode=netascii"],
            "file/file",
            "netascii",
        ),
        (
            &["mput", "file", "URL/d;mode=netascii"],
            "file/d/file",
            "netascii",
        ),
        (&["mput", "file", "URL;mode=octet"], "file/file", "octet"),
        (
            &["mput", "file", "URL/d/;mode=octet"],
            "file/d/file",
            "octet",
        ),
    ] {
        let other = if mode == "octet" { "netascii" } else { "octet" };
        let all = [&["-v", "-m", other, "127.0.0.1", "-c"], args].concat();
        let (output, dir) = against(&all, |server| {
            let words = server.request();
            assert_eq!(words[..2], [name, mode], "{args:?}");
            if args[0].contains("get") {
                assert_eq!(server.say(&data(1, b"a\r\nb")), Packet::Ack(1));
            } else {
                let block = Packet::Data(1, b"as it was".to_vec());
                assert_eq!(server.say(&ack(0)), block);
                server.send(&ack(1));
            }
        });
        assert_status(&output, 0, &[]);
        let told = said(&output);
        assert!(told.contains(&format!("[{mode}]")), "{args:?}: {told}");
        if args[0].starts_with("get") {
            assert_eq!(fs::read(dir.path().join("here")).unwrap(), b"a\nb");
        }
    }
}

/// A server with several addresses that answers from the wrong one.
#[test]
fn answers_from_another_address_are_told() {
    for args in [
        &["-t", "300", "--retries", "1", "get"][..],
        &["-t", "300", "probe", "--within", "1s"],
    ] {
        let listen = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.2:0").unwrap();
        listen.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("tftp://{}/file", listen.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let child = tftp()
            .args(args)
            .arg(&url)
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (_, client) = listen.recv_from(&mut [0; 600]).unwrap();
        other.send_to(&data(1, b"from elsewhere"), client).unwrap();
        let told = format!("answers came from {}", other.local_addr().unwrap());
        assert_status(&child.wait_with_output().unwrap(), 69, &[&told]);
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
}

/// The addresses of a name are tried in parallel: a silent one doesn't delay the others.
#[test]
fn addresses_of_a_name_are_raced() {
    let Some((silent, second)) = both_localhosts() else {
        return;
    };
    let port = silent.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://localhost:{port}/file");
    let child = tftp()
        .args(["get", &url])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.recv(&mut [0; 600]).unwrap();
    let started = Instant::now();
    let (_, client) = second.recv_from(&mut [0; 600]).unwrap();
    // It used to take 22 s.
    assert!(started.elapsed() < Duration::from_secs(5));
    second.send_to(&data(1, b"right"), client).unwrap();
    assert_status(&child.wait_with_output().unwrap(), 0, &["Received 5 bytes"]);
}

// --- what ends a transfer ------------------------------------------------------------

/// A server that sends the same thing forever makes no progress.
#[test]
fn repeats_of_one_answer_are_no_progress() {
    let oacks = oack(&[("blksize", "512")]);
    let ways = [
        (data(1, &[0; 512]), &["get", "URL"][..]),
        (oacks.clone(), &["get", "URL"]),
        (oacks, &["put", "file", "URL"]),
        (ack(0), &["put", "file", "URL"]),
    ];
    thread::scope(|scope| {
        for (first, args) in &ways {
            scope.spawn(|| repeats_are_no_progress(first, args));
        }
    });
}

fn repeats_are_no_progress(first: &[u8], args: &[&str]) {
    let args = [&["-t", "50", "--retries", "2"], args].concat();
    let (output, dir) = against(&args, |server| {
        server.request();
        server.send(first);
        server
            .transfer
            .set_read_timeout(Some(millis(1000)))
            .unwrap();
        let started = Instant::now();
        // Each answer brings the same packet again.
        while server.transfer.recv(&mut [0; 600]).is_ok() {
            thread::sleep(millis(10));
            server.send(first);
            assert!(started.elapsed() < PATIENCE, "{args:?}: held forever");
        }
    });
    assert_status(&output, 69, &["after "]);
    assert_unharmed(&dir);
}

/// The announced size (RFC 2349) is compared with the received bytes.
#[test]
fn a_size_that_was_announced_wrongly_is_told() {
    for (announced, status, word) in [
        ("9", 0, ""),
        ("8", 0, "more than the 8 bytes that were announced"),
        ("10", 1, "9 of 10 bytes that were announced"),
    ] {
        for end in [&["-m", "octet"][..], &["-m", "netascii"]] {
            let netascii = end[1] == "netascii";
            let args = [end, &["get", "URL", "new"]].concat();
            let (output, dir) = against(&args, |server| {
                server.request();
                assert_eq!(server.say(&oack(&[("tsize", announced)])), Packet::Ack(0));
                let answer = server.say(&data(1, b"nine long"));
                // A short file isn't acknowledged as a whole one.
                let is_short = announced == "10" && !netascii;
                let is_right = match &answer {
                    Packet::Error(0, why) => is_short && why.contains("announced"),
                    answer => !is_short && *answer == Packet::Ack(1),
                };
                assert!(is_right, "{answer:?}");
            });
            if netascii {
                // In netascii, the local size differs from the size on the wire.
                assert_status(&output, 0, &["Received 9 bytes"]);
                continue;
            }
            assert_status(&output, status, &[word]);
            let lines = String::from_utf8_lossy(&output.stderr).lines().count();
            let expected = usize::from(status == 0) + usize::from(!word.is_empty());
            assert_eq!(lines, expected, "{}", said(&output));
            let file = fs::read(dir.path().join("new")).ok();
            assert_eq!(file.is_some(), status == 0, "{announced}");
        }
    }
}

#[test]
fn two_files_with_one_local_name_are_refused_before_anything_is_done() {
    let server = Server::start(&[]);
    server.file("a/f", b"a");
    server.file("b/f", b"b");
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("into")).unwrap();
    let urls = ["a/f", "b/f"].map(|name| format!("tftp://{}/{name}", server.addr()));
    for local in [&["into/"][..], &["into"], &[], &["."]] {
        let args = [&["get", &*urls[0], &urls[1]], local].concat();
        assert_status(&run(dir.path(), &args), 64, &["would both be"]);
    }
    assert_eq!(files(dir.path()), ["into"]);
    assert_eq!(files(&dir.path().join("into")), Vec::<String>::new());
    // On a server that overwrites, one upload doesn't replace the other either.
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("f"), name).unwrap();
    }
    for into in ["", "into/"] {
        let url = format!("tftp://{}/{into}", server.addr());
        let output = run(dir.path(), &["put", "a/f", "b/f", &url]);
        assert_status(&output, 64, &["a/f and b/f would both be"]);
    }
    assert_eq!(server.tree().len(), 2);
    // Standard output takes both, one after the other.
    let output = run(dir.path(), &["-q", "get", &urls[0], &urls[1], "-"]);
    assert_eq!(output.stdout, b"ab");
    // The same file twice replaces no other file.
    assert_status(
        &run(dir.path(), &["get", &urls[0], &urls[0], "into/"]),
        0,
        &[],
    );
    assert_eq!(fs::read(dir.path().join("into/f")).unwrap(), b"a");
}

/// What a link leads to is what would be replaced.
#[test]
fn two_files_that_a_link_makes_one_are_refused_before_anything_is_done() {
    let server = Server::start(&[]);
    server.file("big", b"big");
    server.file("small", b"small");
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let urls = ["small", "big"].map(|name| format!("tftp://{}/{name}", server.addr()));
    let dir = tempfile::tempdir().unwrap();
    let link = |to: &Path| {
        let _ = fs::remove_file(dir.path().join("small"));
        symlink(to, dir.path().join("small")).unwrap();
    };
    let calls = [
        &["get", &*urls[0], &urls[1], "."][..],
        &["get", &urls[0], &urls[1]],
        &["get", &urls[1], &urls[0]],
        &[&host, &port, "-c", "mget", "small", "big", "."],
    ];
    for to in [Path::new("big"), &dir.path().join("big")] {
        link(to);
        for words in calls {
            assert_status(&run(dir.path(), words), 64, &[]);
            assert_eq!(files(dir.path()), ["small"], "{words:?}");
        }
    }
    // A device replaces nothing.
    link(Path::new("/dev/null"));
    symlink("/dev/null", dir.path().join("big")).unwrap();
    for words in calls {
        assert_status(&run(dir.path(), words), 0, &[]);
    }
}

/// Python and Node.js give their children a /dev/null that is open for reading and
/// writing, as Rust's runtime does for a closed stream.
#[test]
fn every_null_device_takes_a_download_and_none_open_both_ways_is_sent() {
    let server = Server::start(&["--overwrite"]);
    server.file("file", b"bytes");
    let url = format!("tftp://{}/file", server.addr());
    let shell = |words: &str| {
        let script = format!(r#"exec "$0" {words}"#);
        let mut command = bounded(LIMIT, "sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_tftp"), &url]);
        command.output().unwrap()
    };
    for redirect in [">/dev/null", "1<>/dev/null", "<>/dev/null >&0"] {
        let output = shell(&format!(r#"get "$1" - {redirect}"#));
        assert_status(&output, 0, &["Received 5 bytes"]);
    }
    for redirect in ["<&-", "<>/dev/null"] {
        let output = shell(&format!(r#"put - "$1" {redirect}"#));
        assert_status(&output, 2, &["standard input is closed"]);
    }
    let kept = fs::read(server.root().join("file")).unwrap();
    assert_eq!(kept, b"bytes");
    assert_status(&shell(r#"put - "$1" </dev/null"#), 0, &["Sent 0 bytes"]);
}

/// SIGXFSZ would kill the client; the limit must be an error about the file.
#[test]
fn a_file_size_limit_is_a_local_error() {
    let server = Server::start(&[]);
    server.file("file", &content(8, 100_000));
    let url = format!("tftp://{}/file", server.addr());
    let dir = tempfile::tempdir().unwrap();
    for (local, left) in [("file", &[][..]), ("- >out", &["out"])] {
        let script = format!(r#"ulimit -f 20; exec "$0" get "$1" {local}"#);
        let output = bounded(LIMIT, "sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_tftp"), &url])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_status(&output, 2, &[]);
        assert_eq!(files(dir.path()), left);
    }
}

/// What the client does that may open so few files (`ulimit -n`).
fn with_open_files(limit: u32, dir: &Path, words: &[&str]) -> Output {
    let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
    let mut command = bounded(LIMIT, "sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tftp")]);
    command.args(words).current_dir(dir).output().unwrap()
}

/// Whichever of its descriptors is one too many: it is this end's fault.
#[test]
fn too_few_open_files_have_one_status_and_the_systems_words() {
    let server = Server::start(&["--overwrite"]);
    server.file("file", b"bytes");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("up"), "up").unwrap();
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let url = format!("tftp://{}/file", server.addr());
    for words in [
        &["get", &url, "down"][..],
        &["put", "up", &url],
        &["probe", &url],
        &[&host, &port, "-c", "get", "file", "down"],
        &[&host, &port, "-c", "put", "up", "file"],
    ] {
        let mut failures = 0;
        for limit in 4..24 {
            let output = with_open_files(limit, dir.path(), words);
            let told = String::from_utf8_lossy(&output.stderr);
            if status(&output) == 0 {
                continue;
            }
            failures += 1;
            assert_eq!(status(&output), 2, "{words:?} {limit}: {told}");
            assert!(
                told.contains("too many open files"),
                "{words:?} {limit}: {told}"
            );
            assert!(!told.contains("os error"), "{words:?} {limit}: {told}");
        }
        assert!((1..20).contains(&failures), "{words:?}: {failures}");
    }
}

/// Transfers that dally hold descriptors that the next file needs.
#[test]
fn where_open_files_are_enough_for_one_file_they_are_for_several() {
    let server = Server::start(&[]);
    let names = ["a", "b", "c", "d"];
    for name in names {
        server.file(name, name.as_bytes());
    }
    let (host, port) = (server.addr().ip().to_string(), server.port().to_string());
    let urls = names.map(|name| format!("tftp://{}/{name}", server.addr()));
    let [a, b, c, d] = urls.each_ref().map(String::as_str);
    for (alone, together) in [
        (&["get", a, "."][..], &["get", a, b, c, d, "."][..]),
        (
            &[&host, &port, "-c", "mget", "a", "."],
            &[&host, &port, "-c", "mget", "a", "b", "c", "d", "."],
        ),
    ] {
        let limited = |limit: u32, words: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            let output = with_open_files(limit, dir.path(), words);
            (output, files(dir.path()))
        };
        let enough = (4..24).find(|&limit| status(&limited(limit, alone).0) == 0);
        let enough = enough.expect("a limit that is enough");
        for limit in enough..enough + 4 {
            let (output, came) = limited(limit, together);
            assert_eq!(status(&output), 0, "{limit}: {}", said(&output));
            assert_eq!(came, names, "{limit}");
        }
    }
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

// --- streams ------------------------------------------------------------------------

/// Endless input is sent as it comes, and not stored.
#[test]
fn an_endless_source_is_streamed() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ["octet", "netascii"] {
        let (output, _) = against(
            &[
                "-t",
                "10000",
                "-m",
                mode,
                "--no-options",
                "put",
                "/dev/zero",
                "URL",
            ],
            |server| {
                server.request();
                for block in 0..100 {
                    let packet = server.say(&ack(block));
                    assert_eq!(packet.data_block(), Some(block + 1));
                }
                server.send(&error(3, "full"));
            },
        );
        assert_status(&output, 1, &["Error code 3: full"]);
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

// --- addresses ----------------------------------------------------------------------

/// A server asked at an IPv4-mapped address answers from the IPv4 address.
#[test]
fn a_mapped_address_is_that_of_ipv4() {
    let server = Server::start(&[]);
    server.file("file", b"bytes");
    let dir = tempfile::tempdir().unwrap();
    let (ip, port) = (server.addr().ip(), server.port().to_string());
    let mapped = format!("::ffff:{ip}");
    let url = format!("tftp://[{mapped}]:{port}/file");
    for words in [
        &["get", &*url][..],
        &["-4", "get", &url],
        &[&mapped, &port, "-c", "get", "file"],
    ] {
        assert_status(&run(dir.path(), words), 0, &[]);
    }
    assert_status(&run(dir.path(), &["-6", "get", &url]), 68, &["IPv6"]);
}

/// A link-local address has a zone; in a URL the percent sign is written %25 (RFC 6874).
#[test]
fn a_link_local_address_has_its_zone() {
    let script = r#"
        ip link set lo up
        ip -6 address add fe80::7/64 dev lo nodad
        "$TFTPD" -6 -p 6969 --grace 0 root 2>log & server=$!
        until grep -q 'listening on' log; do kill -0 $server || exit 1; done
        status=0
        for url in 'tftp://[fe80::7%25lo]:6969/f' 'tftp://[fe80::7%lo]:6969/f' \
            'tftp://[fe80::7%251]:6969/f'; do
            "$TFTP" -q -t 200 get "$url" got || status=1
        done
        "$TFTP" -q -t 200 'fe80::7%lo' 6969 -c get f got || status=1
        "$TFTP" -q get 'tftp://[fe80::7%25nowhere]:6969/f' got 2>errors && status=1
        kill $server
        exit $status"#;
    if !can_make_networks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("root/f"), "bytes").unwrap();
    let output = bounded(60, "unshare")
        .args(["--net", "sh", "-c", script])
        .current_dir(dir.path())
        .env("TFTP", env!("CARGO_BIN_EXE_tftp"))
        .env("TFTPD", tftpd())
        .output()
        .unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(output.status.success(), "{}{log}", said(&output));
    assert_eq!(fs::read(dir.path().join("got")).unwrap(), b"bytes");
    let errors = fs::read_to_string(dir.path().join("errors")).unwrap();
    assert!(errors.contains("no such address or interface"), "{errors}");
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

#[test]
fn a_stream_larger_than_what_is_kept_arrives_whole() {
    let server = Server::start(&[]);
    let file = content(9, 5_000_000);
    for (name, args) in [
        ("octet", &[][..]),
        ("windows", &["--windowsize", "64", "--blksize", "8192"]),
        ("text", &["-m", "netascii"]),
    ] {
        let mut child = tftp()
            .args(args)
            .args(["put", "-", &format!("tftp://{}/{name}", server.addr())])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The transfer catches up with the pipe, and waits for it.
        let (first, second) = file.split_at(2_000_001);
        stdin.write_all(first).unwrap();
        thread::sleep(millis(100));
        stdin.write_all(second).unwrap();
        drop(stdin);
        assert_status(&child.wait_with_output().unwrap(), 0, &["Sent"]);
        let came = fs::read(server.root().join(name)).unwrap();
        assert_same(name, &came, &file);
    }
}

/// The time that is announced is the time that passes, to the nearest second.
#[test]
fn the_time_of_a_wait_is_the_one_that_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("tftp://{}/f", own_port());
    // 700 ms with options and 1500 ms without.
    let args = ["-t", "100", "--retries", "3", "get", &url];
    let started = Instant::now();
    let output = run(dir.path(), &args);
    assert!(started.elapsed() >= millis(2200), "{}", said(&output));
    assert_status(&output, 69, &["asking again for 2 s\n"]);
}
