//! Layer 3: what a request may have. A request goes in; a root and a name come
//! out, or a refusal.
//!
//! The order is: what holds for the client (`rules`), its own root (`client_root`), the
//! name (`settle`), and the directories of other clients. `access` comes before all
//! these, since it needs only an address. Must not: open a file for a client.

pub mod access;
pub mod client_root;
#[cfg_attr(
    not(any(feature = "rules", feature = "helper")),
    allow(dead_code, reason = "no list is read")
)]
pub(crate) mod glob;
#[cfg_attr(
    not(feature = "rules"),
    allow(dead_code, reason = "no rules can be read")
)]
mod hardware;
#[cfg_attr(not(feature = "map"), path = "no_map.rs")]
pub mod map;
pub mod map_test;
#[cfg_attr(
    not(feature = "rules"),
    allow(dead_code, reason = "no rules can be read")
)]
pub mod rules;
mod settle;
mod text_file;
pub mod work;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use self::access::Access;
use self::client_root::ClientRoots;
use self::map::file::MapFile;
use self::rules::file::LiveRules;
use self::rules::{Client, Section};
use self::settle::{Asked, settle};
use self::work::{Work, WorkAllowance};
use crate::file::{Name, Root, StorageError, UploadListings};
use crate::wire::packet::{Direction, Request};

pub use self::settle::{Origin, Refusal};

/// The most directory entries that are charged at once: those of one large directory.
const CHARGED_AT_ONCE: u64 = 65_536;

/// What each client may ask for.
#[derive(Debug)]
pub struct Policy {
    /// Which clients to serve at all.
    pub access: Access,
    /// What is served to clients without a root of their own.
    pub root: Root,
    /// Where uploads go, if not to `root`.
    pub upload_root: Option<Root>,
    /// Where the clients' own roots are.
    pub client_roots: Option<ClientRoots>,
    /// Rules that rewrite and refuse names.
    pub map_file: Option<MapFile>,
    /// Rules by client.
    pub rules: Option<LiveRules>,
    /// How much work requests may cause.
    pub allowance: RefCell<WorkAllowance>,
}

/// Where a request leads.
#[derive(Debug)]
pub struct Granted<'a> {
    /// The root, if it isn't the common one.
    pub own_root: Option<Root>,
    common_root: &'a Root,
    /// The file's name below [`Granted::root`].
    pub name: Name,
    /// Where the name comes from.
    pub origin: Origin,
    /// The lines of the map file that matched.
    pub lines: Vec<u32>,
    /// The section of the rules that holds for the client.
    pub section: Option<Rc<Section>>,
}

impl Granted<'_> {
    /// The root to serve from.
    pub fn root(&self) -> &Root {
        self.own_root.as_ref().unwrap_or(self.common_root)
    }
}

impl Policy {
    /// The root that clients without one of their own read from, or write to.
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

