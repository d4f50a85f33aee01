//! The errors of storage: an ERROR code and text for the wire, and the system's own
//! reason for the log.
//!
//! The one place where `errno` becomes an ERROR code. Texts are constants: no
//! path and nothing a client sent can get into them. Must not: put an `errno` or a
//! path on the wire.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::protocol::transfer::Failure;
use crate::wire::packet::ErrorCode;

/// The text if a new file's directory is missing.
const NO_DIRECTORY: &str = "No such directory";

/// What to do about a missing directory.
const MAKE_DIRECTORY: &str = if cfg!(feature = "uploads") {
    "uploads make no directories: create it first, or use --create-dirs"
} else {
    "uploads make no directories: create it first"
};

/// The text if a client's own root is there, but can't be used.
const NO_OWN_ROOT: &str = "Access violation: this client's directory can't be used";

/// The system's text for an error, without the number that the standard library
/// appends.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_ascii_lowercase(),
        None => error.to_string(),
    }
}

/// The error's [`reason`] and a remedy, in one line: `remedy`, unless the process may
/// open no more files.
pub fn with_remedy(error: &io::Error, remedy: &str) -> String {
    let is_full = error.raw_os_error() == Some(Errno::EMFILE as i32);
    let remedy = if is_full {
        "allow more (ulimit -n)"
    } else {
        remedy
    };
    format!("{}; {remedy}", reason(error))
}

/// Why a file can't be served or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageError {
    code: ErrorCode,
    message: &'static str,
    errno: Option<Errno>,
}

impl StorageError {
    pub(super) const IS_DIRECTORY: Self = Self::refusal("Access violation: is a directory");
    pub(super) const IS_LINK: Self = Self::refusal("Access violation: a link is not replaced");
    pub(super) const NOT_REGULAR: Self = Self::refusal("Access violation: not a regular file");
    pub(super) const READ_ONLY: Self = Self::refusal("Access violation: server is read-only");
    pub(super) const RESERVED_NAME: Self = Self::refusal("Access violation: reserved name");
    /// A name with control characters, or with bytes at its end that reading would
    /// drop.
    pub(super) const ODD_NAME: Self =
        Self::refusal("Access violation: control characters in the name");
    /// A name below a directory that is another client's root.
    pub const NOT_YOURS: Self = Self::refusal("Access violation: another client's directory");
    /// The rules don't allow this client to do it.
    pub const NOT_ALLOWED: Self = Self::refusal("Access violation: not allowed for this client");
    /// None of the directories that the rules name for this client exists.
    pub const NO_ROOT: Self = Self::new(
        ErrorCode::FileNotFound,
        "File not found: no directory for this client",
    );
    /// Fewer bytes came than the tsize; only our client sends it.
    pub const TOO_SHORT: Self = Self::new(ErrorCode::NotDefined, "Fewer bytes came than announced");
    /// Far more bytes came than the tsize; only our client sends it.
    pub const TOO_LONG: Self = Self::new(
        ErrorCode::DiskFull,
        "Allocation exceeded: far more bytes came than announced",
    );
    /// Nothing has this name.
    pub const NOT_FOUND: Self = Self::new(ErrorCode::FileNotFound, "File not found");
    /// A file that was closed for a while has since been changed or replaced.
    pub(super) const CHANGED: Self =
        Self::new(ErrorCode::NotDefined, "File changed while being sent");
    pub(super) const EXISTS: Self = Self::new(ErrorCode::FileExists, "File already exists");
    /// The directory to be made exists in another case of letters.
    pub(super) const IN_ANOTHER_CASE: Self = Self::new(
        ErrorCode::FileExists,
        "Directory exists in another case of letters",
    );
    pub(super) const OVER_LIMIT: Self = Self::new(
        ErrorCode::DiskFull,
        "Allocation exceeded: larger than the upload limit",
    );
    /// All uploads together would exceed their limit.
    pub(super) const OVER_TOTAL: Self = Self::new(
        ErrorCode::DiskFull,
        "Allocation exceeded: the limit of all uploads is reached",
    );
    /// The files that are there couldn't be counted.
    pub(super) const UNCOUNTED: Self = Self::new(
        ErrorCode::DiskFull,
        "Allocation exceeded: the files there can't be counted",
    );
    pub(super) const WRITE_ONLY: Self = Self::refusal("Access violation: server is write-only");
    /// A name that an old version of a file has, or may get.
    pub(super) const VERSION: Self = Self::refusal("Access violation: name of an old version");
    pub(super) const LONG_NAME: Self =
        Self::refusal("Access violation: name too long to keep versions");
    pub(super) const CROWDED: Self = Self::new(
        ErrorCode::NotDefined,
        "Too many files in the directory to keep versions",
    );
    pub(super) const NO_SPACE: Self =
        Self::new(ErrorCode::DiskFull, "Disk full: not enough free space");
    /// There is room, but too little would stay free.
    pub const MIN_FREE: Self =
        Self::new(ErrorCode::DiskFull, "Disk full: too little would stay free");

