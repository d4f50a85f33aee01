//! Datagrams: the one place that talks to the kernel about them.
//!
//! A [`ListenSocket`] learns for each request which of our addresses it came
//! to; a [`TransferSocket`] is bound to that address and is our TID for one
//! transfer, or sends from the listen socket. All are non-blocking. Must not: know
//! what is in a datagram, keep sessions, decide when to send.

mod batch;
pub mod pool;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::{Rc, Weak};

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use batch::{Batch, Destination, Received, receive_with_descriptors};

/// Bytes we ask the kernel to queue on a listen socket, so that a whole room of
/// machines switched on at once is answered and not lost. Costs nothing while
/// the queue is empty.
const LISTEN_BUFFER: usize = 16 << 20;

/// Bytes a socket's receive buffer usually has (`net.core.rmem_default`).
const DEFAULT_BUFFER: usize = 212_992;

/// Bytes we ask the kernel to queue for one transfer at most: a window of 64 of
/// the largest blocks is as much as anyone sends at once.
const MAX_WINDOW_BUFFER: usize = 4 << 20;

/// The most datagrams that are discarded before a socket is used again.
const MAX_DISCARDED: usize = 16;

/// Bytes of the send buffer that we ask for where transfers share a listen socket: a
/// few of the longest windows.
const SHARED_SEND_BUFFER: usize = 8 << 20;

/// The most segments one call may hand over for offload (`UDP_MAX_SEGMENTS` of
/// kernels before 6.9).
pub const MAX_SEGMENTS: usize = 64;

/// The most bytes one call may hand over, and the largest datagram of IPv4.
pub const MAX_SEND: usize = 65_507;

/// The most bytes that come as one where datagrams are coalesced: what a length
/// of 16 bits can say.
pub const MAX_COALESCED: usize = 65_535;

/// The largest DATA packet: blksize 65464 (RFC 2348) and its header.
pub const MAX_DATA_PACKET: usize = 65_468;

/// How a listen socket takes its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Binding<'a> {
    /// Other processes of the same user may listen there as well; the kernel
    /// shares the clients out (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// The machine needn't have the address yet (`IP_FREEBIND`).
    pub ahead: bool,
    /// Only what arrives on this interface is received (`SO_BINDTODEVICE`).
    pub device: Option<&'a str>,
}

/// The most ports of a range that are tried to find a free one.
const MAX_PORT_TRIES: u32 = 64;

/// A socket that several peers send to: for requests, or for the transfers that
/// share its port.
#[derive(Debug, Clone)]
pub struct ListenSocket {
    socket: Rc<UdpSocket>,
    address: SocketAddr,
    /// The interface that its transfers are bound to as well.
    device: Option<Rc<str>>,
    /// The share that the last transfer got, for the next one to use as well.
    share: Rc<RefCell<Weak<Share>>>,
}

