//! Stands in for `parse` in a build without the feature `rules`: there are no rules.

use super::ClientRules;

pub(super) fn parse(_: &[u8]) -> Result<ClientRules, String> {
    Err(
        "this tftpd was built without rules by client (feature rules); leave --rules out"
            .to_owned(),
    )
}
