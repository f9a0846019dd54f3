//! The steps from a request's head to its response: validate, route, authenticate, then serve locally or proxy.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use tower_service::Service;

use super::state::ActiveRequest;
use super::worker_load::{RequestGuard, WorkerLoad};
use crate::balance::SeededRng;
use crate::clock;
use crate::config::Settings;
use crate::dialect::Dialect;
use crate::fleet::{Fleet, VirtualHost};
use crate::log_format::RequestLine;
use crate::server::api::{self, ModelShape, RequestScope};
use crate::server::proxy::ProxyHandler;
use crate::server::request::client::{ClientInfo, X_REQUEST_ID, request_host, request_id, resolve_client};
use crate::server::request::context::RequestContext;
use crate::server::request::route::{RouteError, RouteTarget, match_route};
use crate::server::request::websocket::is_websocket_request;
use crate::server::request::{auth, cors, validate};
use crate::server::request_log::RequestLog;
use crate::server::response::body::{BodySource, ResponseBody};
use crate::server::response::framing::BodyFraming;
use crate::server::response::gzip::{self, GzipEncoder};
use crate::server::response::headers::apply_response_headers;
use crate::server::{AppState, RequestError, WorkerContext};
use crate::tenants::Tenant;
use crate::upstream::UpstreamClient;

/// The body of a response, or none before a tunnel.
type ServedBody = Either<ResponseBody, Empty<Bytes>>;

/// Responds to the requests of one worker.
pub(super) struct RequestHandler {
    pub(super) worker: WorkerContext,
    load: Arc<WorkerLoad>,
    /// The paths that the router serves itself.
    local_router: axum::Router,
    rng: RefCell<SeededRng>,
}

/// The target of a request and the tenant whose key it shows.
struct RoutedHead {
    target: Result<RouteTarget, RouteError>,
    /// The dialect in which errors are written.
    dialect: Dialect,
    tenant: Option<Arc<Tenant>>,
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

    /// Responds to one request; every error becomes a response.
    pub(super) async fn handle(
        &self,
        request: Request<Incoming>,
        active_request: ActiveRequest,
    ) -> Response<ServedBody> {
        let (head, body) = request.into_parts();
        let app = &self.worker.app;
        let settings = app.settings();
        let RoutedHead { target, dialect, tenant } = RoutedHead::new(&head, &settings, &app.fleet);
        let context = Rc::new(self.new_context(&head, settings, tenant, active_request));
        let settings = &context.settings;
        let mut log = RequestLog::new(app.clone(), context.clone(), &head);
        let can_gzip = settings.gzip.is_some() && head.method != Method::HEAD && gzip::accepts_gzip(&head.headers);
        let origin = settings.cors.as_ref().and_then(|cors| cors::allowed_origin(cors, &head.headers));
        if !matches!(target, Ok(RouteTarget::Preflight)) {
            context.connection().set_body_unread(!body.is_end_stream());
        }
        let request = Request::from_parts(head, body);
        let mut response = match target {
            Ok(target) => self.respond(target, request, &context, &mut log).await,
            Err(RouteError { error, virtual_host }) => {
                record_single_pool(&mut log, virtual_host.as_deref());
                BodySource::from_error(&error, dialect)
            }
        };
        if let Ok(id) = HeaderValue::try_from(&*context.id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::add_cors_headers(response.headers_mut(), origin);
        }
        let length = response.body().size_hint().exact();
        let is_gzip =
            settings.gzip.is_some_and(|min_bytes| gzip::negotiate(&mut response, length, min_bytes, can_gzip));
        apply_response_headers(&mut log, &mut response);
        if matches!(response.body(), BodySource::Tunnel(_)) {
            return start_tunnel(response, log);
        }
        ResponseBody::wrap(response, log, is_gzip.then(|| Box::new(GzipEncoder::new()))).map(Either::Left)
    }

