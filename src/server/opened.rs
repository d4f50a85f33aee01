//! Opens files, sockets and directories while the process still has its rights, then
//! gives up every right that serving them doesn't take.
//!
//! Each thing that can go wrong ends in one line that names the value and the remedy.
//! Must not: read from the network.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use super::cli::{Args, Part, UserAndGroup};
use super::exposure;
use super::listen::{listeners, may_bind_transfers};
use super::ports::Ports;
use crate::file::{self, Directory, Root, RootError};
use crate::helper::{Asking, Helper, Source};
use crate::host::clock;
use crate::host::{Confinement, Enforcement, Identity, Inherited};
use crate::log::LogFile;
use crate::net::{ListenSocket, SpareSocket};
use crate::policy::Policy;
use crate::policy::access::Access;
use crate::policy::client_root::ClientRoots;
use crate::policy::glob::Globs;
use crate::policy::map::file::MapFile;
use crate::policy::rules::file::RulesFile;
use crate::policy::work::WorkAllowance;
use crate::status::Status;

/// Everything that was opened.
pub(super) struct Opened {
    pub(super) listeners: Rc<[ListenSocket]>,
    pub(super) spares: Vec<SpareSocket>,
    pub(super) status: Option<Status>,
    pub(super) helper: Option<Box<Helper>>,
    pub(super) paths: Paths,
    pub(super) served: Served,
}

/// The paths of directories, without links, as they are outside a chroot.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) root: PathBuf,
    /// Where uploads go, if not to ROOT.
    pub(super) uploads: Option<PathBuf>,
    /// Where links may lead to.
    pub(super) linked: Vec<PathBuf>,
}

/// What is served, and by which rules.
pub(super) struct Served {
    root: Directory,
    /// Where uploads go, if not to ROOT.
    uploads: Option<UploadDirectory>,
    linked: Vec<Directory>,
    map_file: Option<MapFile>,
    rules: Option<RulesFile>,
    client_roots: Option<ClientRoots>,
}

/// A directory for uploads.
struct UploadDirectory {
    directory: Directory,
    /// ROOT is this directory, or below it: uploads may appear in ROOT.
    holds_root: bool,
}

impl Opened {
    pub(super) fn open(args: &Args, inherited: Inherited) -> Result<Self, Box<dyn Error>> {
        let map_file = args.map_file.as_deref();
        let map_file = map_file.map(|path| open_map_file(args, path)).transpose()?;
        let rules = args.rules.as_deref();
        let rules = rules.map(|path| open_rules(args, path)).transpose()?;
        let client_roots = args.per_client_root.map(ClientRoots::open).transpose()?;
        let listeners = listeners(args, inherited.sockets, rules.as_ref())?;
        let spares = may_share(args).then(|| Ports::spares(&listeners));
        let is_bound = args.part == Part::Worker;
        let status = Status::open(args.status(), is_bound, inherited.streams, clock::now())?;
        let root = Directory::open(args.root())?;
        let path = root.real_path().to_owned();
        exposure::check(args, root.as_fd(), &path)?;
        for (path, directory) in rules.iter().flat_map(RulesFile::directories) {
            exposure::check(args, directory, path)?;
        }
        let linked = linked_directories(args)?;
        let uploads = upload_directory(args, &path, rules.as_ref())?;
        let real = |it: &Directory| it.real_path().to_owned();
        let paths = Paths {
            uploads: uploads.as_ref().map(|it| real(&it.directory)),
            linked: linked.iter().map(real).collect(),
            root: path,
        };
        Ok(Self {
            listeners,
            spares: spares.unwrap_or_default(),
            status,
            helper: start_helper(args)?,
            paths,
            served: Served {
                root,
                uploads,
                linked,
                map_file,
                rules,
                client_roots,
            },
        })
    }

    /// How many descriptors are open beyond one listener and the root.
    pub(super) fn descriptors(&self) -> u64 {
        let served = &self.served;
        let rules = served.rules.as_ref();
        let of_rules = rules.map_or(0, |it| it.directories().count());
        let of_status = self.status.as_ref().map_or(0, Status::descriptors);
        let of_uploads = usize::from(served.uploads.is_some());
        let of_helper = usize::from(self.helper.is_some());
        let listeners = self.listeners.len() - 1;
        let all = listeners + served.linked.len() + of_rules + of_status + of_uploads + of_helper;
        all as u64
    }

