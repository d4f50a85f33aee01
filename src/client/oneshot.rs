//! `tftp get`, `tftp put` and `tftp probe`: everything is on the command line, one line
//! tells how each file went, and the exit status sums it up.
//!
//! Must not: write anything to standard output but what was asked for.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attempts;
use super::clash::clash;
use super::cli::CommonArgs;
use super::engine::{DALLY, Engine};
use super::job::{Completed, Job, JobError, Limit, LocalFile};
use super::local::{Input, Output};
use super::progress::TransferProgress;
use super::report::{Report, Style, granted};
use super::target::{Target, is_url, tail};
use super::words::below;
use super::{Status, Stream, complain, say, trace};
use crate::host::clock;
use crate::wire::escape::printable;
use crate::wire::packet::Mode;

/// Gets files: URLs, and then perhaps where they go.
pub(super) fn get(common: &CommonArgs, files: &[OsString]) -> Status {
    let (words, local) = match files {
        [targets @ .., last] if !targets.is_empty() && !is_url(last) => (targets, Some(last)),
        targets => (targets, None),
    };
    let targets = match parse_all(words) {
        Ok(targets) => targets,
        Err(status) => return status,
    };
    let several = targets.len() > 1;
    let mut pairs = Vec::with_capacity(targets.len());
    for (target, word) in targets.into_iter().zip(words) {
        if target.is_directory() {
            return no_file(word);
        }
        match destination(local.map(OsString::as_os_str), &target, several) {
            Ok(destination) => pairs.push((target, destination)),
            Err(text) => {
                complain(format_args!("tftp: {text}"));
                return Status::Usage;
            }
        }
    }
    let named: Vec<_> = pairs.iter().map(|(it, to)| (it, to.place())).collect();
    if let Some((one, other)) = clash(&named) {
        let (one, name) = &pairs[one];
        return refuse_clash(one, &pairs[other].0, name);
    }
    let mut transfers = match Transfers::new(common) {
        Ok(transfers) => transfers,
        Err(status) => return status,
    };
    let mut status = Status::Ok;
    for (target, destination) in &pairs {
        let label = printable(&target.name).to_string();
        let one = transfers.transfer(target, LocalFile::Get(destination), &label);
        status = status.and(one);
        if matches!(one, Status::Interrupted(_)) {
            break;
        }
    }
    transfers.engine.settle(None);
    status
}

/// Complains that two files of this call would get the same `name`.
fn refuse_clash(
    one: impl fmt::Display,
    other: impl fmt::Display,
    name: impl fmt::Display,
) -> Status {
    complain(format_args!("tftp: {one} and {other} would both be {name}"));
    Status::Usage
}

/// Puts files: local ones, and then the URL where they go.
pub(super) fn put(common: &CommonArgs, files: &[OsString]) -> Status {
    let Some((last, locals)) = files.split_last().filter(|(_, locals)| !locals.is_empty()) else {
        complain(format_args!(
            "tftp: put needs local files and a URL; try put --help"
        ));
        return Status::Usage;
    };
    // The whole command line is checked before anything is done.
    let pairs: Result<Vec<_>, Status> = match Target::parse(last) {
        Ok(target) => locals
            .iter()
            .map(|local| Ok((local, place(&target, local, locals.len() > 1)?)))
            .collect(),
        Err(problem) => Err(usage(last, problem)),
    };
    let ready = pairs.and_then(|pairs| {
        let named: Vec<_> = pairs.iter().map(|(it, to)| (it, Some(&to.name))).collect();
        if let Some((one, other)) = clash(&named) {
            let (one, place) = &pairs[one];
            let (one, other) = (one.display(), pairs[other].0.display());
            return Err(refuse_clash(one, other, place));
        }
        Ok((pairs, Transfers::new(common)?))
    });
    let (pairs, mut transfers) = match ready {
        Ok(ready) => ready,
        Err(status) => return status,
    };
    let mut status = Status::Ok;
    for (local, target) in pairs {
        let one = match Input::open(local) {
            Ok(source) => {
                let label = local.display().to_string();
                transfers.transfer(&target, LocalFile::Put(&source), &label)
            }
            Err(text) => {
                complain(format_args!("tftp: {text}"));
                Status::Local
            }
        };
        status = status.and(one);
        if matches!(one, Status::Interrupted(_)) {
            break;
        }
    }
    status
}

/// Where a local file is to go: `target` itself, or below it.
fn place(target: &Target, local: &OsStr, several: bool) -> Result<Target, Status> {
    if is_url(local) {
        return Err(usage(local, "only the last word can be a URL"));
    }
    let mut target = target.clone();
    if target.is_directory() || several {
        let name = tail(local.as_bytes());
        if local == "-" || name.is_empty() {
            return Err(usage(
                local,
                "it needs a name on the server, as in tftp://HOST/NAME",
            ));
        }
        target.name = below(&target.name, name);
    }
    Ok(target)
}

