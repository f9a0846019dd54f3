//! The record of one request: its attempts, status, sizes and times, for the access logs and the metrics.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode, header};

use super::AppState;
use super::request::auth::{API_KEY, X_API_KEY};
use super::request::client::authority_line;
use super::request::context::RequestContext;
use super::response::framing::{self, BodyFraming};
use crate::clock::Clock;
use crate::fleet::{Lease, Outcome, Phase, Pool};
use crate::log_format::{
    AttemptRecords, CapturedFields, PoolInfo, RequestRecord, RequestTimes, RequiredFields, ResponseInfo, TokenInfo,
};
use crate::routes::HeaderRules;
use crate::telemetry::{AccessLogSet, AccessLogTable, LogLevel, utc_offset_seconds};
use crate::units::{Moment, Timing};
use crate::upstream::{RelayResult, SendError, TunnelResult};

/// nginx's status for a client that left before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// nginx's status for a connection that it closes without a response.
const CONNECTION_CLOSED: u16 = 444;

/// The access-log record of one request. On drop it writes the log lines and updates the metrics.
pub(super) struct RequestLog {
    app: Arc<AppState>,
    context: Rc<RequestContext>,
    /// The access logs of the route at the start of the request; `None` if they are off.
    access_logs: Option<Arc<AccessLogSet>>,
    /// The requested model; `None` if the body names none.
    model: Option<Arc<str>>,
    response: ResponseInfo,
    attempts: AttemptRecords,
    /// The last attempt's decision; `None` unless `explain_header` is on.
    decision_line: Option<String>,
    /// The arrival of the body's last byte.
    body_complete_at: Moment,
    /// The time from the complete body to the first attempt.
    overhead: Option<Duration>,
    /// The end of the relayed response; `None` before it, and for local responses.
    relay_result: Option<RelayResult>,
    /// `None` unless a log format or a configured header needs some of it.
    captured: Option<Box<CapturedFields>>,
}

impl RequestLog {
    /// Returns the record of a request; `loaded_logs` are the access logs in use before it was routed.
    pub(super) fn new(
        app: Arc<AppState>,
        context: Rc<RequestContext>,
        head: &Parts,
        loaded_logs: &AccessLogTable,
    ) -> Self {
        let access_logs = app.logs.find_access_logs(loaded_logs, context.scope().access_logs.as_ref());
        let settings = &context.settings;
        let logged = access_logs.as_ref().map(|logs| logs.required_fields()).filter(|needs| needs.needs_capture());
        let set = Some(&settings.headers).filter(|headers| headers.has_templates()).map(HeaderRules::required_fields);
        let captured = (logged.is_some() || set.is_some()).then(|| {
            let mut request_headers = select_headers(logged, set, |needs| &needs.request_headers, &head.headers);
            if let Some(host) = authority_line(head) {
                request_headers.insert(header::HOST, host);
            }
            if !settings.tenants.is_empty() {
                // Keys of the router's reach no log and no replica.
                request_headers.remove(header::AUTHORIZATION);
                request_headers.remove(X_API_KEY);
                request_headers.remove(API_KEY);
            }
            let needs_sizes = logged.is_some_and(|needs| needs.sizes) || set.is_some_and(|needs| needs.sizes);
            Box::new(CapturedFields {
                request_headers,
                request_bytes: if needs_sizes { framing::request_head_bytes(head) } else { 0 },
                response_head_bytes: if needs_sizes { framing::connection_close_bytes(head) } else { 0 },
                ..CapturedFields::default()
            })
        });
        Self {
            access_logs,
            model: None,
            response: ResponseInfo::default(),
            attempts: AttemptRecords::default(),
            decision_line: None,
            body_complete_at: context.received_at,
            overhead: None,
            relay_result: None,
            captured,
            context,
            app,
        }
    }

    pub(super) fn context(&self) -> &RequestContext {
        &self.context
    }

    /// Returns the context for callers that outlive the record.
    pub(super) fn shared_context(&self) -> Rc<RequestContext> {
        self.context.clone()
    }

    pub(super) fn clock(&self) -> Clock {
        self.app.clock
    }

    pub(super) fn now(&self) -> Moment {
        self.app.clock.now()
    }

    /// Records that the body has arrived.
    pub(super) fn set_body_complete(&mut self, bytes: usize, now: Moment) {
        self.body_complete_at = now;
        if let Some(captured) = &mut self.captured {
            captured.request_bytes += bytes as u64;
        }
    }

