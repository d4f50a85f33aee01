//! Datagrams on their way from a process that finishes its transfers to the one that
//! takes over from it.
//!
//! Only one process reads the listen sockets. It handles what belongs to its own
//! transfers and relays the rest, with everything the kernel told of it; its successor
//! handles that as if it had received it itself. A request that can't be relayed,
//! because the successor doesn't keep up or has ended, is served here. Anything else
//! may belong to the successor's transfers, and is dropped unless that has ended.
//! Must not: wait.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::answers::endpoint_of;
use super::channel::send_bytes;
use super::ending::Ending;
use super::floor::Floor;
use super::requests::Requests;
use super::{REQUEST_LEN, WORKER};
use crate::host::clock;
use crate::net::{Destination, ListenSocket, MAX_DATA_PACKET, Received};
use crate::table::{Endpoint, Fingerprint, SessionKey};
use crate::wire::packet::is_request;

/// Bytes of the longest datagram that means anything to any process: one byte more than
/// the largest DATA packet shows a block that is larger than agreed.
pub(super) const MAX_RELAYED: usize = MAX_DATA_PACKET + 1;

/// The process that takes over.
#[derive(Debug)]
pub(super) struct Successor {
    socket: OwnedFd,
}

/// Who a datagram belongs to.
enum Owner {
    /// A transfer here, or a request that waits here.
    Here,
    /// It is a request of a client whose transfer here has ended.
    EndedHere(SessionKey),
    Elsewhere,
}

/// What became of a datagram that isn't ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// The successor has it.
    On,
    /// It is lost, as if on the way: it may belong to a transfer of the successor's, of
    /// which both ends retransmit on a timeout.
    Dropped,
    /// It is to be handled here.
    Refused,
}

impl Successor {
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Relays a datagram that came in on the listen socket with this index, unless it
    /// belongs to a transfer or a request here; false if it is to be handled here.
    pub(super) fn takes(
        &self,
        index: usize,
        socket: &ListenSocket,
        datagram: &Received<'_>,
        requests: &mut Requests,
        floor: &mut Floor,
    ) -> bool {
        let over = match owner_of(socket, datagram, requests, floor) {
            Owner::Here => return false,
            Owner::EndedHere(key) => Some(key),
            Owner::Elsewhere => None,
        };
        let passed = self.pass_on(index, datagram);
        if passed == Passed::Dropped {
            floor.counters.foreign += 1;
        }
        if let Some(key) = over.filter(|_| passed == Passed::On) {
            // What comes from this client's port belongs to its new transfer.
            floor.end_session(key, Ending::Replaced);
        }
        passed != Passed::Refused
    }

    fn pass_on(&self, index: usize, datagram: &Received<'_>) -> Passed {
        let head = head_of(index, datagram);
        let parts = [IoSlice::new(&head), IoSlice::new(datagram.payload)];
        match send_bytes(&self.socket, &parts) {
            Ok(()) => Passed::On,
            Err(error) if is_request(datagram.payload) || is_gone(&error) => Passed::Refused,
            // It doesn't keep up, or the kernel is short of memory.
            Err(_) => Passed::Dropped,
        }
    }
}

/// Whether nobody is at the other end any more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

fn owner_of(
    socket: &ListenSocket,
    datagram: &Received<'_>,
    requests: &mut Requests,
    floor: &Floor,
) -> Owner {
    let of_group = || match datagram.destination {
        Some(Destination::Group(Some(local))) => Some(Endpoint {
            peer: datagram.peer,
            local,
        }),
        _ => None,
    };
    let Some(endpoint) = endpoint_of(datagram, socket).or_else(of_group) else {
        return Owner::Elsewhere;
    };
    let is_request = is_request(datagram.payload);
    let request = datagram.head(REQUEST_LEN);
    if is_request && requests.merge_with_question(&endpoint, Fingerprint::of(request)) {
        return Owner::Here;
    }
    let Some(key) = floor.sessions.key_of(&endpoint) else {
        return Owner::Elsewhere;
    };
    match floor.sessions.get(key) {
        Some(session) if is_request && session.has_ended() => Owner::EndedHere(key),
        _ => Owner::Here,
    }
}

