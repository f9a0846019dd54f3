//! A bound listener: TCP, TLS or Unix socket.

use std::io;
use std::time::Duration;

use mio::{Interest, Registry, Token};

use crate::routes::ListenAddr;
use crate::server::connection::accepted::ClientSocket;
use crate::upstream::set_tcp_keepalive;

/// A bound, non-blocking listener. Dropping it closes it.
pub(in crate::server) struct BoundListener {
    /// The address as configured.
    pub(super) listen: ListenAddr,
    /// The bound address; its port is never 0.
    pub(in crate::server) local_address: ListenAddr,
    pub(super) socket: ListenerSocket,
}

/// The socket of a listener.
pub(super) enum ListenerSocket {
    Tcp(mio::net::TcpListener),
    Tls(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

impl BoundListener {
    /// Accepts one connection.
    ///
    /// *Errors*: `WouldBlock` if no connection is pending; else the cause.
    pub(super) fn accept(&self) -> io::Result<ClientSocket> {
        match &self.socket {
            ListenerSocket::Tcp(listener) | ListenerSocket::Tls(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nodelay(true)?;
                let is_tls = matches!(self.socket, ListenerSocket::Tls(_));
                let socket = if is_tls { ClientSocket::Tls } else { ClientSocket::Tcp };
                Ok(socket(stream.into(), peer.ip()))
            }
            ListenerSocket::Unix(listener) => Ok(ClientSocket::Unix(listener.accept()?.0.into())),
        }
    }

    /// Makes the kernel probe the clients of future connections after `idle` without data; they inherit it.
    ///
    /// *Errors*: the kernel refuses it.
    pub(super) fn set_tcp_keepalive(&self, idle: Duration) -> io::Result<()> {
        match &self.socket {
            ListenerSocket::Tcp(listener) | ListenerSocket::Tls(listener) => set_tcp_keepalive(&listener.into(), idle),
            ListenerSocket::Unix(_) => Ok(()),
        }
    }

    /// Registers the listener for events that carry `token`.
    ///
    /// *Errors*: the event queue rejects it.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            ListenerSocket::Tcp(listener) | ListenerSocket::Tls(listener) => {
                registry.register(listener, token, Interest::READABLE)
            }
            ListenerSocket::Unix(listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// Returns the listener as `wanted` configures it, or closes it and returns `None` if `wanted` lacks its address.
    pub(super) fn reconfigure(mut self, wanted: &[ListenAddr]) -> Option<Self> {
        let same = wanted.iter().find(|listen| **listen == self.listen);
        let Some(listen) = same.or_else(|| wanted.iter().find(|listen| listen.has_same_address(&self.listen))) else {
            if let ListenAddr::Unix(path) = &self.listen {
                // Fails if another process has removed the socket already.
                let _ = std::fs::remove_file(path);
            }
            return None;
        };
        // A port switches between plain HTTP and TLS without being closed.
        self.socket = match (self.socket, listen) {
            (ListenerSocket::Tcp(listener) | ListenerSocket::Tls(listener), ListenAddr::Tls(_)) => {
                ListenerSocket::Tls(listener)
            }
            (ListenerSocket::Tcp(listener) | ListenerSocket::Tls(listener), _) => ListenerSocket::Tcp(listener),
            (socket @ ListenerSocket::Unix(_), _) => socket,
        };
        self.listen = listen.clone();
        Some(self)
    }
}
