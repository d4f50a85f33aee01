//! TFTP datagrams, written and read without the library, and a client that sends
//! what it is told to and shows what comes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::{BLOCK, PATIENCE, server::Server};

/// A datagram from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Block number and payload.
    Data(u16, Vec<u8>),
    /// Block number.
    Ack(u16),
    /// Options and values in the order of the packet.
    Oack(Vec<(String, String)>),
    /// Code and text.
    Error(u16, String),
    /// Not TFTP, or nothing a server sends.
    Other(Vec<u8>),
}

impl Packet {
    /// Reads a datagram.
    pub fn parse(bytes: &[u8]) -> Self {
        let other = || Self::Other(bytes.to_vec());
        let Some((opcode, rest)) = bytes.split_first_chunk::<2>() else {
            return other();
        };
        let number = || Some(u16::from_be_bytes(*rest.first_chunk::<2>()?));
        match (u16::from_be_bytes(*opcode), number()) {
            (3, Some(block)) => Self::Data(block, rest[2..].to_vec()),
            (4, Some(block)) if rest.len() == 2 => Self::Ack(block),
            (5, Some(code)) if rest.ends_with(&[0]) => {
                let text = &rest[2..rest.len() - 1];
                Self::Error(code, String::from_utf8_lossy(text).into_owned())
            }
            (6, _) if rest.ends_with(&[0]) => {
                let words: Vec<_> = rest[..rest.len() - 1]
                    .split(|byte| *byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect();
                match words.as_chunks::<2>() {
                    (pairs, []) => Self::Oack(pairs.iter().cloned().map(Into::into).collect()),
                    _ => other(),
                }
            }
            _ => other(),
        }
    }

    /// The code, if this is an ERROR.
    pub fn error_code(&self) -> Option<u16> {
        match self {
            Self::Error(code, _) => Some(*code),
            _ => None,
        }
    }

    /// The block number, if this is DATA.
    pub fn data_block(&self) -> Option<u16> {
        match self {
            Self::Data(block, _) => Some(*block),
            _ => None,
        }
    }
}

/// A request of any kind, as bytes.
pub fn request(opcode: u16, name: &[u8], mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = opcode.to_be_bytes().to_vec();
    let pairs = options.iter().flat_map(|(name, value)| [*name, *value]);
    packet.extend(name);
    packet.push(0);
    for word in std::iter::once(mode).chain(pairs) {
        packet.extend(word.as_bytes());
        packet.push(0);
    }
    packet
}

/// A read request in octet mode.
pub fn rrq(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    request(1, name.as_bytes(), "octet", options)
}

/// A write request in octet mode.
pub fn wrq(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    request(2, name.as_bytes(), "octet", options)
}

/// A DATA packet.
pub fn data(block: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, 3];
    packet.extend(block.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An ACK packet.
pub fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// An ERROR packet.
pub fn error(code: u16, text: &str) -> Vec<u8> {
    let mut packet = vec![0, 5];
    packet.extend(code.to_be_bytes());
    packet.extend(text.as_bytes());
    packet.push(0);
    packet
}

/// A UDP socket that sends what it is told to and shows what comes.
pub struct RawClient {
    socket: UdpSocket,
    server: SocketAddr,
}

impl RawClient {
    /// A client on a port of its own, for the port `server` listens on.
    pub fn new(server: &Server) -> Self {
        Self::to(server.addr())
    }

    /// A client for any address of a server.
    pub fn to(server: SocketAddr) -> Self {
        let local: SocketAddr = match server {
            SocketAddr::V4(server) if server.ip().is_loopback() => (*server.ip(), 0).into(),
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
            SocketAddr::V6(mut server) if server.ip().is_unicast_link_local() => {
                server.set_port(0);
                server.into()
            }
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
        };
        let socket = UdpSocket::bind(local).expect("a socket");
        Self { socket, server }
    }

    /// A client at the given address.
    pub fn at(address: impl Into<IpAddr>, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address.into(), 0)).expect("a socket");
        Self { socket, server }
    }

    /// The client's own address, as the server sees it.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Sends to the port the server listens on.
    pub fn send(&self, packet: &[u8]) {
        self.send_to(packet, self.server);
    }

    /// Sends to any port, usually a transfer's.
    pub fn send_to(&self, packet: &[u8], tid: SocketAddr) {
        let sent = self.socket.send_to(packet, tid).expect("loopback takes it");
        assert_eq!(sent, packet.len());
    }