/// Datagrams relayed by older processes, and whether one of those still reads the
/// listen sockets.
#[derive(Debug)]
pub(super) struct Incoming {
    sockets: Vec<OwnedFd>,
    buffer: Vec<u8>,
    /// There may be more without a new event.
    pub(super) has_more: bool,
    /// Since when more has been there than was taken, if there is more.
    pub(super) unread_since: Option<Instant>,
    /// An older process reads the listen sockets.
    pub(super) waits: bool,
}

impl Incoming {
    /// Nothing is relayed yet, and the listen sockets aren't ours to read.
    pub(super) const fn new() -> Self {
        Self {
            sockets: Vec::new(),
            buffer: Vec::new(),
            has_more: false,
            unread_since: None,
            waits: true,
        }
    }

    /// One more process relays what it has no transfer for.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn add(&mut self, socket: OwnedFd, registry: &Registry) -> io::Result<()> {
        let source = &mut SourceFd(&socket.as_raw_fd());
        registry.register(source, WORKER, Interest::READABLE)?;
        self.buffer.resize(HEAD_LEN + MAX_RELAYED, 0);
        self.sockets.push(socket);
        self.has_more = true;
        Ok(())
    }

    /// Receives a datagram and returns its length; [`Incoming::datagram`] reads it.
    pub(super) fn receive(&mut self) -> Option<usize> {
        let mut index = 0;
        while let Some(socket) = self.sockets.get(index) {
            match recv(socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => index += 1,
                // Its process has ended.
                Ok(0) | Err(_) => drop(self.sockets.remove(index)),
                Ok(len) => return Some(len),
            }
        }
        None
    }

    /// A batch has been taken, or all there was.
    pub(super) fn note_backlog(&mut self) {
        if self.has_more {
            self.unread_since.get_or_insert_with(clock::now);
        } else {
            self.unread_since = None;
        }
    }

    /// The datagram that was received last, of `len` bytes with its head, and the index
    /// of the listen socket that it came in on; `None` if it can't be understood.
    pub(super) fn datagram(&self, len: usize) -> Option<(usize, Received<'_>)> {
        read(&self.buffer[..len])
    }
}

/// Bytes before the payload: the form, the listen socket, the peer (family, address,
/// port, scope), the destination (kind, family, address), the interface.
const HEAD_LEN: usize = 2 + (1 + 16 + 2 + 4) + (1 + 1 + 16) + 4;

/// The version of the form: the two processes may be of different versions.
const FORM: u8 = 1;

const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// What a datagram was sent to.
const UNKNOWN: u8 = 0;
const LOCAL: u8 = 1;
const GROUP: u8 = 2;
const GROUP_HERE: u8 = 3;

