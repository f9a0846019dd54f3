//! The client that sends requests to replicas.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::time::{error::Elapsed, timeout};

use super::classify;
use super::connection::UpstreamConnection;
use super::error::SendError;
use super::idle_connections::IdleConnections;
use super::peek::{self, PeekResult};
use super::request::UpstreamRequest;
use super::response::{ResponseFault, UpstreamBody, UpstreamResponse};
use super::response_timer::ResponseTimer;
use crate::clock::Clock;
use crate::fleet::{Lease, Outcome, Phase, Replica};
use crate::routes::Timeouts;
use crate::tls::TlsStore;
use crate::units::Timing;

/// A response about an idle connection was sent before the request had arrived, so it comes within this time.
const IDLE_TIMEOUT_DELAY: Duration = Duration::from_secs(1);

/// One worker's client of the replicas, with its own idle connections. Never shared between threads.
#[derive(Clone)]
pub struct UpstreamClient {
    idle_connections: Rc<IdleConnections>,
    clock: Clock,
    tls_store: Arc<ArcSwap<TlsStore>>,
}

impl UpstreamClient {
    /// Returns a client without connections. New connections use what `tls_store` holds at that time.
    pub fn new(clock: Clock, tls_store: Arc<ArcSwap<TlsStore>>) -> Self {
        Self { idle_connections: Rc::default(), clock, tls_store }
    }

    /// Closes connections that have been idle for `timeouts.upstream_keepalive`; call it about every second.
    pub fn sweep(&self, timeouts: &Timeouts) {
        self.idle_connections.sweep(self.clock.now(), timeouts.upstream_keepalive);
    }

    /// Sends `request` to the leased replica and waits until the response shows whether it is usable.
    ///
    /// A stream is held until its first event or for `timeouts.first_event_hold`. A JSON response of up to 1 MiB is
    /// held until it is complete if `buffer_json` is set, or for the same time if it begins with white space only. Any
    /// other is held until its first byte, or for the same time. Until then another replica can be tried. A reused connection that turns out to be closed is replaced by
    /// a new one.
    ///
    /// `timing` is set as soon as there is a connection, also for a caller that drops the future before the response.
    ///
    /// *Errors*: no connection, no response, or an interrupted one. The client has received nothing of it.
    pub async fn send(
        &self,
        request: &UpstreamRequest,
        lease: &Lease,
        timeouts: &Timeouts,
        timing: &mut Timing,
    ) -> Result<UpstreamResponse, SendError> {
        let replica = lease.replica();
        let now = self.clock.now();
        let mut timer = ResponseTimer::new(lease, timeouts, &request.expectations, self.clock, now);
        let mut was_sent = false;
        if let Some(connection) = self.idle_connections.acquire(replica.id(), now, timeouts.upstream_keepalive).await {
            timing.connected_at = Some(now);
            match self.send_on(connection, request, &timer).await {
                // Engines close idle connections at any time; a closed one does not count against the replica.
                Err(AttemptError { stale_connection: true, .. }) => timing.connected_at = None,
                result => return record_timing(result, timing),
            }
            was_sent = true;
        }
        let connect = self.connect(replica, timeouts, request.expectations.preserve_header_case).await;
        let connection = connect.map_err(|error| if was_sent { error.after_sending() } else { error })?;
        let connected_at = self.clock.now();
        timing.connected_at = Some(connected_at);
        timer.answer_deadline.restart(connected_at);
        record_timing(self.send_on(connection, request, &timer).await, timing)
    }

    async fn connect(
        &self,
        replica: &Replica,
        timeouts: &Timeouts,
        preserve_header_case: bool,
    ) -> Result<UpstreamConnection, SendError> {
        let tls_store = self.tls_store.load_full();
        let open = UpstreamConnection::open(replica.origin(), &tls_store, timeouts.tcp_keepalive, preserve_header_case);
        match timeout(timeouts.connect, open).await {
            Ok(Ok(connection)) => {
                replica.port_state().record_connected();
                Ok(connection)
            }
            Ok(Err(error)) => {
                if is_refusal(&error) {
                    replica.port_state().record_refused(self.clock.now());
                }
                Err(SendError::from_connect_error(&error))
            }
            Err(Elapsed { .. }) => Err(SendError::timeout(Phase::Connect, "connection failed", timeouts.connect)),
        }
    }

    async fn send_on(
        &self,
        mut connection: UpstreamConnection,
        request: &UpstreamRequest,
        timer: &ResponseTimer<'_>,
    ) -> Result<UpstreamResponse, AttemptError> {
        let replica = timer.replica;
        let outgoing = request.for_origin(replica.origin());
        let response = match timer.wait_for_head(connection.send_request(outgoing)).await? {
            Ok(response) => response,
            Err(error) => {
                return Err(AttemptError {
                    error: SendError::new(Phase::FirstByte, "no response", &error),
                    stale_connection: connection.was_stale(),
                });
            }
        };
        let received_at = self.clock.now();
        let is_prompt = received_at.since(timer.answer_deadline.sent_at) < IDLE_TIMEOUT_DELAY;
        if connection.reused && is_prompt && classify::is_idle_timeout(&response) {
            let error = SendError::with_cause(Phase::FirstByte, "no response", response.status().to_string());
            return Err(AttemptError { error, stale_connection: true });
        }
        let (head, incoming) = response.into_parts();
        let (connection, upgraded) = match head.status {
            StatusCode::SWITCHING_PROTOCOLS if request.expectations.may_upgrade => (None, connection.into_upgraded()),
            StatusCode::SWITCHING_PROTOCOLS => return Err(SendError::unasked_upgrade().into()),
            _ => (Some(connection), None),
        };
        let mut body = UpstreamBody::new(incoming, connection, self.idle_connections.clone(), replica.id(), self.clock);
        let PeekResult { fault, format, is_readable_stream, observer, unknown_model } =
            peek::peek_response(&mut body, &head, &request.expectations, timer).await?;
        let outcome = match fault {
            Some(ResponseFault::Busy) => Outcome::Busy { retry_after: None },
            Some(_) => Outcome::Failed { phase: Phase::Stream },
            None => classify::classify_status(head.status, &head.headers, self.clock),
        };
        Ok(UpstreamResponse {
            head,
            received_at,
            outcome,
            fault,
            unknown_model,
            removes_usage: false,
            body,
            upgraded,
            format,
            is_readable_stream,
            observer,
            answer_deadline: timer.answer_deadline,
            total_deadline: timer.total_deadline,
        })
    }
}

/// Returns whether nothing listens at a replica's port, or at its Unix socket.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

struct AttemptError {
    error: SendError,
    /// Whether the replica had closed the idle connection, which is no failure of its own.
    stale_connection: bool,
}

impl From<SendError> for AttemptError {
    fn from(error: SendError) -> Self {
        Self { error, stale_connection: false }
    }
}

/// Records when the head was received.
///
/// *Errors*: the attempt failed.
fn record_timing(
    result: Result<UpstreamResponse, AttemptError>,
    timing: &mut Timing,
) -> Result<UpstreamResponse, SendError> {
    let response = result.map_err(|failed| failed.error)?;
    timing.head_received_at = Some(response.received_at);
    Ok(response)
}
