//! What the log tells, as values: each kind of line with its fields.
//!
//! An event reaches the writers through the `log` crate: as text in the record's
//! arguments, and field by field in its key-values. So no writer has to parse a line.
//! Must not: decide which events are told, or how a line looks.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use log::kv::{self, Key, Source, VisitSource};
use log::{Level, Log, Record};

use super::shown::{Addresses, Cut, Name};
use crate::wire::packet::ErrorCode;

/// Something that the log tells.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The server is ready.
    Listening {
        addresses: Addresses<'a>,
        version: &'static str,
        root: Cut<'a>,
        access: &'static str,
        max_sessions: u64,
        /// Options that decide who gets which file, and by which ports.
        options: Option<Cut<'a>>,
        /// The map file and how many rules it has.
        mapped_by: Option<Cut<'a>>,
        /// The rules file and how many sections it has.
        ruled_by: Option<Cut<'a>>,
        /// Other directories that links may lead to.
        links_to: Option<Cut<'a>>,
        /// The directory for uploads, if it isn't the root.
        uploads_to: Option<Cut<'a>>,
    },
    /// A transfer begins.
    Started {
        peer: SocketAddr,
        op: &'static str,
        file: Name<'a>,
        blksize: u16,
        windowsize: u16,
        /// The size in bytes, if it is known.
        size: Option<u64>,
    },
    /// A transfer that is under way; told on request.
    Running {
        figures: Figures<'a>,
        /// The size in bytes, if it is known.
        size: Option<u64>,
        /// What the transfer is doing.
        state: &'static str,
    },
    /// A transfer has ended.
    Ended {
        level: Level,
        figures: Figures<'a>,
        outcome: &'static str,
        /// Everything was sent, but the last ACK never came.
        lacks_last_ack: bool,
        /// The ERROR that ended it.
        error: Option<(ErrorCode, Name<'a>)>,
        hint: Option<Cut<'a>>,
    },
    /// A request was answered with an ERROR.
    Refused {
        peer: SocketAddr,
        op: &'static str,
        file: Name<'a>,
        code: ErrorCode,
        reason: Cut<'a>,
        /// How often this was refused, if more than once.
        times: Option<u64>,
        hint: Option<Cut<'a>>,
    },
    /// A boot loader has looked for its configuration under several names.
    Searched {
        peer: SocketAddr,
        /// The directory of all these names.
        directory: Name<'a>,
        misses: u64,
        /// What was found there in the end, or else the last name that was missing.
        name: Result<Name<'a>, Name<'a>>,
        hint: Option<Cut<'a>>,
    },
    /// The map file has changed a name.
    Mapped {
        peer: SocketAddr,
        op: &'static str,
        file: Name<'a>,
        to: Name<'a>,
        lines: Cut<'a>,
    },
    /// A file was found under another name than it was asked for.
    OtherName {
        peer: SocketAddr,
        file: Name<'a>,
        to: Name<'a>,
    },
    /// A request got no answer.
    Dropped {
        peer: SocketAddr,
        reason: &'a str,
        /// Requests dropped for this reason so far.
        dropped: u64,
        sessions: u64,
    },
    /// The kernel dropped datagrams, since a listen socket was full.
    KernelDropped {
        /// How many, since the sockets were opened.
        dropped: u64,
    },
    /// Counts of what was done and what was left undone, by name.
    Counters(&'a [(&'static str, u64)]),
    /// Events of one kind that weren't told: there were too many of them.
    LeftOut { of: &'static str, lines: u64 },
    /// The server is stopping: no transfer begins any more.
    Stopping { running: u64, grace: Duration },
}

/// What to do about datagrams that the kernel drops.
pub(super) const DROPPED_HINT: &str =
    "set net.core.rmem_max=16777216 if it is less, and restart; or use more --workers";

/// A transfer in figures.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) peer: SocketAddr,
    pub(crate) op: &'static str,
    pub(crate) file: Name<'a>,
    /// The name of the file that is served, if that is another one.
    pub(crate) served: Option<Name<'a>>,
    /// Bytes of the file that have been acknowledged or stored.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) blksize: u16,
    pub(crate) windowsize: u16,
    /// Datagrams sent again, DATA blocks counted one by one.
    pub(crate) retransmits: u64,
}

