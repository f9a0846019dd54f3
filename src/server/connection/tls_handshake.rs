//! The TLS handshake of a client connection, on the worker that serves it.

use std::fmt::Display;
use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, timeout};

use crate::log_format::TlsSession;
use crate::routes::ArrivalAddr;
use crate::server::AppState;
use crate::telemetry::LogLevel;
use crate::tls::{self, ClientStream};

/// Performs the handshake within `timeouts.client_header`. A failure is logged and counted; the result is then `None`.
pub(super) async fn handshake(
    app: &AppState,
    stream: TcpStream,
    peer: IpAddr,
    arrival: &ArrivalAddr,
) -> Option<(ClientStream, TlsSession)> {
    let (store, limit) = (app.tls_store.load_full(), app.settings().scope.timeouts.client_header);
    let cause: &dyn Display = match timeout(limit, tls::accept(&store, arrival, stream)).await {
        Ok(Ok(accepted)) => return Some(accepted),
        // Health checks of load balancers connect and close.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => &"the client disconnected",
        Ok(Err(error)) => &error.to_string(),
        Err(Elapsed { .. }) => &format!("not finished within {limit:?} (`timeouts.client_header`)"),
    };
    app.metrics.record_handshake_failure();
    let client = peer.to_canonical();
    app.logs.error.write(LogLevel::Info, format_args!("TLS handshake with {client} failed: {cause}"));
    None
}
