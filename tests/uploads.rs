//! The upload options beyond `--overwrite`: versions, created directories, an upload
//! directory, a drop box, limits on all uploads together, fsync.
#![cfg(feature = "uploads")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it has an environment"
)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
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

fn making_dirs() -> Policy {
    rules(UploadRules {
        create_dirs: true,
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

// --- versions ------------------------------------------------------------------------

#[test]
fn the_last_versions_are_kept_and_the_newest_has_the_highest_number() {
    for_each_method(keeping(2, None), |path, root| {
        let mut wanted = vec![];
        for number in 0..12 {
            put(root, "f", format!("content {number}").as_bytes()).unwrap();
            put(root, "f.txt", b"another file").unwrap_or_default();
            wanted.insert(0, format!("content {number}").into_bytes());
            wanted.truncate(3);
            let mut there = files(path);
            there.retain(|name, _| !name.starts_with("f.txt"));
            assert_eq!(there.get("f"), wanted.first());
            for (age, content) in wanted.iter().enumerate().skip(1) {
                let name = format!("f.~{}~", number + 1 - age);
                assert_eq!(there.get(&name), Some(content), "{name}");
            }
            assert_eq!(there.len(), wanted.len());
        }
        assert!(root.open_read(b"f.~11~").is_ok());
    });
}

#[test]
fn versions_are_named_after_the_time_they_were_written() {
    for_each_method(keeping(3, Some("%Y-%m-%dT%H%M%S")), |path, root| {
        let written_at = |seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = fs::File::options()
                .write(true)
                .open(path.join("f"))
                .unwrap();
            file.set_modified(time).unwrap();
        };
        // The nights of 26 and 27 November 2026, two uploads in one second, and one with
        // a clock that is far behind.
        let nights = [1_795_659_300, 1_795_745_700, 1_795_745_700, 86_399];
        for (number, seconds) in (0..).zip(nights) {
            put(root, "f", &[number]).unwrap();
            written_at(seconds);
        }
        put(root, "f", &[4]).unwrap();
        let kept: Vec<_> = files(path).into_iter().collect();
        let wanted = [
            ("f", 4),
            // Replaced last: it is kept, whatever its time.
            ("f.1970-01-01T235959", 3),
            ("f.2026-11-27T021500", 1),
            ("f.2026-11-27T021500-1", 2),
        ];
        let wanted = wanted.map(|(name, byte)| (name.to_owned(), vec![byte]));
        assert_eq!(kept, wanted);
    });
}

#[test]
fn no_upload_takes_the_name_of_a_version() {
    for overwrite in [false, true] {
        let policy = Policy {
            overwrite,
            ..keeping(2, None)
        };
        for_each_method(policy, |path, root| {
            for content in [b"one", b"two"] {
                put(root, "f", content).unwrap();
            }
            for name in ["f.~1~", "f.~9~", "new.~1~"] {
                let refused = message(put(root, name, b"evil"));
                assert_eq!(
                    refused, "Access violation: name of an old version",
                    "{name}"
                );
            }
            assert_eq!(names(path), ["f", "f.~1~"]);
            assert_eq!(fs::read(path.join("f.~1~")).unwrap(), b"one");
            // Only names that the server would give a version are refused.
            put(root, "f.2026-11-27", b"x").unwrap();
            let long = "x".repeat(250);
            let refused = message(put(root, &long, b"x"));
            assert!(refused.contains("too long"), "{refused}");
        });
    }
}

/// Existing entries aren't overwritten, and only files are kept as versions.
#[test]
fn a_version_never_takes_the_place_of_anything() {
    for_each_method(keeping(5, None), |path, root| {
        fs::create_dir(path.join("f.~3~")).unwrap();
        put(root, "f", b"one").unwrap();
        put(root, "f", b"two").unwrap();
        assert_eq!(fs::read(path.join("f.~4~")).unwrap(), b"one");
        fs::create_dir(path.join("d")).unwrap();
        symlink("f", path.join("l")).unwrap();
        for name in ["d", "l"] {
            assert!(put(root, name, b"x").is_err(), "{name}");
        }
        // Nor something that was put there during the upload.
        let upload = begun(root, "late");
        fs::create_dir(path.join("late")).unwrap();
        assert!(upload.commit().is_err());
        assert_eq!(names(path), ["d/", "f", "f.~3~/", "f.~4~", "l", "late/"]);
    });
}

#[test]
fn two_uploads_at_once_are_two_versions() {
    for_each_method(keeping(9, None), |path, root| {
        put(root, "f", b"old").unwrap();
        let (mut one, mut other) = (begun(root, "f"), begun(root, "f"));
        one.write_at(0, b"one!").unwrap();
        other.write_at(0, b"two!").unwrap();
        other.commit().unwrap();
        one.commit().unwrap();
        let contents: Vec<_> = files(path).into_values().collect();
        assert_eq!(contents, [&b"one!"[..], b"old", b"two!"]);
    });
}

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
        .args(["--exact", "one_upload", "--ignored", "--test-threads=1"])
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

// --- a night of fifty switches -------------------------------------------------------

const SWITCHES: usize = 50;

/// The configuration that a switch saves in a night.
fn running_config(switch: usize, night: u64) -> Vec<u8> {
    content(night << 32 | switch as u64, 700 + 13 * switch)
}

fn config_name(switch: usize) -> String {
    format!("switch{switch}.cfg")
}

/// All switches save their configuration at once. Those for which `breaks_off` is true
/// send two blocks and then nothing; returns their clients.
fn night(server: &Server, night: u64, breaks_off: impl Fn(usize) -> bool) -> Vec<RawClient> {
    let clients = (0..SWITCHES).map(|_| RawClient::new(server));
    let mut broken_off = vec![];
    for (switch, client) in clients.enumerate() {
        let (name, config) = (config_name(switch), running_config(switch, night));
        if breaks_off(switch) {
            let (_, tid) = client.ask_patiently(&wrq(&name, &[]));
            let answer = client.say(&data(1, &config[..BLOCK]), tid);
            assert_eq!(answer, Packet::Ack(1), "{name}");
            broken_off.push(client);
        } else {
            client.write(&name, &config).expect(&name);
        }
    }
    broken_off
}

/// Each switch has the configurations of these nights, the newest first, and no others.
fn assert_nights(server: &Server, nights: &[u64]) {
    let there = files(&server.root());
    for switch in 0..SWITCHES {
        let name = config_name(switch);
        let versions = there
            .iter()
            .filter(|(it, _)| it.starts_with(&format!("{name}.~")));
        let current = there.get(&name).into_iter();
        // Names of equal length sort by version number.
        let kept: Vec<_> = current.chain(versions.map(|it| it.1).rev()).collect();
        let wanted: Vec<_> = nights
            .iter()
            .map(|&it| running_config(switch, it))
            .collect();
        assert!(
            kept == wanted.iter().collect::<Vec<_>>(),
            "{name}: {:?}",
            there.keys()
        );
    }
    assert_eq!(there.len(), SWITCHES * nights.len());
}

#[test]
fn a_night_of_fifty_switches_that_breaks_off_loses_nothing() {
    let args = [&NEVER[..], &["--keep-versions", "2"]].concat();
    let mut server = Server::start(&args);
    assert!(night(&server, 1, |_| false).is_empty());
    assert_nights(&server, &[1]);
    // In the second night half of them break off, and try again.
    for client in night(&server, 2, |switch| switch % 2 == 0) {
        drop(client);
    }
    let retried = |switch| switch % 2 == 0;
    for switch in (0..SWITCHES).filter(|&switch| retried(switch)) {
        let config = running_config(switch, 2);
        RawClient::new(&server)
            .write(&config_name(switch), &config)
            .unwrap();
    }
    assert_nights(&server, &[2, 1]);
    // In the third night the server dies halfway, and another takes its place.
    let _broken_off = night(&server, 3, |switch| switch >= 20);
    server.signal(Signal::SIGKILL);
    assert!(server.wait_exit(PATIENCE).is_some());
    let next = after(&server, &args);
    for switch in 20..SWITCHES {
        let config = running_config(switch, 3);
        RawClient::new(&next)
            .write(&config_name(switch), &config)
            .unwrap();
    }
    assert_nights(&server, &[3, 2, 1]);
    // Versions can be read like any other file.
    let oldest = RawClient::new(&next).read("switch7.cfg.~1~");
    assert_same("switch7.cfg.~1~", &oldest.unwrap(), &running_config(7, 1));
}

/// A server on the root of another that has ended.
fn after(gone: &Server, args: &[&str]) -> Server {
    let address = own_address().to_string();
    let args = [&["-a", &address], args].concat();
    Server::start_prepared(&args, |dir| {
        let root = dir.join("root");
        fs::remove_dir(&root).expect("an empty directory");
        symlink(gone.root(), root).expect("a link to it");
        Command::new(tftpd())
    })
}

// --- directories ---------------------------------------------------------------------

#[test]
fn directories_are_made_with_the_first_data_and_not_before() {
    for umask in [None, Some(0o027)] {
        let policy = Policy {
            umask,
            ..making_dirs()
        };
        for_each_method(policy, |path, root| {
            fs::create_dir(path.join("there")).unwrap();
            let asked = root.create(b"there/a/b/f", Some(4)).unwrap();
            assert_eq!(names(path), ["there/"]);
            drop(asked);
            put(root, "there/a/b/f", b"x").unwrap();
            put(root, "c/../d//e/g", b"y").unwrap();
            let wanted = [
                "d/",
                "d/e/",
                "d/e/g",
                "there/",
                "there/a/",
                "there/a/b/",
                "there/a/b/f",
            ];
            assert_eq!(names(path), wanted);
            let mode = |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
            fs::create_dir(path.join("usual")).unwrap();
            let wanted = umask.map_or(mode("usual"), |umask| 0o777 & !umask);
            assert_eq!((mode("there/a"), mode("d/e")), (wanted, wanted));
            assert!(put(root, "there/a", b"z").is_err(), "it is a directory");
            assert!(put(root, "d/e/g/f", b"z").is_err(), "it is a file");
            let deep = "x/".repeat(65) + "f";
            assert!(put(root, &deep, b"z").is_err(), "too deep");
        });
    }
}

#[test]
fn no_directory_is_made_through_a_link_that_leads_out() {
    for_each_method(making_dirs(), |path, root| {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(path.join("inside")).unwrap();
        symlink(outside.path(), path.join("out")).unwrap();
        symlink("nowhere", path.join("dangling")).unwrap();
        symlink("inside", path.join("in")).unwrap();
        for name in [
            "out/a/f",
            "out/f",
            "dangling/a/f",
            "dangling/f",
            "in/../out/a/f",
        ] {
            let refused = root.create(name.as_bytes(), None).map(drop);
            assert!(refused.is_err(), "{name}");
        }
        // A link that appears before the first data.
        let mut late = root.create(b"late/a/f", None).unwrap();
        symlink(outside.path(), path.join("late")).unwrap();
        assert!(late.write_at(0, b"x").is_err());
        drop(late);
        put(root, "in/a/f", b"x").unwrap();
        assert_eq!(names(outside.path()), [""; 0]);
        let wanted = [
            "dangling",
            "in",
            "inside/",
            "inside/a/",
            "inside/a/f",
            "late",
            "out",
        ];
        assert_eq!(names(path), wanted);
    });
}

/// What is left when uploads end in this order: `+` committed, `-` aborted.
#[test]
fn empty_directories_of_aborted_uploads_are_removed_whoever_shares_them() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["a/b/f"], &["-0"], &[]),
        (&["a/b/f", "a/b/g"], &["-0", "-1"], &[]),
        (&["a/b/f", "a/b/g"], &["-1", "-0"], &[]),
        (&["a/b/f", "a/b/g"], &["-0", "+1"], &["a/", "a/b/", "a/b/g"]),
        (&["a/b/f", "a/b/g"], &["+0", "-1"], &["a/", "a/b/", "a/b/f"]),
        (&["a/b/f", "a/g"], &["-0", "+1"], &["a/", "a/g"]),
        (&["a/b/f", "a/g"], &["-1", "-0"], &[]),
        (&["a/f", "a/b/g"], &["-0", "-1"], &[]),
        (&["a/f", "a/b/g"], &["+0", "-1"], &["a/", "a/f"]),
        (&["a/f", "a/b/g", "a/b/c/h"], &["-2", "-0", "-1"], &[]),
        (
            &["a/f", "a/b/g", "a/c/h"],
            &["-2", "-0", "+1"],
            &["a/", "a/b/", "a/b/g"],
        ),
    ];
    for_each_method(making_dirs(), |path, root| {
        fs::create_dir(path.join("there")).unwrap();
        for (uploads, ends, left) in cases {
            let begun = uploads
                .iter()
                .map(|name| Some(begun(root, &format!("there/{name}"))));
            let mut begun: Vec<_> = begun.collect();
            for end in *ends {
                let number: usize = end[1..].parse().unwrap();
                let upload = begun[number].take().unwrap();
                if end.starts_with('+') {
                    upload.commit().unwrap();
                }
            }
            assert_eq!(names(&path.join("there")), *left, "{uploads:?} {ends:?}");
            fs::remove_dir_all(path.join("there")).unwrap();
            fs::create_dir(path.join("there")).unwrap();
        }
        // What somebody else puts there, or had there before, stays.
        let upload = begun(root, "there/x/f");
        fs::write(path.join("there/x/theirs"), "").unwrap();
        drop(upload);
        drop(begun(root, "there/f"));
        assert_eq!(names(path), ["there/", "there/x/", "there/x/theirs"]);
    });
}

