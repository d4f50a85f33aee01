//! Keeps a server that runs as root from exposing the system by accident, and warns
//! that uploads belong to root.
//!
//! Must not: forbid what was asked for explicitly.

use std::os::fd::BorrowedFd;
use std::path::Path;

use log::{info, warn};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, fstatat};

use super::cli::Args;
use crate::file::Root;
use crate::host::{self, Identity};

/// Lets root serve the system's own directories only if ROOT was named together with
/// `--read-only` or another user (`-u`). `path` is the directory's path, without links.
///
/// # Errors
/// One line that says what would be exposed, and the remedy.
pub(super) fn check(args: &Args, directory: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    let is_meant = args.root.is_some() && (args.read_only || becomes_another(args));
    if is_meant || !host::is_root() || !holds_the_system(directory) {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "cannot serve {path} as root: every client could read /etc/shadow; name the directory \
         with the files, or {path} itself together with --read-only or -u USER"
    ))
}

/// Keeps root from taking uploads to the system's own directories, unless it becomes
/// another user. `path` is the directory's path, without links.
///
/// # Errors
/// One line that says what would be exposed, and the remedy.
pub(super) fn check_uploads(
    args: &Args,
    directory: BorrowedFd<'_>,
    path: &Path,
) -> Result<(), String> {
    if becomes_another(args) || !host::is_root() || !holds_the_system(directory) {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "cannot take uploads to {path} as root: every client could add files to the system; name \
         another directory, or use -u USER"
    ))
}

/// Whether `-u` names a user other than root. An unknown user is reported later, when
/// it is looked up.
fn becomes_another(args: &Args) -> bool {
    let is_root = |user: &str| Identity::find(user, None).is_ok_and(|it| it.is_root());
    args.user.as_ref().is_some_and(|it| !is_root(&it.user))
}

/// Warns if uploads are on but none can be stored directly in `root`, found at `path`;
/// they may be meant for directories below it. Says nothing if a map file, rules, a
/// helper or the clients' own directories may lead them elsewhere.
pub(super) fn advise_about_uploads(args: &Args, root: &Root, path: &Path) {
    let may_lead_elsewhere = args.map_file.is_some()
        || args.rules.is_some()
        || !args.ask.is_empty()
        || args.per_client_root.is_some();
    if args.read_only || may_lead_elsewhere {
        return;
    }
    if let Err(errno) = root.check_writable() {
        let (path, reason) = (path.display(), errno.desc().to_ascii_lowercase());
        warn!(
            "no upload can be stored directly in {path}: {reason}; below it, only in directories \
             that the server's user may write to"
        );
    }
}

/// Says what it means that the server goes on as root.
pub(super) fn advise(args: &Args, path: &Path) {
    if !host::is_root() {
        return;
    }
    if args.read_only {
        info!("running as root, with no capability left; a user of its own is better: -u USER");
        return;
    }
    let may = if args.overwrite || args.uploads.keeps_versions() {
        "create and replace"
    } else {
        "create"
    };
    let path = path.display();
    warn!(
        "running as root with uploads: every client can {may} files below {path}, and they belong \
         to root; use --read-only or, better, a user of its own: -u USER"
    );
}

/// Whether the directory is `/` or `/etc`, or contains `/etc`.
fn holds_the_system(directory: BorrowedFd<'_>) -> bool {
    let own = |name| fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
    let systems = |path| fstatat(AT_FDCWD, path, AtFlags::empty()).ok();
    let place = |stat: FileStat| (stat.st_dev, stat.st_ino);
    [(".", "/"), (".", "/etc"), ("etc", "/etc")]
        .into_iter()
        .filter_map(|(name, path)| Some((own(name)?, systems(path)?)))
        .any(|(own, system)| place(own) == place(system))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_system_is_known_by_what_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let (other, linked) = (temp.path().join("other"), temp.path().join("linked"));
        fs::create_dir_all(other.join("etc")).unwrap();
        fs::create_dir(&linked).unwrap();
        symlink("/etc", linked.join("etc")).unwrap();
        symlink("/", temp.path().join("slash")).unwrap();
        for (path, expected) in [
            (Path::new("/"), true),
            (Path::new("/etc"), true),
            (&temp.path().join("slash"), true),
            (Path::new("/usr/.."), true),
            (Path::new("/usr"), false),
            (&other, false),
            // Its `etc` is only a link, which isn't followed.
            (&linked, false),
        ] {
            let directory = File::open(path).unwrap();
            assert_eq!(holds_the_system(directory.as_fd()), expected, "{path:?}");
        }
    }
}
