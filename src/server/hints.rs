//! What the administrator can do about a request that was refused, where that is
//! known. For the log alone.
//!
//! Must not: be asked more than once for a line, or for a line that isn't written,
//! since it looks at files.

use nix::errno::Errno;

use crate::file::{Barrier, Departure, Root, StorageError};
use crate::host;
use crate::policy::Refusal;
use crate::wire::escape::escape;
use crate::wire::packet::{Direction, ErrorCode};

/// Where a request led.
pub(super) struct Place<'a> {
    pub(super) root: &'a Root,
    /// The root is the client's own, below ROOT.
    pub(super) is_clients_own: bool,
    /// The name that was looked up there.
    pub(super) name: &'a [u8],
    /// Paths lead elsewhere than at the start.
    pub(super) in_chroot: bool,
}

/// The hint for a request that got `error` at `place`.
pub(super) fn hint(
    place: &Place<'_>,
    direction: Direction,
    error: &StorageError,
) -> Option<String> {
    let &Place { root, name, .. } = place;
    if error.code() == ErrorCode::FileNotFound {
        if let Some(hint) = replaced(root, place.in_chroot) {
            return Some(hint);
        }
        let leaves = || {
            root.departure(name, direction)
                .map(|it| leaves(&it, direction, place.is_clients_own))
        };
        let similar = || {
            (direction == Direction::Read)
                .then(|| similar(root, name))
                .flatten()
        };
        let elsewhere = || {
            (direction == Direction::Read)
                .then(|| without_prefix(root, name))
                .flatten()
        };
        return leaves()
            .or_else(similar)
            .or_else(elsewhere)
            .or_else(|| Some(with_place(error.hint()?, root, direction)));
    }
    let is_forbidden = matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM));
    if is_forbidden && direction == Direction::Read && root.shuts(name) {
        return Some("--write-only: nobody reads what was uploaded".to_owned());
    }
    if is_forbidden {
        let barrier = root.barrier(name, direction);
        return barrier
            .map(|it| forbidden(&it))
            .or_else(|| host::is_root().then(|| GAVE_UP.to_owned()));
    }
    if let (StorageError::MIN_FREE, Some(stays)) = (*error, root.min_free()) {
        return Some(format!(
            "less than --min-free {stays} would stay free on the disk"
        ));
    }
    error.hint().map(str::to_owned)
}

/// The hint for a request that was refused before any file was looked for. `root` is the
/// common one.
pub(super) fn hint_by_policy(root: &Root, in_chroot: bool, refusal: &Refusal) -> Option<String> {
    let is_missing = *refusal == StorageError::NO_ROOT.into();
    let replaced = || is_missing.then(|| replaced(root, in_chroot)).flatten();
    replaced().or_else(|| refusal.hint().map(str::to_owned))
}

/// What to do if the path of the root leads elsewhere by now.
fn replaced(root: &Root, in_chroot: bool) -> Option<String> {
    let path = root.left_behind().filter(|_| !in_chroot)?.display();
    Some(format!(
        "{path} was replaced or mounted over since the start: restart the server"
    ))
}

/// The hint about a name that leads nowhere. For an upload it adds the directory that
/// was searched, which may be another than the one for reading.
fn with_place(hint: &str, root: &Root, direction: Direction) -> String {
    if cfg!(feature = "uploads") && direction == Direction::Write {
        let path = root.path().display();
        return format!("{hint}; uploads go below {path}");
    }
    hint.to_owned()
}

/// Why root may not do what root otherwise may.
const GAVE_UP: &str =
    "root has given up its rights over others' files: run as their owner with -u USER";

/// Names the directory on the way, or the file, that is closed, and the user that it is
/// closed to.
fn forbidden(barrier: &Barrier) -> String {
    let Barrier {
        name,
        needed,
        owner,
        group,
        mode,
    } = barrier;
    let name = if matches!(&**name, b"" | b".") {
        "ROOT".into()
    } else {
        escape(name).to_string()
    };
    let user = host::user();
    let remedy = if user == 0 {
        format!("; {GAVE_UP}")
    } else {
        String::new()
    };
    format!(
        "user {user} may not {needed} {name} (owner {owner}, group {group}, mode {mode:04o}){remedy}"
    )
}

/// The file is here under a shorter name: the client puts a directory before it.
fn without_prefix(root: &Root, name: &[u8]) -> Option<String> {
    let (rest, prefix) = root.without_prefix(name)?;
    let [rest, prefix] = [rest, prefix].map(|it| escape(it).to_string());
    Some(format!(
        "it is here as {rest}: leave out {prefix} on the client, or make it a link to . in ROOT"
    ))
}

/// What to do about a link that leads out.
fn leaves(departure: &Departure, direction: Direction, is_clients_own: bool) -> String {
    let [link, target, directory] =
        [&departure.link, &departure.target, &departure.directory].map(|it| escape(it).to_string());
    let target = if target.is_empty() { "/" } else { &target };
    // Never suggest serving everything.
    let directory = if directory.is_empty() {
        "DIR"
    } else {
        &directory
    };
    let (place, stay) = if is_clients_own {
        ("this client's directory", "there")
    } else {
        ("ROOT", "in ROOT")
    };
    let remedy = match direction {
        Direction::Read if is_clients_own => {
            format!("bind-mount it, or allow it with --follow-links {directory}")
        }
        Direction::Read => format!(
            "serve a directory above both, bind-mount it, or allow it with --follow-links {directory}"
        ),
        Direction::Write => format!("uploads stay {stay}: bind-mount it"),
    };
    format!("{link} is a link to {target}, outside {place}: {remedy}")
}

fn similar(root: &Root, name: &[u8]) -> Option<String> {
    let name = root.similar(name)?;
    Some(format!("did you mean {}? try --ignore-case", escape(&name)))
}
