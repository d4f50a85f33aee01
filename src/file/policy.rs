//! What clients may do with the files below a root. Must not: know a client.

use super::upload_rules::UploadRules;

/// What clients may do below the root. The default: read everything the
/// server's user may, create files, overwrite none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Refuse every upload.
    pub read_only: bool,
    /// Let uploads replace existing regular files that the server's user may
    /// write.
    pub overwrite: bool,
    /// The most bytes an upload may have.
    pub max_upload: Option<u64>,
    /// Permission bits new files don't get (new files have `0o666 & !umask`);
    /// `None` for the process's own umask.
    pub umask: Option<u32>,
    /// Look for a file that isn't there under names that differ in the case of
    /// their letters.
    pub ignore_case: bool,
    /// Further rules for uploads.
    pub uploads: UploadRules,
}
