//! The supervisor of several processes on one port. It starts them, restarts those that
//! end, replaces them on an upgrade, and keeps the listen sockets and the status ports
//! open throughout.
//!
//! It reads nothing from the network and keeps its rights, because it may have to start
//! more processes; those drop theirs as a single server does. On SIGUSR2 it first
//! replaces its own program (exec); sockets and channels wait in a Unix socket
//! meanwhile, so that processes and clients notice nothing. A process that isn't ready
//! in time, or doesn't answer within the watchdog's interval, is killed. Must not: know
//! what the processes do.

use std::error::Error;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::rlim_t;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::channel::{self, large_pair};
use super::cli::{Args, Part};
use super::listen::sets;
use super::opened::identity;
use super::slot::{NONE, Process, Slot, Stage};
use super::start::{cannot_write_pid_file, reserve_pid_file};
use super::upgrade::{BY_ITSELF, Program, Trial, Upgrade};
use super::worker::{END, SOCKETS, STOP};
use super::{LONGEST_DRAIN, MAX_LISTENERS, VERSION, handover, logging};
use crate::file::{reason, with_remedy};
use crate::host::{self, Inherited, Notifier, PidFile, clock};
use crate::log::LogFile;
use crate::log::shown::Addresses;
use crate::status::Listener;

/// How long after its last start a worker is started again, at the earliest.
const RESTART: Duration = Duration::from_secs(1);

/// How long a process may take to be ready: ROOT may have to be mounted first.
const START: Duration = Duration::from_secs(30);

/// How long beyond the grace period a process may take to end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The same for a process that was told to end at once.
const END_WAIT: Duration = Duration::from_secs(1);

/// Serves with several processes until told to stop. `args` is the parsed command line.
///
/// # Errors
/// One line that says what prevents the start, and what to do about it. If the first
/// process can't start, it reports the reason itself.
pub fn supervise(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let mut supervisor = Supervisor::start(args)?;
    Ok(supervisor.run()?)
}

#[derive(Debug)]
struct Supervisor<'a> {
    args: &'a Args,
    /// Our own program: the file that is at its path at the next start.
    program: Program,
    slots: Vec<Slot>,
    signals: SignalFd,
    /// The limit on open files that it was started with. The workers start their helpers
    /// with it.
    open_files: rlim_t,
    notifier: Option<Notifier>,
    log_file: Option<LogFile>,
    /// Removed at the end.
    _pid_file: Option<PidFile>,
    startup: Startup,
    upgrade: Upgrade,
    /// Once told to stop: when the processes still running are killed.
    kill_at: Option<Instant>,
    /// Whether to exit with failure.
    has_failed: bool,
}

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Startup {
    /// Only the first process was started, to see whether one can start at all.
    First,
    /// All are started.
    All,
    /// All have been ready.
    Up,
}

impl<'a> Supervisor<'a> {
    fn start(args: &'a Args) -> Result<Self, Box<dyn Error>> {
        let program = Program::own(args.part);
        let is_resumed = args.part == Part::Resumed;
        let inherited = if is_resumed {
            Inherited::default()
        } else {
            let limit = MAX_LISTENERS * usize::from(args.workers.unwrap_or(1));
            Inherited::take_over(limit)?
        };
        if inherited.by_inetd || !inherited.streams.is_empty() {
            return Err(
                "--workers takes UDP sockets of systemd alone: use --status in place of \
                 ListenStream=, and don't start it by inetd"
                    .into(),
            );
        }
        // The supervisor holds every worker's sockets.
        let open_files = host::open_files_limit()?;
        host::raise_open_files()?;
        let log_file = logging::start(args, false)?;
        give_log_away(args, log_file.as_ref())?;
        if let Some(doubt) = args.doubt().filter(|_| !is_resumed) {
            warn!("{doubt}");
        }
        let notifier = Notifier::from_environment(clock::now());
        let notifier = unless_resumed(is_resumed, notifier)?;
        let slots = if is_resumed {
            handover::resume()?
        } else {
            let count = args.workers.map_or(1, usize::from);
            slots(args, inherited.sockets, count)?
        };
        let signals = take_signals()?;
        let pid_file = args.pid_file.as_deref().map(|path| {
            let kept = is_resumed.then(|| PidFile::keep(path)).flatten();
            kept.map_or_else(|| write_pid_file(path), Ok)
        });
        let pid_file = pid_file.transpose();
        let pid_file = unless_resumed(is_resumed, pid_file)?;
        let mut supervisor = Self {
            args,
            program,
            slots,
            signals,
            open_files,
            notifier,
            log_file,
            _pid_file: pid_file,
            startup: Startup::First,
            upgrade: Upgrade::Unwanted,
            kill_at: None,
            has_failed: false,
        };
        if is_resumed {
            supervisor.startup = Startup::All;
            supervisor.replace_all();
        }
        Ok(supervisor)
    }