    /// Gives up every right that serving doesn't take.
    pub(super) fn confine(
        &self,
        args: &Args,
        log_file: Option<&LogFile>,
    ) -> Result<Enforcement, Box<dyn Error>> {
        let identity = identity(args)?;
        if let (Some(identity), Some(log_file)) = (&identity, log_file) {
            // If it can't be given away, or others write to it as well, it may not be
            // possible to open it again: that is reported when it is tried.
            let _ = log_file.with_ours(|file| identity.adopt(file));
        }
        let status_socket = self.status.as_ref().and_then(Status::socket_path);
        if let (Some(identity), Some(socket)) = (&identity, status_socket) {
            // So that this user, too, may ask. Without root's rights we are that user
            // already.
            let _ = identity.adopt_at(socket);
        }
        let linked: Vec<_> = self.served.linked.iter().map(AsFd::as_fd).collect();
        let beside = self.served.rules.iter().flat_map(RulesFile::directories);
        let beside: Vec<_> = beside.map(|(_, directory)| directory).collect();
        // In a chroot these paths lead to what is served.
        let files = [&args.map_file, &args.rules].into_iter().flatten();
        let read_again: Vec<_> = files
            .map(PathBuf::as_path)
            .filter(|_| !args.chroot)
            .collect();
        let directories = [
            self.served.map_file.as_ref().and_then(MapFile::directory),
            self.served.rules.as_ref().and_then(RulesFile::directory),
        ];
        let read_again_in: Vec<_> = directories.into_iter().flatten().collect();
        let confinement = Confinement {
            root: self.served.root.as_fd(),
            root_path: &self.paths.root,
            uploads: self.served.uploads.as_ref().map(|it| it.directory.as_fd()),
            linked: &linked,
            linked_listable: args.ignore_case,
            beside: &beside,
            writable: !args.read_only,
            makes_directories: args.uploads.makes_directories(),
            // Uploads look for what earlier ones left behind.
            listable: args.ignore_case || !args.read_only,
            log_directory: log_file.and_then(LogFile::directory),
            read_again: &read_again,
            read_again_in: &read_again_in,
            pid_file: args.pid_file.as_deref().filter(|_| !args.chroot),
            status_socket: status_socket.filter(|_| !args.chroot),
            chroot: args.chroot,
            sandbox: !args.no_sandbox,
            identity,
        };
        let enforcement = confinement.enter()?;
        may_bind_transfers(args, &self.listeners)?;
        Ok(enforcement)
    }
}

impl Served {
    /// With the rules at `path`, to test them without a server.
    pub(super) fn by_rules(args: &Args, path: &Path) -> Result<Self, Box<dyn Error>> {
        let map_file = args.map_file.as_deref();
        let root = Directory::open(args.root())?;
        let rules = open_rules(args, path)?;
        Ok(Self {
            uploads: upload_directory(args, root.real_path(), Some(&rules))?,
            root,
            linked: linked_directories(args)?,
            map_file: map_file.map(|it| open_map_file(args, it)).transpose()?,
            rules: Some(rules),
            client_roots: args.per_client_root.map(ClientRoots::open).transpose()?,
        })
    }

    /// What decides who gets which file.
    pub(super) fn policy(
        self,
        args: &Args,
        seed: u64,
        now: Instant,
    ) -> Result<Policy, Box<dyn Error>> {
        let (mut root, mut upload_root) = roots(args, self.root, self.linked, self.uploads)?;
        if let Some(client_roots) = &self.client_roots {
            // Either may be in the other.
            let is_own = client_roots.own_name();
            let uploads = upload_root.clone();
            upload_root = upload_root
                .map(|it| it.closing(is_own, Some(&root)))
                .transpose()?;
            root = root.closing(is_own, uploads.as_ref())?;
        }
        Ok(Policy {
            access: access(args),
            rules: self.rules.map(|rules| rules.serve(&root)).transpose()?,
            root,
            upload_root,
            client_roots: self.client_roots,
            map_file: self.map_file,
            allowance: WorkAllowance::new(seed, now).into(),
        })
    }
}

