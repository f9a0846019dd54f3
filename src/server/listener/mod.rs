//! Listeners: binds them, accepts connections, hands each to a worker.

pub(super) mod acceptor;
pub(super) mod bind;
mod bound_listener;
pub(super) mod handle;
