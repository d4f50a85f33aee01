//! `tftpd status`: asks a server's status port, and shows the answer: as a table that is
//! kept up to date on a terminal, or as lines for a pipe.
//!
//! Must not: trust the server with the terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::address::StatusAddress;
use super::table;
use super::value::Value;
use crate::file::reason;
use crate::host::clock;
use crate::log::last_words;

/// Show what a server is doing, until Ctrl-C; once, a line each, into a pipe
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print the server's /status.json
    #[arg(long)]
    json: bool,

    /// The server's --status: ADDR:PORT, a port of this machine, or a socket's path; or
    /// the URL that its log names [default: 127.0.0.1:8069]
    #[arg(value_name = "[ADDR:]PORT|SOCKET", value_parser = str::parse::<StatusAddress>)]
    address: Option<StatusAddress>,
}

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a whole answer may take: longer than a server gives its reader.
const WHOLE: Duration = Duration::from_secs(60);

/// The time from one answer to the next request.
const SECOND: Duration = Duration::from_secs(1);

/// The longest answer that is read, in bytes: some 200,000 sessions.
const MOST: u64 = 64 << 20;

/// Runs the command; the exit status is 1 if the server can't be reached, or the output
/// can't be written.
pub fn run(args: &StatusArgs) -> ExitCode {
    let address = args.address.clone().unwrap_or_default();
    match show(args, &address) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has gone has read enough.
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Trouble::Output(error)) => {
            last_words(&format!("tftpd status: cannot write: {}", reason(&error)));
            ExitCode::FAILURE
        }
        Err(Trouble::Server(said)) => {
            last_words(&format!("tftpd status: no status from {address}: {said}"));
            ExitCode::FAILURE
        }
    }
}

enum Trouble {
    Server(String),
    Output(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn show(args: &StatusArgs, address: &StatusAddress) -> Result<(), Trouble> {
    let mut out = io::stdout();
    let is_live = !args.json && out.is_terminal();
    loop {
        let text = ask(address).map_err(Trouble::Server)?;
        let status = read(&text).map_err(Trouble::Server)?;
        if args.json {
            out.write_all(text.as_bytes())?;
            return Ok(());
        }
        if !is_live {
            out.write_all(table::lines(&status).as_bytes())?;
            return Ok(());
        }
        let (rows, columns) = terminal_size();
        let table = table::table(&status, rows, columns);
        // Drawn from the top over the old one: clears each line's rest, and all below.
        let mut screen = String::from("\x1b[H");
        for line in table.lines() {
            let _ = write!(screen, "{line}\x1b[K\r\n");
        }
        screen.push_str("\x1b[J");
        out.write_all(screen.as_bytes())?;
        out.flush()?;
        pause();
    }
}

/// Parses the server's answer.
fn read(text: &str) -> Result<Value, String> {
    let problem = if text.starts_with("{\"version\":") {
        "the answer was cut off"
    } else {
        "the server there is not tftpd"
    };
    Value::parse(text).ok_or_else(|| problem.to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command that has nothing else to do"
)]
fn pause() {
    std::thread::sleep(SECOND);
}

/// Rows and columns of the terminal, from `stty`.
fn terminal_size() -> (usize, usize) {
    let mut stty = Command::new("stty");
    let told = stty
        .arg("size")
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .output();
    let told = told
        .map(|it| String::from_utf8_lossy(&it.stdout).into_owned())
        .unwrap_or_default();
    let mut numbers = told.split_whitespace().map_while(|it| it.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(rows), Some(columns)) if rows > 0 && columns > 0 => (rows, columns),
        _ => (24, 80),
    }
}

/// The server's `/status.json`.
fn ask(address: &StatusAddress) -> Result<String, String> {
    let said = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            format!(
                "{}; is tftpd running with --status {address}?",
                reason(&error)
            )
        }
        _ => reason(&error),
    };
    match address {
        StatusAddress::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(said)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
            exchange(stream, "localhost")
        }
        StatusAddress::Tcp(host, port) => {
            let mut refusal = io::ErrorKind::NotFound.into();
            for address in (&**host, *port).to_socket_addrs().map_err(said)? {
                match TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
                        return exchange(stream, &literal(address));
                    }
                    Err(error) => refusal = error,
                }
            }
            Err(said(refusal))
        }
    }
}

