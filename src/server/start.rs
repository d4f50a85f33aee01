//! From the command line to a server that is ready to run: the log, the sockets,
//! the root, the limits, in the order in which they depend on each other; then
//! every right that isn't needed any more is given up.
//!
//! Each thing that can go wrong ends in one line that names the value and the
//! remedy. Must not: read from the network.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
use nix::net::if_::if_nametoindex;

use super::address::ListenTarget;
use super::cli::{Args, UserAndGroup};
use super::floor::Floor;
use super::front::Front;
use super::ports::Ports;
use super::requests::Requests;
use super::{Lifetime, MAX_LISTENERS, STATUS, Server, exposure, logging};
use crate::file::{self, Directory, Root, RootError, reason};
use crate::helper::{Asking, Helper, Source};
use crate::host::clock;
use crate::host::random::Random;
use crate::host::{
    self, Confinement, Enforcement, Identity, Inherited, Notifier, PidFile, Signals,
};
use crate::log::LogFile;
use crate::log::event::Event;
use crate::log::shown::{Addresses, Cut};
use crate::net::{Binding, ListenSocket, TransferSocket};
use crate::policy::access::Access;
use crate::policy::client_root::ClientRoots;
use crate::policy::glob::Globs;
use crate::policy::map::file::MapFile;
use crate::policy::rules;
use crate::policy::rules::file::{LiveRules, RulesFile};
use crate::policy::work::WorkAllowance;
use crate::policy::{Policy, map_test};
use crate::protocol::retry::{RetryPolicy, Wait};
use crate::protocol::transfer::{Config, Proof};
use crate::session::Session;
use crate::status::Status;
use crate::table::Sessions;
use crate::wire::options::Limits;

/// How long a received upload's final ACK is repeated if it was lost: longer than
/// the first wait of the usual clients (tftp-hpa 5 s, curl 6 s).
const DALLY: Duration = Duration::from_secs(10);

/// How long inetd's server waits for more to do: as long as tftp-hpa's.
const INETD_IDLE_EXIT: Duration = Duration::from_secs(900);

/// Descriptors that are no session's: 16 shared ports, and a listener, root, standard
/// streams, log, map file, pid file, neighbour table, epoll, signals.
const OWN_DESCRIPTORS: u64 = 32;

/// Descriptors a session can take: a socket, a file, and an upload's directory.
const SESSION_DESCRIPTORS: u64 = 3;

/// Other ports the kernel is asked for until one is free for IPv4 and IPv6.
const SHARED_PORT_TRIES: usize = 16;

