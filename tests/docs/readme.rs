//! Runs the README's commands as they are written: the blocks marked `sh run`. A block
//! whose last line is `tftpd` starts a server, which runs until the next one; the other
//! blocks are its clients.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::{bounded, require, said, tftpd};

/// The ports that the README uses.
const PORT: &str = "6969";
const STATUS_PORT: &str = "8069";

/// The blocks to be run.
pub(crate) fn blocks(readme: &str) -> Vec<&str> {
    let behind = readme.split("\n```sh run\n").skip(1);
    behind.filter_map(|it| it.split("\n```").next()).collect()
}

/// `shell` with the script, whose paths are moved into this directory, and with our
/// programs in `PATH`.
fn prepared(mut shell: Command, directory: &Path, script: &str) -> Command {
    let programs = Path::new(tftpd()).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let script = script
        .replace("/tmp/", &format!("{}/", directory.join("out").display()))
        .replace("/srv/tftp", &directory.join("srv").display().to_string());
    shell
        .args(["-euc", &script])
        .env("PATH", format!("{}:{path}", programs.display()))
        .current_dir(directory);
    shell
}

/// A server of the README on a free port.
struct Server {
    child: Child,
    port: String,
    /// Kept open while the server runs; the log fits into the pipe.
    _log: BufReader<ChildStderr>,
}

impl Server {
    fn start(directory: &Path, block: &str) -> Self {
        let script = block
            .replace(PORT, "0")
            .replace(STATUS_PORT, "0")
            .replace("tftpd -p", "exec tftpd -p");
        // Not with timeout(1), which loses its child if it is stopped before it has
        // returned from fork.
        let mut child = prepared(Command::new("sh"), directory, &script)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh(1)");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut told = String::new();
        let port = loop {
            let start = told.len();
            let read = log.read_line(&mut told).expect("text");
            assert!(read > 0, "{block}: {told}");
            if let Some((_, behind)) = told[start..].split_once("listening on 0.0.0.0:") {
                let digits = behind.split(|it: char| !it.is_ascii_digit()).next();
                break digits.expect("a port").to_owned();
            }
        };
        Self {
            child,
            port,
            _log: log,
        }
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        let status = self.child.wait().expect("it was started");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the README's commands in `directory`; returns how many blocks there were.
pub(crate) fn run(readme: &str, directory: &Path) -> usize {
    for folder in ["srv", "out"] {
        fs::create_dir(directory.join(folder)).expect("a directory");
    }
    for file in ["pxelinux.0", "motd", "running-config"] {
        fs::write(directory.join(file), file.repeat(1000)).expect("a file");
    }
    let mut server: Option<Server> = None;
    let blocks = blocks(readme);
    for block in &blocks {
        let last = block.lines().last().unwrap_or_default();
        if last.starts_with("tftpd ") {
            if let Some(running) = server.take() {
                running.stop();
            }
            server = Some(Server::start(directory, block));
            continue;
        }
        let port = &server.as_ref().expect("a server before its client").port;
        let is_here = |line: &&str| !line.starts_with("curl ") || require("curl").is_some();
        let script: Vec<_> = block.lines().filter(is_here).collect();
        let script = script.join("\n").replace(PORT, port);
        let output = prepared(bounded(60, "sh"), directory, &script)
            .output()
            .expect("sh(1)");
        assert!(output.status.success(), "{script}\n{}", said(&output));
    }
    if let Some(running) = server {
        running.stop();
    }
    blocks.len()
}
