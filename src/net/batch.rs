//! The system calls on sockets that no safe wrapper offers as we need them: several
//! datagrams with one call and the address each was sent to, sending from one of our
//! addresses, receiving descriptors, a socket's figures and one option.
//!
//! One of two modules with `unsafe`: `sendmsg` reads and `recvmmsg` fills headers that
//! hold raw pointers to buffers, and no safe wrapper lets them be used again without
//! allocating (nix's keeps the lengths that the previous call left behind, which cuts the
//! control data of the next). Every pointer handed to the kernel points into a vector
//! that lives as long as the batch and is never resized. Must not: know what is in a
//! datagram.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use nix::libc;

/// Room for both packet infos, or the larger of them and a segment size, in
/// 8-byte words so that the kernel finds them aligned: `cmsghdr` 16 bytes,
/// `in6_pktinfo` 20, `in_pktinfo` 12, the size 2.
const CONTROL_WORDS: usize = 10;

/// One received datagram, borrowed from the batch.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The address it was sent to; `None` if the socket doesn't ask for packet
    /// information.
    pub destination: Option<Destination>,
    /// The kernel's number for the interface it came in by; `None` as above.
    pub interface: Option<u32>,
    /// Its payload; what was longer than the slot is cut.
    pub payload: &'a [u8],
    /// Bytes of each datagram, but the last, of several that came as one
    /// (`UDP_GRO`); `None`: it is a single one.
    pub segment: Option<u16>,
}

impl<'a> Received<'a> {
    /// Its payload, cut to at most `len` bytes.
    pub fn head(&self, len: usize) -> &'a [u8] {
        &self.payload[..self.payload.len().min(len)]
    }
}

/// Where a datagram was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// One of our addresses: answers leave from it.
    Local(IpAddr),
    /// A broadcast or multicast address; for IPv4 with our own address on the interface
    /// that it came in on, where that is known.
    Group(Option<IpAddr>),
}

/// Buffers for receiving many datagrams at once, allocated once.
#[derive(Debug)]
pub struct Batch {
    buffer: Box<[u8]>,
    slot_len: usize,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    control: Box<[[u64; CONTROL_WORDS]]>,
}

impl Batch {
    /// Room for `slots` datagrams that take `bytes` altogether.
    pub fn new(slots: usize, bytes: usize) -> Self {
        // SAFETY: all-zero is a valid value of these C structs: null pointers
        // with zero lengths.
        let (header, vector, name) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            buffer: vec![0; bytes].into_boxed_slice(),
            slot_len: 0,
            headers: vec![header; slots].into_boxed_slice(),
            vectors: vec![vector; slots].into_boxed_slice(),
            names: vec![name; slots].into_boxed_slice(),
            control: vec![[0; CONTROL_WORDS]; slots].into_boxed_slice(),
        }
    }

    /// Receives what is there, without waiting: as many datagrams as there are
    /// slots of `slot_len` bytes, but at most `limit`.
    ///
    /// Fewer than [`Batch::capacity`] means that the socket was empty when the
    /// call returned, so that the next datagram raises a new event.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; others of `recvmmsg`, a pending ICMP error
    /// included.
    pub fn receive(
        &mut self,
        socket: &impl AsFd,
        slot_len: usize,
        limit: usize,
    ) -> io::Result<usize> {
        let count = self.capacity(slot_len, limit);
        self.slot_len = slot_len;
        let slots = self.buffer.chunks_exact_mut(slot_len);
        for (index, slot) in slots.take(count).enumerate() {
            self.vectors[index] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot_len,
            };
            let header = &mut self.headers[index];
            header.msg_len = 0;
            header.msg_hdr.msg_name = ptr::from_mut(&mut self.names[index]).cast();
            header.msg_hdr.msg_namelen =
                mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = ptr::from_mut(&mut self.vectors[index]);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.control[index].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = mem::size_of_val(&self.control[index]) as _;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the first `count` headers were just filled with pointers into
        // our own vectors, whose lengths stand beside them; `count` is at most
        // `headers.len()`.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// How many datagrams one call can receive at most.
    pub fn capacity(&self, slot_len: usize, limit: usize) -> usize {
        (self.buffer.len() / slot_len.max(1))
            .min(self.headers.len())
            .min(limit)
    }

    /// Puts a datagram into slot `index` of `slot_len` bytes, as a call that
    /// received it would: for ports without a kernel below. All slots of one call
    /// are of one length.
    pub fn put(&mut self, index: usize, slot_len: usize, datagram: &Received<'_>) {
        self.slot_len = slot_len;
        let len = datagram.payload.len().min(slot_len);
        self.buffer[index * slot_len..][..len].copy_from_slice(&datagram.payload[..len]);
        self.headers[index].msg_len = len as u32;
        let name = socket2::SockAddr::from(datagram.peer);
        // SAFETY: an address is no longer than `sockaddr_storage`, which has room
        // for any.
        unsafe {
            ptr::copy_nonoverlapping(
                name.as_ptr().cast::<u8>(),
                ptr::from_mut(&mut self.names[index]).cast::<u8>(),
                name.len() as usize,
            );
        }
        let control = &mut self.control[index];
        let interface = datagram.interface.unwrap_or(0);
        let mut used = datagram.destination.map_or(0, |destination| {
            put_destination(control, destination, datagram.peer.is_ipv4(), interface)
        });
        if let Some(size) = datagram.segment {
            let size = libc::c_int::from(size);
            used = put_control(control, used, libc::SOL_UDP, libc::UDP_GRO, size);
        }
        self.headers[index].msg_hdr.msg_controllen = used as _;
    }

    /// The datagram in slot `index` of the last call, which must have returned
    /// more than `index`. `None` if its sender's address is of no family we know.
    pub fn get(&self, index: usize) -> Option<Received<'_>> {
        let header = &self.headers[index];
        let slot = &self.buffer[index * self.slot_len..][..self.slot_len];
        let Metadata {
            destination,
            interface,
            segment,
        } = read_control(&self.control[index], header.msg_hdr.msg_controllen as _);
        Some(Received {
            peer: peer_of(&self.names[index])?,
            destination,
            interface,
            payload: &slot[..slot.len().min(header.msg_len as usize)],
            segment,
        })
    }
}

