//! What sender and receiver share: our role, what was agreed, whether the peer has
//! answered, how often we repeat, and how the transfer ended.
//!
//! States and packets belong to sender and receiver. Must not: know a block.

use std::time::{Duration, Instant};

use super::contract::{
    Config, Failure, Outcome, Progress, Proof, REQUEST_MERGE, Role, UNVERIFIED_REPEATS,
};
use super::retry::RetryTimer;
use crate::wire::options::{Negotiated, Rollover};

/// The part of a transfer that doesn't depend on its direction.
#[derive(Debug)]
pub(super) struct Exchange {
    role: Role,
    /// A valid answer has come from the peer's TID.
    verified: bool,
    proof: Proof,
    request_repeats: u8,
    retransmits: u32,
    pub(super) retry: RetryTimer,
    agreed: Agreed,
    /// In a box to save room: while the transfer runs there is none.
    event: Option<Box<Outcome>>,
}

/// [`Negotiated`] in little more than half the memory: thousands of transfers hold one.
#[derive(Debug)]
struct Agreed {
    tsize: u64,
    /// In microseconds; 255 s at most.
    timeout: u32,
    blksize: u16,
    windowsize: u16,
    rollover: Rollover,
    has_tsize: bool,
    has_timeout: bool,
}

const _: () = assert!(size_of::<Agreed>() <= 24);

impl Agreed {
    fn new(negotiated: &Negotiated) -> Self {
        let timeout = negotiated.timeout.unwrap_or_default().as_micros();
        Self {
            tsize: negotiated.tsize.unwrap_or_default(),
            timeout: timeout.try_into().unwrap_or(u32::MAX),
            blksize: negotiated.blksize,
            windowsize: negotiated.windowsize,
            rollover: negotiated.rollover,
            has_tsize: negotiated.tsize.is_some(),
            has_timeout: negotiated.timeout.is_some(),
        }
    }

    const fn negotiated(&self) -> Negotiated {
        Negotiated {
            blksize: self.blksize,
            windowsize: self.windowsize,
            timeout: if self.has_timeout {
                Some(Duration::from_micros(self.timeout as u64))
            } else {
                None
            },
            tsize: if self.has_tsize {
                Some(self.tsize)
            } else {
                None
            },
            rollover: self.rollover,
        }
    }
}

impl Exchange {
    /// `for_acks`: we send ACKs, not DATA.
    pub(super) fn new(config: &Config, role: Role, negotiated: Negotiated, for_acks: bool) -> Self {
        let mut exchange = Self {
            role,
            verified: false,
            proof: config.proof,
            request_repeats: config.request_repeats,
            retransmits: 0,
            retry: RetryTimer::new(config.retry, for_acks),
            agreed: Agreed::new(&Negotiated::default()),
            event: None,
        };
        exchange.agree(&negotiated);
        exchange
    }

    /// These options hold from now on.
    pub(super) fn agree(&mut self, negotiated: &Negotiated) {
        if let Some(timeout) = negotiated.timeout {
            self.retry.negotiated(timeout);
        }
        self.agreed = Agreed::new(negotiated);
    }

    pub(super) const fn negotiated(&self) -> Negotiated {
        self.agreed.negotiated()
    }

    pub(super) const fn is_server(&self) -> bool {
        matches!(self.role, Role::Server)
    }

    pub(super) const fn is_verified(&self) -> bool {
        self.verified
    }

    /// The peer has answered: it is there.
    pub(super) const fn verify(&mut self) {
        self.verified = true;
    }

    /// No answer came in time. Returns whether to send again; if not, the transfer is to
    /// be given up.
    pub(super) fn may_repeat(&mut self, now: Instant) -> bool {
        let max_repeats = match self.role {
            _ if self.verified => u8::MAX,
            Role::Server => UNVERIFIED_REPEATS,
            Role::Client => self.request_repeats,
        };
        self.retry.back_off(now, max_repeats)
    }

    /// Whether an answer proves nothing, since someone who sees none of our packets can
    /// send one.
    pub(super) const fn may_be_forged(&self) -> bool {
        matches!(self.proof, Proof::Never)
    }

    /// The client sent its request again. Returns whether to repeat our answer, once per
    /// request: only until the peer is verified, and not within [`REQUEST_MERGE`] of our
    /// last answer, which the request then crossed.
    pub(super) fn answers_repeated_request(&self, now: Instant) -> bool {
        let sent = self.retry.last_sent();
        !self.verified && sent.is_some_and(|sent| now >= sent + REQUEST_MERGE)
    }

    /// How long ago the transfer last moved.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        let since = self.retry.waiting_since();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// This many datagrams went out again.
    pub(super) const fn count_retransmits(&mut self, datagrams: u32) {
        self.retransmits = self.retransmits.saturating_add(datagrams);
    }

    pub(super) const fn retransmits(&self) -> u32 {
        self.retransmits
    }

    /// The transfer ended like this.
    pub(super) fn end(&mut self, outcome: Outcome) {
        self.event = Some(Box::new(outcome));
        self.retry.stop();
    }

    /// The transfer ended from our side.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.end(Outcome::Failed(failure));
    }

    /// The file is complete and in place; only the final ACK is left.
    pub(super) fn complete(&mut self) {
        self.event = Some(Box::new(Outcome::Completed));
    }

    pub(super) fn poll_event(&mut self) -> Option<Outcome> {
        self.event.take().map(|outcome| *outcome)
    }

    pub(super) fn progress(&self, blocks: u64) -> Progress {
        Progress {
            blocks,
            block_size: self.agreed.blksize,
            window_size: self.agreed.windowsize,
            retransmits: self.retransmits.into(),
            verified: self.verified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_agreed_is_kept_whole() {
        for (timeout, tsize) in [
            (None, None),
            (Some(Duration::from_secs(255)), Some(0)),
            (Some(Duration::from_millis(10)), Some(u64::MAX)),
        ] {
            let negotiated = Negotiated {
                blksize: 65464,
                windowsize: 64,
                timeout,
                tsize,
                rollover: Rollover::ToOne,
            };
            assert_eq!(Agreed::new(&negotiated).negotiated(), negotiated);
        }
    }
}
