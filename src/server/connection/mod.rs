//! One client connection on its worker: TLS handshake, HTTP, timeouts, disconnect detection.

pub(super) mod accepted;
mod disconnect;
mod error_rewrite;
mod handler;
mod http;
pub(super) mod peer_addr;
pub(super) mod state;
mod thread_bound;
mod timeouts;
mod tls_handshake;
pub(super) mod worker;
pub(super) mod worker_load;
