//! The processes that serve on one set of sockets, one after the other: mostly a single
//! one, and while it is replaced those that finish their transfers.
//!
//! The oldest reads the sockets; each passes on to the next what isn't its own. When one
//! ends, its neighbours are joined. Must not: start a process, or wait for one.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::unistd::Pid;

use super::channel::{self, large_pair};
use super::worker::{HEAR, LISTEN, READY, REPLACED};

/// Without descriptors.
const NONE: &[OwnedFd] = &[];

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
        let mut is_ready = false;
        loop {
            match channel::receive(&process.channel) {
                Ok(Some(message)) => is_ready |= message.text == READY,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => {
                    process.is_heard = false;
                    break;
                }
            }
        }
        is_ready && self.is_ready(place)
    }

    fn is_ready(&mut self, place: usize) -> bool {
        let stage = &mut self.processes[place].stage;
        let Stage::Starting(_) = stage else {
            return false;
        };
        if let Stage::Starting(Some(socket)) = std::mem::replace(stage, Stage::Serving)
            && let Some(before) = place.checked_sub(1)
        {
            let before = &mut self.processes[before];
            before.stage = Stage::Replaced;
            // One that has ended is about to be taken out.
            let _ = channel::send(&before.channel, REPLACED, &[socket]);
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
            (None, Some(newer)) => {
                let _ = channel::send(&newer.channel, LISTEN, NONE);
            }
            (Some(older), Some(newer)) => {
                let (from, to) = large_pair()?;
                let _ = channel::send(&newer.channel, HEAR, &[to]);
                if let Stage::Starting(socket) = &mut newer.stage {
                    *socket = Some(from);
                } else {
                    let _ = channel::send(&older.channel, REPLACED, &[from]);
                }
            }
            (_, None) => {}
        }
        Ok(Some(gone))
    }
}
