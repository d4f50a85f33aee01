//! The session table: who is being served, and who is due when.
//!
//! A slab of tenants, found by the peer's endpoint or by a key that outlives
//! its session without ever reaching another, with a timer wheel beside it. The
//! table decides whether a request is new, a repetition or a replacement, and
//! keeps to its capacity. It may not know what a tenant does, read a clock or
//! touch a socket; keys and addresses are all it has.

pub mod rate;
pub mod wheel;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use slab::Slab;

use self::wheel::TimerWheel;

/// Tokens that no session's key is ever packed into: free for the listening
/// sockets, signals and the like.
pub const RESERVED: RangeInclusive<usize> = usize::MAX - 15..=usize::MAX;

/// The most sessions a table can hold. Indices end where the low half of the
/// reserved tokens begins.
const MAX_CAPACITY: usize = *RESERVED.start() & INDEX_MASK;

const INDEX_MASK: usize = u32::MAX as usize;

/// The most sessions whose peer has never answered. A flood of forged requests
/// takes up no more than these; a room of machines that are switched on at once
/// has answered long before it is as many.
pub const MAX_UNVERIFIED: usize = 16_384;

/// How long a session may wait for its peer's first answer before a new request
/// can have its slot, if slots are short: longer than an answer takes from
/// anywhere, shorter than a flood takes to fill the table.
pub const UNVERIFIED_GRACE: Duration = Duration::from_millis(200);

/// Sessions that there is room for from the start, memory that isn't touched
/// until it is needed: a table that grows to them by doubling would leave holes.
const FIRST_ROOM: usize = 1024;

/// Up to this many sessions, debug builds check the whole table after each
/// change.
const CHECKED_LEN: usize = 64;

const _: () = assert!(usize::BITS == 64, "a token holds an index and a generation");

/// What a session costs beside its tenant: 72 bytes in the slab, 16 in the
/// wheel, and 12 in a tree, whose nodes are at least half full; some 110 bytes
/// in all, and until its peer has answered some 12 more.
const _: () = assert!(size_of::<Entry<()>>() == 72 && size_of::<IndexKey>() == 12);

/// A client's end of a transfer as seen from here (its TID, RFC 1350 §4).
///
/// The same port towards two of our addresses is two endpoints: the client
/// cannot take the answers of one for those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where its datagrams come from.
    pub peer: SocketAddr,
    /// The address of ours that it sent its request to.
    pub local: IpAddr,
}

/// What tells one request from another, in 64 bits.
///
/// Compared only between requests of one endpoint. Two of them that collide
/// would be merged: that client waits out its timeout and asks again, no one
/// else notices. So a hash without a secret will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a request, the whole datagram.
    pub fn of(datagram: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(datagram);
        Self(hasher.finish())
    }
}

/// Names one session; once that is removed, it names nothing.
///
/// Generations count the sessions ever stored, modulo 2^32: a key would have to
/// be kept for as many sessions to reach another one. Keys are ordered by age,
/// but for that wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    generation: u32,
    index: u32,
}

impl SessionKey {
    /// The key as one number outside of [`RESERVED`], for an event loop's token.
    pub const fn to_token(self) -> usize {
        (self.generation as usize) << u32::BITS | self.index as usize
    }

    /// The key a token stands for. Any other number makes a key as well, one
    /// that names no session.
    pub const fn from_token(token: usize) -> Self {
        Self {
            index: (token & INDEX_MASK) as u32,
            generation: (token >> u32::BITS) as u32,
        }
    }
}

/// What the table asks of those it holds.
pub trait Tracked {
    /// When it wants to be woken next; `None` while it waits for nothing.
    fn deadline(&self) -> Option<Instant>;

    /// Whether it is finished or only dallying, so that any request of its
    /// endpoint may take its place.
    fn is_over(&self) -> bool;

    /// Since when its peer has owed its first answer; `None` once it has come.
    /// Until then the peer may be somebody else's forgery.
    fn unverified_since(&self) -> Option<Instant>;
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Start a session.
    New,
    /// The request that this running session was started with, once more.
    Duplicate(SessionKey),
    /// End this session, then start one: its client has turned to something
    /// else.
    Replaces(SessionKey),
    /// Start a session, and end this one to make room: of those whose peer has
    /// never answered the oldest, and overdue.
    Evicts(SessionKey),
    /// The client has as many sessions as one may have.
    Crowded,
    /// There is no room.
    Full,
}

