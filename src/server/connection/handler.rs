//! One request on its worker: from hyper's request to the response that hyper writes.

use std::cell::RefCell;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use tower_service::Service;

use super::state::{ActiveRequest, ConnectionState};
use super::worker_load::{RequestGuard, WorkerLoad};
use crate::balance::SeededRng;
use crate::clock;
use crate::dialect::Dialect;
use crate::fleet::VirtualHost;
use crate::server::proxy::proxy_request;
use crate::server::request::client::{self, ClientInfo};
use crate::server::request::concurrency::ConcurrencyLimits;
use crate::server::request::context::RequestContext;
use crate::server::request::route::{self, RouteTarget};
use crate::server::request::{auth, cors, validate};
use crate::server::response::body::{BodySource, ResponseBody};
use crate::server::response::gzip::{self, GzipEncoder};
use crate::server::{AppState, RequestError, WorkerContext, api};
use crate::upstream::UpstreamClient;

/// Handles the requests of one worker.
pub(super) struct RequestHandler {
    pub(super) worker: WorkerContext,
    load: Arc<WorkerLoad>,
    /// Routes of the paths that the router answers itself.
    local_router: axum::Router,
    rng: RefCell<SeededRng>,
}

impl RequestHandler {
    pub(super) fn new(app: Arc<AppState>, load: Arc<WorkerLoad>) -> Self {
        Self {
            local_router: api::data_router(app.clone()),
            rng: RefCell::new(SeededRng::from_seed(clock::random_seed())),
            load,
            worker: WorkerContext { upstream: UpstreamClient::new(app.clock, app.tls_store.clone()), app },
        }
    }

    /// Returns the response to one request. Every failure is a response.
    pub(super) async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &ConnectionState,
        active: ActiveRequest,
    ) -> Response<ResponseBody> {
        let load = RequestGuard::start(&self.load);
        let (head, body) = request.into_parts();
        let id = client::request_id(&head.headers, &mut self.rng.borrow_mut());
        let settings = self.worker.app.settings();
        let client = client::resolve_client(connection.peer, &head.headers, &settings.trusted_proxies);
        let client = ClientInfo { is_tls: connection.info.tls.is_some(), ..client };
        let mut context = RequestContext::new(self.worker.app.clone(), &settings, load, &head, (client, id));
        context.attach_connection(connection, active);
        let accepts_gzip = settings.gzip.is_some() && head.method != Method::HEAD && gzip::accepts_gzip(&head.headers);
        let cors = settings.cors.as_ref();
        let origin = cors.and_then(|cors| cors::allowed_origin(cors, &head.headers));
        let mut response = if cors.is_some() && cors::is_preflight(&head) {
            cors::preflight_response::<axum::body::Body>(&head.headers).map(BodySource::Local)
        } else {
            connection.set_body_unread(!body.is_end_stream());
            self.dispatch(Request::from_parts(head, body), &mut context).await
        };
        if let Ok(id) = HeaderValue::try_from(&context.request_id) {
            response.headers_mut().insert(client::X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::add_cors_headers(response.headers_mut(), origin);
        }
        let length = response.body().size_hint().exact();
        let is_compressed =
            settings.gzip.is_some_and(|min_bytes| gzip::negotiate(&mut response, length, min_bytes, accepts_gzip));
        context.apply_response_headers(&mut response);
        ResponseBody::wrap(response, context, is_compressed.then(|| Box::new(GzipEncoder::new())))
    }

    /// Validates, routes and authenticates a request, then answers it here or by a replica.
    async fn dispatch(&self, request: Request<Incoming>, context: &mut RequestContext) -> Response<BodySource> {
        let (head, body) = request.into_parts();
        let (app, settings) = (&self.worker.app, context.settings.clone());
        if let Err(error) = validate::validate_head(&head, &settings.limits) {
            return error_response(&error, Dialect::Other);
        }
        let target = route::match_route(&app.fleet, &head);
        let dialect = if let Ok(RouteTarget::Proxied(route)) = &target { route.dialect } else { Dialect::Other };
        if !matches!(&target, Ok(target) if target.is_public()) {
            match auth::authenticate(&settings.tenants, &head.headers) {
                Ok(tenant) => context.set_tenant(tenant),
                Err(error) => return error_response(&error, dialect),
            }
        }
        match target {
            Err((error, virtual_host)) => {
                record_single_pool(context, virtual_host.as_deref());
                error_response(&error, dialect)
            }
            Ok(RouteTarget::Local(path, virtual_host)) => {
                record_single_pool(context, virtual_host.as_deref());
                let scope = (virtual_host, context.tenant.clone());
                self.serve_local(Request::from_parts(head, body), &path, scope).await
            }
            Ok(RouteTarget::Proxied(route)) => {
                record_single_pool(context, Some(&route.virtual_host));
                let response = match ConcurrencyLimits::acquire(app, &settings.limits) {
                    Ok(permit) => {
                        context.permit = Some(permit);
                        proxy_request(&self.worker, Request::from_parts(head, body), &route, context).await
                    }
                    Err(error) => Err(error),
                };
                response.unwrap_or_else(|error| {
                    let mut response = error_response(&error, dialect);
                    context.set_retry_headers(&error, &mut response);
                    response
                })
            }
        }
    }

    /// Answers one of the router's own paths; `path` is without the prefix of the virtual host.
    async fn serve_local(
        &self,
        mut request: Request<Incoming>,
        path: &str,
        scope: api::RequestScope,
    ) -> Response<BodySource> {
        // `path` is a part of the request's path, so it always parses.
        *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
        request.extensions_mut().insert(scope);
        let is_head = request.method() == Method::HEAD;
        let mut response = match self.local_router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if is_head {
            *response.body_mut() = axum::body::Body::empty();
        }
        response.map(BodySource::Local)
    }
}

/// Records the pool of a request whose virtual host has one pool only.
fn record_single_pool(context: &mut RequestContext, virtual_host: Option<&VirtualHost>) {
    if let Some([only]) = virtual_host.map(VirtualHost::pools) {
        context.set_pool(only);
    }
}

fn error_response(error: &RequestError, dialect: Dialect) -> Response<BodySource> {
    error.to_response(dialect).map(|text| BodySource::Local(text.into()))
}
