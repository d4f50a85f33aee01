//! What the server gives up before it reads from the network, for each way of starting
//! it: as the kernel shows it for the running binary, and by the attempts of a process
//! that is confined by the same code.
//!
//! Becoming another user needs root; without it, those tests are skipped with a message.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it has an environment"
)]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Uid, chroot, getppid, mkfifo, setresuid};
use tftpd::file::{Directory, Methods, Policy, Publisher, Resolver, Root, StorageError};
use tftpd::host::{Confinement, Enforcement, Identity};
use tftpd::wire::packet::ErrorCode;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the test can run; if not, reports why.
fn may_become_someone() -> bool {
    if !is_root() {
        skip("only root can become someone else");
    }
    is_root()
}

/// Lets others into the test's directory, and gives the root to `owner`.
fn open_to(dir: &Path, owner: u32) {
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("our directory");
    chown(dir.join("root"), Some(owner), Some(owner)).expect("ours to give");
}

// --- the running server -----------------------------------------------------------

/// A way to start the server, and its identity afterwards.
struct Way {
    name: &'static str,
    /// The user who starts it; `None` for whoever runs the test.
    starter: Option<u32>,
    args: &'static [&'static str],
    /// User and group afterwards.
    identity: (u32, u32),
    /// Its supplementary groups; `None` if they stay the same.
    groups: Option<&'static [&'static str]>,
}

const WAYS: &[Way] = &[
    Way {
        name: "root",
        starter: None,
        args: &[],
        identity: (0, 0),
        groups: None,
    },
    Way {
        name: "root, no sandbox",
        starter: None,
        args: &["--no-sandbox"],
        identity: (0, 0),
        groups: None,
    },
    Way {
        name: "root, chroot",
        starter: None,
        args: &["--chroot"],
        identity: (0, 0),
        groups: None,
    },
    Way {
        name: "user by name",
        starter: None,
        args: &["-u", "nobody"],
        identity: (NOBODY, NOBODY),
        groups: Some(&["65534"]),
    },
    Way {
        name: "user and group by number",
        starter: None,
        args: &["--user", "12345:54321"],
        identity: (12345, 54321),
        groups: Some(&["54321"]),
    },
    Way {
        name: "user, chroot",
        starter: None,
        args: &["-u", "nobody", "--chroot"],
        identity: (NOBODY, NOBODY),
        groups: Some(&["65534"]),
    },
    Way {
        name: "user, chroot, no sandbox",
        starter: None,
        args: &["-u", "nobody", "--chroot", "--no-sandbox"],
        identity: (NOBODY, NOBODY),
        groups: Some(&["65534"]),
    },
    Way {
        name: "unprivileged",
        starter: Some(NOBODY),
        args: &[],
        identity: (NOBODY, NOBODY),
        groups: Some(&[]),
    },
    Way {
        name: "unprivileged, as itself",
        starter: Some(NOBODY),
        args: &["-u", "nobody"],
        identity: (NOBODY, NOBODY),
        groups: Some(&[]),
    },
    Way {
        name: "unprivileged, no sandbox",
        starter: Some(NOBODY),
        args: &["--no-sandbox"],
        identity: (NOBODY, NOBODY),
        groups: Some(&[]),
    },
];

/// Starts the server in this way, with more arguments.
fn start(way: &Way, more: &[&str]) -> Server {
    let args = [&["-a", "127.0.0.1", "--overwrite"], way.args, more].concat();
    Server::start_prepared(&args, |dir| {
        open_to(dir, way.identity.0);
        let mut command = Command::new(copy_of_tftpd(dir));
        if let Some(starter) = way.starter {
            command.uid(starter).gid(starter);
        }
        command
    })
}

