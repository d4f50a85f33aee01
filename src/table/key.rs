//! What identifies sessions, their endpoints and their clients. Must not: know a
//! session.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Tokens that never stand for a session's key: free for the listen sockets, signals
/// and the like.
pub const RESERVED: RangeInclusive<usize> = usize::MAX - 34..=usize::MAX;

/// The most sessions a table can hold, light ones included. Indices end where those in
/// the reserved tokens begin.
pub(super) const MAX_SESSIONS: usize = *RESERVED.start() & INDEX_MASK;

/// The bits of a token that hold an index. The rest holds the generation's low bits:
/// all 32 of them where a token has 64 bits, 12 where it has 32. There an event that is
/// 4,096 sessions late would be taken for another session's, which would find nothing
/// to receive.
const INDEX_BITS: u32 = if usize::BITS == 64 { 32 } else { 20 };

const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

/// The bits of a generation that a token holds.
const GENERATION_MASK: u32 = (usize::MAX >> INDEX_BITS) as u32;

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

/// A client, as limits and rates count them: an IPv4 address, or an IPv6 /64,
/// as one host is usually given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// The client at an address.
    pub fn of(address: IpAddr) -> Self {
        /// The bits of an IPv6 address that one host can choose.
        const HOST_BITS: u128 = u64::MAX as u128;
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !HOST_BITS).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What tells one request from another, in 64 bits.
///
/// Compared only between requests of one endpoint. Two that collide would be merged:
/// the client waits out its timeout and asks again, and nobody else notices. So a hash
/// without a secret will do.
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

/// Names one session; once the session is removed, the key names nothing.
///
/// Generations count the sessions ever stored, modulo 2^32: a key reaches another
/// session only if it is kept for that many. Keys are ordered by age, except where that
/// number wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub(super) generation: u32,
    pub(super) index: u32,
}

impl SessionKey {
    /// The key as one number outside of [`RESERVED`], for an event loop's token.
    pub const fn to_token(self) -> usize {
        (self.generation as usize) << INDEX_BITS | self.index as usize
    }

    /// The key a token stands for. Any other number makes a key as well, one
    /// that names no session.
    pub const fn from_token(token: usize) -> Self {
        Self {
            index: (token & INDEX_MASK) as u32,
            generation: (token >> INDEX_BITS) as u32,
        }
    }

    /// The place of the session in its table: a low number, used again once the session
    /// is gone.
    pub(crate) const fn place(self) -> usize {
        self.index as usize
    }

    /// Whether this is the key of the session of that generation, as far as a
    /// token can tell.
    pub(super) const fn is_of(self, generation: u32) -> bool {
        (self.generation ^ generation) & GENERATION_MASK == 0
    }
}

/// The slot of an endpoint's session, found by hashes.
///
/// Two endpoints with the same hashes stand side by side, so the endpoints themselves
/// are compared. With 64 bits nobody can bring that about often enough to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexKey {
    /// The client's hash, so that its sessions are neighbours.
    client: u32,
    endpoint: u32,
    pub(super) index: u32,
}

impl IndexKey {
    pub(super) fn of(endpoint: &Endpoint, index: u32) -> Self {
        Self {
            client: hash_of(&Client::of(endpoint.peer.ip())),
            endpoint: hash_of(endpoint),
            index,
        }
    }

    /// Every place that a session of this endpoint can have.
    pub(super) fn all_at(endpoint: &Endpoint) -> RangeInclusive<Self> {
        let first = Self::of(endpoint, 0);
        let index = u32::MAX;
        first..=Self { index, ..first }
    }

    /// A place among those of this client's sessions, to start from.
    pub(super) fn within(client: Client, endpoint: u32) -> Self {
        Self {
            client: hash_of(&client),
            endpoint,
            index: 0,
        }
    }

    /// Every place that a session of this client can have.
    pub(super) fn all_of(client: Client) -> RangeInclusive<Self> {
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
