//! The stream to the helper: to a child that was started, or to a service's socket.
//! Nothing here blocks.
//!
//! Must not: know what the lines say.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use log::{error, info};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::protocol::RESTARTER;
use crate::file::{reason, with_remedy};
use crate::host::{Identity, hide_manager, with_signals_of_others};
use crate::net::receive_with_descriptors;

/// After this long a socket that was lost, or not found, is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of the longest line.
const MAX_LINE: usize = 64 * 1024;

/// Room that is kept for a line, in bytes.
const USUAL_LINE: usize = 4096;

/// The most bytes read in a turn: others have their turns, however much the helper sends.
const TURN: usize = 64 * 1024;

/// The most descriptors that wait for the line they belong to.
const MAX_DESCRIPTORS: usize = 16;

/// One end of the stream.
#[derive(Debug)]
pub(super) struct Channel {
    stream: Option<UnixStream>,
    /// The socket that it is connected to; `None` for a child.
    path: Option<PathBuf>,
    /// When to connect again, or to log that a child is gone.
    retry_at: Option<Instant>,
    /// Whether the last failure has been logged.
    is_told: bool,
    /// The server is ending: the helper's end is no failure.
    is_stopping: bool,
    /// The beginning of a line that isn't whole yet.
    input: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// A descriptor was lost, because no more files could be opened or too many came. It
    /// isn't known which line it belonged to.
    has_lost_some: bool,
    /// A line was too long: its rest is skipped.
    skips: bool,
    /// There may be more to read without a new event.
    has_more: bool,
    /// What was sent last ends in the middle of a line.
    is_within_line: bool,
}

impl Channel {
    /// Starts `command`, as the user `identity` if one is given, with a stream as its
    /// standard input and output. A shell starts it again when it ends, at most once a
    /// second. Call it before rights are given up.
    ///
    /// # Errors
    /// One line that says what went wrong.
    pub(super) fn to_child(command: &str, identity: Option<&Identity>) -> Result<Self, String> {
        let start = || {
            let (own, theirs) = std::os::unix::net::UnixStream::pair()?;
            own.set_nonblocking(true)?;
            let mut shell = Command::new("/bin/sh");
            if let Some(identity) = identity {
                identity.run_as(&mut shell);
            }
            // The service manager's variables are for the server alone.
            hide_manager(&mut shell);
            shell
                .args(["-c", RESTARTER, "tftpd-helper", command])
                .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
                .stdout(Stdio::from(OwnedFd::from(theirs)));
            with_signals_of_others(|| shell.spawn())?;
            Ok(UnixStream::from_std(own))
        };
        let stream = start().map_err(|error: io::Error| {
            let told = with_remedy(&error, "it needs /bin/sh, and one more process");
            format!("cannot start the helper {command}: {told}")
        })?;
        Ok(Self::new(Some(stream), None))
    }

