//! The path of a proxied request: read the body, parse it, select a pool, acquire a replica, send, retry, relay.

mod bounded_map;
mod find_response;
mod hash_key;
mod pool_request;
mod redirects;
pub(super) mod response_table;
mod retry;
mod send;
mod session_headers;
pub(super) mod session_table;
mod sticky;
pub(super) mod tunnel;

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Extensions, Request, Response};
use hyper::body::Incoming;

use super::request::auth::API_KEY;
use super::request::body::{check_content_coding, decode_body, read_body};
use super::request::concurrency::RequestPermit;
use super::request::context::RequestContext;
use super::request::forward_headers::{AcceptEncoding, forward_headers};
use super::request::parse::{ParseOptions, ParsedRequest, parse_body};
use super::request::route::{PoolSelection, ProxyRoute, select_pool};
use super::request::websocket::set_upgrade_headers;
use super::request_log::RequestLog;
use super::response::body::BodySource;
use super::response::error::RetryAdvice;
use super::{AppState, RequestError, WorkerContext};
use crate::fleet::{NoReplica, Phase, Pool};
use crate::prompt::endpoint::BodyKind;
use crate::telemetry::LogLevel;
use crate::units::Moment;
use crate::upstream::{RequestBody, ResponseExpectations, UpstreamRequest};
use find_response::find_stored_response;
use pool_request::{PinSource, PolicyKeys, PoolOptions, PoolRequest};
use retry::{Attempts, RetryDecision};
use send::ProxyRequest;
use session_headers::find_session_header;

/// The most fallbacks that one request follows. The configuration refuses circles.
const MAX_FALLBACKS: usize = 8;

/// Proxies one request.
pub(super) struct ProxyHandler<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) route: &'a ProxyRoute,
    pub(super) context: &'a RequestContext,
    /// Whether the client asks for a WebSocket.
    pub(super) wants_websocket: bool,
}

/// The result of a request at one pool.
enum PoolResult {
    Relay(Response<BodySource>),
    /// The pool has no replica left, so its fallback is next.
    Exhausted(NoReplica),
    /// No replica of the pool has the model any longer, and this other pool has it now.
    Moved(Arc<Pool>),
}

