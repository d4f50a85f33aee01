//! A download by the bare loop: each ACK of a window is answered with the next.

use std::io;

use tftpd::protocol::block::{BlockIndex, Rollover};
use tftpd::wire::options::Negotiated;
use tftpd::wire::packet::DATA_HEADER_LEN;

use super::files::Source;
use super::seat::{Connection, Step};

pub(super) struct Download {
    source: Source,
    /// The length of a DATA packet in bytes, except for the last.
    segment: usize,
    /// Blocks per window.
    window: u64,
    sent: BlockIndex,
    last: BlockIndex,
}

impl Download {
    pub(super) fn new(source: Source, negotiated: &Negotiated) -> Self {
        let block_size = usize::from(negotiated.blksize);
        let segment = block_size + DATA_HEADER_LEN;
        let blocks = match &source {
            Source::Kept(packets) => packets.len().div_ceil(segment) as u64,
            Source::Long(file) => file.len / block_size as u64 + 1,
        };
        Self {
            source,
            segment,
            window: negotiated.windowsize.into(),
            sent: BlockIndex::HANDSHAKE,
            last: BlockIndex(blocks),
        }
    }

    pub(super) fn begin(&mut self, connection: &mut Connection, oack: &[u8]) -> io::Result<()> {
        if oack.is_empty() {
            return self.send_window(connection);
        }
        connection.send_one(oack)?;
        self.look_ahead()
    }

    /// Only the ACK of everything sent counts: nothing is ever lost.
    pub(super) fn step(&mut self, connection: &mut Connection) -> io::Result<Step> {
        let number = Rollover::ToZero.number_of(self.sent).0.to_be_bytes();
        let mut answer = [0; 16];
        loop {
            match connection.receive(&mut answer)? {
                None => return Ok(Step::Nothing),
                Some(_) if answer[2..4] == number => break,
                Some(_) => {}
            }
        }
        if self.sent == self.last {
            return Ok(Step::Done);
        }
        self.send_window(connection)?;
        Ok(Step::Forward)
    }

    fn send_window(&mut self, connection: &mut Connection) -> io::Result<()> {
        let end = BlockIndex((self.sent.0 + self.window).min(self.last.0));
        let len = (end.0 - self.sent.0) as usize * self.segment;
        let packets = match &mut self.source {
            Source::Kept(packets) => {
                let from = self.sent.0 as usize * self.segment;
                &packets[from..packets.len().min(from + len)]
            }
            Source::Long(file) => file.take(len)?,
        };
        connection.send(packets, self.segment)?;
        self.sent = end;
        self.look_ahead()
    }

    /// Reads the next packets while the ACK is on its way.
    fn look_ahead(&mut self) -> io::Result<()> {
        match &mut self.source {
            Source::Kept(_) => Ok(()),
            Source::Long(file) => file.look_ahead(),
        }
    }
}
