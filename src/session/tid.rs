//! Our end of a transfer (its TID, RFC 1350 §4): who may share a port, and what an
//! answer to it proves.
//!
//! A sender that acknowledges from a peer's address to a port that nobody else knows has
//! seen what was sent to that peer. With a single port, or few, each can be tried;
//! and a port that transfers share is known to all their peers. Must not: know
//! which ports are free.

use std::net::SocketAddr;

use crate::protocol::transfer::Proof;
use crate::wire::packet::Direction;

/// Fewer ports than these are soon tried, and an answer to one of them proves
/// nothing.
const PROVING_PORTS: usize = 1024;

/// Shared ports at one address, where the range is large enough: answers to addresses
/// where nobody is fill the send buffer of one, until the kernel gives up looking for
/// them.
pub(crate) const SPREAD: usize = 6;

/// Ports of a range for each that is shared.
const PORTS_EACH: usize = 16;

/// The well-known port (RFC 1350 §4).
const TFTP_PORT: u16 = 69;

/// Where transfers have their ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// All of them share the listen port.
    Single,
    /// Of so many, most have one of their own.
    Of(usize),
}

/// Whether a transfer may share its port with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It does, since slots are short.
    Always,
    /// It uses the listen port, whatever there is.
    Listener,
    /// Where none of its own is free.
    Instead,
    /// Never: anybody that knows the port could store a file in the peer's name.
    Never,
}

impl Ports {
    /// What an answer to a transfer's port proves; `is_shared`: others have the same.
    pub const fn proof(self, is_shared: bool) -> Proof {
        match self {
            Self::Of(count) if count >= PROVING_PORTS && !is_shared => Proof::OwnPort,
            _ => Proof::Never,
        }
    }

    /// How many ports are shared at one address, at most.
    pub fn spread(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Of(count) => (count / PORTS_EACH).clamp(1, SPREAD),
        }
    }

    /// Whether a transfer in this direction may share its port. `is_short`: slots are, and
    /// it is to take none; `is_server`: see [`is_server`].
    pub fn sharing(self, direction: Direction, is_short: bool, is_server: bool) -> Sharing {
        match direction {
            // Two servers could be made to send each other files.
            _ if is_server => Sharing::Never,
            Direction::Read if is_short => Sharing::Always,
            Direction::Read => Sharing::Instead,
            // Where ports are few, or one, each can be guessed anyway.
            Direction::Write if self.proof(false) == Proof::Never => Sharing::Instead,
            Direction::Write => Sharing::Never,
        }
    }
}

/// Whether a peer's port is one that servers have, where ours listens on `listen_port`.
/// Some clients are bound to port 69 (lwIP's): they are served from ports of their own.
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
