//! The bare loop: little more than receiving and sending, and none of the protocol's
//! promises. It is a yardstick for servers, not a server.
//!
//! It takes requests from the listen socket in batches, gives each transfer a socket of
//! its own, waits with epoll, and makes one receive and one send per round. It has no
//! deadlines, retransmits nothing, keeps no log and checks only a block's sender and
//! number.
//!
//! Its sockets aren't connected, which makes sending more expensive: a server must answer
//! strangers (RFC 1350 §4), and so can't connect its sockets. This one drops what
//! strangers send. Where a server could use a cheaper way, it does: it keeps files in
//! memory, reuses sockets, and spins while it waits for the next packet of a single
//! client. Our server spins, too; the loop's processor time includes it.

mod download;
mod files;
mod seat;
mod upload;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{setsockopt, sockopt};
use tftpd::net::{Batch, MAX_COALESCED, MAX_SEGMENTS};
use tftpd::wire::options::{Limits, negotiate};
use tftpd::wire::packet::{Direction, Packet, Request};

use crate::clock;

use self::download::Download;
use self::files::Files;
use self::seat::{Seat, Step, Work};
use self::upload::Upload;

/// Room for a burst of requests, in bytes: as much as our server asks for.
const LISTEN_BUFFER: usize = 16 << 20;

/// The longest request, and the most requests taken with one call.
const REQUEST: usize = 512;
const REQUESTS: usize = 64;

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;

/// How long the loop polls the socket of a single client before it sleeps, the same as
/// our server. The clock is read after this many looks.
const AWAKE: Duration = Duration::from_micros(50);
const LOOKS: usize = 16;

/// The time that a single client takes to send a block of a window. The loop waits for
/// the missing blocks together, instead of receiving them in bits.
const PER_BLOCK: Duration = Duration::from_micros(1);

/// Serves the files in `root`, and takes uploads, forever. With `awake` it spins while
/// it waits for a single client, as our server does without `--busy-poll 0`.
pub(crate) fn serve(address: SocketAddr, root: &Path, awake: bool) -> io::Result<()> {
    // Makes naps of microseconds end on time.
    set_timerslack(1)?;
    let poll = Poll::new()?;
    let listener = UdpSocket::bind(address)?;
    listener.set_nonblocking(true)?;
    // A plain user gets what `net.core.rmem_max` allows.
    if setsockopt(&listener, sockopt::RcvBufForce, &LISTEN_BUFFER).is_err() {
        setsockopt(&listener, sockopt::RcvBuf, &LISTEN_BUFFER)?;
    }
    let mut source = SourceFd(&listener.as_raw_fd());
    poll.registry()
        .register(&mut source, LISTENER, Interest::READABLE)?;
    let mut server = Bare {
        poll,
        listener,
        files: Files::new(root),
        seats: Vec::new(),
        free: Vec::new(),
        windows: Batch::new(MAX_SEGMENTS, 4 * MAX_COALESCED),
        awake,
    };
    server.run()
}

struct Bare {
    poll: Poll,
    listener: UdpSocket,
    files: Files,
    seats: Vec<Seat>,
    /// Seats without a transfer.
    free: Vec<usize>,
    /// The buffer into which windows are received, shared by all transfers.
    windows: Batch,
    awake: bool,
}

impl Bare {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut requests = Batch::new(REQUESTS, REQUESTS * REQUEST);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.take_requests(&mut requests)?,
                    Token(index) => self.run_transfer(index),
                }
            }
        }
    }

    fn take_requests(&mut self, batch: &mut Batch) -> io::Result<()> {
        loop {
            let count = match batch.receive(&self.listener, REQUEST, REQUESTS) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            for datagram in (0..count).filter_map(|slot| batch.get(slot)) {
                if let Ok(Packet::Request(request)) = Packet::parse(datagram.payload) {
                    self.begin(&request, datagram.peer)?;
                }
            }
            if count < REQUESTS {
                return Ok(());
            }
        }
    }

    fn begin(&mut self, request: &Request<'_>, peer: SocketAddr) -> io::Result<()> {
        let mut oack = [0; REQUEST];
        let (negotiated, len) = negotiate(request, &Limits::default(), None, &mut oack);
        let oack = &oack[..len];
        let work = match request.direction {
            Direction::Read => {
                let Ok(source) = self.files.open(request.filename, &negotiated) else {
                    return Ok(());
                };
                Work::Download(Download::new(source, &negotiated))
            }
            Direction::Write => {
                let Ok(file) = self.files.create(request.filename) else {
                    return Ok(());
                };
                Work::Upload(Upload::new(file, &negotiated))
            }
        };
        let index = if let Some(index) = self.free.pop() {
            index
        } else {
            let token = Token(self.seats.len());
            self.seats.push(Seat::open(self.poll.registry(), token)?);
            token.0
        };
        if self.seats[index]
            .begin(peer, work, &negotiated, oack)
            .is_err()
        {
            self.release(index);
        }
        Ok(())
    }

    fn release(&mut self, index: usize) {
        self.seats[index].work = Work::None;
        self.free.push(index);
    }

    /// Goes on with the transfer of a seat, as far as what has come allows.
    fn run_transfer(&mut self, index: usize) {
        let mut looks = 0;
        let mut since = None;
        loop {
            let mut is_gathering = false;
            let seat = &mut self.seats[index];
            let is_quick = seat.is_quick();
            match seat.step(&mut self.windows) {
                Ok(Step::Idle) => return,
                Ok(Step::Forward) => (looks, since) = (0, None),
                Ok(Step::Nothing) => looks += 1,
                Ok(Step::Part(missing)) => {
                    looks = 0;
                    is_gathering = self.is_alone();
                    if is_gathering {
                        nap(missing * PER_BLOCK);
                    }
                }
                // A client that has gone, or a full disk, ends one transfer only.
                Ok(Step::Done) | Err(_) => return self.release(index),
            }
            let is_watched = is_gathering || is_quick && self.awake && self.is_alone();
            if !is_watched {
                return;
            }
            if looks == LOOKS {
                let now = clock();
                if now - *since.get_or_insert(now) >= AWAKE {
                    return;
                }
                looks = 0;
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.free.len() + 1 == self.seats.len()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "not a server, and there is one client to wait for"
)]
fn nap(time: Duration) {
    thread::sleep(time);
}
