//! The questions under way, each with the request that waits for its answer.
//!
//! Their number is bounded, in all and for each client network. A repeated request is no
//! new question. Must not: do any I/O, or read the clock.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::net::ListenSocket;
use crate::table::rate::network;
use crate::table::{Endpoint, Fingerprint};

/// The most questions under way.
const MAX: usize = 256;

/// The most questions under way of one client network.
const MAX_OF_NETWORK: usize = 128;

/// A request that waits for an answer.
#[derive(Debug)]
pub struct Waiting {
    /// When it came.
    pub since: Instant,
    /// Where it came from and to.
    pub endpoint: Endpoint,
    /// Tells it from other requests.
    pub fingerprint: Fingerprint,
    /// The request as it came.
    pub datagram: Box<[u8]>,
    /// The socket that it came in by.
    pub listener: ListenSocket,
    /// The kernel's number for the interface that it came in by.
    pub interface: Option<u32>,
}

/// The waiting requests, by the numbers of their questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    waiting: BTreeMap<u64, (Instant, Waiting)>,
}

impl Questions {
    /// Whether this request waits already. Another request of the same client ends the
    /// wait of the one before.
    pub(super) fn merge(&mut self, endpoint: &Endpoint, fingerprint: Fingerprint) -> bool {
        let mut own = self.waiting.iter();
        let own = own.find(|(_, (_, it))| it.endpoint == *endpoint);
        let Some((&number, (_, waiting))) = own else {
            return false;
        };
        if waiting.fingerprint == fingerprint {
            return true;
        }
        self.waiting.remove(&number);
        false
    }

    /// Adds a question for `waiting`, which may be answered until `deadline`, and returns
    /// its number; `None` if there are too many. Deadlines must never decrease.
    pub(super) fn add(&mut self, waiting: Waiting, deadline: Instant) -> Option<u64> {
        let own = network(waiting.endpoint.peer.ip());
        let is_own = |it: &&(Instant, Waiting)| network(it.1.endpoint.peer.ip()) == own;
        let of_network = self.waiting.values().filter(is_own).count();
        if self.waiting.len() >= MAX || of_network >= MAX_OF_NETWORK {
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last, (deadline, waiting));
        Some(self.last)
    }

    /// The request that waits for the answer to this question.
    pub(super) fn get(&self, number: u64) -> Option<&Waiting> {
        self.waiting.get(&number).map(|(_, waiting)| waiting)
    }

    /// The same, but removes it: it waits no longer.
    pub(super) fn take(&mut self, number: u64) -> Option<Waiting> {
        self.waiting.remove(&number).map(|(_, waiting)| waiting)
    }

    /// Removes and returns a request whose deadline has passed, if there is one.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Waiting> {
        let first = self.waiting.first_entry()?;
        (first.get().0 <= now).then(|| first.remove().1)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, it)| it.0)
    }

    /// All waiting requests, with the numbers of their questions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        self.waiting.iter().map(|(&number, it)| (number, &it.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::net::Binding;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    #[test]
    fn questions_are_bounded_and_a_repeated_request_is_none() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = ListenSocket::bind(any, Binding::default()).unwrap();
        let start = clock::now();
        let waiting = |client: [u8; 4], port, request: &[u8]| Waiting {
            since: start,
            endpoint: Endpoint {
                peer: (client, port).into(),
                local: Ipv4Addr::LOCALHOST.into(),
            },
            fingerprint: Fingerprint::of(request),
            datagram: request.into(),
            listener: listener.clone(),
            interface: None,
        };
        let later = start + Duration::from_secs(1);
        let mut questions = Questions::default();
        let first = waiting([192, 0, 2, 1], 7, b"a");
        let endpoint = first.endpoint;
        assert!(!questions.merge(&endpoint, Fingerprint::of(b"a")));
        assert_eq!(questions.add(first, start), Some(1));
        assert!(questions.merge(&endpoint, Fingerprint::of(b"a")));
        // Another request from the same port ends the first one's wait.
        assert!(!questions.merge(&endpoint, Fingerprint::of(b"b")));
        assert!(questions.take(1).is_none());
        let mut taken = 0;
        for network in 0..5 {
            for port in 1..=130 {
                let added = questions.add(waiting([10, 0, network, 1], port, b"a"), later);
                taken += usize::from(added.is_some());
            }
        }
        assert_eq!(taken, MAX);
        assert_eq!(questions.next_deadline(), Some(later));
        assert!(questions.take_expired(start).is_none());
        let mut expired = 0;
        while questions.take_expired(later).is_some() {
            expired += 1;
        }
        assert_eq!(expired, MAX);
        assert_eq!(questions.next_deadline(), None);
    }
}
