//! The sockets that requests come in on, bound as the command line says or inherited.
//!
//! Each thing that can go wrong ends in one line that names the value and the remedy.
//! Must not: receive.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::rc::Rc;

use log::{info, warn};
use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
use nix::net::if_::if_nametoindex;

use super::MAX_LISTENERS;
use super::address::{ListenTarget, no_interface};
use super::cli::{Args, Part};
use crate::file::{reason, with_remedy};
use crate::net::{Binding, ListenSocket, TransferSocket};
use crate::policy::rules::file::RulesFile;

/// How many other ports the kernel is asked for until one is free for both IPv4 and
/// IPv6.
const SHARED_PORT_TRIES: usize = 16;

/// The sockets that requests come in on: inherited, or our own.
pub(super) fn listeners(
    args: &Args,
    inherited: Vec<UdpSocket>,
    rules: Option<&RulesFile>,
) -> Result<Rc<[ListenSocket]>, String> {
    if let Some(name) = &args.interface
        && if_nametoindex(name.as_str()).is_err()
    {
        return Err(no_interface(name));
    }
    let listeners = if inherited.is_empty() {
        listen(args)?
    } else {
        adopt(args, inherited)?
    };
    let device: Option<Rc<str>> = args.interface.as_deref().map(Into::into);
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|it| it.with_transfers_on(device.as_ref()))
        .collect();
    has_ports_for_transfers(args, &listeners)?;
    if args.single_port || rules.is_some_and(RulesFile::has_single_port) {
        // This takes a right that is about to be given up.
        listeners.iter().for_each(ListenSocket::prepare_sharing);
    }
    Ok(listeners.into())
}

