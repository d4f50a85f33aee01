//! Starts the log as the command line says.
//!
//! Must not: write a line.

use std::io;
use std::path::Path;

use log::LevelFilter;
use nix::libc::ELOOP;

use super::cli::Args;
use crate::file::with_remedy;
use crate::log::LogFile;
use crate::log::syslog::DEV_LOG;

/// Starts the log; returns the log file, if there is one. Under inetd standard
/// error is no place for a log: a client would get it.
///
/// # Errors
/// One line, when the log file can't be opened or nobody reads the syslog.
pub(super) fn start(args: &Args, by_inetd: bool) -> Result<Option<LogFile>, String> {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Info,
        (false, 1) => LevelFilter::Debug,
        (false, _) => LevelFilter::Trace,
    };
    // With several processes, each line says which one wrote it.
    let process = args.workers.map(|_| std::process::id());
    match (&args.log_file, &args.syslog) {
        (Some(path), _) => {
            let file = crate::log::to_file(path, args.log_format, level, process);
            return file.map(Some).map_err(|error| cannot_open(path, &error));
        }
        (None, Some(path)) => {
            crate::log::to_syslog(path, level).map_err(|error| cannot_reach(path, &error))?;
        }
        (None, None) if by_inetd => {
            // Without a syslog nothing is logged.
            let _ = crate::log::to_syslog(Path::new(DEV_LOG), level);
        }
        (None, None) => crate::log::to_standard_error(args.log_format, level, process),
    }
    Ok(None)
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    if error.raw_os_error() == Some(ELOOP) {
        return format!(
            "cannot open the log file {path}: it is a link, and users other than root can write to \
             its directory; remove it, or name the file itself with --log-file"
        );
    }
    let told = with_remedy(error, "name a writable one with --log-file");
    format!("cannot open the log file {path}: {told}")
}

fn cannot_reach(path: &Path, error: &io::Error) -> String {
    let remedy = "start it, or name its socket: --syslog=SOCKET";
    let (path, told) = (path.display(), with_remedy(error, remedy));
    format!("cannot reach the syslog at {path}: {told}")
}
