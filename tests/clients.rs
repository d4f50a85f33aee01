//! Real clients against the real binary: curl, tftp-hpa, atftp and busybox get and put
//! files, with every option that they have; the bytes are compared.
//!
//! A client that isn't installed is skipped with a message; with `CI=true` the test
//! fails instead.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// The longest time that a client may take, in seconds: 40 MiB in blocks of 512 bytes
/// on a busy machine.
const LIMIT: u32 = 100;

const MIB: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Curl,
    Hpa,
    Atftp,
    Busybox,
}

use Client::{Atftp, Busybox, Curl, Hpa};

const ALL: [Client; 4] = [Curl, Hpa, Atftp, Busybox];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Get,
    Put,
}

/// How a client should ask. It is only asked for what it supports.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    netascii: bool,
    no_options: bool,
    blksize: Option<usize>,
    windowsize: Option<usize>,
    timeout: Option<usize>,
    tsize: bool,
    /// Which of the server's addresses to ask, if it has several.
    address: Option<Ipv4Addr>,
}

impl Client {
    /// Whether the client is installed, and is what its name says.
    fn is_there(self) -> bool {
        match self {
            Curl => require("curl").is_some(),
            Atftp => require("atftp").is_some(),
            Busybox => require("busybox").is_some(),
            Hpa => {
                let Some(program) = require("tftp") else {
                    return false;
                };
                let version = Command::new(program).arg("-V").output();
                let hpa = version.is_ok_and(|output| said(&output).contains("tftp-hpa"));
                let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(hpa || !ci, "tftp is not tftp-hpa's");
                if !hpa {
                    skip("tftp is not tftp-hpa's");
                }
                hpa
            }
        }
    }

    /// The command that transfers one file. Local names are absolute paths; for none of
    /// these clients are remote names.
    fn command(self, way: Way, server: &Server, remote: &str, local: &Path, wish: Wish) -> Command {
        let host = wish
            .address
            .map_or(server.addr().ip(), IpAddr::from)
            .to_string();
        let port = server.port().to_string();
        let get = way == Way::Get;
        match self {
            Curl => {
                let mut command = bounded(LIMIT, "curl");
                command
                    .args(["-sS", if get { "-o" } else { "-T" }])
                    .arg(local);
                command.args(wish.netascii.then_some("--use-ascii"));
                command.args(wish.no_options.then_some("--tftp-no-options"));
                if let Some(size) = wish.blksize {
                    command.args(["--tftp-blksize", &size.to_string()]);
                }
                command.arg(format!("tftp://{host}:{port}/{remote}"));
                command
            }
            Hpa => {
                let mode = if wish.netascii { "netascii" } else { "binary" };
                let mut command = bounded(LIMIT, "tftp");
                command.args(["-m", mode, &host, &port, "-c"]);
                match way {
                    Way::Get => command.args(["get", remote]).arg(local),
                    Way::Put => command.arg("put").arg(local).arg(remote),
                };
                command
            }
            Atftp => {
                let mut command = bounded(LIMIT, "atftp");
                command.args([if get { "--get" } else { "--put" }, "-r", remote, "-l"]);
                command.arg(local);
                let number = |name: &str, value: Option<usize>| Some(format!("{name} {}", value?));
                let options = [
                    wish.tsize.then(|| "tsize".to_owned()),
                    number("timeout", wish.timeout),
                    number("blksize", wish.blksize),
                    number("windowsize", wish.windowsize),
                    wish.netascii.then(|| "mode netascii".to_owned()),
                ];
                for option in options.into_iter().flatten() {
                    command.args(["--option", &option]);
                }
                command.args([host, port]);
                command
            }
            Busybox => {
                let mut command = bounded(LIMIT, "busybox");
                command.args(["tftp", if get { "-g" } else { "-p" }, "-r", remote, "-l"]);
                command.arg(local);
                if let Some(size) = wish.blksize {
                    command.args(["-b", &size.to_string()]);
                }
                command.args([host, port]);
                command
            }
        }
    }

