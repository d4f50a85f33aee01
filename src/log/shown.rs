//! What a line is made of: names, texts, addresses, numbers.
//!
//! Everything that came from the network is escaped here, and cut, so that a long name
//! never costs the end of a line. Must not: know an event.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::MARK;
use crate::wire::escape::escape;

/// The most characters of a field that are shown; `…` stands for the rest. Three
/// such fields, the most an event has, fit into a line.
const MAX_FIELD: usize = 1024;

/// A file name, or another text from the network, to stand between quotes.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Cut(&escape(self.0)).fmt(f)
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Something of our own, cut if it is too long.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a>(pub(crate) &'a dyn fmt::Display);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cutter = Cutter {
            to: f,
            left: MAX_FIELD,
        };
        match write!(cutter, "{}", self.0) {
            // An error is the only way to stop, and no failure here.
            Err(_) if cutter.left == 0 => Ok(()),
            done => done,
        }
    }
}

impl fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes until there is no more room.
struct Cutter<'a, W> {
    to: &'a mut W,
    left: usize,
}

impl<W: Write> Write for Cutter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some((cut, _)) = text.char_indices().nth(self.left) {
            self.left = 0;
            self.to.write_str(&text[..cut])?;
            self.to.write_str(MARK)?;
            return Err(fmt::Error);
        }
        self.left -= text.chars().count();
        self.to.write_str(text)
    }
}

/// Addresses with commas between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses<'a>(pub(crate) &'a [SocketAddr]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

/// A duration in seconds, with as many decimals as it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

/// A number and what it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}
