//! Binding the addresses of the configuration.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::acceptor::Listener;
use crate::config::ListenAddr;
use crate::server::StartError;

/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;

/// Binds one of `listen`; returns it with the port that the system chose where it was 0.
pub(in crate::server) fn bind_listener(listen: &ListenAddr) -> Result<(Listener, ListenAddr), StartError> {
    match listen {
        ListenAddr::Tcp(address) | ListenAddr::Tls(address) => {
            let listener = bind_tcp(*address, "listen")?;
            let bound = listener.local_addr()?;
            let listener = mio::net::TcpListener::from_std(listener);
            Ok(match listen {
                ListenAddr::Tls(_) => (Listener::Tls(listener), ListenAddr::Tls(bound)),
                _ => (Listener::Tcp(listener), ListenAddr::Tcp(bound)),
            })
        }
        ListenAddr::Unix(path) => {
            let refused = |error| StartError::Listen { address: listen.to_string(), key: "listen", error, hint: "" };
            let listener = mio::net::UnixListener::from_std(bind_unix(path).map_err(refused)?);
            Ok((Listener::Unix(listener), listen.clone()))
        }
    }
}

pub(in crate::server) fn bind_tcp(address: SocketAddr, key: &'static str) -> Result<std::net::TcpListener, StartError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    bound().map_err(|error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another one",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        StartError::Listen { address: address.to_string(), key, error, hint }
    })
}

/// Binds a Unix socket, in place of one that a dead process has left.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let left_over = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if left_over {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
