//! Receives what has arrived for a session, until nothing is left (in lockstep, until
//! the transfer has moved) and within a budget; checks who sent it, and hands it to the
//! transfer.
//!
//! A stranger is anyone but the peer. On a port of the transfer's own it gets ERROR 5
//! (at most 100 a second, together with the answers to other nonsense), but an ERROR of
//! its own gets no answer. The transfer doesn't change; but see `table/guesses`.
//!
//! Must not: answer the peer (that is done once, when all is in), let a stranger
//! change the transfer.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use log::debug;

use super::context::{ANSWER_LEN, COALESCED_SLOT, Context, Heading, Ingress, Resources, Trace};
use super::port::Port;
use super::{Content, Reach, Remote, Session, Turn, UNKNOWN_TRANSFER};
use crate::file::{ReadAt, Store};
use crate::protocol::transfer::NoSink;
use crate::table::Tracked as _;
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, MAX_ERROR_LEN, Packet, emit_error};

/// Datagrams a session may take in before the others have their turn.
const RECEIVE_BUDGET: usize = 64;

/// Receives in a row that may fail in a turn.
const MAX_ERRORS: usize = 4;

/// How far a transfer has come in lockstep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lockstep {
    blocks: u64,
    /// A sender's opening has been answered.
    is_answered: bool,
}

impl<P: Port, S: Store, R: ReadAt> Session<P, S, R> {
    /// Takes in what has arrived. Readiness is edge-triggered: what is left in the
    /// socket raises no event, so the socket is emptied, or the session gets another
    /// turn.
    ///
    /// The exception is lockstep, once the one answer that can move the transfer has
    /// come: nothing behind that answer can move it further before we have sent. What
    /// lies there is received with the next answer, or before a timeout, which saves a
    /// system call for each block.
    pub(super) fn receive(&mut self, context: &mut Context<'_, P>) -> Turn {
        let (mut taken, mut errors) = (0, 0);
        while taken < RECEIVE_BUDGET {
            let before = self.lockstep();
            match self.receive_next(context) {
                Ok((received, is_empty)) => {
                    (taken, errors) = (taken + received, 0);
                    if is_empty || self.has_all_it_can_use(before) {
                        return Turn::Waiting;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Waiting,
                // It will pass (no memory), or is about an earlier datagram.
                Err(error) => {
                    self.trouble("receive", &error, &mut context.resources.ingress.drops);
                    errors += 1;
                    // An error that stays must not keep the loop awake.
                    if errors >= MAX_ERRORS {
                        return Turn::Waiting;
                    }
                }
            }
        }
        Turn::Unfinished
    }

    /// Takes in what comes next: one datagram, or a window. Returns how many datagrams
    /// there were, and whether the socket is known to be empty.
    fn receive_next(&mut self, context: &mut Context<'_, P>) -> io::Result<(usize, bool)> {
        // What an OACK settled holds for the blocks after it.
        let progress = self.transfer.progress();
        // One byte more shows a block that is larger than agreed.
        let block_len = DATA_HEADER_LEN + usize::from(progress.block_size) + 1;
        match self.content {
            Content::Source(_) => self.receive_one(ANSWER_LEN, context),
            Content::Sink(_) if progress.window_size == 1 && !self.port.coalesces() => {
                self.receive_one(block_len, context)
            }
            Content::Sink(_) => self.receive_window(progress.window_size, block_len, context),
        }
    }

    /// Takes in one datagram of up to `longest` bytes. A sender gets one answer at a
    /// time, and in lockstep no block follows before the last is acknowledged: a call
    /// for several would cost more than the second call that finds nothing.
    fn receive_one(
        &mut self,
        longest: usize,
        context: &mut Context<'_, P>,
    ) -> io::Result<(usize, bool)> {
        let Resources {
            buffer, ingress, ..
        } = &mut *context.resources;
        let buffer = &mut buffer.all()[..longest];
        let (len, sender) = self.port.receive_one(buffer)?;
        if let Some(packet) = self.accept(context.now, sender, &buffer[..len], ingress) {
            match &mut self.content {
                Content::Source(_) => {
                    self.transfer
                        .handle_packet(context.now, &packet, &mut NoSink);
                }
                // It comes alone: there is nothing to collect it with.
                Content::Sink(file) => {
                    self.transfer
                        .handle_packet(context.now, &packet, &mut **file);
                }
            }
        }
        Ok((1, false))
    }

    /// Takes in the blocks of a window, which are written in runs.
    fn receive_window(
        &mut self,
        window_size: u16,
        block_len: usize,
        context: &mut Context<'_, P>,
    ) -> io::Result<(usize, bool)> {
        let slot_len = if self.port.coalesces() {
            COALESCED_SLOT
        } else {
            block_len
        };
        // One slot more shows that the socket is empty.
        let slots = usize::from(window_size) + 1;
        let batch = &mut context.resources.batch;
        let received = self.port.receive(batch, slot_len, slots)?;
        let is_empty = received < batch.capacity(slot_len, slots);
        let mut taken = 0;
        for index in 0..received {
            taken += self.handle_blocks(index, context);
        }
        Ok((taken, is_empty))
    }

    /// Whether nothing that may still lie in the socket can be of use: in lockstep,
    /// once the transfer has moved on from where it was `before`. For a sender the
    /// answer to its opening counts too; not for a receiver, whose first block may
    /// follow the OACK at once.
    fn has_all_it_can_use(&self, before: Option<Lockstep>) -> bool {
        let now = self.lockstep();
        before.is_some() && now.is_some() && before != now
    }

    /// How far the transfer has come, if it goes in lockstep.
    fn lockstep(&self) -> Option<Lockstep> {
        let progress = self.transfer.progress();
        let is_source = matches!(self.content, Content::Source(_));
        (progress.window_size == 1).then_some(Lockstep {
            blocks: progress.blocks,
            is_answered: is_source && progress.verified,
        })
    }

    /// Takes in datagrams that came on a shared port: those in the slots `received` of
    /// the batch.
    pub(super) fn take(&mut self, received: Range<usize>, context: &mut Context<'_, P>) {
        for index in received {
            match self.content {
                Content::Source(_) => self.handle_answer(index, context),
                Content::Sink(_) => drop(self.handle_blocks(index, context)),
            }
        }
    }

    fn handle_answer(&mut self, index: usize, context: &mut Context<'_, P>) {
        let Resources { batch, ingress, .. } = &mut *context.resources;
        if let Some(datagram) = batch.get(index)
            && let Some(packet) = self.accept(context.now, datagram.peer, datagram.payload, ingress)
        {
            self.transfer
                .handle_packet(context.now, &packet, &mut NoSink);
        }
    }

    /// Handles what was received as one datagram and may be several; returns how many.
    fn handle_blocks(&mut self, index: usize, context: &mut Context<'_, P>) -> usize {
        let (mut taken, mut next) = (0, Some(0));
        while let Some(from) = next {
            taken += 1;
            next = self.handle_block(index, from, context);
        }
        taken
    }

    /// Handles the datagram that starts `from` bytes into what was received as one;
    /// returns where the next one starts.
    fn handle_block(
        &mut self,
        index: usize,
        from: usize,
        context: &mut Context<'_, P>,
    ) -> Option<usize> {
        let Resources {
            batch,
            write_buffer,
            ingress,
            ..
        } = &mut *context.resources;
        let received = batch.get(index)?;
        let rest = received.payload.get(from..)?;
        let len = received
            .segment
            .map_or(rest.len(), |segment| rest.len().min(segment.into()));
        let next = (len < rest.len()).then_some(from + len);
        let packet = self.accept(context.now, received.peer, &rest[..len], ingress);
        if let (Some(packet), Content::Sink(file)) = (packet, &mut self.content) {
            let sink = &mut write_buffer.sink_for(file);
            self.transfer.handle_packet(context.now, &packet, sink);
        }
        next
    }

    /// The packet in a datagram, if it is the peer's and makes sense. Strangers are
    /// turned away, garbage is counted.
    fn accept<'d>(
        &mut self,
        now: Instant,
        sender: SocketAddr,
        datagram: &'d [u8],
        ingress: &mut Ingress,
    ) -> Option<Packet<'d>> {
        if let Some(trace) = ingress.trace {
            trace(sender, Heading::Received, datagram);
        }
        let packet = Packet::parse(datagram);
        if self.remote != Remote::Known(sender) && !self.is_answer(sender, packet.as_ref().ok()) {
            ingress.drops.strangers += 1;
            // Only DATA can begin an upload.
            if matches!(packet, Ok(Packet::Data { .. })) {
                ingress.guesses.record(now, sender.ip(), self.peer());
            }
            if matches!(packet, Ok(Packet::Error { .. })) {
                // Never answered (RFC 1350 §7).
            } else if ingress.nonsense.take(now, sender.ip()) {
                self.turn_away(sender, ingress.trace);
            } else {
                ingress.drops.unanswered += 1;
            }
            return None;
        }
        match packet {
            Ok(Packet::Data { .. })
                if self
                    .unverified_since()
                    .is_some_and(|asked| ingress.guesses.suspects(asked, sender.ip())) =>
            {
                ingress.guessed = true;
                None
            }
            Ok(packet) => Some(packet),
            Err(error) => {
                ingress.drops.garbage += 1;
                debug!("{sender}: dropped a datagram: {error}");
                None
            }
        }
    }