/// Complains about a word that names a directory or only a host, where a file is needed.
fn no_file(word: &OsStr) -> Status {
    complain(format_args!(
        "tftp: no file is named in '{}'; write tftp://HOST/FILE",
        word.display()
    ));
    Status::Usage
}

/// Complains about a word, in one line.
fn usage(word: &OsStr, problem: &str) -> Status {
    complain(format_args!("tftp: {}: {problem}", word.display()));
    Status::Usage
}

/// Fetches a file and throws it away.
pub(super) fn probe(common: &CommonArgs, url: &OsStr, within: Duration) -> Status {
    let limit = Limit {
        until: clock::now() + within,
        within,
    };
    let target = match parse_all(&[url.to_owned()]) {
        Ok(targets) => targets.into_iter().next(),
        Err(status) => return status,
    };
    let Some(target) = target.filter(|target| !target.is_directory()) else {
        return no_file(url);
    };
    let mut transfers = match Transfers::new(common) {
        Ok(transfers) => transfers,
        Err(status) => return status,
    };
    // Without repeats, a single request is sent and waited for.
    if common.retries > 0 {
        transfers.wait = Some(within);
    }
    transfers.limit = Some(limit);
    let mut progress = TransferProgress::new("", false, !common.verbose);
    let report = transfers.report();
    let status = match transfers.run(&target, LocalFile::Get(&Output::Discard), &mut progress) {
        Ok(done) => {
            let milliseconds = done.elapsed.as_secs_f64() * 1000.0;
            let (bytes, granted) = (done.bytes, granted(&done.negotiated));
            say(format_args!(
                "{}: {bytes} bytes in {milliseconds:.1} ms, {granted}",
                url.display()
            ));
            Status::Ok
        }
        Err(error) => {
            report.failed(&url.display(), &error);
            error.status()
        }
    };
    let until = limit.until.max(clock::now() + DALLY);
    transfers.engine.settle(Some(until));
    status
}

fn parse_all(words: &[OsString]) -> Result<Vec<Target>, Status> {
    let parse = |word: &OsString| Target::parse(word).map_err(|problem| usage(word, problem));
    words.iter().map(parse).collect()
}

/// Where a received file is to go.
fn destination(local: Option<&OsStr>, target: &Target, several: bool) -> Result<Output, String> {
    let name = Path::new(OsStr::from_bytes(tail(&target.name))).to_owned();
    let Some(local) = local else {
        return Ok(Output::Path(name));
    };
    if let Output::Stdout = Output::named(local) {
        return Ok(Output::Stdout);
    }
    if local.is_empty() {
        return Err("the local file's name is empty".to_owned());
    }
    let path = PathBuf::from(local);
    if path.is_dir() || local.as_bytes().ends_with(b"/") {
        Ok(Output::Path(path.join(name)))
    } else if several {
        Err(format!(
            "{}: not a directory, and several files were asked for",
            path.display()
        ))
    } else {
        Ok(Output::Path(path))
    }
}

/// What the files of one call have in common.
struct Transfers<'a> {
    common: &'a CommonArgs,
    engine: Engine,
    wait: Option<Duration>,
    limit: Option<Limit>,
}

impl<'a> Transfers<'a> {
    fn new(common: &'a CommonArgs) -> Result<Self, Status> {
        let mut engine = Engine::new().map_err(|error| {
            complain(format_args!("tftp: {error}"));
            error.status()
        })?;
        engine.set_trace(common.trace.then(|| trace::on(Stream::Stderr)));
        Ok(Self {
            common,
            engine,
            wait: common.wait,
            limit: None,
        })
    }

    /// How each file's end is told.
    const fn report(&self) -> Report {
        Report {
            style: Style::Command,
            verbose: self.common.verbose,
            quiet: self.common.quiet,
        }
    }

    fn run(
        &mut self,
        target: &Target,
        file: LocalFile<'_>,
        progress: &mut TransferProgress,
    ) -> Result<Completed, JobError> {
        let servers = self
            .common
            .addresses(&target.host, target.port)
            .map_err(JobError::UnknownHost)?;
        let job = Job {
            servers: &servers,
            name: &target.name,
            // The URL's own mode takes precedence.
            mode: target.mode.or(self.common.mode).unwrap_or(Mode::Octet),
            file,
            offer: &self.common.offer(),
            with_size: self.common.with_size(),
            retry: self.common.retry(),
            ports: self.common.port_range.as_ref(),
            wait: self.wait,
            limit: self.limit,
        };
        attempts::run(&mut self.engine, &job, progress)
    }

    /// Moves one file and tells how it went.
    fn transfer(&mut self, target: &Target, file: LocalFile<'_>, label: &str) -> Status {
        let mut progress = TransferProgress::new(
            label,
            // Traced packets would run into the bar.
            !file.is_screen() && !self.common.trace,
            self.common.quiet,
        );
        let report = self.report();
        match self.run(target, file, &mut progress) {
            Ok(done) => {
                report.completed(label, file, &done);
                Status::Ok
            }
            Err(error) => {
                report.failed(target, &error);
                error.status()
            }
        }
    }
}
