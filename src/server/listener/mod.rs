//! Ports: binding them, accepting connections, handing these to workers.

pub(super) mod acceptor;
pub(super) mod bind;
pub(super) mod handle;
