//! Where a transfer sends from: a port of its own, the listen port, or, when ports or
//! descriptors are short, one that it shares with others.
//!
//! Must not: run a session, or decide who may have none of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use mio::Registry;

use super::shared::{SharedPort, SharedPorts};
use super::upload_time::UploadTime;
use super::{MAX_LISTENERS, MAX_SOCKETS};
use crate::host::random::Random;
use crate::net::pool::SocketPool;
use crate::net::{ListenSocket, SpareSocket, TransferSocket};
use crate::session::Session;
use crate::session::tid::{self, SPREAD, Sharing};
use crate::table::{Endpoint, SessionKey};
use crate::wire::options::Negotiated;

/// Ports for transfers by default. There are too many to guess, so a peer that answers
/// to the right one has seen what we sent.
const ANY_PORT: RangeInclusive<u16> = 1024..=u16::MAX;

/// How long to wait, when no port to share was free, before looking again: each search
/// costs as much as dozens of packets.
const RETRY: Duration = Duration::from_secs(1);

/// How a datagram came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Via<'a> {
    pub(super) listener: &'a ListenSocket,
    /// The kernel's number for the interface, if that is known.
    pub(super) interface: Option<u32>,
}

impl Via<'_> {
    /// The interface of a link-local address, the peer's or ours; else 0. The peer's comes
    /// with its number, ours without.
    pub(super) fn scope(self, endpoint: &Endpoint) -> u32 {
        let of = |address| match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let is_link_local = matches!(endpoint.local, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let of_ours = self.interface.filter(|_| is_link_local).unwrap_or(0);
        let scopes = [of(endpoint.peer), of_ours, of(self.listener.address())];
        scopes.into_iter().find(|&scope| scope != 0).unwrap_or(0)
    }
}

/// The ports there are, and the sockets that are ready.
#[derive(Debug)]
pub(super) struct Ports {
    /// The sockets that sessions share: the listen sockets if all sessions do, else
    /// ports for sessions that get none of their own.
    pub(super) shared: SharedPorts,
    /// The listen sockets, if the rules have some transfers share them.
    listening: Option<SharedPorts>,
    /// All transfers share the listen sockets.
    pub(super) single_port: bool,
    pub(super) pool: SocketPool,
    /// What uploads may take that anybody could have forged.
    pub(super) upload_time: UploadTime,
    /// Sockets for ports to be shared later.
    spares: Vec<SpareSocket>,
    /// Ports for transfer sockets.
    range: RangeInclusive<u16>,
    /// A range was asked for: its ports are few.
    has_range: bool,
    /// Addresses where no port to share was free, and until when none is looked for
    /// there; the latest last.
    none_free: Vec<(SocketAddr, Instant)>,
    random: Random,
}

