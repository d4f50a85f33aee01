//! Stands in for `map` in a build without the feature `map`: no map file can be read, so
//! there are no rules.

#[path = "map/file.rs"]
pub mod file;

use std::fmt;
use std::net::IpAddr;

use crate::wire::packet::Direction;

/// As in `map`.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "nobody reads it")]
pub struct MapRequest<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) direction: Direction,
    pub(crate) client: IpAddr,
}

/// As in `map`.
pub struct Mapped {
    pub(crate) result: Result<Vec<u8>, MapRefusal>,
    pub(crate) lines: Vec<u32>,
    pub(crate) scanned: u64,
}

/// No value of this type can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapRefusal {}

impl MapRefusal {
    pub(crate) const fn message(self) -> &'static str {
        match self {}
    }
}

impl fmt::Display for MapRefusal {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// No value of this type can be made.
#[derive(Debug)]
pub enum Rules {}

impl Rules {
    pub(crate) fn parse(_: &[u8]) -> Result<Self, &'static str> {
        Err("this tftpd was built without map files (feature map); leave -m out")
    }

    pub(crate) fn parse_ignoring_case(text: &[u8]) -> Result<Self, &'static str> {
        Self::parse(text)
    }

    pub(crate) fn len(&self) -> usize {
        match *self {}
    }

    pub(crate) fn apply(&self, _: &MapRequest<'_>, _: impl Fn(&[u8]) -> bool) -> Mapped {
        match *self {}
    }

    pub(crate) const fn tell_directions_apart(&self) -> bool {
        match *self {}
    }
}

/// Lines of a map file: none.
pub(crate) struct Lines<'a>(pub(crate) &'a [u32]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([..]) = self;
        Ok(())
    }
}