/// The lowest directory can't be made, because its name is too long.
#[test]
fn directories_of_uploads_that_can_not_be_made_whole_are_removed() {
    for_each_method(making_dirs(), |path, root| {
        let name = format!("a/b/{}/f", "x".repeat(256));
        let mut upload = root.create(name.as_bytes(), None).unwrap();
        assert!(upload.write_at(0, b"x").is_err());
        drop(upload);
        assert_eq!(names(path), [""; 0]);
    });
}

/// Otherwise a read of `Boot/BCD` would be served from the upload's directory.
#[test]
fn with_ignore_case_no_directory_is_made_beside_one_in_another_case() {
    let policy = Policy {
        ignore_case: true,
        ..making_dirs()
    };
    for_each_method(policy, |path, root| {
        fs::create_dir_all(path.join("boot/Fonts")).unwrap();
        fs::write(path.join("boot/BCD"), b"the administrator's").unwrap();
        for name in ["Boot/a", "Boot/BCD", "BOOT/x/y", "boot/fonts/a"] {
            assert!(put(root, name, b"x").is_err(), "{name}");
        }
        put(root, "boot/other/f", b"x").unwrap();
        let wanted = [
            "boot/",
            "boot/BCD",
            "boot/Fonts/",
            "boot/other/",
            "boot/other/f",
        ];
        assert_eq!(names(path), wanted);
    });
}

