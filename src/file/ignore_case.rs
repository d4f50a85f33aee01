//! `--ignore-case`: finds a file whose name differs from the request's in case only.
//!
//! Windows bootmgr asks for `\Boot\BCD` and for `\boot\bcd`. This is done only if the
//! name as it was sent finds nothing, component by component: a component that is there
//! as it is spelled comes first; otherwise, of the names that differ only in the case of
//! ASCII letters, the first in byte order. A directory that has been entered isn't left
//! again to try another. A directory is listed once, and its names are kept until it
//! changes. Must not: open a file; every step is the resolver's, from the root.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};

use super::name::TEMP_PREFIX;
use super::walk::{Id, Timestamp, id};

/// The most names read of one directory; takes a millisecond or so. In a directory with
/// more, a name counts as missing; otherwise the result would depend on the order in
/// which the directory is listed.
const MAX_ENTRIES: usize = 4096;

/// The most directories whose names are kept, at most some 100 KiB each.
const MAX_KEPT: usize = 16;

/// The directories that were listed.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: RefCell<Vec<Kept>>,
    /// Directory entries that were read.
    entries: Cell<u64>,
}

/// A directory that was listed.
#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    /// `None` the first time: a change in the same tick of the file system's clock
    /// would go unnoticed. If it looks the same the next time, that tick is over.
    listing: Option<Rc<Listing>>,
}

/// Which directory, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: Id,
    modified: Timestamp,
    changed: Timestamp,
}

impl Stamp {
    fn of(stat: &FileStat) -> Self {
        Self {
            id: id(stat),
            modified: Timestamp::modified(stat),
            changed: Timestamp::changed(stat),
        }
    }
}

/// The names in a directory, in one buffer.
#[derive(Debug, Default)]
struct Listing {
    bytes: Vec<u8>,
    /// Where each name is in `bytes`, in [`order`]; empty if there are too many.
    names: Vec<(u32, u32)>,
}

impl Listing {
    fn read(directory: OwnedFd, entries: &Cell<u64>) -> nix::Result<Self> {
        let mut listing = Self::default();
        for entry in Dir::from_fd(directory)?.iter() {
            entries.set(entries.get() + 1);
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if listing.names.len() == MAX_ENTRIES {
                return Ok(Self::default());
            }
            // Nobody may ask for temporary files; `.` and `..` are no names.
            if matches!(name, b"." | b"..") || name.starts_with(TEMP_PREFIX.as_bytes()) {
                continue;
            }
            let start = listing.bytes.len() as u32;
            listing.bytes.extend_from_slice(name);
            listing.names.push((start, listing.bytes.len() as u32));
        }
        let bytes = &listing.bytes;
        let name = |&(start, end): &(u32, u32)| slice(bytes, start, end);
        listing
            .names
            .sort_unstable_by(|a, b| order(name(a), name(b)));
        listing.bytes.shrink_to_fit();
        listing.names.shrink_to_fit();
        Ok(listing)
    }

    /// The first of the names that differ from `wanted` in case alone.
    fn first_alike(&self, wanted: &[u8]) -> Option<&[u8]> {
        let name = |&(start, end): &(u32, u32)| slice(&self.bytes, start, end);
        let before = |place: &(u32, u32)| folded(name(place), wanted) == Ordering::Less;
        let first = self.names.partition_point(before);
        let found = name(self.names.get(first)?);
        found.eq_ignore_ascii_case(wanted).then_some(found)
    }
}

fn slice(bytes: &[u8], start: u32, end: u32) -> &[u8] {
    bytes.get(start as usize..end as usize).unwrap_or_default()
}

/// Compares names by their letters, whatever the case.
fn folded(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a.iter(), b.iter());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) => match a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase()) {
                Ordering::Equal => {}
                differing => return differing,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// Compares names by their letters, whatever the case, then by their bytes.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    folded(a, b).then_with(|| a.cmp(b))
}

impl Listings {
    /// Changes the case of letters in `path` so that it is there; `None` if that can't
    /// be done. Its length stays the same. `open` opens below the root.
    pub(super) fn find(
        &self,
        open: impl Fn(&[u8], OFlag) -> nix::Result<OwnedFd>,
        path: &mut [u8],
    ) -> Option<()> {
        let mut start = 0;
        while start < path.len() {
            let (before, rest) = path.split_at_checked(start)?;
            let len = rest.iter().take_while(|&&byte| byte != b'/').count();
            let end = start + len;
            match open(path.get(..end)?, OFlag::O_PATH) {
                Ok(_) => {}
                Err(Errno::ENOENT) => {
                    let directory = before.strip_suffix(b"/").unwrap_or(b".");
                    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                    let listing = self.of(open(directory, flags).ok()?).ok()?;
                    let wanted = path.get_mut(start..end)?;
                    wanted.copy_from_slice(listing.first_alike(wanted)?);
                }
                Err(_) => return None,
            }
            start = end + 1;
        }
        Some(())
    }

    /// Directory entries read since the last time this was asked.
    pub(super) fn take_entries(&self) -> u64 {
        self.entries.take()
    }

