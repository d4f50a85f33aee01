//! Paced sessions over a simulated port, peer and clock; the turns are the server's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};

use mio::Interest;

use super::*;
use crate::file::{FileSink, FileSource, StorageError};
use crate::host::clock;
use crate::net::{Batch, Received, RunSent};
use crate::policy::rules::Settings;
use crate::protocol::receiver::Receiver;
use crate::protocol::retry::{RetryPolicy, Wait};
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, Failure, Opening, Outcome, Proof, Transfer};
use crate::session::shaper::Shaper;
use crate::session::{Content, Context, Phase, Remote, Resources, Waited};
use crate::wire::options::{Negotiated, RawOptions};
use crate::wire::packet::{BlockNumber, ErrorCode, Mode, Packet, emit_ack, emit_data_header};

const MS: Duration = Duration::from_millis(1);

/// How long a packet and its answer take, there and back.
const ROUND_TRIP: Duration = MS;

fn peer() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 2000).into()
}

/// What lies in the socket, and what has left it.
#[derive(Debug, Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    left: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct WirePort(Rc<RefCell<Wire>>);

impl Port for WirePort {
    type Poll<'p> = ();

    fn watch(&mut self, (): &(), _: Interest) -> io::Result<()> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn coalesces(&self) -> bool {
        false
    }

    fn unsent(&self) -> usize {
        0
    }

    fn receive_one(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.0.borrow_mut().arrived.pop_front();
        let datagram = datagram.ok_or(ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok((datagram.len(), peer()))
    }

    fn receive(&mut self, batch: &mut Batch, slot_len: usize, limit: usize) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let count = wire.arrived.len().min(batch.capacity(slot_len, limit));
        for (index, payload) in wire.arrived.drain(..count).enumerate() {
            let received = Received {
                peer: peer(),
                destination: None,
                interface: None,
                payload: &payload,
                segment: None,
            };
            batch.put(index, slot_len, &received);
        }
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn send_to(&mut self, datagram: &[u8], _: SocketAddr) -> io::Result<()> {
        self.0.borrow_mut().left.push(datagram.to_vec());
        Ok(())
    }

    fn send_run(&mut self, run: &[u8], segment: usize, _: SocketAddr) -> io::Result<RunSent> {
        let blocks = run.chunks(segment).map(<[u8]>::to_vec);
        self.0.borrow_mut().left.extend(blocks);
        Ok(RunSent::All)
    }
}

/// Bytes that are all the same.
#[derive(Debug)]
struct Plain(u64);

impl ReadAt for Plain {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        Ok(Some(wanted.min((self.0 - offset) as usize)))
    }

    fn fetch(&mut self) -> bool {
        true
    }

    fn block(&mut self) {}
}