impl Server {
    /// A server as the command line wants it, bound and ready.
    ///
    /// # Errors
    /// One line that says what is in the way, and what to do about it.
    #[allow(
        clippy::too_many_lines,
        reason = "the order in which all depends on all"
    )]
    pub fn start(args: &Args) -> Result<Self, Box<dyn Error>> {
        let inherited = Inherited::take_over(MAX_LISTENERS)?;
        let log_file = logging::start(args, inherited.by_inetd)?;
        let map_file = args.map_file.as_deref();
        let map_file = map_file.map(|path| open_map_file(args, path)).transpose()?;
        let rules = args.rules.as_deref();
        let rules = rules.map(|path| open_rules(args, path)).transpose()?;
        let client_roots = args.per_client_root.map(ClientRoots::open).transpose()?;
        let notifier = Notifier::from_environment(clock::now())?;
        let listeners = listeners(args, inherited.sockets, rules.as_ref())?;
        let spares = may_share(args).then(|| Ports::spares(&listeners));
        let mut status = Status::open(args.status(), inherited.streams, clock::now())?;
        let directory = Directory::open(args.root())?;
        // As it is seen from outside.
        let path = args.root().canonicalize().unwrap_or(args.root().into());
        exposure::check(args, directory.as_fd(), &path)?;
        if let Some(rules) = &rules {
            for (path, directory) in rules.directories() {
                exposure::check(args, directory, path)?;
            }
        }
        let linked = linked_directories(args)?;
        let upload_directory = upload_directory(args, &path)?;
        let helper = start_helper(args)?;
        let signals = Signals::take_over()?;
        let mut pid_file = args.pid_file.as_deref().map(reserve_pid_file).transpose()?;
        let beside = rules.as_ref().map_or(0, |it| it.directories().count());
        let of_status = status.as_ref().map_or(0, Status::descriptors);
        let of_uploads = usize::from(upload_directory.is_some());
        let of_helper = usize::from(helper.is_some());
        let others =
            listeners.len() - 1 + linked.len() + beside + of_uploads + of_status + of_helper;
        let max_sessions = max_sessions(args, host::raise_open_files()?, others as u64);
        let lifetime = lifetime(args, inherited.by_inetd);
        // The sandbox hides how many processors there are.
        let busy_poll = busy_poll(args);
        let kept = Kept {
            root: directory.as_fd(),
            uploads: upload_directory.as_ref().map(AsFd::as_fd),
            linked: &linked,
            log_file: log_file.as_ref(),
            map_file: map_file.as_ref(),
            rules: rules.as_ref(),
            status_socket: status.as_ref().and_then(Status::socket_path),
        };
        let enforcement = confine(args, &kept)?;
        may_bind_transfers(args, &listeners)?;
        if let Some(pid_file) = pid_file.as_mut().filter(|_| args.chroot) {
            pid_file.lose_path();
        }
        if let Some(status) = status.as_mut().filter(|_| args.chroot) {
            status.lose_path();
        }
        let mut random = Random::default();
        let closed = client_roots.as_ref().map(ClientRoots::closed);
        let (root, upload_root) = roots(args, directory, linked, upload_directory, &path)?;
        let root = root.closing(closed);
        let policy = Policy {
            access: access(args),
            rules: rules.map(|rules| rules.serve(&root)).transpose()?,
            root,
            upload_root: upload_root.map(|root| root.closing(closed)),
            client_roots,
            map_file,
            allowance: WorkAllowance::new(random.seed(), clock::now()).into(),
        };
        let some_share = policy
            .rules
            .as_ref()
            .is_some_and(LiveRules::has_single_port);
        let root = path.display();
        let addresses: Vec<_> = listeners.iter().map(ListenSocket::address).collect();
        let mapped_by = policy.map_file.as_ref().map(ToString::to_string);
        let ruled_by = policy.rules.as_ref().map(ToString::to_string);
        let links_to = listed(&args.follow_links);
        let uploads_to = args.uploads.root().map(|path| path.display().to_string());
        let listening = Event::Listening {
            addresses: Addresses(&addresses),
            root: Cut(&root),
            access: described(args),
            max_sessions: max_sessions as u64,
            mapped_by: mapped_by.as_ref().map(|map| Cut(map)),
            ruled_by: ruled_by.as_ref().map(|rules| Cut(rules)),
            links_to: links_to.as_ref().map(|directories| Cut(directories)),
            uploads_to: uploads_to.as_ref().map(|directory| Cut(directory)),
        };
        let now = clock::now();
        let mut requests = Requests::new(policy, config(args), limits(args), random.seed(), now);
        if args.answer_broadcast {
            requests = requests.answering_broadcasts(random.seed(), now);
        }
        let shared = args.single_port.then_some(&*listeners);
        let sessions = sessions(args, max_sessions, now);
        let unproved_rate = NonZeroU64::new(args.max_unproved_rate);
        let ports = args.port_range.clone();
        let mut floor = Floor::new(sessions, ports, shared, unproved_rate, now)?;
        if some_share {
            floor.share_listeners(&listeners, now);
        }
        requests.helper = helper;
        floor.ports.keep(spares.unwrap_or_default());
        if let Some(status) = &status {
            status.register(floor.registry(), STATUS)?;
            floor.reporter.history = Some(Box::default());
        }
        let front = Front::new(listeners, requests);
        let mut server = Self::new(front, floor, busy_poll, lifetime, signals, log_file)?;
        if let (Some(pid_file), Some(path)) = (&mut pid_file, &args.pid_file) {
            pid_file
                .write()
                .map_err(|error| cannot_write_pid_file(path, &error))?;
        }
        listening.write();
        if let Some(rules) = &server.front.requests.rules() {
            rules.tell_lacking();
        }
        if let Some(notifier) = &notifier {
            notifier.ready(&listening.to_string());
        }
        server.notifier = notifier;
        server.pid_file = pid_file;
        server.status = status.map(Box::new);
        debug!("waiting for answers awake for up to {busy_poll:?}");
        tell_enforcement(args, enforcement);
        exposure::advise(args, args.uploads.root().unwrap_or(&path));
        Ok(server)
    }
}