fn head_of(index: usize, datagram: &Received<'_>) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    let mut rest = &mut head[..];
    let mut put = |bytes: &[u8]| {
        if let Some((place, left)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
            place.copy_from_slice(bytes);
            rest = left;
        }
    };
    // There are at most `MAX_LISTENERS` sockets.
    put(&[FORM, index as u8]);
    let scope = match datagram.peer {
        SocketAddr::V6(peer) => peer.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let (family, ip) = bytes_of(datagram.peer.ip());
    put(&[family]);
    put(&ip);
    put(&datagram.peer.port().to_be_bytes());
    put(&scope.to_be_bytes());
    let (kind, ip) = match datagram.destination {
        None => (UNKNOWN, None),
        Some(Destination::Local(ip)) => (LOCAL, Some(ip)),
        Some(Destination::Group(None)) => (GROUP, None),
        Some(Destination::Group(Some(ip))) => (GROUP_HERE, Some(ip)),
    };
    let (family, ip) = ip.map_or((0, [0; 16]), bytes_of);
    put(&[kind, family]);
    put(&ip);
    put(&datagram.interface.unwrap_or(0).to_be_bytes());
    head
}

fn bytes_of(ip: IpAddr) -> (u8, [u8; 16]) {
    match ip {
        IpAddr::V4(ip) => (IPV4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (IPV6, ip.octets()),
    }
}

fn read(bytes: &[u8]) -> Option<(usize, Received<'_>)> {
    let (head, payload) = bytes.split_at_checked(HEAD_LEN)?;
    let mut rest = head;
    let mut take = |len: usize| {
        let (taken, left) = rest.split_at_checked(len)?;
        rest = left;
        Some(taken)
    };
    let &[form, index] = take(2)?.first_chunk()?;
    if form != FORM {
        return None;
    }
    let ip = ip_of(*take(1)?.first()?, take(16)?)?;
    let port = u16::from_be_bytes(*take(2)?.first_chunk()?);
    let scope = u32::from_be_bytes(*take(4)?.first_chunk()?);
    let peer = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    let &[kind, family] = take(2)?.first_chunk()?;
    let ip = ip_of(family, take(16)?);
    let destination = match kind {
        LOCAL => Some(Destination::Local(ip?)),
        GROUP => Some(Destination::Group(None)),
        GROUP_HERE => Some(Destination::Group(Some(ip?))),
        _ => None,
    };
    let interface = u32::from_be_bytes(*take(4)?.first_chunk()?);
    let datagram = Received {
        peer,
        destination,
        interface: (interface > 0).then_some(interface),
        payload,
        segment: None,
    };
    Some((index.into(), datagram))
}

fn ip_of(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    let ip = Ipv6Addr::from(*bytes.first_chunk::<16>()?);
    match family {
        IPV4 => Some(ip.to_ipv4_mapped()?.into()),
        IPV6 => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::rc::Rc;

    use super::*;
    use crate::file::{Policy as FilePolicy, Root};
    use crate::net::Binding;
    use crate::policy::Policy;
    use crate::policy::access::Access;
    use crate::policy::work::WorkAllowance;
    use crate::protocol::retry::{RetryPolicy, Wait};
    use crate::protocol::transfer::{Config, Proof};
    use crate::server::channel;
    use crate::server::front::{Front, LONGEST_BACKLOG};
    use crate::session::BATCH_SLOTS;
    use crate::table::Sessions;
    use crate::wire::options::Limits;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// What serves `root` from one listen socket that transfers share.
    fn single_port(root: Root) -> (Front, Floor) {
        let now = clock::now();
        let listener = ListenSocket::bind((LOCALHOST, 0).into(), Binding::default()).unwrap();
        listener.prepare_sharing();
        let policy = Policy {
            access: Access::default(),
            root,
            upload_root: None,
            client_roots: None,
            map_file: None,
            rules: None,
            allowance: WorkAllowance::new(7, now).into(),
        };
        let config = Config {
            retry: RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            },
            request_repeats: 0,
            dally: std::time::Duration::ZERO,
            proof: Proof::Never,
        };
        let requests = Requests::new(policy, config, Limits::default(), 7, now);
        let (sessions, files) = (Sessions::new(8, now), Rc::default());
        let shared = std::slice::from_ref(&listener);
        let floor = Floor::new(sessions, files, None, Some(shared), None, now).unwrap();
        (Front::new([listener].into(), requests), floor)
    }

    /// Its answer may come after thousands of datagrams, which take many turns.
    #[test]
    fn a_session_waits_for_what_was_relayed_and_for_what_lies_behind_that() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("f"), "content").unwrap();
        let root = Root::open(home.path(), FilePolicy::default()).unwrap();
        let (mut front, mut floor) = single_port(root);
        let (from, to) = channel::pair().unwrap();
        let successor = Successor::new(from);
        front.wait_turn();
        front.hear(to, floor.registry()).unwrap();
        let client = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        let pass_on = |payload: &[u8]| {
            let datagram = Received {
                peer: client.local_addr().unwrap(),
                destination: Some(Destination::Local(LOCALHOST)),
                interface: None,
                payload,
                segment: None,
            };
            assert_eq!(successor.pass_on(0, &datagram), Passed::On);
        };
        pass_on(b"\0\x01f\0octet\0");
        (0..2 * BATCH_SLOTS).for_each(|_| pass_on(b"\0\x04\0\0"));
        front.run_relayed(&mut floor);
        let now = clock::now();
        let may_hold = |front: &Front, floor: &Floor, now| {
            let (_, session) = floor.sessions.iter().next().unwrap();
            front.may_hold_answer(session, now)
        };
        assert!(front.has_relayed() && may_hold(&front, &floor, now));
        assert!(!may_hold(&front, &floor, now + 2 * LONGEST_BACKLOG));
        while front.has_relayed() {
            front.run_relayed(&mut floor);
        }
        assert!(!may_hold(&front, &floor, now));
        // The listen socket's turn comes after that.
        front.listen();
        front.expect_relayed();
        front.run(0, &mut floor);
        assert!(may_hold(&front, &floor, now));
        front.run_relayed(&mut floor);
        front.run(0, &mut floor);
        assert!(!may_hold(&front, &floor, now));
    }

    /// A block of the successor's transfer must not be answered with an ERROR here.
    #[test]
    fn a_full_relay_drops_data_and_leaves_requests_to_us() {
        let (from, to) = channel::pair().unwrap();
        let successor = Successor::new(from);
        let pass_on = |payload: &[u8]| {
            let datagram = Received {
                peer: "192.0.2.7:1069".parse().unwrap(),
                destination: None,
                interface: None,
                payload,
                segment: None,
            };
            successor.pass_on(0, &datagram)
        };
        let (data, request) = (b"\0\x03\0\x01block", b"\0\x01f\0octet\0");
        while pass_on(data) == Passed::On {}
        assert_eq!(pass_on(data), Passed::Dropped);
        assert_eq!(pass_on(request), Passed::Refused);
        // Nor where the kernel has something else against it.
        assert_eq!(
            pass_on(&[&data[..], &vec![0; 1 << 20]].concat()),
            Passed::Dropped
        );
        // The successor is gone, and its transfers with it.
        drop(to);
        assert!(channel::comes_true(|| pass_on(data) == Passed::Refused));
    }

    #[test]
    fn a_relayed_datagram_is_the_one_that_came() {
        let ours: IpAddr = "192.0.2.1".parse().unwrap();
        let routed: IpAddr = "2001:db8::1".parse().unwrap();
        for (peer, destination, interface) in [
            ("192.0.2.7:1069", Some(Destination::Local(ours)), Some(3)),
            ("192.0.2.7:1", Some(Destination::Group(Some(ours))), Some(1)),
            ("192.0.2.7:65535", Some(Destination::Group(None)), None),
            ("[2001:db8::7]:1069", Some(Destination::Local(routed)), None),
            ("[fe80::1%3]:1069", None, Some(70_000)),
        ] {
            let sent = Received {
                peer: peer.parse().unwrap(),
                destination,
                interface,
                payload: b"payload",
                segment: None,
            };
            let bytes = [&head_of(14, &sent)[..], sent.payload].concat();
            let (index, got) = read(&bytes).unwrap();
            assert_eq!(index, 14);
            assert_eq!((got.peer, got.payload), (sent.peer, sent.payload));
            assert_eq!((got.destination, got.interface), (destination, interface));
            for len in 0..HEAD_LEN {
                assert!(read(&bytes[..len]).is_none(), "{len}");
            }
            assert!(read(&bytes[..HEAD_LEN]).is_some());
        }
        assert!(read(&[FORM + 1; 64]).is_none());
    }
}
