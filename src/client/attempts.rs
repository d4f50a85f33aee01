//! Which addresses of a server one job asks, and when: one after the other, with options
//! and without, until one answers. The transfer that begins then is run to its end.
//!
//! ```text
//!   address 1  with options ──┬── again ── again …      the first attempt to be
//!              (1.3 s later)  └─ without ── again …     answered gets the job; a late
//!   address 2  (1.5 s later, or once address 1 is       answer to another is met with
//!              unreachable)  the same                   an ERROR that says so
//! ```
//!
//! A server that refuses the options (ERROR 4 or 8), or acknowledges others than were
//! asked for, is asked again without options.
//!
//! A closed port or an unreachable host is a hint, not an answer (RFC 1122
//! §3.2.2.1): the device may be starting up. Once all addresses are unreachable, each is
//! asked every second, or more often if the first wait is shorter, until the job gives
//! up. If there are to be no repeats, the hint counts as silence. Must not: print
//! anything, ask a name for its address.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::engine::{Engine, MAX_ATTEMPTS, Request, is_answered, kernel};
use super::job::{Completed, Job, JobError, LocalFile};
use super::local::SharedOutput;
use super::progress::TransferProgress;
use super::schedule::Schedule;
use super::stream::UNKNOWN_SIZE;
use crate::file::{ReadAt, local};
use crate::host::{Interrupts, clock};
use crate::protocol::retry::RetryPolicy;
use crate::protocol::transfer::Outcome;
use crate::table::Tracked;
use crate::wire::options::Offer;
use crate::wire::packet::{ErrorCode, Mode};

/// How often a request with options is repeated before one without is tried, if that
/// is sooner than [`FALLBACK_AFTER`].
const OPTIONED_REPEATS: u8 = 2;

/// How long a request with options goes unanswered before one without follows:
/// some servers and boot loaders drop what they don't know.
const FALLBACK_AFTER: Duration = Duration::from_millis(1300);

/// How long to wait for one address before the next one is asked as well, as RFC 8305
/// does it. Longer than there, since a server may have to look its file up.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(1500);

/// The most addresses of one name that are asked.
const MAX_ADDRESSES: usize = 8;

// An attempt with options and one without for each address, and one after a refusal.
const _: () = assert!(2 * MAX_ADDRESSES < MAX_ATTEMPTS);

/// How long to wait for an answer after an interrupt, to tell the server that nobody
/// wants the file any more.
const FAREWELL: Duration = Duration::from_millis(500);

/// One request, sent again from the same port until it is answered.
#[derive(Debug)]
struct Attempt {
    /// Its session's key.
    key: usize,
    server: SocketAddr,
    has_options: bool,
    schedule: Schedule,
    /// When a request without options is to follow.
    fallback_at: Option<Instant>,
    /// The last error that the network reported.
    hint: Option<ErrorKind>,
}

/// Moves one file.
///
/// # Errors
/// Why it wasn't moved. A file received in part is gone by then.
pub(super) fn run(
    engine: &mut Engine,
    job: &Job<'_>,
    progress: &mut TransferProgress,
) -> Result<Completed, JobError> {
    let (output, interrupts) = match open(job) {
        // Transfers that dally may hold the descriptors that are missing.
        Err(_) if engine.is_dallying() => {
            engine.settle(None);
            open(job)?
        }
        opened => opened?,
    };
    engine.watch_signals(&interrupts)?;
    let mut attempts = Attempts::new(engine, job, output, interrupts, progress)?;
    let result = attempts.run();
    attempts.engine.ignore_signals(&attempts.interrupts);
    progress.over();
    result
}

/// Opens what a job needs besides its sockets.
fn open(job: &Job<'_>) -> Result<(Option<SharedOutput>, Interrupts), JobError> {
    // Opened while a signal still ends the program: opening a pipe waits for its reader.
    let output = match job.file {
        LocalFile::Get(output) => Some(output.open().map_err(JobError::LocalFile)?),
        LocalFile::Put(_) => None,
    };
    let interrupts = Interrupts::hold().map_err(|error| kernel(&error))?;
    if let Some(output) = &output {
        output.watch(&interrupts).map_err(|error| kernel(&error))?;
    }
    Ok((output, interrupts))
}

