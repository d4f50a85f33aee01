//! The servers under measurement: where to find each, how it is started, and what it
//! doesn't support.

use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use tftpd::wire::packet::{Direction, Mode, Packet, emit_request};

use crate::clock;
use crate::fleet::Plan;
use crate::process::{Cores, Tree, pin};
use crate::watcher::Watcher;

/// How long a server may take to answer its first request.
const START: Duration = Duration::from_secs(5);

/// Ports below the kernel's ephemeral ports (`ip_local_port_range`).
const OWN_PORTS: Range<u16> = 7000..32_768;

/// The file that is requested to see whether a server is up; empty.
pub(crate) const PROBE: &str = "probe";

/// A server that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Ours,
    /// Ours with `--busy-poll 0`: it never spins.
    OursAsleep,
    /// Another build of ours to compare with.
    Before,
    /// Ours without a status port, to compare with ours whose status is watched.
    Unwatched,
    InTftpd,
    Atftpd,
    Dnsmasq,
    RsTftpd,
    /// The bare loop: little more than receiving and sending.
    Bare,
    /// The bare loop without spinning.
    BareAsleep,
}

impl Contender {
    pub(crate) const ALL: [Self; 10] = [
        Self::Ours,
        Self::OursAsleep,
        Self::Before,
        Self::Unwatched,
        Self::InTftpd,
        Self::Atftpd,
        Self::Dnsmasq,
        Self::RsTftpd,
        Self::Bare,
        Self::BareAsleep,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursAsleep => "ours --busy-poll 0",
            Self::Before => "before",
            Self::Unwatched => "unwatched",
            Self::InTftpd => "in.tftpd",
            Self::Atftpd => "atftpd",
            Self::Dnsmasq => "dnsmasq",
            Self::RsTftpd => "rs-tftpd",
            Self::Bare => "bare loop",
            Self::BareAsleep => "bare loop, no spin",
        }
    }

    pub(crate) const fn is_peer(self) -> bool {
        matches!(
            self,
            Self::InTftpd | Self::Atftpd | Self::Dnsmasq | Self::RsTftpd
        )
    }

    /// Whether it supports what the plan asks for; `version`: its own version text.
    pub(crate) fn can(self, plan: &Plan, version: Option<&str>) -> bool {
        let windows = plan.windowsize.is_some_and(|window| window > 1);
        let uploads = plan.direction == Direction::Write;
        if windows && !self.has_windows(version) {
            return false;
        }
        match self {
            Self::Dnsmasq => !uploads,
            // It retransmits nothing.
            Self::Bare | Self::BareAsleep => plan.loss == 0,
            _ => true,
        }
    }

    /// The release that brought windows, if older ones are around.
    pub(crate) const fn windows_since(self) -> Option<(u32, u32)> {
        match self {
            Self::InTftpd => Some((6, 0)),
            Self::Dnsmasq => Some((2, 93)),
            _ => None,
        }
    }

    /// Whether it supports windows; `version`: its own version text.
    pub(crate) fn has_windows(self, version: Option<&str>) -> bool {
        let since = self.windows_since();
        since.is_none_or(|since| version.and_then(number) >= Some(since))
    }
}

/// The first two numbers of the release in a version text.
fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.rsplit(' ').next()?.split_once('.')?;
    let end = minor.find(|it: char| !it.is_ascii_digit());
    let minor = &minor[..end.unwrap_or(minor.len())];
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) ours: PathBuf,
    /// Another build of ours to compare with, instead of the peers.
    pub(crate) against: Option<PathBuf>,
    /// Whether ours has a status port that is watched, and is compared with ours without
    /// one, instead of the peers.
    pub(crate) watched: bool,
    /// Whether ours with `--busy-poll 0` is measured too, instead of the peers.
    pub(crate) asleep: bool,
    /// Where `scripts/peers` has installed the others.
    pub(crate) peers: PathBuf,
}

