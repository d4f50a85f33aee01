//! The options about uploads beyond `--overwrite`, and what they mean. Must not: act on
//! anything.

use std::path::{Path, PathBuf};

use crate::file::{MinFree, Size, Total, UploadRules, VersionFormat, Versions};
use crate::host::usage;

/// How uploads are taken.
#[derive(Debug, clap::Args)]
pub struct UploadArgs {
    /// Let uploads replace existing files, and keep the last N versions of each as
    /// FILE.~1~, FILE.~2~ and so on, the newest with the highest number
    #[arg(
        long,
        value_name = "N",
        help_heading = "Uploads",
        conflicts_with = "read_only"
    )]
    #[arg(value_parser = usage::number(1..=10_000_u32))]
    keep_versions: Option<u32>,

    /// With --keep-versions: name versions after the time (UTC) when they were written,
    /// such as %Y-%m-%dT%H%M%S, instead of numbering them
    #[arg(
        long,
        value_name = "FORMAT",
        help_heading = "Uploads",
        requires = "keep_versions"
    )]
    #[arg(value_parser = VersionFormat::parse)]
    version_format: Option<VersionFormat>,

    /// Make the directories that an upload's name needs
    #[arg(long, help_heading = "Uploads", conflicts_with = "read_only")]
    create_dirs: bool,

    /// Directory that uploads go to, below ROOT or elsewhere [default: ROOT]
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Uploads",
        conflicts_with = "read_only"
    )]
    upload_root: Option<PathBuf>,

    /// Let nobody read what was uploaded, or learn that a name is taken: such an upload
    /// is stored beside the other, as FILE.~1~
    #[arg(long, help_heading = "Uploads", conflicts_with_all = ["read_only", "overwrite", "create_dirs"])]
    write_only: bool,

    /// Acknowledge the last block of an upload once it is on the disk
    #[arg(long, help_heading = "Uploads", conflicts_with = "read_only")]
    fsync: bool,

    /// Largest size of all files where uploads go, in bytes or with K, M, G or T
    /// [default: no limit]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Uploads",
        conflicts_with = "read_only"
    )]
    #[arg(value_parser = usage::parse_size)]
    max_upload_total: Option<u64>,

    /// Refuse uploads that would leave less free space on the disk: in bytes, with K, M, G
    /// or T, such as 500M, or as a percentage, such as 5% [default: 0]
    #[arg(long, value_name = "SIZE|PERCENT%", help_heading = "Uploads")]
    #[arg(value_parser = parse_min_free, conflicts_with = "read_only")]
    min_free: Option<MinFree>,
}

impl UploadArgs {
    /// How uploads are to be taken, alone or where other processes do the same.
    pub(super) fn rules(&self, is_shared: bool) -> UploadRules {
        let format = self.version_format;
        UploadRules {
            versions: self.keep_versions.map(|count| Versions { count, format }),
            create_dirs: self.create_dirs,
            write_only: self.write_only,
            fsync: self.fsync,
            max_total: self
                .max_upload_total
                .map(|bytes| Total { bytes, is_shared }),
            min_free: self.min_free,
        }
    }

    /// Where uploads go, if not to ROOT.
    pub(super) fn root(&self) -> Option<&Path> {
        self.upload_root.as_deref()
    }

    /// Whether replaced files are kept under other names.
    pub(super) const fn keeps_versions(&self) -> bool {
        self.keep_versions.is_some()
    }

    /// Whether nothing that is uploaded can be read.
    pub(super) const fn is_write_only(&self) -> bool {
        self.write_only
    }

    /// Whether directories may be made.
    pub(super) const fn makes_directories(&self) -> bool {
        self.create_dirs
    }

    /// The options that allow or guard uploads, as they were given.
    pub(super) fn guards(&self) -> impl Iterator<Item = String> {
        let flag = |is_given: bool, name: &str| is_given.then(|| name.to_owned());
        let total = self.max_upload_total.map(Size);
        [
            total.map(|it| format!("--max-upload-total {it}")),
            self.min_free.map(|it| format!("--min-free {it}")),
            flag(self.create_dirs, "--create-dirs"),
            flag(self.write_only, "--write-only"),
            flag(self.fsync, "--fsync"),
        ]
        .into_iter()
        .flatten()
    }
}

fn parse_min_free(text: &str) -> Result<MinFree, &'static str> {
    let expected =
        "expected a number of bytes, one with K, M, G or T after it, such as 500M, or 0% to 100%";
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| *percent <= 100);
        return percent.map(MinFree::Percent).ok_or(expected);
    }
    usage::parse_size(text)
        .map(MinFree::Bytes)
        .map_err(|_| expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_free_is_a_size_or_a_part() {
        for (text, free) in [
            ("0", Some(MinFree::Bytes(0))),
            ("10M", Some(MinFree::Bytes(10 << 20))),
            ("10MiB", Some(MinFree::Bytes(10 << 20))),
            ("10MB", Some(MinFree::Bytes(10_000_000))),
            ("10 M", None),
            ("5%", Some(MinFree::Percent(5))),
            ("100%", Some(MinFree::Percent(100))),
            ("101%", None),
            ("-1%", None),
            ("5.5%", None),
            ("5%%", None),
            ("%", None),
            ("lots", None),
        ] {
            assert_eq!(parse_min_free(text).ok(), free, "{text}");
        }
    }
}
