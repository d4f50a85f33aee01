//! The table of workloads, and the goals for each.

use std::time::Duration;

use tftpd::wire::packet::Direction::{self, Read, Write};

use crate::figures::Metric;
use crate::fleet::Plan;

/// The kind of a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Transfers,
    /// This many sessions that fall silent after their first block.
    Stalled(usize),
    /// Honest clients amid a flood of requests whose senders never answer.
    Flood,
    /// All clients at once, from one socket, to a server with a single port and fewer
    /// descriptors.
    Crowd,
}

/// What a figure of ours is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// The best peer's figure in the same run: the bound is a ratio.
    BestPeer,
    /// Our own figure with `--busy-poll 0`: the bound is a ratio.
    Asleep,
    /// Our own figure while nobody watches the status page: the bound is a ratio.
    Unwatched,
    /// Another figure of the same run: the bound is a ratio.
    Own(Metric),
    /// Nothing: the bound is absolute.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// When the peers run a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peers {
    None,
    /// In the first round only: their figures are shown, but no goal depends on them.
    Once,
    /// In each round, until one is cut off: another run could only show that again.
    UntilCutOff,
    Each,
}

/// A goal of a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) metric: Metric,
    pub(crate) bound: Bound,
    pub(crate) against: Against,
    /// For ours with `--busy-poll 0`.
    pub(crate) asleep: bool,
}

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Its title in the table.
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    pub(crate) plan: Plan,
    /// Whether ours with `--busy-poll 0` is run too.
    pub(crate) asleep: bool,
    pub(crate) peers: Peers,
    /// Whether it means something only while somebody watches the status page.
    pub(crate) for_watchers: bool,
    pub(crate) goals: Vec<Goal>,
}

impl Workload {
    const fn new(name: &'static str, title: &'static str, plan: Plan) -> Self {
        Self {
            name,
            title,
            kind: Kind::Transfers,
            plan,
            asleep: false,
            peers: Peers::Each,
            for_watchers: false,
            goals: Vec::new(),
        }
    }

    fn goal(mut self, metric: Metric, bound: Bound, against: Against) -> Self {
        self.goals.push(Goal {
            metric,
            bound,
            against,
            asleep: false,
        });
        self
    }

    /// The usual pair of goals: throughput at least, and CPU at most, this multiple of the
    /// best peer's.
    fn ratios(self, throughput: f64, cpu: f64) -> Self {
        self.goal(
            Metric::Throughput,
            Bound::AtLeast(throughput),
            Against::BestPeer,
        )
        .goal(
            Metric::CpuPerGigabyte,
            Bound::AtMost(cpu),
            Against::BestPeer,
        )
    }

    /// The same for ours with `--busy-poll 0`.
    fn asleep_ratios(mut self, throughput: f64, cpu: f64) -> Self {
        let awake = self.goals.len();
        self = self.ratios(throughput, cpu);
        for goal in &mut self.goals[awake..] {
            goal.asleep = true;
        }
        self.asleep = true;
        self
    }

    /// Spinning must cost next to nothing.
    fn awake_pays(self) -> Self {
        Self {
            asleep: true,
            ..self.goal(Metric::CpuPerGigabyte, Bound::AtMost(1.1), Against::Asleep)
        }
    }

