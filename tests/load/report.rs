//! The report: tables in Markdown, and all figures as JSON.

use std::fmt::{self, Write as _};
use std::fs;

use nix::sys::utsname::uname;

use crate::campaign::Measured;
use crate::figures::{Metric, Spread};
use crate::process::Cores;
use crate::servers::{Contender, Programs};
use crate::verdict::{Verdict, Word, ratio};
use crate::workloads::{Against, Peers};

/// Where, when and with what was measured.
pub(crate) struct Setting {
    pub(crate) date: String,
    pub(crate) rounds: usize,
    pub(crate) cores: Cores,
    /// Name and version of every server.
    pub(crate) versions: Vec<(&'static str, String)>,
    machine: String,
    kernel: String,
}

impl Setting {
    pub(crate) fn new(date: String, rounds: usize, cores: Cores, programs: &Programs) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let processors = info
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        let model = field("model name").unwrap_or_else(|| "unknown processor".into());
        let kernel = uname().map(|name| name.release().to_string_lossy().into_owned());
        let versions = Contender::ALL.into_iter().filter_map(|contender| {
            let known = !matches!(contender, Contender::OursAsleep | Contender::Unwatched);
            Some((
                contender.name(),
                programs.version(contender).filter(|_| known)?,
            ))
        });
        Self {
            date,
            rounds,
            cores,
            versions: versions.collect(),
            machine: format!("{model}, {processors} cores"),
            kernel: kernel.unwrap_or_default(),
        }
    }
}

impl Setting {
    /// A contender's name, with the release that was measured if that is known.
    fn label(&self, name: &str) -> String {
        let version = self.versions.iter().find(|(it, _)| *it == name);
        let release = version.and_then(|(_, version)| release(version));
        release.map_or_else(|| name.to_owned(), |release| format!("{name} {release}"))
    }
}

