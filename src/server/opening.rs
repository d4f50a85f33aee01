//! From a request that may have a session to that session: its root and name are
//! settled, its file opened, its options negotiated, its port taken.
//!
//! If a descriptor or a port is missing, one session is ended for it, and the same is
//! tried once more. Must not: answer a request, or admit it.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use log::debug;

use super::ending::Ending;
use super::floor::{Floor, Needed};
use super::pacing;
use super::ports::Via;
use super::terms::Terms;
use crate::file::{FileSink, FileSource, Name, Root, StorageError, Upload};
use crate::helper::Answer;
use crate::host::clock;
use crate::net::TransferSocket;
use crate::policy::rules::Section;
use crate::policy::{self, Granted, Origin, Policy};
use crate::protocol::receiver::Receiver;
use crate::protocol::sender::Sender;
use crate::protocol::transfer::{Config, MAX_DATAGRAM, Opening, Proof, Transfer};
use crate::session::tid::{self, Sharing};
use crate::session::{Content, Remote, Session};
use crate::table::{Endpoint, SessionKey};
use crate::wire::options::{self, Limits, Negotiated};
use crate::wire::packet::{Direction, ErrorCode, Mode, Request};

/// Why a request is dropped where a file can't be opened.
const NO_DESCRIPTOR: &str = "the limit of open files is reached";

/// Why a request is dropped where a section of the rules has its `max-sessions`.
const FULL_SECTION: &str = "the limit of sessions of its section of the rules is reached";

/// Why an upload is dropped that anybody could have forged.
const NO_UPLOAD_TIME: &str = "uploads have had their share of the time; give each transfer a port, \
     of 1024 or more: nobody can forge uploads then";

/// Bytes of the longest requested name that a session keeps, for the log. In place of a
/// longer one it keeps the file's own name: `./././f` must not make a session big.
const LONGEST_ASKED: usize = 96;

/// A request that was admitted: it may have a session.
#[derive(Clone, Copy)]
pub(super) struct AdmittedRequest<'a> {
    pub(super) now: Instant,
    pub(super) via: Via<'a>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) request: &'a Request<'a>,
    /// The helper's answer to it, if it was asked.
    pub(super) answer: Option<&'a Answer>,
    /// The session that is ended for it, and how.
    pub(super) gives_way: Option<(SessionKey, Ending<'a>)>,
}

