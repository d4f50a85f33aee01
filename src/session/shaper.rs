//! How many bytes of DATA a session may send in a turn, where nothing proves its
//! client: a traffic shaper.
//!
//! Two things are bounded: what goes to a client network that nothing proves to be
//! there (`unproved`), and, where transfers share the listen sockets (a single port, for
//! all or by the rules), what one client has in the send buffer. Shared ports of a range
//! count there as well: several sockets, but one sum, as if they had one buffer, that of
//! the listen socket with the smallest.
//! Where a slow path fills that buffer, no client takes more than a part of what is
//! left, so that the others don't wait behind it. A session over its bound sleeps until
//! it may go on; nothing is lost, since the transfer offers it again. Must not: send,
//! read a clock that it wasn't lent, make a random number.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::port::Port;
use super::unproved::{Evidence, UnprovedRate};
use super::{Content, Context, SEND_BUDGET, Session, Turn};
use crate::file::{ReadAt, Store};
use crate::protocol::transfer::{Outcome, Progress};
use crate::table::rate::place;
use crate::table::{Client, SessionKey, Tracked as _};
use crate::wire::packet::DATA_HEADER_LEN;

/// While less than one part in this many of the send buffer is taken, nobody waits.
pub(crate) const FREE_PART: usize = 4;

/// Beyond that, one client may take one part in this many of what is left of the send
/// buffer: some sixty clients, one after the other, leave a quarter.
const CLIENT_PART: usize = 64;

/// Bytes of the send buffer that a datagram takes, beside twice its length.
const OVERHEAD: usize = 768;

/// How often the buffer is checked for room, and for how many of the waiting sessions
/// at a time. A session whose blocks are acknowledged doesn't wait for that.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOKS: usize = 8;

/// Sessions that may sleep at once before more memory is allocated for them.
const AT_ONCE: usize = 64;

/// Clients told apart; some share a place, and with it a part of the buffer.
const CLIENTS: usize = 4096;
const _: () = assert!(CLIENTS <= 1 << u16::BITS);

/// A budget for the bytes of each place in the table, up to the highest whose session
/// was shaped: there may be hundreds of thousands.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Option<Account>>() <= 40);

/// What sessions have sent, and which of them sleep.
#[derive(Debug)]
pub struct Shaper {
    accounts: Accounts,
    buffer: SendBuffer,
    unproved: Option<UnprovedRate>,
    /// Sessions that are paused, and until when.
    paused: BinaryHeap<Reverse<(Instant, SessionKey)>>,
    /// Sessions that wait for room in the buffer, when it is checked next, and how many
    /// of them are still to be woken now.
    waiting: VecDeque<SessionKey>,
    look_at: Instant,
    looks: usize,
    seed: u64,
}

/// The account of each session that has sent DATA, at the session's place in the table:
/// where there are many sessions, nearly all have one.
#[derive(Debug, Default)]
struct Accounts(Vec<Option<Account>>);

/// What is known about a session that has sent DATA.
#[derive(Debug)]
struct Account {
    /// Whose account it is: the place may have been another session's.
    key: SessionKey,
    evidence: Evidence,
    /// Bytes of the buffer that its DATA may still take.
    in_flight: u32,
    client: u16,
    /// It is in `Shaper::paused`.
    is_paused: bool,
    /// It is in `Shaper::waiting`.
    waits: bool,
}

impl Account {
    fn new(key: SessionKey, client: usize) -> Self {
        Self {
            key,
            evidence: Evidence::default(),
            in_flight: 0,
            client: client as u16,
            is_paused: false,
            waits: false,
        }
    }
}

impl Accounts {
    fn get(&self, key: SessionKey) -> Option<&Account> {
        let account = self.0.get(key.place())?.as_ref();
        account.filter(|it| it.key == key)
    }

    fn get_mut(&mut self, key: SessionKey) -> Option<&mut Account> {
        let account = self.0.get_mut(key.place())?.as_mut();
        account.filter(|it| it.key == key)
    }

