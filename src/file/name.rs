//! Names as clients write them, each turned into the one spelling that map rules,
//! per-client roots and the file system see.
//!
//! Only the spelling is settled here. Where a name leads, and that it stays below
//! the root, is the resolver's business. Names are bytes. Must not: touch a file.

use std::fmt;
use std::ops::Deref;

use nix::errno::Errno;

use super::error::StorageError;
use crate::wire::packet::Direction;

/// The longest name, in bytes; no request is longer.
pub const MAX_NAME: usize = 1024;

/// How the names of our temporary files begin. No request may name one.
pub(super) const TEMP_PREFIX: &str = ".tftpd-";

/// The name of a file below the root in its one spelling: relative, single
/// slashes, no `.` or `..`, no garbage after it, not a directory's.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Name {
    /// Reads a name as a client, or a map rule, spells it. `root_paths` are the
    /// root's own absolute paths.
    ///
    /// - `\` separates as `/` does (Windows bootmgr asks for `\Boot\BCD`). A file
    ///   with a `\` in its own name can't be asked for.
    /// - A leading `/` means nothing (GRUB, PXELINUX).
    /// - `..` removes the component before it, whatever that is on the disk; above
    ///   the root it means nothing.
    /// - An absolute name that begins with one of `root_paths` is taken relative
    ///   to it: scripts written for a server without a chroot, such as tftp-hpa
    ///   without `-s`, send the whole path.
    /// - Some Lenovo and Jetway firmware leaves 0xFF bytes after the name:
    ///   control characters and bytes that occur in no UTF-8 text are dropped
    ///   there.
    /// - A name that ends in a slash, or in `.` or `..`, is a directory's.
    ///
    /// # Errors
    /// ERROR 1: longer than [`MAX_NAME`]. ERROR 2: a directory, a name of our own, or,
    /// for a write, one that no read could ask for: with control characters, or with
    /// bytes at its end that reading would drop.
    pub(super) fn read<'a>(
        spelled: &[u8],
        direction: Direction,
        root_paths: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, StorageError> {
        let text = without_garbage(spelled);
        let is_odd = |byte: &u8| byte.is_ascii_control();
        if direction == Direction::Write && (text != spelled || text.iter().any(is_odd)) {
            return Err(StorageError::ODD_NAME);
        }
        let last = text.rsplit(|&byte| is_separator(byte)).next();
        if matches!(last, None | Some(b"" | b"." | b"..")) {
            return Err(StorageError::IS_DIRECTORY);
        }
        let mut name = Self::default();
        for component in text.split(|&byte| is_separator(byte)) {
            match component {
                b"" | b"." => {}
                b".." => name.pop(),
                component => name.push(component)?,
            }
        }
        if text.first().copied().is_some_and(is_separator) {
            let below = |own| below(&name, own);
            if let Some(relative) = root_paths.into_iter().find_map(below) {
                name = Self::from_spelled(relative)?;
            }
        }
        // It was the root's own path.
        if name.is_empty() {
            return Err(StorageError::IS_DIRECTORY);
        }
        if split_last(&name).1.starts_with(TEMP_PREFIX.as_bytes()) {
            return Err(StorageError::RESERVED_NAME);
        }
        Ok(name)
    }

    /// A name that is already in its one spelling.
    pub(super) fn from_spelled(spelled: &[u8]) -> Result<Self, Errno> {
        let mut name = Self::default();
        name.bytes
            .get_mut(..spelled.len())
            .ok_or(Errno::ENAMETOOLONG)?
            .copy_from_slice(spelled);
        name.len = spelled.len();
        Ok(name)
    }

    /// This name, with the letter case of `found` in the parts that the map rules left
    /// alone. `from` is what the rules made of this name; `found` differs from `from` in
    /// case only. The parts left alone are the longest common prefix and suffix of this
    /// name and `from`.
    #[must_use]
    pub fn respelled(&self, from: &Self, found: &Self) -> Self {
        let mut name = *self;
        let pairs = || self.iter().zip(from.iter());
        let start = pairs().take_while(|(own, from)| own == from).count();
        let pairs = self.iter().rev().zip(from.iter().rev());
        let end = pairs.take_while(|(own, from)| own == from).count();
        let found: &[u8] = found;
        for (own, found) in name.bytes.iter_mut().zip(found).take(start) {
            *own = *found;
        }
        let own = name.bytes.get_mut(..name.len).unwrap_or_default();
        for (own, found) in own.iter_mut().rev().zip(found.iter().rev()).take(end) {
            *own = *found;
        }
        name
    }

    fn push(&mut self, component: &[u8]) -> Result<(), Errno> {
        let start = if self.len == 0 { 0 } else { self.len + 1 };
        let end = start + component.len();
        let place = self
            .bytes
            .get_mut(self.len..end)
            .ok_or(Errno::ENAMETOOLONG)?;
        let (slash, text) = place.split_at_mut(start - self.len);
        slash.fill(b'/');
        text.copy_from_slice(component);
        self.len = end;
        Ok(())
    }

    fn pop(&mut self) {
        let slash = self.iter().rposition(|&byte| byte == b'/');
        self.len = slash.unwrap_or(0);
    }
}

