//! The options of a packet as they came: `packet` carries them, `options` interprets them.
//! Must not: know an option.

use std::iter;

/// The options of a request or OACK as they came: pairs of NUL-terminated strings (RFC
/// 2347), not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawOptions<'a>(&'a [u8]);

impl<'a> RawOptions<'a> {
    /// The bytes after a request's mode or an OACK's opcode.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Names and values in the order they came, up to the first that is
    /// malformed.
    ///
    /// An empty value is well formed (U-Boot sends `multicast ""`), and so is a last value
    /// without its NUL. The list ends at an empty name (HP PA-RISC and `OpenFirmware` pad
    /// their requests with NULs), at a name without a NUL, and at a name without a value.
    pub fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut rest = self.0;
        iter::from_fn(move || {
            let (name, after_name) = split_string(rest);
            let after_name = after_name.filter(|after| !name.is_empty() && !after.is_empty())?;
            let (value, after_value) = split_string(after_name);
            rest = after_value.unwrap_or_default();
            Some((name, value))
        })
    }
}

/// A string up to its NUL, and what follows the NUL; `None` if there is no NUL.
pub(super) fn split_string(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
        None => (bytes, None),
    }
}
