//! What the end-to-end suites share: a server under test, a client that speaks
//! raw datagrams, and reproducible file contents.
//!
//! Nothing here uses the library: the suites check the wire independently.
//! Nothing sleeps to wait for something: tests wait for a log line, for a
//! datagram, or for the process to end.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every suite is a crate of its own and uses a part of this"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time and reads pipes in threads"
)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

mod raw;
mod server;
mod skipped;

pub use raw::*;
pub use server::*;
pub use skipped::skip;

/// How long to wait for what must come. Generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Server options for a timeout longer than any test: whatever comes was sent at
/// once and is no retransmission.
pub const NEVER: [&str; 2] = ["-t", "60000"];

/// The default block size, in bytes.
pub const BLOCK: usize = 512;

/// A duration in milliseconds.
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The binary under test.
pub fn tftpd() -> &'static str {
    env!("CARGO_BIN_EXE_tftpd")
}

/// The unprivileged user.
pub const NOBODY: u32 = 65_534;

/// A copy of the binary in `dir`, for users who can't reach the original.
pub fn copy_of_tftpd(dir: &Path) -> PathBuf {
    let copy = dir.join("tftpd");
    // Copied by another process: if this one wrote the file, a child that another
    // test starts meanwhile could inherit it still open, and it couldn't be run.
    let copied = Command::new("cp").arg(tftpd()).arg(&copy).status();
    assert!(copied.expect("cp(1)").success());
    copy
}

/// A reproducible source of bytes (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// `len` bytes, different for every seed.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Asserts equality without printing megabytes.
#[track_caller]
pub fn assert_same(what: &str, got: &[u8], wanted: &[u8]) {
    if got != wanted {
        let differ = got.iter().zip(wanted).position(|(a, b)| a != b);
        panic!(
            "{what}: {} bytes, wanted {}; first difference at {differ:?}",
            got.len(),
            wanted.len()
        );
    }
}

/// The first datagrams of real clients: the client's name and the bytes.
pub fn captured_requests() -> Vec<(String, Vec<u8>)> {
    let table = include_str!("../data/requests.tsv");
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let (client, hex) = (fields.next()?, fields.nth(1)?);
        let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        Some((client.to_owned(), bytes?))
    };
    table.lines().filter_map(line).collect()
}

/// The result of `call`, repeated while a signal interrupts it: a socket with a
/// timeout returns EINTR when the process is stopped and continued.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The path of a program; `None`, with the reason printed, if it is missing.
/// On a CI machine nothing may be missing.
pub fn require(program: &str) -> Option<PathBuf> {
    let found = find_program(program);
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{program} is not installed");
        skip(format_args!("{program} is not installed"));
    }
    found
}

/// The path of a program that even a CI machine may lack; `None`, with the
/// reason printed, if it is missing.
pub fn optional(program: &str) -> Option<PathBuf> {
    let found = find_program(program);
    if found.is_none() {
        skip(format_args!("{program} is not installed"));
    }
    found
}

fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The path of a server that `scripts/peers` has installed; `None`, with the
/// reason printed, if it can't be used.
pub fn peer_program(name: &str) -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/peers")
        .join(name);
    let reason = if program.is_file() {
        // All of them change their user or root, or need port 69.
        geteuid().is_root().then_some(()).ok_or("needs root")
    } else {
        Err("is missing: scripts/peers brings it")
    };
    if let Err(reason) = reason {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci || !geteuid().is_root(), "{name} {reason}");
        skip(format_args!("{name} {reason}"));
        return None;
    }
    Some(program)
}

/// A command that is killed when it takes longer than `seconds`.
pub fn bounded(seconds: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "1", &seconds.to_string()])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Moves this thread, and what it starts, into a network namespace of its own;
/// returns a function that runs `ip` there. `None`, with the reason printed, if that
/// isn't possible. On the shared loopback, late datagrams reach whoever has the
/// client's port by then.
pub fn own_network() -> Option<impl Fn(&[&str]) -> String> {
    require("ip")?;
    if let Err(reason) = unshare(CloneFlags::CLONE_NEWNET) {
        skip(format_args!("no network of our own: {reason}"));
        return None;
    }
    let ip = |words: &[&str]| {
        let done = bounded(10, "ip").args(words).output().expect("ip");
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        said(&done)
    };
    ip(&["link", "set", "lo", "up"]);
    Some(ip)
}

/// What a program wrote to stdout and stderr, and how it ended.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    // Writing to a String cannot fail.
    let _ = write!(text, "[{}]", output.status);
    text
}