/// A field's value.
#[derive(Clone, Copy)]
pub(crate) enum Field<'v> {
    /// Shown as it is; needs no quotes.
    Word(&'v dyn fmt::Display),
    /// Shown between quotes, and escaped for them.
    Text(&'v dyn fmt::Display),
    /// An integer.
    Number(u64),
    /// Shown to the millisecond.
    Seconds(f64),
}

impl Figures<'_> {
    fn fields<'v>(&'v self, put: &mut dyn FnMut(&'static str, Field<'v>)) {
        put("peer", Field::Word(&self.peer));
        put("op", Field::Word(&self.op));
        put("file", Field::Text(&self.file));
        if let Some(served) = &self.served {
            put("served", Field::Text(served));
        }
        put("bytes", Field::Number(self.bytes));
        put("seconds", Field::Seconds(self.seconds));
        put("rate", Field::Number(self.rate()));
        put("blksize", Field::Number(self.blksize.into()));
        put("windowsize", Field::Number(self.windowsize.into()));
        put("retransmits", Field::Number(self.retransmits));
    }

    /// Bytes a second; what took no measurable time counts as a microsecond.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rate in a log line"
    )]
    fn rate(&self) -> u64 {
        (self.bytes as f64 / self.seconds.max(0.000_001)).round() as u64
    }
}

impl Event<'_> {
    /// The kind of line.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Listening { .. } => "listening",
            Self::Started { .. } => "started",
            Self::Running { .. } => "running",
            Self::Ended { .. } => "ended",
            Self::Refused { .. } => "refused",
            Self::Searched { .. } => "searched",
            Self::Mapped { .. } => "mapped",
            Self::OtherName { .. } => "other_name",
            Self::Dropped { .. } => "dropped",
            Self::KernelDropped { .. } => "kernel_dropped",
            Self::Counters(_) => "counters",
            Self::LeftOut { .. } => "left_out",
            Self::Stopping { .. } => "stopping",
        }
    }

    pub(super) const fn level(&self) -> Level {
        match self {
            Self::Ended { level, .. } => *level,
            Self::Started { .. } => Level::Debug,
            Self::Searched { name: Err(_), .. }
            | Self::Refused { .. }
            | Self::Dropped { .. }
            | Self::KernelDropped { .. }
            | Self::LeftOut { .. } => Level::Warn,
            Self::Listening { .. }
            | Self::Running { .. }
            | Self::Searched { .. }
            | Self::Mapped { .. }
            | Self::OtherName { .. }
            | Self::Counters(_)
            | Self::Stopping { .. } => Level::Info,
        }
    }

    /// The fields, in the order in which they stand in a line.
    pub(crate) fn fields<'v>(&'v self, put: &mut dyn FnMut(&'static str, Field<'v>)) {
        use Field::{Number, Text, Word};
        match self {
            Self::Running {
                figures,
                size,
                state,
            } => {
                figures.fields(put);
                if let Some(size) = size {
                    put("size", Number(*size));
                }
                put("state", Word(state));
            }
            Self::Ended {
                figures,
                outcome,
                lacks_last_ack,
                error,
                hint,
                ..
            } => {
                figures.fields(put);
                put("outcome", Word(outcome));
                if *lacks_last_ack {
                    put("last_ack", Word(&"missing"));
                }
                if let Some((code, message)) = error {
                    put("code", Number(code.to_wire().into()));
                    put("message", Text(message));
                }
                put_hint(hint.as_ref(), put);
            }
            Self::Counters(counts) => {
                for &(name, count) in *counts {
                    put(name, Number(count));
                }
            }
            Self::Listening { .. }
            | Self::KernelDropped { .. }
            | Self::LeftOut { .. }
            | Self::Stopping { .. } => self.own_fields(put),
            _ => self.request_fields(put),
        }
    }

    /// The fields of events about the server.
    fn own_fields<'v>(&'v self, put: &mut dyn FnMut(&'static str, Field<'v>)) {
        use Field::{Number, Seconds, Text, Word};
        match self {
            Self::Listening {
                addresses,
                version,
                root,
                access,
                max_sessions,
                options,
                mapped_by,
                ruled_by,
                links_to,
                uploads_to,
            } => {
                put("addresses", Text(addresses));
                put("version", Text(version));
                put("root", Text(root));
                put("access", Text(access));
                put("max_sessions", Number(*max_sessions));
                if let Some(options) = options {
                    put("options", Text(options));
                }
                if let Some(map) = mapped_by {
                    put("mapped_by", Text(map));
                }
                if let Some(rules) = ruled_by {
                    put("ruled_by", Text(rules));
                }
                if let Some(directories) = links_to {
                    put("links_to", Text(directories));
                }
                if let Some(directory) = uploads_to {
                    put("uploads_to", Text(directory));
                }
            }
            Self::KernelDropped { dropped } => {
                put("dropped", Number(*dropped));
                put("hint", Text(&DROPPED_HINT));
            }
            Self::LeftOut { of, lines } => {
                put("of", Word(of));
                put("lines", Number(*lines));
            }
            Self::Stopping { running, grace } => {
                put("sessions", Number(*running));
                put("grace", Seconds(grace.as_secs_f64()));
            }
            _ => {}
        }
    }

    /// The fields of events about a request.
    fn request_fields<'v>(&'v self, put: &mut dyn FnMut(&'static str, Field<'v>)) {
        use Field::{Number, Text, Word};
        match self {
            Self::Started {
                peer,
                op,
                file,
                blksize,
                windowsize,
                size,
            } => {
                put_request(peer, op, file, put);
                put("blksize", Number((*blksize).into()));
                put("windowsize", Number((*windowsize).into()));
                if let Some(size) = size {
                    put("size", Number(*size));
                }
            }
            Self::Refused {
                peer,
                op,
                file,
                code,
                reason,
                times,
                hint,
            } => {
                put_request(peer, op, file, put);
                put("code", Number(code.to_wire().into()));
                put("reason", Text(reason));
                if let Some(times) = times {
                    put("times", Number(*times));
                }
                put_hint(hint.as_ref(), put);
            }
            Self::Searched {
                peer,
                directory,
                misses,
                name,
                hint,
            } => {
                put("peer", Word(peer));
                put("directory", Text(directory));
                put("misses", Number(*misses));
                match name {
                    Ok(found) => put("found", Text(found)),
                    Err(missed) => put("missed", Text(missed)),
                }
                put_hint(hint.as_ref(), put);
            }
            Self::Mapped { .. } | Self::OtherName { .. } => self.other_name_fields(put),
            Self::Dropped {
                peer,
                reason,
                dropped,
                sessions,
            } => {
                put("peer", Word(peer));
                put("reason", Text(reason));
                put("dropped", Number(*dropped));
                put("sessions", Number(*sessions));
            }
            _ => {}
        }
    }

    /// The fields of events about a name that leads to another one.
    fn other_name_fields<'v>(&'v self, put: &mut dyn FnMut(&'static str, Field<'v>)) {
        use Field::{Text, Word};
        match self {
            Self::Mapped {
                peer,
                op,
                file,
                to,
                lines,
            } => {
                put_request(peer, op, file, put);
                put("to", Text(to));
                put("lines", Word(lines));
            }
            Self::OtherName { peer, file, to } => {
                put_request(peer, &"read", file, put);
                put("to", Text(to));
            }
            _ => {}
        }
    }

    /// Logs the event, if its level is logged.
    pub(crate) fn write(&self) {
        if self.level() <= log::max_level() {
            self.write_to(log::logger());
        }
    }

    pub(super) fn write_to(&self, logger: &dyn Log) {
        self.with_record(|record| logger.log(record));
    }

    /// Lends the event to `write` as a record of the `log` crate.
    pub(super) fn with_record(&self, write: impl FnOnce(&Record<'_>)) {
        write(
            &Record::builder()
                .level(self.level())
                .target("tftpd")
                .key_values(self)
                .args(format_args!("{self}"))
                .build(),
        );
    }
}

