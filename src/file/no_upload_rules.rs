//! The upload rules of a build without the feature `uploads`: none can be set, and the
//! compiler leaves out the code for them.

use std::convert::Infallible;

use super::quota::{MinFree, Total};
use super::version_name::VersionFormat;

/// Rules for uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadRules {}

/// How many old versions of a file are kept, and what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub(super) count: u32,
    pub(super) format: Option<VersionFormat>,
    /// No value of this type can be made.
    never: Infallible,
}

/// No value of this type can be made.
#[derive(Debug, Clone, Copy)]
pub(super) enum OtherName {}

#[allow(
    clippy::unused_self,
    clippy::trivially_copy_pass_by_ref,
    reason = "as with the feature"
)]
impl UploadRules {
    /// No rules.
    pub const NONE: Self = Self {};

    pub(super) const fn versions(&self) -> Option<Versions> {
        None
    }

    pub(super) const fn create_dirs(&self) -> bool {
        false
    }

    pub(super) const fn write_only(&self) -> bool {
        false
    }

    pub(super) const fn other_name(&self) -> Option<OtherName> {
        None
    }

    pub(super) const fn fsync(&self) -> bool {
        false
    }

    pub(super) const fn max_total(&self) -> Option<Total> {
        None
    }

    pub(super) const fn min_free(&self) -> Option<MinFree> {
        None
    }
}
