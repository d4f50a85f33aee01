//! What the server has done and what it has left undone, in numbers.
//!
//! Everything dropped or refused is counted somewhere here. Must not: decide.

use crate::session::DropCounters;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(super) struct Counters {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Counters {
            /// Name and count of everything.
            pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Name and count of what has happened, for the log.
            pub(super) fn happened(&self) -> impl Iterator<Item = (&'static str, u64)> {
                self.all().filter(|&(_, count)| count > 0)
            }
        }
    };
}

counters! {
    /// RRQ and WRQ packets that could be read, repeats included.
    requests,
    /// Transfers begun.
    admitted,
    /// Transfers that moved the whole file.
    completed,
    /// Of these, reads whose last ACK never came.
    last_ack_missing,
    /// Requests that only wanted to know the options.
    probed,
    /// Transfers that the peer ended with an ERROR.
    peer_errors,
    /// Transfers that we ended, because of an error or at our own end. The peer is told,
    /// unless it is taken for a forgery.
    failed,
    /// Transfers whose peer fell silent.
    timed_out,
    /// Transfers given up for a new request from the same port.
    replaced,
    /// Transfers whose peer never answered or fell silent, ended to make room for
    /// another. One that was only dallying ended before and isn't counted.
    evicted,
    /// Uploads whose peer never answered, ended because blocks came from its address to
    /// many wrong ports.
    guessed,
    /// Requests answered with an ERROR.
    refused,
    /// Requests dropped because the server was full.
    shed,
    /// Requests dropped, and transfers ended at their first answer, because their client
    /// has as many transfers as it may.
    crowded,
    /// Datagrams dropped because their sender isn't served.
    denied,
    /// Repeats of a request whose transfer was under way.
    repeated,
    /// Requests dropped because another transfer of the same port was moving.
    untimely,
    /// Requests to a broadcast or multicast address, dropped (RFC 1123 §4.2.3.4).
    group,
    /// Requests that could not be understood.
    malformed,
    /// Requests from a port that servers have, dropped with `--single-port`.
    from_servers,
    /// Datagrams on the listen port that were no requests, dropped: nobody's, or for
    /// a successor that didn't keep up.
    foreign,
    /// Datagrams from someone else on a transfer's port.
    strangers,
    /// Datagrams on a transfer's port that weren't TFTP, dropped.
    garbage,
    /// Errors from the kernel while sending or receiving.
    socket_errors,
    /// Answers left out because there were too many of them: ERRORs, and what repeated
    /// requests get once more.
    unanswered,
}

impl Counters {
    /// The sum of these counts and those of the sessions.
    #[must_use]
    pub(super) const fn with(self, met: DropCounters) -> Self {
        Self {
            strangers: self.strangers + met.strangers,
            garbage: self.garbage + met.garbage,
            socket_errors: self.socket_errors + met.socket_errors,
            unanswered: self.unanswered + met.unanswered,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "status")]
    fn every_counter_is_among_the_metrics() {
        for (name, _) in Counters::default().all() {
            assert!(crate::status::tells(name), "{name}");
        }
    }

    #[test]
    fn the_manual_explains_every_counter_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/man/src/tftpd.8.md");
        let page = std::fs::read_to_string(path).expect("the manual");
        let (_, table) = page
            .split_once("\n| counter | counts |\n|---|---|\n")
            .expect("the table");
        let rows = table.lines().map_while(|it| it.strip_prefix("| `"));
        let explained: Vec<_> = rows
            .filter_map(|it| Some(it.split_once("` | ")?.0))
            .collect();
        let all = Counters::default();
        let counters = all.all().map(|(name, _)| name);
        let told: Vec<_> = ["sessions", "timer_operations", "kernel_dropped"]
            .into_iter()
            .chain(counters)
            .collect();
        assert_eq!(explained, told);
    }

    #[test]
    fn only_what_happened_is_told() {
        assert_eq!(Counters::default().happened().next(), None);
        let counters = Counters {
            requests: 3,
            shed: 1,
            ..Counters::default()
        };
        assert!(counters.happened().eq([("requests", 3), ("shed", 1)]));
    }
}
