//! The answer to a question: addresses and their time to live.

use std::net::IpAddr;
use std::time::Duration;

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DnsAnswer {
    /// Sorted, without duplicates of address and port.
    pub(super) peers: Vec<DnsPeer>,
    pub(super) ttl: Duration,
}

/// One address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DnsPeer {
    pub(super) address: IpAddr,
    /// The port of an SRV record; `None` without one.
    pub(super) port: Option<u16>,
    /// The weight of an SRV record, at least 1; `None` without one.
    pub(super) weight: Option<u32>,
    /// Whether its SRV record has a lower priority than others.
    pub(super) backup: bool,
}

impl DnsPeer {
    pub(super) const fn from_address(address: IpAddr) -> Self {
        Self { address, port: None, weight: None, backup: false }
    }
}
