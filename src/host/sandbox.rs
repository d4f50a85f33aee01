//! What the kernel is told to forbid us from here on (Landlock, Linux 5.13).
//!
//! What stays allowed: the served directory; the directories that links may lead to;
//! those of the log file, the map file and the rules file, so that new ones can be
//! opened; those of the pid file and the status port's socket, so that they can be
//! removed. Binding and connecting TCP sockets is forbidden as well (Linux 6.7), as are
//! signals to other processes and their abstract sockets (6.12). Older kernels forbid
//! what they know of. Descriptors that are open already keep their rights. Must not:
//! allow more than the options ask for.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::{Confinement, ConfinementError};

/// How much of the sandbox the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// All of it.
    Full,
    /// What this kernel knows of.
    Partial,
    /// Nothing: the kernel can't, or it isn't wanted.
    None,
}

/// The newest version that this was tested with: a later one must not change what is
/// forbidden.
const KNOWN: ABI = ABI::V6;

/// Confines the calling thread, as far as the kernel can.
pub(super) fn enter(keep: &Confinement<'_>) -> Result<Enforcement, ConfinementError> {
    landlocked(keep).map_err(|error| ConfinementError::Sandbox(error.into()))
}

fn landlocked(keep: &Confinement<'_>) -> Result<Enforcement, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile});
    let mut in_root = read;
    if keep.listable {
        in_root |= make_bitflags!(AccessFs::{ReadDir});
    }
    let mut in_uploads = in_root;
    if keep.writable {
        in_uploads |= make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
    }
    if keep.makes_directories {
        in_uploads |= make_bitflags!(AccessFs::{MakeDir | RemoveDir});
    }
    if keep.uploads.is_none() {
        in_root = in_uploads;
    }
    let mut linked = read;
    if keep.linked_listable {
        linked |= make_bitflags!(AccessFs::{ReadDir});
    }
    let append = make_bitflags!(AccessFs::{WriteFile | MakeReg});
    let remove = make_bitflags!(AccessFs::{RemoveFile});

    let mut granted = vec![(keep.root, in_root)];
    granted.extend(keep.beside.iter().map(|it| (*it, in_root)));
    granted.extend(keep.uploads.map(|it| (it, in_uploads)));
    granted.extend(keep.linked.iter().map(|it| (*it, linked)));
    granted.extend(keep.log_directory.map(|it| (it, append)));
    granted.extend(keep.read_again_in.iter().map(|it| (*it, read)));

    let read_again = keep.read_again.iter().map(|&file| (file, read));
    let removed = keep.pid_file.map(|file| (file, remove));
    let files = read_again
        .chain(removed)
        .filter_map(|(file, access)| Some((directory_of(file)?, access)));
    let socket = keep.status_socket.and_then(Path::parent);
    let places = files.chain(socket.map(|place| (place.to_owned(), remove)));
    // What is out of reach can't be opened or removed later either.
    let places: Vec<_> = places
        .filter_map(|(place, access)| Some((PathFd::new(place).ok()?, access)))
        .collect();
    granted.extend(
        places
            .iter()
            .map(|(place, access)| (place.as_fd(), *access)),
    );

    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for (directory, access) in granted {
        rules = rules.add_rule(PathBeneath::new(directory, access))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}

/// The directory in which another file may take this one's place. `None` for a device:
/// nobody moves it away, and its directory holds all the other devices.
fn directory_of(file: &Path) -> Option<PathBuf> {
    let file = file.canonicalize().ok()?;
    let directory = file.parent()?.to_owned();
    file.is_file().then_some(directory)
}
