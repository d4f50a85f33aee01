//! `tftp get`, `tftp put` and `tftp probe`: everything is on the command line,
//! one line tells how each file went, and the exit status the whole.
//!
//! Must not: write to standard output but what was asked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cli::Wishes;
use super::engine::{Done, End, Engine, Order, Trouble};
use super::local::{Destination, Source};
use super::progress::{TransferProgress, summary};
use super::target::{Target, is_url, tail};
use super::{Status, complain, say, trace};
use crate::host::clock;
use crate::wire::escape::escape;
use crate::wire::options::Negotiated;
use crate::wire::packet::Mode;

/// Gets files: targets, and in the end perhaps where to.
pub(super) fn get(wishes: &Wishes, files: &[OsString]) -> Status {
    let (targets, local) = match files {
        [targets @ .., last] if !targets.is_empty() && !is_url(last) => (targets, Some(last)),
        targets => (targets, None),
    };
    let mut targets = match parse_all(targets) {
        Ok(targets) => targets,
        Err(status) => return status,
    };
    let several = targets.len() > 1;
    let mut pairs = Vec::with_capacity(targets.len());
    for target in targets.drain(..) {
        if target.is_directory() {
            return usage(OsStr::new(&show(&target)), "it names no file");
        }
        match destination(local.map(OsString::as_os_str), &target, several) {
            Ok(destination) => pairs.push((target, destination)),
            Err(text) => {
                complain(format_args!("tftp: {text}"));
                return Status::Usage;
            }
        }
    }
    let mut shot = match Shot::new(wishes) {
        Ok(shot) => shot,
        Err(status) => return status,
    };
    let mut status = Status::Ok;
    for (target, destination) in &pairs {
        let label = escape(&target.name).to_string();
        let one = shot.fire(target, End::Get(destination), "Received", &label);
        status = status.and(one);
        if matches!(one, Status::Interrupted(_)) {
            break;
        }
    }
    shot.engine.settle();
    status
}

