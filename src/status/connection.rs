//! One HTTP connection as a state machine: bytes go in; a request, and the bytes of its
//! answer, come out. One request per connection, so that no state is left behind.
//!
//! ```text
//!   Asking ──a whole request──▶ Answering ──all is sent──▶ Finishing
//!     │ too long, too late,        │ too late                 │ write side shut
//!     ▼ the other end left         ▼                          ▼
//!   Closed ◀───────────────────────┴──────── end, too late ─ Leaving
//! ```
//!
//! `Leaving` reads on for a moment: TCP resets a connection that is closed with unread
//! bytes, and the answer may be lost. Must not: read a clock or a socket, or repeat to the
//! other end anything that it sent.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::address::Hosts;
use super::json::Cursor;

/// The longest request that is read, in bytes.
pub(super) const MAX_REQUEST: usize = 4096;

/// The most header lines of a request.
const MAX_HEADERS: usize = 64;

/// How long a client may take to send its request, and to read the answer.
const TO_ASK: Duration = Duration::from_secs(5);
const TO_READ: Duration = Duration::from_secs(30);

/// What still comes after the answer is read for this long, up to this many bytes.
const TO_LEAVE: Duration = Duration::from_secs(1);
const MAX_DISCARDED: usize = 1 << 20;

/// Bytes of an answer that are made ready at a time.
pub(super) const PIECE: usize = 4 * 1024;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Page,
    Json,
    Metrics,
    Health,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// Code and phrase.
    pub(super) status: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: Body,
}

