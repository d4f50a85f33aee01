//! What the end-to-end suites share: a server under test, a client that speaks
//! raw datagrams, and reproducible file contents.
//!
//! Nothing here uses the library: the suites judge the wire with their own eyes.
//! Nobody sleeps to wait for something: one waits for a line of the log, for a
//! datagram, or for the process to end.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every suite is a crate of its own and uses a part of this"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time and reads pipes in threads"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long to wait for what must come. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The payload of a block where nobody asked for another size, in bytes.
pub const BLOCK: usize = 512;

// --- the server under test -------------------------------------------------

/// A running `tftpd` with a root directory of its own; killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    listening: Vec<SocketAddr>,
    dir: TempDir,
}

/// The lines on the server's standard error, as they come.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    /// The pipe is closed: the process has ended.
    closed: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        self.lock().lines.push(line);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `found` says so, the process ends or the time is up.
    fn wait_for<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&LogState) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            let hit = found(&state);
            let left = deadline.saturating_duration_since(Instant::now());
            if hit.is_some() || state.closed || left.is_zero() {
                return hit;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Server {
    /// Starts a server on a free port of 127.0.0.1, with `args` besides.
    pub fn start(args: &[&str]) -> Self {
        let mut all = vec!["-a", "127.0.0.1"];
        all.extend(args);
        Self::start_bare(&all)
    }

    /// Starts a server on a free port; where it listens is up to `args`.
    pub fn start_bare(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a root");
        let child = Command::new(tftpd())
            .args(["-p", "0"])
            .args(args)
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tftpd starts");
        let mut server = Self {
            log: Arc::default(),
            child,
            listening: Vec::new(),
            dir,
        };
        server.read_log();
        let ready = server
            .wait_for_log(|line| line.contains("listening on "), PATIENCE)
            .unwrap_or_else(|| panic!("{args:?}: not ready: {:#?}", server.log_lines()));
        server.listening = listening(&ready);
        assert!(!server.listening.is_empty(), "no address in {ready:?}");
        server
    }

    fn read_log(&mut self) {
        let pipe = self.child.stderr.take().expect("a pipe");
        let log = Arc::clone(&self.log);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                log.push(String::from_utf8_lossy(&line).into_owned());
            }
            log.close();
        });
    }

    /// Where the server listens; the wildcard address becomes loopback.
    pub fn addr(&self) -> SocketAddr {
        let addr = self.listening[0];
        match addr.ip() {
            ip if !ip.is_unspecified() => addr,
            _ => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        }
    }

    /// The port the server listens on.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The directory the server serves.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A directory beside the root, for what clients bring and take.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Puts a file into the root.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Everything in the root: path relative to it, and content. Hidden and
    /// temporary files count.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.root();
        let mut files = BTreeMap::new();
        let mut open = vec![root.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(&root).expect("below the root");
                    files.insert(name.to_owned(), fs::read(&path).unwrap_or_default());
                }
            }
        }
        files
    }

    /// The log so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// The first line, old or new, that `predicate` likes.
    pub fn wait_for_log(
        &self,
        predicate: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Option<String> {
        self.log.wait_for(timeout, |state| {
            state.lines.iter().find(|line| predicate(line)).cloned()
        })
    }

    /// Waits until `count` sessions of `client` have ended; returns their lines.
    pub fn wait_ended(&self, client: SocketAddr, count: usize) -> Vec<String> {
        let lines_of = |state: &LogState| {
            let of_client = |line: &&String| is_end_of_session(line, client);
            state.lines.iter().filter(of_client).cloned().collect()
        };
        let enough = |state: &LogState| Some(lines_of(state)).filter(|l: &Vec<_>| l.len() >= count);
        self.log.wait_for(PATIENCE, enough).unwrap_or_else(|| {
            panic!(
                "{count} sessions of {client} should have ended: {:#?}",
                self.log_lines()
            )
        })
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the server lives");
    }

    /// Waits for the process to end; `None` when it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let closed = |state: &LogState| state.closed.then_some(());
        self.log.wait_for(timeout, closed)?;
        Some(self.child.wait().expect("a child of ours"))
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// The number in a line of /proc/PID/status (kilobytes where it is a size).
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status
            .expect("the server lives")
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no {field}"))
    }

    /// How many descriptors the server holds.
    pub fn open_files(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        fds.expect("the server lives").count()
    }

    /// Returns when the server has handled every datagram sent before: it has
    /// answered two misses since, and each took a wake-up of its own.
    pub fn fence(&self) {
        let client = RawClient::new(self);
        for name in ["no-such-file-1", "no-such-file-2"] {
            let (packet, _) = client.ask(&rrq(name, &[]));
            assert_eq!(packet.error_code(), Some(1), "{packet:?}");
        }
    }

    /// Asserts that the server has sent `client` nothing that it hasn't read yet.
    #[track_caller]
    pub fn assert_quiet(&self, client: &RawClient) {
        self.fence();
        if let Some((packet, from)) = client.recv(Duration::from_millis(5)) {
            panic!("{from} should have kept quiet, sent {packet:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.log_lines();
        if thread::panicking() {
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the server's log, its end:\n{}", tail.join("\n"));
        } else {
            let panicked = lines.iter().find(|line| line.contains("panicked at"));
            assert_eq!(panicked, None, "the server panicked");
        }
    }
}

/// The binary under test.
pub fn tftpd() -> &'static str {
    env!("CARGO_BIN_EXE_tftpd")
}

