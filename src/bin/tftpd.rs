//! `tftpd`: serves files by TFTP. The outline; the rest is in the library.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use tftpd::host::usage::UsageError;
use tftpd::log::last_words;
#[cfg(feature = "status")]
use tftpd::server::cli;
use tftpd::server::cli::{Args, Part};
use tftpd::server::{Server, in_words, supervise, test_map, test_rules, try_out};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(UsageError { text, status: 0 }) => {
            // Ignore a closed stdout.
            let _ = writeln!(io::stdout(), "{text}");
            return ExitCode::SUCCESS;
        }
        Err(UsageError { text, status }) => {
            last_words(&text);
            return ExitCode::from(status);
        }
    };
    #[cfg(feature = "status")]
    if let Some(cli::Command::Status(args)) = &args.command {
        return tftpd::status::command::run(args);
    }
    let done = match (&args.map_test, &args.rules_test) {
        (Some(map_file), _) => test_map(&args, map_file).map(|()| ExitCode::SUCCESS),
        (_, Some(rules)) => test_rules(&args, rules).map(|()| ExitCode::SUCCESS),
        _ if args.part == Part::Trial => try_out(&args).map(|()| ExitCode::SUCCESS),
        _ if cfg!(feature = "workers") && args.workers.is_some() && args.part != Part::Worker => {
            supervise(&args)
        }
        _ => serve(&args),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            last_words(&format!("tftpd: {}", in_words(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    Server::start(args)?.run()?;
    Ok(ExitCode::SUCCESS)
}
