//! `--per-client-root`: a directory below the root that is one client's own.
//!
//! Named after its address, or after the hardware address that the kernel's
//! neighbour table has for it (`/proc/self/net/arp`: IPv4 only). A client without one
//! is served from the common root, except for what is in the directory of
//! another. Must not: open files for a client.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr};

use log::debug;

use crate::file::{Name, Root};
use crate::wire::packet::Direction;

/// What a client's directory is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NamedAfter {
    /// Its IP address: `192.0.2.1`, `2001:db8::1`
    Ip,
    /// Its hardware address: `aa-bb-cc-dd-ee-ff`
    Mac,
}

/// Bytes of the neighbour table that are read: some 13,000 neighbours.
const MAX_TABLE: u64 = 1 << 20;

/// Bytes of the longest directory name, an IPv6 address.
const MAX_NAME: usize = 48;

/// Finds the clients' directories.
#[derive(Debug)]
pub enum ClientRoots {
    /// Directories are named after IP addresses.
    ByIp,
    /// The neighbour table, opened before the sandbox shuts it out, and what was
    /// read of it last.
    ByMac(File, RefCell<Vec<u8>>),
}

impl ClientRoots {
    /// Opens what it takes. Call it before privileges are dropped.
    ///
    /// # Errors
    /// One line that says why the neighbour table can't be had.
    pub fn open(named_after: NamedAfter) -> Result<Self, String> {
        match named_after {
            NamedAfter::Ip => Ok(Self::ByIp),
            NamedAfter::Mac => match File::open("/proc/self/net/arp") {
                Ok(table) => Ok(Self::ByMac(table, RefCell::default())),
                Err(error) => Err(format!(
                    "cannot read the neighbour table /proc/self/net/arp: {error}; mount /proc, or use \
                     --per-client-root ip"
                )),
            },
        }
    }

    /// Whether this name in the common root is closed: it is below a directory that
    /// is somebody's root, or a write could put something in that one's place.
    pub fn closes(&self, name: &Name, direction: Direction) -> bool {
        let mut components = name.splitn(2, |&byte| byte == b'/');
        let first = components.next().unwrap_or_default();
        let is_below = components.next().is_some();
        let is_root = match self {
            Self::ByIp => std::str::from_utf8(first).is_ok_and(|it| it.parse::<IpAddr>().is_ok()),
            Self::ByMac(..) => is_hardware_address(first),
        };
        is_root && (is_below || direction == Direction::Write)
    }

    /// The root of this client alone, if it has one.
    pub fn of(&self, client: IpAddr, common: &Root) -> Option<Root> {
        let mut space = [0; MAX_NAME];
        let mut rest = &mut space[..];
        match self {
            Self::ByIp => write!(rest, "{client}").ok()?,
            Self::ByMac(table, text) => {
                let IpAddr::V4(client) = client else {
                    return None;
                };
                let text = &mut *text.borrow_mut();
                if let Err(error) = read_again(table, text) {
                    debug!("{client}: cannot read the neighbour table: {error}");
                    return None;
                }
                let address = find(text, client)?;
                for (index, byte) in address.iter().enumerate() {
                    let dash = if index > 0 { "-" } else { "" };
                    write!(rest, "{dash}{byte:02x}").ok()?;
                }
            }
        }
        let unused = rest.len();
        common.below(&space[..MAX_NAME - unused])
    }
}

/// `aa-bb-cc-dd-ee-ff`, in any case.
fn is_hardware_address(name: &[u8]) -> bool {
    let is_byte = |part: &[u8]| part.len() == 2 && part.iter().all(u8::is_ascii_hexdigit);
    let mut parts = name.split(|&byte| byte == b'-');
    parts.by_ref().take(6).filter(|part| is_byte(part)).count() == 6 && parts.next().is_none()
}

fn read_again(mut table: &File, text: &mut Vec<u8>) -> io::Result<()> {
    text.clear();
    table.rewind()?;
    table.take(MAX_TABLE).read_to_end(text).map(drop)
}

/// The hardware address of `client`. A line of the table: IP address, hardware
/// type, flags, hardware address, mask, device.
fn find(table: &[u8], client: Ipv4Addr) -> Option<[u8; 6]> {
    let table = std::str::from_utf8(table).ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_clients = fields.next()?.parse() == Ok(client);
        let address = fields.nth(2)?;
        let address = is_clients.then(|| parse(address)).flatten()?;
        // Asked for, not answered yet.
        (address != [0; 6]).then_some(address)
    })
}

fn parse(text: &str) -> Option<[u8; 6]> {
    let mut address = [0; 6];
    let mut bytes = text.split(':');
    for byte in &mut address {
        *byte = u8::from_str_radix(bytes.next()?, 16).ok()?;
    }
    bytes.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] =
        b"IP address       HW type     Flags       HW address            Mask     Device
192.0.2.10       0x1         0x2         aa:bb:cc:0d:0e:0f     *        eth0
192.0.2.1        0x1         0x0         00:00:00:00:00:00     *        eth0
192.0.2.1        0x1         0x2         02:00:00:00:00:01     *        eth1
192.0.2.3        0x20        0x2         aa:bb:cc:dd:ee:ff:00  *        ib0
192.0.2.4        0x1
";

    #[test]
    fn what_looks_like_somebodys_root_is_closed() {
        let table = File::open("/dev/null").unwrap();
        let by_mac = ClientRoots::ByMac(table, RefCell::default());
        let common = tempfile::tempdir().unwrap();
        let common = Root::open(common.path(), crate::file::Policy::default()).unwrap();
        for (roots, spelled, reading, writing) in [
            (&ClientRoots::ByIp, "192.0.2.7/secret", true, true),
            (&ClientRoots::ByIp, "x/../192.0.2.7\\secret", true, true),
            (&ClientRoots::ByIp, "2001:db8::1/secret", true, true),
            (&ClientRoots::ByIp, "2001:DB8:0::1/secret", true, true),
            // A file of that name is nobody's root, but mustn't come to be there.
            (&ClientRoots::ByIp, "192.0.2.7", false, true),
            (&ClientRoots::ByIp, "pub/192.0.2.7/x", false, false),
            (&ClientRoots::ByIp, "aa-bb-cc-dd-ee-ff/x", false, false),
            (&by_mac, "aa-bb-cc-dd-ee-ff/x", true, true),
            (&by_mac, "AA-bb-cc-dd-ee-ff/x", true, true),
            (&by_mac, "aa-bb-cc-dd-ee-ff-00/x", false, false),
            (&by_mac, "aa-bb-cc-dd-ee/x", false, false),
            (&by_mac, "192.0.2.7/x", false, false),
        ] {
            let name = common.name(spelled.as_bytes(), Direction::Read).unwrap();
            assert_eq!(roots.closes(&name, Direction::Read), reading, "{spelled}");
            assert_eq!(roots.closes(&name, Direction::Write), writing, "{spelled}");
        }
    }

    #[test]
    fn a_neighbour_is_found_by_its_whole_address() {
        for (last, expected) in [
            (10, Some([0xaa, 0xbb, 0xcc, 0x0d, 0x0e, 0x0f])),
            (1, Some([2, 0, 0, 0, 0, 1])),
            (2, None),
            (3, None),
            (4, None),
        ] {
            assert_eq!(
                find(TABLE, Ipv4Addr::new(192, 0, 2, last)),
                expected,
                "{last}"
            );
        }
    }
}