/// Why there is no session.
pub(super) enum NoSession {
    /// The file can't be opened: the peer gets an ERROR, the log a line.
    Answer(StorageError, Option<Box<Settled>>),
    /// The name or the map file's rules forbid it: the same.
    ByPolicy(policy::Refusal),
    /// A port or a descriptor is missing: silence, so that a boot ROM asks again
    /// instead of failing.
    Overload(&'static str),
    /// A limit of the rules by client is reached: silence, and nobody gives way.
    Crowded(&'static str),
    /// The helper refuses it: the peer gets its ERROR, the log a line.
    ByHelper(ErrorCode, String),
    /// Requests cost too much this second: silence as well, and nobody gives way.
    TooMuchWork(&'static str),
}

/// Where a request led, if not to the requested name in the common root.
pub(super) struct Settled {
    pub(super) own_root: Option<Root>,
    pub(super) name: Name,
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

/// A file that was opened, and the options that were granted.
struct Opened {
    content: Content<Upload>,
    opening: Opening,
    negotiated: Negotiated,
}

/// How a file is to be opened, and what options are granted.
struct File<'a> {
    /// The open file that the helper has handed over.
    given: Option<&'a OwnedFd>,
    /// It may be closed while it isn't read.
    is_closable: bool,
    limits: Limits,
}

/// What is served, and how.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) policy: Policy,
    /// How transfers behave.
    pub(super) config: Config,
    /// What options are granted.
    pub(super) limits: Limits,
}

impl Opener {
    /// The session for a request, and the section of the rules that holds for it.
    pub(super) fn open(
        &self,
        asked: &AdmittedRequest<'_>,
        floor: &mut Floor,
    ) -> Result<(Session, Option<Rc<Section>>), NoSession> {
        let spelled = asked.request.filename;
        let (named, given) = answered(asked.request, asked.answer)?;
        let asked = &AdmittedRequest {
            request: &named,
            ..*asked
        };
        let granted = self.settle(asked, given, floor)?;
        let section = granted.section.as_deref();
        let (client, gives_way) = (asked.endpoint.peer.ip(), asked.gives_way.map(|it| it.0));
        if section.is_some_and(|it| !floor.has_room_in(it, client, gives_way)) {
            return Err(NoSession::Crowded(FULL_SECTION));
        }
        let terms = Terms::of(section, self.limits, self.config);
        let mode = if terms.octet { Mode::Octet } else { named.mode };
        let asked = &AdmittedRequest {
            request: &Request { mode, ..named },
            ..*asked
        };
        let &AdmittedRequest {
            now,
            endpoint,
            request,
            ..
        } = asked;
        floor
            .reporter
            .granted(now, request, endpoint.peer, &granted);
        let is_server = tid::is_server(endpoint.peer, asked.via.listener.address().port());
        let is_read = request.direction == Direction::Read;
        let is_short = is_read && !is_server && floor.sessions.is_short();
        let limits = match terms.rate {
            Some(rate) if !is_read => pacing::upload_limits(rate, request, terms.limits),
            _ => terms.limits,
        };
        let file = File {
            given,
            is_closable: is_short,
            limits,
        };
        let ports = floor.ports.kind();
        let sharing = match ports.sharing(request.direction, is_short, is_server) {
            _ if terms.single_port && !is_server => Sharing::Listener,
            sharing => sharing,
        };
        let (opened, granted) =
            if is_read || ports.proof(sharing == Sharing::Listener) != Proof::Never {
                self.open_file(asked, granted, &file, floor)?
            } else {
                self.open_forgeable_upload(asked, granted, &file, floor)?
            };
        let window = (!is_read).then_some(&opened.negotiated);
        let mut socket = take_port(asked, window, sharing, floor)?;
        let proof = ports.proof(socket.is_shared());
        let config = Config {
            proof,
            ..terms.config
        };
        socket.send_twice(terms.send_twice);
        let (transfer, content) = transfer(&config, opened);
        let remote = Remote::Known(endpoint.peer);
        let kept = keep_names(spelled, request, &granted, floor);
        let session = Session::new(transfer, content, socket, remote, kept, now);
        Ok((session, granted.section))
    }

    /// Settles the root and the name.
    fn settle(
        &self,
        asked: &AdmittedRequest<'_>,
        given: Option<&OwnedFd>,
        floor: &mut Floor,
    ) -> Result<Granted<'_>, NoSession> {
        let &AdmittedRequest {
            now,
            endpoint: &Endpoint { peer, .. },
            request,
            via: Via { interface, .. },
            ..
        } = asked;
        let settle = || {
            let granted = match given {
                Some(_) => self.policy.settle_given(now, request, peer, interface),
                None => self.policy.settle(now, request, peer, interface),
            };
            granted.map_err(NoSession::from)
        };
        let granted = settle();
        if matches!(granted, Err(NoSession::Overload(_)))
            && floor.make_room(now, Needed::Descriptor, asked.gives_way)
        {
            return settle();
        }
        granted
    }

    /// [`Opener::open_file`] for an upload that anybody could have forged, if there is time
    /// for it.
    fn open_forgeable_upload<'p>(
        &self,
        asked: &AdmittedRequest<'_>,
        granted: Granted<'p>,
        file: &File<'_>,
        floor: &mut Floor,
    ) -> Result<(Opened, Granted<'p>), NoSession> {
        let began = clock::now();
        if !floor.ports.upload_time.may_begin(began) {
            return Err(NoSession::TooMuchWork(NO_UPLOAD_TIME));
        }
        let opened = self.open_file(asked, granted, file, floor);
        let end = clock::now();
        let took = end.saturating_duration_since(began);
        floor.ports.upload_time.spend(end, took);
        opened
    }