    fn of(&self, directory: OwnedFd) -> nix::Result<Rc<Listing>> {
        let stamp = Stamp::of(&fstat(&directory)?);
        let mut kept = self.kept.borrow_mut();
        let known = kept.iter().position(|kept| kept.stamp.id == stamp.id);
        let known = known.map(|index| kept.remove(index));
        let is_same = known.as_ref().is_some_and(|kept| kept.stamp == stamp);
        let listing = match known.and_then(|kept| kept.listing) {
            Some(listing) if is_same => listing,
            _ => Rc::new(Listing::read(directory, &self.entries)?),
        };
        if kept.len() == MAX_KEPT {
            kept.remove(0);
        }
        // The latest last: a directory that is asked for often stays.
        kept.push(Kept {
            stamp,
            listing: is_same.then(|| Rc::clone(&listing)),
        });
        Ok(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolve::Resolver;
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use nix::fcntl::open;
    use nix::sys::stat::Mode;

    fn found(resolver: Resolver, root: &impl AsFd, path: &str) -> Option<String> {
        let mut path = path.as_bytes().to_vec();
        let listings = Listings::default();
        listings.find(
            |path, flags| resolver.open(root.as_fd(), path, flags),
            &mut path,
        )?;
        Some(String::from_utf8(path).unwrap())
    }

    #[test]
    fn the_exact_spelling_comes_first_then_the_first_by_bytes() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        fs::create_dir_all(root.join("Boot/Fonts")).unwrap();
        fs::create_dir(root.join("boot")).unwrap();
        fs::create_dir(root.join("Efi")).unwrap();
        for name in [
            "Boot/BCD",
            "boot/x",
            "Efi/B",
            "Efi/b",
            "README",
            "readme",
            ".tftpd-1-0",
        ] {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::write(base.path().join("Secret"), "x").unwrap();
        symlink("..", root.join("Up")).unwrap();
        let root = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        for resolver in [Resolver::probe(root.as_fd()), Resolver::Walk] {
            for (asked, expected) in [
                ("BOOT/bcd", Some("Boot/BCD")),
                ("Boot/fonts", Some("Boot/Fonts")),
                // `boot` is there: nothing leads back to `Boot`.
                ("boot/bcd", None),
                ("EFI/B", Some("Efi/B")),
                ("efi/b", Some("Efi/b")),
                ("ReadMe", Some("README")),
                ("readme", Some("readme")),
                ("Efi/../bOOT/bcd", Some("Efi/../Boot/BCD")),
                ("README/x", None),
                ("nothing", None),
                (".TFTPD-1-0", None),
                ("up/secret", None),
                ("../secret", None),
            ] {
                let found = found(resolver, &root, asked);
                assert_eq!(found.as_deref(), expected, "{resolver:?} {asked}");
            }
        }
    }

    #[test]
    fn a_directory_with_too_many_names_is_not_searched() {
        // In memory, since making the files on a disk may take seconds.
        let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let base = base.unwrap();
        for number in 0..MAX_ENTRIES - 1 {
            fs::write(base.path().join(number.to_string()), "").unwrap();
        }
        fs::write(base.path().join("Name"), "").unwrap();
        let root = fs::File::open(base.path()).unwrap();
        let resolver = Resolver::probe(root.as_fd());
        assert_eq!(found(resolver, &root, "name").as_deref(), Some("Name"));
        fs::write(base.path().join("more"), "").unwrap();
        assert_eq!(found(resolver, &root, "name"), None);
    }

    /// A flood of names in another case doesn't list a directory each time.
    #[test]
    fn a_directory_is_listed_again_only_when_it_has_changed() {
        let base = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::write(base.path().join(format!("file{number}")), "").unwrap();
        }
        let root = fs::File::open(base.path()).unwrap();
        let resolver = Resolver::probe(root.as_fd());
        let listings = Listings::default();
        let find = |name: &str| {
            let mut path = name.as_bytes().to_vec();
            let open = |path: &[u8], flags| resolver.open(root.as_fd(), path, flags);
            listings
                .find(open, &mut path)
                .map(|()| String::from_utf8(path).unwrap())
        };
        for _ in 0..50 {
            assert_eq!(find("FILE7").as_deref(), Some("file7"));
            assert_eq!(find("NONE"), None);
        }
        let read = listings.take_entries();
        assert!((1..=210).contains(&read), "{read}");
        fs::write(base.path().join("None"), "").unwrap();
        // Whatever the file system's clock says.
        root.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(find("NONE").as_deref(), Some("None"));
        fs::remove_file(base.path().join("file7")).unwrap();
        assert_eq!(find("FILE7"), None);
        assert!(listings.take_entries() > 100);
    }

    #[test]
    fn few_listings_are_kept() {
        let base = tempfile::tempdir().unwrap();
        let listings = Listings::default();
        for number in 0..3 * MAX_KEPT {
            let path = base.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            for _ in 0..3 {
                listings.of(fs::File::open(&path).unwrap().into()).unwrap();
            }
        }
        assert_eq!(listings.kept.borrow().len(), MAX_KEPT);
    }
}