/// The sessions, at most as many as the capacity says.
///
/// Call order: whatever may have moved a tenant's deadline ([`get_mut`],
/// [`pop_due`]) is followed by [`rearm`] or [`remove`] for that key before any
/// other change to the table.
///
/// The wheel's entries are hints. A deadline that moves on, as every packet
/// makes it do, leaves the entry where it is; when that fires, the tenant's own
/// deadline decides whether it is due or sleeps on. So the wheel is touched
/// about once a timeout, not once a packet.
///
/// [`get_mut`]: Sessions::get_mut
/// [`pop_due`]: Sessions::pop_due
/// [`rearm`]: Sessions::rearm
/// [`remove`]: Sessions::remove
#[derive(Debug)]
pub struct Sessions<S> {
    slab: Slab<Entry<S>>,
    /// Where each endpoint's session is. Ordered by hashes rather than in a hash
    /// table: no random seed in the core, and none of its empty room.
    by_endpoint: BTreeSet<IndexKey>,
    /// Those whose peer has not answered yet, the oldest first.
    unverified: BTreeSet<SessionKey>,
    wheel: TimerWheel,
    capacity: usize,
    per_client: usize,
    next_generation: u32,
    /// The latest time `pop_due` was told.
    reached: Instant,
    wheel_ops: u64,
}

#[derive(Debug)]
struct Entry<S> {
    endpoint: Endpoint,
    generation: u32,
    fingerprint: Fingerprint,
    /// Listed among the unverified.
    unverified: bool,
    tenant: S,
}

impl<S: Tracked> Sessions<S> {
    /// An empty table for `capacity` sessions, 2^32 − 16 at the most.
    ///
    /// `origin` is where the wheel's milliseconds count from: any time not
    /// later than the first deadline.
    pub fn new(capacity: usize, origin: Instant) -> Self {
        Self {
            slab: Slab::with_capacity(capacity.min(FIRST_ROOM)),
            by_endpoint: BTreeSet::new(),
            unverified: BTreeSet::new(),
            wheel: TimerWheel::new(origin),
            capacity: capacity.min(MAX_CAPACITY),
            per_client: usize::MAX,
            next_generation: 0,
            reached: origin,
            wheel_ops: 0,
        }
    }

    /// Lets one client (one IP address) have so many sessions at once and no
    /// more; those that are over don't count.
    #[must_use]
    pub const fn with_client_limit(mut self, sessions: usize) -> Self {
        self.per_client = sessions;
        self
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many sessions there can be.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How often the wheel was changed: the price of keeping time.
    pub const fn wheel_ops(&self) -> u64 {
        self.wheel_ops
    }

    /// What to do with a request of `endpoint`. Changes and allocates nothing.
    ///
    /// A client that replaces its own session is served even where the table
    /// is full. Elsewhere the table is full for it if it can't have the slot of
    /// a peer that has not answered for [`UNVERIFIED_GRACE`].
    pub fn admit(&self, endpoint: &Endpoint, fingerprint: Fingerprint, now: Instant) -> Admission {
        match self.find(endpoint) {
            Some((key, entry)) if entry.tenant.is_over() || entry.fingerprint != fingerprint => {
                Admission::Replaces(key)
            }
            Some((key, _)) => Admission::Duplicate(key),
            None if self.is_crowded(endpoint.peer.ip()) => Admission::Crowded,
            None if self.has_room() => Admission::New,
            None => self.overdue(now).map_or(Admission::Full, Admission::Evicts),
        }
    }

    fn has_room(&self) -> bool {
        self.len() < self.capacity && self.unverified.len() < MAX_UNVERIFIED
    }

    /// The session that has waited longest for its peer's first answer, if that
    /// was long enough.
    fn overdue(&self, now: Instant) -> Option<SessionKey> {
        let oldest = *self.unverified.first()?;
        let since = self.get(oldest)?.unverified_since()?;
        let waited = now.saturating_duration_since(since);
        (waited >= UNVERIFIED_GRACE).then_some(oldest)
    }

    /// Whether this client has as many sessions as it may have.
    fn is_crowded(&self, client: IpAddr) -> bool {
        if self.per_client == usize::MAX {
            return false;
        }
        let running = self
            .by_endpoint
            .range(IndexKey::all_of(client))
            .filter_map(|place| self.slab.get(place.index as usize))
            .filter(|entry| entry.endpoint.peer.ip() == client && !entry.tenant.is_over());
        running.take(self.per_client).count() == self.per_client
    }

    /// The session of an endpoint.
    fn find(&self, endpoint: &Endpoint) -> Option<(SessionKey, &Entry<S>)> {
        let same_hashes = IndexKey::of(endpoint, 0)..=IndexKey::of(endpoint, u32::MAX);
        self.by_endpoint.range(same_hashes).find_map(|place| {
            let entry = self.slab.get(place.index as usize)?;
            (entry.endpoint == *endpoint).then(|| (entry.key(place.index), entry))
        })
    }

    /// Stores a session and arms its deadline.
    ///
    /// # Panics
    /// Where [`Sessions::admit`] would not say [`Admission::New`]: the endpoint
    /// has a session, or the table is full.
    pub fn insert(
        &mut self,
        endpoint: Endpoint,
        fingerprint: Fingerprint,
        tenant: S,
    ) -> SessionKey {
        assert!(self.len() < self.capacity, "the session table is full");
        assert!(
            self.find(&endpoint).is_none(),
            "{endpoint:?} has a session already"
        );
        let deadline = tenant.deadline();
        let unverified = tenant.unverified_since().is_some();
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let index = self.slab.insert(Entry {
            endpoint,
            generation,
            fingerprint,
            unverified,
            tenant,
        }) as u32;
        let key = SessionKey { generation, index };
        if unverified {
            self.unverified.insert(key);
        }
        self.by_endpoint.insert(IndexKey::of(&endpoint, index));
        if let Some(deadline) = deadline {
            self.arm(index, deadline);
        }
        self.check_if_small();
        key
    }

    /// The session, if it still exists.
    pub fn get(&self, key: SessionKey) -> Option<&S> {
        self.entry(key).map(|entry| &entry.tenant)
    }

    /// The session, if it still exists, to be changed; then see
    /// [`Sessions::rearm`].
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut S> {
        let entry = self.slab.get_mut(key.index as usize)?;
        (entry.generation == key.generation).then_some(&mut entry.tenant)
    }

    /// The session that serves `endpoint`, if there is one.
    pub fn key_of(&self, endpoint: &Endpoint) -> Option<SessionKey> {
        self.find(endpoint).map(|(key, _)| key)
    }

    /// Whom the session serves, if it still exists.
    pub fn endpoint(&self, key: SessionKey) -> Option<&Endpoint> {
        self.entry(key).map(|entry| &entry.endpoint)
    }

    /// All sessions, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (SessionKey, &S)> {
        self.slab
            .iter()
            .map(|(index, entry)| (entry.key(index as u32), &entry.tenant))
    }

