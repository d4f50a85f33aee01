//! `--per-client-root`: a directory below the root that is one client's own.
//!
//! The directory is named after the client's address, or after the hardware address that
//! the kernel's neighbour table has for it (`/proc/self/net/arp`: IPv4 only). A client
//! without a directory is served from the common root, except for what is in other
//! clients' directories. Must not: open files for a client.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use log::debug;

use super::hardware;
use super::work::Work;
use crate::file::{OwnName, Root, StorageError, with_remedy};

/// What a client's directory is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NamedAfter {
    /// Its IP address: `192.0.2.1`, `2001:db8::1`
    Ip,
    /// Its hardware address: `aa-bb-cc-dd-ee-ff`
    Mac,
}

/// The most bytes read of the neighbour table: some 13,000 neighbours.
const MAX_TABLE: u64 = 1 << 20;

/// Bytes of the longest directory name, an IPv6 address.
const MAX_ADDRESS: usize = 48;

/// How long an entry of the table is trusted before the table is read again.
const TRUSTED: Duration = Duration::from_secs(1);

/// The shortest time before the table is read again for a neighbour that wasn't in it.
const SOONEST: Duration = Duration::from_millis(100);

/// Finds the clients' directories.
#[derive(Debug)]
pub enum ClientRoots {
    /// Directories are named after IP addresses.
    ByIp,
    /// Directories are named after hardware addresses.
    ByMac(Neighbours),
}

/// The neighbour table.
#[derive(Debug)]
pub struct Neighbours {
    /// Opened before the sandbox makes it unreachable.
    table: File,
    known: RefCell<Known>,
}

/// What was last read of the table.
#[derive(Debug, Default)]
struct Known {
    read: Option<Instant>,
    text: Vec<u8>,
    /// Sorted.
    addresses: Vec<(Ipv4Addr, [u8; 6])>,
}

impl Neighbours {
    /// Opens the table. Call it before privileges are dropped.
    ///
    /// # Errors
    /// One line that says why it can't be opened.
    pub(super) fn open() -> Result<Self, String> {
        let table = File::open("/proc/self/net/arp").map_err(|error| {
            let told = with_remedy(&error, "mount /proc");
            format!("cannot read the neighbour table /proc/self/net/arp: {told}")
        })?;
        Ok(Self::new(table))
    }

    fn new(table: File) -> Self {
        Self {
            table,
            known: RefCell::default(),
        }
    }

    /// The hardware address of `client`.
    pub(super) fn find(&self, now: Instant, client: Ipv4Addr, work: &mut Work) -> Option<[u8; 6]> {
        let mut known = self.known.borrow_mut();
        let find = |known: &Known| {
            let place = known.addresses.binary_search_by_key(&client, |it| it.0);
            let found = place.ok().and_then(|place| known.addresses.get(place));
            found.map(|it| it.1)
        };
        let age = known.read.map(|read| now.saturating_duration_since(read));
        match find(&known) {
            Some(address) if age.is_some_and(|age| age < TRUSTED) => return Some(address),
            None if age.is_some_and(|age| age < SOONEST) => return None,
            _ => {}
        }
        known.read = Some(now);
        let Known {
            text, addresses, ..
        } = &mut *known;
        if let Err(error) = read_again(&self.table, text) {
            debug!("{client}: cannot read the neighbour table: {error}");
            return None;
        }
        work.table += text.len() as u64;
        addresses.clear();
        addresses.extend(entries(text));
        addresses.sort_unstable();
        addresses.dedup_by_key(|it| it.0);
        find(&known)
    }
}

impl ClientRoots {
    /// Opens the neighbour table, if it is needed. Call it before privileges are dropped.
    ///
    /// # Errors
    /// One line that says why the neighbour table can't be opened.
    pub fn open(named_after: NamedAfter) -> Result<Self, String> {
        match named_after {
            NamedAfter::Ip => Ok(Self::ByIp),
            NamedAfter::Mac => Neighbours::open()
                .map(Self::ByMac)
                .map_err(|error| format!("{error}, or use --per-client-root ip")),
        }
    }

    /// Which directories right in the common roots are closed: those with names that a
    /// client's root may have.
    pub fn own_name(&self) -> OwnName {
        match self {
            Self::ByIp => is_ip_address,
            Self::ByMac(..) => is_hardware_address,
        }
    }

    /// This client's own root, if it has one.
    ///
    /// # Errors
    /// It has one, but that can't be opened.
    pub fn of(
        &self,
        now: Instant,
        client: IpAddr,
        common: &Root,
        work: &mut Work,
    ) -> Result<Option<Root>, StorageError> {
        let mut space = [0; MAX_ADDRESS];
        match self.name_of(now, client, &mut space, work) {
            Some(len) => common.below(&space[..len]),
            None => Ok(None),
        }
    }

