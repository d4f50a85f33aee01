//! Who gives way when room is needed.
//!
//! Sessions that are over come first, then those whose peer never answered, then the
//! silent ones. Must not: end a session, or change anything else.

use std::time::{Duration, Instant};

use super::key::IndexKey;
use super::{Admission, Client, Entry, SessionKey, Sessions, Tracked, client_of};

/// How long a session may wait for its peer's first answer before a new request may
/// take its slot, if slots are short: longer than an answer takes on the same network,
/// shorter than a flood takes to fill the table.
pub const UNVERIFIED_GRACE: Duration = Duration::from_millis(50);

/// A session whose peer hasn't moved it forward for this long gives way to a new one,
/// if slots are short. Phones and switches pause for seconds while they write.
pub const SILENCE: Duration = Duration::from_secs(10);

/// How many sessions are looked at to find a silent one: a bound on what a request
/// costs where the table is full.
const LOOKED_AT: usize = 512;

/// How soon to look for a silent session again after none was found: a full table is
/// asked for room thousands of times a second, and each look reads memory all over it.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How many sessions are looked at to find one that may give way at once.
const TRIES: usize = 8;

/// The most sessions whose peer has never answered in the name of one client, where
/// clients have a limit: more than a client asks for at once.
pub(super) const UNVERIFIED_OF_CLIENT: usize = 512;

impl<S: Tracked> Sessions<S> {
    /// The session that gives way when a slot, a port or a descriptor is needed: one
    /// that is over, else one whose peer has not answered for [`UNVERIFIED_GRACE`],
    /// else the one that has been silent for longest, and at least for [`SILENCE`].
    /// Each is chosen from a sample that `random` points to. A light session has
    /// nothing to give.
    ///
    /// Those that are over come first although their peers are real and most of the
    /// unverified may be forged: their file is in its place and has been acknowledged,
    /// so all that is lost is one more ACK, and only for a client that lost the first.
    /// A peer that never answered may be a client on a slow path, which would lose its
    /// whole transfer. An upload whose final ACK hasn't been sent isn't over, so no
    /// flood ends it this way.
    pub fn gives_way(&self, now: Instant, random: u32) -> Option<SessionKey> {
        self.gives_way_among(now, random, frees)
    }

    /// The same among the sessions that have what is needed.
    pub fn gives_way_among(
        &self,
        now: Instant,
        random: u32,
        has: impl Fn(&S) -> bool,
    ) -> Option<SessionKey> {
        self.first_to_go(&self.unverified, now, random, &has)
    }

    /// The same, where `unanswered` are those whose peer has not answered.
    pub(super) fn first_to_go(
        &self,
        unanswered: &[u32],
        now: Instant,
        random: u32,
        has: &dyn Fn(&S) -> bool,
    ) -> Option<SessionKey> {
        sample(&self.over, TRIES, random)
            .map(|index| (index, &self.slab[index as usize]))
            .find(|(_, entry)| has(&entry.session))
            .map(|(index, entry)| entry.key(index))
            .or_else(|| self.overdue(unanswered, now, random, has))
            .or_else(|| self.silent(now, random, has))
    }

    /// The session that gives way to one whose peer has just answered: as
    /// [`Sessions::gives_way`], or else any unverified one, without grace.
    pub fn gives_way_to_verified(&self, now: Instant, random: u32) -> Option<SessionKey> {
        let any = || {
            sample(&self.unverified, TRIES, random)
                .map(|index| (index, &self.slab[index as usize]))
                .find(|(_, entry)| frees(&entry.session))
                .map(|(index, entry)| entry.key(index))
        };
        self.gives_way(now, random).or_else(any)
    }

    /// A session of the `unverified` that has waited long enough for its peer's first
    /// answer: any such session rather than the oldest, since in a flood the oldest are
    /// honest clients on slow paths.
    pub(super) fn overdue(
        &self,
        unverified: &[u32],
        now: Instant,
        random: u32,
        has: &dyn Fn(&S) -> bool,
    ) -> Option<SessionKey> {
        sample(unverified, TRIES, random)
            .map(|index| (index, &self.slab[index as usize]))
            .find(|(_, entry)| {
                let since = entry.session.unverified_since();
                let is_due =
                    since.is_some_and(|it| now.saturating_duration_since(it) >= UNVERIFIED_GRACE);
                is_due && has(&entry.session)
            })
            .map(|(index, entry)| entry.key(index))
    }

