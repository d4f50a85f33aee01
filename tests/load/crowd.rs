//! More clients at once than a server may have files open: each has an address of its
//! own in 127.0.0.0/8, and all share one socket.
//!
//! First each client gets two blocks, so that the server knows that it is there. Once all
//! have them, the clients take turns to get one block more, until each has the file.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tftpd::net::{Batch, Binding, Destination, ListenSocket};
use tftpd::wire::options::DEFAULT_BLKSIZE;
use tftpd::wire::packet::{
    BlockNumber, DATA_HEADER_LEN, Direction, Mode, Packet, emit_ack, emit_request,
};

use crate::clock;
use crate::figures::{Figures, Metric, milliseconds};
use crate::fleet::Plan;
use crate::pattern::Pattern;
use crate::process::Tree;

/// The most clients that wait for an answer at once: the server's socket has room for them.
const WAITING: usize = 512;

/// A client asks again after waiting this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Blocks that each client gets before the turns begin.
const OPENING: u16 = 2;

const SLOT: usize = DEFAULT_BLKSIZE as usize + DATA_HEADER_LEN + 1;

#[derive(Clone, Copy)]
struct Client {
    /// The last block that has come.
    block: u16,
    /// Since when it has waited for the next block, if it does.
    since: Option<Instant>,
    /// When it last asked.
    asked: Instant,
}

struct Crowd<'a> {
    socket: ListenSocket,
    server: SocketAddr,
    request: Vec<u8>,
    pattern: &'a Pattern,
    size: u64,
    clients: Vec<Client>,
    /// The clients whose turn it is to ask.
    queue: VecDeque<usize>,
    /// The clients that have asked, oldest first; some have got their answer.
    waiting: VecDeque<usize>,
    /// How many of `waiting` have no answer yet.
    unanswered: usize,
    longest: Duration,
    resends: u64,
    done: usize,
    complaint: Option<String>,
}

/// Lets all clients of `plan` download its file at once.
pub(crate) fn crowd(
    plan: &Plan,
    pattern: &Pattern,
    server: SocketAddr,
    tree: Tree,
) -> io::Result<(Figures, Option<String>)> {
    let mut figures = Figures::default();
    let idle = tree.resident_kib();
    let begin = clock();
    let end = begin + plan.limit;
    let mut crowd = Crowd::new(plan, pattern, server)?;
    crowd.run(OPENING, end)?;
    let count = crowd.clients.len() as f64;
    let grown = tree.resident_kib().saturating_sub(idle);
    figures.set(Metric::IdleKib, idle as f64);
    figures.set(Metric::KibPerSession, grown as f64 / count);
    figures.set(Metric::Descriptors, tree.descriptors() as f64);
    crowd.run(u16::MAX, end)?;
    let seconds = (clock() - begin).as_secs_f64();
    let bytes = crowd.done as f64 * plan.size as f64;
    figures.set(Metric::Throughput, bytes / 1e6 / seconds);
    figures.set(Metric::TransfersPerSecond, crowd.done as f64 / seconds);
    figures.set(Metric::LongestWait, milliseconds(crowd.longest));
    figures.set(Metric::RequestResends, crowd.resends as f64);
    figures.set(Metric::Failures, 0.0);
    figures.set(Metric::Unfinished, count - crowd.done as f64);
    figures.set(Metric::PeakKib, tree.root_peak_kib() as f64);
    Ok((figures, crowd.complaint))
}

impl<'a> Crowd<'a> {
    fn new(plan: &Plan, pattern: &'a Pattern, server: SocketAddr) -> io::Result<Self> {
        let mut request = [0; 128];
        let name = plan.name(0);
        let options: [(&str, &str); 0] = [];
        let len = emit_request(
            Direction::Read,
            name.as_bytes(),
            Mode::Octet,
            options,
            &mut request,
        )
        .map_err(io::Error::other)?;
        let client = Client {
            block: 0,
            since: None,
            asked: clock(),
        };
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Ok(Self {
            socket: ListenSocket::bind(any, Binding::default())?,
            server,
            request: request[..len].to_vec(),
            pattern,
            size: plan.size,
            clients: vec![client; plan.at_once],
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            unanswered: 0,
            longest: Duration::ZERO,
            resends: 0,
            done: 0,
            complaint: None,
        })
    }

