//! DNS servers.

use std::net::SocketAddr;
use std::time::Duration;

/// The DNS servers for replicas with `resolve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// DNS servers; empty for the system's.
    pub servers: Vec<SocketAddr>,
    /// The time after which a question counts as failed.
    pub timeout: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(30) }
    }
}