impl ProxyHandler<'_> {
    /// Sends the request to a replica and returns the response for the client; an error becomes a response.
    pub(super) async fn respond(&self, mut request: Request<Incoming>, log: &mut RequestLog) -> Response<BodySource> {
        let (app, context) = (&self.worker.app, self.context);
        let concurrency = &app.limits.concurrency;
        let mut permit = match concurrency.acquire(&context.settings.limits, &app.fleet, context.received_at) {
            Ok(permit) => permit,
            Err(error) => return BodySource::from_error(&error, self.route.dialect),
        };
        let client_upgrade = self.wants_websocket.then(|| hyper::upgrade::on(&mut request));
        match self.relay(request, &mut permit, log).await {
            Ok(mut response) => {
                match response.body_mut() {
                    BodySource::Upstream(relayed) => relayed.permit = Some(permit),
                    BodySource::Tunnel(tunnel) => {
                        tunnel.permit = Some(permit);
                        tunnel.client = client_upgrade;
                    }
                    BodySource::Local(_) => {}
                }
                response
            }
            Err(error) => {
                let is_over_capacity = error.is_over_capacity();
                let retry_after_seconds = is_over_capacity.then(|| permit.retry_after_seconds(log.now())).flatten();
                let advice = RetryAdvice { retry_after_seconds, attempt_count: log.attempt_count() };
                let mut response = BodySource::from_error(&error, self.route.dialect);
                advice.apply(&error, &mut response);
                response
            }
        }
    }

    /// Sends the request to a replica and returns the response for the client, as it begins.
    ///
    /// *Errors*: the request is at fault, no replica can be chosen, or none of the chosen ones has responded.
    async fn relay(
        &self,
        request: Request<Incoming>,
        permit: &mut RequestPermit,
        log: &mut RequestLog,
    ) -> Result<Response<BodySource>, RequestError> {
        let Self { worker, route, context, .. } = *self;
        let (app, settings) = (&worker.app, &*context.settings);
        let (limits, timeouts) = (&settings.limits, &context.scope().timeouts);
        // A larger body would never fit into the memory for bodies.
        let limit_bytes = context.scope().body_bytes.min(limits.in_flight_bytes);
        let (mut head, body) = request.into_parts();
        // A body that the router does not read passes with its coding.
        let reads_body = route.body_kind != BodyKind::None;
        if reads_body {
            check_content_coding(&head.headers)?;
        }

        let mut body =
            read_body(body, &head.headers, &app.limits.body_budget, limit_bytes, timeouts.client_body).await?;
        let body_complete_at = app.clock.now();
        context.connection().set_body_unread(false);
        log.set_body_complete(body.bytes.len(), body_complete_at);
        if reads_body {
            body = decode_body(body, &mut head.headers, limit_bytes, &app.limits.decoder_slots).await?;
        }

        let mut parsed = match self.wants_websocket {
            true => ParsedRequest::for_websocket(head.uri.query()),
            false => parse_body(parse_options(route, app, &head.headers), &head.headers, &body.bytes).await?,
        };
        log.set_model(parsed.model.as_ref());

        let selection = self.select_pool(&parsed).await?;
        if let Some(pool) = selection.pool() {
            app.limits.concurrency.acquire_pool(permit, limits, pool, body_complete_at)?;
            if let Some(tokenizer) = &pool.spec().token_accounting.tokenizer {
                parsed.count_tokens(tokenizer, &body.bytes, &app.limits.tokenizer_slots).await;
            }
        }

        let upstream_request =
            self.upstream_request(&head, parsed.wants_stream, timeouts.deadline_after(body_complete_at));
        let base_headers = settings.headers.has_request_rules().then(|| upstream_request.headers.clone());
        let (parsed, body) = (&parsed, &body.bytes);
        let request = ProxyRequest { worker, context, route, head: &head, parsed, body, base_headers };
        match selection {
            PoolSelection::Search if self.wants_websocket => Err(RequestError::WebSocketDisabled),
            PoolSelection::Search => find_stored_response(&request, upstream_request, log).await,
            PoolSelection::Owner(pool, replica) => {
                send_to_pools(&request, upstream_request, pool, PinSource::Owner(replica), log).await
            }
            PoolSelection::Pool(pool) => send_to_pools(&request, upstream_request, pool, PinSource::Sticky, log).await,
        }
    }

    /// Selects the replicas that a request may go to. For an unknown model the replicas are asked once for theirs.
    ///
    /// *Errors*: as [`select_pool`].
    async fn select_pool(&self, parsed: &ParsedRequest) -> Result<PoolSelection, RequestError> {
        let Self { worker: WorkerContext { app, .. }, route, context, .. } = *self;
        let tenant = context.tenant.as_deref();
        match select_pool(app, route, parsed, tenant, app.clock.now()) {
            Err(error) if error.is_unknown_model() && route.routed.learns_models() => {
                app.control.model_refresh.refresh_all(app.clock.now()).await;
                select_pool(app, route, parsed, tenant, app.clock.now())
            }
            selection => selection,
        }
    }

    /// Returns the request as every replica gets it, without its body.
    fn upstream_request(&self, head: &Parts, wants_stream: bool, total_deadline: Option<Moment>) -> UpstreamRequest {
        let Self { route, context, .. } = *self;
        let preserve_header_case = context.settings.preserve_header_case;
        let accept_encoding =
            if route.dialect.has_known_events() { AcceptEncoding::Remove } else { AcceptEncoding::Forward };
        let mut headers = forward_headers(head, context.client_info, &context.id, accept_encoding);
        if route.routed.accepts_azure() {
            // Engines know no such header; where it is a key, it is one for this router.
            headers.remove(API_KEY);
        }
        if self.wants_websocket {
            set_upgrade_headers(&mut headers);
        }
        UpstreamRequest {
            headers,
            method: head.method.clone(),
            path: route.path.clone(),
            extensions: if preserve_header_case { head.extensions.clone() } else { Extensions::default() },
            body: RequestBody::default(),
            expectations: ResponseExpectations {
                dialect: route.dialect,
                buffer_json: route.inspect_response,
                preserve_header_case,
                wants_stream,
                may_upgrade: self.wants_websocket,
                total_deadline,
            },
        }
    }
}

fn parse_options(route: &ProxyRoute, app: &AppState, headers: &HeaderMap) -> ParseOptions {
    let needs_hash_key = app.fleet.needs_body();
    ParseOptions {
        body_kind: route.body_kind,
        needs_hash_key,
        has_session_header: needs_hash_key && find_session_header(headers, &[]).is_some(),
        cuts_metadata: app.fleet.cuts_metadata(),
        needs_fingerprint: app.fleet.needs_prefix() || app.logs.recorder.is_some(),
        has_stream_options: route.dialect.spec().takes_stream_options,
        path_model: route.path_model.clone(),
    }
}

