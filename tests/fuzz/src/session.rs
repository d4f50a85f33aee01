//! A whole session: the input is a script of packets, steps of time and a socket that is
//! full now and then, played to a sender or a receiver, as a server or as a client.
//! Nothing panics, polling changes nothing, incoming packets and passing time bound what
//! is sent, blocks are stored in order, the outcome is reported once, and silence ends
//! the session.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::transfer::{
    BlockSink, Committed, Config, Failure, MAX_DATAGRAM, Opening, Outcome, Proof, Run, Sent, Transfer,
    Transmit, Written,
};
use tftpd::wire::options::{Limits, Negotiated, Offer, negotiate};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, emit_request};

fuzz_target!(|input: &[u8]| {
    let Some((head, script)) = input.split_first_chunk::<6>() else {
        return;
    };
    let mut play = Play::new(*head);
    play.drain();
    play.script(script);
    play.silence();
});

/// The most retransmits of a packet in the policy used here.
const RETRIES: u8 = 3;

/// The number of deadlines in silence after which every transfer must be over: about ten
/// retransmits (those after less than a second don't count) of a window of 255 blocks,
/// which after losses is sent in bursts of 4.
const SILENT_ROUNDS: usize = 10 * 255 / 4;

struct Play {
    transfer: Transfer,
    disk: Disk,
    /// Bytes of the file that a sender sends.
    length: u64,
    now: Instant,
    /// Whether the socket takes nothing.
    full: bool,
    told: Option<Outcome>,
}

impl Play {
    /// Built from the first bytes of the input: which machine, with which options.
    fn new([kind, blksize, window, length, timeout, policy]: [u8; 6]) -> Self {
        let is_sender = kind & 1 != 0;
        let is_client = kind & 2 != 0;
        // A client's read has a receiver, a server's read a sender.
        let direction = if is_sender == is_client {
            Direction::Write
        } else {
            Direction::Read
        };
        let length = u64::from(length) * u64::from(length);
        let offer = Offer {
            blksize: (blksize > 8).then_some(u16::from(blksize)),
            windowsize: (window > 0).then_some(u16::from(window)),
            timeout: (timeout > 0).then_some(timeout),
            tsize: (kind & 4 != 0).then_some(length),
            ..Offer::default()
        };
        let mut packet = [0; MAX_DATAGRAM];
        let len = emit_request(
            direction,
            b"file",
            Mode::Octet,
            offer.options(),
            &mut packet,
        );
        let packet = &packet[..len.expect("a request")];
        let (opening, negotiated) = if is_client {
            let opening = Opening::Request {
                packet: packet.into(),
                offer: Box::new(offer),
            };
            (opening, Negotiated::default())
        } else {
            serve(packet, length)
        };
        let config = Config {
            retry: RetryPolicy {
                wait: match policy {
                    0..128 => Wait::Adaptive,
                    _ => Wait::Fixed(Duration::from_millis(u64::from(policy))),
                },
                retries: RETRIES,
            },
            request_repeats: RETRIES,
            dally: Duration::from_millis(100),
            proof: if kind & 16 == 0 {
                Proof::OwnPort
            } else {
                Proof::Never
            },
        };
        let known = (kind & 8 == 0).then_some(length);
        let transfer = if is_sender {
            Transfer::Sender(Sender::new(&config, opening, negotiated, known))
        } else {
            Transfer::Receiver(Receiver::new(&config, opening, negotiated))
        };
        Self {
            transfer,
            disk: Disk::default(),
            length,
            now: epoch(),
            full: false,
            told: None,
        }
    }

    /// Plays the steps: each is a byte that selects it, followed by what it needs.
    fn script(&mut self, mut script: &[u8]) {
        while let Some((&[step, value], rest)) = script.split_first_chunk::<2>() {
            script = rest;
            match step {
                // A packet of any bytes.
                0..64 => {
                    let (datagram, rest) = rest.split_at(rest.len().min(value.into()));
                    script = rest;
                    self.feed(datagram);
                }
                // A likely packet from the peer, give or take a few blocks.
                64..160 => {
                    let block = self.transfer.progress().blocks as u16;
                    let block = block.wrapping_add_signed(i16::from(value.cast_signed()));
                    let [high, low] = block.to_be_bytes();
                    let mut datagram = vec![0, if step < 112 { 4 } else { 3 }, high, low];
                    if step >= 112 {
                        let size = usize::from(self.transfer.negotiated().blksize);
                        datagram.resize(4 + size.saturating_sub((step % 3).into()), step);
                    }
                    self.feed(&datagram);
                }
                160..200 => {
                    self.now += Duration::from_millis(u64::from(value) * 10);
                    self.transfer.handle_timeout(self.now);
                }
                200..220 => {
                    if let Some(deadline) = self.transfer.poll_timeout() {
                        self.now = self.now.max(deadline);
                        self.transfer.handle_timeout(self.now);
                    }
                }
                220..235 => {
                    let _ = self.transfer.waiting_since();
                    self.transfer.handle_repeated_request(self.now);
                }
                235..245 => self.full = !self.full,
                245..250 => self.disk.broken = true,
                250.. => {
                    let failure = Failure::new(ErrorCode::NotDefined, "Aborted");
                    self.transfer.abort(failure);
                }
            }
            self.drain();
        }
    }

