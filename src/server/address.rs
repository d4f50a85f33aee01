//! Where to listen: what `-a` may say, and the sockets that it stands for.
//!
//! Must not: bind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};
use std::str::FromStr;

use nix::net::if_::if_nametoindex;

const EXPECTED: &str = "expected an address, an interface or a host, each with or without a port: \
     192.0.2.1, 192.0.2.1:69, [2001:db8::1]:69, fe80::1%eth0, eth0, localhost or :69";

/// What one `-a` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    host: Host,
    /// `None`: the port of `-p`.
    port: Option<u16>,
    /// As it was written.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address of this machine.
    Any,
    Ip(IpAddr),
    /// A link-local address and its interface, by name or number.
    Scoped(Ipv6Addr, String),
    /// An interface or a host.
    Name(String),
}

/// One socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListenTarget {
    pub(super) address: SocketAddr,
    /// Only what arrives on this interface is taken.
    pub(super) device: Option<String>,
    /// The user wrote this very address. Other addresses may be of a family that the
    /// kernel lacks.
    pub(super) is_literal: bool,
}

/// The address families that `-4` and `-6` leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    Both,
    Ipv4,
    Ipv6,
}

impl Families {
    fn have(self, address: SocketAddr) -> bool {
        match self {
            Self::Both => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An IPv6 address without brackets has no port after it.
        let is_bare = text.parse::<Ipv6Addr>().is_ok() || parse_scoped(text).is_some();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_bare && !text.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            // No sign, which `parse` would take.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| EXPECTED)?)
            }
            Some(_) => return Err(EXPECTED),
            None => None,
        };
        let host = parse_host(host, port.is_some()).ok_or(EXPECTED)?;
        Ok(Self {
            host,
            port,
            text: text.to_owned(),
        })
    }
}

fn parse_host(text: &str, has_port: bool) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        let plain = inner
            .parse()
            .ok()
            .map(|ip: Ipv6Addr| Host::Ip(canonical(ip.into())));
        return plain.or_else(|| parse_scoped(inner));
    }
    if text.is_empty() {
        return has_port.then_some(Host::Any);
    }
    if let Ok(ip) = text.parse() {
        return Some(Host::Ip(canonical(ip)));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    parse_scoped(text).or_else(|| text.chars().all(is_name).then(|| Host::Name(text.into())))
}

/// IPv4 has sockets of its own, however an address is written.
const fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn parse_scoped(text: &str) -> Option<Host> {
    let (ip, interface) = text.split_once('%')?;
    let ip = ip.parse().ok()?;
    (!interface.is_empty()).then(|| Host::Scoped(ip, interface.to_owned()))
}

impl ListenAddress {
    /// What the server listens on by default.
    pub(super) const fn any() -> Self {
        Self {
            host: Host::Any,
            port: None,
            text: String::new(),
        }
    }

    /// Whether `families` may leave any of it: not an address of the other family.
    pub(super) fn may_be_left_by(&self, families: Families) -> bool {
        match self.host {
            Host::Ip(ip) => families.have(SocketAddr::new(ip, 0)),
            Host::Scoped(..) => families != Families::Ipv4,
            Host::Any | Host::Name(_) => true,
        }
    }

    /// The sockets that it stands for; none if `families` leaves none. `port` is that
    /// of `-p`.
    ///
    /// # Errors
    /// One line: there is no such interface or host.
    pub(super) fn resolve(
        &self,
        port: u16,
        families: Families,
    ) -> Result<Vec<ListenTarget>, String> {
        let port = self.port.unwrap_or(port);
        let any = [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        ];
        let (addresses, device) = match &self.host {
            Host::Any => (any.to_vec(), None),
            Host::Ip(ip) => (vec![SocketAddr::new(*ip, port)], None),
            Host::Scoped(ip, interface) => {
                let scope = match interface.parse() {
                    Ok(number) => number,
                    Err(_) => if_nametoindex(interface.as_str())
                        .map_err(|_| no_interface(&format!("{ip}%{interface}")))?,
                };
                (vec![SocketAddrV6::new(*ip, port, 0, scope).into()], None)
            }
            // Bound to the interface, the sockets follow its addresses.
            Host::Name(name) if if_nametoindex(name.as_str()).is_ok() => (any.to_vec(), Some(name)),
            Host::Name(name) => (look_up(name, port)?, None),
        };
        let is_literal = matches!(self.host, Host::Ip(_) | Host::Scoped(..));
        let target = |address| ListenTarget {
            address,
            device: device.cloned(),
            is_literal,
        };
        let left = addresses.into_iter().filter(|&it| families.have(it));
        Ok(left.map(target).collect())
    }
}

fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = (name, port).to_socket_addrs();
    let mut addresses: Vec<_> = found.map(Iterator::collect).unwrap_or_default();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(format!(
            "cannot listen on {name}: there is no interface and no host of that name; ip link \
             lists the interfaces"
        ));
    }
    Ok(addresses)
}

/// One line, with the remedy, that there is no interface of the name in `place`.
pub(super) fn no_interface(place: &str) -> String {
    format!("cannot listen on {place}: no such interface; ip link lists those there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `text` stands for, with 6969 as the port of `-p`.
    fn resolved(text: &str, families: Families) -> Vec<String> {
        let address: ListenAddress = text.parse().unwrap_or_else(|_| panic!("{text}"));
        let targets = address.resolve(6969, families).unwrap();
        let show = |target: &ListenTarget| match &target.device {
            Some(device) => format!("{}@{device}", target.address),
            None => target.address.to_string(),
        };
        targets.iter().map(show).collect()
    }

    #[test]
    fn addresses_interfaces_and_names_take_their_own_port_or_the_common_one() {
        for (text, expected) in [
            ("192.0.2.1", &["192.0.2.1:6969"][..]),
            ("192.0.2.1:69", &["192.0.2.1:69"]),
            ("2001:db8::1", &["[2001:db8::1]:6969"]),
            ("::1", &["[::1]:6969"]),
            ("[::1]", &["[::1]:6969"]),
            ("[::1]:70", &["[::1]:70"]),
            ("::ffff:192.0.2.1", &["192.0.2.1:6969"]),
            ("fe80::1%2", &["[fe80::1%2]:6969"]),
            ("[fe80::1%2]:69", &["[fe80::1%2]:69"]),
            ("[fe80::1%2]", &["[fe80::1%2]:6969"]),
            (":69", &["0.0.0.0:69", "[::]:69"]),
            ("lo", &["0.0.0.0:6969@lo", "[::]:6969@lo"]),
            ("lo:0", &["0.0.0.0:0@lo", "[::]:0@lo"]),
        ] {
            assert_eq!(resolved(text, Families::Both), expected, "{text}");
        }
        let lo = if_nametoindex("lo").unwrap();
        let by_name = resolved("fe80::1%lo", Families::Both);
        assert_eq!(by_name, [format!("[fe80::1%{lo}]:6969")]);
        let localhost = resolved("localhost:70", Families::Ipv4);
        assert_eq!(localhost, ["127.0.0.1:70"]);
    }

    #[test]
    fn families_leave_some() {
        for (text, families, expected) in [
            (":69", Families::Ipv4, &["0.0.0.0:69"][..]),
            (":69", Families::Ipv6, &["[::]:69"]),
            ("lo", Families::Ipv6, &["[::]:6969@lo"]),
            ("::1", Families::Ipv4, &[]),
            ("192.0.2.1", Families::Ipv6, &[]),
        ] {
            assert_eq!(resolved(text, families), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        for text in [
            "",
            ":",
            "[",
            "[]",
            "[]:69",
            "[::1",
            "::1]",
            "[::1]69",
            "[::1]:",
            "[192.0.2.1]:69",
            "192.0.2.1:",
            "192.0.2.1:70000",
            "192.0.2.1:+1",
            "eth0:x",
            ":x",
            "fe80::1%",
            "a b",
            "a/b",
            "[eth0]:69",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
        let unknown: ListenAddress = "no-such-interface.invalid".parse().unwrap();
        let error = unknown.resolve(69, Families::Both).unwrap_err();
        assert!(error.contains("no-such-interface.invalid"), "{error}");
        assert!(error.contains("; ip link lists "), "{error}");
        let unknown: ListenAddress = "fe80::1%nowhere".parse().unwrap();
        let error = unknown.resolve(69, Families::Both).unwrap_err();
        assert!(error.contains("fe80::1%nowhere"), "{error}");
    }
}
