//! The processes that serve on one set of sockets, one after the other: mostly a single
//! one, and while it is replaced those that finish their transfers.
//!
//! The oldest reads the sockets; each passes on to the next what isn't its own. When one
//! ends, its neighbours are joined. Must not: start a process, or wait for one.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::Instant;

use log::warn;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::channel::{self, large_pair};
use super::worker::{ALIVE, HEAR, LISTEN, PING, READY, REPLACED};
use crate::file::reason;

/// Without descriptors.
pub(super) const NONE: &[OwnedFd] = &[];

/// Messages of a process that are taken in a turn.
const MESSAGES: usize = 16;

/// A set of sockets, and who serves on them.
#[derive(Debug)]
pub(super) struct Slot {
    /// The oldest first.
    pub(super) processes: Vec<Process>,
    /// Never closed: then the kernel shares clients out as before.
    pub(super) sockets: Vec<OwnedFd>,
    /// When the last process was started.
    pub(super) started: Option<Instant>,
}

/// One of the processes.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) channel: OwnedFd,
    pub(super) stage: Stage,
    /// It may say something.
    pub(super) is_heard: bool,
    /// It wasn't ready when all were told to read their files again.
    pub(super) misses_reload: bool,
    /// When it is killed unless it has said that it is ready, or alive.
    pub(super) answer_by: Option<Instant>,
}

/// What a process does.
#[derive(Debug)]
pub(super) enum Stage {
    /// It isn't ready. Once it is, the one before it gets this socket, to pass on what
    /// isn't its own.
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
            misses_reload: false,
            answer_by: None,
        }
    }

    /// Gives it an order; false if that is lost.
    pub(super) fn tell(&self, order: &str, descriptors: &[OwnedFd]) -> bool {
        let told = channel::send(&self.channel, order, descriptors);
        if let Err(error) = &told
            // One that has ended is about to be taken out.
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let (pid, reason) = (self.pid, reason(error));
            warn!("process {pid} cannot be given the order {order}: {reason}");
        }
        told.is_ok()
    }

    /// The same with one that it can't work without.
    fn tell_or_kill(&self, order: &str, descriptors: &[OwnedFd]) {
        if !self.tell(order, descriptors) {
            self.kill();
        }
    }

    /// Has it say by then that it is alive, unless it has yet to say something.
    pub(super) fn ask(&mut self, by: Instant) {
        if self.answer_by.is_none() {
            self.tell(PING, NONE);
            self.answer_by = Some(by);
        }
    }

    pub(super) fn kill(&self) {
        // One that has ended is still there to be buried.
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

impl Slot {
    pub(super) const fn new(sockets: Vec<OwnedFd>) -> Self {
        Self {
            processes: Vec::new(),
            sockets,
            started: None,
        }
    }

    /// Nobody takes new requests, or is about to.
    pub(super) fn is_vacant(&self) -> bool {
        let is_replaced = |it: &Process| matches!(it.stage, Stage::Replaced);
        self.processes.iter().all(is_replaced)
    }

    /// Somebody is about to.
    pub(super) fn is_starting(&self) -> bool {
        let is_starting = |it: &Process| matches!(it.stage, Stage::Starting(_));
        self.processes.iter().any(is_starting)
    }

    /// A process that is yet to run, and finds its first orders in the `channel`.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(super) fn prepare(&self, channel: &OwnedFd) -> io::Result<Stage> {
        if self.processes.is_empty() {
            channel::send(channel, LISTEN, NONE)?;
            return Ok(Stage::Starting(None));
        }
        let (from, to) = large_pair()?;
        channel::send(channel, HEAR, &[to])?;
        Ok(Stage::Starting(Some(from)))
    }

    /// Takes in what the process at this place says; true if it is ready now.
    pub(super) fn hear(&mut self, place: usize) -> bool {
        let process = &mut self.processes[place];
        let is_starting = matches!(process.stage, Stage::Starting(_));
        let mut is_ready = false;
        for _ in 0..MESSAGES {
            match channel::receive_text(&process.channel).as_deref() {
                Ok(READY) => is_ready = true,
                Ok(ALIVE) if !is_starting => process.answer_by = None,
                Ok("") => process.is_heard = false,
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
            let before = &mut self.processes[before];
            before.stage = Stage::Replaced;
            before.tell(REPLACED, &[socket]);
        }
        true
    }

    /// Takes out a process that has ended, if it is one of these, and joins its
    /// neighbours.
    ///
    /// # Errors
    /// Whatever the kernel says to joining them.
    pub(super) fn take_out(&mut self, pid: Pid) -> io::Result<Option<Process>> {
        let Some(place) = self.processes.iter().position(|it| it.pid == pid) else {
            return Ok(None);
        };
        let gone = self.processes.remove(place);
        let (older, newer) = self.processes.split_at_mut(place);
        match (older.last(), newer.first_mut()) {
            (None, Some(newer)) => newer.tell_or_kill(LISTEN, NONE),
            (Some(older), Some(newer)) => {
                let (from, to) = large_pair()?;
                newer.tell_or_kill(HEAR, &[to]);
                if let Stage::Starting(socket) = &mut newer.stage {
                    *socket = Some(from);
                } else {
                    older.tell(REPLACED, &[from]);
                }
            }
            (_, None) => {}
        }
        Ok(Some(gone))
    }
}

#[cfg(test)]
mod tests {
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
        // What was given is closed; alive isn't ready yet.
        assert!(channel::receive(&kept).unwrap().is_none());
        assert!(slot.processes[0].answer_by.is_some());
        assert!(slot.hear(0));
        assert!(slot.processes[0].answer_by.is_none());
        drop(theirs);
        assert!(!slot.hear(0));
        assert!(!slot.processes[0].is_heard);
    }
}
