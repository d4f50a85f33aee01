//! The chart: our ratios to the best peer as bars on a logarithmic scale, the
//! goals as marks on them.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use crate::campaign::Measured;
use crate::figures::Metric;
use crate::report::{Verdict, ratio};
use crate::workloads::Bound;

const ROW: u32 = 26;
const HEAD: u32 = 90;
const WIDTH: u32 = 900;
const NAMES: u32 = 220;
const MET: RGBColor = RGBColor(46, 125, 80);
const MISSED: RGBColor = RGBColor(190, 90, 40);

/// One workload's bars.
struct Row {
    title: String,
    verdicts: [Option<Verdict>; 2],
}

/// The chart as SVG; `None` if there is nothing to compare.
pub(crate) fn svg(all: &[Measured]) -> Option<String> {
    let rows: Vec<Row> = all
        .iter()
        .flat_map(|measured| [false, true].map(|asleep| row(measured, asleep)))
        .filter(|row| row.verdicts.iter().any(Option::is_some))
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut svg = String::new();
    // A picture in memory can't fail to be written.
    draw(&rows, &mut svg).ok()?;
    Some(svg)
}

fn row(measured: &Measured, asleep: bool) -> Row {
    let mut title = measured.workload.title.to_owned();
    if asleep {
        title += ", no spin";
    }
    let verdicts = [Metric::Throughput, Metric::CpuPerGigabyte];
    Row {
        title,
        verdicts: verdicts.map(|metric| ratio(measured, metric, asleep)),
    }
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(rows: &[Row], svg: &'a mut String) -> Drawn<'a> {
    let height = HEAD + ROW * rows.len() as u32;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(NAMES + (WIDTH - NAMES) / 2);
    panel(
        &left,
        rows,
        0,
        "throughput ÷ best peer (longer is better)",
        NAMES,
        0.25..16.0,
    )?;
    panel(
        &right,
        rows,
        1,
        "CPU per GB ÷ best peer (shorter is better)",
        0,
        0.1..2.0,
    )?;
    area.present()
}

fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    rows: &[Row],
    which: usize,
    caption: &str,
    names: u32,
    range: std::ops::Range<f64>,
) -> Drawn<'a> {
    let (low, high) = (range.start, range.end);
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(names)
        .build_cartesian_2d(range.log_scale(), Rows(rows))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|ratio| format!("{ratio:.2}"))
        .y_labels(if names > 0 { rows.len() } else { 0 })
        .label_style(("sans-serif", 12))
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        let Some(verdict) = &row.verdicts[which] else {
            continue;
        };
        let middle = count - index as f64 - 0.5;
        let end = verdict.value.median.clamp(low, high);
        let color = if verdict.is_met() { MET } else { MISSED };
        let bar = [(low, middle - 0.32), (end, middle + 0.32)];
        chart.draw_series([Rectangle::new(bar, color.filled())])?;
        let (Bound::AtLeast(bound) | Bound::AtMost(bound)) = verdict.goal.bound;
        let mark = [(bound, middle - 0.45), (bound, middle + 0.45)];
        chart.draw_series([PathElement::new(mark, BLACK.stroke_width(2))])?;
        let label = format!("{:.2}", verdict.value.median);
        let place = (end * 1.03, middle + 0.25);
        chart.draw_series([Text::new(label, place, ("sans-serif", 11))])?;
    }
    let one = [(1.0, 0.0), (1.0, count)];
    chart.draw_series([PathElement::new(one, BLACK.mix(0.5))])?;
    Ok(())
}

/// The axis of workloads: each row one unit high, the first on top, its title
/// beside its middle.
struct Rows<'a>(&'a [Row]);

impl Ranged for Rows<'_> {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = value / self.0.len() as f64;
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0.len()).map(|index| index as f64 + 0.5).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.0.len() as f64
    }
}

impl ValueFormatter<f64> for Rows<'_> {
    fn format_ext(&self, value: &f64) -> String {
        let from_top = self.0.len().saturating_sub(1 + *value as usize);
        self.0
            .get(from_top)
            .map(|row| row.title.clone())
            .unwrap_or_default()
    }
}