/// The release number in a program's name and version.
fn release(version: &str) -> Option<&str> {
    let mut words = version.rsplit([' ', '-']);
    words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

/// The whole report in Markdown.
pub(crate) fn markdown(setting: &Setting, all: &[Measured]) -> String {
    let mut text = String::new();
    head(&mut text, setting);
    let has = |contender| all.iter().any(|measured| measured.has(contender));
    if has(Contender::Before) {
        side_by_side(&mut text, all, Contender::Before);
    } else if has(Contender::Unwatched) {
        side_by_side(&mut text, all, Contender::Unwatched);
        further_goals(&mut text, setting, all);
    } else {
        ratios(&mut text, setting, all);
        further_goals(&mut text, setting, all);
    }
    details(&mut text, all);
    notes(&mut text, all);
    text
}

fn head(text: &mut String, setting: &Setting) {
    let Setting {
        date,
        rounds,
        cores,
        machine,
        kernel,
        ..
    } = setting;
    let versions: Vec<_> = setting
        .versions
        .iter()
        .map(|(name, version)| format!("{name}: {version}"))
        .collect();
    line(
        text,
        &format!(
            "{date}, {machine}, Linux {kernel}, loopback; server on core {}, load on core {}; \
         medians of {rounds} interleaved rounds (lowest–highest). {}.\n",
            cores.server,
            cores.load,
            versions.join("; "),
        ),
    );
    for contender in Contender::ALL {
        let name = contender.name();
        let version = setting.versions.iter().find(|(it, _)| *it == name);
        let is_old = version.is_some_and(|(_, version)| !contender.has_windows(Some(version)));
        if let Some((major, minor)) = contender.windows_since().filter(|_| is_old) {
            line(
                text,
                &format!(
                    "Windows came to {name} with {major}.{minor}: this older one takes no part \
                     where they are asked for (`PEER_SUITE=sid scripts/bench` takes newer ones).\n"
                ),
            );
        }
    }
}

fn ratios(text: &mut String, setting: &Setting, all: &[Measured]) {
    if all.iter().any(|measured| measured.has(Contender::Bare)) {
        line(text, BARE_LOOP);
    }
    let columns = ["MB/s", "CPU-s/GB"].map(|unit| {
        format!(
            "{unit} ÷ best peer | goal | bare loop ÷ best peer | ours ÷ bare loop | ours | \
             best peer |"
        )
    });
    line(text, &format!("| workload | {} {}", columns[0], columns[1]));
    line(text, &format!("|---|{}", "---|".repeat(12)));
    for measured in all {
        for asleep in [false, true] {
            let throughput = ratio(measured, Metric::Throughput, asleep);
            let cpu = ratio(measured, Metric::CpuPerGigabyte, asleep);
            if throughput.is_none() && cpu.is_none() {
                continue;
            }
            let mut title = measured.workload.title.to_owned();
            if asleep {
                title += ", `--busy-poll 0`";
            }
            let cells = |verdict, digits| Cells {
                verdict,
                digits,
                setting,
            };
            let (throughput, cpu) = (cells(throughput, 0), cells(cpu, 2));
            line(text, &format!("| {title} {throughput} {cpu} |"));
        }
    }
    text.push('\n');
}

/// Printed above the table.
const BARE_LOOP: &str = "\
The bare loop does little more than receive and send, and keeps none of the protocol's \
promises. Its sockets are left unconnected, as a server's must be to answer strangers (RFC \
1350, section 4); to send from them costs more. In lockstep with one client it waits awake as ours \
does, which its processor time includes. A goal that is missed is \"out of reach\" where the bare loop, divided by the same \
peer in the same rounds, misses it as well, and ours doesn't beat the loop.\n";

/// A figure compared with that of another build of ours.
struct Change {
    metric: Metric,
    words: &'static str,
    is_more_better: bool,
    /// Differences of up to this fraction are noise.
    noise: f64,
}

const CHANGES: [Change; 6] = [
    Change::new(Metric::Throughput, "MB/s", true, 0.03),
    Change::new(Metric::CpuPerGigabyte, "CPU-s/GB", false, 0.03),
    Change::new(Metric::CompletionP50, "median completion", false, 0.05),
    Change::new(Metric::CompletionP99, "p99 completion", false, 0.1),
    Change::new(Metric::PeakKib, "peak memory", false, 0.03),
    Change::new(Metric::KibPerSession, "KiB a stalled session", false, 0.03),
];

impl Change {
    const fn new(metric: Metric, words: &'static str, is_more_better: bool, noise: f64) -> Self {
        Self {
            metric,
            words,
            is_more_better,
            noise,
        }
    }

    /// Whether the figure means something here. Where packets are lost, the transfer that
    /// lost most in a row alone decides when the last one ends.
    fn is_told(&self, measured: &Measured) -> bool {
        let by_the_last = matches!(self.metric, Metric::Throughput | Metric::CompletionP99);
        measured.workload.plan.loss == 0 || !by_the_last
    }

    /// Whether the figure is worse by more than noise in the median, and in no round
    /// better by more than noise.
    fn is_worse(&self, ratio: Spread) -> bool {
        if self.is_more_better {
            ratio.median < 1.0 - self.noise && ratio.max < 1.0 + self.noise
        } else {
            ratio.median > 1.0 + self.noise && ratio.min > 1.0 - self.noise
        }
    }
}

/// Our server compared with another build of it, round by round.
fn side_by_side(text: &mut String, all: &[Measured], other: Contender) {
    let titles = CHANGES.map(|change| change.words);
    let whole = match other {
        Contender::Unwatched => "Ours, its status page open, divided by ours without a status port",
        _ => "Ours divided by the build before it",
    };
    line(text, &format!("{whole}, in the same round:\n"));
    let head = format!("| workload | {} | worse |", titles.join(" | "));
    line(text, &head);
    line(text, &format!("|---|{}---|", "---|".repeat(CHANGES.len())));
    for measured in all {
        let mut worse = Vec::new();
        let cells = CHANGES.map(|change| {
            let (us, them) = (Contender::Ours, other);
            let ratio = measured.ratio((us, change.metric), (them, change.metric));
            let Some(ratio) = ratio.filter(|_| change.is_told(measured)) else {
                return "–".to_owned();
            };
            if change.is_worse(ratio) {
                worse.push(change.words);
            }
            show(ratio, 2)
        });
        let (title, cells, worse) = (measured.workload.title, cells.join(" | "), worse.join(", "));
        line(text, &format!("| {title} | {cells} | {worse} |"));
    }
    text.push('\n');
}

/// Six cells about a ratio: the ratio, its goal, the bare loop's ratio, and the figures
/// behind them with this many digits.
struct Cells<'a> {
    verdict: Option<Verdict>,
    digits: usize,
    setting: &'a Setting,
}

