//! The terms of a transfer: those of the command line, and those that the section of
//! the rules for its client sets in their place.
//!
//! Must not: know a request.

use std::num::NonZeroU64;

use crate::policy::rules::Section;
use crate::protocol::retry::Wait;
use crate::protocol::transfer::Config;
use crate::wire::options::Limits;

/// What a transfer keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) config: Config,
    /// Bytes of DATA a second.
    pub(super) rate: Option<NonZeroU64>,
    /// Files are sent and stored as they are, whatever mode was asked for.
    pub(super) octet: bool,
    /// It uses the listening port, if it may share one.
    pub(super) single_port: bool,
    /// Every datagram goes out twice.
    pub(super) send_twice: bool,
}

impl Terms {
    /// The terms of the command line (`limits`, `config`), changed by those of
    /// `section`.
    pub(super) fn of(section: Option<&Section>, limits: Limits, config: Config) -> Self {
        let mut terms = Self {
            limits,
            config,
            rate: None,
            octet: false,
            single_port: false,
            send_twice: false,
        };
        let Some(section) = section else {
            return terms;
        };
        let settings = &section.settings;
        terms.limits = settings.limits(&limits);
        if let Some(timeout) = settings.timeout {
            terms.config.retry.wait = Wait::Fixed(timeout);
        }
        if let Some(retries) = settings.retries {
            terms.config.retry.retries = retries;
        }
        terms.rate = settings.rate;
        terms.octet = settings.octet;
        terms.single_port = settings.single_port == Some(true);
        terms.send_twice = settings.send_twice;
        terms
    }
}
