//! Reports that a test can't run here: at once on standard error, and in the list
//! that `tests/what_was_skipped.rs` prints at the end of `cargo test`.
//!
//! Written to the descriptor itself, because the test harness hides what a passing
//! test prints with `eprintln!`.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a part of several crates, which use one half of it each"
)]

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::thread;

/// The lists' file names begin with this; then follows the id of the process that
/// runs all the tests.
pub const LIST_PREFIX: &str = "skipped-";

/// The directory of the lists: the parent of the one with the tests' binaries.
pub fn folder() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.parent()?.parent().map(Path::to_owned)
}

/// The list of this run.
pub fn list() -> Option<PathBuf> {
    Some(folder()?.join(format!("{LIST_PREFIX}{}", parent_id())))
}

/// Reports that the test, or a part of it, is skipped, and why.
pub fn skip(reason: impl fmt::Display) {
    let own = std::env::current_exe().unwrap_or_default();
    let suite = own.file_stem().unwrap_or_default().to_string_lossy();
    // A hash follows the name.
    let suite = suite.rsplit_once('-').map_or(&*suite, |(name, _)| name);
    let thread = thread::current();
    let line = format!("{suite}: {}: {reason}\n", thread.name().unwrap_or("?"));
    // If standard error can't be written to, there is nowhere to report that.
    let _ = io::stderr().write_all(format!("skipped: {line}").as_bytes());
    let Some(list) = list() else {
        return;
    };
    if let Ok(mut list) = OpenOptions::new().create(true).append(true).open(list) {
        let _ = list.write_all(line.as_bytes());
    }
}

/// Returns the lines of this run's list, and deletes it and those of runs that are
/// over.
pub fn take_list() -> Vec<String> {
    let text = list().and_then(|list| fs::read_to_string(list).ok());
    let mut lines: Vec<_> = text
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    let entries = folder().and_then(|folder| fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(LIST_PREFIX));
        let is_over = |process: &str| {
            process == parent_id().to_string() || !Path::new("/proc").join(process).exists()
        };
        if process.is_some_and(is_over) {
            let _ = fs::remove_file(entry.path());
        }
    }
    lines
}
