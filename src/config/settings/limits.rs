//! Limits on clients.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Limits on clients. All at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of request bodies in memory at once, all requests together; no body may be larger.
    pub in_flight_bytes: usize,
    /// The largest request head, in bytes; at least 8 KiB.
    pub header_bytes: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// The longest request target, in bytes.
    pub uri_bytes: usize,
    /// Client connections at once.
    pub connections: usize,
    /// Requests for replicas at once, all pools together.
    pub in_flight_requests: usize,
    /// `max_in_flight` of the pools that have it, by name: requests for that pool at once.
    pub max_in_flight_by_pool: BTreeMap<Arc<str>, usize>,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_bytes: 1 << 30,
            header_bytes: 64 << 10,
            headers: 100,
            uri_bytes: 8 << 10,
            connections: 20_000,
            in_flight_requests: 20_000,
            max_in_flight_by_pool: BTreeMap::new(),
            streams_per_connection: 128,
        }
    }
}
