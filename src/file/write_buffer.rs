//! Writing in runs: blocks that arrive together go into the file with one call.
//!
//! The buffer is the loop's, and empty whenever another session has its turn: it
//! is written out before the ACK that covers its blocks, and at the end of each
//! turn. Must not: hold data while a transfer waits.

use crate::file::content::{FileSink, Store};
use crate::protocol::transfer::{BlockSink, Committed, Failure, Written};

/// Bytes gathered before they are written in any case.
const CAPACITY: usize = 64 * 1024;

/// Payloads in order, not yet in the file.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
}

impl WriteBuffer {
    /// A sink that collects what comes for `file`.
    pub const fn sink_for<'a, S>(&'a mut self, file: &'a mut FileSink<S>) -> BufferedSink<'a, S> {
        BufferedSink {
            write_buffer: self,
            file,
        }
    }
}

/// A file whose blocks are collected on the way.
#[derive(Debug)]
pub struct BufferedSink<'a, S> {
    write_buffer: &'a mut WriteBuffer,
    file: &'a mut FileSink<S>,
}

impl<S: Store> BufferedSink<'_, S> {
    /// Writes out what was collected. If it can't be stored, it is gone.
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
        self.write_buffer.bytes.extend_from_slice(payload);
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
