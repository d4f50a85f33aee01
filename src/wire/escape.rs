//! Bytes from the network, made safe for a log line or a terminal.
//!
//! Must not: let through anything that moves a cursor, starts a line, ends a
//! quotation, or changes the direction of text.

use std::fmt::{self, Write};

/// The most bytes that [`escape`] shows: as many as RFC 2347 allows in a request.
pub const MAX_ESCAPED_BYTES: usize = 512;

/// Bytes from the network for a log, to be put between double quotes.
///
/// Printable text stays as it is. Double quotes and backslashes get a backslash. Each byte of
/// anything else (control and formatting characters, combining marks, invalid UTF-8)
/// becomes `\xNN`. Anything beyond [`MAX_ESCAPED_BYTES`] is cut and replaced by `…`.
pub fn escape(bytes: &[u8]) -> impl fmt::Display {
    Escaped {
        bytes,
        is_quoted: true,
    }
}

/// The same for a message to a person, without quotes around it: quotes and backslashes
/// stay as they are.
pub fn printable(bytes: &[u8]) -> impl fmt::Display {
    Escaped {
        bytes,
        is_quoted: false,
    }
}

struct Escaped<'a> {
    bytes: &'a [u8],
    is_quoted: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(MAX_ESCAPED_BYTES)];
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '"' | '\\' if self.is_quoted => write!(f, "\\{character}")?,
                    '"' | '\'' | '\\' => f.write_char(character)?,
                    // Printable is what the standard library's debug form leaves alone.
                    _ if character.escape_debug().eq([character]) => f.write_char(character)?,
                    _ => hex(f, character.encode_utf8(&mut [0; 4]).as_bytes())?,
                }
            }
            hex(f, chunk.invalid())?;
        }
        if shown.len() < self.bytes.len() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_harmless_text_stays_as_it_is() {
        for (bytes, shown) in [
            (&b"pxelinux.cfg/01-aa bb"[..], "pxelinux.cfg/01-aa bb"),
            ("größe/日本".as_bytes(), "größe/日本"),
            (b"", ""),
            (br#"a"b'c\d"#, r#"a\"b'c\\d"#),
            (b"a\nb\r\t\0", r"a\x0ab\x0d\x09\x00"),
            (b"\x1b[31mred\x7f", r"\x1b[31mred\x7f"),
            ("\u{9b}31m".as_bytes(), r"\xc2\x9b31m"),
            ("a\u{202e}b".as_bytes(), r"a\xe2\x80\xaeb"),
            ("a\u{2028}b".as_bytes(), r"a\xe2\x80\xa8b"),
            ("a\u{301}".as_bytes(), r"a\xcc\x81"),
            (b"boot.bin\xff\xff", r"boot.bin\xff\xff"),
            (b"\xe6\x97", r"\xe6\x97"),
        ] {
            assert_eq!(escape(bytes).to_string(), shown);
        }
    }

    #[test]
    fn a_person_reads_names_as_they_are() {
        for (bytes, shown) in [
            (&b"it's"[..], "it's"),
            (br#"a"b'c\d"#, r#"a"b'c\d"#),
            ("größe".as_bytes(), "größe"),
            (b"a\n\x1b\xff", r"a\x0a\x1b\xff"),
        ] {
            assert_eq!(printable(bytes).to_string(), shown);
        }
    }

    #[test]
    fn the_length_is_bounded() {
        let long = [b'a'; MAX_ESCAPED_BYTES + 1];
        let exact = &long[1..];
        assert_eq!(escape(exact).to_string().as_bytes(), exact);
        let cut = escape(&long).to_string();
        assert_eq!(cut.strip_suffix('…').unwrap().as_bytes(), exact);
    }

    proptest! {
        #[test]
        fn no_control_character_ever_comes_out(bytes: Vec<u8>, text: String) {
            for input in [&bytes[..], text.as_bytes()] {
                let shown = escape(input).to_string();
                prop_assert!(!shown.contains(char::is_control));
                prop_assert!(!printable(input).to_string().contains(char::is_control));
                prop_assert!(!shown.replace("\\\"", "").contains('"'));
            }
        }
    }
}
