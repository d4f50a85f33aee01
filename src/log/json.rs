//! `--log-format json`: each line of the log as one object.
//!
//! An event has its kind under `event`, and its fields; a line that is no event has its
//! text under `message`. Values are spelled as in the text format, so that an escaped file
//! name is the same in both. Must not: decide what is logged.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{LevelFilter, Log, Metadata, Record};

#[cfg(any(feature = "helper", feature = "status"))]
use super::event::Event;
use super::event::KIND;
use super::stamp::Process;
use super::{MARK, MAX_LINE};
use crate::host::clock;

/// The log as JSON lines.
pub(super) struct JsonLines<W> {
    level: LevelFilter,
    process: Process,
    target: Mutex<(W, String)>,
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(level: LevelFilter, target: W, process: Process) -> Self {
        let target = Mutex::new((target, String::new()));
        Self {
            level,
            process,
            target,
        }
    }
}

impl<W: Write + Send> Log for JsonLines<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, line) = &mut *target;
        put_line(line, clock::unix_seconds(), self.process, record);
        // There is no other place to report a failure.
        let _ = writer.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Puts an event into `line` as this log would, and a line end.
#[cfg(feature = "helper")]
pub(crate) fn put_event(line: &mut String, event: &Event<'_>) {
    event.with_record(|record| put_line(line, clock::unix_seconds(), None, record));
}

/// An event as an object, as it stands in the log.
#[cfg(feature = "status")]
pub(super) fn object(event: &Event<'_>) -> String {
    let mut line = String::new();
    event.with_record(|record| put_line(&mut line, clock::unix_seconds(), None, record));
    line.pop();
    line
}

/// Puts an object and a line end into `line`, at most [`MAX_LINE`] bytes: texts
/// are cut until it fits.
fn put_line(line: &mut String, seconds: f64, process: Process, record: &Record<'_>) {
    for max_text in [MAX_LINE, 1024, 256, 64] {
        line.clear();
        let done = put_object(line, seconds, process, record, max_text);
        debug_assert!(done.is_ok(), "a string takes everything");
        line.push('\n');
        if line.len() <= MAX_LINE {
            return;
        }
    }
}

/// Appends a line that tells how many lines were lost.
pub(super) fn put_note(line: &mut Vec<u8>, process: Process, lost: u64, why: &str) {
    let mut text = String::new();
    let told = super::lost_lines(lost, why);
    let mut record = Record::builder();
    record.level(log::Level::Warn);
    put_line(
        &mut text,
        clock::unix_seconds(),
        process,
        &record.args(format_args!("{told}")).build(),
    );
    line.extend(text.bytes());
}

fn put_object(
    line: &mut String,
    seconds: f64,
    process: Process,
    record: &Record<'_>,
    max_text: usize,
) -> Result<(), kv::Error> {
    let level = record.level().as_str().to_ascii_lowercase();
    write!(line, "{{\"time\":{seconds:.3},\"level\":\"{level}\"")?;
    if let Some(number) = process {
        write!(line, ",\"process\":{number}")?;
    }
    let fields = record.key_values();
    if fields.get(Key::from_str(KIND)).is_none() {
        write!(line, ",\"message\":")?;
        put_text(line, record.args(), max_text)?;
    }
    fields.visit(&mut Fields { line, max_text })?;
    line.push('}');
    Ok(())
}

/// Writes `,"key":value` for each field.
struct Fields<'a> {
    line: &'a mut String,
    max_text: usize,
}

impl<'v> VisitSource<'v> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'v>, value: Value<'v>) -> Result<(), kv::Error> {
        write!(self.line, ",\"{key}\":")?;
        value.visit(self)
    }
}

impl VisitValue<'_> for &mut Fields<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        Ok(put_text(self.line, &value, self.max_text)?)
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        Ok(write!(self.line, "{value}")?)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        Ok(write!(self.line, "{value:.3}")?)
    }
}

/// Appends a JSON string of at most `max` bytes, or a few more if it is cut.
pub(crate) fn put_text(line: &mut String, text: &dyn fmt::Display, max: usize) -> fmt::Result {
    line.push('"');
    let mut writer = Text {
        end: line.len() + max,
        line,
        is_cut: false,
    };
    let done = write!(writer, "{text}");
    // Where the text was cut, an error is expected.
    if writer.is_cut {
        line.push_str(MARK);
    } else {
        done?;
    }
    line.push('"');
    Ok(())
}

