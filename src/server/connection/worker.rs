//! A worker: one thread, one runtime, its own connections to the replicas. A client's connection stays on its worker.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use super::disconnect::DisconnectDetector;
use super::error_rewrite::ErrorRewriteStream;
use super::state::{ActiveRequest, ConnectionState};
use super::timeouts::TimeoutStream;
use super::tls_handshake;
use super::worker_load::{RequestGuard, WorkerLoad};
use crate::balance::SeededRng;
use crate::clock;
use crate::config::Settings;
use crate::fleet::VirtualHost;
use crate::server::connection::accepted::{AcceptedConnection, ClientSocket};
use crate::server::proxy::proxy_request;
use crate::server::request::client;
use crate::server::request::client::{ClientInfo, PeerAddr};
use crate::server::request::concurrency::ConcurrencyLimits;
use crate::server::request::context::RequestContext;
use crate::server::request::route;
use crate::server::request::route::RouteTarget;
use crate::server::request::{auth, cors, validate};
use crate::server::response::body::{BodySource, ResponseBody};
use crate::server::response::gzip;
use crate::server::response::gzip::GzipEncoder;
use crate::server::{AppState, Lifecycle, RequestError, WorkerContext, api};
use crate::telemetry::{ConnectionInfo, LogLevel, TlsSession};
use crate::units::Dialect;
use crate::upstream::UpstreamClient;

/// How often idle connections to replicas are looked through.
const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Requests of one HTTP/2 connection that may be taken back before they are looked at.
const MAX_PENDING_RESETS: usize = 20;
/// What is buffered of one HTTP/2 answer that its client does not read.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;

/// A worker and what its connections need beside.
struct RequestHandler {
    worker: WorkerContext,
    load: Arc<WorkerLoad>,
    local_router: axum::Router,
    rng: RefCell<SeededRng>,
}

/// Spawns hyper's own tasks on the worker's thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Serves the connections that come through `inbox` until it is closed and they have ended, or the process stops.
pub(in crate::server) async fn run(
    app: Arc<AppState>,
    tally: Arc<WorkerLoad>,
    mut inbox: mpsc::Receiver<AcceptedConnection>,
    mut stage: watch::Receiver<Lifecycle>,
) {
    let serving = Rc::new(RequestHandler {
        local_router: api::data_router(app.clone()),
        rng: RefCell::new(SeededRng::from_seed(clock::random_seed())),
        load: tally,
        worker: WorkerContext { upstream: UpstreamClient::new(app.clock, app.tls_store.clone()), app },
    });
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(IDLE_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(arrival) => {
                    let served = handle_connection(serving.clone(), arrival, stage.clone());
                    connections.spawn_local(served);
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
            _ = sweep.tick() => serving.worker.upstream.sweep(&serving.worker.app.settings().timeouts),
        }
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = wait_for_stage(&mut stage, |stage| stage == Lifecycle::Ended) => {}
    }
}

/// Waits for a stage and lets go of it: whoever keeps what `wait_for` returns keeps the next stage from being set.
async fn wait_for_stage(stage: &mut watch::Receiver<Lifecycle>, wanted: impl Fn(Lifecycle) -> bool) {
    drop(stage.wait_for(|stage| wanted(*stage)).await);
}

fn http_builder(settings: &Settings) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .max_buf_size(settings.limits.header_bytes)
        .max_headers(settings.limits.headers)
        .keep_alive(!settings.timeouts.keepalive.is_zero())
        .half_close(settings.half_close)
        // Small answers and events are written faster in one piece than as a list of pieces.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.limits.streams_per_connection)
        // Rapid reset: requests that are taken back before we come to them end the connection once there are so many.
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        // Beyond it the connection ends; up to it the gate refuses in words.
        .max_header_list_size(u32::try_from(settings.limits.header_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(Duration::from_secs(20)));
    builder
}

