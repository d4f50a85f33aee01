//! From the command line to a server that is ready to run: the log, what `opened` and
//! `listen` open, the limits, in the order in which they depend on each other. Every
//! right that isn't needed any more is given up on the way.
//!
//! Each thing that can go wrong ends in one line that names the value and the
//! remedy. Must not: read from the network.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::cli::{Args, Part};
use super::floor::Floor;
use super::front::Front;
use super::opened::{Opened, Paths, Served, policy};
use super::requests::Requests;
use super::worker::{Order, READY, Worker};
use super::{Lifetime, MAX_LISTENERS, STATUS, Server, VERSION, exposure, logging};
use crate::file::{Root, Size, with_remedy};
use crate::host::clock;
use crate::host::random::Random;
use crate::host::{self, Enforcement, Inherited, Notifier, PidFile, Signals};
use crate::log::event::Event;
use crate::log::shown::{Addresses, Cut};
use crate::policy::client_root::NamedAfter;
use crate::policy::map_test;
use crate::policy::rules;
use crate::policy::rules::file::LiveRules;
use crate::protocol::retry::{RetryPolicy, Wait};
use crate::protocol::transfer::{Config, Proof, SERVER_DALLY};
use crate::session::Session;
use crate::status::Status;
use crate::table::{MAX_DESCRIPTORS, MAX_LIMIT, Sessions};
use crate::wire::options::Limits;

/// How long a server under inetd waits for more to do: as long as tftp-hpa.
const INETD_IDLE_EXIT: Duration = Duration::from_secs(900);

/// Descriptors that no session holds: 15 shared ports, and a listener, root, standard
/// streams, log, map file, pid file, neighbour table, epoll, signals, timer.
const OWN_DESCRIPTORS: u64 = 32;

/// Without `--max-sessions`, sessions may use one part in this many of the machine's
/// memory.
const MEMORY_SHARE: u64 = 4;

/// Bytes that a session takes at least, with its place in the table.
const SESSION_BYTES: u64 = 512;

impl Server {
    /// A server as the command line wants it, bound and ready.
    ///
    /// # Errors
    /// One line that says what is in the way, and what to do about it.
    pub fn start(args: &Args) -> Result<Self, Box<dyn Error>> {
        let (worker, inherited) = match args.part {
            Part::Worker if cfg!(feature = "workers") => {
                Worker::take_over().map(|(worker, sockets)| (Some(worker), sockets))?
            }
            _ => (None, Inherited::take_over(MAX_LISTENERS)?),
        };
        let by_inetd = inherited.by_inetd;
        let log_file = logging::start(args, by_inetd)?;
        if let Some(doubt) = args.doubt().filter(|_| args.part == Part::First) {
            warn!("{doubt}");
        }
        let notifier = Notifier::from_environment(clock::now())?;
        let opened = Opened::open(args, inherited)?;
        let signals = Signals::take_over()?;
        let mut pid_file = args.pid_file.as_deref().map(reserve_pid_file).transpose()?;
        let room = Room::of(args, host::raise_open_files()?, opened.descriptors());
        // The sandbox hides how many processors there are.
        let busy_poll = busy_poll(args);
        let enforcement = opened.confine(args, log_file.as_ref())?;
        if let Some(pid_file) = pid_file.as_mut().filter(|_| args.chroot) {
            pid_file.lose_path();
        }
        let paths = opened.paths.clone();
        let (front, floor, status) = halves(args, opened, room)?;
        let lifetime = lifetime(args, by_inetd);
        let mut server = Self::new(front, floor, busy_poll, lifetime, signals, log_file)?;
        if let (Some(pid_file), Some(path)) = (&mut pid_file, &args.pid_file) {
            pid_file
                .write()
                .map_err(|error| cannot_write_pid_file(path, &error))?;
        }
        server.notifier = notifier;
        server.pid_file = pid_file;
        server.status = status.map(Box::new);
        if let Some(mut worker) = worker {
            let registry = server.floor.registry();
            server.front.wait_turn();
            worker.register(registry)?;
            match worker.first_order()? {
                Order::Hear(socket) => server.front.hear(socket, registry)?,
                _ => server.front.listen(),
            }
            server.worker = Some(Box::new(worker));
        }
        server.tell_start(args, &paths, room.sessions);
        debug!("waiting for answers awake for up to {busy_poll:?}");
        tell_enforcement(args, enforcement);
        let uploads_to = paths.uploads.as_ref().unwrap_or(&paths.root);
        let policy = server.front.requests.policy();
        let upload_root = policy.upload_root.as_ref().unwrap_or(&policy.root);
        exposure::advise_about_uploads(args, upload_root, uploads_to);
        exposure::advise(args, uploads_to);
        Ok(server)
    }

