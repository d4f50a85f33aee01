//! The session table: who is being served, and who is due when.
//!
//! A slab of sessions with a timer wheel beside it. A session is found by its peer's
//! endpoint, or by a key, which may outlive its session but never leads to another. The
//! table decides whether a request is new, repeated or a replacement (`repeat` has that
//! rule), keeps to its capacity, and says which session gives way to a new one
//! (`eviction`). Must not: know what a session does, read a clock, touch a socket.

mod clients;
mod eviction;
pub mod guesses;
pub mod key;
pub mod rate;
pub mod repeat;
pub mod tracked;
pub mod wheel;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use slab::Slab;

use self::clients::{ClientCounts, Counts};
use self::eviction::frees;
pub use self::eviction::{SILENCE, UNVERIFIED_GRACE};
pub use self::key::{Client, Endpoint, Fingerprint, RESERVED, SessionKey};
use self::key::{IndexKey, MAX_SESSIONS};
use self::repeat::{Repeat, judge};
pub use self::tracked::Tracked;
use self::wheel::TimerWheel;

/// The most sessions whose peer has never answered. A flood of forged requests takes up
/// no more than these; a room of machines that are switched on at once has answered
/// long before there are this many.
pub const MAX_UNVERIFIED: usize = 12_288;

/// The most sessions that may be asked for.
pub const MAX_LIMIT: usize = 1_000_000;

// A session that replaces another, or is light, may come on top.
const _: () = assert!(MAX_LIMIT + MAX_UNVERIFIED < MAX_SESSIONS);

/// The most descriptors of one session: a socket, and an upload's file and its
/// directory.
pub const MAX_DESCRIPTORS: usize = 3;

/// Where sessions may be light, a new read is light once sessions whose peer never
/// answered use a quarter of the ports or hold a quarter of the descriptors. Uploads
/// never are light: unanswered ones may take any slot.
const UNVERIFIED_SHARE: usize = 4;

/// Sessions that there is room for from the start. The memory isn't touched until it is
/// needed; a table that grew to this size by doubling would leave holes.
const FIRST_ROOM: usize = 1024;

/// Up to this many sessions, debug builds check the whole table after each
/// change.
const CHECKED_LEN: usize = 64;

/// What a session costs beside itself: 72 bytes in the slab, 16 in the
/// wheel, 4 in the list of its standing, and 12 in a tree, whose nodes are at
/// least half full; some 115 bytes in all. Where clients have a limit, each that
/// has sessions costs as much as 60 more.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Entry<()>>() == 72 && size_of::<IndexKey>() == 12);

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Start a session.
    New,
    /// The request that started this running session, once more.
    Repeated(SessionKey),
    /// The same, from a client that has started over: if the request isn't refused, end
    /// this session and start a new one.
    StartsOver(SessionKey),
    /// Another request from this session's client: if it isn't refused, end this
    /// session and start a new one.
    Replaces(SessionKey),
    /// Another request from this session's client while this session moves: drop it.
    Moving(SessionKey),
    /// If the request isn't refused, end this session to make room, and start a new
    /// one.
    Evicts(SessionKey),
    /// The client has as many sessions as it may, or too many have just been requested
    /// in its name.
    Crowded,
    /// There is no room.
    Full,
}

/// What is to be done after a turn of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterTurn {
    /// Nothing.
    Stays,
    /// The client has proved to be there, and has more sessions than it may: this one
    /// ends, and the client is told so.
    Crowded,
    /// The same, but the one with this key lacks only its last ACK: it ends instead.
    Concludes(SessionKey),
    /// The peer has answered for the first time, and there are too many sessions: the
    /// one with this key gives way. It may be the same session.
    Evicts(SessionKey),
}

/// Where a session stands when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its peer has answered, and it isn't over.
    Verified,
    /// Its peer has never answered.
    Unverified,
    /// The same, and its end frees no descriptor.
    Light,
    /// It is over, but for dallying.
    Over,
}