/// The helper, as the user that the server is going to be.
fn start_helper(args: &Args) -> Result<Option<Box<Helper>>, String> {
    let source = match (&args.helper, &args.helper_socket) {
        (Some(command), _) => Source::Command(command),
        (None, Some(path)) => Source::Socket(path),
        (None, None) if args.ask_missing || !args.ask.is_empty() => {
            return Err("there is nobody to ask; add --helper or --helper-socket".to_owned());
        }
        (None, None) => return Ok(None),
    };
    let mut names = (!args.ask.is_empty()).then(Globs::default);
    if let Some(names) = &mut names {
        for pattern in &args.ask {
            names.add(pattern)?;
        }
    }
    let asking = Asking {
        names,
        missing: args.ask_missing,
        timeout: args.ask_timeout,
    };
    let identity = identity(args)?;
    let now = clock::now();
    let helper = Helper::start(source, asking, identity.as_ref(), super::HELPER, now)?;
    Ok(Some(Box::new(helper)))
}

/// The user to become.
fn identity(args: &Args) -> Result<Option<Identity>, String> {
    let find = |it: &UserAndGroup| Identity::find(&it.user, it.group.as_deref());
    args.user.as_ref().map(find).transpose()
}

/// The map file, which is read again where it is.
fn open_map_file(args: &Args, path: &Path) -> Result<MapFile, String> {
    let mut map_file = MapFile::open(path, args.ignore_case)?;
    if args.chroot {
        map_file.keep_directory()?;
    }
    Ok(map_file)
}

/// The rules by client, which are read again where they are.
fn open_rules(args: &Args, path: &Path) -> Result<RulesFile, String> {
    let mut rules = RulesFile::open(path)?;
    if args.chroot {
        rules.prepare_for_chroot()?;
    }
    Ok(rules)
}

/// The sockets that requests come in on: those that were handed over, or our own.
fn listeners(
    args: &Args,
    inherited: Vec<UdpSocket>,
    rules: Option<&RulesFile>,
) -> Result<Rc<[ListenSocket]>, String> {
    if let Some(name) = &args.interface
        && if_nametoindex(name.as_str()).is_err()
    {
        return Err(format!("cannot listen on {name}: no such interface"));
    }
    let listeners = if inherited.is_empty() {
        listen(args)?
    } else {
        adopt(args, inherited)?
    };
    let device: Option<Rc<str>> = args.interface.as_deref().map(Into::into);
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|it| it.with_transfers_on(device.as_ref()))
        .collect();
    if args.single_port || rules.is_some_and(RulesFile::has_single_port) {
        // It takes a right that is about to be given up.
        listeners.iter().for_each(ListenSocket::prepare_sharing);
    }
    Ok(listeners.into())
}

/// What links may lead to.
fn linked_directories(args: &Args) -> Result<Vec<Directory>, RootError> {
    let opened = args.follow_links.iter().map(|path| Directory::open(path));
    opened
        .collect::<Result<_, _>>()
        .map_err(RootError::of_links)
}

/// Whether transfers may be bound to the interface with the rights that are left.
fn may_bind_transfers(args: &Args, listeners: &[ListenSocket]) -> Result<(), String> {
    let Some(device) = args.interface.as_deref().filter(|_| !args.single_port) else {
        return Ok(());
    };
    let local = listeners.first().map(|it| it.address().ip());
    let local = local.map_or(Ipv4Addr::UNSPECIFIED.into(), |it| match it {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    });
    match TransferSocket::bind_on(Some(device), local, 0, None, 0) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "cannot bind transfers to {device}: {}; that takes Linux 5.7, or --single-port",
            reason(&error)
        )),
        _ => Ok(()),
    }
}

