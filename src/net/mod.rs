//! Datagrams: the one place that talks to the kernel about them.
//!
//! A [`ListenSocket`] learns for each request which of our addresses it came
//! to; a [`TransferSocket`] is bound to that address and is our TID for one
//! transfer, or sends from the listen socket. All are non-blocking. Must not: know
//! what is in a datagram, keep sessions, decide when to send.

mod batch;
mod listen;
pub mod pool;
mod port_range;
mod transfer;

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

pub use batch::{Batch, Destination, MAX_DESCRIPTORS, Received, receive_with_descriptors};
pub use listen::{Binding, ListenSocket, SpareSocket};
pub use transfer::{RunSent, TransferSocket};

/// Bytes a socket's receive buffer usually has (`net.core.rmem_default`).
const DEFAULT_BUFFER: usize = 212_992;

/// The most segments one call may hand over for offload (`UDP_MAX_SEGMENTS` of
/// kernels before 6.9).
pub const MAX_SEGMENTS: usize = 64;

/// The most bytes one call may hand over, and the largest datagram of IPv4.
pub const MAX_SEND: usize = 65_507;

/// The most bytes that come as one where datagrams are coalesced: what a length
/// of 16 bits can say.
pub const MAX_COALESCED: usize = 65_535;

/// The largest DATA packet: blksize 65464 (RFC 2348) and its header.
pub const MAX_DATA_PACKET: usize = 65_468;

/// Beyond the system's limit only with `CAP_NET_ADMIN`; else as much as it allows.
fn set_receive_buffer(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}
