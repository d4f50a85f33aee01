//! An upload to the bare loop: one ACK per window, and the file is written in long
//! pieces, since nothing is promised before the last ACK.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write as _};

use tftpd::net::{Batch, MAX_COALESCED, MAX_SEGMENTS};
use tftpd::protocol::block::{BlockIndex, Rollover};
use tftpd::wire::options::Negotiated;
use tftpd::wire::packet::{DATA_HEADER_LEN, emit_ack};

use super::seat::{Connection, Step};

/// Bytes of lockstep blocks that are written with one call.
const GATHERED: usize = 32 << 10;

pub(super) struct Upload {
    file: File,
    /// Bytes that have come but aren't written yet, after room for a header.
    gathered: Vec<u8>,
    block_size: usize,
    window: u64,
    /// The last block that came.
    here: BlockIndex,
    /// The last block that was acknowledged.
    acknowledged: BlockIndex,
    /// Whether the client sends each block with a call of its own, once that is known.
    one_by_one: Option<bool>,
}

impl Upload {
    pub(super) fn new(file: File, negotiated: &Negotiated) -> Self {
        Self {
            file,
            gathered: Vec::new(),
            block_size: negotiated.blksize.into(),
            window: negotiated.windowsize.into(),
            here: BlockIndex::HANDSHAKE,
            acknowledged: BlockIndex::HANDSHAKE,
            one_by_one: None,
        }
    }

    pub(super) fn begin(&mut self, connection: &mut Connection, oack: &[u8]) -> io::Result<()> {
        connection.coalesce(self.window > 1)?;
        if oack.is_empty() {
            self.acknowledge(connection)
        } else {
            connection.send_one(oack)
        }
    }

    pub(super) fn step(
        &mut self,
        connection: &mut Connection,
        batch: &mut Batch,
    ) -> io::Result<Step> {
        if self.window == 1 {
            self.take_block(connection)
        } else {
            self.take_window(connection, batch)
        }
    }

    /// In lockstep each block is received at its place in the buffer: its header overwrites
    /// the end of the block before, which is then restored.
    fn take_block(&mut self, connection: &mut Connection) -> io::Result<Step> {
        if self.gathered.is_empty() {
            let room = GATHERED.max(self.block_size) + self.block_size;
            self.gathered = vec![0; DATA_HEADER_LEN + room];
            self.gathered.truncate(DATA_HEADER_LEN);
        }
        let from = self.gathered.len() - DATA_HEADER_LEN;
        let mut covered = [0; DATA_HEADER_LEN];
        covered.copy_from_slice(&self.gathered[from..]);
        self.gathered
            .resize(from + DATA_HEADER_LEN + self.block_size, 0);
        let number = Rollover::ToZero.number_of(self.here.plus(1)).0;
        let received = loop {
            match connection.receive(&mut self.gathered[from..])? {
                Some(len) if self.gathered[from + 2..from + 4] == number.to_be_bytes() => {
                    break Some(len);
                }
                Some(_) => {}
                None => break None,
            }
        };
        self.gathered[from..from + DATA_HEADER_LEN].copy_from_slice(&covered);
        let end = from + received.unwrap_or(DATA_HEADER_LEN);
        self.gathered.truncate(end);
        let Some(len) = received else {
            return Ok(Step::Nothing);
        };
        self.here = self.here.plus(1);
        let is_last = len < DATA_HEADER_LEN + self.block_size;
        if is_last || self.gathered.len() >= GATHERED {
            self.file.write_all(&self.gathered[DATA_HEADER_LEN..])?;
            self.gathered.truncate(DATA_HEADER_LEN);
        }
        self.acknowledge(connection)?;
        Ok(if is_last { Step::Done } else { Step::Forward })
    }

    /// A window that has come whole is written from where it was received; parts of a
    /// window are gathered first.
    fn take_window(&mut self, connection: &mut Connection, batch: &mut Batch) -> io::Result<Step> {
        let segment = self.block_size + DATA_HEADER_LEN;
        let missing = (self.acknowledged.0 + self.window - self.here.0) as usize;
        let (slot, limit) = match self.one_by_one {
            Some(true) => (segment, missing),
            _ => (MAX_COALESCED, (missing * segment).div_ceil(MAX_COALESCED)),
        };
        let count = match batch.receive(&connection.socket, slot, limit) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Nothing),
            other => other?,
        };
        let mut pieces = [IoSlice::new(&[]); MAX_SEGMENTS];
        let (mut blocks, mut bytes, mut is_last) = (0, 0, false);
        let datagrams = (0..count).filter_map(|slot| batch.get(slot));
        for datagram in datagrams.filter(|it| it.peer == connection.peer) {
            if self.one_by_one.is_none() && missing > 1 {
                self.one_by_one = Some(datagram.segment.is_none());
            }
            for block in datagram.payload.chunks(segment) {
                let number = Rollover::ToZero.number_of(self.here.plus(1)).0;
                if block.len() < DATA_HEADER_LEN
                    || blocks == missing
                    || block[2..4] != number.to_be_bytes()
                {
                    continue;
                }
                self.here = self.here.plus(1);
                pieces[blocks] = IoSlice::new(&block[DATA_HEADER_LEN..]);
                blocks += 1;
                bytes += block.len() - DATA_HEADER_LEN;
                is_last |= block.len() < segment;
            }
        }
        let pieces = &pieces[..blocks];
        let is_whole = is_last || blocks == missing;
        if is_whole && self.gathered.is_empty() {
            let written = self.file.write_vectored(pieces)?;
            if written < bytes {
                return Err(ErrorKind::WriteZero.into());
            }
        } else {
            for piece in pieces {
                self.gathered.extend_from_slice(piece);
            }
        }
        if !is_whole {
            return Ok(Step::Part((missing - blocks) as u32));
        }
        if !self.gathered.is_empty() {
            self.file.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        if self.one_by_one == Some(true) {
            connection.coalesce(false)?;
        }
        self.acknowledge(connection)?;
        Ok(if is_last { Step::Done } else { Step::Forward })
    }

    fn acknowledge(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.acknowledged = self.here;
        let number = Rollover::ToZero.number_of(self.here);
        connection.send_one(&emit_ack(number))
    }
}
