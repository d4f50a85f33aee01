//! The sockets of transfers that have just ended, kept for the next ones: in a
//! storm of small files a socket costs as much as the file.
//!
//! A port rests before it is used again, so that what was meant for its last transfer
//! doesn't meet the next: until `REST` other transfers have ended, and it never serves
//! the same peer twice in a row. It serves no other address: a client that knows the
//! port could answer in another's name. Outside of a storm each transfer has a new
//! port, closed at its end. Must not: open a socket, know a session.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::TransferSocket;
use crate::table::Endpoint;

/// Transfers that end between two uses of a port.
const REST: usize = 256;

/// The most sockets that rest: enough for the requests that come with a few batches.
const MAX_RESTING: usize = 2 * REST;

/// This many transfers at once, or more, are a storm.
pub const STORM: usize = 64;

/// How long a socket rests before it is closed.
const KEEP: Duration = Duration::from_millis(500);

/// At most one socket rests here for this many sessions.
const SHARE: usize = 8;

/// Sockets at rest, the one that has rested longest first.
#[derive(Debug)]
pub struct SocketPool {
    sockets: VecDeque<Rested>,
    capacity: usize,
}

#[derive(Debug)]
struct Rested {
    socket: TransferSocket,
    served: Endpoint,
    since: Instant,
}

impl SocketPool {
    /// Room for some sockets beside `max_sessions` sessions, for none if those
    /// are few.
    pub fn beside(max_sessions: usize) -> Self {
        let capacity = MAX_RESTING.min(max_sessions / SHARE);
        Self {
            sockets: VecDeque::new(),
            capacity: if capacity > REST { capacity } else { 0 },
        }
    }

    /// Puts the socket of a transfer with `served` to rest, or closes it if no other
    /// transfer could use it.
    pub fn put(&mut self, now: Instant, socket: TransferSocket, served: Endpoint) {
        if self.capacity == 0 || !socket.is_plain() || has_scope(&served) {
            return;
        }
        if self.sockets.len() >= self.capacity {
            self.sockets.pop_front();
        }
        self.sockets.push_back(Rested {
            socket,
            served,
            since: now,
        });
    }

    /// A socket for a transfer with `endpoint`, if one has rested enough.
    pub fn take(&mut self, endpoint: &Endpoint) -> Option<TransferSocket> {
        if self.sockets.len() <= REST {
            return None;
        }
        let served = self.sockets.front()?.served;
        let is_known_there = served.peer.ip() == endpoint.peer.ip();
        if served.local != endpoint.local || !is_known_there || served.peer == endpoint.peer {
            return None;
        }
        let socket = self.sockets.pop_front()?.socket;
        socket.discard_received();
        Some(socket)
    }

    /// When to call [`SocketPool::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.sockets.front()?.since + KEEP)
    }

    /// Closes sockets that have rested for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|end| end <= now) {
            self.sockets.pop_front();
        }
        if self.sockets.is_empty() && self.sockets.capacity() > 0 {
            self.sockets = VecDeque::new();
        }
    }

    /// Closes all of them: descriptors or ports are short.
    pub fn clear(&mut self) {
        self.sockets = VecDeque::new();
    }
}

/// A link-local address belongs to an interface, and its socket is bound to that.
fn has_scope(endpoint: &Endpoint) -> bool {
    let is_link_local = |it| matches!(it, IpAddr::V6(ip) if ip.is_unicast_link_local());
    is_link_local(endpoint.peer.ip()) || is_link_local(endpoint.local)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::host::clock;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            peer: SocketAddr::new(LOCAL, port),
            local: LOCAL,
        }
    }

    fn socket() -> TransferSocket {
        TransferSocket::bind(LOCAL, 0, None, 0).unwrap()
    }

    /// `count` sockets at rest, for peers on the ports from 1 on.
    fn resting(now: Instant, count: u16) -> SocketPool {
        let mut resting = SocketPool::beside(usize::MAX);
        for port in 1..=count {
            resting.put(now, socket(), endpoint(port));
        }
        resting
    }

    #[test]
    fn a_port_rests_until_enough_others_have_ended() {
        let now = clock::now();
        let mut few = resting(now, REST as u16);
        assert!(few.take(&endpoint(9999)).is_none());
        let last = socket();
        few.put(now, last, endpoint(2000));
        assert!(few.take(&endpoint(9999)).is_some());
        assert!(few.take(&endpoint(9999)).is_none());
    }

    #[test]
    fn a_port_never_returns_to_its_peer_nor_to_another_address() {
        let now = clock::now();
        let mut enough = resting(now, REST as u16 + 2);
        assert!(enough.take(&endpoint(1)).is_none());
        let elsewhere = Endpoint {
            local: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
            ..endpoint(9999)
        };
        assert!(enough.take(&elsewhere).is_none());
        // A client that it served knows it, and could answer in the name of another.
        let stranger = Endpoint {
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), 9999),
            ..endpoint(9999)
        };
        assert!(enough.take(&stranger).is_none());
        assert!(enough.take(&endpoint(9999)).is_some());
    }

    #[test]
    fn what_came_while_it_rested_is_gone() {
        let now = clock::now();
        let mut resting = resting(now, 0);
        let oldest = socket();
        let late = std::net::UdpSocket::bind((LOCAL, 0)).unwrap();
        late.send_to(b"\0\x04\0\x01", oldest.local_addr().unwrap())
            .unwrap();
        resting.put(now, oldest, endpoint(9000));
        for port in 0..REST as u16 {
            resting.put(now, socket(), endpoint(port));
        }
        let taken = resting.take(&endpoint(9999)).unwrap();
        let error = taken.receive_one(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn idle_ones_are_closed_and_the_oldest_makes_room() {
        let now = clock::now();
        let mut resting = resting(now, MAX_RESTING as u16 + 10);
        assert_eq!(resting.sockets.len(), MAX_RESTING);
        assert_eq!(resting.sockets[0].served, endpoint(11));
        resting.handle_timeout(now + KEEP / 2);
        assert_eq!(resting.sockets.len(), MAX_RESTING);
        assert_eq!(resting.poll_timeout(), Some(now + KEEP));
        resting.handle_timeout(now + KEEP);
        assert_eq!(resting.poll_timeout(), None);
    }

    #[test]
    fn where_sessions_are_few_nothing_rests() {
        let mut resting = SocketPool::beside(SHARE * REST);
        resting.put(clock::now(), socket(), endpoint(1));
        assert_eq!(resting.poll_timeout(), None);
    }
}
