//! The forger: makes datagrams from the bytes of a script.

use std::net::SocketAddr;
use std::time::Duration;

use tftpd::table::Endpoint;
use tftpd::wire::options::Offer;
use tftpd::wire::packet::{Direction, Mode, Packet};

use super::super::network::{CLIENT, LISTEN, SERVER};
use super::super::server::{self, Link, client_address};
use super::{Forging, Ports, Script, honest, victim_address};

/// Names that no file has: other spellings of an existing name, names that a rule would
/// take long to match, names that aren't text.
const NAMES: [&[u8]; 14] = [
    b"missing",
    b"file-9-1/",
    b"file-9-1\\",
    b"./file-9-1",
    b"x/../file-9-1",
    b"FILE-9-1",
    b"file-9-1\x01",
    b"file-9-1\xff",
    b"192.0.2.7/secret",
    b"dev/null",
    b"..",
    b"/",
    b".",
    &[b'a'; 400],
];

impl Forging {
    pub(super) fn forge(&mut self, script: &mut Script<'_>) {
        let [who, kind, value, extra]: [u8; 4] = std::array::from_fn(|_| script.next());
        let from = self.forged_address(who, kind);
        let datagram = self.forged(from, kind, value, extra);
        let Some(to) = self.target(from, kind, extra) else {
            return;
        };
        if let Some(victim) = self.victims.get_mut(&from) {
            victim.forged_bytes += datagram.len() as u64;
            match datagram[..] {
                [0, 1 | 2, ..] => {
                    victim.requests += 1;
                    victim.last_request.clone_from(&datagram);
                }
                _ if matches!(Packet::parse(&datagram), Ok(Packet::Error { .. })) => {}
                _ => victim.others += 1,
            }
        }
        if !self.server.is_known(to) {
            self.guesses.insert((from, to));
        }
        self.tally.forged += 1;
        self.tally.forged_bytes += datagram.len() as u64;
        let _ = self.net.with(|network| network.send(from, to, &datagram));
    }

    /// The address of a victim; or of an honest client whose transfer runs on a port of its
    /// own. Not on a lossy network: there, a transfer that hasn't moved lately gives way to
    /// another request of its client, like that of a board that was reset.
    fn forged_address(&self, who: u8, kind: u8) -> SocketAddr {
        let victims = self.victims.len();
        let client = usize::from(who) % self.clients.len();
        let is_fair = self.net.with(|network| network.weather.loss == 0);
        if kind >= 0xe0 && self.runs(client) && is_fair && self.ports != Ports::Single {
            return client_address(client);
        }
        let victim = victim_address(usize::from(who) % victims);
        // If an address may have only a few sessions, one that hasn't been answered yet
        // gives way to the next.
        let is_settled = |client| self.runs(client) || self.clients[client].outcome.is_some();
        if victim.ip() == CLIENT && !(0..self.clients.len()).all(is_settled) {
            return victim_address(0);
        }
        victim
    }

    /// Whether an honest client's transfer has had its first answer.
    fn runs(&self, client: usize) -> bool {
        let endpoint = Endpoint {
            peer: client_address(client),
            local: SERVER,
        };
        let sessions = &self.server.sessions;
        let session = sessions.key_of(&endpoint).and_then(|key| sessions.get(key));
        session.is_some_and(|it| it.transfer().progress().verified)
    }

    /// The port that a datagram is sent to: the listen port, another one that transfers
    /// share, or any but that of the sender's own transfer.
    fn target(&mut self, from: SocketAddr, kind: u8, extra: u8) -> Option<SocketAddr> {
        let is_request = matches!(kind % 16, 0..=4 | 15);
        if self.ports == Ports::Single || is_request || extra & 0x80 != 0 {
            return Some(LISTEN);
        }
        let server = &self.server;
        let count = server.by_tid.len() + server.shared.len() + 1;
        let nth = self.random.below(count as u64) as usize;
        let shared = server.shared.iter();
        let &tid = shared.chain(server.by_tid.keys()).nth(nth)?;
        // Everybody knows a shared port. In an honest client's name it would be that
        // client's own.
        let is_own = self.port_of(from) == Some(tid);
        let is_free = server.is_known(tid) && honest(from).is_none();
        (is_free || !is_own).then_some(tid)
    }

