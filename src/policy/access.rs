//! Which clients are served: networks that may ask and networks that may not.
//!
//! Must not: look into a datagram; it gets only the sender's address.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A network in CIDR notation: the addresses that begin with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Bits of the prefix: up to 32 for IPv4, up to 128 for IPv6.
    prefix: u32,
}

impl Network {
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        // An IPv4 address is IPv4 even if it is written as an IPv6 one.
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differing = own.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differing = own.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = &'static str;

    /// `192.0.2.0/24`, `2001:db8::/32`, or a single address. Bits after the prefix don't
    /// count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a network, such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| EXPECTED)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            // No sign, which `parse` would take.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| EXPECTED)?
            }
            Some(_) => return Err(EXPECTED),
        };
        match (address, address.to_canonical()) {
            (IpAddr::V4(_), _) if prefix > bits => {
                Err("an IPv4 network's prefix has at most 32 bits, as in 192.0.2.1/32")
            }
            _ if prefix > bits => {
                Err("an IPv6 network's prefix has at most 128 bits, as in 2001:db8::1/128")
            }
            (IpAddr::V6(_), canonical @ IpAddr::V4(_)) if prefix >= MAPPED => Ok(Self {
                address: canonical,
                prefix: prefix - MAPPED,
            }),
            _ => Ok(Self { address, prefix }),
        }
    }
}

/// Bits before the IPv4 address in an IPv4-mapped one, `::ffff:192.0.2.1`.
const MAPPED: u32 = 128 - Ipv4Addr::BITS;

/// The networks that may ask and those that may not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Networks to serve; empty for all.
    pub allow: Vec<Network>,
    /// Networks not to serve, even if they are allowed.
    pub deny: Vec<Network>,
}

impl Access {
    /// Whether a client with this address is served: it is in no denied network, and in
    /// an allowed one, if there are any.
    pub fn serves(&self, client: IpAddr) -> bool {
        let is_in = |networks: &[Network]| networks.iter().any(|it| it.contains(client));
        (self.allow.is_empty() || is_in(&self.allow)) && !is_in(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_with_their_prefix() {
        for (network, ip, contained) in [
            ("192.0.2.0/24", "192.0.2.0", true),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.77/24", "192.0.2.1", true),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("128.0.0.0/1", "127.255.255.255", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            // IPv4 and IPv6 are different families.
            ("0.0.0.0/0", "::1", false),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::1", true),
            // But an IPv4-mapped address is IPv4.
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("::/0", "::ffff:192.0.2.9", false),
            ("::ffff:192.0.2.0/120", "192.0.2.9", true),
            ("::ffff:192.0.2.0/120", "192.0.3.9", false),
            ("::ffff:0:0/96", "203.0.113.5", true),
        ] {
            let parsed: Network = network.parse().unwrap();
            let found = parsed.contains(ip.parse().unwrap());
            assert_eq!(found, contained, "{ip} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in [
            "",
            "/8",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "192.0.2.0/-8",
            "192.0.2.0/24/24",
            "192.0.2/24",
            "2001:db8::/129",
            "::/99999999999",
            "example.org",
            "fe80::1%eth0/64",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_denied_client_is_not_served_even_if_allowed() {
        let networks = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
        for (allow, deny, ip, served) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "198.51.100.1", false),
            (&["192.0.2.0/24"], &[], "::1", false),
            (&["192.0.2.0/24", "::1"], &[], "::1", true),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "::1", true),
            (&["192.0.2.0/24"], &["192.0.2.1"], "192.0.2.1", false),
            (&["192.0.2.0/24"], &["192.0.2.1"], "192.0.2.2", true),
            // The narrower network doesn't win.
            (&["192.0.2.1"], &["192.0.2.0/24"], "192.0.2.1", false),
        ] {
            let access = Access {
                allow: networks(allow),
                deny: networks(deny),
            };
            let context = format!("{ip}: allow {allow:?}, deny {deny:?}");
            assert_eq!(access.serves(ip.parse().unwrap()), served, "{context}");
        }
    }
}
