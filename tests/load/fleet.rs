//! The load: many clients on one event loop, made of the library's own protocol
//! machines.
//!
//! It receives in batches, sends windows with segmentation offload, reads no file and
//! never sleeps, so that the server is what is measured: otherwise waking a sleeping
//! client would be the server's work, which it isn't over a real network. Sockets are
//! used in turn and rest between two transfers, so that opening them doesn't count in
//! the measured time.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use tftpd::net::{Batch, MAX_DATA_PACKET, MAX_SEGMENTS, MAX_SEND};
use tftpd::protocol::receiver::Receiver;
use tftpd::protocol::retry::{RetryPolicy, Wait};
use tftpd::protocol::sender::Sender;
use tftpd::protocol::transfer::{
    BlockSink, Committed, Config, Failure, MAX_DATAGRAM, Opening, Outcome, Proof, Run, Sent,
    Transfer, Transmit, Written,
};
use tftpd::table::wheel::TimerWheel;
use tftpd::wire::options::{Negotiated, Offer};
use tftpd::wire::packet::{DATA_HEADER_LEN, Direction, ErrorCode, Mode, Packet, emit_request};

use crate::clock;
use crate::figures::{Figures, Metric};
use crate::link::Link;
use crate::pattern::{Pattern, Random};

/// How a client retries: like a boot ROM, it asks again after a second, and gives up
/// after half a minute.
const CLIENT: Config = Config {
    retry: RetryPolicy {
        wait: Wait::Fixed(Duration::from_secs(1)),
        retries: 5,
    },
    request_repeats: u8::MAX,
    dally: Duration::ZERO,
    proof: Proof::OwnPort,
};

/// Sockets per active client, so that a port rests before it is used again.
const SOCKETS_PER_CLIENT: usize = 5;

/// Room for the longest answer other than DATA.
const SHORTEST_SLOT: usize = MAX_DATAGRAM + DATA_HEADER_LEN;

const EVENTS: usize = 1024;

/// The parameters of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) direction: Direction,
    /// Bytes of each file.
    pub(crate) size: u64,
    /// The number of different files to read, in turn.
    pub(crate) files: u32,
    /// Transfers altogether.
    pub(crate) transfers: usize,
    /// Transfers at the same time.
    pub(crate) at_once: usize,
    /// Options to ask for; `None` leaves an option out.
    pub(crate) blksize: Option<u16>,
    pub(crate) windowsize: Option<u16>,
    pub(crate) timeout: Option<u8>,
    /// Whether each block is sent with a call of its own, as most clients do.
    pub(crate) one_by_one: bool,
    /// Packets lost per thousand, each way.
    pub(crate) loss: u16,
    /// How long a client waits before each of its answers.
    pub(crate) delay: Duration,
    /// Time between the starts of two transfers.
    pub(crate) pace: Duration,
    /// When to cut off what isn't finished.
    pub(crate) limit: Duration,
}

impl Plan {
    /// The name of file number `file`.
    pub(crate) fn name(&self, file: u32) -> String {
        match self.direction {
            Direction::Read => format!("data-{}-{file}", self.size),
            Direction::Write => format!("upload-{file}"),
        }
    }

    /// The number of the file of transfer number `index`. Each upload has a file of its
    /// own.
    pub(crate) fn file(&self, index: usize) -> u32 {
        match self.direction {
            Direction::Read => index as u32 % self.files,
            Direction::Write => index as u32,
        }
    }

    fn is_lockstep(&self) -> bool {
        self.windowsize.is_none_or(|window| window == 1)
    }

    /// Whether the transfer has so many blocks that connecting the socket pays.
    fn is_long(&self) -> bool {
        self.size / u64::from(self.blksize.unwrap_or(512)) > 32
    }

    fn slot_len(&self) -> usize {
        // One byte more than negotiated, to notice a block that is too long.
        (usize::from(self.blksize.unwrap_or_default()) + DATA_HEADER_LEN + 1).max(SHORTEST_SLOT)
    }

    fn receive_limit(&self) -> usize {
        let window = self.windowsize.unwrap_or(1);
        (usize::from(window) + 1).min(MAX_SEGMENTS)
    }
}

