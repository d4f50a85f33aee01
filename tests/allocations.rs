//! A running transfer allocates nothing: the allocator itself counts the allocations of
//! the server's thread while thousands of blocks go by. It also counts the bytes for a
//! crowd of sessions, and for a session with `--single-port`.

#![allow(unsafe_code, reason = "an allocator can't be written without")]
#![allow(
    clippy::disallowed_methods,
    reason = "the client of the test is a second thread"
)]

#[path = "allocations/crowd.rs"]
mod crowd;
#[path = "allocations/single_port.rs"]
mod single_port;
#[path = "common/skipped.rs"]
mod skipped;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use skipped::skip;
use tftpd::server::Server;
use tftpd::server::cli::Args;
use tftpd::wire::packet::{BlockNumber, Packet, emit_ack, emit_data_header};

struct Counting;

thread_local! {
    /// Whether allocations of this thread are counted.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    /// The bytes that this thread holds, and the most that it ever held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    /// Where the bytes that this thread holds are published for other threads.
    static SHOWN: Cell<Option<&'static AtomicIsize>> = const { Cell::new(None) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Bytes that this thread holds now, and the most it has held.
fn held() -> (isize, isize) {
    HELD.get()
}

fn hold(more: usize, less: usize) {
    // In a thread that is ending, this may be gone already.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now + more.cast_signed() - less.cast_signed();
        held.set((now, most.max(now)));
    });
    if let Ok(Some(shown)) = SHOWN.try_with(Cell::get) {
        shown.fetch_add(taken(more) - taken(less), Ordering::SeqCst);
    }
}

/// What the system's allocator (glibc's) takes for this many bytes: it adds a header and
/// rounds up.
const fn taken(bytes: usize) -> isize {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => (bytes + 8).next_multiple_of(16).cast_signed(),
    }
}

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: everything is forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        hold(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Starts a server in a thread of its own, whose allocations are counted.
fn serve(root: &std::path::Path, more: &[&str]) -> SocketAddr {
    serve_in(root, more, || COUNTED.set(true))
}

/// Starts a server in a thread of its own; `begin` is called in that thread.
fn serve_in(
    root: &std::path::Path,
    more: &[&str],
    begin: impl FnOnce() + Send + 'static,
) -> SocketAddr {
    let words = ["tftpd", "-q", "-p", "0", "-a", "127.0.0.1", "-t", "5000"];
    let words = words.iter().chain(more).map(OsString::from);
    let args = Args::read(words.chain([root.into()])).expect("a good command line");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let server = Server::start(&args).expect("the server starts");
        tell.send(server.addresses()).expect("the test waits");
        begin();
        server.run().expect("the server runs");
    });
    told.recv().expect("an address")[0]
}

/// A transfer that must not allocate after its warm-up.
struct Case {
    mode: &'static str,
    block_size: usize,
    window: u16,
    blocks: u16,
}

impl Case {
    /// A request for this transfer.
    fn request(&self, opcode: u8, name: &str) -> Vec<u8> {
        let Self {
            mode,
            block_size,
            window,
            ..
        } = self;
        let options =
            format!("{name}\0{mode}\0blksize\0{block_size}\0windowsize\0{window}\0timeout\0100\0");
        [&[0, opcode], options.as_bytes()].concat()
    }

    /// The number of blocks before counting starts.
    fn warm_up(&self) -> u16 {
        self.blocks / 4
    }

    /// Sends a request and returns the OACK's sender.
    fn ask(&self, socket: &UdpSocket, server: SocketAddr, opcode: u8, name: &str) -> SocketAddr {
        socket
            .send_to(&self.request(opcode, name), server)
            .expect("a request");
        let mut buffer = [0; 512];
        let (len, tid) = socket.recv_from(&mut buffer).expect("an OACK");
        assert!(matches!(Packet::parse(&buffer[..len]), Ok(Packet::Oack(_))));
        tid
    }

