//! The prompt `tftp>`: the classic commands, from a terminal, a pipe or `-c`.
//!
//! Texts and behaviour are those of the clients that people know, except where that does
//! harm: paths are opened as they are typed, a failed get leaves no file, and the exit
//! status tells the truth. Must not: know how lines are edited.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::attempts;
use super::clash::clash;
use super::cli::{Args, CommonArgs};
use super::commands::{self, Command, NoCommand};
use super::engine::Engine;
use super::job::{Job, JobError, LocalFile};
use super::lines::{Line, Lines};
use super::local::{Input, Output};
use super::progress::TransferProgress;
use super::report::{Report, Style};
use super::settings::{BadWords, Settings};
use super::target::{PORT, Target, instead_of_url, is_url, parse_port, split_host, tail};
use super::words::{below, split};
use super::{Status, Stream, complain, say, trace};
use crate::wire::escape::printable;
use crate::wire::packet::Mode;

/// What to do after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Line,
    Quit,
}

/// The server that commands are for.
#[derive(Debug, Clone)]
struct Peer {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
}

/// The prompt and what was set at it.
pub(super) struct Prompt {
    common: CommonArgs,
    settings: Settings,
    peer: Option<Peer>,
    /// The command given with `-c`, instead of lines.
    once: Option<Vec<Vec<u8>>>,
    lines: Option<Lines>,
    engine: Option<Engine>,
    /// Where lines for the user go: standard error, once a file goes to standard output.
    stream: Stream,
    status: Status,
    /// The signal that broke the last command off.
    interrupted: Option<Signal>,
}

impl Prompt {
    /// A prompt as the command line wants it.
    pub(super) fn new(args: &Args) -> Self {
        let common = args.common.clone();
        let once = args.command.as_ref().map(|words| {
            let words: Vec<_> = words.iter().map(|it| it.as_bytes().to_vec()).collect();
            // A single word in quotes may hold the whole command.
            match &words[..] {
                [line] if line.contains(&b' ') => split(line),
                _ => words,
            }
        });
        let mut prompt = Self {
            settings: Settings::new(&common, args.literal),
            peer: None,
            once: None,
            lines: None,
            engine: None,
            stream: Stream::Stdout,
            status: Status::Ok,
            interrupted: None,
            common,
        };
        // Decided before the first line is written.
        if let Some([first, rest @ ..]) = once.as_deref()
            && matches!(commands::find(first), Ok(Command::Get))
        {
            let (remotes, local) = get_words(rest);
            let destinations = prompt.destinations(remotes, local);
            prompt.leave_stdout(&destinations);
        }
        prompt.once = once;
        if let Some(host) = &args.host {
            prompt.connect(host, args.port.unwrap_or(PORT));
        }
        prompt
    }

    /// Executes commands until there are no more.
    pub(super) fn run(mut self) -> Status {
        match Engine::new() {
            Ok(engine) => self.engine = Some(engine),
            Err(error) => {
                complain(format_args!("tftp: {error}"));
                return error.status();
            }
        }
        self.set_trace();
        if let Some(words) = self.once.take() {
            // If the host is unknown, the command can't be executed.
            if self.status == Status::Ok {
                self.execute(&words);
            }
        } else {
            let lines = self.lines.insert(Lines::new());
            let is_terminal = matches!(lines, Lines::Terminal(_));
            while self.step(is_terminal) == Next::Line {}
        }
        if let Some(engine) = &mut self.engine {
            engine.settle(None);
        }
        self.status
    }

    /// Reads a line and executes it.
    fn step(&mut self, is_terminal: bool) -> Next {
        // While we wait for a person to type, nobody would repeat the last ACK.
        if let (true, Some(engine)) = (is_terminal, &mut self.engine) {
            engine.settle(None);
        }
        match self.ask("tftp> ") {
            Line::End => {
                if is_terminal {
                    say(format_args!(""));
                }
                Next::Quit
            }
            Line::Interrupted => Next::Line,
            Line::Text(line) => {
                let words = split(&line);
                let next = if words.is_empty() {
                    Next::Line
                } else {
                    self.execute(&words)
                };
                match self.interrupted.take() {
                    // On a terminal, ^C ends the transfer, not the prompt.
                    Some(Signal::SIGINT) if is_terminal => next,
                    Some(_) => Next::Quit,
                    None => next,
                }
            }
        }
    }

