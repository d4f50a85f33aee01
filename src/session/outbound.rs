//! What a session sends: all that the transfer has to send, until nothing is left,
//! the budget is spent or the port is full.
//!
//! Must not: queue anything. What could not be sent, or what is due in its place by
//! then, is offered again with each turn, and when the port has room.

use std::io;
use std::mem;

use log::debug;
use mio::Interest;

use super::context::{Context, Heading, Resources};
use super::port::Port;
use super::prefetch::Prefetched;
use super::{Content, Session, Turn};
use crate::file::{ReadAt, Store};
use crate::net::RunSent;
use crate::protocol::transfer::{BlockSource, Filled, NoSink, Run, Sent, Transmit, WRONG_WAY};

/// As much of a run as the budget allows, at least one block.
fn within(budget: usize, run: Run) -> Run {
    // Usually all of it fits, which saves a division.
    if usize::from(run.count) * run.segment_size() <= budget {
        return run;
    }
    let count = u16::try_from(budget / run.segment_size()).unwrap_or(u16::MAX);
    run.shortened(count)
}

/// What became of a run that was to be sent.
enum Attempt {
    /// This many bytes have gone, or are lost as if on the way.
    Gone(usize),
    /// The port is full, or the file isn't ready.
    Waits,
}

impl<P: Port, S: Store, R: ReadAt> Session<P, S, R> {
    /// Sends what is due.
    pub fn transmit(&mut self, context: &mut Context<'_, P>) -> Turn {
        loop {
            match self.poll_transmit(context.resources) {
                None => {
                    // If the transfer has ended, its wait stays on: it is why, and the
                    // report says so.
                    if !self.transfer.is_closed() {
                        self.file_wait.over(context.now);
                    }
                    if mem::take(&mut self.blocked) {
                        self.watch(Interest::READABLE, context);
                    }
                    return Turn::Waiting;
                }
                Some(Transmit::Datagram(len)) => {
                    let asked = self.transfer.asks_for();
                    if asked > 0 && context.send_budget == 0 {
                        return Turn::Spent;
                    }
                    self.file_wait.over(context.now);
                    if !self.send_datagram(len, context) {
                        return Turn::Waiting;
                    }
                    context.send_budget = context.send_budget.saturating_sub(asked);
                }
                Some(Transmit::Blocks(_)) if context.send_budget == 0 => return Turn::Spent,
                Some(Transmit::Blocks(run)) => {
                    match self.send_blocks(within(context.send_budget, run), context) {
                        Attempt::Waits => return Turn::Waiting,
                        Attempt::Gone(bytes) => {
                            context.send_budget = context.send_budget.saturating_sub(bytes);
                        }
                    }
                }
            }
        }
    }

    fn poll_transmit(&mut self, resources: &mut Resources) -> Option<Transmit> {
        let buffer = resources.buffer.all();
        match &mut self.content {
            Content::Source(_) => self.transfer.poll_transmit(&mut NoSink, buffer),
            Content::Sink(file) => {
                let sink = &mut resources.write_buffer.sink_for(file);
                self.transfer.poll_transmit(sink, buffer)
            }
        }
    }

    /// Sends the datagram in the buffer; false if the port is full.
    fn send_datagram(&mut self, len: usize, context: &mut Context<'_, P>) -> bool {
        let datagram = context.resources.buffer.written(len);
        if let Some(trace) = context.resources.ingress.trace {
            trace(self.peer(), Heading::Sent, datagram);
        }
        match self.port.send_to(datagram, self.remote.address()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_for_room(context);
                return false;
            }
            Err(error) => self.trouble("send", &error, &mut context.resources.ingress.drops),
            Ok(()) => {}
        }
        self.transfer.handle_sent((context.clock)(), Sent::Datagram);
        true
    }

    /// Sends a run of blocks, read ahead or read now.
    fn send_blocks(&mut self, run: Run, context: &mut Context<'_, P>) -> Attempt {
        let prefetched = self.prefetched.take();
        let attempt = self.send_run(run, prefetched.as_deref(), context);
        if let Some(prefetched) = prefetched {
            let next = self.transfer.upcoming();
            let pool = &mut context.resources.pool;
            self.prefetched = pool.keep(prefetched, next);
        }
        attempt
    }

    fn send_run(
        &mut self,
        run: Run,
        prefetched: Option<&Prefetched>,
        context: &mut Context<'_, P>,
    ) -> Attempt {
        let Content::Source(source) = &mut self.content else {
            self.transfer.abort(WRONG_WAY);
            return Attempt::Gone(0);
        };
        let buffer = context.resources.buffer.all();
        let found = prefetched.and_then(|prefetched| prefetched.get(&run));
        let read = found.map_or_else(
            || {
                self.file_wait.before_read(context.now, source);
                let filled = source.read_run(run, buffer)?;
                Ok(filled.map(|filled| (&buffer[..filled.bytes], filled)))
            },
            |found| Ok(Some(found)),
        );
        let (ready, filled) = match read {
            Ok(Some(ready)) => ready,
            Ok(None) => {
                self.file_wait.look_again_later(context.now, source);
                return Attempt::Waits;
            }
            Err(failure) => {
                self.transfer.abort(failure);
                return Attempt::Gone(0);
            }
        };
        self.file_wait.over(context.now);
        let peer = self.remote.address();
        if let Some(trace) = context.resources.ingress.trace {
            ready
                .chunks(run.segment_size())
                .for_each(|block| trace(peer, Heading::Sent, block));
        }
        let Filled { blocks, end, bytes } = filled;
        match self.port.send_run(ready, run.segment_size(), peer) {
            Ok(RunSent::Blocked { segments }) => {
                if segments > 0 {
                    let bytes = usize::from(segments) * run.segment_size();
                    context.send_budget = context.send_budget.saturating_sub(bytes);
                    let (count, end) = (segments, false);
                    let sent = Sent::Blocks { count, end };
                    self.transfer.handle_sent((context.clock)(), sent);
                }
                self.wait_for_room(context);
                return Attempt::Waits;
            }
            Ok(RunSent::All) => {}
            Err(error) => self.trouble("send", &error, &mut context.resources.ingress.drops),
        }
        let sent = Sent::Blocks { count: blocks, end };
        self.transfer.handle_sent((context.clock)(), sent);
        Attempt::Gone(bytes)
    }

    /// Writes out what was collected; a failure ends the transfer.
    pub(super) fn flush(&mut self, context: &mut Context<'_, P>) {
        if let Content::Sink(file) = &mut self.content {
            let sink = &mut context.resources.write_buffer.sink_for(file);
            self.transfer.flush(sink);
        }
    }

    fn wait_for_room(&mut self, context: &Context<'_, P>) {
        if !mem::replace(&mut self.blocked, true) {
            self.watch(Interest::READABLE | Interest::WRITABLE, context);
        }
    }

    fn watch(&mut self, interest: Interest, context: &Context<'_, P>) {
        if let Err(error) = self.port.watch(&context.poll, interest) {
            debug!("{}: cannot watch its socket: {error}", self.peer());
        }
    }
}
