//! `--rules`: what holds for which clients, section by section.
//!
//! The first section that a client belongs to holds for it, and no other; for what that
//! section doesn't set, the command line holds. Must not: open a file for a client.

pub mod file;
#[cfg_attr(not(feature = "rules"), path = "no_parse.rs")]
mod parse;
pub mod test;

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use super::access::Network;
use super::glob::Globs;
use crate::wire::options::{Limits, OptionSet};
use crate::wire::packet::Direction;

/// The most sections of a file.
const MAX_SECTIONS: usize = 1024;

/// What is known about a client when it asks.
pub(super) struct Client<'a> {
    pub(super) address: IpAddr,
    pub(super) interface: Interface<'a>,
    /// Its hardware address; looked up once, if it is needed.
    pub(super) hardware: OnceCell<Option<[u8; 6]>>,
}

impl Client<'_> {
    /// The client at `peer`, whose request came in by the interface with the number
    /// `interface`, if that is known.
    pub(super) fn at(peer: SocketAddr, interface: Option<u32>) -> Self {
        Self {
            address: peer.ip(),
            interface: interface.map_or(Interface::Unknown, Interface::Index),
            hardware: OnceCell::new(),
        }
    }
}

/// The interface that a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface<'a> {
    /// The kernel's number for it.
    Index(u32),
    Name(&'a str),
    Unknown,
}

/// An interface that a section names.
#[derive(Debug, PartialEq, Eq)]
struct NamedInterface {
    name: String,
    /// The kernel's number for it, if it was there when the file was read.
    index: Option<u32>,
}

/// The first bytes of hardware addresses.
type Hardware = Vec<u8>;

/// Who belongs to a section: a client that matches one entry of each kind that is named.
#[derive(Debug, Default)]
struct Members {
    networks: Vec<Network>,
    interfaces: Vec<NamedInterface>,
    hardware: Vec<Hardware>,
}

/// A directory in which files are looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of [`ClientRules::roots`] it is below; `None`: ROOT.
    pub(super) base: Option<usize>,
    /// The way from that base; empty: the base itself.
    way: Vec<Part>,
}

/// A piece of a way.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    /// `%i`: the client's address.
    Address,
    /// `%m`: its hardware address.
    Hardware,
}

/// What holds for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Options to be treated as unknown, in addition to the command line's.
    pub refused: OptionSet,
    /// Largest block size, in bytes.
    pub max_blksize: Option<u16>,
    /// Largest window, in blocks.
    pub max_windowsize: Option<u16>,
    /// The most bytes of DATA a second that a transfer moves.
    pub rate: Option<NonZeroU64>,
    /// Every datagram is sent twice.
    pub send_twice: bool,
    /// Every file is sent and stored as it is, whatever mode the client asked for.
    pub octet: bool,
    /// How long to wait for an answer.
    pub timeout: Option<Duration>,
    /// How often a packet is repeated.
    pub retries: Option<u8>,
    /// Whether transfers use the listening port; `None`: as on the command line.
    pub single_port: Option<bool>,
    /// The most transfers at once with all the section's clients that have answered;
    /// those that are over don't count.
    pub max_sessions: Option<u32>,
}

impl Settings {
    /// What is granted if the command line grants `limits`.
    pub fn limits(&self, limits: &Limits) -> Limits {
        let less = |own: Option<u16>, all: u16| own.map_or(all, |own| own.min(all));
        Limits {
            max_blksize: less(self.max_blksize, limits.max_blksize),
            max_windowsize: less(self.max_windowsize, limits.max_windowsize),
            refused: limits.refused.union(self.refused),
        }
    }

    /// Whether a session with these settings must be kept account of while it runs.
    pub const fn needs_account(&self) -> bool {
        self.rate.is_some() || self.max_sessions.is_some()
    }
}

/// A section of the file.
#[derive(Debug)]
pub struct Section {
    /// Its name, from the heading.
    pub name: String,
    members: Members,
    /// Where files are looked for, in this order; if empty, the command line holds.
    pub(super) places: Vec<Place>,
    read: Globs,
    write: Globs,
    /// What holds for its transfers.
    pub settings: Settings,
    /// Transfers of clients that have answered, without those that are over. When the file
    /// is read again, the new section of the same name takes over this count.
    pub sessions: Rc<Cell<u32>>,
    /// Without the feature no section can be made.
    #[cfg(not(feature = "rules"))]
    never: std::convert::Infallible,
}

#[cfg(all(test, feature = "rules"))]
impl Section {
    /// A section with these settings and nothing else.
    pub(crate) fn saying(settings: Settings) -> Self {
        Self {
            name: "test".to_owned(),
            members: Members::default(),
            places: Vec::new(),
            read: Globs::default(),
            write: Globs::default(),
            settings,
            sessions: Rc::default(),
        }
    }
}