/// Takes text until `line` is `end` bytes long.
struct Text<'a> {
    line: &'a mut String,
    end: usize,
    is_cut: bool,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.line.len() >= self.end {
                self.is_cut = true;
                return Err(fmt::Error);
            }
            match character {
                '"' | '\\' => self.line.extend(['\\', character]),
                // More than RFC 8259 asks for: DEL and what terminals take for ESC [.
                _ if character.is_control() => {
                    write!(self.line, "\\u{:04x}", u32::from(character))?;
                }
                _ => self.line.push(character),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(feature = "status"))]
    use crate::log::event::Event;
    use crate::log::event::Figures;
    use crate::log::shown::{Cut, Name};
    use crate::wire::packet::ErrorCode;
    use log::Level;

    fn line_of(args: fmt::Arguments<'_>, event: Option<&Event<'_>>) -> String {
        let mut record = Record::builder();
        record.level(Level::Info).args(args);
        if let Some(event) = event {
            record.key_values(event);
        }
        let mut line = String::new();
        put_line(&mut line, 1.5, None, &record.build());
        line
    }

    fn figures(file: &[u8]) -> Figures<'_> {
        Figures {
            peer: "192.0.2.1:7".parse().unwrap(),
            op: "read",
            file: Name(file),
            served: None,
            bytes: 10,
            seconds: 0.05,
            blksize: 512,
            windowsize: 1,
            retransmits: 0,
        }
    }

    #[test]
    fn what_is_no_event_is_a_message() {
        for (message, expected) in [
            ("stopped", r#""message":"stopped""#),
            ("a \"b\"\n\x1b\\", r#""message":"a \"b\"\u000a\u001b\\""#),
            ("\u{7f}\u{9b}2J", r#""message":"\u007f\u009b2J""#),
            // A message isn't parsed.
            ("refused a=1", r#""message":"refused a=1""#),
        ] {
            let line = line_of(format_args!("{message}"), None);
            let expected = format!("{{\"time\":1.500,\"level\":\"info\",{expected}}}\n");
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn of_several_processes_each_line_names_its_own() {
        let mut line = Vec::new();
        put_note(&mut line, Some(4711), 1, "why");
        let line = String::from_utf8(line).unwrap();
        let told = r#","level":"warn","process":4711,"message":"1 line of the log "#;
        assert!(line.contains(told), "{line}");
    }

    #[test]
    fn events_are_fields() {
        let file = b"a b=\"c\"\\\xff";
        let event = Event::Running {
            figures: figures(file),
            size: Some(20),
            state: "moving",
        };
        assert_eq!(
            line_of(format_args!("{event}"), Some(&event)),
            concat!(
                r#"{"time":1.500,"level":"info","event":"running","peer":"192.0.2.1:7","op":"read","#,
                r#""file":"a b=\\\"c\\\"\\\\\\xff","bytes":10,"seconds":0.050,"rate":200,"#,
                r#""blksize":512,"windowsize":1,"retransmits":0,"size":20,"state":"moving"}"#,
                "\n"
            )
        );
        let event = Event::Dropped {
            peer: "192.0.2.1:7".parse().unwrap(),
            reason: "full",
            dropped: 1,
            sessions: 2,
        };
        let line = line_of(format_args!("{event}"), Some(&event));
        assert!(
            line.contains(r#""message":"dropped a request of 192.0.2.1:7: full; "#),
            "{line}"
        );
        let fields = "\"reason\":\"full\",\"dropped\":1,\"sessions\":2}\n";
        assert!(line.ends_with(fields), "{line}");
    }

    #[test]
    fn an_object_longer_than_a_pipe_takes_is_cut_and_stays_an_object() {
        let long = [0xff; 600];
        let reason = String::from_utf8(vec![b'"'; 5000]).unwrap();
        let event = Event::Refused {
            peer: "[2001:db8::1]:7".parse().unwrap(),
            op: "read",
            file: Name(&long),
            code: ErrorCode::FileNotFound,
            reason: Cut(&reason),
            times: Some(u64::MAX),
            hint: Some(Cut(&reason)),
        };
        let line = line_of(format_args!("{event}"), Some(&event));
        assert!(line.len() <= MAX_LINE, "{}", line.len());
        assert!(
            line.ends_with("…\"}\n") && line.contains(r#"…","code":1,"#),
            "{line}"
        );
        let line = line_of(format_args!("{reason}"), None);
        assert!(line.len() <= MAX_LINE && line.ends_with("…\"}\n"), "{line}");
    }
}
