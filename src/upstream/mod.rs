//! Floor 3: from a lease to its replica and back: connections, sending, and relaying the answer.

mod answer;
mod body;
mod idle;
mod link;
mod relay;
mod trim;
mod wire;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body::Body as _;
use thiserror::Error;
use tokio::time::{error::Elapsed, timeout};

pub use answer::{Answer, AnswerBody};
pub use body::OutboundBody;
pub use relay::{Ending, Relayed, is_stream};

use crate::clock::Clock;
use crate::config::Timeouts;
use crate::fleet::{Origin, Outcome, Phase, Replica};
use crate::tls::Keyring;
use crate::units::{Moment, Timing};
use idle::IdleLinks;
use link::Link;

/// `ENFILE` and `EMFILE`, the same on every Unix: no descriptor is left, in the system or in the process.
const STARVED: [i32; 2] = [23, 24];

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
}

/// Why a replica gave no answer. No byte of one has been seen.
#[derive(Debug, Error)]
#[error("{what}: {cause}")]
pub struct Failure {
    /// How far the request had come.
    pub phase: Phase,
    /// The replica was given all the time there is.
    pub timed_out: bool,
    /// It is for want of something of our own: no file descriptor was left.
    ours: bool,
    what: &'static str,
    cause: String,
}

impl Failure {
    fn new(phase: Phase, what: &'static str, error: &dyn std::error::Error) -> Self {
        // hyper and io keep the telling part in the source.
        let cause = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self { phase, timed_out: false, ours: false, what, cause }
    }

    /// Whose fault it is.
    pub const fn outcome(&self) -> Outcome {
        if self.ours { Outcome::Ours } else { Outcome::Failed { phase: self.phase } }
    }

    fn late(phase: Phase, what: &'static str, waited: Duration) -> Self {
        Self { phase, timed_out: true, ours: false, what, cause: format!("nothing within {waited:?}") }
    }
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

    /// Sends `out` to `replica` and waits for the answer's head and its first frame.
    ///
    /// A head of 200 is held back until the body's first frame or `hold`, so that a replica that dies before its first
    /// token can still be replaced. A reused connection that turns out to be closed is replaced by a fresh one.
    ///
    /// *Errors*: no connection, or no answer: nothing has been seen of one, so the request may go elsewhere.
    /// `timing` is told at once when there is a connection, even if nobody waits for the answer.
    pub async fn send(
        &self,
        out: &Outbound,
        replica: &Replica,
        timeouts: &Timeouts,
        timing: &mut Timing,
    ) -> Result<Answer, Failure> {
        let now = self.clock.now();
        if let Some(link) = self.idle.take(replica.id(), now, timeouts.upstream_keepalive).await {
            timing.connected = Some(now);
            match self.ask(link, out, replica, timeouts).await {
                // Engines close idle connections whenever they like; that this one was is no fault of the replica.
                Err(Refused { stale: true, .. }) => timing.connected = None,
                answered => return told(answered, timing),
            }
        }
        let origin = replica.origin();
        let link = match timeout(timeouts.connect, Link::open(origin, &self.keyring.load_full())).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                let ours = error.raw_os_error().is_some_and(|code| STARVED.contains(&code));
                return Err(Failure { ours, ..Failure::new(Phase::Connect, "no connection", &error) });
            }
            Err(Elapsed { .. }) => return Err(Failure::late(Phase::Connect, "no connection", timeouts.connect)),
        };
        timing.connected = Some(self.clock.now());
        told(self.ask(link, out, replica, timeouts).await, timing)
    }

    async fn ask(
        &self,
        mut link: Link,
        out: &Outbound,
        replica: &Replica,
        timeouts: &Timeouts,
    ) -> Result<Answer, Refused> {
        let request = compose(out, replica.origin());
        let fail = |what, error: &hyper::Error| Failure::new(Phase::FirstByte, what, error);
        let head = match timeout(timeouts.first_byte, link.exchange(request)).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => {
                let stale = link.reused && (error.is_canceled() || error.is_incomplete_message() || is_cut(&error));
                return Err(Refused { failure: fail("no answer", &error), stale });
            }
            Err(Elapsed { .. }) => {
                let failure = Failure::late(Phase::FirstByte, "no answer", timeouts.first_byte);
                return Err(Refused { failure, stale: false });
            }
        };
        let came = self.clock.now();
        let (head, incoming) = head.into_parts();
        let mut body = AnswerBody::new(incoming, link, self.idle.clone(), replica.id(), self.clock);
        match timeout(timeouts.hold, body.prefetch()).await {
            Ok(Err(error)) => Err(Refused { failure: fail("the answer ended in its head", &error), stale: false }),
            Ok(Ok(())) | Err(Elapsed { .. }) => {
                let meaning = relay::meaning(head.status, &head.headers);
                Ok(Answer { meaning, came, usage_is_ours: false, head, body })
            }
        }
    }
}

struct Refused {
    failure: Failure,
    /// Nothing was wrong but the age of the connection.
    stale: bool,
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
