//! A file being read: a descriptor and the size it was promised to have.
//!
//! Reads go by offset, so that any block can be produced again, and keep no
//! position. What the file holds may change under a transfer; what was promised
//! may not: fewer bytes than asked for mean that the file has shrunk.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::uio::{pread, preadv};

use super::error::StorageError;
use super::resolve::kind;

/// A regular file open for reading.
#[derive(Debug)]
pub struct ReadFile {
    file: OwnedFd,
    size: u64,
}

impl ReadFile {
    /// Takes a descriptor if it is a regular file's.
    pub(super) fn new(file: OwnedFd) -> Result<Self, StorageError> {
        let stat = fstat(&file)?;
        match kind(&stat) {
            SFlag::S_IFREG => Ok(Self {
                file,
                size: u64::try_from(stat.st_size).unwrap_or(0),
            }),
            SFlag::S_IFDIR => Err(StorageError::IS_DIRECTORY),
            _ => Err(StorageError::NOT_REGULAR),
        }
    }

    /// The file's size when it was opened, in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `slices`, one after the other, with what the file holds from
    /// `offset` (bytes) on, and returns how many bytes that were: fewer than the
    /// slices hold only at the end of the file. At most 1024 slices (`IOV_MAX`).
    ///
    /// The slices themselves are used up: build them anew for each call.
    ///
    /// # Errors
    /// Whatever the file system says, such as `EIO`.
    pub fn read_run(
        &self,
        offset: u64,
        mut slices: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StorageError> {
        let mut done = 0;
        IoSliceMut::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let from = super::file_offset(offset, done)?;
            match preadv(&self.file, slices, from) {
                Ok(0) => break,
                Ok(bytes) => {
                    done += bytes;
                    IoSliceMut::advance_slices(&mut slices, bytes);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    /// [`ReadFile::read_run`] into a single buffer.
    ///
    /// # Errors
    /// As there.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let mut done = 0;
        while done < buffer.len() {
            match pread(
                &self.file,
                &mut buffer[done..],
                super::file_offset(offset, done)?,
            ) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file_with(content: &[u8]) -> (tempfile::NamedTempFile, ReadFile) {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, content).unwrap();
        let file = ReadFile::new(fs::File::open(&path).unwrap().into()).unwrap();
        (path, file)
    }

    #[test]
    fn a_run_fills_its_slices_in_order() {
        let (_path, file) = file_with(b"0123456789");
        assert_eq!(file.size(), 10);
        for (offset, expected) in [
            (0, &b"012345"[..]),
            (3, b"345678"),
            (6, b"6789"),
            (10, b""),
            (11, b""),
        ] {
            let (mut first, mut second) = ([0; 4], [0; 2]);
            let read = file
                .read_run(
                    offset,
                    &mut [
                        IoSliceMut::new(&mut first),
                        IoSliceMut::new(&mut []),
                        IoSliceMut::new(&mut second),
                    ],
                )
                .unwrap();
            assert_eq!(read, expected.len(), "at {offset}");
            assert_eq!(&[&first[..], &second].concat()[..read], expected);
        }
        assert_eq!(file.read_run(0, &mut []), Ok(0));
    }

    #[test]
    fn an_offset_beyond_any_file_is_an_error_and_no_panic() {
        let (_path, file) = file_with(b"x");
        for offset in [u64::MAX, 1 << 63] {
            assert!(file.read_at(offset, &mut [0]).is_err(), "{offset}");
        }
    }

    #[test]
    fn a_shrunk_file_reads_short_of_its_promise() {
        let (path, file) = file_with(&[7; 1000]);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(600)
            .unwrap();
        let mut buffer = [0; 512];
        assert_eq!(file.size(), 1000);
        assert_eq!(file.read_at(0, &mut buffer), Ok(512));
        assert_eq!(file.read_at(512, &mut buffer), Ok(88));
        assert_eq!(file.read_at(600, &mut buffer), Ok(0));
    }

    #[test]
    fn a_grown_file_keeps_its_promised_size() {
        let (path, file) = file_with(b"short");
        fs::write(&path, b"much longer").unwrap();
        assert_eq!(file.size(), 5);
    }
}
