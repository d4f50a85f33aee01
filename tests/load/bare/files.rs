//! The files that the bare loop serves. A short one is read once and kept as DATA
//! packets: all its clients are sent the same bytes. A long one is read ahead, many
//! blocks with one call.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::uio::preadv;
use tftpd::net::MAX_SEGMENTS;
use tftpd::protocol::block::{BlockIndex, Rollover};
use tftpd::wire::options::Negotiated;
use tftpd::wire::packet::{DATA_HEADER_LEN, emit_data_header};

/// The longest file that is kept, in bytes.
const KEPT: u64 = 1 << 20;

/// Bytes that are read ahead, or a window if it is longer.
const AHEAD: usize = 96 << 10;

/// A file as DATA packets.
struct Kept {
    block_size: u16,
    packets: Rc<[u8]>,
}

pub(super) struct Files {
    root: PathBuf,
    /// By name.
    kept: HashMap<Vec<u8>, Vec<Kept>>,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            kept: HashMap::new(),
        }
    }

    pub(super) fn create(&self, name: &[u8]) -> io::Result<File> {
        let path = self.root.join(OsStr::from_bytes(name));
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    pub(super) fn open(&mut self, name: &[u8], negotiated: &Negotiated) -> io::Result<Source> {
        let all = self.kept.get(name).map_or(&[][..], Vec::as_slice);
        if let Some(kept) = all.iter().find(|it| it.block_size == negotiated.blksize) {
            return Ok(Source::Kept(Rc::clone(&kept.packets)));
        }
        let file = File::open(self.root.join(OsStr::from_bytes(name)))?;
        let len = file.metadata()?.len();
        let block_size = usize::from(negotiated.blksize);
        if len > KEPT {
            return Ok(Source::Long(Ahead::new(file, len, negotiated)));
        }
        let blocks = len as usize / block_size + 1;
        let mut packets = vec![0; blocks * DATA_HEADER_LEN + len as usize];
        let mut next = BlockIndex::FIRST;
        for run in packets.chunks_mut(MAX_SEGMENTS * (DATA_HEADER_LEN + block_size)) {
            fill(&file, run, next, block_size)?;
            next = next.plus(MAX_SEGMENTS as u64);
        }
        let packets: Rc<[u8]> = packets.into();
        self.kept.entry(name.to_owned()).or_default().push(Kept {
            block_size: negotiated.blksize,
            packets: Rc::clone(&packets),
        });
        Ok(Source::Kept(packets))
    }
}

/// The source of a transfer's DATA packets.
pub(super) enum Source {
    /// All packets of the file.
    Kept(Rc<[u8]>),
    Long(Ahead),
}

/// A file that is read ahead.
pub(super) struct Ahead {
    file: File,
    pub(super) len: u64,
    block_size: usize,
    /// The DATA packets that were read last. Those before `from` have been sent.
    packets: Box<[u8]>,
    from: usize,
    end: usize,
    next: BlockIndex,
}

impl Ahead {
    fn new(file: File, len: u64, negotiated: &Negotiated) -> Self {
        let block_size = usize::from(negotiated.blksize);
        let segment = block_size + DATA_HEADER_LEN;
        let window = usize::from(negotiated.windowsize);
        // Whole windows, so that each lies in one piece.
        let windows = (AHEAD.min(MAX_SEGMENTS * segment) / (window * segment)).max(1);
        Self {
            file,
            len,
            block_size,
            packets: vec![0; windows * window * segment].into_boxed_slice(),
            from: 0,
            end: 0,
            next: BlockIndex::FIRST,
        }
    }

    /// The next packets, at most `len` bytes of them.
    pub(super) fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        self.look_ahead()?;
        let from = self.from;
        self.from = self.end.min(from + len);
        Ok(&self.packets[from..self.from])
    }

    /// Reads the next packets if all have been sent.
    pub(super) fn look_ahead(&mut self) -> io::Result<()> {
        let offset = self.next.offset(self.block_size);
        if self.from < self.end || offset > self.len {
            return Ok(());
        }
        let segment = self.block_size + DATA_HEADER_LEN;
        let room = self.packets.len() / segment;
        let left = (self.len - offset) as usize;
        let blocks = (left / self.block_size + 1).min(room);
        let bytes = left.min(blocks * self.block_size) + blocks * DATA_HEADER_LEN;
        fill(
            &self.file,
            &mut self.packets[..bytes],
            self.next,
            self.block_size,
        )?;
        (self.from, self.end) = (0, bytes);
        self.next = self.next.plus(blocks as u64);
        Ok(())
    }
}

/// Fills `packets` with at most [`MAX_SEGMENTS`] DATA packets, with one call.
fn fill(file: &File, packets: &mut [u8], first: BlockIndex, block_size: usize) -> io::Result<()> {
    let mut pieces: [IoSliceMut<'_>; MAX_SEGMENTS] =
        std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut count = 0;
    let mut index = first;
    for (packet, piece) in packets
        .chunks_mut(block_size + DATA_HEADER_LEN)
        .zip(&mut pieces)
    {
        let (header, payload) = packet.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&emit_data_header(Rollover::ToZero.number_of(index)));
        *piece = IoSliceMut::new(payload);
        index = index.plus(1);
        count += 1;
    }
    let offset = first.offset(block_size).cast_signed();
    preadv(file, &mut pieces[..count], offset)?;
    Ok(())
}
