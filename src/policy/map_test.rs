//! `--map-test`: what the server would make of names, without serving any.
//!
//! Must not: decide anything itself.

use std::error::Error;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::map::Lines;
use super::map::file::MapFile;
use super::settle::{Asked, Refusal, Settled, settle};
use super::work::Work;
use crate::file::{Root, with_remedy};
use crate::wire::escape::escape;
use crate::wire::packet::Direction;

/// Bytes of the longest name that `--map-test` takes; a request has no longer.
const MAX_TESTED_NAME: u64 = 1024;

/// The clients that `--map-test` stands in for: RFC 5737 and RFC 3849 keep these
/// addresses for examples.
const SAMPLE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SAMPLE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// `--map-test`: prints what each of the `names`, one a line, becomes, and by which lines
/// of the file. `root` is where the files would be served from.
///
/// The client is 192.0.2.1, with `-6` `2001:db8::1`. If the rules tell reads and writes
/// apart, a name whose results differ gets two lines.
///
/// # Errors
/// A map file that can't be read or is broken; names that can't be read, or output that
/// can't be written.
pub fn run(
    path: &Path,
    root: &Root,
    ipv6: bool,
    mut names: impl BufRead,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let map_file = MapFile::open(path, root.ignores_case())?;
    let rules = map_file.rules();
    let client = if ipv6 { SAMPLE_V6 } else { SAMPLE_V4 };
    let mut name = Vec::new();
    let mut number = 0_u64;
    loop {
        number += 1;
        name.clear();
        let mut line = names.by_ref().take(MAX_TESTED_NAME + 1);
        let read = line
            .read_until(b'\n', &mut name)
            .map_err(|error| cannot_read(&error))?;
        if read == 0 {
            return Ok(out.flush().map_err(|error| cannot_write(&error))?);
        }
        if name.pop_if(|last| *last == b'\n').is_none() && name.len() as u64 > MAX_TESTED_NAME {
            return Err(format!(
                "line {number} of the input has more than {MAX_TESTED_NAME} bytes"
            )
            .into());
        }
        let result = |direction| {
            let asked = Asked {
                spelled: &name,
                direction,
                client,
            };
            settle(&asked, root, Some(rules), &mut Work::default())
        };
        let read = result(Direction::Read);
        let write = rules
            .tell_directions_apart()
            .then(|| result(Direction::Write));
        match write.filter(|write| *write != read) {
            None => show(&mut out, "", &name, &read),
            Some(write) => show(&mut out, "read ", &name, &read)
                .and_then(|()| show(&mut out, "write ", &name, &write)),
        }
        .map_err(|error| cannot_write(&error))?;
    }
}

/// What `--map-test` and `--rules-test` say if they can't read their input.
pub(super) fn cannot_read(error: &io::Error) -> String {
    let told = with_remedy(error, "give it a file or a pipe");
    format!("cannot read standard input: {told}")
}

/// What they say if they can't write their output.
pub(super) fn cannot_write(error: &io::Error) -> String {
    let told = with_remedy(error, "lead it elsewhere");
    format!("cannot write to standard output: {told}")
}

fn show(
    out: &mut impl Write,
    direction: &str,
    name: &[u8],
    result: &Result<Settled, Refusal>,
) -> io::Result<()> {
    write!(out, "{direction}\"{}\" ", escape(name))?;
    match result {
        Err(refusal) => writeln!(out, "refused: {refusal}"),
        Ok(settled) => {
            write!(out, "-> \"{}\"", escape(&settled.name))?;
            match &*settled.lines {
                [] => writeln!(out),
                [line] => writeln!(out, " (line {line})"),
                lines => writeln!(out, " (lines {})", Lines(lines)),
            }
        }
    }
}
