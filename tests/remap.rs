//! Map files with the real binary, and compared with the real in.tftpd: what the rules
//! make of names, what is refused, what SIGHUP and `--map-test` do.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tftpd::policy::map::{MapRequest, Rules};
use tftpd::wire::packet::Direction;

/// A map file in a directory of its own.
struct MapFile {
    _dir: TempDir,
    path: PathBuf,
}

impl MapFile {
    fn new(rules: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("map");
        fs::write(&path, rules).expect("a file");
        Self { _dir: dir, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }
}

fn start(rules: &str, args: &[&str]) -> (Server, MapFile) {
    let map = MapFile::new(rules.as_bytes());
    let mut all = vec!["-m", map.path()];
    all.extend(args);
    (Server::start(&all), map)
}

// --- end to end ----------------------------------------------------------------

#[test]
fn requests_are_served_by_their_new_names() {
    let rules = r"
        r ^get/ pub/   # first
        rgP / _
        rE ^by-ip/ \i/
        rE ^by-ip/ common/
    ";
    let (server, _map) = start(rules, &NEVER);
    server.file("pub/f", b"public");
    server.file("common/g", b"common");
    server.file(&format!("{}/f", server.addr().ip()), b"own");
    for (name, wanted) in [
        ("get/f", &b"public"[..]),
        ("pub/f", b"public"),
        ("by-ip/f", b"own"),
        ("by-ip/g", b"common"),
    ] {
        let (payload, _) = RawClient::new(&server).ask_data(&rrq(name, &[]));
        assert_eq!(payload, wanted, "{name}");
    }
    let mapped = server.wait_for_log(|line| line.contains("mapped peer"), PATIENCE);
    let mapped = mapped.expect("a line about it");
    for words in ["op=read", "file=\"get/f\"", "to=\"pub/f\"", "lines=2"] {
        assert!(mapped.contains(words), "{mapped}");
    }
    let client = RawClient::new(&server);
    client.write("a/b", b"written").expect("written");
    assert_eq!(fs::read(server.root().join("a_b")).unwrap(), b"written");
    let ended = &server.wait_ended(client.addr(), 1)[0];
    assert!(
        ended.contains(" file=\"a/b\" served=\"a_b\" bytes=7"),
        "{ended}"
    );
    // One more slash makes no other name.
    let client = RawClient::new(&server);
    assert_eq!(client.read("/pub/f"), Ok(b"public".to_vec()));
    let ended = &server.wait_ended(client.addr(), 1)[0];
    assert!(ended.contains(" file=\"/pub/f\" bytes=6"), "{ended}");
}

/// The manual's recipe for switches that all save under the same name.
#[cfg(feature = "uploads")]
#[test]
fn uploads_of_one_name_go_to_a_directory_for_each_client() {
    let args = ["--create-dirs", "--keep-versions", "2"];
    let (server, _map) = start("rP ^ \\i/\n", &args);
    for night in ["1", "2"] {
        for client in ["127.0.1.1", "127.0.1.2"] {
            let from = RawClient::at(client.parse::<IpAddr>().unwrap(), server.addr());
            from.write("running-config", night.as_bytes()).unwrap();
        }
    }
    for client in ["127.0.1.1", "127.0.1.2"] {
        let read = |name: &str| RawClient::new(&server).read(&format!("{client}/{name}"));
        assert_eq!(read("running-config"), Ok(b"2".to_vec()));
        assert_eq!(read("running-config.~1~"), Ok(b"1".to_vec()));
    }
}

#[test]
fn names_that_the_rules_refuse_are_refused() {
    let rules = r"
        a \.pvt$
        ~a ^[a-z]
        r ^out/ ../
        r ^abs/ /etc/
        rg ^e e
        r ^long \0\0\0\0
    ";
    let (server, _map) = start(rules, &[]);
    server.file("k.pvt", b"private");
    server.file("7", b"seven");
    fs::write(server.outside().join("secret"), b"secret").unwrap();
    let long = "long".repeat(100);
    for (name, code, reason) in [
        ("k.pvt", 2, "refused by line 2 of the map file"),
        ("7", 2, "refused by line 3 of the map file"),
        ("out/secret", 1, "File not found"),
        ("abs/passwd", 1, "File not found"),
        ("endless", 2, "line 6 matched last"),
        (&long, 1, "File not found"),
    ] {
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&rrq(name, &[]));
        assert_eq!(packet.error_code(), Some(code), "{name}: {packet:?}");
        // A port can come again, once its client is gone.
        let file = format!("peer={} op=read file=\"{name}\"", client.addr());
        let told = |line: &str| line.contains("refused") && line.contains(&file);
        let line = server.wait_for_log(told, PATIENCE).expect("a line");
        assert!(line.contains(reason), "{name}: {line}");
    }
    // The rules apply to uploads too.
    let refused = RawClient::new(&server).write("k.pvt", b"x");
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(fs::read(server.root().join("k.pvt")).unwrap(), b"private");
}

