//! Events as text: a word and `key=value` fields, or a sentence where people are
//! more likely to read it than programs.
//!
//! Whatever came from the network is escaped and has a bound here, so that the
//! end of a line is never lost to a long name. Must not: decide what is told.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::event::{Event, Field};
use crate::wire::escape::escape;

/// The most characters of a field that are shown; `…` stands for the rest. Three
/// such fields, the most an event has, fit into a line.
const MAX_FIELD: usize = 1024;

/// A file name, or another text from the network, to stand between quotes.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Cut(&escape(self.0)).fmt(f)
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Something of ours to be shown, if it isn't too long.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a>(pub(crate) &'a dyn fmt::Display);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cutter = Cutter {
            to: f,
            left: MAX_FIELD,
        };
        match write!(cutter, "{}", self.0) {
            // The only way to stop: it is whole as it is.
            Err(_) if cutter.left == 0 => Ok(()),
            done => done,
        }
    }
}

impl fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes on until there is no more room.
struct Cutter<'a, W> {
    to: &'a mut W,
    left: usize,
}

impl<W: Write> Write for Cutter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some((cut, _)) = text.char_indices().nth(self.left) {
            self.left = 0;
            self.to.write_str(&text[..cut])?;
            self.to.write_char('…')?;
            return Err(fmt::Error);
        }
        self.left -= text.chars().count();
        self.to.write_str(text)
    }
}

/// Addresses with commas between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses<'a>(pub(crate) &'a [SocketAddr]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

/// A duration in words: whole seconds, or as many digits as it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

/// A number and what it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

impl Event<'_> {
    /// Whether the text is a sentence; the fields are in it.
    pub(crate) const fn is_sentence(&self) -> bool {
        matches!(
            self,
            Self::Listening { .. }
                | Self::OtherName { .. }
                | Self::Dropped { .. }
                | Self::Stopping { .. }
        )
    }

    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening {
                addresses,
                root,
                access,
                max_sessions,
                mapped_by,
            } => {
                let most = Count(*max_sessions, "transfer");
                write!(
                    f,
                    "listening on {addresses}; serving {root}: {access}; at most {most}"
                )?;
                match mapped_by {
                    Some(map) => write!(f, "; names mapped by {map}"),
                    None => Ok(()),
                }
            }
            Self::OtherName { peer, file, to } => {
                write!(
                    f,
                    "peer={peer} asked for \"{file}\", which is served as \"{to}\""
                )
            }
            Self::Dropped {
                peer,
                reason,
                dropped,
                sessions,
            } => write!(
                f,
                "dropped a request of {peer}: {reason}; dropped={dropped} sessions={sessions}"
            ),
            Self::Stopping { running, grace } => {
                let have = if *running == 1 { "has" } else { "have" };
                let (running, grace) = (Count(*running, "transfer"), Seconds(*grace));
                write!(f, "stopping; {running} {have} {grace} to finish")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sentence() {
            return self.sentence(f);
        }
        f.write_str(self.name())?;
        let mut done = Ok(());
        self.fields(&mut |key, field| {
            done = done.and_then(|()| match field {
                Field::Word(shown) => write!(f, " {key}={shown}"),
                Field::Text(shown) => write!(f, " {key}=\"{shown}\""),
                Field::Number(number) => write!(f, " {key}={number}"),
                Field::Seconds(seconds) => write!(f, " {key}={seconds:.3}"),
            });
        });
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event::Figures;
    use crate::wire::packet::ErrorCode;
    use log::Level;

    fn ended<'a>(file: &'a [u8], message: &'a [u8]) -> Event<'a> {
        Event::Ended {
            level: Level::Warn,
            figures: Figures {
                peer: "192.0.2.1:7".parse().unwrap(),
                op: "read",
                file: Name(file),
                bytes: 10,
                seconds: 0.05,
                blksize: 512,
                windowsize: 1,
                retransmits: 0,
            },
            outcome: "peer_error",
            lacks_last_ack: false,
            error: Some((ErrorCode::NotDefined, Name(message))),
            hint: Some("look"),
        }
    }

    #[test]
    fn events_are_key_value_lines() {
        assert_eq!(
            ended(b"a \"b\"\n", b"m").to_string(),
            "ended peer=192.0.2.1:7 op=read file=\"a \\\"b\\\"\\x0a\" bytes=10 seconds=0.050 \
             rate=200 blksize=512 windowsize=1 retransmits=0 outcome=peer_error code=0 \
             message=\"m\" hint=\"look\""
        );
        let counts = [("sessions", 0), ("requests", 3)];
        let counters = Event::Counters(&counts).to_string();
        assert_eq!(counters, "counters sessions=0 requests=3");
    }

    #[test]
    fn numbers_and_what_they_count_agree() {
        for (running, told) in [
            (0, "stopping; 0 transfers have 3 s to finish"),
            (1, "stopping; 1 transfer has 3 s to finish"),
            (2, "stopping; 2 transfers have 3 s to finish"),
        ] {
            let grace = Duration::from_secs(3);
            assert_eq!(Event::Stopping { running, grace }.to_string(), told);
        }
    }

    #[test]
    fn long_names_are_cut_and_the_rest_of_the_line_is_there() {
        let line = ended(&[0xff; 600], &[1; 600]).to_string();
        assert!(
            line.len() < 3000 && line.ends_with(" hint=\"look\""),
            "{line}"
        );
        assert_eq!(line.matches("…\"").count(), 2, "{line}");
    }
}
