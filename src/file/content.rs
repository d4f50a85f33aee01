//! A file's content as blocks: the source and the sink of a transfer, octet or
//! netascii.
//!
//! The layer between storage, which knows bytes, and the protocol, which knows
//! blocks. Nothing is kept that could be read again: a stalled transfer costs a
//! descriptor and a position. Must not: open files, know about peers.

use std::array::from_fn;
use std::io::IoSliceMut;

use crate::file::{ReadFile, StorageError, Upload};
use crate::protocol::block::BlockIndex;
use crate::protocol::transfer::{BlockSink, BlockSource, Committed, Failure, Filled, Run, Written};
use crate::wire::netascii::{Decoder, Encoder};
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, Mode};

/// The most blocks one call reads, so that one call can send them.
pub const MAX_RUN: usize = 64;

/// Bytes converted at a time between text and netascii.
const CHUNK: usize = 2048;

/// The promised size can't be kept (RFC 1350 knows no better code than 0).
const SHRUNK: Failure = Failure::new(
    ErrorCode::NotDefined,
    "File became shorter while being sent",
);

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new(error.code(), error.message())
    }
}

/// What a sender sends.
#[derive(Debug)]
pub enum FileSource {
    /// The file's bytes as they are.
    Octet(ReadFile),
    /// The file as text.
    Netascii(Box<NetasciiSource>),
}

impl FileSource {
    /// The file, to be sent in `mode`.
    pub fn new(file: ReadFile, mode: Mode) -> Self {
        match mode {
            Mode::Octet => Self::Octet(file),
            Mode::Netascii => Self::Netascii(Box::new(NetasciiSource::new(file))),
        }
    }

    /// Bytes that go over the wire, if that is known: of text, once all of it
    /// has been read.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Octet(file) => Some(file.size()),
            Self::Netascii(text) => text.length,
        }
    }

    /// The next read waits for the disk: it was asked for too long.
    pub fn wait(&mut self) {
        self.file().wait();
    }

    /// Has what the last read missed brought into memory; false if that has to
    /// wait its turn.
    pub fn fetch(&mut self) -> bool {
        self.file().fetch()
    }

    const fn file(&mut self) -> &mut ReadFile {
        match self {
            Self::Octet(file) => file,
            Self::Netascii(text) => &mut text.file,
        }
    }
}

