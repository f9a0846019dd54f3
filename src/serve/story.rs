//! The story of one request, told to the access log and the metrics when it is over, however it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::admission::X_API_KEY;
use super::crowd::Place;
use super::framing::{self, Framing};
use super::identify::Caller;
use super::owners::Owner;
use super::refusal::{NO, Refusal, X_SHOULD_RETRY};
use super::tally::Load;
use super::visit::{Present, Visit};
use super::{App, headers};
use crate::config::{HeaderTables, Settings};
use crate::fleet::{Lease, Phase, Pool};
use crate::telemetry::{AccessLog, Asked, Facts, Generated, Kept, Level, Needs, Sent, Spent, Tries, Wire};
use crate::tenants::Tenant;
use crate::units::{Moment, Timing};
use crate::upstream::{Ending, Failure};

/// nginx's status for a client that left before it was answered.
const CLIENT_CLOSED_REQUEST: u16 = 499;
const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");
const X_DECISION: HeaderName = HeaderName::from_static("x-decision");

/// What there is to tell of one request. Dropping it tells it.
pub(super) struct Story {
    app: Arc<App>,
    /// Where it is told in the end.
    log: Option<Arc<AccessLog>>,
    /// Those that the request began with.
    pub(super) settings: Arc<Settings>,
    /// Whose key it shows.
    pub(super) tenant: Option<Arc<Tenant>>,
    /// Its place among the requests for replicas.
    pub(super) place: Option<Place>,
    /// The request is one of its connection's until the story ends.
    present: Option<Present>,
    /// The request counts as an open stream of its worker until the story ends.
    _load: Load,
    pub(super) id: String,
    pub(super) caller: Caller,
    request: Asked,
    arrived: Moment,
    pub(super) sent: Sent,
    pub(super) model: Option<String>,
    tries: Tries,
    /// How the last try's replica was chosen, where answers tell so.
    decision: Option<String>,
    overhead: Option<Duration>,
    pub(super) ending: Option<Ending>,
    /// Only where the log's format needs it.
    kept: Option<Box<Kept>>,
}

impl Story {
    /// A new story; `who` is the caller and the request's id.
    pub(super) fn new(
        app: Arc<App>,
        settings: &Arc<Settings>,
        load: Load,
        head: &Parts,
        who: (Caller, String),
    ) -> Self {
        let (caller, id) = who;
        let log = app.access.load_full();
        let logged = log.as_ref().map(|log| log.needs()).filter(|needs| needs.any());
        let set = Some(&settings.headers).filter(|headers| headers.any()).map(HeaderTables::needs);
        let kept = (logged.is_some() || set.is_some()).then(|| {
            let mut asked = select(logged, set, |needs| &needs.asked, &head.headers);
            if !settings.tenants.is_empty() {
                // Keys of ours are for us: no log and no replica gets them.
                asked.remove(header::AUTHORIZATION);
                asked.remove(X_API_KEY);
            }
            let sizes = logged.is_some_and(|needs| needs.sizes) || set.is_some_and(|needs| needs.sizes);
            let request_bytes = if sizes { framing::request_bytes(head) } else { 0 };
            let head_bytes = if sizes { framing::closing_bytes(head) } else { 0 };
            Box::new(Kept { asked, request_bytes, head_bytes, ..Kept::default() })
        });
        Self {
            arrived: app.clock.now(),
            request: Asked {
                method: head.method.clone(),
                uri: head.uri.clone(),
                version: head.version,
                nth: 1,
                wire: Wire::default(),
            },
            app,
            log,
            settings: settings.clone(),
            tenant: None,
            place: None,
            present: None,
            _load: load,
            id,
            caller,
            sent: Sent::default(),
            model: None,
            tries: Tries::default(),
            decision: None,
            overhead: None,
            ending: None,
            kept,
        }
    }

    /// Notes the connection that the request came by.
    pub(super) fn came_by(&mut self, visit: &Visit, present: Present) {
        self.request.nth = visit.requests.get();
        self.request.wire = visit.wire;
        self.present = Some(present);
    }

    /// Notes whose key the request shows.
    pub(super) fn is_of(&mut self, tenant: Option<Arc<Tenant>>) {
        self.caller.known = tenant.is_some();
        self.tenant = tenant;
    }