/// An address as a `Host`: the server takes any address, but may not know a name.
fn literal(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V6(ip) => format!("[{ip}]:{}", address.port()),
        IpAddr::V4(_) => address.to_string(),
    }
}

/// Reads to the end, or [`MOST`] bytes; fails after `deadline`. Each read has a timeout of
/// its own.
fn read_within(stream: impl Read, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = stream.take(MOST);
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(bytes) => answer.extend(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if clock::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

const NO_HTTP: &str = "the server there speaks no HTTP";

fn exchange(mut stream: impl Read + Write, host: &str) -> Result<String, String> {
    let said = |error: io::Error| reason(&error);
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(said)?;
    let answer = read_within(stream, clock::now() + WHOLE).map_err(said)?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(NO_HTTP.into());
    };
    // A status code has three digits (RFC 9112 §4). Anything else must not reach the
    // terminal.
    let is_code = |it: &&str| it.len() == 3 && it.bytes().all(|it| it.is_ascii_digit());
    match head.split(' ').nth(1).filter(is_code) {
        Some("200") => Ok(body.to_owned()),
        Some(code) => Err(format!("HTTP status {code}")),
        None => Err(NO_HTTP.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_answer_is_told_from_another_servers() {
        let whole = r#"{"version":"1","sessions":[{"id":"1"}]}"#;
        assert!(read(whole).is_ok());
        for end in [13, whole.len() - 3, whole.len() - 2, whole.len() - 1] {
            assert_eq!(read(&whole[..end]), Err("the answer was cut off".into()));
        }
        let other = Err("the server there is not tftpd".into());
        for text in ["", "<html>", "{\"versio"] {
            assert_eq!(read(text), other, "{text}");
        }
    }

    /// Answers a request with these bytes.
    struct Answer(&'static [u8]);

    impl Read for Answer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Answer {
        fn write(&mut self, request: &[u8]) -> io::Result<usize> {
            Ok(request.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_server_says_in_place_of_a_status_reaches_no_terminal() {
        let no_http = || Err("the server there speaks no HTTP".to_owned());
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n{}"[..], Ok("{}".to_owned())),
            (
                b"HTTP/1.1 404 Not Found\r\n\r\n",
                Err("HTTP status 404".to_owned()),
            ),
            (b"HTTP/1.1 \x1bc! x\r\n\r\n", no_http()),
            (b"HTTP/1.1 40\x07 x\r\n\r\n", no_http()),
            (b"HTTP/1.1 \xc2\x9b2 x\r\n\r\n", no_http()),
            (b"HTTP/1.1 4040404040 x\r\n\r\n", no_http()),
            (b"HTTP/1.1  x\r\n\r\n", no_http()),
            (b"HTTP/1.1\r\n\r\n", no_http()),
            (b"\x1bc", no_http()),
        ] {
            let said = exchange(Answer(answer), "localhost");
            assert_eq!(said, expected, "{}", answer.escape_ascii());
        }
        for body in ["{\"version\":\"\x1b]0;x\x07\"}", "{\"version\":\x1b[2J1}"] {
            let said = read(body).expect_err("no JSON");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn a_server_that_drips_is_given_up() {
        let now = clock::now();
        let drips = io::repeat(b'x');
        let left = read_within(drips, now).map_err(|it| it.kind());
        assert_eq!(left, Err(io::ErrorKind::TimedOut));
        let answer = read_within(&b"whole"[..], now + WHOLE).unwrap();
        assert_eq!(answer, b"whole");
    }
}
