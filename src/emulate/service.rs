//! Connections, requests and the table of endpoints.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Settings;
use super::body::{Body, Broken, Counters, Open};
use super::endpoints::{self, json};
use super::fault::{Fault, Faults};
use super::generate::FLUSH;
use super::problem::Problem;
use super::responses::Shelf;
use super::runner::Runner;
use super::wire::{Trick, Wire};
use crate::clock::{self, Clock};

/// Longest request body that is read.
const BODY_BYTES: usize = 64 << 20;

/// What all requests of a replica share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) runner: Arc<Runner>,
    pub(super) counters: Arc<Counters>,
    /// Guards the standing fault.
    pub(super) faults: Mutex<Faults>,
    /// Guards the streams in lock-step, by request id.
    pub(super) steps: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// Guards the remembered responses.
    pub(super) shelf: Mutex<Shelf>,
    ids: AtomicU64,
}

impl Shared {
    pub(super) fn new(settings: Settings, clock: Clock) -> Self {
        Self {
            runner: Arc::new(Runner::new(settings.constants, clock)),
            settings,
            clock,
            counters: Arc::default(),
            faults: Mutex::default(),
            steps: Mutex::default(),
            shelf: Mutex::default(),
            ids: AtomicU64::new(clock::seed()),
        }
    }

    /// Sixteen hexadecimal digits, no two alike.
    pub(super) fn fresh_id(&self) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A lock that outlives a panic of another holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request, read.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: SocketAddr,
    pub(super) trick: Arc<Trick>,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The client's `X-Request-Id`, or a fresh one.
    pub(super) id: String,
    pub(super) fault: Option<Fault>,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// Serves connections and lets time pass for the engine. Never returns; dropped, it drops all connections.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let runner = shared.runner.clone();
    tokio::select! {
        never = accept(listener, shared) => never,
        () = runner.run() => std::future::pending().await,
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(stream, peer, shared.clone()));
            }
            // Out of file descriptors: let some connections end.
            Err(_) => sleep(FLUSH).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    // A client that is gone already shows at the first read.
    let _ = stream.set_nodelay(true);
    let trick = Arc::new(Trick::default());
    let wire = Wire::new(stream, trick.clone());
    let idle = shared.settings.keep_alive;
    let service = service_fn(move |request| respond(shared.clone(), peer, trick.clone(), request));
    // hyper's time to read a head also runs while a connection is idle. How a connection ends is the client's concern.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(idle).serve_connection(wire, service).await;
}

async fn respond(
    shared: Arc<Shared>,
    peer: SocketAddr,
    trick: Arc<Trick>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Broken> {
    shared.counters.count(request.uri().path());
    let open = Open::new(shared.counters.clone());
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| Broken)?.to_bytes();
    let given = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let id = given.unwrap_or_else(|| shared.fresh_id());
    let mut call = Call { shared, peer, trick, head, body, id, fault: None };
    call.fault = fault(&call);
    let fault = call.fault;
    let (trick, id) = (call.trick.clone(), call.id.clone());
    let mut response = match fault {
        Some(Fault::CloseBeforeHead) => return Err(Broken),
        Some(Fault::Status(status)) => ordered(status),
        Some(Fault::SlowHeaders(time)) => {
            sleep(time).await;
            endpoints::answer(call).await
        }
        _ => endpoints::answer(call).await,
    };
    if response.body().is_whole() && matches!(fault, Some(Fault::DieMidstream(_) | Fault::CloseAfterHead)) {
        response = response.map(|body| halve(&body));
    }
    let closes = matches!(fault, Some(Fault::CloseKeepalive));
    response.body_mut().attach(open, closes.then_some(trick));
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("emulated"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}

/// The fault that the request asks for, else the one that stands.
fn fault(call: &Call) -> Option<Fault> {
    let path = call.head.uri.path();
    if path.starts_with("/emulate/") {
        return None;
    }
    let asked = call.header("x-emulate-fault").and_then(Fault::parse);
    asked.or_else(|| lock(&call.shared.faults).meet(&call.head.method, path))
}

fn ordered(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, Problem::ordered(status).json());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Promises all of a body, sends half of it and breaks the connection.
fn halve(body: &Body) -> Body {
    let bytes = body.bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let (to, said) = mpsc::channel(2);
    let writer = tokio::spawn(async move {
        // Whoever does not listen any more has dropped the body.
        let _ = to.send(Ok(half)).await;
        sleep(FLUSH).await;
        let _ = to.send(Err(Broken)).await;
    });
    Body::stream(said, writer.abort_handle(), Some(bytes.len() as u64))
}
