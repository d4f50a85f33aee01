//! The value of `--status`: where the status port is. Must not: bind it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::utsname::uname;

/// A TCP port of an address, or a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusAddress {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// The path of a socket; there is a slash in it.
    Unix(PathBuf),
}

/// The port that `tftpd status` asks by default.
pub(crate) const DEFAULT_PORT: u16 = 8069;

impl StatusAddress {
    /// Where the worker with this number is, counted from 1. The first is at the address
    /// itself, and port 0 stays 0.
    ///
    /// # Errors
    /// One line: there is no such port.
    pub(crate) fn of_worker(&self, number: u8) -> Result<Self, String> {
        match self {
            _ if number <= 1 => Ok(self.clone()),
            Self::Tcp(_, 0) => Ok(self.clone()),
            Self::Tcp(host, port) => {
                let port = port.checked_add(u16::from(number) - 1);
                let port = port.ok_or_else(|| {
                    format!(
                        "--status {self} leaves no port for worker {number}; choose a lower one"
                    )
                })?;
                Ok(Self::Tcp(host.clone(), port))
            }
            Self::Unix(path) => {
                let mut path = path.clone().into_os_string();
                path.push(format!(".{number}"));
                Ok(Self::Unix(path.into()))
            }
        }
    }

    /// The name or the address that a port was given with.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp(host, _) => Some(host),
            Self::Unix(_) => None,
        }
    }
}

impl Default for StatusAddress {
    fn default() -> Self {
        Self::Tcp(Ipv4Addr::LOCALHOST.to_string(), DEFAULT_PORT)
    }
}

impl FromStr for StatusAddress {
    type Err = &'static str;

    /// `ADDR:PORT`, a port of the loopback address, or a path with a slash in it. Or the
    /// URL of such a port, as the log names it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ADDR:PORT, such as 127.0.0.1:8069, a port of this \
            machine alone, or the path of a socket with a slash in it";
        let url = text.strip_prefix("http://");
        let text = url.map_or(text, |rest| rest.strip_suffix('/').unwrap_or(rest));
        if text.contains('/') {
            let is_path = url.is_none();
            return is_path.then(|| Self::Unix(text.into())).ok_or(EXPECTED);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| EXPECTED)?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or(EXPECTED)?,
            None if host.contains(':') => return Err(EXPECTED),
            None if host.is_empty() => return Ok(Self::Tcp(Ipv4Addr::LOCALHOST.to_string(), port)),
            None => host,
        };
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The names by which requests may call this server. A web page whose own name was made
/// to lead here ("DNS rebinding") calls it by that name, and is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Any name: nobody reaches this socket by its name.
    Any,
    /// An address, `localhost`, or one of these names.
    Literal(Vec<String>),
}

impl Hosts {
    /// The names of a socket at `address`: the one that was `given` with `--status`, and
    /// the machine's own if the socket listens on all addresses or its address is unknown.
    pub(super) fn of(address: Option<SocketAddr>, given: Option<&str>) -> Self {
        let mut names: Vec<_> = given.map(str::to_owned).into_iter().collect();
        if address.is_none_or(|it| it.ip().is_unspecified()) {
            names.extend(own_names());
        }
        Self::Literal(names)
    }

    /// Whether a request with this `Host` is for us.
    pub(crate) fn include(&self, host: &str) -> bool {
        let Self::Literal(given) = self else {
            return true;
        };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || given.iter().any(|it| name.eq_ignore_ascii_case(it))
    }
}

/// This machine's name, with its domain and without. Only somebody who controls the names
/// of this network could give a web page of theirs such a name.
fn own_names() -> Vec<String> {
    let own = uname().map(|it| it.nodename().to_string_lossy().into_owned());
    let own = own.unwrap_or_default();
    let short = own.split('.').next().unwrap_or_default().to_owned();
    [own, short]
        .into_iter()
        .filter(|it| !it.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_with_a_port_or_a_path() {
        let tcp = |host: &str, port| Ok(StatusAddress::Tcp(host.to_owned(), port));
        for (text, expected) in [
            ("8069", tcp("127.0.0.1", 8069)),
            (":8069", tcp("127.0.0.1", 8069)),
            ("0.0.0.0:80", tcp("0.0.0.0", 80)),
            ("[::1]:0", tcp("::1", 0)),
            ("localhost:1", tcp("localhost", 1)),
            ("/run/t.sock", Ok(StatusAddress::Unix("/run/t.sock".into()))),
            ("./t", Ok(StatusAddress::Unix("./t".into()))),
            // As the log names it.
            ("http://127.0.0.1:8069/", tcp("127.0.0.1", 8069)),
            ("http://[::1]:80", tcp("::1", 80)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in [
            "",
            "::1:80",
            "localhost",
            "1.2.3.4:",
            "[::1:80",
            "a:70000",
            "http://",
            "http:///",
            "http://1.2.3.4/",
            "http://1.2.3.4:80/metrics",
        ] {
            assert!(text.parse::<StatusAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn workers_have_one_port_after_the_other() {
        for (text, number, expected) in [
            ("8069", 1, Ok("127.0.0.1:8069")),
            ("8069", 64, Ok("127.0.0.1:8132")),
            ("[::1]:65534", 2, Ok("[::1]:65535")),
            ("0.0.0.0:0", 64, Ok("0.0.0.0:0")),
            ("/run/t.sock", 1, Ok("/run/t.sock")),
            ("/run/t.sock", 12, Ok("/run/t.sock.12")),
            (
                "65534",
                3,
                Err("--status 127.0.0.1:65534 leaves no port for worker 3; choose a lower one"),
            ),
        ] {
            let address: StatusAddress = text.parse().unwrap();
            let found = address.of_worker(number).map(|it| it.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected, "{text} {number}");
        }
    }

    #[test]
    fn dns_rebinding_only_addresses_and_the_given_name_are_hosts() {
        let hosts = Hosts::of(Some(([127, 0, 0, 1], 1).into()), Some("Boot.example"));
        for host in [
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "localhost:8069",
            "LOCALHOST",
            "boot.example:80",
            "192.0.2.1:1",
        ] {
            assert!(hosts.include(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "[evil]:1",
        ] {
            assert!(!hosts.include(host), "{host}");
            assert!(Hosts::Any.include(host), "{host}");
        }
    }

    #[test]
    fn a_wildcard_goes_by_the_name_of_the_machine() {
        let own = own_names().swap_remove(0);
        let any = [
            Some(([0, 0, 0, 0], 1).into()),
            Some(([0; 8], 1).into()),
            // An inherited socket whose address is unknown.
            None,
        ];
        for address in any {
            let hosts = Hosts::of(address, Some("0.0.0.0"));
            assert!(hosts.include(&format!("{own}:8069")), "{own}");
            assert!(!hosts.include(&format!("{own}.evil.example")), "{own}");
            assert!(!hosts.include("evil.example"));
        }
        let hosts = Hosts::of(Some(([192, 0, 2, 1], 1).into()), None);
        assert!(!hosts.include(&own), "{own}");
    }
}
