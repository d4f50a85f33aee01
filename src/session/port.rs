//! What a session needs of the network: a port to send from and receive on.
//!
//! [`TransferSocket`] is the real one; a simulated network has its own. Must not:
//! know a packet's meaning, decide when to send.

use std::io;
use std::net::SocketAddr;

use mio::{Interest, Registry, Token};

use crate::net::{Batch, RunSent, TransferSocket};

/// One end of a transfer on the network. Nothing here blocks.
pub trait Port {
    /// What reports to the loop that a port is ready.
    type Poll<'p>;

    /// Asks for reports of this `interest`, in place of the one asked for before. They
    /// are edge-triggered: only what comes after a call that returned `WouldBlock` is
    /// sure to be reported.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    fn watch(&mut self, poll: &Self::Poll<'_>, interest: Interest) -> io::Result<()>;

    /// Whether other sessions send from it as well.
    fn is_shared(&self) -> bool;

    /// Whether several datagrams may come as one, of up to
    /// [`MAX_COALESCED`](crate::net::MAX_COALESCED) bytes.
    fn coalesces(&self) -> bool;

    /// Bytes of memory taken by datagrams that were sent and haven't left yet, of all
    /// sessions that send from the same socket.
    fn unsent(&self) -> usize;

    /// Receives one datagram: its length, at most the buffer's, and its sender.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; on a client a pending ICMP error.
    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Receives what is there, up to `limit` datagrams, into slots of `slot_len`
    /// bytes; see [`Batch::receive`].
    ///
    /// # Errors
    /// As [`Port::receive_one`].
    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize>;

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` if the port takes no more for now. With any other error (no route,
    /// a firewall, a pending ICMP error) the datagram is lost, as if on the way.
    fn send_to(&mut self, datagram: &[u8], peer: SocketAddr) -> io::Result<()>;

    /// Sends `run`: datagrams of `segment_size` bytes, one after the other, of
    /// which the last may be shorter.
    ///
    /// # Errors
    /// As [`Port::send_to`], but for `WouldBlock`: what was not sent is lost, as if on
    /// the way.
    fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent>;
}

/// Where a loop watches a socket, and the token it is reported under.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'p> {
    /// The loop's own.
    pub registry: &'p Registry,
    /// The session's.
    pub token: Token,
}

impl Port for TransferSocket {
    type Poll<'p> = Watch<'p>;

    fn watch(&mut self, poll: &Watch<'_>, interest: Interest) -> io::Result<()> {
        self.watch(poll.registry, poll.token, interest)
    }

    fn is_shared(&self) -> bool {
        self.is_shared()
    }

    fn coalesces(&self) -> bool {
        self.coalesces()
    }

    fn unsent(&self) -> usize {
        self.unsent()
    }

    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        (*self).receive_one(buffer)
    }

    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        (*self).receive(batch, slot_len, limit)
    }

    fn send_to(&mut self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        (*self).send_to(datagram, peer)
    }

    fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent> {
        self.send_run(run, segment_size, peer)
    }
}
