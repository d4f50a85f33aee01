//! `/`: the page, and what it may do.
//!
//! Its script and its style are allowed by their hashes, and nothing else is. Must
//! not: hold anything that comes from the network.

/// The page with its style and its script in it.
pub(super) const HTML: &str = include_str!("page.html");

/// What a browser may do with it: run that script, show that style, ask us.
pub(super) const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; script-src 'sha256-",
    "SCRIPT",
    "'; style-src 'sha256-",
    "STYLE",
    "'"
);