    fn run(self, way: Way, server: &Server, remote: &str, local: &Path, wish: Wish) -> Output {
        let mut command = self.command(way, server, remote, local, wish);
        command.current_dir(server.outside());
        command.output().expect("timeout(1)")
    }

    /// Downloads a file; stored locally, it must equal `wanted`.
    #[track_caller]
    fn get(self, server: &Server, remote: &str, wanted: &[u8], wish: Wish) {
        let local = server.outside().join(format!("{self:?}-get"));
        let output = self.run(Way::Get, server, remote, &local, wish);
        let what = format!("{self:?} get {remote} {wish:?}: {}", said(&output));
        assert!(output.status.success(), "{what}");
        assert_same(&what, &fs::read(&local).unwrap_or_default(), wanted);
        // busybox resumes after the end of an existing file.
        fs::remove_file(local).expect(&what);
    }

    /// Uploads `file`; stored by the server, it must equal `wanted`.
    #[track_caller]
    fn put(self, server: &Server, remote: &str, file: &[u8], wanted: &[u8], wish: Wish) {
        let local = server.outside().join(format!("{self:?}-put"));
        fs::write(&local, file).expect("a local file");
        let output = self.run(Way::Put, server, remote, &local, wish);
        let what = format!("{self:?} put {remote} {wish:?}: {}", said(&output));
        assert!(output.status.success(), "{what}");
        let landed = server.root().join(remote);
        assert_same(&what, &fs::read(&landed).unwrap_or_default(), wanted);
        fs::remove_file(landed).expect(&what);
    }

    /// All of the client's ways to ask for an octet transfer.
    fn wishes(self) -> Vec<Wish> {
        let plain = Wish::default();
        let blksize = |size| Wish {
            blksize: Some(size),
            ..plain
        };
        let mut wishes = vec![plain];
        if matches!(self, Curl | Atftp) {
            wishes.push(blksize(8));
        }
        if self != Hpa {
            wishes.extend([512, 1428, 65_464].map(blksize));
        }
        match self {
            Curl => wishes.push(Wish {
                no_options: true,
                ..plain
            }),
            Atftp => {
                let window = |size| Wish {
                    windowsize: Some(size),
                    ..plain
                };
                wishes.extend([1, 4, 16].map(window));
                wishes.push(Wish {
                    tsize: true,
                    timeout: Some(1),
                    blksize: Some(1428),
                    windowsize: Some(8),
                    ..plain
                });
            }
            Hpa | Busybox => {}
        }
        wishes
    }
}

/// Sizes worth trying with this block size, in bytes.
fn sizes(wish: Wish) -> Vec<usize> {
    let block = wish.blksize.unwrap_or(BLOCK);
    // Block borders are the same in both modes.
    if is_single_port() {
        return vec![0, 3 * block];
    }
    let big = if block == 8 { 30_000 } else { MIB };
    vec![0, 1, block - 1, block, block + 1, 3 * block, big]
}

#[track_caller]
fn get_and_put_in_every_way(client: Client) {
    if !client.is_there() {
        return;
    }
    let server = Server::start(&[]);
    for wish in client.wishes() {
        for size in sizes(wish) {
            let file = content(size as u64, size);
            server.file("get.bin", &file);
            client.get(&server, "get.bin", &file, wish);
            client.put(&server, "put.bin", &file, &file, wish);
        }
    }
}

#[test]
fn curl_gets_and_puts() {
    get_and_put_in_every_way(Curl);
}

#[test]
fn tftp_hpa_gets_and_puts() {
    get_and_put_in_every_way(Hpa);
}

#[test]
fn atftp_gets_and_puts() {
    get_and_put_in_every_way(Atftp);
}

#[test]
fn busybox_gets_and_puts() {
    get_and_put_in_every_way(Busybox);
}

