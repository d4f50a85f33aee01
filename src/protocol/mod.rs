//! Layer 1: one transfer as a state machine.
//!
//! A [`Transfer`](transfer::Transfer) moves one file in one direction. It is
//! told what arrived and what time it is, and it answers with numbers: which
//! datagram or which run of blocks to send next, and when to be woken. It
//! performs no I/O, reads no clock and owns no file data.

pub mod block;
mod contract;
mod exchange;
#[cfg(test)]
mod lossy;
mod nack;
mod pace;
pub mod receiver;
pub mod retry;
#[cfg(test)]
mod script;
pub mod sender;
pub mod timer;
pub mod transfer;
