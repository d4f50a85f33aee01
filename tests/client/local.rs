//! This end: pipes, devices, links, names that clash, limits of the system.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};
use std::thread;

use super::*;

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

/// An error about the user's own file isn't in a server's words.
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

/// Runs the client with `limit` as its limit on open files (`ulimit -n`).
fn with_open_files(limit: u32, dir: &Path, words: &[&str]) -> Output {
    let script = format!(r#"ulimit -n {limit}; exec "$0" "$@""#);
    let mut command = bounded(LIMIT, "sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tftp")]);
    command.args(words).current_dir(dir).output().unwrap()
}

/// Whichever descriptor is one too many: it is this end's fault.
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
