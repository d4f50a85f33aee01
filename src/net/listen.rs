//! Listen sockets: where requests come in, and where the transfers that share a port
//! send from.
//!
//! Must not: receive for a session, or keep one.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::{Rc, Weak};

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::batch::{self, Batch};
use super::port_range::{bind_one_of, candidates};
use super::{DEFAULT_BUFFER, set_receive_buffer};

/// Bytes we ask the kernel to queue on a listen socket, so that a whole room of
/// machines switched on at once is answered and not lost. Costs nothing while
/// the queue is empty.
const LISTEN_BUFFER: usize = 16 << 20;

/// Bytes of the send buffer that we ask for where transfers share a listen socket: a
/// few of the longest windows.
const SHARED_SEND_BUFFER: usize = 8 << 20;

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
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub fn register(
        &self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, interest)
    }

    /// Replaces the earlier registration of the socket.
    ///
    /// # Errors
    /// The socket isn't registered.
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

    /// Its share for transfers whose client asked `local` for them; `scope` is the
    /// interface of a link-local address among the two, else 0.
    pub(super) fn share(&self, local: IpAddr, scope: u32) -> Rc<Share> {
        let mut last = self.share.borrow_mut();
        let from = (local, scope);
        let share = last.upgrade().filter(|it| it.from == from);
        share.unwrap_or_else(|| {
            let socket = Rc::clone(&self.socket);
            let share = Rc::new(Share { socket, from });
            *last = Rc::downgrade(&share);
            share
        })
    }

    /// Whether both are the same socket.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.socket, &other.socket)
    }

    /// Bytes of memory that its send buffer may take.
    pub fn send_buffer(&self) -> usize {
        getsockopt(&*self.socket, sockopt::SndBuf).unwrap_or(DEFAULT_BUFFER)
    }

    /// Bytes of its send buffer taken by what has not left yet.
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
    /// The port is in use, or below 1024 without the right to it; there is no such
    /// address or device; no descriptor is left.
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
    /// As [`ListenSocket::bind`].
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

    /// The same socket; its transfers will be bound to `device` (an interface or a VRF)
    /// as well, and receive and send only there.
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
    /// There is no such device, or no right to bind to it.
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
    /// There is no route, or no descriptor is left.
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
    /// `InvalidInput` if it isn't bound to a port; the kernel refuses packet
    /// information.
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
    /// that is being answered for; `scope` as for [`TransferSocket::share`]. Lost if it
    /// can't be sent at once.
    ///
    /// [`TransferSocket::share`]: super::TransferSocket::share
    ///
    /// # Errors
    /// `WouldBlock` if the send buffer is full; no route, or another of `sendmsg`.
    pub fn answer(
        &self,
        datagram: &[u8],
        peer: SocketAddr,
        local: IpAddr,
        scope: u32,
    ) -> io::Result<()> {
        batch::send_from(&*self.socket, datagram, None, peer, (local, scope))
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A listen socket and the local address to send from; shared by all transfers that
/// were asked at that address.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) socket: Rc<UdpSocket>,
    /// The address, and the interface of a link-local one, else 0.
    pub(super) from: (IpAddr, u32),
}

impl Share {
    /// Whether this is a share of `listener`.
    pub(super) fn is_of(&self, listener: &ListenSocket) -> bool {
        Rc::ptr_eq(&self.socket, &listener.socket)
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
    /// No descriptor is left; there is no such device, or no right to bind to it.
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
    /// `AddrInUse` if none of the ports that were tried is free, or why the address can't
    /// be bound to. The socket can then be tried again.
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
    /// The kernel doesn't tell its address.
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
