//! The list of the manual's pages, by which they are made, checked and packaged.
//!
//! Must not: know what the pages say.

/// A page of the manual: `scripts/man/src/FILE.md` is its source, `scripts/man/FILE` what
/// is made of it.
pub(crate) struct Page {
    /// Such as `tftpd.map`.
    pub(crate) name: &'static str,
    /// The section of the manual.
    pub(crate) section: u8,
    /// The program that it is about, and is packaged with.
    pub(crate) program: &'static str,
}

impl Page {
    const fn new(name: &'static str, section: u8, program: &'static str) -> Self {
        Self {
            name,
            section,
            program,
        }
    }

    /// The name of its file, such as `tftpd.map.5`.
    pub(crate) fn file(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }
}

/// All pages, each program's own first.
pub(crate) const PAGES: &[Page] = &[
    Page::new("tftpd", 8, "tftpd"),
    Page::new("tftpd.map", 5, "tftpd"),
    Page::new("tftpd.rules", 5, "tftpd"),
    Page::new("tftpd-performance", 7, "tftpd"),
    Page::new("tftpd-migration", 7, "tftpd"),
    Page::new("tftpd-internals", 7, "tftpd"),
    Page::new("tftp", 1, "tftp"),
];
