//! The result of a goal: met, missed, or out of reach.

use std::fmt;

use crate::campaign::Measured;
use crate::figures::{Metric, Spread};
use crate::servers::Contender;
use crate::workloads::{Against, Bound, Goal};

/// One of two equal contenders may be ahead by this fraction.
const NOISE: f64 = 0.05;

/// The word for a goal's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Met,
    /// Missed, and the bare loop, which ours doesn't beat, misses it too.
    OutOfReach,
    Missed,
}

impl Word {
    /// `bare`: the bare loop's figure, if it took part; `share`: our figure divided by the
    /// loop's. If ours beats the loop, the loop can't put a goal out of reach.
    fn of(bound: Bound, ours: f64, bare: Option<f64>, share: f64) -> Self {
        let is_beaten = match bound {
            Bound::AtLeast(_) => share > 1.0 + NOISE,
            Bound::AtMost(_) => share < 1.0 - NOISE,
        };
        if bound.is_met_by(ours) {
            Self::Met
        } else if bare.is_some_and(|bare| !bound.is_met_by(bare)) && !is_beaten {
            Self::OutOfReach
        } else {
            Self::Missed
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::OutOfReach => "out of reach",
            Self::Missed => "**missed**",
        })
    }
}

/// A goal and its result.
pub(crate) struct Verdict {
    pub(crate) goal: Goal,
    pub(crate) ours: Spread,
    /// The name and the figure of the contender that ours is divided by.
    pub(crate) other: Option<(&'static str, Spread)>,
    /// The value that the bound applies to: our figure, or the ratio within a round.
    pub(crate) value: Spread,
    /// The same for the bare loop in our place, if nine transfers of ten finished.
    pub(crate) bare: Option<Spread>,
    /// Our value divided by the bare loop's, in the same round; for a ratio between two
    /// figures of one run, the medians are divided.
    pub(crate) share: Option<Spread>,
}

impl Verdict {
    /// `None` if one of the two figures is missing.
    pub(crate) fn of(measured: &Measured, goal: Goal) -> Option<Self> {
        let (us, loops) = if goal.asleep {
            (Contender::OursAsleep, Contender::BareAsleep)
        } else {
            (Contender::Ours, Contender::Bare)
        };
        let metric = goal.metric;
        let other = |who| match goal.against {
            Against::BestPeer => measured
                .best_peer(metric, goal.bound)
                .map(|it| (it, metric)),
            Against::Asleep => Some((Contender::OursAsleep, metric)),
            Against::Unwatched => Some((Contender::Unwatched, metric)),
            Against::Own(metric) => Some((who, metric)),
            Against::Nothing => None,
        };
        let value = |who| match other(who) {
            Some(other) => measured.ratio((who, metric), other),
            None if goal.against == Against::Nothing => measured.spread(who, metric),
            None => None,
        };
        let ours = measured.spread(us, metric)?;
        let named = other(us).and_then(|(contender, metric)| {
            let name = match goal.against {
                Against::Own(metric) => metric.words(),
                _ => contender.name(),
            };
            Some((name, measured.spread(contender, metric)?))
        });
        let own = value(us)?;
        let counts = can_be_out_of_reach(goal) && measured.is_sound(loops);
        let bare = value(loops).filter(|_| counts);
        let share = bare.and_then(|bare| match goal.against {
            Against::Own(_) => Spread::of([own.median / bare.median]),
            _ => measured.ratio((us, metric), (loops, metric)),
        });
        Some(Self {
            goal,
            ours,
            other: named,
            value: own,
            bare,
            share,
        })
    }

    pub(crate) fn word(&self) -> Word {
        let bare = self.bare.map(|bare| bare.median);
        let share = self.share.map_or(f64::NAN, |share| share.median);
        Word::of(self.goal.bound, self.value.median, bare, share)
    }