    /// Whether a datagram is the first answer to our request, from the address that was
    /// asked. Its port is the peer's TID from then on.
    fn is_answer(&mut self, sender: SocketAddr, packet: Option<&Packet<'_>>) -> bool {
        match self.remote {
            Remote::Known(_) => false,
            Remote::Asked(server) => {
                let is_answer = match (packet, &self.content) {
                    (Some(Packet::Oack(_) | Packet::Error { .. }), _) => true,
                    (Some(Packet::Data { block, .. }), Content::Sink(_)) => block.0 == 1,
                    (Some(Packet::Ack(block)), Content::Source(_)) => block.0 == 0,
                    _ => false,
                };
                let answers = sender.ip() == server.ip() && is_answer;
                if answers {
                    self.remote = Remote::Known(sender);
                }
                answers
            }
        }
    }

    /// Sends a stranger ERROR 5 (RFC 1350 §4). From now on nobody knows whose packet an
    /// ICMP message is about.
    fn turn_away(&mut self, stranger: SocketAddr, trace: Option<Trace>) {
        self.reach = Reach::Ambiguous;
        let mut buffer = [0; MAX_ERROR_LEN];
        let code = ErrorCode::UnknownTransferId;
        let len = emit_error(code, UNKNOWN_TRANSFER, &mut buffer);
        let packet = &buffer[..len];
        if let Some(trace) = trace {
            trace(stranger, Heading::Sent, packet);
        }
        let _ = self.port.send_to(packet, stranger);
    }
}
