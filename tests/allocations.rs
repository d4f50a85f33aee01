//! A running transfer allocates nothing: the server's thread is counted by the
//! allocator itself while thousands of blocks go by.

#![allow(unsafe_code, reason = "an allocator can't be written without")]
#![allow(
    clippy::disallowed_methods,
    reason = "the client of the test is a second thread"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tftpd::server::Server;
use tftpd::server::cli::Args;
use tftpd::wire::packet::{BlockNumber, Packet, emit_ack, emit_data_header};

struct Counting;

thread_local! {
    /// Whether this thread's allocations count.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOCKS: u16 = 4000;
const BLOCK: usize = 512;

/// Starts a server in a thread of its own, whose allocations count.
fn serve(root: &std::path::Path) -> SocketAddr {
    let words = ["tftpd", "-q", "-p", "0", "-a", "127.0.0.1", "-t", "5000"].map(OsString::from);
    let args = Args::read(words.into_iter().chain([root.into()])).expect("a good command line");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let server = Server::start(&args).expect("the server starts");
        tell.send(server.addresses()).expect("the test waits");
        COUNTED.set(true);
        server.run().expect("the server runs");
    });
    told.recv().expect("an address")[0]
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    socket
}

/// The allocations made between the blocks `from` and `to` of a transfer that
/// `step` moves on by one block.
fn allocations_between(from: u16, to: u16, mut step: impl FnMut(u16)) -> u64 {
    (1..=from).for_each(&mut step);
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    assert!(
        before > 0,
        "beginning a transfer allocates: the counter works"
    );
    (from + 1..=to).for_each(&mut step);
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

#[test]
fn a_block_costs_no_allocation() {
    let directory = tempfile::tempdir().expect("a directory");
    let content = vec![7; usize::from(BLOCKS) * BLOCK + 1];
    std::fs::write(directory.path().join("file"), &content).expect("a file");
    let server = serve(directory.path());
    let mut buffer = [0; 1024];

    let socket = client();
    socket
        .send_to(b"\0\x01file\0octet\0", server)
        .expect("an RRQ");
    let made = allocations_between(100, BLOCKS, |expected| {
        let (len, tid) = socket.recv_from(&mut buffer).expect("DATA");
        match Packet::parse(&buffer[..len]) {
            Ok(Packet::Data { block, payload }) => {
                assert_eq!((block, payload.len()), (BlockNumber(expected), BLOCK));
                socket.send_to(&emit_ack(block), tid).expect("an ACK");
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(made, 0, "reading {BLOCKS} blocks");

    let socket = client();
    socket
        .send_to(b"\0\x02upload\0octet\0", server)
        .expect("a WRQ");
    let made = allocations_between(100, BLOCKS, |next| {
        let (len, tid) = socket.recv_from(&mut buffer).expect("an ACK");
        assert_eq!(
            Packet::parse(&buffer[..len]),
            Ok(Packet::Ack(BlockNumber(next - 1)))
        );
        let mut data = [0; 4 + BLOCK];
        data[..4].copy_from_slice(&emit_data_header(BlockNumber(next)));
        socket.send_to(&data, tid).expect("DATA");
    });
    assert_eq!(made, 0, "writing {BLOCKS} blocks");
}
