//! The server under test: a `tftpd` of its own for each test, on a free port,
//! with an empty root.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::FcntlArg::F_SETFL;
use nix::fcntl::{OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::raw::{RawClient, rrq};
use super::{PATIENCE, tftpd};

/// Whether servers are started with `--single-port`: true in the suite that runs
/// the others again in that mode.
pub fn is_single_port() -> bool {
    module_path!().starts_with("single_port::")
}

/// A running `tftpd` with a root directory of its own; killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    listening: Vec<SocketAddr>,
    dir: TempDir,
}

/// The most log lines that are kept: a flood makes millions.
const MAX_LINES: usize = 20_000;

/// The lines on the server's standard error, as they come.
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

struct LogState {
    /// Doesn't block. `None` when it is closed: the process has ended.
    pipe: Option<ChildStderr>,
    /// The latest lines.
    lines: VecDeque<String>,
    /// How many lines there have been in all.
    count: usize,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Log {
    /// A log that is read from `pipe` all the time, so that the server never waits.
    fn read_from(pipe: ChildStderr) -> Arc<Self> {
        fcntl(&pipe, F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
        let ready = pipe.as_fd().try_clone_to_owned().expect("a descriptor");
        let log = Arc::new(Self {
            state: Mutex::new(LogState {
                pipe: Some(pipe),
                lines: VecDeque::new(),
                count: 0,
                begun: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let reader = Arc::clone(&log);
        thread::spawn(move || {
            while reader.read().pipe.is_some() {
                let mut ready = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
                // An error would come again from `read`.
                let _ = poll(&mut ready, PollTimeout::NONE);
            }
        });
        log
    }

    /// The log with every line that the server has written by now. A test must not miss
    /// one because the thread hasn't run yet.
    fn read(&self) -> MutexGuard<'_, LogState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.read();
        self.changed.notify_all();
        state
    }

    /// Waits until `found` returns something, the process ends or the time is up.
    fn wait_for<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&LogState) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.read();
        loop {
            let hit = found(&state);
            let left = deadline.saturating_duration_since(Instant::now());
            if hit.is_some() || state.pipe.is_none() || left.is_zero() {
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

impl LogState {
    /// Takes in all that is in the pipe.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    // A process that was killed may have left a line without its end.
                    if !self.begun.is_empty() {
                        self.take_in(b"\n");
                    }
                }
                Ok(length) => self.take_in(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server's log can't be read: {error}"),
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend(part);
            if self.begun.pop_if(|last| *last == b'\n').is_none() {
                return;
            }
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            let line = String::from_utf8_lossy(&self.begun).into_owned();
            self.lines.push_back(line);
            self.count += 1;
            self.begun.clear();
        }
    }
}

/// A loopback address for this test alone, so that late datagrams to a port that
/// another test has by now don't reach that test.
pub fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = STARTED.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    Ipv4Addr::new(127, 64 | high, low, number)
}

/// A loopback address and a port for this test alone, where the port must be known before
/// there is a socket. The kernel never picks this port for a socket that asks for any. One
/// that was free a moment ago it could give to another process, which then answers, or
/// even to the test's own client.
pub fn own_port() -> SocketAddr {
    const BELOW_ANY: std::ops::Range<u32> = 10_000..32_768;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Tests that run at the same time are other processes.
    let number = std::process::id() * 16 + TAKEN.fetch_add(1, Ordering::Relaxed);
    let port = BELOW_ANY.start + number % (BELOW_ANY.end - BELOW_ANY.start);
    let port: u16 = port.try_into().expect("below 32768");
    (own_address(), port).into()
}

impl Server {
    /// Starts a server on a free port of an address of its own, with `args` added.
    pub fn start(args: &[&str]) -> Self {
        let address = own_address().to_string();
        let mut all = vec!["-a", &address];
        all.extend(args);
        Self::start_bare(&all)
    }

    /// Starts a server on a free port, at the addresses in `args`.
    pub fn start_bare(args: &[&str]) -> Self {
        Self::start_prepared(args, |_| Command::new(tftpd()))
    }

    /// [`Server::start_bare`] with the command that `prepare` returns. `prepare` is given
    /// the directory that holds the root, and may put more files there.
    pub fn start_prepared(args: &[&str], prepare: impl FnOnce(&Path) -> Command) -> Self {
        Self::start_handed([Stdio::null(), Stdio::null()], args, prepare)
    }

    /// [`Server::start_prepared`], with these as standard input and output.
    pub fn start_handed(
        [input, output]: [Stdio; 2],
        args: &[&str],
        prepare: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let mode = is_single_port().then_some("--single-port");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a root");
        let mut child = prepare(dir.path())
            .args(["-p", "0"])
            .args(mode)
            .args(args)
            .arg(&root)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tftpd starts");
        let mut server = Self {
            log: Log::read_from(child.stderr.take().expect("a pipe")),
            child,
            listening: Vec::new(),
            dir,
        };
        let ready = server
            .wait_for_log(|line| line.contains("listening on "), PATIENCE)
            .unwrap_or_else(|| panic!("{args:?}: not ready: {:#?}", server.log_lines()));
        server.listening = listening(&ready);
        assert!(!server.listening.is_empty(), "no address in {ready:?}");
        server
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

    /// The directory that holds the root: a place for clients' own files.
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

    /// Everything in the root except directories: the relative path, and the content
    /// if it is a regular file. Includes hidden and temporary files.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.root();
        let mut files = BTreeMap::new();
        let mut open = vec![root.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                let kind = path.symlink_metadata().expect("metadata").file_type();
                let name = path.strip_prefix(&root).expect("below the root");
                if kind.is_file() {
                    files.insert(name.to_owned(), fs::read(&path).expect("a file"));
                } else if kind.is_dir() {
                    open.push(path);
                } else {
                    files.insert(name.to_owned(), Vec::new());
                }
            }
        }
        files
    }

    /// Every line that the server has written by now.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.read().lines.iter().cloned().collect()
    }

    /// The first line, old or new, for which `predicate` holds.
    pub fn wait_for_log(
        &self,
        predicate: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Option<String> {
        self.log.wait_for(timeout, |state| {
            state.lines.iter().find(|line| predicate(line)).cloned()
        })
    }

    /// Waits until `count` lines, old or new, contain `text`; false if they don't come.
    pub fn wait_for_lines(&self, text: &str, count: usize) -> bool {
        let enough = |state: &LogState| {
            let lines = state.lines.iter().filter(|line| line.contains(text));
            (lines.count() >= count).then_some(())
        };
        self.log.wait_for(PATIENCE, enough).is_some()
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

    /// The counters that the server logs on SIGUSR1, by name; those that are 0 aren't
    /// there.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let before = self.log.read().count;
        self.signal(Signal::SIGUSR1);
        let told = |state: &LogState| {
            let mut new = state.lines.iter().rev().take(state.count - before);
            new.find(|line| line.contains("counters ")).cloned()
        };
        let line = self.log.wait_for(PATIENCE, told).expect("counters");
        let pairs = line.split(' ').filter_map(|word| word.split_once('='));
        pairs
            .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
            .collect()
    }

    /// Waits for the process to end; `None` when it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let closed = |state: &LogState| state.pipe.is_none().then_some(());
        self.log.wait_for(timeout, closed)?;
        Some(self.child.wait().expect("a child of ours"))
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// The words of a field in /proc/PID/status.
    pub fn status_words(&self, field: &str) -> Vec<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the server lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let words = line.unwrap_or_else(|| panic!("no {field}"));
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// The number in a field of /proc/PID/status (in kilobytes if it is a size).
    pub fn status(&self, field: &str) -> u64 {
        let words = self.status_words(field);
        let number = words.first().and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("no number in {field}: {words:?}"))
    }

    /// How many file descriptors the server has open.
    pub fn open_files(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        fds.expect("the server lives").count()
    }

    /// Returns when the server has handled every datagram sent before: it has since
    /// answered two requests for missing files, each in a separate wake-up.
    pub fn fence(&self) {
        let client = RawClient::new(self);
        for name in ["no-such-file-1", "no-such-file-2"] {
            let (packet, _) = client.ask(&rrq(name, &[]));
            assert_eq!(packet.error_code(), Some(1), "{packet:?}");
        }
    }

    /// Asserts that nothing from the server waits at `client`.
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
        // Both fail only if the process has already ended.
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