    fn run(&mut self) -> io::Result<ExitCode> {
        loop {
            let now = clock::now();
            self.start_what_is_due(now);
            self.give_sign(now);
            if self.kill_at.is_some() && self.slots.iter().all(|it| it.processes.is_empty()) {
                // A start that failed ends with the line that says why.
                if self.has_failed {
                    return Ok(ExitCode::FAILURE);
                }
                info!("stopped");
                return Ok(ExitCode::SUCCESS);
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                self.kill_all();
            }
            if self.kill_at.is_some() {
                // Nobody would answer there.
                let left = self.slots.iter_mut().filter(|it| it.is_vacant());
                left.for_each(|it| it.status = None);
            }
            self.go_on_with_upgrade(now);
            self.limit_replaced(now);
            self.wait(now)?;
            self.hear_all();
            self.kill_late();
            self.obey_signals();
            self.reap();
        }
    }

    /// Waits for a signal, a message from a process, or the time at which something is
    /// due.
    fn wait(&self, now: Instant) -> io::Result<()> {
        let starts = (0..self.slots.len()).filter_map(|number| self.due(number, now));
        let sign = self.notifier.as_ref().and_then(Notifier::next_sign);
        let trial = match &self.upgrade {
            Upgrade::Tried(trial) => trial.kill_at,
            _ => None,
        };
        let answers = self.processes().flat_map(|it| [it.answer_by, it.end_by]);
        let answers = answers.flatten();
        let others = sign.into_iter().chain(self.kill_at).chain(trial);
        let nearest = starts.chain(answers).chain(others).min();
        let timeout = nearest.map_or(PollTimeout::NONE, |at| {
            let wait = at.saturating_duration_since(now);
            // Never wake up too early.
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let heard = self.processes().filter(|it| it.is_heard);
        let readable = |source| PollFd::new(source, PollFlags::POLLIN);
        let mut sources = vec![readable(self.signals.as_fd())];
        sources.extend(heard.map(|it| readable(it.channel.as_fd())));
        match poll(&mut sources, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.slots.iter().flat_map(|it| &it.processes)
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.slots.iter_mut().flat_map(|it| &mut it.processes)
    }

    /// Tells the service manager that we are alive, if that is due, and asks the
    /// processes whether they are.
    fn give_sign(&mut self, now: Instant) {
        let notifier = self.notifier.as_mut();
        if let Some(interval) = notifier.and_then(|it| it.handle_timeout(now)) {
            // As long as the manager would wait for us.
            self.processes_mut()
                .for_each(|it| it.ask(now + 2 * interval));
        }
    }

    /// Sets the time by which a replaced process is killed.
    fn limit_replaced(&mut self, now: Instant) {
        let grace = self.args.grace;
        let transfers = grace.max(LONGEST_DRAIN) + LAST_WAIT;
        self.processes_mut()
            .for_each(|it| it.limit(now, transfers, grace + LAST_WAIT));
    }

    /// Kills the processes that have missed a deadline. Call after all messages have
    /// been read.
    fn kill_late(&mut self) {
        let now = clock::now();
        for process in self.processes_mut() {
            if let Some(missed) = process.missed(now) {
                error!("process {} {missed}: killing it", process.pid);
                process.kill();
            }
        }
    }

    /// When to start the next process of the slot with this number, if it lacks one.
    fn due(&self, number: usize, now: Instant) -> Option<Instant> {
        let slot = &self.slots[number];
        let is_wanted = self.startup != Startup::First || number == 0;
        let lacks = is_wanted && self.kill_at.is_none() && slot.is_vacant();
        lacks.then(|| slot.started.map_or(now, |at| at + RESTART))
    }

    fn start_what_is_due(&mut self, now: Instant) {
        for number in 0..self.slots.len() {
            if self.due(number, now).is_some_and(|at| at <= now) {
                self.start_process(number);
            }
        }
    }

    /// Starts a successor for every process whose slot has all its sockets.
    fn replace_all(&mut self) {
        for number in 0..self.slots.len() {
            let slot = &self.slots[number];
            if slot.is_whole || slot.is_vacant() {
                self.start_process(number);
            } else {
                let number = number + 1;
                error!("worker {number} isn't replaced, for a socket is lost: restart the server");
            }
        }
    }

    fn start_process(&mut self, number: usize) {
        self.slots[number].started = Some(clock::now());
        match self.try_start(number) {
            Ok(process) => self.slots[number].processes.push(process),
            Err(error) => {
                let program = self.program.path.display();
                let number = number + 1;
                error!(
                    "worker {number}: cannot start {program}: {}",
                    with_remedy(
                        &error,
                        "it must exist, and one more process must be allowed"
                    )
                );
                if self.startup == Startup::First {
                    self.has_failed = true;
                    self.stop();
                }
            }
        }
    }

    fn try_start(&self, number: usize) -> io::Result<Process> {
        let slot = &self.slots[number];
        let (channel, theirs) = channel::pair()?;
        channel::send(&channel, SOCKETS, &slot.descriptors())?;
        let stage = slot.prepare(&channel)?;
        let mut command = self.program.running_command(&Part::Worker.word(number + 1));
        command.stdin(Stdio::from(theirs));
        host::hide_manager(&mut command);
        let child = host::with_inherited_open_files(self.open_files, || command.spawn());
        // What we hold may leave no room below that limit.
        let inherited = self.open_files.to_string();
        let child = child.or_else(|_| command.env(host::HELPERS_OPEN_FILES, inherited).spawn())?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut process = Process::new(pid, channel, stage);
        process.answer_by = Some(clock::now() + START);
        Ok(process)
    }

    fn hear_all(&mut self) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            for place in 0..slot.processes.len() {
                if slot.processes[place].is_heard && slot.hear(place) {
                    let process = &mut slot.processes[place];
                    info!("worker {}: process {} is ready", number + 1, process.pid);
                    if mem::take(&mut process.needs_reload) {
                        let _ = kill(process.pid, Signal::SIGHUP);
                    }
                }
            }
        }
        self.go_on();
    }

    /// The start goes on once every process that was started is ready.
    fn go_on(&mut self) {
        if self.startup == Startup::Up || self.slots.iter().any(Slot::is_starting) {
            return;
        }
        let serving = self.slots.iter().filter(|it| !it.is_vacant()).count();
        if self.startup == Startup::First && serving > 0 {
            self.startup = Startup::All;
        }
        if serving == self.slots.len() && self.kill_at.is_none() {
            self.startup = Startup::Up;
            let plural = if serving == 1 { "" } else { "es" };
            let status = format!(
                "serving with {serving} process{plural} on {}; tftpd {VERSION}",
                self.addresses()
            );
            info!("{status}");
            if let Some(notifier) = &self.notifier {
                notifier.ready(&status);
            }
        }
    }

    fn addresses(&self) -> String {
        let address = |it: &OwnedFd| {
            let socket = it.try_clone().map(UdpSocket::from);
            socket.and_then(|it| it.local_addr()).ok()
        };
        let addresses: Vec<_> = self.slots[0].sockets.iter().filter_map(address).collect();
        Addresses(&addresses).to_string()
    }

    fn obey_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.stop(),
                Ok(Signal::SIGHUP) => {
                    self.reopen_log();
                    self.signal_all(Signal::SIGHUP);
                    // Processes that are starting may have read their files already.
                    let is_starting = |it: &&mut Process| matches!(it.stage, Stage::Starting(_));
                    let starting = self.processes_mut().filter(is_starting);
                    starting.for_each(|it| it.needs_reload = true);
                }
                Ok(Signal::SIGUSR1) => self.signal_all(Signal::SIGUSR1),
                Ok(Signal::SIGUSR2) => self.want_upgrade(),
                // SIGCHLD only wakes us.
                _ => {}
            }
        }
    }

    fn reopen_log(&self) {
        let Some(log_file) = &self.log_file else {
            return;
        };
        let reopened = log_file.reopen().map_err(|error| reason(&error));
        if let Err(error) = reopened.and_then(|()| give_log_away(self.args, Some(log_file))) {
            error!("cannot open the log file again: {error}");
        }
    }

    /// Passes a signal on to the processes that can handle it.
    fn signal_all(&self, signal: Signal) {
        let is_told = |it: &&Process| !matches!(it.stage, Stage::Starting(_));
        for process in self.processes().filter(is_told) {
            // A process that has ended stays a zombie until it is reaped.
            let _ = kill(process.pid, signal);
        }
    }

    /// The first call lets transfers finish, the second ends everything at once.
    fn stop(&mut self) {
        let (order, wait) = if self.kill_at.is_some() {
            (END, END_WAIT)
        } else {
            (STOP, self.args.grace + LAST_WAIT)
        };
        let at = clock::now() + wait;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        // Nothing is replaced any more.
        if let Upgrade::Tried(trial) = &mut self.upgrade {
            trial.kill();
        }
        self.upgrade = Upgrade::Unwanted;
        for process in self.processes() {
            process.tell(order, NONE);
        }
        if let Some(notifier) = &self.notifier {
            notifier.stopping("stopping");
        }
    }

    fn kill_all(&mut self) {
        for process in self.processes() {
            warn!("process {} doesn't end: killing it", process.pid);
            process.kill();
        }
        self.kill_at = Some(clock::now() + END_WAIT);
    }

    /// Reaps the processes that have ended.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => {
                    self.handle_exit(pid, &format!("{BY_ITSELF}{status}"));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.handle_exit(pid, signal.as_str()),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn is_trial(&self, pid: Pid) -> bool {
        matches!(&self.upgrade, Upgrade::Tried(trial) if trial.pid == pid)
    }

    fn handle_exit(&mut self, pid: Pid, how: &str) {
        if self.is_trial(pid)
            && let Upgrade::Tried(trial) = mem::replace(&mut self.upgrade, Upgrade::Unwanted)
        {
            return self.finish_trial(trial, how);
        }
        for number in 0..self.slots.len() {
            if let Some(process) = self.slots[number].take_out(pid, large_pair) {
                self.log_exit(number, &process, how);
            }
        }
        self.go_on();
    }

    fn log_exit(&mut self, number: usize, process: &Process, how: &str) {
        let Process { pid, stage, .. } = process;
        let number = number + 1;
        match stage {
            _ if self.kill_at.is_some() => {}
            Stage::Starting(_) if self.startup == Startup::First => {
                // A process that exits by itself has logged the reason.
                if !how.starts_with(BY_ITSELF) {
                    error!("worker {number}: process {pid} has ended before it was ready ({how})");
                }
                self.has_failed = true;
                self.stop();
            }
            Stage::Replaced => info!("worker {number}: process {pid} has finished"),
            Stage::Starting(_) if !self.slots[number - 1].is_vacant() => error!(
                "worker {number}: process {pid} has ended before it was ready ({how}): the one \
                 before it goes on"
            ),
            _ => error!("worker {number}: process {pid} has ended ({how}): starting another"),
        }
    }

    fn want_upgrade(&mut self) {
        match &mut self.upgrade {
            _ if self.kill_at.is_some() => info!("ignoring SIGUSR2: the server is stopping"),
            Upgrade::Tried(trial) => trial.is_outdated = true,
            Upgrade::Unwanted | Upgrade::Wanted | Upgrade::Passed => {
                self.upgrade = Upgrade::Wanted;
            }
        }
    }

    /// Goes on after a trial has ended; `how` is its exit status or signal. Starts
    /// another trial if the program may have changed since.
    fn finish_trial(&mut self, trial: Trial, how: &str) {
        let is_outdated = trial.is_outdated;
        let failure = trial.failure(how);
        if let Some(failure) = &failure {
            self.refuse_upgrade(failure);
        }
        self.upgrade = match failure {
            _ if is_outdated => Upgrade::Wanted,
            None => Upgrade::Passed,
            Some(_) => Upgrade::Unwanted,
        };
    }

    /// Takes the next step of an upgrade: starts a trial, kills one that takes too
    /// long, or executes the program once a trial has passed, which then replaces the
    /// processes.
    fn go_on_with_upgrade(&mut self, now: Instant) {
        let is_starting = self.slots.iter().any(Slot::is_starting);
        let failure = match &mut self.upgrade {
            Upgrade::Wanted if !is_starting => match Trial::start(&self.program, now) {
                Ok(trial) => {
                    self.upgrade = Upgrade::Tried(trial);
                    return;
                }
                Err(error) => reason(&error),
            },
            Upgrade::Tried(trial) if trial.kill_at.is_some_and(|at| at <= now) => {
                trial.kill();
                return;
            }
            Upgrade::Passed if !is_starting => {
                let Err(failure) = self.program.execute(&self.slots, self.open_files);
                failure
            }
            _ => return,
        };
        self.upgrade = Upgrade::Unwanted;
        self.refuse_upgrade(&failure);
    }

    fn refuse_upgrade(&self, failure: &str) {
        let program = self.program.path.display();
        error!("cannot take over with {program}: {failure}; going on as before");
    }
}