    fn ask(&mut self, prompt: &str) -> Line {
        self.lines
            .as_mut()
            .map_or(Line::End, |lines| lines.next(prompt))
    }

    fn failed(&mut self, status: Status) {
        self.status = self.status.and(status);
    }

    /// Tells what is wrong with the words of a command.
    fn usage_error(&mut self, text: fmt::Arguments<'_>) {
        self.tell_usage(format_args!("tftp: {text}"));
    }

    /// Tells how `command` is used.
    fn show_usage(&mut self, command: Command) {
        self.tell_usage(format_args!("{}", commands::usage(command)));
    }

    /// Tells `text` about a mistake in what was typed, and counts it as one.
    fn tell_usage(&mut self, text: fmt::Arguments<'_>) {
        self.stream.tell(text);
        self.failed(Status::Usage);
    }

    fn execute(&mut self, words: &[Vec<u8>]) -> Next {
        let Some((first, rest)) = words.split_first() else {
            return Next::Line;
        };
        let command = match commands::find(first) {
            Ok(command) => command,
            Err(problem) => {
                self.no_command(problem, first);
                return Next::Line;
            }
        };
        match command {
            Command::Quit => return Next::Quit,
            Command::Connect => self.execute_connect(rest),
            Command::Get => self.execute_get(rest),
            Command::Put => self.execute_put(rest),
            Command::Mget => self.execute_mget(rest),
            Command::Mput => self.execute_mput(rest),
            Command::Help => self.execute_help(rest),
            Command::Status => self.show_status(),
            setting => self.change(setting, rest),
        }
        Next::Line
    }

    fn change(&mut self, setting: Command, words: &[Vec<u8>]) {
        match self.settings.change(setting, words) {
            Ok(Some(text)) => self.stream.tell(format_args!("{text}")),
            Ok(None) => {}
            Err(BadWords::Usage) => self.show_usage(setting),
            Err(BadWords::Word(text)) => self.usage_error(format_args!("{text}")),
        }
        self.set_trace();
    }

    fn set_trace(&mut self) {
        if let Some(engine) = &mut self.engine {
            let trace = self.settings.trace.then(|| trace::on(self.stream));
            engine.set_trace(trace);
        }
    }

    fn show_status(&self) {
        match &self.peer {
            Some(peer) => self
                .stream
                .tell(format_args!("Connected to {}.", peer.host)),
            None => self.stream.tell(format_args!("Not connected.")),
        }
        self.stream.tell(format_args!("{}", self.settings));
    }

    fn no_command(&mut self, problem: NoCommand, word: &[u8]) {
        let what = match problem {
            NoCommand::Ambiguous => "Ambiguous",
            NoCommand::Invalid => "Invalid",
        };
        let word = printable(word);
        self.tell_usage(format_args!("?{what} command {word}; try help"));
    }

    fn execute_help(&mut self, words: &[Vec<u8>]) {
        if words.is_empty() {
            self.stream.tell(format_args!(
                "Commands may be abbreviated.  Commands are:\n"
            ));
            for (name, text) in commands::all() {
                self.stream.tell(format_args!("{name:<12}{text}"));
            }
        }
        for word in words {
            match commands::help(word) {
                Ok(text) => self.stream.tell(format_args!("{text}")),
                Err(NoCommand::Ambiguous) => {
                    self.tell_usage(format_args!("?Ambiguous help command {}", printable(word)));
                }
                Err(NoCommand::Invalid) => {
                    self.tell_usage(format_args!("?Invalid help command {}", printable(word)));
                }
            }
        }
    }

