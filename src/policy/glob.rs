//! Patterns for the names that rights are about: `boot/*.efi`, `backup/**`, `!secret/`.
//!
//! `*` and `?` stay within one folder, `**` stands for any number of folders; a pattern
//! that ends in `/` means everything below. The work of matching is bounded by the
//! product of the lengths of pattern and name. Must not: look at files.

/// Bytes of the longest pattern.
pub(crate) const MAX_PATTERN: usize = 255;

/// The most patterns in a list.
#[cfg(feature = "rules")]
pub(crate) const MAX_PATTERNS: usize = 64;

/// A list of patterns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Globs {
    /// A name must match one of these, if there are any.
    allowed: Vec<Box<[u8]>>,
    /// A name must match none of these.
    denied: Vec<Box<[u8]>>,
}

impl Globs {
    /// Adds a pattern; a `!` before it denies what it matches.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), &'static str> {
        let (list, pattern) = match text.strip_prefix('!') {
            Some(pattern) => (&mut self.denied, pattern),
            None => (&mut self.allowed, text),
        };
        let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
        if pattern.is_empty() {
            return Err("expected a pattern of names, such as boot/*.efi or backup/");
        }
        if pattern.len() > MAX_PATTERN {
            return Err("the pattern is too long");
        }
        if pattern.split('/').any(|part| part == ".." || part == ".") {
            return Err("no name has . or .. in it");
        }
        let mut pattern = pattern.as_bytes().to_vec();
        if pattern.ends_with(b"/") {
            pattern.extend_from_slice(b"**");
        }
        list.push(pattern.into());
        Ok(())
    }

    /// Whether the list allows this name.
    pub(crate) fn allow(&self, name: &[u8]) -> bool {
        let is_in = |list: &[Box<[u8]>]| list.iter().any(|pattern| matches(pattern, name));
        (self.allowed.is_empty() || is_in(&self.allowed)) && !is_in(&self.denied)
    }

    /// What matching this name costs, in bytes. The worst pattern makes up to
    /// [`MAX_PATTERN`] comparisons for each byte.
    pub(crate) fn work(&self, name: &[u8]) -> u64 {
        let patterns = (self.allowed.len() + self.denied.len()) as u64;
        patterns * name.len() as u64
    }
}

/// Whether `pattern` matches the whole `name`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let pattern: Vec<_> = pattern.split(|&byte| byte == b'/').collect();
    let name: Vec<_> = name.split(|&byte| byte == b'/').collect();
    let is_any = |part: &&[u8]| *part == b"**";
    // `boot/` means what is below, not a file of that name: the `**` at the end stands
    // for the file's own name at least.
    let name = match name.split_last() {
        Some((_, folders)) if pattern.last().is_some_and(is_any) => folders,
        _ => &name,
    };
    wild(&pattern, name, is_any, |part, name| {
        wild(
            part,
            name,
            |&byte| byte == b'*',
            |&wanted, &byte| wanted == b'?' || wanted == byte,
        )
    })
}

/// Matches a pattern in which wildcards, told by `is_any`, stand for any number of items.
/// It goes back to the last wildcard only, which is enough.
fn wild<P, N>(
    pattern: &[P],
    name: &[N],
    is_any: impl Fn(&P) -> bool,
    is_same: impl Fn(&P, &N) -> bool,
) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while place < name.len() {
        match pattern.get(at) {
            Some(part) if is_any(part) => {
                back = Some((at + 1, place));
                at += 1;
            }
            Some(part) if is_same(part, &name[place]) => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((after, from)) = back else {
                    return false;
                };
                back = Some((after, from + 1));
                at = after;
                place = from + 1;
            }
        }
    }
    pattern[at..].iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_folder_by_folder() {
        for (pattern, name, matched) in [
            ("f", "f", true),
            ("f", "ff", false),
            ("f", "d/f", false),
            ("/f", "f", true),
            ("*", "f", true),
            ("*", "d/f", false),
            ("*.efi", "a.efi", true),
            ("*.efi", "a.efi.txt", false),
            ("a*b*c", "aXbbYc", true),
            ("a*b*c", "aXbbY", false),
            ("?", "f", true),
            ("?", "ff", false),
            ("d/*", "d/f", true),
            ("d/*", "d/e/f", false),
            ("d/", "d/f", true),
            ("d/", "d/e/f", true),
            ("d/", "d", false),
            ("d/**", "d/e/f", true),
            ("d/**", "d", false),
            ("**", "d/e/f", true),
            ("**", "f", true),
            ("**/f", "f", true),
            ("**/f", "d/e/f", true),
            ("**/f", "d/e/g", false),
            ("**/x/*.c", "a/x/b/x/f.c", true),
            ("d/**/f", "d/f", true),
            ("d/**/f", "d/a/b/f", true),
            ("d/**/f", "e/a/b/f", false),
            ("*/secret", "d/secret", true),
            ("**/d/", "d/f", true),
            ("**/d/", "x/d/f", true),
            ("**/d/", "d/d", true),
            ("**/d/", "d", false),
            ("**/d/", "x/d", false),
            ("**/d/**", "x/y/d", false),
            ("**/", "f", true),
        ] {
            let mut globs = Globs::default();
            globs.add(pattern).unwrap();
            assert_eq!(globs.allow(name.as_bytes()), matched, "{name} by {pattern}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_even_if_allowed() {
        let globs = |all: &[&str]| {
            let mut globs = Globs::default();
            for pattern in all {
                globs.add(pattern).unwrap();
            }
            globs
        };
        for (patterns, name, allowed) in [
            (&[][..], "f", true),
            (&["!secret/"], "f", true),
            (&["!secret/"], "secret/f", false),
            (&["d/", "!d/*.key"], "d/f", true),
            (&["d/", "!d/*.key"], "d/f.key", false),
            (&["!d/*.key", "d/"], "d/f.key", false),
            (&["d/"], "f", false),
        ] {
            let allow = globs(patterns).allow(name.as_bytes());
            assert_eq!(allow, allowed, "{name} by {patterns:?}");
        }
        for wrong in ["", "!", "/", "../f", "d/./f", &"x".repeat(300)] {
            assert!(Globs::default().add(wrong).is_err(), "{wrong}");
        }
    }

    /// Even the slowest pattern on the longest name: the work is no more than the product
    /// of their lengths.
    #[test]
    fn no_pattern_takes_long() {
        let mut globs = Globs::default();
        globs.add(&"*a".repeat(127)).unwrap();
        globs.add(&("**/a*/".repeat(41) + "x")).unwrap();
        let name = "a/".repeat(500) + &"a".repeat(500) + "b";
        assert!(!globs.allow(name.as_bytes()));
    }
}