/// Directories with such names would push versions out.
#[test]
fn no_directory_is_named_like_a_version_and_none_counts_as_one() {
    let policy = rules(UploadRules {
        create_dirs: true,
        ..keeping(1, None).uploads
    });
    for_each_method(policy, |path, root| {
        for name in ["f.~900~/x", "a/f.~1~/x", "f.~900~/a/x"] {
            assert_eq!(
                message(root.create(name.as_bytes(), None)),
                "Access violation: name of an old version",
                "{name}"
            );
        }
        fs::create_dir(path.join("f.~900~")).unwrap();
        fs::create_dir(path.join("f.~901~")).unwrap();
        fs::write(path.join("f.~18446744073709551615~"), "theirs").unwrap();
        for content in ["one", "two", "three"] {
            put(root, "f", content.as_bytes()).unwrap();
        }
        let there = files(path);
        assert_eq!(there["f"], b"three");
        assert_eq!(there["f.~903~"], b"two");
        assert_eq!(there.len(), 3, "{there:?}");
    });
}

#[test]
fn nobody_makes_the_directory_of_another_client() {
    let server = Server::start(&["--create-dirs", "--per-client-root", "ip"]);
    let client = RawClient::new(&server);
    for name in ["192.0.2.1/f", "192.0.2.1/a/f", "a/../192.0.2.1/f"] {
        let refused = client.write(name, b"x").unwrap_err();
        assert_eq!(refused.0, 2, "{name}: {refused:?}");
    }
    RawClient::new(&server)
        .write("a/192.0.2.1/f", b"x")
        .unwrap();
    assert_eq!(
        server.tree().into_keys().collect::<Vec<_>>(),
        [Path::new("a/192.0.2.1/f")]
    );
}