/// The attempts at one job.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    engine: &'a mut Engine,
    job: &'a Job<'a>,
    output: Option<SharedOutput>,
    interrupts: Interrupts,
    progress: &'a mut TransferProgress,
    offer: Offer,
    list: Vec<Attempt>,
    next_address: usize,
    next_address_at: Instant,
    started: Instant,
    /// How many requests were sent again.
    repeats: u64,
    /// The first answer, if it refused the options.
    refusal: Option<JobError>,
    /// Until when requests go out every second; `None`: they back off.
    wait_ends: Option<Instant>,
    /// The user was told that we wait for the server.
    wait_announced: bool,
}

impl<'a> Attempts<'a> {
    fn new(
        engine: &'a mut Engine,
        job: &'a Job<'a>,
        output: Option<SharedOutput>,
        interrupts: Interrupts,
        progress: &'a mut TransferProgress,
    ) -> Result<Self, JobError> {
        let now = clock::now();
        Ok(Self {
            engine,
            job,
            output,
            interrupts,
            progress,
            offer: with_size(job)?,
            list: Vec::new(),
            next_address: 0,
            next_address_at: now,
            started: now,
            repeats: 0,
            refusal: None,
            wait_ends: job.wait.map(|wait| now + wait),
            wait_announced: false,
        })
    }

    /// Asks until one attempt is answered, and sees it through.
    fn run(&mut self) -> Result<Completed, JobError> {
        let result = self.moved();
        for attempt in std::mem::take(&mut self.list) {
            self.engine.remove(attempt.key);
        }
        result
    }

    fn moved(&mut self) -> Result<Completed, JobError> {
        loop {
            let winner = match self.first_answer() {
                // An earlier refusal says more than the silence after it.
                Err(error @ (JobError::NoAnswer(_) | JobError::Late(_))) => {
                    return Err(self.refusal.take().unwrap_or(error));
                }
                winner => winner?,
            };
            let error = match self.see_through(winner) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let options_refused = self.options_refused(winner, &error);
            let attempt = self.list.remove(winner);
            self.engine.remove(attempt.key);
            if !options_refused {
                return Err(error);
            }
            for other in std::mem::take(&mut self.list) {
                self.engine.remove(other.key);
            }
            if let Some(output) = &self.output {
                output.release();
            }
            self.refusal = Some(error);
            self.next_address = usize::MAX;
            let repeats = self.job.retry.retries.min(OPTIONED_REPEATS);
            self.ask(attempt.server, false, repeats)?;
        }
    }

    /// Whether the attempt failed because of its options.
    fn options_refused(&self, winner: usize, error: &JobError) -> bool {
        let attempt = &self.list[winner];
        let progress = self.engine.session(attempt.key).transfer().progress();
        attempt.has_options
            && match error {
                JobError::ServerError { code, .. } => {
                    matches!(code, ErrorCode::OptionRefused | ErrorCode::IllegalOperation)
                        && !progress.verified
                }
                // We refused its OACK.
                JobError::ProtocolError(failure) => failure.code == ErrorCode::OptionRefused,
                _ => false,
            }
    }

    // --- before the first answer -------------------------------------------------

    /// Asks until a server answers; returns the attempt's index.
    fn first_answer(&mut self) -> Result<usize, JobError> {
        loop {
            let now = clock::now();
            if let Some(winner) = self.answered() {
                return Ok(winner);
            }
            if let Some(signal) = self.interrupts.take() {
                return Err(self.say_farewell(signal));
            }
            if let Some(limit) = self.job.limit.filter(|it| it.until <= now) {
                let (told, within) = (self.no_answer(), limit.within);
                return Err(JobError::Late(format!("{told}; gave up after {within:?}")));
            }
            self.note_hints(now);
            self.ask_what_is_due(now)?;
            let Some(until) = self.next_step(now) else {
                return Err(JobError::NoAnswer(self.no_answer()));
            };
            self.engine.turn(Some(until))?;
        }
    }

    /// The index of the attempt that was answered. Of several, the one that already
    /// writes the file; else a transfer before an ERROR.
    fn answered(&self) -> Option<usize> {
        let owner = self.output.as_ref().and_then(SharedOutput::owner);
        let rank = |attempt: &Attempt| {
            let session = self.engine.session(attempt.key);
            let verified = session.transfer().progress().verified;
            (Some(attempt.key) != owner, !verified)
        };
        let answered = |&index: &usize| {
            let key = self.list[index].key;
            is_answered(self.engine.session(key))
        };
        (0..self.list.len())
            .filter(answered)
            .min_by_key(|&index| rank(&self.list[index]))
    }

