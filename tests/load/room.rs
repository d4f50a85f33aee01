//! A room of machines that boot at once through a load balancer, for `scripts/cluster`.
//!
//! Each machine has an address of its own. It looks for a configuration that doesn't
//! exist, asks for the size of a file, downloads that file, and then the next one. A
//! server that falls silent in the middle costs it the transfer: like a boot loader it
//! gives up after a while, and starts over from another port.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Registry, Token};
use tftpd::wire::packet::{Direction, ErrorCode, Mode, Packet, emit_error, emit_request};

use crate::boot::{Loader, Step, Style};
use crate::clock;
use crate::pattern::Pattern;

/// Boot a room of machines; prints what came of each phase.
#[derive(clap::Args)]
pub(crate) struct RoomArgs {
    /// What they ask
    server: SocketAddr,
    /// Machines
    #[arg(long, default_value_t = 100)]
    machines: u32,
    /// The address of the first; the others' follow
    #[arg(long)]
    first: Ipv4Addr,
    /// Bytes of the two files
    #[arg(long, value_delimiter = ',', default_values_t = [256 << 10, 512 << 10])]
    sizes: Vec<u64>,
    /// Only make the files, in this directory
    #[arg(long)]
    make: Option<PathBuf>,
    /// Seconds until it is cut off
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

/// The two files.
const NAMES: [&str; 2] = ["boot/kernel", "boot/initrd"];

/// How many times a machine starts over for the same file or answer.
const ATTEMPTS: u32 = 5;

/// How long a machine waits for the answer to a search or a probe, and how many times it
/// asks.
const WAIT: Duration = Duration::from_secs(1);
const ASKS: u32 = 6;

/// Time between the starts of two machines.
const PACE: Duration = Duration::from_millis(1);

/// What a machine does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Search,
    Probe,
    File,
    Next,
}

const PHASES: [(Phase, &str); 4] = [
    (Phase::Search, "search"),
    (Phase::Probe, "probe"),
    (Phase::File, "file"),
    (Phase::Next, "next"),
];

/// The results of all machines in one phase.
#[derive(Debug, Default)]
struct Tally {
    /// Requests that were answered in full.
    done: u32,
    failed: u32,
    /// Transfers started over from another port: after an answer had come, and before.
    broken: u32,
    unanswered: u32,
    /// Datagrams sent again.
    resent: u32,
    times: Vec<Duration>,
}

/// What a machine is waiting for.
enum Errand<'a> {
    /// A request that one datagram answers.
    Ask {
        packet: Vec<u8>,
        asks_left: u32,
        deadline: Instant,
    },
    Load(Box<Loader<'a>>),
}

struct Machine<'a> {
    number: u32,
    address: IpAddr,
    style: &'static Style,
    phase: Phase,
    /// How many configuration names are left to look for.
    search: u8,
    socket: Option<UdpSocket>,
    errand: Errand<'a>,
    is_answered: bool,
    attempts_left: u32,
    /// When it first asked for what it wants now.
    since: Instant,
    is_done: bool,
}

struct Room<'a> {
    args: &'a RoomArgs,
    pattern: &'a Pattern,
    registry: Registry,
    tallies: [Tally; 4],
    complaint: Option<String>,
}

impl Room<'_> {
    fn tally(&mut self, phase: Phase) -> &mut Tally {
        &mut self.tallies[phase as usize]
    }
}

impl<'a> Machine<'a> {
    fn new(number: u32, room: &Room<'a>, now: Instant) -> Self {
        let styles = Style::ROOM;
        let kind = number as usize % styles.len();
        Self {
            number,
            address: Ipv4Addr::from_bits(room.args.first.to_bits() + number).into(),
            style: &styles[kind],
            phase: Phase::Search,
            // PXELINUX looks for ten names, UEFI for one.
            search: [10, 1, 3, 2][kind % 4],
            socket: None,
            errand: Errand::ask(Vec::new(), now),
            is_answered: false,
            attempts_left: ATTEMPTS,
            since: now,
            is_done: false,
        }
    }

