//! Randomness, and what the network does to datagrams on their way.

use std::time::Duration;

/// `SplitMix64`: short, and the same on every machine.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.below(100) < chance
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What happens to datagrams, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Delivered with a changed byte, as if from the same sender.
    pub(crate) forgery: u64,
    /// Accompanied by a datagram from someone else to the same port.
    pub(crate) strangers: u64,
    /// Answered by a router as undeliverable, although it arrives.
    pub(crate) icmp: u64,
    pub(crate) jitter: Duration,
}

pub(crate) const FAIR: Weather = Weather {
    loss: 0,
    duplication: 0,
    forgery: 0,
    strangers: 0,
    icmp: 0,
    jitter: Duration::ZERO,
};

impl Weather {
    pub(crate) fn any(random: &mut Random) -> Self {
        Self {
            loss: random.choose(&[0, 1, 5, 20]),
            duplication: random.choose(&[0, 1, 10]),
            forgery: random.choose(&[0, 0, 2]),
            strangers: random.choose(&[0, 0, 5]),
            icmp: random.choose(&[0, 0, 5]),
            jitter: Duration::from_millis(random.choose(&[0, 1, 30])),
        }
    }

    /// Every datagram arrives as it was sent.
    pub(crate) const fn delivers(&self) -> bool {
        self.loss == 0 && self.forgery == 0
    }
}

/// How the kernels at both ends treat sockets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernels {
    /// All transfers of the server go through its listen port.
    pub(crate) single_port: bool,
    /// Datagrams that wait together may be received as one (UDP GRO).
    pub(crate) coalesces: bool,
    /// A run is taken whole or not at all; otherwise segmentation offload is refused, and
    /// datagrams are sent one by one.
    pub(crate) offloads: bool,
    /// How often a socket is full for some milliseconds, in percent.
    pub(crate) fullness: u64,
}

impl Kernels {
    pub(crate) fn any(random: &mut Random) -> Self {
        Self {
            single_port: random.percent(30),
            coalesces: random.percent(50),
            offloads: random.percent(50),
            fullness: random.choose(&[0, 0, 2, 20]),
        }
    }
}