fn assert_gave_up(way: &Way, server: &Server) {
    let name = way.name;
    let (user, group) = way.identity;
    for (field, id) in [("Uid", user), ("Gid", group)] {
        let ids = server.status_words(field);
        assert_eq!(ids, vec![id.to_string(); 4], "{name}: {field}");
    }
    if let Some(groups) = way.groups {
        assert_eq!(server.status_words("Groups"), groups, "{name}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        // Without privileges a process can't drop the bounding set; no_new_privs is
        // enough then.
        if set != "CapBnd" || way.starter.is_none() {
            let capabilities = server.status_words(set).concat();
            let left = u64::from_str_radix(&capabilities, 16).expect("hexadecimal");
            assert_eq!(left, 0, "{name}: {set} {left:x}");
        }
    }
    assert_eq!(server.status("NoNewPrivs"), 1, "{name}");
}

/// Checks that everything a server does still works.
fn assert_serves(way: &Way, server: &Server) {
    let name = way.name;
    let client = RawClient::new(server);
    let file = content(1, 3 * BLOCK + 7);
    server.file("sub/f", &file);
    assert_same(name, &client.read("sub/f").expect(name), &file);
    client.write("up", b"first").expect(name);
    client.write("up", &file).expect(name);
    assert_same(name, &server.tree()[Path::new("up")], &file);
    let owner = fs::metadata(server.root().join("up")).expect(name).uid();
    assert_eq!(owner, way.identity.0, "{name}");
    let left: Vec<_> = server.tree().into_keys().collect();
    assert_eq!(left, [Path::new("sub/f"), Path::new("up")], "{name}");
    // Outside the root, through a link that somebody left there.
    fs::write(server.outside().join("secret"), "outside").expect(name);
    symlink(server.outside().join("secret"), server.root().join("out")).expect(name);
    assert_eq!(client.read("out").expect_err(name).0, 1, "{name}");
    assert_eq!(client.read("/etc/passwd").expect_err(name).0, 1, "{name}");
}

#[test]
fn however_it_is_started_it_keeps_nothing_it_does_not_need_and_serves() {
    for way in WAYS {
        if !is_root() {
            skip(format_args!("{}: only root can start it so", way.name));
            continue;
        }
        let server = start(way, &[]);
        assert_gave_up(way, &server);
        assert_serves(way, &server);
        let advice = server
            .log_lines()
            .iter()
            .any(|line| line.contains("a user of its own"));
        assert_eq!(advice, way.identity.0 == 0, "{}", way.name);
    }
}

#[test]
fn whoever_runs_this_can_start_it_and_it_keeps_no_right() {
    let server = Server::start(&[]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(server.status_words(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(server.status("NoNewPrivs"), 1);
}

#[test]
fn the_log_is_reopened_after_privileges_are_dropped() {
    if !may_become_someone() {
        return;
    }
    for way in WAYS {
        // The log goes to a file, so the file shows when the server is ready.
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        open_to(dir.path(), way.identity.0);
        chown(dir.path().join("log"), Some(way.identity.0), None).unwrap();
        let log = dir.path().join("log/tftpd.log");
        let mut command = Command::new(copy_of_tftpd(dir.path()));
        if let Some(starter) = way.starter {
            command.uid(starter).gid(starter);
        }
        let mut child = command
            .args(["-p", "0", "-a", "127.0.0.1", "--log-file"])
            .arg(&log)
            .args(way.args)
            .arg(dir.path().join("root"))
            .spawn()
            .unwrap();
        let log_with = |word: &str| {
            let deadline = std::time::Instant::now() + PATIENCE;
            while std::time::Instant::now() < deadline {
                if fs::read_to_string(&log).is_ok_and(|text| text.contains(word)) {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        };
        let ready = log_with("listening on");
        fs::rename(&log, dir.path().join("log/old")).unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, Signal::SIGHUP).unwrap();
        let reopened = log_with("opened the log file again");
        kill(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(ready && reopened, "{}: {ready} {reopened}", way.name);
    }
}

// --- refusals ---------------------------------------------------------------------

#[test]
fn an_identity_that_can_not_be_taken_ends_the_start_in_one_line() {
    let nobody = is_root().then_some(NOBODY);
    for (starter, args, words) in [
        (None, &["-u", "no-such-user"][..], "no user no-such-user"),
        (None, &["-u", "0:no-such-group"], "no group no-such-group"),
        (nobody, &["-u", "root"], "start as root, or drop -u"),
        (nobody, &["--chroot"], "start as root, or drop --chroot"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        if is_root() {
            open_to(dir.path(), NOBODY);
        }
        let mut command = bounded(10, copy_of_tftpd(dir.path()));
        if let Some(starter) = starter {
            command.uid(starter).gid(starter);
        }
        let output = command
            .args(["-p", "0", "-a", "127.0.0.1"])
            .args(args)
            .arg(dir.path().join("root"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(words), "{args:?}: {told}");
    }
}

#[test]
fn a_root_that_the_user_can_not_search_is_refused_at_the_start() {
    if !may_become_someone() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let output = bounded(10, tftpd())
        .args(["-p", "0", "-a", "127.0.0.1", "-u", "nobody"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("chmod o+x"), "{}", said(&output));
}

/// What counts is what the user may do that the server becomes.
#[test]
fn a_root_that_the_user_can_not_write_to_is_a_warning_where_uploads_are_on() {
    if !may_become_someone() {
        return;
    }
    for (args, owner, is_told) in [
        (&["-u", "nobody"][..], 0, true),
        (&["-u", "nobody", "--chroot"], 0, true),
        (&[], NOBODY, true),
        (&["-u", "nobody"], NOBODY, false),
        (&["-u", "nobody", "--read-only"], 0, false),
    ] {
        let server = Server::start_prepared(&[&["-a", "127.0.0.1"], args].concat(), |dir| {
            open_to(dir, owner);
            Command::new(tftpd())
        });
        server.file("f", b"x");
        let client = RawClient::new(&server);
        assert_eq!(client.read("f"), Ok(b"x".to_vec()));
        server.wait_ended(client.addr(), 1);
        let told = server.log_lines();
        let told = told
            .iter()
            .find(|it| it.contains("no upload can be stored directly in"));
        assert_eq!(told.is_some(), is_told, "{args:?} {owner}: {told:?}");
        for words in ["[WARN]", "permission denied", "below it, only in"] {
            assert!(told.is_none_or(|it| it.contains(words)), "{told:?}");
        }
    }
}

/// The manual's recipe for switches: the user owns only the directory of backups.
#[test]
fn uploads_to_a_directory_below_a_root_that_is_not_the_users_work_and_no_warning_denies_it() {
    if !may_become_someone() {
        return;
    }
    let args = ["-a", "127.0.0.1", "-u", "nobody", "--overwrite"];
    let server = Server::start_prepared(&args, |dir| {
        open_to(dir, 0);
        let backup = dir.join("root/backup");
        fs::create_dir(&backup).expect("our directory");
        chown(&backup, Some(NOBODY), Some(NOBODY)).expect("ours to give");
        Command::new(tftpd())
    });
    let client = RawClient::new(&server);
    assert_eq!(client.write("backup/x", b"x"), Ok(()));
    assert!(client.write("x", b"x").is_err());
    server.wait_ended(client.addr(), 1);
    let told = server.log_lines();
    let told: Vec<_> = told.iter().filter(|it| it.contains("no upload")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("directly in"), "{told:?}");
    assert!(
        !told[0].contains("--read-only"),
        "a remedy that ends them: {told:?}"
    );
}

/// A helper may redirect every upload to where the user may write.
#[cfg(feature = "helper")]
#[test]
fn no_warning_about_uploads_to_the_root_where_a_helper_may_lead_them_elsewhere() {
    if !may_become_someone() {
        return;
    }
    let args = ["-a", "127.0.0.1", "-u", "nobody", "--ask", "*"];
    let args = [&args[..], &["--helper", "cat > /dev/null"]].concat();
    let server = Server::start_prepared(&args, |dir| {
        open_to(dir, 0);
        Command::new(tftpd())
    });
    server.fence();
    let told = server.log_lines();
    assert!(!told.iter().any(|it| it.contains("no upload")), "{told:?}");
}

// --- getting out --------------------------------------------------------------------

/// What an attacker might try in a process that he has taken over.
const ATTEMPTS: &[&str] = &[
    "read a served file",
    "create a served file",
    "remove a served file",
    "upload as is best",
    "upload through /proc",
    "upload by a temporary name",
    "list the root",
    "make a directory in the root",
    "make a link in the root",
    "make a fifo in the root",
    "make a device in the root",
    "read beside the root",
    "write beside the root",
    "read /etc/passwd",
    "write to /proc",
    "run a program",
    "connect by TCP",
    "listen by TCP",
    "open a UDP socket",
    "take a reserved port",
    "signal the parent",
    "reach an abstract socket",
    "become root",
    "change the root directory",
];

/// Makes one attempt; `place` holds the root and a secret.
fn attempt(what: &str, place: &Path, tcp: u16) -> io::Result<()> {
    let root = match File::open(place) {
        // In a chroot the root is everything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => PathBuf::from("/"),
        _ => place.join("root"),
    };
    match what {
        "read a served file" => File::open(root.join("file")).map(drop),
        "create a served file" => File::create_new(root.join("new")).map(drop),
        "remove a served file" => fs::remove_file(root.join("old")),
        "upload as is best" => upload(&root, "a", None),
        "upload through /proc" => upload(&root, "b", Some(Publisher::LinkProc)),
        "upload by a temporary name" => upload(&root, "c", Some(Publisher::Named)),
        "list the root" => fs::read_dir(&root).map(drop),
        "make a directory in the root" => fs::create_dir(root.join("directory")),
        "make a link in the root" => symlink("/etc", root.join("link")),
        "make a fifo in the root" => Ok(mkfifo(&root.join("fifo"), Mode::S_IRWXU)?),
        "make a device in the root" => {
            let kmsg = makedev(1, 11);
            Ok(mknod(
                &root.join("kmsg"),
                SFlag::S_IFCHR,
                Mode::S_IRWXU,
                kmsg,
            )?)
        }
        "read beside the root" => File::open(place.join("secret")).map(drop),
        "write beside the root" => File::create_new(place.join("loot")).map(drop),
        "read /etc/passwd" => File::open("/etc/passwd").map(drop),
        "write to /proc" => {
            let mut open = OpenOptions::new();
            open.write(true).open("/proc/self/oom_score_adj").map(drop)
        }
        "run a program" => Command::new("/bin/true").status().map(drop),
        "connect by TCP" => TcpStream::connect(("127.0.0.1", tcp)).map(drop),
        "listen by TCP" => TcpListener::bind("127.0.0.1:0").map(drop),
        "open a UDP socket" => UdpSocket::bind("127.0.0.1:0").map(drop),
        "take a reserved port" => UdpSocket::bind("127.77.7.7:69").map(drop),
        "signal the parent" => Ok(kill(getppid(), None)?),
        "reach an abstract socket" => {
            let address = SocketAddr::from_abstract_name(format!("tftpd-test-{tcp}"))?;
            UnixStream::connect_addr(&address).map(drop)
        }
        "become root" => {
            let root = Uid::from_raw(0);
            Ok(setresuid(root, root, root)?)
        }
        "change the root directory" => Ok(chroot(&root)?),
        other => panic!("{other}?"),
    }
}

/// Uploads a file twice, so that it is created and then replaced.
fn upload(root: &Path, name: &str, publisher: Option<Publisher>) -> io::Result<()> {
    let policy = Policy {
        overwrite: true,
        ..Policy::default()
    };
    let root = match publisher {
        None => Root::open(root, policy),
        Some(publisher) => {
            let resolver = Resolver::Walk;
            let methods = Methods {
                resolver,
                publisher,
            };
            Root::open_with(root, policy, methods)
        }
    };
    let root = root.map_err(io::Error::other)?;
    let put = || {
        let mut upload = root.create(name.as_bytes(), Some(7))?;
        upload.write_at(0, b"content")?;
        upload.commit()
    };
    let errno = |error: StorageError| match error.code() {
        ErrorCode::FileNotFound => Errno::ENOENT.into(),
        ErrorCode::AccessViolation => Errno::EACCES.into(),
        _ => io::Error::other(error.to_string()),
    };
    put().and_then(|_| put()).map(drop).map_err(errno)
}

/// Not a test of its own: the others run it in a separate process, confined as the
/// environment says, and read its report.
#[test]
fn in_a_confined_process() {
    let Ok(mode) = std::env::var("TFTPD_TEST_CONFINE") else {
        return;
    };
    let place = PathBuf::from(std::env::var_os("TFTPD_TEST_PLACE").unwrap());
    let tcp = std::env::var("TFTPD_TEST_TCP").unwrap().parse().unwrap();
    let has = |word| mode.split(' ').any(|it| it == word);
    let directory = Directory::open(&place.join("root")).unwrap();
    let confinement = Confinement {
        root: directory.as_fd(),
        root_path: &place,
        uploads: None,
        writable: !has("read-only"),
        makes_directories: false,
        listable: false,
        linked: &[],
        linked_listable: false,
        log_directory: None,
        beside: &[],
        read_again: &[],
        read_again_in: &[],
        pid_file: None,
        status_socket: None,
        chroot: has("chroot"),
        sandbox: !has("no-sandbox"),
        identity: has("nobody").then(|| Identity::find("nobody", None).unwrap()),
    };
    let enforcement = confinement.enter().unwrap();
    println!("\nenforcement={enforcement:?}");
    for what in ATTEMPTS {
        let errno = attempt(what, &place, tcp).err().map(|error| {
            let number = error.raw_os_error().unwrap_or(0);
            format!("{:?}", Errno::from_raw(number))
        });
        println!("{what}={}", errno.as_deref().unwrap_or("done"));
    }
}

/// The results of the attempts in a confined process; `None` if the kernel can't confine
/// it.
fn managed(mode: &str) -> Option<Vec<(String, String)>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let place = dir.path();
    fs::create_dir(place.join("root")).expect("a root");
    for name in ["root/file", "root/old", "secret"] {
        fs::write(place.join(name), "content").expect("a file");
    }
    let owner = if mode.contains("nobody") { NOBODY } else { 0 };
    if is_root() {
        open_to(place, owner);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let tcp = listener.local_addr().expect("bound").port();
    let name = SocketAddr::from_abstract_name(format!("tftpd-test-{tcp}")).expect("short");
    let _abstract_listener = UnixListener::bind_addr(&name).expect("a free name");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "in_a_confined_process", "--nocapture"])
        .env("TFTPD_TEST_CONFINE", mode)
        .env("TFTPD_TEST_PLACE", place)
        .env("TFTPD_TEST_TCP", tcp.to_string())
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{mode}: {}", said(&output));
    let pairs: Vec<(String, String)> = told
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(what, result)| (what.to_owned(), result.to_owned()))
        .collect();
    let enforcement = &pairs.first().expect("a report").1;
    if !mode.contains("no-sandbox") && *enforcement != format!("{:?}", Enforcement::Full) {
        skip(format_args!("{mode}: this kernel enforces {enforcement}"));
        return None;
    }
    Some(pairs[1..].to_vec())
}

/// What each way of confinement still allows.
#[test]
fn a_process_that_was_taken_over_gets_nowhere() {
    if !may_become_someone() {
        return;
    }
    // As nobody; as root, but without root's capabilities; read-only; and without a
    // sandbox, as nobody and in a chroot, to see what these are worth alone.
    let modes = [
        "nobody",
        "root",
        "nobody read-only",
        "nobody no-sandbox",
        "nobody chroot no-sandbox",
    ];
    #[rustfmt::skip]
    let table: &[(&str, [&str; 5])] = &[
        ("read a served file",           ["done",   "done",   "done",   "done",   "done"]),
        ("create a served file",         ["done",   "done",   "EACCES", "done",   "done"]),
        ("remove a served file",         ["done",   "done",   "EACCES", "done",   "done"]),
        ("upload as is best",            ["done",   "done",   "EACCES", "done",   "done"]),
        ("upload through /proc",         ["done",   "done",   "EACCES", "done",   "ENOENT"]),
        ("upload by a temporary name",   ["done",   "done",   "EACCES", "done",   "done"]),
        ("list the root",                ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("make a directory in the root", ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("make a link in the root",      ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("make a fifo in the root",      ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("make a device in the root",    ["EACCES", "EACCES", "EACCES", "EPERM",  "EPERM"]),
        ("read beside the root",         ["EACCES", "EACCES", "EACCES", "done",   "ENOENT"]),
        ("write beside the root",        ["EACCES", "EACCES", "EACCES", "EACCES", "ENOENT"]),
        ("read /etc/passwd",             ["EACCES", "EACCES", "EACCES", "done",   "ENOENT"]),
        ("write to /proc",               ["EACCES", "EACCES", "EACCES", "EACCES", "ENOENT"]),
        ("run a program",                ["EACCES", "EACCES", "EACCES", "done",   "ENOENT"]),
        ("connect by TCP",               ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("listen by TCP",                ["EACCES", "EACCES", "EACCES", "done",   "done"]),
        ("open a UDP socket",            ["done",   "done",   "done",   "done",   "done"]),
        ("take a reserved port",         ["EACCES", "EACCES", "EACCES", "EACCES", "EACCES"]),
        ("signal the parent",            ["EPERM",  "EPERM",  "EPERM",  "EPERM",  "EPERM"]),
        ("reach an abstract socket",     ["EPERM",  "EPERM",  "EPERM",  "done",   "done"]),
        ("become root",                  ["EPERM",  "done",   "EPERM",  "EPERM",  "EPERM"]),
        ("change the root directory",    ["EPERM",  "EPERM",  "EPERM",  "EPERM",  "EPERM"]),
    ];
    assert!(table.iter().map(|row| row.0).eq(ATTEMPTS.iter().copied()));
    for (column, mode) in modes.iter().enumerate() {
        let Some(managed) = managed(mode) else {
            continue;
        };
        let expected: Vec<_> = table
            .iter()
            .map(|(what, results)| ((*what).to_owned(), results[column].to_owned()))
            .collect();
        assert_eq!(managed, expected, "{mode}");
    }
}
