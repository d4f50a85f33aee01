//! Names as clients write them, made into paths below the root.
//!
//! Only the spelling is settled here, the same way for every client. Where a
//! path leads, and that it stays below the root, is the resolver's business:
//! `..` goes through untouched, because only the file system knows what lies
//! above a symbolic link's target. Bytes throughout; touches no file.

use nix::errno::Errno;

/// The longest path, in bytes: Linux's `PATH_MAX` less the final NUL.
pub(super) const MAX_PATH: usize = 4095;

/// How the names of our temporary files begin. No request may name one.
pub(super) const TEMP_PREFIX: &str = ".tftpd-";

/// Writes the path a request's name stands for into `space` and returns it:
/// relative to the root, single slashes, neither empty nor `.` components.
/// The root itself is `.`.
///
/// - `\` separates as `/` does (Windows bootmgr asks for `\Boot\BCD`). A file
///   with a `\` in its own name can't be asked for.
/// - A leading `/` means nothing (GRUB, PXELINUX).
/// - An absolute name that begins with `root_path`, the server's own absolute
///   path, is taken relative to it: scripts written for a server without a
///   chroot, such as tftp-hpa without `-s`, send the whole path.
///
/// Errors: `ENAMETOOLONG` beyond [`MAX_PATH`].
pub(super) fn normalise<'a>(
    request: &[u8],
    root_path: &[u8],
    space: &'a mut [u8; MAX_PATH],
) -> Result<&'a [u8], Errno> {
    let mut rest = components(request);
    if request.first().copied().is_some_and(is_separator) {
        let mut below = rest.clone();
        if components(root_path).all(|own| below.next() == Some(own)) {
            rest = below;
        }
    }
    let mut len = 0;
    for component in rest {
        let start = if len == 0 { 0 } else { len + 1 };
        let end = start + component.len();
        let place = space.get_mut(len..end).ok_or(Errno::ENAMETOOLONG)?;
        let (slash, text) = place.split_at_mut(start - len);
        slash.fill(b'/');
        text.copy_from_slice(component);
        len = end;
    }
    if len == 0 {
        return Ok(b".");
    }
    Ok(space.get(..len).unwrap_or_default())
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

/// The name without what can't be text at its end: control characters and bytes
/// that occur in no UTF-8 text. Some Lenovo and Jetway firmware leaves 0xFF
/// bytes there.
pub(super) fn without_garbage(request: &[u8]) -> &[u8] {
    let is_garbage = |&byte: &u8| matches!(byte, 0..0x20 | 0x7f | 0xc0 | 0xc1 | 0xf5..);
    let end = request.iter().rposition(|byte| !is_garbage(byte));
    request
        .get(..end.map_or(0, |last| last + 1))
        .unwrap_or_default()
}

/// Whether a path's last component is one of our temporary files.
pub(super) fn is_temporary(path: &[u8]) -> bool {
    split_last(path).1.starts_with(TEMP_PREFIX.as_bytes())
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    path.split(|&byte| is_separator(byte))
        .filter(|component| !component.is_empty() && *component != b".")
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(request: &[u8], root_path: &[u8]) -> Result<Vec<u8>, Errno> {
        normalise(request, root_path, &mut [0; MAX_PATH]).map(<[u8]>::to_vec)
    }

    #[test]
    fn spellings_of_one_name_become_one_path() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a", b"a"),
            (b"a/b", b"a/b"),
            (b"/a/b", b"a/b"),
            (b"//a///b//", b"a/b"),
            (b"./a/./b/.", b"a/b"),
            (b"\\Boot\\BCD", b"Boot/BCD"),
            (b"a\\/b", b"a/b"),
            (b"", b"."),
            (b"/", b"."),
            (b"./.", b"."),
            (b"..", b".."),
            (b"../a", b"../a"),
            (b"a/../b", b"a/../b"),
            (b"...", b"..."),
            (b".hidden", b".hidden"),
            (b"\xff\xfe/\xe4", b"\xff\xfe/\xe4"),
            (b"/srv/tftp/a", b"a"),
            (b"//srv/./tftp//a/b", b"a/b"),
            (b"\\srv\\tftp\\a", b"a"),
            (b"/srv/tftp", b"."),
            (b"/srv/tftp/srv/tftp/a", b"srv/tftp/a"),
            (b"srv/tftp/a", b"srv/tftp/a"),
            (b"/srv/tftpboot/a", b"srv/tftpboot/a"),
            (b"/srv/tft", b"srv/tft"),
            (b"/srv", b"srv"),
        ];
        for (request, path) in cases {
            assert_eq!(
                normalised(request, b"/srv/tftp").as_deref(),
                Ok(*path),
                "{}",
                request.escape_ascii()
            );
        }
    }

    #[test]
    fn the_root_directory_has_no_prefix_to_strip() {
        assert_eq!(normalised(b"/etc/x", b"/").as_deref(), Ok(&b"etc/x"[..]));
    }

    #[test]
    fn paths_end_at_path_max() {
        let longest = b"a/".repeat(MAX_PATH / 2 + 1);
        let fits = &longest[..MAX_PATH];
        assert_eq!(normalised(fits, b"/").as_deref(), Ok(fits));
        assert_eq!(
            normalised(&[fits, b"/b"].concat(), b"/"),
            Err(Errno::ENAMETOOLONG)
        );
        assert_eq!(
            normalised(&[b'a'; MAX_PATH + 1], b"/"),
            Err(Errno::ENAMETOOLONG)
        );
        assert_eq!(
            normalised(&[b'/'; 2 * MAX_PATH], b"/").as_deref(),
            Ok(&b"."[..])
        );
    }

    #[test]
    fn the_last_component_is_split_off() {
        let cases: &[(&[u8], &[u8], &[u8])] = &[
            (b"a", b".", b"a"),
            (b"a/b", b"a", b"b"),
            (b"a/b/..", b"a/b", b".."),
            (b".", b".", b"."),
        ];
        for &(path, directory, last) in cases {
            assert_eq!(split_last(path), (directory, last));
        }
    }

    #[test]
    fn garbage_is_cut_at_the_end_only() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"pxelinux.0\xff", b"pxelinux.0"),
            (b"pxelinux.0\xff\xff\x01", b"pxelinux.0"),
            (b"a\xffb", b"a\xffb"),
            (b"plain", b"plain"),
            // Text in UTF-8 is text.
            ("caf\u{e9}".as_bytes(), "caf\u{e9}".as_bytes()),
            (b"\xff\xff", b""),
        ];
        for (request, kept) in cases {
            assert_eq!(
                without_garbage(request),
                *kept,
                "{}",
                request.escape_ascii()
            );
        }
    }

    #[test]
    fn temporary_files_are_known_by_their_last_component() {
        for (path, temporary) in [
            (&b".tftpd-1-0"[..], true),
            (b"a/.tftpd-", true),
            (b".tftpd-1/a", false),
            (b"a.tftpd-1", false),
            (b".tftpd", false),
        ] {
            assert_eq!(is_temporary(path), temporary, "{}", path.escape_ascii());
        }
    }
}
