//! What rights don't suffice for, on the way to a name: for the log.
//!
//! Must not: be told to a client.

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// A directory or a file that we may not use as it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// Its name below the root; empty for the root itself.
    pub name: Vec<u8>,
    /// What isn't allowed: `enter`, `read`, `create files in`.
    pub needed: &'static str,
    /// Whom it belongs to.
    pub owner: u32,
    /// And which group.
    pub group: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Barrier {
    /// What is open `there`, under this name.
    pub(super) fn at(name: &[u8], there: &impl AsFd, needed: &'static str) -> Option<Self> {
        let told = fstat(there).ok()?;
        Some(Self {
            name: name.to_vec(),
            needed,
            owner: told.st_uid,
            group: told.st_gid,
            mode: told.st_mode & 0o7777,
        })
    }
}