/// The results of a plan.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) elapsed: Duration,
    /// The part of `elapsed` in which the load itself had something to do.
    busy: Duration,
    /// Payload bytes of finished transfers.
    pub(crate) bytes: u64,
    pub(crate) completed: usize,
    pub(crate) failures: usize,
    pub(crate) unfinished: usize,
    /// Why the first failed transfer failed.
    pub(crate) complaint: Option<String>,
    completions: Vec<Duration>,
    answers: Vec<Duration>,
    first_data: Vec<Duration>,
    data_seen: u64,
    data_needed: u64,
    request_resends: u64,
}

impl Tally {
    pub(crate) fn write_into(&mut self, figures: &mut Figures) {
        let seconds = self.elapsed.as_secs_f64();
        figures.set(Metric::Throughput, self.bytes as f64 / 1e6 / seconds);
        figures.set(Metric::TransfersPerSecond, self.completed as f64 / seconds);
        figures.set_times(
            [
                Metric::CompletionP50,
                Metric::CompletionP99,
                Metric::CompletionMax,
            ],
            &mut self.completions,
        );
        figures.set_times(
            [
                Metric::FirstDataP50,
                Metric::FirstDataP99,
                Metric::FirstDataMax,
            ],
            &mut self.first_data,
        );
        if let Some(latest) = self.answers.iter().max() {
            figures.set(Metric::AnswerMax, crate::figures::milliseconds(*latest));
        }
        if self.data_seen > 0 {
            let resent = self.data_seen.saturating_sub(self.data_needed);
            figures.set(Metric::Resends, resent as f64);
            figures.set(
                Metric::DataPerBlock,
                self.data_seen as f64 / self.data_needed as f64,
            );
        }
        figures.set(Metric::LoadBusy, self.busy.as_secs_f64() / seconds);
        figures.set(Metric::RequestResends, self.request_resends as f64);
        figures.set(Metric::Failures, self.failures as f64);
        figures.set(Metric::Unfinished, self.unfinished as f64);
    }
}

/// A socket and its current transfer.
struct Seat {
    link: Link,
    job: Option<Job>,
}

struct Job {
    transfer: Transfer,
    file: u32,
    /// The number of bytes that have come and were right.
    checked: u64,
    /// Where the request goes, then the server's TID.
    server: SocketAddr,
    /// Whether an answer has come, so that `server` is the TID.
    answered: bool,
    started: Instant,
    first_data: Option<Instant>,
    data_seen: u64,
    requests: u64,
    /// The next answer is held back until then.
    held: Option<Instant>,
    /// Which packets are lost. Independent of other transfers: for a transfer the first
    /// loss is the same in each run and for each server. Later losses depend on how many
    /// packets the server sends to make up for it.
    losses: Losses,
}

/// Which packets of a transfer are lost, both ways.
struct Losses {
    random: Random,
    /// In a thousand.
    rate: u16,
}

impl Losses {
    /// The losses of transfer number `index`.
    fn new(index: usize, rate: u16) -> Self {
        let random = Random::new(7 + index as u64);
        Self { random, rate }
    }

    fn takes_next(&mut self) -> bool {
        self.rate > 0 && self.random.next() % 1000 < self.rate.into()
    }
}

/// The buffers into which datagrams are received.
struct Inbox {
    batch: Batch,
    /// For a single block, in lockstep.
    block: Box<[u8]>,
}

/// Compares what comes with what should come.
struct Checker<'a> {
    pattern: &'a Pattern,
    file: u32,
    size: u64,
    checked: &'a mut u64,
}

const WRONG: Failure = Failure::new(ErrorCode::NotDefined, "Content differs");
const CUT_SHORT: Failure = Failure::new(ErrorCode::NotDefined, "Size differs");

impl BlockSink for Checker<'_> {
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure> {
        if self.pattern.at(self.file, *self.checked, payload.len()) != payload {
            return Err(WRONG);
        }
        *self.checked += payload.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        Ok(Written)
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        if *self.checked == self.size {
            Ok(Committed(Written))
        } else {
            Err(CUT_SHORT)
        }
    }
}

/// Many clients of one server.
pub(crate) struct Fleet<'a> {
    plan: Plan,
    pattern: &'a Pattern,
    server: SocketAddr,
    poll: Poll,
    seats: Vec<Seat>,
    /// Seats without a transfer; the one that has rested longest is in front.
    resting: VecDeque<usize>,
    wheel: TimerWheel,
    /// Answers held back, in the order in which they are due.
    held: VecDeque<(Instant, usize)>,
    /// Seats whose socket was full.
    blocked: Vec<usize>,
    /// The packets being sent.
    buffer: Box<[u8]>,
    started: usize,
    next_start: Instant,
    tally: Tally,
}

