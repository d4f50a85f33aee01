//! Finds two files of one call that would get the same name where they go: the second
//! would replace the first. Must not: know what the files are, or what becomes of them.

/// The indices of the first two different files that would get the same name. Each item
/// is a file and its name where it goes; `None`: it has no name there, and replaces
/// nothing. The same file twice is no clash: it replaces itself.
pub(super) fn clash<F: PartialEq, N: PartialEq>(
    files: &[(F, Option<N>)],
) -> Option<(usize, usize)> {
    let is_clash = |one: usize, other: usize| {
        let ((file, name), (other_file, other_name)) = (&files[one], &files[other]);
        name.is_some() && name == other_name && file != other_file
    };
    (0..files.len()).find_map(|other| {
        let one = (0..other).find(|&one| is_clash(one, other))?;
        Some((one, other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_files_of_one_name_clash_and_no_others() {
        for (files, expected) in [
            (&[][..], None),
            (&[("a/f", Some("f"))], None),
            (&[("a/f", Some("f")), ("a/g", Some("g"))], None),
            (&[("a/f", Some("f")), ("b/f", Some("f"))], Some((0, 1))),
            // The same file twice.
            (&[("a/f", Some("f")), ("a/f", Some("f"))], None),
            // A file given twice hides no clash with another.
            (
                &[("a/f", Some("f")), ("a/f", Some("f")), ("b/f", Some("f"))],
                Some((0, 2)),
            ),
            (
                &[("a/f", Some("f")), ("g", Some("g")), ("f", Some("f"))],
                Some((0, 2)),
            ),
            // The first file that clashes with an earlier one counts.
            (
                &[
                    ("a/f", Some("f")),
                    ("a/g", Some("g")),
                    ("b/g", Some("g")),
                    ("b/f", Some("f")),
                ],
                Some((1, 2)),
            ),
            // To standard output, one after the other.
            (&[("a/f", None), ("b/f", None)], None),
            (&[("a/f", None), ("b/f", Some("f"))], None),
        ] {
            assert_eq!(clash(files), expected, "{files:?}");
        }
    }
}
