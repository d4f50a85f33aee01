//! The chart: our ratios to the best peer as bars on a logarithmic scale. A bar
//! starts at 1.0, the best peer, and its colour shows which of the two is better.
//! A tick marks the goal, and a dashed line the bare loop.
//!
//! Meant for a page 700 pixels wide, light or dark.

use std::fmt::Write as _;

use crate::campaign::Measured;
use crate::figures::Metric;
use crate::verdict::{Verdict, ratio};
use crate::workloads::Bound;

const WIDTH: f64 = 700.0;
const MARGIN: f64 = 10.0;
/// Where the first panel starts; the rows' titles are left of it.
const NAMES: f64 = 222.0;
const ROW: f64 = 22.0;
/// Height above the rows, for captions, legend and the labels of the scale.
const HEAD: f64 = 84.0;
/// Width right of the bars, for the ratio as a number.
const FIGURE: f64 = 44.0;
const GAP: f64 = 14.0;
const PANEL: f64 = (WIDTH - MARGIN - NAMES - GAP) / 2.0;
const BARS: f64 = PANEL - FIGURE;

const STYLE: &str = "\
text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1f2328}\
.small{font-size:11px;fill:#59636e}.page{fill:#fff}.grid{stroke:#d1d9e0}\
.one{stroke:#1f2328;stroke-width:1.5}.goal{stroke:#1f2328;stroke-width:2}\
.better{fill:#2a78c2}.worse{fill:#d9822b}\
.bare{stroke:#a0218f;stroke-width:2;stroke-dasharray:3 2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9aa4af}\
.page{fill:#0d1117}.grid{stroke:#30363d}.one,.goal{stroke:#e6edf3}\
.better{fill:#58a6ff}.worse{fill:#e3954a}.bare{stroke:#ff9bef}}";

/// One workload's bars.
struct Row {
    title: String,
    bars: [Option<Bar>; 2],
}

#[derive(Clone, Copy)]
struct Bar {
    ratio: f64,
    goal: f64,
    /// The bare loop's ratio.
    bare: Option<f64>,
    is_better: bool,
}

impl Bar {
    fn of(verdict: &Verdict) -> Self {
        let ratio = verdict.value.median;
        let (goal, is_better) = match verdict.goal.bound {
            Bound::AtLeast(goal) => (goal, ratio >= 1.0),
            Bound::AtMost(goal) => (goal, ratio <= 1.0),
        };
        Self {
            ratio,
            goal,
            bare: verdict.bare.map(|bare| bare.median),
            is_better,
        }
    }
}

/// The chart as SVG; `None` if there is nothing to compare.
pub(crate) fn svg(all: &[Measured]) -> Option<String> {
    let rows: Vec<Row> = all
        .iter()
        .flat_map(|measured| [false, true].map(|asleep| row(measured, asleep)))
        .filter(|row| row.bars.iter().any(Option::is_some))
        .collect();
    (!rows.is_empty()).then(|| draw(&rows))
}

fn row(measured: &Measured, asleep: bool) -> Row {
    let mut title = measured.workload.title.to_owned();
    if asleep {
        title += ", no spin";
    }
    let metrics = [Metric::Throughput, Metric::CpuPerGigabyte];
    Row {
        title,
        bars: metrics.map(|metric| ratio(measured, metric, asleep).map(|it| Bar::of(&it))),
    }
}

fn draw(rows: &[Row]) -> String {
    let height = HEAD + ROW * rows.len() as f64 + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>tftpd beside the best other server: throughput and processor time</title>\n\
         <style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n"
    );
    legend(&mut svg);
    for (index, row) in rows.iter().enumerate() {
        let x = NAMES - 10.0;
        text(&mut svg, x, baseline(index), "end", "", &row.title);
    }
    let captions = [
        "throughput: right of 1 is better",
        "CPU per GB: left of 1 is better",
    ];
    for (which, caption) in captions.into_iter().enumerate() {
        let left = NAMES + which as f64 * (PANEL + GAP);
        text(&mut svg, left, 50.0, "start", "", caption);
        panel(&mut svg, rows, which, left);
    }
    svg + "</svg>\n"
}

