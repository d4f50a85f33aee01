//! Boot loaders on a lossy network: how long they take, and how long a lost packet
//! makes them wait.
//!
//! Lost packets are redirected to a port where this process listens, so that each wait
//! can be compared with what was lost during it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use nix::sched::{CloneFlags, setns};
use tftpd::wire::packet::Packet;

use crate::boot::{Loader, Step, Style};
use crate::clock;
use crate::figures::milliseconds;
use crate::pattern::Pattern;

/// Play boot loaders on a network that loses packets; prints rows of a table.
#[derive(clap::Args)]
pub(crate) struct LossesArgs {
    /// Servers, ours first
    #[arg(value_parser = named_server, required = true)]
    servers: Vec<(String, SocketAddr)>,
    /// Directory that all of them serve; the files are made there
    #[arg(long)]
    root: PathBuf,
    /// Bytes of the file; with windows it is longer, see `Style::length`
    #[arg(long, default_value_t = 256 << 10)]
    size: u64,
    /// Transfers of each loader with each server, all at once
    #[arg(long, default_value_t = 8)]
    transfers: usize,
    /// Packets of a hundred that the network loses each way; for the table
    #[arg(long)]
    rate: u32,
    /// Our own address
    #[arg(long)]
    client: IpAddr,
    /// Where lost packets go, in both networks
    #[arg(long)]
    lost_port: u16,
    /// The network namespace of the servers
    #[arg(long)]
    server_namespace: PathBuf,
    /// Write each wait of a second or more for our server to standard error
    #[arg(long)]
    list: bool,
    /// Seconds until it is cut off
    #[arg(long, default_value_t = 55)]
    limit: u64,
}

fn named_server(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("NAME=ADDRESS:PORT is wanted")?;
    let address = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    Ok((name.to_owned(), address))
}

/// Time between the starts of two transfers.
const PACE: Duration = Duration::from_millis(2);

/// A wait that needs an explanation.
const LONG: Duration = Duration::from_secs(1);

/// Up to this loss rate, a single lost packet must not cause a long wait.
const SURE_RATE: u32 = 1;

/// A time without a step forward.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wait {
    from: Instant,
    to: Instant,
    /// When the loader told the server that something is missing.
    told: Vec<Instant>,
    /// The block it waited for; 0 for the first answer.
    block: u64,
    /// The number of windows that had come.
    windows: u64,
}

impl Wait {
    fn is_long(&self) -> bool {
        self.to - self.from >= LONG
    }
}

/// A datagram that did not arrive.
struct Loss {
    at: Instant,
    from: SocketAddr,
    what: String,
}

struct Client<'a> {
    server: usize,
    style: &'static Style,
    socket: Option<UdpSocket>,
    local: SocketAddr,
    /// Where the request goes, then the server's TID.
    peer: SocketAddr,
    is_answered: bool,
    loader: Loader<'a>,
    start: Instant,
    /// The time of the last step forward.
    since: Instant,
    /// When it has told the server that something is missing, since then.
    told: Vec<Instant>,
    worst: Duration,
    /// Waits of a second or more.
    long: Vec<Wait>,
    /// When the file was complete.
    done: Option<Instant>,
}

impl Client<'_> {
    fn is_running(&self) -> bool {
        self.socket.is_some()
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        while let Some(socket) = &self.socket {
            let Ok((len, peer)) = socket.recv_from(buffer) else {
                return;
            };
            if self.is_answered && peer != self.peer {
                continue;
            }
            let Ok(packet) = Packet::parse(&buffer[..len]) else {
                continue;
            };
            (self.peer, self.is_answered) = (peer, true);
            let now = clock();
            let step = self.loader.handle_packet(now, &packet);
            self.account(now, step);
        }
    }

    fn run_deadline(&mut self, now: Instant) {
        if self.is_running() && now >= self.loader.deadline {
            let step = self.loader.handle_timeout(now);
            self.account(now, step);
        }
    }

    /// Sends what is due and records the result of the step.
    fn account(&mut self, now: Instant, step: Step) {
        if let (Some(socket), Some(datagram)) = (&self.socket, self.loader.poll_transmit()) {
            // What can't be sent is lost; the loader's timer will notice.
            let _ = socket.send_to(datagram, self.peer);
        }
        match step {
            Step::None => {}
            Step::Told => self.told.push(now),
            Step::Forward => self.end_wait(now),
            Step::Done => {
                self.end_wait(now);
                self.done = Some(now);
                self.socket = None;
            }
            Step::Failed => {
                self.end_wait(now);
                self.socket = None;
            }
        }
    }

    fn end_wait(&mut self, now: Instant) {
        let block = self.loader.blocks();
        let wait = Wait {
            from: self.since,
            to: now,
            told: std::mem::take(&mut self.told),
            block,
            windows: block.saturating_sub(1) / self.style.window(),
        };
        self.worst = self.worst.max(wait.to - wait.from);
        if wait.is_long() {
            self.long.push(wait);
        }
        self.since = now;
    }

    /// The packets of this transfer that were lost during a wait.
    fn lost_in<'l>(&self, wait: &Wait, losses: &'l [Loss]) -> Vec<&'l Loss> {
        // A packet may leave shortly before the step is recorded here.
        let from = wait.from.checked_sub(NOTICE).unwrap_or(wait.from);
        let is_ours = |loss: &&Loss| loss.from == self.local || loss.from == self.peer;
        let ours = losses.iter().filter(is_ours);
        let lost: Vec<_> = ours
            .clone()
            .filter(|loss| loss.at >= from && loss.at <= wait.to)
            .collect();
        if !lost.is_empty() {
            return lost;
        }
        // On a busy machine, the blocks before the awaited one may be read long after its
        // loss was recorded.
        let awaited = format!("DATA {}", wait.block as u16);
        let just_before = wait.from.checked_sub(LONG).unwrap_or(wait.from);
        ours.filter(|loss| loss.at >= just_before && loss.at < from && loss.what == awaited)
            .last()
            .into_iter()
            .collect()
    }
}

