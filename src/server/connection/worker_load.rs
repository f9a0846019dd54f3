//! The load of each worker: counted on the worker, read by the acceptor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The load of one worker.
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
    /// Returns requests, then connections. The worker with the lowest key gets the next connection.
    pub(in crate::server) fn load_key(&self) -> (usize, usize) {
        (self.active_requests.load(Ordering::Relaxed), self.open_connections())
    }

    /// Returns the number of open connections.
    pub(in crate::server) fn open_connections(&self) -> usize {
        self.open_connections.load(Ordering::Relaxed)
    }
}

impl RequestGuard {
    /// Counts a request.
    pub(super) fn start(load: &Arc<WorkerLoad>) -> Self {
        load.active_requests.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionGuard {
    /// Counts a connection.
    pub(in crate::server) fn start(load: &Arc<WorkerLoad>) -> Self {
        load.open_connections.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