    /// Says what is served, and where, to the log and the service manager.
    fn tell_start(&self, args: &Args, paths: &Paths, max_sessions: usize) {
        let policy = self.front.requests.policy();
        let root = paths.root.display();
        let addresses = self.addresses();
        let options = deciding_options(args);
        let mapped_by = policy.map_file.as_ref().map(ToString::to_string);
        let ruled_by = policy.rules.as_ref().map(ToString::to_string);
        let links_to = listed(&paths.linked);
        let uploads_to = paths.uploads.as_ref().map(|path| path.display());
        let listening = Event::Listening {
            addresses: Addresses(&addresses),
            version: VERSION,
            root: Cut(&root),
            access: described(args),
            max_sessions: max_sessions as u64,
            options: options.as_ref().map(|options| Cut(options)),
            mapped_by: mapped_by.as_ref().map(|map| Cut(map)),
            ruled_by: ruled_by.as_ref().map(|rules| Cut(rules)),
            links_to: links_to.as_ref().map(|directories| Cut(directories)),
            uploads_to: uploads_to.as_ref().map(|directory| Cut(directory)),
        };
        listening.write();
        if let Some(rules) = &policy.rules {
            rules.tell_lacking();
        }
        if let Some(notifier) = &self.notifier {
            notifier.ready(&listening.to_string());
        }
        if let Some(worker) = &self.worker {
            worker.say(READY);
        }
    }
}

/// The two halves of the server, and the status port.
fn halves(
    args: &Args,
    opened: Opened,
    room: Room,
) -> Result<(Front, Floor, Option<Status>), Box<dyn Error>> {
    let Opened {
        listeners,
        spares,
        mut status,
        helper,
        served,
        ..
    } = opened;
    if let Some(status) = status.as_mut().filter(|_| args.chroot) {
        status.lose_path();
    }
    let mut random = Random::default();
    let now = clock::now();
    let policy = served.policy(args, random.seed(), now)?;
    let rules = policy.rules.as_ref();
    let some_share = rules.is_some_and(LiveRules::has_single_port);
    let mut requests = Requests::new(policy, config(args), limits(args), random.seed(), now);
    if args.answer_broadcast {
        requests = requests.answering_broadcasts(random.seed(), now);
    }
    requests.helper = helper;
    requests.in_chroot = args.chroot;
    let shared = args.single_port.then_some(&*listeners);
    let sessions = room.table(args, now);
    let files = requests.policy().root.open_files();
    let unproved_rate = NonZeroU64::new(args.max_unproved_rate);
    let mut floor = Floor::new(
        sessions,
        files,
        args.port_range.clone(),
        shared,
        unproved_rate,
        now,
    )?;
    if some_share {
        floor.share_listeners(&listeners, now);
    }
    floor.ports.keep(spares);
    floor.listings = requests.policy().listings();
    if let Some(status) = &status {
        status.register(floor.registry(), STATUS)?;
        floor.reporter.history = Some(Box::default());
    }
    Ok((Front::new(listeners, requests), floor, status))
}