// --- where uploads go ----------------------------------------------------------------

/// A server whose uploads go to a directory below its root, or outside of it.
fn with_upload_root(below: bool, args: &[&str]) -> (Server, PathBuf) {
    let address = own_address().to_string();
    let place = if below { "root/uploads" } else { "uploads" };
    let server = Server::start_prepared(&["-a", &address], |base| {
        fs::create_dir(base.join(place)).unwrap();
        let mut command = Command::new(tftpd());
        command
            .arg("--upload-root")
            .arg(base.join(place))
            .args(args);
        command
    });
    let uploads = server.outside().join(place);
    (server, uploads)
}

#[test]
fn uploads_go_to_their_own_directory() {
    for below in [false, true] {
        for args in [
            &[][..],
            &["--no-sandbox"],
            &["--keep-versions", "1", "--create-dirs"],
        ] {
            let (server, uploads) = with_upload_root(below, args);
            server.file("boot", b"boot file");
            let client = || RawClient::new(&server);
            client().write("boot", b"an upload").unwrap();
            client()
                .write(&format!("{}/other", uploads.display()), b"x")
                .unwrap();
            assert_same("boot", &client().read("boot").unwrap(), b"boot file");
            assert_same(
                "boot",
                &fs::read(uploads.join("boot")).unwrap(),
                b"an upload",
            );
            assert!(uploads.join("other").is_file());
            assert_eq!(client().read("uploads/boot").is_ok(), below, "{args:?}");
            let again = client().write("boot", b"again");
            assert_eq!(again.is_ok(), args.len() == 3, "{args:?}");
            if !args.contains(&"--create-dirs") {
                // The directory isn't part of the name; the log says where uploads go.
                assert_eq!(client().write("uploads/x", b"x").unwrap_err().0, 1);
                let place = format!("uploads go below {}", uploads.display());
                let told = |line: &str| line.contains("hint=") && line.contains(&place);
                assert!(server.wait_for_log(told, PATIENCE).is_some(), "{args:?}");
            }
            let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
            assert!(line.unwrap().contains("uploads go to"), "{args:?}");
        }
    }
}