/// The sessions, as many as there are descriptors for, and no more than the limit.
///
/// Descriptors are counted: those of each session, and one for each file that is read,
/// by however many sessions ([`Sessions::set_open_files`]). A session is light if its
/// peer has never answered and its end frees no descriptor
/// ([`Tracked::frees_descriptor`]).
///
/// Call order: whatever may have moved a session's deadline ([`get_mut`],
/// [`pop_due`]) is followed by [`rearm`] or [`remove`] for that key before any
/// other change to the table.
///
/// The wheel's entries are hints. A deadline that moves later, as it does with every
/// packet, leaves the entry where it is; when the entry fires, the session's own
/// deadline decides whether it is due or sleeps on. So the wheel is touched about once
/// a timeout, not once a packet.
///
/// [`get_mut`]: Sessions::get_mut
/// [`pop_due`]: Sessions::pop_due
/// [`rearm`]: Sessions::rearm
/// [`remove`]: Sessions::remove
#[derive(Debug)]
pub struct Sessions<S> {
    slab: Slab<Entry<S>>,
    /// Where each endpoint's session is. Ordered by hashes. A hash table would need a
    /// random seed, which the core doesn't have, and leave room empty.
    by_endpoint: BTreeSet<IndexKey>,
    /// The slots of sessions whose peer has answered and that aren't over. This list
    /// and the next three are in no order; each session is in one of them.
    verified: Vec<u32>,
    /// Of sessions whose peer hasn't answered yet and whose end frees a descriptor.
    unverified: Vec<u32>,
    /// Of sessions whose peer hasn't answered yet and whose end frees none.
    light: Vec<u32>,
    /// Of sessions that are over.
    over: Vec<u32>,
    wheel: TimerWheel,
    /// A session is admitted while fewer descriptors than this are held.
    capacity: usize,
    /// The most descriptors held in all, those of the session admitted last included.
    ceiling: usize,
    /// Descriptors that sessions have of their own.
    own: usize,
    /// Those of unverified sessions.
    own_unverified: usize,
    /// Files that are open for reading.
    open_files: usize,
    /// The most sessions at once.
    limit: usize,
    /// Light sessions don't count towards the limit.
    light_on_top: bool,
    /// With this many unverified sessions new reads are light ([`UNVERIFIED_SHARE`]);
    /// `None`: no session ever is.
    unverified_slots: Option<usize>,
    per_client: usize,
    /// How many sessions each client has; `None` where it may have any number.
    by_client: Option<ClientCounts>,
    next_generation: u32,
    /// When a silent session was last looked for and not found.
    none_silent: Cell<Option<Instant>>,
    /// The latest time that `pop_due` was given.
    reached: Instant,
    wheel_ops: u64,
}

#[derive(Debug)]
struct Entry<S> {
    endpoint: Endpoint,
    generation: u32,
    fingerprint: Fingerprint,
    standing: Standing,
    /// Its own descriptors, as last counted.
    descriptors: u8,
    /// Its position in the list of its standing.
    position: u32,
    session: S,
}

impl<S: Tracked> Sessions<S> {
    /// An empty table for sessions that have `capacity` descriptors in all. Where a
    /// session may take more than one, see [`Sessions::with_ceiling`].
    ///
    /// `origin` is where the wheel's ticks count from: any time not
    /// later than the first deadline.
    pub fn new(capacity: usize, origin: Instant) -> Self {
        Self {
            slab: Slab::with_capacity(capacity.min(FIRST_ROOM)),
            by_endpoint: BTreeSet::new(),
            verified: Vec::new(),
            unverified: Vec::new(),
            light: Vec::new(),
            over: Vec::new(),
            wheel: TimerWheel::new(origin),
            capacity,
            ceiling: capacity,
            own: 0,
            own_unverified: 0,
            open_files: 0,
            limit: MAX_LIMIT,
            light_on_top: false,
            unverified_slots: None,
            per_client: usize::MAX,
            by_client: None,
            next_generation: 0,
            none_silent: Cell::new(None),
            reached: origin,
            wheel_ops: 0,
        }
    }

