//! A bounded number of bytes, kept without an allocation.
//!
//! Must not: hide that something was cut.

use std::fmt::{self, Write as _};

/// The first `N` bytes of something.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Short<const N: usize> {
    bytes: [u8; N],
    len: u16,
    is_cut: bool,
}

impl<const N: usize> Short<N> {
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut short = Self {
            bytes: [0; N],
            len: 0,
            is_cut: false,
        };
        short.push(text);
        short
    }

    pub(crate) fn shown(text: &dyn fmt::Display) -> Self {
        let mut short = Self::of(b"");
        // Writing can't fail: what doesn't fit is dropped.
        let _ = write!(short, "{text}");
        short
    }

    fn push(&mut self, text: &[u8]) {
        let len = usize::from(self.len);
        let taken = text.len().min(N - len);
        self.bytes[len..len + taken].copy_from_slice(&text[..taken]);
        self.len += taken as u16;
        self.is_cut |= taken < text.len();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl<const N: usize> fmt::Write for Short<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Short<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.bytes()))?;
        if self.is_cut {
            f.write_char('…')
        } else {
            Ok(())
        }
    }
}

impl<const N: usize> fmt::Debug for Short<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.bytes()))
    }
}
