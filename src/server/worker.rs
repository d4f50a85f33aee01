//! A worker: one of several processes on the same port. The supervisor hands it its
//! sockets and gives it orders over standard input.
//!
//! Must not: decide by itself when to read the listen sockets.

use std::env;
use std::ffi::CString;
use std::io::{self, Stdin};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use log::warn;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use super::WORKER;
use super::channel;
use crate::file::reason;
use crate::host::Inherited;

/// The supervisor's first message: the listen sockets come with it, and the status port's.
pub(super) const SOCKETS: &str = "sockets";
/// Read the listen sockets.
pub(super) const LISTEN: &str = "listen";
/// The socket that comes with this order delivers what an older process relays.
pub(super) const HEAR: &str = "hear";
/// A new process takes over; what isn't ours goes to the socket that comes with this
/// order.
pub(super) const REPLACED: &str = "replaced";
/// Like a first SIGTERM.
pub(super) const STOP: &str = "stop";
/// Stop at once.
pub(super) const END: &str = "end";
/// Answer `ALIVE`.
pub(super) const PING: &str = "ping";

/// A worker's first message: it can serve requests.
pub(super) const READY: &str = "ready";
/// The answer to `PING`.
pub(super) const ALIVE: &str = "alive";

/// What the supervisor wants.
#[derive(Debug)]
pub(super) enum Order {
    Listen,
    Hear(OwnedFd),
    Replaced(OwnedFd),
    Stop,
    End,
}

/// Our end of the channel.
#[derive(Debug)]
pub(super) struct Worker {
    channel: Stdin,
    has_ended: bool,
}

impl Worker {
    /// Takes over the sockets that the supervisor has for this process.
    ///
    /// # Errors
    /// One line: there is no supervisor.
    pub(super) fn take_over() -> Result<(Self, Inherited), String> {
        let worker = Self {
            channel: io::stdin(),
            has_ended: false,
        };
        keep_name();
        // The supervisor has blocked these. A helper is started before we take over
        // signals, and must not inherit the mask. SIGUSR2, which would end us, stays
        // blocked except while the helper is started.
        let blocked = [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGCHLD,
        ];
        let unblocked = SigSet::from_iter(blocked).thread_unblock();
        unblocked.map_err(|errno| format!("cannot unblock signals: {errno}"))?;
        let sockets = match channel::receive(&worker.channel) {
            Ok(Some(message)) if message.text == SOCKETS => message,
            _ => {
                return Err(
                    "cannot work for a supervisor: there is none; start with --workers".into(),
                );
            }
        };
        let inherited = Inherited::of(sockets.descriptors);
        // Otherwise it would serve only some addresses, or bind sockets of its own.
        if !sockets.is_whole || inherited.sockets.is_empty() {
            return Err(
                "cannot take over the supervisor's sockets: some are lost; allow more open files"
                    .into(),
            );
        }
        Ok((worker, inherited))
    }

    /// Watches the channel for orders.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn register(&self, registry: &Registry) -> io::Result<()> {
        let channel = self.channel.as_raw_fd();
        registry.register(&mut SourceFd(&channel), WORKER, Interest::READABLE)
    }

    /// Tells the supervisor `READY` or `ALIVE`.
    pub(super) fn say(&self, text: &str) {
        if let Err(error) = channel::send(&self.channel, text, &[] as &[OwnedFd]) {
            warn!("cannot tell the supervisor {text}: {}", reason(&error));
        }
    }

    /// The first order, sent before this process was started.
    ///
    /// # Errors
    /// One line: the order can't be followed.
    pub(super) fn first_order(&mut self) -> Result<Order, &'static str> {
        let order = self.next_order();
        order
            .filter(|it| matches!(it, Order::Listen | Order::Hear(_)))
            .ok_or("cannot take over from the process before this one: its socket is lost")
    }

    /// The next order, if there is one. If the supervisor is gone, `Stop`: nobody would
    /// restart us, and we would hold the port.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        while !self.has_ended {
            let message = match channel::receive(&self.channel) {
                Ok(Some(message)) => message,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(None) | Err(_) => {
                    self.has_ended = true;
                    return Some(Order::Stop);
                }
            };
            let socket = message.descriptors.into_iter().next();
            match (&*message.text, socket) {
                (LISTEN, _) => return Some(Order::Listen),
                (HEAR, Some(socket)) => return Some(Order::Hear(socket)),
                (REPLACED, Some(socket)) => return Some(Order::Replaced(socket)),
                (STOP, _) => return Some(Order::Stop),
                (END, _) => return Some(Order::End),
                (PING, _) => self.say(ALIVE),
                (text @ (HEAR | REPLACED), None) => {
                    warn!(
                        "cannot follow the supervisor's order {text}: its socket is lost; allow \
                         more open files"
                    );
                    if text == REPLACED {
                        // The new process can't begin before this one has ended.
                        return Some(Order::Stop);
                    }
                }
                // Perhaps the supervisor is of another version.
                (text, _) => warn!("cannot follow the supervisor's order {text}"),
            }
        }
        None
    }
}

/// Gives the process the name that `ps` shows for others of this program: one that was
/// started from `/proc/self/exe` would be "exe".
fn keep_name() {
    let program = env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    if let Ok(name) = CString::new(name.as_bytes()) {
        let _ = prctl::set_name(&name);
    }
}
