//! `--log-format json`: each line of the log as one object.
//!
//! A line of the kind `ended peer=… op=…` becomes `event` and its fields, digits
//! a number; any other stands in `message`. Values are spelled as in the text,
//! so that an escaped file name is the same in both. Must not: decide what is
//! logged.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::host::clock;

/// The log as JSON lines.
pub(crate) struct JsonLines {
    level: LevelFilter,
    target: Mutex<Box<dyn Write + Send>>,
}

impl JsonLines {
    pub(crate) fn new(level: LevelFilter, target: Box<dyn Write + Send>) -> Self {
        let target = Mutex::new(target);
        Self { level, target }
    }
}

impl Log for JsonLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record.level(), &record.args().to_string());
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        // There is no other place to say that it failed.
        let _ = target.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// A line of the log, of this moment, with its end.
pub(crate) fn line(level: Level, message: &str) -> String {
    let level = level.as_str().to_ascii_lowercase();
    object(clock::unix_seconds(), &level, message)
}

fn object(seconds: f64, level: &str, message: &str) -> String {
    let mut line = format!("{{\"time\":{seconds:.3},\"level\":\"{level}\"");
    let told = match event(message) {
        Some((event, fields)) => put_event(&mut line, event, &fields),
        None => write!(line, ",\"message\":{}", Quoted(message)),
    };
    debug_assert_eq!(told, Ok(()), "a string takes everything");
    line.push_str("}\n");
    line
}

fn put_event(line: &mut String, event: &str, fields: &[Field<'_>]) -> fmt::Result {
    write!(line, ",\"event\":{}", Quoted(event))?;
    for &(key, value, is_text) in fields {
        match value {
            _ if is_text || !is_number(value) => write!(line, ",\"{key}\":{}", Quoted(value))?,
            number => write!(line, ",\"{key}\":{number}")?,
        }
    }
    Ok(())
}

/// A key, its value, and whether that stood between quotes.
type Field<'a> = (&'a str, &'a str, bool);

/// Takes a line apart that is a word and `key=value` throughout.
fn event(message: &str) -> Option<(&str, Vec<Field<'_>>)> {
    let (event, mut rest) = message.split_once(' ')?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        if key.is_empty() || !key.bytes().all(|it| it.is_ascii_lowercase() || it == b'_') {
            return None;
        }
        let (value, is_text, after) = if let Some(text) = value.strip_prefix('"') {
            let end = closing_quote(text)?;
            (text.get(..end)?, true, text.get(end + 1..)?)
        } else {
            let end = value.find(' ').unwrap_or(value.len());
            (value.get(..end)?, false, value.get(end..)?)
        };
        fields.push((key, value, is_text));
        rest = match after.strip_prefix(' ') {
            Some(more) => more,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some((event, fields))
}

/// Where the first quote stands that no backslash is for.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        closes
    })
}

/// Digits, perhaps with a fraction, as JSON has them.
fn is_number(value: &str) -> bool {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

/// A JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..' ' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_objects() {
        for (message, expected) in [
            ("stopped", r#""message":"stopped""#),
            ("a \"b\"\n\x1b\\", r#""message":"a \"b\"\u000a\u001b\\""#),
            (
                r#"ended peer=192.0.2.1:7 file="a b=\"c\"\\\xff" bytes=10 seconds=0.050 rate=7"#,
                r#""event":"ended","peer":"192.0.2.1:7","file":"a b=\\\"c\\\"\\\\\\xff","bytes":10,"seconds":0.050,"rate":7"#,
            ),
            (
                r#"refused file="12" id=007 x=1.2.3"#,
                r#""event":"refused","file":"12","id":"007","x":"1.2.3""#,
            ),
            ("stopping; a=b", r#""event":"stopping;","a":"b""#),
            ("peer=x asked for y", r#""message":"peer=x asked for y""#),
            ("refused file=\"open", r#""message":"refused file=\"open""#),
            ("refused a=1  b=2", r#""message":"refused a=1  b=2""#),
        ] {
            let line = object(1.5, "info", message);
            let expected = format!("{{\"time\":1.500,\"level\":\"info\",{expected}}}\n");
            assert_eq!(line, expected);
        }
    }
}
