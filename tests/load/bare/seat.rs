//! A socket of the bare loop, and the transfer that has it at the time. It goes from one
//! transfer to the next: connected to another client, it needs no new port, and the poll
//! knows it already.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tftpd::net::{Batch, MAX_SEGMENTS, MAX_SEND};
use tftpd::wire::options::Negotiated;

use super::download::Download;
use super::upload::Upload;

pub(super) enum Work {
    None,
    Download(Download),
    Upload(Upload),
}

/// Bytes of a block up to which a client in lockstep answers sooner than a loop that sleeps
/// is woken up. Windows and longer blocks take it longer: to stay awake for those costs
/// more and brings nothing.
const QUICK_BLOCK: u16 = 4096;

/// What came of a look at a socket.
pub(super) enum Step {
    /// There was nothing, or nothing that counts.
    Nothing,
    Forward,
    /// Some blocks of a window; so many are missing.
    Part(u32),
    /// The transfer is over.
    Done,
    /// There is no transfer.
    Idle,
}

pub(super) struct Seat {
    connection: Connection,
    pub(super) work: Work,
    is_quick: bool,
}

impl Seat {
    pub(super) fn open(registry: &Registry, token: Token) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        let mut socket = UdpSocket::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self {
            connection: Connection {
                socket,
                segment: 0,
                coalesces: false,
            },
            work: Work::None,
            is_quick: false,
        })
    }

    /// Answers the request of `peer`. The kernel gives the socket a port when it is
    /// connected for the first time.
    pub(super) fn begin(
        &mut self,
        peer: SocketAddr,
        work: Work,
        negotiated: &Negotiated,
        oack: &[u8],
    ) -> io::Result<()> {
        self.connection.socket.connect(peer)?;
        // What the client before left behind.
        let _ = self.connection.socket.take_error();
        self.work = work;
        self.is_quick = negotiated.windowsize == 1 && negotiated.blksize <= QUICK_BLOCK;
        match &mut self.work {
            Work::None => Ok(()),
            Work::Download(download) => download.begin(&mut self.connection, oack),
            Work::Upload(upload) => upload.begin(&mut self.connection, oack),
        }
    }

    /// Whether its client answers so soon that it is worth to wait awake.
    pub(super) const fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// `batch`: what windows are received into.
    pub(super) fn step(&mut self, batch: &mut Batch) -> io::Result<Step> {
        match &mut self.work {
            Work::None => Ok(Step::Idle),
            Work::Download(download) => download.step(&mut self.connection),
            Work::Upload(upload) => upload.step(&mut self.connection, batch),
        }
    }
}

/// The way to one client.
pub(super) struct Connection {
    pub(super) socket: UdpSocket,
    /// Bytes of the segments that the kernel cuts what is sent into, once set.
    segment: usize,
    /// The kernel hands over the segments of one send as one.
    coalesces: bool,
}

impl Connection {
    /// Sends what is there, cut into datagrams of `segment` bytes.
    pub(super) fn send(&mut self, bytes: &[u8], segment: usize) -> io::Result<()> {
        if bytes.len() <= segment {
            return self.socket.send(bytes).map(drop);
        }
        if self.segment != segment {
            let size = i32::try_from(segment).unwrap_or(i32::MAX);
            setsockopt(&self.socket, sockopt::UdpGsoSegment, &size)?;
            self.segment = segment;
        }
        let most = (MAX_SEND / segment).min(MAX_SEGMENTS) * segment;
        for run in bytes.chunks(most) {
            self.socket.send(run)?;
        }
        Ok(())
    }

    /// One datagram, if one is there.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what the client sends with one call is to come as one.
    pub(super) fn coalesce(&mut self, wanted: bool) -> io::Result<()> {
        if self.coalesces != wanted {
            setsockopt(&self.socket, sockopt::UdpGroSegment, &wanted)?;
            self.coalesces = wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::rc::Rc;

    use mio::Poll;

    use super::super::files::Source;
    use super::*;

    fn begin(seat: &mut Seat, peer: SocketAddr) {
        let negotiated = Negotiated::default();
        let packets: Rc<[u8]> = (*b"\0\x03\0\x01").into();
        let download = Download::new(Source::Kept(packets), &negotiated);
        seat.begin(peer, Work::Download(download), &negotiated, &[])
            .unwrap();
    }

    #[test]
    fn a_client_that_has_gone_ends_its_own_transfer_and_no_other() {
        let poll = Poll::new().unwrap();
        let mut seat = Seat::open(poll.registry(), Token(0)).unwrap();
        let mut windows = Batch::new(1, 512);
        let here = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Nobody has this port: it was given to a socket that is closed.
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gone = closed.local_addr().unwrap();
        drop(closed);

        begin(&mut seat, gone);
        assert!(seat.step(&mut windows).is_err());
        begin(&mut seat, gone);
        begin(&mut seat, here.local_addr().unwrap());
        assert!(matches!(seat.step(&mut windows), Ok(Step::Nothing)));
    }
}
