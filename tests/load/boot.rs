//! The behaviour of boot loaders that a server can see: what they ask for, when they
//! repeat an ACK, and how long they wait.
//!
//! Must not: own a socket or read a clock.

use std::time::{Duration, Instant};

use tftpd::wire::packet::{BlockNumber, Direction, Mode, Packet, emit_ack, emit_request};

use crate::pattern::Pattern;

/// When a loader acknowledges its last block in order again (a NACK), apart from its own
/// timer. The timer sends that ACK too; only EDK2's repeats the last packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nack {
    /// Once for each gap: U-Boot, barebox.
    Once,
    /// For each block that isn't the expected one: EDK2.
    Each,
}

/// One kind of loader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) name: &'static str,
    /// The timeout to ask for in seconds; `None` leaves the option out.
    timeout: Option<u8>,
    /// The window size to ask for in blocks; `None` leaves the option out.
    windowsize: Option<u16>,
    nack: Nack,
    /// How long it waits before it repeats its last packet.
    wait: Duration,
    /// How many times in a row it repeats before it gives up.
    repeats: u32,
}

impl Style {
    /// All loaders, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::new("lockstep", None, None, Nack::Once, 1, 10),
        Self::new(
            "lockstep, asks again each second",
            Some(5),
            None,
            Nack::Once,
            1,
            10,
        ),
        Self::new("U-Boot, lockstep", Some(5), None, Nack::Once, 5, 10),
        Self::new("window 4", None, Some(4), Nack::Once, 1, 10),
        Self::new("U-Boot, window 4", Some(5), Some(4), Nack::Once, 5, 10),
        Self::new("barebox, window 4", Some(5), Some(4), Nack::Once, 1, 3),
        Self::new("EDK2, window 4", None, Some(4), Nack::Each, 3, 5),
        Self::new(
            "EDK2, window 16, timeout",
            Some(3),
            Some(16),
            Nack::Each,
            3,
            5,
        ),
    ];

    /// The loaders of `scripts/cluster`.
    pub(crate) const ROOM: &'static [Self] = &[
        Self::new("PXELINUX", None, None, Nack::Once, 1, 6),
        Self::new("UEFI", None, Some(4), Nack::Each, 3, 5),
        Self::new("GRUB", None, None, Nack::Once, 1, 8),
        Self::new("barebox", Some(5), Some(4), Nack::Once, 1, 3),
    ];

    const fn new(
        name: &'static str,
        timeout: Option<u8>,
        windowsize: Option<u16>,
        nack: Nack,
        seconds: u64,
        repeats: u32,
    ) -> Self {
        Self {
            name,
            timeout,
            windowsize,
            nack,
            wait: Duration::from_secs(seconds),
            repeats,
        }
    }

    /// Blocks per window.
    pub(crate) fn window(&self) -> u64 {
        self.windowsize.unwrap_or(1).into()
    }

    /// The length of the file in bytes; `size` is its length for lockstep. With windows
    /// only the loss of a window's last block or its ACK goes unnoticed until a timeout,
    /// so that as many of those take more blocks.
    pub(crate) fn length(&self, size: u64) -> u64 {
        size * self.window().div_ceil(2)
    }

    /// The name of the file of that length.
    pub(crate) fn file(&self) -> String {
        format!("boot-{}", self.window())
    }

    /// The request for the file `name`.
    fn request(&self, name: &str) -> Vec<u8> {
        let mut options = vec![("tsize", "0".to_owned()), ("blksize", BLKSIZE.to_string())];
        options.extend(self.timeout.map(|seconds| ("timeout", seconds.to_string())));
        options.extend(
            self.windowsize
                .map(|blocks| ("windowsize", blocks.to_string())),
        );
        let mut packet = [0; 512];
        let len = emit_request(
            Direction::Read,
            name.as_bytes(),
            Mode::Octet,
            options,
            &mut packet,
        )
        .unwrap_or_else(|error| unreachable!("{name}: {error}"));
        packet[..len].to_vec()
    }
}

/// The blksize that every loader asks for: it fills an Ethernet frame.
const BLKSIZE: usize = 1468;

/// What a datagram or a deadline changed in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing new, with or without an answer.
    None,
    /// The server was told that something is missing.
    Told,
    /// A new block, or the first answer.
    Forward,
    /// The file is whole.
    Done,
    /// The loader gave up, was refused, or got wrong bytes.
    Failed,
}

