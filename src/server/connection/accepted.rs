//! A connection between its acceptor and its worker.

use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;

use super::worker_load::ConnectionGuard;
use crate::routes::ListenAddr;

/// An accepted connection in the queue of its worker.
///
/// The guard counts it for that worker already, so that a burst is spread before the workers read their queues.
pub(in crate::server) struct AcceptedConnection {
    pub(in crate::server) socket: ClientSocket,
    /// The address of its listener, as configured.
    pub(in crate::server) listen: ListenAddr,
    pub(in crate::server) guard: ConnectionGuard,
}

/// A client's socket and its address.
pub(in crate::server) enum ClientSocket {
    Tcp(TcpStream, IpAddr),
    /// The handshake is the worker's, so that it does not delay the acceptor.
    Tls(TcpStream, IpAddr),
    Unix(UnixStream),
}
