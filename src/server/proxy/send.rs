//! The request to a replica and its response: edits of body and headers, and the relay.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};

use super::hash_key::KeyInputs;
use super::redirects::rewrite_redirects;
use super::response_table::{OwnerRegistration, ResponseOwner};
use super::tunnel::PendingTunnel;
use crate::fleet::Lease;
use crate::http::{is_event_stream, with_query_value};
use crate::prompt::{BodyEdit, splice};
use crate::server::WorkerContext;
use crate::server::request::context::RequestContext;
use crate::server::request::forward_headers::strip_hop_by_hop;
use crate::server::request::parse::ParsedRequest;
use crate::server::request::route::ProxyRoute;
use crate::server::request::websocket::set_upgrade_headers;
use crate::server::request_log::RequestLog;
use crate::server::response::body::{BodySource, RelayedBody};
use crate::server::response::headers::apply_request_headers;
use crate::units::Timing;
use crate::upstream::{RelayBody, SendError, UpstreamRequest, UpstreamResponse};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The parts of one request that all its attempts share.
pub(super) struct ProxyRequest<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) context: &'a RequestContext,
    pub(super) route: &'a ProxyRoute,
    pub(super) head: &'a Parts,
    pub(super) parsed: &'a ParsedRequest,
    pub(super) body: &'a Bytes,
    /// The headers before those of a pool are set; `None` if no pool sets any.
    pub(super) base_headers: Option<HeaderMap>,
}