    /// The account of the session, made if there is none. An account that another
    /// session left in its place gives back its part of the `buffer`.
    fn of(
        &mut self,
        key: SessionKey,
        client: impl FnOnce() -> usize,
        buffer: &mut SendBuffer,
    ) -> &mut Account {
        let place = key.place();
        if place >= self.0.len() {
            self.0.resize_with(place + 1, || None);
        }
        let account = &mut self.0[place];
        if let Some(mut left) = account.take_if(|it| it.key != key) {
            buffer.release(&mut left, u64::MAX);
        }
        account.get_or_insert_with(|| Account::new(key, client()))
    }

    fn remove(&mut self, key: SessionKey) -> Option<Account> {
        self.0.get_mut(key.place())?.take_if(|it| it.key == key)
    }
}

/// The send buffer that sessions share, and who may have taken how much of it. What all
/// shared sockets hold counts together.
#[derive(Debug)]
struct SendBuffer {
    /// Bytes.
    len: usize,
    /// Bytes that each client may have in it. Allocated when the first takes some:
    /// sessions whose port proves their peer don't.
    clients: Vec<u64>,
    /// The sum over all clients.
    in_flight: u64,
}

/// What a session may send in a turn, and why no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lent {
    /// The whole budget of a turn.
    All,
    /// The bytes that the buffer has room for.
    Room(usize),
    /// Nothing: its client network's bytes are spent, or the session is paused.
    Nothing,
}

impl Lent {
    /// Bytes.
    const fn bytes(self) -> usize {
        match self {
            Self::All => SEND_BUDGET,
            Self::Room(bytes) => bytes,
            Self::Nothing => 0,
        }
    }
}

/// What a session did in its turn.
#[derive(Debug, Clone, Copy)]
struct Used {
    began: Instant,
    /// Blocks that had been acknowledged before the turn.
    acknowledged: u64,
    lent: Lent,
    /// Bytes of those lent that it hasn't sent.
    left: usize,
    /// It has more to send.
    has_more: bool,
}

/// The result of a turn.
#[derive(Debug)]
pub struct Done {
    /// How the transfer ended; told once.
    pub outcome: Option<Outcome>,
    /// Before the turn the peer still owed its first answer.
    pub was_unverified: bool,
    /// Its peer has answered, if only with an ERROR: many only ask for the size.
    pub is_answered: bool,
    /// It has more to do in another turn.
    pub is_unfinished: bool,
    /// It has more to send than the caller's budget allowed.
    pub is_held: bool,
    /// Bytes of its budget that it has used.
    pub sent: usize,
}