impl Default for Name {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_NAME],
            len: 0,
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

/// What follows the components of `own` in `path`; `None` if it doesn't begin with
/// them.
pub(super) fn below<'a>(path: &'a [u8], own: &[u8]) -> Option<&'a [u8]> {
    let mut rest = path;
    for component in components(own) {
        let (first, after) = split_first(rest);
        if first != component {
            return None;
        }
        rest = after;
    }
    let slashes = rest.iter().take_while(|&&byte| byte == b'/').count();
    rest.get(slashes..)
}

/// The first component, empty if there is none, and what follows it.
pub(super) fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    let start = path.iter().take_while(|&&byte| byte == b'/').count();
    let path = path.get(start..).unwrap_or_default();
    let end = path.iter().take_while(|&&byte| byte != b'/').count();
    path.split_at(end)
}

/// A path's directory and its last component; the directory of a lone name is
/// the root, `.`.
pub(super) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (b".", path),
    }
}

/// The name without the bytes at its end that can't be text.
fn without_garbage(name: &[u8]) -> &[u8] {
    let is_garbage = |&byte: &u8| matches!(byte, 0..0x20 | 0x7f | 0xc0 | 0xc1 | 0xf5..);
    let end = name.iter().rposition(|byte| !is_garbage(byte));
    name.get(..end.map_or(0, |last| last + 1))
        .unwrap_or_default()
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &[u8] = b"/srv/tftp";

    fn read(spelled: &[u8]) -> Result<Vec<u8>, StorageError> {
        let name = Name::read(spelled, Direction::Read, [&b"/elsewhere"[..], ROOT]);
        name.map(|name| name.to_vec())
    }

    #[test]
    fn spellings_of_one_name_become_one_name() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a", b"a"),
            (b"a/b", b"a/b"),
            (b"/a/b", b"a/b"),
            (b"//a///b", b"a/b"),
            (b"./a/./b", b"a/b"),
            (b"\\Boot\\BCD", b"Boot/BCD"),
            (b"a\\/b", b"a/b"),
            (b"../a", b"a"),
            (b"a/../b", b"b"),
            (b"a/b/../../c", b"c"),
            (b"a/../../../b", b"b"),
            (b"...", b"..."),
            (b".hidden", b".hidden"),
            (b"a\xff", b"a"),
            (b"a\xff\xff\x01", b"a"),
            (b"a\xffb", b"a\xffb"),
            (b"\xff\xfe/\xe4", b"\xff\xfe/\xe4"),
            // The end of a UTF-8 character is no garbage.
            ("caf\u{e9}".as_bytes(), "caf\u{e9}".as_bytes()),
            (b"/srv/tftp/a", b"a"),
            (b"/elsewhere/a", b"a"),
            (b"//srv/./tftp//a/b", b"a/b"),
            (b"/x/../srv/tftp/a", b"a"),
            (b"\\srv\\tftp\\a", b"a"),
            (b"/srv/tftp/../a", b"srv/a"),
            (b"/srv/tftp/srv/tftp/a", b"srv/tftp/a"),
            (b"srv/tftp/a", b"srv/tftp/a"),
            (b"/srv/tftpboot/a", b"srv/tftpboot/a"),
            (b"/srv/tft", b"srv/tft"),
            (b"/srv", b"srv"),
        ];
        for (spelled, name) in cases {
            assert_eq!(
                read(spelled).as_deref(),
                Ok(*name),
                "{}",
                spelled.escape_ascii()
            );
        }
    }

    #[test]
    fn a_trailing_slash_is_a_directory() {
        for spelled in [
            &b""[..],
            b"/",
            b".",
            b"..",
            b"./.",
            b"a/",
            b"a//",
            b"a\\",
            b"a/.",
            b"a\\.",
            b"a/..",
            b"a/\xff",
            b"a/.\x01",
            b"\xff\xff",
            ROOT,
        ] {
            for direction in [Direction::Read, Direction::Write] {
                let name = Name::read(spelled, direction, [ROOT]);
                let refused = name.unwrap_err();
                let is_odd = direction == Direction::Write && refused == StorageError::ODD_NAME;
                assert!(
                    refused == StorageError::IS_DIRECTORY || is_odd,
                    "{}",
                    spelled.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn new_names_are_ones_that_can_be_read_again() {
        for spelled in [
            &b"pxelinux.0\xff"[..],
            b"pxelinux.0\x01",
            b"a\x1b[31mb",
            b"a\x7fb",
            b"sub\n/a",
            b"a/\xff",
        ] {
            assert_eq!(
                Name::read(spelled, Direction::Write, [ROOT]),
                Err(StorageError::ODD_NAME),
                "{}",
                spelled.escape_ascii()
            );
        }
        let fine = Name::read(b"a\xffb", Direction::Write, [ROOT]);
        assert_eq!(fine.as_deref(), Ok(&b"a\xffb"[..]));
    }

    #[test]
    fn the_root_directory_has_no_prefix_to_strip() {
        let name = Name::read(b"/etc/x", Direction::Read, [&b"/"[..]]);
        assert_eq!(name.as_deref(), Ok(&b"etc/x"[..]));
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let longest = [b'a'; MAX_NAME];
        assert_eq!(read(&longest).as_deref(), Ok(&longest[..]));
        let too_long = Err(Errno::ENAMETOOLONG.into());
        assert_eq!(read(&[b'a'; MAX_NAME + 1]), too_long);
        assert_eq!(read(&[&longest[..], b"/b"].concat()), too_long);
        let slashes = [b'/'; 2 * MAX_NAME];
        assert_eq!(
            read(&[&slashes[..], b"a"].concat()).as_deref(),
            Ok(&b"a"[..])
        );
    }

    #[test]
    fn case_is_carried_over_to_what_was_asked_for() {
        let name = |text: &str| Name::from_spelled(text.as_bytes()).unwrap();
        for (asked, mapped, found, respelled) in [
            ("site.KEY", "site.KEY", "site.key", "site.key"),
            ("get/A.KEY", "pub/A.KEY", "pub/a.key", "get/a.key"),
            ("A/x.old", "A/x.new", "a/x.new", "a/x.old"),
            // The rules made the whole name: no part of it was asked for.
            ("FOO", "bar", "Bar", "FOO"),
            ("aa", "aaa", "AAA", "AA"),
        ] {
            let respelt = name(asked).respelled(&name(mapped), &name(found));
            assert_eq!(respelt, name(respelled), "{asked}");
        }
    }

    #[test]
    fn the_last_component_is_split_off() {
        let cases: &[(&[u8], &[u8], &[u8])] = &[(b"a", b".", b"a"), (b"a/b/c", b"a/b", b"c")];
        for &(path, directory, last) in cases {
            assert_eq!(split_last(path), (directory, last));
        }
    }

    #[test]
    fn no_request_may_name_a_temporary_file() {
        for (spelled, reserved) in [
            (&b".tftpd-1-0"[..], true),
            (b"a/.tftpd-", true),
            (b"a/../.tftpd-", true),
            (b".tftpd-1/a", false),
            (b"a.tftpd-1", false),
            (b".tftpd", false),
        ] {
            let refused = read(spelled) == Err(StorageError::RESERVED_NAME);
            assert_eq!(refused, reserved, "{}", spelled.escape_ascii());
        }
    }

    proptest::proptest! {
        /// Reading a name again changes nothing.
        #[test]
        fn there_is_one_spelling(spelled in "[a./\\\\\u{1}\u{fffd}]{0,12}") {
            if let Ok(name) = read(spelled.as_bytes()) {
                proptest::prop_assert_eq!(read(&name), Ok(name));
            }
        }
    }
}