    /// The root and the name to serve to `peer` for its request, which came in by the
    /// interface with the number `interface`, if that is known.
    ///
    /// # Errors
    /// Why nothing is served.
    pub fn settle(
        &self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        interface: Option<u32>,
    ) -> Result<Granted<'_>, Refusal> {
        let name_len = request.filename.len();
        let mut allowance = self.allowance.borrow_mut();
        if !allowance.may_begin(now, peer.ip(), name_len) {
            return Err(Refusal::Overload);
        }
        drop(allowance);
        let mut work = Work::default();
        let client = Client::at(peer, interface);
        let granted = self.settle_for(now, request, &client, &mut work);
        work.entries += self.take_entries_read();
        self.allowance.borrow_mut().spend(work, peer.ip());
        granted
    }

    /// [`Policy::settle`] for a file that is served under the requested name, but comes
    /// from elsewhere: it isn't looked for in any root.
    ///
    /// # Errors
    /// Why the name is refused.
    pub fn settle_given(
        &self,
        now: Instant,
        request: &Request<'_>,
        peer: SocketAddr,
        interface: Option<u32>,
    ) -> Result<Granted<'_>, Refusal> {
        let section = self.section_of(now, peer, interface);
        let name = self.root.name(request.filename, request.direction)?;
        if section.is_some_and(|section| !section.allows(&name, request.direction)) {
            return Err(StorageError::NOT_ALLOWED.into());
        }
        Ok(Granted {
            own_root: None,
            common_root: self.common_root(request.direction),
            name,
            origin: Origin::Asked,
            lines: Vec::new(),
            section: section.cloned(),
        })
    }

    /// Whether the rules have every datagram to `peer` sent twice. `interface` is as for
    /// [`Policy::settle`].
    pub fn sends_twice(&self, now: Instant, peer: SocketAddr, interface: Option<u32>) -> bool {
        let rules = self.rules.as_ref();
        rules.is_some_and(|it| it.rules.sends_twice())
            && self
                .section_of(now, peer, interface)
                .is_some_and(|it| it.settings.send_twice)
    }

    /// The section of the rules that holds for `peer`.
    fn section_of(
        &self,
        now: Instant,
        peer: SocketAddr,
        interface: Option<u32>,
    ) -> Option<&Rc<Section>> {
        let live = self.rules.as_ref()?;
        let client = Client::at(peer, interface);
        let mut work = Work::default();
        let find = || live.hardware(now, client.address, &mut work);
        let section = live.rules.section(&client, find);
        self.allowance.borrow_mut().spend(work, peer.ip());
        section
    }

    /// Charges each client what listing directories for its uploads has cost, as far as
    /// its network's share of this second goes. The rest stays in `listed` for the next
    /// seconds, in which the client can begin nothing.
    pub fn charge_listings(&self, now: Instant, listed: &mut Vec<(IpAddr, u64)>) {
        let mut allowance = self.allowance.borrow_mut();
        listed.retain_mut(|(client, entries)| {
            while *entries > 0 && allowance.may_begin(now, *client, 0) {
                let part = (*entries).min(CHARGED_AT_ONCE);
                let work = Work {
                    entries: part,
                    ..Work::default()
                };
                allowance.spend(work, *client);
                *entries -= part;
            }
            *entries > 0
        });
    }

    /// The directories that are listed for uploads.
    pub fn listings(&self) -> Vec<UploadListings> {
        let roots = [Some(&self.root), self.upload_root.as_ref()];
        let listings = roots.into_iter().flatten().map(Root::upload_listings);
        listings.flatten().collect()
    }

    /// Charges `peer` what looking up its file has cost since [`Policy::settle`].
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
        client: &Client<'_>,
        work: &mut Work,
    ) -> Result<Granted<'_>, Refusal> {
        let Some(live) = &self.rules else {
            return self.settle_in_own(now, request, client.address, None, work);
        };
        let mut looked_up = Work::default();
        let mut find = || live.hardware(now, client.address, &mut looked_up);
        let section = live.rules.section(client, &mut find);
        let places = section.map_or(&[][..], |section| &section.places);
        let way = |place: &rules::Place| Some((place.base, place.way(client, &mut find)?));
        let places: Vec<_> = places.iter().filter_map(way).collect();
        work.table += looked_up.table;
        match section {
            Some(section) if !section.places.is_empty() => {
                self.settle_in_places(&places, request, client.address, section, work)
            }
            section => self.settle_in_own(now, request, client.address, section, work),
        }
    }

    /// Settles the name in the client's own root by its address, or else in the common
    /// one.
    fn settle_in_own(
        &self,
        now: Instant,
        request: &Request<'_>,
        client: IpAddr,
        section: Option<&Rc<Section>>,
        work: &mut Work,
    ) -> Result<Granted<'_>, Refusal> {
        let common_root = self.common_root(request.direction);
        let own_root = match &self.client_roots {
            Some(roots) => roots.of(now, client, common_root, work)?,
            None => None,
        };
        self.settle_in(own_root, request, client, section, work)
    }

    /// Settles the name in the first of a section's directories that has the file; for an
    /// upload, in the first directory that is there.
    fn settle_in_places(
        &self,
        places: &[(Option<usize>, Vec<u8>)],
        request: &Request<'_>,
        client: IpAddr,
        section: &Rc<Section>,
        work: &mut Work,
    ) -> Result<Granted<'_>, Refusal> {
        let live = self.rules.as_ref();
        let is_read = request.direction == Direction::Read;
        let (mut missed, mut is_anothers) = (None, false);
        for (base, way) in places {
            let base = base.and_then(|number| live?.root(number));
            let root = if way.is_empty() {
                base.cloned()
            } else {
                let common = self.common_root(request.direction);
                match base.unwrap_or(common).below(way)? {
                    Some(root) => Some(root),
                    None => continue,
                }
            };
            let granted = match self.settle_in(root, request, client, Some(section), work) {
                // Whose a name is differs from root to root.
                Err(why) if is_read && why == StorageError::NOT_YOURS.into() => {
                    is_anothers = true;
                    continue;
                }
                other => other?,
            };
            if !is_read || granted.root().leads_to_file(&granted.name, Direction::Read) {
                return Ok(granted);
            }
            missed = Some(granted);
        }
        if is_anothers {
            return Err(StorageError::NOT_YOURS.into());
        }
        missed.ok_or(StorageError::NO_ROOT.into())
    }

    /// Settles the name in this root, if the client has the right to it.
    fn settle_in(
        &self,
        own_root: Option<Root>,
        request: &Request<'_>,
        client: IpAddr,
        section: Option<&Rc<Section>>,
        work: &mut Work,
    ) -> Result<Granted<'_>, Refusal> {
        let direction = request.direction;
        let asked = Asked {
            spelled: request.filename,
            direction,
            client,
        };
        let map = self.map_file.as_ref().map(MapFile::rules);
        let common_root = self.common_root(direction);
        let root = own_root.as_ref().unwrap_or(common_root);
        let settled = settle(&asked, root, map, work)?;
        if let Some(section) = section {
            work.scanned += section.work(&settled.name, direction);
            if !section.allows(&settled.name, direction) {
                return Err(StorageError::NOT_ALLOWED.into());
            }
        }
        if root.closes(&settled.name, direction) {
            return Err(StorageError::NOT_YOURS.into());
        }
        Ok(Granted {
            own_root,
            common_root,
            name: settled.name,
            origin: settled.origin,
            lines: settled.lines,
            section: section.cloned(),
        })
    }
}

#[cfg(feature = "map")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::wire::packet::Packet;
    use std::fs;
    use std::time::Duration;

    /// Names that are made to be slow are refused once the second's allowance is used up,
    /// and served again in the next second.
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
            rules: None,
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
            let settled =
                policy.settle(start + Duration::from_millis(millis), &request, peer, None);
            settled.err() != Some(Refusal::Overload)
        };
        assert!(ask(0));
        assert!(!ask(0) && !ask(999));
        assert!(ask(1000) && ask(1000));
    }
}
