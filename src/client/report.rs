//! What the user is told about a transfer: a line when it is done, a line when it
//! failed, on standard error. What `verbose` adds at the prompt goes where tftp-hpa
//! writes it, but not into a file that goes to standard output.
//! Must not: decide what happens next.

use std::fmt;
use std::time::Duration;

use indicatif::BinaryBytes;

use super::job::{Completed, JobError, LocalFile};
use super::{Stream, complain};
use crate::wire::options::Negotiated;

/// Where the lines go, and which form they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `get` and `put`: standard error, each line begins with the file's name.
    Command,
    /// The prompt and `-c`: the same, but what `verbose` adds is in the form of tftp-hpa's
    /// client, on this stream.
    Prompt(Stream),
}

/// How much is told, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub(super) style: Style,
    pub(super) verbose: bool,
    pub(super) quiet: bool,
}

impl Report {
    /// A file was moved; `label` is its name.
    pub(super) fn completed(self, label: &str, file: LocalFile<'_>, done: &Completed) {
        let summary = summary(file, done.bytes, done.elapsed);
        let granted = granted(&done.negotiated);
        if let (true, Some(reason)) = (self.verbose, &done.fallback) {
            self.line(label, format_args!("went on without options: {reason}"));
        }
        if let Some(announced) = done.announced {
            let bytes = done.bytes;
            complain(format_args!(
                "{label}: {bytes} bytes came, more than the {announced} bytes that were announced"
            ));
        }
        if let (Style::Prompt(stream), true) = (self.style, self.verbose) {
            stream.tell(format_args!("{summary} ({granted})"));
            return;
        }
        if self.verbose {
            let retransmits = done.retransmits;
            complain(format_args!("{label}: {granted} retransmits={retransmits}"));
        }
        if !self.quiet {
            complain(format_args!("{label}: {summary}"));
        }
    }

    fn line(self, label: &str, text: std::fmt::Arguments<'_>) {
        match self.style {
            Style::Command => complain(format_args!("{label}: {text}")),
            Style::Prompt(stream) => stream.tell(text),
        }
    }

    /// `file`, on the server, was not moved. Told even if `quiet`.
    pub(super) fn failed(self, file: &dyn fmt::Display, error: &JobError) {
        match (self.style, error) {
            // These messages name the file or the host themselves, or concern neither.
            (_, JobError::LocalFile(_) | JobError::UnknownHost(_) | JobError::System(_)) => {
                complain(format_args!("tftp: {error}"));
            }
            // Scripts written for tftp-hpa look for these words.
            (Style::Prompt(_), JobError::NoAnswer(_)) => {
                complain(format_args!("tftp: {file}: Transfer timed out: {error}"));
            }
            _ => complain(format_args!("tftp: {file}: {error}")),
        }
    }
}

/// What the server agreed to, as `option=value` words.
pub(super) fn granted(negotiated: &Negotiated) -> String {
    let words = [
        Some(format!("blksize={}", negotiated.blksize)),
        Some(format!("windowsize={}", negotiated.windowsize)),
        negotiated.tsize.map(|bytes| format!("tsize={bytes}")),
        negotiated
            .timeout
            .map(|timeout| format!("timeout={}", timeout.as_secs())),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A size, a time and a rate, in the words of other clients and the unit of the
/// bar.
fn summary(file: LocalFile<'_>, bytes: u64, elapsed: Duration) -> String {
    let verb = match file {
        LocalFile::Get(_) => "Received",
        LocalFile::Put(_) => "Sent",
    };
    let seconds = elapsed.as_secs_f64();
    let rate = BinaryBytes(rate(bytes, seconds));
    format!("{verb} {bytes} bytes in {seconds:.3} seconds [{rate}/s]")
}

/// Bytes a second; what took no measurable time counts as a microsecond.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.000_001)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::local::Output;

    #[test]
    fn the_summary_has_the_unit_of_the_bar() {
        for (bytes, milliseconds, expected) in [
            (
                42_988,
                4,
                "Received 42988 bytes in 0.004 seconds [10.25 MiB/s]",
            ),
            (512, 2000, "Received 512 bytes in 2.000 seconds [256 B/s]"),
            (0, 0, "Received 0 bytes in 0.000 seconds [0 B/s]"),
        ] {
            let elapsed = Duration::from_millis(milliseconds);
            let line = summary(LocalFile::Get(&Output::Discard), bytes, elapsed);
            assert_eq!(line, expected);
        }
    }
}