/// Checks that the range has a port for each process, beside those that are listened on.
fn has_ports_for_transfers(args: &Args, listeners: &[ListenSocket]) -> Result<(), String> {
    let Some(range) = &args.port_range else {
        return Ok(());
    };
    let (low, high) = (range.start(), range.end());
    let processes = args.workers.map_or(1, usize::from);
    for listener in listeners.iter().map(ListenSocket::address) {
        let is_taken = |port: u16| {
            listeners.iter().map(ListenSocket::address).any(|it| {
                let is_there = it.ip() == listener.ip() || it.ip().is_unspecified();
                it.port() == port && it.is_ipv4() == listener.is_ipv4() && is_there
            })
        };
        let free = range.clone().filter(|&port| !is_taken(port));
        match free.take(processes).count() {
            0 => {
                return Err(format!(
                    "--port-range {low}:{high} has no port for transfers, since requests come in \
                     there; choose other ports, or use --single-port in its place"
                ));
            }
            few if few < processes => {
                return Err(format!(
                    "--port-range {low}:{high} has too few ports for transfers: {few} for \
                     {processes} workers; give it more, or start fewer workers"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A set of sockets for each of `count` processes: inherited, or our own. The kernel
/// spreads the clients of an address among its sockets by their address and port,
/// always in the same way as long as all of them are open.
pub(super) fn sets(
    args: &Args,
    inherited: Vec<UdpSocket>,
    count: usize,
) -> Result<Vec<Vec<ListenSocket>>, String> {
    let mut sets: Vec<Vec<_>> = Vec::with_capacity(count);
    if inherited.is_empty() {
        sets.push(listen(args)?);
        while let (Some(first), true) = (sets.first(), sets.len() < count) {
            let twin = |it: &ListenSocket| {
                let twin = it.twin();
                twin.map_err(|error| cannot_listen(it.address(), &error))
            };
            let twins = first.iter().map(twin).collect::<Result<_, _>>()?;
            sets.push(twins);
        }
        return Ok(sets);
    }
    sets.resize_with(count, Vec::new);
    for socket in adopt(args, inherited)? {
        let lacks =
            |set: &&mut Vec<ListenSocket>| set.iter().all(|it| it.address() != socket.address());
        match sets.iter_mut().find(lacks) {
            Some(set) => set.push(socket),
            None => return Err(uneven(count)),
        }
    }
    if sets.iter().any(|set| set.len() != sets[0].len()) {
        return Err(uneven(count));
    }
    Ok(sets)
}

fn uneven(count: usize) -> String {
    format!(
        "cannot share inherited sockets out among {count} processes: they need {count} of each \
         address (ReusePort=yes); use --workers 1, or none of systemd's sockets"
    )
}

/// Checks that transfers can be bound to the interface with the rights that are left.
pub(super) fn may_bind_transfers(args: &Args, listeners: &[ListenSocket]) -> Result<(), String> {
    let Some(device) = args.interface.as_deref().filter(|_| !args.single_port) else {
        return Ok(());
    };
    let local = listeners.first().map(|it| it.address().ip());
    let local = local.map_or(Ipv4Addr::UNSPECIFIED.into(), |it| match it {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    });
    match TransferSocket::bind_on(Some(device), local, 0, None, 0) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "cannot bind transfers to {device}: {}; that takes Linux 5.7, or --single-port",
            reason(&error)
        )),
        _ => Ok(()),
    }
}

/// Listens on inherited sockets, whatever -a and -p say.
fn adopt(args: &Args, sockets: Vec<UdpSocket>) -> Result<Vec<ListenSocket>, String> {
    let adopt = |socket| {
        let listener = ListenSocket::inherit(socket)?;
        // A supervisor's sockets are bound already.
        if let Some(device) = args.interface.as_ref().filter(|_| args.part == Part::First) {
            listener.bind_device(device)?;
        }
        Ok(listener)
    };
    let adopted: io::Result<_> = sockets.into_iter().map(adopt).collect();
    adopted.map_err(|error| {
        let remedy = "use ListenDatagram= with an address and a port";
        let told = with_remedy(&error, remedy);
        format!("cannot listen on an inherited socket: {told}")
    })
}

fn listen(args: &Args) -> Result<Vec<ListenSocket>, String> {
    let targets = args.listen_targets()?;
    if targets.is_empty() {
        return Err(
            "cannot listen: -a names no address of the family that -4 or -6 asks for; leave out -4 \
             or -6, or change -a"
                .into(),
        );
    }
    if targets.len() > MAX_LISTENERS {
        let count = targets.len();
        return Err(format!(
            "{count} addresses are too many to listen on; give at most {MAX_LISTENERS} with -a"
        ));
    }
    let mut tries = SHARED_PORT_TRIES;
    loop {
        match bind_all(&targets, args) {
            // The port that was free for the first address is taken on another.
            Err((address, error))
                if error.kind() == ErrorKind::AddrInUse
                    && args.port == 0
                    && address.port() != 0
                    && tries > 0 =>
            {
                tries -= 1;
            }
            Err((address, error)) => return Err(cannot_listen(address, &error)),
            Ok(listeners) => return Ok(listeners),
        }
    }
}

/// Binds every address; those without a port all get the one that the kernel
/// chose for the first.
fn bind_all(
    targets: &[ListenTarget],
    args: &Args,
) -> Result<Vec<ListenSocket>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<ListenSocket> = Vec::with_capacity(targets.len());
    let mut lacking = None;
    for target in targets {
        let mut address = target.address;
        if let (0, Some(first)) = (address.port(), listeners.first()) {
            address.set_port(first.address().port());
        }
        match bind(address, target, args) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_optional(target, args) && lacks_family(&error) => {
                lacking = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match lacking {
        Some(lacking) if listeners.is_empty() => Err(lacking),
        Some(_) => {
            info!("this machine has no IPv6: listening on IPv4 alone");
            Ok(listeners)
        }
        None => Ok(listeners),
    }
}

/// Nobody asked for IPv6 in particular.
fn is_optional(target: &ListenTarget, args: &Args) -> bool {
    target.address.is_ipv6() && !target.is_literal && !args.ipv6
}

/// Binds to an address; if the user wrote it, this machine needn't have it yet.
fn bind(address: SocketAddr, target: &ListenTarget, args: &Args) -> io::Result<ListenSocket> {
    let mut binding = Binding {
        reuse_port: args.reuse_port,
        ahead: false,
        device: target.device.as_deref().or(args.interface.as_deref()),
    };
    match ListenSocket::bind(address, binding) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable && target.is_literal => {
            binding.ahead = true;
            let listener = ListenSocket::bind(address, binding)?;
            let ip = address.ip();
            warn!("{ip} is not an address of this machine yet: it will be served once it is");
            Ok(listener)
        }
        bound => bound,
    }
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let lacks_scope = |it: SocketAddrV6| it.ip().is_unicast_link_local() && it.scope_id() == 0;
    let remedy = match (error.kind(), address) {
        (ErrorKind::PermissionDenied, _) if address.port() > 1023 => {
            "start as root, or leave out the interface and choose another port with -p"
        }
        (ErrorKind::PermissionDenied, _) => {
            "use -p with a port above 1023, or grant CAP_NET_BIND_SERVICE"
        }
        (ErrorKind::AddrInUse, _) => "stop the server that has it, or choose another port with -p",
        (_, SocketAddr::V6(it)) if lacks_scope(it) => {
            "name its interface with -a, as in fe80::1%eth0"
        }
        _ if lacks_family(error) => "name an address of this machine with -a",
        _ => "name another address with -a",
    };
    format!("cannot listen on {address}: {}", with_remedy(error, remedy))
}