/// A text with line ends at and around the block borders, and its form on the wire.
fn text() -> (Vec<u8>, Vec<u8>) {
    let mut local = Vec::new();
    for len in [511, 509, 0, 0, 40, 1022, 300] {
        local.extend(std::iter::repeat_n(b'x', len));
        local.push(b'\n');
    }
    let wire = String::from_utf8_lossy(&local).replace('\n', "\r\n");
    (local, wire.into_bytes())
}

#[test]
fn netascii_comes_and_goes_as_text() {
    let (local, wire) = text();
    let wish = Wish {
        netascii: true,
        ..Wish::default()
    };
    let server = Server::start(&[]);
    server.file("text.txt", &local);
    // tftp-hpa translates both ways; curl shows and sends the form on the wire.
    if Hpa.is_there() {
        Hpa.get(&server, "text.txt", &local, wish);
        Hpa.put(&server, "up.txt", &local, &local, wish);
    }
    if Curl.is_there() {
        Curl.get(&server, "text.txt", &wire, wish);
        Curl.put(&server, "up.txt", &wire, &local, wish);
    }
    if Atftp.is_there() {
        Atftp.get(&server, "text.txt", &local, wish);
        Atftp.put(&server, "up.txt", &local, &local, wish);
    }
}

/// 67,584 blocks: the block number wraps.
#[track_caller]
fn thirty_three_mebibytes(client: Client, way: Way) {
    // Rollover is the same in both modes: `contents` tests it.
    if is_single_port() || !client.is_there() {
        return;
    }
    let server = Server::start(&[]);
    let file = content(40, 33 * MIB);
    match way {
        Way::Get => {
            server.file("big", &file);
            client.get(&server, "big", &file, Wish::default());
        }
        Way::Put => client.put(&server, "big", &file, &file, Wish::default()),
    }
}

#[test]
fn curl_gets_thirty_three_mebibytes() {
    thirty_three_mebibytes(Curl, Way::Get);
}

#[test]
fn tftp_hpa_gets_thirty_three_mebibytes() {
    thirty_three_mebibytes(Hpa, Way::Get);
}

#[test]
fn busybox_gets_thirty_three_mebibytes() {
    thirty_three_mebibytes(Busybox, Way::Get);
}

#[test]
fn atftp_gets_thirty_three_mebibytes() {
    thirty_three_mebibytes(Atftp, Way::Get);
}

#[test]
fn curl_puts_thirty_three_mebibytes() {
    thirty_three_mebibytes(Curl, Way::Put);
}

#[test]
fn tftp_hpa_puts_thirty_three_mebibytes() {
    thirty_three_mebibytes(Hpa, Way::Put);
}

#[test]
fn two_hundred_at_once() {
    let clients: Vec<_> = ALL.into_iter().filter(|client| client.is_there()).collect();
    if clients.is_empty() {
        return;
    }
    // tftp-hpa takes the first answer from any address.
    if nix::unistd::geteuid().is_root() {
        own_network();
    }
    let server = Server::start_bare(&["-4"]);
    let file = content(200, 100_000);
    server.file("get.bin", &file);
    let local = |n: usize| server.outside().join(format!("local{n}"));
    let way = |n: usize| {
        if n.is_multiple_of(3) {
            Way::Put
        } else {
            Way::Get
        }
    };
    let name = |n: usize| match way(n) {
        Way::Get => "get.bin".to_owned(),
        Way::Put => format!("put{n}.bin"),
    };
    let start = |(n, client): (usize, &Client)| {
        if way(n) == Way::Put {
            fs::write(local(n), &file).expect("a local file");
        }
        // Two busyboxes may get the same port, the second while the first is connected:
        // with a single port at the server, only the server's address tells them apart.
        let wish = Wish {
            address: Some(own_address()),
            ..Wish::default()
        };
        client
            .command(way(n), &server, &name(n), &local(n), wish)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("timeout(1)")
    };
    let children: Vec<Child> = clients
        .iter()
        .cycle()
        .take(200)
        .enumerate()
        .map(start)
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("a child of ours");
        let what = format!("{n} {:?}: {}", clients[n % clients.len()], said(&output));
        assert!(output.status.success(), "{what}");
        let arrived: PathBuf = match way(n) {
            Way::Get => local(n),
            Way::Put => server.root().join(name(n)),
        };
        assert_same(&what, &fs::read(arrived).expect(&what), &file);
    }
}

