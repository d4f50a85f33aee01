//! What the administrator can do about a request that was refused, where that is
//! known. For the log alone.
//!
//! Must not: be asked for a line that isn't written; it looks at files.

use nix::errno::Errno;

use crate::file::{Departure, Root, StorageError};
use crate::host;
use crate::wire::escape::escape;
use crate::wire::packet::{Direction, ErrorCode, Request};

/// The hint for `request`, which got `error` from `root`.
pub(super) fn hint(root: &Root, request: &Request<'_>, error: &StorageError) -> Option<String> {
    let (name, direction) = (request.filename, request.direction);
    if error.code() == ErrorCode::FileNotFound {
        let leaves = || {
            root.departure(name, direction)
                .map(|it| leaves(&it, direction))
        };
        let similar = || {
            (direction == Direction::Read)
                .then(|| similar(root, name))
                .flatten()
        };
        return leaves()
            .or_else(similar)
            .or_else(|| error.hint().map(str::to_owned));
    }
    let is_forbidden = matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM));
    if is_forbidden && host::is_root() {
        let text =
            "root has given up its rights over others' files: run as their owner with -u USER";
        return Some(text.to_owned());
    }
    error.hint().map(str::to_owned)
}

/// What to do about a link that leads out.
fn leaves(departure: &Departure, direction: Direction) -> String {
    let [link, target, directory] =
        [&departure.link, &departure.target, &departure.directory].map(|it| escape(it).to_string());
    let target = if target.is_empty() { "/" } else { &target };
    // Nobody is led to serve everything.
    let directory = if directory.is_empty() {
        "DIR"
    } else {
        &directory
    };
    let remedy = match direction {
        Direction::Read => format!(
            "serve a directory above both, bind-mount it, or allow it with --follow-links {directory}"
        ),
        Direction::Write => "uploads stay in ROOT: bind-mount it".to_owned(),
    };
    format!("{link} is a link to {target}, outside ROOT: {remedy}")
}

fn similar(root: &Root, name: &[u8]) -> Option<String> {
    let name = root.similar(name)?;
    Some(format!("did you mean {}? try --ignore-case", escape(&name)))
}
