//! What the server and a helper say to each other: one JSON object a line, each with the
//! version under `v`.
//!
//! ```text
//!   server → helper   events     {"v":1,"time":…,"event":"ended",…}
//!                     questions  {"v":1,"question":7,"peer":…,"op":"read","file":…,…}
//!   helper → server   answers    {"v":1,"answer":7,"path":"boot/x"}
//!                                {"v":1,"answer":7,"descriptor":true}
//!                                {"v":1,"answer":7,"refuse":"Not yet","code":2}
//!                                {"v":1,"answer":7}
//!                     a start    {"v":1,"helper":"started"}
//!                     another    {"v":1,"helper":"started","ended":1}
//!                     an end     {"v":1,"helper":"ended","ended":127}
//! ```
//!
//! Must not: do any I/O, remember anything.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use crate::log::event::Event;
use crate::log::json::{put_event, put_text};
use crate::wire::escape::escape;
use crate::wire::packet::{ErrorCode, Request};

/// The version of the protocol.
const VERSION: u64 = 1;

/// Bytes of the longest text in a line to the helper.
const MAX_TEXT: usize = 1024;

/// Characters of the longest refusal that a client gets.
const MAX_REFUSAL: usize = 120;

/// The shell script that starts the helper again and again, at most once a second: the
/// server can start nothing itself once it has given up its rights. Its first argument
/// is the command. It tells the server about each start, with the exit status of the
/// helper before, and ends when the server is gone. Its newline ends a line that the
/// helper may have left unfinished. A command that isn't there, or can't be executed, is
/// tried every 10 seconds, since the shell complains about it each time. Meanwhile an
/// empty line each second shows whether the server is still there. SIGUSR2, sent to the
/// whole process group for the supervisor, is caught: ignored, the helper would ignore
/// it, too. The first line is about [`HELPERS_OPEN_FILES`](crate::host::HELPERS_OPEN_FILES).
pub(super) const RESTARTER: &str = "\
    [ -z \"$TFTPD_OPEN_FILES\" ] || ulimit -S -n \"$TFTPD_OPEN_FILES\"; unset TFTPD_OPEN_FILES; \
    trap : USR2; ended=; \
    while printf '\\n{\"v\":1,\"helper\":\"started\"%s}\\n' \"$ended\"; \
    do sh -c \"$1\"; ended=$?; sleep 1; \
    case $ended in 12[67]) \
    printf '\\n{\"v\":1,\"helper\":\"ended\",\"ended\":%s}\\n' $ended || exit; ended=; \
    for second in 1 2 3 4 5 6 7 8 9; do sleep 1; printf '\\n' || exit; done;; \
    *) ended=',\"ended\":'$ended;; esac; done";

/// What a helper says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It has been started, and knows no questions. The helper before, if there was one,
    /// ended with this exit status.
    Started(Option<u64>),
    /// It has ended with this exit status, and will be started again in a while.
    Ended(u64),
    /// An answer to the question with this number.
    Answer(u64, Verdict),
}

/// What a helper answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: go on as if it hadn't been asked.
    Unknown,
    /// The client is to get this file, or its upload this name.
    Path(String),
    /// The client is to get the open file that comes with the line.
    Descriptor,
    Refuse(ErrorCode, String),
}

/// Reads a line from the helper.
///
/// # Errors
/// What is wrong with the line.
pub(super) fn read(line: &[u8]) -> Result<Said, &'static str> {
    let Ok(Value::Object(object)) = serde_json::from_slice(line) else {
        return Err("no JSON object");
    };
    if object.get("v").and_then(Value::as_u64) != Some(VERSION) {
        return Err("not of version 1");
    }
    let ended = object.get("ended").and_then(Value::as_u64);
    match (object.get("helper").and_then(Value::as_str), ended) {
        (Some("started"), _) => return Ok(Said::Started(ended)),
        (Some("ended"), Some(status)) => return Ok(Said::Ended(status)),
        _ => {}
    }
    let Some(number) = object.get("answer").and_then(Value::as_u64) else {
        return Err("no answer in it");
    };
    let text = |key| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err("a path or a refusal that is no text"),
    };
    let has_descriptor = match object.get("descriptor") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err("a descriptor that is neither true nor false"),
    };
    let verdict = match (text("path")?, has_descriptor, text("refuse")?) {
        (None, false, None) => Verdict::Unknown,
        // No file has such a name.
        (Some(path), false, None) if path.contains('\0') => {
            Verdict::Refuse(ErrorCode::FileNotFound, "File not found".to_owned())
        }
        (Some(path), false, None) => Verdict::Path(path),
        (None, true, None) => Verdict::Descriptor,
        (None, false, Some(text)) => Verdict::Refuse(code(object.get("code"))?, shown(&text)),
        _ => return Err("more than one answer in it"),
    };
    Ok(Said::Answer(number, verdict))
}

