//! Layer 1: one transfer as a state machine.
//!
//! A [`Transfer`](transfer::Transfer) moves one file in one direction. It is
//! told what arrived and what time it is, and it says which datagram or run of
//! blocks to send next, and when to be woken. It performs no I/O, reads no clock
//! and owns no file data.
//!
//! | file | what is there |
//! |---|---|
//! | [`transfer`] | the face: what goes in, what comes out |
//! | [`sender`], [`receiver`] | the two machines; at the top of each a table: what is done with a packet in a state |
//! | `contract` | the words they share with their caller; all are in [`transfer`] |
//! | `exchange` | what both share: role, options, whether the peer has answered, the outcome |
//! | [`retry`], [`timer`] | when something is sent again, when to give up; what the one deadline is for |
//! | `nack` | what it means when a block is acknowledged once more |
//! | `pace` | how much of a window goes out at once |
//! | [`block`] | block numbers on the wire, and what they stand for |
//!
//! | word | what it means |
//! |---|---|
//! | opening | the first datagram of ours: a client's RRQ or WRQ; a server's OACK, ACK 0, or DATA 1 |
//! | base | the first block that isn't acknowledged |
//! | lockstep | a window of one block (RFC 1350) |
//! | silence | a deadline came, and no answer |
//! | patience | how long silence may last in all until the transfer is given up |
//! | burst | a part of a window that goes out at once, before a pause |
//! | NACK | the ACK of the block before the base, once more, and so late that it is no echo: the base was lost |
//! | echo | the same or another ACK once more, since something came twice: nothing is missing, so nothing is sent again for it |
//! | tail probe | one block in flight, usually the last, sent again alone to make the receiver say how far it is |
//! | unverified | no answer has come yet: perhaps nobody asked for this |
//! | unproved | with `--single-port`, on a shared port, or with a range of fewer than 1,024 ports: an answer proves nothing, since it can be sent by someone who sees nothing of ours ([`Proof::Never`](transfer::Proof::Never)) |
//! | forged | sent in the client's name by somebody else |
//! | dallying | a receiver's time after its final ACK, to repeat it if it was lost (RFC 1350 §6) |

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