/// One transfer of one loader.
pub(crate) struct Loader<'a> {
    style: &'static Style,
    pattern: &'a Pattern,
    size: u64,
    /// The last datagram that it sent; its timer repeats it.
    last_sent: Vec<u8>,
    /// Whether `last_sent` has yet to go out.
    unsent: bool,
    /// Whether an answer has come.
    answered: bool,
    block_size: usize,
    window: u64,
    /// Blocks that came in order.
    blocks: u64,
    /// The block that ends the window.
    next_ack: u64,
    /// The last block that a NACK repeated.
    nacked: Option<u64>,
    repeats_left: u32,
    pub(crate) deadline: Instant,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        style: &'static Style,
        name: &str,
        pattern: &'a Pattern,
        size: u64,
        now: Instant,
    ) -> Self {
        Self {
            style,
            pattern,
            size,
            last_sent: style.request(name),
            unsent: true,
            answered: false,
            block_size: 512,
            window: 1,
            blocks: 0,
            next_ack: 1,
            nacked: None,
            repeats_left: style.repeats,
            deadline: now + style.wait,
        }
    }

    /// How many blocks have come in order.
    pub(crate) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The datagram to send, once.
    pub(crate) fn poll_transmit(&mut self) -> Option<&[u8]> {
        std::mem::take(&mut self.unsent).then_some(&self.last_sent)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Step {
        if now < self.deadline {
            return Step::None;
        }
        let Some(left) = self.repeats_left.checked_sub(1) else {
            return Step::Failed;
        };
        self.repeats_left = left;
        self.deadline = now + self.style.wait;
        self.next_ack = self.blocks + self.window;
        match self.style.nack {
            Nack::Once if self.answered => self.acknowledge(),
            Nack::Once | Nack::Each => self.unsent = true,
        }
        Step::Told
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) -> Step {
        match packet {
            Packet::Oack(options) if !self.answered => {
                for (name, value) in options.pairs() {
                    let value = str::from_utf8(value)
                        .ok()
                        .and_then(|value| value.parse().ok());
                    match (name, value) {
                        (b"blksize", Some(value)) => self.block_size = value,
                        (b"windowsize", Some(value)) => self.window = value as u64,
                        _ => {}
                    }
                }
                self.answered = true;
                self.next_ack = self.window;
                self.acknowledge();
                self.step(now)
            }
            // Our ACK 0 was lost.
            Packet::Oack(_) if self.blocks == 0 => {
                self.acknowledge();
                Step::None
            }
            Packet::Data { block, payload } => self.handle_data(now, *block, payload),
            Packet::Error { .. } => Step::Failed,
            _ => Step::None,
        }
    }

    fn handle_data(&mut self, now: Instant, block: BlockNumber, payload: &[u8]) -> Step {
        // As in U-Boot and EDK2: any block but the next one means a gap.
        if block.0 != (self.blocks + 1) as u16 {
            let is_told = self.nacked == Some(self.blocks);
            if self.answered && (self.style.nack == Nack::Each || !is_told) {
                self.nacked = Some(self.blocks);
                self.next_ack = self.blocks + self.window;
                self.acknowledge();
                // A duplicate says nothing about a gap.
                let ahead = block.0.wrapping_sub(self.blocks as u16);
                if (2..=self.window).contains(&ahead.into()) {
                    return Step::Told;
                }
            }
            return Step::None;
        }
        let offset = self.blocks * self.block_size as u64;
        let left = self.size.saturating_sub(offset).min(self.block_size as u64);
        if payload != self.pattern.at(0, offset, left as usize) {
            return Step::Failed;
        }
        self.answered = true;
        self.blocks += 1;
        let is_last = payload.len() < self.block_size;
        if is_last || self.blocks == self.next_ack {
            self.next_ack = self.blocks + self.window;
            self.acknowledge();
        }
        if is_last { Step::Done } else { self.step(now) }
    }

    fn acknowledge(&mut self) {
        self.last_sent = emit_ack(BlockNumber(self.blocks as u16)).to_vec();
        self.unsent = true;
    }

    fn step(&mut self, now: Instant) -> Step {
        self.repeats_left = self.style.repeats;
        self.deadline = now + self.style.wait;
        Step::Forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 20 * BLKSIZE as u64;
    const OACK: &[u8] = b"\0\x06blksize\x001468\0windowsize\x004\0";

    fn style(name: &str) -> &'static Style {
        Style::ALL.iter().find(|style| style.name == name).unwrap()
    }

    /// Feeds an OACK and these blocks of a file with windows of 4; returns the ACKs sent.
    fn acks(style_name: &str, blocks: &[u16]) -> Vec<u16> {
        let (pattern, now) = (Pattern::new(), crate::clock());
        let mut loader = Loader::new(style(style_name), "file", &pattern, SIZE, now);
        assert_eq!(&loader.poll_transmit().unwrap()[..7], b"\0\x01file\0");
        let step = loader.handle_packet(now, &Packet::parse(OACK).unwrap());
        assert_eq!(step, Step::Forward);
        let mut acks = Vec::new();
        for block in [0].iter().chain(blocks) {
            if *block > 0 {
                let offset = u64::from(*block - 1) * BLKSIZE as u64;
                let payload = pattern.at(0, offset, BLKSIZE);
                let block = BlockNumber(*block);
                loader.handle_packet(now, &Packet::Data { block, payload });
            }
            let ack = loader.poll_transmit();
            acks.extend(ack.map(|ack| u16::from_be_bytes([ack[2], ack[3]])));
        }
        acks
    }

    #[test]
    fn a_nack_is_sent_once_for_each_gap_or_for_each_block_behind_it() {
        for (style, blocks, expected) in [
            // Nothing lost.
            (
                "U-Boot, window 4",
                &[1, 2, 3, 4, 5, 6, 7, 8][..],
                &[0, 4, 8][..],
            ),
            // The first block of a window, one in its middle, its last.
            ("U-Boot, window 4", &[1, 2, 3, 4, 6, 7, 8], &[0, 4, 4]),
            ("EDK2, window 4", &[1, 2, 3, 4, 6, 7, 8], &[0, 4, 4, 4, 4]),
            ("U-Boot, window 4", &[1, 3, 4, 2, 3, 4, 5], &[0, 1, 5]),
            ("EDK2, window 4", &[1, 3, 4, 2, 3, 4, 5], &[0, 1, 1, 5]),
            ("U-Boot, window 4", &[1, 2, 3], &[0]),
            // A duplicate.
            ("U-Boot, window 4", &[1, 2, 2, 2, 3], &[0, 2]),
            ("EDK2, window 4", &[1, 2, 2, 2, 3], &[0, 2, 2]),
        ] {
            assert_eq!(acks(style, blocks), expected, "{style} {blocks:?}");
        }
    }

    #[test]
    fn a_gap_is_told_and_a_double_is_not() {
        let (pattern, now) = (Pattern::new(), crate::clock());
        for (name, block, expected) in [
            ("U-Boot, window 4", 3, Step::Told),
            ("U-Boot, window 4", 1, Step::None),
            ("U-Boot, window 4", 0, Step::None),
        ] {
            let mut loader = Loader::new(style(name), "file", &pattern, SIZE, now);
            loader.handle_packet(now, &Packet::parse(OACK).unwrap());
            let payload = pattern.at(0, 0, BLKSIZE);
            let first = Packet::Data {
                block: BlockNumber(1),
                payload,
            };
            assert_eq!(loader.handle_packet(now, &first), Step::Forward);
            let second = Packet::Data {
                block: BlockNumber(block),
                payload,
            };
            assert_eq!(
                loader.handle_packet(now, &second),
                expected,
                "{name} {block}"
            );
        }
    }

    #[test]
    fn the_timer_repeats_the_last_packet_and_gives_up() {
        let (pattern, start) = (Pattern::new(), crate::clock());
        let style = style("barebox, window 4");
        let mut loader = Loader::new(style, "file", &pattern, SIZE, start);
        let request = loader.poll_transmit().unwrap().to_vec();
        assert_eq!(loader.handle_timeout(start), Step::None);
        assert_eq!(loader.poll_transmit(), None);
        for second in 1..=3 {
            let now = start + Duration::from_secs(second);
            assert_eq!(loader.handle_timeout(now), Step::Told);
            assert_eq!(loader.poll_transmit(), Some(&request[..]));
        }
        let now = start + Duration::from_secs(4);
        assert_eq!(loader.handle_timeout(now), Step::Failed);
    }

    #[test]
    fn a_timer_acknowledges_what_has_come_or_repeats_the_last_packet() {
        for (name, expected) in [("U-Boot, window 4", 5), ("EDK2, window 4", 4)] {
            let (pattern, now) = (Pattern::new(), crate::clock());
            let mut loader = Loader::new(style(name), "file", &pattern, SIZE, now);
            loader.handle_packet(now, &Packet::parse(OACK).unwrap());
            for block in 1..=5 {
                let payload = pattern.at(0, u64::from(block - 1) * BLKSIZE as u64, BLKSIZE);
                let block = BlockNumber(block);
                loader.handle_packet(now, &Packet::Data { block, payload });
                loader.poll_transmit();
            }
            loader.handle_timeout(loader.deadline);
            let expected = emit_ack(BlockNumber(expected));
            assert_eq!(loader.poll_transmit(), Some(&expected[..]), "{name}");
        }
    }

    #[test]
    fn wrong_bytes_and_refusals_are_failures() {
        let (pattern, now) = (Pattern::new(), crate::clock());
        for datagram in [&b"\0\x03\0\x01wrong"[..], b"\0\x05\0\x01no\0"] {
            let style = style("U-Boot, lockstep");
            let mut loader = Loader::new(style, "file", &pattern, SIZE, now);
            let step = loader.handle_packet(now, &Packet::parse(datagram).unwrap());
            assert_eq!(step, Step::Failed, "{datagram:?}");
        }
    }
}
