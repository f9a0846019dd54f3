//! The address of a connection's other end.

use std::net::{IpAddr, Ipv4Addr};

/// The address of a peer: a TCP client or a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum PeerAddr {
    Tcp(IpAddr),
    Unix,
}

impl PeerAddr {
    /// Returns the peer of a TCP connection. An IPv4 address mapped into IPv6 is the IPv4 address.
    pub(super) const fn of_connection(address: IpAddr) -> Self {
        Self::Tcp(address.to_canonical())
    }

    /// Returns the address as policies see it; 0.0.0.0 for a Unix socket.
    pub(in crate::server) const fn address(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address,
            Self::Unix => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }

    /// Returns the IP address; `None` for a Unix socket.
    pub(in crate::server) const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Unix => None,
        }
    }

    /// Returns the address as nginx writes it; `unix:` for a Unix socket.
    pub(in crate::server) fn addr_text(self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix => "unix:".to_owned(),
        }
    }
}
