//! Nothing outside the root is read or written: not with `..` in any spelling, not
//! through a link, and not by swapping a directory for a link while requests run.
//!
//! The sandbox is off and the directory outside is open to everybody, so that only name
//! resolution protects it. Tested with the real binary, as root and as nobody; and with
//! the storage layer alone, so that resolution without `openat2` is covered, too.
//! Becoming nobody needs root; without it, those tests are skipped with a message.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it has an environment and threads"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{Uid, geteuid, setresuid};
use tftpd::file::{Methods, Policy, Publisher, ReadAt, Resolver, Root};

/// The content inside the root, and the content that must never come out.
const INSIDE: &[u8] = b"inside";
const SECRET: &[u8] = b"outside";

/// Fills `root` and the directory `outside` next to it, which is open to everybody.
fn furnish(base: &Path) {
    for dir in ["root", "root/dir", "outside"] {
        fs::create_dir_all(base.join(dir)).expect("a directory");
        fs::set_permissions(base.join(dir), Permissions::from_mode(0o777)).expect("ours");
    }
    fs::set_permissions(base, Permissions::from_mode(0o755)).expect("ours");
    for (path, content) in [("root/dir/file", INSIDE), ("outside/file", SECRET)] {
        fs::write(base.join(path), content).expect("a file");
        fs::set_permissions(base.join(path), Permissions::from_mode(0o666)).expect("ours");
    }
}

/// Asserts that nothing outside has changed.
#[track_caller]
fn assert_untouched(base: &Path, what: &str) {
    let entries = fs::read_dir(base.join("outside")).expect("a directory");
    let names: Vec<_> = entries
        .map(|entry| entry.expect("a name").file_name())
        .collect();
    assert_eq!(names, ["file"], "{what}: written outside");
    assert_eq!(
        fs::read(base.join("outside/file")).expect("a file"),
        SECRET,
        "{what}"
    );
}

/// Makes the other thread end, however this one ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges `root/dir` and `root/swap`, a link to `target`, atomically, back and forth as
/// fast as possible. Meanwhile `attempt` tells whether it got through, until both sides
/// of the race have been seen often enough.
fn race(base: &Path, target: &Path, what: &str, mut attempt: impl FnMut() -> bool) {
    let (dir, swap) = (base.join("root/dir"), base.join("root/swap"));
    symlink(target, &swap).expect("a link");
    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &dir, AT_FDCWD, &swap, exchange).expect("both are there");
            }
        });
        let _end = End(&done);
        for round in 0..100_000 {
            if attempt() {
                inside += 1;
            } else {
                refused += 1;
            }
            if round > 1_000 && inside > 10 && refused > 10 {
                break;
            }
        }
    });
    eprintln!("{what}: {inside} got through, {refused} did not");
    assert!(inside > 0 && refused > 0, "{what}: no race");
    assert_untouched(base, what);
    if !swap.is_symlink() {
        let exchange = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &dir, AT_FDCWD, &swap, exchange).expect("both are there");
    }
    fs::remove_file(swap).expect("a link");
}

/// Where the swapped link may lead: outside by two names, and by a magic link.
fn targets(base: &Path) -> [std::path::PathBuf; 3] {
    let outside = base.join("outside");
    let below_slash = outside.strip_prefix("/").expect("an absolute path");
    let magic = Path::new("/proc/self/root").join(below_slash);
    [Path::new("../outside").to_owned(), magic, outside]
}

// --- the real binary ---------------------------------------------------------------

/// Servers as root and as nobody, or as whoever runs the test.
fn servers() -> Vec<(&'static str, Server)> {
    let start = |user: Option<u32>| {
        let address = own_address().to_string();
        let args = ["-a", &address, "--overwrite", "--no-sandbox"];
        let server = Server::start_prepared(&args, |dir| {
            furnish(dir);
            let mut command = Command::new(copy_of_tftpd(dir));
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            command
        });
        if let Some(user) = user {
            chown(server.root().join("dir"), Some(user), Some(user)).expect("ours to give");
        }
        server
    };
    let mut servers = vec![("as whoever runs this", start(None))];
    if geteuid().is_root() {
        servers.push(("as nobody", start(Some(NOBODY))));
    } else {
        skip("only root can become nobody");
    }
    servers
}