/// What follows the head of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Text(String),
    Static(&'static str),
    /// Made as it is sent.
    Pieces(Box<Cursor>),
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Reply {
    /// A short text and no more.
    pub(super) const fn plain(status: &'static str, text: &'static str) -> Self {
        Self {
            status,
            content_type: PLAIN,
            body: Body::Static(text),
        }
    }
}

#[derive(Debug)]
enum State {
    Asking(Vec<u8>),
    Answering(Answer),
    Finishing,
    Leaving,
    Closed,
}

#[derive(Debug)]
struct Answer {
    /// The head, or a piece of the body that was made.
    out: String,
    sent: usize,
    rest: Rest,
}

/// What comes after `out`.
#[derive(Debug)]
enum Rest {
    Nothing,
    Static(&'static [u8]),
    Pieces(Box<Cursor>),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    deadline: Instant,
    /// When the connection began, or the client last took part of its answer.
    moved: Instant,
    /// Bytes that came after the request.
    discarded: usize,
}

impl Connection {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Asking(Vec::new()),
            deadline: now + TO_ASK,
            moved: now,
            discarded: 0,
        }
    }

    /// Takes in bytes. Returns the request once it is whole and valid: it must then be
    /// answered with [`Connection::answer`].
    pub(super) fn handle_input(
        &mut self,
        now: Instant,
        bytes: &[u8],
        hosts: &Hosts,
    ) -> Option<HttpRequest> {
        let State::Asking(received) = &mut self.state else {
            // Nothing more is expected: a second request goes unanswered.
            self.discarded += bytes.len();
            if self.discarded > MAX_DISCARDED {
                self.state = State::Closed;
            }
            return None;
        };
        let room = MAX_REQUEST - received.len();
        received.extend(&bytes[..bytes.len().min(room)]);
        let status = match parse(received, hosts) {
            Ok(None) if received.len() < MAX_REQUEST => return None,
            Ok(None) => TOO_LONG,
            Ok(asked) => return asked,
            Err(status) => status,
        };
        // RFC 9110 §9.3.2: no answer to HEAD has a body.
        let head = received.starts_with(b"HEAD ");
        let advice = match status {
            FOREIGN_NAME => {
                "Ask by an address, or by the name in --status. See tftpd(8), STATUS.\n"
            }
            _ => "See tftpd(8), STATUS.\n",
        };
        self.answer(now, head, Reply::plain(status, advice));
        None
    }

    /// Whether to read now; while an answer is being sent, what comes waits in the socket.
    pub(super) const fn reads(&self) -> bool {
        matches!(self.state, State::Asking(_) | State::Leaving)
    }

    /// Begins the answer; without a body if only the `head` is wanted.
    pub(super) fn answer(&mut self, now: Instant, head: bool, reply: Reply) {
        let mut out = String::with_capacity(1024);
        let length = match &reply.body {
            Body::Text(text) => Some(text.len()),
            Body::Static(text) => Some(text.len()),
            Body::Pieces(_) => None,
        };
        put_head(&mut out, &reply, length);
        let rest = match reply.body {
            _ if head => Rest::Nothing,
            Body::Text(text) => {
                out.push_str(&text);
                Rest::Nothing
            }
            Body::Static(text) => Rest::Static(text.as_bytes()),
            Body::Pieces(cursor) => Rest::Pieces(cursor),
        };
        self.state = State::Answering(Answer { out, sent: 0, rest });
        (self.deadline, self.moved) = (now + TO_READ, now);
    }

    /// What to send next; empty if there is nothing. `make` appends a piece of the given
    /// number of bytes, or a little more; false: that was the last.
    pub(super) fn poll_transmit(
        &mut self,
        make: impl FnOnce(&mut Cursor, &mut String, usize) -> bool,
    ) -> &[u8] {
        if let State::Answering(answer) = &mut self.state
            && answer.sent == answer.out.len()
        {
            answer.sent = 0;
            answer.out.clear();
            match &mut answer.rest {
                Rest::Pieces(cursor) => {
                    if !make(cursor, &mut answer.out, PIECE) {
                        answer.rest = Rest::Nothing;
                    }
                }
                Rest::Static([]) => answer.rest = Rest::Nothing,
                Rest::Nothing | Rest::Static(_) => {}
            }
            if answer.out.is_empty() && matches!(answer.rest, Rest::Nothing) {
                self.state = State::Finishing;
            }
        }
        match &self.state {
            State::Answering(Answer { out, sent, .. }) if *sent < out.len() => {
                &out.as_bytes()[*sent..]
            }
            State::Answering(Answer {
                rest: Rest::Static(rest),
                ..
            }) => rest,
            _ => &[],
        }
    }

    /// `bytes` of that were sent.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: usize) {
        self.moved = now;
        if let State::Answering(answer) = &mut self.state {
            if answer.sent < answer.out.len() {
                answer.sent += bytes;
            } else if let Rest::Static(rest) = &mut answer.rest {
                *rest = &rest[bytes..];
            }
        }
    }

    /// Whether there is more of the answer. If [`Connection::poll_transmit`] returned
    /// nothing, the piece that was made is empty.
    pub(super) const fn is_answering(&self) -> bool {
        matches!(self.state, State::Answering(_))
    }

    /// Whether all was sent: then shut the write side and call
    /// [`Connection::handle_finished`].
    pub(super) const fn is_finishing(&self) -> bool {
        matches!(self.state, State::Finishing)
    }

    /// The write side is shut.
    pub(super) fn handle_finished(&mut self, now: Instant) {
        self.state = State::Leaving;
        self.deadline = now + TO_LEAVE;
    }

    /// The other end sends no more.
    pub(super) fn handle_end(&mut self) {
        if matches!(self.state, State::Asking(_) | State::Leaving) {
            self.state = State::Closed;
        }
    }

    /// The socket is broken.
    pub(super) fn handle_error(&mut self) {
        self.state = State::Closed;
    }

    /// Closes it, if its time is up.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline <= now {
            self.state = State::Closed;
        }
    }

    /// Nothing is left to do.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Since when it may be closed to make room; `None` if it may not. It may if it hasn't
    /// sent its request, doesn't read its answer, or has it all.
    pub(super) fn gives_way(&self, now: Instant) -> Option<Instant> {
        let is_stuck = now.saturating_duration_since(self.moved) >= STUCK;
        match &self.state {
            State::Asking(_) | State::Leaving => Some(self.moved),
            State::Answering(_) if is_stuck => Some(self.moved),
            _ => None,
        }
    }
}

/// A reader that has taken nothing for this long gives way to a new one.
pub(super) const STUCK: Duration = Duration::from_secs(1);

/// A request that will be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HttpRequest {
    pub(super) resource: Resource,
    /// Only the head of the answer is wanted.
    pub(super) head: bool,
}

/// The request calls this server by a name that isn't ours.
const FOREIGN_NAME: &str = "421 Misdirected Request";

