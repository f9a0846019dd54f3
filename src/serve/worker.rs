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

use super::acceptor::{Arrival, Socket};
use super::ahead::Ahead;
use super::crowd::Crowd;
use super::farewell::Farewell;
use super::gzip::{self, Gzip};
use super::identify::{self, Caller, Peer};
use super::patience::Counted;
use super::proxy::proxy;
use super::reply::{Reply, Source};
use super::story::Story;
use super::tally::{Load, Tally};
use super::target::{self, Target};
use super::visit::{Present, Visit};
use super::{App, Refusal, Stage, Worker, admission, cors, gate, own, secure};
use crate::balance::Dice;
use crate::clock;
use crate::config::Settings;
use crate::fleet::Site;
use crate::telemetry::{Level, Session, Wire};
use crate::units::Dialect;
use crate::upstream::Upstream;

/// How often idle connections to replicas are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Requests of one HTTP/2 connection that may be taken back before they are looked at.
const RESETS: usize = 20;
/// What is buffered of one HTTP/2 answer that its client does not read.
const UNREAD_BYTES: usize = 64 << 10;

/// A worker and what its connections need beside.
struct Serving {
    worker: Worker,
    tally: Arc<Tally>,
    router: axum::Router,
    dice: RefCell<Dice>,
}

/// Spawns hyper's own tasks on the worker's thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Serves the connections that come through `inbox` until it is closed and they have ended, or the process stops.
pub(super) async fn run(
    app: Arc<App>,
    tally: Arc<Tally>,
    mut inbox: mpsc::Receiver<Arrival>,
    mut stage: watch::Receiver<Stage>,
) {
    let serving = Rc::new(Serving {
        router: own::data(app.clone()),
        dice: RefCell::new(Dice::seeded(clock::seed())),
        tally,
        worker: Worker { upstream: Upstream::new(app.clock, app.keyring.clone()), app },
    });
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(arrival) => {
                    let served = connection(serving.clone(), arrival, stage.clone());
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
        () = reached(&mut stage, |stage| stage == Stage::Ended) => {}
    }
}

/// Waits for a stage and lets go of it: whoever keeps what `wait_for` returns keeps the next stage from being set.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: impl Fn(Stage) -> bool) {
    drop(stage.wait_for(|stage| wanted(*stage)).await);
}

fn builder(settings: &Settings) -> auto::Builder<OnThisThread> {
    let mut builder = auto::Builder::new(OnThisThread);
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
        .max_pending_accept_reset_streams(RESETS)
        .max_send_buf_size(UNREAD_BYTES)
        // Beyond it the connection ends; up to it the gate refuses in words.
        .max_header_list_size(u32::try_from(settings.limits.header_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(Duration::from_secs(20)));
    builder
}

async fn connection(serving: Rc<Serving>, Arrival { socket, open: _open }: Arrival, stage: watch::Receiver<Stage>) {
    // The socket belongs to this thread's runtime from here on; a failure means that it is closed already.
    match socket {
        Socket::Tcp(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream) {
                let wire = serving.wire(serving.ends(&stream), None);
                serve(&serving, stream, Visit::new(Peer::Tcp(peer), wire), stage).await;
            }
        }
        Socket::Tls(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream)
                && let ends = serving.ends(&stream)
                && let Some((stream, session)) = secure::handshake(&serving.worker.app, stream, peer).await
            {
                let wire = serving.wire(ends, Some(session));
                serve(&serving, stream, Visit::new(Peer::Tcp(peer), wire), stage).await;
            }
        }
        Socket::Unix(stream) => {
            if let Ok(stream) = UnixStream::from_std(stream) {
                serve(&serving, stream, Visit::new(Peer::Unix, serving.wire(None, None)), stage).await;
            }
        }
    }
}