/// When the server first heard that something is missing, out of the times `told` when
/// it was told: datagrams that were lost, at the times `lost`, don't count.
fn heard(told: &[Instant], lost: impl Iterator<Item = Instant>) -> Option<Instant> {
    let mut told = told.to_vec();
    for lost in lost {
        // It was told shortly before the loss was recorded.
        let is_it = |told: &Instant| *told <= lost && lost - *told <= NOTICE;
        if let Some(index) = told.iter().rposition(is_it) {
            told.remove(index);
        }
    }
    told.first().copied()
}

/// How late a step forward may be recorded on a busy machine.
const NOTICE: Duration = Duration::from_millis(20);

/// After this many answers a server can know how soon a loader answers. Before, it has
/// only the negotiated timeout (RFC 2349), or the second that a server starts with.
const KNOWN_ANSWERS: u64 = 4;

/// Why a long wait was so long, as far as the network can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// More than one packet was lost.
    Several,
    /// At most one packet was lost, and the server heard of it a second ago or had no
    /// reason to wait.
    Server,
    /// One packet was lost, and only a timer could notice.
    Silence,
    /// The same, before the server could know better than the negotiated timeout.
    Agreed,
}

/// `heard`: see [`heard`]; `was_ack`: whether the loader's packet was lost.
fn cause(wait: &Wait, lost: usize, was_ack: bool, heard: Option<Instant>) -> Cause {
    // The first answer is the ACK of the OACK.
    let answers = 1 + wait.windows - u64::from(was_ack);
    match (lost, heard) {
        (2.., _) => Cause::Several,
        (0, _) => Cause::Server,
        (1, Some(heard)) if wait.to - heard >= LONG => Cause::Server,
        (1, _) if answers >= KNOWN_ANSWERS => Cause::Silence,
        (1, _) => Cause::Agreed,
    }
}

/// Plays all loaders with all servers, and prints their rows.
pub(crate) fn run(args: &LossesArgs) -> io::Result<()> {
    let pattern = Pattern::new();
    for style in &Style::ALL {
        let path = args.root.join(style.file());
        pattern.create(&path, 0, style.length(args.size))?;
    }
    // Without loss the processor decides, so each server has it alone in turn; with loss
    // it is all waiting, and the peers may wait together.
    let alone = if args.rate == 0 {
        args.servers.len()
    } else {
        1
    };
    let mut groups: Vec<_> = (0..alone).map(|server| server..server + 1).collect();
    groups.push(alone..args.servers.len());
    let (mut clients, mut losses) = (Vec::new(), Vec::new());
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let played = play(args, &pattern, group)?;
        clients.extend(played.0);
        losses.extend(played.1);
    }
    let mut complaints = Vec::new();
    let mut rows = String::new();
    for style in &Style::ALL {
        let row = row(args, style, &clients, &losses, &mut complaints);
        rows.push_str(&row);
    }
    print!("{rows}");
    if complaints.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(complaints.join("\nload: ")))
}

