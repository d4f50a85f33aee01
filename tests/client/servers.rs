//! The field's servers: what is sent to each comes back whole.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

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

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
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
