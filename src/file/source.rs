//! The blocks of a file that is being sent, octet or netascii.
//!
//! Between a file, which knows bytes, and the protocol, which knows blocks.
//! Nothing is kept that could be read again: a stalled transfer costs a
//! descriptor and a position. Must not: open files, know about peers, wait for
//! the disk of its own accord.

use std::array::from_fn;
use std::io::IoSliceMut;

use super::StorageError;
use super::reading::ReadAt;
use super::reopen::ReadFile;
use crate::protocol::block::BlockIndex;
use crate::protocol::transfer::{BlockSource, Failure, Filled, Run};
use crate::wire::netascii::Encoder;
use crate::wire::packet::{DATA_HEADER_LEN, ErrorCode, Mode};

/// The most blocks one call reads, so that one call can send them.
pub const MAX_RUN: usize = 64;

/// Most runs that are read ahead in lockstep are no longer than this, in blocks: making
/// slices for the longest run would take longer than filling so few.
const SHORT_RUN: usize = 16;

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
pub enum FileSource<R = ReadFile> {
    /// The file's bytes as they are.
    Octet(R),
    /// The file as text.
    Netascii(Box<NetasciiSource<R>>),
}

impl FileSource {
    /// Whether the file was written to since it was opened: see
    /// [`ReadFile::has_changed`].
    pub fn has_changed(&self) -> bool {
        match self {
            Self::Octet(file) => file.has_changed(),
            Self::Netascii(text) => text.file.has_changed(),
        }
    }
}

impl<R: ReadAt> FileSource<R> {
    /// The file, to be sent in `mode`.
    pub fn new(file: R, mode: Mode) -> Self {
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

    /// Has what the last read missed brought into memory: see [`ReadAt::fetch`].
    pub fn fetch(&mut self) -> bool {
        self.file().fetch()
    }

    /// The next read waits for the disk: it was asked for too long.
    pub fn block(&mut self) {
        self.file().block();
    }

    /// Closes the file until it is read again, if that was allowed.
    pub fn close(&mut self) {
        self.file().close();
    }

    /// Whether the file is open.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Octet(file) => file.is_open(),
            Self::Netascii(text) => text.file.is_open(),
        }
    }

    /// Whether others have the file open as well: its descriptor stays if this one goes.
    pub fn has_other_readers(&self) -> bool {
        match self {
            Self::Octet(file) => file.sharing_key().is_some(),
            Self::Netascii(text) => text.file.sharing_key().is_some(),
        }
    }

    /// What stands for the file's blocks, if other transfers have it open as well; `None`
    /// for text, whose blocks depend on all that came before.
    pub fn sharing_key(&self) -> Option<u64> {
        match self {
            Self::Octet(file) => file.sharing_key(),
            Self::Netascii(_) => None,
        }
    }

    const fn file(&mut self) -> &mut R {
        match self {
            Self::Octet(file) => file,
            Self::Netascii(text) => &mut text.file,
        }
    }
}

impl<R: ReadAt> BlockSource for FileSource<R> {
    fn read_run(&mut self, run: Run, buf: &mut [u8]) -> Result<Option<Filled>, Failure> {
        match self {
            Self::Octet(file) => read_octets(file, run, buf),
            Self::Netascii(text) => text.read_run(run, buf),
        }
    }
}

/// Reads a run with one call, each block after its header.
fn read_octets(
    file: &mut impl ReadAt,
    run: Run,
    buf: &mut [u8],
) -> Result<Option<Filled>, Failure> {
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
    let read = if blocks <= SHORT_RUN {
        read_blocks::<SHORT_RUN>(file, run, blocks, payload, buf)?
    } else {
        read_blocks::<MAX_RUN>(file, run, blocks, payload, buf)?
    };
    whole(read, payload).map(|read| read.map(|_| filled))
}

/// Reads so many `blocks`, `MOST` at most, whose `payload` is so many bytes in all.
fn read_blocks<const MOST: usize>(
    file: &mut impl ReadAt,
    run: Run,
    blocks: usize,
    payload: usize,
    buf: &mut [u8],
) -> Result<Option<usize>, StorageError> {
    let block_size = usize::from(run.block_size);
    let mut slices: [IoSliceMut<'_>; MOST] = from_fn(|_| IoSliceMut::new(&mut []));
    let mut unfilled = payload;
    for (position, segment) in buf.chunks_mut(run.segment_size()).take(blocks).enumerate() {
        let (header, rest) = segment.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&run.header(position as u16));
        let len = unfilled.min(block_size);
        slices[position] = IoSliceMut::new(&mut rest[..len]);
        unfilled -= len;
    }
    file.read_run(run.first.offset(block_size), &mut slices[..blocks])
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
/// for again, and the one after the run read last.
#[derive(Debug)]
pub struct NetasciiSource<R = ReadFile> {
    file: R,
    base: Mark,
    ahead: Mark,
    /// Bytes on the wire, once the end was reached.
    length: Option<u64>,
}

impl<R: ReadAt> NetasciiSource<R> {
    fn new(file: R) -> Self {
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
