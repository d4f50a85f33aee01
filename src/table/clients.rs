//! How many sessions each client has, where that is bounded: counted as they change,
//! since one client may have all the sessions there are. Must not: know a session.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::key::Client;

/// The sessions of all clients that have some.
#[derive(Debug, Default)]
pub(super) struct ClientCounts(BTreeMap<Client, Counts>);

/// The sessions of one client, without those that are over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Those whose peer has answered.
    pub(super) verified: u32,
    /// Those whose peer never has.
    pub(super) unverified: u32,
}

impl ClientCounts {
    pub(super) fn of(&self, client: Client) -> Counts {
        self.0.get(&client).copied().unwrap_or_default()
    }

    /// The client has one more.
    pub(super) fn add(&mut self, client: Client, is_verified: bool) {
        *self.0.entry(client).or_default().field(is_verified) += 1;
    }

    /// The client has one less.
    pub(super) fn subtract(&mut self, client: Client, is_verified: bool) {
        if let Entry::Occupied(mut counts) = self.0.entry(client) {
            let count = counts.get_mut().field(is_verified);
            *count = count.saturating_sub(1);
            if *counts.get() == Counts::default() {
                counts.remove();
            }
        }
    }
}

impl Counts {
    const fn field(&mut self, is_verified: bool) -> &mut u32 {
        if is_verified {
            &mut self.verified
        } else {
            &mut self.unverified
        }
    }
}