    /// The words of a command; if there are none, the user is asked for them.
    fn or_ask(&mut self, words: &[Vec<u8>], prompt: &str) -> Vec<Vec<u8>> {
        if !words.is_empty() {
            return words.to_vec();
        }
        match self.ask(prompt) {
            Line::Text(line) => split(&line),
            Line::Interrupted | Line::End => Vec::new(),
        }
    }

    fn execute_connect(&mut self, words: &[Vec<u8>]) {
        let words = self.or_ask(words, "(to) ");
        let text = |word: &Vec<u8>| String::from_utf8(word.clone()).ok();
        let (host, port) = match &words[..] {
            [host] => (text(host), Some(PORT)),
            [host, port] => {
                let Some(Ok(port)) = text(port).map(|port| parse_port(&port)) else {
                    self.usage_error(format_args!("{}: bad port number", printable(port)));
                    return;
                };
                (text(host), Some(port))
            }
            _ => (None, None),
        };
        match (host, port) {
            (Some(url), _) if is_url(url.as_ref()) => {
                let instead = instead_of_url(&url, "get", "connect");
                self.usage_error(format_args!("{url}: {instead}"));
            }
            (Some(host), Some(port)) => {
                self.connect(&host, port);
            }
            _ => self.show_usage(Command::Connect),
        }
    }

    /// Looks up a host, for this command and those after it; false if it is unknown.
    fn connect(&mut self, host: &str, port: u16) -> bool {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        match self.common.addresses(bare, port) {
            Ok(addresses) => {
                if self.settings.verbose
                    && let Some(first) = addresses.first()
                {
                    let ip = first.ip();
                    let stream = self.stream;
                    stream.tell(format_args!("Connected to {bare} ({ip}), port {port}"));
                }
                self.peer = Some(Peer {
                    host: bare.to_owned(),
                    port,
                    addresses,
                });
                true
            }
            Err(text) => {
                complain(format_args!("tftp: {text}"));
                self.failed(Status::UnknownHost);
                false
            }
        }
    }

    /// The name on its server of the file that a word stands for.
    fn remote_name(&self, word: &[u8]) -> Vec<u8> {
        match Target::parse(OsStr::from_bytes(word)) {
            Ok(target) if is_url(OsStr::from_bytes(word)) => target.name,
            _ if self.settings.literal => word.to_vec(),
            _ => split_host(word).map_or(word, |(_, file)| file).to_vec(),
        }
    }

    /// The file's name on the server, and the mode if a URL has one. Connects to the
    /// host of a URL or of `host:file`, for which the port stays the same. `None` if
    /// there is no server to talk to.
    fn choose_server(&mut self, word: &[u8]) -> Option<(Vec<u8>, Option<Mode>)> {
        if is_url(OsStr::from_bytes(word)) {
            return match Target::parse(OsStr::from_bytes(word)) {
                Ok(target) => self
                    .connect(&target.host, target.port)
                    .then_some((target.name, target.mode)),
                Err(problem) => {
                    self.usage_error(format_args!("{}: {problem}", printable(word)));
                    None
                }
            };
        }
        if !self.settings.literal
            && let Some((host, file)) = split_host(word)
        {
            let port = self.peer.as_ref().map_or(PORT, |peer| peer.port);
            return self.connect(host, port).then(|| (file.to_vec(), None));
        }
        if self.peer.is_none() {
            self.usage_error(format_args!("No target machine specified."));
            return None;
        }
        Some((word.to_vec(), None))
    }

    /// Where a `get` puts its files.
    fn destinations(&self, remotes: &[Vec<u8>], local: Option<&Vec<u8>>) -> Vec<Output> {
        let names = remotes.iter().map(|remote| self.remote_name(remote));
        let paths = names.map(|name| local_path(&name, local));
        paths.map(|path| Output::named(path.as_os_str())).collect()
    }

    /// If a file of a `get` goes to standard output, lines go to standard error from now
    /// on.
    fn leave_stdout(&mut self, destinations: &[Output]) {
        if destinations.contains(&Output::Stdout) {
            self.stream = Stream::Stderr;
            self.set_trace();
        }
    }

