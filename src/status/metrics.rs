//! `/metrics`, in Prometheus's text format (0.0.4).
//!
//! Must not: have a label whose values come from the network.

use std::fmt::Write as _;

use super::View;
use super::history::Histogram;
use crate::wire::packet::{Direction, ErrorCode};

/// Media type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters of what became of requests.
const RESULTS: [&str; 7] = [
    "admitted",
    "refused",
    "repeated",
    "shed",
    "crowded",
    "untimely",
    "malformed",
];

/// Counters of datagrams that got no answer because of what they are.
const DROPS: [&str; 6] = [
    "denied",
    "group",
    "from_servers",
    "foreign",
    "strangers",
    "garbage",
];

/// Counters with a metric of their own.
const SINGLE: [(&str, &str, &str); 4] = [
    (
        "requests",
        "requests_received",
        "RRQ and WRQ packets that could be read, repeats included.",
    ),
    (
        "last_ack_missing",
        "last_acks_missing",
        "Completed reads whose last ACK never came.",
    ),
    (
        "socket_errors",
        "socket_errors",
        "Errors from the kernel while sending or receiving.",
    ),
    (
        "unanswered",
        "answers_left_out",
        "Answers left out because there were too many.",
    ),
];

/// Counters of how transfers ended; the metric has these by direction and outcome.
#[cfg(test)]
const OF_TRANSFERS: [&str; 8] = [
    "completed",
    "probed",
    "peer_errors",
    "failed",
    "timed_out",
    "replaced",
    "evicted",
    "guessed",
];

/// Whether a metric tells the counter of this name.
#[cfg(test)]
pub(crate) fn tells(name: &str) -> bool {
    let mut single = SINGLE.iter().map(|(counter, ..)| *counter);
    RESULTS.contains(&name)
        || DROPS.contains(&name)
        || OF_TRANSFERS.contains(&name)
        || single.any(|it| it == name)
}

/// What only the status port knows.
#[derive(Debug)]
pub(super) struct Own {
    /// When the process was started, in seconds since 1970: the same each time.
    pub(super) started: f64,
    /// The longest turn of the loop since the last scrape, in seconds.
    pub(super) longest_turn: f64,
    pub(super) open_descriptors: Option<u64>,
    pub(super) max_descriptors: Option<u64>,
    /// Of user and system, since the start.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
}

/// All metrics.
pub(super) fn text(view: &View<'_>, own: &Own) -> String {
    let mut out = String::with_capacity(16 * 1024);
    gauges(&mut out, view, own);
    transfers(&mut out, view);
    requests(&mut out, view);
    histogram(
        &mut out,
        "tftpd_transfer_duration_seconds",
        "How long completed transfers took.",
        &view.history.seconds,
    );
    histogram(
        &mut out,
        "tftpd_first_answer_seconds",
        "From taking in a request that begins a transfer to having sent its first answer.",
        &view.history.first_answer,
    );
    out
}

fn gauges(out: &mut String, view: &View<'_>, own: &Own) {
    #[expect(clippy::cast_precision_loss, reason = "the format has no integers")]
    let float = |number: u64| number as f64;
    for (name, help, value) in [
        (
            "tftpd_sessions",
            "Transfers, with those that wait in case the last packet was lost.",
            Some(float(view.sessions.len() as u64)),
        ),
        (
            "tftpd_sessions_limit",
            "Most transfers at once.",
            Some(float(view.sessions.limit() as u64)),
        ),
        (
            "tftpd_draining",
            "1 while the server finishes what runs and admits nothing.",
            Some(f64::from(u8::from(view.is_draining))),
        ),
        (
            "tftpd_loop_turn_longest_seconds",
            "The longest turn of the event loop since the last scrape.",
            Some(own.longest_turn),
        ),
        // The names that every exporter uses for these.
        (
            "process_start_time_seconds",
            "When the process was started, in seconds since 1970.",
            Some(own.started),
        ),
        (
            "process_open_fds",
            "Open file descriptors.",
            own.open_descriptors.map(float),
        ),
        (
            "process_max_fds",
            "Most file descriptors that may be open.",
            own.max_descriptors.map(float),
        ),
        (
            "process_resident_memory_bytes",
            "Memory in RAM.",
            own.resident_bytes.map(float),
        ),
    ] {
        if let Some(value) = value {
            head(out, name, help, "gauge");
            let _ = writeln!(out, "{name} {value}");
        }
    }
    if let Some(seconds) = own.cpu_seconds {
        let name = "process_cpu_seconds_total";
        head(out, name, "Processor time used, in seconds.", "counter");
        let _ = writeln!(out, "{name} {seconds}");
    }
    let help = "What was built, as labels; always 1.";
    head(out, "tftpd_build_info", help, "gauge");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(out, "tftpd_build_info{{version=\"{version}\"}} 1");
}

