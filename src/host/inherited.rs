//! Sockets that were bound by the process that started us: a service manager
//! (`sd_listen_fds(3)`), or inetd.
//!
//! Must not: know what comes in on them.

use std::env;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};

use super::notify::is_meant;

/// What was handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// UDP sockets of either family; none: bind your own.
    pub sockets: Vec<UdpSocket>,
    /// Whether one of them is standard input, so that standard error, too, is
    /// no place for a log.
    pub by_inetd: bool,
}

impl Inherited {
    /// Takes over what the environment and standard input offer, `limit`
    /// sockets at most. To be called once, before descriptors are opened.
    ///
    /// # Errors
    /// One line that says which descriptor or variable can't be used, and what
    /// it should be.
    pub fn take_over(limit: usize) -> Result<Self, String> {
        let mut sockets = from_manager(limit)?;
        let standard_input = from_inetd()?;
        let by_inetd = standard_input.is_some();
        sockets.extend(standard_input);
        Ok(Self { sockets, by_inetd })
    }
}

fn from_manager(limit: usize) -> Result<Vec<UdpSocket>, String> {
    let (Some(count), Some(pid)) = (env::var_os("LISTEN_FDS"), env::var_os("LISTEN_PID")) else {
        return Ok(Vec::new());
    };
    if !is_meant(Some(pid)) {
        return Ok(Vec::new());
    }
    let number = count.to_str().and_then(|text| text.parse().ok());
    if !number.is_some_and(|number| (1..=limit).contains(&number)) {
        let count = count.display();
        return Err(format!(
            "LISTEN_FDS={count} is no number of sockets: expected 1 to {limit}"
        ));
    }
    let mut offered = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..offered.len() {
        let taken = offered.take_udp_socket(index).map_err(|error| {
            format!("cannot serve on an inherited descriptor: {error}; use ListenDatagram= with an address and a port")
        })?;
        sockets.extend(taken);
    }
    Ok(sockets)
}

/// Standard input, if it is a socket of the internet.
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