    /// The number of allocations in the middle of a download.
    fn read(&self, server: SocketAddr, name: &str) -> u64 {
        let socket = client();
        let tid = self.ask(&socket, server, 1, name);
        let mut buffer = vec![0; self.block_size + 4];
        let mut before = 0;
        socket
            .send_to(&emit_ack(BlockNumber(0)), tid)
            .expect("an ACK");
        for next in 1..=self.blocks {
            loop {
                let len = socket.recv(&mut buffer).expect("DATA");
                let Ok(Packet::Data { block, payload }) = Packet::parse(&buffer[..len]) else {
                    panic!("no DATA");
                };
                // A repeated block asks for an ACK; with a single port the window starts
                // at one block.
                let is_next = block.0 == next;
                if !is_next || next.is_multiple_of(self.window) {
                    let last = if is_next { next } else { next - 1 };
                    socket
                        .send_to(&emit_ack(BlockNumber(last)), tid)
                        .expect("an ACK");
                }
                if is_next {
                    assert_eq!(payload.len(), self.block_size);
                    break;
                }
            }
            if next == self.warm_up() {
                before = ALLOCATIONS.load(Ordering::SeqCst);
            }
        }
        assert!(before > 0, "beginning a transfer allocates: it is counted");
        ALLOCATIONS.load(Ordering::SeqCst) - before
    }

    /// The number of allocations in the middle of an upload.
    fn write(&self, server: SocketAddr, name: &str) -> u64 {
        let socket = client();
        let tid = self.ask(&socket, server, 2, name);
        let mut data = vec![b'a'; self.block_size + 4];
        let mut before = 0;
        let mut answer = [0; 512];
        for next in 1..=self.blocks {
            data[..4].copy_from_slice(&emit_data_header(BlockNumber(next)));
            socket.send_to(&data, tid).expect("DATA");
            if next.is_multiple_of(self.window) {
                let len = socket.recv(&mut answer).expect("an ACK");
                let packet = Packet::parse(&answer[..len]);
                assert_eq!(packet, Ok(Packet::Ack(BlockNumber(next))));
            }
            if next == self.warm_up() {
                before = ALLOCATIONS.load(Ordering::SeqCst);
            }
        }
        assert!(before > 0, "beginning a transfer allocates: it is counted");
        ALLOCATIONS.load(Ordering::SeqCst) - before
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a timeout");
    // The largest window comes at once.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
    socket
}

#[test]
fn a_block_costs_no_allocation() {
    let case = |mode, block_size, window, blocks| Case {
        mode,
        block_size,
        window,
        blocks,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let content = vec![b'a'; 4_200_000];
    std::fs::write(directory.path().join("file"), &content).expect("a file");
    let own = serve(directory.path(), &[]);
    let shared = serve(directory.path(), &["--single-port"]);
    #[cfg(feature = "uploads")]
    let limited = serve(directory.path(), &["--max-upload-total", "1G"]);
    let is_root = nix::unistd::geteuid().is_root();
    for (index, case) in [
        case("octet", 512, 1, 4000),
        // Read ahead, and sent and received several blocks per system call.
        case("octet", 1428, 16, 2400),
        // More than a session may send in one turn.
        case("octet", 8192, 64, 448),
        case("netascii", 512, 1, 1000),
        case("netascii", 1428, 16, 640),
    ]
    .iter()
    .enumerate()
    {
        for (server, name) in [(own, "a port of its own"), (shared, "a shared port")] {
            let what = format!(
                "{}, {} × {}, through {name}",
                case.mode, case.window, case.block_size
            );
            // The largest window must fit into the sockets' buffers.
            if case.window == 64 && !is_root {
                skip(format_args!("{what} needs root"));
                continue;
            }
            // On a slow machine a prefetch buffer may be allocated late, but only once.
            let read = || case.read(server, "file");
            assert!((0..3).any(|_| read() == 0), "reading {what}");
            let upload = format!("upload-{index}-{}", server.port());
            assert_eq!(case.write(server, &upload), 0, "writing {what}");
        }
        #[cfg(feature = "uploads")]
        if case.window < 64 {
            let allocations = case.write(limited, &format!("limited-{index}"));
            assert_eq!(allocations, 0, "writing within a limit");
        }
    }
}
