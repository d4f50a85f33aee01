//! Netascii: text with CR LF line ends (RFC 764, RFC 1350 §1).
//!
//! On the wire LF is CR LF, and CR is CR NUL. Encoder and decoder work however input and
//! output are split, and keep one byte of state. The state is cheap to copy: a caller that
//! saves it at the start of a window can produce that window again.
//!
//! Must not: allocate, or know about blocks and files.

const CR: u8 = b'\r';
const LF: u8 = b'\n';
const NUL: u8 = 0;

/// How far a call got, in bytes. Either all input is consumed or the output is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// Bytes taken from the front of the input.
    pub consumed: usize,
    /// Bytes put at the front of the output.
    pub written: usize,
}

/// From the file to the wire. At the end of the file the text is complete once
/// [`Encoder::is_complete`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoder {
    /// The second byte of a pair whose CR was the last byte that fitted.
    pending: Option<u8>,
}

impl Encoder {
    /// Encodes as much of `input` as fits into `output`, after what was left over from the
    /// last call. The output is at most twice the input, plus one byte.
    pub fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Converted {
        let (mut consumed, mut written) = (0, 0);
        loop {
            if let Some(second) = self.pending {
                let Some(place) = output.get_mut(written) else {
                    break;
                };
                *place = second;
                written += 1;
                self.pending = None;
            }
            let plain = copy_until(&input[consumed..], &mut output[written..], |byte| {
                byte == CR || byte == LF
            });
            consumed += plain;
            written += plain;
            let (Some(&first), Some(place)) = (input.get(consumed), output.get_mut(written)) else {
                break;
            };
            *place = CR;
            self.pending = Some(if first == LF { LF } else { NUL });
            consumed += 1;
            written += 1;
        }
        Converted { consumed, written }
    }

    /// Whether everything consumed has been written. If not, the next call writes one more
    /// byte, even if its input is empty.
    pub const fn is_complete(self) -> bool {
        self.pending.is_none()
    }
}

/// From the wire to the file. A CR that isn't followed by LF or NUL is kept as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decoder {
    /// The last byte consumed was a CR, whose meaning depends on the next byte.
    after_cr: bool,
}

impl Decoder {
    /// Decodes as much of `input` as fits into `output`. The output is at most
    /// the input plus one byte.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Converted {
        let (mut consumed, mut written) = (0, 0);
        loop {
            let plain = if self.after_cr {
                0
            } else {
                copy_until(&input[consumed..], &mut output[written..], |byte| {
                    byte == CR
                })
            };
            consumed += plain;
            written += plain;
            let (Some(&byte), Some(place)) = (input.get(consumed), output.get_mut(written)) else {
                break;
            };
            if self.after_cr {
                *place = if byte == LF { LF } else { CR };
                written += 1;
                consumed += usize::from(byte == LF || byte == NUL);
                self.after_cr = false;
            } else {
                consumed += 1;
                self.after_cr = true;
            }
        }
        Converted { consumed, written }
    }

    /// Ends the text. Returns the CR that still waited for its second byte, if any.
    pub const fn finish(self) -> Option<u8> {
        if self.after_cr { Some(CR) } else { None }
    }
}

