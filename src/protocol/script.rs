//! Plays a conversation with one transfer, written down as text, and compares
//! what it does line by line. For the unit tests of this layer only.
//!
//! ```text
//!   0 open     > DATA 1-2          @500
//!  10 ACK 1    > DATA 2-3(188)     @510
//!  20 ACK 3    > nothing           Completed closed
//! ```
//!
//! Left of `>`: the millisecond, and what happens then. Right of it: everything that the
//! transfer does in answer, in order: blocks written, the file committed, datagrams sent;
//! then its next deadline, its outcome, and whether it is over. A block that isn't full is
//! followed by its length in bytes.
//!
//! | input | meaning |
//! |---|---|
//! | `ACK 1`, `DATA 1`, `DATA 3(188)`, `OACK blksize=8`, `ERROR 8`, `RRQ`, `WRQ` | that packet arrives |
//! | `open` | nothing: the transfer is only polled, as after every input |
//! | `timeout` | `handle_timeout`, whether or not the deadline has come |
//! | `request` | the client repeats its request |
//! | `abort` | the caller can't go on |
//! | `full`, `room`, `room 1` | from now on the socket takes nothing, everything, or this many sends |
//! | `disk full`, `disk stuck` | from now on every write, or every commit, fails |
//! | `to 65534` | the peer does its part without fault up to this block |

#![allow(clippy::format_push_string, reason = "text that only a test reads")]

use std::time::{Duration, Instant};

use super::block::BlockIndex;
use super::receiver::Receiver;
use super::retry::{RetryPolicy, Wait};
use super::sender::Sender;
use super::timer::Timer;
use super::transfer::{
    BlockSink, Committed, Config, Failure, MAX_DATAGRAM, Opening, Outcome, Proof, Run, Sent,
    Transfer, Transmit, Written,
};
use crate::wire::options::{self, Limits, Negotiated, Offer, RawOptions};
use crate::wire::packet::{DATA_HEADER_LEN, Direction, ErrorCode, Mode, Packet, emit_request};

/// `-t 500 --retries 5`, and a second of dallying.
pub(super) const FIXED: Config = Config {
    retry: RetryPolicy {
        wait: Wait::Fixed(Duration::from_millis(500)),
        retries: 5,
    },
    request_repeats: u8::MAX,
    dally: Duration::from_secs(1),
    proof: Proof::OwnPort,
};

/// No `-t`.
pub(super) const ADAPTIVE: Config = Config {
    retry: RetryPolicy {
        wait: Wait::Adaptive,
        retries: 5,
    },
    request_repeats: u8::MAX,
    dally: Duration::from_secs(1),
    proof: Proof::OwnPort,
};

/// [`FIXED`] for an unproved peer.
pub(super) const UNPROVED: Config = Config {
    proof: Proof::Never,
    ..FIXED
};

/// The end under test, with the options that the client asks for, such as
/// `blksize=8 windowsize=4`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Server(&'static str),
    Client(&'static str),
}

/// A transfer and the world around it.
pub(super) struct Script {
    transfer: Transfer,
    disk: Disk,
    /// Length in bytes of the file that a sender sends.
    length: u64,
    /// The most blocks in one run.
    max_run: u16,
    /// How many more sends the socket takes.
    room: u32,
    /// Blocks that a sender has sent, repeats included; and the furthest.
    blocks_sent: u64,
    furthest: u64,
    origin: Instant,
}

impl Script {
    /// The sender of a file of `length` bytes.
    pub(super) fn sender(config: &Config, role: Role, length: u64) -> Self {
        Self::sender_of(config, role, length, Some(length))
    }

    /// The sender of a file whose length isn't known before the end has been read.
    pub(super) fn sender_of_text(config: &Config, role: Role, length: u64) -> Self {
        Self::sender_of(config, role, length, None)
    }

    fn sender_of(config: &Config, role: Role, length: u64, known: Option<u64>) -> Self {
        let (opening, negotiated) = match role {
            Role::Server(asked) => served(Direction::Read, asked, known),
            Role::Client(asked) => requested(Direction::Write, asked),
        };
        let sender = Sender::new(config, opening, negotiated, known);
        Self {
            length,
            ..Self::new(Transfer::Sender(sender))
        }
    }