    /// The session that has been silent for longest, of the verified ones looked at.
    /// Where none of them is silent, there is no other look for [`LOOK_AGAIN`].
    fn silent(&self, now: Instant, random: u32, has: &dyn Fn(&S) -> bool) -> Option<SessionKey> {
        let last = self.none_silent.get();
        if last.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN) {
            return None;
        }
        let quiet = sample(&self.verified, LOOKED_AT, random).filter_map(|index| {
            let entry = &self.slab[index as usize];
            let since = entry.session.quiet_since()?;
            (now.saturating_duration_since(since) >= SILENCE).then_some((since, index))
        });
        let mut quiet = quiet.peekable();
        if quiet.peek().is_none() {
            self.none_silent.set(Some(now));
        }
        let key = |index: u32| self.slab[index as usize].key(index);
        let quiet = quiet.filter(|&(_, index)| has(&self.slab[index as usize].session));
        let (_, key) = quiet.map(|(since, index)| (since, key(index))).min()?;
        Some(key)
    }

    /// What to do with a request of a client that has as many sessions as it may.
    /// `None`: it may have another.
    pub(super) fn share_of(&self, client: Client, now: Instant, random: u32) -> Option<Admission> {
        let counts = self.by_client.as_ref()?.of(client);
        let is_crowded = counts.verified as usize >= self.per_client;
        if is_crowded && self.all_sent(client, random, |_| true).is_none() {
            return Some(Admission::Crowded);
        }
        if (counts.unverified as usize) < UNVERIFIED_OF_CLIENT {
            return None;
        }
        let given = self.some_of(client, random).find(|(_, entry)| {
            let since = entry.session.unverified_since();
            since.is_some_and(|it| now.saturating_duration_since(it) >= UNVERIFIED_GRACE)
        });
        Some(given.map_or(Admission::Crowded, |(key, _)| Admission::Evicts(key)))
    }

    /// Of a client's sessions that lack only their last ACK, the one that has for longest,
    /// of those looked at: the client has moved on. It ends when another session of the
    /// client needs its place and the peer of that one has answered, so no forged request
    /// ends it. `may_end` tells which ones may.
    pub fn all_sent(
        &self,
        client: Client,
        random: u32,
        may_end: impl Fn(SessionKey) -> bool,
    ) -> Option<SessionKey> {
        let all = self.some_of(client, random);
        let sent = all.filter(|(key, entry)| entry.session.lacks_last_ack() && may_end(*key));
        let sent = sent.filter_map(|(key, entry)| Some((entry.session.quiet_since()?, key)));
        sent.min().map(|(_, key)| key)
    }

    /// Up to [`LOOKED_AT`] sessions of a client, from where `random` points.
    fn some_of(
        &self,
        client: Client,
        random: u32,
    ) -> impl Iterator<Item = (SessionKey, &Entry<S>)> {
        let (all, from) = (IndexKey::all_of(client), IndexKey::within(client, random));
        let places = self
            .by_endpoint
            .range(from..=*all.end())
            .chain(self.by_endpoint.range(*all.start()..from));
        let entries = places.take(LOOKED_AT).filter_map(|place| {
            let entry = self.slab.get(place.index as usize)?;
            Some((entry.key(place.index), entry))
        });
        entries.filter(move |(_, entry)| client_of(&entry.endpoint) == client)
    }
}

/// Whether its end frees a descriptor.
pub(super) fn frees(session: &impl Tracked) -> bool {
    session.descriptors() > 0 || session.frees_descriptor()
}

/// Up to `most` items of a list, spread over all of it, from where `random` points.
fn sample(list: &[u32], most: usize, random: u32) -> impl Iterator<Item = u32> {
    let count = list.len();
    let (start, stride) = (random as usize % count.max(1), count.div_ceil(most));
    (0..most.min(count)).map(move |nth| list[(start + nth * stride) % count])
}
