//! From a request to a session, or to an answer without one, or to nothing.
//!
//! No session is allocated for a request that is refused. Must not: receive, or run
//! sessions, except to repeat an answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use log::debug;

use super::REQUEST_LEN;
use super::drops::DropLines;
use super::floor::{Floor, Needed};
use super::hints::{self, Place};
use super::ports::Sharing;
use super::report::Ending;
use super::terms::Terms;
use crate::file::{FileSink, FileSource, Name, ReadFile, Root, StorageError, Upload};
use crate::helper::{Answer, Helper, Waiting};
use crate::host::clock;
use crate::log::event::Event;
use crate::net::{Destination, ListenSocket, Received, TransferSocket};
use crate::policy::rules::Section;
use crate::policy::{self, Granted, Origin, Policy};
use crate::protocol::receiver::Receiver;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, MAX_DATAGRAM, Opening, Proof, Transfer};
use crate::session::{Content, Heading, Remote, Session, UNKNOWN_TRANSFER};
use crate::table::rate::NetworkRateLimit;
use crate::table::{Admission, Endpoint, Fingerprint, SessionKey};
use crate::wire::options::{self, Limits, Negotiated};
use crate::wire::packet::{
    Direction, ErrorCode, MAX_ERROR_LEN, Mode, Packet, ParseError, Request, emit_error,
};

/// ERRORs a second in answer to requests that are refused: above what a room of
/// machines that look for their configuration asks, below what makes us worth
/// forging requests for. One client network has half of them.
const REFUSALS: u32 = 10_000;

/// Client networks told apart there.
const NETWORKS: usize = 256;

/// Why a request is dropped where a file can't be opened.
const NO_DESCRIPTOR: &str = "the limit of open files is reached";

/// Bytes of the longest name that a session keeps as it was asked for, for the log. One
/// longer than that is kept as the file has it: `./././f` makes no session big.
const LONGEST_ASKED: usize = 96;

/// The well-known port (RFC 1350 §4).
const TFTP_PORT: u16 = 69;

// An answer without a session fits where an OACK does.
const _: () = assert!(MAX_DATAGRAM >= MAX_ERROR_LEN);