    /// Every transfer must succeed.
    fn nothing_failed(self) -> Self {
        self.goal(Metric::Failures, Bound::AtMost(0.0), Against::Nothing)
            .goal(Metric::Unfinished, Bound::AtMost(0.0), Against::Nothing)
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// One transfer after the other.
const fn one_client(direction: Direction, size: u64, transfers: usize, blksize: u16) -> Plan {
    Plan {
        direction,
        size,
        files: 1,
        transfers,
        at_once: 1,
        blksize: Some(blksize),
        windowsize: None,
        timeout: None,
        one_by_one: false,
        loss: 0,
        delay: Duration::ZERO,
        pace: Duration::ZERO,
        limit: Duration::from_secs(8),
    }
}

/// Many transfers at a time, with a block size that fits an Ethernet frame.
const fn many(direction: Direction, size: u64, transfers: usize, at_once: usize) -> Plan {
    Plan {
        at_once,
        ..one_client(direction, size, transfers, 1428)
    }
}

const fn window(windowsize: u16, plan: Plan) -> Plan {
    Plan {
        windowsize: Some(windowsize),
        ..plan
    }
}

/// Asks for a timeout of five seconds.
const fn patient(plan: Plan) -> Plan {
    Plan {
        timeout: Some(5),
        ..plan
    }
}

/// All workloads, in the order of the table.
pub(crate) fn all() -> Vec<Workload> {
    let mut all = downloads();
    all.extend(crowds());
    all.extend(uploads());
    all.into_iter()
        .map(Workload::awake_pays)
        .chain(losses())
        .chain(troubles())
        .chain([watched()])
        .collect()
}

/// The workloads with these names; without names, those of an ordinary run.
///
/// # Errors
/// One line if there is no workload of some name.
pub(crate) fn chosen(names: &[String], is_watched: bool) -> Result<Vec<Workload>, String> {
    let mut all = all();
    let known = |name: &String| all.iter().any(|it| it.name == *name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let names: Vec<_> = all.iter().map(|it| it.name).collect();
        return Err(format!(
            "no workload {name}; there are {}",
            names.join(", ")
        ));
    }
    all.retain(|it| match names {
        [] if is_watched => matches!(it.kind, Kind::Transfers),
        [] => !it.for_watchers,
        _ => names.iter().any(|name| name == it.name),
    });
    Ok(all)
}

fn downloads() -> Vec<Workload> {
    let lockstep_512 = Plan {
        blksize: None,
        ..one_client(Read, 31 * MIB, 1, 512)
    };
    vec![
        Workload::new("lockstep-512", "lockstep, blksize 512", lockstep_512)
            .ratios(2.0, 1.0)
            .asleep_ratios(1.0, 0.9),
        Workload::new(
            "lockstep-1428",
            "lockstep, blksize 1428",
            one_client(Read, 64 * MIB, 1, 1428),
        )
        .ratios(2.0, 1.0)
        .asleep_ratios(1.0, 0.9),
        Workload::new(
            "window-16",
            "window 16, blksize 1428",
            window(16, one_client(Read, 64 * MIB, 6, 1428)),
        )
        .ratios(2.6, 0.35),
        Workload::new(
            "window-64",
            "window 64, blksize 1428",
            window(64, one_client(Read, 64 * MIB, 12, 1428)),
        )
        .ratios(3.3, 0.28),
        Workload::new(
            "lockstep-65464",
            "lockstep, blksize 65464",
            one_client(Read, 1024 * MIB, 1, 65_464),
        )
        .ratios(1.4, 0.75),
    ]
}

fn crowds() -> Vec<Workload> {
    let tiny = Plan {
        files: 64,
        ..many(Read, 4 * KIB, 20_000, 200)
    };
    vec![
        Workload::new(
            "clients-100",
            "100 clients × 1 MiB, lockstep",
            many(Read, MIB, 200, 100),
        )
        .ratios(1.0, 0.9),
        Workload::new(
            "clients-100-window-16",
            "100 clients × 1 MiB, window 16",
            window(16, many(Read, MIB, 1000, 100)),
        )
        .ratios(4.0, 0.24),
        Workload::new("tiny", "20,000 × 4 KiB, 200 at a time", tiny)
            .ratios(1.4, 0.65)
            .nothing_failed(),
        Workload::new(
            "storm-1000",
            "1,000 at once × 1 MiB",
            Plan {
                limit: Duration::from_secs(16),
                ..many(Read, MIB, 1000, 1000)
            },
        )
        .ratios(1.0, 0.95)
        .goal(
            Metric::CompletionP99,
            Bound::AtMost(1.1),
            Against::Own(Metric::CompletionP50),
        )
        .nothing_failed(),
        Workload::new(
            "storm-5000",
            "5,000 at once × 64 KiB",
            many(Read, 64 * KIB, 5000, 5000),
        )
        .ratios(8.0, 0.9)
        .goal(Metric::RequestResends, Bound::AtMost(0.0), Against::Nothing)
        .goal(Metric::AnswerMax, Bound::AtMost(300.0), Against::Nothing)
        .nothing_failed(),
    ]
}

fn uploads() -> Vec<Workload> {
    let upload = one_client(Write, 64 * MIB, 1, 1428);
    let several = Plan {
        transfers: 4,
        ..upload
    };
    let one_by_one = Plan {
        one_by_one: true,
        ..several
    };
    vec![
        Workload::new("upload-1", "upload 64 MiB, lockstep", upload).ratios(1.3, 0.9),
        Workload::new("upload-16", "upload 64 MiB, window 16", window(16, several))
            .ratios(1.5, 0.7),
        Workload::new("upload-64", "upload 64 MiB, window 64", window(64, several))
            .ratios(1.7, 0.6),
        Workload::new(
            "upload-16-plain",
            "upload 64 MiB, window 16, plain",
            window(16, one_by_one),
        )
        .ratios(1.5, 0.7),
        Workload::new(
            "upload-64-plain",
            "upload 64 MiB, window 64, plain",
            window(64, one_by_one),
        )
        .ratios(1.7, 0.6),
        Workload::new(
            "uploads-200",
            "200 uploads at once × 256 KiB",
            many(Write, 256 * KIB, 200, 200),
        )
        .ratios(1.6, 0.6)
        .nothing_failed(),
    ]
}

/// Packets are lost, both ways.
fn losses() -> Vec<Workload> {
    let lossy = |loss| Plan {
        loss,
        ..many(Read, 256 * KIB, 20, 20)
    };
    let (rare, often) = (lossy(10), lossy(50));
    // With windows a server waits only if the last block of a window or its ACK is lost:
    // the file is long enough for most transfers to lose some of those.
    let windows = |plan| window(16, Plan { size: MIB, ..plan });
    let rows = [
        ("loss-1", "loss 1 %, lockstep", rare),
        ("loss-5", "loss 5 %, lockstep", often),
        ("loss-1-window-16", "loss 1 %, window 16", windows(rare)),
        ("loss-5-window-16", "loss 5 %, window 16", windows(often)),
        (
            "loss-1-timeout",
            "loss 1 %, lockstep, timeout 5",
            patient(rare),
        ),
        (
            "loss-5-timeout",
            "loss 5 %, lockstep, timeout 5",
            patient(often),
        ),
        (
            "loss-1-window-16-timeout",
            "loss 1 %, window 16, timeout 5",
            patient(windows(rare)),
        ),
        (
            "loss-5-window-16-timeout",
            "loss 5 %, window 16, timeout 5",
            patient(windows(often)),
        ),
    ];
    let workload = |(name, title, plan)| {
        let workload = Workload {
            peers: Peers::UntilCutOff,
            ..Workload::new(name, title, plan)
        };
        workload
            .goal(Metric::CompletionP50, Bound::AtMost(0.1), Against::BestPeer)
            .goal(Metric::DataPerBlock, Bound::AtMost(1.15), Against::Nothing)
            .nothing_failed()
    };
    rows.map(workload).into()
}

fn troubles() -> Vec<Workload> {
    let delayed = |name, title, delay| {
        let plan = Plan {
            delay: Duration::from_micros(delay),
            ..one_client(Read, 4 * MIB * 1000 / delay, 1, 1428)
        };
        Workload {
            asleep: true,
            peers: Peers::None,
            ..Workload::new(name, title, plan)
        }
        .goal(Metric::CpuPerGigabyte, Bound::AtMost(1.05), Against::Asleep)
    };
    let stalled = Workload {
        kind: Kind::Stalled(1000),
        peers: Peers::Once,
        ..Workload::new(
            "stalled",
            "1,000 stalled sessions",
            many(Read, MIB, 1000, 1000),
        )
    };
    let honest = Plan {
        pace: Duration::from_millis(5),
        ..many(Read, 4 * KIB, 800, 100)
    };
    let flood = Workload {
        kind: Kind::Flood,
        peers: Peers::Once,
        ..Workload::new("flood", "flood of 20,000 requests in 4 s", honest)
    };
    let crowd = Workload {
        kind: Kind::Crowd,
        peers: Peers::None,
        ..Workload::new(
            "crowd-100000",
            "100,000 at once, single port",
            Plan {
                limit: Duration::from_secs(60),
                ..many(Read, 4 * KIB, 100_000, 100_000)
            },
        )
    };
    vec![
        delayed("delay-200us", "client delay 200 µs", 200),
        delayed("delay-1ms", "client delay 1 ms", 1000),
        stalled
            .goal(Metric::KibPerSession, Bound::AtMost(0.5), Against::Nothing)
            .goal(Metric::IdleKib, Bound::AtMost(3072.0), Against::Nothing)
            .goal(Metric::IdleWakeups, Bound::AtMost(0.0), Against::Nothing),
        flood
            .goal(Metric::CompletionP99, Bound::AtMost(5.0), Against::Nothing)
            .goal(Metric::PeakKib, Bound::AtMost(16_384.0), Against::Nothing)
            .goal(
                Metric::RepliesPerRequest,
                Bound::AtMost(4.0),
                Against::Nothing,
            )
            .nothing_failed(),
        crowd
            .goal(Metric::KibPerSession, Bound::AtMost(0.5), Against::Nothing)
            .goal(Metric::Descriptors, Bound::AtMost(1024.0), Against::Nothing)
            .goal(Metric::LongestWait, Bound::AtMost(1000.0), Against::Nothing)
            .nothing_failed(),
    ]
}

/// As many clients as the page shows well, in lockstep as most boards ask, and new ones
/// all the time, so that both lists of the page are full. Takes several seconds; each
/// second the page asks again.
///
/// The watcher asks as the page does, each time on a new connection and a second after
/// the last answer, but draws nothing: a browser would take processor time from the load,
/// which says nothing about the server. The browser in `tests/status` draws.
fn watched() -> Workload {
    let plan = Plan {
        limit: Duration::from_secs(30),
        ..many(Read, MIB, 1000, 500)
    };
    Workload {
        peers: Peers::None,
        for_watchers: true,
        ..Workload::new("clients-500", "500 clients × 1 MiB, lockstep", plan)
    }
    .goal(Metric::Throughput, Bound::AtLeast(0.97), Against::Unwatched)
    .goal(
        Metric::CpuPerGigabyte,
        Bound::AtMost(1.03),
        Against::Unwatched,
    )
    .nothing_failed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_watched_has_rows_of_its_own() {
        let names = |names: &[&str], is_watched| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            chosen(&names, is_watched)
                .map(|chosen| chosen.iter().map(|it| it.name).collect::<Vec<_>>())
        };
        let (plain, watched) = (names(&[], false).unwrap(), names(&[], true).unwrap());
        assert!(!plain.contains(&"clients-500") && plain.contains(&"flood"));
        assert!(watched.contains(&"clients-500") && !watched.contains(&"flood"));
        let asked = ["flood", "clients-500"];
        assert_eq!(names(&asked, false).unwrap(), asked);
        assert!(
            names(&["none"], false)
                .unwrap_err()
                .contains("no workload none")
        );
    }

    #[test]
    fn the_script_knows_every_workload_by_name() {
        let script = include_str!("../../scripts/bench");
        let (_, list) = script.split_once("WORKLOADS=(").unwrap();
        let (list, _) = list.split_once(')').unwrap();
        let known: Vec<_> = list.split_whitespace().collect();
        let names: Vec<_> = all().iter().map(|workload| workload.name).collect();
        assert_eq!(known, names);
    }
}
