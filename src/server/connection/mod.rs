//! One client connection on its worker: TLS, HTTP, timeouts, and noticing that the client left.

pub(super) mod accepted;
pub(super) mod disconnect;
pub(super) mod error_rewrite;
pub(super) mod state;
pub(super) mod timeouts;
pub(super) mod tls_handshake;
pub(super) mod worker;
pub(super) mod worker_load;
