//! The progress bar. Shown on terminals only. Must not: slow the transfer down.

use std::fmt;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::complain;
use super::engine::ClientSession;
use super::stream::UNKNOWN_SIZE;
use crate::session::Content;

/// How often a bar is drawn, per second.
const FRAMES: u8 = 10;

const WITH_SIZE: &str =
    "{prefix:.bold} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const WITHOUT_SIZE: &str = "{prefix:.bold} {spinner} {binary_bytes} {binary_bytes_per_sec}";

/// A bar that appears with the first block and goes with the last.
#[derive(Debug)]
pub(super) struct TransferProgress {
    /// The bar's label; `None`: no bar is wanted, or nobody would see it.
    label: Option<String>,
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl TransferProgress {
    /// Progress of the file called `label`: a bar if `has_bar` and standard error
    /// is a terminal; nothing at all if `quiet`.
    pub(super) fn new(label: impl Into<String>, has_bar: bool, quiet: bool) -> Self {
        let seen = has_bar && !quiet && io::stderr().is_terminal();
        Self {
            label: seen.then(|| label.into()),
            bar: None,
            quiet,
        }
    }

    /// Tells the user that we wait for the server.
    pub(super) fn waiting(&self, text: fmt::Arguments<'_>) {
        if !self.quiet {
            complain(format_args!("tftp: {text}"));
        }
    }

    /// Shows how far `session` is.
    pub(super) fn show(&mut self, session: &ClientSession) {
        let Some(label) = &self.label else {
            return;
        };
        if !session.transfer().progress().verified {
            return;
        }
        let bar = self
            .bar
            .get_or_insert_with(|| bar(label.clone(), size(session)));
        bar.set_position(session.bytes());
    }

    /// Takes the bar away: one line of the report tells the rest.
    pub(super) fn over(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The size of the whole file in bytes, if that is known.
fn size(session: &ClientSession) -> Option<u64> {
    match session.content() {
        Content::Sink(_) => session.transfer().negotiated().tsize,
        Content::Source(source) => source.length().filter(|&size| size != UNKNOWN_SIZE),
    }
}

fn bar(label: String, size: Option<u64>) -> ProgressBar {
    let template = match size {
        Some(_) => WITH_SIZE,
        None => WITHOUT_SIZE,
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr_with_hz(FRAMES));
    bar.set_style(style);
    bar.set_prefix(label);
    bar.tick();
    bar
}