impl ListenSocket {
    /// Registers the socket for `interest` under `token`.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn register(
        &self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, interest)
    }

    /// Registers the socket anew, in place of the earlier registration.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn reregister(
        &self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.socket.as_raw_fd()), token, interest)
    }

    /// Prepares it to carry transfers as well: they send with its options.
    pub fn prepare_sharing(&self) {
        // Whatever its family: an inherited IPv6 socket may carry IPv4 as well.
        batch::allow_fragments(&*self.socket, true);
        if force_send_buffer(&*self.socket).is_err() {
            let _ = setsockopt(&*self.socket, sockopt::SndBuf, &SHARED_SEND_BUFFER);
        }
    }

    /// Whether both are the same socket.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.socket, &other.socket)
    }

    /// Bytes of memory that its send buffer may take.
    pub fn send_buffer(&self) -> usize {
        getsockopt(&*self.socket, sockopt::SndBuf).unwrap_or(DEFAULT_BUFFER)
    }

    /// Bytes of that taken by what has not left yet.
    pub fn unsent(&self) -> usize {
        batch::unsent(&*self.socket)
    }

    /// Datagrams that were lost because its receive buffer was full, if the kernel
    /// tells.
    pub fn receive_drops(&self) -> Option<u32> {
        batch::receive_drops(&*self.socket)
    }

    /// Binds to `address` as `binding` says; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Whatever the kernel says: port in use, below 1024 without the right, no
    /// such address.
    pub fn bind(address: SocketAddr, binding: Binding<'_>) -> io::Result<Self> {
        let socket = Self::unbound(address, binding)?;
        socket.bind(&address.into())?;
        Self::bound(socket)
    }

    fn unbound(address: SocketAddr, binding: Binding<'_>) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => {
                // IPv4 has a socket of its own, with addresses of its own form.
                socket.set_only_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
        match address {
            _ if !binding.ahead => {}
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        if binding.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(device) = binding.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        set_receive_buffer(&socket, LISTEN_BUFFER);
        Ok(socket)
    }

    fn bound(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket.into());
        let address = socket.local_addr()?;
        Ok(Self {
            socket: Rc::new(socket),
            address,
            device: None,
            share: Rc::default(),
        })
    }

    /// Another socket on the same address and interface, for another process; the
    /// kernel spreads the clients among them. This one was bound exclusively; from now
    /// on it shares its port (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn twin(&self) -> io::Result<Self> {
        let own = SockRef::from(&*self.socket);
        own.set_reuse_port(true)?;
        let device = own.device()?;
        let device = device.map(|name| String::from_utf8_lossy(&name).into_owned());
        let binding = Binding {
            reuse_port: true,
            // Harmless where the address exists.
            ahead: true,
            device: device.as_deref(),
        };
        Self::bind(self.address, binding)
    }

    /// The same socket; its transfers will be bound to `device` as well (an interface
    /// or a VRF), and neither receive nor send by another.
    #[must_use]
    pub fn with_transfers_on(self, device: Option<&Rc<str>>) -> Self {
        Self {
            device: device.cloned(),
            ..self
        }
    }

    /// Binds a socket that was inherited to `device`.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn bind_device(&self, device: &str) -> io::Result<()> {
        SockRef::from(&*self.socket).bind_device(Some(device.as_bytes()))
    }

    /// The interface that its transfers are bound to, if one was named.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Our address on the way to `peer`.
    ///
    /// # Errors
    /// Whatever the kernel says: there is no way.
    pub fn local_towards(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, None)?;
        if let Some(device) = self.device() {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        // No datagram is sent.
        socket.connect(&peer.into())?;
        let local = socket.local_addr()?.as_socket();
        local
            .map(|it| it.ip())
            .ok_or(io::ErrorKind::AddrNotAvailable.into())
    }

    /// A socket that was bound by the process that started us.
    ///
    /// # Errors
    /// `InvalidInput` if it isn't bound to a port; whatever else the kernel says.
    pub fn inherit(socket: std::net::UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        if address.port() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it has no port",
            ));
        }
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // For IPv6 too: it may be bound to both families.
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        set_receive_buffer(&socket, LISTEN_BUFFER);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Rc::new(UdpSocket::from_std(socket)),
            address,
            device: None,
            share: Rc::default(),
        })
    }

    /// The address it is bound to, with the port the kernel chose.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Receives what is there; see [`Batch::receive`].
    ///
    /// # Errors
    /// As [`Batch::receive`].
    pub fn receive(&self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        batch.receive(&*self.socket, slot_len, limit)
    }

    /// Sends one datagram from the listen port and from `local`, the address
    /// that is being answered for. Lost if it can't be sent at once.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn answer(&self, datagram: &[u8], peer: SocketAddr, local: IpAddr) -> io::Result<()> {
        batch::send_from(&*self.socket, datagram, None, peer, local)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket that is to carry transfers once it has a port, made while the process has
/// the right to a large send buffer.
#[derive(Debug)]
pub struct SpareSocket {
    socket: Socket,
    is_ipv4: bool,
}