#[test]
fn a_drop_box_tells_nothing_of_what_is_in_it() {
    let (server, uploads) = with_upload_root(true, &["--write-only"]);
    server.file("boot", b"boot file");
    symlink(&uploads, server.root().join("link")).unwrap();
    symlink(uploads.join("f"), server.root().join("file")).unwrap();
    fs::create_dir(uploads.join("d")).unwrap();
    let client = || RawClient::new(&server);
    for content in [b"one", b"two", b"six"] {
        client().write("f", content).unwrap();
    }
    // A directory, too, is a name that is taken.
    client().write("d", b"dir").unwrap();
    let stored = files(&uploads);
    let wanted = [
        ("d.~1~", b"dir"),
        ("f", b"one"),
        ("f.~1~", b"two"),
        ("f.~2~", b"six"),
    ];
    let wanted = wanted.map(|(name, content)| (name.to_owned(), content.to_vec()));
    assert_eq!(stored, BTreeMap::from(wanted));
    assert_same("boot", &client().read("boot").unwrap(), b"boot file");
    let there = client().read("uploads/f").unwrap_err();
    assert_eq!(there.0, 2);
    for name in [
        "uploads/none",
        "uploads/d/f",
        "link/f",
        "link/none",
        "uploads/../uploads/f",
    ] {
        assert_eq!(client().read(name), Err(there.clone()), "{name}");
    }
    assert!(client().read("file").is_err());
    let has_hint = |line: &str| {
        line.contains("file=\"uploads/f\"") && line.contains("hint=\"--write-only: nobody reads")
    };
    assert!(server.wait_for_log(has_hint, PATIENCE).is_some());
}