#[test]
fn who_swaps_a_directory_for_a_link_gets_nothing_read_or_written() {
    for (who, server) in &servers() {
        let [target, ..] = targets(server.outside());
        let base = server.outside();
        race(
            base,
            &target,
            &format!("{who}, reading"),
            || match RawClient::new(server).read("dir/file") {
                Ok(content) => content == INSIDE || panic!("{who}: left the root"),
                Err(_) => false,
            },
        );
        race(base, &target, &format!("{who}, writing"), || {
            RawClient::new(server).write("dir/up", b"up").is_ok()
        });
    }
}

#[test]
fn no_spelling_leads_out() {
    for (who, server) in &servers() {
        let base = server.outside();
        let outside = base.join("outside/file");
        let outside = outside.to_str().unwrap();
        for (link, target) in ["up", "magic", "out"].into_iter().zip([
            Path::new(".."),
            Path::new("/proc/self/root"),
            &base.join("outside"),
        ]) {
            symlink(target, server.root().join(link)).unwrap();
        }
        symlink("/proc/self/cwd", server.root().join("cwd")).unwrap();
        symlink("/proc/self/fd/4", server.root().join("fd")).unwrap();
        symlink(outside, server.root().join("file-out")).unwrap();
        let root = server.root();
        let root = root.to_str().unwrap();
        let names = [
            "../outside/file",
            "/../outside/file",
            "//..//outside//file",
            "./../outside/file",
            "dir/../../outside/file",
            "dir/./.././../outside/file",
            "..\\outside\\file",
            "dir\\..\\..\\outside\\file",
            "\\..\\outside/file",
            "....//outside/file",
            "..;/outside/file",
            "%2e%2e/outside/file",
            "%2e%2e%2foutside%2ffile",
            "up/outside/file",
            "dir/../up/outside/file",
            "out/file",
            "file-out",
            "cwd/outside/file",
            "fd/../outside/file",
            outside,
            &format!("magic{outside}"),
            &format!("/proc/self/root{outside}"),
            &format!("{root}/../outside/file"),
            &format!("{root}/..\\outside\\file"),
            &format!("file:{outside}"),
            "../../../../../../../../../../../../etc/passwd",
            "/etc/passwd",
            "\\\\.\\etc\\passwd",
        ];
        let passwd = fs::read("/etc/passwd").unwrap();
        for name in names {
            let (answer, _) = RawClient::new(server).ask(&rrq(name, &[]));
            let refused = matches!(answer, Packet::Error(1 | 2, _));
            assert!(refused, "{who}: {name}: {answer:?}");
        }
        for name in names {
            // It may be refused or written below the root: either is right.
            let _ = RawClient::new(server).write(name, b"overwritten");
            assert_untouched(base, name);
        }
        assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
        assert_eq!(fs::read(server.root().join("dir/file")).unwrap(), INSIDE);
    }
}

// --- storage alone, with and without openat2 ------------------------------------------

fn content(root: &Root, name: &[u8]) -> Option<Vec<u8>> {
    let mut file = root.open_read(name).ok()?;
    let mut content = vec![0; usize::try_from(file.size()).expect("a small file")];
    file.block();
    let len = file.read_at(0, &mut content).ok()??;
    content.truncate(len);
    Some(content)
}

fn upload(root: &Root, name: &[u8]) -> bool {
    let Ok(mut upload) = root.create(name, None) else {
        return false;
    };
    upload.write_at(0, b"up").is_ok() && upload.commit().is_ok()
}

/// Runs the race with every resolver, every way to publish and every kind of link.
fn race_storage(who: &str) {
    let base = tempfile::tempdir().expect("a temporary directory");
    let base = base.path();
    furnish(base);
    let policy = Policy {
        overwrite: true,
        ..Policy::default()
    };
    for (resolver, publisher) in [
        (Resolver::Openat2, Publisher::LinkProc),
        (Resolver::Walk, Publisher::LinkProc),
        (Resolver::Walk, Publisher::Named),
    ] {
        let methods = Methods {
            resolver,
            publisher,
        };
        let root = Root::open_with(&base.join("root"), policy, methods).expect("a directory");
        if content(&root, b"dir/file").is_none() {
            skip(format_args!("{methods:?} does not work here"));
            continue;
        }
        for target in targets(base) {
            let what = format!("{who}, {methods:?}, {}", target.display());
            race(
                base,
                &target,
                &format!("{what}, reading"),
                || match content(&root, b"dir/file") {
                    Some(content) => content == INSIDE || panic!("{what}: left the root"),
                    None => false,
                },
            );
        }
        let [target, ..] = targets(base);
        let what = format!("{who}, {methods:?}, writing");
        race(base, &target, &what, || upload(&root, b"dir/up"));
    }
}

