//! A slow disk delays only its own readers: beside downloads from a file system on which
//! every read takes 400 ms, all others go on as before, on one thread.
//!
//! The test mounts a FUSE file system of its own, so it needs root and `/dev/fuse`;
//! otherwise it is skipped with a message.

#![allow(
    clippy::disallowed_methods,
    reason = "the slow file system sleeps, and answers from threads"
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};
use nix::unistd::geteuid;

use common::*;

/// The time that every read of the slow file system takes.
const DELAY: Duration = Duration::from_millis(400);

/// A file on which every read takes much longer.
const CRAWLING: &str = "crawling";
const LONG_DELAY: Duration = Duration::from_millis(2200);

/// The longest wait of a typical download beside slow ones.
const GOAL: Duration = Duration::from_millis(20);

/// The longest wait of any download: if the server waited for the disk, everyone would
/// wait for its 400 ms.
const TOLERATED: Duration = Duration::from_millis(300);

/// A busy machine delays anyone now and then, so the median of this many tries counts.
const TRIES: usize = 3;

/// A file system of slow files, without directories.
struct SlowDisk {
    files: Vec<(&'static str, Arc<[u8]>)>,
    reads: Arc<AtomicUsize>,
}

impl SlowDisk {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let size = match ino {
            INodeNo::ROOT => 0,
            INodeNo(ino) => self.files.get(usize::try_from(ino).ok()? - 2)?.1.len(),
        };
        let is_root = ino == INodeNo::ROOT;
        let epoch = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino,
            size: size as u64,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_root { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for SlowDisk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|(file, _)| *file == name);
        match found.and_then(|index| self.attributes(INodeNo(index as u64 + 2))) {
            Some(attributes) => reply.entry(&PATIENCE, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&PATIENCE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let (name, content) = &self.files[ino.0 as usize - 2];
        let delay = if *name == CRAWLING { LONG_DELAY } else { DELAY };
        let content = Arc::clone(content);
        thread::spawn(move || {
            thread::sleep(delay);
            let start = content.len().min(offset as usize);
            let end = content.len().min(start + size as usize);
            reply.data(&content[start..end]);
        });
    }
}

/// Mounts a slow disk with these files; `None`, with the reason printed, if that isn't
/// possible.
fn mount(
    at: &Path,
    files: &[(&'static str, &[u8])],
) -> Option<(BackgroundSession, Arc<AtomicUsize>)> {
    if !geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("a FUSE file system needs root and /dev/fuse");
        return None;
    }
    fs::create_dir(at).expect("a mount point");
    let reads = Arc::new(AtomicUsize::new(0));
    let disk = SlowDisk {
        files: files
            .iter()
            .map(|&(name, file)| (name, file.into()))
            .collect(),
        reads: Arc::clone(&reads),
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO];
    match fuser::spawn_mount(disk, at, &config) {
        Ok(mounted) => Some((mounted, reads)),
        Err(error) => {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "no FUSE file system can be mounted: {error}");
            skip(format_args!("no FUSE file system can be mounted: {error}"));
            None
        }
    }
}

/// Downloads `name` in lockstep and returns the longest wait for a block.
fn worst_wait(server: &Server, name: &str, content: &[u8]) -> Duration {
    let client = RawClient::new(server);
    let mut got = Vec::new();
    let mut asked = Instant::now();
    let (mut block, tid) = client.ask_data(&rrq(name, &[]));
    let mut worst = asked.elapsed();
    let mut number = 1;
    loop {
        got.extend_from_slice(&block);
        let packet = ack(number);
        if block.len() < BLOCK {
            client.send_to(&packet, tid);
            break;
        }
        asked = Instant::now();
        client.send_to(&packet, tid);
        number += 1;
        block = loop {
            match client.expect_from(tid) {
                Packet::Data(next, payload) if next == number => break payload,
                Packet::Data(next, _) if next < number => {}
                other => panic!("DATA {number} wanted, not {other:?}"),
            }
        };
        worst = worst.max(asked.elapsed());
    }
    assert_same(name, &got, content);
    worst
}

/// The median.
fn median(waits: impl IntoIterator<Item = Duration>) -> Duration {
    let mut waits: Vec<_> = waits.into_iter().collect();
    waits.sort_unstable();
    waits[waits.len() / 2]
}

/// Asserts that the median of several tries is within bounds. Each try returns the longest
/// wait of every download beside the slow ones, or `None` if it isn't possible.
fn assert_tolerable(attempt: impl Fn() -> Option<Vec<Duration>>) {
    let mut tries = Vec::new();
    while tries.len() < TRIES {
        let Some(waits) = attempt() else {
            return;
        };
        let worst = waits.iter().max().copied().unwrap_or_default();
        tries.push((median(waits), worst));
    }
    let usual = median(tries.iter().map(|&(usual, _)| usual));
    let worst = median(tries.iter().map(|&(_, worst)| worst));
    assert!(
        usual < GOAL && worst < TOLERATED,
        "waits as if for the disk, usual and worst of each try: {tries:?}"
    );
}

#[test]
fn a_slow_disk_keeps_only_its_own_readers_waiting() {
    assert_tolerable(beside_two_downloads);
}

/// The longest waits beside two downloads from the slow disk.
fn beside_two_downloads() -> Option<Vec<Duration>> {
    // Nothing is retransmitted: an answer that is overlooked never comes.
    let server = Server::start(&NEVER);
    let slow = content(1, 600_000);
    let text: Vec<u8> = b"a line of text\n".repeat(3000);
    let files = [("binary", &slow[..]), ("text", &text)];
    let (_mounted, reads) = mount(&server.root().join("slow"), &files)?;
    let fast = content(2, 50_000);
    server.file("fast", &fast);
    let alone = worst_wait(&server, "fast", &fast);

    let mut beside = Vec::new();
    thread::scope(|scope| {
        let binary = scope.spawn(|| {
            let asked = Instant::now();
            let options = [("blksize", "1428"), ("windowsize", "16")];
            let packet = rrq("slow/binary", &options);
            let got = RawClient::new(&server).read_with(&packet, 1428, 16, 0);
            assert_same("binary", &got.expect("a download"), &slow);
            asked.elapsed()
        });
        let lines = scope.spawn(|| {
            let asked = Instant::now();
            let packet = request(1, b"slow/text", "netascii", &[]);
            let got = RawClient::new(&server).read_with(&packet, BLOCK, 1, 0);
            let wire = b"a line of text\r\n".repeat(3000);
            assert_same("text", &got.expect("a download"), &wire);
            asked.elapsed()
        });
        while !binary.is_finished() || !lines.is_finished() {
            beside.push(worst_wait(&server, "fast", &fast));
        }
        for download in [binary, lines] {
            let took = download.join().expect("a whole file");
            assert!(took >= DELAY, "the disk wasn't slow: {took:?}");
            eprintln!("from the slow disk: {took:?}");
        }
    });
    let reads = reads.load(Ordering::Relaxed);
    let (rounds, worst) = (beside.len(), beside.iter().max());
    eprintln!(
        "worst wait: {alone:?} alone, {worst:?} in {rounds} downloads beside {reads} slow reads"
    );
    assert_eq!(server.status("Threads"), 1);
    Some(beside)
}

#[test]
fn a_client_that_gives_up_while_the_disk_is_waited_for_is_told_from_others() {
    let server = Server::start(&[]);
    let slow = content(1, 600_000);
    let Some((_mounted, _)) = mount(&server.root().join("slow"), &[("f", &slow[..])]) else {
        return;
    };
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_patiently(&rrq("slow/f", &[("tsize", "0")]));
    client.send_to(&ack(0), tid);
    assert_eq!(client.recv(DELAY / 4), None, "the disk is slow");
    client.send_to(&error(0, "timeout"), tid);
    let line = server.wait_ended(client.addr(), 1).remove(0);
    let told = r#" hint="the client gave up while the disk was waited for""#;
    assert!(line.ends_with(told), "{line}");
}

#[test]
fn a_download_that_a_slow_disk_made_slow_is_told_from_others() {
    let has_status = cfg!(feature = "status");
    let args = ["--status", "127.0.0.1:0"];
    let server = Server::start(if has_status { &args } else { &[] });
    let slow = content(1, 10_000);
    let files = [(CRAWLING, &slow[..])];
    let Some((_mounted, _)) = mount(&server.root().join("slow"), &files) else {
        return;
    };
    let client = RawClient::new(&server);
    let got = client.read(&format!("slow/{CRAWLING}"));
    assert_same(CRAWLING, &got.expect("a download"), &slow);
    let line = server.wait_ended(client.addr(), 1).remove(0);
    let told = r#" hint="slow because of the disk: it was waited for""#;
    assert!(line.ends_with(told), "{line}");
    if !has_status {
        return;
    }
    // Its first answer came no sooner than its first block.
    let metrics = metrics(&server);
    for told in [
        "tftpd_first_answer_seconds_bucket{le=\"1\"} 0\n",
        "tftpd_first_answer_seconds_count 1\n",
    ] {
        assert!(metrics.contains(told), "{told}: {metrics}");
    }
}

/// With a single port, anybody can acknowledge something that was never sent.
#[test]
#[cfg(feature = "status")]
fn an_answer_that_never_left_is_not_counted() {
    let args = ["--single-port", "--status", "127.0.0.1:0"];
    let server = Server::start(&args);
    let slow = content(1, 10_000);
    let Some((_mounted, _)) = mount(&server.root().join("slow"), &[("f", &slow[..])]) else {
        return;
    };
    for early in [error(0, "closed"), ack(1)] {
        let client = RawClient::new(&server);
        client.send(&rrq("slow/f", &[]));
        client.send(&early);
        let line = server.wait_ended(client.addr(), 1).remove(0);
        assert!(line.contains("bytes=0 "), "{line}");
    }
    let metrics = metrics(&server);
    let told = "tftpd_first_answer_seconds_count 0\n";
    assert!(metrics.contains(told), "{metrics}");
}

/// The server's `/metrics`.
fn metrics(server: &Server) -> String {
    let line = server.wait_for_log(|line| line.contains("status on http://"), PATIENCE);
    let line = line.expect("a status port");
    let (_, status) = line.split_once("http://").expect("an address");
    let mut stream = TcpStream::connect(status.trim_end_matches('/')).expect("a connection");
    let request = b"GET /metrics HTTP/1.0\r\n\r\n";
    stream.write_all(request).expect("it is read");
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).expect("metrics");
    metrics
}

/// On this file system, opening a file waits for running reads of it: a second reader must
/// not open it again, or fetch anything again.
#[test]
fn a_second_reader_of_a_file_on_a_slow_disk_keeps_nobody_waiting() {
    assert_tolerable(beside_two_readers_of_one_file);
}

/// The longest waits beside two downloads of one file, where the second begins during a
/// read for the first.
fn beside_two_readers_of_one_file() -> Option<Vec<Duration>> {
    let server = Server::start(&NEVER);
    let slow = content(1, 300_000);
    let (_mounted, reads) = mount(&server.root().join("slow"), &[("f", &slow[..])])?;
    let fast = content(2, 50_000);
    server.file("fast", &fast);
    let options = [("blksize", "1428"), ("windowsize", "16")];
    let packet = rrq("slow/f", &options);
    let read = || {
        let got = RawClient::new(&server).read_with(&packet, 1428, 16, 0);
        assert_same("slow/f", &got.expect("a download"), &slow);
    };
    let mut beside = Vec::new();
    thread::scope(|scope| {
        let first = scope.spawn(read);
        thread::sleep(DELAY / 4);
        let second = scope.spawn(read);
        while !first.is_finished() || !second.is_finished() {
            beside.push(worst_wait(&server, "fast", &fast));
        }
    });
    let reads = reads.load(Ordering::Relaxed);
    eprintln!(
        "worst wait: {:?} beside {reads} slow reads",
        beside.iter().max()
    );
    Some(beside)
}

/// More background requests than FUSE takes at a time (12): it must not be the server that
/// waits for room.
#[test]
fn a_crowd_at_a_slow_disk_keeps_only_itself_waiting() {
    assert_tolerable(beside_a_crowd);
}

/// The longest waits beside twenty downloads from the slow disk.
fn beside_a_crowd() -> Option<Vec<Duration>> {
    const NAMES: [&str; 20] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t",
    ];
    // A timeout that expires long before the last has had its turn: the time of the disk
    // doesn't count as the peer's.
    let server = Server::start(&["-t", "600", "--retries", "1"]);
    let slow = content(1, 20_000);
    let files = NAMES.map(|name| (name, &slow[..]));
    let (_mounted, _) = mount(&server.root().join("slow"), &files)?;
    let fast = content(2, 50_000);
    server.file("fast", &fast);

    let mut beside = Vec::new();
    let asked = Instant::now();
    thread::scope(|scope| {
        let downloads = NAMES.map(|name| {
            let (server, slow) = (&server, &slow);
            scope.spawn(move || {
                let got = RawClient::new(server).read(&format!("slow/{name}"));
                assert_same(name, &got.expect("a download"), slow);
            })
        });
        while downloads.iter().any(|download| !download.is_finished()) {
            beside.push(worst_wait(&server, "fast", &fast));
        }
    });
    eprintln!(
        "worst wait beside the crowd: {:?} in {:?}",
        beside.iter().max(),
        asked.elapsed()
    );
    Some(beside)
}