/// The answer is the same whether the name is taken or not.
#[test]
fn in_a_drop_box_names_that_are_too_long_or_those_of_versions_are_refused() {
    for format in [None, Some("%s")] {
        let mut policy = rules(UploadRules {
            write_only: true,
            ..UploadRules::NONE
        });
        if format.is_some() {
            policy.uploads.versions = keeping(1, format).uploads.versions;
        }
        for_each_method(policy, |path, root| {
            let long = "x".repeat(200);
            fs::write(path.join(&long), "taken").unwrap();
            for name in [&*long, &"y".repeat(200), &"z".repeat(256)] {
                assert_eq!(
                    message(root.create(name.as_bytes(), None)),
                    "Access violation: name too long to keep versions"
                );
            }
            for name in ["f.~1~", "f.~18446744073709551615~"] {
                assert_eq!(
                    message(root.create(name.as_bytes(), None)),
                    "Access violation: name of an old version"
                );
            }
        });
    }
}

#[test]
fn in_a_drop_box_each_upload_gets_a_name_of_its_own() {
    let policy = rules(UploadRules {
        write_only: true,
        ..UploadRules::NONE
    });
    for_each_method(policy, |path, root| {
        // Some versions are missing, and one has a strange number.
        for number in [1, 2, 3, 4, 7, u64::MAX] {
            fs::write(path.join(format!("f.~{number}~")), "theirs").unwrap();
        }
        for content in 0..20 {
            put(root, "f", format!("{content}").as_bytes()).unwrap();
        }
        let there = files(path).into_values();
        let mut ours: Vec<_> = there.filter(|it| it != b"theirs").collect();
        ours.sort();
        ours.dedup();
        assert_eq!((ours.len(), names(path).len()), (20, 26));
    });
}

/// Otherwise an upload to a file's name plus `/f` would show whether the file exists.
#[test]
fn a_drop_box_makes_no_directories() {
    let root = tempfile::tempdir().unwrap();
    let output = bounded(10, tftpd())
        .args(["--write-only", "--create-dirs"])
        .arg(root.path())
        .output()
        .expect("timeout(1)");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--create-dirs"), "{}", said(&output));
}

#[test]
fn a_drop_box_without_a_directory_of_its_own_is_never_read() {
    for args in [
        &["--write-only"][..],
        &["--write-only", "--keep-versions", "1"],
    ] {
        let server = Server::start(args);
        server.file("f", b"old");
        let client = || RawClient::new(&server);
        let there = client().read("f").unwrap_err();
        assert_eq!((there.0, client().read("none")), (2, Err(there)));
        client().write("f", b"new").unwrap();
        let contents = files(&server.root());
        let newest = if args.len() == 1 { "f.~1~" } else { "f" };
        assert_eq!((contents.len(), &*contents[newest]), (2, &b"new"[..]));
    }
}

#[test]
fn a_drop_box_is_not_read_where_the_root_is_in_it() {
    let mut cases = vec![(".", &[][..]), ("root", &[])];
    if nix::unistd::geteuid().is_root() {
        // With a chroot, the path of the root leads elsewhere.
        cases.push(("root", &["--chroot"]));
    } else {
        skip("only root may chroot");
    }
    for (above, options) in cases {
        let address = own_address().to_string();
        let args = [&["-a", &address, "--write-only"], options].concat();
        let server = Server::start_prepared(&args, |base| {
            let mut command = Command::new(tftpd());
            command.arg("--upload-root").arg(base.join(above));
            command
        });
        RawClient::new(&server).write("f", b"secret").unwrap();
        server.file("f", b"secret");
        assert_eq!(
            RawClient::new(&server).read("f").unwrap_err().0,
            2,
            "{above} {options:?}"
        );
    }
}

#[test]
fn an_unusable_upload_directory_is_reported_in_one_line() {
    let base = tempfile::tempdir().unwrap();
    let place = base.path().to_str().unwrap();
    let mut cases = vec![
        (
            vec!["--upload-root", "/missing"],
            "cannot take uploads to /missing",
        ),
        (
            vec![
                "--upload-root",
                place,
                "--write-only",
                "--follow-links",
                place,
            ],
            "cannot follow links to",
        ),
    ];
    if nix::unistd::geteuid().is_root() {
        cases.push((
            vec!["--upload-root", "/etc"],
            "cannot take uploads to /etc as root",
        ));
        cases.push((vec!["--upload-root", place, "--chroot"], "outside ROOT"));
    } else {
        skip("only root may write to /etc, or chroot");
    }
    let root = tempfile::tempdir().unwrap();
    for (words, named) in cases {
        let output = bounded(10, tftpd())
            .args(["-p", "0", "-a", "127.0.0.1"])
            .args(&words)
            .arg(root.path())
            .output()
            .expect("timeout(1)");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains(named), "{words:?}: {text}");
    }
}

