//! Faults of the machines, by the seed: a kernel without buffers, sockets that are full
//! for seconds, no free descriptor, a clock that leaps by minutes.

use std::net::SocketAddr;
use std::time::Duration;

use super::network::SERVER;
use super::weather::Random;

/// The machine that a spell strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// What is lacking for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// `ENOBUFS`: a datagram that is sent is lost.
    Buffers,
    /// `EAGAIN`: a datagram that is sent stays with the sender.
    Room,
    /// `EMFILE`: no request is admitted.
    Descriptors,
}

/// A time in which something is lacking.
#[derive(Clone, Copy, Debug)]
struct Spell {
    want: Want,
    side: Side,
    from: Duration,
    until: Duration,
}

/// What happens to a datagram that is handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Taken,
    Lost,
    /// Not taken; there is room again at this time.
    Refused(Duration),
}

/// All faults of the machines beneath both ends.
pub(crate) struct Faults {
    random: Random,
    spells: Vec<Spell>,
    leaps_left: u32,
    /// Requests shed for lack of a descriptor.
    pub(crate) shed: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        random: Random(0),
        spells: Vec::new(),
        leaps_left: 0,
        shed: 0,
        lost: 0,
        refused: 0,
    };

    /// Up to three spells, together shorter than the shortest patience, which is that
    /// with a peer that has yet to answer (three retransmits); and a few leaps of the
    /// clock. A leap costs both ends one of their retransmits, so if `within_patience`
    /// there are either spells or at most two leaps.
    pub(crate) fn any(mut random: Random, within_patience: bool) -> Self {
        let spell = |random: &mut Random| {
            let from = Duration::from_micros(random.choose(&[0, 300, 2_000, 1_000_000]));
            let length = random.choose(&[1, 50, 900, 2_000]);
            Spell {
                want: random.choose(&[Want::Buffers, Want::Room, Want::Descriptors]),
                side: random.choose(&[Side::Server, Side::Client]),
                from: from + Duration::from_micros(random.below(1_000)),
                until: from + Duration::from_millis(1 + length),
            }
        };
        let spells: Vec<_> = (0..random.below(4)).map(|_| spell(&mut random)).collect();
        let most_leaps = match (within_patience, spells.is_empty()) {
            (false, _) => u32::MAX,
            (true, true) => 2,
            (true, false) => 0,
        };
        let leaps = random.choose(&[0, 0, 1, 4]);
        Self {
            spells,
            leaps_left: leaps.min(most_leaps),
            random,
            ..Self::NONE
        }
    }

    /// The server's sockets are full between these times, and nothing else is wrong.
    pub(crate) fn full_sockets(from: Duration, until: Duration) -> Self {
        let spell = Spell {
            want: Want::Room,
            side: Side::Server,
            from,
            until,
        };
        Self {
            spells: vec![spell],
            ..Self::NONE
        }
    }

    /// The current spell of this kind on `side`.
    fn spell(&self, now: Duration, side: Side, want: Want) -> Option<&Spell> {
        let strikes = |spell: &&Spell| {
            (spell.side, spell.want) == (side, want) && (spell.from..spell.until).contains(&now)
        };
        self.spells.iter().find(strikes)
    }

    /// What the kernel does with a datagram from `own`.
    pub(crate) fn send(&mut self, now: Duration, own: SocketAddr) -> Fate {
        let side = if own.ip() == SERVER {
            Side::Server
        } else {
            Side::Client
        };
        if let Some(spell) = self.spell(now, side, Want::Room) {
            let until = spell.until;
            self.refused += 1;
            return Fate::Refused(until);
        }
        if self.spell(now, side, Want::Buffers).is_some() {
            self.lost += 1;
            return Fate::Lost;
        }
        Fate::Taken
    }

    /// Whether the server may open another file and socket.
    pub(crate) fn admits(&mut self, now: Duration) -> bool {
        let admits = self.spell(now, Side::Server, Want::Descriptors).is_none();
        self.shed += u64::from(!admits);
        admits
    }

    /// How far the clock leaps now, if it does: up to half an hour.
    pub(crate) fn leap(&mut self) -> Option<Duration> {
        if self.leaps_left == 0 || !self.random.percent(3) {
            return None;
        }
        self.leaps_left -= 1;
        Some(Duration::from_secs(60 + self.random.below(1740)))
    }
}
