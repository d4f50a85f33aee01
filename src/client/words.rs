//! The words of a line, and the names that they make. Must not: know a command.

/// The name of a file in a directory on the server.
pub(super) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The words of a line: what blanks separate, and what quotes hold together.
pub(super) fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    for &byte in line {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            _ if byte.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_separate_and_quotes_hold_together() {
        for (line, expected) in [
            ("get a b\r\n", &["get", "a", "b"][..]),
            ("  ", &[]),
            ("put \"a b\" c", &["put", "a b", "c"]),
            ("a\"b c\"d", &["ab cd"]),
            ("\"\"", &[""]),
            ("\"open", &["open"]),
        ] {
            let words: Vec<_> = expected.iter().map(|it| it.as_bytes().to_vec()).collect();
            assert_eq!(split(line.as_bytes()), words, "{line:?}");
        }
    }
}
