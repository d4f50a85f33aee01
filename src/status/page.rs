//! `/`: the page, and what it may do.
//!
//! Its script and its style are allowed by their hashes, and nothing else is. Must
//! not: hold anything that comes from the network.

/// The page with its style and its script in it.
pub(super) const HTML: &str = include_str!("page.html");

/// What a browser may do with it: run that script, use that style, show its icon, and send
/// requests to us. A test checks the hashes.
pub(super) const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; ",
    "form-action 'none'; frame-ancestors 'none'; ",
    "style-src 'sha256-oSN8SFIMdiSSrSpYHBegTehgs2dACagX3jBEWAFupYU='; ",
    "script-src 'sha256-Pdf1x6tWzRkcbY3CAis7P0iZ9TVOw+xtLAuQaQbgjZw='"
);

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// What stands between the tags.
    fn between(tag: &str) -> &'static str {
        let (_, rest) = HTML.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once(&format!("</{tag}>")).unwrap().0
    }

    /// The SHA-256 of a text in base64, by coreutils.
    fn hash(text: &str) -> String {
        let script = "sha256sum | cut -c 1-64 | tr a-f A-F | basenc --base16 -d | base64 -w 0";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn the_policy_allows_the_pages_own_script_and_style() {
        for tag in ["style", "script"] {
            let source = format!("{tag}-src 'sha256-{}'", hash(between(tag)));
            let is_there = CONTENT_SECURITY_POLICY.contains(&source);
            assert!(is_there, "write into page.rs: {source}");
            assert_eq!(HTML.matches(&format!("<{tag}")).count(), 1, "{tag}");
        }
        // The policy would block these.
        assert!(!HTML.contains(" style=") && !HTML.contains(" onclick="));
    }
}