fn peer_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a `sockaddr_in` is stored, which
            // `sockaddr_storage` is large enough and aligned for.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(
                ip,
                u16::from_be(v4.sin_port),
            )))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for `sockaddr_in6`.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            // An IPv4 client, on a socket of both families that we inherited.
            if let Some(ip) = ip.to_ipv4_mapped() {
                return Some(SocketAddr::V4(SocketAddrV4::new(ip, port)));
            }
            Some(SocketAddr::V6(SocketAddrV6::new(
                ip,
                port,
                0,
                v6.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

/// What came with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Metadata {
    destination: Option<Destination>,
    interface: Option<u32>,
    segment: Option<u16>,
}

/// Reads what the kernel says about a datagram: the address it was sent to, and the length
/// of each of several that came as one.
fn read_control(control: &[u64; CONTROL_WORDS], filled: usize) -> Metadata {
    let mut metadata = Metadata::default();
    // SAFETY: all-zero is a valid value of this C struct.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = filled.min(mem::size_of_val(control)) as _;
    let header = &raw const header;
    // SAFETY: pointer and length describe the buffer that the kernel filled; the
    // macros only read, and stay within that length.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while let Some(entry) = unsafe { cmsg.as_ref() } {
        match (entry.cmsg_level, entry.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: level and type say that an `in_pktinfo` follows.
                if let Some(info) = unsafe { value_of::<libc::in_pktinfo>(cmsg) } {
                    metadata.destination = Some(destination_v4(info));
                    metadata.interface = u32::try_from(info.ipi_ifindex).ok();
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: level and type say that an `in6_pktinfo` follows.
                let info = unsafe { value_of::<libc::in6_pktinfo>(cmsg) };
                // For IPv4, that family's own packet info comes as well, and knows
                // more.
                let ip = info.map(|info| Ipv6Addr::from(info.ipi6_addr.s6_addr));
                if let Some(ip) = ip.filter(|ip| ip.to_ipv4_mapped().is_none()) {
                    metadata.destination = Some(if ip.is_multicast() {
                        Destination::Group(None)
                    } else {
                        Destination::Local(IpAddr::V6(ip))
                    });
                    metadata.interface = info.map(|it| it.ipi6_ifindex as _);
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: level and type say that an `int` follows.
                let bytes = unsafe { value_of::<libc::c_int>(cmsg) };
                metadata.segment = bytes
                    .and_then(|bytes| u16::try_from(bytes).ok())
                    .filter(|&bytes| bytes > 0);
            }
            _ => {}
        }
        // SAFETY: `cmsg` came from this header.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    metadata
}

/// Bytes of memory taken by what was sent and has not left yet; 0 if the kernel doesn't
/// tell.
pub(super) fn unsent(socket: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int` to the pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        usize::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

/// Receives bytes from a Unix socket into `buffer`, and with them at most
/// `MAX_DESCRIPTORS` descriptors. Returns how many bytes came, 0 at the end, and
/// whether all descriptors are there: those that are too many, or more than the process
/// may open, are closed.
///
/// # Errors
/// `WouldBlock` if nothing is there; others of `recvmsg`.
pub fn receive_with_descriptors(
    socket: &impl AsRawFd,
    buffer: &mut [u8],
    descriptors: &mut impl Extend<OwnedFd>,
) -> io::Result<(usize, bool)> {
    let mut control = [0u64; DESCRIPTOR_BYTES.div_ceil(size_of::<u64>())];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid value of this C struct.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = DESCRIPTOR_BYTES as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header's pointers are to the buffer and to locals that outlive the call,
    // with their lengths beside them.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let is_whole = header.msg_flags & libc::MSG_CTRUNC == 0;
    let header = &raw const header;
    // SAFETY: the kernel has filled the buffer as far as the header says; the macros only
    // read, and stay within that length.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while let Some(entry) = unsafe { cmsg.as_ref() } {
        if (entry.cmsg_level, entry.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // If some were cut, those that fit are open, and the length counts only
            // them.
            let len: usize = entry.cmsg_len as _;
            let count = len.saturating_sub(DESCRIPTORS_AT) / DESCRIPTOR_LEN;
            let count = count.min(MAX_DESCRIPTORS);
            // SAFETY: level and type say that descriptors follow, the length how many. The
            // kernel has just made them for us, and nobody else has them.
            descriptors.extend((0..count).map(|nth| unsafe {
                let place = libc::CMSG_DATA(cmsg).add(nth * DESCRIPTOR_LEN);
                OwnedFd::from_raw_fd(ptr::read_unaligned(place.cast::<RawFd>()))
            }));
        }
        // SAFETY: `cmsg` came from this header.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    Ok((len, is_whole))
}

/// Descriptors that one call receives.
pub const MAX_DESCRIPTORS: usize = 16;

/// Bytes of a descriptor.
const DESCRIPTOR_LEN: usize = size_of::<RawFd>();
/// Bytes before the first descriptor in a control message.
// SAFETY: the macros only compute.
const DESCRIPTORS_AT: usize = unsafe { libc::CMSG_LEN(0) } as usize;
/// Bytes of control data with [`MAX_DESCRIPTORS`] descriptors.
const DESCRIPTOR_BYTES: usize =
    unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * DESCRIPTOR_LEN) as libc::c_uint) } as usize;

/// Datagrams that the kernel has dropped because the receive buffer was full, if it
/// tells (Linux 4.12): what `SO_RXQ_OVFL` would tell with every datagram.
pub(super) fn receive_drops(socket: &impl AsRawFd) -> Option<u32> {
    /// The index of the count in the figures, which is the last (`linux/sock_diag.h`).
    const DROPS: usize = 8;
    let mut figures = [0u32; DROPS + 1];
    let mut len = mem::size_of_val(&figures) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the pointer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            (&raw mut figures).cast(),
            &raw mut len,
        )
    };
    (result == 0 && len as usize == mem::size_of_val(&figures)).then_some(figures[DROPS])
}

/// `asm-generic/socket.h`.
const SO_MEMINFO: libc::c_int = 55;

/// The value of a control message; `None` if it was cut (`MSG_CTRUNC`).
///
/// # Safety
/// `entry` is a header within a buffer and made from the pointer to that, all of the
/// message's length lies there, and its level and type are those of a `T`.
unsafe fn value_of<T: Copy>(entry: *const libc::cmsghdr) -> Option<T> {
    // SAFETY: the macros only compute; what is read is as long as the message says.
    unsafe {
        let needed = libc::CMSG_LEN(mem::size_of::<T>() as libc::c_uint) as usize;
        let len: usize = (*entry).cmsg_len as _;
        (len >= needed).then(|| ptr::read_unaligned(libc::CMSG_DATA(entry).cast::<T>()))
    }
}

/// `ipi_addr` is the header's destination, `ipi_spec_dst` our address on that
/// path: they differ for broadcast and multicast. The latter isn't known for what
/// waited on an inherited socket before the kernel was asked for it.
fn destination_v4(info: libc::in_pktinfo) -> Destination {
    let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
    let is_ours = match info.ipi_spec_dst.s_addr {
        0 => !ip.is_multicast() && !ip.is_broadcast(),
        address => address == info.ipi_addr.s_addr,
    };
    if is_ours {
        Destination::Local(IpAddr::V4(ip))
    } else {
        let ours = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
        Destination::Group((!ours.is_unspecified()).then_some(ours.into()))
    }
}

/// Sends one datagram from `local`, one of the addresses that `socket` is bound
/// to: without it the kernel would choose one by the route. `scope` is the interface of
/// a link-local address among the two, else 0. With `segment_size`, in bytes, the kernel
/// cuts it into datagrams of that size (`UDP_SEGMENT`).
///
/// # Errors
/// Those of `sendmsg`: `WouldBlock` if the send buffer is full; `InvalidInput` if the
/// addresses are of two families.
pub(super) fn send_from(
    socket: &impl AsFd,
    datagram: &[u8],
    segment_size: Option<u16>,
    peer: SocketAddr,
    (local, scope): (IpAddr, u32),
) -> io::Result<()> {
    let name = socket2::SockAddr::from(peer);
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all-zero is a valid value of these C structs.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let mut vector = libc::iovec {
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    let mut used = match (peer, local) {
        (SocketAddr::V4(_), IpAddr::V4(_)) => put_local(&mut control, local, 0),
        (SocketAddr::V6(_), IpAddr::V6(_)) => put_local(&mut control, local, scope),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    if let Some(size) = segment_size {
        used = put_control(&mut control, used, libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = used as _;
    // SAFETY: the header's pointers are to locals that outlive the call, with
    // their lengths beside them; the kernel only reads through them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const header,
            libc::MSG_DONTWAIT,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets whether routers may fragment what an IPv4 socket sends, as far as they will.
pub(super) fn allow_fragments(socket: &impl AsFd, allow: bool) {
    let value: libc::c_int = if allow {
        libc::IP_PMTUDISC_DONT
    } else {
        // Ignore ICMP's "fragmentation needed", which anyone can forge.
        libc::IP_PMTUDISC_PROBE
    };
    // SAFETY: the pointer is to a local, with its length beside it; the kernel
    // only reads it. A failure leaves things as they are.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        );
    }
}

/// Whether routers may fragment what the socket sends, as the kernel has it.
#[cfg(test)]
pub(super) fn allows_fragments(socket: &impl AsFd) -> bool {
    let mut value: libc::c_int = -1;
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the pointer.
    unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw mut value).cast(),
            &raw mut len,
        );
    }
    value == libc::IP_PMTUDISC_DONT
}

/// The first control message: one of our addresses, and its interface or 0.
/// Returns the bytes used.
fn put_local(control: &mut [u64; CONTROL_WORDS], local: IpAddr, scope: u32) -> usize {
    match local {
        IpAddr::V4(ip) => {
            let source = libc::in_addr {
                s_addr: u32::from(ip).to_be(),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: source,
                ipi_addr: source,
            };
            put_control(control, 0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(ip) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                ipi6_ifindex: scope as _,
            };
            put_control(control, 0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// The first control message, as the kernel writes it: where a datagram was sent to,
/// and the interface that it came in by. Returns the bytes used.
fn put_destination(
    control: &mut [u64; CONTROL_WORDS],
    destination: Destination,
    is_ipv4: bool,
    interface: u32,
) -> usize {
    let (ours, sent_to) = match destination {
        Destination::Local(IpAddr::V6(ip)) => return put_arrival_v6(control, ip, interface),
        Destination::Group(_) if !is_ipv4 => {
            return put_arrival_v6(control, ALL_NODES, interface);
        }
        Destination::Local(IpAddr::V4(ip)) => (ip, ip),
        Destination::Group(Some(IpAddr::V4(ours))) => (ours, Ipv4Addr::BROADCAST),
        Destination::Group(_) => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
    };
    let address = |ip: Ipv4Addr| libc::in_addr {
        s_addr: u32::from(ip).to_be(),
    };
    let info = libc::in_pktinfo {
        ipi_ifindex: interface.cast_signed(),
        ipi_spec_dst: address(ours),
        ipi_addr: address(sent_to),
    };
    put_control(control, 0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
}

fn put_arrival_v6(control: &mut [u64; CONTROL_WORDS], ip: Ipv6Addr, interface: u32) -> usize {
    put_local(control, ip.into(), interface)
}

/// Stands for any multicast address: they aren't told apart.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Appends a control message to the `used` bytes of others; returns the bytes
/// used then. `used` is what an earlier call returned, or 0.
fn put_control<T: Copy>(
    control: &mut [u64; CONTROL_WORDS],
    used: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    let len = mem::size_of::<T>() as libc::c_uint;
    // SAFETY: the macros only compute. What is written lies between `used` and
    // the end of the message, which the assertion keeps inside the buffer;
    // `CMSG_SPACE` keeps each message aligned as the first, in 8-byte words, is.
    unsafe {
        let end = used + libc::CMSG_SPACE(len) as usize;
        assert!(end <= mem::size_of_val(control));
        let cmsg = control.as_mut_ptr().byte_add(used).cast::<libc::cmsghdr>();
        (*cmsg).cmsg_level = level;
        (*cmsg).cmsg_type = kind;
        (*cmsg).cmsg_len = libc::CMSG_LEN(len) as _;
        ptr::write_unaligned(libc::CMSG_DATA(cmsg).cast(), value);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ROUTED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    /// Control messages as the kernel writes them, and the bytes they take.
    #[derive(Clone)]
    struct Control([u64; CONTROL_WORDS], usize);

    impl Control {
        const fn empty() -> Self {
            Self([0; CONTROL_WORDS], 0)
        }

        fn with<T: Copy>(mut self, level: libc::c_int, kind: libc::c_int, value: T) -> Self {
            self.1 = put_control(&mut self.0, self.1, level, kind, value);
            self
        }

        fn v4(self, destination: Ipv4Addr, ours: Ipv4Addr) -> Self {
            let address = |ip: Ipv4Addr| libc::in_addr {
                s_addr: u32::from(ip).to_be(),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 1,
                ipi_spec_dst: address(ours),
                ipi_addr: address(destination),
            };
            self.with(libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }

        fn v6(self, destination: Ipv6Addr) -> Self {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: destination.octets(),
                },
                ipi6_ifindex: 1,
            };
            self.with(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }

        fn gro(self, bytes: libc::c_int) -> Self {
            self.with(libc::SOL_UDP, libc::UDP_GRO, bytes)
        }

        fn read(&self) -> (Option<Destination>, Option<u16>) {
            let metadata = read_control(&self.0, self.1);
            (metadata.destination, metadata.segment)
        }
    }

    #[test]
    fn control_messages_tell_the_destination_and_broadcast_from_unicast() {
        let none = Ipv4Addr::UNSPECIFIED;
        let local = |ip: IpAddr| Some(Destination::Local(ip));
        let empty = Control::empty;
        let group = |ours: Option<Ipv4Addr>| Some(Destination::Group(ours.map(Into::into)));
        for (control, expected) in [
            (empty(), None),
            (empty().v4(OURS, OURS), local(OURS.into())),
            (
                empty().v4(Ipv4Addr::new(192, 0, 2, 255), OURS),
                group(Some(OURS)),
            ),
            (empty().v4(Ipv4Addr::BROADCAST, OURS), group(Some(OURS))),
            (
                empty().v4(Ipv4Addr::new(224, 0, 0, 1), OURS),
                group(Some(OURS)),
            ),
            // It came before the kernel was asked: our own address isn't known.
            (empty().v4(OURS, none), local(OURS.into())),
            (empty().v4(Ipv4Addr::BROADCAST, none), group(None)),
            (empty().v4(Ipv4Addr::new(239, 1, 2, 3), none), group(None)),
            (empty().v6(ROUTED), local(ROUTED.into())),
            (empty().v6("ff02::1".parse().unwrap()), group(None)),
            // A socket of both families tells an IPv4 destination twice.
            (empty().v6(OURS.to_ipv6_mapped()), None),
            (
                empty().v6(OURS.to_ipv6_mapped()).v4(OURS, OURS),
                local(OURS.into()),
            ),
            (
                empty()
                    .v4(Ipv4Addr::BROADCAST, OURS)
                    .v6(OURS.to_ipv6_mapped()),
                group(Some(OURS)),
            ),
            // Neither asked for nor known.
            (
                empty().with(libc::SOL_SOCKET, libc::SCM_TIMESTAMP, [1u64; 2]),
                None,
            ),
        ] {
            assert_eq!(control.read(), (expected, None), "{:x?}", control.0);
        }
    }

    #[test]
    fn coalesced_datagrams_gro_tell_their_length() {
        for (bytes, expected) in [
            (1432, Some(1432)),
            (65_535, Some(65_535)),
            (65_536, None),
            (0, None),
            (-1, None),
        ] {
            assert_eq!(Control::empty().gro(bytes).read().1, expected, "{bytes}");
        }
        let both = Control::empty().v4(OURS, OURS).gro(516).read();
        assert_eq!(both, (Some(Destination::Local(OURS.into())), Some(516)));
    }

    #[test]
    fn control_messages_that_were_cut_ctrunc_are_not_read() {
        let full = Control::empty().v4(OURS, OURS).gro(516);
        let first = Control::empty().v4(OURS, OURS).1;
        for filled in 0..=full.1 {
            // The kernel cuts the message and says so in its length.
            let mut cut = Control(full.0, filled);
            let (header, from) = if filled > first {
                (first / 8, first)
            } else {
                (0, 0)
            };
            if filled - from >= mem::size_of::<libc::cmsghdr>() {
                cut.0[header] = cut.0[header].min((filled - from) as u64);
            }
            let (destination, segment) = cut.read();
            let whole = Some(Destination::Local(OURS.into()));
            assert!(destination.is_none() || destination == whole, "{filled}");
            assert_eq!(destination.is_some(), filled >= 28, "{filled}");
            assert_eq!(segment.is_some(), filled >= first + 20, "{filled}");
        }
    }

    #[test]
    fn what_is_put_into_a_batch_is_what_is_got_from_it() {
        let mut batch = Batch::new(2, 64);
        let mapped = SocketAddr::new(OURS.to_ipv6_mapped().into(), 7);
        for (peer, expected) in [
            ("192.0.2.7:69", "192.0.2.7:69".parse().unwrap()),
            ("[2001:db8::7]:69", "[2001:db8::7]:69".parse().unwrap()),
            ("[fe80::1%3]:69", "[fe80::1%3]:69".parse().unwrap()),
            // A client of the other family on an inherited socket.
            (&mapped.to_string(), SocketAddr::new(OURS.into(), 7)),
        ] {
            for (payload, slot_len) in [(&b"four"[..], 8), (b"four", 4), (b"four", 3), (b"", 8)] {
                let datagram = Received {
                    peer: peer.parse().unwrap(),
                    destination: Some(Destination::Local(ROUTED.into())),
                    interface: Some(7),
                    payload,
                    segment: Some(2),
                };
                batch.put(1, slot_len, &datagram);
                let got = batch.get(1).unwrap();
                assert_eq!(got.peer, expected);
                assert_eq!(got.payload, &payload[..payload.len().min(slot_len)]);
                assert_eq!(
                    (got.destination, got.segment),
                    (datagram.destination, Some(2))
                );
                assert_eq!(got.interface, Some(7));
            }
        }
        for (peer, destination) in [
            ("192.0.2.7:69", Destination::Local(OURS.into())),
            ("192.0.2.7:69", Destination::Group(Some(OURS.into()))),
            ("192.0.2.7:69", Destination::Group(None)),
            ("[2001:db8::7]:69", Destination::Group(None)),
        ] {
            let datagram = Received {
                peer: peer.parse().unwrap(),
                destination: Some(destination),
                interface: Some(7),
                payload: b"four",
                segment: None,
            };
            batch.put(0, 8, &datagram);
            let got = batch.get(0).unwrap();
            assert_eq!(
                (got.destination, got.interface),
                (Some(destination), Some(7))
            );
        }
        assert_eq!(batch.capacity(8, 9), 2);
        assert_eq!(batch.capacity(8, 1), 1);
        assert_eq!(batch.capacity(64, 9), 1);
        assert_eq!(batch.capacity(0, 9), 2);
    }
}
