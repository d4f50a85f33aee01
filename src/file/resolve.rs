//! From a path below the root to an open descriptor, never leaving the root.
//!
//! For every path the root is `/` and its own parent, as in a chroot: `..` stops
//! there, and absolute symbolic links start there. The kernel does this in one call
//! (`openat2`, Linux 5.6); where it can't, or where a container's filter forbids it,
//! a walk component by component keeps the same promises. Between the look at a name and
//! its opening, the name may come to lead elsewhere, but never out of the root: each step
//! starts from a descriptor that was reached from the root. So what was opened is looked
//! at again. Must not: open a path from anywhere but the root.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::walk::{Places, Walk};

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// By the kernel: `openat2` with `RESOLVE_IN_ROOT`.
    Openat2,
    /// By ourselves, one component at a time.
    Walk,
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Openat2 => "by openat2",
            Self::Walk => "directory by directory",
        })
    }
}

impl Resolver {
    /// The kernel's way if it works here, otherwise the walk.
    pub(super) fn probe(root: BorrowedFd<'_>) -> Self {
        match Self::Openat2.open(root, b".", OFlag::O_PATH) {
            // Not in this kernel, or filtered out.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => Self::Walk,
            _ => Self::Openat2,
        }
    }

    /// Opens `path` below `root`. Symbolic links are followed, the last one too;
    /// `flags` must not create.
    ///
    /// The walk doesn't open what is neither a file nor a directory: it returns an
    /// `O_PATH` descriptor, which is enough to refuse it.
    pub(super) fn open(self, root: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        match self {
            Self::Openat2 => openat2_in_root(root, path, flags, ResolveFlag::empty()),
            Self::Walk => Walk::new(root, Places::default()).open(path, flags),
        }
    }

    /// [`Resolver::open`]; but a link that leads nowhere below the root may lead to one
    /// of `places`, by their paths. A path without links is looked up once. What `places`
    /// closes is `EXDEV`, whether the path itself (without `.` and `..`) or a link leads
    /// there.
    pub(super) fn find(
        self,
        root: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlag,
        places: Places<'_>,
    ) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        if places.shut.is_some() {
            // The kernel doesn't tell which directories a path leads through.
            return Walk::new(root, places).open(path, flags);
        }
        let alone = Places {
            closed: places.closed,
            ..Places::default()
        };
        // The kernel doesn't know what is closed.
        let resolver = if places.may_close(path, flags) {
            Self::Walk
        } else {
            self
        };
        let found = match resolver {
            Self::Openat2 => {
                match openat2_in_root(root, path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS) {
                    Err(Errno::ELOOP) if places.closed.is_some() => {
                        // The kernel doesn't tell which directories a link leads through.
                        Walk::new(root, alone).open(path, flags)
                    }
                    Err(Errno::ELOOP) => self.open(root, path, flags),
                    done => return done,
                }
            }
            Self::Walk => {
                let mut walk = Walk::new(root, alone);
                let found = walk.open(path, flags);
                if !walk.met_links() {
                    return found;
                }
                found
            }
        };
        match found {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Walk::new(root, places).open(path, flags),
            done => done,
        }
    }
}

