//! Floor 3: from a lease to its replica and back: connections, sending, and relaying the answer.

mod classify;
mod connection;
mod error;
mod event_filter;
mod idle_connections;
mod peek;
mod relay;
mod request_body;
mod response;
mod stream_timer;
mod transport;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body::Body as _;
use tokio::time::{error::Elapsed, timeout};

pub use error::SendError;
pub use peek::ResponseFault;
pub use relay::{RelayBody, RelayResult};
pub use request_body::RequestBody;
pub use response::{UpstreamBody, UpstreamResponse};

use crate::clock::Clock;
use crate::config::Timeouts;
use crate::dialect::Dialect;
use crate::fleet::{Lease, Origin, Outcome, Phase, Replica};
use crate::tls::TlsStore;
use crate::units::{Moment, Timing};
use connection::UpstreamConnection;
use idle_connections::IdleConnections;
use peek::{PeekResult, ResponseTimer};

/// A request as it goes to a replica. The path is the one behind the replica's prefix.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query, `/v1/...`.
    pub path: String,
    /// Headers, hop-by-hop ones taken out; `BodyContent-Length` is set on sending, `Host` is
    /// the replica's authority unless it is here.
    pub headers: HeaderMap,
    /// The body.
    pub body: RequestBody,
    /// What is known of the answer.
    pub expectations: ResponseExpectations,
}

/// What is known of a request's answer before it comes.
#[derive(Clone, Copy, Debug)]
pub struct ResponseExpectations {
    /// The shape of the answer.
    pub dialect: Dialect,
    /// A JSON answer is held until it is complete: another replica can answer as well.
    pub buffer_json: bool,
    /// When the whole of it must have come; `None` for no limit.
    pub total_deadline: Option<Moment>,
}

/// One worker's way to the replicas, with its own idle connections. Never shared between threads.
#[derive(Clone)]
pub struct UpstreamClient {
    idle_connections: Rc<IdleConnections>,
    clock: Clock,
    tls_store: Arc<ArcSwap<TlsStore>>,
}

impl UpstreamClient {
    /// No connection is opened before there is a request for it. New ones are secured with what `keyring` holds then.
    pub fn new(clock: Clock, keyring: Arc<ArcSwap<TlsStore>>) -> Self {
        Self { idle_connections: Rc::default(), clock, tls_store: keyring }
    }

    /// Closes connections that have been idle for too long; to be called about every second.
    pub fn sweep(&self, timeouts: &Timeouts) {
        self.idle_connections.sweep(self.clock.now(), timeouts.upstream_keepalive);
    }

    /// Sends `out` to the leased replica and waits until the answer shows whether it is worth passing on.
    ///
    /// A stream is held until its first event, or `hold`; a JSON answer of up to 1 MiB until it is complete, if
    /// `out.errand` says so; any other until its first byte, or `hold`. Until then a replica that fails can still be
    /// replaced. A reused connection that turns out to be closed is replaced by a fresh one.
    ///
    /// *Errors*: no connection, no answer, or one that broke off: the client has nothing of it, so the request may go
    /// elsewhere. `timing` is told at once when there is a connection, even if nobody waits for the answer.
    pub async fn send(
        &self,
        out: &UpstreamRequest,
        lease: &Lease,
        timeouts: &Timeouts,
        timing: &mut Timing,
    ) -> Result<UpstreamResponse, SendError> {
        let replica = lease.replica();
        let now = self.clock.now();
        // A long prompt takes long to read: 1 s for each 1,000 tokens.
        let first_byte = timeouts.first_byte + Duration::from_millis(lease.prompt().0);
        let (first_by, until) = (now + first_byte, out.expectations.total_deadline);
        let (clock, pool) = (self.clock, lease.pool());
        let mut patience = ResponseTimer {
            clock,
            timeouts,
            pool,
            replica,
            first_byte_timeout: first_byte,
            first_byte_deadline: first_by,
            total_deadline: until,
        };
        if let Some(link) = self.idle_connections.acquire(replica.id(), now, timeouts.upstream_keepalive).await {
            timing.connected_at = Some(now);
            match self.send_on(link, out, &patience).await {
                // Engines close idle connections whenever they like; that this one was is no fault of the replica.
                Err(AttemptError { stale_connection: true, .. }) => timing.connected_at = None,
                answered => return record_timing(answered, timing),
            }
        }
        let link = self.connect(replica, timeouts).await?;
        let connected = self.clock.now();
        timing.connected_at = Some(connected);
        patience.first_byte_deadline = connected + first_byte;
        record_timing(self.send_on(link, out, &patience).await, timing)
    }