    /// A receiver.
    pub(super) fn receiver(config: &Config, role: Role) -> Self {
        let (opening, negotiated) = match role {
            Role::Server(asked) => served(Direction::Write, asked, None),
            Role::Client(asked) => requested(Direction::Read, asked),
        };
        Self::new(Transfer::Receiver(Receiver::new(
            config, opening, negotiated,
        )))
    }

    fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            disk: Disk::default(),
            length: 0,
            max_run: u16::MAX,
            room: u32::MAX,
            blocks_sent: 0,
            furthest: 0,
            origin: epoch(),
        }
    }

    /// Sends at most `max_run` blocks at once.
    pub(super) fn in_runs_of(self, max_run: u16) -> Self {
        Self { max_run, ..self }
    }

    /// The transfer's deadline in milliseconds, rounded up.
    pub(super) fn deadline(&self) -> Option<u64> {
        let deadline = self.transfer.poll_timeout()?;
        Some((deadline - self.origin).as_micros().div_ceil(1000) as u64)
    }

    pub(super) fn retransmits(&self) -> u64 {
        self.transfer.progress().retransmits
    }

    /// Whether the deadline is that of the peer's answer.
    pub(super) fn awaits_an_answer(&self) -> bool {
        matches!(self.transfer.timer(), Timer::Answer { .. })
    }

    /// Blocks that a sender has sent, repeats included.
    pub(super) const fn blocks_sent(&self) -> u64 {
        self.blocks_sent
    }

    /// The furthest block that a sender has sent.
    pub(super) const fn furthest(&self) -> u64 {
        self.furthest
    }

    /// Plays a script and fails if the transfer does something else.
    #[track_caller]
    pub(super) fn play(&mut self, script: &str) {
        let mut played = String::new();
        let mut agreed = true;
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (done, expected) = line.split_once('>').expect("input > output");
            let (at, input) = done.trim().split_once(' ').expect("time input");
            let output = self.step(at.parse().expect("milliseconds"), input.trim());
            agreed &= words(&output) == words(expected);
            played += &format!("{done}> {output}\n");
        }
        assert!(agreed, "expected:\n{script}\nplayed:\n{played}");
    }

    /// Makes `input` happen at `millisecond` and returns what the transfer does.
    pub(super) fn step(&mut self, millisecond: u64, input: &str) -> String {
        let now = self.origin + Duration::from_millis(millisecond);
        self.disk.done.clear();
        self.input(now, input);
        self.drain(now);
        let mut output = std::mem::take(&mut self.disk.done).join(", ");
        if output.is_empty() {
            output += "nothing";
        }
        if let Some(deadline) = self.transfer.poll_timeout() {
            output += &format!(" @{}", (deadline - self.origin).as_millis());
        }
        if let Some(outcome) = self.transfer.poll_event() {
            output += &format!(" {}", show_outcome(&outcome));
        }
        assert_eq!(self.transfer.poll_event(), None, "an outcome is told once");
        if self.transfer.is_closed() {
            output += " closed";
        } else if self.transfer.is_over() {
            output += " over";
        }
        output
    }

    fn input(&mut self, now: Instant, input: &str) {
        match input.split_once(' ').unwrap_or((input, "")) {
            ("open", _) => {}
            ("timeout", _) => self.transfer.handle_timeout(now),
            ("request", _) => self.transfer.handle_repeated_request(now),
            ("abort", _) => self
                .transfer
                .abort(Failure::new(ErrorCode::NotDefined, "Aborted")),
            ("full", _) => self.room = 0,
            ("room", "") => self.room = u32::MAX,
            ("room", times) => self.room = times.parse().expect("a number"),
            ("disk", "full") => self.disk.full = true,
            ("disk", "stuck") => self.disk.stuck = true,
            ("to", block) => self.advance(now, block.parse().expect("a block")),
            _ => self.feed(now, input),
        }
    }

    fn feed(&mut self, now: Instant, input: &str) {
        let datagram = datagram(input, self.transfer.progress().block_size);
        let packet = Packet::parse(&datagram).expect("a packet");
        self.transfer.handle_packet(now, &packet, &mut self.disk);
    }

    /// The peer acknowledges whole windows, or sends full blocks.
    fn advance(&mut self, now: Instant, block: u64) {
        loop {
            let progress = self.transfer.progress();
            let rollover = self.transfer.negotiated().rollover;
            let (kind, step) = match &self.transfer {
                Transfer::Sender(_) => ("ACK", progress.window_size.into()),
                Transfer::Receiver(_) => ("DATA", 1),
            };
            let index = BlockIndex(progress.blocks + step);
            if index.0 > block {
                return;
            }
            self.disk.done.clear();
            self.feed(now, &format!("{kind} {}", rollover.number_of(index)));
            self.drain(now);
        }
    }

    /// Sends what is due, as long as the socket has room.
    fn drain(&mut self, now: Instant) {
        let mut buffer = [0; MAX_DATAGRAM];
        while let Some(transmit) = self.transfer.poll_transmit(&mut self.disk, &mut buffer) {
            let again = self.transfer.poll_transmit(&mut self.disk, &mut buffer);
            assert_eq!(again, Some(transmit), "polling changes nothing");
            if self.room == 0 {
                return;
            }
            self.room -= 1;
            let sent = match transmit {
                Transmit::Datagram(len) => {
                    let is_ack = matches!(Packet::parse(&buffer[..len]), Ok(Packet::Ack(_)));
                    assert!(
                        !is_ack || self.disk.held == 0,
                        "ACK before the data is stored"
                    );
                    self.disk.done.push(show_datagram(&buffer[..len]));
                    Sent::Datagram
                }
                Transmit::Blocks(run) => self.read(run.shortened(self.max_run)),
            };
            self.transfer.handle_sent(now, sent);
        }
    }

    fn read(&mut self, run: Run) -> Sent {
        let size = u64::from(run.block_size);
        let last = self.length / size + 1;
        assert!(run.base <= run.first && run.first.0 <= last, "{run:?}");
        let count = u64::from(run.count).min(last + 1 - run.first.0) as u16;
        let end = run.first.0 + u64::from(count) > last;
        let number = |position| {
            let [_, _, high, low] = run.header(position);
            u16::from_be_bytes([high, low])
        };
        let mut shown = format!("DATA {}", number(0));
        if count > 1 {
            shown += &format!("-{}", number(count - 1));
        }
        if end {
            shown += &format!("({})", self.length % size);
        }
        self.disk.done.push(shown);
        self.blocks_sent += u64::from(count);
        self.furthest = self.furthest.max(run.first.0 + u64::from(count) - 1);
        Sent::Blocks { count, end }
    }
}