    /// The next datagram and its sender, or `None` when none came in `wait`.
    pub fn recv(&self, wait: Duration) -> Option<(Packet, SocketAddr)> {
        let deadline = Instant::now() + wait;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .expect("a duration");
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => return Some((Packet::parse(&buffer[..len]), from)),
                // A signal: a call with a timeout isn't restarted after one. Not for the
                // whole time again: a process that is stopped now and then would wait
                // forever.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(e) => panic!("recv: {e}"),
            }
        }
    }

    /// The next datagram, if one has come already.
    pub fn recv_now(&self) -> Option<(Packet, SocketAddr)> {
        self.socket.set_nonblocking(true).expect("a socket");
        let came = self.recv(Duration::from_millis(1));
        self.socket.set_nonblocking(false).expect("a socket");
        came
    }

    /// The length of the next datagram that has come already.
    pub fn recv_len_now(&self) -> Option<usize> {
        self.socket.set_nonblocking(true).expect("a socket");
        let len = self.socket.recv(&mut vec![0; 65_536]).ok();
        self.socket.set_nonblocking(false).expect("a socket");
        len
    }

    /// The next datagram and its sender.
    #[track_caller]
    pub fn expect(&self) -> (Packet, SocketAddr) {
        self.recv(PATIENCE).expect("an answer")
    }

    /// The next datagram, which `tid` must have sent.
    #[track_caller]
    pub fn expect_from(&self, tid: SocketAddr) -> Packet {
        let (packet, from) = self.expect();
        assert_eq!(from, tid, "{packet:?} from a stranger");
        packet
    }

    /// Sends to the listening port and takes the answer.
    #[track_caller]
    pub fn ask(&self, packet: &[u8]) -> (Packet, SocketAddr) {
        self.send(packet);
        self.expect()
    }

    /// Sends to a transfer's port and takes the answer.
    #[track_caller]
    pub fn say(&self, packet: &[u8], tid: SocketAddr) -> Packet {
        self.send_to(packet, tid);
        self.expect_from(tid)
    }

    /// Starts a download: the first payload, and the transfer's port.
    #[track_caller]
    pub fn ask_data(&self, packet: &[u8]) -> (Vec<u8>, SocketAddr) {
        match self.ask(packet) {
            (Packet::Data(1, payload), tid) => (payload, tid),
            (other, _) => panic!("DATA 1 wanted, not {other:?}"),
        }
    }

    /// Sends `packet` to the listening port again and again, as real clients do,
    /// until an answer comes: for servers that may drop a request.
    pub fn ask_patiently(&self, packet: &[u8]) -> (Packet, SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        for count in 1.. {
            assert!(Instant::now() < deadline, "no answer");
            self.send(packet);
            if let Some(answer) = self.recv(Duration::from_millis(200)) {
                if count > 1 {
                    self.drop_other_answers();
                }
                return answer;
            }
        }
        unreachable!("there is a deadline");
    }

    /// Drops the answers to all requests that were sent before, so that none of them is
    /// taken for the answer to a later one: a server that was held up may not have dropped
    /// any.
    fn drop_other_answers(&self) {
        // As for `Server::fence`, but this server may drop a request.
        let fence = |name| {
            let mut own = self.addr();
            own.set_port(0);
            let socket = UdpSocket::bind(own).expect("a socket");
            let server = self.server;
            let other = Self { socket, server };
            (0..10).any(|_| {
                other.send(&rrq(name, &[]));
                other.recv(Duration::from_millis(200)).is_some()
            })
        };
        // If there is no answer, the server is full and drops requests.
        let _ = fence("no-such-file-1") && fence("no-such-file-2");
        while self.recv_now().is_some() {}
    }

    /// Downloads a file in octet mode without options.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, (u16, String)> {
        self.read_with(&rrq(name, &[]), BLOCK, 1, 0)
    }

    /// Downloads with the given request. The server must accept all its options.
    /// Block 65535 is followed by `after_last` (0 or 1).
    pub fn read_with(
        &self,
        request: &[u8],
        block_size: usize,
        window: usize,
        after_last: u16,
    ) -> Result<Vec<u8>, (u16, String)> {
        let (mut packet, tid) = self.ask_patiently(request);
        if let Packet::Oack(_) = packet {
            packet = self.say(&ack(0), tid);
        }
        let (mut file, mut expected, mut in_window) = (Vec::new(), 1, 0);
        let mut latest = 0;
        loop {
            match packet {
                Packet::Data(block, payload) if block == expected => {
                    in_window += 1;
                    file.extend(&payload);
                    let last = payload.len() < block_size;
                    if last || in_window == window {
                        self.send_to(&ack(block), tid);
                        in_window = 0;
                    }
                    if last {
                        return Ok(file);
                    }
                    expected = next_block(block, after_last);
                    latest = block;
                }
                // The last block again, in mid-window: the server wants an ACK.
                Packet::Data(block, _) if block == latest && in_window > 0 => {
                    self.send_to(&ack(block), tid);
                    in_window = 0;
                }
                // A duplicate: the next ACK will tell the server.
                Packet::Data(..) | Packet::Oack(_) => {}
                Packet::Error(code, text) => return Err((code, text)),
                other => panic!("DATA {expected} wanted, not {other:?}"),
            }
            packet = self.expect_from(tid);
        }
    }

    /// Uploads a file in octet mode without options.
    pub fn write(&self, name: &str, file: &[u8]) -> Result<(), (u16, String)> {
        self.write_with(&wrq(name, &[]), file, BLOCK, 1, 0)
    }

    /// Uploads with the given request. The server must accept all its options.
    /// Block 65535 is followed by `after_last` (0 or 1).
    pub fn write_with(
        &self,
        request: &[u8],
        file: &[u8],
        block_size: usize,
        window: usize,
        after_last: u16,
    ) -> Result<(), (u16, String)> {
        let (packet, tid) = self.ask_patiently(request);
        if let Packet::Error(code, text) = packet {
            return Err((code, text));
        }
        let last = file.len() / block_size + 1;
        let mut number = 0;
        for index in 1..=last {
            number = next_block(number, after_last);
            let rest = &file[(index - 1) * block_size..];
            let block = data(number, &rest[..rest.len().min(block_size)]);
            self.send_to(&block, tid);
            if index % window == 0 || index == last {
                loop {
                    match self.expect_from(tid) {
                        Packet::Ack(acked) if acked == number => break,
                        Packet::Error(code, text) => return Err((code, text)),
                        // A duplicate.
                        Packet::Ack(_) => {}
                        other => panic!("ACK {number} wanted, not {other:?}"),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The number of the block after `block`.
pub fn next_block(block: u16, after_last: u16) -> u16 {
    block.checked_add(1).unwrap_or(after_last)
}
