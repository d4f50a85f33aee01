//! Where on the way to a name the server's rights don't suffice: for the log.
//!
//! Must not: be told to a client.

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// A directory or a file on which the server lacks a right that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// Its name below the root; empty for the root itself.
    pub name: Vec<u8>,
    /// What isn't allowed: `enter`, `read`, `create files in`.
    pub needed: &'static str,
    /// The user that owns it.
    pub owner: u32,
    /// Its group.
    pub group: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Barrier {
    /// The open file or directory `there`, which has this name.
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
