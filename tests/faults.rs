//! Faults of the machine, with real ones: disks that are full, gone or read-only, no
//! free descriptor, files that shrink, that aren't regular files, or that are larger
//! than any disk. (The simulation has those that can't be caused for real.)
//!
//! Mounts are made in a mount namespace of the server's own, and vanish with it. That
//! needs root; without it, those tests are skipped with a message.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it has an environment"
)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::*;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};

// --- a disk of its own -----------------------------------------------------------

/// Runs a command with a small disk at `$0`, which no other process sees.
const WITH_DISK: &str = "mount -t tmpfs -o size=256k tmpfs \"$0\" && exec \"$@\"";

fn with_disk(place: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_DISK]);
    command.arg(place).arg(program);
    command
}

/// A server whose root is a disk of 256 KiB; `None`, with the reason printed, if no such
/// disk can be made.
fn on_small_disk(args: &[&str]) -> Option<Server> {
    let place = tempfile::tempdir().expect("a temporary directory");
    let tried = with_disk(place.path(), "true").output();
    let reason = match tried {
        Ok(output) if output.status.success() => {
            let address = own_address().to_string();
            let args = [&["-a", &address], args].concat();
            let prepare = |dir: &Path| with_disk(&dir.join("root"), tftpd());
            return Some(Server::start_prepared(&args, prepare));
        }
        Ok(output) => said(&output),
        Err(error) => error.to_string(),
    };
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci || !geteuid().is_root(), "no small disk: {reason}");
    skip(format_args!("no small disk: {reason}"));
    None
}

/// The disk, as seen from outside the server's namespace.
fn disk(server: &Server) -> PathBuf {
    let root = server.root();
    let root = root.strip_prefix("/").expect("an absolute path");
    Path::new("/proc")
        .join(server.pid().to_string())
        .join("root")
        .join(root)
}

/// The names on the disk.
fn names(server: &Server) -> Vec<String> {
    let entries = fs::read_dir(disk(server)).expect("the disk");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("a name"))).collect();
    names.sort_unstable();
    names
}

/// Runs a command in the server's mount namespace.
fn in_namespace(server: &Server, words: &[&str]) {
    let pid = server.pid().to_string();
    let output = bounded(10, "nsenter")
        .args(["--target", &pid, "--mount", "--"])
        .args(words)
        .arg(server.root())
        .output()
        .expect("nsenter(1)");
    assert!(output.status.success(), "{words:?}: {}", said(&output));
}

#[test]
fn a_disk_that_is_full_amid_an_upload_keeps_what_it_had() {
    let Some(server) = on_small_disk(&["-t", "60000", "--overwrite"]) else {
        return;
    };
    let (old, large) = (content(1, 50_000), content(2, 600_000));
    fs::write(disk(&server).join("old"), &old).unwrap();
    let running = RawClient::new(&server);
    let (first, tid) = running.ask_data(&rrq("old", &[]));
    assert_eq!(first, old[..BLOCK]);
    for (options, block_size, window) in [
        (&[][..], BLOCK, 1),
        (&[("blksize", "1428"), ("windowsize", "16")], 1428, 16),
        (&[("blksize", "65464")], 65464, 1),
    ] {
        for name in ["old", "new"] {
            let client = RawClient::new(&server);
            let refused = client.write_with(&wrq(name, options), &large, block_size, window, 0);
            assert_eq!(refused.unwrap_err().0, 3, "{name} {options:?}");
            assert_eq!(names(&server), ["old"], "{options:?}");
            assert_same(name, &fs::read(disk(&server).join("old")).unwrap(), &old);
        }
        // The space is free again: a smaller file fits.
        let client = RawClient::new(&server);
        client.write("new", &large[..150_000]).unwrap();
        let stored = fs::read(disk(&server).join("new")).unwrap();
        assert_same("new", &stored, &large[..150_000]);
        fs::remove_file(disk(&server).join("new")).unwrap();
    }
    // An upload that announces its size is refused at once.
    let (answer, _) = RawClient::new(&server).ask(&wrq("new", &[("tsize", "600000")]));
    assert_eq!(answer.error_code(), Some(3), "{answer:?}");
    let packet = running.say(&ack(1), tid);
    assert_eq!(packet, Packet::Data(2, old[BLOCK..2 * BLOCK].to_vec()));
}