    fn execute_get(&mut self, words: &[Vec<u8>]) {
        let words = self.or_ask(words, "(files) ");
        if words.is_empty() {
            self.show_usage(Command::Get);
            return;
        }
        let (remotes, local) = get_words(&words);
        self.get_files(remotes, local);
    }

    fn execute_mget(&mut self, words: &[Vec<u8>]) {
        match words {
            [remotes @ .., directory]
                if !remotes.is_empty() && Path::new(OsStr::from_bytes(directory)).is_dir() =>
            {
                self.get_files(remotes, Some(directory));
            }
            _ => self.show_usage(Command::Mget),
        }
    }

    /// Gets files to `local`, a directory or the name of the only file; `None`: under
    /// their own names.
    fn get_files(&mut self, remotes: &[Vec<u8>], local: Option<&Vec<u8>>) {
        let destinations = self.destinations(remotes, local);
        self.leave_stdout(&destinations);
        let places = destinations.iter().map(Output::place);
        if let Some((one, other)) = same_place(remotes, places) {
            self.usage_error(format_args!(
                "{one} and {other} would be the same local file"
            ));
            return;
        }
        for remote in remotes {
            let Some((name, mode)) = self.choose_server(remote) else {
                return;
            };
            let mode = mode.unwrap_or(self.settings.mode);
            let local = local_path(&name, local);
            if name.is_empty() || local.as_os_str().is_empty() {
                let remote = printable(remote);
                let usage = commands::usage(Command::Get);
                self.usage_error(format_args!("{remote}: no file is named; {usage}"));
                return;
            }
            if self.settings.verbose {
                let (host, mode) = (self.host(), mode.name());
                let (name, local) = (printable(&name), local.display());
                self.stream.tell(format_args!(
                    "getting from {host}:{name} to {local} [{mode}]"
                ));
            }
            let destination = Output::named(local.as_os_str());
            if !self.transfer(&name, mode, LocalFile::Get(&destination)) {
                return;
            }
        }
    }

    fn execute_put(&mut self, words: &[Vec<u8>]) {
        let words = self.or_ask(words, "(file) ");
        let (locals, target) = match &words[..] {
            [] => {
                self.show_usage(Command::Put);
                return;
            }
            [local] => (std::slice::from_ref(local), None),
            [locals @ .., target] => (locals, Some(target)),
        };
        self.put_files(locals, target, false);
    }

    fn execute_mput(&mut self, words: &[Vec<u8>]) {
        match words {
            [locals @ .., target] if !locals.is_empty() => {
                self.put_files(locals, Some(target), true);
            }
            _ => self.show_usage(Command::Mput),
        }
    }

    /// Puts files to `target`, a directory or, unless `into_directory`, the name of the
    /// only file; `None`: under their own names.
    fn put_files(&mut self, locals: &[Vec<u8>], target: Option<&Vec<u8>>, into_directory: bool) {
        let names = locals.iter().map(|word| tail(word));
        let names = names.map(|name| Some(name).filter(|name| !name.is_empty()));
        if let Some((one, other)) = same_place(locals, names) {
            self.usage_error(format_args!(
                "{one} and {other} would have the same name there"
            ));
            return;
        }
        let (into, mode) = match target {
            None => (None, None),
            Some(target) => match self.choose_server(target) {
                Some((name, mode)) => (Some(name), mode),
                None => return,
            },
        };
        let mode = mode.unwrap_or(self.settings.mode);
        if self.peer.is_none() {
            self.usage_error(format_args!("No target machine specified."));
            return;
        }
        let into_directory = into_directory || locals.len() > 1;
        for local in locals {
            let name = match &into {
                None => tail(local).to_vec(),
                Some(name) if !into_directory && !name.is_empty() && !name.ends_with(b"/") => {
                    name.clone()
                }
                Some(directory) => below(directory, tail(local)),
            };
            if local == b"-" && self.lines.is_some() {
                self.usage_error(format_args!(
                    "-: standard input is where commands come from"
                ));
                return;
            }
            let local = OsStr::from_bytes(local);
            let source = match Input::open(local) {
                Ok(source) => source,
                Err(text) => {
                    complain(format_args!("tftp: {text}"));
                    self.failed(Status::Local);
                    continue;
                }
            };
            if self.settings.verbose {
                let (host, mode) = (self.host(), mode.name());
                let (local, name) = (local.display(), printable(&name));
                let stream = self.stream;
                stream.tell(format_args!("putting {local} to {host}:{name} [{mode}]"));
            }
            if !self.transfer(&name, mode, LocalFile::Put(&source)) {
                return;
            }
        }
    }

