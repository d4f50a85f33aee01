//! Rules for uploads, beyond whether they may replace files.
//!
//! Must not: touch a file.

use super::quota::{MinFree, Total};
use super::version_name::VersionFormat;

/// Rules for uploads. By default there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadRules {
    /// Replace existing files, and keep what they held under other names.
    pub versions: Option<Versions>,
    /// Make the directories that a name needs.
    pub create_dirs: bool,
    /// Nothing can be read, and nobody is told that a name is taken.
    pub write_only: bool,
    /// An upload is on the disk before its client hears that it is complete.
    pub fsync: bool,
    /// The most that all files where uploads go may take together.
    pub max_total: Option<Total>,
    /// How much uploads leave free on the disk.
    pub min_free: Option<MinFree>,
}

/// How many old versions of a file are kept, and what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// At least 1.
    pub count: u32,
    /// `None`: numbers.
    pub format: Option<VersionFormat>,
}

/// An upload whose name is taken gets another, and nobody is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct OtherName;

impl UploadRules {
    /// No rules.
    pub const NONE: Self = Self {
        versions: None,
        create_dirs: false,
        write_only: false,
        fsync: false,
        max_total: None,
        min_free: None,
    };

    pub(super) const fn versions(&self) -> Option<Versions> {
        self.versions
    }

    pub(super) const fn create_dirs(&self) -> bool {
        self.create_dirs
    }

    pub(super) const fn write_only(&self) -> bool {
        self.write_only
    }

    pub(super) fn other_name(&self) -> Option<OtherName> {
        self.write_only.then_some(OtherName)
    }

    pub(super) const fn fsync(&self) -> bool {
        self.fsync
    }

    pub(super) const fn max_total(&self) -> Option<Total> {
        self.max_total
    }

    pub(super) const fn min_free(&self) -> Option<MinFree> {
        self.min_free
    }
}
