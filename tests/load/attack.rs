//! An attacker among honest clients, for `scripts/soak`: floods of forged requests,
//! forged ACKs that follow the victim's blocks, forged uploads, DATA repeated again and
//! again, stalled transfers and uploads, announcements of a gigabyte, odd and long names
//! for a map file's rules, junk, and requests in the name of another server, of the
//! honest clients' neighbours and of the clients themselves. Also times honest downloads
//! before and during the attack.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tftpd::net::{Batch, Binding, Destination, ListenSocket};
use tftpd::wire::packet::{
    BlockNumber, Direction, ErrorCode, Mode, Packet, emit_ack, emit_request,
};

use crate::clock;

/// Servers to attack, and for how long.
#[derive(clap::Args)]
pub(crate) struct AttackArgs {
    /// With ports of their own, with a single port, with a range
    #[arg(num_args = 1.., required = true)]
    servers: Vec<SocketAddr>,
    /// The file that honest clients get
    #[arg(long)]
    file: String,
    /// Seconds before the attack
    #[arg(long)]
    quiet: u64,
    /// Seconds of the attack
    #[arg(long)]
    seconds: u64,
    /// Forged datagrams a second to each server
    #[arg(long, default_value_t = 2000)]
    rate: u32,
}

/// How long an honest client waits for a block before it asks again.
const WAIT: Duration = Duration::from_secs(1);
const TRIES: u32 = 5;

/// Real addresses of the attacker. Each holds a transfer or a stalled upload.
const HOLDERS: usize = 32;

/// Time between two acts of a holder.
const HOLD: Duration = Duration::from_secs(1);

/// Ports on the honest clients' address that send requests and never answer.
const NEIGHBOURS: usize = 8;

/// The number of addresses in whose names ACKs follow the blocks that they are sent.
const KNOWN: u32 = 16;
const FIRST_KNOWN: u32 = 0x7f30_0001;

/// Names that a rule refuses or that nobody should get: other spellings, other clients'
/// directories, pipes, names that hide another file.
const NAMES: [&[u8]; 12] = [
    b"site.key/",
    b"site.key\\",
    b"./site.key",
    b"x/../site.key",
    b"site.key\x01",
    b"SITE.KEY\xff",
    b"192.0.2.7/secret",
    b"pipe",
    b"up/..",
    b"up/a\x01b",
    b"22848\xff",
    b"../../../../etc/passwd",
];

