//! Writes lines, each whole or cut.
//!
//! Lines that can't be written are counted; how many there were is told before the next
//! line that can be. Must not: wait, decide what is logged, or know a format.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::stamp::Process;
use super::target::{LogFile, Target};
use super::{MARK, MAX_LINE};

/// Appends the line about lost lines: which process lost them, how many, and why.
pub(super) type Note = fn(&mut Vec<u8>, Process, u64, &str);

/// Takes pieces of lines and writes lines.
#[derive(Debug)]
pub(super) struct Sink {
    target: Arc<Mutex<Target>>,
    note: Note,
    process: Process,
    /// A line that has yet to end.
    line: Vec<u8>,
    /// The end of a line whose beginning was written.
    rest: Vec<u8>,
    /// Lines lost since the last one that was written.
    lost: u64,
    /// Why the last one was lost.
    reason: Errno,
}

impl Sink {
    pub(super) fn new(target: Target, note: Note, process: Process) -> Self {
        Self::shared(Arc::new(Mutex::new(target)), note, process)
    }

    /// Writes to the log file, even after it was opened again.
    pub(super) fn to(file: &LogFile, note: Note, process: Process) -> Self {
        Self::shared(file.target(), note, process)
    }

    const fn shared(target: Arc<Mutex<Target>>, note: Note, process: Process) -> Self {
        Self {
            target,
            note,
            process,
            line: Vec::new(),
            rest: Vec::new(),
            lost: 0,
            reason: Errno::EAGAIN,
        }
    }

    /// Writes a line, after the rest of an earlier one and the line about lost ones.
    fn put(&mut self, line: &[u8]) -> Result<(), Errno> {
        let rest = std::mem::take(&mut self.rest);
        if let Err(errno) = self.begin(&rest) {
            self.rest = rest;
            return Err(errno);
        }
        if self.lost == 0 {
            return self.begin(line);
        }
        let why = match self.reason {
            Errno::EAGAIN | Errno::EPIPE | Errno::ENXIO => "nobody read them".to_owned(),
            other => other.desc().to_ascii_lowercase(),
        };
        // In one write with the line: alone, it would fit where the line doesn't, again and
        // again.
        let mut both = Vec::new();
        (self.note)(&mut both, self.process, self.lost, &why);
        both.extend(line);
        self.begin(&both)?;
        self.lost = 0;
        Ok(())
    }

    /// Writes as much of `bytes` as it can and keeps the rest; nothing before an earlier
    /// rest has been written.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if !self.rest.is_empty() {
            return Err(Errno::EAGAIN);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let written = target.write(bytes)?;
        self.rest.extend(bytes.iter().skip(written));
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            // One byte more shows that the line must be cut.
            let room = (MAX_LINE + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.line);
                cut(&mut line, MAX_LINE);
                if let Err(errno) = self.put(&line) {
                    self.lost += 1;
                    self.reason = errno;
                }
                line.clear();
                self.line = line;
            }
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a line to at most `max` bytes, a mark for the rest and the line end included.
pub(super) fn cut(line: &mut Vec<u8>, max: usize) {
    if line.len() <= max {
        return;
    }
    let mut end = max - MARK.len() - 1;
    // Not in the middle of a character.
    while line.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    line.truncate(end);
    line.extend(MARK.bytes());
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    fn note(line: &mut Vec<u8>, _: Process, lost: u64, why: &str) {
        line.extend(format!("lost {lost}: {why}\n").bytes());
    }

    #[test]
    fn a_pipe_that_nobody_reads_takes_no_time_and_what_was_lost_is_told() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut reader = std::fs::File::from(reader);
        let mut sink = Sink::new(Target::inherited(&writer), note, None);
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        for _ in 0..100 {
            sink.write_all(&line).unwrap();
        }
        let mut read = || {
            let mut bytes = vec![0; 1 << 20];
            let len = reader.read(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        let before = read();
        let taken = before.lines().filter(|line| line.len() == 1000).count();
        assert!(
            (10..100).contains(&taken) && before.ends_with('\n'),
            "{taken}"
        );
        // In pieces, as the logger writes.
        for piece in ["af", "ter", "wards", "\n"] {
            sink.write_all(piece.as_bytes()).unwrap();
        }
        let lost = 100 - taken;
        assert_eq!(
            read(),
            format!("lost {lost}: nobody read them\nafterwards\n")
        );
    }

    #[test]
    fn what_others_do_with_the_descriptor_stays_as_it_was() {
        let (_reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let _target = Target::inherited(&writer);
        let flags = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_full_disk_is_told() {
        let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
            return;
        };
        let mut sink = Sink::new(Target::inherited(&full), note, None);
        sink.write_all(b"lost\n").unwrap();
        assert_eq!((sink.lost, sink.reason), (1, Errno::ENOSPC));
    }

    #[test]
    fn long_lines_are_cut_with_a_mark() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut sink = Sink::new(Target::inherited(&writer), note, None);
        sink.write_all("ö".repeat(5000).as_bytes()).unwrap();
        sink.write_all(b"\nnext\n").unwrap();
        drop((sink, writer));
        let mut lines = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut lines)
            .unwrap();
        let (long, next) = lines.split_once('\n').unwrap();
        assert!(
            long.len() < MAX_LINE && long.ends_with("ö…"),
            "{}",
            long.len()
        );
        assert_eq!(next, "next\n");
    }
}
