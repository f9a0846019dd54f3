//! THE path of a proxied request: accept, identify, measure, choose and charge, forward, observe, settle.

pub(super) mod find_response;
pub(super) mod hash_key;
pub(super) mod response_table;
pub(super) mod retry;
pub(super) mod send;
pub(super) mod session_table;
pub(super) mod sticky;

use http::header;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use super::request::auth::select_pool;
use super::request::body::read_body;
use super::request::client;
use super::request::context::RequestContext;
use super::request::parse::{ParseOptions, parse_body};
use super::request::route::ProxyRoute;
use super::response::body::BodySource;
use super::{RequestError, WorkerContext};
use crate::fleet::{AcquireRequest, Phase, ReplicaPin};
use crate::telemetry::LogLevel;
use crate::units::Moment;
use crate::upstream::{RequestBody, ResponseExpectations, UpstreamRequest};
use find_response::find_stored_response;
use hash_key::KeyInputs;
use retry::{Attempts, RetryDecision};
use send::ProxyRequest;

/// Sends a request to a replica and returns its answer as it begins.
///
/// *Errors*: the request is at fault, no replica can be chosen, or those that were gave no answer.
pub(super) async fn proxy_request(
    worker: &WorkerContext,
    request: Request<Incoming>,
    call: &ProxyRoute,
    story: &mut RequestContext,
) -> Result<Response<BodySource>, RequestError> {
    let app = &worker.app;
    let settings = story.settings.clone();
    let (head, body) = request.into_parts();
    let body = read_body(body, &head.headers, &app.limits.body_budget, &settings.limits, settings.timeouts.client_body)
        .await?;
    let complete = app.clock.now();
    story.set_body_size(body.bytes.len());
    let mut asked = parse_body(ParseOptions::new(call, app), &head.headers, &body.bytes).await?;
    story.requested_model.clone_from(&asked.model);
    let (pool, owner) = select_pool(app, call, &asked, story, complete)?;
    if let Some((place, pool)) = story.permit.as_mut().zip(pool.as_ref()) {
        place.acquire_pool(app, &settings.limits, pool)?;
    }
    if let Some(vocabulary) = pool.as_ref().and_then(|pool| pool.spec().token_accounting.tokenizer.as_ref()) {
        asked.count_tokens(vocabulary, &body.bytes, &app.limits.tokenizer_slots).await;
    }
    let authorization = head.headers.get(header::AUTHORIZATION).filter(|_| !story.client_info.authenticated).cloned();
    let mut out = upstream_request(&head, call, story, settings.timeouts.deadline_after(complete));
    let plain = settings.headers.has_request_rules().then(|| out.headers.clone());
    let trip = ProxyRequest {
        worker,
        settings: &settings,
        route: call,
        parsed: &asked,
        body: &body.bytes,
        authorization,
        base_headers: plain,
    };
    let Some(pool) = pool else { return find_stored_response(&trip, out, story).await };
    story.set_pool(&pool);
    let pinned = owner.as_ref().map(|owner| ReplicaPin::Required(owner.replica));
    let attempt = AcquireRequest { pin: pinned, ..trip.new_acquire_request(story) };
    let facts = KeyInputs { head: &head, parsed: &asked, client: story.client_info.client };
    let mut tries = Attempts::new(app, pool, attempt, facts);
    let mut lease = tries.acquire_replica()?;
    loop {
        story.start_attempt(&lease, complete);
        match trip.send_with_usage(&mut out, &lease, story).await {
            Ok(mut answer) => match tries.on_response(&mut answer, lease) {
                RetryDecision::Relay(lease) => {
                    let cookie = tries.bind_sticky(&answer, &lease);
                    let mut response = trip.client_response(answer, lease);
                    if let Some(cookie) = cookie {
                        response.headers_mut().append(header::SET_COOKIE, cookie);
                    }
                    return Ok(response);
                }
                RetryDecision::Retry(next) => {
                    story.log_upstream_error(LogLevel::Warn, Phase::FirstByte, &answer.fault_text());
                    lease = next;
                }
            },
            Err(failure) => {
                tries.on_send_error(failure, lease)?;
                lease = tries.acquire_replica()?;
            }
        }
    }
}

/// The request as it goes to whichever replica, but for its body.
fn upstream_request(
    head: &Parts,
    call: &ProxyRoute,
    story: &RequestContext,
    total_deadline: Option<Moment>,
) -> UpstreamRequest {
    UpstreamRequest {
        headers: client::forward_headers(head, story.client_info, &story.request_id, call.dialect.has_known_events()),
        method: head.method.clone(),
        path: call.path.clone(),
        body: RequestBody::default(),
        expectations: ResponseExpectations {
            dialect: call.dialect,
            buffer_json: call.inspect_response,
            total_deadline,
        },
    }
}
