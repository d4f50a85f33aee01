//! The rounds: each workload with each server in turn, A B C C B A, so that other
//! activity on the machine affects all of them alike, and slow changes favour none.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tftpd::wire::packet::Direction;

use crate::abuse::{Flood, stall};
use crate::clock;
use crate::crowd::crowd;
use crate::figures::{Figures, Metric, Spread};
use crate::fleet::{Fleet, Plan, Tally};
use crate::pattern::Pattern;
use crate::process::{Cores, Insomnia, Watch};
use crate::servers::{Contender, PROBE, Programs, Server, Slots};
use crate::workloads::{Bound, Kind, Peers, Workload};

/// A run of one contender.
pub(crate) struct Run {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
    /// What went wrong, if anything.
    pub(crate) note: Option<String>,
}

/// All runs of one workload.
pub(crate) struct Measured {
    pub(crate) workload: Workload,
    pub(crate) runs: Vec<Run>,
}

impl Measured {
    /// Whether this contender took part.
    pub(crate) fn has(&self, contender: Contender) -> bool {
        self.runs.iter().any(|run| run.contender == contender)
    }

    /// The median of a figure over the rounds of one contender.
    pub(crate) fn spread(&self, contender: Contender, metric: Metric) -> Option<Spread> {
        let runs = self.runs.iter().filter(|run| run.contender == contender);
        Spread::of(runs.map(|run| run.figures.get(metric)))
    }

    /// One figure divided by another of the same round, so that what else the machine does
    /// counts for both. A peer that didn't run in that round is represented by its first.
    pub(crate) fn ratio(
        &self,
        over: (Contender, Metric),
        under: (Contender, Metric),
    ) -> Option<Spread> {
        let get = |round: usize, (contender, metric): (Contender, Metric)| {
            let of_round = |round| {
                let mut runs = self.runs.iter();
                runs.find(move |run| run.contender == contender && run.round == round)
            };
            let first = || of_round(1).filter(|_| contender.is_peer());
            let run = of_round(round).or_else(first);
            run.map_or(f64::NAN, |run| run.figures.get(metric))
        };
        let last = self.runs.last()?.round;
        Spread::of((1..=last).map(|round| get(round, over) / get(round, under)))
    }

    /// The peer with the best value of this figure. A peer that failed or was cut off
    /// counts only if all of them did.
    pub(crate) fn best_peer(&self, metric: Metric, bound: Bound) -> Option<Contender> {
        let score = |peer| {
            let median = self.spread(peer, metric)?.median;
            Some(match bound {
                Bound::AtLeast(_) => median,
                Bound::AtMost(_) => -median,
            })
        };
        let best = |wanted: &dyn Fn(Contender) -> bool| {
            let peers = Contender::ALL
                .into_iter()
                .filter(|peer| peer.is_peer() && wanted(*peer));
            let scored = peers.filter_map(|peer| Some((peer, score(peer)?)));
            scored
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .map(|(peer, _)| peer)
        };
        best(&|peer| self.is_sound(peer)).or_else(|| best(&|_| true))
    }

    /// Whether at least nine transfers of ten were finished.
    pub(crate) fn is_sound(&self, contender: Contender) -> bool {
        let median = |metric| {
            self.spread(contender, metric)
                .map_or(0.0, |spread| spread.median)
        };
        let lost = median(Metric::Failures) + median(Metric::Unfinished);
        lost * 10.0 <= self.workload.plan.transfers as f64
    }
}

/// Whether a contender runs in another round after the first.
fn runs_again(workload: &Workload, contender: Contender, runs: &[Run]) -> bool {
    let mut runs = runs.iter().filter(|run| run.contender == contender);
    // A peer that failed to start has no figures (NaN), and tries again.
    let is_cut_off = |run: &Run| run.figures.get(Metric::Unfinished) > 0.0;
    match workload.peers {
        _ if !contender.is_peer() => true,
        Peers::None | Peers::Once => false,
        Peers::UntilCutOff => !runs.any(is_cut_off),
        Peers::Each => true,
    }
}

