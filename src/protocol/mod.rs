//! Layer 1: one transfer as a state machine.
//!
//! A [`Transfer`](transfer::Transfer) moves one file in one direction. It is
//! told what arrived and what time it is, and it says which datagram or run of
//! blocks to send next, and when to be woken. It performs no I/O, reads no clock
//! and owns no file data.
//!
//! | file | what is there |
//! |---|---|
//! | [`transfer`] | the public face: what goes in, what comes out |
//! | [`sender`], [`receiver`] | the two machines; a table at the top of each says what a packet does in each state |
//! | `contract` | the types they share with their caller, all reexported by [`transfer`] |
//! | `exchange` | what both share: role, options, whether the peer has answered, the outcome |
//! | [`retry`], [`timer`] | when to send again and when to give up; what the one deadline is for |
//! | `answer_time` | how long the peer takes to answer |
//! | `nack` | what it means when a block is acknowledged again |
//! | `pace` | how much of a window goes out at once |
//! | [`block`] | block numbers on the wire, and what they stand for |
//!
//! | word | what it means |
//! |---|---|
//! | opening | our first datagram: a client's RRQ or WRQ; a server's OACK, ACK 0, or DATA 1 |
//! | base | the first block that isn't acknowledged |
//! | lockstep | a window of one block (RFC 1350) |
//! | silence | the deadline passed without an answer |
//! | patience | how long silence may last in all before the transfer is given up |
//! | burst | the part of a window that goes out at once, before a pause |
//! | NACK | the ACK of the block before the base, repeated too late to be an echo: the base was lost |
//! | echo | an ACK sent only because a packet arrived twice; nothing is missing, so nothing is sent again |
//! | tail probe | one block in flight, usually the last, sent again alone to make the receiver say how far it is |
//! | unverified | no answer has come yet, so the request may be forged |
//! | unproved | with `--single-port`, on a shared port, or with a range of fewer than 1,024 ports: an answer proves nothing, since someone who sees none of our packets can send one ([`Proof::Never`](transfer::Proof::Never)) |
//! | forged | sent by somebody else in the client's name |
//! | dallying | waiting after the final ACK, to repeat it if it was lost (RFC 1350 §6) |

mod answer_time;
pub mod block;
pub(crate) mod compact;
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
