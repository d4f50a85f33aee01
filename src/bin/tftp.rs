//! `tftp`: gets and puts files by TFTP. The outline; the rest is in the library.

use std::io::{self, Write};
use std::process::ExitCode;

use tftpd::client;
use tftpd::client::cli::Args;
use tftpd::host::usage::UsageError;

fn main() -> ExitCode {
    let status = match Args::read(std::env::args_os()) {
        Ok(args) => client::run(args).code(),
        Err(UsageError { text, status: 0 }) => {
            // Ignore a closed stdout.
            let _ = writeln!(io::stdout(), "{text}");
            0
        }
        Err(UsageError { text, status }) => {
            let _ = writeln!(io::stderr(), "{text}");
            status
        }
    };
    ExitCode::from(status)
}