#[cfg(feature = "uploads")]
#[test]
fn uploads_leave_min_free_on_the_disk() {
    for min_free in ["50%", "128K"] {
        let Some(server) = on_small_disk(&["--min-free", min_free]) else {
            return;
        };
        let client = || RawClient::new(&server);
        client().write("a", &content(1, 100_000)).unwrap();
        // If announced, the upload is refused at once; otherwise it ends at the limit.
        let (answer, _) = client().ask(&wrq("b", &[("tsize", "60000")]));
        assert_eq!(answer.error_code(), Some(3), "{min_free}");
        let refused = client().write("b", &content(2, 60_000)).unwrap_err();
        assert_eq!(refused.0, 3, "{min_free}");
        assert_eq!(names(&server), ["a"]);
        client().write("c", &content(3, 20_000)).unwrap();
    }
}

#[test]
fn a_disk_that_becomes_read_only_is_still_read() {
    let Some(server) = on_small_disk(&["-t", "60000", "--overwrite"]) else {
        return;
    };
    let file = content(3, 5 * BLOCK + 1);
    fs::write(disk(&server).join("f"), &file).unwrap();
    let running = RawClient::new(&server);
    let (_, tid) = running.ask_data(&rrq("f", &[]));
    in_namespace(&server, &["mount", "-o", "remount,ro"]);
    for name in ["f", "new"] {
        let refused = RawClient::new(&server).write(name, b"x").unwrap_err();
        let wanted = (2, "Access violation: read-only file system".to_owned());
        assert_eq!(refused, wanted, "{name}");
    }
    let packet = running.say(&ack(1), tid);
    assert_eq!(packet, Packet::Data(2, file[BLOCK..2 * BLOCK].to_vec()));
    assert_eq!(RawClient::new(&server).read("f").unwrap(), file);
    in_namespace(&server, &["mount", "-o", "remount,rw"]);
    RawClient::new(&server).write("f", b"x").unwrap();
    assert_eq!(fs::read(disk(&server).join("f")).unwrap(), b"x");
}

/// After `umount -l`, the disk lives on for whoever has it open: the server, which goes on
/// as with a root that was moved away.
#[test]
fn a_disk_that_is_unmounted_ends_nothing() {
    let Some(server) = on_small_disk(&NEVER) else {
        return;
    };
    let file = content(4, 5 * BLOCK + 1);
    fs::write(disk(&server).join("f"), &file).unwrap();
    let (reader, writer) = (RawClient::new(&server), RawClient::new(&server));
    let (_, reading) = reader.ask_data(&rrq("f", &[]));
    let (answer, writing) = writer.ask(&wrq("up", &[]));
    assert_eq!(answer, Packet::Ack(0));
    in_namespace(&server, &["umount", "-l"]);
    assert_eq!(names(&server), [""; 0], "still mounted");
    let packet = reader.say(&ack(1), reading);
    assert_eq!(packet, Packet::Data(2, file[BLOCK..2 * BLOCK].to_vec()));
    assert_eq!(writer.say(&data(1, b"whole"), writing), Packet::Ack(1));
    let client = RawClient::new(&server);
    assert_eq!(client.read("f").unwrap(), file);
    assert_eq!(client.read("up").unwrap(), b"whole");
    assert_eq!(client.read("nothing").unwrap_err().0, 1);
    // The directory that was below the mount is still empty.
    assert_eq!(names(&server), [""; 0]);
}

// --- a root that goes away -----------------------------------------------------------

#[test]
fn a_root_that_is_replaced_stays_the_one_that_is_served() {
    let server = Server::start(&NEVER);
    let file = content(5, 3 * BLOCK + 1);
    server.file("f", &file);
    let (reader, writer) = (RawClient::new(&server), RawClient::new(&server));
    let (_, reading) = reader.ask_data(&rrq("f", &[]));
    let (answer, writing) = writer.ask(&wrq("up", &[]));
    assert_eq!(answer, Packet::Ack(0));

    let moved = server.outside().join("moved");
    fs::rename(server.root(), &moved).unwrap();
    server.file("f", b"another's");
    let packet = reader.say(&ack(1), reading);
    assert_eq!(packet, Packet::Data(2, file[BLOCK..2 * BLOCK].to_vec()));
    assert_eq!(writer.say(&data(1, b"whole"), writing), Packet::Ack(1));
    assert_eq!(fs::read(moved.join("up")).unwrap(), b"whole");
    let client = RawClient::new(&server);
    assert_eq!(client.read("f").unwrap(), file);
    client.write("late", b"late").unwrap();
    assert_eq!(fs::read(moved.join("late")).unwrap(), b"late");
    assert_eq!(
        server.tree().into_keys().collect::<Vec<_>>(),
        [Path::new("f")]
    );

    // Then the root is removed during an upload and a download.
    let (answer, writing) = writer.ask(&wrq("last", &[]));
    assert_eq!(answer, Packet::Ack(0));
    fs::remove_dir_all(&moved).unwrap();
    let packet = reader.say(&ack(2), reading);
    assert_eq!(packet, Packet::Data(3, file[2 * BLOCK..3 * BLOCK].to_vec()));
    let packet = writer.say(&data(1, b"x"), writing);
    assert_eq!(packet.error_code(), Some(1), "{packet:?}");
    assert_eq!(client.read("f").unwrap_err().0, 1);
    // Where other file systems say ENOENT, ext4 says EPERM.
    let refused = client.write("new", b"x").unwrap_err();
    assert!(matches!(refused.0, 1 | 2), "{refused:?}");
    assert_eq!(
        server.tree().into_keys().collect::<Vec<_>>(),
        [Path::new("f")]
    );
}