    /// The bound, and the word for it.
    pub(crate) fn told(&self) -> String {
        let word = self.word();
        match self.goal.bound {
            Bound::AtLeast(least) => format!("≥ {least} {word}"),
            Bound::AtMost(most) => format!("≤ {most} {word}"),
        }
    }
}

/// Whether the bare loop can show that a goal is out of reach. It can't where ours is
/// compared with another build of ours; and failures are never excused.
fn can_be_out_of_reach(goal: Goal) -> bool {
    let is_own = matches!(goal.against, Against::Asleep | Against::Unwatched);
    let counts_faults = matches!(
        goal.metric,
        Metric::Failures | Metric::Unfinished | Metric::RequestResends
    );
    !is_own && !counts_faults
}

/// The verdict on one of the two ratios at the start of every table.
pub(crate) fn ratio(measured: &Measured, metric: Metric, asleep: bool) -> Option<Verdict> {
    let goals = measured.workload.goals.iter();
    let mut goals = goals.filter(|goal| goal.asleep == asleep && goal.against == Against::BestPeer);
    Verdict::of(measured, *goals.find(|goal| goal.metric == metric)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::Run;
    use crate::figures::Figures;
    use crate::workloads;

    #[test]
    fn only_a_goal_that_the_bare_loop_misses_too_is_out_of_reach() {
        let (most, least) = (Bound::AtMost(0.9), Bound::AtLeast(2.0));
        for (bound, ours, bare, expected) in [
            (most, 0.9, Some(0.8), Word::Met),
            (most, 0.9, None, Word::Met),
            (most, 0.8, Some(0.95), Word::Met),
            (most, 0.91, Some(0.89), Word::Missed),
            (most, 0.91, Some(0.9), Word::Missed),
            (most, 0.91, Some(0.905), Word::OutOfReach),
            // However far ours is from the goal, the bare loop misses it too.
            (most, 1.5, Some(0.95), Word::OutOfReach),
            (most, 0.91, None, Word::Missed),
            (least, 2.0, Some(2.5), Word::Met),
            (least, 1.9, Some(2.0), Word::Missed),
            (least, 1.9, Some(1.95), Word::OutOfReach),
            (least, 1.9, None, Word::Missed),
        ] {
            let share = ours / bare.unwrap_or(f64::NAN);
            let word = Word::of(bound, ours, bare, share);
            assert_eq!(word, expected, "{ours} {bare:?}");
        }
    }

    #[test]
    fn a_bare_loop_that_ours_beats_puts_no_goal_out_of_reach() {
        let (most, least) = (Bound::AtMost(0.9), Bound::AtLeast(2.0));
        for (bound, ours, bare, expected) in [
            (most, 0.95, 0.97, Word::OutOfReach),
            (most, 0.95, 1.02, Word::Missed),
            (least, 1.9, 1.85, Word::OutOfReach),
            (least, 1.9, 1.7, Word::Missed),
        ] {
            let word = Word::of(bound, ours, Some(bare), ours / bare);
            assert_eq!(word, expected, "{ours} {bare}");
        }
    }

    /// The first workload with a goal of this kind, and its figures for each round.
    fn measured(
        is_right: impl Fn(&Goal) -> bool,
        rounds: &[&[(Contender, f64)]],
    ) -> (Measured, Goal) {
        let mut all = workloads::all().into_iter();
        let workload = all
            .find(|it| it.goals.iter().any(&is_right))
            .expect("a workload");
        let goal = *workload.goals.iter().find(|it| is_right(it)).unwrap();
        let runs = rounds.iter().zip(1..).flat_map(|(runs, round)| {
            runs.iter().map(move |&(contender, value)| {
                let mut figures = Figures::default();
                figures.set(goal.metric, value);
                figures.set(Metric::Failures, 0.0);
                Run {
                    contender,
                    round,
                    figures,
                    note: None,
                }
            })
        });
        let runs = runs.collect();
        (Measured { workload, runs }, goal)
    }

    #[test]
    fn a_verdict_takes_the_median_of_ratios_within_rounds() {
        use Contender::{Bare, Dnsmasq, Ours, RsTftpd};
        // Something else on the machine triples all figures of a round.
        let (measured, goal) = measured(
            |goal| goal.metric == Metric::CpuPerGigabyte && goal.against == Against::BestPeer,
            &[
                &[(Ours, 11.0), (Bare, 10.5), (Dnsmasq, 10.0), (RsTftpd, 20.0)],
                &[(Ours, 33.0), (Bare, 31.5), (Dnsmasq, 30.0), (RsTftpd, 20.0)],
                &[(Ours, 10.0), (Bare, 9.0), (Dnsmasq, 10.0), (RsTftpd, 20.0)],
            ],
        );
        let verdict = Verdict::of(&measured, goal).unwrap();
        let near = |spread: Option<Spread>, expected: f64| {
            let median = spread.map_or(f64::NAN, |it| it.median);
            assert!((median - expected).abs() < 0.001, "{median} {expected}");
        };
        assert_eq!(verdict.other.unwrap().0, "dnsmasq");
        near(Some(verdict.value), 1.1);
        near(verdict.bare, 1.05);
        near(verdict.share, 11.0 / 10.5);
        assert_eq!(verdict.word(), Word::OutOfReach);
        assert_eq!(verdict.told(), "≤ 1 out of reach");
    }

    #[test]
    fn a_run_without_spinning_is_held_against_a_loop_that_does_not_spin() {
        use Contender::{Bare, BareAsleep, Dnsmasq, Ours, OursAsleep};
        let (measured, goal) = measured(
            |goal| goal.asleep && goal.metric == Metric::Throughput,
            &[&[
                (Ours, 20.0),
                (OursAsleep, 9.0),
                (Bare, 21.0),
                (BareAsleep, 9.5),
                (Dnsmasq, 10.0),
            ]],
        );
        let verdict = Verdict::of(&measured, goal).unwrap();
        assert!((verdict.bare.unwrap().median - 0.95).abs() < 0.001);
        assert_eq!(verdict.word(), Word::OutOfReach);
    }

    /// The loop is twice as slow as ours but just as even: it isn't beaten.
    #[test]
    fn a_ratio_within_a_run_is_held_against_that_of_the_bare_loop() {
        use Contender::{Bare, Ours};
        let (mut measured, goal) = measured(
            |goal| matches!(goal.against, Against::Own(_)),
            &[&[(Ours, 12.0), (Bare, 24.0)]],
        );
        let Against::Own(own) = goal.against else {
            unreachable!()
        };
        for (run, value) in measured.runs.iter_mut().zip([10.0, 20.0]) {
            run.figures.set(own, value);
        }
        let verdict = Verdict::of(&measured, goal).unwrap();
        assert!((verdict.share.unwrap().median - 1.0).abs() < 0.001);
        assert_eq!(verdict.word(), Word::OutOfReach);
    }

    #[test]
    fn a_bare_loop_that_failed_is_not_divided_by() {
        use Contender::{Bare, Dnsmasq, Ours};
        let (mut measured, goal) = measured(
            |goal| goal.metric == Metric::CpuPerGigabyte && goal.against == Against::BestPeer,
            &[&[(Ours, 11.0), (Bare, 10.5), (Dnsmasq, 10.0)]],
        );
        let bare = measured.runs.iter_mut().find(|run| run.contender == Bare);
        let transfers = measured.workload.plan.transfers as f64;
        bare.unwrap().figures.set(Metric::Failures, transfers);
        let verdict = Verdict::of(&measured, goal).unwrap();
        assert!(verdict.bare.is_none() && verdict.share.is_none());
        assert_eq!(verdict.word(), Word::Missed);
    }

    #[test]
    fn failures_are_never_out_of_reach() {
        use Contender::{Bare, Ours};
        let (measured, goal) = measured(
            |goal| goal.metric == Metric::Unfinished,
            &[&[(Ours, 5.0), (Bare, 5.0)]],
        );
        let verdict = Verdict::of(&measured, goal).unwrap();
        assert_eq!(verdict.word(), Word::Missed);
    }
}