impl SpareSocket {
    /// For addresses of the family of `address`, and bound to `device` if that is
    /// given.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn new(address: SocketAddr, device: Option<&str>) -> io::Result<Self> {
        let binding = Binding {
            device,
            ..Binding::default()
        };
        Ok(Self {
            socket: ListenSocket::unbound(address, binding)?,
            is_ipv4: address.is_ipv4(),
        })
    }

    /// Gives it a large send buffer, beyond the system's limit.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to that.
    pub fn with_large_buffer(self) -> io::Result<Self> {
        force_send_buffer(&self.socket)?;
        Ok(self)
    }

    /// Whether it can be bound to `address`.
    pub const fn fits(&self, address: SocketAddr) -> bool {
        self.is_ipv4 == address.is_ipv4()
    }

    /// Binds to `address`, on a port of `ports` that `random` picks: see `candidates`.
    ///
    /// # Errors
    /// `AddrInUse` if none of those that were tried is free; whatever else the kernel
    /// says. It can be tried again then.
    pub fn bind_within(
        &self,
        mut address: SocketAddr,
        ports: &RangeInclusive<u16>,
        random: u16,
    ) -> io::Result<()> {
        bind_one_of(candidates(ports, random), |port| {
            address.set_port(port);
            self.socket.bind(&address.into())
        })
    }

    /// The socket, which must have been bound, prepared to carry transfers.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn ready(self) -> io::Result<ListenSocket> {
        let socket = ListenSocket::bound(self.socket)?;
        socket.prepare_sharing();
        Ok(socket)
    }
}

/// Asks for a send buffer for all transfers of a socket, beyond the system's limit.
fn force_send_buffer(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(
        socket,
        sockopt::SndBufForce,
        &SHARED_SEND_BUFFER,
    )?)
}

/// What became of a run of blocks handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSent {
    /// All of it is on its way.
    All,
    /// Only the first segments are; the socket takes no more for now.
    Blocked {
        /// Segments sent before.
        segments: u16,
    },
}

/// Where a transfer sends from: a socket of its own, or a share of one that others send
/// from as well. Its port is our TID (RFC 1350 §4).
#[derive(Debug)]
pub struct TransferSocket {
    channel: Channel,
    offload: Offload,
    prepared: Prepared,
    /// It is registered already.
    registered: bool,
    /// Every datagram goes out twice.
    sends_twice: bool,
    /// Whether its datagrams may be fragmented on the way, once that was set.
    fragments: Option<bool>,
}

/// Where a transfer's datagrams go out.
#[derive(Debug)]
enum Channel {
    /// A socket of its own.
    Own(UdpSocket),
    /// The listen socket, from the address that was asked. Whoever reads that socket
    /// hands over what comes in.
    Shared(Rc<Share>),
}

/// A listen socket and the local address to send from; shared by all transfers that
/// were asked at that address.
#[derive(Debug)]
struct Share {
    socket: Rc<UdpSocket>,
    local: IpAddr,
}

/// What a socket was made ready to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prepared {
    /// As it was bound.
    Plain,
    /// The windows of one transfer.
    Windows,
    /// The same, and several datagrams may come as one (`UDP_GRO`).
    Coalesced,
}

/// Whether the kernel cuts runs into datagrams (`UDP_SEGMENT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offload {
    /// No run of more than one datagram has been sent yet.
    Untried,
    /// Into segments of this many bytes.
    Into(u16),
    /// It doesn't (blocks above the path's MTU, an interface or a kernel without it):
    /// we cut.
    Refused,
}

impl TransferSocket {
    /// A share of `listener` for a transfer whose client asked `local` for it. It takes
    /// no descriptor, and its TID is the listen port.
    pub fn share(listener: &ListenSocket, local: IpAddr) -> Self {
        let mut last = listener.share.borrow_mut();
        let share = last.upgrade().filter(|it| it.local == local);
        let share = share.unwrap_or_else(|| {
            let socket = Rc::clone(&listener.socket);
            let share = Rc::new(Share { socket, local });
            *last = Rc::downgrade(&share);
            share
        });
        Self {
            channel: Channel::Shared(share),
            offload: Offload::Untried,
            prepared: Prepared::Plain,
            registered: false,
            sends_twice: false,
            fragments: None,
        }
    }

    /// Whether this is a share of a listen socket.
    pub const fn is_shared(&self) -> bool {
        matches!(self.channel, Channel::Shared(_))
    }