impl<'a> ProxyRequest<'a> {
    pub(super) fn key_inputs(&self) -> KeyInputs<'a> {
        KeyInputs { head: self.head, parsed: self.parsed, context: self.context }
    }

    /// Sends the request to the leased replica, and requests its usage where that is possible.
    ///
    /// A replica that has never reported usage and rejects the request gets it again without `stream_options`. If it
    /// then accepts it, its usage is not requested again.
    ///
    /// *Errors*: the replica has not responded.
    pub(super) async fn send_with_usage(
        &self,
        upstream_request: &mut UpstreamRequest,
        lease: &Lease,
        log: &mut RequestLog,
    ) -> Result<UpstreamResponse, SendError> {
        let replica = lease.replica();
        let usage_edit = self
            .parsed
            .usage_edit
            .as_ref()
            .filter(|_| lease.pool().spec().token_accounting.request_usage && replica.can_request_usage());
        self.prepare_for_replica(upstream_request, lease, log, usage_edit);
        let mut response = self.send(upstream_request, lease, log).await?;
        if usage_edit.is_none() {
            // Some engines send usage whatever the client wants.
            response.removes_usage = self.parsed.is_usage_refused;
            return Ok(response);
        }
        if is_field_rejection(response.head.status) && !replica.supports_usage() {
            drop(response);
            self.prepare_for_replica(upstream_request, lease, log, None);
            log.start_attempt(lease);
            let response = self.send(upstream_request, lease, log).await?;
            if response.head.status.is_success() {
                replica.set_usage_support(false);
            }
            return Ok(response);
        }
        if response.head.status.is_success() {
            replica.set_usage_support(true);
        }
        response.removes_usage = true;
        Ok(response)
    }

    /// Adapts the request to the chosen replica: its own name for the model, its pool's key and headers, and `edit`.
    pub(super) fn prepare_for_replica(
        &self,
        upstream_request: &mut UpstreamRequest,
        lease: &Lease,
        log: &RequestLog,
        edit: Option<&BodyEdit>,
    ) {
        let model_edit = self.parsed.model.as_deref().and_then(|model| match lease.upstream_model(model) {
            Some(name) => self.parsed.model_edit(name.as_str()),
            None => self.parsed.model_edit(model).filter(|_| self.route.path_model.is_some()),
        });
        if upstream_request.expectations.may_upgrade {
            let upstream_model = self.parsed.model.as_deref().and_then(|model| lease.upstream_model(model));
            upstream_request.path = match upstream_model {
                Some(name) => with_query_value(&self.route.path, "model", name.as_str()),
                None => self.route.path.clone(),
            };
        }
        let cuts_metadata = lease.pool().spec().agents.cuts_metadata;
        let metadata_edits = if cuts_metadata { &*self.parsed.metadata_edits } else { &[] };
        let edits: Vec<BodyEdit> = metadata_edits.iter().cloned().chain(model_edit).chain(edit.cloned()).collect();
        // If an edit does not fit, the body stays as the client sent it, and the replica refuses the alias.
        upstream_request.body = match splice(self.body, edits) {
            Ok(pieces) => pieces.into_iter().collect(),
            Err(_) => [self.body.clone()].into_iter().collect(),
        };
        // Headers that one pool sets must not reach another.
        if let Some(base_headers) = &self.base_headers {
            upstream_request.headers.clone_from(base_headers);
        }
        let key = lease.pool().api_key().and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok());
        match key.or_else(|| self.client_authorization()) {
            Some(value) => upstream_request.headers.insert(header::AUTHORIZATION, value),
            None => upstream_request.headers.remove(header::AUTHORIZATION),
        };
        apply_request_headers(log, &mut upstream_request.headers);
    }

    /// Returns the client's `Authorization`; `None` if it is a key of the router's, which no replica may see.
    fn client_authorization(&self) -> Option<HeaderValue> {
        self.head.headers.get(header::AUTHORIZATION).filter(|_| !self.context.client_info.authenticated).cloned()
    }

    /// Sends the request to the leased replica and records the result.
    ///
    /// *Errors*: the replica has not responded.
    pub(super) async fn send(
        &self,
        upstream_request: &UpstreamRequest,
        lease: &Lease,
        log: &mut RequestLog,
    ) -> Result<UpstreamResponse, SendError> {
        let mut unused = Timing::default();
        let timing = log.attempt_timing().unwrap_or(&mut unused);
        let sent = self.worker.upstream.send(upstream_request, lease, &self.context.scope().timeouts, timing).await;
        match &sent {
            Ok(response) => log.set_upstream_response(response.head.status, &response.head.headers),
            Err(error) => log.set_attempt_failed(error),
        }
        sent
    }

    /// Returns whether the replica has no path for what the router can estimate itself: a prompt's tokens.
    pub(super) fn can_estimate(&self, response: &UpstreamResponse) -> bool {
        let lacks_path = matches!(
            response.head.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        self.route.token_count.is_some() && lacks_path && !response.unknown_model
    }

    /// Returns the estimated tokens of the prompt, in the shape of the path.
    pub(super) fn estimate_response(&self, response: &UpstreamResponse, lease: Lease) -> Response<BodySource> {
        let text = format!("{}{}}}", self.route.token_count.unwrap_or_default(), lease.prompt());
        lease.settle(response.outcome, self.worker.app.clock.now());
        let mut response = Response::new(BodySource::Local(text.into()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Returns the response for the client. Its body holds the lease.
    pub(super) fn client_response(&self, mut response: UpstreamResponse, lease: Lease) -> Response<BodySource> {
        if let Some(replica) = response.upgraded.take() {
            let tunnel = PendingTunnel { replica, lease, client: None, permit: None };
            let mut upgraded = Response::new(BodySource::Tunnel(Box::new(tunnel)));
            *upgraded.status_mut() = response.head.status;
            *upgraded.headers_mut() = response.head.headers;
            strip_hop_by_hop(upgraded.headers_mut());
            set_upgrade_headers(upgraded.headers_mut());
            return upgraded;
        }
        let (app, dialect) = (&self.worker.app, self.route.dialect);
        let owner = dialect.spec().stores_responses.then(|| OwnerRegistration {
            table: app.tables.responses.clone(),
            owner: ResponseOwner {
                pool: lease.pool().name().clone(),
                replica: lease.replica().id(),
                tenant: self.context.tenant_name().cloned(),
            },
        });
        let request_path = self.head.uri.path();
        rewrite_redirects(&mut response.head.headers, lease.replica().origin(), self.route, request_path);
        let (head, relay) = RelayBody::new(response, lease, dialect, &self.context.scope().timeouts, app.clock);
        let mut headers = head.headers;
        strip_hop_by_hop(&mut headers);
        if relay.rewrites_body() {
            headers.remove(header::CONTENT_LENGTH);
            // A replica may label its stream as something else, which a proxy in front could hold or compress.
            if !is_event_stream(&headers) {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            }
        }
        if is_event_stream(&headers) {
            // Proxies in front must neither buffer nor cache events.
            headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        }
        let mut response = Response::new(BodySource::Upstream(Box::new(RelayedBody { relay, owner, permit: None })));
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        // How the replica has spelled the headers' names, and a reason phrase that is not the usual one.
        *response.extensions_mut() = head.extensions;
        response
    }
}

/// Returns whether the status is one with which replicas reject a member that they do not know.
fn is_field_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}