/// Packets of every kind; no state may be surprised by any of them.
const PACKETS: &[&str] = &[
    "RRQ",
    "WRQ",
    "DATA 0",
    "DATA 1",
    "DATA 2",
    "DATA 3",
    "DATA 1(3)",
    "DATA 1(600)",
    "ACK 0",
    "ACK 1",
    "ACK 2",
    "ACK 9",
    "OACK",
    "OACK tsize=1",
    "ERROR 0 x",
    "ERROR 1 x",
    "ERROR 8 x",
];

/// Brings a transfer into a state by playing `script`, then feeds it a packet of each kind at
/// 10 ms. For those in `answers` it must do what is given there; for all others it must do
/// nothing and stay as it is.
#[track_caller]
pub(super) fn feed_every_packet(new: impl Fn() -> Script, script: &str, answers: &[(&str, &str)]) {
    for (packet, _) in answers {
        assert!(PACKETS.contains(packet), "{packet} is not in the list");
    }
    for packet in PACKETS {
        let mut transfer = new();
        transfer.play(script);
        let unmoved = transfer.step(9, "open");
        let answer = answers.iter().find(|(kind, _)| kind == packet);
        let expected = answer.map_or(unmoved.as_str(), |(_, answer)| answer);
        let done = transfer.step(10, packet);
        assert_eq!(words(&done), words(expected), "{packet} after {script}");
    }
}

/// The sink that a receiver writes to. Also keeps the list of everything that was done.
#[derive(Default)]
struct Disk {
    done: Vec<String>,
    /// Blocks taken and not yet stored.
    held: usize,
    full: bool,
    stuck: bool,
}

impl BlockSink for Disk {
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure> {
        if self.full {
            return Err(Failure::new(ErrorCode::DiskFull, "Disk full"));
        }
        self.held += 1;
        self.done.push(format!("wrote {}", payload.len()));
        Ok(())
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        self.held = 0;
        Ok(Written)
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        if self.stuck {
            return Err(Failure::new(ErrorCode::FileExists, "File already exists"));
        }
        self.held = 0;
        self.done.push("committed".to_owned());
        Ok(Committed(Written))
    }
}