/// One source port for all requests, and no pause between them.
#[test]
fn tftp_hpas_prompt_gets_gets_puts_gets() {
    if !Hpa.is_there() {
        return;
    }
    let server = Server::start(&[]);
    let (one, two, three) = (content(1, 1000), content(2, 512), content(3, 70_000));
    server.file("one", &one);
    server.file("two", &two);
    fs::write(server.outside().join("three"), &three).unwrap();
    let start = Instant::now();
    let mut child = bounded(LIMIT, "tftp")
        .args([server.addr().ip().to_string(), server.port().to_string()])
        .current_dir(server.outside())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let commands =
        b"binary\nget one\nget two\nput three\nget three back\nget missing\nget one again\nquit\n";
    child.stdin.take().unwrap().write_all(commands).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = said(&output);
    for (name, wanted) in [
        ("one", &one),
        ("two", &two),
        ("back", &three),
        ("again", &one),
    ] {
        let got = fs::read(server.outside().join(name)).unwrap_or_default();
        assert_same(&format!("{name}: {told}"), &got, wanted);
    }
    assert_same(
        "put",
        &fs::read(server.root().join("three")).unwrap(),
        &three,
    );
    assert!(told.contains("File not found"), "{told}");
    // The client's first retransmit comes after 5 s, ours after 1 s.
    assert!(start.elapsed() < Duration::from_secs(4), "a pause: {told}");
}

/// A client's message and exit status when the server refuses.
#[track_caller]
fn assert_refused(client: Client, output: &Output, text: &str) {
    let told = said(output);
    match client {
        // curl only has exit codes for this.
        Curl => assert!(matches!(output.status.code(), Some(68 | 73)), "{told}"),
        Hpa => assert!(told.contains(text), "{told}"),
        Atftp | Busybox => {
            assert!(!output.status.success(), "{client:?}: {told}");
            assert!(told.contains(text), "{client:?}: {told}");
        }
    }
}

#[test]
fn refusals_reach_the_user() {
    for client in ALL.into_iter().filter(|client| client.is_there()) {
        let server = Server::start(&[]);
        let local = server.outside().join("local");
        let output = client.run(Way::Get, &server, "missing", &local, Wish::default());
        assert_refused(client, &output, "File not found");

        fs::write(&local, b"the second").unwrap();
        let put = |name| client.run(Way::Put, &server, name, &local, Wish::default());
        let output = put("up");
        assert!(output.status.success(), "{client:?}: {}", said(&output));
        fs::write(&local, b"another").unwrap();
        assert_refused(client, &put("up"), "File already exists");
        let tree = server.tree();
        assert_eq!(tree.len(), 1, "{client:?}: {:?}", tree.keys());
        assert_eq!(tree[Path::new("up")], b"the second", "{client:?}");
    }
}

#[test]
fn overwriting_replaces_the_file_whole() {
    for client in ALL.into_iter().filter(|client| client.is_there()) {
        let server = Server::start(&["--overwrite"]);
        for file in [content(1, 100_000), content(2, 700), Vec::new()] {
            server.file("up", &content(3, 5000));
            client.put(&server, "up", &file, &file, Wish::default());
            assert!(server.tree().is_empty(), "{client:?} left something");
        }
    }
}

#[test]
fn curl_speaks_ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        skip("no IPv6 here");
        return;
    }
    if !Curl.is_there() {
        return;
    }
    let server = Server::start_bare(&[]);
    let file = content(6, 100_000);
    server.file("f", &file);
    let output = bounded(LIMIT, "curl")
        .args(["-sSg", &format!("tftp://[::1]:{}/f", server.port())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_same("f", &output.stdout, &file);
}