impl Ports {
    /// Ports of `range`, if one was asked for, for at most `max_sessions` sessions;
    /// `listeners` are the listen sockets, if all transfers send from them.
    pub(super) fn new(
        range: Option<RangeInclusive<u16>>,
        listeners: Option<&[ListenSocket]>,
        max_sessions: usize,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            single_port: listeners.is_some(),
            listening: None,
            upload_time: UploadTime::new(now),
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
            none_free: Vec::new(),
            spares: Vec::new(),
            range: range.unwrap_or(ANY_PORT),
            random: Random::default(),
        }
    }

    /// Sockets with a large send buffer for ports to be shared beside these listeners;
    /// none if the process has no right to such a buffer, since nothing is gained then.
    pub(super) fn spares(listeners: &[ListenSocket]) -> Vec<SpareSocket> {
        let addresses = || listeners.iter().map(ListenSocket::address);
        let one_of_each = [
            addresses().find(SocketAddr::is_ipv4),
            addresses().find(SocketAddr::is_ipv6),
        ];
        let addresses = one_of_each.into_iter().flatten();
        let addresses = addresses.flat_map(|address| [address; SPREAD]);
        let device = listeners.first().and_then(ListenSocket::device);
        let make = |address| {
            SpareSocket::new(address, device)
                .ok()?
                .with_large_buffer()
                .ok()
        };
        addresses.map_while(make).collect()
    }

    /// Keeps the spare sockets: the process has given up the right to make such
    /// sockets.
    pub(super) fn keep(&mut self, spares: Vec<SpareSocket>) {
        self.spares = spares;
    }

    /// What ports transfers have.
    pub(super) fn kind(&self) -> tid::Ports {
        if self.single_port {
            tid::Ports::Single
        } else {
            tid::Ports::Of(self.range.len())
        }
    }

    /// Lets some transfers share the `listeners`, which must have been prepared for
    /// that.
    pub(super) fn share_listeners(&mut self, listeners: &[ListenSocket], seed: u64, now: Instant) {
        if !self.single_port {
            self.listening = Some(SharedPorts::new(listeners, 0, seed, now));
        }
    }

    /// Some transfers share the listen sockets, or all do.
    pub(super) const fn listeners_carry_transfers(&self) -> bool {
        self.single_port || self.listening.is_some()
    }

    /// The group of shared sockets that the socket with this index belongs to.
    pub(super) const fn sharing(&mut self, index: usize) -> &mut SharedPorts {
        match &mut self.listening {
            Some(listening) if index < MAX_LISTENERS => listening,
            _ => &mut self.shared,
        }
    }

    /// The shared port that has this socket.
    pub(super) fn with(&mut self, socket: &ListenSocket) -> Option<&mut SharedPort> {
        let listening = self.listening.as_mut();
        let port = listening.and_then(|it| it.with(socket));
        port.or_else(|| self.shared.with(socket))
    }

    /// The shared port that the session has a share of.
    pub(super) fn port_of(&mut self, session: &Session) -> Option<&mut SharedPort> {
        let listening = self.listening.as_mut();
        let port = listening.and_then(|it| it.of(session));
        port.or_else(|| self.shared.of(session))
    }

    /// Makes a session wait for room if its port is full.
    pub(super) fn wait_if_blocked(
        &mut self,
        key: SessionKey,
        session: &mut Session,
        registry: &Registry,
    ) {
        self.shared.wait_if_blocked(key, session, registry);
        if let Some(listening) = &mut self.listening {
            listening.wait_if_blocked(key, session, registry);
        }
    }

    /// A port has become free.
    pub(super) fn freed(&mut self) {
        self.none_free.clear();
    }

    /// A socket for a transfer, on the address that was asked: one of its own, or a
    /// share of the listener or of another port. `window` is what an upload's client
    /// sends without waiting for an answer; `None` for a download.
    ///
    /// # Errors
    /// `AddrInUse` if no port of the range is free; otherwise why no socket can be had,
    /// such as `EMFILE`.
    pub(super) fn give(
        &mut self,
        now: Instant,
        endpoint: &Endpoint,
        via: Via<'_>,
        window: Option<&Negotiated>,
        sharing: Sharing,
        registry: &Registry,
    ) -> io::Result<TransferSocket> {
        let listener = via.listener;
        let address = beside(listener.address(), endpoint.local);
        if self.has_range && !self.single_port && self.shared.bound_to(address).next().is_none() {
            // Opened while a port is free. A failure is ignored: the transfer may get
            // its own.
            let _ = self.open_shared(now, address, listener.device(), registry);
        }
        let socket = if self.single_port || sharing == Sharing::Listener {
            let scope = via.scope(endpoint);
            Ok(TransferSocket::share(listener, endpoint.local, scope))
        } else if sharing == Sharing::Always {
            self.share(now, endpoint, address, via, registry)
        } else {
            match self.bind(endpoint, via) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && sharing != Sharing::Never =>
                {
                    self.share(now, endpoint, address, via, registry)
                }
                bound => bound,
            }
        };
        let mut socket = socket?;
        if endpoint.local.is_ipv4() {
            // An upload's client is sent nothing long.
            socket.allow_fragments(window.is_none());
        }
        if let Some(window) = window {
            socket.expect_windows(window.windowsize, window.blksize);
        }
        Ok(socket)
    }

    /// A share of one of the shared ports at `address`, chosen at random.
    fn share(
        &mut self,
        now: Instant,
        endpoint: &Endpoint,
        address: SocketAddr,
        via: Via<'_>,
        registry: &Registry,
    ) -> io::Result<TransferSocket> {
        let device = via.listener.device();
        let spread = tid::Ports::Of(self.range.len()).spread();
        let there = self.shared.bound_to(address).count();
        let opened = (there < spread).then(|| self.open_shared(now, address, device, registry));
        if let (0, Some(Err(error))) = (there, opened) {
            return Err(error);
        }
        let there = self.shared.bound_to(address).count().max(1);
        let nth = self.random.number() as usize % there;
        let socket = self.shared.bound_to(address).nth(nth);
        let socket = socket.ok_or(io::ErrorKind::AddrInUse)?;
        let scope = via.scope(endpoint);
        Ok(TransferSocket::share(socket, endpoint.local, scope))
    }

    /// Opens a port to be shared, at `address`.
    fn open_shared(
        &mut self,
        now: Instant,
        address: SocketAddr,
        device: Option<&str>,
        registry: &Registry,
    ) -> io::Result<()> {
        if self.shared.len() >= MAX_SOCKETS - MAX_LISTENERS {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let mut none_free = self.none_free.iter();
        if none_free.any(|&(at, until)| at == address && now < until) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let random = self.random.number() as u16;
        let spare = self.spares.iter().position(|it| it.fits(address));
        let spare = match spare {
            Some(nth) => self.spares.swap_remove(nth),
            None => SpareSocket::new(address, device)?,
        };
        if let Err(error) = spare.bind_within(address, &self.range, random) {
            self.spares.push(spare);
            if error.kind() == io::ErrorKind::AddrInUse {
                let is_other = |&(at, until): &(SocketAddr, Instant)| at != address && now < until;
                self.none_free.retain(is_other);
                let surplus = self.none_free.len().saturating_sub(MAX_NONE_FREE - 1);
                self.none_free.drain(..surplus);
                self.none_free.push((address, now + RETRY));
            }
            return Err(error);
        }
        self.shared.add(spare.ready()?, registry, now)
    }

    /// A socket of its own, for a transfer or an answer.
    ///
    /// # Errors
    /// As [`Ports::give`].
    pub(super) fn bind(&mut self, endpoint: &Endpoint, via: Via<'_>) -> io::Result<TransferSocket> {
        if let Some(socket) = self.pool.take(endpoint) {
            return Ok(socket);
        }
        let random = self.random.number() as u16;
        let (device, range) = (via.listener.device(), Some(&self.range));
        let scope = via.scope(endpoint);
        TransferSocket::bind_on(device, endpoint.local, scope, range, random)
    }
}