/// At the start an error ends the program. After an upgrade (`is_resumed`) it is only
/// logged, and the service goes on without the thing in question.
fn unless_resumed<T>(
    is_resumed: bool,
    what: Result<Option<T>, String>,
) -> Result<Option<T>, String> {
    match what {
        Err(why) if is_resumed => {
            warn!("{why}; going on without");
            Ok(None)
        }
        what => what,
    }
}

fn write_pid_file(path: &Path) -> Result<PidFile, String> {
    let mut pid_file = reserve_pid_file(path)?;
    let written = pid_file.write();
    written.map_err(|error| cannot_write_pid_file(path, &error))?;
    Ok(pid_file)
}

/// Gives the log file to the user that the processes run as, so that they can open it
/// again. They find the file in use, and leave it as it is.
fn give_log_away(args: &Args, log_file: Option<&LogFile>) -> Result<(), String> {
    if let (Some(identity), Some(log_file)) = (identity(args)?, log_file) {
        // A file that others write to as well keeps its owner.
        let _ = log_file.with_ours(|file| identity.adopt(file));
    }
    Ok(())
}

fn slots(args: &Args, inherited: Vec<UdpSocket>, count: usize) -> Result<Vec<Slot>, String> {
    let own = |socket: &dyn AsFd| socket.as_fd().try_clone_to_owned();
    let slot = |set: Vec<_>| {
        let sockets = set.iter().map(|it| own(it)).collect::<io::Result<_>>();
        let sockets = sockets.map_err(|error| {
            format!(
                "cannot keep a socket: {}",
                with_remedy(&error, "allow more open files")
            )
        })?;
        Ok(Slot::new(sockets))
    };
    let slots = sets(args, inherited, count)?.into_iter().map(slot);
    let mut slots = slots.collect::<Result<Vec<_>, String>>()?;
    if let Some(address) = args.status() {
        let identity = identity(args)?;
        for (number, slot) in (1..).zip(&mut slots) {
            let status = Listener::bind(&address.of_worker(number)?)?;
            if let (Some(identity), Some(path)) = (&identity, status.path()) {
                // As a single server does.
                let _ = identity.adopt_at(path);
            }
            slot.status = Some(status);
        }
    }
    Ok(slots)
}

/// Blocks the signals that we handle. Child processes inherit that.
fn take_signals() -> io::Result<SignalFd> {
    let signals = SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ]);
    signals.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&signals, flags)?)
}