    /// A stream to the socket at `path`, to be connected once the socket is there.
    pub(super) fn to_socket(path: &Path, now: Instant) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut channel = Self::new(None, Some(path));
        channel.retry_at = Some(now);
        channel
    }

    const fn new(stream: Option<UnixStream>, path: Option<PathBuf>) -> Self {
        Self {
            stream,
            path,
            retry_at: None,
            is_told: false,
            is_stopping: false,
            input: Vec::new(),
            descriptors: VecDeque::new(),
            has_lost_some: false,
            skips: false,
            has_more: false,
            is_within_line: false,
        }
    }

    /// Whether a helper may be there.
    pub(super) const fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether there may be more to read without a new event.
    pub(super) const fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether what was sent last, to the helper before, ends in the middle of a line.
    pub(super) const fn take_is_within_line(&mut self) -> bool {
        std::mem::replace(&mut self.is_within_line, false)
    }

    /// From now on the helper's end is not logged.
    pub(super) const fn stop(&mut self) {
        self.is_stopping = true;
        if self.path.is_none() {
            self.retry_at = None;
        }
    }

    /// When to call [`Channel::connect`].
    pub(super) const fn next_deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Registers a child's stream with the poll.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => {
                // Edge-triggered: a helper that reads wakes us only once each time.
                registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
            }
            None => Ok(()),
        }
    }

    /// Connects, if it is time to. Returns whether a new helper is there.
    pub(super) fn connect(&mut self, now: Instant, registry: &Registry, token: Token) -> bool {
        if self.retry_at.take_if(|at| *at <= now).is_none() {
            return false;
        }
        let Some(path) = &self.path else {
            error!("the helper, and the shell that starts it, are gone for good: going on without");
            return false;
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let connected = UnixStream::connect(path).and_then(|mut stream| {
            registry.register(&mut stream, token, interest)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => {
                info!("the helper at {} is there", path.display());
                self.stream = Some(stream);
                self.is_told = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    let (path, reason) = (path.display(), reason(&error));
                    error!("cannot reach the helper at {path}: {reason}; trying each second");
                }
                self.retry_at = Some(now + RETRY);
                false
            }
        }
    }

    /// Reads what has come, up to a bound, and gives each whole line to `each`, with the
    /// descriptors that no line has taken yet.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        mut each: impl FnMut(&[u8], &mut VecDeque<OwnedFd>),
    ) {
        self.has_more = false;
        let mut buffer = [0; 8192];
        let mut left = TURN;
        while let Some(stream) = &self.stream {
            if left == 0 {
                self.has_more = true;
                return;
            }
            match receive_with_descriptors(stream, &mut buffer, &mut self.descriptors) {
                Ok((0, _)) => self.lost(now),
                Ok((len, is_whole)) => {
                    left = left.saturating_sub(len);
                    self.bound_descriptors(is_whole);
                    self.take(&buffer[..len], &mut each);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => {}
                    _ => self.lost(now),
                },
            }
        }
    }

    /// Drops descriptors beyond those that may wait. `is_whole`: all that were sent have
    /// come.
    fn bound_descriptors(&mut self, is_whole: bool) {
        let surplus = self.descriptors.len().saturating_sub(MAX_DESCRIPTORS);
        self.descriptors.drain(..surplus);
        self.has_lost_some |= !is_whole || surplus > 0;
    }

    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8], &mut VecDeque<OwnedFd>)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let is_end = piece.ends_with(b"\n");
            if !self.skips {
                self.input.extend_from_slice(piece);
            }
            if self.input.len() > MAX_LINE {
                self.input.clear();
                self.skips = true;
            }
            if is_end {
                if self.has_lost_some {
                    // No line may get another line's descriptor.
                    self.descriptors.clear();
                }
                let line = self.input.trim_ascii();
                if !std::mem::take(&mut self.skips) && !line.is_empty() {
                    each(line, &mut self.descriptors);
                }
                self.input.clear();
                self.input.shrink_to(USUAL_LINE);
            }
        }
        if self.input.is_empty() && !self.skips {
            // Descriptors that come from now on belong to later lines.
            self.has_lost_some = false;
        }
    }

    /// Sends as much of `lines` as the stream takes, and removes it from them.
    pub(super) fn send(&mut self, now: Instant, lines: &mut VecDeque<u8>) {
        while let Some(stream) = &mut self.stream {
            let (front, _) = lines.as_slices();
            if front.is_empty() {
                return;
            }
            match stream.write(front) {
                Ok(len) => {
                    let last = lines.drain(..len).next_back();
                    self.is_within_line = last.is_some_and(|byte| byte != b'\n');
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => {}
                    _ => self.lost(now),
                },
            }
        }
    }

    /// The helper is gone.
    fn lost(&mut self, now: Instant) {
        // Closing the stream also removes it from the poll.
        self.stream = None;
        self.input.clear();
        self.descriptors.clear();
        self.has_lost_some = false;
        self.skips = false;
        // A child is gone for good. That is logged later: a signal to the whole process
        // group may have reached the child first, and then the server ends as well.
        if self.path.is_some() || !self.is_stopping {
            self.retry_at = Some(now + RETRY);
        }
        if let Some(path) = &self.path
            && !self.is_stopping
        {
            error!("the helper at {} is gone", path.display());
            self.is_told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the limit of open files the kernel closes the descriptors that it can't hand
    /// over.
    #[test]
    fn a_lost_descriptor_gives_no_line_the_file_of_another() {
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut channel = Channel::new(None, None);
        let mut given = Vec::new();
        let mut each = |line: &[u8], descriptors: &mut VecDeque<OwnedFd>| {
            given.push((line.to_vec(), descriptors.pop_front().is_some()));
        };
        // The second of two is lost, and the second line isn't whole when the third
        // line's descriptor comes.
        channel.descriptors.push_back(file());
        channel.has_lost_some = true;
        channel.take(b"1\n2", &mut each);
        channel.descriptors.push_back(file());
        channel.take(b"\n3\n", &mut each);
        channel.descriptors.push_back(file());
        channel.take(b"4\n", &mut each);
        let expected = [("1", false), ("2", false), ("3", false), ("4", true)];
        assert_eq!(
            given,
            expected.map(|(line, has)| (line.as_bytes().to_vec(), has))
        );
    }

    #[test]
    fn a_surplus_of_descriptors_gives_no_line_the_file_of_another() {
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut channel = Channel::new(None, None);
        let mut given = Vec::new();
        let mut each = |_: &[u8], descriptors: &mut VecDeque<OwnedFd>| {
            given.push(descriptors.pop_front().is_some());
        };
        // Ten lines' descriptors with half of the first line, ten more with the rest.
        for piece in ["1", "\n2\n3\n"] {
            channel.descriptors.extend((0..10).map(|_| file()));
            channel.bound_descriptors(true);
            assert!(channel.descriptors.len() <= MAX_DESCRIPTORS);
            channel.take(piece.as_bytes(), &mut each);
        }
        channel.descriptors.push_back(file());
        channel.bound_descriptors(true);
        channel.take(b"4\n", &mut each);
        assert_eq!(given, [false, false, false, true]);
    }
}