/// Everything needed to run workloads.
pub(crate) struct Campaign {
    pub(crate) programs: Programs,
    pub(crate) cores: Cores,
    pub(crate) root: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) pattern: Pattern,
}

impl Campaign {
    /// Runs all workloads; reports progress on standard error.
    pub(crate) fn run(&self, workloads: Vec<Workload>) -> io::Result<Vec<Measured>> {
        let _awake = Insomnia::on(self.cores.server, self.cores.load)?;
        File::create(self.root.join(PROBE))?;
        let here: Vec<_> = Contender::ALL
            .into_iter()
            .filter(|&contender| {
                let found = self.programs.find(contender).is_some();
                if !found && self.programs.is_wanted(contender) {
                    eprintln!("skipping {}: not on this machine", contender.name());
                }
                found
            })
            .collect();
        workloads
            .into_iter()
            .map(|workload| self.measure(workload, &here))
            .collect()
    }

    fn measure(&self, workload: Workload, here: &[Contender]) -> io::Result<Measured> {
        self.lay_out(&workload.plan)?;
        let mut taking_part = here.to_vec();
        taking_part.retain(|&contender| self.takes_part(contender, &workload));
        let mut runs = Vec::new();
        for round in 1..=self.rounds {
            if round > 1 {
                taking_part.reverse();
                taking_part.retain(|&it| runs_again(&workload, it, &runs));
            }
            for &contender in &taking_part {
                let (figures, note) = match self.run_once(&workload, contender) {
                    Ok(done) => done,
                    Err(error) => (Figures::default(), Some(error.to_string())),
                };
                say(&workload, contender, round, &figures, note.as_deref());
                runs.push(Run {
                    contender,
                    round,
                    figures,
                    note,
                });
            }
        }
        self.clear()?;
        Ok(Measured { workload, runs })
    }

    /// Creates the files to be read, or makes memory available for those to be written: a
    /// virtual machine may get it from its host only on first use, and the first server
    /// would pay for that.
    fn lay_out(&self, plan: &Plan) -> io::Result<()> {
        let (files, is_written) = match plan.direction {
            Direction::Read => (plan.files, false),
            Direction::Write => (plan.transfers as u32, true),
        };
        for file in 0..files {
            let path = self.root.join(plan.name(file));
            self.pattern.create(&path, file, plan.size)?;
        }
        if is_written { self.clear() } else { Ok(()) }
    }