    /// Runs until each client has this many `blocks`, or the file.
    fn run(&mut self, blocks: u16, end: Instant) -> io::Result<()> {
        self.queue = (0..self.clients.len())
            .filter(|&index| !self.is_done(index))
            .collect();
        let mut batch = Batch::new(64, 64 * SLOT);
        while (self.unanswered > 0 || !self.queue.is_empty()) && self.complaint.is_none() {
            let now = clock();
            if now >= end {
                self.complaint = Some(format!("cut off: {} finished", self.done));
                break;
            }
            while self.unanswered < WAITING
                && let Some(index) = self.queue.pop_front()
            {
                self.clients[index].since = Some(now);
                self.unanswered += 1;
                self.ask(index, now)?;
            }
            self.ask_again(now)?;
            self.receive(&mut batch, blocks)?;
        }
        Ok(())
    }

    fn ask(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let block = self.clients[index].block;
        self.clients[index].asked = now;
        self.waiting.push_back(index);
        if block == 0 {
            let request = std::mem::take(&mut self.request);
            let sent = self.send(index, &request);
            self.request = request;
            return sent;
        }
        self.send(index, &emit_ack(BlockNumber(block)))
    }

    /// If the socket is full, the packet is lost.
    fn send(&self, index: usize, packet: &[u8]) -> io::Result<()> {
        match self.socket.answer(packet, self.server, address(index), 0) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// Asks again for clients that have waited too long.
    fn ask_again(&mut self, now: Instant) -> io::Result<()> {
        while let Some(&index) = self.waiting.front() {
            let client = self.clients[index];
            if client.since.is_some() && now - client.asked < PATIENCE {
                break;
            }
            self.waiting.pop_front();
            if client.since.is_some() {
                self.resends += 1;
                self.ask(index, now)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, batch: &mut Batch, blocks: u16) -> io::Result<()> {
        let received = match self.socket.receive(batch, SLOT, usize::MAX) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        for slot in 0..received {
            let Some(datagram) = batch.get(slot) else {
                continue;
            };
            let Some(Destination::Local(IpAddr::V4(local))) = datagram.destination else {
                continue;
            };
            match Packet::parse(datagram.payload) {
                Ok(Packet::Data { block, payload }) => {
                    self.take(number(local), block, payload, blocks)?;
                }
                other => self.complaint = Some(format!("{local} was sent {other:?}")),
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        index: usize,
        block: BlockNumber,
        payload: &[u8],
        blocks: u16,
    ) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(index) else {
            return Ok(());
        };
        let now = clock();
        // Any other block is a repeat: the client doesn't wait for it.
        let Some(since) = client.since.filter(|_| block.0 == client.block + 1) else {
            return Ok(());
        };
        let offset = u64::from(client.block) * u64::from(DEFAULT_BLKSIZE);
        if self.pattern.at(0, offset, payload.len()) != payload {
            self.complaint = Some(format!("block {} differs", block.0));
        }
        client.block = block.0;
        client.since = None;
        self.unanswered -= 1;
        self.longest = self.longest.max(now - since);
        if self.is_done(index) {
            self.done += 1;
            return self.send(index, &emit_ack(block));
        }
        match blocks {
            // Acknowledges at once, so that the server knows that the client is there.
            OPENING if block.0 < blocks => self.queue.push_front(index),
            OPENING => {}
            _ => self.queue.push_back(index),
        }
        Ok(())
    }

    fn is_done(&self, index: usize) -> bool {
        u64::from(self.clients[index].block) > self.size / u64::from(DEFAULT_BLKSIZE)
    }
}

/// The address of a client.
fn address(index: usize) -> IpAddr {
    Ipv4Addr::from_bits(u32::from_be_bytes([127, 1, 0, 0]) + index as u32).into()
}

fn number(address: Ipv4Addr) -> usize {
    (address.to_bits() - u32::from_be_bytes([127, 1, 0, 0])) as usize
}
