//! Messages between a supervisor and its workers: short texts, and descriptors with
//! them.
//!
//! They go over socket pairs that preserve message boundaries (`SOCK_SEQPACKET`). Must
//! not: wait, or know what a message means.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt,
    socketpair, sockopt,
};

use crate::net::receive_with_descriptors;

/// Bytes of the longest text.
const TEXT_LEN: usize = 128;

/// Send buffer, in bytes, of a channel that carries relayed datagrams.
const LARGE_BUFFER: usize = 8 << 20;

/// Never block; no SIGPIPE when the other end is gone.
const QUIETLY: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// What came from the other end.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) descriptors: Vec<OwnedFd>,
    /// False if descriptors were lost, for example at the limit of open files.
    pub(super) is_whole: bool,
}

/// A pair of sockets; neither is inherited by a program that is executed.
///
/// # Errors
/// No descriptor is left (`EMFILE`, `ENFILE`).
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        flags,
    )?)
}

/// A pair of sockets; the first has a large send buffer.
///
/// # Errors
/// No descriptor is left (`EMFILE`, `ENFILE`).
pub(super) fn large_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (from, to) = pair()?;
    if setsockopt(&from, sockopt::SndBufForce, &LARGE_BUFFER).is_err() {
        setsockopt(&from, sockopt::SndBuf, &LARGE_BUFFER)?;
    }
    Ok((from, to))
}

/// Sends a text, which must not be empty, and copies of the descriptors.
///
/// # Errors
/// `WouldBlock` if the other end doesn't keep up, `BrokenPipe` if it has gone.
pub(super) fn send(socket: &impl AsFd, text: &str, descriptors: &[impl AsRawFd]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    send_parts(socket, &[IoSlice::new(text.as_bytes())], control)
}

/// Sends bytes in several parts as one message, without allocating.
///
/// # Errors
/// As [`send`].
pub(super) fn send_bytes(socket: &impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<()> {
    send_parts(socket, parts, &[])
}

fn send_parts(
    socket: &impl AsFd,
    parts: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> io::Result<()> {
    let socket = socket.as_fd().as_raw_fd();
    sendmsg::<()>(socket, parts, control, QUIETLY, None)?;
    Ok(())
}

/// The text of the next message, empty at the end; descriptors that come with it are
/// closed by the kernel.
///
/// # Errors
/// `WouldBlock` if there is none yet; others of `recv`.
pub(super) fn receive_text(socket: &impl AsRawFd) -> io::Result<String> {
    let mut buffer = [0; TEXT_LEN];
    let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

/// The next message; `None` at the end.
///
/// # Errors
/// `WouldBlock` if there is none yet; others of `recvmsg`.
pub(super) fn receive(socket: &impl AsRawFd) -> io::Result<Option<Message>> {
    let mut buffer = [0; TEXT_LEN];
    let mut descriptors = Vec::new();
    let (len, is_whole) = receive_with_descriptors(socket, &mut buffer, &mut descriptors)?;
    Ok((len > 0).then(|| Message {
        text: String::from_utf8_lossy(&buffer[..len]).into_owned(),
        descriptors,
        is_whole,
    }))
}

/// Whether the condition comes true. A socket isn't always seen closed at once: a child
/// that another test forks holds a copy until it executes its program.
#[cfg(test)]
pub(super) fn comes_true(mut is_closed: impl FnMut() -> bool) -> bool {
    (0..100_000).any(|_| {
        std::thread::yield_now();
        is_closed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_descriptors_arrive_even_after_the_sender_has_gone() {
        let (from, to) = large_pair().unwrap();
        let none = io::ErrorKind::WouldBlock;
        assert_eq!(receive(&to).unwrap_err().kind(), none);
        let sent = vec![pair().unwrap().0, pair().unwrap().0];
        send(&from, "two", &sent).unwrap();
        send(&from, "none", &[] as &[OwnedFd]).unwrap();
        drop((from, sent));
        let two = receive(&to).unwrap().unwrap();
        assert_eq!((&*two.text, two.descriptors.len()), ("two", 2));
        let message = receive(&to).unwrap().unwrap();
        assert_eq!((&*message.text, message.descriptors.len()), ("none", 0));
        assert!(comes_true(|| matches!(receive(&to), Ok(None))));
    }

    /// How many of our descriptors refer to this socket; other tests open none of them.
    fn count_open(socket: &OwnedFd) -> usize {
        let leads_to = |path| std::fs::read_link(path).ok();
        let own = leads_to(format!("/proc/self/fd/{}", socket.as_raw_fd()).into());
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|it| leads_to(it.as_ref().unwrap().path()) == own)
            .count()
    }

    #[test]
    fn descriptors_that_are_lost_are_missed_and_no_other_leaks() {
        let (from, to) = pair().unwrap();
        for (count, is_whole) in [(16, true), (17, false)] {
            let same = vec![to.as_raw_fd(); count];
            send(&from, "text", &same).unwrap();
            let message = receive(&to).unwrap().unwrap();
            assert_eq!(message.is_whole, is_whole, "{count}");
            // The descriptors that fit have come.
            assert_eq!(message.descriptors.len(), 16, "{count}");
            assert_eq!(count_open(&to), 1 + 16, "{count}");
            drop(message);
            assert_eq!(count_open(&to), 1, "{count}");
        }
    }
}
