//! A session's turn, and what must hold after each.

use std::time::Instant;

use tftpd::protocol::block::BlockIndex;
use tftpd::session::{Context, Resources, Turn};
use tftpd::table::Tracked as _;

use super::network::Net;
use super::port::SimPort;
use super::server::{Link, lend};

/// What a session looks like before its turn.
struct Before {
    deadline: Option<Instant>,
    is_full: bool,
    has_nothing: bool,
    only_strangers: bool,
    position: Option<u64>,
    sent: u64,
    blocks: u64,
    verified: bool,
    retransmits: u64,
}

impl Before {
    fn of(net: &Net, session: &Link) -> Self {
        let own = session.port().own;
        let is_shared = session.port().is_shared();
        Self {
            deadline: session.transfer().poll_timeout(),
            is_full: session.waits_for_room(),
            has_nothing: is_shared || net.with(|network| network.is_empty(own)),
            only_strangers: !is_shared && net.with(|network| network.holds_only_strangers(own)),
            position: position(session),
            sent: net.with(|network| network.sent_by(own)),
            blocks: session.transfer().progress().blocks,
            verified: session.transfer().progress().verified,
            retransmits: session.transfer().progress().retransmits,
        }
    }
}

/// The block that a sender sends next.
fn position(session: &Link) -> Option<u64> {
    session.transfer().upcoming().map(|run| run.first.0)
}

/// Whether the peer's last block has been taken in without an ACK having left.
fn waits_for_final_ack(net: &Net, session: &Link) -> bool {
    let last = BlockIndex(session.transfer().progress().blocks);
    let number = session.transfer().negotiated().rollover.number_of(last);
    let (own, peer) = (session.port().own, session.peer());
    net.with(|network| network.owes_ack(own, peer, number.0))
}

/// The reason for a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Ready,
    Deadline,
    Shared,
    Told,
}

/// Lets a session work, as a loop does, and checks what must hold afterwards.
pub(crate) fn work(
    net: &Net,
    resources: &mut Resources,
    session: &mut Link,
    cause: Cause,
    turn: impl FnOnce(&mut Link, &mut Context<'_, SimPort>) -> Turn,
) -> Turn {
    let before = Before::of(net, session);
    let own = session.port().own;
    net.with(|network| network.begin_turn(own));
    let turn = lend(net, resources, session, turn);
    // Everything that came is taken in before it is answered, and answered together.
    let doubled = net.with(|network| network.doubled_in_turn(own));
    assert_eq!(doubled, None, "{own}: sent twice in one turn");
    let takes_in = matches!(cause, Cause::Ready | Cause::Deadline) && !session.port().is_shared();
    // In lockstep, nothing that follows the answer can be of use.
    let progress = session.transfer().progress();
    let has_moved = progress.blocks > before.blocks || progress.verified != before.verified;
    let is_lockstep = session.transfer().negotiated().windowsize == 1;
    if takes_in && turn == Turn::Waiting && !(is_lockstep && has_moved) {
        let is_overlooked = net.with(|network| network.is_overlooked(own));
        assert!(!is_overlooked, "{own}: a datagram stays in the socket");
    }
    // What the file brings meanwhile is sent, and that does move the deadline.
    let is_idle = before.sent == net.with(|network| network.sent_by(own));
    if cause == Cause::Ready && before.only_strangers && is_idle {
        let deadline = session.transfer().poll_timeout();
        assert_eq!(deadline, before.deadline, "a stranger moved a deadline");
    }
    // From then on the session may be evicted, and nobody would tell its peer.
    let is_safe = !session.is_over() || session.is_closed() || !waits_for_final_ack(net, session);
    assert!(is_safe, "{own}: it is over, but its final ACK is still due");
    if cause == Cause::Deadline && before.is_full && before.has_nothing && session.waits_for_room()
    {
        let (from, to) = (before.position.unwrap_or(0), position(session).unwrap_or(0));
        let again = session.transfer().progress().retransmits - before.retransmits;
        // A sender that goes on where it stopped sends each block once.
        assert!(
            session.is_closed() || to.checked_sub(from).is_some_and(|gone| again <= gone),
            "{own}: a full port was taken for silence"
        );
    }
    turn
}
