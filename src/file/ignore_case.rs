//! `--ignore-case`: what a name may mean that is right but for its case.
//!
//! Windows bootmgr asks for `\Boot\BCD` and for `\boot\bcd`. Looked up only when
//! the name as it was sent finds nothing, component by component: what is there
//! as it is spelled comes first, else, of the names that differ in the case of
//! ASCII letters alone, the first in the order of their bytes. There is no way
//! back from a directory that has been entered. Must not: open a file; every step
//! is the resolver's, from the root.

use std::os::fd::OwnedFd;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::name::TEMP_PREFIX;

/// Directory entries that are read for one name, at most: a millisecond or so.
/// Behind so many the name counts as missing, lest it depend on their order
/// what is found.
const MAX_ENTRIES: usize = 4096;

/// Makes `path` one that is there, if only the case of its letters is in the
/// way. What it becomes is as long. `open` opens below the root.
pub(super) fn find(
    open: impl Fn(&[u8], OFlag) -> nix::Result<OwnedFd>,
    path: &mut [u8],
) -> Option<()> {
    let mut budget = MAX_ENTRIES;
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
                let directory = open(directory, flags).ok()?;
                let mut directory = Dir::from_fd(directory).ok()?;
                let wanted = path.get_mut(start..end)?;
                let found = first_alike(&mut directory, wanted, &mut budget)?;
                wanted.copy_from_slice(&found);
            }
            Err(_) => return None,
        }
        start = end + 1;
    }
    Some(())
}

/// The first of the names that differ from `wanted` in case alone.
fn first_alike(directory: &mut Dir, wanted: &[u8], budget: &mut usize) -> Option<Vec<u8>> {
    let mut first: Option<Vec<u8>> = None;
    for entry in directory.iter() {
        *budget = budget.checked_sub(1)?;
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        let is_alike = name.eq_ignore_ascii_case(wanted);
        if is_alike && first.as_deref().is_none_or(|first| name < first) {
            first = Some(name.to_vec());
        }
    }
    first.filter(|name| !name.starts_with(TEMP_PREFIX.as_bytes()))
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
        find(
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
        let base = tempfile::tempdir().unwrap();
        // `.` and `..` count as well.
        for number in 0..MAX_ENTRIES - 3 {
            fs::write(base.path().join(number.to_string()), "").unwrap();
        }
        fs::write(base.path().join("Name"), "").unwrap();
        let root = fs::File::open(base.path()).unwrap();
        let resolver = Resolver::probe(root.as_fd());
        assert_eq!(found(resolver, &root, "name").as_deref(), Some("Name"));
        fs::write(base.path().join("more"), "").unwrap();
        assert_eq!(found(resolver, &root, "name"), None);
    }
}
