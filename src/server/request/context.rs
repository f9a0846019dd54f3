//! The story of one request, told to the access log and the metrics when it is over, however it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::auth::X_API_KEY;
use super::client::ClientInfo;
use super::concurrency::RequestPermit;
use crate::config::{HeaderRules, Settings};
use crate::fleet::{Lease, Phase, Pool};
use crate::log_format::{
    AttemptRecords, CapturedFields, ConnectionInfo, PoolInfo, RequestLine, RequestRecord, RequestTimes, RequiredFields,
    ResponseInfo, TokenInfo,
};
use crate::server::AppState;
use crate::server::connection::state::{ActiveRequest, ConnectionState};
use crate::server::connection::worker_load::RequestGuard;
use crate::server::proxy::response_table::ResponseOwner;
use crate::server::response::error::{RequestError, SHOULD_NOT_RETRY, X_SHOULD_RETRY};
use crate::server::response::framing;
use crate::server::response::framing::BodyFraming;
use crate::server::response::headers;
use crate::telemetry::{AccessLog, LogLevel, utc_offset_seconds};
use crate::tenants::Tenant;
use crate::units::{Moment, Timing};
use crate::upstream::{RelayResult, SendError};

/// nginx's status for a client that left before it was answered.
const CLIENT_CLOSED_REQUEST: u16 = 499;
const X_UPSTREAM: HeaderName = HeaderName::from_static("x-upstream");
const X_DECISION: HeaderName = HeaderName::from_static("x-decision");

/// What there is to tell of one request. Dropping it tells it.
pub(in crate::server) struct RequestContext {
    app: Arc<AppState>,
    /// Where it is told in the end.
    access_log: Option<Arc<AccessLog>>,
    /// Those that the request began with.
    pub(in crate::server) settings: Arc<Settings>,
    /// Whose key it shows.
    pub(in crate::server) tenant: Option<Arc<Tenant>>,
    /// Its place among the requests for replicas.
    pub(in crate::server) permit: Option<RequestPermit>,
    /// The request is one of its connection's until the story ends.
    active_request: Option<ActiveRequest>,
    /// The request counts as an open stream of its worker until the story ends.
    _request_guard: RequestGuard,
    pub(in crate::server) request_id: String,
    pub(in crate::server) client_info: ClientInfo,
    request_line: RequestLine,
    received_at: Moment,
    pub(in crate::server) response_info: ResponseInfo,
    pub(in crate::server) requested_model: Option<String>,
    attempts: AttemptRecords,
    /// How the last try's replica was chosen, where answers tell so.
    decision_line: Option<String>,
    overhead: Option<Duration>,
    pub(in crate::server) relay_result: Option<RelayResult>,
    /// Only where the log's format needs it.
    captured: Option<Box<CapturedFields>>,
}

impl RequestContext {
    /// A new story; `who` is the caller and the request's id.
    pub(in crate::server) fn new(
        app: Arc<AppState>,
        settings: &Arc<Settings>,
        load: RequestGuard,
        head: &Parts,
        who: (ClientInfo, String),
    ) -> Self {
        let (caller, id) = who;
        let log = app.logs.access.load_full();
        let logged = log.as_ref().map(|log| log.required_fields()).filter(|needs| needs.needs_capture());
        let set = Some(&settings.headers).filter(|headers| headers.has_rules()).map(HeaderRules::required_fields);
        let kept = (logged.is_some() || set.is_some()).then(|| {
            let mut asked = select_headers(logged, set, |needs| &needs.request_headers, &head.headers);
            if !settings.tenants.is_empty() {
                // Keys of ours are for us: no log and no replica gets them.
                asked.remove(header::AUTHORIZATION);
                asked.remove(X_API_KEY);
            }
            let sizes = logged.is_some_and(|needs| needs.sizes) || set.is_some_and(|needs| needs.sizes);
            let request_bytes = if sizes { framing::request_head_bytes(head) } else { 0 };
            let head_bytes = if sizes { framing::connection_close_bytes(head) } else { 0 };
            Box::new(CapturedFields {
                request_headers: asked,
                request_bytes,
                response_head_bytes: head_bytes,
                ..CapturedFields::default()
            })
        });
        Self {
            received_at: app.clock.now(),
            request_line: RequestLine {
                method: head.method.clone(),
                uri: head.uri.clone(),
                version: head.version,
                request_number: 1,
                connection: ConnectionInfo::default(),
            },
            app,
            access_log: log,
            settings: settings.clone(),
            tenant: None,
            permit: None,
            active_request: None,
            _request_guard: load,
            request_id: id,
            client_info: caller,
            response_info: ResponseInfo::default(),
            requested_model: None,
            attempts: AttemptRecords::default(),
            decision_line: None,
            overhead: None,
            relay_result: None,
            captured: kept,
        }
    }