#[test]
fn whoever_runs_this_stays_inside_with_and_without_openat2() {
    race_storage("as whoever runs this");
}

#[test]
fn nobody_stays_inside_with_and_without_openat2() {
    if !geteuid().is_root() {
        skip("only root can become nobody");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_process_of_nobody", "--nocapture"])
        .env("TFTPD_TEST_NOBODY", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("got through"), "{}", said(&output));
}

/// Not a test of its own: [`nobody_stays_inside_with_and_without_openat2`] runs this
/// in a separate process.
#[test]
fn in_a_process_of_nobody() {
    if std::env::var_os("TFTPD_TEST_NOBODY").is_none() {
        return;
    }
    let nobody = Uid::from_raw(NOBODY);
    setresuid(nobody, nobody, nobody).unwrap();
    race_storage("as nobody");
}

#[test]
fn a_link_leads_to_a_directory_that_was_named_for_it_and_nowhere_else() {
    let base = tempfile::tempdir().expect("a temporary directory");
    let base = base.path().canonicalize().expect("it is there");
    fs::set_permissions(&base, Permissions::from_mode(0o755)).expect("ours");
    for dir in ["deploy/images", "build", "other"] {
        fs::create_dir_all(base.join(dir)).expect("a directory");
    }
    for (path, content) in [("deploy/images/Kernel", INSIDE), ("other/file", SECRET)] {
        fs::write(base.join(path), content).expect("a file");
    }
    fs::write(base.join("build/initrd"), INSIDE).expect("a file");
    let as_nobody = geteuid().is_root().then_some(&["-u", "nobody"][..]);
    let confined = as_nobody.unwrap_or_default();
    for args in [
        &["--read-only"][..],
        &[],
        &["--ignore-case"],
        &["--no-sandbox"],
        confined,
    ] {
        let address = own_address().to_string();
        let [deploy, build] = ["deploy", "build"].map(|it| base.join(it).display().to_string());
        let links = [
            "-a",
            &address,
            "--follow-links",
            &deploy,
            "--follow-links",
            &build,
        ];
        let server = Server::start_bare(&[&links[..], args].concat());
        fs::set_permissions(server.outside(), Permissions::from_mode(0o755)).expect("ours");
        for (link, target) in [
            ("kernel", base.join("deploy/images/Kernel")),
            ("images", base.join("deploy/images")),
            ("initrd", base.join("build/initrd")),
            ("other", base.join("other")),
            ("passwd", Path::new("/etc/passwd").into()),
        ] {
            symlink(target, server.root().join(link)).expect("a link");
        }
        for (link, target) in [("out", "../other/file"), ("again", "../build/initrd")] {
            let _ = fs::remove_file(base.join("deploy").join(link));
            symlink(target, base.join("deploy").join(link)).expect("a link");
        }
        symlink(base.join("deploy"), server.root().join("deploy")).expect("a link");
        let told = format!("; links may lead to {deploy}, {build}");
        let is_told = server.log_lines().iter().any(|line| line.ends_with(&told));
        assert!(is_told, "{:?}", server.log_lines());
        let client = RawClient::new(&server);
        for name in ["kernel", "images/Kernel", "initrd", "deploy/again"] {
            assert_eq!(client.read(name).expect(name), INSIDE, "{args:?} {name}");
        }
        if args.contains(&"--ignore-case") {
            assert_eq!(client.read("IMAGES/kernel").expect("there"), INSIDE);
        }
        for name in [
            "other/file",
            "passwd",
            "deploy/out",
            "images/../../other/file",
        ] {
            let code = client.read(name).expect_err(name).0;
            assert_eq!(code, 1, "{args:?} {name}");
        }
        let written = client.write("images/new", b"up").expect_err("refused").0;
        let expected = if args.contains(&"--read-only") { 2 } else { 1 };
        assert_eq!(written, expected, "{args:?}");
        assert!(!base.join("deploy/images/new").exists(), "{args:?}");
    }
}

#[test]
fn an_unusable_directory_for_links_is_reported_in_one_line() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let output = bounded(10, tftpd())
        .args(["-p", "0", "--follow-links", "/no/such/directory"])
        .arg(root.path())
        .output()
        .expect("timeout(1)");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("cannot follow links to /no/such/directory: no such directory"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
}