fn put_request<'v>(
    peer: &'v SocketAddr,
    op: &'v &'static str,
    file: &'v Name<'v>,
    put: &mut dyn FnMut(&'static str, Field<'v>),
) {
    put("peer", Field::Word(peer));
    put("op", Field::Word(op));
    put("file", Field::Text(file));
}

fn put_hint<'v>(hint: Option<&'v Cut<'v>>, put: &mut dyn FnMut(&'static str, Field<'v>)) {
    if let Some(hint) = hint {
        put("hint", Field::Text(hint));
    }
}

/// The key under which an event's record has its kind; its fields follow.
pub(crate) const KIND: &str = "event";

impl Source for Event<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let mut visit = |key, value| visitor.visit_pair(Key::from_str(key), value);
        let mut done = visit(KIND, kv::Value::from(self.name()));
        if self.is_sentence() && done.is_ok() {
            done = visit("message", kv::Value::from_dyn_display(self));
        }
        self.fields(&mut |key, field| {
            let value = match field {
                Field::Word(shown) | Field::Text(shown) => kv::Value::from_dyn_display(shown),
                Field::Number(number) => kv::Value::from(number),
                Field::Seconds(seconds) => kv::Value::from(seconds),
            };
            if done.is_ok() {
                done = visit(key, value);
            }
        });
        done
    }
}