impl Section {
    /// Whether the client has the right to this name.
    pub(super) fn allows(&self, name: &[u8], direction: Direction) -> bool {
        self.globs(direction).allow(name)
    }

    /// What [`Section::allows`] costs, in bytes.
    pub(super) fn work(&self, name: &[u8], direction: Direction) -> u64 {
        self.globs(direction).work(name)
    }

    const fn globs(&self, direction: Direction) -> &Globs {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// Whether it is this section, perhaps as it was before the file was read again.
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.sessions, &other.sessions)
    }

    /// Whether the limit of transfers is reached.
    pub fn is_full(&self) -> bool {
        let max = self.settings.max_sessions;
        max.is_some_and(|max| self.sessions.get() >= max)
    }

    /// Whether the limit of transfers is exceeded.
    pub fn is_overfull(&self) -> bool {
        let max = self.settings.max_sessions;
        max.is_some_and(|max| self.sessions.get() > max)
    }

    fn holds_for(&self, client: &Client<'_>, find: &mut impl FnMut() -> Option<[u8; 6]>) -> bool {
        let Members {
            networks,
            interfaces,
            hardware,
        } = &self.members;
        let is_from = |it: &NamedInterface| match client.interface {
            Interface::Index(index) => it.index == Some(index),
            Interface::Name(name) => it.name == name,
            Interface::Unknown => false,
        };
        let is_in = |it: &Network| it.contains(client.address);
        (networks.is_empty() || networks.iter().any(is_in))
            && (interfaces.is_empty() || interfaces.iter().any(is_from))
            && (hardware.is_empty()
                || client
                    .hardware
                    .get_or_init(find)
                    .is_some_and(|own| hardware.iter().any(|it| own.starts_with(it))))
    }
}

impl Place {
    /// The way from its base for this client; `None` if that needs the client's hardware
    /// address, which isn't known.
    pub(super) fn way(
        &self,
        client: &Client<'_>,
        find: &mut impl FnMut() -> Option<[u8; 6]>,
    ) -> Option<Vec<u8>> {
        let mut way = Vec::new();
        for part in &self.way {
            match part {
                Part::Text(text) => way.extend_from_slice(text),
                Part::Address => {
                    let address = client.address.to_canonical();
                    way.extend_from_slice(address.to_string().as_bytes());
                }
                Part::Hardware => {
                    let address = (*client.hardware.get_or_init(&mut *find))?;
                    let bytes = address.map(|byte| format!("{byte:02x}"));
                    way.extend_from_slice(bytes.join("-").as_bytes());
                }
            }
        }
        Some(way)
    }
}

/// The rules of a rules file.
#[derive(Debug)]
pub struct ClientRules {
    sections: Vec<Rc<Section>>,
    /// The directories outside ROOT that the file names: absolute paths.
    roots: Vec<std::path::PathBuf>,
    /// Without the feature no rules can be made, and the code for them is left out.
    #[cfg(not(feature = "rules"))]
    never: std::convert::Infallible,
}

impl ClientRules {
    /// The section that holds for a client, if there is one. `find` looks up the client's
    /// hardware address.
    pub(super) fn section(
        &self,
        client: &Client<'_>,
        mut find: impl FnMut() -> Option<[u8; 6]>,
    ) -> Option<&Rc<Section>> {
        let mut sections = self.sections.iter();
        sections.find(|section| section.holds_for(client, &mut find))
    }

    /// Takes over the counts of transfers from the sections of the same names.
    fn go_on_from(&mut self, before: &Self) {
        for section in self.sections.iter_mut().filter_map(Rc::get_mut) {
            let same = before.sections.iter().find(|it| it.name == section.name);
            if let Some(same) = same {
                section.sessions = Rc::clone(&same.sessions);
            }
        }
    }

    /// Whether a section needs hardware addresses.
    fn needs_hardware(&self) -> bool {
        let is_hardware = |place: &Place| place.way.contains(&Part::Hardware);
        self.sections.iter().any(|section| {
            !section.members.hardware.is_empty() || section.places.iter().any(is_hardware)
        })
    }

    /// Whether some clients are sent every datagram twice.
    pub(super) fn sends_twice(&self) -> bool {
        self.sections.iter().any(|it| it.settings.send_twice)
    }

    /// Whether some transfers use the listening port.
    fn has_single_port(&self) -> bool {
        let mut sections = self.sections.iter();
        sections.any(|it| it.settings.single_port == Some(true))
    }

    /// A section whose transfers are not to use the listening port.
    fn without_single_port(&self) -> Option<&Section> {
        let mut sections = self.sections.iter().map(|it| &**it);
        sections.find(|it| it.settings.single_port == Some(false))
    }
}
