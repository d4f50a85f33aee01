//! The command line of the real binary: what is refused, with which message and exit
//! status; and where the log goes.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Runs the server, which should soon end by itself.
fn run(args: &[&str]) -> Output {
    bounded(10, tftpd())
        .args(args)
        .output()
        .expect("timeout(1)")
}

/// Asserts that the start failed: status 1, nothing on standard output, and one line
/// on standard error that contains all of `words`.
#[track_caller]
fn assert_fails(what: &str, output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{what}: {}", said(output));
    assert!(output.stdout.is_empty(), "{what}: {}", said(output));
    assert_eq!(told.lines().count(), 1, "{what}: {told}");
    assert!(told.starts_with("tftpd: "), "{what}: {told}");
    for word in words {
        assert!(told.contains(word), "{what}: no `{word}` in {told}");
    }
}

fn scratch() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_str().expect("text").to_owned();
    (dir, path)
}

// --- usage ---------------------------------------------------------------------

#[test]
fn a_bad_value_is_named_with_its_option() {
    let cases = [
        ("--port", "65536"),
        ("--port", "http"),
        ("--port", ""),
        ("--address", "[::1"),
        ("--address", "127.0.0.1:99999"),
        ("--port-range", "5000"),
        ("--port-range", "6000:5000"),
        ("--port-range", "0:5000"),
        ("--port-range", "5000:65536"),
        ("--timeout", "0"),
        ("--timeout", "soon"),
        ("--timeout", "1.5"),
        ("--retries", "many"),
        ("--max-blksize", "7"),
        ("--max-blksize", "65465"),
        ("--max-windowsize", "0"),
        ("--max-windowsize", "65536"),
        ("--refuse", "everything"),
        ("--max-upload", "huge"),
        ("--umask", "8"),
        ("--umask", "1000"),
        ("--umask", "rwx"),
        ("--max-sessions", "0"),
        ("--max-sessions", "some"),
        ("--grace", "a while"),
    ];
    for (option, value) in cases {
        let output = run(&[&format!("{option}={value}")]);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{option} {told}");
        let named = told.contains(option) && told.contains(value);
        assert!(named, "{option}={value}: {told}");
        assert!(output.stdout.is_empty(), "{told}");
    }
}

#[test]
fn unknown_arguments_are_named() {
    for (args, word) in [
        (&["--frobnicate"][..], "--frobnicate"),
        (&["-Z"], "-Z"),
        (&[".", "another-root"], "another-root"),
        (&["--port"], "--port"),
    ] {
        let output = run(args);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(word), "{args:?}: {told}");
    }
}