    /// Takes the session out of the table, if it still exists. Its key names
    /// nothing from here on.
    pub fn remove(&mut self, key: SessionKey) -> Option<S> {
        self.entry(key)?;
        let entry = self.slab.remove(key.index as usize);
        self.by_endpoint
            .remove(&IndexKey::of(&entry.endpoint, key.index));
        if entry.unverified {
            self.unverified.remove(&key);
        }
        self.wheel.cancel(key.index);
        self.wheel_ops += 1;
        self.check_if_small();
        Some(entry.tenant)
    }

    /// Takes note of the session's deadline, after anything that may have
    /// moved it, and of its peer's first answer.
    ///
    /// Costs three comparisons, unless the deadline is earlier than what the
    /// wheel has or the wheel has nothing.
    pub fn rearm(&mut self, key: SessionKey) {
        if let Some(entry) = self.slab.get_mut(key.index as usize)
            && entry.generation == key.generation
            && entry.unverified
            && entry.tenant.unverified_since().is_none()
        {
            entry.unverified = false;
            self.unverified.remove(&key);
        }
        if let Some(deadline) = self.get(key).and_then(Tracked::deadline) {
            self.arm(key.index, deadline);
        }
        self.check_if_small();
    }

    /// When to call [`Sessions::pop_due`] next, or `None` where nothing waits.
    ///
    /// May be too early, as [`TimerWheel::next_deadline`] and the hints are,
    /// but each call at that time gets something done. Too late by less than a
    /// millisecond at most.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// A session whose deadline has come, to be told so; call until `None`.
    ///
    /// The caller then removes it or calls [`Sessions::rearm`]; it would not be
    /// woken again otherwise. Calls with one and the same `now` end: none of
    /// them returns a key twice. A deadline that is not ahead of `now` even
    /// after the session was told is due again a tick later.
    pub fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        self.reached = self.reached.max(now);
        while let Some(index) = self.wheel.pop_expired(self.reached) {
            self.wheel_ops += 1;
            let Some(entry) = self.slab.get(index as usize) else {
                debug_assert!(false, "slot {index} was freed with its deadline armed");
                continue;
            };
            match entry.tenant.deadline() {
                Some(deadline) if deadline <= self.reached => return Some(entry.key(index)),
                Some(deadline) => self.arm(index, deadline),
                None => {}
            }
        }
        self.check_if_small();
        None
    }

    /// Checks that the parts of the table agree. Debug builds do this after
    /// every change while the table is small.
    ///
    /// # Panics
    /// Where they don't: a bug here, or a tenant changed without
    /// [`Sessions::rearm`].
    pub fn check_invariants(&self) {
        assert!(self.len() <= self.capacity, "over capacity");
        assert_eq!(self.len(), self.by_endpoint.len(), "slab and by_endpoint");
        assert!(self.wheel.len() <= self.len(), "a freed slot is armed");
        let unverified = self.slab.iter().filter(|(_, entry)| entry.unverified);
        assert_eq!(unverified.count(), self.unverified.len(), "unverified");
        for (index, entry) in &self.slab {
            let key = entry.key(index as u32);
            let found = self.find(&entry.endpoint).map(|(key, _)| key);
            assert_eq!(found, Some(key), "{:?}", entry.endpoint);
            assert!(!RESERVED.contains(&key.to_token()), "{key:?}");
            let listed = self.unverified.contains(&key);
            assert_eq!(listed, entry.tenant.unverified_since().is_some(), "{key:?}");
            if let Some(deadline) = entry.tenant.deadline() {
                let armed = self.wheel.covers(key.index, self.ahead(deadline));
                assert!(armed, "{key:?} would oversleep");
            }
        }
    }

    fn check_if_small(&self) {
        if cfg!(debug_assertions) && self.len() <= CHECKED_LEN {
            self.check_invariants();
        }
    }

    fn entry(&self, key: SessionKey) -> Option<&Entry<S>> {
        let entry = self.slab.get(key.index as usize)?;
        (entry.generation == key.generation).then_some(entry)
    }

    /// Sees to it that the wheel wakes the slot no later than at `deadline`.
    fn arm(&mut self, index: u32, deadline: Instant) {
        let deadline = self.ahead(deadline);
        if !self.wheel.covers(index, deadline) {
            self.wheel.schedule(index, deadline);
            self.wheel_ops += 1;
        }
    }

    /// The deadline, or the next instant if that has passed. Rounded up to a
    /// tick it is ahead of the current `pop_due`, which is why a run of those
    /// comes to an end.
    fn ahead(&self, deadline: Instant) -> Instant {
        deadline.max(self.reached + Duration::from_nanos(1))
    }
}

