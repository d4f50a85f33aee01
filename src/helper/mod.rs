//! A helper: another program, in any language, that is told what happens and asked what
//! to serve (`--helper`, `--helper-socket`).
//!
//! `protocol` defines the messages, `channel` carries them, `questions` holds the
//! requests that wait for an answer, `ends` logs a helper's exits. A slow or dead helper
//! delays only the requests that it is asked about. Must not: decide what becomes of a request.

mod channel;
mod ends;
mod protocol;
mod questions;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::warn;
use mio::{Registry, Token};

use self::channel::Channel;
use self::ends::Ends;
use self::protocol::{Said, Verdict, put_event_line, put_question, read};
use self::questions::Questions;
pub use self::questions::Waiting;
use crate::host::Identity;
use crate::log::event::Event;
use crate::policy::glob::Globs;
use crate::table::{Endpoint, Fingerprint};
use crate::wire::packet::{Direction, ErrorCode, Packet, Request};

/// The most bytes of lines that wait for the helper to read them; one line may go beyond.
const MAX_OUTPUT: usize = 256 * 1024;

/// Room for these lines. It is allocated once, and becomes memory only as it is used. If
/// it grew and shrank each time that a helper is gone for a while, it would fragment the
/// heap.
const ROOM: usize = MAX_OUTPUT + 64 * 1024;

/// The most bytes that events may take of these: questions come first.
const MAX_EVENTS: usize = 192 * 1024;

/// The shortest time between two log lines about senseless lines from the helper.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Where the helper is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A command for `/bin/sh`.
    Command(&'a str),
    /// A service's socket.
    Socket(&'a Path),
}

/// What the helper is asked about, and how long an answer may take.
#[derive(Debug, Default)]
pub struct Asking {
    /// Names that it is asked about; `None` for none.
    pub(crate) names: Option<Globs>,
    /// Whether it is asked about files to be read that aren't there.
    pub missing: bool,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// What is to become of a request.
#[derive(Debug)]
pub enum Answer {
    /// The same as without a helper.
    Unknown,
    /// The client gets this file, or its upload this name, as if it had asked for that.
    Path(Box<[u8]>),
    /// The client gets this open file.
    File(OwnedFd),
    /// The request is refused, with this code and text.
    Refuse(ErrorCode, String),
}

/// Lines that wait for the helper to read them.
#[derive(Debug)]
pub struct Outbox {
    lines: VecDeque<u8>,
    /// How many events were left out for want of room since the helper was last told so.
    left_out: u64,
}

/// The outbox that events are told to.
pub type Events = Rc<RefCell<Outbox>>;

impl Default for Outbox {
    fn default() -> Self {
        Self {
            lines: VecDeque::with_capacity(ROOM),
            left_out: 0,
        }
    }
}

impl Outbox {
    /// Tells the helper about an event, if there is room.
    pub(crate) fn tell(&mut self, event: &Event<'_>) {
        if self.lines.len() > MAX_EVENTS {
            self.left_out += 1;
            return;
        }
        let mut line = String::new();
        if self.left_out > 0 {
            let lines = std::mem::take(&mut self.left_out);
            let of = "events";
            put_event_line(&mut line, &Event::LeftOut { of, lines });
        }
        put_event_line(&mut line, event);
        self.lines.extend(line.bytes());
    }

    fn ask(&mut self, number: u64, waiting: &Waiting) -> bool {
        let Ok(Packet::Request(request)) = Packet::parse(&waiting.datagram) else {
            return false;
        };
        if self.lines.len() > MAX_OUTPUT {
            return false;
        }
        let mut line = String::new();
        put_question(&mut line, number, waiting.endpoint.peer, &request);
        self.lines.extend(line.bytes());
        true
    }

    /// Drops the rest of a line whose beginning was sent to an earlier helper.
    fn drop_line(&mut self) {
        let end = self.lines.iter().position(|&byte| byte == b'\n');
        self.lines
            .drain(..end.map_or(self.lines.len(), |end| end + 1));
    }
}

/// The helper, and what waits for it.
pub struct Helper {
    channel: Channel,
    questions: Questions,
    asking: Asking,
    events: Events,
    token: Token,
    complained: Option<Instant>,
    ends: Ends,
}

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper")
            .field("channel", &self.channel)
            .field("questions", &self.questions)
            .finish_non_exhaustive()
    }
}

impl Helper {
    /// Starts a helper, as the user `identity` if one is given, or looks for its socket
    /// from `now` on. Its stream will be watched as `token`. Call it before rights are
    /// given up.
    ///
    /// # Errors
    /// One line that says what went wrong.
    pub fn start(
        source: Source<'_>,
        asking: Asking,
        identity: Option<&Identity>,
        token: Token,
        now: Instant,
    ) -> Result<Self, String> {
        let (channel, name) = match source {
            Source::Command(command) => (Channel::to_child(command, identity)?, command.as_bytes()),
            Source::Socket(path) => (Channel::to_socket(path, now), path.as_os_str().as_bytes()),
        };
        Ok(Self {
            channel,
            questions: Questions::default(),
            asking,
            events: Events::default(),
            token,
            complained: None,
            ends: Ends::new(name),
        })
    }