    /// Why a client's own root can't be opened.
    pub(super) fn of_own_root(errno: Errno) -> Self {
        let plain = Self::from(errno);
        if plain.is_exhausted() {
            return plain;
        }
        Self {
            errno: Some(errno),
            ..Self::refusal(NO_OWN_ROOT)
        }
    }

    /// An error of the system; `EIO` if the library has no number for it.
    pub fn of_io(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        errno.into()
    }

    /// Why the directory of a new file can't be opened.
    pub(super) fn of_directory(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Self {
                errno: Some(errno),
                ..Self::new(ErrorCode::FileNotFound, NO_DIRECTORY)
            },
            other => other.into(),
        }
    }

    /// Why a transfer failed, as the peer was told.
    pub const fn of_failure(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }

    /// What the administrator can do about it, for the log.
    pub fn hint(&self) -> Option<&'static str> {
        match self.message {
            _ if *self == Self::IS_DIRECTORY || self.errno == Some(Errno::EISDIR) => Some(
                "a directory was asked for: a file's name is missing in the client's configuration",
            ),
            NO_DIRECTORY if self.errno == Some(Errno::ENOTDIR) => {
                Some("what would be a directory on the way to that name is a file")
            }
            NO_DIRECTORY => Some(MAKE_DIRECTORY),
            _ if cfg!(feature = "rules") && *self == Self::NO_ROOT => Some(
                "none of the roots in its section of the rules file is there, and none is made: \
                 tftpd --rules-test shows which it would be",
            ),
            _ if *self == Self::OVER_LIMIT => Some("--max-upload allows no larger file"),
            _ if *self == Self::OVER_TOTAL => {
                Some("with this file there would be more than --max-upload-total")
            }
            _ if *self == Self::NO_SPACE => {
                Some("less is free on the disk than this upload and those under way need")
            }
            _ if *self == Self::MIN_FREE => {
                Some("less than --min-free would stay free on the disk")
            }
            _ if cfg!(feature = "rules") && *self == Self::NOT_ALLOWED => Some(
                "its section of the rules file forbids that name: tftpd --rules-test shows which",
            ),
            NO_OWN_ROOT if self.errno == Some(Errno::ENOENT) => Some(
                "its name is a link that leads out of ROOT, or nowhere: bind-mount the directory",
            ),
            _ => None,
        }
    }

    const fn new(code: ErrorCode, message: &'static str) -> Self {
        Self {
            code,
            message,
            errno: None,
        }
    }

    const fn refusal(message: &'static str) -> Self {
        Self::new(ErrorCode::AccessViolation, message)
    }

    /// The code for the ERROR packet.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The text for the ERROR packet: never a path.
    pub const fn message(&self) -> &'static str {
        self.message
    }

    /// The system's reason, for the log; `None` if the refusal is our own.
    pub const fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// Whether the server, not the file, is the trouble: out of descriptors or
    /// memory. Such a request is dropped without an answer, so that a boot ROM
    /// asks again instead of giving up.
    pub const fn is_exhausted(&self) -> bool {
        matches!(
            self.errno,
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
        )
    }
}