    /// Writes the name of this client's root into `space`; returns its length in
    /// bytes.
    fn name_of(
        &self,
        now: Instant,
        client: IpAddr,
        space: &mut [u8; MAX_ADDRESS],
        work: &mut Work,
    ) -> Option<usize> {
        let mut rest = &mut space[..];
        match self {
            Self::ByIp => write!(rest, "{client}").ok()?,
            Self::ByMac(neighbours) => {
                let IpAddr::V4(client) = client else {
                    return None;
                };
                let address = neighbours.find(now, client, work)?;
                for (index, byte) in address.iter().enumerate() {
                    let dash = if index > 0 { "-" } else { "" };
                    write!(rest, "{dash}{byte:02x}").ok()?;
                }
            }
        }
        Some(MAX_ADDRESS - rest.len())
    }
}

/// `192.0.2.1`, `2001:db8::1`, in any spelling.
fn is_ip_address(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|it| it.parse::<IpAddr>().is_ok())
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

/// The table's addresses. Each line has: IP address, hardware type, flags, hardware
/// address, mask, device.
fn entries(table: &[u8]) -> impl Iterator<Item = (Ipv4Addr, [u8; 6])> {
    let table = std::str::from_utf8(table).unwrap_or_default();
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let client = fields.next()?.parse().ok()?;
        let address = hardware::address(fields.nth(2)?)?;
        // All zeros: the kernel has asked for it, and has no answer yet.
        (address != [0; 6]).then_some((client, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::wire::packet::Direction;

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
        let by_mac = ClientRoots::ByMac(Neighbours::new(File::open("/dev/null").unwrap()));
        let common = tempfile::tempdir().unwrap();
        let common = Root::open(common.path(), crate::file::Policy::default()).unwrap();
        for (roots, spelled, reading, writing) in [
            (&ClientRoots::ByIp, "192.0.2.7/secret", true, true),
            (&ClientRoots::ByIp, "x/../192.0.2.7\\secret", true, true),
            (&ClientRoots::ByIp, "2001:db8::1/secret", true, true),
            (&ClientRoots::ByIp, "2001:DB8:0::1/secret", true, true),
            // A file of that name is nobody's root, but nobody may put one there.
            (&ClientRoots::ByIp, "192.0.2.7", false, true),
            (&ClientRoots::ByIp, "pub/192.0.2.7/x", false, false),
            (&ClientRoots::ByIp, "aa-bb-cc-dd-ee-ff/x", false, false),
            (&by_mac, "aa-bb-cc-dd-ee-ff/x", true, true),
            (&by_mac, "AA-bb-cc-dd-ee-ff/x", true, true),
            (&by_mac, "aa-bb-cc-dd-ee-ff-00/x", false, false),
            (&by_mac, "aa-bb-cc-dd-ee/x", false, false),
            (&by_mac, "192.0.2.7/x", false, false),
        ] {
            let common = common.clone().closing(roots.own_name(), None).unwrap();
            let name = common.name(spelled.as_bytes(), Direction::Read).unwrap();
            assert_eq!(common.closes(&name, Direction::Read), reading, "{spelled}");
            assert_eq!(common.closes(&name, Direction::Write), writing, "{spelled}");
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
            let wanted = Ipv4Addr::new(192, 0, 2, last);
            let found = entries(TABLE).find(|it| it.0 == wanted).map(|it| it.1);
            assert_eq!(found, expected, "{last}");
        }
    }

    /// A flood from addresses that aren't in the table has it read ten times a second.
    #[test]
    fn the_table_is_read_again_only_after_a_while() {
        let mut table = tempfile::NamedTempFile::new().unwrap();
        table.write_all(TABLE).unwrap();
        let neighbours = Neighbours::new(table.reopen().unwrap());
        let start = clock::now();
        let find = |millis, last| {
            let mut work = Work::default();
            let now = start + Duration::from_millis(millis);
            let client = Ipv4Addr::new(192, 0, 2, last);
            let found = neighbours.find(now, client, &mut work);
            (found.is_some(), work.table > 0)
        };
        assert_eq!(find(0, 10), (true, true));
        assert_eq!(find(0, 9), (false, false));
        table
            .write_all(b"192.0.2.9 0x1 0x2 02:00:00:00:00:09 * eth0\n")
            .unwrap();
        assert_eq!(find(99, 9), (false, false));
        assert_eq!(find(100, 9), (true, true));
        assert_eq!(find(1099, 10), (true, false));
        assert_eq!(find(1100, 10), (true, true));
        assert_eq!(find(1150, 8), (false, false));
    }
}
