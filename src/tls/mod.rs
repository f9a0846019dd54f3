//! Layer 3: TLS of client connections and of connections to replicas.
//!
//! All files are read into a [`TlsStore`], which is replaced whole; connections keep the configuration they began with.

mod certificates;
mod client_config;
mod crypto;
mod explain;
mod file_error;
mod handshake;
mod pem;
mod server_config;
mod store;
#[cfg(test)]
mod tests;

pub use client_config::{empty_client_config, system_client_config};
pub use explain::explain_handshake_error;
pub use file_error::TlsFileError;
pub use handshake::{ClientStream, ReplicaStream, accept, connect};
pub use store::{ReplicaTlsConfig, TlsStore};