/// A name that a rule refuses is refused in every spelling.
#[test]
fn no_spelling_gets_around_a_rule() {
    let rules = r"
        a \.key$
        ai ^secret(/|$)
        aP \.cfg$
        ~a ^[a-z]
    ";
    let (server, _map) = start(rules, &["--ignore-case", "--overwrite"]);
    for file in ["site.key", "secret/x", "7", "sub/f"] {
        server.file(file, b"private");
    }
    let before = server.tree();
    let root = server.root();
    let own = root.to_str().expect("text");
    for name in ["site.key", "secret/x", "7"] {
        let spellings = [
            name.to_owned(),
            name.to_uppercase(),
            format!("{name}/"),
            format!("{name}\\"),
            format!("{name}/."),
            format!("{name}\u{1}"),
            format!("./{name}"),
            format!("//{name}"),
            format!("sub/../{name}"),
            format!("..\\{name}"),
            format!("{own}/{name}"),
            name.replace('/', "\\"),
        ];
        for spelled in spellings {
            let (packet, _) = RawClient::new(&server).ask(&rrq(&spelled, &[]));
            assert_eq!(packet.error_code(), Some(2), "{spelled}");
        }
    }
    for name in [
        "evil.cfg",
        "evil.cfg/",
        "x/../evil.cfg",
        "evil.cfg\u{1}",
        "\\evil.cfg",
    ] {
        let (packet, _) = RawClient::new(&server).ask(&wrq(name, &[]));
        assert_eq!(packet.error_code(), Some(2), "{name}");
    }
    assert_eq!(server.tree(), before);
}

#[test]
fn sighup_reads_the_rules_again_and_keeps_the_old_where_they_are_broken() {
    let (server, map) = start("r ^ one/", &NEVER);
    for dir in ["one", "two"] {
        server.file(&format!("{dir}/f"), dir.as_bytes());
    }
    let read = |wanted: &str| {
        let (payload, _) = RawClient::new(&server).ask_data(&rrq("f", &[]));
        assert_eq!(payload, wanted.as_bytes());
    };
    let reload = |wanted: &str| {
        server.signal(Signal::SIGHUP);
        let line = server.wait_for_log(|line| line.contains(wanted), PATIENCE);
        line.unwrap_or_else(|| panic!("no `{wanted}`: {:#?}", server.log_lines()))
    };
    read("one");
    fs::write(&map.path, "r ^ two/\nr (f g\n").unwrap();
    let line = reload("going on with the old rules");
    assert!(line.contains("line 2, column 3: "), "{line}");
    read("one");
    fs::remove_file(&map.path).unwrap();
    reload("no such file");
    read("one");
    // A file cut off in the middle: the missing part may be a refusal.
    fs::write(&map.path, "r ^ two/\na \\.key").unwrap();
    reload("ends in the middle of a line");
    read("one");
    fs::write(&map.path, "").unwrap();
    reload("is empty");
    read("one");
    fs::write(&map.path, "r ^ two/\n").unwrap();
    reload("read the map file again: 1 rule of");
    read("two");
    // No rules, but on purpose.
    fs::write(&map.path, "# nothing\n").unwrap();
    reload("read the map file again: 0 rules");
}

/// Its path inside the chroot might lead to a file that a client has uploaded.
#[test]
fn the_map_file_is_read_again_from_outside_a_chroot() {
    if !nix::unistd::geteuid().is_root() {
        skip("takes root");
        return;
    }
    for args in [&["--chroot"][..], &["--chroot", "--no-sandbox"]] {
        let map = MapFile::new(b"r ^ one/\n");
        let server = Server::start(&[&["-m", map.path()], args].concat());
        let uploaded = server.root().join(map.path().trim_start_matches('/'));
        fs::create_dir_all(uploaded.parent().unwrap()).unwrap();
        fs::write(&uploaded, "r ^ evil/\nr x x\nr y y\n").unwrap();
        fs::write(&map.path, "r ^ two/\nr x x\n").unwrap();
        server.signal(Signal::SIGHUP);
        let told = |line: &str| line.contains("read the map file again: 2 rules");
        let line = server.wait_for_log(told, PATIENCE);
        assert!(line.is_some(), "{args:?}: {:#?}", server.log_lines());
        // The target of a symlink would be looked up in the chroot.
        fs::remove_file(&map.path).unwrap();
        std::os::unix::fs::symlink(map.path.with_extension("new"), &map.path).unwrap();
        server.signal(Signal::SIGHUP);
        let told = |line: &str| line.contains("going on with the old rules");
        let line = server.wait_for_log(told, PATIENCE);
        assert!(line.is_some(), "{args:?}: {:#?}", server.log_lines());
    }
}