fn legend(svg: &mut String) {
    let y = 24.0;
    let entries = [
        (MARGIN, "better", "better"),
        (MARGIN + 78.0, "worse", "worse"),
        (MARGIN + 150.0, "one", "1 = best other server"),
        (MARGIN + 330.0, "goal", "goal"),
        (MARGIN + 396.0, "bare", "bare loop"),
    ];
    for (x, class, words) in entries {
        match class {
            "better" | "worse" => rect(svg, class, x, y - 10.0, 12.0, 12.0),
            "one" | "bare" => line(svg, class, x + 6.0, y - 11.0, y + 3.0),
            _ => line(svg, class, x + 6.0, y - 8.0, y + 1.0),
        }
        text(svg, x + 18.0, y, "start", "", words);
    }
}

fn panel(svg: &mut String, rows: &[Row], which: usize, left: f64) {
    let scale = Scale::around(rows.iter().filter_map(|row| row.bars[which]));
    let bottom = HEAD + ROW * rows.len() as f64;
    for power in scale.low..=scale.high {
        let x = left + scale.place(f64::from(power).exp2());
        line(svg, "grid", x, HEAD, bottom);
        // On a long scale, neighbouring labels would touch; 1 always has one.
        if scale.high - scale.low < 5 || power % 2 == 0 {
            let label = f64::from(power).exp2().to_string();
            text(svg, x, HEAD - 8.0, "middle", "small", &label);
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let top = HEAD + ROW * index as f64;
        let Some(bar) = row.bars[which] else {
            text(svg, left + PANEL, baseline(index), "end", "small", "–");
            continue;
        };
        let (end, one) = (scale.place(bar.ratio), scale.place(1.0));
        let class = if bar.is_better { "better" } else { "worse" };
        let (from, width) = (left + end.min(one), (end - one).abs().max(1.0));
        rect(svg, class, from, top + 4.0, width, ROW - 8.0);
        let goal = left + scale.place(bar.goal);
        line(svg, "goal", goal, top + 6.0, top + ROW - 6.0);
        if let Some(bare) = bar.bare {
            let x = left + scale.place(bare);
            line(svg, "bare", x, top + 1.0, top + ROW - 1.0);
        }
        let figure = format!("{:.2}", bar.ratio);
        text(svg, left + PANEL, baseline(index), "end", "", &figure);
    }
    let x = left + scale.place(1.0);
    line(svg, "one", x, HEAD - 3.0, bottom);
}

/// A logarithmic scale over whole powers of two.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// The powers of two around all bars and marks, between 1/16 and 64.
    fn around(bars: impl Iterator<Item = Bar>) -> Self {
        let (mut low, mut high) = (-1, 1);
        for value in bars.flat_map(|bar| [bar.ratio, bar.goal, bar.bare.unwrap_or(1.0)]) {
            let power = value.log2().clamp(-4.0, 6.0);
            low = low.min(power.floor() as i32);
            high = high.max(power.ceil() as i32);
        }
        Self { low, high }
    }

    /// Pixels from the left of the bars.
    fn place(&self, ratio: f64) -> f64 {
        let share = (ratio.log2() - f64::from(self.low)) / f64::from(self.high - self.low);
        // Leaves half a label's width on both sides.
        8.0 + share.clamp(0.0, 1.0) * (BARS - 20.0)
    }
}

fn baseline(index: usize) -> f64 {
    HEAD + ROW * index as f64 + ROW / 2.0 + 4.0
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string can't fail; the same below.
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{words}</text>"
    );
}

fn line(svg: &mut String, class: &str, x: f64, top: f64, bottom: f64) {
    let _ = writeln!(
        svg,
        "<path class=\"{class}\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>"
    );
}

