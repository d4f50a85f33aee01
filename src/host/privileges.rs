//! Who the process is and what that lets it do: user, groups, capabilities.
//!
//! What is given up here never comes back. Must not: decide who to become.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid,
};

use super::ConfinementError;

/// A user and a group to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    user: Uid,
    group: Gid,
}

impl Identity {
    /// Looks up a user and a group, each a name or a number; without a group it
    /// is the user's own. A number needs no user database: without an entry there,
    /// the group has the user's number.
    ///
    /// # Errors
    /// One line that says which of them doesn't exist.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        let (user, own_group) = find_user(user)?;
        let group = match group {
            Some(group) => find_group(group)?,
            None => own_group,
        };
        Ok(Self { user, group })
    }

    /// Makes a program run as this user, in this group and no other.
    pub fn run_as(&self, program: &mut Command) {
        // Only root can become another user; anyone else must be this one already.
        if is_root() {
            program.uid(self.user.as_raw()).gid(self.group.as_raw());
        }
    }

    /// Whether this user is root.
    pub fn is_root(&self) -> bool {
        self.user.is_root()
    }

    /// Makes this user and group own a file, so that they can open it again.
    ///
    /// # Errors
    /// `EPERM`: only root can give a file away.
    pub fn adopt(&self, file: impl AsFd) -> io::Result<()> {
        fchown(file, Some(self.user.as_raw()), Some(self.group.as_raw()))
    }

    /// Makes this user and group own what is at `path`, without following a link.
    ///
    /// # Errors
    /// `EPERM`: only root can give a file away. `ENOENT`: nothing is there.
    pub fn adopt_at(&self, path: &Path) -> io::Result<()> {
        let (user, group) = (self.user.as_raw(), self.group.as_raw());
        std::os::unix::fs::lchown(path, Some(user), Some(group))
    }

    /// Becomes this user, in this group and no other.
    fn assume(self) -> Result<(), Errno> {
        let (users, groups) = (getresuid()?, getresgid()?);
        let is_user = [users.real, users.effective, users.saved] == [self.user; 3];
        let is_group = [groups.real, groups.effective, groups.saved] == [self.group; 3];
        // A process started as that user may lack the right to become it.
        if is_user && is_group && !is_root() {
            return Ok(());
        }
        setgroups(&[self.group])?;
        setresgid(self.group, self.group, self.group)?;
        setresuid(self.user, self.user, self.user)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} and group {}", self.user, self.group)
    }
}

/// A user and its own group.
fn find_user(user: &str) -> Result<(Uid, Gid), String> {
    if let Ok(number) = user.parse() {
        let uid = Uid::from_raw(number);
        let entry = User::from_uid(uid).ok().flatten();
        let gid = entry.map_or(Gid::from_raw(number), |entry| entry.gid);
        return Ok((uid, gid));
    }
    no_database(User::from_name(user))
        .map_err(|errno| {
            format!(
                "cannot look up the user {user}: {}; give its number to -u",
                words(errno)
            )
        })?
        .map(|entry| (entry.uid, entry.gid))
        .ok_or_else(|| {
            let remedy = match user.split_once('.') {
                // A dot can be part of a name, too.
                Some((name, group)) if matches!(User::from_name(name), Ok(Some(_))) => {
                    format!("a group stands after a colon: {name}:{group}")
                }
                _ => "create it or name another with -u".to_owned(),
            };
            format!("there is no user {user}; {remedy}")
        })
}

fn find_group(group: &str) -> Result<Gid, String> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    no_database(Group::from_name(group))
        .map_err(|errno| {
            format!(
                "cannot look up the group {group}: {}; give its number to -u",
                words(errno)
            )
        })?
        .map(|entry| entry.gid)
        .ok_or_else(|| format!("there is no group {group}; create it or name another with -u"))
}

/// Where there is no database, nobody is in it.
fn no_database<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT) => Ok(None),
        other => other,
    }
}

/// What an error means, in words.
pub(super) fn words(errno: Errno) -> String {
    errno.desc().to_ascii_lowercase()
}

/// Whether the process runs as root, with or without its capabilities.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The number of the user that the process runs as.
pub fn user() -> u32 {
    geteuid().as_raw()
}

/// Becomes `identity` and drops every capability, for good.
pub(super) fn give_up(identity: Option<&Identity>) -> Result<(), ConfinementError> {
    let privileges = |error: Box<dyn Error>| ConfinementError::Privileges(error);
    // Needs CAP_SETPCAP, which root has only until it becomes another user. Where this
    // fails, no_new_privs alone keeps programs from granting these capabilities.
    let _ = caps::clear(None, CapSet::Bounding);
    if let Some(identity) = identity {
        identity
            .assume()
            .map_err(|errno| ConfinementError::Identity(*identity, errno))?;
    }
    // This clears the effective set, too, and with the inheritable set the ambient one.
    for set in [CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(|error| privileges(error.into()))?;
    }
    prctl::set_no_new_privs().map_err(|errno| privileges(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        let identity = |user, group| Identity {
            user: Uid::from_raw(user),
            group: Gid::from_raw(group),
        };
        for (user, group, found) in [
            ("root", None, identity(0, 0)),
            ("0", None, identity(0, 0)),
            ("root", Some("1234"), identity(0, 1234)),
            ("1234567", Some("root"), identity(1_234_567, 0)),
            ("1234567", Some("89"), identity(1_234_567, 89)),
            // No entry.
            ("1234567", None, identity(1_234_567, 1_234_567)),
        ] {
            assert_eq!(Identity::find(user, group), Ok(found), "{user}:{group:?}");
        }
        for (user, group, said) in [
            ("no-such-user", None, "no user no-such-user"),
            ("no-such-user", Some("0"), "no user no-such-user"),
            ("root.staff", None, "after a colon: root:staff"),
            ("no-such.user", None, "name another with -u"),
            ("root", Some("no-such-group"), "no group no-such-group"),
            ("-1", None, "no user -1"),
            ("4294967296", None, "no user 4294967296"),
        ] {
            let error = Identity::find(user, group).unwrap_err();
            assert!(error.contains(said), "{user}:{group:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
