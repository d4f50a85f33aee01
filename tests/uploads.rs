//! The upload options beyond `--overwrite`: versions, created directories, an upload
//! directory, a drop box, limits on all uploads together, fsync.
#![cfg(feature = "uploads")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it has an environment"
)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
#[path = "uploads/directories.rs"]
mod directories;
#[path = "uploads/night.rs"]
mod night;
#[path = "uploads/places.rs"]
mod places;
#[path = "uploads/strace.rs"]
mod strace;
#[path = "uploads/versions.rs"]
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use common::*;
use tftpd::file::{
    Methods, Policy, Publisher, Resolver, Root, StorageError, Total, Upload, UploadRules,
    VersionFormat, Versions,
};

/// All names below a directory, hidden ones too; directories end in a slash.
fn names(path: &Path) -> Vec<String> {
    let mut names = vec![];
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry").path();
            let name = entry
                .strip_prefix(path)
                .expect("below")
                .to_str()
                .expect("text");
            if entry.is_dir() && !entry.is_symlink() {
                names.push(format!("{name}/"));
                open.push(entry);
            } else {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    names
}

/// Name and content of each file directly in a directory.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = names(path).into_iter().filter(|it| !it.contains('/'));
    names
        .map(|name| (name.clone(), fs::read(path.join(name)).expect("a file")))
        .collect()
}

fn rules(rules: UploadRules) -> Policy {
    Policy {
        uploads: rules,
        ..Policy::default()
    }
}

fn keeping(count: u32, format: Option<&str>) -> Policy {
    let format = format.map(|text| VersionFormat::parse(text).expect("a format"));
    rules(UploadRules {
        versions: Some(Versions { count, format }),
        ..UploadRules::NONE
    })
}

/// Runs a test with each way to resolve names and to publish files.
fn for_each_method(policy: Policy, test: impl Fn(&Path, &Root)) {
    for (resolver, publisher) in [
        (Resolver::Openat2, Publisher::LinkProc),
        (Resolver::Walk, Publisher::Named),
    ] {
        let base = tempfile::tempdir().expect("a directory");
        let methods = Methods {
            resolver,
            publisher,
        };
        let root = Root::open_with(base.path(), policy, methods).expect("a root");
        eprintln!("{methods:?}");
        test(base.path(), &root);
    }
}

fn put(root: &Root, name: &str, content: &[u8]) -> Result<(), StorageError> {
    let mut upload = root.create(name.as_bytes(), None)?;
    upload.write_at(0, content)?;
    upload.commit().map(drop)
}

fn begun(root: &Root, name: &str) -> Upload {
    let mut upload = root.create(name.as_bytes(), None).expect(name);
    upload.write_at(0, b"some").expect(name);
    upload
}

fn message(result: Result<impl Sized, StorageError>) -> &'static str {
    result.err().map_or("done", |error| error.message())
}

/// Otherwise it would keep all other uploads out with two datagrams.
#[test]
fn an_upload_that_trickles_does_not_hold_all_that_it_announced() {
    const MIB: u64 = 1 << 20;
    let policy = rules(UploadRules {
        max_total: Some(Total {
            bytes: 16 * MIB,
            is_shared: false,
        }),
        ..UploadRules::NONE
    });
    for_each_method(policy, |_, root| {
        let mut slow = root.create(b"slow", Some(16 * MIB)).unwrap();
        slow.write_at(0, b"x").unwrap();
        let mut other = root.create(b"other", Some(10 * MIB)).unwrap();
        other.write_at(0, b"x").unwrap();
        other.write_at(6 * MIB - 1, b"x").unwrap();
        // All together still can't exceed the limit.
        assert!(slow.write_at(12 * MIB, b"x").is_err());
        assert!(root.create(b"more", Some(16 * MIB + 1)).is_err());
        let third = root.create(b"third", Some(5 * MIB));
        assert!(third.and_then(|mut it| it.write_at(0, b"x")).is_err());
    });
}

/// Where other processes store files too, they are counted again and again. While that
/// fails, nobody knows what they store: an upload that has begun goes on, but none begins.
#[test]
fn that_files_cannot_be_counted_is_told_once_and_not_with_each_block() {
    let server = Server::start(&["--reuse-port", "--max-upload-total", "64M"]);
    let upload = |name: &str| RawClient::new(&server).write(name, b"counted");
    upload("first").unwrap();
    let client = RawClient::new(&server);
    let (answer, tid) = client.ask(&wrq("second", &[]));
    assert_eq!(answer, Packet::Ack(0));
    let send = |block: u16| client.say(&data(block, &[2; BLOCK]), tid);
    assert_eq!(send(1), Packet::Ack(1));
    fs::create_dir_all(server.root().join("too-deep/".repeat(100))).unwrap();
    for block in 2..=3000 {
        assert_eq!(send(block), Packet::Ack(block));
    }
    let told = "can't be counted: directories are too deep";
    assert!(server.wait_for_lines(told, 1));
    assert_eq!(upload("third").unwrap_err().0, 3);
    let last = client.say(&data(3001, b"end"), tid);
    assert_eq!(last, Packet::Ack(3001));
    fs::remove_dir_all(server.root().join("too-deep")).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while upload("third").is_err() {
        assert!(std::time::Instant::now() < deadline, "no upload begins");
    }
    server.fence();
    let lines = server.log_lines();
    let count = lines.iter().filter(|it| it.contains(told)).count();
    assert_eq!(count, 1);
}

