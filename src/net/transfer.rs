//! Transfer sockets: where one transfer receives and sends.
//!
//! Runs of blocks go out with one call if the kernel cuts them into datagrams
//! (`UDP_SEGMENT`), otherwise one by one. Must not: know what is in a datagram.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::rc::Rc;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::batch::{self, Batch};
use super::listen::{ListenSocket, Share};
use super::port_range::{bind_one_of, candidates};
use super::{DEFAULT_BUFFER, set_receive_buffer};

/// Bytes we ask the kernel to queue for one transfer at most: a window of 64 of
/// the largest blocks is as much as anyone sends at once.
const MAX_WINDOW_BUFFER: usize = 4 << 20;

/// The most datagrams that are discarded before a socket is used again.
const MAX_DISCARDED: usize = 16;

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
    /// The listen socket, from the address that was asked. What comes in there is
    /// handed over by the loop.
    Shared(Rc<Share>),
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
    ///
    /// `scope` is the interface of a link-local IPv6 address, the client's or ours, else 0.
    pub fn share(listener: &ListenSocket, local: IpAddr, scope: u32) -> Self {
        Self::new(Channel::Shared(listener.share(local, scope)))
    }

    const fn new(channel: Channel) -> Self {
        Self {
            channel,
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
            Channel::Shared(share) => share.is_of(listener),
        }
    }

    /// Registers the socket for `interest` under `token`, always with the same
    /// registry, in place of any earlier registration. Does nothing for a share: the
    /// listen socket has a token of its own.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
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
    /// `scope` as for [`TransferSocket::share`].
    ///
    /// # Errors
    /// `AddrInUse` if none of those that were tried is free; no such address; no
    /// descriptor is left.
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
        let socket = UdpSocket::from_std(socket.into());
        Ok(Self::new(Channel::Own(socket)))
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
    /// The kernel doesn't know the option.
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

    /// Whether several datagrams may come as one, of up to
    /// [`MAX_COALESCED`](super::MAX_COALESCED) bytes.
    pub const fn coalesces(&self) -> bool {
        matches!(self.prepared, Prepared::Coalesced)
    }

    /// Our end of the transfer.
    ///
    /// # Errors
    /// The kernel doesn't tell its address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    fn socket(&self) -> &UdpSocket {
        match &self.channel {
            Channel::Own(socket) => socket,
            Channel::Shared(share) => &share.socket,
        }
    }

    /// Receives what is there; see [`Batch::receive`]. A share never receives anything.
    ///
    /// # Errors
    /// As [`Batch::receive`].
    pub fn receive(&self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        match &self.channel {
            Channel::Own(socket) => batch.receive(socket, slot_len, limit),
            Channel::Shared(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Receives one datagram: its length, at most the buffer's, and its sender. A share
    /// never receives one.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; with [`TransferSocket::report_undeliverable`]
    /// a pending ICMP error.
    pub fn receive_one(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match &self.channel {
            Channel::Own(socket) => socket.recv_from(buffer),
            Channel::Shared(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes no more for now. With any other error (no
    /// route, a firewall, a pending ICMP error) the datagram is lost, as if on the way.
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
                batch::send_from(&*share.socket, datagram, None, peer, share.from)
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
                batch::send_from(&*share.socket, run, Some(size), peer, share.from)
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

/// What the kernel says to a run that it can't cut on this path.
fn refuses_offload(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, EIO, EMSGSIZE, ENOPROTOOPT, EOPNOTSUPP};
    matches!(
        error.raw_os_error(),
        Some(EINVAL | EIO | EMSGSIZE | ENOPROTOOPT | EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::Binding;

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
        TransferSocket::share(&listener, any.ip(), 0).allow_fragments(false);
        assert!(batch::allows_fragments(&listener), "others send DATA");
    }
}
