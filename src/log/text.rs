//! Events as text: a word and `key=value` fields, or a sentence where people are
//! more likely to read it than programs.
//!
//! Must not: decide what is told.

use std::fmt;

use super::event::{DROPPED_HINT, Event, Field};
use super::shown::{Count, Seconds};

impl Event<'_> {
    /// Whether the text is a sentence that contains the fields.
    pub(crate) const fn is_sentence(&self) -> bool {
        matches!(
            self,
            Self::Listening { .. }
                | Self::OtherName { .. }
                | Self::Dropped { .. }
                | Self::KernelDropped { .. }
                | Self::Stopping { .. }
        )
    }

    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
                let most = Count(*max_sessions, "transfer");
                write!(
                    f,
                    "listening on {addresses}; tftpd {version} serving {root}: {access}; at most \
                     {most}"
                )?;
                if let Some(options) = options {
                    write!(f, "; with {options}")?;
                }
                if let Some(map) = mapped_by {
                    write!(f, "; names mapped by {map}")?;
                }
                if let Some(rules) = ruled_by {
                    write!(f, "; rules by client: {rules}")?;
                }
                if let Some(directories) = links_to {
                    write!(f, "; links may lead to {directories}")?;
                }
                match uploads_to {
                    Some(directory) => write!(f, "; uploads go to {directory}"),
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
            Self::KernelDropped { dropped } => write!(
                f,
                "the kernel dropped what came while the listening port's buffer was full; \
                 dropped={dropped} hint=\"{DROPPED_HINT}\""
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
    use crate::log::shown::{Cut, Name};
    use crate::wire::packet::ErrorCode;
    use log::Level;
    use std::time::Duration;

    fn ended<'a>(file: &'a [u8], message: &'a [u8]) -> Event<'a> {
        Event::Ended {
            level: Level::Warn,
            figures: Figures {
                peer: "192.0.2.1:7".parse().unwrap(),
                op: "read",
                file: Name(file),
                served: None,
                bytes: 10,
                seconds: 0.05,
                blksize: 512,
                windowsize: 1,
                retransmits: 0,
            },
            outcome: "peer_error",
            lacks_last_ack: false,
            error: Some((ErrorCode::NotDefined, Name(message))),
            hint: Some(Cut(&"look")),
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
