//! A cursor over the caller's buffer that refuses what does not fit.
//!
//! Must not: allocate, or leave half of a string behind.

use std::fmt::{self, Write};

/// Appends to a buffer that it doesn't own. `fmt::Error` means that it doesn't fit.
pub(super) struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> Writer<'b> {
    pub(super) fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes written so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends all of `bytes` or nothing.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        let end = self.len.checked_add(bytes.len()).ok_or(fmt::Error)?;
        self.buffer
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Appends an option, both strings NUL-terminated (RFC 2347), or nothing.
    pub(super) fn option(&mut self, name: &[u8], value: impl fmt::Display) -> fmt::Result {
        let start = self.len;
        self.bytes(name)
            .and_then(|()| write!(self, "\0{value}\0"))
            .inspect_err(|_| self.len = start)
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_fits_whole_or_not_at_all() {
        let mut buffer = [0xee; 12];
        let mut writer = Writer::new(&mut buffer);
        assert_eq!(writer.option(b"tsize", 12_345), Ok(()));
        assert_eq!(writer.len(), 12);
        assert_eq!(writer.bytes(b"x"), Err(fmt::Error));
        assert_eq!(&buffer, b"tsize\x0012345\0");

        let mut writer = Writer::new(&mut buffer);
        assert_eq!(writer.option(b"tsize", 123_456), Err(fmt::Error));
        assert_eq!(writer.len(), 0);
        assert_eq!(writer.option(b"a", 1), Ok(()));
        assert_eq!(writer.len(), 4);
    }
}