/// How a server opens if a client asks for these options.
fn served(direction: Direction, asked: &str, size: Option<u64>) -> (Opening, Negotiated) {
    let packet = request(direction, asked);
    let Ok(Packet::Request(request)) = Packet::parse(&packet) else {
        panic!("no request: {asked}");
    };
    let mut oack = [0; MAX_DATAGRAM];
    let limits = Limits {
        max_windowsize: u16::MAX,
        ..Limits::default()
    };
    match options::negotiate(&request, &limits, size, &mut oack) {
        (negotiated, 0) => (Opening::Plain, negotiated),
        (negotiated, len) => (Opening::OptionAck(oack[..len].into()), negotiated),
    }
}

/// How a client that asks for these options opens.
fn requested(direction: Direction, asked: &str) -> (Opening, Negotiated) {
    let mut offer = Offer::default();
    for (name, value) in pairs(asked) {
        let number = value.parse().expect("a number");
        match name {
            "blksize" => offer.blksize = Some(number),
            "windowsize" => offer.windowsize = Some(number),
            "timeout" => offer.timeout = Some(number as u8),
            _ => panic!("{name} is no option of a script"),
        }
    }
    let opening = Opening::Request {
        packet: request(direction, asked).into(),
        offer: Box::new(offer),
    };
    (opening, Negotiated::default())
}

fn request(direction: Direction, asked: &str) -> Vec<u8> {
    let mut packet = [0; MAX_DATAGRAM];
    let len = emit_request(direction, b"file", Mode::Octet, pairs(asked), &mut packet);
    packet[..len.expect("a request")].to_vec()
}

/// `a=1 b=2` as names and values.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace()
        .map(|pair| pair.split_once('=').expect("name=value"))
}

/// The datagram that a script calls `ACK 1`, `DATA 3(188)` and so on.
fn datagram(text: &str, block_size: u16) -> Vec<u8> {
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    let numbered = |opcode: u8, number: &str, body: &[u8]| {
        let number = number.parse::<u16>().expect("a number").to_be_bytes();
        [&[0, opcode], &number[..], body].concat()
    };
    match kind {
        "RRQ" => request(Direction::Read, rest),
        "WRQ" => request(Direction::Write, rest),
        "DATA" => {
            let (number, len) = match rest.trim_end_matches(')').split_once('(') {
                Some((number, len)) => (number, len.parse().expect("a length")),
                None => (rest, usize::from(block_size)),
            };
            numbered(3, number, &vec![0; len])
        }
        "ACK" => numbered(4, rest, b""),
        "ERROR" => {
            let (code, message) = rest.split_once(' ').unwrap_or((rest, ""));
            numbered(5, code, message.as_bytes())
        }
        "OACK" => {
            let options = pairs(rest).map(|(name, value)| format!("{name}\0{value}\0"));
            [&[0, 6], options.collect::<String>().as_bytes()].concat()
        }
        _ => panic!("{text} is no packet of a script"),
    }
}

fn show_datagram(datagram: &[u8]) -> String {
    match Packet::parse(datagram).expect("a packet") {
        Packet::Request(request) => {
            let kind = match request.direction {
                Direction::Read => "RRQ",
                Direction::Write => "WRQ",
            };
            format!("{kind}{}", show_options(request.options))
        }
        Packet::Oack(options) => format!("OACK{}", show_options(options)),
        Packet::Ack(number) => format!("ACK {number}"),
        Packet::Error { code, .. } => format!("ERROR {code}"),
        Packet::Data { payload, .. } => {
            panic!(
                "{} bytes of DATA as a datagram",
                DATA_HEADER_LEN + payload.len()
            )
        }
    }
}

fn show_options(options: RawOptions<'_>) -> String {
    let text = String::from_utf8_lossy;
    let show = |(name, value)| format!(" {}={}", text(name), text(value));
    options.pairs().map(show).collect()
}

fn show_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::PeerError { code, message } => {
            let message = String::from_utf8_lossy(message);
            format!("PeerError {code} {message}")
        }
        Outcome::Failed(failure) => format!("Failed {}", failure.code),
        other => format!("{other:?}"),
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary instant to count from"
)]
fn epoch() -> Instant {
    Instant::now()
}
