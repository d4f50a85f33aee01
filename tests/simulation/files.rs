//! The files at both ends: read in time, late or never, and written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::rc::{Rc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use tftpd::file::{ReadAt, StorageError, Store};

use super::network::Net;
use super::weather::Random;

/// What goes wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Reading or writing fails from this byte on.
    Fails {
        at: usize,
        errno: Errno,
    },
    /// The finished file can't be put in place.
    CommitFails(Errno),
    /// When it is read, everything after this byte is gone.
    Shrinks {
        to: usize,
    },
    /// Each part is ready only when it is asked for the second time.
    Hesitates,
    /// After a fetch, the data comes after this delay.
    Late(Duration),
    /// Only a blocking read brings any data.
    Never,
}

/// The first bytes of a file.
pub(crate) fn content(file: usize, size: usize) -> Vec<u8> {
    thread_local! {
        /// The content of each file, as long as the longest use so far.
        static CONTENTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }
    CONTENTS.with_borrow_mut(|contents| {
        contents.resize(contents.len().max(file + 1), Vec::new());
        let bytes = &mut contents[file];
        if bytes.len() < size {
            let mut random = Random(file as u64);
            let words = size.div_ceil(8).max(20_000);
            *bytes = (0..words)
                .flat_map(|_| random.next().to_le_bytes())
                .collect();
        }
        bytes[..size].to_vec()
    })
}

/// The number of the file with these bytes, shared by all that have it open. Files differ
/// in their first bytes or in size.
fn number_of(bytes: &[u8]) -> Rc<u64> {
    type Start = (usize, [u8; 8]);
    thread_local! {
        static OPEN: RefCell<(u64, BTreeMap<Start, Weak<u64>>)> = RefCell::default();
    }
    let mut start = (bytes.len(), [0; 8]);
    let len = bytes.len().min(8);
    start.1[..len].copy_from_slice(&bytes[..len]);
    OPEN.with_borrow_mut(|(last, open)| {
        open.get(&start).and_then(Weak::upgrade).unwrap_or_else(|| {
            *last += 1;
            let number = Rc::new(*last);
            open.insert(start, Rc::downgrade(&number));
            number
        })
    })
}

/// The bytes that a fetch brings.
const STRETCH: usize = 4096;

/// The time of a blocking read.
const DISK: Duration = Duration::from_millis(50);

/// A file that is sent.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    number: Rc<u64>,
    trouble: Trouble,
    net: Net,
    fetches: usize,
    /// Whether the next read blocks.
    blocking: bool,
    /// The number of bytes in memory, from the start.
    present: usize,
    /// The end of what is being fetched, and when it is there.
    fetched: Option<(usize, Duration)>,
    missing: usize,
    /// Whether it may be closed, and whether it is.
    closable: bool,
    closed: bool,
}

impl Reader {
    pub(crate) fn new(bytes: Vec<u8>, trouble: Trouble, net: &Net) -> Self {
        Self {
            number: number_of(&bytes),
            bytes,
            trouble,
            net: net.clone(),
            fetches: 0,
            blocking: false,
            present: 0,
            fetched: None,
            missing: 0,
            closable: false,
            closed: false,
        }
    }

    /// Whether it may be closed until it is read again.
    pub(crate) const fn closable(mut self, closable: bool) -> Self {
        self.closable = closable;
        self
    }

    /// Whether everything up to `end` is in memory.
    fn is_ready(&mut self, end: usize) -> bool {
        if std::mem::take(&mut self.blocking) {
            self.net.with(|network| network.now += DISK);
            return true;
        }
        let now = self.net.with(|network| network.now);
        match self.trouble {
            Trouble::Hesitates => {
                let is_ready = end <= self.present;
                self.present = self.present.max(end.next_multiple_of(STRETCH));
                is_ready
            }
            Trouble::Late(_) | Trouble::Never => {
                if let Some((up_to, at)) = self.fetched
                    && at <= now
                {
                    self.present = self.present.max(up_to);
                    self.fetched = None;
                }
                self.missing = end;
                end <= self.present
            }
            _ => true,
        }
    }
}

impl ReadAt for Reader {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_run(
        &mut self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<Option<usize>, StorageError> {
        self.closed = false;
        let start = usize::try_from(offset).expect("an offset in memory");
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let end = match self.trouble {
            Trouble::Shrinks { to } => self.bytes.len().min(to),
            _ => self.bytes.len(),
        };
        let end = end.min(start + wanted).max(start.min(end));
        if let Trouble::Fails { at, errno } = self.trouble
            && at < end
        {
            return Err(errno.into());
        }
        if !self.is_ready(end) {
            return Ok(None);
        }
        let mut rest = self.bytes.get(start..end).unwrap_or(&[]);
        let read = rest.len();
        for slice in slices {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            rest = later;
        }
        Ok(Some(read))
    }

    fn fetch(&mut self) -> bool {
        self.fetches += 1;
        if let Trouble::Late(delay) = self.trouble {
            // The fetch has to wait its turn now and then.
            if self.fetches.is_multiple_of(4) {
                return false;
            }
            let at = self.net.with(|network| network.now) + delay;
            self.fetched
                .get_or_insert((self.missing.next_multiple_of(STRETCH), at));
        }
        true
    }

    fn block(&mut self) {
        self.blocking = true;
    }

    fn close(&mut self) {
        self.closed = self.closable;
    }

    fn is_open(&self) -> bool {
        !self.closed
    }

    fn sharing_key(&self) -> Option<u64> {
        let is_shared = self.trouble == Trouble::None && Rc::strong_count(&self.number) > 1;
        (is_shared && !self.closed).then(|| *self.number)
    }
}

/// The result of a file that is received.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) committed: bool,
}

/// A file that is received.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) stored: Rc<RefCell<Stored>>,
    pub(crate) trouble: Trouble,
}

impl Store for Keeper {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let mut stored = self.stored.borrow_mut();
        assert_eq!(offset, stored.bytes.len() as u64, "written out of order");
        match self.trouble {
            Trouble::Fails { at, errno } if at < stored.bytes.len() + bytes.len() => {
                Err(errno.into())
            }
            _ => {
                stored.bytes.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn commit(self) -> Result<(), StorageError> {
        if let Trouble::CommitFails(errno) = self.trouble {
            return Err(errno.into());
        }
        self.stored.borrow_mut().committed = true;
        Ok(())
    }
}
