//! `--rules-test`: what the rules mean for a client and a name, without serving any.
//!
//! Must not: decide anything itself.

use std::cell::OnceCell;
use std::error::Error;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::time::Instant;

use super::{Client, Interface, Settings};
use crate::file::StorageError;
use crate::policy::hardware;
use crate::policy::map_test::{cannot_read, cannot_write};
use crate::policy::work::Work;
use crate::policy::{Policy, Refusal};
use crate::wire::escape::escape;
use crate::wire::options::{OptionName, RawOptions};
use crate::wire::packet::{Direction, Mode, Request};

/// Bytes of the longest line.
const MAX_LINE: u64 = 2048;

/// Prints what holds for each of the `lines`. A line is a client, a space, and a name; a
/// client is an address and, after commas, the interface that it asks by and its hardware
/// address: `192.0.2.7,eth0,52:54:00:12:34:56`.
///
/// # Errors
/// A line that is too long, or without a client or a name; lines that can't be read, or
/// output that can't be written.
pub fn run(
    policy: &Policy,
    now: Instant,
    mut lines: impl BufRead,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        number += 1;
        line.clear();
        let read = lines
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| cannot_read(&error))?;
        if read == 0 {
            return Ok(out.flush().map_err(|error| cannot_write(&error))?);
        }
        if line.pop_if(|last| *last == b'\n').is_none() && line.len() as u64 > MAX_LINE {
            return Err(
                format!("line {number} of the input has more than {MAX_LINE} bytes").into(),
            );
        }
        let (client, name) = client_and_name(&line)
            .map_err(|wrong| format!("line {number} of the input: {wrong}; {EXPECTED}"))?;
        show(policy, now, &client, name, &mut out).map_err(|error| cannot_write(&error))?;
    }
}

/// The hint in every error about a line.
const EXPECTED: &str = "expected a client and a name, such as 192.0.2.7 boot/f";

fn client_and_name(line: &[u8]) -> Result<(Client<'_>, &[u8]), String> {
    let mut words = line.splitn(2, |&byte| byte == b' ');
    let client = client_of(words.next().unwrap_or_default())?;
    match words.next() {
        Some(name) => Ok((client, name)),
        None => Err("no name behind the client".to_owned()),
    }
}

/// `192.0.2.7,eth0,52:54:00:12:34:56`
fn client_of(text: &[u8]) -> Result<Client<'_>, String> {
    let wrong = |word: &str, what| format!("{} is no {what}", escape(word.as_bytes()));
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
    if text.is_empty() {
        return Err("no client".to_owned());
    }
    let mut words = text.split(',');
    let address = words.next().unwrap_or_default();
    let address = address.parse().map_err(|_| wrong(address, "IP address"))?;
    let (mut interface, mut hardware) = (Interface::Unknown, None);
    for word in words {
        match hardware::address(word) {
            Some(address) => hardware = Some(address),
            None if word.contains(':') => return Err(wrong(word, "hardware address")),
            None => interface = Interface::Name(word),
        }
    }
    Ok(Client {
        address,
        interface,
        hardware: hardware.map_or_else(OnceCell::new, |it| OnceCell::from(Some(it))),
    })
}

/// Writes a line: the client and the name, the section, what a read and a write lead to,
/// the settings.
fn show(
    policy: &Policy,
    now: Instant,
    client: &Client<'_>,
    name: &[u8],
    out: &mut impl Write,
) -> io::Result<()> {
    write!(out, "{} \"{}\": ", client.address, escape(name))?;
    let mut places = Vec::new();
    if let Some(live) = &policy.rules {
        let mut find = || live.hardware(now, client.address, &mut Work::default());
        match live.rules.section(client, &mut find) {
            Some(section) => {
                write!(out, "section {}", section.name)?;
                let ways = section.places.iter();
                places.extend(ways.filter_map(|it| it.way(client, &mut find)));
            }
            None => write!(out, "no section")?,
        }
    }
    let mut settings = None;
    for (word, direction) in [("read", Direction::Read), ("write", Direction::Write)] {
        let request = Request {
            direction,
            filename: name,
            mode: Mode::Octet,
            options: RawOptions::default(),
        };
        let granted = policy.settle_for(now, &request, client, &mut Work::default());
        let missing = Refusal::from(StorageError::NOT_FOUND);
        match granted {
            Ok(granted) => {
                let root = granted.root();
                settings = granted.section.as_ref().map(|it| it.settings);
                let is_there = direction == Direction::Write
                    || root.leads_to_file(&granted.name, Direction::Read);
                let (file, root) = (escape(&granted.name), root.path().display());
                if is_there {
                    write!(out, "; {word} \"{file}\" in {root}")?;
                } else {
                    write!(out, "; {word} refused: {missing}: \"{file}\" in {root}")?;
                }
            }
            Err(refusal) => {
                write!(out, "; {word} refused: {refusal}")?;
                if refusal == Refusal::from(StorageError::NO_ROOT) {
                    let places: Vec<_> = places.iter().map(|it| escape(it).to_string()).collect();
                    write!(out, ": \"{}\"", places.join("\", \""))?;
                }
            }
        }
    }
    if let Some(settings) = settings.filter(|it| *it != Settings::default()) {
        write!(out, "; {settings}")?;
    }
    writeln!(out)
}

/// As they would stand in the file.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut number = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                words.push(format!("{name} = {value}"));
            }
        };
        number("max-blksize", self.max_blksize.map(u64::from));
        number("max-windowsize", self.max_windowsize.map(u64::from));
        number("rate", self.rate.map(u64::from));
        let millis = self.timeout.map(|it| it.as_millis() as u64);
        number("timeout", millis);
        number("retries", self.retries.map(u64::from));
        number("max-sessions", self.max_sessions.map(u64::from));
        for (name, is_set) in [("send-twice", self.send_twice), ("octet", self.octet)] {
            if is_set {
                words.push(format!("{name} = true"));
            }
        }
        if let Some(shares) = self.single_port {
            words.push(format!("single-port = {shares}"));
        }
        let refused = OptionName::ALL
            .into_iter()
            .filter(|&it| self.refused.contains(it));
        words.extend(refused.map(|it| format!("refuse {}", it.name())));
        f.write_str(&words.join(", "))
    }
}
