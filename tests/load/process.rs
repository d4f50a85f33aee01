//! The cost of a server: CPU and memory of its whole process tree, from /proc; and the
//! cores to which server and load are bound.

use std::env;
use std::fs;
use std::hint;
use std::io;
use std::process::{self, Child, Command};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, getppid, sysconf};

/// The cores to run on: the server has its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// Picks the first and the last core that we may use.
    pub(crate) fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let is_allowed = |&core: &usize| allowed.is_set(core).unwrap_or(false);
        let mut cores = (0..CpuSet::count()).filter(is_allowed);
        match (cores.next(), cores.next_back()) {
            (Some(load), Some(server)) => Ok(Self { server, load }),
            _ => Err(io::Error::other("server and load need a core each")),
        }
    }
}

/// Binds this process, and those it will start, to one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Keeps an otherwise idle core busy.
///
/// A sleeping core takes time to wake up, on a virtual machine much more than a packet
/// does: without this, lockstep would measure how the machine sleeps. The scheduler lets
/// any other process go first.
#[derive(Debug)]
pub(crate) struct Insomnia(Child);

impl Insomnia {
    /// Keeps `core` awake until dropped, or until this process ends.
    pub(crate) fn on(core: usize, back_on: usize) -> io::Result<Self> {
        pin(core)?;
        let child = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(env::current_exe()?)
            .args(["stay-awake", &process::id().to_string()])
            .spawn();
        pin(back_on)?;
        Ok(Self(child?))
    }
}

impl Drop for Insomnia {
    fn drop(&mut self) {
        // It has no children and nothing to save, and can't block the signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Spins as long as `parent` is the parent process.
pub(crate) fn stay_awake(parent: i32) {
    while getppid() == Pid::from_raw(parent) {
        for _ in 0..1_000_000 {
            hint::spin_loop();
        }
    }
}

/// A process and all its descendants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree(pub(crate) u32);

impl Tree {
    /// All processes of the tree, the root first.
    fn members(self) -> Vec<u32> {
        let mut members = vec![self.0];
        let mut next = 0;
        while let Some(&pid) = members.get(next) {
            next += 1;
            for task in fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
            {
                let Ok(task) = task else { continue };
                let children = fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                members.extend(
                    children
                        .split_ascii_whitespace()
                        .flat_map(str::parse::<u32>),
                );
            }
        }
        members
    }

    /// CPU time of all living members, and of all children that they have reaped.
    pub(crate) fn cpu(self) -> Duration {
        let members = self.members().into_iter();
        members
            .map(|pid| cpu_of(pid).unwrap_or_default() + reaped_by(pid).unwrap_or_default())
            .sum()
    }

    /// Current resident memory, in KiB.
    pub(crate) fn resident_kib(self) -> u64 {
        let members = self.members().into_iter();
        members.filter_map(|pid| status(pid, "VmRSS:")).sum()
    }

    /// The number of descriptors that the root has open.
    pub(crate) fn descriptors(self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.0));
        open.map_or(0, Iterator::count)
    }

    /// Peak resident memory of the root alone, in KiB.
    pub(crate) fn root_peak_kib(self) -> u64 {
        status(self.0, "VmHWM:").unwrap_or_default()
    }

    /// How many times its members went to sleep and were woken.
    pub(crate) fn wakeups(self) -> u64 {
        let members = self.members().into_iter();
        members
            .filter_map(|pid| status(pid, "voluntary_ctxt_switches:"))
            .sum()
    }

    /// Kills all processes of the tree.
    pub(crate) fn kill(self) {
        for pid in self.members() {
            if let Ok(pid) = i32::try_from(pid) {
                // One that is already gone needs no killing.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// CPU time of all threads of a process, including those that have ended.
fn cpu_of(pid: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let time = clock_gettime(clock_getcpuclockid(pid).ok()?).ok()?;
    Some(time.into())
}

/// CPU time of the children that a process has waited for: cutime and cstime,
/// fields 16 and 17 of `proc_pid_stat(5)`.
fn reaped_by(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain blanks; field 3 follows it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields = fields.split_ascii_whitespace().skip(13).take(2);
    let ticks: u64 = fields
        .map(|field| field.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??.unsigned_abs();
    Some(Duration::from_millis(ticks * 1000 / per_second))
}

/// A number from /proc/PID/status.
fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// Samples a tree's CPU time and memory while it works, rarely enough to cost little.
#[derive(Debug)]
pub(crate) struct Watch {
    tree: Tree,
    next: Instant,
    peak_kib: u64,
    /// CPU time at the start, and at the last look.
    begin: Duration,
    seen: Duration,
}

impl Watch {
    const INTERVAL: Duration = Duration::from_millis(50);

    pub(crate) fn new(tree: Tree, now: Instant) -> Self {
        let cpu = tree.cpu();
        Self {
            tree,
            next: now + Self::INTERVAL,
            peak_kib: 0,
            begin: cpu,
            seen: cpu,
        }
    }

    /// Takes a sample if it is time to; returns when to call it next.
    pub(crate) fn look(&mut self, now: Instant) -> Instant {
        if now >= self.next {
            self.seen = self.tree.cpu();
            self.peak_kib = self.peak_kib.max(self.tree.resident_kib());
            let took = crate::clock().saturating_duration_since(now);
            // Counting a thousand processes takes long: at most 2 % of the time.
            self.next = now + Self::INTERVAL.max(took * 50);
        }
        self.next
    }

    /// CPU time since the start. The time of a child that nobody waited for is lost when it
    /// ends; what the last look has seen of it still counts.
    pub(crate) fn cpu(&self) -> Duration {
        self.tree.cpu().max(self.seen).saturating_sub(self.begin)
    }

    pub(crate) fn peak_kib(&self) -> u64 {
        let at_end = self.tree.resident_kib();
        self.peak_kib.max(at_end).max(self.tree.root_peak_kib())
    }
}
