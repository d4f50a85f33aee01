//! The processes that serve on one set of sockets, one after the other: usually one,
//! and during a replacement also the older ones that finish their transfers.
//!
//! The oldest reads the sockets; each relays to the next what isn't its own. When one
//! ends, its neighbours are connected. Must not: start a process, or wait for one.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use log::{error, warn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::channel::{self, large_pair};
use super::worker::{ALIVE, HEAR, LISTEN, PING, READY, REPLACED};
use crate::file::reason;
use crate::status::Listener;

/// No descriptors.
pub(super) const NONE: &[OwnedFd] = &[];

/// The most messages of a process that are read in a turn.
const MESSAGES: usize = 16;

/// A set of sockets, and who serves on them.
#[derive(Debug)]
pub(super) struct Slot {
    /// The oldest first.
    pub(super) processes: Vec<Process>,
    /// Never closed, so that the kernel keeps sending each client to the same socket.
    pub(super) sockets: Vec<OwnedFd>,
    /// The status port, if there is one. Kept open as well, so that whoever asks while no
    /// process is there waits for the next.
    pub(super) status: Option<Listener>,
    /// False if a socket was lost: a new process would serve fewer addresses than the
    /// last.
    pub(super) is_whole: bool,
    /// When the last process was started.
    pub(super) started: Option<Instant>,
}

/// One of the processes.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) channel: OwnedFd,
    pub(super) stage: Stage,
    /// Its channel is still open.
    pub(super) is_heard: bool,
    /// It wasn't ready when all were told to reload their files.
    pub(super) needs_reload: bool,
    /// It is killed at this time unless it has said by then that it is ready, or alive.
    pub(super) answer_by: Option<Instant>,
    /// It was replaced, and is killed at this time.
    pub(super) end_by: Option<Instant>,
    /// It can't relay what isn't its own: its successor reads the sockets once it has
    /// ended.
    pub(super) is_stranded: bool,
}

/// What a process is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// It isn't ready. Once it is, its predecessor gets this socket, to relay over it
    /// what isn't its own.
    Starting(Option<OwnedFd>),
    /// It takes new requests.
    Serving,
    /// It finishes its transfers.
    Replaced,
}

impl Process {
    pub(super) const fn new(pid: Pid, channel: OwnedFd, stage: Stage) -> Self {
        Self {
            pid,
            channel,
            stage,
            is_heard: true,
            needs_reload: false,
            answer_by: None,
            end_by: None,
            is_stranded: false,
        }
    }

    /// Gives the process an order; false if the order couldn't be delivered.
    pub(super) fn tell(&self, order: &str, descriptors: &[OwnedFd]) -> bool {
        let told = channel::send(&self.channel, order, descriptors);
        if let Err(error) = &told
            // A process that has ended is about to be removed.
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let (pid, reason) = (self.pid, reason(error));
            warn!("process {pid} cannot be given the order {order}: {reason}");
        }
        told.is_ok()
    }

    /// The same, but kills a process that doesn't get the order: it can't work without
    /// it.
    fn tell_or_kill(&self, order: &str, descriptors: &[OwnedFd]) {
        if !self.tell(order, descriptors) {
            self.kill();
        }
    }

    /// Asks it to say by then that it is alive, unless an answer is due already.
    pub(super) fn ask(&mut self, by: Instant) {
        if self.answer_by.is_none() {
            self.tell(PING, NONE);
            self.answer_by = Some(by);
        }
    }

    pub(super) fn kill(&self) {
        // A process that has ended stays a zombie until it is reaped.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Tells it to drain and to relay everything else over `socket`. If the order can't
    /// be delivered, it is stopped (SIGTERM).
    fn replace(&mut self, socket: io::Result<OwnedFd>) {
        self.stage = Stage::Replaced;
        if !socket.is_ok_and(|it| self.tell(REPLACED, &[it])) {
            self.is_stranded = true;
            self.end_by = None;
            let _ = kill(self.pid, Signal::SIGTERM);
        }
    }

    /// If it is replaced, sets the time by which it must have ended: within
    /// `transfers`, or within `stranded` if it can't relay.
    pub(super) fn limit(&mut self, now: Instant, transfers: Duration, stranded: Duration) {
        if matches!(self.stage, Stage::Replaced) && self.end_by.is_none() {
            let wait = if self.is_stranded {
                stranded
            } else {
                transfers
            };
            self.end_by = Some(now + wait);
        }
    }

    /// The deadline that it has missed, if any; each is reported once.
    pub(super) fn missed(&mut self, now: Instant) -> Option<&'static str> {
        let is_over = |at: &mut Instant| *at <= now;
        if self.answer_by.take_if(is_over).is_some() {
            return Some(match self.stage {
                Stage::Starting(_) => "isn't ready in time",
                Stage::Serving | Stage::Replaced => "doesn't answer",
            });
        }
        let has_missed = self.end_by.take_if(is_over).is_some();
        has_missed.then_some("doesn't end")
    }
}