    /// Records the requested model.
    pub(super) fn set_model(&mut self, model: Option<&Arc<str>>) {
        self.model = model.cloned();
    }

    /// Records the pool.
    pub(super) fn set_pool(&mut self, pool: &Arc<Pool>) {
        if let Some(captured) = &mut self.captured
            && captured.pool.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.name, pool.name()))
        {
            captured.pool = Some(PoolInfo { name: pool.name().clone(), policy: pool.policy_name() });
        }
    }

    /// Returns the name of the pool; `None` before routing, and where neither log nor headers need it.
    pub(super) fn pool_name(&self) -> Option<&str> {
        Some(&self.captured.as_ref()?.pool.as_ref()?.name)
    }

    /// Records the start of an attempt; the first one ends the router's own part of the time.
    pub(super) fn start_attempt(&mut self, lease: &Lease) {
        let now = self.now();
        self.end_attempt(now);
        let replica = lease.replica();
        let upstream_addr =
            self.needs_field(|required| required.upstream_addr).then(|| replica.origin().connect_addr());
        self.attempts.start(replica.name(), upstream_addr, now);
        self.decision_line = if self.context.settings.explain_header { lease.decision_line() } else { None };
        self.overhead.get_or_insert(now.since(self.body_complete_at));
        self.set_pool(lease.pool());
    }

    /// Returns whether an access log or the configured headers need a field.
    fn needs_field(&self, is_needed: impl Fn(&RequiredFields) -> bool) -> bool {
        self.access_logs.as_ref().is_some_and(|logs| is_needed(logs.required_fields()))
            || is_needed(self.context.settings.headers.required_fields())
    }

    fn end_attempt(&mut self, now: Moment) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.timing.ended_at.get_or_insert(now);
        }
    }

    /// Returns the timing of the attempt under way; `None` before the first.
    pub(super) fn attempt_timing(&mut self) -> Option<&mut Timing> {
        self.attempts.last_mut().map(|attempt| &mut attempt.timing)
    }

    /// Returns the number of attempts so far.
    pub(super) fn attempt_count(&self) -> usize {
        self.attempts.iter().count()
    }

    /// Records that `pool` had no replica to choose.
    pub(super) fn set_exhausted(&mut self, pool: &Pool) {
        self.attempts.set_exhausted(pool.name());
    }

    /// Returns the name of the last attempt's replica; `None` before the first attempt.
    pub(super) fn last_replica_name(&self) -> Option<&str> {
        self.attempts.last().map(|attempt| &*attempt.replica)
    }

    /// Returns the decision of the last attempt; `None` unless `explain_header` is on.
    pub(super) fn decision_line(&self) -> Option<&str> {
        self.decision_line.as_deref()
    }

    /// Records the head of a replica's response as it arrived.
    pub(super) fn set_upstream_response(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status.as_u16());
        }
        if let Some(captured) = &mut self.captured {
            let logged = self.access_logs.as_ref().map(|logs| logs.required_fields());
            let set = Some(self.context.settings.headers.required_fields());
            captured.upstream_headers = select_headers(logged, set, |needs| &needs.upstream_headers, headers);
        }
    }

    /// Records that a replica sent no response, with the status that nginx gives to it.
    pub(super) fn set_attempt_failed(&mut self, error: &SendError) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(if error.timed_out { 504 } else { 502 });
        }
        self.log_upstream_error(LogLevel::Warn, error.phase, error);
    }

    /// Writes an error of the last attempt's replica to the error log.
    pub(super) fn log_upstream_error(&self, level: LogLevel, phase: Phase, cause: &dyn fmt::Display) {
        let (id, replica) = (&self.context.id, self.last_replica_name().unwrap_or("-"));
        let phase = phase.as_str();
        self.app.logs.error.write(level, format_args!("request {id} on {replica} failed at {phase}: {cause}"));
    }

    /// Records the response headers that the configured headers need.
    pub(super) fn capture_response_headers(&mut self, headers: &HeaderMap) {
        if let Some(captured) = &mut self.captured {
            let names = &self.context.settings.headers.required_fields().response_headers;
            captured.response_headers = RequiredFields::select_headers(names, headers);
        }
    }

    /// Records that the connection is closed without a response.
    pub(super) const fn set_closed(&mut self) {
        self.response.status = CONNECTION_CLOSED;
    }

    /// Records the head that the client gets.
    pub(super) fn set_response<B>(&mut self, response: &Response<B>, framing: BodyFraming, length: Option<u64>) {
        self.response.status = response.status().as_u16();
        let Some((captured, logs)) = self.captured.as_mut().zip(self.access_logs.as_ref()) else { return };
        let needs = logs.required_fields();
        let is_needed = needs.sizes || !needs.response_headers.is_empty();
        let added = if is_needed { framing.header(&self.context.request_line, response, length) } else { None };
        captured.response_headers = RequiredFields::select_headers(&needs.response_headers, response.headers());
        if needs.sizes {
            // It already holds the size of `connection: close`.
            captured.response_head_bytes += framing::response_head_bytes(response, added.as_ref());
        }
        if let Some((name, value)) = added.filter(|(name, _)| needs.response_headers.contains(name)) {
            captured.response_headers.insert(name, value);
        }
    }

    /// Counts body bytes that were handed to the connection, chunk framing included.
    pub(super) const fn add_body_bytes(&mut self, bytes: u64) {
        self.response.body_bytes += bytes;
    }

    /// Records the end of a relayed response.
    pub(super) fn set_relay_result(&mut self, result: RelayResult) {
        self.relay_result = Some(result);
    }

    /// Records the end of a tunnel.
    pub(super) fn set_tunnel_result(&mut self, result: TunnelResult) {
        if let Some(captured) = &mut self.captured {
            captured.request_bytes += result.received_bytes;
        }
        self.add_body_bytes(result.sent_bytes);
        if let (Some(Outcome::Failed { phase }), Some(cause)) = (result.relay.outcome, &result.relay.cause) {
            self.log_upstream_error(LogLevel::Error, phase, cause);
        }
        self.set_relay_result(result.relay);
    }

    /// Passes the record so far to `use_record`; `status` replaces the status of the response.
    pub(super) fn with_record<T>(&self, status: Option<u16>, use_record: impl FnOnce(&RequestRecord<'_>) -> T) -> T {
        let (context, result) = (&self.context, self.relay_result.as_ref());
        use_record(&RequestRecord {
            id: &context.id,
            client_addr: &context.client_info.client.addr_text(),
            client_port: context.client_info.client_port(context.request_line.connection),
            peer_addr: context.client_info.peer.ip(),
            request_line: &context.request_line,
            server_name: context.server_name(),
            response: ResponseInfo { status: status.unwrap_or(self.response.status), ..self.response },
            attempts: &self.attempts,
            tokens: TokenInfo {
                model: self.model.as_deref(),
                usage: result.and_then(|result| result.usage),
                first_token: result.and_then(|result| result.first_token),
            },
            times: RequestTimes {
                arrived: context.received_at,
                ended: self.now(),
                overhead: self.overhead,
                time_of_day: self.app.clock.unix_time(),
            },
            utc_offset: utc_offset_seconds,
            tenant: context.tenant_name().map(|name| &**name),
            outcome: self.outcome(),
            captured: self.captured.as_deref(),
        })
    }

    fn outcome(&self) -> &'static str {
        match (&self.relay_result, self.response.status) {
            (Some(result), _) => result.outcome.map_or("client_gone", |outcome| outcome.as_str()),
            (None, 0) => "client_gone",
            (None, 1..=399) => "completed",
            (None, 400..=499) => "refused",
            (None, _) => "failed",
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let status = self.response.status;
        self.app.metrics.record_response(status, self.overhead);
        if let Some(name) = self.context.tenant_name() {
            let usage = self.relay_result.as_ref().and_then(|result| result.usage);
            self.app.metrics.record_tenant_response(name, status, usage);
        }
        let Some(logs) = self.access_logs.take() else { return };
        let attempt_end = self.relay_result.as_ref().and_then(|result| result.ended).unwrap_or_else(|| self.now());
        self.end_attempt(attempt_end);
        let status = if status == 0 { CLIENT_CLOSED_REQUEST } else { status };
        self.with_record(Some(status), |record| logs.write(record));
    }
}

/// Returns the headers that an access log or the configured headers need.
fn select_headers(
    logged: Option<&RequiredFields>,
    set: Option<&RequiredFields>,
    names_of: impl Fn(&RequiredFields) -> &[HeaderName],
    headers: &HeaderMap,
) -> HeaderMap {
    let logged = logged.map(&names_of).unwrap_or_default();
    let mut selected = RequiredFields::select_headers(logged, headers);
    for name in set.map(&names_of).unwrap_or_default().iter().filter(|name| !logged.contains(name)) {
        for value in headers.get_all(name) {
            selected.append(name, value.clone());
        }
    }
    selected
}