#[test]
fn an_empty_map_file_may_be_empty_again() {
    let (server, map) = start("", &NEVER);
    server.file("f", b"f");
    for (rules, count) in [("r ^ none/\n", "1 rule of"), ("", "0 rules of")] {
        fs::write(&map.path, rules).unwrap();
        server.signal(Signal::SIGHUP);
        let wanted = format!("read the map file again: {count}");
        let line = server.wait_for_log(|line| line.contains(&wanted), PATIENCE);
        assert!(line.is_some(), "{:#?}", server.log_lines());
    }
    assert_eq!(RawClient::new(&server).read("f"), Ok(b"f".to_vec()));
}

fn run(args: &[&str], names: &[u8]) -> Output {
    let mut child = Command::new(tftpd())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tftpd starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    // It may have ended before it has read the names.
    let _ = pipe.write_all(names);
    drop(pipe);
    child.wait_with_output().expect("a child of ours")
}

#[test]
fn a_broken_file_is_told_in_one_line() {
    let broken = MapFile::new(b"r a b\nrx a b\n");
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let large = MapFile::new(&b"\n".repeat((1 << 20) + 1));
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, words) in [
        (&*broken.path, &["line 2, column 2", "no operation"][..]),
        (&missing, &["no such file", "missing"]),
        (dir.path(), &["not a regular file"]),
        (&fifo, &["not a regular file"]),
        (&large.path, &["larger than 1 MiB"]),
    ] {
        let path = path.to_str().unwrap();
        for args in [&["-p", "0", "-m", path][..], &["--map-test", path]] {
            let output = run(args, b"a\n");
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(output.stdout.is_empty(), "{}", said(&output));
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(told.lines().count(), 1, "{told}");
            for word in words {
                assert!(told.contains(word), "{args:?}: no `{word}` in {told}");
            }
        }
    }
}

#[test]
fn map_test_prints_what_names_become_and_by_which_lines() {
    let rules = br"r \\ /
rP ^ put/
a \.pvt$
r6 ^ \x/
rE ^x there/
rg ^e e";
    let map = MapFile::new(rules);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("there")).unwrap();
    fs::write(root.path().join("there/y"), b"").unwrap();
    let root = root.path().to_str().unwrap();
    let names = b"a\\b\nk.pvt\nxy\nxz\ne\x1b\nsub/";
    for (family, told) in [
        (
            "-4",
            r#"read "a\\b" -> "a/b"
write "a\\b" -> "put/a/b" (line 2)
"k.pvt" refused: refused by line 3 of the map file
read "xy" -> "there/y" (line 5)
write "xy" -> "put/xy" (line 2)
read "xz" -> "xz"
write "xz" -> "put/xz" (line 2)
read "e\x1b" refused: the map file comes to no end; line 6 matched last, see s, j and rg
write "e\x1b" refused: Access violation: control characters in the name
"sub/" refused: Access violation: is a directory
"#,
        ),
        ("-6", "20010DB8000000000000000000000001/"),
    ] {
        let output = run(&["--map-test", map.path(), family, root], names);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains(told), "{stdout}");
        assert!(output.stderr.is_empty(), "{}", said(&output));
    }
    let names = [&b"f\n"[..], &[b'a'; 1025]].concat();
    let output = run(&["--map-test", map.path()], &names);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("line 2 of the input has more than 1024 bytes"),
        "{}",
        said(&output)
    );
}

/// Words behind the fields change nothing: in.tftpd ignores them as well.
#[test]
fn the_manuals_jump_works_with_and_without_words_behind_the_fields() {
    let page = include_str!("../scripts/man/src/tftpd.map.5.md");
    let (_, example) = page.split_once("on a line of its own:\n\n").expect("it");
    let (example, _) = example.split_once("\n\n").expect("its end");
    let wordy = example
        .replace("done ", "done more words ")
        .replace(":done\n", ":done more words\n")
        .replace("boot/", "boot/ more words");
    assert_ne!(wordy, example);
    for rules in [example, &wordy] {
        let map = MapFile::new(format!("{rules}\n").as_bytes());
        let output = run(
            &["--map-test", map.path()],
            b"phones/x\nlinux\nphones/a.key\n",
        );
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            r#""phones/x" -> "phones/x" (line 1)
"linux" -> "boot/linux" (line 2)
"phones/a.key" refused: refused by line 4 of the map file
"#,
            "{}",
            said(&output)
        );
    }
}

