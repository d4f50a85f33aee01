//! The socket of one client: as cheap as the kernel allows, since time that the load
//! spends isn't left to load the server.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use tftpd::net::Batch;

/// A client's socket, connected once the transfer has proved to be long.
pub(crate) struct Link {
    socket: UdpSocket,
    connected: bool,
    /// The segment size in bytes that the kernel was told last, for segmentation offload.
    segment: usize,
}

impl Link {
    pub(crate) fn open(registry: &Registry, token: Token) -> io::Result<Self> {
        let mut socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self {
            socket,
            connected: false,
            segment: 0,
        })
    }

    /// Saves the kernel the route lookup, and drops datagrams from other senders.
    pub(crate) fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        self.socket.connect(peer)?;
        self.connected = true;
        Ok(())
    }

    pub(crate) const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Receives one datagram from the peer it is connected to.
    pub(crate) fn receive_one(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer)
    }

    /// Receives what has come, from anyone.
    pub(crate) fn receive(
        &self,
        batch: &mut Batch,
        slot_len: usize,
        limit: usize,
    ) -> io::Result<usize> {
        batch.receive(&self.socket, slot_len, limit)
    }

    /// Sends one datagram, or with one call several of `segment` bytes each (the last may
    /// be shorter); false if the socket is full. After any other error the datagram counts
    /// as lost.
    pub(crate) fn send(&mut self, bytes: &[u8], segment: usize, peer: SocketAddr) -> bool {
        if bytes.len() > segment && self.segment != segment {
            let size = i32::try_from(segment).unwrap_or(i32::MAX);
            if setsockopt(&self.socket, sockopt::UdpGsoSegment, &size).is_ok() {
                self.segment = segment;
            }
        }
        let sent = if self.connected {
            self.socket.send(bytes)
        } else {
            self.socket.send_to(bytes, peer)
        };
        !sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
