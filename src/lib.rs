//! A TFTP server and client: RFC 1350, 1123 §4.2.3.1, 2347, 2348, 2349, 7440.
//!
//! # Bird's-eye view
//!
//! One process, one thread, one `mio::Poll` (with `--workers` several such processes,
//! and one that starts them). Requests come in on the listen sockets; each transfer
//! gets a socket of its own (where ports or descriptors are short, a share of one),
//! bound to the address the request came to, and a slot in the session table. The part
//! that decides about packets does no I/O: it is handed packets and the time, and
//! answers with what to send and when to be woken. The shell around it owns the
//! sockets, the files and the clock.
//!
//! # Map
//!
//! Layers import downwards only, except for four pairs within a layer: `policy` uses
//! `file`, `log` uses `host`, and `server` uses `status` and `helper`. Within a folder
//! imports make no circle, except through its `mod.rs`. `tests/layering.rs` checks
//! both.
//!
//! | layer | folder | what it is | must not |
//! |---|---|---|---|
//! | 0 | [`wire`] | packets, options, netascii: bytes in, values out, and back | know a transfer |
//! | 1 | [`protocol`] | one transfer as a state machine: sender, receiver, when to repeat | read a clock, a file, a socket |
//! | 2 | [`table`] | all transfers: admission, repeated requests, who gives way, the timer wheel, rate limits | know what a session does |
//! | 3 | [`net`] | datagrams and the kernel: sockets, batches, segmentation offload | know what is in a packet |
//! | 3 | [`mod@file`] | names and the root, reading now or later, uploads until they have their name | know a peer |
//! | 3 | [`policy`] | a request in; a root and a name out, or a refusal | open a file for a client |
//! | 3 | [`log`] | typed events, as text, JSON, journal or syslog lines, each kind bounded | decide anything |
//! | 3 | [`host`] | clock, signals, privileges, sandbox, inherited sockets, pid file | know TFTP |
//! | 4 | [`session`] | a transfer with its port and its file: the order of a turn | read a clock that it wasn't lent, own a concrete socket |
//! | 5 | [`helper`] | another program beside the server: what it is told and asked | decide what becomes of a request |
//! | 5 | [`status`] | the status port: HTTP, the page, JSON, metrics (feature `status`) | change anything |
//! | 5 | [`server`] | the loop of `tftpd` | – |
//! | 5 | `client` | the command `tftp` (feature `client`) | – |
//! | 6 | `bin` | the outline of each program | – |
//!
//! # Walks through the house
//!
//! Each walk names the files in their order. A name like `protocol/nack` is a file
//! below `src`. Many are private and have no page here: read them in the source. The
//! words for what happens in a transfer (base, NACK, tail probe …) are explained in
//! [`protocol`].
//!
//! **A read request (RRQ).** `server/front` receives a batch → `server/requests` parses
//! it with `wire/packet` and asks `table` whether it is new, a repeat, or is dropped →
//! `server/opening`: `policy` settles the root and the name, map file included,
//! `file/root` opens it (once for all that read it: `file/open_files`), `wire/options`
//! negotiates, `server/ports` gives it a port (`net`), a `protocol/sender` is made →
//! `server/floor` gives it a place in `table` → `session/outbound` sends what the
//! sender has to send: the OACK, or DATA 1.
//!
//! **A write request (WRQ).** The same, but `file/root` begins an upload
//! (`file/upload`: there is no file before the first block, and none with its name
//! before the last), and a `protocol/receiver` is made: it sends the OACK, or ACK 0.
//!
//! **An ACK.** `server/mod` sees the socket ready and finds the session →
//! `server/floor` gives it its turn → `session/inbound` takes in what is there, and
//! turns strangers away → `protocol/sender` moves its base (`protocol/nack` tells a
//! NACK from an echo, `protocol/retry` measures the round trip) → `session/outbound`
//! polls it until nothing is due (how much of the window at once: `protocol/pace`): a
//! run of blocks, from `session/prefetch` or read by `file/source` → `net` sends the
//! run with one call → `session/prefetch` reads the next run while the answer is on its
//! way, unless it was read a moment ago for another transfer of the file.
//!
//! **A DATA.** The same way to `session/inbound` → `protocol/receiver` hands the
//! payload to `file/sink`, which collects it (in lockstep it is written at once); with
//! the last block the upload takes its name at once (`Committed`, `file/upload`) →
//! before an ACK, `session` writes the blocks that were collected: without that there
//! is no ACK (`Written`) → `session/outbound` polls → the ACK leaves.
//!
//! **A packet in single port.** `server/front` receives a batch on the listen socket
//! and sorts it: all datagrams of an endpoint that `table` knows go into one turn of
//! its session; RRQ, WRQ and strangers' datagrams go to `server/requests` as above. A
//! session that finds the shared socket full waits in `server/shared`; how much a
//! session may send in a turn is up to `session/shaper`.
//!
//! **A timeout.** `server/floor` asks `table/wheel` which session may be due; its own
//! deadline decides → `session` looks for an answer first → `protocol/sender` or
//! `protocol/receiver`: [`protocol::timer::Timer`] says what the deadline is for,
//! `protocol/exchange` and `protocol/retry` whether patience is left →
//! `session/outbound` sends what is due once more. With no patience left, the outcome
//! goes to `server/report`, and `server/floor` frees the slot.
//!
//! **A repeated request.** `server/requests` → `table` knows the endpoint →
//! `table/repeat`, which alone says what it is: the session's request again
//! (`protocol/exchange` says whether the answer goes out once more), a new transfer in
//! place of the old, or nothing.
//!
//! **A question to a helper.** `server/requests` asks `helper` before or after
//! `policy`, and the request waits in `helper/questions` → a line from the helper
//! (`helper/channel`, `helper/protocol`), or its time is up → `server/requests` begins
//! with the request again, with the answer in hand: another name, an open file, a
//! refusal, or nothing. The helper is told what the log is told (`server/report`).
//!
//! **A new program for running workers** (SIGUSR2). `server/upgrade` tries it with the
//! same command line → `server/supervisor` executes it in its own place;
//! `server/handover` keeps sockets and channels meanwhile → a new process for each
//! `server/slot` → `server/worker` is told over `server/channel` when it may read the
//! listen sockets → until the old process's last transfer has ended, the old process
//! reads them and passes on what belongs to none of its sessions (`server/relay`).
//!
//! **A client's `get`.** `bin/tftp` → `client/cli` → `client/oneshot` (or
//! `client/prompt`) makes a `client/job` → `client/attempts` decides which address
//! is asked, when (`client/schedule`) and with which options → `client/engine`
//! runs each attempt as a `session` with a `protocol/receiver` in it → `client/local`
//! puts the file in place → `client/report` prints the line; `client/job` knows the exit
//! status.
//!
//! **A look at the status port.** `server/mod` sees `status` ready, and calls it after
//! the transfers' turn → `status` accepts, reads and writes within a turn's bytes →
//! `status/connection` parses the request → `status/json` writes the sessions in
//! pieces, over several turns; `status/metrics` and `status/page` answer at once.
//! Transfers that have ended are in `status/history`, where `server/report` puts the
//! log's events. A worker's socket is opened by `server/supervisor`, and comes with the
//! listen sockets.
//!
//! # Where to change what
//!
//! | what | where |
//! |---|---|
//! | what is done with a packet in a state | the tables at the top of [`protocol::sender`] and [`protocol::receiver`] |
//! | when something is sent again, when to give up | [`protocol::retry`], `protocol/pace`, `protocol/nack` |
//! | an option | `wire/options`; what it means for a transfer: `protocol/exchange` |
//! | what a repeated request does | `table/repeat` |
//! | which addresses may ask at all | `policy/access` |
//! | a request that can't be parsed | `wire/packet` (`ParseError`), answered by `server/answers` |
//! | a datagram of a stranger | on a transfer's own port `session/inbound`, which answers; on a listen socket `server/requests`, on another shared port `server/front`, both answered by `server/answers` |
//! | what happens when a socket is full | `session/outbound`; how long room is waited for: `protocol/retry` (`hold`); a shared one: `server/shared` |
//! | what ICMP says: nobody is there | a server isn't told, since its sockets don't ask; for a client it is a hint, no answer: `session` (`trouble`), `client/attempts` |
//! | whom the client asks, when, and again without options | `client/attempts`, `client/schedule` |
//! | how long a server dallies | `protocol/contract` (10 s, and its bound) |
//! | who gives way when slots are short | `table/eviction` |
//! | what holds for which clients | `policy/rules`; what it means for a transfer: `server/terms`, `server/pacing` |
//! | which name a request leads to | `policy/settle`, `file/name`, `policy/map` |
//! | who gets a port of its own, who may share one, and what an answer to it proves | `session/tid`, asked by `server/opening`; which port: `server/ports` |
//! | when a file is opened, and who shares it | `file/open_files`; how it is read: `file/reading`, `file/fetch` |
//! | what may be read or created | `file/root`, `file/resolve`, `file/walk` (links), `file/upload` |
//! | two uploads of one name at once | `file/upload`: both run, and the name is settled at the end |
//! | which versions of an upload are kept | `file/versions`, `file/version_name`; how a new file takes the name: `file/publish` |
//! | a word of another server's command line | `server/familiar` |
//! | what root may not serve | `server/exposure` |
//! | a hint in a refusal | `server/hints`; at the end of a transfer: `server/ending` |
//! | the text or the code of an ERROR | `file/error`, `wire/packet`, `policy`; within a transfer where it fails (`Failure::new`) |
//! | a log line | `log/event`; when it is written: `server/report`; its bound: `log/bounds` |
//! | what the status port shows | `status/json`, `status/metrics`, `status/page.html` |
//! | a command line option | `server/cli`, `client/cli`, then `UPDATE_DOCS=1 cargo test --test docs` |
//! | how processes are started, replaced and stopped | `server/supervisor` |
//! | how the kernel is asked to send and receive | `net` |
//! | how the loops wait, and until when | `host/wait_timer`, set from `server/mod` and `client/engine` |
//!
//! # Invariants
//!
//! - Layers 0 to 2 read no clock, random source, file or socket. The same inputs
//!   give the same outputs; `tests/simulation.rs` replays whole networks by seed.
//! - A datagram from anyone but the peer changes no transfer, not even its deadline;
//!   with one exception: after DATA from a client's address to eight of our ports
//!   within a second, an unanswered transfer of that client's is ended by its first
//!   DATA, instead of begun ([`table::guesses`]).
//! - A stalled session stores no file data: what was sent can be read again.
//! - No ACK before the data is written, no final ACK before the upload has its
//!   final name.
//! - No session is allocated for a request that is refused, and nothing per packet of a
//!   running transfer (except two tables, once, for the first transfer whose peer isn't
//!   proved).
//! - A slot is freed in one place; every transfer that began ends with one outcome,
//!   one log line, one counter.
//! - The timer wheel is a hint and never early; a session's own deadline decides.
//!   Without sessions there is no regular wake-up but the watchdog's, if the service
//!   manager asks for one, and one each second while a helper that should run isn't
//!   there.
//! - No byte is read from the network before every right that isn't needed has
//!   been given up.
//! - No byte from the network reaches the log unescaped, and none can panic.
//! - `unsafe` is in two modules: `net::batch`, for `recvmmsg`, `recvmsg` and
//!   `sendmsg`, for a socket's figures and for descriptors that were received, and
//!   `file::syscalls`, for `preadv2`, `mincore` and `renameat2`.
//! - A file that several transfers read is open once, and no longer than it is read.
//! - A read that would wait for the disk isn't made, where the file system can
//!   tell: its session sleeps until the pages have been fetched. Opening, writing
//!   and committing do wait, and all sessions with them.
//!
//! # Limits
//!
//! | what | bound | where |
//! |---|---|---|
//! | sessions | `--max-sessions`, or what open files and memory allow | [`table`] |
//! | request | 1024 bytes read, longer ones cut | [`server`] |
//! | requests taken a turn | a batch of 64 | `server::front` |
//! | datagrams a session takes a turn | 64 | [`session`] |
//! | due sessions that have their turn before sockets are looked at again | 1,024 | `server::floor` |
//! | bytes a session sends a turn | 256 KiB | [`session`] |
//! | blocks in one read and one send | 64, and 65,507 bytes | [`file::MAX_RUN`], [`net`] |
//! | blocks read ahead | 8 buffers of 64 KiB, 128 of 8 KiB, held for 50 ms after the last step; transfers of one file share them | `session::prefetch` |
//! | waits of a session for its disk | 1 to 10 ms each, 20 for its turn; after 3 s all wait with it for that one read | `session::file_wait` |
//! | bytes fetched in the background | 256 KiB of a file, of 4 files on FUSE, NFS, overlayfs | [`mod@file`] |
//! | sockets that rest | 512, for half a second, from 64 transfers at once on | [`net::pool`] |
//! | workers | 64, each started again at most once a second; killed if not ready after 30 s, silent for `WatchdogSec`, or still there 5 s after its drain | `server::supervisor` |
//! | trial of a new program | 5 s, 64 KiB of what it says, of which 512 bytes are reported | `server::upgrade` |
//! | transfers of a worker that was replaced | 10 minutes, or `--grace` if longer | [`server`] |
//! | what waits for another worker | 16 MiB as the kernel counts (8 MiB are asked for, and it doubles them), or what the system allows; other requests are served by the old one, the rest is dropped | `server::channel` |
//! | send buffer of `--single-port` | 8 MiB, and what the system allows | [`net`] |
//! | receive buffer of a transfer | 4 MiB, and what the system allows | [`net`] |
//! | sessions whose peer never answered | 12,288; where that isn't enough, or slots are short, one of them, chosen at random, gives way, 50 ms old at least | [`table`] |
//! | silence, where slots are short | 10 s, then the longest silent of 512 gives way; where none is, the next look is a millisecond later | [`table`] |
//! | downloads that nobody has answered, with a slot of their own | a quarter of the slots, where the others may do without one | [`table`] |
//! | sessions of one client (an IPv4 address, an IPv6 /64) | `--max-sessions-per-client` whose peer has answered, and 512 whose peer hasn't; without the option no bound | [`table`] |
//! | bytes to a client network that nothing proves to be there | `--max-unproved-rate` a second, and that much at once | [`session::unproved`] |
//! | a client's part of a shared send buffer | 1/64 of what is left, once it is a quarter full | [`session::shaper`] |
//! | answers to unverified peers in each shared send buffer | a quarter of it, or up to 2,048 in half of it, in 4 s; half of that to one client network; more while less than a quarter of the buffer is taken | `server::unverified` |
//! | looks at what the kernel dropped | one a second after a full batch, and a log line a minute | `server::front` |
//! | answers to nonsense (malformed requests, strangers' datagrams) | 100 a second, half of them to one client network | [`session`] |
//! | ERRORs to refused requests | 10,000 a second, half of them to one client network | `server::requests` |
//! | log lines about dropped requests | 10 a second for each reason, 1 of them for one client network | `server::drops` |
//! | log lines | 100 a second of each kind (1,000 of `ended`), half of that for one client network | `log::bounds` |
//! | debug lines | 500 a second | `log::noise` |
//! | a log line | 4,096 bytes, cut | `log::target` |
//! | refusals told apart, to count repeats | 448, for 10 minutes after the last | `log::repeats` |
//! | searches of boot loaders that become one line | 64, for 10 seconds | `log::searches` |
//! | transfers listed on a signal | 200 | `server::report` |
//! | neighbour table read for a client's own root | 1 MiB | [`policy::client_root`] |
//! | directory entries read for a name in another case | 4096; 16 directories' are kept | `file::ignore_case` |
//! | look-ups, map rules and the neighbour table for all requests | a fifth of a second each second; half of it for names of more than 128 bytes | [`policy::work`] |
//! | a name on its way | 64 directories deep, 40 links | `file::walk` |
//! | names that a session keeps for the log | what was asked for, up to 96 bytes, and the file's own where it differs; of a longer one, only the file's | `server::opening` |
//! | ports that are tried in a client's name | after 8 within a second DATA ends its unanswered transfers; 256 addresses told apart | [`table::guesses`] |
//! | ports that transfers share | 6 for an address, 15 in all; 64 are tried | `server::ports` |
//! | repeats to a peer that never answered | 3 by our own timer, of one datagram; and one for each time it asks again | [`protocol::transfer`] |
//! | repeats to a peer that did | `--retries`, waits up to 8 s; without `-t` and `timeout` only waits of a second or more count; up to three more before a `timeout` of 2 s or more | [`protocol::retry`] |
//! | a transfer that doesn't move | 34 s by default; at most 60 s by the client's `timeout` | [`protocol::retry`] |
//! | block size, window | 65,464 bytes, `--max-windowsize` blocks | [`wire::options`] |
//! | name after a map file | 1024 bytes | [`policy`] |
//! | rules tried for a request | 1024, and each once | [`policy`] |
//! | bytes that rules look at for a request | 32 KiB, more for more than 512 rules | [`policy`] |
//! | map file, its rules, its expressions compiled | 1 MiB; 4,096; 4 MiB, each 64 KiB | [`policy`] |
//! | rules by client: sections, items of a list, patterns of names | 1,024; 256; 64 of 255 bytes | `policy::rules` |
//! | paced transfer: moved at once after a pause, saved up | 10 ms' worth; 100 ms' worth, or an upload's window | `server::pacing` |
//! | paced upload: a window | half a second's worth (one block of 512 bytes is always granted), and 256 KiB | `server::pacing` |
//! | questions to a helper | 256, 128 of one client network, for `--ask-timeout` | [`helper`] |
//! | lines that wait for a helper; one of its lines | 256 KiB; 64 KiB | [`helper`] |
//! | client: what it requests | blocks of 1428 bytes, windows of 16 | `client::cli` |
//! | server: dallying | 10 s, or the first wait if longer, at most 60 s; or until its slot is needed | [`protocol::transfer`] |
//! | client: dallying | 100 ms; on a network that loses, the first wait, at most 2 s | `client::engine` |
//! | directory entries read to sweep | 16,384, with each 64th upload to a directory; 64 directories told apart | `file::publish`, `file::space` |
//! | temporary file where hosts share a file system | swept after 10 minutes without a write | `file::publish` |
//! | status port | 32 connections, requests of 4 KiB, 16 KiB a turn, 5 s to ask, 30 s to be read; 200 that ended are kept | [`status`] |
//! | upload | `--max-upload`, else the free space | [`mod@file`] |
//! | versions of a file | `--keep-versions`; 65,536 names looked at, 64 removed with an upload | `file::versions` |
//! | directories made for uploads, and not yet kept | 64 | `file::made_dirs` |
//! | files counted for `--max-upload-total` | 100,000, after the first time 256 a turn and for 0.5 ms; then a rest of 20 times as long; once a minute the log hears that it failed | `file::quota` |
//! | requests to a broadcast address that are answered | 100 a second | `server::requests` |

#[cfg(feature = "client")]
pub mod client;
pub mod file;
#[cfg_attr(not(feature = "helper"), path = "helper/none.rs")]
pub mod helper;
pub mod host;
pub mod log;
pub mod net;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod session;
#[cfg(feature = "status")]
pub mod status;
#[cfg(not(feature = "status"))]
#[path = "status/off.rs"]
pub mod status;
pub mod table;
pub mod wire;