    /// Remembers the errors that the network reports. Once all servers are unreachable,
    /// the next address is due at once; if there is none, all are asked on and on. Tells
    /// the user about a wait.
    fn note_hints(&mut self, now: Instant) {
        for attempt in &mut self.list {
            let hint = self.engine.session(attempt.key).unreachable();
            attempt.hint = hint.or(attempt.hint);
        }
        let all_unreachable = self.list.iter().all(|attempt| attempt.hint.is_some());
        if all_unreachable && self.next_address < self.address_count() {
            self.next_address_at = now;
            return;
        }
        let hint = self.hint().filter(|_| all_unreachable);
        // Without repeats, the hint counts as silence.
        let repeats = self.wait_ends.is_some() || self.job.retry.retries > 0;
        let hint = hint.filter(|_| repeats);
        if hint.is_some() && self.wait_ends.is_none() {
            self.keep_asking(now);
        }
        let is_late = self.job.wait.is_some() && self.repeats > 0;
        if (hint.is_some() || is_late) && !self.wait_announced {
            self.wait_announced = true;
            let left = self.patience_left(now).as_secs_f64().round().max(1.0);
            let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
            self.progress.waiting(format_args!(
                "no answer from {} yet{hint}; asking again for {left} s",
                self.servers()
            ));
        }
    }

    /// Asks every second until the job gives up. The network says that the device isn't
    /// there yet, so there is no congestion to back off from, and a boot loader may
    /// listen for only a second.
    fn keep_asking(&mut self, now: Instant) {
        self.wait_ends = Some(now + self.patience_left(now));
        let initial = self.job.retry.initial_wait();
        for attempt in &mut self.list {
            attempt.schedule = Schedule::steady(initial, now);
        }
    }

    fn ask_what_is_due(&mut self, now: Instant) -> Result<(), JobError> {
        for index in 0..self.list.len() {
            // Where an attempt was replaced, those after it have moved.
            let attempt = &mut self.list[index];
            if attempt.schedule.is_due(now) {
                self.ask_again(index, now)?;
            }
            let attempt = &mut self.list[index];
            let is_late = attempt.fallback_at.is_some_and(|at| at <= now);
            if is_late || (attempt.fallback_at.is_some() && attempt.schedule.is_spent(now)) {
                attempt.fallback_at = None;
                let server = attempt.server;
                if self.wait_ends.is_none() {
                    // Its answer still counts, but it sends no more requests.
                    attempt.schedule.stop();
                }
                self.ask_or_replace(index, server, false, self.job.retry.retries)?;
            }
        }
        while self.next_address_at <= now && self.next_address < self.address_count() {
            let server = self.job.servers[self.next_address];
            self.next_address += 1;
            self.next_address_at = now + NEXT_ADDRESS_AFTER;
            let retries = self.job.retry.retries;
            let asked = if self.offer == Offer::default() {
                self.ask_or_replace(0, server, false, retries)
            } else {
                self.ask_or_replace(0, server, true, retries.min(OPTIONED_REPEATS))
            };
            match asked {
                // An address family that this machine doesn't have.
                Err(JobError::System(_)) if !self.list.is_empty() => {}
                Err(JobError::System(_)) if self.next_address < self.address_count() => {
                    self.next_address_at = now;
                }
                asked => asked?,
            }
        }
        Ok(())
    }

    /// As [`Attempts::ask`]. If all local ports are in use, the attempt at `index` ends
    /// to free its port.
    fn ask_or_replace(
        &mut self,
        index: usize,
        server: SocketAddr,
        has_options: bool,
        repeats: u8,
    ) -> Result<(), JobError> {
        match self.ask(server, has_options, repeats) {
            Err(JobError::NoPort(_)) if index < self.list.len() => {
                let replaced = self.list.remove(index);
                self.engine.remove(replaced.key);
                self.ask(server, has_options, repeats)
            }
            asked => asked,
        }
    }

    fn ask(&mut self, server: SocketAddr, has_options: bool, repeats: u8) -> Result<(), JobError> {
        let key = self.send(None, server, has_options)?;
        let now = clock::now();
        let initial = self.job.retry.initial_wait();
        self.list.push(Attempt {
            key,
            server,
            has_options,
            schedule: match self.wait_ends {
                Some(_) => Schedule::steady(initial, now),
                None => Schedule::backing_off(initial, repeats, now),
            },
            fallback_at: has_options.then_some(now + FALLBACK_AFTER),
            hint: None,
        });
        Ok(())
    }

    fn ask_again(&mut self, index: usize, now: Instant) -> Result<(), JobError> {
        let attempt = &self.list[index];
        let key = self.send(Some(attempt.key), attempt.server, attempt.has_options)?;
        let attempt = &mut self.list[index];
        attempt.key = key;
        attempt.schedule.sent_again(now);
        self.repeats += 1;
        Ok(())
    }

