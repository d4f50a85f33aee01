//! Datagrams: the one place that talks to the kernel about them.
//!
//! A [`ListenSocket`] learns for each request which of our addresses it came
//! to; a [`TransferSocket`] is bound to that address and is our TID for one
//! transfer. Both are non-blocking. May not: know what is in a datagram, keep
//! sessions, decide when to send.

mod batch;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use mio::event::Source;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

pub use batch::{Batch, Destination, Received};

/// Bytes we ask the kernel to queue on a listen socket, so that a whole room of
/// machines switched on at once is answered and not lost. Costs nothing while
/// the queue is empty.
const LISTEN_BUFFER: usize = 16 << 20;

/// Bytes a socket's receive buffer has as a rule (`net.core.rmem_default`).
const DEFAULT_BUFFER: usize = 212_992;

/// Bytes we ask the kernel to queue for one transfer at most: a window of 64 of
/// the largest blocks is as much as anyone sends at once.
const MAX_WINDOW_BUFFER: usize = 4 << 20;

/// Datagrams that are looked at, at most, before a used socket is used again.
const MAX_DISCARDED: usize = 16;

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
pub struct Binding {
    /// Other processes of the same user may listen there as well; the kernel
    /// shares the clients out (`SO_REUSEPORT`).
    pub shared: bool,
    /// The machine needn't have the address yet (`IP_FREEBIND`).
    pub ahead: bool,
}

/// The socket on which requests come in.
#[derive(Debug)]
pub struct ListenSocket {
    socket: UdpSocket,
    address: SocketAddr,
}

impl ListenSocket {
    /// What a poll watches.
    pub const fn source(&mut self) -> &mut impl Source {
        &mut self.socket
    }

    /// Binds to `address` as `binding` says; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Whatever the kernel says: port in use, below 1024 without the right, no
    /// such address.
    pub fn bind(address: SocketAddr, binding: Binding) -> io::Result<Self> {
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
        if binding.shared {
            socket.set_reuse_port(true)?;
        }
        set_receive_buffer(&socket, LISTEN_BUFFER);
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket.into());
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// A socket that was bound by whoever started us.
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
        let socket = UdpSocket::from_std(socket);
        Ok(Self { socket, address })
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
        batch.receive(&self.socket, slot_len, limit)
    }

    /// Sends one datagram from the listen port and from `local`, the address
    /// that is being answered for. Lost if it can't be sent at once.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn answer(&self, datagram: &[u8], peer: SocketAddr, local: IpAddr) -> io::Result<()> {
        batch::send_from(&self.socket, datagram, peer, local)
    }
}

/// What became of a run of blocks handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSent {
    /// All of it is on its way.
    All,
    /// So many segments from its front are; the socket takes no more for now.
    Blocked {
        /// Segments sent before.
        segments: u16,
    },
}

/// The socket of one transfer: its port is our TID (RFC 1350 §4).
#[derive(Debug)]
pub struct TransferSocket {
    socket: UdpSocket,
    offload: Offload,
    coalesces: bool,
    /// What it receives was prepared for one transfer.
    tuned: bool,
    /// A poll has it already.
    registered: bool,
}

/// Whether the kernel cuts runs into datagrams (`UDP_SEGMENT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offload {
    /// No run of more than one datagram has been sent yet.
    Untried,
    /// Into segments of so many bytes.
    Into(u16),
    /// Blocks above the path's MTU, an interface or a kernel without it: we cut.
    Refused,
}

