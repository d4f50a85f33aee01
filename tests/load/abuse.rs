//! Abusive or dead clients: sessions that stall after the first block, and a flood
//! of requests whose senders never answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tftpd::net::{Batch, Binding, ListenSocket};
use tftpd::wire::packet::{BlockNumber, Direction, Mode, emit_ack, emit_request};

use crate::clock;
use crate::figures::{Figures, Metric};
use crate::process::Tree;

/// How long an idle server is observed.
const IDLE: Duration = Duration::from_secs(1);

/// The bytes of the request that both kinds of client send.
fn request(name: &str) -> io::Result<Vec<u8>> {
    let mut packet = [0; 128];
    let options = [("blksize", "1428")];
    let len = emit_request(
        Direction::Read,
        name.as_bytes(),
        Mode::Octet,
        options,
        &mut packet,
    )
    .map_err(io::Error::other)?;
    Ok(packet[..len].to_vec())
}

/// Opens `count` transfers of the file `name`, takes the first block of each and
/// falls silent; measures how much the server's memory has grown.
pub(crate) fn stall(
    server: SocketAddr,
    tree: Tree,
    name: &str,
    count: usize,
) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let listener = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_read_timeout(Some(IDLE))?;
    // The first second is for what the start has left to do; in the second one the
    // server is idle.
    for _ in 0..2 {
        let before = tree.wakeups();
        let _ = listener.recv(&mut [0; 1]);
        figures.set(
            Metric::IdleWakeups,
            tree.wakeups().saturating_sub(before) as f64,
        );
    }
    let idle = tree.resident_kib();
    figures.set(Metric::IdleKib, idle as f64);

    let request = request(name)?;
    let mut clients = Vec::with_capacity(count);
    let mut failures = 0;
    for _ in 0..count {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        client.set_read_timeout(Some(IDLE))?;
        let mut buffer = [0; 1500];
        client.send_to(&request, server)?;
        let begun = client.recv_from(&mut buffer).and_then(|(_, peer)| {
            client.send_to(&emit_ack(BlockNumber(0)), peer)?;
            client.recv(&mut buffer)
        });
        failures += usize::from(begun.is_err());
        clients.push(client);
        if failures > 10 {
            break;
        }
    }
    let grown = tree.resident_kib().saturating_sub(idle);
    figures.set(Metric::KibPerSession, grown as f64 / clients.len() as f64);
    figures.set(Metric::Failures, failures as f64);
    figures.set(Metric::PeakKib, (idle + grown) as f64);
    Ok(figures)
}

/// Requests from ever new addresses, none of which answers.
pub(crate) struct Flood {
    socket: ListenSocket,
    server: SocketAddr,
    request: Vec<u8>,
    batch: Batch,
    begin: Instant,
    sent: u32,
    replies: u64,
}

impl Flood {
    /// The number of requests, and the time in which they are sent.
    const REQUESTS: u32 = 20_000;
    pub(crate) const DURATION: Duration = Duration::from_secs(4);
    /// From the beginning until the last retransmit has come.
    const AFTERMATH: Duration = Duration::from_secs(12);
    const TICK: Duration = Duration::from_millis(1);

    pub(crate) fn new(server: SocketAddr, name: &str) -> io::Result<Self> {
        Ok(Self {
            socket: ListenSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), Binding::default())?,
            server,
            request: request(name)?,
            batch: Batch::new(64, 64 * 2048),
            begin: clock(),
            sent: 0,
            replies: 0,
        })
    }

    /// Sends what is due and counts what came back; returns when it wants to be
    /// called again.
    pub(crate) fn tick(&mut self, now: Instant) -> Instant {
        let elapsed = now
            .saturating_duration_since(self.begin)
            .min(Self::DURATION);
        let due = elapsed.as_secs_f64() / Self::DURATION.as_secs_f64() * f64::from(Self::REQUESTS);
        while f64::from(self.sent) < due {
            // An address in 127.1.0.0/16 for each request.
            let [_, _, high, low] = self.sent.to_be_bytes();
            let source = Ipv4Addr::new(127, 1, high, low);
            // Requests that the kernel won't take are lost: it's a flood.
            let _ = self
                .socket
                .answer(&self.request, self.server, IpAddr::V4(source), 0);
            self.sent += 1;
        }
        while let Ok(count) = self.socket.receive(&mut self.batch, 2048, 64) {
            self.replies += count as u64;
            if count < 64 {
                break;
            }
        }
        now + Self::TICK
    }

    /// Waits for the last retransmits, and reports.
    pub(crate) fn finish(
        mut self,
        figures: &mut Figures,
        mut watch: impl FnMut(Instant),
    ) -> io::Result<()> {
        let timer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        timer.set_read_timeout(Some(Duration::from_millis(5)))?;
        while clock() < self.begin + Self::AFTERMATH {
            self.tick(clock());
            watch(clock());
            let _ = timer.recv(&mut [0; 1]);
        }
        figures.set(
            Metric::RepliesPerRequest,
            self.replies as f64 / f64::from(self.sent),
        );
        Ok(())
    }
}
