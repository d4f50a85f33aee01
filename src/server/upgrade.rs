//! Replaces the supervisor's running program by a new one: first tried as another
//! process with the same command line, then executed.
//!
//! Must not: touch the processes that serve.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::rlim_t;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, dup2_stdin};

use super::cli::{Args, Part};
use super::opened::identity;
use super::slot::Slot;
use super::{handover, logging};
use crate::file::reason;
use crate::host::{hide_manager, with_inherited_open_files};
use crate::wire::escape::escape;

/// How long a program may take to say that it could take our place.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes that are read of its output.
const MAX_SAID: u64 = 64 * 1024;

/// Stands before the status of a process that exited and wasn't ended by a signal.
pub(super) const BY_ITSELF: &str = "status ";

/// The same for success.
const SUCCESS: &str = "status 0";

/// The line by which a program says that it can take over.
const CAN_TAKE_OVER: &str = "it can take over";

/// The running program, even if it was removed or replaced.
const RUNNING: &str = "/proc/self/exe";

/// The program's path, and its arguments.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) words: Vec<OsString>,
}

/// Whether `path` is the program that is running, as far as can be told.
fn is_ours(path: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
    match (file(path), file(Path::new(RUNNING))) {
        (Ok(found), Ok(running)) => found == running,
        (found, _) => found.is_ok(),
    }
}

/// The absolute path that `name` (argv[0]) stands for, if the running program lies there.
fn started_by(name: &Path) -> Option<PathBuf> {
    let found = if name.components().count() > 1 {
        path::absolute(name).ok().filter(|path| path.is_file())
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).map(|directory| directory.join(name));
        let mut absolute = places.filter_map(|place| path::absolute(place).ok());
        absolute.find(|path| path.is_file())
    };
    // The caller chooses argv[0], which may name another program.
    found.filter(|path| is_ours(path))
}

/// Where the running program lies, or lay if it was replaced since it was started.
fn running() -> Option<PathBuf> {
    env::current_exe().ok().map(without_mark)
}

/// `path` without what Linux adds to the path of a program that has been removed.
fn without_mark(path: PathBuf) -> PathBuf {
    let removed = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    match removed {
        Some(removed) if !path.exists() => PathBuf::from(OsStr::from_bytes(removed)),
        _ => path,
    }
}

impl Program {
    /// The path this program was started by, looked up again at an upgrade, and its
    /// arguments without the `part`.
    pub(super) fn own(part: Part) -> Self {
        let mut words = env::args_os();
        let name = PathBuf::from(words.next().unwrap_or_default());
        let path = match part {
            // The program before this one passed on its own path.
            Part::Resumed => name,
            _ => started_by(&name).or_else(running).unwrap_or(name),
        };
        Self {
            path,
            words: words.skip(usize::from(part != Part::First)).collect(),
        }
    }

    /// The command that runs what lies at the path now, with the same arguments, as this
    /// part.
    fn command(&self, part: &str) -> Command {
        self.command_of(&self.path, part)
    }

    /// The same for the running program: another one at its path has yet to be tried.
    pub(super) fn running_command(&self, part: &str) -> Command {
        if is_ours(&self.path) {
            return self.command(part);
        }
        self.command_of(Path::new(RUNNING), part)
    }

    fn command_of(&self, program: &Path, part: &str) -> Command {
        let mut command = Command::new(program);
        command.arg0(&self.path).arg(part).args(&self.words);
        command
    }

    /// Executes it in place of the running program, with the limit `open_files` that this
    /// one was started with. A trial must have passed, and no process may be starting.
    pub(super) fn execute(&self, slots: &[Slot], open_files: rlim_t) -> Result<Infallible, String> {
        let leave = || {
            Ok((
                handover::leave(slots)?,
                io::stdin().as_fd().try_clone_to_owned()?,
            ))
        };
        let (state, input) = leave().map_err(|error: io::Error| reason(&error))?;
        let mut command = self.command(&Part::Resumed.word(0));
        command
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::from(state));
        let error = with_inherited_open_files(open_files, || command.exec());
        // A failed exec leaves the handover socket as standard input and SIGPIPE at its
        // default, which would kill us once the log's reader is gone: restore the
        // first, block the second.
        let _ = dup2_stdin(&input);
        let _ = SigSet::from(Signal::SIGPIPE).thread_block();
        Err(reason(&error))
    }
}

/// The state of an upgrade.
#[derive(Debug)]
pub(super) enum Upgrade {
    Unwanted,
    Wanted,
    Tried(Trial),
    Passed,
}

/// A process that shows whether the program understands the command line.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) pid: Pid,
    said: UnixStream,
    /// When it is killed.
    pub(super) kill_at: Option<Instant>,
    /// An upgrade was asked for since: the program may have changed.
    pub(super) is_outdated: bool,
}

impl Trial {
    /// # Errors
    /// The program can't be run, or one more process isn't allowed.
    pub(super) fn start(program: &Program, now: Instant) -> io::Result<Self> {
        let (said, theirs) = UnixStream::pair()?;
        said.set_nonblocking(true)?;
        let mut command = program.command(&Part::Trial.word(0));
        hide_manager(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self {
            pid: Pid::from_raw(child.id().cast_signed()),
            said,
            kill_at: Some(now + PATIENCE),
            is_outdated: false,
        })
    }

    pub(super) fn kill(&mut self) {
        self.kill_at = None;
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// The reason if it has failed; `how` is its exit status or signal.
    pub(super) fn failure(self, how: &str) -> Option<String> {
        if self.kill_at.is_none() {
            return Some(format!("it doesn't end within {} s", PATIENCE.as_secs()));
        }
        // Its output is in the socket by now. We don't wait for processes it left
        // behind.
        let mut said = Vec::new();
        let _ = self.said.take(MAX_SAID).read_to_end(&mut said);
        let mut lines = said.split(|&byte| byte == b'\n');
        // Another program may exit with success whatever its arguments are.
        if how == SUCCESS && lines.clone().any(|line| line == CAN_TAKE_OVER.as_bytes()) {
            return None;
        }
        Some(match lines.next().unwrap_or_default() {
            [] if how == SUCCESS => {
                "it doesn't say that it can: another program, or an older version".to_owned()
            }
            [] => format!("it ends with {how}"),
            line => format!("it says \"{}\"", escape(line)),
        })
    }
}

/// Whether a supervisor could start with `args`, as far as can be told without sockets.
///
/// # Errors
/// One line that says what is in the way.
pub fn try_out(args: &Args) -> Result<(), Box<dyn Error>> {
    identity(args)?;
    logging::start(args, false)?;
    writeln!(io::stderr(), "{CAN_TAKE_OVER}")?;
    Ok(())
}
