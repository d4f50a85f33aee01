//! The figures by which a run is judged: the metrics, one run's values, and medians.

use std::time::Duration;

/// A measured quantity; its key names the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Verified payload, in 10^6 bytes a second, from the first request to the
    /// end of the last transfer.
    Throughput,
    TransfersPerSecond,
    /// Request to completion, in milliseconds.
    CompletionP50,
    CompletionP99,
    CompletionMax,
    /// Request to the first datagram of the answer, in milliseconds.
    AnswerMax,
    /// Request to the first DATA, in milliseconds.
    FirstDataP50,
    FirstDataP99,
    FirstDataMax,
    /// DATA datagrams that came (dropped ones included) per datagram needed.
    DataPerBlock,
    /// DATA datagrams beyond those needed.
    Resends,
    /// Requests that the load had to send again.
    RequestResends,
    /// Transfers that ended in an error.
    Failures,
    /// Transfers cut off by the time limit.
    Unfinished,
    /// CPU seconds of the server's process tree per 10^9 bytes.
    CpuPerGigabyte,
    /// Peak resident memory of the server's process tree, in KiB.
    PeakKib,
    /// The share of the time in which the load itself had something to do.
    LoadBusy,
    /// Resident memory of the idle server, in KiB.
    IdleKib,
    /// Times the idle server woke up within a second.
    IdleWakeups,
    /// Resident memory that each stalled session adds, in KiB.
    KibPerSession,
    /// Datagrams sent to each victim of a forged request.
    RepliesPerRequest,
    /// Descriptors that the server has open.
    Descriptors,
    /// The longest time that any client waited for its next block.
    LongestWait,
}

impl Metric {
    const COUNT: usize = 23;

    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Throughput,
        Self::TransfersPerSecond,
        Self::CompletionP50,
        Self::CompletionP99,
        Self::CompletionMax,
        Self::AnswerMax,
        Self::FirstDataP50,
        Self::FirstDataP99,
        Self::FirstDataMax,
        Self::DataPerBlock,
        Self::Resends,
        Self::RequestResends,
        Self::Failures,
        Self::Unfinished,
        Self::CpuPerGigabyte,
        Self::PeakKib,
        Self::LoadBusy,
        Self::IdleKib,
        Self::IdleWakeups,
        Self::KibPerSession,
        Self::RepliesPerRequest,
        Self::Descriptors,
        Self::LongestWait,
    ];

    /// The key in the JSON file.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Throughput => "mb_per_s",
            Self::TransfersPerSecond => "transfers_per_s",
            Self::CompletionP50 => "completion_p50_ms",
            Self::CompletionP99 => "completion_p99_ms",
            Self::CompletionMax => "completion_max_ms",
            Self::AnswerMax => "first_answer_max_ms",
            Self::FirstDataP50 => "first_data_p50_ms",
            Self::FirstDataP99 => "first_data_p99_ms",
            Self::FirstDataMax => "first_data_max_ms",
            Self::DataPerBlock => "data_per_block",
            Self::Resends => "data_resends",
            Self::RequestResends => "request_resends",
            Self::Failures => "failures",
            Self::Unfinished => "unfinished",
            Self::CpuPerGigabyte => "cpu_s_per_gb",
            Self::PeakKib => "peak_kib",
            Self::LoadBusy => "load_busy",
            Self::IdleKib => "idle_kib",
            Self::IdleWakeups => "idle_wakeups",
            Self::KibPerSession => "kib_per_session",
            Self::RepliesPerRequest => "replies_per_request",
            Self::Descriptors => "descriptors",
            Self::LongestWait => "longest_wait_ms",
        }
    }

    /// Its name in the table.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Throughput => "MB/s",
            Self::TransfersPerSecond => "transfers/s",
            Self::CompletionP50 => "median completion, ms",
            Self::CompletionP99 => "p99 completion, ms",
            Self::CompletionMax => "longest completion, ms",
            Self::AnswerMax => "latest first answer, ms",
            Self::FirstDataP50 => "median first data, ms",
            Self::FirstDataP99 => "p99 first data, ms",
            Self::FirstDataMax => "latest first data, ms",
            Self::DataPerBlock => "DATA sent for each needed",
            Self::Resends => "DATA sent again",
            Self::RequestResends => "requests sent again",
            Self::Failures => "failures",
            Self::Unfinished => "unfinished",
            Self::CpuPerGigabyte => "CPU-s/GB",
            Self::PeakKib => "peak memory, KiB",
            Self::LoadBusy => "load busy",
            Self::IdleKib => "idle memory, KiB",
            Self::IdleWakeups => "idle wake-ups a second",
            Self::KibPerSession => "KiB a stalled session",
            Self::RepliesPerRequest => "replies a forged request",
            Self::Descriptors => "descriptors",
            Self::LongestWait => "longest wait for a block, ms",
        }
    }
}

/// The figures of one run; those that weren't measured are NaN.
#[derive(Debug, Clone)]
pub(crate) struct Figures([f64; Metric::COUNT]);

impl Default for Figures {
    fn default() -> Self {
        Self([f64::NAN; Metric::COUNT])
    }
}

impl Figures {
    pub(crate) const fn get(&self, metric: Metric) -> f64 {
        self.0[metric as usize]
    }

    pub(crate) const fn set(&mut self, metric: Metric, value: f64) {
        self.0[metric as usize] = value;
    }

    /// Sets the 50th and 99th percentile and the maximum of `times`.
    pub(crate) fn set_times(&mut self, metrics: [Metric; 3], times: &mut [Duration]) {
        times.sort_unstable();
        for (metric, percent) in metrics.into_iter().zip([50, 99, 100]) {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            if let Some(time) = times.get(rank - 1) {
                self.set(metric, milliseconds(*time));
            }
        }
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The median of several runs, and the least and the greatest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` if no run has a value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_own_place() {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, index, "{}", metric.key());
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut figures = Figures::default();
        let mut times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        figures.set_times(
            [
                Metric::CompletionP50,
                Metric::CompletionP99,
                Metric::CompletionMax,
            ],
            &mut times,
        );
        assert_eq!(
            figures.get(Metric::CompletionP50).to_bits(),
            100f64.to_bits()
        );
        assert_eq!(
            figures.get(Metric::CompletionP99).to_bits(),
            198f64.to_bits()
        );
        assert_eq!(
            figures.get(Metric::CompletionMax).to_bits(),
            200f64.to_bits()
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, f64::NAN, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(spread.median.to_bits(), 2.5f64.to_bits());
        assert!(Spread::of([f64::NAN]).is_none());
    }
}