fn lost_packets(
    registry: &mio::Registry,
    token: Token,
    args: &LossesArgs,
) -> io::Result<UdpSocket> {
    let any: IpAddr = match args.client {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut socket = UdpSocket::bind((any, args.lost_port).into())?;
    registry.register(&mut socket, token, Interest::READABLE)?;
    Ok(socket)
}

fn play<'a>(
    args: &LossesArgs,
    pattern: &'a Pattern,
    servers: Range<usize>,
) -> io::Result<(Vec<Client<'a>>, Vec<Loss>)> {
    let mut poll = Poll::new()?;
    let count = Style::ALL.len() * servers.len() * args.transfers;
    let home = File::open("/proc/self/ns/net")?;
    setns(
        File::open(&args.server_namespace)?,
        CloneFlags::CLONE_NEWNET,
    )?;
    let there = lost_packets(poll.registry(), Token(count + 1), args)?;
    setns(home, CloneFlags::CLONE_NEWNET)?;
    let here = lost_packets(poll.registry(), Token(count), args)?;

    let begin = clock();
    let mut clients: Vec<Client<'a>> = Vec::with_capacity(count);
    let mut losses = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut events = Events::with_capacity(1024);
    let end = begin + Duration::from_secs(args.limit);
    loop {
        let now = clock();
        let is_over = clients.len() == count && !clients.iter().any(Client::is_running);
        if is_over || now >= end {
            return Ok((clients, losses));
        }
        let next_start = begin + PACE * clients.len() as u32;
        if clients.len() < count && now >= next_start {
            let client = start(args, pattern, &servers, clients.len(), poll.registry())?;
            clients.push(client);
        }
        for client in &mut clients {
            client.run_deadline(now);
        }
        let running = clients.iter().filter(|client| client.is_running());
        let mut next = running
            .map(|client| client.loader.deadline)
            .min()
            .unwrap_or(end);
        if clients.len() < count {
            next = next.min(begin + PACE * clients.len() as u32);
        }
        let timeout = next.min(end).saturating_duration_since(clock());
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => other?,
        }
        // Losses last: a loss that follows a datagram is recorded after it.
        for event in &events {
            if event.token().0 < count {
                clients[event.token().0].receive(&mut buffer);
            }
        }
        note_losses(&here, &mut buffer, &mut losses);
        note_losses(&there, &mut buffer, &mut losses);
    }
}

fn start<'a>(
    args: &LossesArgs,
    pattern: &'a Pattern,
    servers: &Range<usize>,
    index: usize,
    registry: &mio::Registry,
) -> io::Result<Client<'a>> {
    // Servers take turns, so that each rests between two starts.
    let server = servers.start + index % servers.len();
    let style = &Style::ALL[index / servers.len() % Style::ALL.len()];
    let mut socket = UdpSocket::bind((args.client, 0).into())?;
    registry.register(&mut socket, Token(index), Interest::READABLE)?;
    let now = clock();
    let mut client = Client {
        server,
        style,
        local: socket.local_addr()?,
        socket: Some(socket),
        peer: args.servers[server].1,
        is_answered: false,
        loader: Loader::new(style, &style.file(), pattern, style.length(args.size), now),
        start: now,
        since: now,
        told: Vec::new(),
        worst: Duration::ZERO,
        long: Vec::new(),
        done: None,
    };
    client.account(now, Step::None);
    Ok(client)
}

fn note_losses(socket: &UdpSocket, buffer: &mut [u8], losses: &mut Vec<Loss>) {
    while let Ok((len, from)) = socket.recv_from(buffer) {
        let what = match Packet::parse(&buffer[..len]) {
            Ok(Packet::Request(_)) => "the request".to_owned(),
            Ok(Packet::Data { block, .. }) => format!("DATA {}", block.0),
            Ok(Packet::Ack(block)) => format!("ACK {}", block.0),
            Ok(Packet::Oack(_)) => "the OACK".to_owned(),
            _ => "an ERROR".to_owned(),
        };
        let at = clock();
        losses.push(Loss { at, from, what });
    }
}