    /// The server's port for the transfer of this address.
    fn port_of(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let local = SERVER;
        let sessions = &self.server.sessions;
        let key = sessions.key_of(&Endpoint { peer, local })?;
        Some(sessions.get(key)?.port().own)
    }

    fn forged(&mut self, from: SocketAddr, kind: u8, value: u8, extra: u8) -> Vec<u8> {
        let endpoint = Endpoint {
            peer: from,
            local: SERVER,
        };
        let key = self.server.sessions.key_of(&endpoint);
        let transfer = key
            .and_then(|key| self.server.sessions.get(key))
            .map(Link::transfer);
        let blocks = transfer.map_or(0, |it| it.progress().blocks);
        let windowsize = transfer.map_or(1, |it| it.negotiated().windowsize.into());
        let track = key.and_then(|key| self.tracks.get(&key.to_token()));
        let highest = track.map_or(0, |track| track.highest);
        let numbered = |opcode: u8, block: u64| {
            let [high, low] = (block as u16).to_be_bytes();
            vec![0, opcode, high, low]
        };
        let bait = format!("file-9-{}", u64::from(value) * u64::from(extra));
        match kind % 16 {
            0 => request(Direction::Read, bait.as_bytes(), &Offer::default()),
            1 => request(Direction::Read, bait.as_bytes(), &any_offer(value, extra)),
            2 => request(Direction::Write, b"file-9-1", &Offer::default()),
            3 => request(Direction::Write, b"file-9-1", &any_offer(value, extra)),
            4 => {
                let name = NAMES[usize::from(value) % NAMES.len()];
                let direction = match extra & 8 {
                    0 => Direction::Read,
                    _ => Direction::Write,
                };
                request(direction, name, &any_offer(value, extra))
            }
            // The block that an attacker who has the file can work out, with or without
            // knowing about pauses.
            5..=7 if extra & 0x40 == 0 => numbered(4, highest.max(blocks)),
            5..=7 => numbered(4, blocks + windowsize.min(1 + blocks)),
            8 => match extra % 4 {
                0 => numbered(4, blocks),
                1 => numbered(4, blocks + 1 + u64::from(value % 8)),
                2 => numbered(4, highest + 1 + u64::from(value)),
                _ => numbered(4, u64::from(u16::from_le_bytes([value, extra]))),
            },
            9 | 10 => {
                let mut data = numbered(3, blocks + 1 + u64::from(extra % 4 == 3));
                data.resize(4 + if extra & 4 == 0 { 512 } else { value.into() }, value);
                data
            }
            11 => numbered(3, blocks + u64::from(value) % 3),
            12 => vec![0, 5, 0, value % 9, b'x', 0],
            13 => b"\0\x06blksize\x00512\0".to_vec(),
            14 => {
                let mut bytes = vec![0, value % 8];
                bytes.extend((0..extra % 32).map(|_| self.random.next() as u8));
                bytes.truncate(usize::from(extra % 32));
                bytes
            }
            _ => match self.victims.get(&from).map(|it| it.last_request.clone()) {
                Some(last) if !last.is_empty() => last,
                _ => request(Direction::Read, bait.as_bytes(), &any_offer(extra, value)),
            },
        }
    }
}

/// How long the forger waits: mostly not at all, sometimes until a retransmit or the end.
pub(super) fn delay(byte: u8) -> Duration {
    let count = u64::from(byte & 0x1f);
    match byte >> 5 {
        0..=2 => Duration::ZERO,
        3 | 4 => Duration::from_micros(count * 50),
        5 => Duration::from_millis(count),
        6 => Duration::from_millis(count * 20),
        _ => Duration::from_millis(count * 400),
    }
}

fn request(direction: Direction, name: &[u8], offer: &Offer) -> Vec<u8> {
    server::request(direction, name, Mode::Octet, offer)
}

fn any_offer(value: u8, extra: u8) -> Offer {
    Offer {
        blksize: [None, Some(8), Some(512), Some(1428)][usize::from(value % 4)],
        windowsize: [None, Some(2), Some(16), Some(64)][usize::from(extra % 4)],
        timeout: [None, None, Some(1), Some(255)][usize::from(value / 4 % 4)],
        tsize: [None, Some(0), None, Some(1 << 30)][usize::from(extra / 4 % 4)],
        ..Offer::default()
    }
}
