//! Layer 3: what a request may have. A request goes in; a root and a name come
//! out, or a refusal.
//!
//! In this order: the client's own root (`client_root`), the name (`settle`), and
//! the directories that are others'. `access` comes before all that:
//! it needs no more than an address. Must not: open a file for a client.

pub mod access;
pub mod client_root;
#[cfg_attr(not(feature = "map"), path = "no_map.rs")]
pub mod map;
pub mod map_test;
mod settle;
pub mod work;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Instant;

use self::access::Access;
use self::client_root::ClientRoots;
use self::map::file::MapFile;
use self::settle::{Asked, settle};
use self::work::{Work, WorkAllowance};
use crate::file::{Name, Root, StorageError};
use crate::wire::packet::{Direction, Request};

pub use self::settle::{Origin, Refusal};

/// What each client may ask for.
#[derive(Debug)]
pub struct Policy {
    /// Whom to serve at all.
    pub access: Access,
    /// What is served to clients without a root of their own.
    pub root: Root,
    /// Where uploads go, if not there.
    pub upload_root: Option<Root>,
    /// Where the clients' own roots are.
    pub client_roots: Option<ClientRoots>,
    /// Rules that rewrite and refuse names.
    pub map_file: Option<MapFile>,
    /// What all that may cost.
    pub allowance: RefCell<WorkAllowance>,
}

/// Where a request leads.
#[derive(Debug)]
pub struct Granted<'a> {
    /// The client's own root, if it has one.
    pub own_root: Option<Root>,
    common_root: &'a Root,
    /// The file's name below [`Granted::root`].
    pub name: Name,
    /// How it came to that name.
    pub origin: Origin,
    /// The lines of the map file that had a part in it.
    pub lines: Vec<u32>,
}

impl Granted<'_> {
    /// The root to serve from.
    pub fn root(&self) -> &Root {
        self.own_root.as_ref().unwrap_or(self.common_root)
    }
}

impl Policy {
    /// What those without a root of their own read from, or write to.
    pub fn common_root(&self, direction: Direction) -> &Root {
        let uploads = self.upload_root.as_ref();
        let uploads = uploads.filter(|_| direction == Direction::Write);
        uploads.unwrap_or(&self.root)
    }

    /// Directory entries that were read for a request.
    fn take_entries_read(&self) -> u64 {
        let uploads = self.upload_root.as_ref();
        self.root.take_entries_read() + uploads.map_or(0, Root::take_entries_read)
    }

    /// The root and the name to serve to `peer` for its request.
    ///
    /// # Errors
    /// What is against it.
    pub fn settle(
        &self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
    ) -> Result<Granted<'_>, Refusal> {
        let name_len = request.filename.len();
        let mut allowance = self.allowance.borrow_mut();
        if !allowance.may_begin(now, peer.ip(), name_len) {
            return Err(Refusal::Overload);
        }
        drop(allowance);
        let mut work = Work::default();
        let granted = self.settle_for(now, request, peer, &mut work);
        work.entries += self.take_entries_read();
        self.allowance.borrow_mut().spend(work, peer.ip());
        granted
    }

    /// Takes off what looking up `peer`'s file has cost since [`Policy::settle`].
    pub fn charge_look_ups(&self, peer: SocketAddr) {
        let work = Work {
            entries: self.take_entries_read(),
            ..Work::default()
        };
        self.allowance.borrow_mut().spend(work, peer.ip());
    }

    fn settle_for(
        &self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        work: &mut Work,
    ) -> Result<Granted<'_>, Refusal> {
        let client = peer.ip();
        let roots = self.client_roots.as_ref();
        let common_root = self.common_root(request.direction);
        let own_root = match roots {
            Some(roots) => roots.of(now, client, common_root, work)?,
            None => None,
        };
        let root = own_root.as_ref().unwrap_or(common_root);
        let rules = self.map_file.as_ref().map(MapFile::rules);
        let asked = Asked {
            spelled: request.filename,
            direction: request.direction,
            client,
        };
        let settled = settle(&asked, root, rules, work)?;
        if own_root.is_none()
            && let Some(roots) = roots
            && roots.closes(&settled.name, request.direction)
        {
            return Err(StorageError::NOT_YOURS.into());
        }
        Ok(Granted {
            own_root,
            common_root,
            name: settled.name,
            origin: settled.origin,
            lines: settled.lines,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::wire::packet::Packet;
    use std::fs;
    use std::time::Duration;

    /// Names made to be slow end with the second's allowance; the next second goes
    /// on.
    #[test]
    fn what_requests_may_cost_is_an_allowance_a_second() {
        let home = tempfile::tempdir().unwrap();
        let map = home.path().join("map");
        fs::write(&map, "rgg ([a-z]+)+[0-9]|a b\n").unwrap();
        let start = clock::now();
        let policy = Policy {
            access: Access::default(),
            root: Root::open(home.path(), crate::file::Policy::default()).unwrap(),
            upload_root: None,
            client_roots: None,
            map_file: Some(MapFile::open(&map, false).unwrap()),
            allowance: WorkAllowance::new(7, start).into(),
        };
        let datagram = [&b"\0\x01"[..], &[b'a'; 400], b"\0octet\0"].concat();
        let Ok(Packet::Request(request)) = Packet::parse(&datagram) else {
            panic!("no request");
        };
        let peer: SocketAddr = "192.0.2.1:1024".parse().unwrap();
        let nearly_all = Work {
            scanned: 999_000,
            ..Work::default()
        };
        policy.allowance.borrow_mut().spend(nearly_all, peer.ip());
        let ask = |millis| {
            let settled = policy.settle(start + Duration::from_millis(millis), &request, peer);
            settled.err() != Some(Refusal::Overload)
        };
        assert!(ask(0));
        assert!(!ask(0) && !ask(999));
        assert!(ask(1000) && ask(1000));
    }
}
