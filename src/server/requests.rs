//! From a request to a session, or to an answer without one, or to nothing.
//!
//! No session is allocated for a request that is refused. Must not: receive, or run
//! sessions, except to repeat an answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::debug;

use super::REQUEST_LEN;
use super::answers::{answer, answer_malformed, endpoint_of, turn_away};
use super::drops::DropLines;
use super::ending::Ending;
use super::floor::Floor;
use super::hints::{self, Place};
use super::opening::{AdmittedRequest, NoSession, Opener};
use super::ports::Via;
use crate::helper::{Answer, Helper, Waiting};
use crate::host::clock;
use crate::log::event::Event;
use crate::net::{Destination, ListenSocket, Received};
use crate::policy::Policy;
use crate::policy::rules::Section;
use crate::protocol::transfer::Config;
use crate::session::{Heading, Session, tid};
use crate::table::rate::NetworkRateLimit;
use crate::table::{Admission, Endpoint, Fingerprint, SessionKey};
use crate::wire::options::Limits;
use crate::wire::packet::{Direction, ErrorCode, Packet, Request};

/// The most ERRORs a second in answer to refused requests: more than a room of machines
/// looking for their configuration needs, and too few to make it worth forging
/// requests. One client network may have half of them.
const REFUSALS: u32 = 10_000;

/// The most requests a second to a broadcast or multicast address that are looked at, if
/// they are answered at all: every server in the network does the same at that moment.
/// One client network may have half of them.
const BROADCASTS: u32 = 100;

/// Client networks told apart by these limits.
const NETWORKS: usize = 256;

/// A client whose request waited this long for the helper may have asked again from
/// another port by then. It answers only one of the two transfers.
const LATE: Duration = Duration::from_millis(100);

/// Why no request is served any more.
const STOPPING: &str = "the server is stopping";

/// Where and when a request came in.
struct Arrival<'a> {
    at: Instant,
    via: Via<'a>,
    endpoint: Endpoint,
    /// The request as it came.
    datagram: &'a [u8],
}

/// A request may have a session.
struct Admitted {
    /// The session that is ended for it, and how.
    gives_way: Option<(SessionKey, Ending<'static>)>,
}

/// Decides about requests.
#[derive(Debug)]
pub(super) struct Requests {
    opener: Opener,
    /// No new transfer is begun.
    pub(super) is_closing: bool,
    /// Paths lead elsewhere than at the start.
    pub(super) in_chroot: bool,
    /// How many requests may still be refused with an ERROR this second.
    refusals: NetworkRateLimit,
    /// How many requests to a broadcast address may still be answered this second;
    /// `None`: they are dropped.
    broadcasts: Option<NetworkRateLimit>,
    drop_lines: DropLines,
    /// A program that is asked what to serve, if there is one.
    pub(super) helper: Option<Box<Helper>>,
}

impl Requests {
    /// No stranger knows the `seed`, so none can choose whose share to use up.
    pub(super) fn new(
        policy: Policy,
        config: Config,
        limits: Limits,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            opener: Opener {
                policy,
                config,
                limits,
            },
            is_closing: false,
            in_chroot: false,
            refusals: NetworkRateLimit::new(REFUSALS, NETWORKS, seed, now),
            broadcasts: None,
            drop_lines: DropLines::new(seed, now),
            helper: None,
        }
    }

    /// Answers requests to a broadcast or multicast address as well, if the file is
    /// there.
    #[must_use]
    pub(super) fn answering_broadcasts(self, seed: u64, now: Instant) -> Self {
        let limit = NetworkRateLimit::new(BROADCASTS, NETWORKS, seed, now);
        Self {
            broadcasts: Some(limit),
            ..self
        }
    }

    /// What decides who gets which file.
    pub(super) const fn policy(&self) -> &Policy {
        &self.opener.policy
    }

    /// Reads the map file and the rules file again, if there are any.
    pub(super) fn reload(&mut self) {
        if let Some(map_file) = &mut self.opener.policy.map_file {
            map_file.reload();
        }
        if let Some(rules) = &mut self.opener.policy.rules {
            rules.reload();
        }
    }

