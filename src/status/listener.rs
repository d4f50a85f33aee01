//! The sockets of the status port: bound, or handed over by the service manager, and
//! the streams that they accept.
//!
//! Must not: know what the bytes mean.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, ToSocketAddrs as _};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::address::{Hosts, StatusAddress};
use crate::file::with_remedy;
use crate::host::InheritedStream;

/// Bytes of an answer that the kernel keeps for a slow reader.
const SEND_BUFFER: usize = 64 * 1024;

/// A socket that listens for connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    pub(super) hosts: Rc<Hosts>,
    /// The socket's file, removed at the end if it is still ours.
    path: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds to `address`.
    ///
    /// # Errors
    /// One line that names the address and the remedy.
    pub(crate) fn bind(address: &StatusAddress) -> Result<Self, String> {
        let bound = match address {
            StatusAddress::Tcp(host, port) => bind_tcp(host, *port),
            StatusAddress::Unix(path) => bind_unix(path),
        };
        bound.map_err(|error| {
            let remedy = match (address, error.kind()) {
                (_, ErrorKind::PermissionDenied) => {
                    "choose a port above 1023, or a directory that may be written to"
                }
                (_, ErrorKind::AddrInUse) => {
                    "stop the server that has it, or choose another with --status"
                }
                (StatusAddress::Unix(_), ErrorKind::AlreadyExists) => {
                    return format!(
                        "cannot listen on {address} for --status: there is a file, and it is no \
                         socket; choose another path with --status"
                    );
                }
                (StatusAddress::Unix(_), ErrorKind::NotFound) => "create its directory",
                (StatusAddress::Unix(_), _) => "choose another path with --status",
                (StatusAddress::Tcp(..), _) => "give an address of this machine with --status",
            };
            let told = with_remedy(&error, remedy);
            format!("cannot listen on {address} for --status: {told}")
        })
    }

    /// Takes over a socket that listens already; `name` is one that it goes by.
    ///
    /// # Errors
    /// It doesn't listen, or can't be made non-blocking.
    pub(super) fn inherit(stream: InheritedStream, name: Option<&str>) -> io::Result<Self> {
        let listens = match &stream {
            InheritedStream::Tcp(listener) => SockRef::from(listener).is_listener()?,
            InheritedStream::Unix(listener) => SockRef::from(listener).is_listener()?,
        };
        if !listens {
            return Err(io::Error::other("it doesn't listen"));
        }
        let (socket, hosts) = match stream {
            InheritedStream::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let hosts = Hosts::of(listener.local_addr().ok(), name);
                (Socket::Tcp(TcpListener::from_std(listener)), hosts)
            }
            InheritedStream::Unix(listener) => {
                listener.set_nonblocking(true)?;
                (Socket::Unix(UnixListener::from_std(listener)), Hosts::Any)
            }
        };
        Ok(Self {
            socket,
            hosts: hosts.into(),
            path: None,
        })
    }

    /// Takes over a socket that this process had bound before it became the program that
    /// it is now. Its file is still ours to remove.
    ///
    /// # Errors
    /// As [`Listener::inherit`].
    pub(crate) fn resume(stream: InheritedStream) -> io::Result<Self> {
        let mut listener = Self::inherit(stream, None)?;
        let path = listener.unix_path();
        listener.path = path.and_then(|path| SocketFile::at(&path).ok());
        Ok(listener)
    }

    /// The path that a Unix socket was bound to.
    fn unix_path(&self) -> Option<PathBuf> {
        let Socket::Unix(listener) = &self.socket else {
            return None;
        };
        let address = listener.local_addr().ok()?;
        address.as_pathname().map(Path::to_owned)
    }

    /// The place in words, for the log.
    pub(super) fn place(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}/"),
                Err(_) => "a TCP socket".into(),
            },
            Socket::Unix(_) => {
                let path = self.unix_path();
                path.map_or("a Unix socket".into(), |path| path.display().to_string())
            }
        }
    }

    /// The path of its file, if that is ours to remove.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_ref().map(|file| &*file.path)
    }

    /// Leaves the file where it is: its path leads elsewhere in a chroot.
    pub(super) fn lose_path(&mut self) {
        if let Some(mut file) = self.path.take() {
            file.is_lost = true;
        }
    }

    /// Registers for an event when a connection comes.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Socket::Unix(listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// Takes it out of the poll. Closing it wouldn't, while another process has it, too.
    ///
    /// # Errors
    /// It isn't registered.
    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(listener) => registry.deregister(listener),
            Socket::Unix(listener) => registry.deregister(listener),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, `ConnectionAborted` if it has gone again; no
    /// descriptor is left.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Bounds what a slow reader costs; we can do without it.
                let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_raw_fd(),
            Socket::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

/// A connection's socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Registers for an event when there is something to read, or room to write.
    ///
    /// # Errors
    /// The poll can't watch any more sources (`ENOMEM`, `ENOSPC`).
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, interest),
            Self::Unix(stream) => registry.register(stream, token, interest),
        }
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The other end has gone.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(net::Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(net::Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Listener> {
    let mut refusal = ErrorKind::NotFound.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpListener::bind(address) {
            Ok(listener) => {
                return Ok(Listener {
                    socket: Socket::Tcp(listener),
                    hosts: Hosts::of(Some(address), Some(host)).into(),
                    path: None,
                });
            }
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Binds a Unix socket. One that nobody listens on was left behind by a server that was
/// killed: ours takes its place.
fn bind_unix(path: &Path) -> io::Result<Listener> {
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if !path.symlink_metadata()?.file_type().is_socket() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            // A socket with a full queue has a listener, too; we don't wait for it.
            match UnixStream::connect(path) {
                Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    Ok(Listener {
        socket: Socket::Unix(socket),
        hosts: Hosts::Any.into(),
        path: Some(SocketFile::at(path)?),
    })
}

/// The file of a Unix socket; removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode number of the file that we made.
    identity: (u64, u64),
    is_lost: bool,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let identity = identity(&path.symlink_metadata()?);
        Ok(Self {
            path,
            identity,
            is_lost: false,
        })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata();
        if !self.is_lost && there.is_ok_and(|it| identity(&it) == self.identity) {
            // There is nobody left to report an error to.
            let _ = fs::remove_file(&self.path);
        }
    }
}