    /// Limits each [`Client`] to this many sessions at once. Those that are over don't
    /// count, nor do those whose peer has never answered, which may be forged: see
    /// [`Sessions::is_crowded`]. One that lacks only its last ACK gives way to the next
    /// whose peer answers: see [`Sessions::all_sent`].
    #[must_use]
    pub fn with_client_limit(mut self, sessions: usize) -> Self {
        self.per_client = sessions;
        self.by_client = (sessions != usize::MAX).then(ClientCounts::default);
        self
    }

    /// Lets new reads be light once unverified sessions have a quarter of the `slots`,
    /// one for each port, or of the descriptors.
    #[must_use]
    pub fn with_light_sessions(mut self, slots: usize) -> Self {
        self.unverified_slots = Some(slots.min(self.capacity) / UNVERIFIED_SHARE);
        self
    }

    /// Limits all sessions to this many at once, light ones included; at most
    /// [`MAX_LIMIT`].
    #[must_use]
    pub fn with_limit(mut self, sessions: usize) -> Self {
        self.limit = sessions.min(MAX_LIMIT);
        self
    }

    /// Sets how many descriptors sessions may hold in all. A session is admitted while
    /// fewer than the capacity are held, and may then exceed it up to this.
    #[must_use]
    pub const fn with_ceiling(mut self, descriptors: usize) -> Self {
        self.ceiling = descriptors;
        self
    }

    /// Lets light sessions come on top of the limit, where it stands for descriptors:
    /// they hold none.
    #[must_use]
    pub const fn with_light_on_top(mut self) -> Self {
        self.light_on_top = true;
        self
    }

    /// Whether the limit allows one more session, a light one if `is_light`.
    fn is_within_limit(&self, is_light: bool) -> bool {
        if self.light_on_top {
            is_light || self.len() - self.light.len() < self.limit
        } else {
            self.len() < self.limit
        }
    }

    /// Sets how many files are open for reading, each counted once for all sessions
    /// that read it.
    pub const fn set_open_files(&mut self, files: usize) {
        self.open_files = files;
    }

    /// Whether a session that starts now is to be light, if it can be.
    pub fn is_short(&self) -> bool {
        self.unverified_slots.is_some_and(|slots| {
            self.unverified.len() >= slots
                // An upload takes several descriptors.
                || self.own_unverified >= self.capacity / UNVERIFIED_SHARE
                // A file stays open while any transfer reads it: ending a light one
                // frees nothing.
                || self.open_files > self.capacity / 2
        })
    }

    /// Whether there is room for one more light session, where [`Sessions::admit`]
    /// finds no slot: when its peer answers, an unverified session gives up its slot.
    pub fn has_light_room(&self) -> bool {
        let unverified = self.unverified.len() + self.light.len();
        let has_room = unverified < MAX_UNVERIFIED && self.is_within_limit(true);
        self.is_short() && !self.unverified.is_empty() && has_room
    }

    /// Whether sessions hold more descriptors than they may, or are too many. Light
    /// sessions may have come to hold descriptors, or may count since their peer has
    /// answered.
    pub fn is_overfull(&self) -> bool {
        let counted = self.slab.len() - self.light.len();
        self.held() > self.ceiling || (self.light_on_top && counted > self.limit)
    }

    /// Whether the client of this session, whose peer has just answered for the first
    /// time, has more sessions than it may.
    pub fn is_crowded(&self, key: SessionKey) -> bool {
        let (Some(by_client), Some(endpoint)) = (&self.by_client, self.endpoint(key)) else {
            return false;
        };
        by_client.of(client_of(endpoint)).verified as usize > self.per_client
    }

    /// How many descriptors are held for sessions.
    const fn held(&self) -> usize {
        self.own + self.open_files
    }