impl Store for Plain {
    fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), StorageError> {
        Ok(())
    }

    fn commit(self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// A session as the server has one, and its place in the accounts.
struct Paced {
    now: Instant,
    pacing: Pacing,
    shaper: Shaper,
    resources: Resources,
    wire: Rc<RefCell<Wire>>,
    session: Session<WirePort, Plain, Plain>,
    outcome: Option<Outcome>,
}

impl Paced {
    const KEY: SessionKey = SessionKey::from_token(1);

    fn new(
        rate: Option<u64>,
        (blksize, windowsize): (u16, u16),
        make: impl FnOnce(&Config, Negotiated) -> (Transfer, Content<Plain, Plain>),
    ) -> Self {
        let now = clock::now();
        let config = Config {
            retry: RetryPolicy {
                wait: Wait::Adaptive,
                retries: 5,
            },
            request_repeats: 5,
            dally: Duration::from_secs(10),
            proof: Proof::OwnPort,
        };
        let negotiated = Negotiated {
            blksize,
            windowsize,
            ..Negotiated::default()
        };
        let wire = Rc::default();
        let (transfer, content) = make(&config, negotiated);
        let port = WirePort(Rc::clone(&wire));
        let session = Session::new(
            transfer,
            content,
            port,
            Remote::Known(peer()),
            &b"f"[..],
            now,
        );
        let mut paced = Self {
            now,
            pacing: Pacing::default(),
            shaper: Shaper::new(None, None, 7, now),
            resources: Resources::new(now, None),
            wire,
            session,
            outcome: None,
        };
        if let Some(rate) = rate {
            let settings = Settings {
                rate: NonZeroU64::new(rate),
                ..Settings::default()
            };
            let section = Rc::new(Section::saying(settings));
            paced.pacing.begin(Self::KEY, section, now);
        }
        paced
    }

    fn upload(rate: Option<u64>, options: (u16, u16), mode: Mode) -> Self {
        Self::new(rate, options, |config, negotiated| {
            let receiver = Receiver::new(config, Opening::Plain, negotiated);
            let sink = FileSink::new(Plain(0), mode);
            (Transfer::Receiver(receiver), Content::Sink(Box::new(sink)))
        })
    }

    fn download(rate: u64, options: (u16, u16), size: u64) -> Self {
        Self::new(Some(rate), options, |config, negotiated| {
            let sender = Sender::new(config, Opening::Plain, negotiated, Some(size));
            let source = FileSource::new(Plain(size), Mode::Octet);
            (Transfer::Sender(sender), Content::Source(source))
        })
    }

    /// A turn, as the server's loop gives one: for what has arrived, or for the deadline.
    /// Returns what the session has sent.
    fn turn(&mut self) -> Vec<Vec<u8>> {
        let now = self.now;
        let is_due = self.session.deadline().is_some_and(|at| at <= now);
        let mut is_unfinished = true;
        while is_unfinished {
            let lent = self.pacing.lend(Self::KEY, &self.session, now);
            let mut context = Context {
                now,
                clock: &|| now,
                resources: &mut self.resources,
                poll: (),
                send_budget: lent.unwrap_or(SEND_BUDGET),
            };
            let session = &mut self.session;
            let done = self.shaper.turn(
                Self::KEY,
                session,
                &mut context,
                || 1,
                |it, context| {
                    if is_due {
                        it.run_deadline(context)
                    } else {
                        it.run(context)
                    }
                },
            );
            self.pacing.settle(Self::KEY, &mut self.session, &done);
            self.outcome = self.outcome.take().or(done.outcome);
            is_unfinished = done.is_unfinished;
        }
        std::mem::take(&mut self.wire.borrow_mut().left)
    }

    fn arrive(&mut self, datagram: Vec<u8>) {
        self.wire.borrow_mut().arrived.push_back(datagram);
    }

    /// The blocks from `from` on that fit into a window arrive, of a file with `whole`
    /// whole blocks and a part of one. Returns the last.
    fn window(&mut self, from: u64, whole: u64) -> u64 {
        let progress = self.session.transfer().progress();
        let to = (from + u64::from(progress.window_size) - 1).min(whole + 1);
        for index in from..=to {
            let len = if index > whole {
                7
            } else {
                progress.block_size
            };
            let mut block = emit_data_header(BlockNumber(index as u16)).to_vec();
            block.resize(block.len() + usize::from(len), b'x');
            self.arrive(block);
        }
        to
    }

    /// Lets time pass to the session's deadline.
    fn wait(&mut self) {
        self.now = self.session.deadline().expect("a deadline");
    }
}

fn acked(packets: &[Vec<u8>]) -> Option<u64> {
    match packets {
        [] => None,
        [packet] => match Packet::parse(packet) {
            Ok(Packet::Ack(block)) => Some(block.0.into()),
            other => panic!("{other:?}"),
        },
        more => panic!("{} datagrams for one", more.len()),
    }
}

/// A whole upload by a peer that repeats nothing, since no answer takes as long as a
/// second. Returns how long the upload took, and the longest that the peer waited for
/// an ACK.
fn upload(mut session: Paced, whole: u64) -> (Duration, Duration) {
    let start = session.now;
    assert_eq!(
        acked(&session.turn()),
        Some(0),
        "the opening isn't held back"
    );
    let (mut longest, mut last) = (Duration::ZERO, 0);
    while last <= whole {
        session.now += ROUND_TRIP;
        last = session.window(last + 1, whole);
        let arrived = session.now;
        let mut answer = acked(&session.turn());
        if last > whole {
            assert_eq!(answer, Some(last), "the final ACK isn't held back");
            break;
        }
        while answer.is_none() {
            assert_eq!(session.session.phase(session.now), Phase::Moving);
            assert_eq!(session.session.quiet_since(), None, "it isn't silent");
            assert!(!session.session.waits_for_file());
            session.wait();
            answer = acked(&session.turn());
        }
        assert_eq!(answer, Some(last));
        longest = longest.max(session.now - arrived);
    }
    assert_eq!(session.outcome, Some(Outcome::Completed));
    assert_eq!(session.session.transfer().progress().retransmits, 0);
    assert_eq!(session.session.waited(), Waited::default());
    (session.now - start, longest)
}

#[test]
fn an_upload_is_paced_by_holding_back_acks() {
    for (rate, blksize, window, whole) in [
        (1_000, 512, 1, 20_u64),
        (100_000, 512, 1, 400),
        (100_000, 1428, 16, 160),
        (100_000, 512, 64, 640),
        (1_000_000, 1428, 64, 1280),
        (10_000_000, 512, 1, 40_000),
        (100_000_000, 1428, 16, 50_000),
    ] {
        for mode in [Mode::Octet, Mode::Netascii] {
            let context = format!("{rate} {blksize} {window} {mode:?}");
            let session = Paced::upload(Some(rate), (blksize, window), mode);
            let (took, longest) = upload(session, whole);
            let one = u64::from(blksize) + 4;
            let at_rate = |bytes: u64| Duration::from_nanos(bytes * 1_000_000_000 / rate);
            // It may begin with 10 ms' worth, and the last window is not waited for.
            let bytes = whole * one - u64::from(window) * one;
            let round_trips = ROUND_TRIP * (whole / u64::from(window)) as u32;
            assert!(took + 11 * MS >= at_rate(bytes), "{context}: {took:?}");
            let most = at_rate(whole * one).max(round_trips) + 110 * MS;
            assert!(took <= most + most / 20, "{context}: {took:?} of {most:?}");
            assert!(longest <= LONGEST + 20 * MS, "{context}: {longest:?}");
        }
    }
}

#[test]
fn an_upload_without_a_rate_is_not_held() {
    for window in [1, 16] {
        let session = Paced::upload(None, (1428, window), Mode::Octet);
        let (_, longest) = upload(session, 1600);
        assert_eq!(longest, Duration::ZERO);
    }
}

/// The ACK that was held back goes out once, when its time has come.
#[test]
fn repeated_data_while_the_ack_is_held_brings_no_further_ack() {
    for (window, rate) in [(1, 2_000), (16, 20_000)] {
        let mut session = Paced::upload(Some(rate), (512, window), Mode::Octet);
        assert_eq!(acked(&session.turn()), Some(0));
        session.window(1, 100);
        assert_eq!(acked(&session.turn()), None, "{window}: it is held");
        let until = session.session.deadline().expect("a deadline");
        while session.now + 40 * MS < until {
            session.now += 40 * MS;
            // All of the window once more, as when the peer's timer has expired.
            session.window(1, 100);
            assert_eq!(acked(&session.turn()), None, "{window}");
        }
        session.wait();
        let sent = session.now;
        assert!(
            sent <= until + QUANTUM,
            "{window}: it isn't held for longer"
        );
        assert_eq!(acked(&session.turn()), Some(u64::from(window)));
        let progress = session.session.transfer().progress();
        assert_eq!(progress.retransmits, 0, "{window}");
        // No ACK is held back any more, so only silence brings it again.
        session.wait();
        assert!(session.now >= sent + LONGEST, "{window}");
        assert_eq!(acked(&session.turn()), Some(u64::from(window)));
    }
}

/// The gap is reported once the upload may go on, and what the peer sends then is paid
/// for.
#[test]
fn a_gap_in_a_window_is_paced_too() {
    let mut session = Paced::upload(Some(100_000), (512, 16), Mode::Octet);
    assert_eq!(acked(&session.turn()), Some(0));
    let (mut from, start) = (1, session.now);
    while from < 400 {
        session.now += ROUND_TRIP;
        let to = session.window(from, 1000);
        // The fourth of each is lost.
        session.wire.borrow_mut().arrived.remove(3);
        let mut answer = acked(&session.turn());
        while answer.is_none() {
            session.wait();
            answer = acked(&session.turn());
        }
        assert_eq!(answer, Some(from + 2), "of {from} to {to}");
        from += 3;
    }
    let sent = 516 * 16 * (400 / 3);
    let took = (session.now - start).as_millis();
    assert!(took >= sent / 100 - 300, "{took} ms for {sent} bytes");
}

#[test]
fn the_end_of_an_upload_in_the_middle_of_a_pause_is_told_at_once() {
    let mut session = Paced::upload(Some(2_000), (512, 1), Mode::Octet);
    session.turn();
    session.window(1, 100);
    assert_eq!(acked(&session.turn()), None);
    let failure = Failure::new(ErrorCode::NotDefined, "enough");
    session.session.abort(failure);
    let told = session.turn();
    assert!(
        matches!(Packet::parse(&told[0]), Ok(Packet::Error { .. })),
        "{told:?}"
    );
    assert!(session.session.is_closed());
}

/// What a turn doesn't use is not paid for: 100 MB a second must not become 10.
#[test]
fn a_fast_download_pays_for_no_more_than_it_sends() {
    let size = 20_000_000;
    let mut session = Paced::download(100_000_000, (1428, 16), size);
    let start = session.now;
    let mut blocks = session.turn();
    while session.outcome.is_none() {
        let last = blocks.last().map(|it| Packet::parse(it).expect("DATA"));
        session.now += ROUND_TRIP / 10;
        if let Some(Packet::Data { block, .. }) = last {
            session.arrive(emit_ack(block).to_vec());
        } else {
            session.wait();
        }
        blocks = session.turn();
    }
    let took = session.now - start;
    assert!((185 * MS..300 * MS).contains(&took), "{took:?}");
}

#[test]
fn the_window_of_an_upload_takes_no_longer_than_half_a_second() {
    let asked = |pairs: &[(&str, &str)], limits: Limits, rate: u64| {
        let mut raw = Vec::new();
        for (name, value) in pairs {
            for word in [name, value] {
                raw.extend_from_slice(word.as_bytes());
                raw.push(0);
            }
        }
        let request = Request {
            direction: Direction::Write,
            filename: b"f",
            mode: Mode::Octet,
            options: RawOptions::new(&raw),
        };
        let rate = NonZeroU64::new(rate).expect("a rate");
        let limits = upload_limits(rate, &request, limits);
        let (agreed, _) = options::negotiate(&request, &limits, None, &mut [0; MAX_DATAGRAM]);
        (agreed.blksize, agreed.windowsize)
    };
    let wide = [("windowsize", "64"), ("blksize", "1428")];
    let all = Limits {
        max_windowsize: 64,
        ..Limits::default()
    };
    for (pairs, rate, expected) in [
        (&[][..], 1_000, (512, 1)),
        (&wide[..], 1_000, (512, 1)),
        (&wide[..], 10_000, (1428, 3)),
        (&wide[..], 100_000, (1428, 34)),
        (&wide[..], 1_000_000, (1428, 64)),
        (&[("blksize", "65464")][..], 20_000, (9996, 1)),
        (&[("blksize2", "1024")][..], 1_400, (512, 1)),
        (
            &[("blksize", "8"), ("windowsize", "64")][..],
            1_000,
            (8, 41),
        ),
        (
            &[("blksize", "65464"), ("windowsize", "64")][..],
            1 << 40,
            (65464, 4),
        ),
    ] {
        assert_eq!(asked(pairs, all, rate), expected, "{pairs:?} {rate}");
    }
    let narrow = Limits {
        max_windowsize: 2,
        max_blksize: 600,
        ..all
    };
    assert_eq!(
        asked(&wide, narrow, 1_000_000),
        (600, 2),
        "the stricter counts"
    );
}

/// Blocks of any size at any rate: no more than the rate and what may be saved up,
/// and nearly as much.
#[test]
fn a_pace_is_kept_to_whatever_the_block_size() {
    for (rate, block) in [
        (1_000, 512_u64),
        (100_000, 512),
        (100_000, 65_464),
        (10_000_000, 1428),
        (1 << 40, 1428),
    ] {
        let start = clock::now();
        let mut bucket = TokenBucket::new(NonZeroU64::new(rate).unwrap(), start);
        let (mut now, mut sent, mut pauses) = (start, 0, 0);
        while now < start + Duration::from_secs(10) && sent < 1 << 34 {
            let bytes = bucket.lend(block, now) as u64;
            assert_eq!(bytes % block, 0);
            sent += bytes;
            bucket.bytes -= bytes;
            now = now.max(bucket.until_more(block));
            pauses += 1;
        }
        let millis = u64::try_from((now - start).as_millis()).unwrap();
        let due = rate * millis / 1000;
        let slack = rate / 10 + 2 * block;
        assert!(sent <= due + slack, "{rate} {block}: {sent} of {due}");
        assert!(sent + slack >= due, "{rate} {block}: {sent} of {due}");
        assert!(pauses <= 1010, "{rate} {block}: {pauses} pauses");
    }
}
