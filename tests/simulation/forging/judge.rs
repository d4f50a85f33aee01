//! What must hold once the last forged datagram has no effect any more.

use std::collections::BTreeSet;
use std::time::Duration;

use tftpd::protocol::transfer::{Outcome, UNVERIFIED_REPEATS};
use tftpd::session::NONSENSE_ANSWERS;
use tftpd::wire::packet::Direction;

use super::super::server::client_address;
use super::promise::LARGEST;
use super::{Forging, Ports};

impl Forging {
    pub(super) fn judge(&mut self) {
        self.server.sessions.check_invariants();
        let is_lossy = self.net.with(|network| network.weather.loss > 0);
        for (client, honest) in self.clients.iter().enumerate() {
            // Where slots are short, a complete upload is evicted first: if its last ACK
            // was lost, the client doesn't learn of it.
            let may_be_untold = is_lossy && honest.direction == Direction::Write;
            let outcome = honest.outcome.as_ref();
            // A client whose answer was lost has proved nothing, and may be evicted like
            // a forged one.
            if is_lossy && self.displaced.contains(&client) && outcome != Some(&Outcome::Completed)
            {
                continue;
            }
            // Somebody tried ports in the client's name before it had begun.
            if self.suspected.contains(&client) && outcome != Some(&Outcome::Completed) {
                self.tally.suspected += 1;
                continue;
            }
            // The same datagram was lost again and again, which is no forger's fault.
            let address = client_address(client);
            let is_unlucky = self.net.with(|network| network.unlucky.contains(&address));
            if is_unlucky && outcome != Some(&Outcome::Completed) {
                self.tally.unlucky += 1;
                continue;
            }
            assert!(
                outcome == Some(&Outcome::Completed) || may_be_untold,
                "honest client {client}: {outcome:?}"
            );
            match honest.direction {
                Direction::Read => assert!(
                    honest.stored.borrow().bytes == honest.expected,
                    "client {client} got something else"
                ),
                Direction::Write => {
                    let mut all = self.uploads.iter().filter(|(whose, _)| *whose == client);
                    let is_there = all.any(|(_, stored)| {
                        let stored = stored.borrow();
                        stored.committed && stored.bytes == honest.expected
                    });
                    assert!(is_there, "client {client} uploaded something else");
                }
            }
            self.tally.honest += 1;
        }
        for (address, victim) in &self.victims {
            self.tally.reflected += victim.packets;
            self.tally.reflected_bytes += victim.bytes;
            if self.ports == Ports::Single || victim.acknowledged {
                continue;
            }
            let most = (1 + u64::from(UNVERIFIED_REPEATS)) * victim.requests + victim.others;
            assert!(victim.packets <= most, "{address}: {victim:?}");
            let most = most * LARGEST as u64;
            assert!(victim.bytes <= most, "{address}: {victim:?}");
        }
        // At most this many in one second, and as many at the start of the next; half of
        // them for one network.
        let all: Vec<_> = self.nonsense.iter().map(|it| it.0).collect();
        assert_rate(&all, 2 * NONSENSE_ANSWERS as usize);
        let networks: BTreeSet<_> = self.nonsense.iter().map(|it| it.1).collect();
        for one in networks {
            let of_it = self.nonsense.iter().filter(|it| it.1 == one);
            let of_it: Vec<_> = of_it.map(|it| it.0).collect();
            assert_rate(&of_it, NONSENSE_ANSWERS as usize);
        }
    }
}

/// Asserts that at most this many answers fall within a second.
fn assert_rate(answers: &[Duration], most: usize) {
    for few in answers.windows(most + 1) {
        let took = few[most].saturating_sub(few[0]);
        assert!(took >= Duration::from_secs(1), "{most} answers to nonsense");
    }
}