const TOO_LONG: &str = "431 Request Header Fields Too Large";
const BAD: &str = "400 Bad Request";

/// Parses a request. `None`: it isn't whole yet; an error is the answer's status.
fn parse(received: &[u8], hosts: &Hosts) -> Result<Option<HttpRequest>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(received) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        Err(httparse::Error::Version) => return Err("505 HTTP Version Not Supported"),
        Err(_) => return Err(BAD),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(BAD);
    };
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err("405 Method Not Allowed"),
    };
    let (authority, target) = split(target)?;
    let resource = match target.split('?').next() {
        Some("/") => Resource::Page,
        Some("/status.json") => Resource::Json,
        Some("/metrics") => Resource::Metrics,
        Some("/healthz") => Resource::Health,
        _ => return Err("404 Not Found"),
    };
    let mut named = request
        .headers
        .iter()
        .filter(|it| it.name.eq_ignore_ascii_case("host"));
    let host = match (named.next(), named.next(), request.version) {
        (Some(host), None, _) => str::from_utf8(host.value).map_err(|_| BAD)?,
        // RFC 9112 §3.2; HTTP/1.0 has none.
        (None, None, Some(0)) => return Ok(Some(HttpRequest { resource, head })),
        _ => return Err(BAD),
    };
    // RFC 9112 §3.2.2: the target's authority takes precedence.
    let host = authority.unwrap_or(host);
    // A health probe may use any name: it learns only that we are there.
    if resource != Resource::Health && !hosts.include(host.trim()) {
        return Err(FOREIGN_NAME);
    }
    Ok(Some(HttpRequest { resource, head }))
}

/// The authority and the path of a target in absolute form (RFC 9112 §3.2.2); any other is
/// a path.
fn split(target: &str) -> Result<(Option<&str>, &str), &'static str> {
    const SCHEME: &str = "http://";
    let scheme = target.get(..SCHEME.len());
    if !scheme.is_some_and(|it| it.eq_ignore_ascii_case(SCHEME)) {
        return Ok((None, target));
    }
    let rest = &target[SCHEME.len()..];
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(BAD);
    }
    let path = if path.starts_with('/') { path } else { "/" };
    Ok((Some(authority), path))
}