    /// Asks for what it wants next, from a new port.
    fn begin(&mut self, room: &mut Room<'a>, now: Instant) -> io::Result<()> {
        let mut socket = UdpSocket::bind((self.address, 0).into())?;
        let token = Token(self.number as usize);
        room.registry
            .register(&mut socket, token, Interest::READABLE)?;
        self.socket = Some(socket);
        self.is_answered = false;
        self.errand = match self.phase {
            Phase::Search => {
                let name = format!("pxelinux.cfg/{:08X}-{}", self.number, self.search);
                Errand::ask(request(&name, &[("tsize", "0")]), now)
            }
            Phase::Probe => {
                let options = [("tsize", "0"), ("blksize", "1468")];
                Errand::ask(request(NAMES[0], &options), now)
            }
            Phase::File | Phase::Next => {
                let file = usize::from(self.phase == Phase::Next);
                let size = room.args.sizes[file];
                let loader = Loader::new(self.style, NAMES[file], room.pattern, size, now);
                Errand::Load(Box::new(loader))
            }
        };
        self.send(room);
        Ok(())
    }

    /// Sends what is due.
    fn send(&mut self, room: &Room<'_>) {
        let datagram = match &mut self.errand {
            Errand::Ask { packet, .. } => Some(&packet[..]),
            Errand::Load(loader) => loader.poll_transmit(),
        };
        if let (Some(socket), Some(datagram)) = (&self.socket, datagram) {
            // What can't be sent is lost, as on any wire.
            let _ = socket.send_to(datagram, room.args.server);
        }
    }

    fn receive(&mut self, room: &mut Room<'a>, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(socket) = &self.socket {
            let Ok((len, peer)) = socket.recv_from(buffer) else {
                return Ok(());
            };
            let Ok(packet) = Packet::parse(&buffer[..len]) else {
                continue;
            };
            if peer != room.args.server {
                room.complaint
                    .get_or_insert(format!("an answer came from {peer}"));
                continue;
            }
            self.handle(room, &packet)?;
        }
        Ok(())
    }

    fn handle(&mut self, room: &mut Room<'a>, packet: &Packet<'_>) -> io::Result<()> {
        let now = clock();
        self.is_answered = true;
        let step = match (&mut self.errand, self.phase, packet) {
            (Errand::Load(loader), _, packet) => loader.handle_packet(now, packet),
            (_, Phase::Search, Packet::Error { code, .. }) if *code == ErrorCode::FileNotFound => {
                Step::Done
            }
            (_, Phase::Probe, Packet::Oack(_)) => {
                let mut goodbye = [0; 64];
                let code = ErrorCode::OptionRefused;
                let len = emit_error(code, "only the size was wanted", &mut goodbye);
                if let Some(socket) = &self.socket {
                    // The server doesn't need this ERROR, but with it stops waiting sooner.
                    let _ = socket.send_to(&goodbye[..len], room.args.server);
                }
                Step::Done
            }
            _ => Step::Failed,
        };
        if let Packet::Error { code, message } = packet
            && step == Step::Failed
        {
            let text = String::from_utf8_lossy(message);
            room.complaint.get_or_insert(format!("{code:?}: {text}"));
        }
        self.account(room, step, now)
    }

    fn run_deadline(&mut self, room: &mut Room<'a>, now: Instant) -> io::Result<()> {
        if self.socket.is_none() || now < self.deadline() {
            return Ok(());
        }
        let step = match &mut self.errand {
            Errand::Load(loader) => loader.handle_timeout(now),
            Errand::Ask { asks_left: 0, .. } => Step::Failed,
            Errand::Ask {
                asks_left,
                deadline,
                ..
            } => {
                *asks_left -= 1;
                *deadline = now + WAIT;
                Step::Told
            }
        };
        if step == Step::Told {
            room.tally(self.phase).resent += 1;
            if matches!(self.errand, Errand::Ask { .. }) {
                self.send(room);
            }
        }
        self.account(room, step, now)
    }

    fn deadline(&self) -> Instant {
        match &self.errand {
            Errand::Load(loader) => loader.deadline,
            Errand::Ask { deadline, .. } => *deadline,
        }
    }

    /// Sends what is due, and goes on to the next request if this one is over.
    fn account(&mut self, room: &mut Room<'a>, step: Step, now: Instant) -> io::Result<()> {
        if matches!(self.errand, Errand::Load(_)) {
            self.send(room);
        }
        if step == Step::Done {
            let took = now - self.since;
            let tally = room.tally(self.phase);
            tally.done += 1;
            tally.times.push(took);
            return self.go_on(room, now);
        }
        if step != Step::Failed {
            return Ok(());
        }
        let was_answered = self.is_answered;
        let tally = room.tally(self.phase);
        if self.attempts_left == 0 {
            tally.failed += 1;
            return self.go_on(room, now);
        }
        self.attempts_left -= 1;
        if was_answered {
            tally.broken += 1;
        } else {
            tally.unanswered += 1;
        }
        self.begin(room, now)
    }

    fn go_on(&mut self, room: &mut Room<'a>, now: Instant) -> io::Result<()> {
        self.phase = match self.phase {
            Phase::Search if self.search > 1 => {
                self.search -= 1;
                Phase::Search
            }
            Phase::Search => Phase::Probe,
            Phase::Probe => Phase::File,
            Phase::File => Phase::Next,
            Phase::Next => {
                (self.is_done, self.socket) = (true, None);
                return Ok(());
            }
        };
        (self.since, self.attempts_left) = (now, ATTEMPTS);
        self.begin(room, now)
    }
}