#[test]
fn help_and_version_end_well() {
    for args in [["--help"], ["-h"], ["--version"], ["-V"]] {
        let output = run(&args);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {told}");
        assert!(output.stderr.is_empty(), "{args:?}: {told}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
    let version = said(&run(&["--version"]));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = said(&run(&["--help"]));
    for option in [
        "-p",
        "-a",
        "-4",
        "-6",
        "-R",
        "-t",
        "-B",
        "-r",
        "-U",
        "-v",
        "-q",
        "--port",
        "--address",
        "--port-range",
        "--timeout",
        "--retries",
        "--max-blksize",
        "--max-windowsize",
        "--refuse",
        "--read-only",
        "--overwrite",
        "--max-upload",
        "--umask",
        "--max-sessions",
        "--log-file",
        "--grace",
    ] {
        let listed = |word: &str| word.trim_end_matches([',', '.']) == option;
        assert!(help.split_whitespace().any(listed), "{option}: {help}");
    }
}

// --- failures at start ---------------------------------------------------------

#[test]
fn a_root_that_cannot_be_served_is_named() {
    let (dir, path) = scratch();
    let missing = format!("{path}/missing");
    let output = run(&["-p", "0", "-a", "127.0.0.1", &missing]);
    assert_fails("missing", &output, &[&missing]);
    let file = format!("{path}/file");
    fs::write(&file, b"").unwrap();
    let output = run(&["-p", "0", "-a", "127.0.0.1", &file]);
    assert_fails("a file", &output, &[&file]);
    drop(dir);
}

/// What can prevent a start: each message names the value, and what to do.
#[test]
fn each_failure_at_start_names_the_value_and_the_remedy() {
    let (dir, path) = scratch();
    let file = format!("{path}/file");
    fs::write(&file, b"").unwrap();
    let large = format!("{path}/large");
    fs::write(&large, vec![b'\n'; (1 << 20) + 1]).unwrap();
    let (no_socket, long) = (format!("{path}/no/socket"), format!("/{}", "x".repeat(300)));
    let shown = format!("{path}/missing: ");
    for (args, words) in [
        (
            &["-m", &*path][..],
            &["the map file ", &path, "; name a file "][..],
        ),
        (&["-m", &large], &["the map file ", &large, "; remove "]),
        (
            &["--map-test", &path],
            &["the map file ", &path, "; name a file "],
        ),
        (
            &["--rules", &path],
            &["the rules file ", &path, "; name a file "],
        ),
        (
            &["--rules-test", &large],
            &["the rules file ", &large, "; remove "],
        ),
        (
            &["-a", "nowhere9"],
            &["nowhere9: ", "no interface and no host", "; ip link"],
        ),
        (
            &["-a", "fe80::1%nowhere9"],
            &["fe80::1%nowhere9: ", "; ip link"],
        ),
        (
            &["-a", "lo", "--interface", "nowhere9"],
            &["nowhere9: ", "; ip link"],
        ),
        // A link-local address is useless without its interface.
        (&["-a", "fe80::1"], &["[fe80::1]:", "; ", "fe80::1%"]),
        // The message shows where the directory was looked for.
        (&["missing"], &[&shown, "; create it"]),
        (&["--chroot", "missing"], &[&shown, "; create it"]),
        (&["--chroot", "./file"], &[&file, "; name the directory "]),
        (&["--chroot", &long], &[&long, "; name another"]),
        #[cfg(feature = "uploads")]
        (&["--upload-root", "missing"], &[&shown, "; create it"]),
        (&["--follow-links", "missing"], &[&shown, "; create it"]),
        #[cfg(feature = "status")]
        (&["--status", &no_socket], &[&no_socket, "; create "]),
        #[cfg(feature = "status")]
        (
            &["--status", &file],
            &[&file, "it is no socket", "; choose another"],
        ),
        #[cfg(feature = "status")]
        (&["--status", &long], &[&long, "; choose "]),
        #[cfg(feature = "status")]
        (
            &["--status", "no-such-host.invalid:8069"],
            &["no-such-host.invalid:8069", "; give "],
        ),
        (&["--syslog=/nowhere"], &["/nowhere", "; start it"]),
        (&["--log-file", &no_socket], &[&no_socket, "; name "]),
        (&["-P", &no_socket], &[&no_socket, "; name "]),
        (&["-u", "no-such-user"], &["no-such-user", "; create it"]),
    ] {
        let is_elsewhere = args.contains(&"-a") || args.contains(&"--interface");
        let listen = if is_elsewhere {
            &[][..]
        } else {
            &["-a", "127.0.0.1"]
        };
        let output = bounded(10, tftpd())
            .current_dir(dir.path())
            .args([&["-p", "0"][..], listen, args].concat())
            .output()
            .expect("timeout(1)");
        assert_fails(&format!("{args:?}"), &output, words);
        assert!(!said(&output).contains("os error"), "{}", said(&output));
    }
}

/// Every request would be dropped.
#[test]
fn a_range_without_a_port_for_transfers_ends_the_start() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let (listen, only) = (port.to_string(), format!("{port}:{port}"));
    for (args, words) in [
        (
            &["-p", &*listen, "-R", &only][..],
            [&*only, "no port for transfers", "; choose "],
        ),
        #[cfg(feature = "workers")]
        (
            &["-p", "0", "-R", "41000:41001", "--workers", "3"],
            ["41000:41001", "2 for 3 workers", "; give it more"],
        ),
    ] {
        let output = bounded(5, tftpd())
            .args(args)
            .args(["-a", "127.0.0.1", "--read-only", "/usr/share"])
            .output()
            .expect("timeout(1)");
        assert_fails(&format!("{args:?}"), &output, &words);
    }
}

/// Files of names that can't be read or written.
#[test]
#[cfg(feature = "map")]
fn a_test_of_names_says_what_it_cannot_read_or_write() {
    let (dir, path) = scratch();
    let map = format!("{path}/map");
    fs::write(&map, b"r a b\n").unwrap();
    let run = |input: &Path, output: &str| {
        let output = fs::File::options().write(true).open(output).unwrap();
        bounded(10, tftpd())
            .args(["--map-test", &map, &path])
            .stdin(fs::File::open(input).unwrap())
            .stdout(output)
            .output()
            .expect("timeout(1)")
    };
    let names = format!("{path}/names");
    fs::write(&names, b"a\n".repeat(5000)).unwrap();
    for (input, output, words) in [
        (
            dir.path(),
            "/dev/null",
            ["standard input: is a directory", "; "],
        ),
        (
            Path::new(&names),
            "/dev/full",
            ["standard output: no space left", "; "],
        ),
    ] {
        let output = run(input, output);
        assert_fails("a test", &output, &words);
        assert!(!said(&output).contains("os error"), "{}", said(&output));
    }
}

/// With too few open files various things fail; the message always names the limit.
#[test]
fn too_few_open_files_are_named_with_the_remedy() {
    let (_dir, path) = scratch();
    let mut failed = 0;
    for limit in 4..12 {
        let script = format!("ulimit -n {limit} && exec \"$@\"");
        let output = bounded(1, "sh")
            .args([
                "-c",
                &script,
                "sh",
                tftpd(),
                "-p",
                "0",
                "-a",
                "127.0.0.1",
                &path,
            ])
            .output()
            .expect("timeout(1)");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        // With enough of them, the server starts.
        if output.status.code() == Some(1) && told.starts_with("tftpd: ") {
            failed += 1;
            assert_fails(
                &limit.to_string(),
                &output,
                &["too many open files; allow more (ulimit -n)"],
            );
        }
    }
    assert!(failed > 3, "{failed}");
}

/// How a server on `/` ends; if it does start, it is stopped after a second.
fn serve_slash(args: &[&str]) -> (Option<i32>, String) {
    let output = bounded(1, tftpd())
        .current_dir("/")
        .args(["-p", "0", "-a", "127.0.0.1"])
        .args(args)
        .output()
        .expect("timeout(1)");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told)
}

