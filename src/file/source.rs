//! The blocks of a file that is being sent, octet or netascii.
//!
//! Stands between a file, which knows bytes, and the protocol, which knows blocks.
//! Keeps nothing that could be read again: a stalled transfer costs a descriptor
//! and a position. Must not: open files, know about peers, wait for the disk
//! unless the session says so.

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

/// Most runs that are read ahead in lockstep are no longer than this, in blocks: for so
/// few, making slices for the longest run would take longer than the read itself.
const SHORT_RUN: usize = 16;

/// Bytes converted at a time between text and netascii.
const CHUNK: usize = 2048;

/// The file no longer has the promised size (RFC 1350 has no better code than 0).
const SHRUNK: Failure = Failure::new(
    ErrorCode::NotDefined,
    "File became shorter while being sent",
);

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new(error.code(), error.message())
    }
}

/// A file as a source of blocks.
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

    /// Bytes that go over the wire, if known; for text, only after all of it has
    /// been read.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Octet(file) => Some(file.size()),
            Self::Netascii(text) => text.length,
        }
    }

    /// Has the data that the last read missed fetched: see [`ReadAt::fetch`].
    pub fn fetch(&mut self) -> bool {
        self.file().fetch()
    }

    /// Makes the next read wait for the disk: the session has waited too long.
    pub fn block(&mut self) {
        self.file().block();
    }

    /// Closes the file until it is read again, if it is closable.
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

    /// Whether other transfers have the file open as well: then its descriptor stays
    /// open if this one ends.
    pub fn has_other_readers(&self) -> bool {
        match self {
            Self::Octet(file) => file.sharing_key().is_some(),
            Self::Netascii(text) => text.file.sharing_key().is_some(),
        }
    }

    /// A key for the file's blocks, if other transfers have it open as well; `None` for
    /// text, whose blocks depend on all that came before.
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
    // The full blocks that are left, and the short (or empty) one that ends the file.
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

/// Reads `blocks` blocks, `MOST` at most, with `payload` bytes in all.
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

/// Fails if less was read than was promised.
const fn whole(read: Option<usize>, promised: usize) -> Result<Option<usize>, Failure> {
    match read {
        Some(read) if read < promised => Err(SHRUNK),
        read => Ok(read),
    }
}

/// Where in the file a block begins, and the encoder's state there: a block may begin
/// in the middle of a pair of bytes (CR LF, CR NUL).
#[derive(Debug, Clone, Copy)]
struct Mark {
    block: BlockIndex,
    offset: u64,
    encoder: Encoder,
}

/// A file as netascii. A block's place in the file depends on all line ends
/// before it, so two places are remembered: that of the first block that may be
/// asked for again, and that of the block after the run read last.
#[derive(Debug)]
pub struct NetasciiSource<R = ReadFile> {
    file: R,
    base: Mark,
    ahead: Mark,
    /// Bytes on the wire; known once the end has been reached.
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

    /// The place where `block` begins, found from the nearest remembered place
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

    /// Fills `output` with text from the mark on, and moves the mark's place in
    /// the file. Returns the number of bytes, fewer than `output` holds only at the
    /// file's end; `None` if the file isn't ready, and then the mark is of no use.
    fn encode(&mut self, mark: &mut Mark, output: &mut [u8]) -> Result<Option<usize>, Failure> {
        let mut text = [0; CHUNK];
        let mut written = 0;
        while written < output.len() {
            // The file ends where it ended when it was opened, even if it grows.
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