impl<'a> Fleet<'a> {
    /// A fleet with its sockets open, ready to start.
    pub(crate) fn new(plan: Plan, pattern: &'a Pattern, server: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let count = plan.transfers.min(plan.at_once * SOCKETS_PER_CLIENT);
        let mut seats = Vec::with_capacity(count);
        for index in 0..count {
            let link = Link::open(poll.registry(), Token(index))?;
            seats.push(Seat { link, job: None });
        }
        let now = clock();
        Ok(Self {
            plan,
            pattern,
            server,
            poll,
            resting: (0..seats.len()).collect(),
            seats,
            wheel: TimerWheel::new(now),
            held: VecDeque::new(),
            blocked: Vec::new(),
            buffer: vec![0; MAX_SEND].into_boxed_slice(),
            started: 0,
            next_start: now,
            tally: Tally::default(),
        })
    }

    /// Runs the plan to its end, or until the limit. `watch` is called after each turn and
    /// returns when it wants to be called again.
    pub(crate) fn run(mut self, mut watch: impl FnMut(Instant) -> Instant) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS);
        let mut inbox = Inbox {
            batch: Batch::new(MAX_SEGMENTS, 8 * MAX_DATA_PACKET),
            block: vec![0; self.plan.slot_len()].into_boxed_slice(),
        };
        let begin = clock();
        let end = begin + self.plan.limit;
        self.next_start = begin;
        let mut now = begin;
        let mut look = begin;
        loop {
            self.start_due(now);
            if now >= look {
                look = watch(now);
            }
            let finished = self.tally.completed + self.tally.failures;
            if finished == self.plan.transfers || now >= end {
                break;
            }
            let turned = clock();
            match self.poll.poll(&mut events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => other?,
            }
            if !events.is_empty() {
                for event in &events {
                    self.receive(event.token().0, &mut inbox);
                }
            }
            let polled = now;
            now = clock();
            self.tally.busy += turned - polled;
            if !events.is_empty() {
                self.tally.busy += now - turned;
            }
            for index in std::mem::take(&mut self.blocked) {
                self.transmit(index, now);
            }
            self.release_held(now);
            self.run_deadlines(now);
        }
        self.tally.elapsed = now - begin;
        self.cut_off(now);
        Ok(self.tally)
    }

    fn may_start(&self) -> bool {
        let finished = self.tally.completed + self.tally.failures;
        self.started < self.plan.transfers && self.started - finished < self.plan.at_once
    }

    fn start_due(&mut self, now: Instant) {
        while self.may_start() && self.next_start <= now {
            self.next_start += self.plan.pace;
            let Some(index) = self.resting.pop_front() else {
                return;
            };
            // Sending a burst takes a while: each transfer has its own start.
            let now = clock();
            self.seats[index].job = Some(self.job(self.started, now));
            self.started += 1;
            self.transmit(index, now);
        }
    }

    /// Creates transfer number `number`, which hasn't begun yet.
    fn job(&self, number: usize, now: Instant) -> Job {
        let file = self.plan.file(number);
        let Plan {
            direction, size, ..
        } = self.plan;
        let offer = Offer {
            blksize: self.plan.blksize,
            windowsize: self.plan.windowsize,
            timeout: self.plan.timeout,
            ..Offer::default()
        };
        let name = self.plan.name(file);
        let mut packet = [0; MAX_DATAGRAM];
        let len = emit_request(
            direction,
            name.as_bytes(),
            Mode::Octet,
            offer.options(),
            &mut packet,
        )
        .unwrap_or_else(|error| unreachable!("{name}: {error}"));
        let opening = Opening::Request {
            packet: packet[..len].into(),
            offer: Box::new(offer),
        };
        let negotiated = Negotiated::default();
        let transfer = match direction {
            Direction::Read => Transfer::Receiver(Receiver::new(&CLIENT, opening, negotiated)),
            Direction::Write => {
                Transfer::Sender(Sender::new(&CLIENT, opening, negotiated, Some(size)))
            }
        };
        Job {
            transfer,
            file,
            checked: 0,
            server: self.server,
            answered: false,
            started: now,
            first_data: None,
            data_seen: 0,
            requests: 0,
            held: None,
            losses: Losses::new(number, self.plan.loss),
        }
    }

    fn receive(&mut self, index: usize, inbox: &mut Inbox) {
        if self.plan.is_lockstep() && self.seats[index].link.is_connected() {
            return self.receive_in_lockstep(index, &mut inbox.block);
        }
        let (slot_len, limit) = (self.plan.slot_len(), self.plan.receive_limit());
        let batch = &mut inbox.batch;
        loop {
            let link = &self.seats[index].link;
            let count = link.receive(batch, slot_len, limit).unwrap_or(0);
            let now = clock();
            for datagram in (0..count).filter_map(|position| batch.get(position)) {
                self.handle(index, datagram.payload, Some(datagram.peer), now);
            }
            if count < batch.capacity(slot_len, limit) {
                break;
            }
        }
    }

    /// After a block has been answered, nothing else can have come; if something has, it is
    /// found before the next block. So no call is spent to find nothing.
    fn receive_in_lockstep(&mut self, index: usize, block: &mut [u8]) {
        while let Ok(len) = self.seats[index].link.receive_one(block) {
            if self.handle(index, &block[..len], None, clock()) {
                break;
            }
        }
    }

    /// Hands a datagram to the transfer; true if that was a step forward. `peer` is `None`
    /// if only the server can have sent it.
    fn handle(
        &mut self,
        index: usize,
        datagram: &[u8],
        peer: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        let seat = &mut self.seats[index];
        let Some(job) = &mut seat.job else {
            return false;
        };
        // Ignores late datagrams for the socket's previous transfer.
        if job.answered && peer.is_some_and(|peer| peer != job.server) {
            return false;
        }
        let Ok(packet) = Packet::parse(datagram) else {
            return false;
        };
        let is_data = matches!(packet, Packet::Data { .. });
        job.data_seen += u64::from(is_data);
        if job.losses.takes_next() {
            return false;
        }
        if !job.answered {
            job.answered = true;
            job.server = peer.unwrap_or(job.server);
            if self.plan.is_long() {
                // Unconnected, it only takes longer.
                let _ = seat.link.connect(job.server);
            }
            self.tally.answers.push(now - job.started);
        }
        if is_data {
            job.first_data.get_or_insert(now);
        }
        let mut checker = Checker {
            pattern: self.pattern,
            file: job.file,
            size: self.plan.size,
            checked: &mut job.checked,
        };
        let before = job.transfer.progress().blocks;
        job.transfer.handle_packet(now, &packet, &mut checker);
        let is_step = job.transfer.progress().blocks > before;
        self.transmit(index, now);
        is_step
    }

    /// Sends what is due and checks whether the transfer is over.
    fn transmit(&mut self, index: usize, now: Instant) {
        let seat = &mut self.seats[index];
        let Some(job) = &mut seat.job else { return };
        let mut checker = Checker {
            pattern: self.pattern,
            file: job.file,
            size: self.plan.size,
            checked: &mut job.checked,
        };
        while let Some(transmit) = job.transfer.poll_transmit(&mut checker, &mut self.buffer) {
            if job.answered && self.plan.delay > Duration::ZERO {
                match job.held {
                    None => {
                        let due = now + self.plan.delay;
                        job.held = Some(due);
                        self.held.push_back((due, index));
                        return;
                    }
                    Some(due) if now < due => return,
                    Some(_) => job.held = None,
                }
            }
            let (len, segment, report) = match transmit {
                Transmit::Datagram(len) => {
                    job.requests += u64::from(!job.answered);
                    (len, len, Sent::Datagram)
                }
                Transmit::Blocks(run) => {
                    // Where packets are lost, each block may be lost on its own.
                    let is_alone = self.plan.one_by_one || self.plan.loss > 0;
                    let most = if is_alone { 1 } else { u16::MAX };
                    let (size, buffer) = (self.plan.size, &mut self.buffer);
                    let (len, report) =
                        fill(self.pattern, job.file, size, run.shortened(most), buffer);
                    (len, run.segment_size(), report)
                }
            };
            if !job.losses.takes_next() && !seat.link.send(&self.buffer[..len], segment, job.server)
            {
                self.blocked.push(index);
                break;
            }
            job.transfer.handle_sent(now, report);
        }
        if let Some(outcome) = job.transfer.poll_event() {
            self.finish(index, &outcome, now);
        } else if let Some(deadline) = job.transfer.poll_timeout()
            && !self.wheel.covers(index as u32, deadline)
        {
            self.wheel.schedule(index as u32, deadline);
        }
    }

    fn finish(&mut self, index: usize, outcome: &Outcome, now: Instant) {
        let Some(job) = self.seats[index].job.take() else {
            return;
        };
        self.wheel.cancel(index as u32);
        self.vacate(index);
        if outcome.is_success() {
            self.tally.completed += 1;
            self.tally.bytes += self.plan.size;
            let blksize = u64::from(job.transfer.progress().block_size);
            if self.plan.direction == Direction::Read {
                self.tally.data_needed += self.plan.size / blksize + 1;
                self.tally.data_seen += job.data_seen;
            }
        } else {
            self.tally.failures += 1;
            self.tally
                .complaint
                .get_or_insert_with(|| format!("{outcome:?}"));
        }
        self.account(&job, now);
    }

    /// Lets a socket rest until its next turn. A connected socket can't be used for another
    /// transfer.
    fn vacate(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        if seat.link.is_connected() && self.started < self.plan.transfers {
            match Link::open(self.poll.registry(), Token(index)) {
                Ok(link) => seat.link = link,
                Err(_) => return,
            }
        }
        self.resting.push_back(index);
    }

    fn account(&mut self, job: &Job, now: Instant) {
        self.tally.completions.push(now - job.started);
        self.tally.request_resends += job.requests.saturating_sub(1);
        let first_data = job.first_data.map(|first| first - job.started);
        self.tally.first_data.extend(first_data);
    }

    fn release_held(&mut self, now: Instant) {
        while let Some(&(due, index)) = self.held.front() {
            if due > now {
                return;
            }
            self.held.pop_front();
            self.transmit(index, now);
        }
    }

    fn run_deadlines(&mut self, now: Instant) {
        while let Some(key) = self.wheel.pop_expired(now) {
            let index = key as usize;
            if let Some(job) = &mut self.seats[index].job {
                job.transfer.handle_timeout(now);
                self.transmit(index, now);
            }
        }
    }

    /// Counts what the limit has cut off; its times are lower bounds.
    fn cut_off(&mut self, now: Instant) {
        for index in 0..self.seats.len() {
            if let Some(job) = self.seats[index].job.take() {
                self.account(&job, now);
            }
        }
        self.tally.unfinished = self.plan.transfers - self.tally.completed - self.tally.failures;
    }
}