impl Errand<'_> {
    fn ask(packet: Vec<u8>, now: Instant) -> Self {
        Self::Ask {
            packet,
            asks_left: ASKS - 1,
            deadline: now + WAIT,
        }
    }
}

fn request(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = [0; 512];
    let options = options.iter().copied();
    let name = name.as_bytes();
    let len = emit_request(Direction::Read, name, Mode::Octet, options, &mut packet)
        .unwrap_or_else(|error| unreachable!("a short request: {error}"));
    packet[..len].to_vec()
}

/// Boots all machines. Prints `booting` once half of them download a file, and at the end
/// a line for each phase: its name; the requests done, failed, and started over after an
/// answer and before one; datagrams sent again; then the milliseconds of each request.
pub(crate) fn run(args: &RoomArgs) -> io::Result<()> {
    if args.sizes.len() != NAMES.len() {
        return Err(io::Error::other("two sizes are wanted"));
    }
    let pattern = Pattern::new();
    if let Some(root) = &args.make {
        return make(args, &pattern, root);
    }
    let room = boot(args, &pattern)?;
    print!("{}", lines(&room.tallies));
    if let Some(complaint) = room.complaint {
        eprintln!("load: {complaint}");
    }
    Ok(())
}

fn make(args: &RoomArgs, pattern: &Pattern, root: &Path) -> io::Result<()> {
    fs::create_dir_all(root.join("boot"))?;
    for (name, &size) in NAMES.iter().zip(&args.sizes) {
        pattern.create(&root.join(name), 0, size)?;
    }
    Ok(())
}

fn boot<'a>(args: &'a RoomArgs, pattern: &'a Pattern) -> io::Result<Room<'a>> {
    let mut poll = Poll::new()?;
    let mut room = Room {
        args,
        pattern,
        registry: poll.registry().try_clone()?,
        tallies: <[Tally; 4]>::default(),
        complaint: None,
    };
    let mut events = Events::with_capacity(256);
    let mut buffer = vec![0; 65_536];
    let begin = clock();
    let end = begin + Duration::from_secs(args.limit);
    let mut machines = Vec::with_capacity(args.machines as usize);
    let mut is_told = false;
    loop {
        let now = clock();
        while machines.len() < args.machines as usize && now >= begin + PACE * machines.len() as u32
        {
            let mut machine = Machine::new(machines.len() as u32, &room, now);
            machine.begin(&mut room, now)?;
            machines.push(machine);
        }
        let is_all = machines.len() == args.machines as usize;
        if now >= end || (is_all && machines.iter().all(|it| it.is_done)) {
            break;
        }
        let loading = |it: &&Machine| it.is_done || matches!(it.errand, Errand::Load(_));
        if !is_told && machines.iter().filter(loading).count() * 2 >= args.machines as usize {
            println!("booting");
            io::stdout().flush()?;
            is_told = true;
        }
        // There are few machines: each is checked.
        for machine in &mut machines {
            machine.run_deadline(&mut room, now)?;
        }
        let nearest = machines
            .iter()
            .filter(|it| !it.is_done)
            .map(Machine::deadline);
        let mut next = nearest.min().unwrap_or(end).min(end);
        if !is_all {
            next = next.min(now + PACE);
        }
        let timeout = next.saturating_duration_since(clock());
        poll.poll(&mut events, Some(timeout + Duration::from_micros(500)))?;
        for event in &events {
            machines[event.token().0].receive(&mut room, &mut buffer)?;
        }
    }
    for machine in machines.iter().filter(|it| !it.is_done) {
        room.tally(machine.phase).failed += 1;
    }
    Ok(room)
}

fn lines(tallies: &[Tally; 4]) -> String {
    let mut text = String::new();
    for (phase, name) in PHASES {
        let Tally {
            done,
            failed,
            broken,
            unanswered,
            resent,
            times,
        } = &tallies[phase as usize];
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "{name} {done} {failed} {broken} {unanswered} {resent}"
        );
        for time in times {
            let _ = write!(text, " {:.1}", time.as_secs_f64() * 1e3);
        }
        text.push('\n');
    }
    text
}
