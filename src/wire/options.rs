//! Options.

/// Raw options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawOptions<'a>(pub(crate) &'a [u8]);