impl TransferSocket {
    /// Has `registry`, always the same one, report under `token` what `interest`
    /// says; what it reported before is over.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn watch(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.registered {
            return registry.reregister(&mut self.socket, token, interest);
        }
        registry.register(&mut self.socket, token, interest)?;
        self.registered = true;
        Ok(())
    }

    /// Whether it is as it was when it was bound, fit for any other transfer.
    pub fn is_plain(&self) -> bool {
        self.offload == Offload::Untried && !self.tuned
    }

    /// Forgets what has arrived; what goes on arriving is left.
    pub fn discard_received(&self) {
        for _ in 0..MAX_DISCARDED {
            if self.receive_one(&mut [0]).is_err() {
                return;
            }
        }
    }

    /// Binds to `local`, the address the request came to, on a port that the
    /// kernel chooses, or one of `ports`, tried once around from `first_try`.
    ///
    /// `scope` is the interface of a link-local IPv6 address, else 0.
    ///
    /// # Errors
    /// `AddrInUse` if no port of the range is free; whatever else the kernel says.
    pub fn bind(
        local: IpAddr,
        scope: u32,
        ports: Option<&RangeInclusive<u16>>,
        first_try: u16,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(SocketAddr::new(local, 0)),
            Type::DGRAM.nonblocking(),
            None,
        )?;
        if local.is_ipv4() {
            // Blocks may be fragmented on the way: who asked for large ones may
            // sit behind a router that doesn't tell us they don't fit.
            batch::allow_fragments(&socket);
        }
        let address = |port| match local {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
        };
        match ports {
            None => socket.bind(&address(0).into())?,
            Some(range) => bind_in_range(&socket, range, first_try, address)?,
        }
        Ok(Self {
            socket: UdpSocket::from_std(socket.into()),
            offload: Offload::Untried,
            coalesces: false,
            tuned: false,
            registered: false,
        })
    }

    /// Makes ready for windows of `blocks` datagrams of `block_size` bytes: room
    /// for what comes at once, as far as the system allows, and several
    /// datagrams received as one where it can (`UDP_GRO`).
    pub fn expect_windows(&mut self, blocks: u16, block_size: u16) {
        // The kernel counts what a datagram takes in memory, up to twice its
        // length and more.
        let room = usize::from(blocks) * usize::from(block_size) * 3;
        if room > DEFAULT_BUFFER {
            self.tuned = true;
            set_receive_buffer(&self.socket, room.min(MAX_WINDOW_BUFFER));
        }
        if blocks > 1 {
            self.tuned = true;
            self.coalesces = setsockopt(&self.socket, sockopt::UdpGroSegment, &true).is_ok();
        }
    }

    /// Has [`TransferSocket::receive`] and the sends tell when the network
    /// answered that an earlier datagram could not be delivered (ICMP). Who sent
    /// to several addresses doesn't learn which one it was.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn report_undeliverable(&self) -> io::Result<()> {
        match self.socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&self.socket, sockopt::Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(&self.socket, sockopt::Ipv6RecvErr, &true)?,
        }
        Ok(())
    }

    /// Whether several datagrams may come as one, of up to [`MAX_COALESCED`]
    /// bytes.
    pub const fn coalesces(&self) -> bool {
        self.coalesces
    }

    /// Our end of the transfer.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Receives what is there; see [`Batch::receive`].
    ///
    /// # Errors
    /// As [`Batch::receive`].
    pub fn receive(&self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        batch.receive(&self.socket, slot_len, limit)
    }

    /// Receives one datagram: its length, at most the buffer's, and its sender.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; whatever else the kernel says.
    pub fn receive_one(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes no more for now; whatever else the
    /// kernel says: the datagram is lost then, as if on the way.
    pub fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        self.socket.send_to(datagram, peer).map(drop)
    }

    /// Sends `run`, datagrams of `segment_size` bytes one behind the other (the
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
        if run.len() > segment_size && self.offloads(segment_size) {
            match self.socket.send_to(run, peer) {
                Ok(_) => return Ok(RunSent::All),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(RunSent::Blocked { segments: 0 });
                }
                Err(error) if refuses_offload(&error) => self.refuse_offload(),
                Err(error) => return Err(error),
            }
        }
        for (index, datagram) in run.chunks(segment_size).enumerate() {
            match self.socket.send_to(datagram, peer) {
                Ok(_) => {}
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

    /// Whether the kernel cuts into segments of this size; asks it the first time.
    fn offloads(&mut self, segment_size: usize) -> bool {
        // No datagram is longer.
        let segment_size = u16::try_from(segment_size).unwrap_or(u16::MAX);
        if self.offload == Offload::Untried {
            let size = segment_size.into();
            self.offload = match setsockopt(&self.socket, sockopt::UdpGsoSegment, &size) {
                Ok(()) => Offload::Into(segment_size),
                Err(_) => Offload::Refused,
            };
        }
        self.offload == Offload::Into(segment_size)
    }

    fn refuse_offload(&mut self) {
        self.offload = Offload::Refused;
        let _ = setsockopt(&self.socket, sockopt::UdpGsoSegment, &0);
    }
}

/// Past the system's limit only with `CAP_NET_ADMIN`; else what is allowed.
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

fn bind_in_range(
    socket: &Socket,
    range: &RangeInclusive<u16>,
    first_try: u16,
    address: impl Fn(u16) -> SocketAddr,
) -> io::Result<()> {
    let span = u32::from(range.end().saturating_sub(*range.start())) + 1;
    for attempt in 0..span {
        let offset = (u32::from(first_try) + attempt) % span;
        let port = range.start() + offset as u16;
        match socket.bind(&address(port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
