//! The TLS handshake of a client's connection, on the worker that serves it.

use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};

use crate::server::AppState;
use crate::telemetry::{LogLevel, TlsSession};
use crate::tls::{self, ClientStream};

/// Shakes hands within the time of a request's head. A client that cannot is told of in the log and costs nothing else.
pub(in crate::server) async fn handshake(
    app: &AppState,
    stream: TcpStream,
    peer: IpAddr,
) -> Option<(ClientStream, TlsSession)> {
    let (keyring, limit) = (app.tls_store.load_full(), app.settings().timeouts.client_header);
    let why: &dyn std::fmt::Display = match timeout(limit, tls::accept(&keyring, stream)).await {
        Ok(Ok(secured)) => return Some(secured),
        // Health checks of balancers do so.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => &"the client has left",
        Ok(Err(error)) => &error.to_string(),
        Err(Elapsed { .. }) => &format!("it was not over within {limit:?} (`timeouts.client_header`)"),
    };
    app.metrics.record_handshake_failure();
    app.logs.error.write(LogLevel::Info, format_args!("TLS handshake with {} failed: {why}", peer.to_canonical()));
    None
}
