//! What a supervisor leaves to the program that takes its place: the listen sockets, and
//! the processes with their channels.
//!
//! The descriptors lie in a socket, which becomes standard input, until they are taken
//! out. Both programs must agree on the texts, though they may be of two versions. Must
//! not: execute the program.

use std::io;
use std::os::fd::OwnedFd;
use std::slice;

use nix::unistd::Pid;

use super::channel::{self, Message, large_pair};
use super::slot::{Process, Slot, Stage};

/// The sockets of a slot; its processes come next, each with its channel.
const SLOT: &str = "slot";
/// A process that takes new requests; its number comes next.
const SERVING: &str = "serving";
/// One that finishes its transfers.
const REPLACED: &str = "replaced";

/// The socket in which everything lies; no process may be on its way to be ready.
///
/// # Errors
/// Whatever the kernel says.
pub(super) fn leave(slots: &[Slot]) -> io::Result<OwnedFd> {
    let (from, to) = large_pair()?;
    for slot in slots {
        channel::send(&from, SLOT, &slot.sockets)?;
        for process in &slot.processes {
            let stage = match process.stage {
                Stage::Replaced => REPLACED,
                Stage::Serving | Stage::Starting(_) => SERVING,
            };
            let text = format!("{stage} {}", process.pid);
            channel::send(&from, &text, slice::from_ref(&process.channel))?;
        }
    }
    Ok(to)
}

/// What the program that was here before has left.
///
/// # Errors
/// One line: there was none.
pub(super) fn resume() -> Result<Vec<Slot>, String> {
    let mut slots: Vec<Slot> = Vec::new();
    while let Ok(Some(Message { text, descriptors })) = channel::receive(&io::stdin()) {
        if text == SLOT {
            slots.push(Slot::new(descriptors));
            continue;
        }
        let (stage, pid) = match text.split_once(' ') {
            Some((SERVING, pid)) => (Stage::Serving, pid),
            Some((REPLACED, pid)) => (Stage::Replaced, pid),
            _ => continue,
        };
        if let (Some(slot), Ok(pid), Some(channel)) = (
            slots.last_mut(),
            pid.parse(),
            descriptors.into_iter().next(),
        ) {
            slot.processes.push(Process {
                pid: Pid::from_raw(pid),
                channel,
                stage,
                is_heard: true,
                misses_reload: false,
            });
        }
    }
    if slots.is_empty() {
        return Err("cannot take over: there is nothing to take over; start with --workers".into());
    }
    Ok(slots)
}