#[test]
fn root_does_not_serve_the_system_unless_it_is_written_out() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can serve all of it");
        return;
    }
    for args in [
        &[][..],
        &["/"],
        &["/etc"],
        &["/usr/.."],
        &["--read-only"],
        &["-u", "nobody"],
        &["--overwrite", "/"],
        &["--chroot", "/"],
        &["-u", "root", "/"],
        &["-u", "0", "--overwrite", "/etc"],
    ] {
        let (status, told) = serve_slash(args);
        assert_eq!(status, Some(1), "{args:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{args:?}: {told}");
        for word in ["as root", "/etc/shadow", "--read-only", "-u USER"] {
            assert!(told.contains(word), "{args:?}: no {word} in {told}");
        }
    }
    // Each of these runs for its full second.
    std::thread::scope(|scope| {
        for args in [&["--read-only", "/"][..], &["-u", "nobody", "/"], &["/usr"]] {
            scope.spawn(move || {
                let (_, told) = serve_slash(args);
                assert!(told.contains("listening on"), "{args:?}: {told}");
            });
        }
    });
}

#[test]
fn uploads_as_root_are_a_warning_that_names_what_is_exposed() {
    if !nix::unistd::geteuid().is_root() {
        skip("takes root");
        return;
    }
    for (args, level, words) in [
        (&[][..], "[WARN]", &["create files below "][..]),
        (
            &["--overwrite"],
            "[WARN]",
            &["create and replace files below "],
        ),
        (&["--read-only"], "[INFO]", &["no capability left"]),
    ] {
        let server = Server::start(args);
        let told = |line: &str| line.contains("running as root");
        let line = server.wait_for_log(told, PATIENCE).expect("a line");
        let named = !words[0].contains("below") || line.contains(server.root().to_str().unwrap());
        assert!(
            line.contains(level) && line.contains(words[0]) && named,
            "{line}"
        );
    }
}