/// The addresses in a readiness line: `… listening on ADDR:PORT, ADDR:PORT …`.
pub fn listening(line: &str) -> Vec<SocketAddr> {
    let Some((_, rest)) = line.split_once("listening on ") else {
        return Vec::new();
    };
    rest.split([',', ' ', ';'])
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Whether this line of the log reports the end of a session with `client`.
pub fn is_end_of_session(line: &str, client: SocketAddr) -> bool {
    let client = client.to_string();
    line.contains("outcome=")
        && line
            .split([' ', '='])
            .any(|word| word.trim_matches('"') == client)
}

// --- packets, as a stranger to the library reads them ------------------------

/// A datagram from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Block number and payload.
    Data(u16, Vec<u8>),
    /// Block number.
    Ack(u16),
    /// Options and values in the order of the packet.
    Oack(Vec<(String, String)>),
    /// Code and text.
    Error(u16, String),
    /// Not TFTP, or nothing a server sends.
    Other(Vec<u8>),
}

impl Packet {
    /// Reads a datagram.
    pub fn parse(bytes: &[u8]) -> Self {
        let other = || Self::Other(bytes.to_vec());
        let Some((opcode, rest)) = bytes.split_first_chunk::<2>() else {
            return other();
        };
        let number = || Some(u16::from_be_bytes(*rest.first_chunk::<2>()?));
        match (u16::from_be_bytes(*opcode), number()) {
            (3, Some(block)) => Self::Data(block, rest[2..].to_vec()),
            (4, Some(block)) if rest.len() == 2 => Self::Ack(block),
            (5, Some(code)) if rest.ends_with(&[0]) => {
                let text = &rest[2..rest.len() - 1];
                Self::Error(code, String::from_utf8_lossy(text).into_owned())
            }
            (6, _) if rest.ends_with(&[0]) => {
                let words: Vec<_> = rest[..rest.len() - 1]
                    .split(|byte| *byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect();
                match words.as_chunks::<2>() {
                    (pairs, []) => Self::Oack(pairs.iter().cloned().map(Into::into).collect()),
                    _ => other(),
                }
            }
            _ => other(),
        }
    }

    /// The code, if this is an ERROR.
    pub fn error_code(&self) -> Option<u16> {
        match self {
            Self::Error(code, _) => Some(*code),
            _ => None,
        }
    }

    /// The block number, if this is DATA.
    pub fn data_block(&self) -> Option<u16> {
        match self {
            Self::Data(block, _) => Some(*block),
            _ => None,
        }
    }
}

/// A request of any kind, as bytes.
pub fn request(opcode: u16, name: &[u8], mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = opcode.to_be_bytes().to_vec();
    let pairs = options.iter().flat_map(|(name, value)| [*name, *value]);
    packet.extend(name);
    packet.push(0);
    for word in std::iter::once(mode).chain(pairs) {
        packet.extend(word.as_bytes());
        packet.push(0);
    }
    packet
}

/// A read request in octet mode.
pub fn rrq(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    request(1, name.as_bytes(), "octet", options)
}

/// A write request in octet mode.
pub fn wrq(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    request(2, name.as_bytes(), "octet", options)
}

/// A DATA packet.
pub fn data(block: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, 3];
    packet.extend(block.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An ACK packet.
pub fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// An ERROR packet.
pub fn error(code: u16, text: &str) -> Vec<u8> {
    let mut packet = vec![0, 5];
    packet.extend(code.to_be_bytes());
    packet.extend(text.as_bytes());
    packet.push(0);
    packet
}

// --- a client of raw datagrams -----------------------------------------------

/// A UDP socket that sends what it is told to and shows what comes.
pub struct RawClient {
    socket: UdpSocket,
    server: SocketAddr,
}

impl RawClient {
    /// A client on a port of its own, for the port `server` listens on.
    pub fn new(server: &Server) -> Self {
        Self::to(server.addr())
    }

    /// A client for any address of a server.
    pub fn to(server: SocketAddr) -> Self {
        let local: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let socket = UdpSocket::bind((local, 0)).expect("a socket");
        Self { socket, server }
    }

    /// The client's own address, as the server sees it.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Sends to the port the server listens on.
    pub fn send(&self, packet: &[u8]) {
        self.send_to(packet, self.server);
    }

    /// Sends to any port, as a rule to a transfer's.
    pub fn send_to(&self, packet: &[u8], tid: SocketAddr) {
        let sent = self.socket.send_to(packet, tid).expect("loopback takes it");
        assert_eq!(sent, packet.len());
    }

    /// The next datagram and its sender, or `None` when none came in `wait`.
    pub fn recv(&self, wait: Duration) -> Option<(Packet, SocketAddr)> {
        let wait = wait.max(Duration::from_millis(1));
        let mut buffer = vec![0; 65_536];
        self.socket
            .set_read_timeout(Some(wait))
            .expect("a duration");
        match self.socket.recv_from(&mut buffer) {
            Ok((len, from)) => Some((Packet::parse(&buffer[..len]), from)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("recv: {e}"),
        }
    }

    /// What has come already, if anything.
    pub fn recv_now(&self) -> Option<(Packet, SocketAddr)> {
        self.socket.set_nonblocking(true).expect("a socket");
        let came = self.recv(Duration::from_millis(1));
        self.socket.set_nonblocking(false).expect("a socket");
        came
    }

    /// The next datagram and its sender.
    #[track_caller]
    pub fn expect(&self) -> (Packet, SocketAddr) {
        self.recv(PATIENCE).expect("an answer")
    }

    /// The next datagram, which `tid` must have sent.
    #[track_caller]
    pub fn expect_from(&self, tid: SocketAddr) -> Packet {
        let (packet, from) = self.expect();
        assert_eq!(from, tid, "{packet:?} from a stranger");
        packet
    }

    /// Sends to the listening port and takes the answer.
    #[track_caller]
    pub fn ask(&self, packet: &[u8]) -> (Packet, SocketAddr) {
        self.send(packet);
        self.expect()
    }

    /// Sends to a transfer's port and takes the answer.
    #[track_caller]
    pub fn say(&self, packet: &[u8], tid: SocketAddr) -> Packet {
        self.send_to(packet, tid);
        self.expect_from(tid)
    }

    /// Begins a download: what came first, and the transfer's port.
    #[track_caller]
    pub fn ask_data(&self, packet: &[u8]) -> (Vec<u8>, SocketAddr) {
        match self.ask(packet) {
            (Packet::Data(1, payload), tid) => (payload, tid),
            (other, _) => panic!("DATA 1 wanted, not {other:?}"),
        }
    }

    /// Sends `packet` to the listening port again and again, as real clients do,
    /// until an answer comes: for servers that may drop it.
    pub fn ask_patiently(&self, packet: &[u8]) -> (Packet, SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(packet);
            if let Some(answer) = self.recv(Duration::from_millis(200)) {
                return answer;
            }
        }
        panic!("no answer");
    }

    /// Downloads a file in octet mode without options.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, (u16, String)> {
        self.read_with(&rrq(name, &[]), BLOCK, 1, 0)
    }

    /// Downloads with the given request, whose options the caller knows to be
    /// accepted. Block 65535 is followed by `after_last` (0 or 1).
    pub fn read_with(
        &self,
        request: &[u8],
        block_size: usize,
        window: usize,
        after_last: u16,
    ) -> Result<Vec<u8>, (u16, String)> {
        let (mut packet, tid) = self.ask_patiently(request);
        if let Packet::Oack(_) = packet {
            packet = self.say(&ack(0), tid);
        }
        let (mut file, mut expected, mut in_window) = (Vec::new(), 1, 0);
        loop {
            match packet {
                Packet::Data(block, payload) if block == expected => {
                    in_window += 1;
                    file.extend(&payload);
                    let last = payload.len() < block_size;
                    if last || in_window == window {
                        self.send_to(&ack(block), tid);
                        in_window = 0;
                    }
                    if last {
                        return Ok(file);
                    }
                    expected = next_block(block, after_last);
                }
                // A repetition: the next ACK will tell.
                Packet::Data(..) => {}
                Packet::Error(code, text) => return Err((code, text)),
                other => panic!("DATA {expected} wanted, not {other:?}"),
            }
            packet = self.expect_from(tid);
        }
    }

    /// Uploads a file in octet mode without options.
    pub fn write(&self, name: &str, file: &[u8]) -> Result<(), (u16, String)> {
        self.write_with(&wrq(name, &[]), file, BLOCK, 1, 0)
    }

    /// Uploads with the given request, whose options the caller knows to be
    /// accepted. Block 65535 is followed by `after_last` (0 or 1).
    pub fn write_with(
        &self,
        request: &[u8],
        file: &[u8],
        block_size: usize,
        window: usize,
        after_last: u16,
    ) -> Result<(), (u16, String)> {
        let (packet, tid) = self.ask_patiently(request);
        if let Packet::Error(code, text) = packet {
            return Err((code, text));
        }
        let last = file.len() / block_size + 1;
        let mut number = 0;
        for index in 1..=last {
            number = next_block(number, after_last);
            let rest = &file[(index - 1) * block_size..];
            let block = data(number, &rest[..rest.len().min(block_size)]);
            self.send_to(&block, tid);
            if index % window == 0 || index == last {
                loop {
                    match self.expect_from(tid) {
                        Packet::Ack(acked) if acked == number => break,
                        Packet::Error(code, text) => return Err((code, text)),
                        // A repetition.
                        Packet::Ack(_) => {}
                        other => panic!("ACK {number} wanted, not {other:?}"),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The number of the block after `block`.
pub fn next_block(block: u16, after_last: u16) -> u16 {
    block.checked_add(1).unwrap_or(after_last)
}

// --- contents, programs ------------------------------------------------------

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

/// `len` bytes that no two seeds have in common.
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

/// Where a program is; `None`, with the reason printed, where it is missing.
/// On a CI machine nothing may be missing.
pub fn require(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A command that is stopped when it takes longer than `seconds`.
pub fn bounded(seconds: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "1", &seconds.to_string()])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// What a program said, on both channels, and how it ended.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    // Writing to a String cannot fail.
    let _ = write!(text, "[{}]", output.status);
    text
}
