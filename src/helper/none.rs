//! Stands in for `helper` in a build without the feature `helper`: there is no helper.
#![allow(missing_docs, dead_code, reason = "as in `helper`, and nobody uses it")]

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Registry, Token};

use crate::host::Identity;
use crate::log::event::Event;
use crate::net::ListenSocket;
use crate::policy::glob::Globs;
use crate::table::{Endpoint, Fingerprint};
use crate::wire::packet::{ErrorCode, Request};

/// As in `helper`.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    Command(&'a str),
    Socket(&'a Path),
}

/// As in `helper`.
#[derive(Debug)]
pub struct Asking {
    pub(crate) names: Option<Globs>,
    pub(crate) missing: bool,
    pub(crate) timeout: Duration,
}

/// As in `helper`; nobody answers.
#[derive(Debug)]
pub enum Answer {
    Unknown,
    Path(Box<[u8]>),
    File(OwnedFd),
    Refuse(ErrorCode, String),
}

/// As in `helper`; nothing waits.
#[derive(Debug)]
pub struct Waiting {
    pub(crate) since: Instant,
    pub(crate) endpoint: Endpoint,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) datagram: Box<[u8]>,
    pub(crate) listener: ListenSocket,
    pub(crate) interface: Option<u32>,
}

/// No value of this type can be made: no helper is told anything.
#[derive(Debug)]
pub enum Outbox {}

impl Outbox {
    pub(crate) fn tell(&mut self, _: &Event<'_>) {
        match *self {}
    }
}

/// As in `helper`.
pub type Events = Rc<RefCell<Outbox>>;

/// No value of this type can be made.
#[derive(Debug)]
pub enum Helper {}

impl Helper {
    pub(crate) fn start(
        _: Source<'_>,
        _: Asking,
        _: Option<&Identity>,
        _: Token,
        _: Instant,
    ) -> Result<Self, String> {
        Err("this tftpd was built without helpers (feature helper); leave --helper out".to_owned())
    }

    pub(crate) fn register(&mut self, _: &Registry) -> std::io::Result<()> {
        match *self {}
    }

    pub(crate) fn stop(&mut self) {
        match *self {}
    }

    pub(crate) fn events(&self) -> Events {
        match *self {}
    }

    pub(crate) fn knows(&self, _: &[u8]) -> bool {
        match *self {}
    }

    pub(crate) fn knows_missing(&self, _: &Request<'_>) -> bool {
        match *self {}
    }

    pub(crate) fn is_there(&self) -> bool {
        match *self {}
    }

    pub(crate) fn merge_with_question(&mut self, _: &Endpoint, _: Fingerprint) -> bool {
        match *self {}
    }

    pub(crate) fn has_questions(&self) -> bool {
        match *self {}
    }

    pub(crate) fn ask(&mut self, _: Instant, _: Waiting) -> bool {
        match *self {}
    }

    pub(crate) fn has_work(&self) -> bool {
        match *self {}
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match *self {}
    }

    pub(crate) fn run(&mut self, _: Instant, _: bool, _: &Registry) -> Vec<(Waiting, Answer)> {
        match *self {}
    }

    pub(crate) fn flush(&mut self, _: Instant) {
        match *self {}
    }
}