#[test]
fn a_number_needs_no_user_database() {
    let unshared = Command::new("unshare").args(["--mount", "true"]).status();
    if !nix::unistd::geteuid().is_root() || !unshared.is_ok_and(|status| status.success()) {
        skip("takes root and a mount namespace");
        return;
    }
    let (dir, path) = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (user, expected) in [
        ("1000", Ok("1000 1000")),
        ("1000:1001", Ok("1000 1001")),
        ("nobody", Err("there is no user nobody")),
        ("1000:nogroup", Err("there is no group nogroup")),
    ] {
        // As in an image that contains only the server: an empty /etc.
        let script = r#"mount -t tmpfs none /etc && exec "$@""#;
        let pid_file = format!("{path}/pid");
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
                tftpd(),
                "-p",
                "0",
                "-a",
                "127.0.0.1",
            ])
            .args(["-u", user, "-P", &pid_file, &path])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let stderr = child.stderr.take().expect("a pipe");
        let first = BufReader::new(stderr)
            .lines()
            .next()
            .expect("a line")
            .expect("text");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let _ = child.kill();
        let _ = child.wait();
        match expected {
            Err(words) => assert!(first.contains(words), "{user}: {first}"),
            Ok(ids) => {
                assert!(first.contains("listening on"), "{user}: {first}");
                let status = status.expect("it ran");
                let id = |field: &str| {
                    let line = status.lines().find(|line| line.starts_with(field));
                    line.and_then(|line| line.split_whitespace().nth(1))
                        .unwrap_or("")
                };
                assert_eq!(format!("{} {}", id("Uid:"), id("Gid:")), ids, "{user}");
            }
        }
    }
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let port = addr.port().to_string();
    let output = run(&["-p", &port, "-a", "127.0.0.1", "."]);
    assert_fails("taken", &output, &[&addr.to_string(), "in use"]);
}

#[test]
fn a_second_server_on_the_port_is_refused() {
    for listen in [&["-a", "127.0.0.1"][..], &[]] {
        let server = Server::start_bare(listen);
        let port = server.port().to_string();
        let mut args = vec!["-p", &port];
        args.extend(listen);
        assert_fails("second", &run(&args), &[&port, "in use"]);
        server.fence();
    }
}

#[test]
fn a_log_file_that_cannot_be_had_is_named() {
    let (dir, path) = scratch();
    let log = format!("{path}/no/such/log");
    let output = run(&["-p", "0", "-a", "127.0.0.1", "--log-file", &log, &path]);
    assert_fails("log", &output, &[&log]);
    drop(dir);
}

/// Runs the server as nobody, from a copy that this user can reach; `None`, with the reason
/// printed, if that isn't possible.
fn run_as_nobody(dir: &Path, args: &[&str]) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        // Whoever runs this has as few rights.
        return Some(run(args));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our directory");
    let mut command = bounded(10, copy_of_tftpd(dir));
    let output = command.uid(NOBODY).gid(NOBODY).args(args).output();
    if let Err(reason) = &output {
        skip(format_args!("cannot become nobody: {reason}"));
    }
    output.ok()
}