/// Where uploads go, if not to the directory at `root`.
fn upload_directory(args: &Args, root: &Path) -> Result<Option<Directory>, Box<dyn Error>> {
    let Some(path) = args.uploads.root() else {
        return Ok(None);
    };
    let directory = Directory::open(path).map_err(RootError::of_uploads)?;
    let real = path.canonicalize().unwrap_or(path.into());
    exposure::check_uploads(args, directory.as_fd(), &real)?;
    if args.chroot && !real.starts_with(root) {
        let path = path.display();
        return Err(format!(
            "cannot take uploads to {path}: it is outside ROOT; with --chroot, name a directory in it"
        )
        .into());
    }
    let is_in = |linked: &&PathBuf| linked.canonicalize().is_ok_and(|it| it.starts_with(&real));
    if args.uploads.is_write_only()
        && let Some(linked) = args.follow_links.iter().find(is_in)
    {
        let linked = linked.display();
        return Err(format!(
            "cannot follow links to {linked}: uploads go there, which nobody may read; drop \
             --write-only, or name another directory"
        )
        .into());
    }
    Ok(Some(directory))
}

/// What is read from, and what is written to, if that is another. `path` is the
/// directory's, without links.
fn roots(
    args: &Args,
    directory: Directory,
    linked: Vec<Directory>,
    uploads: Option<Directory>,
    path: &Path,
) -> Result<(Root, Option<Root>), RootError> {
    let all = policy(args);
    let Some(uploads) = uploads else {
        return Ok((Root::with_links(directory, linked, all)?, None));
    };
    // What goes to a directory above may come to be in it.
    let real = args.uploads.root().and_then(|it| it.canonicalize().ok());
    let is_in_uploads = real.is_some_and(|real| path.starts_with(real));
    let reads = file::Policy {
        read_only: true,
        uploads: if is_in_uploads {
            args.uploads.rules()
        } else {
            file::UploadRules::NONE
        },
        ..all
    };
    let mut root = Root::with_links(directory, linked, reads)?;
    if args.uploads.is_write_only() {
        root = root.shutting(&uploads).map_err(RootError::of_uploads)?;
    }
    let upload_root = Root::within(uploads, all).map_err(RootError::of_uploads)?;
    Ok((root, Some(upload_root)))
}

/// Directories in words; `None` if there are none.
fn listed(directories: &[PathBuf]) -> Option<String> {
    let names: Vec<_> = directories
        .iter()
        .map(|it| it.display().to_string())
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What serving takes.
struct Kept<'a> {
    root: BorrowedFd<'a>,
    /// Where uploads go, if not there.
    uploads: Option<BorrowedFd<'a>>,
    linked: &'a [Directory],
    log_file: Option<&'a LogFile>,
    map_file: Option<&'a MapFile>,
    rules: Option<&'a RulesFile>,
    status_socket: Option<&'a Path>,
}

/// Gives up every right that serving doesn't take.
fn confine(args: &Args, kept: &Kept<'_>) -> Result<Enforcement, Box<dyn Error>> {
    let identity = identity(args)?;
    if let (Some(identity), Some(log_file)) = (&identity, kept.log_file) {
        // Where it can't be given away, or is others' as well, it may not be opened
        // again: that is told when it is tried.
        let _ = log_file.with_ours(|file| identity.adopt(file));
    }
    if let (Some(identity), Some(socket)) = (&identity, kept.status_socket) {
        // So that its user, too, may ask. Without root's rights the user is this one.
        let _ = identity.adopt_at(socket);
    }
    let linked: Vec<_> = kept.linked.iter().map(AsFd::as_fd).collect();
    let beside = kept.rules.into_iter().flat_map(RulesFile::directories);
    let beside: Vec<_> = beside.map(|(_, directory)| directory).collect();
    // In a chroot their paths lead to what is served.
    let files = [&args.map_file, &args.rules].into_iter().flatten();
    let read_again: Vec<_> = files
        .map(PathBuf::as_path)
        .filter(|_| !args.chroot)
        .collect();
    let directories = [
        kept.map_file.and_then(MapFile::directory),
        kept.rules.and_then(RulesFile::directory),
    ];
    let read_again_in: Vec<_> = directories.into_iter().flatten().collect();
    let confinement = Confinement {
        root: kept.root,
        uploads: kept.uploads,
        linked: &linked,
        linked_listable: args.ignore_case,
        beside: &beside,
        writable: !args.read_only,
        makes_directories: args.uploads.makes_directories(),
        // Uploads look for what was left behind.
        listable: args.ignore_case || !args.read_only,
        log_directory: kept.log_file.and_then(LogFile::directory),
        read_again: &read_again,
        read_again_in: &read_again_in,
        pid_file: args.pid_file.as_deref().filter(|_| !args.chroot),
        status_socket: kept.status_socket.filter(|_| !args.chroot),
        chroot: args.chroot,
        sandbox: !args.no_sandbox,
        identity,
    };
    Ok(confinement.enter()?)
}

