//! What the service manager is told (`sd_notify(3)`): ready, stopping, alive.
//!
//! Only where the environment asks for it. The socket is connected before the process
//! is confined, and stays connected. Must not: read the clock or wait for the manager.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant};

use log::debug;
use nix::errno::Errno;

use super::privileges::words;

/// What the environment says of the manager and its sockets (`sd_notify(3)`,
/// `sd_listen_fds(3)`).
const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// Keeps from `command` what the environment says of the manager: it is meant for this
/// process alone.
pub fn hide_manager(command: &mut Command) {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
}

/// The manager's socket, and when it wants to hear from us.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    watchdog: Option<Watchdog>,
}

/// A sign of life that is due again and again.
#[derive(Debug, PartialEq, Eq)]
struct Watchdog {
    interval: Duration,
    next: Instant,
}

impl Notifier {
    /// The manager that `NOTIFY_SOCKET` names, with the watchdog that
    /// `WATCHDOG_USEC` (microseconds) asks for; `None` without a manager.
    ///
    /// # Errors
    /// One line that names the variable which can't be followed.
    pub fn from_environment(now: Instant) -> Result<Option<Self>, String> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let socket = connect(&name).map_err(|error| {
            let name = name.display();
            // Without the number that the library puts after the words.
            let errno = error.raw_os_error().map(Errno::from_raw);
            let reason = errno.map_or_else(|| error.to_string(), words);
            format!(
                "cannot reach the service manager at NOTIFY_SOCKET={name}: {reason}; leave that \
                 variable to the manager, or unset it"
            )
        })?;
        let interval = match env::var_os("WATCHDOG_USEC") {
            Some(text) if is_meant(env::var_os("WATCHDOG_PID")) => Some(half_of(&text)?),
            _ => None,
        };
        let watchdog = interval.map(|interval| Watchdog {
            interval,
            next: now + interval,
        });
        Ok(Some(Self { socket, watchdog }))
    }

    /// Requests are served from now on; `status` says which, in one line.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun; `status` says what is left, in one line.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// When the next sign of life is due.
    pub fn next_sign(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Gives the sign of life, if it is due: then returns the time until the next.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Duration> {
        let watchdog = self.watchdog.as_mut().filter(|it| it.next <= now)?;
        let interval = watchdog.interval;
        watchdog.next = now + interval;
        self.send("WATCHDOG=1");
        Some(interval)
    }

    /// A manager that is too busy to listen must not stop the server.
    fn send(&self, state: &str) {
        if let Err(error) = self.socket.send(state.as_bytes()) {
            debug!("cannot notify the service manager: {error}");
        }
    }
}

fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::other("expected a path or @NAME")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a variable is meant for us: one for process `pid`, or for any process if
/// there is none.
pub(super) fn is_meant(pid: Option<OsString>) -> bool {
    pid.is_none_or(|pid| pid == std::process::id().to_string().as_str())
}

/// Half the time allowed, so that a late sign of life isn't a missing one.
fn half_of(microseconds: &OsString) -> Result<Duration, String> {
    let number = microseconds.to_str().and_then(|text| text.parse().ok());
    match number.map(|number| Duration::from_micros(number) / 2) {
        // Shorter is no watchdog but a busy loop.
        Some(half) if half >= Duration::from_millis(1) => Ok(half),
        _ => Err(format!(
            "WATCHDOG_USEC={} is no time to keep to: expected microseconds, at least 2000",
            microseconds.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_hears_from_us_twice_in_its_time() {
        for (text, half) in [
            ("30000000", Ok(Duration::from_secs(15))),
            ("2000", Ok(Duration::from_millis(1))),
            ("1999", Err(())),
            ("0", Err(())),
            ("-1", Err(())),
            ("30s", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(half_of(&text.into()).map_err(drop), half, "{text}");
        }
    }

    #[test]
    fn a_sign_is_given_when_it_is_due() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let start = crate::host::clock::now();
        let second = Duration::from_secs(1);
        let mut notifier = Notifier {
            socket: ours,
            watchdog: Some(Watchdog {
                interval: second,
                next: start + second,
            }),
        };
        let mut buffer = [0; 64];
        for (after, given) in [(999, false), (1000, true), (1999, false), (2500, true)] {
            let next = notifier.handle_timeout(start + Duration::from_millis(after));
            assert_eq!(next, given.then_some(second), "{after}");
            let said = theirs.recv(&mut buffer).ok().map(|len| &buffer[..len]);
            assert_eq!(said, given.then_some(&b"WATCHDOG=1"[..]), "{after}");
        }
        assert_eq!(
            notifier.next_sign(),
            Some(start + Duration::from_millis(3500))
        );
    }

    #[test]
    fn only_paths_and_abstract_names_are_sockets() {
        for name in ["", "notify", "vsock:2:1234", "/no/such/socket"] {
            assert!(connect(&name.into()).is_err(), "{name}");
        }
    }
}