#[test]
fn a_root_without_rights_is_named() {
    let (dir, path) = scratch();
    let root = format!("{path}/secret");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o000)).unwrap();
    let args = ["-p", "0", "-a", "127.0.0.1", &root];
    if let Some(output) = run_as_nobody(dir.path(), &args) {
        assert_fails("unreadable", &output, &[&root, "ermission"]);
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_port_without_the_right_is_named_with_the_remedy() {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_free.is_ok_and(|port| port.trim() == "0") {
        skip("every port is unprivileged here");
        return;
    }
    let (dir, path) = scratch();
    let args = ["-p", "69", "-a", "127.0.0.1", &path];
    if let Some(output) = run_as_nobody(dir.path(), &args) {
        let words = ["127.0.0.1:69", "ermission", "-p"];
        assert_fails("privileged", &output, &words);
    }
}

// --- running ---------------------------------------------------------------------

/// A server whose readiness isn't reported on standard error; killed when dropped.
struct Untold {
    child: Child,
    address: SocketAddr,
}

impl Untold {
    fn start(configure: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let address = own_port();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = Command::new(tftpd());
        command.args(["-a", &ip, "-p", &port]);
        let child = configure(&mut command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tftpd starts");
        let server = Self { child, address };
        // It is ready when it answers.
        server.client().ask_patiently(&rrq("missing", &[]));
        server
    }

    fn client(&self) -> RawClient {
        RawClient::to(self.address)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().try_into().expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it lives");
    }

    /// Stops it; returns what is left on its standard error.
    fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let mut told = String::new();
        let mut pipe = self.child.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut told).expect("text");
        let status = self.child.wait().expect("a child of ours");
        assert_eq!(status.code(), Some(0), "{told}");
        told
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_current_directory_is_the_root_by_default() {
    let (dir, path) = scratch();
    fs::write(dir.path().join("f"), b"here").unwrap();
    let server = Untold::start(|command| command.current_dir(&path));
    assert_eq!(server.client().read("f").unwrap(), b"here");
}

#[test]
fn an_address_may_carry_its_port() {
    let address = own_port();
    let server = Server::start_bare(&["-a", &address.to_string()]);
    assert_eq!(server.addr(), address);
    server.fence();
}

#[test]
fn the_start_is_told_in_one_line() {
    let server = Server::start(&["--read-only"]);
    server.fence();
    let log = server.log_lines();
    let told: Vec<_> = log.iter().filter(|l| l.contains("listening on")).collect();
    assert_eq!(told.len(), 1, "{log:#?}");
    let root = server.root();
    assert!(told[0].contains(root.to_str().unwrap()), "{log:#?}");
    assert!(told[0].ends_with(" transfers"), "{log:#?}");
}

#[test]
fn the_start_line_names_the_options_that_decide_who_gets_which_file() {
    for (args, told) in [
        (&["--single-port"][..], "; with --single-port"),
        (&["-R", "50000:51999"], "; with --port-range"),
        (
            &["--per-client-root", "ip", "--ignore-case", "--grace", "1"],
            "; with --per-client-root ip --ignore-case",
        ),
        (
            &["--per-client-root", "mac"],
            "; with --per-client-root mac",
        ),
        #[cfg(feature = "uploads")]
        (
            &[
                "--max-upload",
                "10M",
                "--max-upload-total",
                "1GB",
                "--min-free",
                "5%",
                "--fsync",
            ],
            "; with --max-upload 10M --max-upload-total 1000000000 --min-free 5% --fsync",
        ),
        #[cfg(feature = "uploads")]
        (&["--write-only"], "; with --write-only"),
        #[cfg(feature = "helper")]
        (
            &[
                "--helper",
                "cat >&2",
                "--ask",
                "grub/*.cfg",
                "--ask=*.ipxe",
                "--ask-missing",
            ],
            "; with --helper --ask grub/*.cfg --ask *.ipxe --ask-missing",
        ),
        (
            &["--answer-broadcast", "--max-sessions-per-client", "4"],
            "; with --answer-broadcast --max-sessions-per-client 4",
        ),
        (
            &["--allow", "127.0.0.0/8", "--deny", "10.0.0.0/8"],
            "; with --allow --deny",
        ),
        (
            &["--interface", "lo", "--answer-broadcast"],
            "; with --interface --answer-broadcast",
        ),
        #[cfg(feature = "helper")]
        (
            &["--helper-socket", "/nowhere/helper"],
            "; with --helper-socket",
        ),
    ] {
        let server = Server::start(args);
        let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
        let line = line.expect("a line");
        assert!(line.ends_with(told), "{args:?}: {line}");
    }
}

#[test]
fn the_start_line_names_the_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (format, told) in [
        ("text", format!("; tftpd {version} serving /")),
        ("json", format!(",\"version\":\"{version}\",")),
    ] {
        let server = Server::start(&["--log-format", format]);
        let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
        assert!(
            line.as_ref().is_some_and(|it| it.contains(&told)),
            "{line:?}"
        );
    }
}

#[test]
#[cfg(feature = "uploads")]
fn every_directory_in_the_start_lines_has_its_whole_path() {
    let args = [
        "-a",
        "127.0.0.1",
        "--upload-root",
        "up",
        "--follow-links",
        "linked",
    ];
    let server = Server::start_prepared(&args, |dir| {
        for name in ["up", "linked"] {
            fs::create_dir(dir.join(name)).expect("a directory");
        }
        let mut command = Command::new(tftpd());
        command.current_dir(dir);
        command
    });
    let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
    let (line, dir) = (line.expect("a line"), server.outside().display());
    for told in [
        format!("; links may lead to {dir}/linked"),
        format!("; uploads go to {dir}/up"),
    ] {
        assert!(line.contains(&told), "no {told}: {line}");
    }
    if nix::unistd::geteuid().is_root() {
        let told =
            format!("running as root with uploads: every client can create files below {dir}/up");
        assert!(server.wait_for_lines(&told, 1), "{:#?}", server.log_lines());
    }
}

/// tftp-hpa's `-t 900` means seconds without work.
#[test]
fn a_timeout_that_looks_like_tftp_hpas_is_pointed_out() {
    for (args, is_told) in [
        (&["-t", "900"][..], false),
        (&["-t", "20"], false),
        #[cfg(feature = "familiar")]
        (&["-l", "-c", "-s"], false),
        #[cfg(feature = "familiar")]
        (&["-l", "-t", "900", "--no-sandbox"], true),
        #[cfg(feature = "familiar")]
        (&["-ct900"], true),
        #[cfg(feature = "familiar")]
        (&["-s", "-T", "500000"], false),
        // With a unit there is no doubt.
        (&["-l", "-t", "2s"], false),
        (&["-ct900ms"], false),
        (&["-t", "5ms"], false),
        (&["-t", "5"], true),
        (&["-t", "19"], true),
        #[cfg(feature = "workers")]
        (&["--workers", "2", "-t", "5"], true),
    ] {
        let server = Server::start(args);
        if args[0] == "--workers" {
            assert!(server.wait_for_lines("serving with ", 1));
        }
        server.fence();
        let lines = server.log_lines();
        // Workers don't end when idle.
        let remedy = match args[0] {
            "--workers" => "is no option with --workers: leave it out",
            _ => "is --idle-exit",
        };
        let told = |it: &&String| it.contains("WARN") && it.contains(" ms here");
        let count = lines.iter().filter(told).count();
        assert_eq!(count, usize::from(is_told), "{args:?}: {lines:#?}");
        let is_right = |it: &String| it.ends_with(remedy);
        assert!(lines.iter().filter(told).all(is_right), "{lines:#?}");
    }
}

#[test]
fn the_log_tells_of_transfers_and_refusals() {
    let server = Server::start(&[]);
    server.file("sub/f", &content(1, 1000));
    let client = RawClient::new(&server);
    client.read("sub/f").unwrap();
    let told = server.wait_ended(client.addr(), 1).remove(0);
    for word in ["sub/f", "read", "bytes=1000", "blksize=512"] {
        assert!(told.contains(word), "no `{word}`: {told}");
    }
    let client = RawClient::new(&server);
    client.ask(&rrq("sub/missing", &[]));
    let port = client.addr().port().to_string();
    let told = server.wait_for_log(
        |line| line.contains("sub/missing") && line.contains(&port),
        PATIENCE,
    );
    let told = told.expect("a line about the refusal");
    assert!(told.contains("not found"), "{told}");
}

/// The server's standard error after a read and a miss.
fn stderr_after_work(args: &[&str]) -> String {
    let (dir, path) = scratch();
    fs::write(dir.path().join("f"), b"x").expect("a file");
    let server = Untold::start(|command| command.args(args).arg(&path));
    assert_eq!(server.client().read("f").expect("served"), b"x");
    server.stop()
}

#[test]
fn quiet_is_quiet_and_verbose_is_not() {
    let usual = stderr_after_work(&[]).lines().count();
    let verbose = stderr_after_work(&["-v"]).lines().count();
    let quiet = stderr_after_work(&["-q"]);
    let trace = stderr_after_work(&["-vvv"]).lines().count();
    assert!(!quiet.contains("listening on"), "{quiet}");
    assert!(quiet.lines().count() < usual, "{quiet}");
    assert!(
        verbose >= usual && trace > usual,
        "{usual} {verbose} {trace}"
    );
}

#[test]
fn the_log_file_takes_the_log() {
    let (dir, path) = scratch();
    let log = format!("{path}/log");
    fs::write(&log, b"kept\n").unwrap();
    let stderr = stderr_after_work(&["--log-file", &log]);
    let told = fs::read_to_string(&log).unwrap();
    assert!(told.starts_with("kept\n"), "not appended: {told}");
    for word in ["listening on", "missing", "outcome="] {
        assert!(told.contains(word), "no `{word}`: {told}");
        assert!(!stderr.contains("outcome="), "{stderr}");
    }
    drop(dir);
}

/// For log rotation: SIGHUP reopens the log file.
#[test]
fn sighup_reopens_the_log_file() {
    let (dir, path) = scratch();
    let log = format!("{path}/log");
    let server = Untold::start(|command| command.args(["--log-file", &log, &path]));
    fs::rename(&log, format!("{log}.1")).unwrap();
    server.signal(Signal::SIGHUP);
    let client = server.client();
    let mut told = String::new();
    for round in 0..100 {
        client.ask(&rrq(&format!("second{round}"), &[]));
        told = fs::read_to_string(&log).unwrap_or_default();
        if told.contains("second") {
            break;
        }
    }
    assert!(told.contains("second"), "{told}");
    drop(dir);
}