    /// Registers the helper's stream with the poll.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub fn register(&mut self, registry: &Registry) -> std::io::Result<()> {
        self.channel.register(registry, self.token)
    }

    /// The server is ending: from now on the helper's end is no failure.
    pub fn stop(&mut self) {
        self.channel.stop();
        self.ends.is_stopping = true;
    }

    /// Where events for the helper go.
    pub fn events(&self) -> Events {
        Rc::clone(&self.events)
    }

    /// Whether the helper is to be asked about a name.
    pub fn knows(&self, name: &[u8]) -> bool {
        let names = self.asking.names.as_ref();
        names.is_some_and(|names| names.allow(name))
    }

    /// Whether the helper is to be asked about a request that found nothing.
    pub fn knows_missing(&self, request: &Request<'_>) -> bool {
        self.asking.missing && request.direction == Direction::Read
    }

    /// Whether there is anyone to ask.
    pub const fn is_there(&self) -> bool {
        self.channel.is_open()
    }

    /// Whether the helper has been asked about this request, and hasn't answered yet.
    /// Another request of the same client ends the wait of the one before.
    pub fn merge_with_question(&mut self, endpoint: &Endpoint, fingerprint: Fingerprint) -> bool {
        self.questions.merge(endpoint, fingerprint)
    }

    /// Whether any request waits for an answer.
    pub fn has_questions(&self) -> bool {
        self.questions.next_deadline().is_some()
    }

    /// Asks about a request; `false` if too much is waiting already.
    pub fn ask(&mut self, now: Instant, waiting: Waiting) -> bool {
        let deadline = now + self.asking.timeout;
        let Some(number) = self.questions.add(waiting, deadline) else {
            return false;
        };
        let mut events = self.events.borrow_mut();
        let waiting = self.questions.get(number);
        let asked = waiting.is_some_and(|waiting| events.ask(number, waiting));
        if !asked {
            self.questions.take(number);
        }
        asked
    }

    /// Whether there may be more to read without a new event.
    pub const fn has_work(&self) -> bool {
        self.channel.has_more()
    }

    /// When [`Helper::run`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.channel.next_deadline(), self.questions.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Sends the lines that wait, and reads what has come if the stream `is_ready`.
    /// Returns the requests that were answered, or have waited long enough.
    pub fn run(
        &mut self,
        now: Instant,
        is_ready: bool,
        registry: &Registry,
    ) -> Vec<(Waiting, Answer)> {
        if self.channel.connect(now, registry, self.token) {
            if self.channel.take_is_within_line() {
                self.events.borrow_mut().drop_line();
            }
            self.ask_again();
        }
        let mut answered = Vec::new();
        if is_ready || self.channel.has_more() {
            self.receive(now, &mut answered);
        }
        while let Some(waiting) = self.questions.take_expired(now) {
            answered.push((waiting, Answer::Unknown));
        }
        if !self.channel.is_open() {
            // Nobody will answer, so no request waits.
            let numbers: Vec<_> = self.questions.iter().map(|(number, _)| number).collect();
            let given_up = numbers.into_iter().filter_map(|it| self.questions.take(it));
            answered.extend(given_up.map(|waiting| (waiting, Answer::Unknown)));
        }
        self.flush(now);
        answered
    }

    /// Sends the lines that wait.
    pub fn flush(&mut self, now: Instant) {
        let lines = &mut self.events.borrow_mut().lines;
        self.channel.send(now, lines);
    }

    fn receive(&mut self, now: Instant, answered: &mut Vec<(Waiting, Answer)>) {
        let (mut has_started, mut ended, mut complaint) = (false, None, None);
        let questions = &mut self.questions;
        self.channel.receive(now, |line, descriptors| {
            match read(line) {
                Ok(Said::Started(before)) => {
                    has_started = true;
                    ended = before.or(ended);
                }
                Ok(Said::Ended(status)) => ended = Some(status),
                Ok(Said::Answer(number, verdict)) => {
                    // Taken even if no request waits for it any more.
                    let file = match verdict {
                        Verdict::Descriptor => descriptors.pop_front(),
                        _ => None,
                    };
                    let Some(waiting) = questions.take(number) else {
                        return;
                    };
                    let answer = match (verdict, file) {
                        (Verdict::Path(path), _) => Answer::Path(path.into_bytes().into()),
                        (Verdict::Refuse(code, text), _) => Answer::Refuse(code, text),
                        (Verdict::Descriptor, Some(file)) => Answer::File(file),
                        (Verdict::Descriptor, None) => {
                            complaint =
                                Some("no descriptor came with it, or no more files can be opened");
                            Answer::Unknown
                        }
                        (Verdict::Unknown, _) => Answer::Unknown,
                    };
                    answered.push((waiting, answer));
                }
                Err(what) => complaint = Some(what),
            }
        });
        if has_started {
            self.ask_again();
        }
        if let Some(status) = ended {
            self.ends.tell(now, status);
        }
        let may_complain = self.complained.is_none_or(|at| now >= at + COMPLAINT);
        if let Some(what) = complaint
            && may_complain
        {
            self.complained = Some(now);
            warn!("a line of the helper's makes no sense: {what}");
        }
    }

    /// Asks all questions again: the helper that was asked is gone, and another is there.
    fn ask_again(&self) {
        let mut events = self.events.borrow_mut();
        for (number, waiting) in self.questions.iter() {
            events.ask(number, waiting);
        }
    }
}