    async fn connect(&self, replica: &Replica, timeouts: &Timeouts) -> Result<UpstreamConnection, SendError> {
        match timeout(timeouts.connect, UpstreamConnection::open(replica.origin(), &self.tls_store.load_full())).await {
            Ok(Ok(link)) => {
                replica.port_state().record_connected();
                Ok(link)
            }
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    replica.port_state().record_refused(self.clock.now());
                }
                Err(SendError::from_connect_error(&error))
            }
            Err(Elapsed { .. }) => Err(SendError::timeout(Phase::Connect, "no connection", timeouts.connect)),
        }
    }

    async fn send_on(
        &self,
        mut link: UpstreamConnection,
        out: &UpstreamRequest,
        patience: &ResponseTimer<'_>,
    ) -> Result<UpstreamResponse, AttemptError> {
        let replica = patience.replica;
        let request = build_request(out, replica.origin());
        let head = match patience.wait_for_head(link.send_request(request)).await? {
            Ok(head) => head,
            Err(error) => {
                let stale = link.reused
                    && (error.is_canceled() || error.is_incomplete_message() || is_unclean_tls_close(&error));
                return Err(AttemptError {
                    error: SendError::new(Phase::FirstByte, "no answer", &error),
                    stale_connection: stale,
                });
            }
        };
        let came = self.clock.now();
        let (head, incoming) = head.into_parts();
        let mut body = UpstreamBody::new(incoming, link, self.idle_connections.clone(), replica.id(), self.clock);
        let PeekResult { fault, observer, no_event_yet: waits } =
            peek::peek_response(&mut body, &head, &out.expectations, patience).await?;
        let meaning = match fault {
            Some(_) => Outcome::Failed { phase: Phase::Stream },
            None => classify::classify_status(head.status, &head.headers, self.clock),
        };
        let (first_by, until) = (patience.first_byte_deadline, patience.total_deadline);
        Ok(UpstreamResponse {
            outcome: meaning,
            fault,
            received_at: came,
            router_requested_usage: false,
            head,
            body,
            observer,
            no_event_yet: waits,
            first_byte_deadline: first_by,
            total_deadline: until,
        })
    }
}

struct AttemptError {
    error: SendError,
    /// Nothing was wrong but the age of the connection.
    stale_connection: bool,
}

impl From<SendError> for AttemptError {
    fn from(failure: SendError) -> Self {
        Self { error: failure, stale_connection: false }
    }
}

/// Notes when the head came.
fn record_timing(
    answered: Result<UpstreamResponse, AttemptError>,
    timing: &mut Timing,
) -> Result<UpstreamResponse, SendError> {
    let answer = answered.map_err(|refused| refused.error)?;
    timing.head_received_at = Some(answer.received_at);
    Ok(answer)
}

fn build_request(out: &UpstreamRequest, origin: &Origin) -> Request<RequestBody> {
    let mut request = Request::new(out.body.clone());
    *request.method_mut() = out.method.clone();
    *request.headers_mut() = out.headers.clone();
    // `path` came in as part of a valid URI and the prefix from a configured one, so neither can fail.
    *request.uri_mut() = match origin.path_prefix() {
        "" => Uri::try_from(out.path.as_str()),
        prefix => Uri::try_from(format!("{prefix}{}", out.path)),
    }
    .unwrap_or_default();
    if !out.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(origin.authority())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    // Of itself hyper says nothing of an empty body, and simple servers cannot do without: RFC 9110, section 8.6.
    if out.body.is_end_stream() && matches!(out.method, Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    request
}

/// Tells whether a TLS connection was closed without the farewell that TLS asks for, as many servers do.
fn is_unclean_tls_close(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// The earliest moment a link counts as too old, for tests and sweeps alike.
fn is_expired(idle_since: Moment, now: Moment, keep: Duration) -> bool {
    now.since(idle_since) >= keep
}