async fn serve(
    serving: &Rc<Serving>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    visit: Rc<Visit>,
    mut stage: watch::Receiver<Stage>,
) {
    let settings = serving.worker.app.settings();
    let timeouts = &settings.timeouts;
    let (stream, timer) = Counted::new(stream, timeouts);
    let stream = Farewell::new(stream, serving.worker.app.clone(), visit.clone());
    let stream = Ahead::new(stream, visit.clone(), !settings.half_close);
    let (undecided, decided) = timer.undecided();
    let service = service_fn(|request: Request<Incoming>| {
        decided.set(true);
        let (serving, visit, present) = (serving.clone(), visit.clone(), visit.begins(request.version()));
        async move { Ok::<_, Infallible>(serving.answer(request, &visit, present).await) }
    });
    let mut builder = builder(&settings);
    // The timer knows the times; hyper only has to ask it.
    builder.http1().timer(timer).header_read_timeout(timeouts.header);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // What ends a connection early is the client's doing and is told by the stories of its requests, if it had any.
    let gave_up = || {
        if visit.requests.get() == 0 {
            let (client, within) = (visit.peer.text(), timeouts.header);
            let what = format_args!(
                "a connection of {client} was closed: no request came whole within {within:?} (`timeouts.header`)"
            );
            serving.worker.app.errors.write(Level::Info, what);
        }
    };
    tokio::select! {
        // What has come is looked at before it is said that nothing has.
        biased;
        ended = connection.as_mut() => if ended.is_err_and(|error| is_late(&*error)) { gave_up() },
        () = undecided => gave_up(),
        () = reached(&mut stage, |stage| stage != Stage::Running) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

impl Serving {
    /// Both ends of a connection, if the log or a header wants them.
    fn ends(&self, stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
        let logged = self.worker.app.access.load().as_ref().is_some_and(|log| log.needs().ends);
        let wanted = logged || self.worker.app.settings().headers.needs().ends;
        wanted.then_some(())?;
        Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
    }

    /// A new connection.
    fn wire(&self, ends: Option<(SocketAddr, SocketAddr)>, tls: Option<Session>) -> Wire {
        let number = self.worker.app.visits.fetch_add(1, Ordering::Relaxed) + 1;
        Wire { number, ends, tls }
    }

    /// Answers one request, whatever happens.
    async fn answer(&self, request: Request<Incoming>, visit: &Visit, present: Present) -> Response<Reply> {
        let load = Load::on(&self.tally);
        let (head, body) = request.into_parts();
        let id = identify::request_id(&head.headers, &mut self.dice.borrow_mut());
        let settings = self.worker.app.settings();
        let caller = identify::caller(visit.peer, &head.headers, &settings.trusted_proxies);
        let caller = Caller { secure: visit.wire.tls.is_some(), ..caller };
        let mut story = Story::new(self.worker.app.clone(), &settings, load, &head, (caller, id));
        story.came_by(visit, present);
        let takes_gzip = settings.gzip.is_some() && head.method != Method::HEAD && gzip::accepted(&head.headers);
        let cors = settings.cors.as_ref();
        let origin = cors.and_then(|cors| cors::allowed(cors, &head.headers));
        let mut answer = if cors.is_some() && cors::is_preflight(&head) {
            cors::preflight::<axum::body::Body>(&head.headers).map(Source::Own)
        } else {
            visit.owes(!body.is_end_stream());
            self.route(Request::from_parts(head, body), &mut story).await
        };
        if let Ok(id) = HeaderValue::try_from(&story.id) {
            answer.headers_mut().insert(identify::X_REQUEST_ID, id);
        }
        if let Some(origin) = origin {
            cors::permit(answer.headers_mut(), origin);
        }
        let length = answer.body().size_hint().exact();
        let compressed = settings.gzip.is_some_and(|min_bytes| gzip::mark(&mut answer, length, min_bytes, takes_gzip));
        story.dress_answer(&mut answer);
        Reply::of(answer, story, compressed.then(|| Box::new(Gzip::new())))
    }

    async fn route(&self, request: Request<Incoming>, story: &mut Story) -> Response<Source> {
        let (head, body) = request.into_parts();
        let (app, settings) = (&self.worker.app, story.settings.clone());
        if let Err(refusal) = gate::check(&head, &settings.limits) {
            return refuse(&refusal, Dialect::Other);
        }
        let target = target::find(&app.fleet, &head);
        let dialect = if let Ok(Target::Replica(call)) = &target { call.dialect } else { Dialect::Other };
        if !matches!(&target, Ok(target) if target.is_open()) {
            match admission::admit(&settings.tenants, &head.headers) {
                Ok(tenant) => story.is_of(tenant),
                Err(refusal) => return refuse(&refusal, dialect),
            }
        }
        match target {
            Err((refusal, site)) => {
                if let Some(site) = &site {
                    enter(story, site);
                }
                refuse(&refusal, dialect)
            }
            Ok(Target::Own(path, site)) => {
                if let Some(site) = &site {
                    enter(story, site);
                }
                self.own(Request::from_parts(head, body), &path, (site, story.tenant.clone())).await
            }
            Ok(Target::Replica(call)) => {
                enter(story, &call.site);
                let answer = match Crowd::enter(app, &settings.limits) {
                    Ok(place) => {
                        story.place = Some(place);
                        proxy(&self.worker, Request::from_parts(head, body), &call, story).await
                    }
                    Err(refusal) => Err(refusal),
                };
                answer.unwrap_or_else(|refusal| {
                    let mut answer = refuse(&refusal, dialect);
                    story.advise(&refusal, &mut answer);
                    answer
                })
            }
        }
    }

    async fn own(&self, mut request: Request<Incoming>, path: &str, through: own::Through) -> Response<Source> {
        // `path` is a part of the path that came, so it is a valid one.
        *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
        request.extensions_mut().insert(through);
        let is_head = request.method() == Method::HEAD;
        let mut answer = match self.router.clone().call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        if is_head {
            *answer.body_mut() = axum::body::Body::empty();
        }
        answer.map(Source::Own)
    }
}

/// Tells whether a connection has ended because hyper waited for a head for too long.
fn is_late(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}

/// Notes the pool where a host and a path have but one.
fn enter(story: &mut Story, site: &Site) {
    if let [only] = site.pools() {
        story.enters(only);
    }
}

fn refuse(refusal: &Refusal, dialect: Dialect) -> Response<Source> {
    refusal.answer(dialect).map(|text| Source::Own(text.into()))
}