/// Sends the request to replicas of `pool`, then of its fallbacks, until a response can be relayed.
///
/// *Errors*: no replica can be chosen, or none of the chosen ones has responded.
async fn send_to_pools(
    request: &ProxyRequest<'_>,
    mut upstream_request: UpstreamRequest,
    mut pool: Arc<Pool>,
    pin: PinSource,
    log: &mut RequestLog,
) -> Result<Response<BodySource>, RequestError> {
    let app = &request.worker.app;
    let mut attempts = Attempts::new(app.clock, &request.head.headers);
    let (mut model, mut tried) = (request.parsed.model.as_deref(), Vec::new());
    let mut no_replica = NoReplica::AllDown;
    log.set_pool(&pool);
    for _ in 0..=MAX_FALLBACKS {
        // Asked of each pool: a fallback, or the pool to which a model has moved, may not allow what the first one does.
        if upstream_request.expectations.may_upgrade && !pool.spec().websocket {
            return Err(RequestError::WebSocketDisabled);
        }
        let keys = PolicyKeys::new(request.key_inputs(), &pool);
        let mut pool_request = PoolRequest::new(request, &pool, &keys, PoolOptions { model, pin, tried });
        match send_to_pool(request, &mut upstream_request, &mut pool_request, &mut attempts, log).await? {
            PoolResult::Relay(response) => return Ok(response),
            PoolResult::Exhausted(reason) => {
                log.set_exhausted(&pool);
                no_replica = reason;
            }
            PoolResult::Moved(other) => {
                tried = pool_request.into_tried();
                pool = other;
                continue;
            }
        }
        let fallback = pool.fallback().filter(|_| !pool_request.is_pin_required());
        let Some(fallback) = fallback.and_then(|name| app.fleet.pool(name)) else { break };
        // A fallback has its own name for the model.
        model = None;
        tried = pool_request.into_tried();
        pool = fallback;
    }
    Err(attempts.into_error(no_replica))
}

/// Sends the request to replicas of one pool until a response can be relayed.
///
/// *Errors*: a replica has failed, and the request may not be retried.
async fn send_to_pool(
    request: &ProxyRequest<'_>,
    upstream_request: &mut UpstreamRequest,
    pool_request: &mut PoolRequest<'_>,
    attempts: &mut Attempts,
    log: &mut RequestLog,
) -> Result<PoolResult, RequestError> {
    let mut retry_lease = None;
    loop {
        let lease = match retry_lease.take().map_or_else(|| pool_request.acquire(), Ok) {
            Ok(lease) => lease,
            Err(reason) => return Ok(PoolResult::Exhausted(reason)),
        };
        log.start_attempt(&lease);
        match request.send_with_usage(upstream_request, &lease, log).await {
            Err(error) => attempts.on_send_error(pool_request, error, lease)?,
            Ok(mut response) => match attempts.on_response(pool_request, &mut response, lease) {
                RetryDecision::Retry(next) => {
                    log.log_upstream_error(LogLevel::Warn, Phase::FirstByte, &response.fault_text());
                    retry_lease = Some(next);
                }
                RetryDecision::Relay(lease) => {
                    if attempts.should_refresh_models(pool_request, &response) {
                        let app = &request.worker.app;
                        app.control.model_refresh.refresh_all(app.clock.now()).await;
                        if let Ok(next) = pool_request.acquire() {
                            lease.settle(response.outcome, app.clock.now());
                            retry_lease = Some(next);
                            continue;
                        }
                        if let Some(other) = find_moved_model(request, pool_request.pool()) {
                            lease.settle(response.outcome, app.clock.now());
                            return Ok(PoolResult::Moved(other));
                        }
                    }
                    if request.can_estimate(&response) {
                        return Ok(PoolResult::Relay(request.estimate_response(&response, lease)));
                    }
                    let cookie = sticky::store_pin(&request.worker.app, &lease, &request.key_inputs(), &response);
                    let mut response = request.client_response(response, lease);
                    if let Some(cookie) = cookie {
                        response.headers_mut().append(header::SET_COOKIE, cookie);
                    }
                    return Ok(PoolResult::Relay(response));
                }
            },
        }
    }
}

/// Returns the pool that has the model now; `None` if it is `pool` still, or none.
fn find_moved_model(request: &ProxyRequest<'_>, pool: &Pool) -> Option<Arc<Pool>> {
    let found = request.route.routed.find_pool(request.parsed.model.as_deref()).ok()?;
    (found.name() != pool.name()).then(|| found.clone())
}
