//! The physical limit: one client at a time, no protocol state but a block
//! number, no repeats, no deadlines.
//!
//! In lockstep a loop of wait, receive, read and send; with windows one read and
//! one send with segmentation offload for each window.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::uio::preadv;
use tftpd::net::{MAX_SEGMENTS, MAX_SEND};
use tftpd::protocol::block::{BlockIndex, Rollover};
use tftpd::wire::options::{Limits, Negotiated, negotiate};
use tftpd::wire::packet::{DATA_HEADER_LEN, Packet, emit_data_header};

/// A client silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(2);

/// Serves the files in `root` to one client after the other, forever.
pub(crate) fn serve(address: SocketAddr, root: &Path) -> io::Result<()> {
    let listener = UdpSocket::bind(address)?;
    let mut request = [0; 512];
    loop {
        let (len, peer) = listener.recv_from(&mut request)?;
        let Ok(Packet::Request(request)) = Packet::parse(&request[..len]) else {
            continue;
        };
        let name = std::ffi::OsStr::from_bytes(request.filename);
        let Ok(file) = File::open(root.join(name)) else {
            continue;
        };
        let mut oack = [0; 512];
        let (negotiated, len) = negotiate(&request, &Limits::default(), None, &mut oack);
        let socket = UdpSocket::bind((address.ip(), 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(peer)?;
        Transfer::new(socket, file, negotiated)?.run(&oack[..len])?;
    }
}

struct Transfer {
    socket: mio::net::UdpSocket,
    file: File,
    size: u64,
    block_size: usize,
    window: u64,
    buffer: Box<[u8]>,
}

impl Transfer {
    fn new(socket: UdpSocket, file: File, negotiated: Negotiated) -> io::Result<Self> {
        let block_size = usize::from(negotiated.blksize);
        if negotiated.windowsize > 1 {
            let segment = i32::try_from(block_size + DATA_HEADER_LEN).unwrap_or(i32::MAX);
            setsockopt(&socket, sockopt::UdpGsoSegment, &segment)?;
        }
        Ok(Self {
            socket: mio::net::UdpSocket::from_std(socket),
            size: file.metadata()?.len(),
            file,
            block_size,
            window: negotiated.windowsize.into(),
            buffer: vec![0; MAX_SEND].into_boxed_slice(),
        })
    }

    fn run(&mut self, oack: &[u8]) -> io::Result<()> {
        let last = BlockIndex(self.size / self.block_size as u64 + 1);
        let mut poll = Poll::new()?;
        poll.registry()
            .register(&mut self.socket, Token(0), Interest::READABLE)?;
        let mut events = Events::with_capacity(1);
        let mut answer = [0; 16];
        let mut sent = BlockIndex::HANDSHAKE;
        if oack.is_empty() {
            sent = self.send_window(sent, last)?;
        } else {
            self.socket.send(oack)?;
        }
        loop {
            poll.poll(&mut events, Some(SILENCE))?;
            if events.is_empty() {
                return Ok(());
            }
            // Only the ACK of all that was sent goes on: nothing is ever lost.
            let number = Rollover::ToZero.number_of(sent).0.to_be_bytes();
            let is_right = loop {
                match self.socket.recv(&mut answer) {
                    Ok(_) if answer[2..4] == number => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            if !is_right {
                continue;
            }
            if sent == last {
                return Ok(());
            }
            sent = self.send_window(sent, last)?;
        }
    }

    fn send_window(&mut self, mut sent: BlockIndex, last: BlockIndex) -> io::Result<BlockIndex> {
        let end = BlockIndex((sent.0 + self.window).min(last.0));
        while sent < end {
            let count = if self.window == 1 {
                self.send_block(sent.plus(1))?
            } else {
                self.send_run(sent.plus(1), end.0 - sent.0)?
            };
            sent = sent.plus(count);
        }
        Ok(sent)
    }

    fn send_block(&mut self, block: BlockIndex) -> io::Result<u64> {
        let buffer = &mut self.buffer[..DATA_HEADER_LEN + self.block_size];
        let (header, payload) = buffer.split_at_mut(DATA_HEADER_LEN);
        header.copy_from_slice(&emit_data_header(Rollover::ToZero.number_of(block)));
        let len = self.file.read_at(payload, block.offset(self.block_size))?;
        self.socket.send(&self.buffer[..DATA_HEADER_LEN + len])?;
        Ok(1)
    }

    fn send_run(&mut self, first: BlockIndex, count: u64) -> io::Result<u64> {
        let segment_size = DATA_HEADER_LEN + self.block_size;
        let fit = (MAX_SEND / segment_size).min(MAX_SEGMENTS);
        let count = count.min(fit as u64);
        let mut pieces: [IoSliceMut<'_>; MAX_SEGMENTS] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let segments = self.buffer.chunks_exact_mut(segment_size);
        for ((number, piece), segment) in (0..count).zip(&mut pieces).zip(segments) {
            let (header, payload) = segment.split_at_mut(DATA_HEADER_LEN);
            let number = Rollover::ToZero.number_of(first.plus(number));
            header.copy_from_slice(&emit_data_header(number));
            *piece = IoSliceMut::new(payload);
        }
        let offset = first.offset(self.block_size);
        let read = preadv(
            &self.file,
            &mut pieces[..count as usize],
            offset.cast_signed(),
        )?;
        self.socket
            .send(&self.buffer[..read + count as usize * DATA_HEADER_LEN])?;
        Ok(count)
    }
}
