//! Why a name can't be served, for the administrator: a name that would be found, the link
//! that leads out, the right that is missing.
//!
//! Must not: reach a client, who would learn what is there.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::stat;

use super::Root;
use crate::file::barrier::Barrier;
use crate::file::name;
use crate::file::walk::{Departure, Places, id, id_of};
use crate::wire::packet::Direction;

/// The most leading directories that a client's name may have too many.
const MAX_PREFIX: usize = 4;

impl Root {
    /// The path of the topmost root, if that leads elsewhere or nowhere by now: the
    /// directory was replaced, or another was mounted over it. `None` as well where our
    /// rights don't reach that far. Means nothing in a chroot.
    pub fn left_behind(&self) -> Option<&Path> {
        let top = &self.common.top;
        let is_elsewhere = match stat(top.path()) {
            Ok(found) => id_of(&**top).is_ok_and(|own| own != id(&found)),
            Err(errno) => matches!(errno, Errno::ENOENT | Errno::ENOTDIR),
        };
        is_elsewhere.then(|| top.path())
    }

    /// The requested name all in lower or all in upper case, if that is another name
    /// and a file has it. Lists no directory, which may be forbidden.
    pub fn similar(&self, request: &[u8]) -> Option<Vec<u8>> {
        let name = self.name(request, Direction::Read).ok()?;
        [name.to_ascii_lowercase(), name.to_ascii_uppercase()]
            .into_iter()
            .find(|similar| **similar != *name && self.open_read(similar).is_ok())
    }

    /// The link by which a name leaves all directories that may be read; for a write, the
    /// link by which it leaves the root.
    pub fn departure(&self, request: &[u8], direction: Direction) -> Option<Departure> {
        let name = self.name(request, direction).ok()?;
        let (path, places): (&[u8], _) = match direction {
            Direction::Read => (&name, self.all()),
            Direction::Write => (name::split_last(&name).0, self.own()),
        };
        places.departure(self.directory.as_fd(), path)
    }

    /// A file that is here under the requested name without its first directories: the
    /// name that it has, and the prefix to leave out.
    pub fn without_prefix<'n>(&self, request: &'n [u8]) -> Option<(&'n [u8], &'n [u8])> {
        let trimmed = request.trim_ascii_start();
        let is_slash = |(_, byte): &(usize, &u8)| **byte == b'/';
        let ends = trimmed
            .iter()
            .enumerate()
            .skip(1)
            .filter(is_slash)
            .take(MAX_PREFIX);
        let mut parts = ends.map(|(end, _)| trimmed.split_at(end));
        parts.find_map(|(prefix, rest)| {
            let rest = &rest[1..];
            let name = self.name(rest, Direction::Read).ok()?;
            self.open_file(&name).ok().map(|_| (rest, prefix))
        })
    }

    /// Whether a name leads to what is shut ([`Root::shutting`]).
    pub fn shuts(&self, request: &[u8]) -> bool {
        let Ok(name) = self.name(request, Direction::Read) else {
            return false;
        };
        let is_denied = |places| {
            let found = self.resolve(&name, OFlag::O_PATH, places);
            found.err() == Some(Errno::EACCES)
        };
        let all = self.all();
        self.shut.is_some() && is_denied(all) && !is_denied(Places { shut: None, ..all })
    }

    /// Where on the way to a name our rights don't suffice.
    pub fn barrier(&self, request: &[u8], direction: Direction) -> Option<Barrier> {
        let name = self.name(request, direction).ok()?;
        let path: &[u8] = match direction {
            Direction::Read => &name,
            Direction::Write => name::split_last(&name).0,
        };
        let open = |path: &[u8]| self.resolve(path, OFlag::O_PATH, self.all());
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(end, _)| end).chain([path.len()]);
        let mut last = (&path[..0], open(b".").ok()?);
        for end in ends.filter(|end| *end > 0) {
            match open(&path[..end]) {
                Ok(there) => last = (&path[..end], there),
                Err(Errno::EACCES) => return Barrier::at(last.0, &last.1, "enter"),
                Err(_) => return None,
            }
        }
        let needed = match direction {
            Direction::Read => "read",
            Direction::Write => "create files in",
        };
        Barrier::at(last.0, &last.1, needed)
    }
}
