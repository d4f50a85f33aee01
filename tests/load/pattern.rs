//! The content of the test files: bytes computed from the file's number and the
//! offset, so that every byte can be checked without keeping the file.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read as _, Write as _};
use std::path::Path;

/// The pattern repeats after this many bytes. A prime, so that two different blocks never
/// look alike, whatever the block size, even after a rollover of block numbers.
const PERIOD: usize = 65_521;

/// The longest piece asked for at once: the largest block.
const LONGEST: usize = 65_536;

/// The offset in the pattern from one file to the next, in bytes.
const FILE_STEP: u64 = 7919;

/// The bytes of every test file.
pub(crate) struct Pattern(Box<[u8]>);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut random = Random::new(1);
        let period: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
        Self(
            period
                .iter()
                .copied()
                .cycle()
                .take(PERIOD + LONGEST)
                .collect(),
        )
    }

    /// The `len` bytes (at most 65536) of file number `file` from `offset` on.
    pub(crate) fn at(&self, file: u32, offset: u64, len: usize) -> &[u8] {
        let start = (offset + u64::from(file) * FILE_STEP) % PERIOD as u64;
        &self.0[start as usize..][..len]
    }

    /// Writes file number `file` of `size` bytes.
    pub(crate) fn create(&self, path: &Path, file: u32, size: u64) -> io::Result<()> {
        let mut writer = BufWriter::new(File::create(path)?);
        for (offset, len) in pieces(size) {
            writer.write_all(self.at(file, offset, len))?;
        }
        writer.flush()
    }

    /// Reads back what a server has stored as file number `file`.
    pub(crate) fn verify(&self, path: &Path, file: u32, size: u64) -> io::Result<()> {
        let mut stored = File::open(path)?;
        let mut buffer = vec![0; LONGEST];
        for (offset, len) in pieces(size) {
            stored.read_exact(&mut buffer[..len])?;
            if buffer[..len] != *self.at(file, offset, len) {
                return Err(io::Error::new(ErrorKind::InvalidData, "wrong content"));
            }
        }
        match stored.read(&mut buffer)? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "too long")),
        }
    }
}

/// Offset and length of the pieces in which a file of `size` bytes is handled.
fn pieces(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size)
        .step_by(LONGEST)
        .map(move |offset| (offset, (size - offset).min(LONGEST as u64) as usize))
}

/// Numbers that look random and are the same in each run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }
}