// --- descriptors -----------------------------------------------------------------------

/// With 32 descriptors, there is room for about ten transfers; `--max-sessions` is so high
/// that the kernel's limit is met first.
#[test]
fn without_descriptors_requests_wait_and_transfers_go_on() {
    const CLIENTS: usize = 100;
    /// One part in this many is uploads, which dally to the end of the test, with a socket.
    const UPLOADS: usize = 10;
    let address = own_address().to_string();
    let args = ["-a", &address, "-t", "60000", "--max-sessions", "1000"];
    let server = Server::start_prepared(&args, |_| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=32:32", tftpd()]);
        command
    });
    let file = content(6, 3 * BLOCK + 9);
    server.file("f", &file);
    server.fence();
    let idle = server.open_files();

    let clients: Vec<_> = (0..CLIENTS).map(|_| RawClient::new(&server)).collect();
    for (index, client) in clients.iter().enumerate() {
        // An upload takes more descriptors than a download.
        let name = format!("up-{index}");
        let is_upload = index % UPLOADS == 0;
        client.send(&if is_upload {
            wrq(&name, &[])
        } else {
            rrq("f", &[])
        });
    }
    // No fence: there may be no descriptor even for a miss, which is then dropped as well.
    // What has been admitted has been answered too.
    let deadline = Instant::now() + PATIENCE;
    let decided = || {
        let counters = server.counters();
        let count = |name| counters.get(name).copied().unwrap_or(0);
        count("admitted") + count("shed")
    };
    while decided() < CLIENTS as u64 {
        assert!(Instant::now() < deadline, "{:?}", server.counters());
    }
    let shed = |line: &str| line.contains("dropped a request");
    assert!(server.wait_for_log(shed, PATIENCE).is_some());
    assert!(server.open_files() <= idle + 32);
    let mut waiting = Vec::new();
    let mut done = 0;
    for (index, client) in clients.iter().enumerate() {
        match client.recv_now() {
            None => waiting.push(index),
            Some((Packet::Ack(0), tid)) => {
                assert_eq!(client.say(&data(1, b"up"), tid), Packet::Ack(1));
                done += 1;
            }
            Some((Packet::Data(1, payload), tid)) => {
                let mut got = payload;
                for block in 1..=3 {
                    match client.say(&ack(block), tid) {
                        Packet::Data(number, payload) if number == block + 1 => got.extend(payload),
                        other => panic!("{index}: {other:?}"),
                    }
                }
                client.send_to(&ack(4), tid);
                assert_same("a running transfer", &got, &file);
                done += 1;
            }
            Some((other, _)) => panic!("{index}: {other:?}, not silence"),
        }
    }
    assert!(done >= 4 && waiting.len() > CLIENTS / 2, "{done} served");
    // A client whose request was dropped asks again, as boot ROMs do.
    for index in waiting {
        let client = RawClient::new(&server);
        if index % UPLOADS == 0 {
            client.write(&format!("up-{index}"), b"up").unwrap();
        } else {
            assert_same("a later transfer", &client.read("f").unwrap(), &file);
        }
    }
    let uploads = (0..CLIENTS).step_by(UPLOADS).count();
    assert_eq!(server.tree().len(), 1 + uploads);
    // The last download may not have ended yet.
    server.fence();
    assert!(server.open_files() <= idle + uploads, "something is kept");
}

