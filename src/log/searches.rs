//! Boot loaders that look for their configuration: PXELINUX and GRUB ask for ten or so
//! names in a row, of which the last exists. Each such series is told in one line.
//!
//! Must not: write a line.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::short::Short;

/// The most series followed at a time; the misses of others are told one by one.
const MAX_OPEN: usize = 64;

/// A series is over when no more of it came for this long.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest that a series lasts.
const LONGEST: Duration = Duration::from_secs(10);

/// A series of misses in one directory.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// The client, and the port that it asked from last.
    pub(crate) peer: SocketAddr,
    /// The directory, with its slash.
    pub(crate) directory: Short<96>,
    pub(crate) misses: u64,
    /// The last name that was missing.
    pub(crate) missed: Short<64>,
    /// What can be done about the first miss.
    pub(crate) hint: Option<String>,
    began: Instant,
    last: Instant,
}

impl Search {
    fn due(&self) -> Instant {
        (self.last + PAUSE).min(self.began + LONGEST)
    }
}

/// The series that aren't over.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    open: Vec<Search>,
}

impl Searches {
    /// Takes in a missing name if it belongs to a series; returns whether it does. `hint`
    /// is called for the first of a series.
    pub(crate) fn miss(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        name: &[u8],
        hint: impl FnOnce() -> Option<String>,
    ) -> bool {
        let Some((directory, base)) = split(name) else {
            return false;
        };
        let directory = Short::of(directory);
        if let Some(search) = self.find(peer, &directory) {
            search.peer = peer;
            search.misses += 1;
            search.missed = Short::of(base);
            search.last = now;
            return true;
        }
        if self.open.len() == MAX_OPEN {
            return false;
        }
        self.open.push(Search {
            peer,
            directory,
            misses: 1,
            missed: Short::of(base),
            hint: hint(),
            began: now,
            last: now,
        });
        true
    }

    /// A client gets a file: returns the series that this ends, and the file's name in its
    /// directory.
    pub(crate) fn found<'a>(
        &mut self,
        peer: SocketAddr,
        name: &'a [u8],
    ) -> Option<(Search, &'a [u8])> {
        if self.open.is_empty() {
            return None;
        }
        let (directory, base) = split(name)?;
        let directory = Short::of(directory);
        let is_it = |it: &Search| it.peer.ip() == peer.ip() && it.directory == directory;
        let index = self.open.iter().position(is_it)?;
        Some((self.open.swap_remove(index), base))
    }

    fn find(&mut self, peer: SocketAddr, directory: &Short<96>) -> Option<&mut Search> {
        let mut open = self.open.iter_mut();
        open.find(|it| it.peer.ip() == peer.ip() && it.directory == *directory)
    }

    /// When [`Searches::tell`] has something to tell.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.open.iter().map(Search::due).min()
    }

    /// Hands over the series that ended without a file; all of them, if `hurry`.
    pub(crate) fn tell(&mut self, now: Instant, hurry: bool, mut tell: impl FnMut(&Search)) {
        self.open.retain(|search| {
            let is_over = hurry || search.due() <= now;
            if is_over {
                tell(search);
            }
            !is_over
        });
    }
}

/// Directory and name of what a boot loader looks for: anything in `pxelinux.cfg`,
/// and `grub.cfg` with or without something after it.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = name.iter().rposition(|&byte| byte == b'/');
    let (directory, base) = name.split_at(slash.map_or(0, |slash| slash + 1));
    let is_pxelinux = |directory: &[u8]| {
        let end = directory.len().checked_sub(PXELINUX.len());
        end.is_some_and(|end| {
            directory[end..].eq_ignore_ascii_case(PXELINUX)
                && (end == 0 || directory[end - 1] == b'/')
        })
    };
    let is_search = is_pxelinux(directory) || base.starts_with(b"grub.cfg");
    is_search.then_some((directory, base))
}

const PXELINUX: &[u8] = b"pxelinux.cfg/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn nine_misses_and_the_default_are_one_series() {
        let mut searches = Searches::default();
        let now = clock::now();
        for (port, name) in [
            "b8945908-d6a6-41a9-611d-74a6ab80b83d",
            "01-88-99-aa-bb-cc-dd",
            "C0A8025B",
            "C0A8025",
            "C0A802",
            "C0A80",
            "C0A8",
            "C0A",
            "C0",
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("boot/pxelinux.cfg/{name}");
            assert!(searches.miss(now, peer(port as u16), name.as_bytes(), || None));
        }
        // Another client's miss belongs to another series.
        let other = ([192, 0, 2, 2], 1).into();
        assert!(searches.miss(now, other, b"boot/pxelinux.cfg/C0", || None));
        let found = searches.found(peer(99), b"boot/pxelinux.cfg/default");
        let (search, name) = found.expect("a series");
        assert_eq!((search.misses, name), (9, &b"default"[..]));
        assert_eq!(search.directory.bytes(), b"boot/pxelinux.cfg/");
        assert!(
            searches
                .found(peer(99), b"boot/pxelinux.cfg/default")
                .is_none()
        );
        // The other client never finds a file.
        let due = searches.poll_timeout().unwrap();
        assert_eq!(due, now + PAUSE);
        let mut told = Vec::new();
        searches.tell(due, false, |search| told.push((search.peer, search.misses)));
        assert_eq!(told, [(other, 1)]);
        assert_eq!(searches.poll_timeout(), None);
    }

    #[test]
    fn only_a_boot_loaders_names_are_a_search() {
        for (name, wanted) in [
            ("pxelinux.cfg/default", Some("pxelinux.cfg/")),
            ("/tftp/PXELINUX.CFG/C0", Some("/tftp/PXELINUX.CFG/")),
            ("boot/grub/grub.cfg-01-aa", Some("boot/grub/")),
            ("grub.cfg", Some("")),
            ("mypxelinux.cfg/default", None),
            ("pxelinux.cfg", None),
            ("grub/fonts/unicode.pf2", None),
            ("", None),
        ] {
            let directory = split(name.as_bytes()).map(|(directory, _)| directory);
            assert_eq!(directory, wanted.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn series_are_bounded_in_number_and_time() {
        let mut searches = Searches::default();
        let start = clock::now();
        for host in 0..=MAX_OPEN {
            let peer = ([192, 0, 2, host as u8], 1).into();
            let taken = searches.miss(start, peer, b"pxelinux.cfg/C0", || None);
            assert_eq!(taken, host < MAX_OPEN, "{host}");
        }
        let mut searches = Searches::default();
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            searches.miss(now, peer(1), b"pxelinux.cfg/C0", || None);
        }
        assert_eq!(searches.poll_timeout(), Some(start + LONGEST));
    }
}