/// Why there is no session.
enum NoSession {
    /// The peer is told, and the log.
    Answer(StorageError, Option<Box<Settled>>),
    /// The name or the map file's rules are against it: the peer is told, and the
    /// log.
    ByPolicy(policy::Refusal),
    /// A port or a descriptor is missing: silence, so that a boot ROM asks again
    /// instead of failing.
    Overload(&'static str),
    /// A limit of the rules by client is reached: silence, and nobody gives way.
    Crowded(&'static str),
    /// The helper is against it: the peer is told, and the log.
    ByHelper(ErrorCode, String),
    /// Requests cost too much this second: silence as well, and nobody else has to
    /// give way.
    TooMuchWork(&'static str),
}

/// Where a request led that wasn't the name asked for, in the common root.
struct Settled {
    own_root: Option<Root>,
    name: Name,
}

impl Settled {
    fn of(granted: Granted<'_>) -> Option<Box<Self>> {
        let is_other = granted.own_root.is_some() || granted.origin != Origin::Asked;
        is_other.then(|| {
            Box::new(Self {
                own_root: granted.own_root,
                name: granted.name,
            })
        })
    }
}

impl From<policy::Refusal> for NoSession {
    fn from(refusal: policy::Refusal) -> Self {
        match refusal {
            policy::Refusal::Overload => Self::TooMuchWork(refusal.message()),
            policy::Refusal::Name(error) if error.is_exhausted() => Self::Overload(NO_DESCRIPTOR),
            refusal => Self::ByPolicy(refusal),
        }
    }
}

/// Where a request came in.
struct Came<'a> {
    listener: &'a ListenSocket,
    endpoint: Endpoint,
    /// The kernel's number for the interface, if it told.
    interface: Option<u32>,
    /// The request as it came.
    datagram: &'a [u8],
}

/// A request may have a session.
struct Admitted {
    /// The one that ends for it, and how.
    gives_way: Option<(SessionKey, Ending<'static>)>,
}

/// A file that was granted, and the options that were.
struct Opened {
    content: Content<Upload>,
    opening: Opening,
    negotiated: Negotiated,
}

/// Decides about requests.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) policy: Policy,
    /// How transfers behave.
    config: Config,
    /// What options are granted.
    limits: Limits,
    /// Nothing new is begun.
    pub(super) is_closing: bool,
    /// How many requests may still be refused with an ERROR this second.
    refusals: NetworkRateLimit,
    drop_lines: DropLines,
    /// Another program that is asked what to serve.
    pub(super) helper: Option<Box<Helper>>,
}

impl Requests {
    /// No stranger knows the `seed`: none chooses whose share to take.
    pub(super) fn new(
        policy: Policy,
        config: Config,
        limits: Limits,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            policy,
            config,
            limits,
            is_closing: false,
            refusals: NetworkRateLimit::new(REFUSALS, NETWORKS, seed, now),
            drop_lines: DropLines::new(seed, now),
            helper: None,
        }
    }

    /// Reads the map file and the rules file again, if there are any.
    pub(super) fn reload(&mut self) {
        if let Some(map_file) = &mut self.policy.map_file {
            map_file.reload();
        }
        if let Some(rules) = &mut self.policy.rules {
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
        let Some(endpoint) = endpoint_of(datagram, listener) else {
            // RFC 1123 §4.2.3.4: no answer to a broadcast.
            floor.counters.group += 1;
            return;
        };
        let peer = endpoint.peer;
        if !self.policy.access.serves(peer.ip()) {
            floor.counters.denied += 1;
            self.report_drop(now, peer, "this address is not served", floor);
            return;
        }
        let payload = datagram.payload;
        let payload = &payload[..payload.len().min(REQUEST_LEN)];
        if let Some(trace) = floor.resources.ingress.trace {
            trace(peer, Heading::Received, payload);
        }
        match Packet::parse(payload) {
            Ok(Packet::Request(_)) if self.is_closing => floor.counters.shed += 1,
            // Two servers, each of which thinks that the other is its client.
            Ok(Packet::Request(_)) if floor.single_port() && is_server(peer, listener) => {
                floor.counters.from_servers += 1;
                let reason = "it comes from a server's port: serve it without --single-port";
                self.report_drop(now, peer, reason, floor);
            }
            Ok(Packet::Request(request)) if peer.port() != 0 => {
                let came = Came {
                    listener,
                    endpoint,
                    interface: datagram.interface,
                    datagram: payload,
                };
                floor.counters.requests += 1;
                self.admit(now, &came, &request, None, floor);
            }
            // A DATA is answered, an ACK isn't: tftp-hpa acknowledges ERRORs, from
            // the port that its next request comes from as well.
            Ok(Packet::Data { .. }) if floor.listeners_carry_transfers() => {
                turn_away(now, listener, &endpoint, floor);
            }
            Ok(_) => floor.counters.foreign += 1,
            Err(error) => answer_malformed(now, listener, &endpoint, error, floor),
        }
    }

    fn admit(
        &mut self,
        now: Instant,
        came: &Came<'_>,
        request: &Request<'_>,
        answer: Option<&Answer>,
        floor: &mut Floor,
    ) {
        let &Came {
            listener, endpoint, ..
        } = came;
        let fingerprint = Fingerprint::of(came.datagram);
        if let (Some(helper), None) = (&mut self.helper, answer)
            && helper.is_asked(&endpoint, fingerprint)
        {
            floor.counters.repeated += 1;
            return;
        }
        let random = floor.random.number();
        let admission = floor.sessions.admit(&endpoint, fingerprint, now, random);
        let Some(Admitted { gives_way }) =
            self.make_way(now, admission, endpoint.peer, request, floor)
        else {
            return;
        };
        if answer.is_none() && self.is_for_helper(request) {
            self.ask(now, came, fingerprint, floor);
            return;
        }
        let has_answer = answer.is_some();
        let opened = self.open(now, came, request, answer, gives_way, floor);
        let (session, section) = match opened {
            Ok(opened) => opened,
            Err(refusal) if !has_answer && self.asks_after(&refusal, request) => {
                self.ask(now, came, fingerprint, floor);
                return;
            }
            Err(refusal) => {
                self.refuse(now, listener, &endpoint, request, &refusal, floor);
                return;
            }
        };
        if !floor.may_answer(now, endpoint.peer.ip()) {
            let reason = "too many are being answered that have not been heard of";
            self.shed(now, endpoint.peer, reason, floor);
            return;
        }
        if let Some((key, ending)) = gives_way {
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
        let name = self.policy.root.name(request.filename, request.direction);
        name.is_ok_and(|name| helper.knows(&name))
    }

    /// Whether it is to be asked since nothing was found.
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
    fn ask(&mut self, now: Instant, came: &Came<'_>, fingerprint: Fingerprint, floor: &mut Floor) {
        let waiting = Waiting {
            endpoint: came.endpoint,
            fingerprint,
            datagram: came.datagram.into(),
            listener: came.listener.clone(),
            interface: came.interface,
        };
        let asked = self.helper.as_mut().is_some_and(|it| it.ask(now, waiting));
        if !asked {
            let reason = "the helper has too many questions to answer";
            self.shed(now, came.endpoint.peer, reason, floor);
        }
    }

    /// The helper may have something to read or to answer, or has said something.
    pub(super) fn run_helper(&mut self, has_said: bool, floor: &mut Floor) {
        let Some(helper) = &mut self.helper else {
            return;
        };
        for (waiting, answer) in helper.run(clock::now(), has_said, floor.registry()) {
            let Ok(Packet::Request(request)) = Packet::parse(&waiting.datagram) else {
                continue;
            };
            if self.is_closing {
                floor.counters.shed += 1;
                continue;
            }
            let came = Came {
                listener: &waiting.listener,
                endpoint: waiting.endpoint,
                interface: waiting.interface,
                datagram: &waiting.datagram,
            };
            self.admit(clock::now(), &came, &request, Some(&answer), floor);
        }
        if let Some(helper) = &mut self.helper {
            helper.flush(clock::now());
        }
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
        request: &Request<'_>,
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
                floor.with_session(key, |session, context| {
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
            Admission::Full
                if request.direction == Direction::Read && floor.sessions.has_light_room() =>
            {
                None
            }
            Admission::Full => {
                self.shed(now, peer, "the limit of sessions is reached", floor);
                return None;
            }
        };
        Some(Admitted { gives_way })
    }

    /// Opens the file, settles the options and takes a socket. Where a descriptor or a
    /// port is missing, `gives_way` or another session is ended, and that is tried once
    /// more.
    fn open(
        &self,
        now: Instant,
        came: &Came<'_>,
        request: &Request<'_>,
        answer: Option<&Answer>,
        gives_way: Option<(SessionKey, Ending<'_>)>,
        floor: &mut Floor,
    ) -> Result<(Session, Option<Rc<Section>>), NoSession> {
        let &Came {
            listener,
            ref endpoint,
            interface,
            ..
        } = came;
        let (peer, spelled) = (endpoint.peer, request.filename);
        let (request, given) = answered(request, answer)?;
        let settle = || {
            let policy = &self.policy;
            let settled = match given {
                Some(_) => policy.settle_given(now, &request, peer, interface),
                None => policy.settle(now, &request, peer, interface),
            };
            settled.map_err(NoSession::from)
        };
        let mut granted = settle();
        if matches!(granted, Err(NoSession::Overload(_)))
            && floor.make_room(now, Needed::Descriptor, gives_way)
        {
            granted = settle();
        }
        let granted = granted?;
        let section = granted.section.as_deref();
        let terms = Terms::of(section, self.limits, self.config).map_err(NoSession::Crowded)?;
        let request = &Request {
            mode: if terms.octet {
                Mode::Octet
            } else {
                request.mode
            },
            ..request
        };
        floor.reporter.granted(now, request, peer, &granted);
        // A port that others know isn't shared with a server: forged requests could have
        // two of them send each other files.
        let may_share = !is_server(peer, listener);
        let is_read = request.direction == Direction::Read;
        let is_light = is_read && may_share && floor.sessions.is_short();
        let open = || match request.direction {
            Direction::Read => open_read(&granted, given, request, terms.limits, is_light),
            Direction::Write => {
                let opened = open_write(&granted, request, terms.limits);
                self.policy.charge_look_ups(peer);
                opened
            }
        };
        let mut opened = open();
        if opened.as_ref().is_err_and(StorageError::is_exhausted)
            && floor.make_room(now, Needed::Descriptor, gives_way)
        {
            opened = open();
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) if error.is_exhausted() => {
                return Err(NoSession::Overload(NO_DESCRIPTOR));
            }
            Err(error) => return Err(NoSession::Answer(error, Settled::of(granted))),
        };
        let sharing = terms.sharing(request.direction, may_share, is_light);
        // What an upload's client sends without waiting for an answer.
        let window = (!is_read).then_some(&opened.negotiated);
        let mut socket = take_socket(now, came, window, sharing, gives_way, floor)?;
        socket.send_twice(terms.send_twice);
        let (transfer, content) = transfer(opened, &terms.config, socket.is_shared());
        let remote = Remote::Known(peer);
        let is_long = spelled.len() > LONGEST_ASKED;
        let name = if is_long { &granted.name } else { spelled };
        let session = Session::new(transfer, content, socket, remote, name, now);
        Ok((session, granted.section))
    }

    /// There will be no session: the client is told, if not too many are told.
    fn refuse(
        &mut self,
        now: Instant,
        listener: &ListenSocket,
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
            NoSession::Answer(error, settled) => {
                let code = error.code();
                let own_root = settled.as_ref().and_then(|it| it.own_root.as_ref());
                let place = Place {
                    root: own_root.unwrap_or(&self.policy.root),
                    is_clients_own: own_root.is_some(),
                    name: settled.as_ref().map_or(request.filename, |it| &it.name),
                };
                let hint = || hints::hint(&place, request.direction, error);
                reporter.refusal(now, request, peer, code, error, hint);
                (code, error.message())
            }
            NoSession::ByHelper(code, text) => {
                reporter.refusal(now, request, peer, *code, text, || None);
                (*code, text.as_str())
            }
            NoSession::ByPolicy(refusal) => {
                let code = refusal.code();
                let hint = || refusal.hint().map(str::to_owned);
                reporter.refusal(now, request, peer, code, refusal, hint);
                (code, refusal.message())
            }
        };
        floor.counters.refused += 1;
        if self.refusals.take(now, peer.ip()) {
            answer(now, listener, endpoint, code, text, floor);
        } else {
            floor.counters.unanswered += 1;
        }
    }

    fn shed(&mut self, now: Instant, peer: SocketAddr, reason: &'static str, floor: &mut Floor) {
        floor.counters.shed += 1;
        self.report_drop(now, peer, reason, floor);
    }

    /// Says, but not too often, that requests are dropped, and how many so far for
    /// this reason.
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

/// The request as the helper's answer has it, and the open file that it is to be
/// answered with.
fn answered<'a>(
    request: &Request<'a>,
    answer: Option<&'a Answer>,
) -> Result<(Request<'a>, Option<&'a OwnedFd>), NoSession> {
    let mut request = *request;
    match answer {
        None | Some(Answer::Unknown) => Ok((request, None)),
        Some(Answer::Path(path)) => {
            request.filename = path;
            Ok((request, None))
        }
        Some(Answer::File(file)) if request.direction == Direction::Read => {
            Ok((request, Some(file)))
        }
        Some(Answer::File(_)) => Err(NoSession::ByHelper(
            ErrorCode::NotDefined,
            "A file to be read is no answer to an upload".to_owned(),
        )),
        Some(Answer::Refuse(code, text)) => Err(NoSession::ByHelper(*code, text.clone())),
    }
}

/// Takes a socket. Where a descriptor or a port is missing, `gives_way` or another session
/// is ended, and that is tried once more.
fn take_socket(
    now: Instant,
    came: &Came<'_>,
    window: Option<&Negotiated>,
    sharing: Sharing,
    gives_way: Option<(SessionKey, Ending<'_>)>,
    floor: &mut Floor,
) -> Result<TransferSocket, NoSession> {
    let &Came {
        listener,
        ref endpoint,
        ..
    } = came;
    let peer = endpoint.peer;
    let give = |floor: &mut Floor| {
        let registry = floor.poll.registry();
        let ports = &mut floor.ports;
        ports.give(now, endpoint, listener, window, sharing, registry)
    };
    let mut socket = give(floor);
    if let Err(error) = &socket {
        let needed = match error.kind() {
            io::ErrorKind::AddrInUse => Needed::Port,
            _ => Needed::Descriptor,
        };
        if floor.make_room(now, needed, gives_way) {
            socket = give(floor);
        }
    }
    socket.map_err(|error| {
        debug!(
            "{peer}: cannot open a socket on {}: {error}",
            endpoint.local
        );
        match error.kind() {
            io::ErrorKind::AddrInUse => NoSession::Overload("no port of the range is free"),
            _ => NoSession::Overload("no socket can be had"),
        }
    })
}

fn open_read(
    granted: &Granted<'_>,
    given: Option<&OwnedFd>,
    request: &Request<'_>,
    limits: Limits,
    is_light: bool,
) -> Result<Opened, StorageError> {
    let (root, name) = (granted.root(), &granted.name);
    let file = if let Some(given) = given {
        ReadFile::given(
            given
                .try_clone()
                .map_err(|error| StorageError::of_io(&error))?,
        )?
    } else if is_light {
        root.open_closable(name)?
    } else {
        root.open_file(name)?
    };
    let mut oack = [0; MAX_DATAGRAM];
    let size = Some(file.size());
    let (negotiated, len) = options::negotiate(request, &limits, size, &mut oack);
    Ok(Opened {
        content: Content::Source(FileSource::new(file, request.mode)),
        opening: opening(&oack[..len]),
        negotiated,
    })
}

fn open_write(
    granted: &Granted<'_>,
    request: &Request<'_>,
    limits: Limits,
) -> Result<Opened, StorageError> {
    let mut oack = [0; MAX_DATAGRAM];
    let (negotiated, len) = options::negotiate(request, &limits, None, &mut oack);
    let announced = announced_size(request, &negotiated);
    let upload = granted.root().begin(&granted.name, announced)?;
    let sink = FileSink::new(upload, request.mode);
    Ok(Opened {
        content: Content::Sink(Box::new(sink)),
        opening: opening(&oack[..len]),
        negotiated,
    })
}

/// The transfer of a file, on a port of its own or one that others know.
fn transfer(opened: Opened, config: &Config, is_shared: bool) -> (Transfer, Content<Upload>) {
    let Opened {
        content,
        opening,
        negotiated,
    } = opened;
    let mut config = *config;
    if is_shared {
        config.proof = Proof::Never;
    }
    let transfer = match &content {
        Content::Source(source) => {
            Transfer::Sender(Sender::new(&config, opening, negotiated, source.length()))
        }
        Content::Sink(_) => Transfer::Receiver(Receiver::new(&config, opening, negotiated)),
    };
    (transfer, content)
}

fn answer_malformed(
    now: Instant,
    listener: &ListenSocket,
    endpoint: &Endpoint,
    error: ParseError,
    floor: &mut Floor,
) {
    let peer = endpoint.peer;
    let Some(text) = error.reply() else {
        floor.counters.foreign += 1;
        debug!("{peer}: dropped a datagram: {error}");
        return;
    };
    floor.counters.malformed += 1;
    debug!("{peer}: malformed request: {error}");
    if floor.resources.ingress.nonsense.take(now, peer.ip()) {
        answer(
            now,
            listener,
            endpoint,
            ErrorCode::IllegalOperation,
            text,
            floor,
        );
    } else {
        floor.counters.unanswered += 1;
    }
}

/// A datagram that came in on a port that transfers share, and belongs to none of
/// them.
pub(super) fn turn_stranger_away(
    now: Instant,
    socket: &ListenSocket,
    datagram: &Received<'_>,
    floor: &mut Floor,
) {
    let payload = &datagram.payload[..datagram.payload.len().min(REQUEST_LEN)];
    if let Some(trace) = floor.resources.ingress.trace {
        trace(datagram.peer, Heading::Received, payload);
    }
    // As on the listen port: an ACK may be tftp-hpa's answer to an ERROR of ours.
    match (Packet::parse(payload), endpoint_of(datagram, socket)) {
        (Ok(Packet::Data { .. }), Some(endpoint)) => turn_away(now, socket, &endpoint, floor),
        (Ok(_), _) => floor.counters.strangers += 1,
        (Err(_), _) => floor.counters.garbage += 1,
    }
}

/// RFC 1350 §4: a peer that sends blocks of a transfer that isn't here is told so.
fn turn_away(now: Instant, listener: &ListenSocket, endpoint: &Endpoint, floor: &mut Floor) {
    floor.counters.strangers += 1;
    let client = endpoint.peer.ip();
    if floor.resources.ingress.nonsense.take(now, client) {
        let code = ErrorCode::UnknownTransferId;
        answer(now, listener, endpoint, code, UNKNOWN_TRANSFER, floor);
    } else {
        floor.counters.unanswered += 1;
    }
}

/// One ERROR without a transfer, from the listen port while there is room. Lost
/// if it can't be sent at once: the client asks again.
fn answer(
    now: Instant,
    listener: &ListenSocket,
    endpoint: &Endpoint,
    code: ErrorCode,
    text: &str,
    floor: &mut Floor,
) {
    let mut packet = [0; MAX_DATAGRAM];
    let len = emit_error(code, text, &mut packet);
    let packet = &packet[..len];
    if let Some(trace) = floor.resources.ingress.trace {
        trace(endpoint.peer, Heading::Sent, packet);
    }
    let sent = if floor.may_send_error(now, endpoint.peer.ip()) {
        listener.answer(packet, endpoint.peer, endpoint.local)
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    };
    let sent = match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            floor.answer_apart(packet, endpoint, listener)
        }
        other => other,
    };
    if let Err(error) = sent {
        floor.count_socket_error("send", endpoint.peer, &error);
    }
}

/// Whether a peer's port is one that servers have. Some clients are bound to port
/// 69 (lwIP's): they are served from ports of their own.
fn is_server(peer: SocketAddr, listener: &ListenSocket) -> bool {
    peer.port() == TFTP_PORT || peer.port() == listener.address().port()
}

/// Both ends of a datagram that came in on `listener`; `None` if it was sent to a
/// broadcast or multicast address.
pub(super) fn endpoint_of(datagram: &Received<'_>, listener: &ListenSocket) -> Option<Endpoint> {
    let local = match datagram.destination {
        Some(Destination::Local(ip)) => ip,
        None => listener.address().ip(),
        Some(Destination::Group) => return None,
    };
    let peer = datagram.peer;
    Some(Endpoint { peer, local })
}

fn opening(oack: &[u8]) -> Opening {
    if oack.is_empty() {
        Opening::Plain
    } else {
        Opening::OptionAck(oack.into())
    }
}

/// The bytes that the file will take on disk, if the client told.
fn announced_size(request: &Request<'_>, negotiated: &Negotiated) -> Option<u64> {
    // What netascii shrinks to is not known before it has come.
    negotiated.tsize.filter(|_| request.mode == Mode::Octet)
}