    fn feed(&mut self, datagram: &[u8]) {
        if let Ok(packet) = Packet::parse(datagram) {
            self.transfer
                .handle_packet(self.now, &packet, &mut self.disk);
        }
    }

    /// Sends what is due: never more than a window and a datagram at a time.
    fn drain(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM];
        let window = usize::from(self.transfer.negotiated().windowsize);
        let mut sent = 0;
        while let Some(transmit) = self.transfer.poll_transmit(&mut self.disk, &mut buffer) {
            let again = self.transfer.poll_transmit(&mut self.disk, &mut buffer);
            assert_eq!(again, Some(transmit), "polling changed it");
            if self.full {
                break;
            }
            let what = match transmit {
                Transmit::Datagram(len) => {
                    Packet::parse(&buffer[..len]).expect("a packet");
                    sent += 1;
                    Sent::Datagram
                }
                Transmit::Blocks(run) => {
                    let what = self.read(run);
                    sent += usize::from(run.count);
                    what
                }
            };
            self.transfer.handle_sent(self.now, what);
            assert!(sent <= window + 1, "{sent} datagrams for one event");
        }
        if let Some(outcome) = self.transfer.poll_event() {
            assert_eq!(self.told, None, "told twice, now {outcome:?}");
            self.told = Some(outcome);
        }
        if self.transfer.is_closed() {
            assert!(self.told.is_some(), "closed without an outcome");
            assert_eq!(self.transfer.poll_timeout(), None, "closed with a deadline");
        }
        let completed = self.told == Some(Outcome::Completed);
        if let Transfer::Receiver(_) = self.transfer {
            assert_eq!(completed, self.disk.committed, "{:?}", self.told);
            assert_eq!(self.transfer.progress().blocks, self.disk.blocks);
        }
    }

    /// Provides a run as a file of this length would.
    fn read(&self, run: Run) -> Sent {
        assert!(run.count > 0 && run.base <= run.first, "{run:?}");
        let ahead = run.first.0 + u64::from(run.count) - run.base.0;
        let window = self.transfer.negotiated().windowsize;
        assert!(ahead <= window.into(), "{ahead} blocks ahead of the base");
        let last = self.length / u64::from(run.block_size) + 1;
        assert!(run.first.0 <= last, "{run:?} lies behind the end, {last}");
        let count = u64::from(run.count).min(last + 1 - run.first.0);
        Sent::Blocks {
            count: u16::try_from(count).expect("less than the run's"),
            end: run.first.0 + count > last,
        }
    }

    /// The peer stays silent from now on: the session must end.
    fn silence(&mut self) {
        self.full = false;
        self.drain();
        for _ in 0..SILENT_ROUNDS {
            let Some(deadline) = self.transfer.poll_timeout() else {
                break;
            };
            self.now = self.now.max(deadline);
            self.transfer.handle_timeout(self.now);
            self.drain();
        }
        assert!(
            self.transfer.is_closed(),
            "it doesn't end: {:?}",
            self.transfer
        );
    }
}

/// How a server opens a session for this request.
fn serve(packet: &[u8], length: u64) -> (Opening, Negotiated) {
    let Ok(Packet::Request(request)) = Packet::parse(packet) else {
        panic!("no request");
    };
    let mut oack = [0; MAX_DATAGRAM];
    match negotiate(&request, &Limits::default(), Some(length), &mut oack) {
        (negotiated, 0) => (Opening::Plain, negotiated),
        (negotiated, len) => (Opening::OptionAck(oack[..len].into()), negotiated),
    }
}

/// Any instant: the machines only compare instants.
fn epoch() -> Instant {
    thread_local!(static EPOCH: Instant = Instant::now());
    EPOCH.with(|epoch| *epoch)
}

#[derive(Default)]
struct Disk {
    blocks: u64,
    committed: bool,
    broken: bool,
}

impl BlockSink for Disk {
    fn write(&mut self, _payload: &[u8]) -> Result<(), Failure> {
        assert!(!self.committed, "a block behind the last");
        if self.broken {
            return Err(Failure::new(ErrorCode::DiskFull, "Disk full"));
        }
        self.blocks += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        Ok(Written)
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        assert!(!self.committed, "committed twice");
        if self.broken {
            return Err(Failure::new(ErrorCode::DiskFull, "Disk full"));
        }
        self.committed = true;
        Ok(Committed(Written))
    }
}
