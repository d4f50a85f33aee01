//! From a path below the root to an open descriptor, never leaving the root.
//!
//! The root is `/` and its own parent for every path, as in a chroot: `..` stops
//! there, absolute symbolic links start there. The kernel does it in one call
//! (`openat2`, Linux 5.6); where it can't, or a container's filter won't let
//! it, a walk component by component gives the same promises. Neither trusts
//! a check made before an open: whatever is swapped meanwhile, each step starts
//! from a descriptor that was reached from the root. Must not: trust a path twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::name::{below, split_first};

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// By the kernel: `openat2` with `RESOLVE_IN_ROOT`.
    Openat2,
    /// By ourselves, one component at a time.
    Walk,
}

impl Resolver {
    /// The kernel where it is willing, the walk otherwise.
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
    /// The walk hands out what is neither a file nor a directory as an `O_PATH`
    /// descriptor: not opened, only there to be refused.
    pub(super) fn open(self, root: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        match self {
            Self::Openat2 => openat2_in_root(root, path, flags),
            Self::Walk => walk(root, path, flags, &[]),
        }
    }
}

/// The walk, on which an absolute link that begins with one of `own_paths`, the
/// root's, leads to the root: people link to `/srv/tftp/x` from inside
/// `/srv/tftp`. It stays below the root as any other link does.
fn walk_own_links(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
    own_paths: &[PathBuf],
) -> Result<OwnedFd> {
    walk(root, path, flags | OFlag::O_CLOEXEC, own_paths)
}

/// Follows a path below `root`. A link to one of `own_paths`, the root's, leads back
/// there, where it would lead nowhere otherwise.
pub(super) fn find(
    resolver: Resolver,
    root: BorrowedFd<'_>,
    own_paths: &[PathBuf],
    path: &[u8],
    flags: OFlag,
) -> Result<OwnedFd> {
    match resolver.open(root, path, flags) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => walk_own_links(root, path, flags, own_paths),
        done => done,
    }
}

/// What kind of file a `stat` is about.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn openat2_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..OPENAT2_ATTEMPTS {
        result = openat2(root, path, how);
        // A rename or mount anywhere in the system crossed a `..` of ours.
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    result
}

fn walk(root: BorrowedFd<'_>, path: &[u8], flags: OFlag, own_paths: &[PathBuf]) -> Result<OwnedFd> {
    // The directories gone through: `..` leads back to the one we came from,
    // wherever it or its child has been moved meanwhile.
    let mut entered: Vec<OwnedFd> = Vec::new();
    let mut path = path.to_vec();
    let mut walked = 0;
    let mut links = 0;
    loop {
        let here = entered.last().map_or(root, AsFd::as_fd);
        let (component, after) = split_first(path.get(walked..).unwrap_or_default());
        let next = path.len() - after.len();
        match component {
            b"" => return openat(here, ".", flags, Mode::empty()),
            b"." => {}
            b".." => drop(entered.pop()),
            name => {
                let found = openat(here, name, LOOK | OFlag::O_NOFOLLOW, Mode::empty())?;
                match kind(&fstat(&found)?) {
                    SFlag::S_IFLNK => {
                        // Through the link's own descriptor and an empty path:
                        // what was looked at is what is read.
                        let target = readlinkat(&found, "")?.into_vec();
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::ELOOP);
                        }
                        if target.len() + after.len() >= MAX_PATH {
                            return Err(Errno::ENAMETOOLONG);
                        }
                        if target.first() == Some(&b'/') {
                            entered.clear();
                        }
                        let below_own = |own: &PathBuf| below(&target, own.as_os_str().as_bytes());
                        let target = match own_paths.iter().find_map(below_own) {
                            Some(below) if target.first() == Some(&b'/') => below,
                            _ => &target,
                        };
                        path = [target, &b"/"[..], after].concat();
                        walked = 0;
                        continue;
                    }
                    SFlag::S_IFDIR if entered.len() == MAX_DEPTH => {
                        return Err(Errno::ENAMETOOLONG);
                    }
                    SFlag::S_IFDIR => entered.push(found),
                    _ if !split_first(after).0.is_empty() => return Err(Errno::ENOTDIR),
                    _ if flags.contains(OFlag::O_DIRECTORY) => return Err(Errno::ENOTDIR),
                    SFlag::S_IFREG => {
                        return openat(here, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
                    }
                    _ => return Ok(found),
                }
            }
        }
        walked = next;
    }
}

/// Reaches a file without opening it: no permission on it needed, no effect on
/// a device or a FIFO.
const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// How often `openat2` is asked again when it lost a race; the kernel gives up
/// rather than be fooled, and an attacker renaming in a loop must not keep us.
const OPENAT2_ATTEMPTS: usize = 16;

/// The longest path, in bytes: Linux's `PATH_MAX` less the final NUL.
const MAX_PATH: usize = 4095;

/// Symbolic links followed in one path, the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Directories the walk holds open at once, one descriptor each.
const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{AT_FDCWD, open, renameat};

    fn directory(path: &Path) -> OwnedFd {
        open(path, LOOK | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
    }

    /// Both resolvers, or the walk alone where the kernel has no `openat2`.
    fn resolvers(root: &OwnedFd) -> Vec<Resolver> {
        if Resolver::probe(root.as_fd()) == Resolver::Walk {
            eprintln!("skipped: openat2 is not available here");
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

    /// Exchanges or moves names as fast as it can while `path` is read over and
    /// over; nothing but what lies in the root may ever come out.
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

    /// Puts a link to the outside in the place of `name` and back again.
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
