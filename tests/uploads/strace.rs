//! Uploads under strace(1): killed between any two system calls, or refused some.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use nix::sys::resource::{Resource, setrlimit};
use tftpd::file::{Methods, Publisher, Resolver, Root, UploadRules};

/// Tells [`one_upload`] where to put its file, and how.
const UPLOAD: &str = "TFTPD_TEST_UPLOAD";

/// A name in the trace that shows where the upload begins.
const MARK: &str = "here-it-begins";

const FORMATS: [Option<&str>; 2] = [None, Some("%s")];

#[test]
#[ignore = "run by kill_9_between_any_two_system_calls_leaves_all_versions_whole"]
fn one_upload() {
    let words = std::env::var(UPLOAD).unwrap();
    let [path, publisher, format] = words.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{words}");
    };
    let root = root_for(Path::new(path), publisher, format);
    let _ = fs::metadata(Path::new(path).join(MARK));
    let mut upload = root.create(b"f", None).unwrap();
    upload.write_at(0, &content(99, 3000)).unwrap();
    if publisher == "synced" {
        // No descriptor is left for the end of the upload.
        let next = fs::File::open("/").unwrap();
        let limit = u64::try_from(next.as_raw_fd()).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
        drop(next);
        assert!(fs::File::open("/").is_err(), "no descriptor is left");
    }
    upload.commit().unwrap();
}

fn root_for(path: &Path, publisher: &str, format: &str) -> Root {
    let is_synced = publisher == "synced";
    let publisher = match publisher {
        "named" => Publisher::Named,
        _ => Publisher::LinkProc,
    };
    let format = FORMATS[format.parse::<usize>().unwrap()];
    let methods = Methods {
        resolver: Resolver::Openat2,
        publisher,
    };
    let policy = rules(UploadRules {
        fsync: is_synced,
        ..keeping(2, format).uploads
    });
    Root::open_with(path, policy, methods).unwrap()
}

/// Stores a file three times, with times a second apart; returns the contents.
fn three_nights(path: &Path, publisher: &str, format: &str) -> Vec<Vec<u8>> {
    let root = root_for(path, publisher, format);
    let contents: Vec<_> = (0..3)
        .map(|night| content(night, 1000 + night as usize))
        .collect();
    for (night, content) in (1..).zip(&contents) {
        put(&root, "f", content).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(night);
        let file = fs::File::options()
            .write(true)
            .open(path.join("f"))
            .unwrap();
        file.set_modified(time).unwrap();
    }
    contents
}

/// Runs [`one_upload`] under strace(1).
fn traced(words: &str, strace: &[&str]) -> std::process::Output {
    bounded(20, "strace")
        .args(["-f", "-qq"])
        .args(strace)
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "strace::one_upload",
            "--ignored",
            "--test-threads=1",
        ])
        .env(UPLOAD, words)
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1)")
}

/// The system calls of the uploading thread, from the mark to the end. Each comes with
/// the number of calls of that name that the thread has made by then.
fn calls(trace: &str) -> Vec<(String, usize)> {
    let thread = trace
        .lines()
        .find(|line| line.contains(MARK))
        .expect("the mark");
    let thread = thread.split_whitespace().next().expect("a thread");
    let of_thread = |line: &&str| line.split_whitespace().next() == Some(thread);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut calls, mut marked) = (vec![], false);
    for line in trace.lines().filter(of_thread) {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        let Some((call, _)) = call.split_once('(') else {
            continue;
        };
        let count = counts.entry(call).or_default();
        *count += 1;
        if marked {
            calls.push((call.to_owned(), *count));
        }
        marked |= line.contains(MARK);
    }
    calls
}

/// At any moment the file and each version is whole, and none is lost before the new one
/// is in place; the next upload leaves the usual number, and nothing else.
#[test]
fn kill_9_between_any_two_system_calls_leaves_all_versions_whole() {
    if !traces() {
        return;
    }
    let ways = [
        ("unnamed", "0"),
        ("unnamed", "1"),
        ("named", "0"),
        ("named", "1"),
    ];
    std::thread::scope(|scope| {
        for (publisher, format) in ways {
            scope.spawn(move || kill_everywhere(publisher, format));
        }
    });
}