/// Directories in words; `None` if there are none.
fn listed(directories: &[PathBuf]) -> Option<String> {
    let names: Vec<_> = directories
        .iter()
        .map(|it| it.display().to_string())
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// `--rules-test`: what the rules of `path` mean for the clients and names on standard
/// input.
///
/// # Errors
/// Rules, a map file or a root that can't be used.
pub fn test_rules(args: &Args, path: &Path) -> Result<(), Box<dyn Error>> {
    let now = clock::now();
    let policy = Served::by_rules(args, path)?.policy(args, Random::default().seed(), now)?;
    let (lines, out) = (io::stdin().lock(), io::stdout().lock());
    rules::test::run(&policy, now, lines, out)
}

/// `--map-test`: what the rules of `path` make of the names on standard input.
///
/// # Errors
/// A map file or a root that can't be used.
pub fn test_map(args: &Args, path: &Path) -> Result<(), Box<dyn Error>> {
    let root = Root::open(args.root(), policy(args))?;
    let (names, out) = (io::stdin().lock(), io::stdout().lock());
    map_test::run(path, &root, args.ipv6, names, out)
}

/// Why the server can't go on, in one line. A bare error of the system gets a hint at
/// what it may be about.
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<io::Error>() {
        Some(error) => {
            let remedy = "check what the server is allowed: memory, open files, system calls";
            format!("cannot go on: {}", with_remedy(error, remedy))
        }
        None => error.to_string(),
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Descriptors that sessions may hold.
    descriptors: usize,
    /// Sessions at once.
    sessions: usize,
}

impl Room {
    /// The room within `open_files` descriptors, of which [`OWN_DESCRIPTORS`] and
    /// `others` are no session's.
    ///
    /// A session with a port of its own takes at least one descriptor. With a single
    /// port all downloads of one file share one, and memory runs out first.
    fn of(args: &Args, open_files: u64, others: u64) -> Self {
        let usable = open_files.saturating_sub(OWN_DESCRIPTORS + others);
        let descriptors = usize::try_from(usable).unwrap_or(usize::MAX).max(1);
        let processes = args.workers.map_or(1, u64::from);
        let in_memory = host::memory().map(|it| it / MEMORY_SHARE / SESSION_BYTES / processes);
        let in_memory = in_memory.and_then(|it| usize::try_from(it).ok());
        let mut sessions = in_memory.unwrap_or(usize::MAX).max(1);
        if !args.single_port {
            sessions = sessions.min(descriptors);
        }
        let sessions = args.max_sessions.map_or(sessions, |it| it as usize);
        Self {
            descriptors,
            sessions: sessions.min(MAX_LIMIT),
        }
    }

    /// A table for this many sessions. Sessions whose peer has never answered may be
    /// light if descriptors or ports are what is short. With `--max-sessions` alone
    /// descriptors aren't counted: when the kernel has no more, requests are dropped.
    fn table(self, args: &Args, now: Instant) -> Sessions<Session> {
        let of_one_client = args.max_sessions_per_client;
        let of_one_client = of_one_client.map_or(usize::MAX, |it| it as usize);
        let table = |descriptors| {
            Sessions::new(descriptors, now)
                .with_limit(self.sessions)
                .with_client_limit(of_one_client)
        };
        let ports = args.port_range.as_ref().filter(|_| !args.single_port);
        if args.max_sessions.is_some() && ports.is_none() {
            return table(usize::MAX);
        }
        let ports = ports.map_or(usize::MAX, ExactSizeIterator::len);
        let capacity = self.descriptors.saturating_sub(MAX_DESCRIPTORS - 1).max(1);
        let table = table(capacity)
            .with_ceiling(capacity + MAX_DESCRIPTORS - 1)
            .with_light_sessions(ports);
        if args.max_sessions.is_some() || args.single_port {
            return table;
        }
        table.with_light_on_top()
    }
}

fn lifetime(args: &Args, by_inetd: bool) -> Lifetime {
    let inetds = by_inetd.then_some(INETD_IDLE_EXIT);
    Lifetime {
        grace: args.grace,
        idle_exit: args.idle_exit.or(inetds),
    }
}

fn config(args: &Args) -> Config {
    Config {
        retry: RetryPolicy {
            wait: args
                .timeout
                .map_or(Wait::Adaptive, |it| Wait::Fixed(it.time)),
            retries: args.retries,
        },
        request_repeats: 0,
        dally: SERVER_DALLY,
        // Set for each transfer once its port is known.
        proof: Proof::Never,
    }
}

fn limits(args: &Args) -> Limits {
    Limits {
        max_blksize: args.max_blksize,
        max_windowsize: args.max_windowsize,
        refused: args.refused_options(),
    }
}

/// Busy polling takes a second processor: the client may run on this machine.
fn busy_poll(args: &Args) -> Duration {
    match host::processors() {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_micros(args.busy_poll.into()),
    }
}

pub(super) fn reserve_pid_file(path: &Path) -> Result<PidFile, String> {
    PidFile::reserve(path).map_err(|error| cannot_write_pid_file(path, &error))
}

pub(super) fn cannot_write_pid_file(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    if error.kind() == ErrorKind::ResourceBusy {
        return format!(
            "the server whose pid file is {path} is running; stop it, or name another file with -P"
        );
    }
    let told = with_remedy(error, "name a writable one with -P");
    format!("cannot write the pid file {path}: {told}")
}

/// What clients may do, in words.
fn described(args: &Args) -> &'static str {
    let is_drop_box = args.uploads.is_write_only();
    match (args.read_only, args.overwrite) {
        (true, _) => "read only",
        _ if is_drop_box && args.uploads.root().is_none() => "create, never read",
        _ if is_drop_box => "read, create, never read uploads",
        _ if args.uploads.keeps_versions() => "read, create, overwrite, keep old versions",
        (false, false) => "read, create, never overwrite",
        (false, true) => "read, create, overwrite",
    }
}

