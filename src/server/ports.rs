//! Where a transfer sends from: a port of its own, the listen port, or one that it
//! shares with others, since ports or descriptors are short.
//!
//! Must not: know a session, or decide who may have none of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Instant;

use mio::Registry;

use super::shared::SharedPorts;
use super::{MAX_LISTENERS, MAX_SOCKETS};
use crate::host::random::Random;
use crate::net::pool::SocketPool;
use crate::net::{Binding, ListenSocket, TransferSocket, bind_one_of, candidates};
use crate::table::Endpoint;
use crate::wire::options::Negotiated;

/// Ports of transfers, unless others are asked for: a peer that answers from one
/// has seen what we sent, since there are too many to guess.
const ANY_PORT: RangeInclusive<u16> = 1024..=u16::MAX;

/// Whether a transfer may share its port with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It does, since slots are short.
    Always,
    /// Where none of its own is free.
    Instead,
    /// Never: whoever knows the port could store a file in the peer's name.
    Never,
}

/// Shared ports at one address, where the range is large enough: answers to addresses
/// where nobody is fill the send buffer of one, until the kernel gives up looking for
/// them, and that of an unprivileged server is small.
const SPREAD: usize = 6;

/// Ports of a range for each that is shared.
const PORTS_EACH: usize = 16;

/// The ports there are, and the sockets that are ready.
#[derive(Debug)]
pub(super) struct Ports {
    /// The sockets that sessions share: the listen sockets where all do, else ports
    /// for those that get none of their own.
    pub(super) shared: SharedPorts,
    /// All transfers share the listen sockets.
    pub(super) single_port: bool,
    pub(super) pool: SocketPool,
    /// Ports for transfer sockets.
    range: RangeInclusive<u16>,
    /// They are few.
    has_range: bool,
    random: Random,
}

impl Ports {
    /// Ports of `range`, if one was asked for, for at most so many sessions;
    /// `listeners` are the listen sockets that transfers send from, if they do.
    pub(super) fn new(
        range: Option<RangeInclusive<u16>>,
        listeners: Option<&[ListenSocket]>,
        max_sessions: usize,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            single_port: listeners.is_some(),
            shared: match listeners {
                Some(listeners) => SharedPorts::new(listeners, 0, seed, now),
                None => SharedPorts::new(&[], MAX_LISTENERS, seed, now),
            },
            pool: match range {
                // The ports of a range are few.
                Some(_) => SocketPool::beside(0),
                None => SocketPool::beside(max_sessions),
            },
            has_range: range.is_some(),
            range: range.unwrap_or(ANY_PORT),
            random: Random::default(),
        }
    }

    /// A socket for a transfer, on the address that was asked: its own, a share of
    /// `listener`, or of another port. `window` is what an upload's client sends
    /// without waiting for an answer.
    ///
    /// # Errors
    /// `AddrInUse` if no port of the range is free; whatever else the kernel says.
    pub(super) fn give(
        &mut self,
        endpoint: &Endpoint,
        listener: &ListenSocket,
        window: Option<&Negotiated>,
        sharing: Sharing,
        registry: &Registry,
    ) -> io::Result<TransferSocket> {
        let address = beside(listener.address(), endpoint.local);
        if self.has_range && !self.single_port && self.shared.bound_to(address).next().is_none() {
            // While a port is free; if none is, there may be one of its own.
            let _ = self.open_shared(address, registry);
        }
        let socket = if self.single_port {
            Ok(TransferSocket::share(listener, endpoint.local))
        } else if sharing == Sharing::Always {
            self.share(endpoint, address, registry)
        } else {
            match self.bind(endpoint, listener) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && sharing != Sharing::Never =>
                {
                    self.share(endpoint, address, registry)
                }
                bound => bound,
            }
        };
        let mut socket = socket?;
        if let Some(window) = window {
            if socket.is_shared() {
                self.shared.expect(window.blksize);
            }
            socket.expect_windows(window.windowsize, window.blksize);
        }
        Ok(socket)
    }

    /// A share of one of the ports at `address` that are there to be shared.
    fn share(
        &mut self,
        endpoint: &Endpoint,
        address: SocketAddr,
        registry: &Registry,
    ) -> io::Result<TransferSocket> {
        let spread = SPREAD.min(self.range.len() / PORTS_EACH).max(1);
        let there = self.shared.bound_to(address).count();
        let opened = (there < spread).then(|| self.open_shared(address, registry));
        if let (0, Some(Err(error))) = (there, opened) {
            return Err(error);
        }
        let there = self.shared.bound_to(address).count().max(1);
        let nth = self.random.number() as usize % there;
        let socket = self.shared.bound_to(address).nth(nth);
        let socket = socket.ok_or(io::ErrorKind::AddrInUse)?;
        Ok(TransferSocket::share(socket, endpoint.local))
    }

    /// A port to be shared, at `address`.
    fn open_shared(&mut self, address: SocketAddr, registry: &Registry) -> io::Result<()> {
        if self.shared.len() >= MAX_SOCKETS - MAX_LISTENERS {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let ports = candidates(&self.range, self.random.number() as u16);
        let socket = bind_one_of(ports, |port| {
            let mut address = address;
            address.set_port(port);
            ListenSocket::bind(address, Binding::default())
        })?;
        socket.prepare_sharing();
        self.shared.add(socket, registry)
    }

    /// A socket of its own, for a transfer or an answer.
    ///
    /// # Errors
    /// As [`Ports::give`].
    pub(super) fn bind(
        &mut self,
        endpoint: &Endpoint,
        listener: &ListenSocket,
    ) -> io::Result<TransferSocket> {
        if let Some(socket) = self.pool.take(endpoint) {
            return Ok(socket);
        }
        // A link-local address is one of an interface.
        let scopes = [endpoint.peer, listener.address()].map(|address| match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        });
        let scope = scopes.into_iter().find(|&scope| scope != 0).unwrap_or(0);
        let random = self.random.number() as u16;
        TransferSocket::bind(endpoint.local, scope, Some(&self.range), random)
    }
}

/// Where a port is bound that transfers share, on any port yet: as `listener` is, for
/// those that came to `local`.
fn beside(listener: SocketAddr, local: IpAddr) -> SocketAddr {
    let mut address = listener;
    address.set_port(0);
    match local {
        IpAddr::V4(_) if listener.ip().is_unspecified() => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) if listener.ip().is_unspecified() => (Ipv6Addr::UNSPECIFIED, 0).into(),
        _ if listener.is_ipv4() == local.is_ipv4() => address,
        // An inherited socket of both families.
        _ => (local, 0).into(),
    }
}