impl fmt::Display for Cells<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits;
        let Some(verdict) = &self.verdict else {
            return f.write_str("| | | | | |");
        };
        let ours = show(verdict.ours, digits);
        let (value, goal) = (show(verdict.value, 2), verdict.told());
        let [bare, share] = [verdict.bare, verdict.share]
            .map(|it| it.map_or_else(|| "–".to_owned(), |it| show(it, 2)));
        write!(f, "| {value} | {goal} | {bare} | {share} | {ours} |")?;
        match verdict.other {
            Some((name, spread)) => {
                let name = self.setting.label(name);
                write!(f, " {name} {}", show(spread, digits))
            }
            None => Ok(()),
        }
    }
}

fn further_goals(text: &mut String, setting: &Setting, all: &[Measured]) {
    line(
        text,
        "| workload | figure | value | goal | bare loop | ours | held against |",
    );
    line(text, "|---|---|---|---|---|---|---|");
    for measured in all {
        for &goal in &measured.workload.goals {
            let in_first = matches!(goal.metric, Metric::Throughput | Metric::CpuPerGigabyte);
            if in_first && goal.against == Against::BestPeer {
                continue;
            }
            let Some(verdict) = Verdict::of(measured, goal) else {
                continue;
            };
            // Shown only if there were some.
            let counts_faults = matches!(goal.metric, Metric::Failures | Metric::Unfinished);
            if counts_faults && verdict.word() == Word::Met {
                continue;
            }
            let bare = verdict.bare.map(|it| show(it, 2));
            let other = verdict
                .other
                .map(|(name, spread)| format!("{} {}", setting.label(name), show(spread, 2)));
            line(
                text,
                &format!(
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    measured.workload.title,
                    goal.metric.words(),
                    show(verdict.value, 2),
                    verdict.told(),
                    bare.unwrap_or_default(),
                    show(verdict.ours, 2),
                    other.unwrap_or_default(),
                ),
            );
        }
    }
    text.push('\n');
}

fn details(text: &mut String, all: &[Measured]) {
    const COLUMNS: [(Metric, usize); 13] = [
        (Metric::Throughput, 0),
        (Metric::CpuPerGigabyte, 2),
        (Metric::CompletionP50, 1),
        (Metric::CompletionP99, 1),
        (Metric::CompletionMax, 1),
        (Metric::FirstDataP50, 1),
        (Metric::FirstDataP99, 1),
        (Metric::DataPerBlock, 2),
        (Metric::RequestResends, 0),
        (Metric::Failures, 0),
        (Metric::Unfinished, 0),
        (Metric::PeakKib, 0),
        (Metric::LoadBusy, 2),
    ];
    let titles: Vec<_> = COLUMNS.iter().map(|(metric, _)| metric.words()).collect();
    line(
        text,
        &format!("| workload | server | {} |", titles.join(" | ")),
    );
    line(text, &format!("|---|---|{}", "---|".repeat(COLUMNS.len())));
    for measured in all {
        for contender in Contender::ALL {
            if !measured.has(contender) {
                continue;
            }
            let cells = COLUMNS.map(|(metric, digits)| {
                let spread = measured.spread(contender, metric);
                spread.map_or_else(
                    || "–".into(),
                    |spread| format!("{:.digits$}", spread.median),
                )
            });
            line(
                text,
                &format!(
                    "| {} | {} | {} |",
                    measured.workload.name,
                    contender.name(),
                    cells.join(" | ")
                ),
            );
        }
    }
    text.push('\n');
}