/// Starts the helper, as the user that the server will become.
fn start_helper(args: &Args) -> Result<Option<Box<Helper>>, String> {
    let source = match (&args.helper, &args.helper_socket) {
        (Some(command), _) => Source::Command(command),
        (None, Some(path)) => Source::Socket(path),
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
pub(super) fn identity(args: &Args) -> Result<Option<Identity>, String> {
    let find = |it: &UserAndGroup| Identity::find(&it.user, it.group.as_deref());
    args.user.as_ref().map(find).transpose()
}

/// The map file, which can be read again even in a chroot.
fn open_map_file(args: &Args, path: &Path) -> Result<MapFile, String> {
    let mut map_file = MapFile::open(path, args.ignore_case)?;
    if args.chroot {
        map_file.keep_directory()?;
    }
    Ok(map_file)
}

/// The rules by client, which can be read again even in a chroot.
fn open_rules(args: &Args, path: &Path) -> Result<RulesFile, String> {
    let mut rules = RulesFile::open(path, args.single_port)?;
    if args.chroot {
        rules.prepare_for_chroot()?;
    }
    Ok(rules)
}

/// The directories that links may lead to.
fn linked_directories(args: &Args) -> Result<Vec<Directory>, RootError> {
    let opened = args.follow_links.iter().map(|path| Directory::open(path));
    opened
        .collect::<Result<_, _>>()
        .map_err(RootError::of_links)
}

/// Where uploads go, if not to the directory at `root`.
fn upload_directory(
    args: &Args,
    root: &Path,
    rules: Option<&RulesFile>,
) -> Result<Option<UploadDirectory>, Box<dyn Error>> {
    let Some(path) = args.uploads.root() else {
        return Ok(None);
    };
    let directory = Directory::open(path).map_err(RootError::of_uploads)?;
    let real = directory.real_path();
    exposure::check_uploads(args, directory.as_fd(), real)?;
    if args.chroot && !real.starts_with(root) {
        let path = path.display();
        return Err(format!(
            "cannot take uploads to {path}: it is outside ROOT; with --chroot, name a directory in it"
        )
        .into());
    }
    if args.uploads.is_write_only() {
        let linked = args.follow_links.iter().map(PathBuf::as_path);
        let linked = linked.map(|path| ("follow links to", path));
        let roots = rules.iter().flat_map(|it| it.directories());
        let roots = roots.map(|(path, _)| ("let the rules serve", path));
        let is_in = |path: &Path| path.canonicalize().is_ok_and(|it| it.starts_with(real));
        if let Some((what, path)) = linked.chain(roots).find(|(_, path)| is_in(path)) {
            let path = path.display();
            return Err(format!(
                "cannot {what} {path}: uploads go there, which nobody may read; drop \
                 --write-only, or name another directory"
            )
            .into());
        }
    }
    // Found out before the process gives up rights, or its paths lead elsewhere.
    let holds_root = root.starts_with(real);
    Ok(Some(UploadDirectory {
        directory,
        holds_root,
    }))
}

/// The root for reading, and the one for uploads, if that is another.
fn roots(
    args: &Args,
    directory: Directory,
    linked: Vec<Directory>,
    uploads: Option<UploadDirectory>,
) -> Result<(Root, Option<Root>), RootError> {
    let all = policy(args);
    let Some(UploadDirectory {
        directory: uploads,
        holds_root,
    }) = uploads
    else {
        return Ok((Root::with_links(directory, linked, all)?, None));
    };
    let reads = file::Policy {
        read_only: true,
        uploads: if holds_root {
            all.uploads
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

fn access(args: &Args) -> Access {
    Access {
        allow: args.allow.clone(),
        deny: args.deny.clone(),
    }
}

/// Whether transfers may come to share ports beside the listen port, because ports or
/// descriptors can run out before sessions do.
fn may_share(args: &Args) -> bool {
    !args.single_port && (args.max_sessions.is_none() || args.port_range.is_some())
}

/// What clients may do below the root.
pub(super) fn policy(args: &Args) -> file::Policy {
    // An upgrade starts another process even where there is one.
    let has_siblings = args.workers.is_some() || args.reuse_port;
    file::Policy {
        read_only: args.read_only,
        overwrite: args.overwrite,
        max_upload: args.max_upload,
        umask: args.umask,
        ignore_case: args.ignore_case,
        uploads: args.uploads.rules(has_siblings),
    }
}
