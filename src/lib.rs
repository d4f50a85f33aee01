//! A TFTP server and client: RFC 1350, 1123 §4.2.3.1, 2347, 2348, 2349, 7440.
//!
//! # Bird's-eye view
//!
//! One process, one thread, one `mio::Poll`. Requests come in on the listen
//! sockets; each transfer gets a socket of its own, bound to the address the
//! request came to, and a slot in the session table. Everything that decides is
//! a value without I/O: it is handed packets and the time, and answers with what
//! to send and when to be woken. The shell around it owns the sockets, the
//! files and the clock.
//!
//! # Map
//!
//! Layers import downwards only; `tests/layering.rs` holds them to it.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | 0 wire | [`wire::packet`] | the six packets, parsed and emitted |
//! | | [`wire::options`] | what is asked for and granted, on both sides |
//! | | [`wire::netascii`] | text with CR LF, resumable at any byte |
//! | 1 protocol | [`protocol::transfer`] | the face of both machines: inputs, outputs, call order |
//! | | [`protocol::sender`] | the DATA side: a server's RRQ, a client's WRQ |
//! | | [`protocol::receiver`] | the ACK side: a server's WRQ, a client's RRQ |
//! | | [`protocol::retry`] | when to send again, when to give up |
//! | | [`protocol::block`] | wire numbers and absolute block indices |
//! | 2 scheduling | [`table::wheel`] | the timer wheel |
//! | | [`table`] | who is served, who is due, who must wait outside |
//! | 3 system | [`file`] | the root, reads, atomic uploads |
//! | | [`policy`] | map files: a request's name in, a name or a refusal out |
//! | | [`net`] | datagrams, batches, segmentation offload |
//! | | [`host`] | signals, process limits, the service manager, what is given up at the start |
//! | | [`host::clock`] | what time it is |
//! | | [`host::usage`] | command lines that can't be followed |
//! | 4 session | [`file::FileSource`], [`file::FileSink`] | a file as blocks: octet or netascii |
//! | | [`session`] | a transfer with its socket and its file |
//! | 5 shell | [`server`] | the event loop of `tftpd` |
//! | | `client` | the command `tftp` (feature `client`) |
//!
//! # One read, from end to end
//!
//! listen socket readable → `recvmmsg` (who, and to which of our addresses) →
//! [`Packet::parse`](wire::packet::Packet::parse) →
//! [`Sessions::admit`](table::Sessions::admit) →
//! [`Root::open_read`](file::Root::open_read) →
//! [`negotiate`](wire::options::negotiate) → a
//! [`Sender`](protocol::sender::Sender) and a new socket in a session → OACK or
//! the first window → an ACK on the session's socket →
//! [`handle_packet`](protocol::transfer::Transfer::handle_packet) → the next
//! window, read with one `preadv2` behind its headers (small ones several at a
//! time) and sent with one call → … → the last block acknowledged → one line in
//! the log, the slot is free.
//!
//! # Invariants
//!
//! - Layers 0 to 2 read no clock, random source, file or socket. The same inputs
//!   give the same outputs; `tests/simulation.rs` replays whole networks by seed.
//! - A datagram from anyone but the peer changes no session, not even its
//!   deadline.
//! - A stalled session stores no file data: what was sent can be read again.
//! - No ACK before the data is written, no final ACK before the upload has its
//!   final name.
//! - Nothing is allocated for a request that is refused, nor per packet of a
//!   running transfer.
//! - A slot is freed in one place; every transfer ends with one outcome, one log
//!   line, one counter.
//! - The timer wheel is a hint and never early; a session's own deadline decides.
//!   Without sessions there is no wake-up.
//! - No byte is read from the network before every right that isn't needed has
//!   been given up.
//! - No byte from the network reaches the log unescaped, and none can panic.
//! - `unsafe` is in two modules: `net::batch`, for `recvmmsg`, `recvmsg` and
//!   `sendmsg`, and `file::nowait`, for `preadv2` and `mincore`.
//! - A read that would wait for the disk isn't made, where the file system can
//!   tell: its session sleeps until the pages have been fetched. Opening, writing
//!   and committing do wait, and all sessions with them.
//!
//! # Limits
//!
//! | what | bound | where |
//! |---|---|---|
//! | sessions | `--max-sessions`, or a third of the open files | [`table`] |
//! | request | 1024 bytes read, longer ones cut | [`server`] |
//! | requests taken a turn | a batch of 64 | `server::front` |
//! | datagrams a session takes a turn | 64 | [`session`] |
//! | bytes a session sends a turn | 256 KiB | [`session`] |
//! | blocks in one read and one send | 64, and 65,507 bytes | [`file::MAX_RUN`], [`net`] |
//! | blocks read ahead | 8 buffers of 64 KiB, 64 of 8 KiB, held for 50 ms after the last step | `session::prefetch` |
//! | waits of a session for its disk | 1 to 10 ms each, 20 for its turn; after 3 s all wait with it for that one read | `session::not_ready` |
//! | bytes fetched in the background | 256 KiB of a file, of 4 files on FUSE, NFS, overlayfs | [`file`] |
//! | sockets that rest | 512, for half a second, from 64 transfers at once on | [`net::pool`] |
//! | send buffer of `--single-port` | 8 MiB, and what the system allows | [`net`] |
//! | receive buffer of a transfer | 4 MiB, and what the system allows | [`net`] |
//! | sessions whose peer never answered | 16,384; any of them, chosen at random, gives way after 50 ms | [`table`] |
//! | silence, where slots are short | 10 s, then the longest silent of 512 gives way | [`table`] |
//! | sessions of one client (an IPv4 address, an IPv6 /64) | `--max-sessions-per-client`, else no bound | [`table`] |
//! | answers to unproved peers in a shared send buffer | half of it, in 4 s | `server::unproved` |
//! | answers to nonsense | 100 a second | [`session`] |
//! | ERRORs to refused requests | 10,000 a second | `server::requests` |
//! | log lines about dropped requests | 1 a second | `server::requests` |
//! | log lines about refusals and peers that never answered | 100 a second | `server::report` |
//! | refusals told apart, to count repeats | 2,048, for 10 minutes after the last, but for collisions | [`log::repeats`] |
//! | neighbour table read for a client's own root | 1 MiB | [`policy::client_root`] |
//! | directory entries read for a name in another case | 4096 | `file::ignore_case` |
//! | repeats to a peer that never answered | 3, of one datagram | [`protocol::transfer`] |
//! | repeats to a peer that did | `--retries`, waits up to 8 s | [`protocol::retry`] |
//! | block size, window | 65,464 bytes, `--max-windowsize` blocks | [`wire::options`] |
//! | name after a map file | 1024 bytes | [`policy`] |
//! | rules tried for a request | 1024, and each once | [`policy`] |
//! | map file, one compiled expression | 1 MiB, 64 KiB | [`policy`] |
//! | client: what it asks for | blocks of 1428 bytes, windows of 16 | `client::cli` |
//! | client: dallying | 100 ms; on a network that loses, the first wait | `client::transfer` |
//! | upload | `--max-upload`, else the free space | [`file`] |

#[cfg(feature = "client")]
pub mod client;
pub mod file;
pub mod host;
pub mod log;
pub mod net;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod session;
pub mod table;
pub mod wire;