/// Copies up to the first byte that `is_special`, the end of the input or the
/// end of the output; returns the bytes copied.
fn copy_until(input: &[u8], output: &mut [u8], is_special: impl Fn(u8) -> bool) -> usize {
    let room = input.len().min(output.len());
    let plain = input[..room]
        .iter()
        .position(|&byte| is_special(byte))
        .unwrap_or(room);
    output[..plain].copy_from_slice(&input[..plain]);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes with these chunk sizes for input and output, in turn.
    fn encode(input: &[u8], chunks: &[(usize, usize)]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let mut output = Vec::new();
        let mut rest = input;
        for &(take, room) in chunks.iter().cycle() {
            let mut buffer = vec![0; room];
            let progress = encoder.encode(&rest[..take.min(rest.len())], &mut buffer);
            output.extend_from_slice(&buffer[..progress.written]);
            rest = &rest[progress.consumed..];
            if rest.is_empty() && encoder.is_complete() {
                break;
            }
        }
        output
    }

    fn decode(input: &[u8], chunks: &[(usize, usize)]) -> Vec<u8> {
        let mut decoder = Decoder::default();
        let mut output = Vec::new();
        let mut rest = input;
        for &(take, room) in chunks.iter().cycle() {
            let mut buffer = vec![0; room];
            let progress = decoder.decode(&rest[..take.min(rest.len())], &mut buffer);
            output.extend_from_slice(&buffer[..progress.written]);
            rest = &rest[progress.consumed..];
            if rest.is_empty() {
                break;
            }
        }
        output.extend(decoder.finish());
        output
    }

    #[test]
    fn line_ends_and_returns_become_pairs_and_come_back() {
        for (file, wire) in [
            (&b""[..], &b""[..]),
            (b"plain", b"plain"),
            (b"\n", b"\r\n"),
            (b"\r", b"\r\0"),
            (b"\r\n", b"\r\0\r\n"),
            (b"\n\n\r\r", b"\r\n\r\n\r\0\r\0"),
            (b"a\0b\nc", b"a\0b\r\nc"),
        ] {
            for chunks in [[(64, 64)], [(1, 1)], [(64, 1)], [(1, 64)]] {
                assert_eq!(encode(file, &chunks), wire, "{chunks:?}");
                assert_eq!(decode(wire, &chunks), file, "{chunks:?}");
            }
        }
    }

    #[test]
    fn a_lone_return_on_the_wire_is_kept() {
        for (wire, file) in [
            (&b"a\rb"[..], &b"a\rb"[..]),
            (b"a\r\r\nb", b"a\r\nb"),
            (b"\r\r\0", b"\r\r"),
            (b"end\r", b"end\r"),
            (b"\n\0", b"\n\0"),
        ] {
            for chunks in [[(64, 64)], [(1, 1)], [(64, 1)], [(1, 64)]] {
                assert_eq!(decode(wire, &chunks), file, "{chunks:?}");
            }
        }
    }

    #[test]
    fn a_block_that_ends_within_a_pair_can_be_produced_again() {
        let mut encoder = Encoder::default();
        let mut block = [0; 4];
        let first = encoder.encode(b"abc\ndef", &mut block);
        assert_eq!((first.consumed, first.written, &block), (4, 4, b"abc\r"));
        assert!(!encoder.is_complete());

        let checkpoint = encoder;
        for mut again in [encoder, checkpoint] {
            let second = again.encode(b"def", &mut block);
            assert_eq!((second.consumed, second.written, &block), (3, 4, b"\ndef"));
            assert!(again.is_complete());
        }
    }

    #[test]
    fn the_documented_room_suffices() {
        let mut decoder = Decoder::default();
        let mut room = [0; 3];
        assert_eq!(decoder.decode(b"\r", &mut room).written, 0);
        let progress = decoder.decode(b"ab", &mut room);
        assert_eq!((progress.consumed, &room), (2, b"\rab"));

        let mut encoder = Encoder::default();
        assert_eq!(encoder.encode(b"\n", &mut room[..1]).consumed, 1);
        let progress = encoder.encode(b"\r", &mut room);
        assert_eq!((progress.consumed, &room), (1, b"\n\r\0"));
    }

    /// Bytes among which CR, LF and NUL are frequent.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(CR), Just(LF), Just(NUL), any::<u8>()];
        prop::collection::vec(byte, 0..200)
    }

    fn chunks() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((1usize..20, 1usize..20), 1..8)
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_however_it_is_cut(
            file in text(), one in chunks(), other in chunks(),
        ) {
            let wire = encode(&file, &one);
            prop_assert_eq!(&wire, &encode(&file, &[(1000, 1000)]));
            prop_assert_eq!(decode(&wire, &other), file);
        }

        #[test]
        fn any_wire_decodes_the_same_however_it_is_cut(wire in text(), cut in chunks()) {
            prop_assert_eq!(decode(&wire, &cut), decode(&wire, &[(1000, 1000)]));
        }
    }
}
