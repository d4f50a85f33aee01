//! `/status.json`, made in pieces while it is sent, so that no turn of the loop writes
//! for long, however many sessions there are.
//!
//! Must not: collect the sessions first. One that ends meanwhile may be missing.

use std::fmt::Write as _;
use std::time::Instant;

use super::View;
use super::rates::Rates;
use crate::log::put_json_text;
use crate::log::shown::Name;
use crate::session::Session;
use crate::table::{SessionKey, Tracked as _};

/// How many places of the session table are looked at for one piece.
const PLACES: usize = 4096;

/// Counters of what failed: requests refused, and transfers that ended without their
/// file. Dropped requests are counted apart, since most are sent again.
const FAILED_OR_REFUSED: [&str; 7] = [
    "refused",
    "timed_out",
    "peer_errors",
    "failed",
    "replaced",
    "evicted",
    "guessed",
];

/// How far the object has been written.
#[derive(Debug, Default)]
pub(super) enum Cursor {
    #[default]
    Head,
    /// The next place in the session table; whether the next session is the first listed.
    Sessions(usize, bool),
    /// What was logged before this number; whether the next one is the first listed.
    Recent(u64, bool),
}

impl Cursor {
    /// Appends the next piece, of about this many `bytes`. False: that was the last.
    pub(super) fn write(
        &mut self,
        now: Instant,
        view: &View<'_>,
        rates: &mut Rates,
        out: &mut String,
        bytes: usize,
    ) -> bool {
        match self {
            Self::Head => {
                put_head(out, now, view);
                *self = Self::Sessions(0, true);
            }
            Self::Sessions(place, is_first) => {
                let end = view.sessions.places().min(*place + PLACES);
                while *place < end && out.len() < bytes {
                    if let Some((key, session)) = view.sessions.at(*place) {
                        out.push_str(if *is_first { "\n" } else { ",\n" });
                        let rate = rates.rate(now, *place, key, session.started, session.bytes());
                        put_session(out, now, key, session, rate);
                        *is_first = false;
                    }
                    *place += 1;
                }
                if *place >= view.sessions.places() {
                    out.push_str("],\n\"recent\":[");
                    *self = Self::Recent(view.history.next(), true);
                }
            }
            Self::Recent(number, is_first) => {
                while out.len() < bytes {
                    let Some((before, object)) = view.history.before(*number) else {
                        out.push_str("]}\n");
                        return false;
                    };
                    out.push_str(if *is_first { "\n" } else { ",\n" });
                    out.push_str(object);
                    (*number, *is_first) = (before, false);
                }
            }
        }
        true
    }
}

fn put_head(out: &mut String, now: Instant, view: &View<'_>) {
    let version = env!("CARGO_PKG_VERSION");
    let state = if view.is_draining {
        "draining"
    } else {
        "serving"
    };
    let uptime = now.saturating_duration_since(view.started).as_secs_f64();
    let history = view.history;
    let _ = write!(
        out,
        "{{\"version\":\"{version}\",\"time\":{:.3},\"uptime\":{uptime:.3},\"state\":\"{state}\",\
         \"listening\":[",
        view.unix_seconds
    );
    for (index, address) in view.addresses.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\"{address}\"");
    }
    let counted = view.counters.iter();
    let failed: u64 = counted
        .filter(|(name, _)| FAILED_OR_REFUSED.contains(name))
        .map(|(_, count)| count)
        .sum();
    let _ = write!(
        out,
        "],\"session_limit\":{},\"failed_or_refused\":{failed},\"bytes_sent\":{},\
         \"bytes_received\":{},\"retransmits\":{},\"counters\":{{",
        view.sessions.limit(),
        history.bytes_sent,
        history.bytes_received,
        history.retransmits,
    );
    for (index, (name, count)) in view.counters.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\"{name}\":{count}");
    }
    out.push_str("},\n\"sessions\":[");
}

fn put_session(out: &mut String, now: Instant, key: SessionKey, session: &Session, rate: u64) {
    let progress = session.transfer().progress();
    let _ = write!(
        out,
        "{{\"id\":\"{:x}\",\"peer\":\"{}\",\"op\":\"{}\",\"file\":",
        key.to_token(),
        session.peer(),
        session.direction().name()
    );
    put_json_text(out, &Name(session.name()));
    if let Some(served) = session.served() {
        out.push_str(",\"served\":");
        put_json_text(out, &Name(served));
    }
    let _ = write!(out, ",\"bytes\":{},\"size\":", session.bytes());
    match session.size() {
        Some(size) => _ = write!(out, "{size}"),
        None => out.push_str("null"),
    }
    let _ = write!(out, ",\"rate\":{rate},\"round_trip\":");
    match session.round_trip() {
        Some(time) => _ = write!(out, "{:.6}", time.as_secs_f64()),
        None => out.push_str("null"),
    }
    let age = now.saturating_duration_since(session.started).as_secs_f64();
    let _ = write!(
        out,
        ",\"blksize\":{},\"windowsize\":{},\"retransmits\":{},\"age\":{age:.3},\"state\":\"{}\"}}",
        progress.block_size,
        progress.window_size,
        progress.retransmits,
        session.phase(now).name()
    );
}