    fn new_context(
        &self,
        head: &Parts,
        settings: Arc<Settings>,
        tenant: Option<Arc<Tenant>>,
        active_request: ActiveRequest,
    ) -> RequestContext {
        let connection = active_request.connection();
        let client_info = ClientInfo {
            is_tls: connection.info.tls.is_some(),
            authenticated: tenant.is_some(),
            ..resolve_client(connection.peer, &head.headers, &settings.client_address)
        };
        RequestContext {
            id: request_id(&head.headers, &mut self.rng.borrow_mut()),
            client_info,
            tenant,
            request_line: RequestLine {
                method: head.method.clone(),
                uri: head.uri.clone(),
                version: head.version,
                request_number: connection.request_count.get(),
                connection: connection.info,
            },
            received_at: self.worker.app.clock.now(),
            settings,
            active_request,
            _request_guard: RequestGuard::start(&self.load),
        }
    }

    async fn respond(
        &self,
        target: RouteTarget,
        request: Request<Incoming>,
        context: &RequestContext,
        log: &mut RequestLog,
    ) -> Response<BodySource> {
        match target {
            RouteTarget::Preflight => {
                cors::preflight_response::<axum::body::Body>(request.headers()).map(BodySource::Local)
            }
            RouteTarget::Options { allow } => api::options_response::<axum::body::Body>(&allow).map(BodySource::Local),
            RouteTarget::Local { path, virtual_host } => {
                record_single_pool(log, virtual_host.as_deref());
                self.serve_local(request, &path, RequestScope { virtual_host, tenant: context.tenant.clone() }).await
            }
            RouteTarget::Proxied(route) => {
                record_single_pool(log, Some(&route.virtual_host));
                let wants_websocket = is_websocket_request(&request);
                ProxyHandler { worker: &self.worker, route: &route, context, wants_websocket }
                    .respond(request, log)
                    .await
            }
        }
    }

    async fn serve_local(
        &self,
        mut request: Request<Incoming>,
        path: &str,
        scope: RequestScope,
    ) -> Response<BodySource> {
        // `path` is a part of the request's own path, so it is a valid one.
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

impl RoutedHead {
    /// Validates, routes and authenticates a request. A preflight request carries no key and is not authenticated.
    fn new(head: &Parts, settings: &Settings, fleet: &Fleet) -> Self {
        if settings.cors.is_some() && cors::is_preflight(head) {
            return Self { target: Ok(RouteTarget::Preflight), dialect: Dialect::Other, tenant: None };
        }
        if let Err(error) = validate::validate_head(head, &settings.limits) {
            return Self::refused(error, Dialect::Other);
        }
        let target = match_route(fleet, head);
        let dialect = target.as_ref().ok().and_then(RouteTarget::dialect);
        let dialect = dialect.unwrap_or_else(|| ModelShape::requested_by(&head.headers).error_dialect());
        if matches!(&target, Ok(target) if target.is_public()) {
            return Self { target, dialect, tenant: None };
        }
        match auth::authenticate(&settings.tenants, &head.headers, accepts_azure_key(head, fleet)) {
            Ok(tenant) => Self { target, dialect, tenant },
            Err(error) => Self::refused(error, dialect),
        }
    }

    const fn refused(error: RequestError, dialect: Dialect) -> Self {
        Self { target: Err(RouteError { error, virtual_host: None }), dialect, tenant: None }
    }
}

/// Returns whether a request shows a key as clients of Azure OpenAI do, and may.
fn accepts_azure_key(head: &Parts, fleet: &Fleet) -> bool {
    head.headers.contains_key(auth::API_KEY)
        && fleet.virtual_host(&request_host(head), head.uri.path()).is_some_and(|host| host.accepts_azure())
}

/// Returns the 101 of a tunnel, which runs once the client has received it.
fn start_tunnel(response: Response<BodySource>, mut log: RequestLog) -> Response<ServedBody> {
    log.set_response(&response, BodyFraming::Length, None);
    let context = log.shared_context();
    response.map(|source| {
        if let BodySource::Tunnel(tunnel) = source {
            context.connection().set_tunnel(Box::pin(tunnel.run(log)));
        }
        Either::Right(Empty::new())
    })
}

/// Records the pool of a virtual host that has only one.
fn record_single_pool(log: &mut RequestLog, virtual_host: Option<&VirtualHost>) {
    if let Some([pool]) = virtual_host.map(VirtualHost::pools) {
        log.set_pool(pool);
    }
}