/// `--rules-test`: what the rules of `path` mean for the clients and names on standard
/// input.
///
/// # Errors
/// Rules, a map file or a root that can't be used.
pub fn test_rules(args: &Args, path: &Path) -> Result<(), Box<dyn Error>> {
    let root = Root::open(args.root(), policy(args))?;
    let map_file = args.map_file.as_deref();
    let now = clock::now();
    let policy = Policy {
        access: access(args),
        rules: Some(open_rules(args, path)?.serve(&root)?),
        root,
        upload_root: None,
        client_roots: args.per_client_root.map(ClientRoots::open).transpose()?,
        map_file: map_file.map(|path| open_map_file(args, path)).transpose()?,
        allowance: WorkAllowance::new(Random::default().seed(), now).into(),
    };
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

/// What clients may do below the root.
fn policy(args: &Args) -> file::Policy {
    file::Policy {
        read_only: args.read_only,
        overwrite: args.overwrite,
        max_upload: args.max_upload,
        umask: args.umask,
        ignore_case: args.ignore_case,
        uploads: args.uploads.rules(),
    }
}

/// How many sessions there may be: with so many `open_files` (descriptors), of which
/// `others` are no session's beside [`OWN_DESCRIPTORS`].
fn max_sessions(args: &Args, open_files: u64, others: u64) -> usize {
    let each = SESSION_DESCRIPTORS - u64::from(args.single_port);
    let affordable = open_files.saturating_sub(OWN_DESCRIPTORS + others) / each;
    let sessions = args.max_sessions.map_or(affordable.max(1), u64::from);
    usize::try_from(sessions).unwrap_or(usize::MAX)
}

/// A table for so many sessions. Those whose peer has never answered may be light
/// where it is descriptors or ports that are short; a limit that was asked for holds
/// for all of them.
fn sessions(args: &Args, max_sessions: usize, now: Instant) -> Sessions<Session> {
    let of_one_client = args.max_sessions_per_client;
    let table = Sessions::new(max_sessions, now)
        .with_client_limit(of_one_client.map_or(usize::MAX, |it| it as usize));
    let ports = args.port_range.as_ref().filter(|_| !args.single_port);
    match (args.max_sessions, ports) {
        (Some(_), None) => table,
        (Some(_), Some(ports)) => table
            .with_light_sessions(ports.len())
            .with_limit(max_sessions),
        (None, ports) => {
            table.with_light_sessions(ports.map_or(usize::MAX, ExactSizeIterator::len))
        }
    }
}

/// Whether transfers may come to share ports beside the listen port: where ports or
/// descriptors run out before the sessions that were asked for.
fn may_share(args: &Args) -> bool {
    !args.single_port && (args.max_sessions.is_none() || args.port_range.is_some())
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
            wait: args.timeout.map_or(Wait::Adaptive, Wait::Fixed),
            retries: args.retries,
        },
        request_repeats: 0,
        dally: DALLY,
        // As each has its port.
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

fn access(args: &Args) -> Access {
    Access {
        allow: args.allow.clone(),
        deny: args.deny.clone(),
    }
}

/// Being awake while the client works takes a second processor.
fn busy_poll(args: &Args) -> Duration {
    match host::processors() {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_micros(args.busy_poll.into()),
    }
}

/// Listens on sockets that were handed over, whatever -a and -p say.
fn adopt(args: &Args, sockets: Vec<UdpSocket>) -> Result<Vec<ListenSocket>, String> {
    let adopt = |socket| {
        let listener = ListenSocket::inherit(socket)?;
        if let Some(device) = &args.interface {
            listener.bind_device(device)?;
        }
        Ok(listener)
    };
    let adopted: io::Result<_> = sockets.into_iter().map(adopt).collect();
    adopted.map_err(|error| format!("cannot listen on an inherited socket: {}", reason(&error)))
}

fn listen(args: &Args) -> Result<Vec<ListenSocket>, String> {
    let targets = args.listen_targets()?;
    if targets.is_empty() {
        return Err(
            "no address of that family is left to listen on; drop -4 or -6, or change -a".into(),
        );
    }
    if targets.len() > MAX_LISTENERS {
        let count = targets.len();
        return Err(format!(
            "{count} addresses are too many to listen on; give at most {MAX_LISTENERS} with -a"
        ));
    }
    let mut tries = SHARED_PORT_TRIES;
    loop {
        match bind_all(&targets, args) {
            // A port that was free for the first address isn't for the next.
            Err((address, error))
                if error.kind() == ErrorKind::AddrInUse
                    && args.port == 0
                    && address.port() != 0
                    && tries > 0 =>
            {
                tries -= 1;
            }
            Err((address, error)) => return Err(cannot_listen(address, &error)),
            Ok(listeners) => return Ok(listeners),
        }
    }
}

/// Binds every address; those without a port all get the one that the kernel
/// chose for the first.
fn bind_all(
    targets: &[ListenTarget],
    args: &Args,
) -> Result<Vec<ListenSocket>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<ListenSocket> = Vec::with_capacity(targets.len());
    let mut lacking = None;
    for target in targets {
        let mut address = target.address;
        if let (0, Some(first)) = (address.port(), listeners.first()) {
            address.set_port(first.address().port());
        }
        match bind(address, target, args) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_optional(target, args) && lacks_family(&error) => {
                lacking = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match lacking {
        Some(lacking) if listeners.is_empty() => Err(lacking),
        Some(_) => {
            info!("this machine has no IPv6: listening on IPv4 alone");
            Ok(listeners)
        }
        None => Ok(listeners),
    }
}

/// Nobody asked for IPv6 in particular.
fn is_optional(target: &ListenTarget, args: &Args) -> bool {
    target.address.is_ipv6() && !target.is_literal && !args.ipv6
}

/// Binds to an address, even to one that was asked for and isn't there yet.
fn bind(address: SocketAddr, target: &ListenTarget, args: &Args) -> io::Result<ListenSocket> {
    let mut binding = Binding {
        reuse_port: args.reuse_port,
        ahead: false,
        device: target.device.as_deref().or(args.interface.as_deref()),
    };
    match ListenSocket::bind(address, binding) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable && target.is_literal => {
            binding.ahead = true;
            let listener = ListenSocket::bind(address, binding)?;
            let ip = address.ip();
            warn!("{ip} is no address of this machine yet: it will be served when it is");
            Ok(listener)
        }
        bound => bound,
    }
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

fn reserve_pid_file(path: &Path) -> Result<PidFile, String> {
    PidFile::reserve(path).map_err(|error| cannot_write_pid_file(path, &error))
}

fn cannot_write_pid_file(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    if error.kind() == ErrorKind::ResourceBusy {
        return format!(
            "the server whose pid file is {path} is running; stop it, or name another file with -P"
        );
    }
    let reason = reason(error);
    format!("cannot write the pid file {path}: {reason}; name a writable one with -P")
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; use -p with a port above 1023, or grant CAP_NET_BIND_SERVICE"
        }
        ErrorKind::AddrInUse => "; stop the server that has it, or choose another port with -p",
        _ => "",
    };
    format!("cannot listen on {address}: {}{remedy}", reason(error))
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

/// Says what the sandbox can't enforce.
fn tell_enforcement(args: &Args, enforcement: Enforcement) {
    match enforcement {
        _ if args.no_sandbox => {}
        Enforcement::Full => debug!("the sandbox is up"),
        Enforcement::Partial => info!("the sandbox is up, as far as this kernel can enforce it"),
        Enforcement::None => info!("there is no sandbox: the kernel lacks Landlock"),
    }
}
