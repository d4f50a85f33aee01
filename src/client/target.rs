//! Names of files on servers: `tftp://host/file` (RFC 3617) and `host:file`.
//!
//! Must not: ask the network what a host's address is.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::wire::escape::printable;
use crate::wire::packet::Mode;

/// The UDP port of TFTP (RFC 1350 §4).
pub(super) const PORT: u16 = 69;

/// A file on a server, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The name for the request: bytes, possibly none.
    pub(super) name: Vec<u8>,
    /// The mode, if the name asks for one.
    pub(super) mode: Option<Mode>,
}

impl Target {
    /// Reads a URL, or `host:file`.
    ///
    /// # Errors
    /// What is wrong with it, without the text itself.
    pub(super) fn parse(text: &OsStr) -> Result<Self, &'static str> {
        if let Some(rest) = strip_scheme(text.as_bytes()) {
            return Self::parse_url(rest);
        }
        let is_other_url = text.as_bytes().windows(3).any(|part| part == b"://");
        let (host, name) = split_host(text.as_bytes())
            .filter(|_| !is_other_url)
            .ok_or("expected tftp://HOST/FILE or HOST:FILE")?;
        let first = name.split(|&byte| byte == b'/').next().unwrap_or_default();
        if first.len() < name.len() && !first.is_empty() && first.iter().all(u8::is_ascii_digit) {
            return Err(
                "to name a port, write tftp://HOST:PORT/FILE; for a directory with such a name, \
                 tftp://HOST/DIRECTORY/FILE",
            );
        }
        Ok(Self {
            host: host.to_owned(),
            port: PORT,
            name: name.to_owned(),
            mode: None,
        })
    }

    /// What follows `tftp://`. The slash after the host is no part of the
    /// file's name (RFC 3617 §3).
    fn parse_url(rest: &[u8]) -> Result<Self, &'static str> {
        let end = rest.iter().position(|&byte| byte == b'/');
        let (authority, path) = match end {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &b""[..]),
        };
        let (host, port) = parse_authority(authority)?;
        let (path, mode) = split_mode(path)?;
        Ok(Self {
            host,
            port,
            name: percent_decode(path)?,
            mode,
        })
    }

    /// Whether the name is a directory's: nothing follows its last slash.
    pub(super) fn is_directory(&self) -> bool {
        self.name.is_empty() || self.name.ends_with(b"/")
    }
}

/// For people: `host:file`, or a URL if the port isn't the usual one.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, name) = (&self.host, printable(&self.name));
        let (open, close) = if host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        match self.port {
            PORT => write!(f, "{open}{host}{close}:{name}"),
            port => write!(f, "tftp://{open}{host}{close}:{port}/{name}"),
        }
    }
}

/// Whether `text` is a URL.
pub(super) fn is_url(text: &OsStr) -> bool {
    strip_scheme(text.as_bytes()).is_some()
}

/// What to write instead of `url` where only a host is expected: the command `get` with
/// its file, or `connect` with its host and port.
pub(super) fn instead_of_url(url: &str, get: &str, connect: &str) -> String {
    match Target::parse(url.as_ref()) {
        Err(problem) => problem.to_owned(),
        Ok(target) if !target.is_directory() => format!("to fetch it, write {get} {url}"),
        Ok(Target { host, port, .. }) => {
            format!("to connect to it, write {connect} {host} {port}")
        }
    }
}

fn strip_scheme(text: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = text.split_at_checked(b"tftp://".len())?;
    scheme.eq_ignore_ascii_case(b"tftp://").then_some(rest)
}

/// Splits `host:file` and `[v6]:file`; `None` where no host is named.
pub(super) fn split_host(word: &[u8]) -> Option<(&str, &[u8])> {
    let (host, file) = if let Some(rest) = word.strip_prefix(b"[") {
        let end = rest.iter().position(|&byte| byte == b']')?;
        (&rest[..end], rest[end + 1..].strip_prefix(b":")?)
    } else {
        let colon = word.iter().position(|&byte| byte == b':')?;
        (&word[..colon], &word[colon + 1..])
    };
    let host = std::str::from_utf8(host).ok()?;
    (!host.is_empty()).then_some((host, file))
}

/// What follows the last slash of a path.
pub(super) fn tail(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

fn parse_authority(authority: &[u8]) -> Result<(String, u16), &'static str> {
    let text = std::str::from_utf8(authority).map_err(|_| "the host's name is no text")?;
    if text.contains('@') {
        return Err("TFTP knows no users; leave out what stands before the @");
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a ] is missing")?;
        let port = rest.strip_prefix(':');
        if port.is_none() && !rest.is_empty() {
            return Err(
                "only a colon and a port can stand after the ], as in tftp://[::1]:69/FILE",
            );
        }
        (host, port)
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address needs brackets, as in tftp://[::1]/FILE");
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing, as in tftp://HOST/FILE");
    }
    let port = match port {
        None | Some("") => PORT,
        Some(port) => parse_port(port)?,
    };
    Ok((host.to_owned(), port))
}

/// A port by number, or by the one name there is.
///
/// # Errors
/// What was expected instead.
pub(super) fn parse_port(text: &str) -> Result<u16, &'static str> {
    match text {
        "tftp" => Ok(PORT),
        _ => {
            text.parse().ok().filter(|&port| port > 0).ok_or(
                "expected a port from 1 to 65535 after the host (commands are get, put, probe)",
            )
        }
    }
}

