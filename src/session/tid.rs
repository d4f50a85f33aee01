//! Our end of a transfer (its TID, RFC 1350 §4): who may share a port, and what an
//! answer to it proves.
//!
//! Whoever acknowledges from a peer's address to a port that nobody else knows has seen
//! what was sent to that peer. With a single port, or few, each can be tried; and a
//! port that transfers share is known to all their peers. Must not: know which ports
//! are free.

use std::net::SocketAddr;

use crate::protocol::transfer::Proof;
use crate::wire::packet::Direction;

/// Fewer ports than this are soon tried, so an answer to one of them proves nothing.
const PROVING_PORTS: usize = 1024;

/// Shared ports at one address, where the range is large enough. Several, because
/// answers to addresses where nobody is can fill one port's send buffer until the
/// kernel gives up looking for them.
pub(crate) const SPREAD: usize = 6;

/// Ports of a range per shared port.
const PORTS_EACH: usize = 16;

/// The well-known port (RFC 1350 §4).
const TFTP_PORT: u16 = 69;

/// Which ports transfers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// All transfers share the listen port.
    Single,
    /// Most transfers have a port of their own, out of this many.
    Of(usize),
}

/// Whether a transfer may share its port with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It shares one, since slots are short.
    Always,
    /// It shares the listen port, even if others are free.
    Listener,
    /// It shares one only if none is free.
    Instead,
    /// Never: anybody that knows the port could store a file in the peer's name.
    Never,
}

impl Ports {
    /// What an answer to a transfer's port proves. `is_shared`: other transfers have
    /// the same port.
    pub const fn proof(self, is_shared: bool) -> Proof {
        match self {
            Self::Of(count) if count >= PROVING_PORTS && !is_shared => Proof::OwnPort,
            _ => Proof::Never,
        }
    }

    /// The most ports that are shared at one address.
    pub fn spread(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Of(count) => (count / PORTS_EACH).clamp(1, SPREAD),
        }
    }

    /// Whether a transfer in this direction may share its port. `is_short`: slots are
    /// short, and it is to take none; `is_server`: see [`is_server`].
    pub fn sharing(self, direction: Direction, is_short: bool, is_server: bool) -> Sharing {
        match direction {
            // Two servers could be made to send each other files.
            _ if is_server => Sharing::Never,
            Direction::Read if is_short => Sharing::Always,
            Direction::Read => Sharing::Instead,
            // Where there are few ports, or one, each can be guessed anyway.
            Direction::Write if self.proof(false) == Proof::Never => Sharing::Instead,
            Direction::Write => Sharing::Never,
        }
    }
}

/// Whether a peer's port is one that servers have: the TFTP port, or our own
/// `listen_port`. Some clients bind port 69 (lwIP's): they are served from ports of
/// their own.
pub const fn is_server(peer: SocketAddr, listen_port: u16) -> bool {
    peer.port() == TFTP_PORT || peer.port() == listen_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_answer_proves_nothing_where_its_port_is_known_or_soon_guessed() {
        for (ports, is_shared, proof) in [
            (Ports::Single, true, Proof::Never),
            (Ports::Of(1), false, Proof::Never),
            (Ports::Of(1023), false, Proof::Never),
            (Ports::Of(1024), false, Proof::OwnPort),
            (Ports::Of(64_512), false, Proof::OwnPort),
            (Ports::Of(64_512), true, Proof::Never),
        ] {
            assert_eq!(ports.proof(is_shared), proof, "{ports:?}, {is_shared}");
        }
    }

    #[test]
    fn no_upload_shares_a_port_where_there_are_enough_and_none_does_with_a_server() {
        use Direction::{Read, Write};
        use Sharing::{Always, Instead, Never};
        for (ports, direction, is_short, sharing) in [
            (Ports::Single, Write, false, Instead),
            (Ports::Of(1023), Write, false, Instead),
            (Ports::Of(1024), Write, false, Never),
            (Ports::Of(1), Read, false, Instead),
            (Ports::Of(64_512), Read, false, Instead),
            (Ports::Of(64_512), Read, true, Always),
        ] {
            let shares = |is_server| ports.sharing(direction, is_short, is_server);
            assert_eq!(
                shares(false),
                sharing,
                "{ports:?}, {direction:?}, {is_short}"
            );
            assert_eq!(shares(true), Never, "{ports:?}, {direction:?}, {is_short}");
        }
        assert_eq!(
            [1, 15, 64, 96, 64_512].map(|it| Ports::Of(it).spread()),
            [1, 1, 4, 6, 6]
        );
    }
}