/// Times `--quiet` seconds of honest downloads, then those during the attack, and
/// prints a line of `key=value`.
pub(crate) fn run(args: &AttackArgs) -> io::Result<()> {
    let begin = clock();
    let quiet_until = begin + Duration::from_secs(args.quiet);
    let end = quiet_until + Duration::from_secs(args.seconds);
    let (is_over, forged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let attacks = args.servers.iter().map(|&server| {
            let (is_over, forged) = (&is_over, &forged);
            scope.spawn(move || -> io::Result<()> {
                let mut attacker = Attacker::new(server, &args.file)?;
                attacker.wait(quiet_until);
                while !is_over.load(Ordering::Relaxed) {
                    forged.fetch_add(attacker.tick(args.rate), Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let attacks: Vec<_> = attacks.collect();
        let (quiet, failed_quiet) = honest(args, quiet_until, false);
        let (loud, failed) = honest(args, end, true);
        is_over.store(true, Ordering::Relaxed);
        for attack in attacks {
            attack.join().map_err(|_| io::Error::other("panicked"))??;
        }
        println!(
            "forged={} quiet={} quiet_failed={failed_quiet} quiet_p50={:.2} quiet_p99={:.2} \
             attacked={} attacked_failed={failed} attacked_p50={:.2} attacked_p99={:.2}",
            forged.load(Ordering::Relaxed),
            quiet.len(),
            percentile(&quiet, 50),
            percentile(&quiet, 99),
            loud.len(),
            percentile(&loud, 50),
            percentile(&loud, 99),
        );
        Ok(())
    })
}

/// A percentile of sorted times, in milliseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times
        .get(place)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn request(direction: Direction, name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    named(direction, name.as_bytes(), options)
}

fn named(direction: Direction, name: &[u8], options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = [0; 1024];
    let options = options.iter().copied();
    let len = emit_request(direction, name, Mode::Octet, options, &mut packet);
    packet[..len.unwrap_or(0)].to_vec()
}

// --- honest clients ---------------------------------------------------------------------

/// Downloads from each server in turn until `end`; returns the sorted times, and how
/// many failed.
fn honest(args: &AttackArgs, end: Instant, is_attacked: bool) -> (Vec<Duration>, u32) {
    let (mut times, mut failed) = (Vec::new(), 0);
    for &server in args.servers.iter().cycle() {
        let start = clock();
        if start >= end {
            break;
        }
        match download(server, &args.file, is_attacked) {
            Ok(()) => times.push(clock() - start),
            Err(_) => failed += 1,
        }
    }
    times.sort_unstable();
    (times, failed)
}

/// Downloads a whole file. In an attack, the client's port meanwhile requests another
/// file: only the server could tell that this request is forged.
fn download(server: SocketAddr, name: &str, is_attacked: bool) -> io::Result<()> {
    let forged = request(Direction::Read, "missing", &[]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut last = request(Direction::Read, name, &[]);
    let (mut to, mut expected, mut tries) = (server, 1, 0);
    socket.send_to(&last, to)?;
    let mut buffer = [0; 600];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(_) if tries < TRIES => {
                tries += 1;
                socket.send_to(&last, to)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        match Packet::parse(&buffer[..len]) {
            Ok(Packet::Data { block, payload }) if block.0 == expected => {
                to = from;
                last = emit_ack(block).to_vec();
                socket.send_to(&last, to)?;
                if payload.len() < 512 {
                    return Ok(());
                }
                if is_attacked && block.0 % 16 == 5 {
                    socket.send_to(&forged, server)?;
                }
                expected = expected.wrapping_add(1);
                tries = 0;
            }
            // The answer to the forged request: this file does exist.
            Ok(Packet::Error {
                code: ErrorCode::FileNotFound,
                ..
            }) => {}
            Ok(Packet::Error { .. }) => return Err(io::ErrorKind::Other.into()),
            _ => {}
        }
    }
}

// --- the attacker -------------------------------------------------------------------------

/// One of the attacker's real addresses.
struct Holder {
    number: u8,
    /// If it `has_transfer`, connected to the port of its stalled upload or waiting
    /// download, so that the kernel reports when that port is closed.
    socket: UdpSocket,
    has_transfer: bool,
    uploads: bool,
    next: Instant,
}

impl Holder {
    fn new(number: u8) -> io::Result<Self> {
        Ok(Self {
            number,
            socket: Self::socket(number)?,
            has_transfer: false,
            uploads: number % 2 == 1,
            next: clock() + HOLD * u32::from(number) / HOLDERS as u32,
        })
    }

    fn socket(number: u8) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 2, 0, number + 1), 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Receives what has come. Once the transfer is over, nothing more is sent to its port:
    /// an honest client may get that port next, and tftp-hpa takes blocks from anybody.
    fn take(&mut self) {
        let mut buffer = [0; 600];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((len, _))
                    if matches!(Packet::parse(&buffer[..len]), Ok(Packet::Error { .. })) =>
                {
                    self.is_over();
                }
                Ok((_, from)) if !self.has_transfer => {
                    self.has_transfer = self.socket.connect(from).is_ok();
                    if !self.uploads {
                        let _ = self.socket.send(&emit_ack(BlockNumber(0)));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.is_over(),
                Err(_) => return,
            }
        }
    }

    /// Gives up a transfer that is over, to ask again from another port.
    fn is_over(&mut self) {
        if !self.has_transfer {
            return;
        }
        if let Ok(socket) = Self::socket(self.number) {
            self.socket = socket;
            self.has_transfer = false;
        }
    }

    /// Sends what is due.
    fn act(&mut self, server: SocketAddr, file: &str) {
        if clock() < self.next {
            return;
        }
        self.next = clock() + HOLD;
        // A datagram that the kernel won't take is lost.
        let sent = match (self.has_transfer, self.uploads) {
            (true, true) => {
                let mut block = b"\0\x03\0\x01".to_vec();
                block.resize(516, b'x');
                self.socket.send(&block)
            }
            (true, false) => Ok(0),
            (false, uploads) => {
                let (direction, name) = if uploads {
                    (Direction::Write, format!("up/stalled-{}", self.number))
                } else {
                    (Direction::Read, file.to_owned())
                };
                let asked = request(direction, &name, &[("timeout", "255")]);
                self.socket.send_to(&asked, server)
            }
        };
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            self.is_over();
        }
    }
}

struct Attacker {
    server: SocketAddr,
    file: String,
    /// Sends in anybody's name.
    forger: ListenSocket,
    /// Sends like another server: from an address that has the server's own port.
    other_server: Option<ListenSocket>,
    neighbours: Vec<UdpSocket>,
    batch: Batch,
    /// The last block that was sent to each known address.
    sent_to: [u16; KNOWN as usize],
    holders: Vec<Holder>,
    /// Its read timeout is the pause between two ticks.
    timer: UdpSocket,
    sent: u64,
    begin: Option<Instant>,
}

impl Attacker {
    fn new(server: SocketAddr, file: &str) -> io::Result<Self> {
        let timer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        timer.set_read_timeout(Some(Duration::from_millis(1)))?;
        let holders = (0..HOLDERS).map(|number| Holder::new(number as u8));
        let neighbours = (0..NEIGHBOURS).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let same_port = (Ipv4Addr::new(127, 5, 0, 1), server.port()).into();
        Ok(Self {
            server,
            file: file.to_owned(),
            // Fails where the server has bound this port on all addresses.
            other_server: ListenSocket::bind(same_port, Binding::default()).ok(),
            neighbours: neighbours.collect::<io::Result<_>>()?,
            sent_to: [0; KNOWN as usize],
            forger: ListenSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), Binding::default())?,
            batch: Batch::new(64, 64 * 2048),
            holders: holders.collect::<io::Result<_>>()?,
            timer,
            sent: 0,
            begin: None,
        })
    }

    fn wait(&self, until: Instant) {
        while clock() < until {
            let _ = self.timer.recv(&mut [0; 1]);
        }
    }

    /// Sends what is due by now; returns how many datagrams.
    fn tick(&mut self, rate: u32) -> u64 {
        let begin = *self.begin.get_or_insert_with(clock);
        let due = ((clock() - begin).as_secs_f64() * f64::from(rate)) as u64;
        let before = self.sent;
        // Skips what is more than a tenth of a second late.
        self.sent = self.sent.max(due.saturating_sub(u64::from(rate) / 10));
        let first = self.sent;
        while self.sent < due {
            self.forge(self.sent);
            self.sent += 1;
        }
        for index in 0..self.holders.len() {
            self.hold(index);
        }
        self.take();
        let _ = self.timer.recv(&mut [0; 1]);
        self.sent - first.max(before)
    }

    /// Receives what is sent to any address, so that ACKs can name the right block.
    fn take(&mut self) {
        while let Ok(received) = self.forger.receive(&mut self.batch, 2048, 64) {
            for index in 0..received {
                let Some(datagram) = self.batch.get(index) else {
                    continue;
                };
                if let Some(Destination::Local(IpAddr::V4(name))) = datagram.destination
                    && let Ok(Packet::Data { block, .. }) = Packet::parse(datagram.payload)
                    && let Some(known) = name.to_bits().checked_sub(FIRST_KNOWN)
                    && let Some(sent) = self.sent_to.get_mut(known as usize)
                {
                    *sent = block.0;
                }
            }
            if received < 64 {
                break;
            }
        }
        if let Some(socket) = &self.other_server {
            while let Ok(64) = socket.receive(&mut self.batch, 2048, 64) {}
        }
    }

    /// Sends the datagram with this number, in somebody's name.
    fn forge(&mut self, number: u64) {
        let victim = (number / 8) as u32;
        // A few addresses are used for ACKs and DATA that follow a request.
        let known = victim % KNOWN;
        let [fresh, known_name] = [0x7f10_0000 + victim % 0xffff, FIRST_KNOWN + known];
        let read = |name: &str, options: &[(&str, &str)]| request(Direction::Read, name, options);
        let write = |name: &str, options: &[(&str, &str)]| request(Direction::Write, name, options);
        let bait = format!("{}{number}.cfg/../{}", "a".repeat(200), "-b".repeat(100));
        let windows = [("windowsize", "64"), ("blksize", "1428")];
        let patient = [("timeout", "255"), ("tsize", "0")];
        let announced = [("tsize", "1073741824"), ("timeout", "255")];
        let odd = NAMES[(number / 24) as usize % NAMES.len()];
        // Few names: the files are removed at the end.
        let stored = format!("forged/{}", victim % 512);
        let sent = self.sent_to[known as usize];
        let (who, datagram) = match number % 24 {
            0 | 1 => (fresh, read(&self.file, &[])),
            2 => (fresh, read(&self.file, &patient)),
            3 => (fresh, write(&format!("up/never-{number}"), &[])),
            4 => (fresh, write(&format!("up/large-{number}"), &announced)),
            5 => (fresh, read("missing", &[])),
            6 => (fresh, read(&bait, &[])),
            7 => (fresh, named(Direction::Read, odd, &[])),
            8 => (fresh, named(Direction::Write, odd, &[])),
            9 => {
                self.sent_to[known as usize] = 0;
                (known_name, read(&self.file, &windows))
            }
            10..=14 => (known_name, emit_ack(BlockNumber(sent)).to_vec()),
            // An ACK of the last block sent, or of one yet to be sent.
            15 => (
                known_name,
                emit_ack(BlockNumber(sent.wrapping_add((number / 128 % 70) as u16))).to_vec(),
            ),
            16 => (known_name + KNOWN, write(&stored, &[])),
            17 => (known_name + KNOWN, b"\0\x03\0\x01in your name".to_vec()),
            18 => (known_name + KNOWN, b"\0\x03\0\x01again and again".to_vec()),
            19 => (known_name, b"\0\x05\0\0\0".to_vec()),
            20 => (known_name, b"\0\x06blksize\x008\0".to_vec()),
            21 => {
                let place = victim as usize % NEIGHBOURS;
                let asked = read(&self.file, &[]);
                let _ = self.neighbours[place].send_to(&asked, self.server);
                return;
            }
            22 => {
                let asked = match number / 24 % 2 {
                    0 => read(&self.file, &[]),
                    _ => write(&stored, &[]),
                };
                if let Some(socket) = &self.other_server {
                    let _ = socket.answer(&asked, self.server, socket.address().ip(), 0);
                }
                return;
            }
            _ => (fresh, vec![number as u8; (number / 24 % 40) as usize]),
        };
        let who = IpAddr::V4(Ipv4Addr::from_bits(who));
        // Datagrams that the kernel won't take are lost: it's a flood.
        let _ = self.forger.answer(&datagram, self.server, who, 0);
    }

    /// Lets a real address take a slot and keep it. It asks for `timeout` 255; a download
    /// answers once and falls silent, an upload sends the same block again and again.
    fn hold(&mut self, index: usize) {
        if let Some(holder) = self.holders.get_mut(index) {
            holder.take();
            holder.act(self.server, &self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sockets of a server played by the test: its listening port and that of its
    /// transfers.
    fn server() -> (UdpSocket, UdpSocket) {
        let [server, transfer] = [(); 2].map(|()| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            socket
        });
        (server, transfer)
    }

    /// Lets the holder act until `socket` receives a datagram; returns its opcode and its
    /// sender.
    fn next_at(socket: &UdpSocket, attacker: &mut Attacker, index: usize) -> (u8, SocketAddr) {
        socket.set_nonblocking(true).unwrap();
        let begin = clock();
        let mut buffer = [0; 600];
        while clock() - begin < Duration::from_secs(10) {
            attacker.holders[index].next = clock();
            attacker.hold(index);
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                assert!(len >= 4);
                return (buffer[1], from);
            }
            let _ = attacker.timer.recv(&mut [0; 1]);
        }
        panic!("nothing came");
    }

    const UPLOADS: usize = 1;

    /// tftp-hpa takes blocks from anybody: a block to the port of a transfer that is over
    /// would end up in the file of the client that has the port now.
    #[test]
    fn a_holder_sends_nothing_to_a_port_once_its_transfer_is_over() {
        const ERROR: &[u8] = b"\0\x05\0\0Too many transfers at once\0";
        let (socket, transfer) = server();
        let mut attacker = Attacker::new(socket.local_addr().unwrap(), "file").unwrap();
        let (asked, holder) = next_at(&socket, &mut attacker, UPLOADS);
        assert_eq!(asked, 2, "a WRQ");
        transfer.send_to(&emit_ack(BlockNumber(0)), holder).unwrap();
        for _ in 0..2 {
            let (sent, from) = next_at(&transfer, &mut attacker, UPLOADS);
            assert_eq!((sent, from), (3, holder), "block 1, again and again");
        }
        transfer.send_to(ERROR, holder).unwrap();
        attacker.hold(UPLOADS);
        while transfer.recv_from(&mut [0; 600]).is_ok() {}
        let (asked, _) = next_at(&socket, &mut attacker, UPLOADS);
        assert_eq!(asked, 2, "it asks again");
        let stray = transfer.recv_from(&mut [0; 600]);
        assert!(stray.is_err(), "{stray:?}");
    }

    #[test]
    fn a_holder_whose_transfer_ends_without_a_word_asks_again() {
        let (socket, transfer) = server();
        let mut attacker = Attacker::new(socket.local_addr().unwrap(), "file").unwrap();
        let (_, holder) = next_at(&socket, &mut attacker, UPLOADS);
        transfer.send_to(&emit_ack(BlockNumber(0)), holder).unwrap();
        next_at(&transfer, &mut attacker, UPLOADS);
        drop(transfer);
        let (asked, _) = next_at(&socket, &mut attacker, UPLOADS);
        assert_eq!(asked, 2, "a WRQ");
    }

    #[test]
    fn a_holder_that_is_refused_asks_again() {
        let (socket, _) = server();
        let mut attacker = Attacker::new(socket.local_addr().unwrap(), "file").unwrap();
        for index in [0, UPLOADS] {
            let (_, holder) = next_at(&socket, &mut attacker, index);
            socket.send_to(b"\0\x05\0\0No\0", holder).unwrap();
            let (asked, _) = next_at(&socket, &mut attacker, index);
            assert_eq!(asked, index as u8 + 1);
        }
    }
}