impl Shaper {
    /// `buffer`: bytes of the send buffer that sessions share; `None` if each has its
    /// own. `unproved`: the bound for unproved peers, if there is one. No stranger
    /// knows the `seed`.
    pub fn new(
        buffer: Option<usize>,
        unproved: Option<UnprovedRate>,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            accounts: Accounts::default(),
            buffer: SendBuffer {
                len: buffer.unwrap_or(usize::MAX),
                clients: Vec::new(),
                in_flight: 0,
            },
            unproved,
            paused: BinaryHeap::with_capacity(AT_ONCE),
            waiting: VecDeque::with_capacity(AT_ONCE),
            look_at: now,
            looks: 0,
            seed,
        }
    }

    /// From now on sessions share a send buffer of this many bytes, or the smaller one that
    /// they shared before.
    pub fn share_buffer(&mut self, bytes: usize) {
        self.buffer.len = self.buffer.len.min(bytes);
    }

    /// Bytes of the send buffer that sessions share, if they do.
    #[cfg(test)]
    pub(crate) fn shared_buffer(&self) -> Option<usize> {
        (self.buffer.len < usize::MAX).then_some(self.buffer.len)
    }

    /// Lets a session `work`, with no more to send than it is lent and than the
    /// context's budget. Closes its file if its peer has never answered. `random` is
    /// any number that nobody can guess.
    #[inline]
    pub fn turn<P: Port, S: Store, R: ReadAt>(
        &mut self,
        key: SessionKey,
        session: &mut Session<P, S, R>,
        context: &mut Context<'_, P>,
        random: impl FnOnce() -> u32,
        work: impl FnOnce(&mut Session<P, S, R>, &mut Context<'_, P>) -> Turn,
    ) -> Done {
        let is_shaped = session.transfer().may_be_forged();
        let lent = if is_shaped {
            self.lend(key, session, context.now)
        } else {
            Lent::All
        };
        let budget = lent.bytes().min(context.send_budget);
        context.send_budget = budget;
        let was_unverified = session.unverified_since().is_some();
        let acknowledged = session.transfer().progress().blocks;
        let turn = work(session, context);
        let is_held = turn == Turn::Spent && budget < lent.bytes();
        let sent = budget.saturating_sub(context.send_budget);
        let outcome = session.poll_outcome();
        // Once verified, a peer stays so.
        let is_answered = !was_unverified
            || session.unverified_since().is_none()
            || matches!(outcome, Some(Outcome::Probed | Outcome::PeerError { .. }));
        let mut is_unfinished = turn != Turn::Waiting && !is_held;
        if !is_answered && !session.is_closed() {
            session.close_file();
        }
        if is_shaped && !session.is_closed() {
            let used = Used {
                began: context.now,
                acknowledged,
                lent,
                // What the caller held back wasn't sent either.
                left: context.send_budget + (lent.bytes() - budget),
                has_more: is_unfinished,
            };
            is_unfinished &= !self.settle(key, session, &used, (context.clock)(), random);
        }
        Done {
            outcome,
            was_unverified,
            is_answered,
            is_unfinished,
            is_held,
            sent,
        }
    }

    /// Whether the session's client has shown that it is there, where nothing else
    /// proves it.
    pub fn has_proved(&self, key: SessionKey) -> bool {
        let account = self.accounts.get(key);
        account.is_some_and(|it| UnprovedRate::is_proved(&it.evidence))
    }

    /// What the session may send in the turn that begins.
    #[inline(never)]
    fn lend<P: Port, S: Store, R: ReadAt>(
        &mut self,
        key: SessionKey,
        session: &Session<P, S, R>,
        now: Instant,
    ) -> Lent {
        // The first answer is bounded elsewhere.
        let transfer = session.transfer();
        let is_first = session.unverified_since().is_some() && transfer.waiting_since().is_none();
        if matches!(session.content(), Content::Sink(_)) || is_first {
            return Lent::All;
        }
        let account = self.accounts.get_mut(key);
        let evidence = account.as_ref().map(|account| &account.evidence);
        if let Some(unproved) = &self.unproved
            && !unproved.may_send(evidence, session.peer().ip(), now)
        {
            return Lent::Nothing;
        }
        if !session.port().is_shared() || !self.buffer.may_be_full() {
            return Lent::All;
        }
        let client = place(self.seed, Client::of(session.peer().ip()), CLIENTS);
        let block = block_len(&session.transfer().progress());
        let taken = session.port().unsent();
        self.buffer.room(taken, client, account, block)
    }

    /// Takes note of a turn of the session, which ended at `now`. Returns whether the
    /// session sleeps.
    #[inline(never)]
    fn settle<P: Port, S: Store, R: ReadAt>(
        &mut self,
        key: SessionKey,
        session: &Session<P, S, R>,
        turn: &Used,
        now: Instant,
        random: impl FnOnce() -> u32,
    ) -> bool {
        let progress = session.transfer().progress();
        let is_stopped = turn.has_more && turn.lent != Lent::All;
        if matches!(session.content(), Content::Sink(_)) || !(progress.verified || is_stopped) {
            return false;
        }
        let peer = session.peer().ip();
        let seed = self.seed;
        let client = || place(seed, Client::of(peer), CLIENTS);
        let account = self.accounts.of(key, client, &mut self.buffer);
        let acknowledged = progress.blocks.saturating_sub(turn.acknowledged);
        if acknowledged > 0 {
            self.buffer.acknowledged(account, acknowledged, &progress);
            if let Some(unproved) = &mut self.unproved {
                unproved.answered(&mut account.evidence, peer, turn.began);
            }
        }
        let sent = turn.lent.bytes().saturating_sub(turn.left);
        if sent > 0 {
            if session.port().is_shared() {
                self.buffer.sent(account, sent, &progress);
            }
            if let Some(unproved) = &mut self.unproved {
                unproved.sent(&mut account.evidence, peer, sent, now);
            }
        }
        if !is_stopped {
            return false;
        }
        if let (Some(unproved), Lent::Nothing) = (&self.unproved, turn.lent) {
            let answer_time = session.transfer().answer_time();
            let wakes = unproved.pause(&mut account.evidence, peer, answer_time, random(), now);
            // A pause never becomes shorter: an entry that is there already wakes it in
            // time.
            if !std::mem::replace(&mut account.is_paused, true) {
                self.paused.push(Reverse((wakes, key)));
            }
            return true;
        }
        // There may be room for more, or an ACK has just made some.
        if turn.lent != Lent::Room(0) || acknowledged > 0 {
            return false;
        }
        if !std::mem::replace(&mut account.waits, true) {
            if self.waiting.is_empty() {
                self.look_at = now + LOOK_AGAIN;
            }
            self.waiting.push_back(key);
        }
        true
    }

    /// The session has ended.
    pub fn forget(&mut self, key: SessionKey) {
        if let Some(mut account) = self.accounts.remove(key) {
            self.buffer.release(&mut account, u64::MAX);
        }
    }

    /// When the next session is to be woken, or earlier.
    pub fn next_deadline(&self) -> Option<Instant> {
        let paused = self.paused.peek().map(|Reverse((wakes, _))| *wakes);
        let look = (!self.waiting.is_empty()).then_some(self.look_at);
        [paused, look].into_iter().flatten().min()
    }

    /// A session that is to have a turn; call until `None`.
    pub fn pop_due(&mut self, now: Instant) -> Option<SessionKey> {
        while let Some(&Reverse((wakes, key))) = self.paused.peek()
            && wakes <= now
        {
            self.paused.pop();
            if let Some(account) = self.accounts.get_mut(key) {
                account.is_paused = false;
                return Some(key);
            }
        }
        if self.look_at <= now {
            self.look_at = now + LOOK_AGAIN;
            self.looks = LOOKS.min(self.waiting.len());
        }
        while self.looks > 0 {
            self.looks -= 1;
            let key = self.waiting.pop_front()?;
            if let Some(account) = self.accounts.get_mut(key) {
                account.waits = false;
                return Some(key);
            }
        }
        None
    }
}