/// So many files are not counted in one turn of the loop.
#[test]
fn many_files_are_counted_to_the_end() {
    let server = Server::start(&["--reuse-port", "--max-upload-total", "64M"]);
    for number in 0..2000 {
        server.file(&format!("many/{number}"), b"x");
    }
    let upload = || RawClient::new(&server).write("f", b"x");
    upload().unwrap();
    fs::remove_file(server.root().join("f")).unwrap();
    // As another process would store it.
    let large = server.root().join("large");
    fs::File::create(&large).unwrap().set_len(64 << 20).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while upload().is_ok() {
        fs::remove_file(server.root().join("f")).unwrap();
        assert!(std::time::Instant::now() < deadline, "not counted");
    }
    fs::remove_file(large).unwrap();
    while upload().is_err() {
        assert!(std::time::Instant::now() < deadline, "not counted again");
    }
}

#[test]
fn all_uploads_together_have_a_limit() {
    let args = [&NEVER[..], &["--max-upload-total", "4K", "--overwrite"]].concat();
    let server = Server::start(&args);
    server.file("there", &[0; 1096]);
    let client = || RawClient::new(&server);
    let announce = |name, bytes: &str| {
        let client = client();
        let (answer, tid) = client.ask(&wrq(name, &[("tsize", bytes)]));
        (answer.error_code(), client, tid)
    };
    // A request alone reserves nothing; the upload's first block does.
    // Whether there is room is checked with the first data, because counting takes long.
    assert_eq!(announce("a", "4097").0, Some(3));
    let (code, client_of_a, tid) = announce("a", "3001");
    let refused = code.or_else(|| {
        let answer = client_of_a.say(&data(1, &[1; BLOCK]), tid);
        answer.error_code()
    });
    assert_eq!(refused, Some(3));
    let waiting: Vec<_> = (0..3).map(|_| announce("a", "3000")).collect();
    for (code, ..) in &waiting {
        assert_eq!(*code, None);
    }
    let (_, first, tid) = &waiting[0];
    assert_eq!(first.say(&data(1, &[1; BLOCK]), *tid), Packet::Ack(1));
    assert_eq!(client().write("b", b"x").unwrap_err().0, 3);
    let (_, second, other) = &waiting[1];
    assert_eq!(
        second.say(&data(1, &[1; BLOCK]), *other).error_code(),
        Some(3)
    );
    first.send_to(&error(0, "enough"), *tid);
    server.wait_ended(first.addr(), 1);
    // An upload without tsize can't exceed the limit either.
    client().write("c", &[2; 2000]).unwrap();
    assert_eq!(client().write("d", &[2; 1500]).unwrap_err().0, 3);
    // Replaced and removed files make room.
    client().write("c", &[3; 2900]).unwrap_err();
    client().write("c", &[3; 900]).unwrap();
    fs::remove_file(server.root().join("there")).unwrap();
    let patience = std::time::Instant::now() + PATIENCE;
    while client().write("e", &[4; 3000]).is_err() {
        assert!(
            std::time::Instant::now() < patience,
            "files are counted again"
        );
    }
    let all: usize = server.tree().values().map(Vec::len).sum();
    assert_eq!(all, 3900);
}