    /// A datagram that belongs to no session came in on `listener`.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        listener: &ListenSocket,
        datagram: &Received<'_>,
        floor: &mut Floor,
    ) {
        let of_group = || self.endpoint_of_group(now, datagram, listener);
        let Some(endpoint) = endpoint_of(datagram, listener).or_else(of_group) else {
            // RFC 1123 §4.2.3.4: no answer to a broadcast.
            floor.counters.group += 1;
            debug!(
                "{}: dropped what was sent to a broadcast address; see --answer-broadcast",
                datagram.peer
            );
            return;
        };
        let via = Via {
            listener,
            interface: datagram.interface,
        };
        let peer = endpoint.peer;
        if !self.opener.policy.access.serves(peer.ip()) {
            floor.counters.denied += 1;
            self.report_drop(now, peer, "this address is not served", floor);
            return;
        }
        let payload = datagram.head(REQUEST_LEN);
        if let Some(trace) = floor.resources.ingress.trace {
            trace(peer, Heading::Received, payload);
        }
        match Packet::parse(payload) {
            Ok(Packet::Request(_)) if self.is_closing => self.shed(now, peer, STOPPING, floor),
            // Two servers might each take the other for a client.
            Ok(Packet::Request(_))
                if floor.single_port() && tid::is_server(peer, listener.address().port()) =>
            {
                floor.counters.from_servers += 1;
                let reason = "it comes from a server's port: serve it without --single-port";
                self.report_drop(now, peer, reason, floor);
            }
            Ok(Packet::Request(request)) if peer.port() != 0 => {
                let arrival = Arrival {
                    at: now,
                    via,
                    endpoint,
                    datagram: payload,
                };
                floor.counters.requests += 1;
                self.admit(now, &arrival, &request, None, floor);
            }
            // DATA is answered, an ACK isn't: tftp-hpa acknowledges ERRORs, from the
            // port that its next request comes from as well.
            Ok(Packet::Data { .. }) if floor.listeners_carry_transfers() => {
                turn_away(now, via, &endpoint, self.policy(), floor);
            }
            Ok(_) => floor.counters.foreign += 1,
            Err(error) => answer_malformed(now, via, &endpoint, error, self.policy(), floor),
        }
    }

    /// Both ends of a request that was sent to a broadcast or multicast address; ours
    /// is the address on the interface that it came in on. `None` unless such requests
    /// are answered and this one asks for a file that is there: a miss is another
    /// server's to answer.
    fn endpoint_of_group(
        &mut self,
        now: Instant,
        datagram: &Received<'_>,
        listener: &ListenSocket,
    ) -> Option<Endpoint> {
        let broadcasts = self.broadcasts.as_mut()?;
        let Some(Destination::Group(ours)) = datagram.destination else {
            return None;
        };
        let peer = datagram.peer;
        let payload = datagram.head(REQUEST_LEN);
        let Ok(Packet::Request(request)) = Packet::parse(payload) else {
            return None;
        };
        let is_read = request.direction == Direction::Read;
        let is_served = is_read && self.opener.policy.access.serves(peer.ip());
        if !is_served || !broadcasts.take(now, peer.ip()) {
            return None;
        }
        let settled = self
            .opener
            .policy
            .settle(now, &request, peer, datagram.interface);
        let granted = settled.ok()?;
        granted.root().open_file(&granted.name).ok()?;
        let local = ours.or_else(|| listener.local_towards(peer).ok())?;
        Some(Endpoint { peer, local })
    }

    /// Gives a request a session, refuses it, or lets it wait for the helper. `answer`:
    /// the helper's, if it was asked.
    fn admit(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        request: &Request<'_>,
        answer: Option<&Answer>,
        floor: &mut Floor,
    ) {
        let &Arrival {
            at,
            via,
            endpoint,
            datagram,
        } = arrival;
        let fingerprint = Fingerprint::of(datagram);
        if let (Some(helper), None) = (&mut self.helper, answer)
            && helper.merge_with_question(&endpoint, fingerprint)
        {
            floor.counters.repeated += 1;
            return;
        }
        let admission = floor.admit(request.direction, &endpoint, fingerprint, now);
        let Some(Admitted { gives_way }) = self.make_way(now, admission, endpoint.peer, floor)
        else {
            return;
        };
        if answer.is_none() && self.is_for_helper(request) {
            self.ask(now, arrival, fingerprint, floor);
            return;
        }
        if !floor.listed.is_empty() {
            self.opener.policy.charge_listings(now, &mut floor.listed);
        }
        let asked = AdmittedRequest {
            now,
            via,
            endpoint: &endpoint,
            request,
            answer,
            gives_way,
        };
        match self.opener.open(&asked, floor) {
            Ok((mut session, section)) => {
                let waited = now.saturating_duration_since(at);
                if waited >= LATE {
                    session.note_wait_before(waited);
                }
                self.begin(&asked, fingerprint, session, section, floor);
            }
            Err(refusal) if answer.is_none() && self.asks_after(&refusal, request) => {
                self.ask(now, arrival, fingerprint, floor);
            }
            Err(refusal) => self.refuse(now, via, &endpoint, request, &refusal, floor),
        }
    }

    /// Begins the session of a request, and ends the one that gives way to it.
    fn begin(
        &mut self,
        asked: &AdmittedRequest<'_>,
        fingerprint: Fingerprint,
        session: Session,
        section: Option<Rc<Section>>,
        floor: &mut Floor,
    ) {
        let (now, endpoint) = (asked.now, *asked.endpoint);
        if !floor.may_answer(now, &session) {
            let reason = "too many clients that never answered are being served";
            self.shed(now, endpoint.peer, reason, floor);
            return;
        }
        if let Some((key, ending)) = asked.gives_way {
            floor.end_session(key, ending);
        }
        if let Err(error) = floor.start_session(endpoint, fingerprint, session, section) {
            debug!("{}: cannot watch its socket: {error}", endpoint.peer);
            self.shed(now, endpoint.peer, "no socket can be watched", floor);
        }
    }

    /// Whether the helper is to be asked about this name before anything is looked for.
    fn is_for_helper(&self, request: &Request<'_>) -> bool {
        let Some(helper) = self.helper.as_ref().filter(|it| it.is_there()) else {
            return false;
        };
        let name = self
            .opener
            .policy
            .root
            .name(request.filename, request.direction);
        name.is_ok_and(|name| helper.knows(&name))
    }

    /// Whether the helper is to be asked because nothing was found.
    fn asks_after(&self, refusal: &NoSession, request: &Request<'_>) -> bool {
        let is_missing = match refusal {
            NoSession::Answer(error, _) => error.code() == ErrorCode::FileNotFound,
            NoSession::ByPolicy(refusal) => refusal.code() == ErrorCode::FileNotFound,
            _ => false,
        };
        let helper = self.helper.as_ref().filter(|it| it.is_there());
        is_missing && helper.is_some_and(|helper| helper.knows_missing(request))
    }

    /// Asks the helper about a request, which waits for the answer.
    fn ask(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        fingerprint: Fingerprint,
        floor: &mut Floor,
    ) {
        let waiting = Waiting {
            since: arrival.at,
            endpoint: arrival.endpoint,
            fingerprint,
            datagram: arrival.datagram.into(),
            listener: arrival.via.listener.clone(),
            interface: arrival.via.interface,
        };
        let asked = self.helper.as_mut().is_some_and(|it| it.ask(now, waiting));
        if !asked {
            let reason = "the helper has too many questions to answer";
            self.shed(now, arrival.endpoint.peer, reason, floor);
        }
    }

    /// The helper may have something to read or to answer, or has said something.
    #[inline]
    pub(super) fn run_helper(&mut self, has_said: bool, floor: &mut Floor) {
        if self.helper.is_some() {
            self.hear_helper(has_said, floor);
        }
    }

    fn hear_helper(&mut self, has_said: bool, floor: &mut Floor) {
        let Some(helper) = &mut self.helper else {
            return;
        };
        for (waiting, answer) in helper.run(clock::now(), has_said, floor.registry()) {
            let Ok(Packet::Request(request)) = Packet::parse(&waiting.datagram) else {
                continue;
            };
            if self.is_closing {
                self.shed(clock::now(), waiting.endpoint.peer, STOPPING, floor);
                continue;
            }
            let arrival = Arrival {
                at: waiting.since,
                via: Via {
                    listener: &waiting.listener,
                    interface: waiting.interface,
                },
                endpoint: waiting.endpoint,
                datagram: &waiting.datagram,
            };
            self.admit(clock::now(), &arrival, &request, Some(&answer), floor);
        }
        if let Some(helper) = &mut self.helper {
            helper.flush(clock::now());
        }
    }

    /// Whether this very request already waits for the helper's answer. If another
    /// request of the same client does, its wait ends.
    pub(super) fn merge_with_question(
        &mut self,
        endpoint: &Endpoint,
        fingerprint: Fingerprint,
    ) -> bool {
        let helper = self.helper.as_mut();
        helper.is_some_and(|it| it.merge_with_question(endpoint, fingerprint))
    }

    /// Whether any request waits for the helper's answer.
    pub(super) fn has_questions(&self) -> bool {
        self.helper.as_ref().is_some_and(|it| it.has_questions())
    }

    /// The helper may have said more without a new event.
    pub(super) fn helper_has_work(&self) -> bool {
        self.helper.as_ref().is_some_and(|it| it.has_work())
    }

    /// Whether a request may have a session, if it isn't refused. Otherwise it is answered
    /// or counted here.
    fn make_way(
        &mut self,
        now: Instant,
        admission: Admission,
        peer: SocketAddr,
        floor: &mut Floor,
    ) -> Option<Admitted> {
        let gives_way = match admission {
            Admission::New => None,
            Admission::Evicts(key) => Some((key, Ending::Evicted)),
            Admission::StartsOver(key) | Admission::Replaces(key) => Some((key, Ending::Replaced)),
            Admission::Repeated(key) => {
                floor.counters.repeated += 1;
                if !floor.may_answer_again(now, key) {
                    floor.counters.unanswered += 1;
                    return None;
                }
                floor.with_session(key, &mut |session, context| {
                    session.handle_repeated_request(context.now);
                    session.transmit(context)
                });
                return None;
            }
            Admission::Moving(_) => {
                floor.counters.untimely += 1;
                return None;
            }
            Admission::Crowded => {
                floor.counters.crowded += 1;
                let reason = "the limit of sessions of one client is reached";
                self.report_drop(now, peer, reason, floor);
                return None;
            }
            Admission::Full => {
                self.shed(now, peer, "the limit of sessions is reached", floor);
                return None;
            }
        };
        Some(Admitted { gives_way })
    }

    /// Refuses a request. The client is sent an ERROR, unless a limit is reached or too
    /// many were sent.
    fn refuse(
        &mut self,
        now: Instant,
        via: Via<'_>,
        endpoint: &Endpoint,
        request: &Request<'_>,
        refusal: &NoSession,
        floor: &mut Floor,
    ) {
        let peer = endpoint.peer;
        let reporter = &mut floor.reporter;
        let (code, text) = match refusal {
            NoSession::Overload(reason) | NoSession::TooMuchWork(reason) => {
                self.shed(now, peer, reason, floor);
                return;
            }
            NoSession::Crowded(reason) => {
                floor.counters.crowded += 1;
                self.report_drop(now, peer, reason, floor);
                return;
            }
            NoSession::ByHelper(code, text) => {
                reporter.refusal(now, request, peer, *code, text, || None);
                (*code, text.as_str())
            }
            NoSession::Answer(error, settled) => {
                let code = error.code();
                let own_root = settled.as_ref().and_then(|it| it.own_root.as_ref());
                let place = Place {
                    root: own_root.unwrap_or(self.opener.policy.common_root(request.direction)),
                    is_clients_own: own_root.is_some(),
                    name: settled.as_ref().map_or(request.filename, |it| &it.name),
                    in_chroot: self.in_chroot,
                };
                let hint = || hints::hint(&place, request.direction, error);
                reporter.refusal(now, request, peer, code, error, hint);
                (code, error.message())
            }
            NoSession::ByPolicy(refusal) => {
                let code = refusal.code();
                let root = self.opener.policy.common_root(request.direction);
                let hint = || hints::hint_by_policy(root, self.in_chroot, refusal);
                reporter.refusal(now, request, peer, code, refusal, hint);
                (code, refusal.message())
            }
        };
        floor.counters.refused += 1;
        if self.refusals.take(now, peer.ip()) {
            answer(now, via, endpoint, code, text, &self.opener.policy, floor);
        } else {
            floor.counters.unanswered += 1;
        }
    }

    /// Drops a request for lack of room.
    fn shed(&mut self, now: Instant, peer: SocketAddr, reason: &'static str, floor: &mut Floor) {
        floor.counters.shed += 1;
        self.report_drop(now, peer, reason, floor);
    }

    /// Logs, but not too often, that requests are dropped, and how many so far for this
    /// reason.
    fn report_drop(&mut self, now: Instant, peer: SocketAddr, reason: &'static str, floor: &Floor) {
        if let Some(dropped) = self.drop_lines.count(now, reason, peer.ip()) {
            Event::Dropped {
                peer,
                reason,
                dropped,
                sessions: floor.sessions.len() as u64,
            }
            .write();
        }
    }
}
