//! One request's way to whichever replica is tried, and the answer's way back.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::response_table::ResponseOwner;
use crate::balance::PolicyRequest;
use crate::config::Settings;
use crate::fleet::{AcquireRequest, ChoiceObservers, Lease};
use crate::http::is_event_stream;
use crate::prompt::{BodyEdit, splice};
use crate::server::WorkerContext;
use crate::server::request::client;
use crate::server::request::context::RequestContext;
use crate::server::request::parse::ParsedRequest;
use crate::server::request::route::ProxyRoute;
use crate::server::response::body::BodySource;
use crate::units::{Timing, Tokens};
use crate::upstream::{RelayBody, SendError, UpstreamRequest, UpstreamResponse};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What stays the same over all attempts of one request.
pub(in crate::server) struct ProxyRequest<'a> {
    pub(in crate::server) worker: &'a WorkerContext,
    pub(in crate::server) settings: &'a Settings,
    pub(in crate::server) route: &'a ProxyRoute,
    pub(in crate::server) parsed: &'a ParsedRequest,
    pub(in crate::server) body: &'a Bytes,
    /// The client's own `Authorization`.
    pub(in crate::server) authorization: Option<HeaderValue>,
    /// The headers before a pool sets its own; `None` if none does.
    pub(in crate::server) base_headers: Option<HeaderMap>,
}

impl<'a> ProxyRequest<'a> {
    /// The first try of this request.
    pub(in crate::server) fn new_acquire_request(&self, story: &RequestContext) -> AcquireRequest<'a> {
        let decisions = &self.worker.app.logs.decisions;
        let kept = (decisions.capacity() > 0).then(|| (decisions.clone(), story.request_id.as_str().into()));
        AcquireRequest {
            policy_request: PolicyRequest {
                prompt: Tokens(0),
                output: Tokens(0),
                key: b"",
                client_addr: story.client_info.client.address(),
                tried_slots: &[],
            },
            model: self.parsed.model.as_deref(),
            estimate: None,
            prefix: self.parsed.fingerprint.clone(),
            pin: None,
            tried: Vec::new(),
            observers: ChoiceObservers { decision_log: kept, shadow_key: b"" },
        }
    }

    /// Sends the request to the leased replica, with the question for its usage where that may be asked.
    ///
    /// A replica that has never taken the question and refuses the request is sent it again without; it is not asked
    /// again if that was it.
    pub(in crate::server) async fn send_with_usage(
        &self,
        out: &mut UpstreamRequest,
        lease: &Lease,
        story: &mut RequestContext,
    ) -> Result<UpstreamResponse, SendError> {
        let replica = lease.replica();
        let usage = self.parsed.usage_edit.as_ref();
        let usage = usage.filter(|_| lease.pool().spec().token_accounting.request_usage && replica.can_request_usage());
        self.prepare_for_replica(out, lease, (story, usage));
        let mut answer = self.send(out, lease, story).await?;
        if usage.is_none() {
            return Ok(answer);
        }
        if is_field_rejection(answer.head.status) && !replica.supports_usage() {
            drop(answer);
            self.prepare_for_replica(out, lease, (story, None));
            story.start_attempt(lease, story.now());
            let answer = self.send(out, lease, story).await?;
            if answer.head.status.is_success() {
                replica.set_usage_support(false);
            }
            return Ok(answer);
        }
        if answer.head.status.is_success() {
            replica.set_usage_support(true);
        }
        answer.router_requested_usage = true;
        Ok(answer)
    }

    /// Makes the request fit the replica that was chosen: its own name for the model, its pool's key and headers, and
    /// one more edit.
    pub(in crate::server) fn prepare_for_replica(
        &self,
        out: &mut UpstreamRequest,
        lease: &Lease,
        (story, more): (&RequestContext, Option<&BodyEdit>),
    ) {
        let wanted = self.parsed.model.as_deref();
        let renamed =
            wanted.and_then(|model| lease.upstream_model(model)).and_then(|name| self.parsed.model_edit(name.as_str()));
        let edits: Vec<BodyEdit> = renamed.into_iter().chain(more.cloned()).collect();
        // An edit that does not fit leaves the body as the client sent it, and the replica refuses the alias.
        out.body = match splice(self.body, edits) {
            Ok(pieces) => pieces.into_iter().collect(),
            Err(_) => [self.body.clone()].into_iter().collect(),
        };
        // What one pool sets must not reach another.
        if let Some(plain) = &self.base_headers {
            out.headers.clone_from(plain);
        }
        let key = lease.pool().api_key().and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok());
        match key.or_else(|| self.authorization.clone()) {
            Some(value) => out.headers.insert(header::AUTHORIZATION, value),
            None => out.headers.remove(header::AUTHORIZATION),
        };
        story.apply_request_headers(&mut out.headers);
    }

    /// Sends the request to the leased replica; the story follows.
    pub(in crate::server) async fn send(
        &self,
        out: &UpstreamRequest,
        lease: &Lease,
        story: &mut RequestContext,
    ) -> Result<UpstreamResponse, SendError> {
        let mut nowhere = Timing::default();
        let timing = story.attempt_timing().unwrap_or(&mut nowhere);
        let sent = self.worker.upstream.send(out, lease, &self.settings.timeouts, timing).await;
        match &sent {
            Ok(answer) => story.set_upstream_response(answer.head.status, &answer.head.headers),
            Err(failure) => story.set_attempt_failed(failure),
        }
        sent
    }

    /// Passes an answer on; the lease goes with its body.
    pub(in crate::server) fn client_response(&self, answer: UpstreamResponse, lease: Lease) -> Response<BodySource> {
        let owner = ResponseOwner { pool: lease.pool().name().clone(), replica: lease.replica().id(), tenant: None };
        let (head, relayed) =
            RelayBody::new(answer, lease, self.route.dialect, &self.settings.timeouts, self.worker.app.clock);
        let owner = self.route.dialect.spec().stores_responses.then_some(owner);
        let mut response = Response::new(BodySource::Upstream(Box::new(relayed), owner));
        *response.status_mut() = head.status;
        let mut headers = head.headers;
        client::strip_hop_by_hop(&mut headers);
        if response.body().rewrites_body() {
            headers.remove(header::CONTENT_LENGTH);
        }
        if is_event_stream(&headers) {
            // Proxies before us must neither gather nor keep what comes.
            headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        }
        *response.headers_mut() = headers;
        response
    }
}

/// What replicas answer to a member that they do not know.
fn is_field_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}