/// Fills `buffer` with the blocks of a run, or with as many as fit; returns their bytes
/// and what to report as sent.
fn fill(pattern: &Pattern, file: u32, size: u64, run: Run, buffer: &mut [u8]) -> (usize, Sent) {
    let block_size = usize::from(run.block_size);
    let (mut count, mut end, mut bytes) = (0, false, 0);
    let most = run.count.min(MAX_SEGMENTS as u16);
    let segments = buffer.chunks_exact_mut(run.segment_size());
    for segment in segments.take(most.into()) {
        let offset = run.first.plus(u64::from(count)).offset(block_size);
        let len = size.saturating_sub(offset).min(block_size as u64) as usize;
        let (header, payload) = segment.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&run.header(count));
        payload[..len].copy_from_slice(pattern.at(file, offset, len));
        count += 1;
        bytes += DATA_HEADER_LEN + len;
        end = len < block_size;
        if end {
            break;
        }
    }
    (bytes, Sent::Blocks { count, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_loses_the_same_packets_in_each_run_and_no_two_lose_alike() {
        let lost = |index, rate| {
            let mut losses = Losses::new(index, rate);
            (0..1000)
                .filter(|_| losses.takes_next())
                .collect::<Vec<u32>>()
        };
        let all: Vec<_> = (0..20).map(|index| lost(index, 50)).collect();
        for (index, one) in all.iter().enumerate() {
            assert_eq!(*one, lost(index, 50));
            assert!((20..100).contains(&one.len()), "{index}: {}", one.len());
            assert!(!all[..index].contains(one), "{index}");
        }
        assert!(lost(0, 0).is_empty());
    }
}