impl Programs {
    /// Whether it takes part: builds of ours are compared without the peers.
    pub(crate) fn is_wanted(&self, contender: Contender) -> bool {
        match contender {
            Contender::Ours => true,
            Contender::Before => self.against.is_some(),
            Contender::Unwatched => self.watched,
            Contender::OursAsleep => self.asleep || self.are_peers_wanted(),
            _ => self.are_peers_wanted(),
        }
    }

    fn are_peers_wanted(&self) -> bool {
        self.against.is_none() && !self.asleep && !self.watched
    }

    /// The program behind a contender, if it is on this machine.
    pub(crate) fn find(&self, contender: Contender) -> Option<PathBuf> {
        if !self.is_wanted(contender) {
            return None;
        }
        let candidate = match contender {
            Contender::Ours | Contender::Unwatched => self.ours.clone(),
            Contender::Before => self.against.clone()?,
            Contender::OursAsleep => {
                let help = output(&self.ours, "--help");
                return help.contains("--busy-poll").then(|| self.ours.clone());
            }
            Contender::Bare | Contender::BareAsleep => env::current_exe().ok()?,
            Contender::InTftpd | Contender::Atftpd | Contender::Dnsmasq | Contender::RsTftpd => {
                self.peers.join(contender.name())
            }
        };
        candidate.is_file().then_some(candidate)
    }

    /// The program's own version text, in a few words.
    pub(crate) fn version(&self, contender: Contender) -> Option<String> {
        let program = self.find(contender)?;
        if matches!(contender, Contender::Bare | Contender::BareAsleep) {
            return None;
        }
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next()?.split(['(', ',']).next()?.trim();
        Some(line.split(" Copyright").next()?.trim().to_owned())
    }

    fn command(&self, contender: Contender, address: SocketAddr, root: &Path) -> Option<Command> {
        let program = self.find(contender)?;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let address = address.to_string();
        let user = User::from_uid(geteuid())
            .ok()
            .flatten()
            .map(|user| user.name);
        let user = user.unwrap_or_else(|| "root".into());
        let mut command = Command::new(program);
        match contender {
            Contender::Ours | Contender::Before | Contender::Unwatched => {
                command.args(["-a", &address]).arg(root)
            }
            Contender::OursAsleep => command.args(["-a", &address, "--busy-poll", "0"]).arg(root),
            Contender::InTftpd => command
                .args(["--foreground", "--secure", "--create", "--user", &user])
                .args(["--address", &address])
                .arg(root),
            Contender::Atftpd => command
                .args(["--daemon", "--no-fork", "--maxthread", "10000"])
                .args(["--user", &user, "--bind-address", &ip, "--port", &port])
                .arg(root),
            Contender::Dnsmasq => command
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--pid-file=",
                ])
                .args(["--port=0", "--bind-interfaces", "--log-facility=-"])
                .args(["--enable-tftp", "--tftp-max=20000"])
                .arg(format!("--listen-address={ip}"))
                .arg(format!("--user={user}"))
                .arg(format!("--tftp-root={}", root.display())),
            Contender::RsTftpd => command.args(["-i", &ip, "-p", &port, "-d"]).arg(root),
            Contender::Bare => command.args(["bare", &address]).arg(root),
            Contender::BareAsleep => command.args(["bare", "--asleep", &address]).arg(root),
        };
        Some(command)
    }
}

/// The same command, with 1,024 descriptors.
fn with_few_descriptors(command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=1024:1024").arg(command.get_program());
    limited.args(command.get_args());
    limited
}

fn output(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// Which ports and descriptors a server has for its transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slots {
    Plenty,
    /// One port, and as few descriptors as in many containers.
    SinglePort,
}

/// A running server on its own core; dropping this kills it and all its children.
#[derive(Debug)]
pub(crate) struct Server {
    contender: Contender,
    child: Child,
    pub(crate) address: SocketAddr,
    watcher: Option<Watcher>,
}