    /// Removes every file except the probe.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name() != PROBE {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn run_once(
        &self,
        workload: &Workload,
        contender: Contender,
    ) -> io::Result<(Figures, Option<String>)> {
        let log = self.root.with_extension("log");
        let slots = match workload.kind {
            Kind::Crowd => Slots::SinglePort,
            _ => Slots::Plenty,
        };
        let place = (&*self.root, &*log);
        let mut server = Server::start(&self.programs, contender, place, slots, self.cores)?;
        let plan = workload.plan;
        let (mut figures, note) = match workload.kind {
            Kind::Transfers => self.transfers(plan, &server)?,
            Kind::Flood => self.flood(plan, &server)?,
            Kind::Crowd => crowd(&plan, &self.pattern, server.address, server.tree())?,
            Kind::Stalled(count) => {
                let name = plan.name(0);
                (stall(server.address, server.tree(), &name, count)?, None)
            }
        };
        let note = if server.has_died() {
            Some("the server died".to_owned())
        } else {
            note
        };
        drop(server);
        if plan.direction == Direction::Write {
            let wrong = self.verify_uploads(&plan)?;
            figures.set(
                Metric::Failures,
                figures.get(Metric::Failures) + wrong as f64,
            );
        }
        Ok((figures, note))
    }

    fn transfers(&self, plan: Plan, server: &Server) -> io::Result<(Figures, Option<String>)> {
        let fleet = Fleet::new(plan, &self.pattern, server.address)?;
        let mut watch = Watch::new(server.tree(), clock());
        let mut tally = fleet.run(|now| watch.look(now))?;
        let cpu = watch.cpu();

        let mut figures = Figures::default();
        tally.write_into(&mut figures);
        figures.set(Metric::PeakKib, watch.peak_kib() as f64);
        if tally.bytes > 0 && server.accounts_for(&plan) {
            figures.set(
                Metric::CpuPerGigabyte,
                cpu.as_secs_f64() / (tally.bytes as f64 / 1e9),
            );
        }
        Ok((figures, complaint(&tally, plan.limit)))
    }

    fn flood(&self, plan: Plan, server: &Server) -> io::Result<(Figures, Option<String>)> {
        let fleet = Fleet::new(plan, &self.pattern, server.address)?;
        let mut watch = Watch::new(server.tree(), clock());
        let mut flood = Flood::new(server.address, &plan.name(0))?;
        let mut tally = fleet.run(|now| flood.tick(now).min(watch.look(now)))?;
        let mut figures = Figures::default();
        tally.write_into(&mut figures);
        flood.finish(&mut figures, |now| {
            watch.look(now);
        })?;
        figures.set(Metric::PeakKib, watch.peak_kib() as f64);
        Ok((figures, complaint(&tally, plan.limit)))
    }

    fn takes_part(&self, contender: Contender, workload: &Workload) -> bool {
        let wanted = match contender {
            Contender::Ours | Contender::Before | Contender::Unwatched => true,
            Contender::OursAsleep => workload.asleep,
            Contender::Bare => match workload.kind {
                Kind::Transfers => workload.peers == Peers::Each,
                // Its memory is typical of any such program.
                Kind::Stalled(_) => true,
                Kind::Flood | Kind::Crowd => false,
            },
            Contender::BareAsleep => workload.goals.iter().any(|goal| goal.asleep),
            _ => workload.peers != Peers::None,
        };
        let version = self.programs.version(contender);
        wanted && contender.can(&workload.plan, version.as_deref())
    }

    /// The number of files that should have come and are missing or wrong.
    fn verify_uploads(&self, plan: &Plan) -> io::Result<usize> {
        let wrong = (0..plan.transfers)
            .map(|index| plan.file(index))
            .filter(|&file| {
                let path = self.root.join(plan.name(file));
                self.pattern.verify(&path, file, plan.size).is_err()
            })
            .count();
        self.clear()?;
        Ok(wrong)
    }
}

fn complaint(tally: &Tally, limit: Duration) -> Option<String> {
    match (&tally.complaint, tally.unfinished) {
        (Some(complaint), _) => Some(format!("{} failed: {complaint}", tally.failures)),
        (None, 0) => None,
        (None, unfinished) => Some(format!(
            "cut off after {limit:?} with {unfinished} unfinished"
        )),
    }
}

fn say(
    workload: &Workload,
    contender: Contender,
    round: usize,
    figures: &Figures,
    note: Option<&str>,
) {
    let shown = [
        Metric::Throughput,
        Metric::CpuPerGigabyte,
        Metric::CompletionP50,
        Metric::CompletionP99,
        Metric::LoadBusy,
    ];
    let mut line = format!("{:<22} {round} {:<18}", workload.name, contender.name());
    for metric in shown {
        let value = figures.get(metric);
        if !value.is_nan() {
            // Writing to a string can't fail.
            let _ = write!(line, " {value:.3} {};", metric.words());
        }
    }
    eprintln!("{line} {}", note.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads;

    #[test]
    fn only_a_peer_that_was_cut_off_takes_no_part_in_later_rounds() {
        let mut all = workloads::all().into_iter();
        let workload = all.find(|it| it.peers == Peers::UntilCutOff).unwrap();
        for (contender, unfinished, expected) in [
            (Contender::Dnsmasq, 0.0, true),
            (Contender::Dnsmasq, 1.0, false),
            // It failed to start.
            (Contender::Dnsmasq, f64::NAN, true),
            (Contender::Ours, 1.0, true),
        ] {
            let mut figures = Figures::default();
            figures.set(Metric::Unfinished, unfinished);
            let run = Run {
                contender,
                round: 1,
                figures,
                note: None,
            };
            let runs_again = runs_again(&workload, contender, &[run]);
            assert_eq!(runs_again, expected, "{contender:?} {unfinished}");
        }
    }
}
