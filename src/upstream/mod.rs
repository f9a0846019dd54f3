//! Layer 3: sends requests to replicas and relays their responses.
//!
//! [`UpstreamClient`] sends a request and waits until the response shows whether it is usable. [`RelayBody`] passes the
//! response to the client and settles the lease at its end.

mod answer_deadline;
mod classify;
mod client;
mod connection;
mod error;
mod idle_connections;
mod peek;
mod relay;
mod request;
mod request_body;
mod response;
mod response_timer;
mod tcp_keepalive;
mod transport;
mod tunnel;

pub use client::UpstreamClient;
pub use error::SendError;
pub use relay::{RelayBody, RelayResult};
pub use request::{ResponseExpectations, UpstreamRequest};
pub use request_body::RequestBody;
pub use response::{ResponseFault, UpstreamBody, UpstreamResponse};
pub use tcp_keepalive::set_tcp_keepalive;
pub use transport::UpgradedConnection;
pub use tunnel::{TunnelResult, run_tunnel};
