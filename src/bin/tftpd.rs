//! `tftpd`: serves files by TFTP. The plot; the rest is in the library.

use std::error::Error;
use std::process::ExitCode;

use tftpd::server::Server;
use tftpd::server::cli::Args;
use tftpd::usage::Refusal;

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(Refusal { text, status: 0 }) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Refusal { text, status }) => {
            eprintln!("{text}");
            return ExitCode::from(status);
        }
    };
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tftpd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    Ok(Server::start(args)?.run()?)
}