impl SendBuffer {
    /// Whether it is worth asking the kernel how full it is.
    const fn may_be_full(&self) -> bool {
        self.in_flight >= (self.len / FREE_PART) as u64
    }

    /// What a session of `client` may add to the `taken` bytes, in blocks of `block`
    /// bytes. Each session may have one block in the buffer, however full it is.
    fn room(
        &mut self,
        taken: usize,
        client: usize,
        account: Option<&mut Account>,
        block: usize,
    ) -> Lent {
        let free = self.len / FREE_PART;
        if taken < free {
            // What was sent has left, acknowledged or not.
            if let Some(account) = account {
                self.release(account, u64::MAX);
            }
            return Lent::Room((free / 4).clamp(block, SEND_BUDGET.max(block)));
        }
        let part = (self.len.saturating_sub(taken) / CLIENT_PART) as u64;
        match part.saturating_sub(*self.of_client(client)) / 2 {
            room if room >= block as u64 => Lent::Room(SEND_BUDGET.min(room as usize)),
            _ if account.is_none_or(|it| it.in_flight == 0) => Lent::Room(block),
            _ => Lent::Room(0),
        }
    }

    fn sent(&mut self, account: &mut Account, bytes: usize, progress: &Progress) {
        let datagrams = bytes.div_ceil(block_len(progress)) as u64;
        let taken = u32::try_from(datagrams * taken_by_block(progress)).unwrap_or(u32::MAX);
        let taken = taken.min(u32::MAX - account.in_flight);
        account.in_flight += taken;
        *self.of_client(account.client.into()) += u64::from(taken);
        self.in_flight += u64::from(taken);
    }

    fn acknowledged(&mut self, account: &mut Account, blocks: u64, progress: &Progress) {
        self.release(account, blocks.saturating_mul(taken_by_block(progress)));
        // Blocks that went out twice are acknowledged once: some of the rest has left
        // as well.
        self.release(account, u64::from(account.in_flight / 2));
    }

