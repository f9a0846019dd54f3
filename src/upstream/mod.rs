//! Floor 3: from a lease to its replica and back: connections, sending, and relaying the answer.

mod answer;
mod body;
mod failure;
mod hold;
mod idle;
mod link;
mod meaning;
mod pulse;
mod relay;
mod sieve;
mod wire;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body::Body as _;
use tokio::time::{error::Elapsed, timeout};

pub use answer::{Answer, AnswerBody};
pub use body::OutboundBody;
pub use failure::Failure;
pub use hold::Fault;
pub use relay::{Ending, Relayed, is_stream};

use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Lease, Origin, Outcome, Phase, Replica};
use crate::tls::Keyring;
use crate::units::{Dialect, Moment, Timing};
use hold::{Patience, Shown};
use idle::IdleLinks;
use link::Link;

/// A request as it goes to a replica. The path is the one behind the replica's prefix.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The method.
    pub method: Method,
    /// Path and query, `/v1/...`.
    pub path: String,
    /// Headers, hop-by-hop ones taken out; `Content-Length` is set on sending, `Host` is
    /// the replica's authority unless it is here.
    pub headers: HeaderMap,
    /// The body.
    pub body: OutboundBody,
    /// What is known of the answer.
    pub errand: Errand,
}

/// What is known of a request's answer before it comes.
#[derive(Clone, Copy, Debug)]
pub struct Errand {
    /// The shape of the answer.
    pub dialect: Dialect,
    /// A JSON answer is held until it is complete: another replica can answer as well.
    pub holds_json: bool,
    /// When the whole of it must have come; `None` for no limit.
    pub until: Option<Moment>,
}

/// One worker's way to the replicas, with its own idle connections. Never shared between threads.
#[derive(Clone)]
pub struct Upstream {
    idle: Rc<IdleLinks>,
    clock: Clock,
    keyring: Arc<ArcSwap<Keyring>>,
}

impl Upstream {
    /// No connection is opened before there is a request for it. New ones are secured with what `keyring` holds then.
    pub fn new(clock: Clock, keyring: Arc<ArcSwap<Keyring>>) -> Self {
        Self { idle: Rc::default(), clock, keyring }
    }

    /// Closes connections that have been idle for too long; to be called about every second.
    pub fn sweep(&self, timeouts: &Timeouts) {
        self.idle.sweep(self.clock.now(), timeouts.upstream_keepalive);
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
        out: &Outbound,
        lease: &Lease,
        timeouts: &Timeouts,
        timing: &mut Timing,
    ) -> Result<Answer, Failure> {
        let replica = lease.replica();
        let now = self.clock.now();
        // A long prompt takes long to read: 1 s for each 1,000 tokens.
        let first_byte = timeouts.first_byte + Duration::from_millis(lease.prompt().0);
        let (first_by, until) = (now + first_byte, out.errand.until);
        let (clock, pool) = (self.clock, lease.pool());
        let mut patience = Patience { clock, timeouts, pool, replica, first_byte, first_by, until };
        if let Some(link) = self.idle.take(replica.id(), now, timeouts.upstream_keepalive).await {
            timing.connected = Some(now);
            match self.ask(link, out, &patience).await {
                // Engines close idle connections whenever they like; that this one was is no fault of the replica.
                Err(Refused { stale: true, .. }) => timing.connected = None,
                answered => return told(answered, timing),
            }
        }
        let link = self.connect(replica, timeouts).await?;
        let connected = self.clock.now();
        timing.connected = Some(connected);
        patience.first_by = connected + first_byte;
        told(self.ask(link, out, &patience).await, timing)
    }

    async fn connect(&self, replica: &Replica, timeouts: &Timeouts) -> Result<Link, Failure> {
        match timeout(timeouts.connect, Link::open(replica.origin(), &self.keyring.load_full())).await {
            Ok(Ok(link)) => {
                replica.door().opened();
                Ok(link)
            }
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    replica.door().refused(self.clock.now());
                }
                Err(Failure::unconnected(&error))
            }
            Err(Elapsed { .. }) => Err(Failure::late(Phase::Connect, "no connection", timeouts.connect)),
        }
    }

    async fn ask(&self, mut link: Link, out: &Outbound, patience: &Patience<'_>) -> Result<Answer, Refused> {
        let replica = patience.replica;
        let request = compose(out, replica.origin());
        let head = match patience.head(link.exchange(request)).await? {
            Ok(head) => head,
            Err(error) => {
                let stale = link.reused && (error.is_canceled() || error.is_incomplete_message() || is_cut(&error));
                return Err(Refused { failure: Failure::new(Phase::FirstByte, "no answer", &error), stale });
            }
        };
        let came = self.clock.now();
        let (head, incoming) = head.into_parts();
        let mut body = AnswerBody::new(incoming, link, self.idle.clone(), replica.id(), self.clock);
        let Shown { fault, observer, waits } = hold::hold(&mut body, &head, &out.errand, patience).await?;
        let meaning = match fault {
            Some(_) => Outcome::Failed { phase: Phase::Stream },
            None => meaning::meaning(head.status, &head.headers, self.clock),
        };
        let (first_by, until) = (patience.first_by, patience.until);
        Ok(Answer { meaning, fault, came, usage_is_ours: false, head, body, observer, waits, first_by, until })
    }
}

struct Refused {
    failure: Failure,
    /// Nothing was wrong but the age of the connection.
    stale: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, stale: false }
    }
}

/// Notes when the head came.
fn told(answered: Result<Answer, Refused>, timing: &mut Timing) -> Result<Answer, Failure> {
    let answer = answered.map_err(|refused| refused.failure)?;
    timing.head = Some(answer.came);
    Ok(answer)
}

fn compose(out: &Outbound, origin: &Origin) -> Request<OutboundBody> {
    let mut request = Request::new(out.body.clone());
    *request.method_mut() = out.method.clone();
    *request.headers_mut() = out.headers.clone();
    // `path` came in as part of a valid URI and the prefix from a configured one, so neither can fail.
    *request.uri_mut() = match origin.prefix() {
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
fn is_cut(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// The earliest moment a link counts as too old, for tests and sweeps alike.
fn is_stale(idle_since: Moment, now: Moment, keep: Duration) -> bool {
    now.since(idle_since) >= keep
}