// --- beside in.tftpd -----------------------------------------------------------

/// The rules for the comparison: those of the file, and one about bytes that aren't text.
fn compared_rules() -> Vec<u8> {
    let mut rules = include_bytes!("data/map.rules").to_vec();
    rules.extend(b"r [\x80-\xff]+ ?\n");
    rules
}

/// A random name, made of parts that the rules look for and of arbitrary bytes.
fn random_name(random: &mut Random) -> Vec<u8> {
    const PARTS: [&str; 50] = [
        "c:",
        "\\",
        "/",
        "//",
        "/./",
        "./",
        "#",
        " ",
        ".pvt",
        "secret",
        "ok/",
        "BOOTX64.efi",
        "bios",
        "bios64",
        ".html",
        ".HTM",
        "12-34",
        "pxelinux.cfg/C0A8",
        "C0A8",
        "pxelinux.cfg/01-aa-bb-0c",
        "by-ip/",
        "by-hex/",
        "get-",
        "loop-",
        "-x",
        "again",
        "KERNEL",
        "__",
        "../",
        "..",
        "n9abcdefghij",
        "abc",
        "img",
        "v1",
        "abax",
        "xz",
        "yz",
        "final-",
        "a/b/c",
        ".gz",
        ".bz2",
        "mm",
        "]",
        "ä",
        "ü",
        "q",
        "tmp",
        "vmlinuz5",
        "\\\\",
        "$",
    ];
    let mut name = Vec::new();
    for _ in 0..=random.below(5) {
        if random.below(4) > 0 {
            name.extend(PARTS[random.below(PARTS.len())].bytes());
        } else {
            // Any byte except those that end a name or a line of the log.
            let byte = random.below(256) as u8;
            name.extend(Some(byte).filter(|byte| !matches!(byte, 0 | b'\n')));
        }
    }
    name
}

/// What the rules made of each name; `None` if refused.
type Results = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Whether the name with this index is read or written: alternately.
const fn direction(index: usize) -> Direction {
    match index % 2 {
        0 => Direction::Read,
        _ => Direction::Write,
    }
}

/// The results, and the lines of the rules that took part in them.
fn ours(rules: &[u8], names: &[Vec<u8>], client: IpAddr) -> (Results, BTreeSet<u32>) {
    let rules = Rules::parse(rules).expect("good rules");
    let (mut results, mut lines) = (Results::new(), BTreeSet::new());
    for (index, name) in names.iter().enumerate() {
        let direction = direction(index);
        let request = MapRequest {
            name,
            direction,
            client,
        };
        let mapped = rules.apply(&request, |_| false);
        lines.extend(mapped.lines);
        results.insert(name.clone(), mapped.result.ok());
    }
    (results, lines)
}

/// Debian's in.tftpd, from the variable `IN_TFTPD` or `scripts/peers`; `None`, with the
/// reason printed, if it is missing or can't run.
fn in_tftpd() -> Option<PathBuf> {
    let named = std::env::var_os("IN_TFTPD").map(PathBuf::from);
    let program = named.or_else(|| peer_program("in.tftpd"))?;
    let version = Command::new(&program).arg("-V").output();
    if !said(&version.expect("it runs")).contains("tftp-hpa 5.") {
        skip("what a later in.tftpd logs is not understood");
        return None;
    }
    let unshared = Command::new("unshare").args(["--mount", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "no mount namespace can be had");
        skip("no mount namespace can be had");
        return None;
    }
    Some(program)
}

/// An in.tftpd that logs to our socket: it has a /dev of its own, which contains only
/// the link to that socket.
struct Oracle {
    child: Child,
    log: UnixDatagram,
    address: SocketAddr,
    _dir: TempDir,
}