    /// Sends a request; returns its session's key. A request sent before has a session,
    /// `again`, whose port is used.
    fn send(
        &mut self,
        again: Option<usize>,
        server: SocketAddr,
        has_options: bool,
    ) -> Result<usize, JobError> {
        let plain = Offer::default();
        let request = Request {
            job: self.job,
            server,
            offer: if has_options { &self.offer } else { &plain },
            output: self.output.as_ref(),
        };
        match again {
            Some(key) => self.engine.ask_again(key, &request),
            None => self.engine.ask(&request),
        }
    }

    /// When there is something to do next; `None` once it is time to give up.
    fn next_step(&self, now: Instant) -> Option<Instant> {
        if self.wait_ends.is_some_and(|end| end <= now) {
            return None;
        }
        let more_addresses = self.next_address < self.address_count();
        let steps = self.list.iter().flat_map(|attempt| {
            let fallback = attempt.fallback_at;
            [attempt.schedule.next_step(now), fallback]
        });
        let next = steps
            .flatten()
            .chain(more_addresses.then_some(self.next_address_at))
            .min()?;
        [Some(next), self.wait_ends, self.until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The deadline of the whole job.
    fn until(&self) -> Option<Instant> {
        self.job.limit.map(|it| it.until)
    }

    fn address_count(&self) -> usize {
        self.job.servers.len().min(MAX_ADDRESSES)
    }

    /// How much longer to wait for an answer if nothing changes.
    fn patience_left(&self, now: Instant) -> Duration {
        let retry = self.job.retry;
        let before_fallback = RetryPolicy {
            retries: retry.retries.min(OPTIONED_REPEATS),
            ..retry
        };
        let before_fallback = before_fallback.patience().min(FALLBACK_AFTER);
        let end = self
            .wait_ends
            .unwrap_or(self.started + before_fallback + retry.patience());
        let end = self.until().map_or(end, |until| until.min(end));
        end.saturating_duration_since(now)
    }

    /// The network's error about the attempt begun last of those that have one.
    fn hint(&self) -> Option<ErrorKind> {
        self.list.iter().rev().find_map(|attempt| attempt.hint)
    }

    /// The addresses that were asked.
    fn servers(&self) -> String {
        let asked = &self.job.servers[..self.next_address.min(self.job.servers.len())];
        let words: Vec<_> = asked.iter().map(ToString::to_string).collect();
        words.join(" and ")
    }

    /// What to tell the user when no server answered.
    fn no_answer(&self) -> String {
        let hint = self.hint().map_or_else(String::new, |it| format!(": {it}"));
        let other = self.other_sender();
        let other = other.map_or_else(String::new, |it| format!("; answers came from {it}"));
        format!("no answer from {}{hint}{other}", self.servers())
    }

    /// An address that answered but wasn't asked: a server with several addresses may
    /// send from the wrong one.
    fn other_sender(&self) -> Option<SocketAddr> {
        let mut sessions = self.list.iter().map(|it| self.engine.session(it.key));
        sessions.find_map(|session| session.port().other_sender())
    }

    /// After an interrupt: tells the next server that answers that nobody wants the file.
    fn say_farewell(&mut self, signal: Signal) -> JobError {
        let until = clock::now() + FAREWELL;
        // Servers that are unreachable won't answer.
        while self.list.iter().any(|it| it.hint.is_none()) && clock::now() < until {
            if self.engine.turn(Some(until)).is_err() || self.interrupts.take().is_some() {
                break;
            }
            if let Some(answered) = self.answered() {
                self.engine.abort(self.list[answered].key, INTERRUPTED);
                break;
            }
        }
        JobError::Interrupted(signal)
    }

    // --- after the first answer --------------------------------------------------

    /// Runs the transfer of the attempt that was answered to its end.
    fn see_through(&mut self, winner: usize) -> Result<Completed, JobError> {
        let key = self.list[winner].key;
        if let Some(output) = &self.output {
            output.claim(key);
        }
        loop {
            self.note_announced_size(key);
            if let Some(signal) = self.interrupts.take() {
                self.engine.abort(key, INTERRUPTED);
                return Err(JobError::Interrupted(signal));
            }
            if let Some(outcome) = self.engine.session_mut(key).poll_outcome() {
                return self.conclude(winner, outcome);
            }
            self.turn_away_others(key);
            self.progress.show(self.engine.session(key));
            self.engine.turn(self.until())?;
            if let Some(limit) = self.job.limit.filter(|it| it.until <= clock::now()) {
                self.engine.abort(key, "It takes too long");
                return Err(JobError::Late(self.how_far(key, limit.within)));
            }
        }
    }

    /// Tells how much of a file came in the time allowed for it.
    fn how_far(&self, key: usize, within: Duration) -> String {
        let session = self.engine.session(key);
        let of = match self.announced_size(key) {
            Some(size) => format!(" of {size}"),
            None => String::new(),
        };
        let bytes = session.bytes();
        format!("only {bytes}{of} bytes came within {within:?}; allow more time with --within")
    }

    /// The size that the server announced, in bytes. `None` for text, whose size may
    /// differ here, and for 0: some servers just repeat the 0 of the request.
    fn announced_size(&self, key: usize) -> Option<u64> {
        let size = self.engine.session(key).transfer().negotiated().tsize;
        size.filter(|&size| size > 0 && self.job.mode == Mode::Octet)
    }

    /// Tells the output the announced size, to be compared with what comes.
    fn note_announced_size(&self, key: usize) {
        if let (Some(output), Some(size)) = (&self.output, self.announced_size(key)) {
            output.announce(size);
        }
    }

    /// Tells servers that answer too late that another attempt has the job.
    fn turn_away_others(&mut self, winner: usize) {
        for attempt in &self.list {
            let session = self.engine.session(attempt.key);
            let is_late = session.transfer().progress().verified && !session.is_over();
            if attempt.key != winner && is_late {
                self.engine
                    .abort(attempt.key, "Another request was answered");
            }
        }
    }

    fn conclude(&mut self, winner: usize, outcome: Outcome) -> Result<Completed, JobError> {
        let attempt = &self.list[winner];
        let session = self.engine.session(attempt.key);
        let (state, bytes) = (session.transfer().progress(), session.bytes());
        let peer = session.peer();
        let output = self.output.as_ref();
        if let Some((received, announced)) = output.and_then(SharedOutput::short) {
            return Err(JobError::Short {
                received,
                announced,
            });
        }
        if let Some((received, announced)) = output.and_then(SharedOutput::long) {
            return Err(JobError::Long {
                received,
                announced,
            });
        }
        match outcome {
            Outcome::Completed | Outcome::LastAckMissing | Outcome::Probed => {
                let done = Completed {
                    bytes,
                    elapsed: clock::now().saturating_duration_since(session.started),
                    negotiated: session.transfer().negotiated(),
                    retransmits: state.retransmits + self.repeats,
                    fallback: self.fallback(attempt),
                    announced: output.and_then(SharedOutput::exceeded),
                };
                let key = self.list.remove(winner).key;
                self.engine.let_dally(key);
                Ok(done)
            }
            Outcome::PeerError { code, message } => Err(JobError::ServerError { code, message }),
            Outcome::Failed(failure) => Err(match failure.code {
                // Codes that no local file causes.
                ErrorCode::IllegalOperation | ErrorCode::OptionRefused => {
                    JobError::ProtocolError(failure)
                }
                _ => {
                    let reason = local::plain(failure.message);
                    JobError::LocalFile(format!("{}: {reason}", self.job.file))
                }
            }),
            Outcome::TimedOut => Err(JobError::NoAnswer(format!(
                "{peer} fell silent after {bytes} bytes"
            ))),
        }
    }

    /// Why the file was moved without options, though some were asked for.
    fn fallback(&self, attempt: &Attempt) -> Option<String> {
        if attempt.has_options || self.offer == Offer::default() {
            return None;
        }
        Some(self.refusal.as_ref().map_or_else(
            || "the server kept silent".to_owned(),
            |refusal| format!("the server refused them ({refusal})"),
        ))
    }
}

/// What a server is told when the user breaks a transfer off.
const INTERRUPTED: &str = "Interrupted by the user";

/// The job's offer. If the size is wanted, `tsize` is 0 for a get, and the file's size
/// for a put if that is known.
fn with_size(job: &Job<'_>) -> Result<Offer, JobError> {
    let mut offer = job.offer.clone();
    if job.with_size {
        offer.tsize = match job.file {
            LocalFile::Get(_) => Some(0),
            // The size of text on the wire isn't known before it has been sent.
            LocalFile::Put(_) if job.mode == Mode::Netascii => None,
            LocalFile::Put(file) => {
                let reader = file.reader(0).map_err(JobError::LocalFile)?;
                Some(reader.size()).filter(|&size| size != UNKNOWN_SIZE)
            }
        };
    }
    Ok(offer)
}