impl BlockSource for FileSource {
    fn read_run(&mut self, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure> {
        match self {
            Self::Octet(file) => read_octets(file, run, buf),
            Self::Netascii(text) => text.read_run(run, buf),
        }
    }
}

/// Reads a run with one call, each block behind its header.
fn read_octets(file: &mut ReadFile, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure> {
    let block_size = usize::from(run.block_size);
    let offset = run.first.offset(block_size);
    let left = file.size().saturating_sub(offset);
    let room = buf.len() / run.segment_size();
    // What is left of the file, and the short (or empty) block that ends it.
    let blocks_left = left / u64::from(run.block_size) + 1;
    let blocks = usize::from(run.count)
        .min(room)
        .min(MAX_RUN)
        .min(usize::try_from(blocks_left).unwrap_or(MAX_RUN));
    let end = blocks as u64 == blocks_left;
    let payload = (blocks * block_size).min(usize::try_from(left).unwrap_or(usize::MAX));

    let filled = Filled {
        blocks: blocks as u16,
        bytes: blocks * DATA_HEADER_LEN + payload,
        end,
    };
    if let (1, Some((header, rest))) = (blocks, buf.split_at_mut_checked(DATA_HEADER_LEN)) {
        header.copy_from_slice(&run.header(0));
        // Cheaper than slices for a whole run.
        let read = file.read_at(offset, &mut rest[..payload])?;
        return whole(read, payload).map(|read| read.map(|_| filled));
    }
    let mut slices: [IoSliceMut<'_>; MAX_RUN] = from_fn(|_| IoSliceMut::new(&mut []));
    let mut unfilled = payload;
    for (position, segment) in buf.chunks_mut(run.segment_size()).take(blocks).enumerate() {
        let (header, rest) = segment.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&run.header(position as u16));
        let len = unfilled.min(block_size);
        slices[position] = IoSliceMut::new(&mut rest[..len]);
        unfilled -= len;
    }
    let read = file.read_run(offset, &mut slices[..blocks])?;
    whole(read, payload).map(|read| read.map(|_| filled))
}

/// What was read, if it is all that was promised.
const fn whole(read: Option<usize>, promised: usize) -> Result<Option<usize>, Failure> {
    match read {
        Some(read) if read < promised => Err(SHRUNK),
        read => Ok(read),
    }
}

/// Where in the file, and in the middle of which pair of bytes, a block begins.
#[derive(Debug, Clone, Copy)]
struct Mark {
    block: BlockIndex,
    offset: u64,
    encoder: Encoder,
}

/// A file as netascii. A block's place in the file depends on all line ends
/// before it, so two places are remembered: the first block that may be asked
/// for again, and the one behind the run read last.
#[derive(Debug)]
pub struct NetasciiSource {
    file: ReadFile,
    base: Mark,
    ahead: Mark,
    /// Bytes on the wire, once the end was reached.
    length: Option<u64>,
}

impl NetasciiSource {
    fn new(file: ReadFile) -> Self {
        let start = Mark {
            block: BlockIndex::FIRST,
            offset: 0,
            encoder: Encoder::default(),
        };
        Self {
            file,
            base: start,
            ahead: start,
            length: None,
        }
    }

    fn read_run(&mut self, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure> {
        let block_size = usize::from(run.block_size);
        let Some(base) = self.mark_of(run.base, block_size)? else {
            return Ok(None);
        };
        self.base = base;
        let Some(mut mark) = self.mark_of(run.first, block_size)? else {
            return Ok(None);
        };
        let mut filled = Filled {
            blocks: 0,
            bytes: 0,
            end: false,
        };
        for segment in buf
            .chunks_exact_mut(run.segment_size())
            .take(usize::from(run.count).min(MAX_RUN))
        {
            let (header, payload) = segment.split_at_mut(DATA_HEADER_LEN);
            header.copy_from_slice(&run.header(filled.blocks));
            let Some(len) = self.encode(&mut mark, payload)? else {
                return Ok(None);
            };
            mark.block = mark.block.plus(1);
            filled.blocks += 1;
            filled.bytes += DATA_HEADER_LEN + len;
            filled.end = len < block_size;
            if filled.end {
                let blocks_before = mark.block.0 - 2;
                self.length = Some(blocks_before * block_size as u64 + len as u64);
                break;
            }
        }
        self.ahead = mark;
        Ok(Some(filled))
    }

    /// The place where `block` begins, found from the nearest one remembered
    /// before it; `None` if the file isn't ready.
    fn mark_of(&mut self, block: BlockIndex, block_size: usize) -> Result<Option<Mark>, Failure> {
        let mut mark = if self.ahead.block <= block {
            self.ahead
        } else {
            self.base
        };
        debug_assert!(mark.block <= block, "a run before its base");
        let mut scratch = [0; CHUNK];
        while mark.block < block {
            let mut left = block_size;
            while left > 0 {
                let part = left.min(scratch.len());
                let encoded = self.encode(&mut mark, &mut scratch[..part])?;
                if whole(encoded, part)?.is_none() {
                    return Ok(None);
                }
                left -= part;
            }
            mark.block = mark.block.plus(1);
        }
        Ok(Some(mark))
    }

    /// Fills `output` with text from the mark on and moves the mark's place in
    /// the file; returns fewer bytes than `output` holds only at the file's end,
    /// `None` if the file isn't ready: the mark is of no use then.
    fn encode(&mut self, mark: &mut Mark, output: &mut [u8]) -> Result<Option<usize>, Failure> {
        let mut text = [0; CHUNK];
        let mut written = 0;
        while written < output.len() {
            // The file is what it was when it was opened, whatever it grows to.
            let left = self.file.size().saturating_sub(mark.offset);
            let wanted = (output.len() - written).min(CHUNK);
            let wanted = wanted.min(usize::try_from(left).unwrap_or(CHUNK));
            let read = self.file.read_at(mark.offset, &mut text[..wanted])?;
            let Some(read) = whole(read, wanted)? else {
                return Ok(None);
            };
            let progress = mark.encoder.encode(&text[..read], &mut output[written..]);
            mark.offset += progress.consumed as u64;
            written += progress.written;
            if read == 0 && progress.written == 0 {
                break;
            }
        }
        Ok(Some(written))
    }
}

/// Where the bytes of a file that is being received go.
pub trait Store {
    /// Stores `bytes` at `offset`: right behind those stored before.
    ///
    /// # Errors
    /// When they can't be stored; the peer is told so.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// All is there: puts the file in place.
    ///
    /// # Errors
    /// When it can't be; the peer is told so.
    fn commit(self) -> Result<(), StorageError>;
}

impl Store for Upload {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.write_at(offset, bytes)
    }

    fn commit(self) -> Result<(), StorageError> {
        self.commit().map(drop)
    }
}

/// What a receiver receives, on its way into a file.
#[derive(Debug)]
pub struct FileSink<S = Upload> {
    /// `None` once the file is in place.
    store: Option<S>,
    /// Bytes stored so far.
    stored: u64,
    text: Option<Decoder>,
}

impl<S: Store> FileSink<S> {
    /// A file that comes in `mode`.
    pub fn new(store: S, mode: Mode) -> Self {
        let text = (mode == Mode::Netascii).then(Decoder::default);
        Self {
            store: Some(store),
            stored: 0,
            text,
        }
    }

    /// Where it goes, until it is in place.
    pub const fn store(&mut self) -> Option<&mut S> {
        self.store.as_mut()
    }

    /// Bytes stored so far.
    pub const fn stored(&self) -> u64 {
        self.stored
    }

    /// Stored as they came, byte for byte.
    pub const fn is_octet(&self) -> bool {
        self.text.is_none()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(store) = &mut self.store else {
            return Err(Failure::new(
                ErrorCode::NotDefined,
                "File is complete already",
            ));
        };
        store.write_at(self.stored, bytes)?;
        self.stored += bytes.len() as u64;
        Ok(())
    }
}

impl<S: Store> BlockSink for FileSink<S> {
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let Some(mut decoder) = self.text else {
            return self.append(payload);
        };
        let mut rest = payload;
        let mut bytes = [0; CHUNK];
        loop {
            let progress = decoder.decode(rest, &mut bytes);
            if progress.consumed == 0 && progress.written == 0 {
                break;
            }
            self.append(&bytes[..progress.written])?;
            rest = &rest[progress.consumed..];
        }
        self.text = Some(decoder);
        Ok(())
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        Ok(Written)
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        if let Some(last) = self.text.and_then(Decoder::finish) {
            self.append(&[last])?;
        }
        if let Some(store) = self.store.take() {
            store.commit()?;
        }
        Ok(Committed(Written))
    }
}