    fn release(&mut self, account: &mut Account, bytes: u64) {
        let gone = u64::from(account.in_flight).min(bytes);
        account.in_flight -= gone as u32;
        *self.of_client(account.client.into()) -= gone;
        self.in_flight -= gone;
    }

    fn of_client(&mut self, client: usize) -> &mut u64 {
        if self.clients.is_empty() {
            self.clients = vec![0; CLIENTS];
        }
        &mut self.clients[client]
    }
}

/// Bytes of a datagram with a whole block.
fn block_len(progress: &Progress) -> usize {
    DATA_HEADER_LEN + usize::from(progress.block_size)
}

/// Bytes of the buffer that such a datagram takes.
fn taken_by_block(progress: &Progress) -> u64 {
    (2 * block_len(progress) + OVERHEAD) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const LEN: usize = 1 << 20;

    fn account(client: usize) -> Account {
        Account::new(SessionKey::from_token(client), client)
    }

    fn progress() -> Progress {
        Progress {
            blocks: 0,
            block_size: 1428,
            window_size: 64,
            retransmits: 0,
            verified: true,
        }
    }

    #[test]
    fn an_account_that_is_left_behind_holds_nothing_of_the_send_buffer() {
        let mut shaper = Shaper::new(Some(LEN), None, 7, clock::now());
        // The same place in the table, a generation later.
        let token = |generation: usize| generation << (usize::BITS - 8) | 5;
        let keys = [1, 2].map(|it| SessionKey::from_token(token(it)));
        assert_eq!(keys[0].place(), keys[1].place());
        for (key, in_flight) in keys.into_iter().zip([1, 0]) {
            let Shaper {
                accounts, buffer, ..
            } = &mut shaper;
            let account = accounts.of(key, || 3, buffer);
            assert_eq!(account.in_flight, 0);
            buffer.sent(account, 1428 * in_flight, &progress());
            assert_eq!(buffer.in_flight > 0, in_flight > 0);
        }
    }

    /// A server whose ports prove its peers needs no memory for them.
    #[test]
    fn the_places_of_clients_are_made_for_the_first_that_takes_some() {
        let mut buffer = Shaper::new(Some(LEN), None, 7, clock::now()).buffer;
        assert_eq!(buffer.clients.capacity(), 0);
        buffer.sent(&mut account(3), 1, &progress());
        assert_eq!(buffer.clients.len(), CLIENTS);
    }

    /// Sixty clients that never acknowledge send as long as they are lent anything;
    /// every byte of theirs stays in the buffer.
    #[test]
    fn sixty_clients_behind_a_slow_path_leave_room_in_the_send_buffer() {
        let mut buffer = Shaper::new(Some(LEN), None, 7, clock::now()).buffer;
        let mut slow: Vec<_> = (0..60).map(account).collect();
        let block = block_len(&progress());
        let mut is_lent = true;
        while is_lent {
            is_lent = false;
            for account in &mut slow {
                let taken = buffer.in_flight as usize;
                let client = account.client.into();
                let lent = buffer.room(taken, client, Some(account), block).bytes();
                is_lent |= lent > 0;
                // At most a window.
                buffer.sent(account, lent.min(64 * block), &progress());
            }
        }
        let taken = buffer.in_flight as usize;
        assert!(taken < LEN * 9 / 10, "{taken}");
        assert!(taken > LEN / 2, "{taken}");
        // Another client is lent something, and again once that has left.
        let mut quick = account(99);
        for _ in 0..100 {
            let lent = buffer.room(taken, 99, Some(&mut quick), block).bytes();
            assert!(lent >= block, "{lent}");
            buffer.sent(&mut quick, lent, &progress());
            buffer.acknowledged(&mut quick, (lent / block) as u64, &progress());
        }
        // Another session of one of the slow clients may have one block.
        assert_eq!(buffer.room(taken, 0, None, block), Lent::Room(block));
        for account in &mut slow {
            buffer.release(account, u64::MAX);
        }
        buffer.release(&mut quick, u64::MAX);
        assert_eq!(buffer.in_flight, 0);
        assert!(buffer.clients.iter().all(|&bytes| bytes == 0));
        assert!(!buffer.may_be_full());
    }
}