/// On a disk of 1 MiB of which half must stay free.
#[test]
fn min_free_holds_with_and_without_tsize() {
    const WITH_DISK: &str = "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\"";
    let with_disk = |place: &Path, program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_DISK]);
        command.arg(place).arg(program);
        command
    };
    let place = tempfile::tempdir().unwrap();
    let tried = with_disk(place.path(), "true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        skip("no small disk can be had");
        return;
    }
    for free in ["50%", "512K"] {
        let address = own_address().to_string();
        let args = ["-a", &address, "--min-free", free];
        let prepare = |dir: &Path| with_disk(&dir.join("root"), tftpd());
        let server = Server::start_prepared(&args, prepare);
        let client = || RawClient::new(&server);
        let (answer, _) = client().ask(&wrq("a", &[("tsize", "600000")]));
        assert_eq!(answer.error_code(), Some(3), "{free}");
        assert_eq!(client().write("b", &vec![1; 600_000]).unwrap_err().0, 3);
        // The partial file has been removed.
        client().write("c", &vec![1; 300_000]).unwrap();
        assert_eq!(client().write("d", &vec![1; 300_000]).unwrap_err().0, 3);
        let (answer, _) = client().ask(&wrq("e", &[("tsize", "300000")]));
        assert_eq!(answer.error_code(), Some(3), "{free}");
        client().write("f", &vec![1; 100_000]).unwrap();
        // The log says which limit it was; a full disk is told apart.
        let (answer, _) = client().ask(&wrq("g", &[("tsize", "9000000")]));
        assert_eq!(answer.error_code(), Some(3), "{free}");
        let refused = format!("hint=\"less than --min-free {free} would stay free on the disk\"");
        let full = "hint=\"less is free on the disk than this upload";
        for (file, told) in [
            ("file=\"a\"", &refused[..]),
            ("file=\"b\"", "hint=\"less than --min-free would stay free"),
            ("file=\"g\"", full),
        ] {
            let is_it = |line: &str| line.contains(file) && line.contains(told);
            assert!(
                server.wait_for_log(is_it, PATIENCE).is_some(),
                "{file} {told}"
            );
        }
    }
}

/// A server without root's privileges; `prepare` sets up its directories.
fn start_without_rights(args: &[&str], prepare: impl FnOnce(&Path)) -> Server {
    let address = own_address().to_string();
    let mut all = vec!["-a", &address];
    if nix::unistd::geteuid().is_root() {
        all.extend(["-u", "nobody"]);
    }
    all.extend(args);
    Server::start_prepared(&all, |dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.join("root");
        prepare(&root);
        Command::new(tftpd())
    })
}

fn with_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// In this directory the server may create and remove entries, but can't open it: so it
/// can neither sync names nor look for versions.
#[test]
fn an_upload_that_could_not_be_committed_is_refused_at_once() {
    for (args, works) in [
        (&["--fsync"][..], false),
        (&["--keep-versions", "1"], false),
        (&["--keep-versions", "1", "--create-dirs"], false),
        (&["--create-dirs"], true),
        (&["--create-dirs", "-U", "027"], true),
        (&[], true),
    ] {
        let server = start_without_rights(args, |root| {
            fs::create_dir(root.join("d")).unwrap();
            with_mode(&root.join("d"), 0o333);
        });
        let directory = server.root().join("d");
        let makes = args.contains(&"--create-dirs");
        let name = if makes { "d/new/f" } else { "d/f" };
        let client = RawClient::new(&server);
        let (answer, tid) = client.ask(&wrq(name, &[]));
        if !works {
            assert_eq!(answer.error_code(), Some(2), "{args:?}");
            with_mode(&directory, 0o777);
            assert_eq!(names(&directory), [""; 0], "{args:?}");
            assert_eq!(RawClient::new(&server).write(name, b"x"), Ok(()));
            continue;
        }
        assert_eq!(answer, Packet::Ack(0), "{args:?}");
        client.say(&data(1, &[b'x'; BLOCK]), tid);
        client.send_to(&error(0, "broke off"), tid);
        server.wait_ended(client.addr(), 1);
        server.fence();
        assert!(!directory.join("new").exists(), "{args:?}");
        assert_eq!(RawClient::new(&server).write(name, b"x"), Ok(()));
        assert_eq!(fs::read(server.root().join(name)).unwrap(), b"x");
        with_mode(&directory, 0o777);
        let wanted: &[&str] = if makes { &["new/", "new/f"] } else { &["f"] };
        assert_eq!(names(&directory), wanted, "{args:?}");
    }
}

/// The kernel lets nobody link a file of another user that he can't read and write. That
/// must not be taken for a file system without hard links.
#[test]
fn a_file_that_nobody_may_link_but_its_owner_stays_as_it_is() {
    let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks");
    if !nix::unistd::geteuid().is_root() || !protected.is_ok_and(|it| it.trim() == "1") {
        skip("no file of another can be made, or any may be linked");
        return;
    }
    let server = start_without_rights(&["--keep-versions", "2"], |root| {
        with_mode(root, 0o777);
        for (name, mode) in [("theirs", 0o622), ("open", 0o666)] {
            fs::write(root.join(name), "old").unwrap();
            with_mode(&root.join(name), mode);
        }
    });
    let client = || RawClient::new(&server);
    assert_eq!(client().write("theirs", b"new").unwrap_err().0, 2);
    assert_eq!(client().write("open", b"new"), Ok(()));
    let there = files(&server.root());
    let wanted = [("open", "new"), ("open.~1~", "old"), ("theirs", "old")];
    let wanted = wanted.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(there, BTreeMap::from(wanted));
}
