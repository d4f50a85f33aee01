//! Where the blocks of a file that is being received go, octet or netascii.
//!
//! Blocks that arrive together are written with one call: they are collected in
//! the loop's [`WriteBuffer`], which is empty again before another session has its
//! turn. Must not: open files, know about peers, hold data while a transfer waits.

use super::{StorageError, Upload};
use crate::protocol::transfer::{BlockSink, Committed, Failure, Written};
use crate::wire::netascii::Decoder;
use crate::wire::packet::{ErrorCode, Mode};

/// Bytes converted at a time from netascii.
const CHUNK: usize = 2048;

/// The most bytes collected before they are written: a window of 64 blocks of Ethernet
/// size is written with one call.
const CAPACITY: usize = 128 * 1024;

/// Where the bytes of a file that is being received go.
pub trait Store {
    /// Stores `bytes` at `offset`: right behind those stored before.
    ///
    /// # Errors
    /// When they can't be stored; the peer is told so.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Puts the file in place, now that all of it is there.
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

/// The way into a file for the blocks that a receiver gets.
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

    /// The store, until the file is in place.
    pub const fn store(&mut self) -> Option<&mut S> {
        self.store.as_mut()
    }

    /// Whether the file has yet to be put in place.
    pub const fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Bytes stored so far.
    pub const fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether bytes are stored as they come.
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

/// Payloads in order, not yet in the file.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
}

impl WriteBuffer {
    /// A sink that collects the blocks for `file`.
    pub const fn sink_for<'a, S>(&'a mut self, file: &'a mut FileSink<S>) -> BufferedSink<'a, S> {
        BufferedSink {
            write_buffer: self,
            file,
        }
    }
}

/// A file sink whose blocks are collected before they are written.
#[derive(Debug)]
pub struct BufferedSink<'a, S> {
    write_buffer: &'a mut WriteBuffer,
    file: &'a mut FileSink<S>,
}

impl<S: Store> BufferedSink<'_, S> {
    /// Writes what was collected. If that fails, the bytes are dropped.
    fn write_out(&mut self) -> Result<(), Failure> {
        let bytes = &mut self.write_buffer.bytes;
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write(bytes);
        bytes.clear();
        written
    }
}

impl<S: Store> BlockSink for BufferedSink<'_, S> {
    fn write(&mut self, payload: &[u8]) -> Result<(), Failure> {
        if self.write_buffer.bytes.len() + payload.len() > CAPACITY {
            self.write_out()?;
        }
        let bytes = &mut self.write_buffer.bytes;
        if bytes.capacity() == 0 {
            // Once and for all: memory isn't used before it is touched.
            bytes.reserve_exact(CAPACITY);
        }
        bytes.extend_from_slice(payload);
        Ok(())
    }

    fn flush(&mut self) -> Result<Written, Failure> {
        self.write_out()?;
        self.file.flush()
    }

    fn commit(&mut self) -> Result<Committed, Failure> {
        self.write_out()?;
        self.file.commit()
    }
}