/// The address to bind a shared port to, with port 0: `listener`'s, in the family of
/// `local`.
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

/// Addresses remembered for having no free port; a host has few.
const MAX_NONE_FREE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::net::Binding;
    use mio::Poll;

    /// When all ports are taken, a request doesn't repeat the search that has just
    /// failed for another.
    #[test]
    fn a_full_range_is_looked_through_once_a_second() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = ListenSocket::bind(any, Binding::default()).unwrap();
        let taken = ListenSocket::bind(any, Binding::default()).unwrap();
        let port = taken.address().port();
        let (poll, start) = (Poll::new().unwrap(), clock::now());
        let mut ports = Ports::new(Some(port..=port), None, 100, 1, start);
        let of_other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        let other = ListenSocket::bind(of_other, Binding::default()).unwrap();
        let give_at = |ports: &mut Ports, now, local: Ipv4Addr, listener| {
            let endpoint = Endpoint {
                peer: (Ipv4Addr::LOCALHOST, 1069).into(),
                local: local.into(),
            };
            let registry = poll.registry();
            let via = Via {
                listener,
                interface: None,
            };
            let given = ports.give(now, &endpoint, via, None, Sharing::Always, registry);
            given.map(|it| it.is_shared()).map_err(|error| error.kind())
        };
        let give = |ports: &mut Ports, now| give_at(ports, now, Ipv4Addr::LOCALHOST, &listener);
        let give_other =
            |ports: &mut Ports, now| give_at(ports, now, [127, 0, 0, 2].into(), &other);
        assert_eq!(give(&mut ports, start), Err(io::ErrorKind::AddrInUse));
        // Another address without a free port brings no new search here.
        assert_eq!(give_other(&mut ports, start), Err(io::ErrorKind::AddrInUse));
        drop(taken);
        let early = start + RETRY.saturating_sub(Duration::from_nanos(1));
        assert_eq!(give(&mut ports, early), Err(io::ErrorKind::AddrInUse));
        assert_eq!(give(&mut ports, start + RETRY), Ok(true));

        // A port that a session gives back can be had at once.
        ports.none_free = vec![(any, start + 2 * RETRY)];
        ports.freed();
        assert_eq!(ports.none_free, []);
    }

    #[test]
    fn of_too_many_addresses_without_a_free_port_the_oldest_is_forgotten() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let taken = ListenSocket::bind(any, Binding::default()).unwrap();
        let port = taken.address().port();
        let (poll, now) = (Poll::new().unwrap(), clock::now());
        let mut ports = Ports::new(Some(port..=port), None, 100, 1, now);
        let at = |host: usize| SocketAddr::from((Ipv4Addr::new(192, 0, 2, host as u8), 0));
        let full = (0..MAX_NONE_FREE).map(|host| (at(host), now + RETRY));
        ports.none_free = full.collect();
        let registry = poll.registry();
        let opened = ports.open_shared(now, any, None, registry);
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let left: Vec<_> = ports.none_free.iter().map(|it| it.0).collect();
        let mut expected: Vec<_> = (1..MAX_NONE_FREE).map(at).collect();
        expected.push(any);
        assert_eq!(left, expected);
    }

    #[test]
    fn answers_through_a_listener_that_some_transfers_share_are_bounded_as_others() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let [shared, other] =
            [(); 2].map(|()| ListenSocket::bind(any, Binding::default()).unwrap());
        let now = clock::now();
        let mut ports = Ports::new(None, None, 100, 1, now);
        ports.share_listeners(std::slice::from_ref(&shared), 1, now);
        assert!(ports.with(&shared).is_some());
        assert!(ports.with(&other).is_none());
    }
}