impl Slot {
    pub(super) const fn new(sockets: Vec<OwnedFd>) -> Self {
        Self {
            processes: Vec::new(),
            sockets,
            status: None,
            is_whole: true,
            started: None,
        }
    }

    /// All that a process is handed.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let status = self.status.iter().map(AsRawFd::as_raw_fd);
        let sockets = self.sockets.iter().map(AsRawFd::as_raw_fd);
        sockets.chain(status).collect()
    }

    /// No process serves new requests or is starting.
    pub(super) fn is_vacant(&self) -> bool {
        let is_replaced = |it: &Process| matches!(it.stage, Stage::Replaced);
        self.processes.iter().all(is_replaced)
    }

    /// A process is starting.
    pub(super) fn is_starting(&self) -> bool {
        let is_starting = |it: &Process| matches!(it.stage, Stage::Starting(_));
        self.processes.iter().any(is_starting)
    }

    /// The stage of a process that is about to be started. Sends its first orders into
    /// the `channel`, where it finds them.
    ///
    /// # Errors
    /// No descriptor is left, or the orders don't fit into the channel.
    pub(super) fn prepare(&self, channel: &OwnedFd) -> io::Result<Stage> {
        if self.processes.is_empty() {
            channel::send(channel, LISTEN, NONE)?;
            return Ok(Stage::Starting(None));
        }
        let (from, to) = large_pair()?;
        channel::send(channel, HEAR, &[to])?;
        Ok(Stage::Starting(Some(from)))
    }

    /// Reads the messages of the process at this place; true if it has just become
    /// ready.
    pub(super) fn hear(&mut self, place: usize) -> bool {
        let process = &mut self.processes[place];
        let is_starting = matches!(process.stage, Stage::Starting(_));
        let mut is_ready = false;
        for _ in 0..MESSAGES {
            match channel::receive_text(&process.channel).as_deref() {
                Ok(READY) => is_ready = true,
                Ok(ALIVE) if !is_starting => process.answer_by = None,
                Ok("") => {
                    process.is_heard = false;
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    process.is_heard &= error.kind() == io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        is_ready && self.is_ready(place)
    }

    fn is_ready(&mut self, place: usize) -> bool {
        let process = &mut self.processes[place];
        let Stage::Starting(_) = process.stage else {
            return false;
        };
        process.answer_by = None;
        if let Stage::Starting(Some(socket)) = mem::replace(&mut process.stage, Stage::Serving)
            && let Some(before) = place.checked_sub(1)
        {
            self.processes[before].replace(Ok(socket));
        }
        true
    }

    /// Removes a process that has ended, if it is one of these, and connects its
    /// neighbours with the socket pair that `joint` makes.
    pub(super) fn take_out(
        &mut self,
        pid: Pid,
        joint: impl FnOnce() -> io::Result<(OwnedFd, OwnedFd)>,
    ) -> Option<Process> {
        let place = self.processes.iter().position(|it| it.pid == pid)?;
        let gone = self.processes.remove(place);
        let (older, newer) = self.processes.split_at_mut(place);
        match (older.last_mut(), newer.first_mut()) {
            (None, Some(newer)) => newer.tell_or_kill(LISTEN, NONE),
            (Some(older), Some(newer)) => {
                let from = joint().map(|(from, to)| {
                    newer.tell_or_kill(HEAR, &[to]);
                    from
                });
                if let Err(error) = &from {
                    let (older, newer) = (older.pid, newer.pid);
                    let reason = reason(error);
                    error!("processes {older} and {newer} cannot be joined: {reason}");
                }
                match (&mut newer.stage, from) {
                    (Stage::Starting(socket), Ok(from)) => *socket = Some(from),
                    // It couldn't take over.
                    (Stage::Starting(_), Err(_)) => newer.kill(),
                    (_, from) => older.replace(from),
                }
            }
            (_, None) => {}
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use super::*;
    use crate::host::clock;

    #[test]
    fn a_talkative_process_is_heard_in_turns_and_hands_nothing_over() {
        let (ours, theirs) = channel::pair().unwrap();
        let (given, kept) = channel::pair().unwrap();
        let mut slot = Slot::new(Vec::new());
        let stage = Stage::Starting(None);
        let mut process = Process::new(Pid::this(), ours, stage);
        process.answer_by = Some(clock::now());
        slot.processes.push(process);
        for _ in 0..MESSAGES - 1 {
            channel::send(&theirs, "nonsense", NONE).unwrap();
        }
        channel::send(&theirs, ALIVE, &[given]).unwrap();
        channel::send(&theirs, READY, NONE).unwrap();
        assert!(!slot.hear(0));
        // The descriptor that came along is closed; `ALIVE` doesn't mean ready.
        assert!(channel::comes_true(|| matches!(
            channel::receive(&kept),
            Ok(None)
        )));
        assert!(slot.processes[0].answer_by.is_some());
        assert!(slot.hear(0));
        assert!(slot.processes[0].answer_by.is_none());
        drop(theirs);
        assert!(channel::comes_true(|| {
            assert!(!slot.hear(0));
            !slot.processes[0].is_heard
        }));
    }

    /// A process that any signal ends, and one end of its channel.
    fn sleeper(stage: Stage) -> (Child, Process, OwnedFd) {
        let child = Command::new("sleep").arg("100").spawn().unwrap();
        let (ours, theirs) = channel::pair().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, Process::new(pid, ours, stage), theirs)
    }

    /// Fills the channel of a process that reads nothing.
    fn deafen(process: &Process) {
        while channel::send(&process.channel, "nonsense", NONE).is_ok() {}
    }

    fn ended_by(mut child: Child) -> Option<i32> {
        child.wait().unwrap().signal()
    }

    const TERM: Option<i32> = Some(Signal::SIGTERM as i32);
    const KILL: Option<i32> = Some(Signal::SIGKILL as i32);

    #[test]
    fn a_replaced_process_that_cannot_be_told_to_drain_is_stopped_and_then_killed() {
        let seconds = Duration::from_secs;
        let now = clock::now();
        for is_deaf in [false, true] {
            let mut slot = Slot::new(Vec::new());
            let (old, process, _kept) = sleeper(Stage::Serving);
            slot.processes.push(process);
            if is_deaf {
                deafen(&slot.processes[0]);
            }
            let socket = large_pair().unwrap().0;
            let (ours, theirs) = channel::pair().unwrap();
            let new = Process::new(Pid::this(), ours, Stage::Starting(Some(socket)));
            slot.processes.push(new);
            channel::send(&theirs, READY, NONE).unwrap();
            assert!(slot.hear(1));
            for process in &mut slot.processes {
                process.limit(now, seconds(600), seconds(8));
            }
            let ends: Vec<_> = slot.processes.iter().map(|it| it.end_by).collect();
            let wait = if is_deaf { seconds(8) } else { seconds(600) };
            assert_eq!(ends, [Some(now + wait), None]);
            let process = &mut slot.processes[0];
            assert_eq!(process.missed(now), None);
            assert_eq!(process.missed(now + wait), Some("doesn't end"));
            if !is_deaf {
                process.kill();
            }
            assert_eq!(ended_by(old), if is_deaf { TERM } else { KILL });
        }
    }

    #[test]
    fn neighbours_that_cannot_be_joined_dont_wait_for_each_other() {
        let fails = || Err(io::Error::from_raw_os_error(24));
        for is_ready in [false, true] {
            let mut slot = Slot::new(Vec::new());
            let stage = if is_ready {
                Stage::Serving
            } else {
                Stage::Starting(None)
            };
            let (older, first, _kept) = sleeper(Stage::Replaced);
            let (newer, last, _kept) = sleeper(stage);
            let (ours, _theirs) = channel::pair().unwrap();
            let gone = Process::new(Pid::this(), ours, Stage::Replaced);
            slot.processes.extend([first, gone, last]);
            assert!(slot.take_out(Pid::this(), fails).is_some());
            assert!(slot.take_out(Pid::this(), fails).is_none());
            assert_eq!(slot.processes[0].is_stranded, is_ready);
            slot.processes[usize::from(is_ready)].kill();
            // The new process that can't take over, or the old one that is in its way.
            let (ended, killed) = if is_ready {
                (older, newer)
            } else {
                (newer, older)
            };
            assert_eq!(ended_by(ended), if is_ready { TERM } else { KILL });
            assert_eq!(ended_by(killed), KILL);
        }
    }

    #[test]
    fn a_process_that_is_not_ready_is_told_from_one_that_does_not_answer() {
        let now = clock::now();
        for (stage, text) in [
            (Stage::Starting(None), "isn't ready in time"),
            (Stage::Serving, "doesn't answer"),
            (Stage::Replaced, "doesn't answer"),
        ] {
            let (ours, _theirs) = channel::pair().unwrap();
            let mut process = Process::new(Pid::this(), ours, stage);
            process.ask(now);
            assert_eq!(process.missed(now), Some(text));
            assert_eq!(process.missed(now), None);
        }
    }
}
