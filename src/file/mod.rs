//! Layer 3: names, and the files they stand for.
//!
//! A [`Root`] reads a request's name as a [`Name`], and turns that into a
//! [`ReadFile`] or an [`Upload`], or into the [`StorageError`] to answer with. It
//! holds the two promises of this layer: no name leads out of the root
//! (`resolve`), and no upload is seen before it is whole (`upload`). Must not:
//! know a peer, a session or a socket, or block on anything but the file system.

mod barrier;
mod directory;
mod error;
mod existing;
mod fetch;
mod ignore_case;
pub mod local;
mod made_dirs;
mod name;
mod open_files;
mod policy;
mod publish;
mod quota;
mod reading;
mod reopen;
mod resolve;
mod root;
mod sink;
#[cfg(test)]
#[path = "../../tests/common/skipped.rs"]
mod skipped;
mod source;
mod space;
mod syscalls;
mod upload;
#[cfg_attr(not(feature = "uploads"), path = "no_upload_rules.rs")]
mod upload_rules;
mod version_name;
mod versions;
mod walk;

use nix::errno::Errno;
use nix::libc::off_t;

pub use barrier::Barrier;
pub use directory::{Directory, RootError};
pub use error::{StorageError, reason, with_remedy};
pub use name::{MAX_NAME, Name};
pub use open_files::OpenFiles;
pub use policy::Policy;
pub use publish::Publisher;
pub use quota::{MinFree, Size, Total};
pub use reading::ReadAt;
pub use reopen::ReadFile;
pub use resolve::Resolver;
pub use root::{Methods, Root};
pub use sink::{BufferedSink, FileSink, Store, WriteBuffer};
pub use source::{FileSource, MAX_RUN, NetasciiSource};
pub use space::UploadListings;
pub use upload::Upload;
pub use upload_rules::{UploadRules, Versions};
pub use version_name::VersionFormat;
pub use walk::{Departure, OwnName};

/// The file offset of byte `done` of a run at `offset`, in the system's type.
fn file_offset(offset: u64, done: usize) -> nix::Result<off_t> {
    off_t::try_from(offset.saturating_add(done as u64)).map_err(|_| Errno::EFBIG)
}