async fn handle_connection(
    serving: Rc<RequestHandler>,
    AcceptedConnection { socket, guard: _open }: AcceptedConnection,
    stage: watch::Receiver<Lifecycle>,
) {
    // The socket belongs to this thread's runtime from here on; a failure means that it is closed already.
    match socket {
        ClientSocket::Tcp(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream) {
                let wire = serving.new_connection_info(serving.socket_addrs(&stream), None);
                serve_connection(&serving, stream, ConnectionState::new(PeerAddr::Tcp(peer), wire), stage).await;
            }
        }
        ClientSocket::Tls(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream)
                && let ends = serving.socket_addrs(&stream)
                && let Some((stream, session)) = tls_handshake::handshake(&serving.worker.app, stream, peer).await
            {
                let wire = serving.new_connection_info(ends, Some(session));
                serve_connection(&serving, stream, ConnectionState::new(PeerAddr::Tcp(peer), wire), stage).await;
            }
        }
        ClientSocket::Unix(stream) => {
            if let Ok(stream) = UnixStream::from_std(stream) {
                serve_connection(
                    &serving,
                    stream,
                    ConnectionState::new(PeerAddr::Unix, serving.new_connection_info(None, None)),
                    stage,
                )
                .await;
            }
        }
    }
}

async fn serve_connection(
    serving: &Rc<RequestHandler>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    visit: Rc<ConnectionState>,
    mut stage: watch::Receiver<Lifecycle>,
) {
    let settings = serving.worker.app.settings();
    let timeouts = &settings.timeouts;
    let (stream, timer) = TimeoutStream::new(stream, timeouts);
    let stream = ErrorRewriteStream::new(stream, serving.worker.app.clone(), visit.clone());
    let stream = DisconnectDetector::new(stream, visit.clone(), !settings.half_close);
    let (undecided, decided) = timer.protocol_detection_timeout();
    let service = service_fn(|request: Request<Incoming>| {
        decided.set(true);
        let (serving, visit, present) = (serving.clone(), visit.clone(), visit.start_request(request.version()));
        async move { Ok::<_, Infallible>(serving.handle(request, &visit, present).await) }
    });
    let mut builder = http_builder(&settings);
    // The timer knows the times; hyper only has to ask it.
    builder.http1().timer(timer).header_read_timeout(timeouts.client_header);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // What ends a connection early is the client's doing and is told by the stories of its requests, if it had any.
    let gave_up = || {
        if visit.request_count.get() == 0 {
            let (client, within) = (visit.peer.addr_text(), timeouts.client_header);
            let what = format_args!(
                "a connection of {client} was closed: no request came whole within {within:?} (`timeouts.client_header`)"
            );
            serving.worker.app.logs.error.write(LogLevel::Info, what);
        }
    };
    tokio::select! {
        // What has come is looked at before it is said that nothing has.
        biased;
        ended = connection.as_mut() => if ended.is_err_and(|error| is_header_timeout(&*error)) { gave_up() },
        () = undecided => gave_up(),
        () = wait_for_stage(&mut stage, |stage| stage != Lifecycle::Running) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

impl RequestHandler {
    /// Both ends of a connection, if the log or a header wants them.
    fn socket_addrs(&self, stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
        let logged = self.worker.app.logs.access.load().as_ref().is_some_and(|log| log.required_fields().socket_addrs);
        let wanted = logged || self.worker.app.settings().headers.required_fields().socket_addrs;
        wanted.then_some(())?;
        Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
    }

    /// A new connection.
    fn new_connection_info(&self, ends: Option<(SocketAddr, SocketAddr)>, tls: Option<TlsSession>) -> ConnectionInfo {
        let number = self.worker.app.connections_accepted.fetch_add(1, Ordering::Relaxed) + 1;
        ConnectionInfo { number, socket_addrs: ends, tls }
    }

    /// Answers one request, whatever happens.
    async fn handle(
        &self,
        request: Request<Incoming>,
        visit: &ConnectionState,
        present: ActiveRequest,
    ) -> Response<ResponseBody> {
        let load = RequestGuard::start(&self.load);
        let (head, body) = request.into_parts();
        let id = client::request_id(&head.headers, &mut self.rng.borrow_mut());
        let settings = self.worker.app.settings();
        let caller = client::resolve_client(visit.peer, &head.headers, &settings.trusted_proxies);
        let caller = ClientInfo { is_tls: visit.info.tls.is_some(), ..caller };
        let mut story = RequestContext::new(self.worker.app.clone(), &settings, load, &head, (caller, id));
        story.attach_connection(visit, present);
        let takes_gzip = settings.gzip.is_some() && head.method != Method::HEAD && gzip::accepts_gzip(&head.headers);
        let cors = settings.cors.as_ref();
        let origin = cors.and_then(|cors| cors::allowed_origin(cors, &head.headers));
        let mut answer = if cors.is_some() && cors::is_preflight(&head) {
            cors::preflight_response::<axum::body::Body>(&head.headers).map(BodySource::Local)
        } else {
            visit.set_body_unread(!body.is_end_stream());
            self.dispatch(Request::from_parts(head, body), &mut story).await
        };
        if let Ok(id) = HeaderValue::try_from(&story.request_id) {
            answer.headers_mut().insert(client::X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::add_cors_headers(answer.headers_mut(), origin);
        }
        let length = answer.body().size_hint().exact();
        let compressed =
            settings.gzip.is_some_and(|min_bytes| gzip::negotiate(&mut answer, length, min_bytes, takes_gzip));
        story.apply_response_headers(&mut answer);
        ResponseBody::wrap(answer, story, compressed.then(|| Box::new(GzipEncoder::new())))
    }

    async fn dispatch(&self, request: Request<Incoming>, story: &mut RequestContext) -> Response<BodySource> {
        let (head, body) = request.into_parts();
        let (app, settings) = (&self.worker.app, story.settings.clone());
        if let Err(refusal) = validate::validate_head(&head, &settings.limits) {
            return error_response(&refusal, Dialect::Other);
        }
        let target = route::match_route(&app.fleet, &head);
        let dialect = if let Ok(RouteTarget::Proxied(call)) = &target { call.dialect } else { Dialect::Other };
        if !matches!(&target, Ok(target) if target.is_public()) {
            match auth::authenticate(&settings.tenants, &head.headers) {
                Ok(tenant) => story.set_tenant(tenant),
                Err(refusal) => return error_response(&refusal, dialect),
            }
        }
        match target {
            Err((refusal, site)) => {
                if let Some(site) = &site {
                    record_single_pool(story, site);
                }
                error_response(&refusal, dialect)
            }
            Ok(RouteTarget::Local(path, site)) => {
                if let Some(site) = &site {
                    record_single_pool(story, site);
                }
                self.serve_local(Request::from_parts(head, body), &path, (site, story.tenant.clone())).await
            }
            Ok(RouteTarget::Proxied(call)) => {
                record_single_pool(story, &call.virtual_host);
                let answer = match ConcurrencyLimits::acquire(app, &settings.limits) {
                    Ok(place) => {
                        story.permit = Some(place);
                        proxy_request(&self.worker, Request::from_parts(head, body), &call, story).await
                    }
                    Err(refusal) => Err(refusal),
                };
                answer.unwrap_or_else(|refusal| {
                    let mut answer = error_response(&refusal, dialect);
                    story.set_retry_headers(&refusal, &mut answer);
                    answer
                })
            }
        }
    }

    async fn serve_local(
        &self,
        mut request: Request<Incoming>,
        path: &str,
        through: api::RequestScope,
    ) -> Response<BodySource> {
        // `path` is a part of the path that came, so it is a valid one.
        *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
        request.extensions_mut().insert(through);
        let is_head = request.method() == Method::HEAD;
        let mut answer = match self.local_router.clone().call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        if is_head {
            *answer.body_mut() = axum::body::Body::empty();
        }
        answer.map(BodySource::Local)
    }
}

/// Tells whether a connection has ended because hyper waited for a head for too long.
fn is_header_timeout(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}

/// Notes the pool where a host and a path have but one.
fn record_single_pool(story: &mut RequestContext, site: &VirtualHost) {
    if let [only] = site.pools() {
        story.set_pool(only);
    }
}

fn error_response(refusal: &RequestError, dialect: Dialect) -> Response<BodySource> {
    refusal.to_response(dialect).map(|text| BodySource::Local(text.into()))
}
