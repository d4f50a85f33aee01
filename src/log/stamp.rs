//! What a line of text begins with: the time and, where several processes write to one
//! log, the process that wrote the line.
//!
//! The time has the same length in every line, so that lines can be sorted and cut by
//! columns. Must not: know what follows.

use std::io::{self, Write};
use std::mem;

use super::lost_lines;
use crate::host::{calendar, clock};

/// The number of the process that writes the lines, if several write to one log.
pub(crate) type Process = Option<u32>;

/// Puts the stamp before each line.
pub(super) struct Stamped<W> {
    lines: W,
    process: Process,
    /// The next byte begins a line.
    is_begin: bool,
}

impl<W: Write> Stamped<W> {
    pub(super) const fn new(lines: W, process: Process) -> Self {
        Self {
            lines,
            process,
            is_begin: true,
        }
    }
}

impl<W: Write> Write for Stamped<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            if mem::replace(&mut self.is_begin, part.ends_with(b"\n")) {
                let stamp = stamp(clock::unix_milliseconds(), self.process);
                self.lines.write_all(stamp.as_bytes())?;
            }
            self.lines.write_all(part)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }
}

/// Appends a line of text that tells how many lines were lost.
pub(super) fn put_note(line: &mut Vec<u8>, process: Process, lost: u64, why: &str) {
    let stamp = stamp(clock::unix_milliseconds(), process);
    line.extend(format!("{stamp}[WARN] {}\n", lost_lines(lost, why)).bytes());
}

/// The time (RFC 3339, in UTC), given in milliseconds since 1970, and the process.
fn stamp(milliseconds: u64, process: Process) -> String {
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    let (year, month, day) = calendar::date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let time = format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z "
    );
    match process {
        Some(number) => format!("{time}tftpd[{number}] "),
        None => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_date_writes_them_and_of_one_length() {
        // date -u -d @SECONDS --rfc-3339=seconds
        for (milliseconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z "),
            (951_782_399_999, "2000-02-28T23:59:59.999Z "),
            (951_782_400_000, "2000-02-29T00:00:00.000Z "),
            (951_868_800_010, "2000-03-01T00:00:00.010Z "),
            (1_078_099_199_100, "2004-02-29T23:59:59.100Z "),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z "),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z "),
            (1_795_745_700_120, "2026-11-27T02:15:00.120Z "),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z "),
        ] {
            assert_eq!(stamp(milliseconds, None), expected);
        }
        assert_eq!(stamp(1, Some(47)), "1970-01-01T00:00:00.001Z tftpd[47] ");
    }

    #[test]
    fn each_line_gets_a_stamp_however_many_pieces_it_comes_in() {
        let mut stamped = Stamped::new(Vec::new(), Some(7));
        for piece in ["", "a", "b\n", "", "c\nd", "\n"] {
            stamped.write_all(piece.as_bytes()).unwrap();
        }
        let lines = String::from_utf8(stamped.lines).unwrap();
        let ends: Vec<_> = lines
            .lines()
            .map(|line| line.split_once("Z tftpd[7] ").map(|it| it.1))
            .collect();
        assert_eq!(ends, [Some("ab"), Some("c"), Some("d")]);
    }

    #[test]
    fn the_line_about_lost_lines_has_a_stamp_too() {
        let mut line = Vec::new();
        put_note(&mut line, Some(7), 2, "nobody read them");
        let line = String::from_utf8(line).unwrap();
        let told = "Z tftpd[7] [WARN] 2 lines of the log were lost: nobody read them\n";
        assert!(line.ends_with(told), "{line}");
    }
}
