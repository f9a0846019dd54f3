//! The address of a connection's other end.

use std::net::{IpAddr, Ipv4Addr};

/// The address of a peer: a TCP client or a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum PeerAddr {
    Tcp(IpAddr),
    Unix,
}

impl PeerAddr {
    /// Returns the address as policies see it; 0.0.0.0 for a Unix socket.
    pub(in crate::server) const fn address(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.to_canonical(),
            Self::Unix => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }

    /// Returns the address as nginx writes it; `unix:` for a Unix socket.
    pub(in crate::server) fn addr_text(self) -> String {
        match self {
            Self::Tcp(_) => self.address().to_string(),
            Self::Unix => "unix:".to_owned(),
        }
    }
}
