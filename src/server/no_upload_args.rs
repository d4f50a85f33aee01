//! Built without the feature `uploads`: no options.

use std::path::Path;

use crate::file::UploadRules;

/// How uploads are taken.
#[derive(Debug, clap::Args)]
pub struct UploadArgs {}

#[allow(clippy::unused_self, reason = "as with the feature")]
impl UploadArgs {
    pub(super) const fn rules(&self, _is_shared: bool) -> UploadRules {
        UploadRules::NONE
    }

    pub(super) const fn root(&self) -> Option<&Path> {
        None
    }

    pub(super) const fn keeps_versions(&self) -> bool {
        false
    }

    pub(super) const fn is_write_only(&self) -> bool {
        false
    }

    pub(super) const fn makes_directories(&self) -> bool {
        false
    }

    pub(super) fn guards(&self) -> impl Iterator<Item = String> {
        std::iter::empty()
    }
}