/// Puts files: local ones, and in the end where to.
pub(super) fn put(wishes: &Wishes, files: &[OsString]) -> Status {
    let Some((last, locals)) = files.split_last().filter(|(_, locals)| !locals.is_empty()) else {
        complain(format_args!(
            "tftp: put needs local files and a URL; try put --help"
        ));
        return Status::Usage;
    };
    // All of it is understood before any of it is done.
    let pairs: Result<Vec<_>, Status> = match Target::parse(last) {
        Ok(target) => locals
            .iter()
            .map(|local| Ok((local, place(&target, local, locals.len() > 1)?)))
            .collect(),
        Err(problem) => Err(usage(last, problem)),
    };
    let (pairs, mut shot) = match pairs.and_then(|pairs| Ok((pairs, Shot::new(wishes)?))) {
        Ok(ready) => ready,
        Err(status) => return status,
    };
    let mut status = Status::Ok;
    for (local, target) in pairs {
        let one = match Source::open(local) {
            Ok(source) => {
                let label = local.display().to_string();
                shot.fire(&target, End::Put(&source), "Sent", &label)
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
        if !target.is_directory() {
            target.name.push(b'/');
        }
        target.name.extend_from_slice(name);
    }
    Ok(target)
}

/// One line about a word that can't be followed.
fn usage(word: &OsStr, problem: &str) -> Status {
    complain(format_args!("tftp: {}: {problem}", word.display()));
    Status::Usage
}

/// Fetches a file and throws it away.
pub(super) fn probe(wishes: &Wishes, url: &OsStr, within: Duration) -> Status {
    let until = clock::now() + within;
    let target = match parse_all(&[url.to_owned()]) {
        Ok(targets) => targets.into_iter().next(),
        Err(status) => return status,
    };
    let Some(target) = target.filter(|target| !target.is_directory()) else {
        return usage(url, "it names no file");
    };
    let mut shot = match Shot::new(wishes) {
        Ok(shot) => shot,
        Err(status) => return status,
    };
    shot.until = Some(until);
    let mut progress = TransferProgress::new("", false);
    match shot.carry_out(&target, End::Get(&Destination::Nowhere), &mut progress) {
        Ok(done) => {
            let milliseconds = done.elapsed.as_secs_f64() * 1000.0;
            let (bytes, granted) = (done.bytes, granted(&done.negotiated));
            say(format_args!(
                "{}: {bytes} bytes in {milliseconds:.1} ms, {granted}",
                url.display()
            ));
            Status::Ok
        }
        Err(failed) => failed.report(&url.display().to_string()),
    }
}

fn parse_all(words: &[OsString]) -> Result<Vec<Target>, Status> {
    let parse = |word: &OsString| Target::parse(word).map_err(|problem| usage(word, problem));
    words.iter().map(parse).collect()
}

/// Where a file is to go.
fn destination(
    local: Option<&OsStr>,
    target: &Target,
    several: bool,
) -> Result<Destination, String> {
    let name = Path::new(OsStr::from_bytes(tail(&target.name))).to_owned();
    let Some(local) = local else {
        return Ok(Destination::Path(name));
    };
    if let Destination::Stdout = Destination::named(local) {
        return Ok(Destination::Stdout);
    }
    if local.is_empty() {
        return Err("the local file's name is empty".to_owned());
    }
    let path = PathBuf::from(local);
    if path.is_dir() || local.as_bytes().ends_with(b"/") {
        Ok(Destination::Path(path.join(name)))
    } else if several {
        Err(format!(
            "{}: not a directory, and several files were asked for",
            path.display()
        ))
    } else {
        Ok(Destination::Path(path))
    }
}

/// A file on a server, for people: `host:file`.
fn show(target: &Target) -> String {
    format!("{}:{}", target.host, escape(&target.name))
}

/// What the server agreed to, as options are written.
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

/// Why a file of a shot didn't move.
enum Failed {
    UnknownHost(String),
    Trouble(Trouble),
}

impl Failed {
    /// One line on standard error, and the status.
    fn report(&self, label: &str) -> Status {
        match self {
            Self::UnknownHost(text) => {
                complain(format_args!("tftp: {text}"));
                Status::UnknownHost
            }
            // It names the local file itself.
            Self::Trouble(Trouble::Local(text)) => {
                complain(format_args!("tftp: {text}"));
                Status::Local
            }
            Self::Trouble(trouble) => {
                complain(format_args!("tftp: {label}: {trouble}"));
                trouble.status()
            }
        }
    }
}

/// What the files of one call have in common.
struct Shot<'a> {
    wishes: &'a Wishes,
    engine: Engine,
    until: Option<Instant>,
}

impl<'a> Shot<'a> {
    fn new(wishes: &'a Wishes) -> Result<Self, Status> {
        let mut engine = Engine::new().map_err(|error| {
            complain(format_args!("tftp: cannot wait for answers: {error}"));
            Status::NoAnswer
        })?;
        engine.set_trace(wishes.trace.then_some(trace::on_stderr));
        Ok(Self {
            wishes,
            engine,
            until: None,
        })
    }

    fn carry_out(
        &mut self,
        target: &Target,
        file: End<'_>,
        progress: &mut TransferProgress,
    ) -> Result<Done, Failed> {
        let servers = self
            .wishes
            .addresses(&target.host, target.port)
            .map_err(Failed::UnknownHost)?;
        let order = Order {
            servers: &servers,
            name: &target.name,
            // The URL's own wish comes first.
            mode: target.mode.or(self.wishes.mode).unwrap_or(Mode::Octet),
            file,
            offer: &self.wishes.offer(),
            with_size: self.wishes.with_size(),
            retry: self.wishes.retry(),
            ports: self.wishes.port_range.as_ref(),
            until: self.until,
        };
        let done = self.engine.carry_out(&order, progress);
        done.map_err(Failed::Trouble)
    }

    /// Moves one file and tells how it went.
    fn fire(&mut self, target: &Target, file: End<'_>, verb: &str, label: &str) -> Status {
        let mut progress = TransferProgress::new(label, !self.wishes.quiet && !file.is_screen());
        let done = match self.carry_out(target, file, &mut progress) {
            Ok(done) => done,
            Err(failed) => return failed.report(&show(target)),
        };
        if self.wishes.verbose {
            if let Some(reason) = &done.fallback {
                complain(format_args!("{label}: went on without options: {reason}"));
            }
            complain(format_args!(
                "{label}: {} retransmits={}",
                granted(&done.negotiated),
                done.retransmits
            ));
        }
        if !self.wishes.quiet {
            complain(format_args!(
                "{label}: {}",
                summary(verb, done.bytes, done.elapsed)
            ));
        }
        Status::Ok
    }
}