/// What went wrong, once for each server and workload.
fn notes(text: &mut String, all: &[Measured]) {
    for measured in all {
        if measured.workload.peers == Peers::Once {
            continue;
        }
        let last = measured.runs.last().map_or(0, |run| run.round);
        let ran = |contender, round| {
            let mut runs = measured.runs.iter();
            runs.any(|run| run.contender == contender && run.round == round)
        };
        let is_out = |it: &Contender| ran(*it, 1) && !ran(*it, last);
        let names: Vec<_> = Contender::ALL
            .into_iter()
            .filter(is_out)
            .map(Contender::name)
            .collect();
        if !names.is_empty() {
            let (workload, names) = (measured.workload.name, names.join(", "));
            line(
                text,
                &format!(
                    "- {workload}: {names} took no part in later rounds; the first round's \
                     figures stand for those."
                ),
            );
        }
    }
    for measured in all {
        for contender in Contender::ALL {
            let mut runs = measured
                .runs
                .iter()
                .filter(|run| run.contender == contender);
            if let Some(note) = runs.find_map(|run| run.note.as_ref()) {
                line(
                    text,
                    &format!("- {}, {}: {note}", measured.workload.name, contender.name()),
                );
            }
        }
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn show(spread: Spread, digits: usize) -> String {
    let Spread { median, min, max } = spread;
    if (min - max).abs() < f64::EPSILON {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

/// All figures of all runs.
pub(crate) fn json(setting: &Setting, all: &[Measured]) -> String {
    let versions: Vec<_> = setting
        .versions
        .iter()
        .map(|(name, version)| format!("{}: {}", quoted(name), quoted(version)))
        .collect();
    let workloads: Vec<_> = all.iter().map(json_workload).collect();
    format!(
        "{{\n  \"date\": {},\n  \"machine\": {},\n  \"kernel\": {},\n  \"rounds\": {},\n  \
         \"versions\": {{{}}},\n  \"workloads\": [\n{}\n  ]\n}}\n",
        quoted(&setting.date),
        quoted(&setting.machine),
        quoted(&setting.kernel),
        setting.rounds,
        versions.join(", "),
        workloads.join(",\n"),
    )
}

fn json_workload(measured: &Measured) -> String {
    let runs: Vec<_> = measured
        .runs
        .iter()
        .map(|run| {
            let mut text = format!(
                "      {{\"server\": {}, \"round\": {}",
                quoted(run.contender.name()),
                run.round
            );
            for metric in Metric::ALL {
                let value = run.figures.get(metric);
                if value.is_finite() {
                    // Writing to a string can't fail.
                    let _ = write!(text, ", \"{}\": {value}", metric.key());
                }
            }
            if let Some(note) = &run.note {
                let _ = write!(text, ", \"note\": {}", quoted(note));
            }
            text + "}"
        })
        .collect();
    format!(
        "    {{\"name\": {}, \"title\": {}, \"runs\": [\n{}\n    ]}}",
        quoted(measured.workload.name),
        quoted(measured.workload.title),
        runs.join(",\n")
    )
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => quoted.push(' '),
            character => quoted.push(character),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_the_last_number_that_a_program_calls_itself_by() {
        for (version, expected) in [
            ("tftp-hpa 5.2", Some("5.2")),
            ("tftp-hpa 7.3", Some("7.3")),
            ("atftp-0.8.0", Some("0.8.0")),
            ("Dnsmasq version 2.90", Some("2.90")),
            ("rs-tftp server version 1.0.0", Some("1.0.0")),
            ("no number", None),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }

    #[test]
    fn a_change_for_the_worse_is_beyond_noise() {
        let [throughput, cpu, ..] = CHANGES;
        for (change, values, expected) in [
            (&throughput, [0.90, 0.92, 0.95], true),
            (&throughput, [0.90, 0.92, 1.30], false),
            (&throughput, [0.98, 0.98, 0.99], false),
            (&throughput, [1.2, 1.3, 1.4], false),
            (&cpu, [1.1, 1.1, 1.2], true),
            (&cpu, [0.8, 0.8, 0.9], false),
        ] {
            let ratio = Spread::of(values).unwrap();
            assert_eq!(change.is_worse(ratio), expected, "{values:?}");
        }
    }
}
