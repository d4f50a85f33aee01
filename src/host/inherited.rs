//! Sockets bound by the process that started us: a service manager
//! (`sd_listen_fds(3)`), inetd, or a process of ours.
//!
//! Must not: know what comes in on them.

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};

use super::notify::is_meant;

/// What was handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// UDP sockets of either family; if there are none, bind your own.
    pub sockets: Vec<UdpSocket>,
    /// Stream sockets that listen: the status port.
    pub streams: Vec<InheritedStream>,
    /// Whether one of them is standard input; then standard error is no place for a log
    /// either.
    pub by_inetd: bool,
}

/// A listening stream socket.
#[derive(Debug)]
pub enum InheritedStream {
    /// Of either family.
    Tcp(TcpListener),
    /// Of this machine.
    Unix(UnixListener),
}

impl Inherited {
    /// Takes over what the environment and standard input offer, `limit`
    /// sockets at most. To be called once, before descriptors are opened.
    ///
    /// # Errors
    /// One line that says which descriptor or variable can't be used, and what
    /// it should be.
    pub fn take_over(limit: usize) -> Result<Self, String> {
        let mut inherited = from_manager(limit)?;
        let standard_input = from_inetd()?;
        inherited.by_inetd = standard_input.is_some();
        inherited.sockets.extend(standard_input);
        Ok(inherited)
    }

    /// What a process of ours hands over, told apart by the kind of socket.
    pub fn of(descriptors: Vec<OwnedFd>) -> Self {
        let mut inherited = Self::default();
        for socket in descriptors.into_iter().map(Socket::from) {
            match (socket.r#type(), socket.domain()) {
                (Ok(Type::STREAM), Ok(Domain::UNIX)) => {
                    let stream = OwnedFd::from(socket).into();
                    inherited.streams.push(InheritedStream::Unix(stream));
                }
                (Ok(Type::STREAM), _) => {
                    inherited.streams.push(InheritedStream::Tcp(socket.into()));
                }
                _ => inherited.sockets.push(socket.into()),
            }
        }
        inherited
    }
}

fn from_manager(limit: usize) -> Result<Inherited, String> {
    let (Some(count), Some(pid)) = (env::var_os("LISTEN_FDS"), env::var_os("LISTEN_PID")) else {
        return Ok(Inherited::default());
    };
    if !is_meant(Some(pid)) {
        return Ok(Inherited::default());
    }
    let number = count.to_str().and_then(|text| text.parse().ok());
    if !number.is_some_and(|number| (1..=limit).contains(&number)) {
        let count = count.display();
        return Err(format!(
            "LISTEN_FDS={count} is no number of sockets: expected 1 to {limit}"
        ));
    }
    let mut offered = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for index in 0..offered.len() {
        if let Some(stream) = stream(&mut offered, index) {
            inherited.streams.push(stream);
            continue;
        }
        let taken = offered.take_udp_socket(index).map_err(|error| {
            format!("cannot serve on an inherited descriptor: {error}; use ListenDatagram= with an address and a port")
        })?;
        inherited.sockets.extend(taken);
    }
    Ok(inherited)
}

/// The stream socket at this place, if one is there and the status port is built in.
fn stream(offered: &mut ListenFd, index: usize) -> Option<InheritedStream> {
    if !cfg!(feature = "status") {
        return None;
    }
    // A socket of another kind stays where it is.
    let tcp = offered.take_tcp_listener(index).ok().flatten();
    tcp.map(InheritedStream::Tcp).or_else(|| {
        let unix = offered.take_unix_listener(index).ok().flatten();
        unix.map(InheritedStream::Unix)
    })
}

/// Standard input, if it is an internet socket; only UDP will do.
fn from_inetd() -> Result<Option<UdpSocket>, String> {
    // What can't be copied can't be served on either.
    let Ok(copy) = io::stdin().as_fd().try_clone_to_owned() else {
        return Ok(None);
    };
    let socket = Socket::from(copy);
    match (socket.domain(), socket.r#type()) {
        (Ok(Domain::IPV4 | Domain::IPV6), Ok(Type::DGRAM)) => Ok(Some(socket.into())),
        (Ok(Domain::IPV4 | Domain::IPV6), Ok(_)) => Err(
            "cannot serve on standard input: no UDP socket; inetd's line must say dgram udp wait"
                .into(),
        ),
        _ => Ok(None),
    }
}