/// Calls that change no file and no name. Killed before such a call, the process leaves
/// the same as when killed before the next one.
const ONLY_LOOKS: [&str; 18] = [
    "newfstatat",
    "fstat",
    "fstat64",
    "statx",
    "fstatfs",
    "faccessat",
    "faccessat2",
    "getdents64",
    "lseek",
    "read",
    "fcntl",
    "dup",
    "close",
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "futex",
];

fn kill_everywhere(publisher: &str, format: &str) {
    let base = tempfile::tempdir().unwrap();
    let run = |number: usize, strace: &[&str]| {
        let path = base.path().join(format!("{number}"));
        fs::create_dir(&path).unwrap();
        let old = three_nights(&path, publisher, format);
        let words = format!("{} {publisher} {format}", path.display());
        let output = traced(&words, strace);
        (path, old, output)
    };
    let trace = base.path().join("trace");
    let (path, old, output) = run(0, &["-o", trace.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let new = content(99, 3000);
    let last_three = [&new, &old[2], &old[1]];
    assert_whole(&path, "to the end", &last_three.map(Clone::clone));
    let all = calls(&fs::read_to_string(&trace).unwrap());
    let changes = ["linkat", "renameat", "unlinkat", "pwrite64", "openat"];
    let of_upload = all
        .iter()
        .rposition(|(call, _)| changes.contains(&call.as_str()));
    let all = &all[..=of_upload.expect("an upload")];
    assert!(all.len() > 10, "{all:?}");
    let changing = all
        .iter()
        .filter(|(call, _)| !ONLY_LOOKS.contains(&call.as_str()));
    for (number, (call, count)) in (1..).zip(changing) {
        let kill = format!("inject={call}:signal=SIGKILL:when={count}");
        let what = format!("{publisher} {number} {call} {count}");
        let (path, old, output) = run(number, &["-o", "/dev/null", "-e", &kill]);
        assert!(!output.status.success(), "{what}: not killed");
        let there = files(&path);
        let current = &there["f"];
        assert!(
            *current == old[2] || *current == new,
            "{what}: f isn't whole"
        );
        let is_kept = |content| there.values().any(|it| it == content);
        assert!(is_kept(&old[2]) && is_kept(&old[1]), "{what}: lost");
        assert!(
            is_kept(&old[0]) || *current == new,
            "{what}: the oldest is lost too early"
        );
        for (name, held) in &there {
            let is_whole = old.contains(held) || *held == new;
            assert!(is_whole || name.starts_with(".tftpd-"), "{what}: {name}");
        }
        let newest = content(100, 10);
        let before = if *current == new {
            [new.clone(), old[2].clone()]
        } else {
            [old[2].clone(), old[1].clone()]
        };
        put(&root_for(&path, publisher, format), "f", &newest).unwrap();
        let [first, second] = before;
        assert_whole(&path, &what, &[newest, first, second]);
    }
}

/// After a power failure, where an old version is gone the newest file must be there.
/// Removing it needs no descriptor: none is left.
#[test]
fn with_fsync_the_new_name_is_on_the_disk_before_an_old_version_is_removed() {
    if !traces() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("root");
    fs::create_dir(&path).unwrap();
    three_nights(&path, "linked", "0");
    let trace = base.path().join("trace");
    let words = format!("{} synced 0", path.display());
    let output = traced(&words, &["-o", trace.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let all = calls(&fs::read_to_string(&trace).unwrap());
    let last = |wanted: &str| all.iter().rposition(|(call, _)| call.starts_with(wanted));
    let (replaced, synced, pruned) = (last("renameat"), last("fsync"), last("unlinkat"));
    assert!(replaced.is_some() && replaced < synced, "{all:?}");
    assert!(synced < pruned, "{all:?}");
}

/// On a file system without hard links, or where the kernel lets only a file's owner
/// link it.
#[test]
fn a_file_that_can_not_be_replaced_keeps_its_name() {
    if !traces() {
        return;
    }
    for (number, fails) in ["renameat", "renameat2"].into_iter().enumerate() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(number.to_string());
        fs::create_dir(&path).unwrap();
        let old = three_nights(&path, "named", "0");
        let before = files(&path);
        let words = format!("{} named 0", path.display());
        // The first link is the one to the upload's own name, which is taken.
        let no_links = "inject=linkat:error=EPERM:when=2";
        let no_rename = format!("inject={fails}:error=EIO:when=1");
        let output = traced(
            &words,
            &["-o", "/dev/null", "-e", no_links, "-e", &no_rename],
        );
        assert!(!output.status.success(), "{fails}");
        assert_eq!(files(&path), before, "{fails}");
        assert_eq!(before["f"], old[2]);
    }
}

/// The file system has no hard links and doesn't know `RENAME_NOREPLACE`.
#[test]
fn where_nothing_but_a_plain_rename_works_versions_are_kept_too() {
    if !traces() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("root");
    fs::create_dir(&path).unwrap();
    let old = three_nights(&path, "named", "0");
    let words = format!("{} named 0", path.display());
    let trace = base.path().join("trace");
    let output = traced(
        &words,
        &[
            "-o",
            trace.to_str().unwrap(),
            "-e",
            "inject=linkat:error=EPERM",
            "-e",
            "inject=renameat2:error=EINVAL",
        ],
    );
    assert!(output.status.success(), "{}", said(&output));
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("RENAME_NOREPLACE"), "{trace}");
    let newest = content(99, 3000);
    assert_whole(&path, "renamed", &[newest, old[2].clone(), old[1].clone()]);
}

fn traces() -> bool {
    let tried = bounded(10, "strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        skip("strace(1) can't trace here");
    }
    works
}

/// The directory holds exactly these contents.
fn assert_whole(path: &Path, what: &str, contents: &[Vec<u8>; 3]) {
    let there = files(path);
    assert_eq!(there.len(), 3, "{what}: {:?}", there.keys());
    assert!(there["f"] == contents[0], "{what}: not the newest");
    for content in contents {
        assert!(there.values().any(|it| it == content), "{what}: lost");
    }
}

#[test]
fn with_fsync_an_upload_is_on_the_disk_before_it_is_acknowledged() {
    if !traces() {
        return;
    }
    for fsync in [true, false] {
        let address = own_address().to_string();
        let mut args = vec![
            "-a",
            &*address,
            "--overwrite",
            "--create-dirs",
            "--single-port",
        ];
        args.extend(fsync.then_some("--fsync"));
        let server = Server::start_prepared(&args, |dir| {
            let mut command = Command::new("strace");
            command.args(["-qq", "-e", "trace=fsync,linkat,sendmsg,sendto", "-o"]);
            command.arg(dir.join("trace"));
            // The server is killed when the tracer ends.
            command.args(["setpriv", "--pdeathsig", "KILL", tftpd()]);
            command
        });
        RawClient::new(&server).write("made/f", b"content").unwrap();
        let trace = fs::read_to_string(server.outside().join("trace")).unwrap();
        let calls: Vec<_> = trace
            .lines()
            .map(|it| it.split('(').next().unwrap())
            .collect();
        let linked = calls.iter().rposition(|it| *it == "linkat").unwrap();
        let synced = |calls: &[&str]| calls.iter().filter(|it| **it == "fsync").count();
        let (before, behind) = calls.split_at(linked);
        let answered = behind.iter().position(|it| it.starts_with("send")).unwrap();
        // The file is synced; and its directory, and the parent in which that was made.
        let wanted = if fsync { (1, 2) } else { (0, 0) };
        assert_eq!(
            (synced(before), synced(&behind[..answered])),
            wanted,
            "{trace}"
        );
    }
}
