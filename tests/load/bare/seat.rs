//! A socket of the bare loop, and its current transfer. The socket is reused for the next
//! transfer, which saves opening a port and registering it with the poll.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};

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

/// Up to this block size in bytes, a lockstep client answers sooner than a sleeping loop
/// wakes up. Windows and longer blocks take the client longer: there, staying awake costs
/// more and gains nothing.
const QUICK_BLOCK: u16 = 4096;

/// The result of a look at a socket.
pub(super) enum Step {
    /// Nothing came, or nothing that counts.
    Nothing,
    Forward,
    /// Part of a window; this many blocks are missing.
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
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let mut socket = UdpSocket::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self {
            connection: Connection {
                socket,
                peer: (Ipv4Addr::LOCALHOST, 0).into(),
                segment: 0,
                coalesces: false,
            },
            work: Work::None,
            is_quick: false,
        })
    }

    /// Answers the request of `peer`.
    pub(super) fn begin(
        &mut self,
        peer: SocketAddr,
        work: Work,
        negotiated: &Negotiated,
        oack: &[u8],
    ) -> io::Result<()> {
        self.connection.peer = peer;
        self.work = work;
        self.is_quick = negotiated.windowsize == 1 && negotiated.blksize <= QUICK_BLOCK;
        match &mut self.work {
            Work::None => Ok(()),
            Work::Download(download) => download.begin(&mut self.connection, oack),
            Work::Upload(upload) => upload.begin(&mut self.connection, oack),
        }
    }

    /// Whether its client answers so soon that waiting awake pays.
    pub(super) const fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// Handles what has come; `batch` receives windows.
    pub(super) fn step(&mut self, batch: &mut Batch) -> io::Result<Step> {
        match &mut self.work {
            Work::None => Ok(Step::Idle),
            Work::Download(download) => download.step(&mut self.connection),
            Work::Upload(upload) => upload.step(&mut self.connection, batch),
        }
    }
}

/// The socket and the client that it talks to.
pub(super) struct Connection {
    pub(super) socket: UdpSocket,
    pub(super) peer: SocketAddr,
    /// The segment size in bytes that the kernel was told last, for segmentation offload.
    segment: usize,
    /// Whether the kernel hands over the segments of one send together.
    coalesces: bool,
}

impl Connection {
    /// Sends `bytes`, cut into datagrams of `segment` bytes.
    pub(super) fn send(&mut self, bytes: &[u8], segment: usize) -> io::Result<()> {
        if bytes.len() <= segment {
            return self.send_one(bytes);
        }
        if self.segment != segment {
            let size = i32::try_from(segment).unwrap_or(i32::MAX);
            setsockopt(&self.socket, sockopt::UdpGsoSegment, &size)?;
            self.segment = segment;
        }
        let most = (MAX_SEND / segment).min(MAX_SEGMENTS) * segment;
        for run in bytes.chunks(most) {
            self.socket.send_to(run, self.peer)?;
        }
        Ok(())
    }

    pub(super) fn send_one(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, self.peer).map(drop)
    }

    /// Receives a datagram from the client, if there is one.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.recv_from(buffer) {
                Ok((len, peer)) if peer == self.peer => return Ok(Some(len)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets whether datagrams that the client sends with one call are received together.
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
    fn what_the_client_before_left_behind_ends_no_transfer() {
        let poll = Poll::new().unwrap();
        let mut seat = Seat::open(poll.registry(), Token(0)).unwrap();
        let mut windows = Batch::new(1, 512);
        let before = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let here = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();

        begin(&mut seat, before.local_addr().unwrap());
        begin(&mut seat, here.local_addr().unwrap());
        let own = seat.connection.socket.local_addr().unwrap();
        before.send_to(b"\0\x04\0\x01", own).unwrap();
        assert!(matches!(seat.step(&mut windows), Ok(Step::Nothing)));
        here.send_to(b"\0\x04\0\x01", own).unwrap();
        assert!(matches!(seat.step(&mut windows), Ok(Step::Done)));
    }
}