    /// Opens the file, and negotiates the options.
    fn open_file<'p>(
        &self,
        asked: &AdmittedRequest<'_>,
        granted: Granted<'p>,
        file: &File<'_>,
        floor: &mut Floor,
    ) -> Result<(Opened, Granted<'p>), NoSession> {
        let request = asked.request;
        let open = || match request.direction {
            Direction::Read => open_read(&granted, request, file),
            Direction::Write => {
                let opened = open_write(&granted, request, file.limits);
                self.policy.charge_look_ups(asked.endpoint.peer);
                opened
            }
        };
        let mut opened = open();
        if opened.as_ref().is_err_and(StorageError::is_exhausted)
            && floor.make_room(asked.now, Needed::Descriptor, asked.gives_way)
        {
            opened = open();
        }
        match opened {
            Ok(opened) => Ok((opened, granted)),
            Err(error) if error.is_exhausted() => Err(NoSession::Overload(NO_DESCRIPTOR)),
            Err(error) => Err(NoSession::Answer(error, Settled::of(granted))),
        }
    }
}

fn open_read(
    granted: &Granted<'_>,
    request: &Request<'_>,
    file: &File<'_>,
) -> Result<Opened, StorageError> {
    let (root, name) = (granted.root(), &granted.name);
    let opened = match file.given {
        Some(given) => root.given(given)?,
        None if file.is_closable => root.open_closable(name)?,
        None => root.open_file(name)?,
    };
    let mut oack = [0; MAX_DATAGRAM];
    let size = Some(opened.size());
    let (negotiated, len) = options::negotiate(request, &file.limits, size, &mut oack);
    Ok(Opened {
        content: Content::Source(FileSource::new(opened, request.mode)),
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

/// The request as the helper's answer changes it, and the open file to answer it with.
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

/// A socket; `window` is what an upload's client sends without waiting for an answer.
fn take_port(
    asked: &AdmittedRequest<'_>,
    window: Option<&Negotiated>,
    sharing: Sharing,
    floor: &mut Floor,
) -> Result<TransferSocket, NoSession> {
    let &AdmittedRequest {
        now, via, endpoint, ..
    } = asked;
    let give = |floor: &mut Floor| {
        let registry = floor.poll.registry();
        let ports = &mut floor.ports;
        ports.give(now, endpoint, via, window, sharing, registry)
    };
    let mut socket = give(floor);
    if let Err(error) = &socket {
        let needed = match error.kind() {
            io::ErrorKind::AddrInUse => Needed::Port,
            _ => Needed::Descriptor,
        };
        if floor.make_room(now, needed, asked.gives_way) {
            socket = give(floor);
        }
    }
    socket.map_err(|error| {
        let Endpoint { peer, local } = endpoint;
        debug!("{peer}: cannot open a socket on {local}: {error}");
        match error.kind() {
            io::ErrorKind::AddrInUse => NoSession::Overload("no port of the range is free"),
            _ => NoSession::Overload("no socket can be had"),
        }
    })
}

/// The names that a session keeps for the log: the one that the client `spelled`, and the
/// file's own if it is another. Of a long one only the file's own.
fn keep_names(
    spelled: &[u8],
    request: &Request<'_>,
    granted: &Granted<'_>,
    floor: &mut Floor,
) -> Rc<[u8]> {
    if spelled.len() > LONGEST_ASKED {
        return floor.keep_names(&granted.name);
    }
    // A slash more or less doesn't make it another name.
    let is_other = granted.origin != Origin::Asked || request.filename != spelled;
    if is_other && *granted.name != *spelled {
        floor.keep_names(&[spelled, &granted.name].join(&0))
    } else {
        floor.keep_names(spelled)
    }
}

/// The transfer of a file.
fn transfer(config: &Config, opened: Opened) -> (Transfer, Content<Upload>) {
    let Opened {
        content,
        opening,
        negotiated,
    } = opened;
    let transfer = match &content {
        Content::Source(source) => {
            Transfer::Sender(Sender::new(config, opening, negotiated, source.length()))
        }
        Content::Sink(_) => Transfer::Receiver(Receiver::new(config, opening, negotiated)),
    };
    (transfer, content)
}

fn opening(oack: &[u8]) -> Opening {
    if oack.is_empty() {
        Opening::Plain
    } else {
        Opening::OptionAck(oack.into())
    }
}

/// The bytes that the file will take on disk, if the client announced them.
fn announced_size(request: &Request<'_>, negotiated: &Negotiated) -> Option<u64> {
    // What netascii shrinks to is not known before it has come.
    negotiated.tsize.filter(|_| request.mode == Mode::Octet)
}
