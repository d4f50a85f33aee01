//! A viewer of the status page: requests it once, and `/status.json` a second after each
//! answer, as the page does. Each request has a connection of its own, since the server
//! closes it. Draws nothing: a browser's work is no cost of the server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The interval of the page's requests.
const SECOND: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher(Arc<AtomicBool>);

impl Watcher {
    /// Watches the server whose status port is at `status`.
    #[expect(
        clippy::disallowed_methods,
        reason = "a browser of its own, beside the load"
    )]
    pub(crate) fn start(status: SocketAddr) -> Self {
        let watching = Arc::new(AtomicBool::new(true));
        let keeps_on = Arc::clone(&watching);
        thread::spawn(move || {
            let mut path = "/";
            while keeps_on.load(Ordering::Relaxed) {
                if let Err(error) = get(status, path)
                    && keeps_on.load(Ordering::Relaxed)
                {
                    eprintln!("load: no status from {status}: {error}");
                }
                if path == "/status.json" {
                    thread::sleep(SECOND);
                }
                path = "/status.json";
            }
        });
        Self(watching)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn get(status: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(status)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {status}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other("not 200"))
    }
}
