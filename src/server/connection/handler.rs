//! The steps from a request's head to its response: route, then answer, serve locally or proxy.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body as _;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use thiserror::Error;
use tower_service::Service;

use super::state::ActiveRequest;
use super::worker_load::{RequestGuard, WorkerLoad};
use crate::balance::SeededRng;
use crate::clock;
use crate::config::Settings;
use crate::fleet::RoutedPools;
use crate::log_format::RequestLine;
use crate::routes::Answer;
use crate::server::api::{self, RequestScope};
use crate::server::proxy::ProxyHandler;
use crate::server::request::client::{X_REQUEST_ID, request_id};
use crate::server::request::context::RequestContext;
use crate::server::request::cors;
use crate::server::request::route::{RouteTarget, unknown_path_error};
use crate::server::request::routed_head::{RequestOrigin, RoutedHead};
use crate::server::request::websocket::is_websocket_request;
use crate::server::request_log::RequestLog;
use crate::server::response::answer::{answer_response, slash_redirect};
use crate::server::response::body::{BodySource, ResponseBody};
use crate::server::response::framing::{self, BodyFraming};
use crate::server::response::gzip::{self, GzipEncoder};
use crate::server::response::headers::apply_response_headers;
use crate::server::{AppState, RequestError, WorkerContext};
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

/// Closes the connection of a request without a response.
#[derive(Debug, Error)]
#[error("the route closes the connection")]
pub(super) struct CloseConnection;

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
    ///
    /// *Errors*: the route closes the connection without one.
    pub(super) async fn handle(
        &self,
        request: Request<Incoming>,
        active_request: ActiveRequest,
    ) -> Result<Response<ServedBody>, CloseConnection> {
        let (head, body) = request.into_parts();
        let (target, context, mut log) = self.route(&head, active_request);
        let (settings, scope) = (&context.settings, context.scope());
        let can_gzip = scope.gzip.is_some() && head.method != Method::HEAD && gzip::accepts_gzip(&head.headers);
        let origin = settings.cors.as_ref().and_then(|cors| cors::allowed_origin(cors, &head.headers));
        // hyper writes the header itself where the client asks for it.
        let must_close = scope.timeouts.keepalive.is_zero()
            && context.connection().is_http1()
            && framing::connection_close_bytes(&head) == 0;
        if !matches!(target, Ok(RouteTarget::Preflight)) {
            context.connection().set_body_unread(!body.is_end_stream());
        }
        if let Some([pool]) = context.routed.as_deref().map(RoutedPools::pools) {
            log.set_pool(pool);
        }
        let request = Request::from_parts(head, body);
        let mut response = match target {
            Ok(RouteTarget::Answer) if context.answer() == Some(&Answer::Close) => {
                log.set_closed();
                return Err(CloseConnection);
            }
            Ok(target) => self.respond(target, request, &context, &mut log).await,
            Err(error) => BodySource::from_error(&error, context.dialect),
        };
        if let Ok(id) = HeaderValue::try_from(&*context.id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::add_cors_headers(response.headers_mut(), origin);
        }
        let length = response.body().size_hint().exact();
        let is_gzip = scope.gzip.is_some_and(|min_bytes| gzip::negotiate(&mut response, length, min_bytes, can_gzip));
        apply_response_headers(&mut log, &mut response);
        if matches!(response.body(), BodySource::Tunnel(_)) {
            return Ok(start_tunnel(response, log));
        }
        if must_close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(ResponseBody::wrap(response, log, is_gzip.then(|| Box::new(GzipEncoder::new()))).map(Either::Left))
    }

    /// Routes a request and starts its record.
    fn route(
        &self,
        head: &Parts,
        active_request: ActiveRequest,
    ) -> (Result<RouteTarget, RequestError>, Rc<RequestContext>, RequestLog) {
        let app = &self.worker.app;
        let (settings, access_logs) = (app.settings(), app.logs.access.load());
        let RoutedHead { target, origin } = RoutedHead::new(head, &settings, &app.fleet, active_request.connection());
        let context = Rc::new(self.new_context(head, settings, origin, active_request));
        context.connection().set_timeouts(&context.scope().timeouts);
        let log = RequestLog::new(app.clone(), context.clone(), head, &access_logs);
        (target, context, log)
    }

    fn new_context(
        &self,
        head: &Parts,
        settings: Arc<Settings>,
        origin: RequestOrigin,
        active_request: ActiveRequest,
    ) -> RequestContext {
        let connection = active_request.connection();
        RequestContext {
            id: request_id(&head.headers, &mut self.rng.borrow_mut()),
            origin,
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
            RouteTarget::Answer => answer_response(context.answer().unwrap_or(&Answer::Close), log),
            RouteTarget::NotFound => BodySource::from_error(&unknown_path_error(request.uri().path()), context.dialect),
            RouteTarget::AddSlash => slash_redirect(request.uri(), log),
            RouteTarget::Local { path } => {
                let (routed, tenant) = (context.routed.clone(), context.tenant.clone());
                self.serve_local(request, &path, RequestScope { routed, tenant }).await
            }
            RouteTarget::Proxied(route) => {
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
