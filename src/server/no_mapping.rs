//! In place of `mapping` in a build without the feature `map`: no map file can be
//! opened, so there is none to ask.

use std::error::Error;
use std::fmt;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::Path;

use super::cli::Args;
use crate::file::Root;
use crate::wire::packet::Request;

const REFUSAL: &str = "this tftpd was built without map files (feature map)";

#[derive(Debug)]
pub(super) enum MapFile {}

impl MapFile {
    pub(super) fn open(_: &Path) -> Result<Self, String> {
        Err(REFUSAL.into())
    }

    pub(super) fn reload(&mut self) {
        match *self {}
    }

    pub(super) fn map(
        &self,
        _: &Root,
        _: &Request<'_>,
        _: SocketAddr,
    ) -> Result<Vec<u8>, MapRefusal> {
        match *self {}
    }
}

impl fmt::Display for MapFile {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

pub(super) enum MapRefusal {}

impl MapRefusal {
    pub(super) fn message(&self) -> &'static str {
        match *self {}
    }
}

impl fmt::Display for MapRefusal {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// `--map-test`, which has nothing to test.
///
/// # Errors
/// Always.
pub fn test(_: &Args, _: &Path, _: impl BufRead, _: impl Write) -> Result<(), Box<dyn Error>> {
    Err(REFUSAL.into())
}
