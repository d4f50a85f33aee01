//! Data from a pipe or a device: read when it is needed, and kept only as long as it may
//! have to be sent again.
//!
//! What is kept is bounded: [`READ_AHEAD`] before the request, and a few of the largest
//! windows while the file is sent. Must not: block once a transfer runs.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::AsFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::file::{ReadAt, ReadFile, StorageError};

/// Bytes that are read before the server is asked, so that it needn't wait for a slow
/// pipe. If that is all there is, the server is told the size.
const READ_AHEAD: usize = 1 << 20;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Stands for a size that isn't known before the end is read.
pub(super) const UNKNOWN_SIZE: u64 = u64::MAX;

/// What has been read from a pipe or a device, and may still be needed.
#[derive(Debug)]
pub(super) struct StreamBuffer {
    file: File,
    bytes: Vec<u8>,
    /// Where in the stream `bytes` begins.
    start: u64,
    /// The end has been read.
    ended: bool,
    /// How many bytes to keep before those read last: they may be sent again.
    kept: usize,
}

impl StreamBuffer {
    /// Reads the first [`READ_AHEAD`] bytes, or all there are.
    ///
    /// # Errors
    /// Those of `read`, such as `EISDIR` for a directory.
    pub(super) fn open(mut file: File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let limit = READ_AHEAD as u64;
        let ended = (&mut file).take(limit).read_to_end(&mut bytes)? < READ_AHEAD;
        Ok(Self {
            file,
            bytes,
            start: 0,
            ended,
            kept: 0,
        })
    }

    /// How many bytes there are in all, as far as that is known.
    pub(super) fn size(&self) -> u64 {
        if self.ended {
            self.start + self.bytes.len() as u64
        } else {
            UNKNOWN_SIZE
        }
    }

    /// From now on keeps two windows of `bytes` each: one that may be sent again, and one
    /// that is read while the other is on its way.
    pub(super) fn keep_windows_of(&mut self, bytes: usize) {
        self.kept = self.kept.max(bytes.saturating_mul(2));
    }

    /// Reads until the bytes up to `end` are there, or no more come for now.
    fn fill(&mut self, end: u64) -> Result<(), StorageError> {
        while !self.ended && self.start + (self.bytes.len() as u64) < end {
            let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            // Devices that can't be polled are always ready.
            match poll(&mut polled, PollTimeout::ZERO) {
                Ok(0) | Err(Errno::EINTR) => return Ok(()),
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            let len = self.bytes.len();
            self.bytes.resize(len + CHUNK, 0);
            let read = self.file.read(&mut self.bytes[len..]);
            self.bytes.truncate(len + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(read) => self.ended = read == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(StorageError::of_io(&error)),
            }
        }
        Ok(())
    }

    /// Forgets bytes that lie more than `kept` before `offset`, many at a time.
    fn forget_before(&mut self, offset: u64) {
        let oldest = offset.saturating_sub(self.kept as u64);
        let spare = usize::try_from(oldest.saturating_sub(self.start)).unwrap_or(0);
        // Done seldom, since the bytes that stay have to be moved.
        if spare >= CHUNK && spare <= self.bytes.len() && spare >= self.bytes.len() / 2 {
            self.bytes.drain(..spare);
            self.start += spare as u64;
        }
    }

    /// As [`ReadAt::read_run`]. A call that finds the end tells nothing yet; the next one
    /// does, and by then the size is known.
    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let size_was_known = self.ended;
        self.fill(offset + wanted as u64)?;
        let from = offset.checked_sub(self.start);
        let from = from.and_then(|from| usize::try_from(from).ok());
        // Bytes that are read again lie within the windows that are kept.
        let mut rest = from
            .and_then(|from| self.bytes.get(from..))
            .unwrap_or_default();
        if rest.len() < wanted && !size_was_known {
            return Ok(None);
        }
        let mut read = 0;
        for slice in slices {
            let len = slice.len().min(rest.len());
            slice[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            read += len;
        }
        self.forget_before(offset);
        Ok(Some(read))
    }
}

/// What a transfer reads from.
#[derive(Debug)]
pub(super) enum InputReader {
    File(ReadFile),
    /// Shared by the attempts of one job.
    Stream(Rc<RefCell<StreamBuffer>>),
}

impl ReadAt for InputReader {
    fn size(&self) -> u64 {
        match self {
            Self::File(file) => ReadAt::size(file),
            Self::Stream(stream) => stream.borrow().size(),
        }
    }

    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        match self {
            Self::File(file) => ReadAt::read_run(file, offset, slices),
            Self::Stream(stream) => stream.borrow_mut().read_run(offset, slices),
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, StorageError> {
        match self {
            Self::File(file) => ReadAt::read_at(file, offset, buffer),
            Self::Stream(_) => self.read_run(offset, &mut [IoSliceMut::new(buffer)]),
        }
    }

    fn fetch(&mut self) -> bool {
        match self {
            Self::File(file) => ReadAt::fetch(file),
            Self::Stream(_) => true,
        }
    }

    fn block(&mut self) {
        match self {
            Self::File(file) => ReadAt::block(file),
            // The pipe's writer may take its time; a signal ends the wait.
            Self::Stream(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(stream: &mut StreamBuffer, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = stream.read_run(offset, &mut [IoSliceMut::new(&mut bytes)]);
        bytes.truncate(read.unwrap()?);
        Some(bytes)
    }

    #[test]
    fn a_stream_is_read_as_it_comes_and_its_end_is_told() {
        let (reader, mut writer) = io::pipe().unwrap();
        let first = vec![b'1'; READ_AHEAD];
        let thread = std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&first).unwrap());
            StreamBuffer::open(File::from(std::os::fd::OwnedFd::from(reader))).unwrap()
        });
        let mut stream = thread;
        stream.keep_windows_of(CHUNK);
        assert_eq!(stream.size(), UNKNOWN_SIZE);
        let end = READ_AHEAD as u64;
        assert_eq!(read(&mut stream, end - 2, 4), None);
        writer.write_all(b"22").unwrap();
        assert_eq!(read(&mut stream, end - 2, 4).unwrap(), b"1122");
        drop(writer);
        // The end has just been found: the size is known with the next call.
        assert_eq!(read(&mut stream, end, 4), None);
        assert_eq!(stream.size(), end + 2);
        assert_eq!(read(&mut stream, end, 4).unwrap(), b"22");
        // Two windows back.
        assert_eq!(read(&mut stream, end - 2 * CHUNK as u64, 1).unwrap(), b"1");
    }

    #[test]
    fn what_a_stream_keeps_is_bounded() {
        let zero = File::open("/dev/zero").unwrap();
        let mut stream = StreamBuffer::open(zero).unwrap();
        stream.keep_windows_of(16 * 1428);
        for block in 0..10_000 {
            assert_eq!(read(&mut stream, block * 1428, 1428).unwrap().len(), 1428);
            assert!(stream.bytes.len() <= READ_AHEAD + CHUNK);
        }
        assert!(stream.bytes.len() < READ_AHEAD / 2);
    }
}
