//! THE path of a proxied request: accept, identify, measure, choose and charge, forward, observe, settle.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;

use super::body::gather;
use super::measure::{Asked, measure};
use super::owners::Owner;
use super::reply::Source;
use super::search::search;
use super::story::Story;
use super::target::Call;
use super::tries::{Tries, Verdict};
use super::worker::Worker;
use super::{Refusal, identify};
use crate::balance::Job;
use crate::fleet::{Attempt, Lease, Phase};
use crate::prompt::splice;
use crate::telemetry::Level;
use crate::units::{Dialect, Timing};
use crate::upstream::{Answer, Failure, Outbound, OutboundBody, Relayed, is_stream};

const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What stays the same over all attempts of one request.
pub(super) struct Trip<'a> {
    pub(super) worker: &'a Worker,
    pub(super) call: &'a Call,
    pub(super) asked: &'a Asked,
    pub(super) body: &'a Bytes,
    /// The client's own `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

/// Sends a request to a replica and returns its answer as it begins.
///
/// *Errors*: the request is at fault, no replica can be chosen, or those that were gave no answer.
pub(super) async fn proxy(
    worker: &Worker,
    request: Request<Incoming>,
    call: &Call,
    story: &mut Story,
) -> Result<Response<Source>, Refusal> {
    let app = &worker.app;
    let (head, body) = request.into_parts();
    let body = gather(body, &head.headers, &app.budget, &app.settings.limits, app.settings.timeouts.body).await?;
    let complete = app.clock.now();
    let asked = measure(call.body, &head.headers, &body.bytes).await?;
    story.gathered(body.bytes.len());
    story.model.clone_from(&asked.model);
    let authorization = head.headers.get(header::AUTHORIZATION).cloned();
    let trip = Trip { worker, call, asked: &asked, body: &body.bytes, authorization };
    let mut out = Outbound {
        headers: identify::forward(&head, story.peer(), &story.id, call.dialect != Dialect::Other),
        method: head.method,
        path: call.path.clone(),
        body: OutboundBody::default(),
    };
    let owner = call.response.as_ref().or(asked.previous_response.as_ref()).and_then(|id| app.owners.get(id, complete));
    if call.response.is_some() && owner.is_none() {
        return search(&trip, out, story).await;
    }
    let pool = match &owner {
        Some(owner) => &owner.pool,
        None => call.site.pool(asked.model.as_deref()).map_err(|why| (why, asked.model.as_deref()))?,
    };
    let attempt = Attempt { pinned: owner.as_ref().map(|owner| owner.replica), ..trip.attempt(story) };
    let mut tries = Tries::new(app, pool.clone(), attempt);
    let mut lease = tries.admit()?;
    loop {
        story.tries(&lease, complete);
        trip.address(&mut out, &lease);
        match trip.send(&out, &lease, story).await {
            Ok(mut answer) => match tries.judge(&mut answer, lease) {
                Verdict::Relay(lease) => return Ok(trip.relay(answer, lease)),
                Verdict::Again(next) => {
                    story.complain(Level::Warn, Phase::FirstByte, &answer.head.status);
                    lease = next;
                }
            },
            Err(failure) => {
                tries.lost(failure, lease)?;
                lease = tries.admit()?;
            }
        }
    }
}

impl<'a> Trip<'a> {
    /// The first try of this request.
    pub(super) fn attempt(&self, story: &Story) -> Attempt<'a> {
        Attempt {
            job: Job { prompt: self.asked.prompt, key: self.asked.key.as_bytes(), client: story.peer().address() },
            model: self.asked.model.as_deref(),
            pinned: None,
            tried: Vec::new(),
        }
    }

    /// Makes the request fit the replica that was chosen: its own name for the model, its pool's key.
    pub(super) fn address(&self, out: &mut Outbound, lease: &Lease) {
        let wanted = self.asked.model.as_deref();
        let renamed = wanted.and_then(|model| lease.model_for(model)).and_then(|name| self.asked.rename(name.as_str()));
        // An edit that does not fit leaves the body as the client sent it, and the replica refuses the alias.
        out.body = match renamed.and_then(|edit| splice(self.body, vec![edit]).ok()) {
            Some(pieces) => pieces.into_iter().collect(),
            None => [self.body.clone()].into_iter().collect(),
        };
        // One pool's key must not reach the pool that takes over from it.
        let key = lease.pool().api_key().and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok());
        match key.or_else(|| self.authorization.clone()) {
            Some(value) => out.headers.insert(header::AUTHORIZATION, value),
            None => out.headers.remove(header::AUTHORIZATION),
        };
    }

    /// Sends the request to the replica that was chosen; the story follows.
    pub(super) async fn send(&self, out: &Outbound, lease: &Lease, story: &mut Story) -> Result<Answer, Failure> {
        let mut nowhere = Timing::default();
        let sent = self.worker.upstream.send(out, lease.replica(), story.timing().unwrap_or(&mut nowhere)).await;
        match &sent {
            Ok(answer) => story.answered(answer.head.status, &answer.head.headers),
            Err(failure) => story.failed(failure),
        }
        sent
    }

    /// Passes an answer on; the lease goes with its body.
    pub(super) fn relay(&self, answer: Answer, lease: Lease) -> Response<Source> {
        let app = &self.worker.app;
        let owner = Owner { pool: lease.pool().clone(), replica: lease.replica().id() };
        let name = HeaderValue::try_from(&**lease.replica().name()).ok().filter(|_| app.settings.x_upstream);
        let (head, relayed) = Relayed::new(answer, lease, self.call.dialect, &app.settings.timeouts, app.clock);
        let owner = (self.call.dialect == Dialect::Responses).then_some(owner);
        let mut response = Response::new(Source::Replica(Box::new(relayed), owner));
        *response.status_mut() = head.status;
        let mut headers = head.headers;
        identify::strip_hop_by_hop(&mut headers);
        if is_stream(&headers) {
            // Proxies before us must neither gather nor keep what comes.
            headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        }
        if let Some(name) = name {
            headers.insert(X_UPSTREAM, name);
        }
        *response.headers_mut() = headers;
        response
    }
}