fn rect(svg: &mut String, class: &str, x: f64, y: f64, width: f64, height: f64) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::{self, Workload};

    /// All workloads, with ratios from one end of the scale to the other.
    fn rows() -> Vec<Row> {
        let workloads = workloads::all().into_iter();
        let has_row = |workload: &Workload| workload.goals.iter().any(|goal| goal.asleep);
        let titles = workloads.map(|workload| match workload.title {
            title if has_row(&workload) => format!("{title}, no spin"),
            title => title.to_owned(),
        });
        let row = |(index, title): (usize, String)| {
            let ratio = ((index as f64 - 11.0) / 4.0).exp2();
            let bar = |ratio, is_better| {
                Some(Bar {
                    ratio,
                    goal: 1.3,
                    bare: Some(ratio * 1.2),
                    is_better,
                })
            };
            Row {
                title,
                bars: [bar(ratio, ratio >= 1.0), bar(1.0 / ratio, ratio >= 1.0)],
            }
        };
        titles.enumerate().map(row).collect()
    }

    fn attribute(element: &str, name: &str) -> Option<f64> {
        let (_, rest) = element.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    }

    #[test]
    fn nothing_is_cut_off_and_no_labels_collide() {
        let svg = draw(&rows());
        let mut seen: Vec<(f64, f64, f64)> = Vec::new();
        for element in svg.lines().filter(|line| line.starts_with("<text")) {
            let x = attribute(element, "x").unwrap();
            let words = element.split(['<', '>']).nth(2).unwrap();
            // The widest average letter of sans-serif fonts.
            let width = words.chars().count() as f64 * 6.8;
            let (left, right) = if element.contains("\"end\"") {
                (x - width, x)
            } else if element.contains("\"middle\"") {
                (x - width / 2.0, x + width / 2.0)
            } else {
                (x, x + width)
            };
            assert!(left >= 0.0 && right <= WIDTH, "{element}");
            let y = attribute(element, "y").unwrap();
            for (other_y, other_left, other_right) in &seen {
                let is_apart =
                    (y - other_y).abs() > 1.0 || left >= *other_right || right <= *other_left;
                assert!(is_apart, "{element} touches another");
            }
            seen.push((y, left, right));
        }
        let is_bar =
            |line: &&str| line.contains("class=\"better\"") || line.contains("class=\"worse\"");
        for element in svg.lines().filter(is_bar) {
            let x = attribute(element, "x").unwrap();
            let right = x + attribute(element, "width").unwrap();
            assert!(x >= 0.0 && right <= WIDTH, "{element}");
        }
    }

    #[test]
    fn a_lead_is_never_painted_as_failure() {
        let verdicts = rows().into_iter().flat_map(|row| row.bars).flatten();
        let count = verdicts.filter(|bar| bar.is_better).count();
        let svg = draw(&rows());
        // The legend has one more.
        assert_eq!(svg.matches("class=\"better\"").count(), count + 1);
    }

    #[test]
    fn the_bare_loop_has_a_mark_beside_each_bar() {
        let svg = draw(&rows());
        // The legend has one more.
        let count = 2 * rows().len() + 1;
        assert_eq!(svg.matches("class=\"bare\"").count(), count);
        for element in svg.lines().filter(|line| line.contains("class=\"bare\"")) {
            let (_, path) = element.split_once("d=\"M").unwrap();
            let x: f64 = path.split_once(' ').unwrap().0.parse().unwrap();
            assert!((0.0..=WIDTH).contains(&x), "{element}");
        }
    }

    #[test]
    fn bars_and_goals_lie_on_the_scale() {
        let bar = |ratio, goal| Bar {
            ratio,
            goal,
            bare: None,
            is_better: true,
        };
        let scale = Scale::around([bar(6.3, 8.0), bar(0.3, 1.0)].into_iter());
        assert_eq!((scale.low, scale.high), (-2, 3));
        assert!(scale.place(0.3) < scale.place(1.0));
        assert!(scale.place(1e9) <= BARS && scale.place(1e-9) >= 0.0);
    }
}
