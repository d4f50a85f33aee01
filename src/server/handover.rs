//! What a supervisor hands over to the program that replaces it: the listen sockets, the
//! status ports, and the processes with their channels.
//!
//! The descriptors wait in a socket, which becomes standard input, until they are taken
//! over. Both programs must agree on the texts, though they may be of different
//! versions. Must not: execute the program.

use std::io;
use std::os::fd::OwnedFd;
use std::slice;

use log::warn;
use nix::unistd::Pid;

use super::channel::{self, Message, large_pair};
use super::slot::{Process, Slot, Stage};
use super::worker::REPLACED;
use crate::file::reason;
use crate::host::Inherited;
use crate::status::Listener;

/// The sockets of a slot; its processes come next, each with its channel.
const SLOT: &str = "slot";
/// A process that takes new requests; its process ID follows, as after `REPLACED`, a
/// process that finishes its transfers.
const SERVING: &str = "serving";
/// A replaced process that can't relay what isn't its own, and was told to end.
const STRANDED: &str = "stranded";

/// The socket that holds everything; no process may be starting.
///
/// # Errors
/// No descriptor is left; or more processes and sockets than the socket's buffer holds
/// (`WouldBlock`).
pub(super) fn leave(slots: &[Slot]) -> io::Result<OwnedFd> {
    let (from, to) = large_pair()?;
    for slot in slots {
        channel::send(&from, SLOT, &slot.descriptors())?;
        for process in &slot.processes {
            let stage = match process.stage {
                Stage::Replaced if process.is_stranded => STRANDED,
                Stage::Replaced => REPLACED,
                Stage::Serving | Stage::Starting(_) => SERVING,
            };
            let text = format!("{stage} {}", process.pid);
            channel::send(&from, &text, slice::from_ref(&process.channel))?;
        }
    }
    Ok(to)
}

/// Takes over what the program before this one has left.
///
/// # Errors
/// One line: it has left nothing.
pub(super) fn resume() -> Result<Vec<Slot>, String> {
    let mut slots: Vec<Slot> = Vec::new();
    loop {
        match channel::receive(&io::stdin()) {
            Ok(Some(message)) => {
                if let Err(lost) = take(message, &mut slots) {
                    warn!("cannot take over everything: {lost} is lost; allow more open files");
                }
            }
            Ok(None) => break,
            Err(error) => {
                if !slots.is_empty() {
                    warn!("cannot take over everything: {}", reason(&error));
                }
                break;
            }
        }
    }
    if slots.is_empty() {
        return Err("cannot take over: there is nothing to take over; start with --workers".into());
    }
    Ok(slots)
}

/// Adds a slot, or a process to the last slot; else says what is lost.
fn take(message: Message, slots: &mut Vec<Slot>) -> Result<(), String> {
    let Message {
        text,
        descriptors,
        is_whole,
    } = message;
    if text == SLOT {
        let Inherited {
            sockets, streams, ..
        } = Inherited::of(descriptors);
        let mut slot = Slot::new(sockets.into_iter().map(OwnedFd::from).collect());
        let status = streams.into_iter().next().map(Listener::resume).transpose();
        let is_whole = is_whole && status.is_ok();
        (slot.status, slot.is_whole) = (status.ok().flatten(), is_whole);
        slots.push(slot);
        let number = slots.len();
        return is_whole
            .then_some(())
            .ok_or_else(|| format!("a socket of worker {number}"));
    }
    let (stage, is_stranded, pid) = match text.split_once(' ') {
        Some((SERVING, pid)) => (Stage::Serving, false, pid),
        Some((REPLACED, pid)) => (Stage::Replaced, false, pid),
        Some((STRANDED, pid)) => (Stage::Replaced, true, pid),
        _ => return Err(format!("\"{text}\"")),
    };
    let (Some(slot), Ok(pid), Some(channel)) = (
        slots.last_mut(),
        pid.parse(),
        descriptors.into_iter().next(),
    ) else {
        return Err(format!("process {pid}"));
    };
    let pid = Pid::from_raw(pid);
    let mut process = Process::new(pid, channel, stage);
    process.is_stranded = is_stranded;
    slot.processes.push(process);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranded_process_is_still_one_for_the_next_program() {
        let process =
            |pid, stage| Process::new(Pid::from_raw(pid), channel::pair().unwrap().0, stage);
        let mut slot = Slot::new(Vec::new());
        slot.processes.push(process(1, Stage::Replaced));
        slot.processes[0].is_stranded = true;
        slot.processes.push(process(2, Stage::Replaced));
        slot.processes.push(process(3, Stage::Serving));
        let left = leave(&[slot]).unwrap();
        let mut slots = Vec::new();
        while let Ok(Some(message)) = channel::receive(&left) {
            take(message, &mut slots).unwrap();
        }
        let found = slots[0].processes.iter();
        let found: Vec<_> = found.map(|it| (it.pid.as_raw(), it.is_stranded)).collect();
        assert_eq!(found, [(1, true), (2, false), (3, false)]);
    }

    #[test]
    #[cfg(feature = "status")]
    fn a_status_port_and_its_file_belong_to_the_next_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let address = path.to_str().unwrap().parse().unwrap();
        let mut slot = Slot::new(vec![channel::pair().unwrap().0]);
        slot.status = Some(Listener::bind(&address).unwrap());
        // Executing a program drops nothing.
        let before = [slot];
        let left = leave(&before).unwrap();
        let mut slots = Vec::new();
        take(channel::receive(&left).unwrap().unwrap(), &mut slots).unwrap();
        assert_eq!(slots[0].sockets.len(), 1);
        let status = slots[0].status.as_ref().unwrap();
        assert_eq!(status.path(), Some(&*path));
        assert!(path.exists());
        drop(slots);
        assert!(!path.exists());
    }

    #[test]
    fn a_slot_that_lost_a_socket_is_told_from_the_others() {
        let message = |text: &str, is_whole| Message {
            text: text.to_owned(),
            descriptors: vec![channel::pair().unwrap().0],
            is_whole,
        };
        let mut slots = Vec::new();
        let lost = take(message(SLOT, false), &mut slots).unwrap_err();
        assert_eq!(lost, "a socket of worker 1");
        take(message("serving 1", true), &mut slots).unwrap();
        take(message(SLOT, true), &mut slots).unwrap();
        take(message("serving 2", true), &mut slots).unwrap();
        let whole: Vec<_> = slots.iter().map(|it| it.is_whole).collect();
        assert_eq!(whole, [false, true]);
        // The first slot's process still has all its sockets.
        assert!(slots.iter().all(|it| !it.is_vacant()));
    }
}
