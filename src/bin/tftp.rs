//! `tftp`: gets and puts files by TFTP. The plot; the rest is in the library.

use std::process::ExitCode;

use tftpd::client;
use tftpd::client::cli::Args;
use tftpd::usage::Refusal;

fn main() -> ExitCode {
    let status = match Args::read(std::env::args_os()) {
        Ok(args) => client::run(args).code(),
        Err(Refusal { text, status: 0 }) => {
            println!("{text}");
            0
        }
        Err(Refusal { text, status }) => {
            eprintln!("{text}");
            status
        }
    };
    ExitCode::from(status)
}
