//! The client's end of a transfer: a transfer socket that remembers when answers
//! come from an address that wasn't asked. Must not: know a packet's meaning.

use std::io;
use std::net::SocketAddr;

use mio::Interest;

use crate::net::{Batch, RunSent, TransferSocket};
use crate::session::{Port, Watch};

/// A socket from which one server was asked.
#[derive(Debug)]
pub(super) struct ClientPort {
    socket: TransferSocket,
    server: SocketAddr,
    /// The last sender with another address than the server's.
    other_sender: Option<SocketAddr>,
}

impl ClientPort {
    pub(super) const fn new(socket: TransferSocket, server: SocketAddr) -> Self {
        Self {
            socket,
            server,
            other_sender: None,
        }
    }

    /// The last address that sent datagrams though it wasn't asked.
    pub(super) const fn other_sender(&self) -> Option<SocketAddr> {
        self.other_sender
    }

    fn note(&mut self, sender: SocketAddr) {
        if sender.ip() != self.server.ip() {
            self.other_sender = Some(sender);
        }
    }
}

impl Port for ClientPort {
    type Poll<'p> = Watch<'p>;

    fn watch(&mut self, poll: &Watch<'_>, interest: Interest) -> io::Result<()> {
        Port::watch(&mut self.socket, poll, interest)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn coalesces(&self) -> bool {
        self.socket.coalesces()
    }

    fn unsent(&self) -> usize {
        self.socket.unsent()
    }

    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = Port::receive_one(&mut self.socket, buffer)?;
        self.note(received.1);
        Ok(received)
    }

    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        let received = Port::receive(&mut self.socket, batch, slot_len, limit)?;
        for index in 0..received {
            if let Some(datagram) = batch.get(index) {
                self.note(datagram.peer);
            }
        }
        Ok(received)
    }

    fn send_to(&mut self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        Port::send_to(&mut self.socket, datagram, peer)
    }

    fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent> {
        Port::send_run(&mut self.socket, run, segment_size, peer)
    }
}