fn openat2_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
    resolve: ResolveFlag,
) -> Result<OwnedFd> {
    let within = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(within | resolve);
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..OPENAT2_ATTEMPTS {
        result = openat2(root, path, how);
        // A rename or mount somewhere in the system fell together with a `..` of ours.
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    result
}

/// How often `openat2` is tried if it loses a race: the kernel fails rather than be
/// fooled, and an attacker who renames in a loop must not hold us up.
const OPENAT2_ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::skipped::skip;
    use crate::file::walk::{Closed, LOOK, MAX_DEPTH, MAX_LINKS, id_of};
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{AT_FDCWD, open, renameat};
    use nix::sys::stat::Mode;

    fn directory(path: &Path) -> OwnedFd {
        open(path, LOOK | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
    }

    /// Both resolvers, or the walk alone where the kernel has no `openat2`.
    fn resolvers(root: &OwnedFd) -> Vec<Resolver> {
        if Resolver::probe(root.as_fd()) == Resolver::Walk {
            skip("openat2 is not available here");
            return vec![Resolver::Walk];
        }
        vec![Resolver::Openat2, Resolver::Walk]
    }

    fn content(resolver: Resolver, root: &OwnedFd, path: &str) -> Result<String> {
        let file = resolver.open(root.as_fd(), path.as_bytes(), OFlag::O_RDONLY)?;
        let mut content = String::new();
        File::from(file).read_to_string(&mut content).unwrap();
        Ok(content)
    }

    #[test]
    fn as_many_links_are_followed_as_the_kernel_follows() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("0"), "end").unwrap();
        for link in 1..=MAX_LINKS + 1 {
            symlink((link - 1).to_string(), base.path().join(link.to_string())).unwrap();
        }
        let root = directory(base.path());
        for resolver in resolvers(&root) {
            let result = |link: usize| content(resolver, &root, &link.to_string());
            assert_eq!(result(MAX_LINKS).as_deref(), Ok("end"), "{resolver:?}");
            assert_eq!(result(MAX_LINKS + 1), Err(Errno::ELOOP), "{resolver:?}");
        }
    }

    #[test]
    fn the_walk_holds_a_bounded_number_of_directories() {
        let base = tempfile::tempdir().unwrap();
        let deepest = "d/".repeat(MAX_DEPTH + 1);
        fs::create_dir_all(base.path().join(&deepest)).unwrap();
        fs::write(base.path().join("file"), "top").unwrap();
        let root = directory(base.path());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |path: &str| Resolver::Walk.open(root.as_fd(), path.as_bytes(), flags);
        assert!(open(&"d/".repeat(MAX_DEPTH)).is_ok());
        assert_eq!(open(&deepest).err(), Some(Errno::ENAMETOOLONG));
        // Going down and up again needs no more than going down once.
        let zigzag = "d/../".repeat(2 * MAX_DEPTH) + "file";
        assert_eq!(
            content(Resolver::Walk, &root, &zigzag).as_deref(),
            Ok("top")
        );
    }

    #[test]
    fn a_link_that_grows_the_path_for_ever_ends() {
        let base = tempfile::tempdir().unwrap();
        let long = "./".repeat(1000);
        symlink(long.clone() + "a/" + &long, base.path().join("a")).unwrap();
        let root = directory(base.path());
        for resolver in resolvers(&root) {
            assert!(content(resolver, &root, "a").is_err(), "{resolver:?}");
        }
    }

    /// With `openat2` and without, and whichever way the path leads there.
    #[test]
    fn a_closed_directory_is_closed_with_and_without_links() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        for directory in ["closed", "elsewhere", "pub/closed", "pub/up/closed"] {
            fs::create_dir_all(base.join("served").join(directory)).unwrap();
            fs::write(base.join("served").join(directory).join("f"), "x").unwrap();
        }
        fs::write(base.join("served/closed file"), "x").unwrap();
        let link = |target: &Path, name: &str| symlink(target, base.join("served").join(name));
        link(Path::new("."), "top").unwrap();
        link(Path::new("closed"), "theirs").unwrap();
        link(Path::new("elsewhere"), "closed link").unwrap();
        link(&base, "up").unwrap();
        link(Path::new("pub/up/closed"), "others").unwrap();
        link(&base.join("served/pub/up"), "uploads").unwrap();
        let directory = crate::file::Directory::open(&base.join("served")).unwrap();
        let linked = [crate::file::Directory::open(&base).unwrap()];
        let uploads = crate::file::Directory::open(&base.join("served/pub/up")).unwrap();
        let closed = Closed {
            is_own: |name| name.starts_with(b"closed"),
            holders: [id_of(&directory).unwrap(), id_of(uploads).unwrap()],
        };
        let places = Places {
            own_paths: &directory.paths,
            linked: &linked,
            closed: Some(closed),
            shut: None,
        };
        let root = self::directory(&base.join("served"));
        for resolver in resolvers(&root) {
            let find = |path: &str, flags| {
                let found = resolver.find(root.as_fd(), path.as_bytes(), flags, places);
                found.err()
            };
            for closed in [
                "closed/f",
                "closed/none",
                "top/closed/f",
                "theirs/f",
                "closed link/f",
                "top/closed link/f",
                // Through a directory that links may lead to.
                "up/served/closed/f",
                // In another directory.
                "pub/up/closed/f",
                "others/f",
                "uploads/closed/f",
                "up/served/pub/up/closed/f",
            ] {
                let errno = find(closed, OFlag::O_PATH);
                assert_eq!(errno, Some(Errno::EXDEV), "{resolver:?} {closed}");
            }
            for closed in [
                "closed",
                "theirs",
                "top/closed",
                "closed link",
                "pub/up/closed",
                "others",
            ] {
                let errno = find(closed, OFlag::O_PATH | OFlag::O_DIRECTORY);
                assert_eq!(errno, Some(Errno::EXDEV), "{resolver:?} {closed}");
            }
            for open in [
                "pub/closed/f",
                "elsewhere/f",
                "closed file",
                "up/served/pub/closed/f",
            ] {
                assert_eq!(find(open, OFlag::O_PATH), None, "{resolver:?} {open}");
            }
        }
    }

    #[test]
    fn only_directories_are_opened_as_directories() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("file"), "x").unwrap();
        nix::unistd::mkfifo(&base.path().join("fifo"), Mode::S_IRWXU).unwrap();
        symlink("file", base.path().join("link")).unwrap();
        let root = directory(base.path());
        for resolver in resolvers(&root) {
            for path in ["file", "fifo", "link"] {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
                let opened = resolver.open(root.as_fd(), path.as_bytes(), flags);
                assert_eq!(opened.err(), Some(Errno::ENOTDIR), "{resolver:?} {path}");
            }
        }
    }

    /// Links in /proc lead anywhere, whatever their text says.
    #[test]
    fn magic_links_lead_nowhere() {
        let root = directory(Path::new("/proc"));
        for resolver in resolvers(&root) {
            for (link, below) in [("root", "/etc/passwd"), ("cwd", "/Cargo.toml"), ("exe", "")] {
                let path = format!("self/{link}{below}");
                assert!(
                    content(resolver, &root, &path).is_err(),
                    "{resolver:?} {path}"
                );
            }
        }
    }

    /// Calls `disturb`, which moves names, as fast as it can while `path` is read over
    /// and over. Only what lies in the root may ever be read.
    fn read_while(base: &Path, path: &str, disturb: impl Fn() + Sync) {
        let root = directory(&base.join("root"));
        for resolver in resolvers(&root) {
            let done = AtomicBool::new(false);
            let (mut inside, mut failed) = (0, 0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        disturb();
                    }
                });
                // Until both sides of the race have been seen, and some more.
                for round in 0..200_000 {
                    match content(resolver, &root, path) {
                        Ok(content) if content == "inside" => inside += 1,
                        Ok(_) => {
                            done.store(true, Ordering::Relaxed);
                            panic!("{resolver:?} left the root");
                        }
                        Err(_) => failed += 1,
                    }
                    if round > 5_000 && inside > 100 && failed > 100 {
                        break;
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
            assert!(
                inside > 0 && failed > 0,
                "{resolver:?}: no race: {inside} inside, {failed} failed"
            );
        }
    }

    /// Puts a link to the outside in the place of `name`, and then `name` back.
    fn swap_for_link(root: &Path, name: &str) {
        for (from, to) in [
            (name, "kept"),
            ("link", name),
            (name, "link"),
            ("kept", name),
        ] {
            renameat(AT_FDCWD, &root.join(from), AT_FDCWD, &root.join(to)).unwrap();
        }
    }

    #[test]
    fn what_is_swapped_for_a_link_leads_nowhere() {
        for swapped in ["dir", "dir/file"] {
            let temp = tempfile::tempdir().unwrap();
            let base = temp.path();
            fs::create_dir_all(base.join("root/dir")).unwrap();
            fs::create_dir(base.join("outside")).unwrap();
            fs::write(base.join("root/dir/file"), "inside").unwrap();
            fs::write(base.join("outside/file"), "outside").unwrap();
            let target = if swapped == "dir" {
                "outside"
            } else {
                "outside/file"
            };
            symlink(base.join(target), base.join("root/link")).unwrap();
            read_while(base, "dir/file", || {
                swap_for_link(&base.join("root"), swapped);
            });
        }
    }

    #[test]
    fn a_directory_moved_out_does_not_take_its_parent_along() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path();
        fs::create_dir_all(base.join("root/a/b")).unwrap();
        fs::create_dir(base.join("outside")).unwrap();
        fs::write(base.join("root/file"), "inside").unwrap();
        // What `a/b/../../file` would be if `b` were where it has been moved to.
        fs::write(base.join("file"), "outside").unwrap();
        let (inside, outside) = (base.join("root/a/b"), base.join("outside/b"));
        read_while(base, "a/b/../../file", || {
            renameat(AT_FDCWD, &inside, AT_FDCWD, &outside).unwrap();
            renameat(AT_FDCWD, &outside, AT_FDCWD, &inside).unwrap();
        });
    }
}