/// The code of a refusal; 2 if none is given.
fn code(value: Option<&Value>) -> Result<ErrorCode, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(ErrorCode::AccessViolation),
        Some(value) => match value.as_u64() {
            Some(number @ 0..=7) => Ok(ErrorCode::from_wire(number as u16)),
            _ => Err("a code that isn't from 0 to 7"),
        },
    }
}

/// A text as a client may see it: one line, not too long.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|it| !it.is_control());
    plain.take(MAX_REFUSAL).collect()
}

/// Puts an event into `line`.
pub(super) fn put_event_line(line: &mut String, event: &Event<'_>) {
    let mut object = String::new();
    put_event(&mut object, event);
    let fields = object.strip_prefix('{').unwrap_or(&object);
    // Writing to a String cannot fail.
    let _ = write!(line, "{{\"v\":{VERSION},{fields}");
}

/// Puts a question with this number into `line`, about the request of `peer`.
pub(super) fn put_question(
    line: &mut String,
    number: u64,
    peer: SocketAddr,
    request: &Request<'_>,
) {
    let mode = request.mode.name();
    let op = request.direction.name();
    let name = escape(request.filename);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "{{\"v\":{VERSION},\"question\":{number},\"peer\":\"{peer}\",\"op\":\"{op}\",\"file\":"
    );
    let _ = put_text(line, &name, MAX_TEXT);
    let _ = write!(line, ",\"mode\":\"{mode}\",\"options\":{{");
    // Of two options of one name only the first is told: a JSON object must not have two
    // fields of one name.
    let mut told: Vec<Vec<u8>> = Vec::new();
    for (name, value) in request.options.pairs() {
        let name = name.to_ascii_lowercase();
        if told.contains(&name) {
            continue;
        }
        if !told.is_empty() {
            line.push(',');
        }
        let _ = put_text(line, &escape(&name), MAX_TEXT);
        told.push(name);
        line.push(':');
        let _ = put_text(line, &escape(value), MAX_TEXT);
    }
    line.push_str("}}\n");
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::wire::packet::Packet;

    /// SIGUSR2 to all of the process group is for the supervisor. It ends a helper that
    /// doesn't expect it, which is started again then.
    #[test]
    fn a_signal_for_the_supervisor_leaves_what_starts_the_helper_alive() {
        for shell in [&["sh"][..], &["dash"], &["busybox", "sh"]] {
            let (program, applet) = (shell[0], &shell[1..]);
            let signals = "kill -USR2 $PPID; kill -USR2 $$";
            let started = Command::new(program)
                .args(applet)
                .args(["-c", RESTARTER, "tftpd-helper", signals])
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut started) = started else {
                assert_ne!(program, "sh");
                continue;
            };
            let mut lines = BufReader::new(started.stdout.take().unwrap()).lines();
            let ended = lines.find_map(|line| match read(line.unwrap().as_bytes()) {
                Ok(Said::Started(Some(ended))) => Some(ended),
                _ => None,
            });
            // 128 and the signal.
            assert_eq!(ended, Some(140), "{shell:?}");
            started.kill().unwrap();
            started.wait().unwrap();
        }
    }

    #[test]
    fn answers_are_read_and_what_makes_no_sense_is_told() {
        let refuse = |code, text: &str| Verdict::Refuse(code, text.to_owned());
        let answer = |verdict| Ok(Said::Answer(7, verdict));
        for (line, said) in [
            (r#"{"v":1,"helper":"started"}"#, Ok(Said::Started(None))),
            (
                r#"{"v":1,"helper":"started","ended":127}"#,
                Ok(Said::Started(Some(127))),
            ),
            (
                r#"{"v":1,"helper":"ended","ended":127}"#,
                Ok(Said::Ended(127)),
            ),
            (r#"{"v":1,"helper":"ended"}"#, Err("no answer")),
            (r#"{"v":1,"answer":7}"#, answer(Verdict::Unknown)),
            (
                r#"{"v":1,"answer":7,"path":"b/x","extra":[1]}"#,
                answer(Verdict::Path("b/x".to_owned())),
            ),
            (
                r#"{"v":1,"answer":7,"path":null}"#,
                answer(Verdict::Unknown),
            ),
            (
                r#"{"v":1,"answer":7,"descriptor":true}"#,
                answer(Verdict::Descriptor),
            ),
            (
                r#"{"v":1,"answer":7,"refuse":"Not\n yet"}"#,
                answer(refuse(ErrorCode::AccessViolation, "Not yet")),
            ),
            (
                r#"{"v":1,"answer":7,"refuse":"x","code":1}"#,
                answer(refuse(ErrorCode::FileNotFound, "x")),
            ),
            ("", Err("no JSON")),
            ("[]", Err("no JSON")),
            (r#"{"v":1,"answer":7"#, Err("no JSON")),
            (r#"{"v":2,"answer":7}"#, Err("version")),
            (r#"{"answer":7}"#, Err("version")),
            (r#"{"v":1,"answer":"7"}"#, Err("no answer")),
            (r#"{"v":1,"answer":-7}"#, Err("no answer")),
            (r#"{"v":1,"answer":7,"path":5}"#, Err("no text")),
            (
                r#"{"v":1,"answer":7,"descriptor":1}"#,
                Err("true nor false"),
            ),
            (
                r#"{"v":1,"answer":7,"descriptor":true,"path":"x"}"#,
                Err("more than one"),
            ),
            (
                r#"{"v":1,"answer":7,"refuse":"x","code":9}"#,
                Err("from 0 to 7"),
            ),
        ] {
            match (read(line.as_bytes()), said) {
                (Ok(read), Ok(said)) => assert_eq!(read, said, "{line}"),
                (Err(read), Err(said)) => assert!(read.contains(said), "{line}: {read}"),
                (read, said) => panic!("{line}: {read:?}, not {said:?}"),
            }
        }
        let nested = "[".repeat(60_000);
        assert!(read(nested.as_bytes()).is_err());
        let long = format!(r#"{{"v":1,"answer":7,"refuse":"{}"}}"#, "ä".repeat(500));
        let said = read(long.as_bytes());
        assert_eq!(
            said,
            answer(refuse(ErrorCode::AccessViolation, &"ä".repeat(120)))
        );
    }

    /// Question 9, about a client's request.
    fn question(datagram: &[u8]) -> String {
        let Ok(Packet::Request(request)) = Packet::parse(datagram) else {
            panic!("no request");
        };
        let mut line = String::new();
        put_question(&mut line, 9, "192.0.2.1:7".parse().unwrap(), &request);
        line
    }

    #[test]
    fn a_question_is_one_line_of_json_whatever_the_client_sent() {
        let datagram = b"\0\x01a\"\n\xffb\0octet\0BLKSIZE\x001428\0x\"\0\x07\0";
        let line = question(datagram);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["question"], 9);
        assert_eq!(value["peer"], "192.0.2.1:7");
        assert_eq!(value["options"]["blksize"], "1428");
        assert!(value["file"].as_str().unwrap().contains("\\xff"), "{line}");
    }

    /// Of two options of one name, JSON readers would take the last, but the server takes
    /// the first valid one.
    #[test]
    fn an_option_that_comes_twice_is_in_a_question_once() {
        let datagram = b"\0\x01f\0octet\0blksize\x00512\0tsize\x000\0BLKSIZE\x001024\0Tsize\x007\0";
        let line = question(datagram);
        let options = r#""options":{"blksize":"512","tsize":"0"}}"#;
        assert!(line.trim_end().ends_with(options), "{line}");
    }
}