/// A loader's row; what is wrong with our server is added to `complaints`.
fn row(
    args: &LossesArgs,
    style: &'static Style,
    clients: &[Client<'_>],
    losses: &[Loss],
    complaints: &mut Vec<String>,
) -> String {
    let of = |server: usize| {
        let is_wanted =
            move |client: &&Client<'_>| client.server == server && client.style.name == style.name;
        clients.iter().filter(is_wanted)
    };
    let mut row = format!("| {} % | {} |", args.rate, style.name);
    let mut medians = Vec::new();
    for server in 0..args.servers.len() {
        let done = of(server).filter(|client| client.done.is_some()).count();
        let median = median(args, of(server));
        let worst = of(server)
            .map(|client| client.worst)
            .max()
            .unwrap_or_default();
        medians.push(median);
        // Writing to a string can't fail.
        let _ = write!(
            row,
            " {done}/{}, {median:.0} ms, {:.0} ms |",
            args.transfers,
            milliseconds(worst)
        );
    }
    let best_peer = medians[1..].iter().copied().min_by(f64::total_cmp);
    match best_peer {
        Some(best) => {
            let _ = write!(row, " {:.2} |", medians[0] / best);
        }
        None => row.push_str(" – |"),
    }
    let (mut by_server, mut by_silence, mut as_agreed) = (0, 0, 0);
    for client in of(0) {
        if client.done.is_none() && args.rate <= SURE_RATE {
            complaints.push(format!("{} %, {}: failed", args.rate, style.name));
        }
        for wait in &client.long {
            let lost = client.lost_in(wait, losses);
            let is_ours = |loss: &&Loss| loss.from == client.local;
            let ours = lost.iter().copied().filter(is_ours);
            let heard = heard(&wait.told, ours.map(|loss| loss.at));
            let was_ack = lost.first().is_some_and(is_ours);
            let cause = cause(wait, lost.len(), was_ack, heard);
            match cause {
                Cause::Several => {}
                Cause::Server => by_server += 1,
                Cause::Silence => by_silence += 1,
                Cause::Agreed => as_agreed += 1,
            }
            let is_servers = matches!(cause, Cause::Server | Cause::Silence);
            let text = complaint(args, style, wait, &lost, heard);
            if args.list {
                eprintln!("load: {cause:?}: {text}");
            }
            if is_servers && args.rate <= SURE_RATE {
                complaints.push(text);
            }
        }
    }
    let _ = writeln!(row, " {by_server} | {by_silence} | {as_agreed} |");
    row
}

fn complaint(
    args: &LossesArgs,
    style: &Style,
    wait: &Wait,
    lost: &[&Loss],
    heard: Option<Instant>,
) -> String {
    let took = milliseconds(wait.to - wait.from);
    let told = heard.map_or("was not told".to_owned(), |heard| {
        format!("was told after {:.0} ms", milliseconds(heard - wait.from))
    });
    let mut names: Vec<_> = lost.iter().map(|loss| loss.what.as_str()).collect();
    if names.is_empty() {
        names.push("nothing");
    }
    format!(
        "{} %, {}: {took:.0} ms of waiting for block {}, {} was lost, the server {told}",
        args.rate,
        style.name,
        wait.block,
        names.join(" and ")
    )
}

/// The median time of the transfers in milliseconds; a failed one counts as the limit.
fn median<'c, 'p: 'c>(args: &LossesArgs, clients: impl Iterator<Item = &'c Client<'p>>) -> f64 {
    let limit = args.limit as f64 * 1e3;
    let mut times: Vec<f64> = clients
        .map(|client| {
            client
                .done
                .map_or(limit, |done| milliseconds(done - client.start))
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times
        .get(times.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_is_the_servers_fault_if_it_was_told_or_nothing_was_lost() {
        let from = clock();
        let at = |milliseconds| from + Duration::from_millis(milliseconds);
        for (to, told, lost, was_ack, windows, expected) in [
            (5000, Some(1), 1, false, 9, Cause::Server),
            (5000, None, 1, false, 9, Cause::Silence),
            (5000, Some(1), 2, false, 9, Cause::Several),
            (5000, None, 0, false, 9, Cause::Server),
            // The client's own timer told the server, which answered at once.
            (1001, Some(1000), 1, false, 9, Cause::Silence),
            (2000, Some(1000), 1, false, 9, Cause::Server),
            // The server had got three answers, or four.
            (5000, None, 1, false, 2, Cause::Agreed),
            (5000, None, 1, true, 3, Cause::Agreed),
            (5000, None, 1, false, 3, Cause::Silence),
            (5000, None, 1, true, 0, Cause::Agreed),
            // What the server hears it must heed from the first answer on.
            (5000, Some(1), 1, false, 0, Cause::Server),
        ] {
            let wait = Wait {
                from,
                to: at(to),
                told: Vec::new(),
                block: 1,
                windows,
            };
            assert!(wait.is_long());
            assert_eq!(
                cause(&wait, lost, was_ack, told.map(at)),
                expected,
                "{to} {told:?} {lost} {was_ack} {windows}"
            );
        }
    }

    #[test]
    fn what_was_lost_on_the_way_told_nobody() {
        let from = clock();
        let at = |milliseconds| from + Duration::from_millis(milliseconds);
        for (told, lost, expected) in [
            (&[0, 1000][..], &[][..], Some(0)),
            (&[0, 1000], &[1], Some(1000)),
            (&[0], &[1], None),
            // Other packets were lost.
            (&[0], &[500], Some(0)),
            (&[10], &[5], Some(10)),
        ] {
            let told: Vec<_> = told.iter().copied().map(at).collect();
            let heard = heard(&told, lost.iter().copied().map(at));
            assert_eq!(heard, expected.map(at), "{lost:?}");
        }
    }
}