    /// Finishes an answer of ours to a request that could not be served: when it may be asked again, if at all.
    pub(super) fn advise<B>(&self, refusal: &Refusal, answer: &mut Response<B>) {
        let known = self.place.as_ref().filter(|_| refusal.is_full()).and_then(|place| place.wait(self.now()));
        if let Some(seconds) = known {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Two replicas have died of it, or of something that two replicas have in common.
        if matches!(refusal, Refusal::Closed) && self.tries.iter().count() > 1 {
            answer.headers_mut().insert(X_SHOULD_RETRY, NO);
        }
    }

    /// Notes the size of the request's body.
    pub(super) fn gathered(&mut self, bytes: usize) {
        if let Some(present) = &self.present {
            present.visit().owes(false);
        }
        if let Some(kept) = &mut self.kept {
            kept.request_bytes += bytes as u64;
        }
    }

    /// Notes the pool that the request is for.
    pub(super) fn enters(&mut self, pool: &Arc<Pool>) {
        if let Some(kept) = &mut self.kept {
            kept.pool = Some(pool.clone());
        }
    }

    /// Notes the replica that is tried now, and what the router took to come to it since the body was complete.
    pub(super) fn tries(&mut self, lease: &Lease, complete: Moment) {
        let now = self.app.clock.now();
        self.tried(now);
        self.tries.begin(lease.replica(), now);
        self.decision = if self.settings.explain_header { lease.decision() } else { None };
        if self.overhead.is_none() {
            self.overhead = Some(now.since(complete));
        }
        self.enters(lease.pool());
    }

    /// Sets the headers that the configuration wants on a request to the replica that is tried now.
    pub(super) fn dress_request(&self, asked: &mut HeaderMap) {
        let lines = &self.settings.headers.of(self.pool()).request;
        if !lines.is_empty() {
            self.tell(self.sent.status, |facts| headers::replace(lines, asked, facts));
        }
    }

    /// Sets the headers that the configuration wants on an answer, the replica's or our own.
    pub(super) fn dress_answer<B>(&mut self, answer: &mut Response<B>) {
        let settings = &self.settings;
        let lines = &settings.headers.of(self.pool()).response;
        let named = lines.iter().any(|line| line.name == X_UPSTREAM);
        if settings.x_upstream
            && !named
            && let Some(tried) = self.tries.last()
            && let Ok(name) = HeaderValue::try_from(&**tried.replica.name())
        {
            answer.headers_mut().insert(X_UPSTREAM, name);
        }
        if let Some(decision) = self.decision.as_ref().and_then(|line| HeaderValue::try_from(line).ok()) {
            answer.headers_mut().insert(X_DECISION, decision);
        }
        if !lines.is_empty() {
            if let Some(kept) = &mut self.kept {
                kept.sent = Needs::select(&settings.headers.needs().sent, answer.headers());
            }
            let status = answer.status().as_u16();
            self.tell(status, |facts| headers::add(lines, answer.headers_mut(), facts));
        }
    }

    fn pool(&self) -> Option<&str> {
        Some(self.kept.as_ref()?.pool.as_ref()?.name())
    }

    /// Where the present try's steps are noted.
    pub(super) fn timing(&mut self) -> Option<&mut Timing> {
        self.tries.last_mut().map(|attempt| &mut attempt.timing)
    }

    /// Notes the head of a replica's answer, as it came.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(attempt) = self.tries.last_mut() {
            attempt.status = Some(status.as_u16());
        }
        if let Some(kept) = &mut self.kept {
            let logged = self.log.as_ref().map(|log| log.needs());
            kept.upstream = select(logged, Some(self.settings.headers.needs()), |needs| &needs.upstream, headers);
        }
    }

    /// Notes that no answer came, with the status that nginx gives it.
    pub(super) fn failed(&mut self, failure: &Failure) {
        if let Some(attempt) = self.tries.last_mut() {
            attempt.status = Some(if failure.timed_out { 504 } else { 502 });
        }
        self.complain(Level::Warn, failure.phase, failure);
    }

    /// Notes what goes to the client. Returns how the end of its body will be told.
    pub(super) fn begins<B>(&mut self, answer: &Response<B>, length: Option<u64>) -> Framing {
        self.sent.status = answer.status().as_u16();
        let framing = Framing::of(&self.request, answer, length);
        let Some((kept, log)) = self.kept.as_mut().zip(self.log.as_ref()) else { return framing };
        let needs = log.needs();
        let wanted = needs.sizes || !needs.sent.is_empty();
        let added = if wanted { framing.header(&self.request, answer, length) } else { None };
        kept.sent = Needs::select(&needs.sent, answer.headers());
        if needs.sizes {
            // It holds what `connection: close` adds until here.
            kept.head_bytes += framing::answer_bytes(answer, added.as_ref());
        }
        if let Some((name, value)) = added.filter(|(name, _)| needs.sent.contains(name)) {
            kept.sent.insert(name, value);
        }
        framing
    }

    /// The connection where it is this answer's alone: in HTTP/1.
    pub(super) fn lane(&self) -> Option<&Visit> {
        self.present.as_ref().map(Present::visit).filter(|visit| visit.is_lane())
    }

    pub(super) fn now(&self) -> Moment {
        self.app.clock.now()
    }

    /// Writes what went wrong at the replica that was tried last into the error log.
    pub(super) fn complain(&self, level: Level, phase: Phase, cause: &dyn fmt::Display) {
        let replica = self.tries.last().map_or("-", |attempt| &**attempt.replica.name());
        let phase = phase.as_str();
        self.app.errors.write(level, format_args!("request {} on {replica} failed at {phase}: {cause}", self.id));
    }

    /// Remembers who holds the response with this id.
    pub(super) fn remember(&self, id: &str, owner: Owner) {
        let owner = Owner { tenant: self.tenant.as_ref().map(|tenant| tenant.name.clone()), ..owner };
        self.app.owners.put(id, owner, self.app.clock.now());
    }

    /// Ends the try under way.
    fn tried(&mut self, now: Moment) {
        if let Some(attempt) = self.tries.last_mut() {
            attempt.timing.ended.get_or_insert(now);
        }
    }

    /// Shows what is known by now.
    fn tell<T>(&self, status: u16, told: impl FnOnce(&Facts<'_>) -> T) -> T {
        let ending = self.ending.as_ref();
        told(&Facts {
            id: &self.id,
            client: &self.caller.client.text(),
            request: &self.request,
            sent: Sent { status, ..self.sent },
            tries: &self.tries,
            generated: Generated {
                model: self.model.as_deref(),
                usage: ending.and_then(|e| e.usage),
                first: ending.and_then(|e| e.first_token),
            },
            spent: Spent {
                arrived: self.arrived,
                ended: self.app.clock.now(),
                overhead: self.overhead,
                time_of_day: self.app.clock.time_of_day(),
            },
            tenant: self.tenant.as_ref().map(|tenant| &*tenant.name),
            outcome: self.outcome(),
            kept: self.kept.as_deref(),
        })
    }

    fn outcome(&self) -> &'static str {
        match (&self.ending, self.sent.status) {
            (Some(ending), _) => ending.outcome.map_or("client_gone", |outcome| outcome.as_str()),
            (None, 0) => "client_gone",
            (None, 1..=399) => "completed",
            (None, 400..=499) => "refused",
            (None, _) => "failed",
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.app.metrics.answered(self.sent.status, self.overhead);
        let usage = self.ending.as_ref().and_then(|ending| ending.usage);
        if let Some(tenant) = &self.tenant {
            self.app.metrics.answered_to(&tenant.name, self.sent.status, usage);
        }
        if let Some((place, usage)) = self.place.as_ref().zip(usage) {
            place.ended(usage.prompt + usage.completion, self.now());
        }
        let Some(log) = self.log.take() else { return };
        let ended = self.app.clock.now();
        let tried = self.ending.as_ref().and_then(|ending| ending.ended).unwrap_or(ended);
        if let Some(attempt) = self.tries.last_mut() {
            attempt.timing.ended.get_or_insert(tried);
        }
        let status = if self.sent.status == 0 { CLIENT_CLOSED_REQUEST } else { self.sent.status };
        self.tell(status, |facts| log.write(facts));
    }
}

/// The headers that the log or the configured headers need.
fn select(
    logged: Option<&Needs>,
    set: Option<&Needs>,
    which: impl Fn(&Needs) -> &[HeaderName],
    headers: &HeaderMap,
) -> HeaderMap {
    let logged = logged.map(&which).unwrap_or_default();
    let mut kept = Needs::select(logged, headers);
    for name in set.map(&which).unwrap_or_default().iter().filter(|name| !logged.contains(name)) {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}
