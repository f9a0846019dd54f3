//! The tunnel of a client's connection after its upgrade to a WebSocket.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::fleet::Lease;
use crate::server::request::concurrency::RequestPermit;
use crate::server::request_log::RequestLog;
use crate::upstream::{UpgradedConnection, run_tunnel};

/// A tunnel that begins when the client has received the 101.
pub(in crate::server) struct PendingTunnel {
    pub(in crate::server) replica: UpgradedConnection,
    pub(in crate::server) lease: Lease,
    /// The client's side; `None` until the proxy hands it over, like the permit.
    pub(in crate::server) client: Option<OnUpgrade>,
    pub(in crate::server) permit: Option<RequestPermit>,
}

impl PendingTunnel {
    /// Carries bytes until a side closes. Holds the lease, the permit and the log record until then.
    pub(in crate::server) async fn run(self, mut log: RequestLog) {
        let Self { replica, lease, client, permit: _permit } = self;
        let Some(client) = client else { return };
        // The client left before it had the 101. The lease ends as `client_gone`.
        let Ok(client) = client.await else { return };
        let context = log.shared_context();
        let result = run_tunnel(replica, TokioIo::new(client), lease, &context.scope().timeouts, log.clock()).await;
        log.set_tunnel_result(result);
    }
}
