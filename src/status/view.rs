//! What the server lends the status port for a turn. Must not: be kept.

use std::net::SocketAddr;
use std::time::Instant;

use super::History;
use crate::session::Session;
use crate::table::Sessions;

/// What there is to see, lent for a turn.
#[derive(Debug)]
#[cfg_attr(not(feature = "status"), expect(dead_code, reason = "nobody reads it"))]
pub(crate) struct View<'a> {
    pub(crate) now: Instant,
    pub(crate) unix_seconds: f64,
    pub(crate) started: Instant,
    pub(crate) addresses: &'a [SocketAddr],
    pub(crate) sessions: &'a Sessions<Session>,
    pub(crate) history: &'a History,
    pub(crate) counters: &'a [(&'static str, u64)],
    /// No transfer begins any more.
    pub(crate) is_draining: bool,
    /// Datagrams that the kernel had no room for, if it tells.
    pub(crate) receive_drops: Option<u64>,
}