/// Takes `;mode=…` off the end of a URL's path (RFC 3617 §3).
fn split_mode(path: &[u8]) -> Result<(&[u8], Option<Mode>), &'static str> {
    let Some(at) = path
        .windows(MODE_PREFIX.len())
        .rposition(|part| part.eq_ignore_ascii_case(MODE_PREFIX))
    else {
        return Ok((path, None));
    };
    let mode = std::str::from_utf8(&path[at + MODE_PREFIX.len()..])
        .ok()
        .and_then(parse_mode)
        .ok_or("expected ;mode=netascii or ;mode=octet")?;
    Ok((&path[..at], Some(mode)))
}

const MODE_PREFIX: &[u8] = b";mode=";

/// The mode by one of the names that clients have for it.
pub(super) fn parse_mode(name: &str) -> Option<Mode> {
    match name.to_ascii_lowercase().as_str() {
        "octet" | "binary" | "image" => Some(Mode::Octet),
        "netascii" | "ascii" => Some(Mode::Netascii),
        _ => None,
    }
}

fn percent_decode(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut name = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(BAD_PERCENT)?;
        let digits = std::str::from_utf8(digits).map_err(|_| BAD_PERCENT)?;
        // from_str_radix would take a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BAD_PERCENT);
        }
        name.push(u8::from_str_radix(digits, 16).map_err(|_| BAD_PERCENT)?);
        rest = after;
    }
    if name.contains(&0) {
        return Err("a file's name can't hold %00");
    }
    Ok(name)
}

const BAD_PERCENT: &str = "a % needs two hexadecimal digits after it; write %25 for the sign";

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16, name: &[u8], mode: Option<Mode>) -> Target {
        Target {
            host: host.to_owned(),
            port,
            name: name.to_owned(),
            mode,
        }
    }

    #[test]
    fn urls_name_a_host_a_port_a_file_and_a_mode() {
        for (text, expected) in [
            ("tftp://h/f", target("h", 69, b"f", None)),
            ("TFTP://h:6969/a/b", target("h", 6969, b"a/b", None)),
            ("tftp://h//abs", target("h", 69, b"/abs", None)),
            ("tftp://[::1]:70/f", target("::1", 70, b"f", None)),
            (
                "tftp://[fe80::1%eth0]/f",
                target("fe80::1%eth0", 69, b"f", None),
            ),
            (
                "tftp://192.0.2.1/f;mode=netascii",
                target("192.0.2.1", 69, b"f", Some(Mode::Netascii)),
            ),
            (
                "tftp://h/f;mode=OCTET",
                target("h", 69, b"f", Some(Mode::Octet)),
            ),
            ("tftp://h/a%20b%2fc%25", target("h", 69, b"a b/c%", None)),
            ("tftp://h/%ff", target("h", 69, b"\xff", None)),
            ("tftp://h/a?b#c", target("h", 69, b"a?b#c", None)),
            ("tftp://h", target("h", 69, b"", None)),
            ("tftp://h:/f", target("h", 69, b"f", None)),
            ("h:f", target("h", 69, b"f", None)),
            ("h:6969", target("h", 69, b"6969", None)),
            ("h:/6969/f", target("h", 69, b"/6969/f", None)),
            ("h:a:b", target("h", 69, b"a:b", None)),
            ("[::1]:f", target("::1", 69, b"f", None)),
        ] {
            assert_eq!(Target::parse(OsStr::new(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_mistake_in_a_target_is_told() {
        for (text, word) in [
            ("f", "HOST"),
            ("http://h/f", "tftp://"),
            ("tftp:///f", "host"),
            ("tftp://user@h/f", "before the @"),
            ("tftp://user:word@h:69/f", "before the @"),
            ("tftp://h:0/f", "port"),
            ("tftp://h:x/f", "port"),
            ("tftp://::1/f", "brackets"),
            ("tftp://[::1/f", "]"),
            ("tftp://[::1]6977/f", "after the ]"),
            ("tftp://[::1]]:6977/f", "after the ]"),
            ("tftp://[::1]x/f", "after the ]"),
            ("tftp://h/f;mode=mail", "mode"),
            ("tftp://h/%", "%"),
            ("tftp://h/%+1", "%"),
            ("tftp://h/%00", "%00"),
            (":f", "HOST"),
            ("h:6969/f", "PORT"),
        ] {
            let error = Target::parse(OsStr::new(text)).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_on_a_server_has_its_port_unless_that_is_the_usual_one() {
        for (word, shown) in [
            ("tftp://h/a/b", "h:a/b"),
            ("tftp://h:69/f", "h:f"),
            ("tftp://h:6969/a/b", "tftp://h:6969/a/b"),
            ("tftp://[::1]/f", "[::1]:f"),
            ("tftp://[::1]:70/f", "tftp://[::1]:70/f"),
            ("h:f", "h:f"),
        ] {
            let target = Target::parse(OsStr::new(word)).unwrap();
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn a_tail_is_what_follows_the_last_slash() {
        for (path, expected) in [("f", "f"), ("a/f", "f"), ("/f", "f"), ("a/", ""), ("", "")] {
            assert_eq!(tail(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
