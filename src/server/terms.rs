//! What a transfer keeps to: what the command line says, and what the section of the
//! rules that holds for its client says.
//!
//! Must not: know a request.

use super::ports::Sharing;
use crate::policy::rules::Section;
use crate::protocol::retry::Wait;
use crate::protocol::transfer::{Config, Proof};
use crate::wire::options::Limits;
use crate::wire::packet::Direction;

/// What a transfer is to keep to.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) config: Config,
    /// Files are sent and stored as they are, whatever mode was asked for.
    pub(super) octet: bool,
    /// It uses the listening port.
    single_port: bool,
    pub(super) send_twice: bool,
}

impl Terms {
    /// With what the command line says, and the rules if they say anything.
    ///
    /// # Errors
    /// The section has as many transfers as it may.
    pub(super) fn of(
        section: Option<&Section>,
        limits: Limits,
        config: Config,
    ) -> Result<Self, &'static str> {
        let mut terms = Self {
            limits,
            config,
            octet: false,
            single_port: false,
            send_twice: false,
        };
        let Some(section) = section else {
            return Ok(terms);
        };
        if section.is_full() {
            return Err("the limit of sessions of its section of the rules is reached");
        }
        let settings = &section.settings;
        terms.limits = settings.limits(&limits);
        if let Some(timeout) = settings.timeout {
            terms.config.retry.wait = Wait::Fixed(timeout);
        }
        if let Some(retries) = settings.retries {
            terms.config.retry.retries = retries;
        }
        terms.octet = settings.octet;
        terms.single_port = settings.single_port;
        terms.send_twice = settings.send_twice;
        Ok(terms)
    }

    /// Whether it shares its port, if it may; `is_light` where slots are short.
    pub(super) const fn sharing(
        &self,
        direction: Direction,
        may_share: bool,
        is_light: bool,
    ) -> Sharing {
        match direction {
            _ if may_share && self.single_port => Sharing::Listener,
            Direction::Read if is_light => Sharing::Always,
            Direction::Read if may_share => Sharing::Instead,
            // Where ports are few, or one, each can be guessed anyway.
            Direction::Write if may_share && matches!(self.config.proof, Proof::Never) => {
                Sharing::Instead
            }
            _ => Sharing::Never,
        }
    }
}
