//! Hosts as configured, and what a lookup takes and returns.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::routes::{HostName, ListenAddr, Route, RouteScope};

/// A host as configured: nginx's `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Its names; empty for requests that no other host takes.
    pub names: Vec<HostName>,
    /// Its addresses; empty for those at the top.
    pub listens: Vec<HostListen>,
    /// The settings of paths without a route.
    pub scope: Arc<RouteScope>,
    /// Its routes, in the order of the file.
    pub routes: Vec<Route>,
    /// Whether a path without a route is not found. Otherwise the router's own paths are served there.
    pub is_closed: bool,
    /// Its certificates; without any, those at the top.
    pub certificates: ServerCertificates,
}

/// The certificates shown to clients, each with its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCertificates {
    /// PEM files, each a certificate followed by its issuers. The first is for clients whose name no other matches.
    pub chains: Vec<PathBuf>,
    /// PEM files of the private keys, as many and in the same order.
    pub keys: Vec<PathBuf>,
}

/// An address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostListen {
    /// The address.
    pub address: ListenAddr,
    /// Whether the host takes all requests at the address that no other host takes: nginx's `default_server`.
    pub is_default: bool,
}

/// The address that a connection has arrived at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivalAddr {
    /// The listener's address, as configured.
    pub listen: ListenAddr,
    /// The local address; `None` for a Unix socket, and for a listener that has only one.
    pub local: Option<SocketAddr>,
}

/// The place of an address in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressIndex {
    /// Any address: every host takes part at each.
    Any,
    /// The address of this index.
    Of(usize),
}

/// The result of a lookup.
#[derive(Clone, Copy, Debug)]
pub enum RouteLookup<'a> {
    /// This route; it may be one that answers 404.
    Found(&'a Arc<Route>),
    /// The route is for the path with a slash at its end: the client is redirected there.
    AddSlash(&'a Arc<Route>),
    /// No host takes the request, or a host that is not closed has no route for the path.
    Unknown,
}