    /// Whether this is a share of `listener`.
    pub fn shares(&self, listener: &ListenSocket) -> bool {
        match &self.channel {
            Channel::Own(_) => false,
            Channel::Shared(share) => Rc::ptr_eq(&share.socket, &listener.socket),
        }
    }

    /// Registers the socket for `interest` under `token`, always with the same
    /// registry, in place of any earlier registration. Does nothing for a share: the
    /// listen socket has a token of its own.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn watch(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let Channel::Own(socket) = &mut self.channel else {
            return Ok(());
        };
        if self.registered {
            return registry.reregister(socket, token, interest);
        }
        registry.register(socket, token, interest)?;
        self.registered = true;
        Ok(())
    }

    /// Whether it is as it was when it was bound, fit for any other transfer.
    pub fn is_plain(&self) -> bool {
        self.offload == Offload::Untried && self.prepared == Prepared::Plain && !self.is_shared()
    }

    /// Discards what has arrived, but not endlessly: more may keep arriving.
    pub fn discard_received(&self) {
        for _ in 0..MAX_DISCARDED {
            if self.receive_one(&mut [0]).is_err() {
                return;
            }
        }
    }

    /// Binds to `local`, the address the request came to, on a port that the
    /// kernel chooses, or one of `ports`: see `candidates`.
    ///
    /// `scope` is the interface of a link-local IPv6 address, else 0.
    ///
    /// # Errors
    /// `AddrInUse` if none of those that were tried is free; whatever else the kernel
    /// says.
    pub fn bind(
        local: IpAddr,
        scope: u32,
        ports: Option<&RangeInclusive<u16>>,
        random: u16,
    ) -> io::Result<Self> {
        Self::bind_on(None, local, scope, ports, random)
    }

    /// [`TransferSocket::bind`], to an interface as well.
    ///
    /// # Errors
    /// As there.
    pub fn bind_on(
        device: Option<&str>,
        local: IpAddr,
        scope: u32,
        ports: Option<&RangeInclusive<u16>>,
        random: u16,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(SocketAddr::new(local, 0)),
            Type::DGRAM.nonblocking(),
            None,
        )?;
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        let address = |port| match local {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
        };
        match ports {
            None => socket.bind(&address(0).into())?,
            Some(range) => bind_one_of(candidates(range, random), |port| {
                socket.bind(&address(port).into())
            })?,
        }
        Ok(Self {
            channel: Channel::Own(UdpSocket::from_std(socket.into())),
            offload: Offload::Untried,
            prepared: Prepared::Plain,
            registered: false,
            sends_twice: false,
            fragments: None,
        })
    }

    /// Sets whether what it sends over IPv4 may be fragmented on the way. DATA may: a
    /// client that asked for large blocks may sit behind a router that doesn't tell us
    /// they don't fit. Short datagrams never have to be, and then the kernel needn't
    /// number them among all that goes to that host. A share keeps what was set for its
    /// listen socket.
    pub fn allow_fragments(&mut self, allow: bool) {
        if let Channel::Own(socket) = &self.channel
            && self.fragments != Some(allow)
        {
            batch::allow_fragments(socket, allow);
            self.fragments = Some(allow);
        }
    }

    /// Prepares for windows of `blocks` datagrams of `block_size` bytes: room for what
    /// comes at once, as far as the system allows, and several datagrams received as
    /// one where it can (`UDP_GRO`). Does nothing for a share: a listen socket has
    /// room, and takes each datagram by itself.
    pub fn expect_windows(&mut self, blocks: u16, block_size: u16) {
        let Channel::Own(socket) = &self.channel else {
            return;
        };
        // The kernel counts what a datagram takes in memory, up to twice its
        // length and more.
        let room = usize::from(blocks) * usize::from(block_size);
        let room = room.saturating_mul(3);
        if room > DEFAULT_BUFFER {
            self.prepared = Prepared::Windows;
            set_receive_buffer(socket, room.min(MAX_WINDOW_BUFFER));
        }
        if blocks > 1 {
            self.prepared = match setsockopt(socket, sockopt::UdpGroSegment, &true) {
                Ok(()) => Prepared::Coalesced,
                Err(_) => Prepared::Windows,
            };
        }
    }

    /// Makes [`TransferSocket::receive`] and the sends fail when the network has
    /// answered that an earlier datagram could not be delivered (ICMP). A sender to
    /// several addresses doesn't learn which one it was.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn report_undeliverable(&self) -> io::Result<()> {
        match self.local_addr()? {
            SocketAddr::V4(_) => setsockopt(self.socket(), sockopt::Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(self.socket(), sockopt::Ipv6RecvErr, &true)?,
        }
        Ok(())
    }

    /// Bytes of memory taken by what was sent and has not left yet; for a share, by
    /// what all shares of the listen socket have sent.
    pub fn unsent(&self) -> usize {
        batch::unsent(self.socket())
    }

    /// Whether several datagrams may come as one, of up to [`MAX_COALESCED`]
    /// bytes.
    pub const fn coalesces(&self) -> bool {
        matches!(self.prepared, Prepared::Coalesced)
    }

    /// Our end of the transfer.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    fn socket(&self) -> &UdpSocket {
        match &self.channel {
            Channel::Own(socket) => socket,
            Channel::Shared(share) => &share.socket,
        }
    }

    /// Receives what is there; see [`Batch::receive`]. For a share that is never
    /// anything.
    ///
    /// # Errors
    /// As [`Batch::receive`].
    pub fn receive(&self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        match &self.channel {
            Channel::Own(socket) => batch.receive(socket, slot_len, limit),
            Channel::Shared(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Receives one datagram: its length, at most the buffer's, and its sender. For a
    /// share there is never one.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; whatever else the kernel says.
    pub fn receive_one(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match &self.channel {
            Channel::Own(socket) => socket.recv_from(buffer),
            Channel::Shared(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes no more for now; whatever else the
    /// kernel says: the datagram is lost then, as if on the way.
    pub fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        self.send_once(datagram, peer)?;
        if self.sends_twice {
            // The loss of the copy does no harm.
            let _ = self.send_once(datagram, peer);
        }
        Ok(())
    }

    fn send_once(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        match &self.channel {
            Channel::Own(socket) => socket.send_to(datagram, peer).map(drop),
            Channel::Shared(share) => {
                batch::send_from(&*share.socket, datagram, None, peer, share.local)
            }
        }
    }

    /// Sends every datagram twice from now on: some boot ROMs miss every other one.
    pub const fn send_twice(&mut self, twice: bool) {
        self.sends_twice = twice;
    }

    /// Sends `run`, datagrams of `segment_size` bytes one after the other (the
    /// last may be shorter), with one call if the kernel cuts them.
    ///
    /// # Errors
    /// As [`TransferSocket::send_to`]; what was not sent is lost, as if on the way.
    pub fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent> {
        if run.len() > segment_size && !self.sends_twice && self.offloads(segment_size) {
            match self.send_offloaded(run, peer) {
                Ok(()) => return Ok(RunSent::All),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(RunSent::Blocked { segments: 0 });
                }
                Err(error) if refuses_offload(&error) => self.refuse_offload(),
                Err(error) => return Err(error),
            }
        }
        for (index, datagram) in run.chunks(segment_size).enumerate() {
            match self.send_to(datagram, peer) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(RunSent::Blocked {
                        segments: index as u16,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(RunSent::All)
    }

    /// A socket of its own has the size set once; a shared one gets it with each call.
    fn send_offloaded(&self, run: &[u8], peer: SocketAddr) -> io::Result<()> {
        match (&self.channel, self.offload) {
            (Channel::Shared(share), Offload::Into(size)) => {
                batch::send_from(&*share.socket, run, Some(size), peer, share.local)
            }
            _ => self.send_to(run, peer),
        }
    }

    /// Whether the kernel cuts into segments of this size; asks it the first time.
    fn offloads(&mut self, segment_size: usize) -> bool {
        let Ok(size) = u16::try_from(segment_size) else {
            return false;
        };
        if self.offload == Offload::Untried {
            let accepted = match &self.channel {
                Channel::Own(socket) => {
                    setsockopt(socket, sockopt::UdpGsoSegment, &size.into()).is_ok()
                }
                Channel::Shared(_) => true,
            };
            self.offload = if accepted {
                Offload::Into(size)
            } else {
                Offload::Refused
            };
        }
        self.offload == Offload::Into(size)
    }

    fn refuse_offload(&mut self) {
        self.offload = Offload::Refused;
        if let Channel::Own(socket) = &self.channel {
            let _ = setsockopt(socket, sockopt::UdpGsoSegment, &0);
        }
    }
}

/// Beyond the system's limit only with `CAP_NET_ADMIN`; else as much as it allows.
fn set_receive_buffer(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}

/// What the kernel says to a run that it can't cut on this path.
fn refuses_offload(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, EIO, EMSGSIZE, ENOPROTOOPT, EOPNOTSUPP};
    matches!(
        error.raw_os_error(),
        Some(EINVAL | EIO | EMSGSIZE | ENOPROTOOPT | EOPNOTSUPP)
    )
}

/// The ports of `range` to try, one after the other. Of a small range all, once around
/// from where `random` points. Of a larger one only as many, scattered, so that a range
/// that is nearly full costs no more than a small one.
fn candidates(range: &RangeInclusive<u16>, random: u16) -> impl Iterator<Item = u16> {
    /// Odd, so that no 16-bit number comes twice.
    const SCATTERED: u16 = 40_503;
    let (low, span) = (
        *range.start(),
        u32::from(range.end().saturating_sub(*range.start())) + 1,
    );
    let step = if span <= MAX_PORT_TRIES { 1 } else { SCATTERED };
    (0..span.min(MAX_PORT_TRIES) as u16).map(move |attempt| {
        let place = if step == 1 {
            u32::from(random) + u32::from(attempt)
        } else {
            random.wrapping_add(attempt.wrapping_mul(step)).into()
        };
        low + (place % span) as u16
    })
}

/// Binds to the first of `ports` that is free.
///
/// # Errors
/// `AddrInUse` if none is; whatever else `bind` says.
fn bind_one_of(
    ports: impl Iterator<Item = u16>,
    mut bind: impl FnMut(u16) -> io::Result<()>,
) -> io::Result<()> {
    for port in ports {
        match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn ports_of_a_range_are_tried_at_random_and_not_too_many() {
        for (range, tries) in [
            (5000..=5000, 1),
            (5000..=5009, 10),
            (50_000..=50_063, 64),
            (50_000..=50_999, 64),
            (1024..=u16::MAX, 64),
            (1..=u16::MAX, 64),
        ] {
            let mut first: BTreeSet<u16> = BTreeSet::new();
            for random in (0..u16::MAX).step_by(997) {
                let ports: Vec<_> = candidates(&range, random).collect();
                assert!(ports.iter().all(|port| range.contains(port)), "{range:?}");
                let different: BTreeSet<_> = ports.iter().copied().collect();
                assert_eq!(ports.len(), tries, "{range:?}");
                assert!(different.len() > tries * 9 / 10, "{range:?}: {ports:?}");
                if range.len() <= 64 {
                    assert_eq!(different.len(), range.len(), "all of {range:?}");
                }
                first.extend(ports.first());
            }
            assert!(
                first.len() > range.len().min(60) / 2,
                "{range:?}: {first:?}"
            );
        }
    }

    /// A socket that rested has the next transfer's terms, not the last one's.
    #[test]
    fn whether_datagrams_may_be_fragmented_is_said_for_each_transfer() {
        let mut socket = TransferSocket::bind(Ipv4Addr::LOCALHOST.into(), 0, None, 0).unwrap();
        for allow in [true, false, false, true] {
            socket.allow_fragments(allow);
            assert_eq!(batch::allows_fragments(socket.socket()), allow);
            assert!(socket.is_plain());
        }
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = ListenSocket::bind(any, Binding::default()).unwrap();
        listener.prepare_sharing();
        TransferSocket::share(&listener, any.ip()).allow_fragments(false);
        assert!(
            batch::allows_fragments(&*listener.socket),
            "others send DATA"
        );
    }
}
