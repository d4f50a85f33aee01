//! What must hold once nothing happens any more.

use tftpd::protocol::transfer::Outcome;
use tftpd::wire::options::Offer;
use tftpd::wire::packet::{Direction, Mode};

use super::files::content;
use super::scenario::{Record, Wish, World};

impl Wish {
    /// The most datagrams that a perfect network needs for it: the request, its answer
    /// and the answer to that, the blocks, and an ACK for each window.
    fn datagrams_needed(&self) -> u64 {
        let bytes = content(self.file, self.size);
        // In netascii the end of a line takes two bytes.
        let long = match self.mode {
            Mode::Octet => 0,
            Mode::Netascii => bytes.iter().filter(|byte| b"\r\n".contains(byte)).count(),
        };
        let blocks = (bytes.len() + long) / usize::from(self.block_size()) + 1;
        (3 + blocks + blocks.div_ceil(self.window().into())) as u64
    }

    /// The part of [`Self::datagrams_needed`] that isn't used: an RRQ without options is
    /// answered with DATA at once, and so is the answer to a WRQ.
    fn datagrams_spared(&self) -> u64 {
        // The size of an empty file isn't reported.
        let is_untold = self.direction == Direction::Read && self.size == 0;
        let tsize = self.offer.tsize.filter(|_| !is_untold);
        let granted = Offer {
            tsize,
            ..self.offer.clone()
        };
        match self.direction {
            Direction::Read if granted == Offer::default() => 2,
            Direction::Read => 0,
            Direction::Write => 1,
        }
    }
}

impl World {
    /// What must hold at the end, whatever the weather was.
    pub(crate) fn judge(&self) {
        for (client, end) in self.clients.iter().enumerate() {
            let wish = &self.wishes[client];
            let outcome = end.record.outcome.as_ref();
            let outcome = outcome.expect("every client hears how it ended");
            let expected = content(wish.file, wish.size);
            let complete = *outcome == Outcome::Completed;
            let sessions = &self.served[client];
            let told = |record: &Record| record.outcome == Some(Outcome::Completed);
            match wish.direction {
                Direction::Read => {
                    let stored = end.record.stored.borrow();
                    assert_eq!(stored.committed, complete, "client {client}: {outcome:?}");
                    let is_same = !complete || stored.bytes == expected;
                    assert!(is_same, "client {client} got something else");
                    let is_sure = sessions.iter().any(told);
                    assert!(
                        !is_sure || complete,
                        "client {client}: {outcome:?}, but the server is sure"
                    );
                }
                Direction::Write => {
                    for record in sessions.iter().filter(|record| record.is_committed()) {
                        assert!(told(record), "client {client}: {record:?}");
                        let is_same = record.stored.borrow().bytes == expected;
                        assert!(is_same, "client {client} uploaded something else");
                    }
                    let is_stored = sessions.iter().any(Record::is_committed);
                    assert!(is_stored || !complete, "client {client} is sure");
                }
            }
        }
    }

    /// Every client has learned that all went well.
    pub(crate) fn assert_all_told(&self) {
        for (client, end) in self.clients.iter().enumerate() {
            let outcome = &end.record.outcome;
            let served = &self.served[client];
            assert_eq!(
                *outcome,
                Some(Outcome::Completed),
                "client {client}, {:?}: nothing was in the way; at the server {served:?}",
                self.wishes[client]
            );
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.net.with(|network| network.sent)
    }

    pub(crate) fn datagrams_needed(&self) -> u64 {
        self.wishes.iter().map(Wish::datagrams_needed).sum()
    }

    /// Nothing was sent twice or needlessly.
    pub(crate) fn assert_sends_are_exact(&self) {
        let spared: u64 = self.wishes.iter().map(Wish::datagrams_spared).sum();
        assert_eq!(self.sent(), self.datagrams_needed() - spared);
    }

    /// Even in rough weather nobody floods anybody: `extra` is what the weather costs each
    /// client.
    pub(crate) fn assert_sends_are_bounded(&self, extra: u64) {
        let (sent, needed) = (self.sent(), self.datagrams_needed());
        let most = 3 * needed + extra * self.wishes.len() as u64;
        assert!(
            sent <= most,
            "{sent} datagrams where {needed} are needed and {most} are tolerable"
        );
    }
}