impl From<Errno> for StorageError {
    fn from(errno: Errno) -> Self {
        let plain = match errno {
            Errno::ENOENT | Errno::ENOTDIR => Self::NOT_FOUND,
            // The code of a missing file, so that a client tries its next name.
            Errno::ENAMETOOLONG => {
                Self::new(ErrorCode::FileNotFound, "File not found: name too long")
            }
            Errno::EACCES | Errno::EPERM => Self::refusal("Access violation: permission denied"),
            Errno::ELOOP => Self::refusal("Access violation: link not followed"),
            // From `walk`, by whatever name.
            Errno::EXDEV => Self::NOT_YOURS,
            Errno::EROFS => Self::refusal("Access violation: read-only file system"),
            Errno::EISDIR => Self::IS_DIRECTORY,
            // From opening a socket, or a device without a driver.
            Errno::ENXIO | Errno::ENODEV => Self::NOT_REGULAR,
            Errno::ENOSPC => Self::new(ErrorCode::DiskFull, "Disk full"),
            Errno::EDQUOT => Self::new(ErrorCode::DiskFull, "Disk full: quota exceeded"),
            Errno::EFBIG => Self::new(ErrorCode::DiskFull, "Disk full: file too large"),
            Errno::EEXIST => Self::EXISTS,
            other => Self::new(ErrorCode::NotDefined, other.desc()),
        };
        Self {
            errno: Some(errno),
            ..plain
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)?;
        match self.errno {
            Some(errno) => write!(f, " ({errno:?})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StorageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_below_a_file_is_not_told_to_make_directories() {
        for (errno, told) in [(Errno::ENOENT, "create it"), (Errno::ENOTDIR, "is a file")] {
            let hint = StorageError::of_directory(errno).hint();
            assert!(hint.is_some_and(|it| it.contains(told)), "{hint:?}");
        }
    }

    #[test]
    fn errno_maps_to_the_code_clients_act_on() {
        for (errno, code) in [
            (Errno::ENOENT, ErrorCode::FileNotFound),
            (Errno::ENOTDIR, ErrorCode::FileNotFound),
            (Errno::ENAMETOOLONG, ErrorCode::FileNotFound),
            (Errno::EACCES, ErrorCode::AccessViolation),
            (Errno::EPERM, ErrorCode::AccessViolation),
            (Errno::ELOOP, ErrorCode::AccessViolation),
            (Errno::EXDEV, ErrorCode::AccessViolation),
            (Errno::EISDIR, ErrorCode::AccessViolation),
            (Errno::EROFS, ErrorCode::AccessViolation),
            (Errno::ENXIO, ErrorCode::AccessViolation),
            (Errno::ENOSPC, ErrorCode::DiskFull),
            (Errno::EDQUOT, ErrorCode::DiskFull),
            (Errno::EFBIG, ErrorCode::DiskFull),
            (Errno::EEXIST, ErrorCode::FileExists),
            (Errno::EIO, ErrorCode::NotDefined),
        ] {
            let error = StorageError::from(errno);
            assert_eq!(error.code(), code, "{errno}");
            assert_eq!(error.errno(), Some(errno));
            assert!(!error.message().is_empty(), "{errno}");
            assert!(!error.is_exhausted(), "{errno}");
        }
        let too_long = StorageError::from(Errno::ENAMETOOLONG);
        assert!(too_long.message().ends_with("name too long"));
    }

    #[test]
    fn an_error_without_a_number_is_eio() {
        let error = StorageError::of_io(&io::Error::from(io::ErrorKind::WriteZero));
        assert_eq!(error, StorageError::from(Errno::EIO));
        let error = StorageError::of_io(&io::Error::from_raw_os_error(Errno::ENOSPC as i32));
        assert_eq!(error, StorageError::from(Errno::ENOSPC));
    }

    #[test]
    fn running_out_of_descriptors_or_memory_is_told_apart() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS] {
            assert!(StorageError::from(errno).is_exhausted(), "{errno}");
        }
        assert!(!StorageError::NO_SPACE.is_exhausted());
    }

    #[test]
    fn the_log_gets_the_reason_too() {
        assert_eq!(
            StorageError::from(Errno::EROFS).to_string(),
            "Access violation: read-only file system (EROFS)"
        );
        assert_eq!(
            StorageError::NOT_REGULAR.to_string(),
            "Access violation: not a regular file"
        );
    }
}