    fn host(&self) -> String {
        self.peer
            .as_ref()
            .map_or_else(String::new, |peer| peer.host.clone())
    }

    /// Moves one file and tells how it went; false if no other should be tried.
    fn transfer(&mut self, name: &[u8], mode: Mode, file: LocalFile<'_>) -> bool {
        let retry = self.settings.retry();
        let (Some(peer), Some(engine)) = (&self.peer, &mut self.engine) else {
            return false;
        };
        // Scripts written for tftp-hpa put files on devices that know no options.
        let is_plain = self.lines.is_none() && matches!(file, LocalFile::Put(_));
        let offer = if is_plain {
            &self.common.explicit_offer()
        } else {
            &self.settings.offer
        };
        let job = Job {
            servers: &peer.addresses,
            name,
            mode,
            file,
            offer,
            with_size: self.common.with_size() && !is_plain,
            retry,
            ports: self.common.port_range.as_ref(),
            wait: self.common.wait,
            limit: None,
        };
        let label = printable(name).to_string();
        let mut progress = TransferProgress::new(
            label.clone(),
            !file.is_screen() && !self.settings.trace,
            self.common.quiet,
        );
        let report = Report {
            style: Style::Prompt(self.stream),
            verbose: self.settings.verbose,
            // Scripts for tftp-hpa take anything that `-c` writes for a failure.
            quiet: self.common.quiet || self.lines.is_none(),
        };
        match attempts::run(engine, &job, &mut progress) {
            Ok(done) => {
                report.completed(&label, file, &done);
                true
            }
            Err(error) => {
                let file = Target {
                    host: peer.host.clone(),
                    port: peer.port,
                    name: name.to_vec(),
                    mode: None,
                };
                report.failed(&file, &error);
                if let JobError::Interrupted(signal) = error {
                    self.interrupted = Some(signal);
                }
                self.failed(error.status());
                // The next file may fare better.
                matches!(
                    error,
                    JobError::ServerError { .. } | JobError::LocalFile(_) | JobError::System(_)
                )
            }
        }
    }
}

/// The remote files of a `get`, and the local one if it is named.
fn get_words(words: &[Vec<u8>]) -> (&[Vec<u8>], Option<&Vec<u8>>) {
    match words {
        [remote, local] => (std::slice::from_ref(remote), Some(local)),
        remotes => (remotes, None),
    }
}

/// Where a file with this name on its server goes: to `local`, a directory or a file
/// name; `None`: to its own name here.
fn local_path(name: &[u8], local: Option<&Vec<u8>>) -> PathBuf {
    let here = Path::new(OsStr::from_bytes(tail(name)));
    match local.map(|local| PathBuf::from(OsStr::from_bytes(local))) {
        Some(directory) if directory.is_dir() => directory.join(here),
        Some(local) => local,
        None => here.to_owned(),
    }
}

/// Two of the words whose files would get the same place.
fn same_place<N: PartialEq>(
    words: &[Vec<u8>],
    places: impl Iterator<Item = Option<N>>,
) -> Option<(String, String)> {
    let files: Vec<_> = words.iter().zip(places).collect();
    let (one, other) = clash(&files)?;
    let [one, other] = [one, other].map(|at| printable(&words[at]).to_string());
    Some((one, other))
}