impl<S> Entry<S> {
    const fn key(&self, index: u32) -> SessionKey {
        SessionKey {
            index,
            generation: self.generation,
        }
    }
}

/// The slot of an endpoint's session, found by hashes.
///
/// Two endpoints with the same hashes stand side by side; whoever looks compares
/// the endpoints themselves. 64 bits make that a rarity that nobody can bring
/// about often enough to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct IndexKey {
    /// Of the client's address, so that its sessions are neighbours.
    client: u32,
    endpoint: u32,
    index: u32,
}

impl IndexKey {
    fn of(endpoint: &Endpoint, index: u32) -> Self {
        Self {
            client: hash_of(&endpoint.peer.ip()),
            endpoint: hash_of(endpoint),
            index,
        }
    }

    /// Every place that a session of this client can have.
    fn all_of(client: IpAddr) -> RangeInclusive<Self> {
        let client = hash_of(&client);
        let end = |rest| Self {
            client,
            endpoint: rest,
            index: rest,
        };
        end(0)..=end(u32::MAX)
    }
}

/// Always the same for the same value: the core has no random seed.
fn hash_of(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    struct Probe {
        deadline: Option<Instant>,
        over: bool,
        unverified_since: Option<Instant>,
    }

    impl Tracked for Probe {
        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn is_over(&self) -> bool {
            self.over
        }

        fn unverified_since(&self) -> Option<Instant> {
            self.unverified_since
        }
    }

    fn due(deadline: Instant) -> Probe {
        Probe {
            deadline: Some(deadline),
            ..Probe::default()
        }
    }

    fn unverified(since: Instant) -> Probe {
        Probe {
            unverified_since: Some(since),
            ..Probe::default()
        }
    }

    #[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn origin() -> Instant {
        Instant::now()
    }

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Port 1069 of 192.0.2.`host`, towards 127.0.0.`local`.
    fn endpoint(host: u8, local: u8) -> Endpoint {
        Endpoint {
            peer: (Ipv4Addr::new(192, 0, 2, host), 1069).into(),
            local: Ipv4Addr::new(127, 0, 0, local).into(),
        }
    }

    const READ: &[u8] = b"\0\x01pxelinux.0\0octet\0";
    const OTHER: &[u8] = b"\0\x01pxelinux.1\0octet\0";

    fn set_deadline(table: &mut Sessions<Probe>, key: SessionKey, deadline: Instant) {
        table.get_mut(key).unwrap().deadline = Some(deadline);
        table.rearm(key);
    }

    #[test]
    fn fingerprints_follow_from_the_bytes_alone() {
        assert_eq!(Fingerprint::of(READ), Fingerprint::of(&[READ].concat()));
        assert_ne!(Fingerprint::of(READ), Fingerprint::of(OTHER));
        assert_ne!(Fingerprint::of(b""), Fingerprint::of(b"\0"));
    }

    #[test]
    fn tokens_carry_keys_and_spare_the_reserved() {
        let last = (MAX_CAPACITY - 1) as u32;
        for (index, generation) in [(0, 0), (1, 0), (0, 1), (7, u32::MAX), (last, u32::MAX)] {
            let key = SessionKey { generation, index };
            assert_eq!(SessionKey::from_token(key.to_token()), key);
            assert!(!RESERVED.contains(&key.to_token()), "{key:?}");
        }
        let beyond = SessionKey {
            index: last + 1,
            generation: u32::MAX,
        };
        assert!(RESERVED.contains(&beyond.to_token()));

        let table = Sessions::<Probe>::new(usize::MAX, origin());
        assert_eq!(table.capacity(), MAX_CAPACITY);
        for token in RESERVED {
            assert_eq!(table.get(SessionKey::from_token(token)), None);
        }
    }

    #[test]
    fn requests_are_new_duplicate_replacing_or_too_many() {
        use Admission::{Duplicate, Full, New, Replaces};

        let (read, other, now) = (Fingerprint::of(READ), Fingerprint::of(OTHER), origin());
        let mut table = Sessions::new(2, now);
        assert_eq!(table.admit(&endpoint(1, 1), read, now), New);
        let first = table.insert(endpoint(1, 1), read, Probe::default());
        assert_eq!(
            table.admit(&endpoint(1, 2), read, now),
            New,
            "our other address"
        );
        assert_eq!(
            table.admit(&endpoint(2, 1), read, now),
            New,
            "another client"
        );
        let second = table.insert(endpoint(1, 2), read, Probe::default());

        for (from, over, asks, expected) in [
            (endpoint(1, 1), false, read, Duplicate(first)),
            (endpoint(1, 2), false, read, Duplicate(second)),
            (endpoint(1, 1), false, other, Replaces(first)),
            (endpoint(1, 1), true, read, Replaces(first)),
            (endpoint(1, 1), true, other, Replaces(first)),
            (endpoint(2, 1), true, read, Full),
        ] {
            table.get_mut(first).unwrap().over = over;
            assert_eq!(table.admit(&from, asks, now), expected);
        }

        table.remove(second);
        assert_eq!(table.admit(&endpoint(2, 1), read, now), New);
        assert_eq!(table.admit(&endpoint(1, 2), read, now), New);
    }

    #[test]
    fn who_never_answered_makes_room_after_a_while() {
        use Admission::{Evicts, Full, New};

        let (read, origin) = (Fingerprint::of(READ), origin());
        let mut table = Sessions::new(3, origin);
        let steady = table.insert(endpoint(1, 1), read, Probe::default());
        let oldest = table.insert(endpoint(2, 1), read, unverified(origin));
        let younger = table.insert(endpoint(3, 1), read, unverified(origin + millis(50)));
        let ask = |table: &Sessions<_>, at| table.admit(&endpoint(4, 1), read, origin + millis(at));
        for (at, expected) in [
            (0, Full),
            (199, Full),
            (200, Evicts(oldest)),
            (900, Evicts(oldest)),
        ] {
            assert_eq!(ask(&table, at), expected, "after {at} ms");
        }
        // It answers after all.
        table.get_mut(oldest).unwrap().unverified_since = None;
        table.rearm(oldest);
        assert_eq!(ask(&table, 249), Full);
        assert_eq!(ask(&table, 250), Evicts(younger));
        // Those that were heard of are never sent away.
        table.get_mut(younger).unwrap().unverified_since = None;
        table.rearm(younger);
        assert_eq!(ask(&table, 100_000), Full);
        table.remove(steady);
        assert_eq!(ask(&table, 0), New);
    }

    #[test]
    fn those_never_heard_of_take_a_part_of_the_table() {
        let (read, origin) = (Fingerprint::of(READ), origin());
        let mut table = Sessions::new(usize::MAX, origin);
        let from = |number: u32| Endpoint {
            peer: (Ipv4Addr::from_bits(number), 1069).into(),
            local: Ipv4Addr::LOCALHOST.into(),
        };
        for number in 1..=MAX_UNVERIFIED as u32 {
            assert_eq!(table.admit(&from(number), read, origin), Admission::New);
            table.insert(from(number), read, unverified(origin));
        }
        let first = SessionKey::from_token(0);
        let late = origin + UNVERIFIED_GRACE;
        assert_eq!(table.admit(&from(0), read, origin), Admission::Full);
        assert_eq!(table.admit(&from(0), read, late), Admission::Evicts(first));
        table.remove(first);
        assert_eq!(table.admit(&from(0), read, origin), Admission::New);
        table.check_invariants();
    }

    #[test]
    fn one_client_has_so_many_sessions_and_no_more() {
        use Admission::{Crowded, Duplicate, New, Replaces};

        let (read, other, now) = (Fingerprint::of(READ), Fingerprint::of(OTHER), origin());
        for ip in ["192.0.2.7", "255.255.255.255", "2001:db8::7", "ffff::ffff"] {
            let ip: IpAddr = ip.parse().unwrap();
            let from = |port, local: &str| Endpoint {
                peer: (ip, port).into(),
                local: local.parse().unwrap(),
            };
            let mut table = Sessions::new(9, now).with_client_limit(2);
            let first = table.insert(from(0, "0.0.0.0"), read, Probe::default());
            let ask = |table: &Sessions<_>, asks| table.admit(&from(7, "::1"), asks, now);
            assert_eq!(ask(&table, read), New, "{ip}");
            let last = table.insert(from(u16::MAX, "ffff::"), read, Probe::default());
            assert_eq!(ask(&table, read), Crowded, "{ip}");
            // What it has already is no further session.
            let again = |asks| table.admit(&from(0, "0.0.0.0"), asks, now);
            assert_eq!(again(read), Duplicate(first), "{ip}");
            assert_eq!(again(other), Replaces(first), "{ip}");
            for neighbour in ["192.0.2.6", "192.0.2.8", "2001:db8::6", "2001:db8::8"] {
                let peer = (neighbour.parse::<IpAddr>().unwrap(), 0).into();
                let local = Ipv4Addr::LOCALHOST.into();
                assert_eq!(table.admit(&Endpoint { peer, local }, read, now), New);
            }
            table.get_mut(last).unwrap().over = true;
            assert_eq!(ask(&table, read), New, "{ip}: one is over");
        }
    }

    #[test]
    fn a_stale_key_reaches_nothing() {
        let origin = origin();
        let read = Fingerprint::of(READ);
        let mut table = Sessions::new(1, origin);
        let stale = table.insert(endpoint(1, 1), read, due(origin + millis(5)));
        assert!(table.remove(stale).is_some());
        assert_eq!(table.next_deadline(), None, "its deadline went with it");

        let key = table.insert(endpoint(2, 1), read, due(origin + millis(9)));
        assert_eq!(stale.index, key.index, "the slot is used again");
        table.rearm(stale);
        assert_eq!(table.get(stale), None);
        assert_eq!(table.get_mut(stale), None);
        assert_eq!(table.endpoint(stale), None);
        assert_eq!(table.remove(stale), None);
        assert_eq!(table.get(key), Some(&due(origin + millis(9))));
        assert_eq!(table.endpoint(key), Some(&endpoint(2, 1)));
        assert_eq!(table.iter().map(|(key, _)| key).collect::<Vec<_>>(), [key]);
    }

    #[test]
    fn a_deadline_that_moves_on_costs_the_wheel_nothing() {
        let origin = origin();
        let mut table = Sessions::new(1, origin);
        let timeout = millis(500);
        let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), due(origin + timeout));
        let before = table.wheel_ops();
        // An ACK every 10 µs for 400 ms.
        for ack in 1..=40_000 {
            let now = origin + Duration::from_micros(10 * ack);
            set_deadline(&mut table, key, now + timeout);
        }
        assert_eq!(table.wheel_ops(), before);

        // The entry fires at 500 ms and is put off to the deadline at 900 ms.
        assert_eq!(table.pop_due(origin + millis(500)), None);
        assert_eq!(table.wheel_ops(), before + 2);
        assert_eq!(table.pop_due(origin + millis(899)), None);
        assert_eq!(table.pop_due(origin + millis(900)), Some(key));
    }

    #[test]
    fn an_earlier_deadline_is_heeded_and_a_withdrawn_one_forgotten() {
        let origin = origin();
        let mut table = Sessions::new(1, origin);
        let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
        assert_eq!(table.next_deadline(), None);

        set_deadline(&mut table, key, origin + millis(800));
        set_deadline(&mut table, key, origin + millis(20));
        assert_eq!(table.pop_due(origin + millis(19)), None);
        assert_eq!(table.pop_due(origin + millis(20)), Some(key));

        set_deadline(&mut table, key, origin + millis(50));
        table.get_mut(key).unwrap().deadline = None;
        table.rearm(key);
        assert_eq!(table.pop_due(origin + millis(60)), None);
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn a_deadline_in_the_past_ends_the_pass_and_is_due_in_the_next() {
        let origin = origin();
        let mut table = Sessions::new(3, origin);
        let keys = [1, 2, 3]
            .map(|host| table.insert(endpoint(host, 1), Fingerprint::of(READ), due(origin)));
        for pass in 1..=5 {
            let now = origin + millis(pass);
            let mut told = Vec::new();
            while let Some(key) = table.pop_due(now) {
                told.push(key);
                assert!(told.len() <= keys.len(), "the pass does not end");
                set_deadline(&mut table, key, origin);
            }
            assert_eq!(told, keys, "pass {pass}");
            assert!(table.next_deadline() > Some(now), "a busy loop");
        }
    }

    #[test]
    fn time_does_not_go_backwards() {
        let origin = origin();
        let mut table = Sessions::new(1, origin);
        assert_eq!(table.pop_due(origin + millis(50)), None);
        let deadline = due(origin + millis(40));
        let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), deadline);
        assert_eq!(table.pop_due(origin + millis(30)), None);
        assert!(table.next_deadline() > Some(origin + millis(50)));
        set_deadline(&mut table, key, origin + millis(40));
        assert_eq!(table.pop_due(origin + millis(51)), Some(key));
    }

    #[test]
    #[should_panic(expected = "would oversleep")]
    fn a_forgotten_rearm_is_noticed() {
        let origin = origin();
        let mut table = Sessions::new(1, origin);
        let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
        table.get_mut(key).unwrap().deadline = Some(origin + millis(5));
        table.check_invariants();
    }

    #[test]
    #[should_panic(expected = "has a session already")]
    fn one_endpoint_has_one_session() {
        let mut table = Sessions::new(2, origin());
        table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
        table.insert(endpoint(1, 1), Fingerprint::of(OTHER), Probe::default());
    }

    #[test]
    #[should_panic(expected = "table is full")]
    fn the_capacity_holds() {
        let mut table = Sessions::new(0, origin());
        table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
    }

    #[derive(Debug, Clone, Copy)]
    enum Op {
        /// A request from an endpoint; what an admitted session then waits for.
        Request(u8, bool, Wait),
        /// The n-th session moves its deadline.
        Wait(usize, Wait),
        /// The n-th session is over.
        Over(usize),
        /// The n-th session is answered for the first time.
        Answer(usize),
        Remove(usize),
        /// Time passes, in microseconds; each session that is due then does
        /// this, or is removed.
        Advance(u64, Option<Wait>),
        /// Time passes until `next_deadline`; those due wait again.
        Follow(Wait),
    }

    /// A deadline in microseconds from now, in either direction, or none.
    type Wait = Option<i64>;

    fn wait() -> impl Strategy<Value = Wait> {
        prop_oneof![
            1 => Just(None),
            8 => (-5_000_i64..20_000).prop_map(Some),
            2 => (-5_000_i64..20_000_000).prop_map(Some),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0_u8..10, any::<bool>(), wait()).prop_map(|(e, f, w)| Op::Request(e, f, w)),
            6 => (any::<usize>(), wait()).prop_map(|(nth, wait)| Op::Wait(nth, wait)),
            1 => any::<usize>().prop_map(Op::Over),
            3 => any::<usize>().prop_map(Op::Answer),
            2 => any::<usize>().prop_map(Op::Remove),
            4 => (0_u64..30_000, prop::option::weighted(0.8, wait()))
                .prop_map(|(by, then)| Op::Advance(by, then)),
            1 => (0_u64..30_000_000, Just(None)).prop_map(|(by, then)| Op::Advance(by, then)),
            3 => wait().prop_map(Op::Follow),
        ]
    }

    const CAPACITY: usize = 6;

    /// The table beside a plain list of what was put into it.
    struct Model {
        table: Sessions<Probe>,
        live: Vec<(SessionKey, Endpoint, Fingerprint, Probe)>,
        gone: Vec<SessionKey>,
        now: Instant,
    }

    impl Model {
        fn new() -> Self {
            let origin = origin();
            Self {
                table: Sessions::new(CAPACITY, origin),
                live: Vec::new(),
                gone: Vec::new(),
                // Room for deadlines in the past.
                now: origin + millis(10),
            }
        }

        fn deadline(&self, wait: Wait) -> Option<Instant> {
            let wait = wait?;
            let span = Duration::from_micros(wait.unsigned_abs());
            if wait < 0 {
                self.now.checked_sub(span)
            } else {
                self.now.checked_add(span)
            }
        }

        fn nth(&self, nth: usize) -> Option<usize> {
            nth.checked_rem(self.live.len())
        }

        fn wait(&mut self, at: usize, wait: Wait) {
            let deadline = self.deadline(wait);
            let (key, .., probe) = &mut self.live[at];
            probe.deadline = deadline;
            self.table.get_mut(*key).unwrap().deadline = deadline;
            self.table.rearm(*key);
        }

        fn remove(&mut self, at: usize) {
            let (key, .., probe) = self.live.swap_remove(at);
            assert_eq!(self.table.remove(key), Some(probe));
            self.gone.push(key);
        }

        fn request(&mut self, host: u8, same: bool, wait: Wait) {
            let from = endpoint(host / 2, host % 2);
            let asks = Fingerprint::of(if same { READ } else { OTHER });
            let at = self.live.iter().position(|(_, e, ..)| *e == from);
            let expected = match at.map(|at| self.live[at]) {
                Some((key, _, f, probe)) if f == asks && !probe.over => Admission::Duplicate(key),
                Some((key, ..)) => Admission::Replaces(key),
                None if self.live.len() < CAPACITY => Admission::New,
                None => self.overdue().map_or(Admission::Full, Admission::Evicts),
            };
            let admission = self.table.admit(&from, asks, self.now);
            assert_eq!(admission, expected);
            match (admission, at) {
                (Admission::Replaces(_), Some(at)) => self.remove(at),
                (Admission::Evicts(key), _) => {
                    let at = self.live.iter().position(|(k, ..)| *k == key);
                    self.remove(at.unwrap());
                }
                (Admission::New, _) => {}
                _ => return,
            }
            let probe = Probe {
                deadline: self.deadline(wait),
                over: false,
                unverified_since: Some(self.now),
            };
            let key = self.table.insert(from, asks, probe);
            self.live.push((key, from, asks, probe));
        }

        /// Of those never heard of the first that was stored, if it is overdue.
        fn overdue(&self) -> Option<SessionKey> {
            let waiting = self.live.iter().filter_map(|(key, .., probe)| {
                Some((key.generation, *key, probe.unverified_since?))
            });
            let (_, key, since) = waiting.min()?;
            (since + UNVERIFIED_GRACE <= self.now).then_some(key)
        }

        /// Tells those that are due, which then wait anew or go.
        fn advance(&mut self, to: Instant, then: Option<Wait>) {
            let before = self.now;
            self.now = before.max(to);
            let mut told = Vec::new();
            while let Some(key) = self.table.pop_due(self.now) {
                assert!(!told.contains(&key), "{key:?} twice");
                told.push(key);
                let at = self.live.iter().position(|(k, ..)| *k == key).unwrap();
                assert!(self.live[at].3.deadline <= Some(self.now), "{key:?} early");
                match then {
                    Some(wait) => self.wait(at, wait),
                    None => self.remove(at),
                }
            }
            // Whoever wasn't told has been waiting for less than a tick, counted
            // from when it began to wait if its deadline was in the past then.
            for (key, .., probe) in &self.live {
                let on_time = probe
                    .deadline
                    .is_none_or(|at| at.max(before) + millis(1) > self.now);
                assert!(on_time || told.contains(key), "{key:?} late");
            }
            assert!(self.table.next_deadline().is_none_or(|at| at > self.now));
        }

        fn run(&mut self, op: Op) {
            match op {
                Op::Request(host, same, wait) => self.request(host, same, wait),
                Op::Wait(nth, wait) => {
                    if let Some(at) = self.nth(nth) {
                        self.wait(at, wait);
                    }
                }
                Op::Over(nth) => {
                    if let Some(at) = self.nth(nth) {
                        let (key, .., probe) = &mut self.live[at];
                        probe.over = true;
                        self.table.get_mut(*key).unwrap().over = true;
                    }
                }
                Op::Answer(nth) => {
                    if let Some(at) = self.nth(nth) {
                        let (key, .., probe) = &mut self.live[at];
                        probe.unverified_since = None;
                        self.table.get_mut(*key).unwrap().unverified_since = None;
                        self.table.rearm(*key);
                    }
                }
                Op::Remove(nth) => {
                    if let Some(at) = self.nth(nth) {
                        self.remove(at);
                    }
                }
                Op::Advance(by, then) => self.advance(self.now + Duration::from_micros(by), then),
                Op::Follow(wait) => {
                    if let Some(hint) = self.table.next_deadline() {
                        self.advance(hint, Some(wait));
                    }
                }
            }
        }

        fn compare(&self) {
            assert_eq!(self.table.len(), self.live.len());
            assert_eq!(self.table.iter().count(), self.live.len());
            for (key, endpoint, _, probe) in &self.live {
                assert_eq!(self.table.get(*key), Some(probe));
                assert_eq!(self.table.endpoint(*key), Some(endpoint));
            }
            for key in &self.gone {
                assert_eq!(self.table.get(*key), None);
            }
            let earliest = self
                .live
                .iter()
                .filter_map(|(.., probe)| probe.deadline)
                .min();
            if let Some(earliest) = earliest {
                let latest = earliest.max(self.now) + millis(1);
                assert!(
                    self.table
                        .next_deadline()
                        .is_some_and(|hint| hint <= latest)
                );
            }
            self.table.check_invariants();
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(ops in prop::collection::vec(op(), 1..150)) {
            let mut model = Model::new();
            for op in ops {
                model.run(op);
                model.compare();
            }
        }
    }
}
