//! How busy each worker is, counted where it happens and read by the acceptor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How busy a worker is.
#[derive(Debug, Default)]
pub(super) struct Tally {
    streams: AtomicUsize,
    connections: AtomicUsize,
}

/// One request on a worker, until dropped.
pub(super) struct Load(Arc<Tally>);

/// One connection of a worker, until dropped.
pub(super) struct Open(Arc<Tally>);

impl Tally {
    /// Open requests, then open connections: the worker with the least takes the next connection.
    pub(super) fn busy(&self) -> (usize, usize) {
        (self.streams.load(Ordering::Relaxed), self.connections())
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Load {
    /// Counts a request.
    pub(super) fn on(tally: &Arc<Tally>) -> Self {
        tally.streams.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Open {
    /// Counts a connection.
    pub(super) fn on(tally: &Arc<Tally>) -> Self {
        tally.connections.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
