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
//! Layers import downwards only, and no two files of a folder import each other;
//! `tests/layering.rs` checks both.
//!
//! | layer | folder | what it is | must not |
//! |---|---|---|---|
//! | 0 | [`wire`] | packets, options, netascii: bytes in, values out, and back | know a transfer |
//! | 1 | [`protocol`] | one transfer as a state machine: sender, receiver, when to repeat | read a clock, a file, a socket |
//! | 2 | [`table`] | all transfers: admission, repeated requests, who gives way, the timer wheel, rate limits | know what a session does |
//! | 3 | [`net`] | datagrams and the kernel: sockets, batches, segmentation offload | know what is in a packet |
//! | 3 | [`mod@file`] | names and the root, reading now or later, uploads until they have their name | know a peer |
//! | 3 | [`policy`] | a request in; a root and a name out, or a refusal | open a file |
//! | 3 | [`log`] | typed events, as text, JSON, journal or syslog lines, each kind bounded | decide anything |
//! | 3 | [`host`] | clock, signals, privileges, sandbox, inherited sockets, pid file | know TFTP |
//! | 4 | [`session`] | a transfer with its port and its file: the order of a turn | read a clock, own a concrete socket |
//! | 5 | [`server`] | the loop of `tftpd` | – |
//! | 5 | `client` | the command `tftp` (feature `client`) | – |
//! | 6 | `bin` | the plot of each program | – |
//!
//! # Six walks through the house
//!
//! Each in the order of the files.
//!
//! **A read request (RRQ).** `server/front` receives a batch → `server/requests`
//! parses it with `wire/packet` and asks `table` whether it is new, a repeat, or
//! must wait outside → `policy` settles the root and the name, map file included →
//! `file/root` opens it → `wire/options` negotiates → `protocol/sender` is made →
//! `server/floor` takes a port (`net`) and stores the session in `table` →
//! `session/outbound` sends what the sender offers: the OACK, or the first block.
//!
//! **An ACK.** `server/mod` sees the socket ready → `server/floor` finds the session
//! → `session/inbound` takes in all that is there, and turns strangers away →
//! `protocol/sender` moves its base (`protocol/nack` tells a NACK from an echo,
//! `protocol/retry` measures the round trip) → `session/outbound` polls it once:
//! a run of blocks, from `session/prefetch` or read by `file/source` → `net` sends
//! the run with one call → `session/prefetch` reads the next one while the answer
//! is on its way.
//!
//! **A DATA.** The same way to `session/inbound` → `protocol/receiver` hands the
//! payload to `file/sink`, which collects it → `session/outbound` polls: before an
//! ACK is made the core has the sink write everything (`Written`), before the
//! final one it has the upload take its name (`Committed`, `file/upload`) → the
//! ACK leaves.
//!
//! **A timeout.** `table/wheel` says that a session may be due, the session's own
//! deadline decides → `server/floor` → `session` looks for an answer first →
//! `protocol/sender` or `protocol/receiver`: [`protocol::timer::Timer`] says what
//! the deadline is for, `protocol/retry` whether patience is left →
//! `session/outbound` sends what is offered again. Nothing left: the outcome goes
//! to `server/report`, and `server/floor` frees the slot.
//!
//! **A repeated request.** `server/requests` → `table` knows the endpoint →
//! `table/repeat`, the one place with the rule → the answer once more
//! (`protocol/exchange`), a new transfer in place of the old, or nothing.
//!
//! **A client's `get`.** `bin/tftp` → `client/cli` → `client/oneshot` (or
//! `client/prompt`) makes a `client/job` → `client/attempts` decides which address
//! is asked, when, and with which options (`client/schedule`) → `client/engine`
//! runs each attempt as a `session` with a `protocol/receiver` in it → `client/local`
//! puts the file in place → `client/report` prints the line and sets the exit
//! status.
//!
//! # Where to change what
//!
//! | what | where |
//! |---|---|
//! | what is done with a packet in a state | the table above `protocol/sender` and `protocol/receiver` |
//! | when something is sent again, when to give up | `protocol/retry`, `protocol/pace`, `protocol/nack` |
//! | an option | `wire/options`; what it means for a transfer: `protocol/exchange` |
//! | what a repeated request does | `table/repeat` |
//! | who gives way when slots are short | `table` |
//! | which name a request leads to | `policy/settle`, `file/name`, `policy/map` |
//! | what may be read or created | `file/root`, `file/resolve`, `file/upload` |
//! | the text or the code of an ERROR | `file/error`, `wire/packet` |
//! | a log line | `log/event`; when it is written: `server/report`; its bound: `log/bounds` |
//! | a command line option | `server/cli`, `client/cli`, then `UPDATE_DOCS=1 cargo test --test docs` |
//! | how the kernel is asked to send and receive | `net` |
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
//! | bytes fetched in the background | 256 KiB of a file, of 4 files on FUSE, NFS, overlayfs | [`mod@file`] |
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
//! | log lines | 100 a second of each kind (1,000 of `ended`), half of that for one client network | `log::bounds` |
//! | debug lines | 500 a second | `log::noise` |
//! | a log line | 4,096 bytes, cut | `log::target` |
//! | refusals told apart, to count repeats | 448, for 10 minutes after the last | `log::repeats` |
//! | searches of boot loaders that become one line | 64, for 10 seconds | `log::searches` |
//! | neighbour table read for a client's own root | 1 MiB | [`policy::client_root`] |
//! | directory entries read for a name in another case | 4096 | `file::ignore_case` |
//! | repeats to a peer that never answered | 3, of one datagram | [`protocol::transfer`] |
//! | repeats to a peer that did | `--retries`, waits up to 8 s | [`protocol::retry`] |
//! | block size, window | 65,464 bytes, `--max-windowsize` blocks | [`wire::options`] |
//! | name after a map file | 1024 bytes | [`policy`] |
//! | rules tried for a request | 1024, and each once | [`policy`] |
//! | map file, one compiled expression | 1 MiB, 64 KiB | [`policy`] |
//! | client: what it asks for | blocks of 1428 bytes, windows of 16 | `client::cli` |
//! | client: dallying | 100 ms; on a network that loses, the first wait | `client::engine` |
//! | upload | `--max-upload`, else the free space | [`mod@file`] |

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
