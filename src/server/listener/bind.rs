//! Binds the configured addresses.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::bound_listener::{BoundListener, ListenerSocket};
use crate::routes::ListenAddr;
use crate::server::StartError;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// Binds one address of `listen`.
///
/// *Errors*: the address is in use or not permitted.
pub(in crate::server) fn bind_listener(listen: &ListenAddr) -> Result<BoundListener, StartError> {
    let (socket, local_address) = match listen {
        ListenAddr::Tcp(address) | ListenAddr::Tls(address) => {
            let listener = bind_tcp(*address, "listen")?;
            let local = listener.local_addr()?;
            let listener = mio::net::TcpListener::from_std(listener);
            match listen {
                ListenAddr::Tls(_) => (ListenerSocket::Tls(listener), ListenAddr::Tls(local)),
                _ => (ListenerSocket::Tcp(listener), ListenAddr::Tcp(local)),
            }
        }
        ListenAddr::Unix(path) => {
            let failed = |error| StartError::Listen { address: listen.to_string(), key: "listen", error, hint: "" };
            let listener = mio::net::UnixListener::from_std(bind_unix(path).map_err(failed)?);
            (ListenerSocket::Unix(listener), listen.clone())
        }
    };
    Ok(BoundListener { listen: listen.clone(), local_address, socket })
}

/// Binds a TCP address that the configuration key `key` names.
///
/// *Errors*: the address is in use or not permitted.
pub(in crate::server) fn bind_tcp(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    open_tcp(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another one",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        StartError::Listen { address: address.to_string(), key, error, hint }
    })
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Binds a Unix socket; removes the socket file of a dead process first.
///
/// *Errors*: the path is in use or cannot be created.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_stale = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err();
    if is_stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