// --- files --------------------------------------------------------------------------------

/// Reads a file to which `cut` is done in the middle. Returns what came, or the ERROR that
/// came instead of the rest.
fn read_while_cut(
    server: &Server,
    file: &[u8],
    (mode, block_size, window): (&str, usize, usize),
    cut: impl FnOnce(),
) -> Result<Vec<u8>, (u16, String)> {
    let client = RawClient::new(server);
    let (size, blocks) = (block_size.to_string(), window.to_string());
    let options = [("blksize", &*size), ("windowsize", &*blocks)];
    let (answer, tid) = client.ask(&request(1, b"f", mode, &options));
    assert!(matches!(answer, Packet::Oack(_)), "{answer:?}");
    let (mut got, mut expected, mut cut) = (Vec::new(), 1, Some(cut));
    let mut packet = client.say(&ack(0), tid);
    loop {
        match packet {
            Packet::Data(block, payload) if block == expected => {
                got.extend(&payload);
                if usize::from(block).is_multiple_of(window) || payload.len() < block_size {
                    if let Some(cut) = cut.take() {
                        cut();
                    }
                    client.send_to(&ack(block), tid);
                }
                if payload.len() < block_size {
                    return Ok(got);
                }
                expected += 1;
            }
            Packet::Error(code, text) => {
                assert_same("what came before", &got, &file[..got.len()]);
                return Err((code, text));
            }
            other => panic!("DATA {expected} wanted, not {other:?}"),
        }
        packet = client.expect_from(tid);
    }
}