/// The options that decide who gets which file, and by which ports, and that nothing else
/// in the first line shows; `None` if none was given.
fn deciding_options(args: &Args) -> Option<String> {
    let flag = |is_given: bool, name: &str| is_given.then(|| name.to_owned());
    let per_client = args.per_client_root.map(|it| match it {
        NamedAfter::Ip => "--per-client-root ip".to_owned(),
        NamedAfter::Mac => "--per-client-root mac".to_owned(),
    });
    let per_client_limit = args.max_sessions_per_client;
    let options = [
        flag(args.interface.is_some(), "--interface"),
        flag(args.answer_broadcast, "--answer-broadcast"),
        flag(!args.allow.is_empty(), "--allow"),
        flag(!args.deny.is_empty(), "--deny"),
        flag(args.single_port, "--single-port"),
        flag(args.port_range.is_some(), "--port-range"),
        per_client_limit.map(|it| format!("--max-sessions-per-client {it}")),
        per_client,
        flag(args.ignore_case, "--ignore-case"),
        flag(args.helper.is_some(), "--helper"),
        flag(args.helper_socket.is_some(), "--helper-socket"),
    ];
    let asked = args.ask.iter().map(|it| Some(format!("--ask {it}")));
    let missing = flag(args.ask_missing, "--ask-missing");
    let max_upload = args
        .max_upload
        .map(|it| format!("--max-upload {}", Size(it)));
    let given = options
        .into_iter()
        .chain(asked)
        .chain([missing, max_upload])
        .flatten()
        .chain(args.uploads.guards())
        .chain(flag(args.chroot, "--chroot"));
    let given: Vec<_> = given.collect();
    (!given.is_empty()).then(|| given.join(" "))
}

/// Says what the sandbox can't enforce.
fn tell_enforcement(args: &Args, enforcement: Enforcement) {
    match enforcement {
        _ if args.no_sandbox => {}
        Enforcement::Full => debug!("the sandbox is up"),
        Enforcement::Partial => info!("the sandbox is up, as far as this kernel can enforce it"),
        Enforcement::None => info!("there is no sandbox: the kernel lacks Landlock"),
    }
}
