//! The map file: read at the start and on SIGHUP, asked for every request, and
//! tried out by `--map-test`.
//!
//! What the rules mean is the business of `remap`. Must not: answer a request.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use log::{error, info};

use super::cli::Args;
use super::start::{policy, reason};
use crate::file::Root;
use crate::log::event::Event;
use crate::log::text::{Cut, Name};
use crate::policy::map::{self, MapRefusal, Mapped, Rules};
use crate::wire::escape::escape;
use crate::wire::packet::{Direction, Request};

/// Bytes of the longest map file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Bytes of the longest name that `--map-test` takes; a request has no longer.
const MAX_TESTED_NAME: u64 = 1024;

/// The clients that `--map-test` stands in for: RFC 5737 and RFC 3849 keep these
/// addresses for examples.
const SAMPLE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SAMPLE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A map file and the rules last read from it.
#[derive(Debug)]
pub(super) struct MapFile {
    path: PathBuf,
    rules: Rules,
}

impl MapFile {
    /// Reads the rules.
    ///
    /// # Errors
    /// One line that names the file, and the place in it if there is one.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        Ok(Self {
            rules: read(path)?,
            // In a chroot, a relative one would lie among the served files.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        })
    }

    /// Reads the file again. The old rules stay if that fails, and the log says
    /// so.
    pub(super) fn reload(&mut self) {
        match read(&self.path) {
            Ok(rules) => {
                self.rules = rules;
                info!("read the map file anew: {self}");
            }
            Err(error) => error!("{error}; going on with the old rules"),
        }
    }

    /// The name to serve for a request. The log says what it became and by which
    /// lines.
    ///
    /// # Errors
    /// What the rules have against it.
    pub(super) fn map(
        &self,
        root: &Root,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> Result<Vec<u8>, MapRefusal> {
        let asked = map::MapRequest {
            name: request.filename,
            direction: request.direction,
            client: peer.ip(),
        };
        let Mapped { result, lines } = apply(&self.rules, Some(root), &asked);
        let name = result?;
        if name != asked.name {
            Event::Mapped {
                peer,
                op: asked.direction.name(),
                file: Name(asked.name),
                to: Name(&name),
                lines: Cut(&Lines(&lines)),
            }
            .write();
        }
        Ok(name)
    }
}

/// What the start tells about it.
impl fmt::Display for MapFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules of {}", self.rules.len(), self.path.display())
    }
}

fn read(path: &Path) -> Result<Rules, String> {
    let shown = path.display();
    let cannot = |error: io::Error| {
        let reason = reason(&error);
        format!("cannot read the map file {shown}: {reason}; name a readable one")
    };
    // Asked before it is opened: opening a FIFO would wait for its writer.
    if !path.metadata().map_err(cannot)?.is_file() {
        return Err(format!("the map file {shown} is not a regular file"));
    }
    let mut text = Vec::new();
    let mut file = File::open(path).map_err(cannot)?.take(MAX_FILE + 1);
    file.read_to_end(&mut text).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("the map file {shown} is larger than 1 MiB"));
    }
    Rules::parse(&text).map_err(|error| format!("map file {shown}, {error}"))
}

/// Without a root nothing leads to a file.
fn apply(rules: &Rules, root: Option<&Root>, request: &map::MapRequest<'_>) -> Mapped {
    rules.apply(request, |name| {
        root.is_some_and(|root| match request.direction {
            Direction::Read => root.open_read(name).is_ok(),
            // Nothing of an upload stays that isn't committed.
            Direction::Write => root.create(name, None).is_ok(),
        })
    })
}

/// Numbers of lines, as the log and `--map-test` show them.
struct Lines<'a>(&'a [u32]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The most numbers shown.
        const SHOWN: usize = 16;
        for (index, line) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{line}")?;
        }
        if self.0.len() > SHOWN {
            f.write_str(",…")?;
        }
        Ok(())
    }
}

/// `--map-test`: prints what each name of `names`, one a line, becomes and by
/// which lines of the file.
///
/// The client is 192.0.2.1, with `-6` `2001:db8::1`. Where the rules tell reads and
/// writes apart, a name whose results differ gets two lines.
///
/// # Errors
/// A map file that can't be read or is broken; a root that can't be served and
/// that the rules need to look into.
pub fn test(
    args: &Args,
    path: &Path,
    mut names: impl BufRead,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let rules = read(path)?;
    let open_root = || Root::open(&args.root, policy(args));
    let root = rules.ask_for_files().then(open_root).transpose()?;
    let client = if args.ipv6 { SAMPLE_V6 } else { SAMPLE_V4 };
    let mut name = Vec::new();
    loop {
        name.clear();
        let mut line = names.by_ref().take(MAX_TESTED_NAME + 1);
        if line.read_until(b'\n', &mut name)? == 0 {
            return Ok(out.flush()?);
        }
        if name.pop_if(|last| *last == b'\n').is_none() && name.len() as u64 > MAX_TESTED_NAME {
            return Err(format!("a name has more than {MAX_TESTED_NAME} bytes").into());
        }
        let result = |direction| {
            let request = map::MapRequest {
                name: &name,
                direction,
                client,
            };
            apply(&rules, root.as_ref(), &request)
        };
        let read = result(Direction::Read);
        let write = rules
            .tell_directions_apart()
            .then(|| result(Direction::Write));
        match write.filter(|write| *write != read) {
            None => show(&mut out, "", &name, &read)?,
            Some(write) => {
                show(&mut out, "read ", &name, &read)?;
                show(&mut out, "write ", &name, &write)?;
            }
        }
    }
}

fn show(out: &mut impl Write, direction: &str, name: &[u8], mapped: &Mapped) -> io::Result<()> {
    write!(out, "{direction}\"{}\" ", escape(name))?;
    match &mapped.result {
        Ok(becomes) => write!(out, "-> \"{}\"", escape(becomes))?,
        Err(refusal) => write!(out, "refused: {refusal}")?,
    }
    match &*mapped.lines {
        [] => writeln!(out),
        [line] => writeln!(out, " (line {line})"),
        lines => writeln!(out, " (lines {})", Lines(lines)),
    }
}