fn transfers(out: &mut String, view: &View<'_>) {
    let history = view.history;
    head(
        out,
        "tftpd_transfers_total",
        "Transfers that have ended.",
        "counter",
    );
    for direction in [Direction::Read, Direction::Write] {
        for (outcome, count) in history.ended(direction) {
            let op = direction.name();
            let _ = writeln!(
                out,
                "tftpd_transfers_total{{direction=\"{op}\",outcome=\"{outcome}\"}} {count}"
            );
        }
    }
    for (name, help, value) in [
        (
            "sent_bytes",
            "Bytes of files sent and acknowledged.",
            history.bytes_sent,
        ),
        (
            "received_bytes",
            "Bytes of files received and stored.",
            history.bytes_received,
        ),
        (
            "retransmits",
            "Datagrams sent again, DATA blocks counted one by one.",
            history.retransmits,
        ),
    ] {
        counter(out, name, help, value);
    }
}

fn requests(out: &mut String, view: &View<'_>) {
    let count = |name: &str| {
        let found = view.counters.iter().find(|(counter, _)| *counter == name);
        found.map_or(0, |(_, count)| *count)
    };
    for (name, metric, help) in SINGLE {
        counter(out, metric, help, count(name));
    }
    let labelled = [
        (
            "tftpd_requests_total",
            "result",
            "What became of requests.",
            &RESULTS[..],
        ),
        (
            "tftpd_dropped_datagrams_total",
            "reason",
            "Datagrams that were not to be answered.",
            &DROPS,
        ),
    ];
    for (metric, label, help, names) in labelled {
        head(out, metric, help, "counter");
        for name in names {
            let _ = writeln!(out, "{metric}{{{label}=\"{name}\"}} {}", count(name));
        }
    }
    head(
        out,
        "tftpd_refusals_total",
        "Requests refused, by the ERROR's code.",
        "counter",
    );
    for (code, count) in view.history.refused() {
        let _ = writeln!(
            out,
            "tftpd_refusals_total{{reason=\"{}\"}} {count}",
            reason(code)
        );
    }
    if let Some(drops) = view.receive_drops {
        let help = "Datagrams that the kernel dropped because a port that clients share was \
                    full, since it was opened.";
        counter(out, "kernel_dropped_datagrams", help, drops);
    }
}

/// The code of an ERROR as a label.
const fn reason(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NotDefined | ErrorCode::Unknown(_) => "other",
        ErrorCode::FileNotFound => "file_not_found",
        ErrorCode::AccessViolation => "access_violation",
        ErrorCode::DiskFull => "disk_full",
        ErrorCode::IllegalOperation => "illegal_operation",
        ErrorCode::UnknownTransferId => "unknown_transfer_id",
        ErrorCode::FileExists => "file_exists",
        ErrorCode::NoSuchUser => "no_such_user",
        ErrorCode::OptionRefused => "option_refused",
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    let name = format!("tftpd_{name}_total");
    head(out, &name, help, "counter");
    let _ = writeln!(out, "{name} {value}");
}

fn histogram<const N: usize>(out: &mut String, name: &str, help: &str, values: &Histogram<N>) {
    head(out, name, help, "histogram");
    for (bound, count) in values.cumulated() {
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let (count, sum) = (values.count, values.sum);
    let _ = writeln!(
        out,
        "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
    );
}