// --- bounds --------------------------------------------------------------------------

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

// --- fsync ---------------------------------------------------------------------------

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

/// Looking for versions among so many names takes time, of which each client network gets
/// a share. If there are too many names, the upload is refused.
#[test]
fn among_a_hundred_thousand_names_versions_are_kept_or_the_upload_is_refused() {
    let mut base = None;
    let address = own_address().to_string();
    let args = [&NEVER[..], &["-a", &*address, "--keep-versions", "2"]].concat();
    let server = Server::start_prepared(&args, |dir| {
        // On a file system in memory, where that takes less than a second.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let memory = memory.unwrap();
        fs::remove_dir(dir.join("root")).unwrap();
        symlink(memory.path(), dir.join("root")).unwrap();
        base = Some(memory);
        Command::new(tftpd())
    });
    let base = base.unwrap();
    let fill = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            fs::File::create(base.path().join(number.to_string())).unwrap();
        }
    };
    fill(0..65_000);
    for content in [b"1", b"2", b"3", b"4"] {
        let client = RawClient::new(&server);
        let (answer, tid) = client.ask_patiently(&wrq("f", &[]));
        assert_eq!(answer, Packet::Ack(0));
        assert_eq!(client.say(&data(1, content), tid), Packet::Ack(1));
    }
    for (name, content) in [("f", b"4"), ("f.~3~", b"3"), ("f.~2~", b"2")] {
        assert_eq!(fs::read(base.path().join(name)).unwrap(), content);
    }
    assert!(!base.path().join("f.~1~").exists());
    // After many uploads at once the network's next one has to wait; other networks don't.
    // If a busy machine spreads these over more than a second, more follow.
    let is_told = |line: &str| line.contains("too much work");
    let patience = std::time::Instant::now() + PATIENCE;
    loop {
        let begun: Vec<_> = (0..8)
            .map(|_| {
                let client = RawClient::new(&server);
                let (_, tid) = client.ask_patiently(&wrq("f", &[]));
                (client, tid)
            })
            .collect();
        for (client, tid) in &begun {
            client.send_to(&data(1, b"4"), *tid);
        }
        for (client, tid) in &begun {
            assert_eq!(client.expect_from(*tid), Packet::Ack(1));
        }
        let client = RawClient::new(&server);
        client.send(&wrq("f", &[]));
        if server.wait_for_log(is_told, millis(500)).is_some() {
            break;
        }
        let is_late = std::time::Instant::now() > patience;
        assert!(!is_late, "none of them has to wait");
    }
    let other = RawClient::at(Ipv4Addr::new(127, 9, 8, 7), server.addr());
    assert_eq!(other.read("f"), Ok(b"4".to_vec()));
    fill(65_000..100_000);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_patiently(&wrq("f", &[]));
    let Packet::Error(0, text) = client.say(&data(1, b"5"), tid) else {
        panic!("stored");
    };
    assert!(text.contains("Too many files"), "{text}");
    assert_eq!(fs::read(base.path().join("f")).unwrap(), b"4");
}

/// The keys of transfers, and conflicts of names, are the same in these modes.
#[test]
fn netascii_ipv6_and_a_single_port_keep_versions_too() {
    let args = [
        "-a",
        "::1",
        "--single-port",
        "--keep-versions",
        "3",
        "--create-dirs",
    ];
    let server = Server::start_bare(&args);
    let client = || RawClient::new(&server);
    for text in [&b"one\r\n"[..], b"two\r\n"] {
        let request = request(2, b"sub/f", "netascii", &[]);
        client().write_with(&request, text, BLOCK, 1, 0).unwrap();
    }
    let stored = files(&server.root().join("sub"));
    assert_eq!(
        (&*stored["f"], &*stored["f.~1~"]),
        (&b"two\n"[..], &b"one\n"[..])
    );
    assert_eq!(
        fs::metadata(server.root().join("sub/f")).unwrap().nlink(),
        1
    );
}