#[test]
fn a_file_that_shrinks_ends_its_transfer_and_one_that_grows_does_not() {
    let server = Server::start(&NEVER);
    // No line ends in it, so that netascii has the same length.
    let mut file = content(7, 200_000);
    let is_plain = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
    file.retain(is_plain);
    let path = server.file("f", &file);
    for way in [
        ("octet", 512, 1),
        ("octet", 1428, 16),
        ("octet", 65464, 1),
        ("netascii", 512, 1),
        ("netascii", 1428, 16),
    ] {
        for len in [0, 512, 2048, 100_000, file.len() - 1] {
            server.file("f", &file);
            let cut = || {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(len as u64).unwrap();
            };
            let ended = read_while_cut(&server, &file, way, cut);
            let wanted = (0, "File became shorter while being sent".to_owned());
            assert_eq!(ended.err(), Some(wanted), "{way:?}, cut to {len}");
        }
        server.file("f", &file);
        let grow = || fs::write(&path, [&file[..], b"and more"].concat()).unwrap();
        let got = read_while_cut(&server, &file, way, grow).unwrap();
        assert_same("a file that grows", &got, &file);
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_waited_for_by_nobody() {
    let server = Server::start(&["-t", "60000", "--overwrite"]);
    let root = server.root();
    server.file("f", &content(8, 3 * BLOCK));
    fs::create_dir(root.join("dir")).unwrap();
    mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let mut names = vec!["dir", "dir/", "/", "fifo", "socket"];
    // They never end, never answer, or would make us wait for a carrier.
    for (name, major, minor) in [("zero", 1, 5), ("null", 1, 3), ("tty", 4, 64)] {
        let mode = Mode::from_bits_truncate(0o666);
        let device = makedev(major, minor);
        match mknod(&root.join(name), SFlag::S_IFCHR, mode, device) {
            Ok(()) => names.push(name),
            Err(errno) => skip(format_args!("no device can be made: {errno}")),
        }
    }
    let links: Vec<_> = names.iter().map(|name| name.replace('/', "")).collect();
    for name in links.iter().filter(|name| !name.is_empty()) {
        symlink(name, root.join(format!("to-{name}"))).ok();
    }
    let running = RawClient::new(&server);
    let (_, tid) = running.ask_data(&rrq("f", &[]));
    for name in &names {
        for (what, name) in [
            ("itself", (*name).to_owned()),
            ("link", format!("to-{name}")),
        ] {
            let (answer, _) = RawClient::new(&server).ask(&rrq(&name, &[("tsize", "0")]));
            assert_eq!(answer.error_code(), Some(2), "{what} {name}: {answer:?}");
            let (answer, _) = RawClient::new(&server).ask(&wrq(&name, &[]));
            assert_eq!(answer.error_code(), Some(2), "{what} {name}: {answer:?}");
        }
    }
    assert_eq!(running.say(&ack(1), tid).data_block(), Some(2));
}

#[test]
fn a_file_larger_than_any_disk_is_served_from_its_start() {
    const TEBIBYTE: u64 = 1 << 40;
    const BLOCKS: u64 = 2 * 65_536 + 64;
    let server = Server::start(&NEVER);
    let path = server.file("huge", &content(9, 4096));
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(TEBIBYTE).unwrap();
    let client = RawClient::new(&server);
    let options = [("tsize", "0"), ("blksize", "8"), ("windowsize", "64")];
    let (answer, tid) = client.ask(&rrq("huge", &options));
    let Packet::Oack(granted) = &answer else {
        panic!("{answer:?}");
    };
    let size = granted.iter().find(|(name, _)| name == "tsize");
    assert_eq!(size.map(|(_, size)| &**size), Some("1099511627776"));
    // Twice around: block numbers roll over, offsets in the file don't.
    let mut got = Vec::new();
    client.send_to(&ack(0), tid);
    for index in 1..=BLOCKS {
        let wanted = (index % 65_536) as u16;
        match client.expect_from(tid) {
            Packet::Data(block, payload) if block == wanted => got.extend(payload),
            other => panic!("DATA {wanted} wanted, not {other:?}"),
        }
        if index % 64 == 0 && index < BLOCKS {
            client.send_to(&ack(wanted), tid);
        }
    }
    assert_same("its start", &got[..4096], &content(9, 4096));
    assert!(got[4096..].iter().all(|&byte| byte == 0), "what is a hole");
    client.send_to(&error(0, "enough"), tid);
    server.wait_ended(client.addr(), 1);
    // In netascii its length isn't known; the server doesn't read a tebibyte to find it.
    let client = RawClient::new(&server);
    let (answer, tid) = client.ask(&request(1, b"huge", "netascii", &[("tsize", "0")]));
    assert_eq!(answer.data_block(), Some(1), "{answer:?}");
    client.send_to(&error(0, "enough"), tid);
}

// --- a server that is killed ---------------------------------------------------------------

/// A server on the root of another that has ended.
fn after(gone: &Server) -> Server {
    let address = own_address().to_string();
    Server::start_prepared(&["-a", &address, "--overwrite"], |dir| {
        let root = dir.join("root");
        fs::remove_dir(&root).expect("an empty directory");
        symlink(gone.root(), root).expect("a link to it");
        Command::new(tftpd())
    })
}

/// strace(1) kills the server when it is about to give an upload its name, in each of the
/// steps that this takes.
#[test]
fn kill_9_as_a_file_is_replaced_leaves_one_whole_file() {
    let traced = bounded(10, "strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    if !traced.is_ok_and(|output| output.status.success()) {
        skip("strace(1) can't trace here");
        return;
    }
    let (old, new) = (content(1, 3 * BLOCK), content(2, 5 * BLOCK + 3));
    // At the start the server makes one or two calls to see whether links can be made.
    for (calls, nth) in [("linkat", 3), ("renameat,renameat2", 1)] {
        let address = own_address().to_string();
        let kill = format!("inject={calls}:signal=SIGKILL:when={nth}");
        let trace = format!("trace={calls}");
        let args = [&NEVER[..], &["-a", &address, "--overwrite"]].concat();
        let mut server = Server::start_prepared(&args, |dir| {
            fs::write(dir.join("root/f"), &old).expect("a file");
            let mut command = Command::new("strace");
            command.args(["-qq", "-o", "/dev/null", "-e", &trace, "-e", &kill]);
            // The server is killed when the tracer ends.
            command.args(["setpriv", "--pdeathsig", "KILL", tftpd()]);
            command
        });
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_patiently(&wrq("f", &[]));
        for (number, block) in (1..).zip(new.chunks(BLOCK)) {
            client.send_to(&data(number, block), tid);
            if block.len() == BLOCK {
                assert_eq!(client.expect_from(tid), Packet::Ack(number));
            }
        }
        assert!(server.wait_exit(PATIENCE).is_some(), "{calls}: not killed");
        assert_same("f", &fs::read(server.root().join("f")).unwrap(), &old);
        let next = after(&server);
        RawClient::new(&next).write("f", &new).unwrap();
        RawClient::new(&next).write("g", b"next").unwrap();
        assert_same("f", &fs::read(server.root().join("f")).unwrap(), &new);
        let names: Vec<_> = server.tree().into_keys().collect();
        assert_eq!(names, [Path::new("f"), Path::new("g")], "{calls} {nth}");
    }
}