fn put_head(out: &mut String, reply: &Reply, length: Option<usize>) {
    let Reply {
        status,
        content_type,
        ..
    } = reply;
    // Writing to a string can't fail.
    let _ = write!(out, "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n");
    if let Some(length) = length {
        let _ = write!(out, "Content-Length: {length}\r\n");
    }
    if status.starts_with("405") {
        out.push_str("Allow: GET, HEAD\r\n");
    }
    let policy = super::page::CONTENT_SECURITY_POLICY;
    let _ = write!(
        out,
        "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: {policy}\r\n\r\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    const HOSTS: Hosts = Hosts::Literal(Vec::new());

    fn status_of(connection: &mut Connection) -> String {
        let sent = connection.poll_transmit(|_, _, _| false);
        let text = String::from_utf8_lossy(sent);
        text.split("\r\n").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn requests_are_read_byte_by_byte_or_at_once() {
        let now = clock::now();
        let request = b"GET /metrics?x=1 HTTP/1.1\r\nHost: [::1]:1\r\nA: b\r\n\r\n";
        let asked = Some(HttpRequest {
            resource: Resource::Metrics,
            head: false,
        });
        for size in [1, 7, request.len()] {
            let mut connection = Connection::new(now);
            let mut pieces = request.chunks(size);
            let last = pieces.next_back().unwrap();
            for piece in pieces {
                assert_eq!(connection.handle_input(now, piece, &HOSTS), None);
            }
            assert_eq!(connection.handle_input(now, last, &HOSTS), asked);
        }
    }

    #[test]
    fn mistakes_get_their_status_and_nothing_of_theirs_back() {
        let now = clock::now();
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_REQUEST));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(MAX_HEADERS + 1)
        );
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
            ("\x16\x03\x01 TLS\r\n", "400"),
            ("GET / HTTP/2.0\r\nHost: ::\r\n\r\n", "505"),
            ("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "405"),
            ("GET /etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
            (
                "GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                "421",
            ),
            (
                "GET http://a@127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                "400",
            ),
            (
                "GET https://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                "404",
            ),
            ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
            (&long, "431"),
            (&many, "431"),
        ] {
            let mut connection = Connection::new(now);
            assert_eq!(
                connection.handle_input(now, request.as_bytes(), &HOSTS),
                None
            );
            let answered = status_of(&mut connection);
            assert!(
                answered.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answered}"
            );
            let all = connection.poll_transmit(|_, _, _| false);
            assert!(!String::from_utf8_lossy(all).contains("evil"));
        }
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "HEAD /healthz HTTP/1.1\r\nHost: pod.example\r\n\r\n",
            "GET /status.json HTTP/1.1\r\nhost: localhost:8069\r\n\r\n",
            // In absolute form, as a proxy asks.
            "GET HTTP://127.0.0.1:1 HTTP/1.1\r\nHost: proxied.example\r\n\r\n",
            "GET http://[::1]/metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ] {
            let asked = Connection::new(now).handle_input(now, request.as_bytes(), &HOSTS);
            assert!(asked.is_some(), "{request}");
        }
    }

    #[test]
    fn an_error_to_head_has_no_body() {
        let now = clock::now();
        for (method, body) in [("HEAD", ""), ("GET", "See tftpd(8), STATUS.\n")] {
            let mut connection = Connection::new(now);
            let request = format!("{method} /none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let asked = connection.handle_input(now, request.as_bytes(), &HOSTS);
            assert_eq!(asked, None);
            assert!(!connection.reads(), "{method}: it is being answered");
            let mut all = Vec::new();
            loop {
                let next = connection.poll_transmit(|_, _, _| false);
                let bytes = next.len();
                all.extend(next);
                if bytes == 0 {
                    break;
                }
                connection.handle_sent(now, bytes);
            }
            let all = String::from_utf8(all).unwrap();
            let (head, sent) = all.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
            assert!(head.contains("Content-Length: 22"), "{head}");
            assert_eq!(sent, body, "{method}");
        }
    }

    #[test]
    fn each_state_has_its_time() {
        let start = clock::now();
        let mut connection = Connection::new(start);
        connection.handle_timeout(start + TO_ASK.mul_f32(0.9));
        assert!(!connection.is_closed());
        let loris = start + TO_ASK;
        connection.handle_input(loris, b"G", &HOSTS);
        connection.handle_timeout(loris);
        assert!(connection.is_closed(), "slow-loris");

        let mut connection = Connection::new(start);
        connection.answer(start, false, Reply::plain("200 OK", "ok"));
        connection.handle_input(start, &vec![0; MAX_DISCARDED + 1], &HOSTS);
        assert!(connection.is_closed(), "it never stops sending");

        let mut connection = Connection::new(start);
        connection.answer(start, false, Reply::plain("200 OK", "ok"));
        assert!(connection.gives_way(start).is_none());
        assert!(connection.gives_way(start + STUCK).is_some());
        connection.handle_timeout(start + TO_READ);
        assert!(connection.is_closed(), "a reader that stops");
    }

    #[test]
    fn an_answer_is_sent_in_pieces_of_any_size_and_then_the_end_is_read() {
        let now = clock::now();
        for (head, expected) in [(false, "ok"), (true, "")] {
            for size in [1, 1000] {
                let mut connection = Connection::new(now);
                connection.answer(now, head, Reply::plain("200 OK", "ok"));
                let mut all = Vec::new();
                loop {
                    let next = connection.poll_transmit(|_, _, _| false);
                    let next = &next[..next.len().min(size)];
                    all.extend(next);
                    let sent = next.len();
                    if sent == 0 {
                        break;
                    }
                    connection.handle_sent(now, sent);
                }
                let all = String::from_utf8(all).unwrap();
                let (head, body) = all.split_once("\r\n\r\n").unwrap();
                assert!(head.contains("Content-Length: 2"), "{head}");
                assert_eq!(body, expected);
                assert!(connection.is_finishing());
                connection.handle_finished(now);
                connection.handle_input(now, &vec![0; MAX_DISCARDED], &HOSTS);
                assert!(!connection.is_closed());
                connection.handle_end();
                assert!(connection.is_closed());
            }
        }
    }
}