impl Server {
    /// Starts a server, with a root and a log, and waits until it answers.
    pub(crate) fn start(
        programs: &Programs,
        contender: Contender,
        (root, log): (&Path, &Path),
        slots: Slots,
        cores: Cores,
    ) -> io::Result<Self> {
        let port = match contender {
            // dnsmasq has no option for the TFTP port.
            Contender::Dnsmasq => 69,
            _ => free_port()?,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = programs
            .command(contender, address, root)
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "not on this machine"))?;
        if slots == Slots::SinglePort {
            command = with_few_descriptors(&command);
            // A client that waits for its turn must not be taken for a loss.
            command.args(["--single-port", "--timeout", "10000"]);
        }
        let status = (programs.watched && contender == Contender::Ours).then(free_port);
        let status = status
            .transpose()?
            .map(|it| SocketAddr::from((Ipv4Addr::LOCALHOST, it)));
        if let Some(status) = status {
            command.args(["--status", &status.to_string()]);
        }
        let file = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        pin(cores.server)?;
        let child = command.spawn();
        pin(cores.load)?;
        let mut server = Self {
            contender,
            child: child?,
            address,
            watcher: None,
        };
        server.wait_until_ready().map_err(|error| {
            let text = fs::read_to_string(log).unwrap_or_default();
            let line = text.lines().last().unwrap_or_default();
            io::Error::new(error.kind(), format!("{error} {line}"))
        })?;
        server.watcher = status.map(Watcher::start);
        Ok(server)
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree(self.child.id())
    }

    /// Whether its CPU time can be measured: in.tftpd doesn't wait for its children, so
    /// the time of those that have ended is lost.
    pub(crate) fn accounts_for(&self, plan: &Plan) -> bool {
        self.contender != Contender::InTftpd || plan.transfers == 1
    }

    pub(crate) fn has_died(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let mut request = [0; 64];
        let options: [(&str, &str); 0] = [];
        let name = PROBE.as_bytes();
        let len = emit_request(Direction::Read, name, Mode::Octet, options, &mut request)
            .map_err(io::Error::other)?;
        let deadline = clock() + START;
        while clock() < deadline {
            if self.has_died() {
                return Err(io::Error::other("it has ended:"));
            }
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            socket.send_to(&request[..len], self.address)?;
            let mut answer = [0; 516];
            let Ok((len, peer)) = socket.recv_from(&mut answer) else {
                continue;
            };
            return match Packet::parse(&answer[..len]) {
                Ok(Packet::Data { block, .. }) => {
                    let ack = tftpd::wire::packet::emit_ack(block);
                    socket.send_to(&ack, peer).map(drop)
                }
                other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
            };
        }
        Err(io::Error::new(ErrorKind::TimedOut, "no answer"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.watcher = None;
        self.tree().kill();
        // It has been killed, so this takes no time.
        let _ = self.child.wait();
    }
}

/// A port below the kernel's ephemeral range, so that no client's socket can take it
/// before the server is up.
fn free_port() -> io::Result<u16> {
    let free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = OWN_PORTS.into_iter().find(free);
    port.ok_or_else(|| io::Error::new(ErrorKind::AddrInUse, "no port is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_came_with_a_release() {
        for (server, version, expected) in [
            (Contender::Dnsmasq, "Dnsmasq version 2.90", false),
            (Contender::Dnsmasq, "Dnsmasq version 2.92rc1", false),
            (Contender::Dnsmasq, "Dnsmasq version 2.93", true),
            (Contender::Dnsmasq, "Dnsmasq version 2.93test2", true),
            (Contender::Dnsmasq, "Dnsmasq version 2.101", true),
            (Contender::Dnsmasq, "Dnsmasq version 3.0", true),
            (Contender::Dnsmasq, "", false),
            (Contender::InTftpd, "tftp-hpa 5.2", false),
            (Contender::InTftpd, "tftp-hpa 5.3+20251209", false),
            (Contender::InTftpd, "tftp-hpa 7.3", true),
            (Contender::Atftpd, "atftp-0.8.0", true),
        ] {
            let has = server.has_windows(Some(version));
            assert_eq!(has, expected, "{version}");
        }
        assert!(!Contender::InTftpd.has_windows(None));
    }
}
