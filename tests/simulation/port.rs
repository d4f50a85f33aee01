//! The simulated port, which a session uses as its socket.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use mio::Interest;
use tftpd::net::{Batch, Received, RunSent};
use tftpd::session::Port;
use tftpd::wire::packet::Packet;

use super::files::Stored;
use super::network::{LISTEN, Net};

/// The file that must hold a block before the block is acknowledged.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) stored: Rc<RefCell<Stored>>,
    pub(crate) block_size: usize,
}

#[derive(Debug)]
pub(crate) struct SimPort {
    net: Net,
    pub(crate) own: SocketAddr,
    /// Whether others send from it as well.
    shared: bool,
    coalesces: bool,
    ledger: Option<Ledger>,
}

impl SimPort {
    /// A port of its own, or the listen port.
    pub(crate) fn new(net: &Net, own: SocketAddr, is_client: bool, windows: bool) -> Self {
        let coalesces = net.with(|network| {
            if own != LISTEN {
                network.open(own, is_client);
            }
            network.kernels.coalesces
        });
        Self {
            net: net.clone(),
            own,
            shared: own == LISTEN,
            coalesces: coalesces && windows && own != LISTEN,
            ledger: None,
        }
    }

    /// A share of a port that is already open.
    pub(crate) fn share(net: &Net, own: SocketAddr) -> Self {
        Self {
            net: net.clone(),
            own,
            shared: true,
            coalesces: false,
            ledger: None,
        }
    }

    /// No ACK leaves before its blocks are stored.
    pub(crate) fn with_ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    pub(crate) const fn is_shared(&self) -> bool {
        self.shared
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        if !self.is_shared() {
            self.net.with(|network| network.close(self.own));
        }
    }
}

/// Receives into the slots of a batch, as `recvmmsg` does.
pub(crate) fn receive(
    net: &Net,
    own: SocketAddr,
    coalesces: bool,
    batch: &mut Batch,
    slot_len: usize,
    limit: usize,
) -> io::Result<usize> {
    let capacity = batch.capacity(slot_len, limit);
    let mut count = 0;
    while count < capacity {
        let datagram = match net.with(|network| network.receive(own)) {
            Ok(datagram) => datagram,
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        };
        let len = datagram.bytes.len();
        let mut payload = datagram.bytes;
        let mut segment = None;
        while coalesces && payload.len() % len.max(1) == 0 {
            let (from, total) = (datagram.from, payload.len());
            let more = net.with(|network| network.coalesce(own, from, len, total));
            let Some(more) = more else {
                break;
            };
            payload.extend_from_slice(&more.bytes);
            segment = Some(len as u16);
        }
        let received = Received {
            peer: datagram.from,
            destination: None,
            interface: None,
            payload: &payload,
            segment,
        };
        batch.put(count, slot_len, &received);
        count += 1;
    }
    Ok(count)
}

impl Port for SimPort {
    type Poll<'p> = ();

    fn watch(&mut self, (): &(), interest: Interest) -> io::Result<()> {
        if !self.is_shared() {
            self.net
                .with(|network| network.watch(self.own, interest.is_writable()));
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        self.is_shared()
    }

    fn coalesces(&self) -> bool {
        self.coalesces
    }

    fn unsent(&self) -> usize {
        0
    }

    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        if self.is_shared() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let datagram = self.net.with(|network| network.receive(self.own))?;
        let len = datagram.bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram.bytes[..len]);
        Ok((len, datagram.from))
    }

    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        if self.is_shared() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        receive(&self.net, self.own, self.coalesces, batch, slot_len, limit)
    }

    fn send_to(&mut self, datagram: &[u8], peer: SocketAddr) -> io::Result<()> {
        if let (Some(ledger), Ok(Packet::Ack(number))) = (&self.ledger, Packet::parse(datagram)) {
            let stored = ledger.stored.borrow();
            let needed = usize::from(number.0) * ledger.block_size;
            assert!(
                stored.committed || stored.bytes.len() >= needed,
                "ACK {} before its block is stored",
                number.0
            );
        }
        self.net.with(|network| {
            let sent = network.send(self.own, peer, datagram);
            let is_full = (sent.as_ref()).is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock);
            if !is_full {
                network.gone(self.own, peer, datagram);
            }
            sent
        })
    }

    fn send_run(
        &mut self,
        run: &[u8],
        segment_size: usize,
        peer: SocketAddr,
    ) -> io::Result<RunSent> {
        let own = self.own;
        let segments = run.chunks(segment_size);
        self.net.with(|network| {
            if network.kernels.offloads {
                return match network.send_offloaded(own, peer, segments) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        Ok(RunSent::Blocked { segments: 0 })
                    }
                    other => other.map(|()| RunSent::All),
                };
            }
            for (index, datagram) in segments.enumerate() {
                match network.send(own, peer, datagram) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let segments = index as u16;
                        return Ok(RunSent::Blocked { segments });
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(RunSent::All)
        })
    }
}