    /// How many sessions aren't over.
    pub fn running(&self) -> usize {
        self.len() - self.over.len()
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many sessions there are descriptors for, if each takes [`MAX_DESCRIPTORS`].
    pub const fn own_ports(&self) -> usize {
        self.capacity / MAX_DESCRIPTORS
    }

    /// The most sessions at once, without light ones where those come on top.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// How often the wheel was changed: the price of keeping time.
    pub const fn wheel_ops(&self) -> u64 {
        self.wheel_ops
    }

    /// What to do with a request of `endpoint`. Changes and allocates nothing.
    ///
    /// `random` chooses among those that could give way: a number that nobody
    /// outside can guess. A client that replaces its own session is served even
    /// where the table is full.
    pub fn admit(
        &self,
        endpoint: &Endpoint,
        fingerprint: Fingerprint,
        now: Instant,
        random: u32,
    ) -> Admission {
        if let Some((key, entry)) = self.find(endpoint) {
            let is_same = entry.fingerprint == fingerprint;
            return match judge(&entry.session, is_same, now) {
                Repeat::Repeated => Admission::Repeated(key),
                Repeat::StartsOver => Admission::StartsOver(key),
                Repeat::Replaces => Admission::Replaces(key),
                Repeat::Moving => Admission::Moving(key),
            };
        }
        if let Some(crowded) = self.share_of(client_of(endpoint), now, random) {
            return crowded;
        }
        let has_slot = self.held() < self.capacity;
        let is_flooded = self.unverified.len() + self.light.len() >= MAX_UNVERIFIED;
        if has_slot && !is_flooded && self.is_within_limit(false) {
            return Admission::New;
        }
        // The end of a light session frees no slot, but makes room.
        let takes_light = has_slot && self.light.len() > self.unverified.len();
        let unanswered = if takes_light {
            &self.light
        } else {
            &self.unverified
        };
        let found = match (has_slot, is_flooded) {
            (true, true) => self.overdue(unanswered, now, random, &|_| true),
            (false, true) => self.overdue(unanswered, now, random, &frees).or_else(|| {
                // A light one goes, so that their number doesn't grow; `is_overfull`
                // then frees the slot.
                self.gives_way(now, random)?;
                self.overdue(&self.light, now, random, &|_| true)
            }),
            (true, false) => self.first_to_go(unanswered, now, random, &|_| true),
            (false, false) => self.first_to_go(unanswered, now, random, &frees),
        };
        found.map_or(Admission::Full, Admission::Evicts)
    }

    /// [`Sessions::admit`] for a read, which may be a light session where no slot is
    /// free.
    pub fn admit_read(
        &self,
        endpoint: &Endpoint,
        fingerprint: Fingerprint,
        now: Instant,
        random: u32,
    ) -> Admission {
        match self.admit(endpoint, fingerprint, now, random) {
            Admission::Full if self.has_light_room() => Admission::New,
            other => other,
        }
    }

    /// [`Sessions::rearm`] after a turn of the session. Returns what follows if its
    /// peer has answered for the first time in that turn. `was_unverified`: it hadn't
    /// before. `random` is as for [`Sessions::admit`]; it and `now` are called only
    /// where a session has to give way.
    pub fn after_turn(
        &mut self,
        key: SessionKey,
        was_unverified: bool,
        now: impl FnOnce() -> Instant,
        random: impl FnOnce() -> u32,
    ) -> AfterTurn {
        self.rearm(key);
        let is_verified = || {
            self.get(key)
                .is_some_and(|it| it.unverified_since().is_none())
        };
        if !was_unverified || !is_verified() {
            AfterTurn::Stays
        } else if self.is_crowded(key) {
            let client = self.endpoint(key).map(client_of);
            let sent = client.and_then(|it| self.all_sent(it, random(), |sent| sent != key));
            sent.map_or(AfterTurn::Crowded, AfterTurn::Concludes)
        } else if self.is_overfull() {
            // A peer that has proved to be there comes before those that are over or
            // silent; if all others are as real as it is, it came last and goes.
            let gives_way = self.gives_way_to_verified(now(), random());
            AfterTurn::Evicts(gives_way.unwrap_or(key))
        } else {
            AfterTurn::Stays
        }
    }

    /// The session of an endpoint.
    fn find(&self, endpoint: &Endpoint) -> Option<(SessionKey, &Entry<S>)> {
        self.by_endpoint
            .range(IndexKey::all_at(endpoint))
            .find_map(|place| {
                let entry = self.slab.get(place.index as usize)?;
                (entry.endpoint == *endpoint).then(|| (entry.key(place.index), entry))
            })
    }

    /// Stores a session and arms its deadline.
    ///
    /// # Panics
    /// Where [`Sessions::admit`] would not say [`Admission::New`]: the endpoint
    /// has a session, or no slot is free.
    pub fn insert(
        &mut self,
        endpoint: Endpoint,
        fingerprint: Fingerprint,
        session: S,
    ) -> SessionKey {
        // Where a light session was replaced there may be one too many: `is_overfull`.
        let has_room = self.held() < self.capacity || self.unverified_slots.is_some();
        assert!(has_room, "the session table is full");
        assert!(
            self.find(&endpoint).is_none(),
            "{endpoint:?} has a session already"
        );
        assert!(self.len() < MAX_SESSIONS, "too many sessions");
        let deadline = session.deadline();
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let standing = standing_of(&session);
        let index = self.slab.vacant_key() as u32;
        let key = SessionKey { generation, index };
        let descriptors = descriptors_of(&session);
        self.slab.insert(Entry {
            endpoint,
            generation,
            fingerprint,
            standing,
            descriptors,
            position: 0,
            session,
        });
        self.enlist(index);
        self.by_endpoint.insert(IndexKey::of(&endpoint, index));
        if let Some(deadline) = deadline {
            self.arm(index, deadline);
        }
        self.check_if_small();
        key
    }

    /// The session, if it still exists.
    pub fn get(&self, key: SessionKey) -> Option<&S> {
        self.entry(key).map(|entry| &entry.session)
    }

    /// The session, if it still exists. After changing it call [`Sessions::rearm`].
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut S> {
        let entry = self.slab.get_mut(key.index as usize)?;
        key.is_of(entry.generation).then_some(&mut entry.session)
    }

    /// The key of the session that a token stands for, if that still exists. On 32 bits
    /// a token holds only a part of the key; this returns the whole.
    pub fn key_of_token(&self, token: usize) -> Option<SessionKey> {
        let key = SessionKey::from_token(token);
        let generation = self.entry(key)?.generation;
        Some(SessionKey { generation, ..key })
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
            .map(|(index, entry)| (entry.key(index as u32), &entry.session))
    }

    /// How many places there are for sessions, free ones included.
    pub fn places(&self) -> usize {
        self.slab.capacity()
    }

    /// Makes the table as large as if it had once held many sessions.
    #[cfg(all(test, feature = "status"))]
    pub(crate) fn reserve(&mut self, places: usize) {
        self.slab.reserve(places);
    }

    /// The session at a place, for callers that go through all of them bit by bit.
    pub fn at(&self, place: usize) -> Option<(SessionKey, &S)> {
        let entry = self.slab.get(place)?;
        Some((entry.key(place as u32), &entry.session))
    }

    /// Takes the session out of the table, if it still exists. Its key names
    /// nothing from here on.
    pub fn remove(&mut self, key: SessionKey) -> Option<S> {
        self.entry(key)?;
        self.unlist(key.index);
        let entry = self.slab.remove(key.index as usize);
        self.by_endpoint
            .remove(&IndexKey::of(&entry.endpoint, key.index));
        self.wheel.cancel(key.index);
        self.wheel_ops += 1;
        self.check_if_small();
        Some(entry.session)
    }

    /// Takes note of the session's deadline, of its peer's first answer and of its end.
    /// Call it after anything that may have changed one of these.
    ///
    /// Costs a few comparisons, unless the deadline is earlier than what the
    /// wheel has or the wheel has nothing.
    #[inline]
    pub fn rearm(&mut self, key: SessionKey) {
        let Some(entry) = self.slab.get_mut(key.index as usize) else {
            return;
        };
        if !key.is_of(entry.generation) {
            return;
        }
        let descriptors = descriptors_of(&entry.session);
        let standing = standing_of(&entry.session);
        let deadline = entry.session.deadline();
        if standing != entry.standing || descriptors != entry.descriptors {
            self.relist(key.index, standing, descriptors);
        }
        // With nearly every packet the deadline moves later, and the wheel has an
        // earlier one.
        if let Some(deadline) = deadline
            && !self.wheel.covers(key.index, deadline)
        {
            self.arm(key.index, deadline);
        }
        self.check_if_small();
    }

    /// When to call [`Sessions::pop_due`] next, or `None` where nothing waits.
    ///
    /// May be too early, as [`TimerWheel::next_deadline`] and the hints are, but each
    /// call at that time gets something done. It is late by less than a tick of the
    /// wheel, if at all.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// A session whose deadline has come; call until `None`.
    ///
    /// The caller then removes the session or calls [`Sessions::rearm`]; otherwise it
    /// would not be woken again. Calls with the same `now` come to an end: none of them
    /// returns a key twice. A deadline that is still not ahead of `now` after the
    /// session's turn is due again a tick later.
    pub fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        self.reached = self.reached.max(now);
        while let Some(index) = self.wheel.pop_expired(self.reached) {
            self.wheel_ops += 1;
            let Some(entry) = self.slab.get(index as usize) else {
                debug_assert!(false, "slot {index} was freed with its deadline armed");
                continue;
            };
            match entry.session.deadline() {
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
    /// If they don't: because of a bug here, or a session changed without
    /// [`Sessions::rearm`].
    pub fn check_invariants(&self) {
        let own = self.slab.iter().map(|(_, it)| usize::from(it.descriptors));
        assert_eq!(own.sum::<usize>(), self.own, "descriptors");
        let unverified = self.unverified.iter();
        let own = unverified.map(|&index| usize::from(self.slab[index as usize].descriptors));
        assert_eq!(own.sum::<usize>(), self.own_unverified, "of unverified");
        assert_eq!(self.len(), self.by_endpoint.len(), "slab and by_endpoint");
        assert!(self.wheel.len() <= self.len(), "a freed slot is armed");
        for (standing, list) in [
            (Standing::Verified, &self.verified),
            (Standing::Unverified, &self.unverified),
            (Standing::Light, &self.light),
            (Standing::Over, &self.over),
        ] {
            let alike = self.slab.iter().filter(|(_, it)| it.standing == standing);
            assert_eq!(alike.count(), list.len(), "{standing:?}");
        }
        for (index, entry) in &self.slab {
            let key = entry.key(index as u32);
            let found = self.find(&entry.endpoint).map(|(key, _)| key);
            assert_eq!(found, Some(key), "{:?}", entry.endpoint);
            assert!(!RESERVED.contains(&key.to_token()), "{key:?}");
            // Whether others read its file is noted with its own next turn.
            let now = standing_of(&entry.session);
            let is_unanswered = |it| matches!(it, Standing::Unverified | Standing::Light);
            let is_same = is_unanswered(now) && is_unanswered(entry.standing);
            assert!(is_same || entry.standing == now, "{key:?}");
            assert_eq!(entry.descriptors, descriptors_of(&entry.session), "{key:?}");
            let list = match entry.standing {
                Standing::Verified => &self.verified,
                Standing::Unverified => &self.unverified,
                Standing::Light => &self.light,
                Standing::Over => &self.over,
            };
            assert_eq!(list[entry.position as usize], key.index);
            if let Some(by_client) = &self.by_client {
                let client = client_of(&entry.endpoint);
                assert_eq!(by_client.of(client), self.count_of(client), "{client:?}");
            }
            if let Some(deadline) = entry.session.deadline() {
                let armed = self.wheel.covers(key.index, self.ahead(deadline));
                assert!(armed, "{key:?} would oversleep");
            }
        }
    }

    /// A client's sessions, counted one by one.
    fn count_of(&self, client: Client) -> Counts {
        let mut counts = Counts::default();
        for (_, entry) in &self.slab {
            let is_its = client_of(&entry.endpoint) == client;
            match entry.standing.counts_as() {
                Some(true) if is_its => counts.verified += 1,
                Some(false) if is_its => counts.unverified += 1,
                _ => {}
            }
        }
        counts
    }

    fn check_if_small(&self) {
        // A table that has been large still has as many places to look through.
        let is_small = self.len() <= CHECKED_LEN && self.places() <= FIRST_ROOM;
        if cfg!(debug_assertions) && is_small {
            self.check_invariants();
        }
    }

    fn entry(&self, key: SessionKey) -> Option<&Entry<S>> {
        let entry = self.slab.get(key.index as usize)?;
        key.is_of(entry.generation).then_some(entry)
    }

    /// Moves the session to the list of its new standing, and counts its descriptors
    /// again.
    #[cold] // Both change a few times at most.
    fn relist(&mut self, index: u32, standing: Standing, descriptors: u8) {
        self.unlist(index);
        if let Some(entry) = self.slab.get_mut(index as usize) {
            (entry.standing, entry.descriptors) = (standing, descriptors);
        }
        self.enlist(index);
    }

    /// Puts the session on the list of its standing, and counts its descriptors.
    fn enlist(&mut self, index: u32) {
        let Some(entry) = self.slab.get(index as usize) else {
            return;
        };
        let (standing, own) = (entry.standing, usize::from(entry.descriptors));
        if let (Some(by_client), Some(is_verified)) = (&mut self.by_client, standing.counts_as()) {
            by_client.add(client_of(&entry.endpoint), is_verified);
        }
        self.own += own;
        if standing == Standing::Unverified {
            self.own_unverified += own;
        }
        let list = self.list(standing);
        let position = list.len() as u32;
        list.push(index);
        if let Some(entry) = self.slab.get_mut(index as usize) {
            entry.position = position;
        }
    }

    /// Takes the session off its list; the last one on the list takes its place.
    fn unlist(&mut self, index: u32) {
        let Some(entry) = self.slab.get(index as usize) else {
            return;
        };
        let (standing, position) = (entry.standing, entry.position);
        let own = usize::from(entry.descriptors);
        if let (Some(by_client), Some(is_verified)) = (&mut self.by_client, standing.counts_as()) {
            by_client.subtract(client_of(&entry.endpoint), is_verified);
        }
        self.own -= own;
        if standing == Standing::Unverified {
            self.own_unverified -= own;
        }
        let list = self.list(standing);
        list.swap_remove(position as usize);
        if let Some(&moved) = list.get(position as usize)
            && let Some(entry) = self.slab.get_mut(moved as usize)
        {
            entry.position = position;
        }
    }

    fn list(&mut self, standing: Standing) -> &mut Vec<u32> {
        match standing {
            Standing::Verified => &mut self.verified,
            Standing::Unverified => &mut self.unverified,
            Standing::Light => &mut self.light,
            Standing::Over => &mut self.over,
        }
    }

    /// Makes the wheel wake the slot no later than at `deadline`.
    fn arm(&mut self, index: u32, deadline: Instant) {
        let deadline = self.ahead(deadline);
        if !self.wheel.covers(index, deadline) {
            self.wheel.schedule(index, deadline);
            self.wheel_ops += 1;
        }
    }

    /// The deadline, or the next instant if that has passed. Rounded up to a tick, it
    /// lies ahead of the current `pop_due`, so a run of those calls comes to an end.
    fn ahead(&self, deadline: Instant) -> Instant {
        deadline.max(self.reached + Duration::from_nanos(1))
    }
}

impl Standing {
    /// Whether it counts among its client's sessions as one whose peer has answered;
    /// `None`: it doesn't count.
    const fn counts_as(self) -> Option<bool> {
        match self {
            Self::Verified => Some(true),
            Self::Unverified | Self::Light => Some(false),
            Self::Over => None,
        }
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

fn descriptors_of(session: &impl Tracked) -> u8 {
    let descriptors = session.descriptors();
    debug_assert!(descriptors <= MAX_DESCRIPTORS);
    descriptors as u8
}

fn standing_of(session: &impl Tracked) -> Standing {
    if session.is_over() {
        Standing::Over
    } else if session.unverified_since().is_some() {
        if session.frees_descriptor() {
            Standing::Unverified
        } else {
            Standing::Light
        }
    } else {
        Standing::Verified
    }
}

/// The client that an endpoint belongs to.
fn client_of(endpoint: &Endpoint) -> Client {
    Client::of(endpoint.peer.ip())
}

#[cfg(test)]
mod tests;
