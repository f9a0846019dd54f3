//! How busy each worker is, counted where it happens and read by the acceptor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How busy a worker is.
#[derive(Debug, Default)]
pub(in crate::server) struct WorkerLoad {
    active_requests: AtomicUsize,
    open_connections: AtomicUsize,
}

/// One request on a worker, until dropped.
pub(in crate::server) struct RequestGuard(Arc<WorkerLoad>);

/// One connection of a worker, until dropped.
pub(in crate::server) struct ConnectionGuard(Arc<WorkerLoad>);

impl WorkerLoad {
    /// Open requests, then open connections: the worker with the least takes the next connection.
    pub(in crate::server) fn load_key(&self) -> (usize, usize) {
        (self.active_requests.load(Ordering::Relaxed), self.open_connections())
    }

    /// Open connections.
    pub(in crate::server) fn open_connections(&self) -> usize {
        self.open_connections.load(Ordering::Relaxed)
    }
}

impl RequestGuard {
    /// Counts a request.
    pub(in crate::server) fn start(tally: &Arc<WorkerLoad>) -> Self {
        tally.active_requests.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionGuard {
    /// Counts a connection.
    pub(in crate::server) fn start(tally: &Arc<WorkerLoad>) -> Self {
        tally.open_connections.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
