//! The server under test: a `tftpd` of its own for each test, on a free port,
//! with an empty root.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: VecDeque<String>,
    /// The pipe is closed: the process has ended.
    closed: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == MAX_LINES {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `found` returns something, the process ends or the time is up.
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

/// A loopback address for this test alone, so that late datagrams to a port that
/// another test has by now don't reach that test.
pub fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = STARTED.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    Ipv4Addr::new(127, 64 | high, low, number)
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
        let child = prepare(dir.path())
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

    /// The log so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().lines.iter().cloned().collect()
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
