//! Stands in for the status port in a build without the feature `status`: there is no
//! port, and nothing is kept for one.

mod view;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::{Registry, Token};

pub(crate) use self::view::View;
use crate::host::InheritedStream;
use crate::log::event::Event;
use crate::wire::packet::{Direction, ErrorCode};

/// There is no address.
#[derive(Debug)]
pub enum StatusAddress {}

impl StatusAddress {
    pub(crate) const fn of_worker(&self, _: u8) -> Result<Self, String> {
        match *self {}
    }
}

/// There is no socket.
#[derive(Debug)]
pub(crate) enum Listener {}

impl Listener {
    pub(crate) const fn bind(address: &StatusAddress) -> Result<Self, String> {
        match *address {}
    }

    pub(crate) fn resume(_: InheritedStream) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) const fn path(&self) -> Option<&Path> {
        match *self {}
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match *self {}
    }
}

/// There is no port.
#[derive(Debug)]
pub(crate) enum Status {}

/// Never made.
#[derive(Debug, Default)]
pub(crate) struct History;

#[allow(clippy::unused_self, reason = "as with the feature")]
impl History {
    pub(crate) fn tell(&mut self, _: &Event<'_>) {}

    pub(crate) fn end(&mut self, _: Direction, _: &str, _: Duration) {}

    pub(crate) fn refuse(&mut self, _: ErrorCode) {}

    pub(crate) fn answer(&mut self, _: Duration) {}

    pub(crate) fn moved(&mut self, _: Direction, _: u64, _: u64) {}
}

impl Status {
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    pub(crate) fn open(
        _: Option<&StatusAddress>,
        _: bool,
        _: Vec<InheritedStream>,
        _: Instant,
    ) -> Result<Option<Self>, String> {
        Ok(None)
    }

    pub(crate) fn descriptors(&self) -> usize {
        match *self {}
    }

    pub(crate) fn socket_path(&self) -> Option<&Path> {
        match *self {}
    }

    pub(crate) fn lose_path(&mut self) {
        match *self {}
    }

    pub(crate) fn register(&self, _: &Registry, _: Token) -> io::Result<()> {
        match *self {}
    }

    pub(crate) const fn has_work(&self) -> bool {
        match *self {}
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match *self {}
    }

    pub(crate) fn is_due(&self, _: Instant, _: bool) -> bool {
        match *self {}
    }

    pub(crate) fn stop_accepting(&mut self) {
        match *self {}
    }

    pub(crate) const fn is_idle(&self) -> bool {
        match *self {}
    }

    pub(crate) fn turn_took(&mut self, _: Duration) {
        match *self {}
    }

    pub(crate) const fn started(&self) -> Instant {
        match *self {}
    }

    pub(crate) fn run(&mut self, _: &View<'_>) {
        match *self {}
    }
}