    /// Notes the connection that the request came by.
    pub(in crate::server) fn attach_connection(&mut self, visit: &ConnectionState, present: ActiveRequest) {
        self.request_line.request_number = visit.request_count.get();
        self.request_line.connection = visit.info;
        self.active_request = Some(present);
    }

    /// Notes whose key the request shows.
    pub(in crate::server) fn set_tenant(&mut self, tenant: Option<Arc<Tenant>>) {
        self.client_info.authenticated = tenant.is_some();
        self.tenant = tenant;
    }

    /// Finishes an answer of ours to a request that could not be served: when it may be asked again, if at all.
    pub(in crate::server) fn set_retry_headers<B>(&self, refusal: &RequestError, answer: &mut Response<B>) {
        let known = self
            .permit
            .as_ref()
            .filter(|_| refusal.is_over_capacity())
            .and_then(|place| place.retry_after_seconds(self.now()));
        if let Some(seconds) = known {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Two replicas have died of it, or of something that two replicas have in common.
        if matches!(refusal, RequestError::UpstreamClosed) && self.attempts.iter().count() > 1 {
            answer.headers_mut().insert(X_SHOULD_RETRY, SHOULD_NOT_RETRY);
        }
    }

    /// Notes the size of the request's body.
    pub(in crate::server) fn set_body_size(&mut self, bytes: usize) {
        if let Some(present) = &self.active_request {
            present.connection().set_body_unread(false);
        }
        if let Some(kept) = &mut self.captured {
            kept.request_bytes += bytes as u64;
        }
    }

    /// Notes the pool that the request is for.
    pub(in crate::server) fn set_pool(&mut self, pool: &Arc<Pool>) {
        let needs_host = self.needs_field(|required| required.pool);
        if let Some(captured) = &mut self.captured
            && captured.pool.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.name, pool.name()))
        {
            let host = pool.host().filter(|_| needs_host).map(str::to_owned);
            captured.pool = Some(PoolInfo { name: pool.name().clone(), policy: pool.policy_name(), host });
        }
    }

    /// Notes the replica that is tried now, and what the router took to come to it since the body was complete.
    pub(in crate::server) fn start_attempt(&mut self, lease: &Lease, complete: Moment) {
        let now = self.app.clock.now();
        self.end_attempt(now);
        let replica = lease.replica();
        let upstream_addr =
            self.needs_field(|required| required.upstream_addr).then(|| replica.origin().connect_addr());
        self.attempts.start(replica.name(), upstream_addr, now);
        self.decision_line = if self.settings.explain_header { lease.decision_line() } else { None };
        if self.overhead.is_none() {
            self.overhead = Some(now.since(complete));
        }
        self.set_pool(lease.pool());
    }

    /// Sets the headers that the configuration wants on a request to the replica that is tried now.
    pub(in crate::server) fn apply_request_headers(&self, asked: &mut HeaderMap) {
        let lines = &self.settings.headers.for_pool(self.pool_name()).request;
        if !lines.is_empty() {
            self.with_record(self.response_info.status, |facts| headers::set_request_headers(lines, asked, facts));
        }
    }

    /// Sets the headers that the configuration wants on an answer, the replica's or our own.
    pub(in crate::server) fn apply_response_headers<B>(&mut self, answer: &mut Response<B>) {
        let settings = &self.settings;
        let lines = &settings.headers.for_pool(self.pool_name()).response;
        let named = lines.iter().any(|line| line.name == X_UPSTREAM);
        if settings.x_upstream
            && !named
            && let Some(tried) = self.attempts.last()
            && let Ok(name) = HeaderValue::try_from(&*tried.replica)
        {
            answer.headers_mut().insert(X_UPSTREAM, name);
        }
        if let Some(decision) = self.decision_line.as_ref().and_then(|line| HeaderValue::try_from(line).ok()) {
            answer.headers_mut().insert(X_DECISION, decision);
        }
        if !lines.is_empty() {
            if let Some(kept) = &mut self.captured {
                kept.response_headers = RequiredFields::select_headers(
                    &settings.headers.required_fields().response_headers,
                    answer.headers(),
                );
            }
            let status = answer.status().as_u16();
            self.with_record(status, |facts| headers::add_response_headers(lines, answer.headers_mut(), facts));
        }
    }

    fn pool_name(&self) -> Option<&str> {
        Some(&self.captured.as_ref()?.pool.as_ref()?.name)
    }

    /// Returns whether the log or the configured headers need a field.
    fn needs_field(&self, is_needed: impl Fn(&RequiredFields) -> bool) -> bool {
        self.access_log.as_ref().is_some_and(|log| is_needed(log.required_fields()))
            || is_needed(self.settings.headers.required_fields())
    }

    /// Where the present try's steps are noted.
    pub(in crate::server) fn attempt_timing(&mut self) -> Option<&mut Timing> {
        self.attempts.last_mut().map(|attempt| &mut attempt.timing)
    }

    /// Notes the head of a replica's answer, as it came.
    pub(in crate::server) fn set_upstream_response(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status.as_u16());
        }
        if let Some(kept) = &mut self.captured {
            let logged = self.access_log.as_ref().map(|log| log.required_fields());
            kept.upstream_headers = select_headers(
                logged,
                Some(self.settings.headers.required_fields()),
                |needs| &needs.upstream_headers,
                headers,
            );
        }
    }

    /// Notes that no answer came, with the status that nginx gives it.
    pub(in crate::server) fn set_attempt_failed(&mut self, failure: &SendError) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(if failure.timed_out { 504 } else { 502 });
        }
        self.log_upstream_error(LogLevel::Warn, failure.phase, failure);
    }

    /// Notes what goes to the client. Returns how the end of its body will be told.
    pub(in crate::server) fn set_response<B>(&mut self, answer: &Response<B>, length: Option<u64>) -> BodyFraming {
        self.response_info.status = answer.status().as_u16();
        let framing = BodyFraming::for_response(&self.request_line, answer, length);
        let Some((kept, log)) = self.captured.as_mut().zip(self.access_log.as_ref()) else { return framing };
        let needs = log.required_fields();
        let wanted = needs.sizes || !needs.response_headers.is_empty();
        let added = if wanted { framing.header(&self.request_line, answer, length) } else { None };
        kept.response_headers = RequiredFields::select_headers(&needs.response_headers, answer.headers());
        if needs.sizes {
            // It holds what `connection: close` adds until here.
            kept.response_head_bytes += framing::response_head_bytes(answer, added.as_ref());
        }
        if let Some((name, value)) = added.filter(|(name, _)| needs.response_headers.contains(name)) {
            kept.response_headers.insert(name, value);
        }
        framing
    }

    /// The connection where it is this answer's alone: in HTTP/1.
    pub(in crate::server) fn http1_connection(&self) -> Option<&ConnectionState> {
        self.active_request.as_ref().map(ActiveRequest::connection).filter(|visit| visit.is_http1())
    }

    pub(in crate::server) fn now(&self) -> Moment {
        self.app.clock.now()
    }

    /// Writes what went wrong at the replica that was tried last into the error log.
    pub(in crate::server) fn log_upstream_error(&self, level: LogLevel, phase: Phase, cause: &dyn fmt::Display) {
        let replica = self.attempts.last().map_or("-", |attempt| &*attempt.replica);
        let phase = phase.as_str();
        self.app
            .logs
            .error
            .write(level, format_args!("request {} on {replica} failed at {phase}: {cause}", self.request_id));
    }

    /// Remembers who holds the response with this id.
    pub(in crate::server) fn insert_response_owner(&self, id: &str, owner: ResponseOwner) {
        let owner = ResponseOwner { tenant: self.tenant.as_ref().map(|tenant| tenant.name.clone()), ..owner };
        self.app.tables.responses.insert(id, owner, self.app.clock.now());
    }

    /// Ends the try under way.
    fn end_attempt(&mut self, now: Moment) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.timing.ended_at.get_or_insert(now);
        }
    }

    /// Shows what is known by now.
    fn with_record<T>(&self, status: u16, told: impl FnOnce(&RequestRecord<'_>) -> T) -> T {
        let ending = self.relay_result.as_ref();
        told(&RequestRecord {
            id: &self.request_id,
            client_addr: &self.client_info.client.addr_text(),
            request_line: &self.request_line,
            response: ResponseInfo { status, ..self.response_info },
            attempts: &self.attempts,
            tokens: TokenInfo {
                model: self.requested_model.as_deref(),
                usage: ending.and_then(|e| e.usage),
                first_token: ending.and_then(|e| e.first_token),
            },
            times: RequestTimes {
                arrived: self.received_at,
                ended: self.app.clock.now(),
                overhead: self.overhead,
                time_of_day: self.app.clock.unix_time(),
            },
            utc_offset: utc_offset_seconds,
            tenant: self.tenant.as_ref().map(|tenant| &*tenant.name),
            outcome: self.outcome(),
            captured: self.captured.as_deref(),
        })
    }

    fn outcome(&self) -> &'static str {
        match (&self.relay_result, self.response_info.status) {
            (Some(ending), _) => ending.outcome.map_or("client_gone", |outcome| outcome.as_str()),
            (None, 0) => "client_gone",
            (None, 1..=399) => "completed",
            (None, 400..=499) => "refused",
            (None, _) => "failed",
        }
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        self.app.metrics.record_response(self.response_info.status, self.overhead);
        let usage = self.relay_result.as_ref().and_then(|ending| ending.usage);
        if let Some(tenant) = &self.tenant {
            self.app.metrics.record_tenant_response(&tenant.name, self.response_info.status, usage);
        }
        if let Some((place, usage)) = self.permit.as_ref().zip(usage) {
            place.record_tokens(usage.prompt + usage.completion, self.now());
        }
        let Some(log) = self.access_log.take() else { return };
        let ended = self.app.clock.now();
        let tried = self.relay_result.as_ref().and_then(|ending| ending.ended).unwrap_or(ended);
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.timing.ended_at.get_or_insert(tried);
        }
        let status = if self.response_info.status == 0 { CLIENT_CLOSED_REQUEST } else { self.response_info.status };
        self.with_record(status, |facts| log.write(facts));
    }
}

/// The headers that the log or the configured headers need.
fn select_headers(
    logged: Option<&RequiredFields>,
    set: Option<&RequiredFields>,
    which: impl Fn(&RequiredFields) -> &[HeaderName],
    headers: &HeaderMap,
) -> HeaderMap {
    let logged = logged.map(&which).unwrap_or_default();
    let mut kept = RequiredFields::select_headers(logged, headers);
    for name in set.map(&which).unwrap_or_default().iter().filter(|name| !logged.contains(name)) {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}
