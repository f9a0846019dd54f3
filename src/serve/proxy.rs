//! THE path of a proxied request: accept, identify, measure, choose and charge, forward, observe, settle.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use super::body::gather;
use super::key::evaluate;
use super::measure::{Asked, Reading, measure};
use super::owners::Owner;
use super::reply::Source;
use super::search::search;
use super::story::Story;
use super::target::Call;
use super::worker::Worker;
use super::{Refusal, identify};
use crate::balance::Job;
use crate::fleet::{Attempt, Lease, NoReplica, Outcome, Phase, Pool};
use crate::prompt::splice;
use crate::telemetry::Level;
use crate::units::Dialect;
use crate::upstream::{Answer, Failure, Outbound, OutboundBody, Relayed, is_stream};

const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Pools that take over for each other are followed at most this far; the configuration refuses circles.
const FALLBACKS: usize = 8;

/// How often a request that a replica closed unanswered is sent to another one.
const REPLAYS: u32 = 1;

/// What stays the same over all attempts of one request.
pub(super) struct Trip<'a> {
    pub(super) worker: &'a Worker,
    pub(super) call: &'a Call,
    pub(super) head: &'a Parts,
    pub(super) asked: &'a Asked,
    pub(super) body: &'a Bytes,
    /// The client's own `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

/// What has gone wrong with a request so far.
struct Lost {
    last: Failure,
    /// Attempts that reached a replica and were closed there without an answer.
    closed: u32,
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
    let reading = Reading { kind: call.body, keyed: app.fleet.asks_body() };
    let asked = measure(reading, &head.headers, &body.bytes).await?;
    story.model.clone_from(&asked.model);
    let authorization = head.headers.get(header::AUTHORIZATION).cloned();
    let trip = Trip { worker, call, head: &head, asked: &asked, body: &body.bytes, authorization };
    let mut out = Outbound {
        headers: identify::forward(&head, story.peer, &story.id, call.dialect != Dialect::Other),
        method: head.method.clone(),
        path: call.path.clone(),
        body: OutboundBody::default(),
    };
    let owner = call.response.as_ref().or(asked.previous_response.as_ref()).and_then(|id| app.owners.get(id, complete));
    if call.response.is_some() && owner.is_none() {
        return search(&trip, out, story).await;
    }
    let mut pool = match &owner {
        Some(owner) => owner.pool.clone(),
        None => call.site.pool(asked.model.as_deref()).map_err(|why| (why, asked.model.as_deref()))?.clone(),
    };
    let mut attempt = trip.attempt(story);
    attempt.pinned = owner.map(|owner| owner.replica);
    let mut lost = None;
    loop {
        let lease = admit(&trip, &mut pool, &mut attempt, lost.as_ref(), story)?;
        story.sent(lease.replica(), complete);
        trip.address(&mut out, &lease);
        match worker.upstream.send(&out, lease.replica()).await {
            Ok(answer) => return Ok(trip.relay(answer, lease)),
            Err(failure) => lost = Some(after(failure, lease, &mut attempt, lost, story)?),
        }
    }
}

/// Chooses and charges a replica, of the pool's fallback if the pool has none.
fn admit(
    trip: &Trip<'_>,
    pool: &mut Arc<Pool>,
    attempt: &mut Attempt<'_>,
    lost: Option<&Lost>,
    story: &Story,
) -> Result<Lease, Refusal> {
    let app = &trip.worker.app;
    let mut none = NoReplica::AllDown;
    for _ in 0..=FALLBACKS {
        none = match choose(trip, pool, attempt, story) {
            Ok(lease) => return Ok(lease),
            Err(none) => none,
        };
        let next = pool.fallback().filter(|_| attempt.pinned.is_none()).and_then(|name| app.fleet.pool(name));
        let Some(next) = next else { break };
        *pool = next;
        // The pool that helps out has its own name for the model.
        attempt.model = None;
    }
    // The client is better served by what happened to its request than by "all tried".
    Err(lost.map_or(Refusal::NoReplica(none), |lost| Refusal::lost(&lost.last)))
}

/// Chooses and charges a replica of one pool, with the key that its policy wants.
fn choose(trip: &Trip<'_>, pool: &Arc<Pool>, attempt: &Attempt<'_>, story: &Story) -> Result<Lease, NoReplica> {
    let app = &trip.worker.app;
    let chosen = match pool.key() {
        None => pool.acquire(attempt, app.clock.now()),
        Some(key) => {
            let key = evaluate(key, trip, story);
            let job = Job { key: &key, ..attempt.job };
            pool.acquire(&Attempt { job, ..attempt.clone() }, app.clock.now())
        }
    };
    if pool.take_lopsided() {
        let (pool, policy) = (pool.name(), pool.policy());
        let message =
            format_args!("pool {pool}: more than 80 % of 1,000 requests had one key, so `{policy}` hardly balances");
        app.errors.write(Level::Warn, message);
    }
    chosen
}

/// Settles a lost attempt and decides whether another replica is asked: after a failed connection as long as there is
/// one that was not tried, after a closed one once. Nothing of an answer has been seen in either case.
fn after(
    failure: Failure,
    lease: Lease,
    attempt: &mut Attempt<'_>,
    before: Option<Lost>,
    story: &Story,
) -> Result<Lost, Refusal> {
    let closed = before.map_or(0, |lost| lost.closed) + u32::from(failure.phase == Phase::FirstByte);
    story.complain(Level::Warn, failure.phase, &failure);
    attempt.tried.push(lease.replica().id());
    lease.settle(Outcome::Failed { phase: failure.phase }, story.now());
    if attempt.pinned.is_some() || failure.timed_out && failure.phase != Phase::Connect || closed > REPLAYS {
        return Err(Refusal::lost(&failure));
    }
    Ok(Lost { last: failure, closed })
}

impl<'a> Trip<'a> {
    /// The first try of this request.
    pub(super) fn attempt(&self, story: &Story) -> Attempt<'a> {
        Attempt {
            job: Job { prompt: self.asked.prompt, key: b"", client: story.peer.address(), tried: &[] },
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