impl Oracle {
    fn start(program: &Path, rules: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // It runs as nobody.
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
        };
        let path = |name: &str| dir.path().join(name);
        allow(dir.path(), 0o755);
        fs::create_dir(path("root")).expect("a root");
        fs::write(path("map"), rules).expect("a file");
        let log = UnixDatagram::bind(path("log")).expect("a socket");
        allow(&path("log"), 0o777);
        let address = free_address();
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount -t tmpfs none /dev && ln -s "$1/log" /dev/log && shift && exec "$@""#)
            .arg("sh")
            .arg(dir.path())
            .arg(program)
            .args(["-L", "-vvv", "-a", &address.to_string(), "-s", "-m"])
            .args([path("map"), path("root")])
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare(1)");
        Self {
            child,
            log,
            address,
            _dir: dir,
        }
    }

    /// Requests all names, a few at a time, and reads from the log what they became.
    /// Repeats lost requests.
    fn results(&mut self, names: &[Vec<u8>]) -> Results {
        const AT_ONCE: usize = 32;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let wait = Duration::from_millis(300);
        self.log.set_read_timeout(Some(wait)).expect("a duration");
        let deadline = Instant::now() + 4 * PATIENCE;
        let mut results = Results::new();
        // By process: the requested name and what it has become so far.
        let mut running: HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)> = HashMap::new();
        let mut line = [0; 4096];
        let (mut asked, mut done) = (0, 0);
        while done < names.len() {
            while asked < names.len() && asked - done < AT_ONCE {
                let opcode = u16::from_be_bytes(direction(asked).opcode().to_wire());
                let request = request(opcode, &names[asked], "octet", &[]);
                // Fails as long as nobody listens.
                let _ = socket.send_to(&request, self.address);
                asked += 1;
            }
            match self.log.recv(&mut line) {
                Ok(len) => read_log_line(&line[..len], &mut running, &mut results),
                Err(error) if error.kind() == ErrorKind::WouldBlock => asked = done,
                Err(error) => panic!("the log: {error}"),
            }
            while names
                .get(done)
                .is_some_and(|name| results.contains_key(name))
            {
                done += 1;
            }
            let ended = self.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "in.tftpd ended: {ended:?}");
            assert!(
                Instant::now() < deadline,
                "stuck at {done}: {:?}",
                names[done]
            );
        }
        results
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // Its children too: one may be rewriting forever.
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.local_addr().expect("a bound socket")
}

/// Parses `<30>Nov 21 08:48:00 in.tftpd[123]: remap: rule 7: rewrite: name`.
fn read_log_line(
    line: &[u8],
    running: &mut HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    results: &mut Results,
) {
    let Some((head, text)) = split_once(line, b"]: ") else {
        return;
    };
    let process = head.rsplit(|&byte| byte == b'[').next().unwrap_or_default();
    if let Some(name) = text.strip_prefix(b"remap: input: ") {
        running.insert(process.to_vec(), (name.to_vec(), name.to_vec()));
        return;
    }
    let Some((_, current)) = running.get_mut(process) else {
        return;
    };
    if let Some((_, name)) = split_once(text, b": rewrite: ") {
        *current = name.to_vec();
        return;
    }
    let accepted = text == b"remap: done" || text.ends_with(b": exit");
    let refused = text.starts_with(b"remap: Breaking") || split_once(text, b": abort: ").is_some();
    if (accepted || refused)
        && let Some((name, becomes)) = running.remove(process)
    {
        results.insert(name, accepted.then_some(becomes));
    }
}

fn split_once<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(mark.len())
        .position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

/// Fifty rules make the same of ten thousand names as in.tftpd does.
#[test]
fn names_become_what_in_tftpd_makes_of_them() {
    const NAMES: usize = 10_000;
    let Some(program) = in_tftpd() else {
        return;
    };
    let rules = compared_rules();
    assert_eq!(Rules::parse(&rules).map(|rules| rules.len()), Ok(50));
    let seed = 20_150_808;
    let mut random = Random(seed);
    let mut names = BTreeSet::new();
    while names.len() < NAMES {
        names.insert(random_name(&mut random));
        // An empty name is refused before the rules are applied.
        names.remove(&b""[..]);
    }
    let names: Vec<_> = names.into_iter().collect();
    let (ours, lines) = ours(&rules, &names, Ipv4Addr::LOCALHOST.into());
    let theirs = Oracle::start(&program, &rules).results(&names);
    let differing: Vec<_> = names
        .iter()
        .filter(|name| ours[*name] != theirs[*name])
        .collect();
    let show = |result: &Option<Vec<u8>>| match result {
        Some(name) => name.escape_ascii().to_string(),
        None => "refused".to_owned(),
    };
    for name in differing.iter().take(10) {
        let (ours, theirs) = (show(&ours[*name]), show(&theirs[*name]));
        eprintln!("{}: ours {ours}, theirs {theirs}", name.escape_ascii());
    }
    assert!(
        differing.is_empty(),
        "{} of {NAMES} differ, seed {seed}",
        differing.len()
    );
    // Each rule took part, except for the one for IPv6.
    assert_eq!(lines.len(), 49, "{lines:?}");
}
