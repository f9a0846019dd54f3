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

use super::EmulatorSettings;
use super::api_error::ApiError;
use super::dialects::responses::ResponseStore;
use super::endpoints::{self, json_response};
use super::faults::{EmulatedFault, FaultInjector};
use super::faulty_socket::{FaultySocket, SocketFault};
use super::generate::FLUSH_DELAY;
use super::response_body::{BodyAborted, EmulatedBody, EmulatorCounters, OpenRequest};
use super::runner::EngineRunner;
use crate::clock::{self, Clock};

/// Longest request body that is read.
const MAX_BODY_BYTES: usize = 64 << 20;

/// What all requests of a replica share.
#[derive(Debug)]
pub(super) struct ReplicaState {
    pub(super) settings: EmulatorSettings,
    pub(super) clock: Clock,
    pub(super) runner: Arc<EngineRunner>,
    pub(super) counters: Arc<EmulatorCounters>,
    /// Guards the standing fault.
    pub(super) fault_injector: Mutex<FaultInjector>,
    /// Guards the streams in lock-step, by request id.
    pub(super) lockstep_streams: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// Guards the remembered responses.
    pub(super) responses: Mutex<ResponseStore>,
    id_counter: AtomicU64,
}

impl ReplicaState {
    pub(super) fn new(settings: EmulatorSettings, clock: Clock) -> Self {
        Self {
            runner: Arc::new(EngineRunner::new(settings.engine_model, clock)),
            settings,
            clock,
            counters: Arc::default(),
            fault_injector: Mutex::default(),
            lockstep_streams: Mutex::default(),
            responses: Mutex::default(),
            id_counter: AtomicU64::new(clock::random_seed()),
        }
    }

    /// Sixteen hexadecimal digits, no two alike.
    pub(super) fn new_id(&self) -> String {
        let number = self.id_counter.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A lock that outlives a panic of another holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request, read.
#[derive(Debug)]
pub(super) struct EmulatedRequest {
    pub(super) replica: Arc<ReplicaState>,
    pub(super) peer_addr: SocketAddr,
    pub(super) socket_fault: Arc<SocketFault>,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The client's `X-Request-Id`, or a fresh one.
    pub(super) request_id: String,
    pub(super) fault: Option<EmulatedFault>,
}

impl EmulatedRequest {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn header_number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// Serves connections and lets time pass for the engine. Never returns; dropped, it drops all connections.
pub(super) async fn serve(listener: TcpListener, shared: Arc<ReplicaState>) -> Infallible {
    let runner = shared.runner.clone();
    tokio::select! {
        never = accept_connections(listener, shared) => never,
        () = runner.run() => std::future::pending().await,
    }
}

async fn accept_connections(listener: TcpListener, shared: Arc<ReplicaState>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                shared.counters.accepted_connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve_connection(stream, peer, shared.clone()));
            }
            // Out of file descriptors: let some connections end.
            Err(_) => sleep(FLUSH_DELAY).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, shared: Arc<ReplicaState>) {
    // A client that is gone already shows at the first read.
    let _ = stream.set_nodelay(true);
    let trick = Arc::new(SocketFault::default());
    let wire = FaultySocket::new(stream, trick.clone());
    let idle = shared.settings.keepalive_timeout;
    let service = service_fn(move |request| respond(shared.clone(), peer, trick.clone(), request));
    // hyper's time to read a head also runs while a connection is idle. How a connection ends is the client's concern.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(idle).serve_connection(wire, service).await;
}

async fn respond(
    shared: Arc<ReplicaState>,
    peer: SocketAddr,
    trick: Arc<SocketFault>,
    request: Request<Incoming>,
) -> Result<Response<EmulatedBody>, BodyAborted> {
    shared.counters.count_request(request.uri().path());
    let open = OpenRequest::new(shared.counters.clone());
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| BodyAborted)?.to_bytes();
    let given = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let id = given.unwrap_or_else(|| shared.new_id());
    let mut call = EmulatedRequest {
        replica: shared,
        peer_addr: peer,
        socket_fault: trick,
        head,
        body,
        request_id: id,
        fault: None,
    };
    call.fault = select_fault(&call);
    let fault = call.fault;
    let (trick, id) = (call.socket_fault.clone(), call.request_id.clone());
    let mut response = match fault {
        Some(EmulatedFault::CloseBeforeHead) => return Err(BodyAborted),
        Some(EmulatedFault::Status(status)) => fault_response(status),
        Some(EmulatedFault::SlowHeaders(time)) => {
            sleep(time).await;
            endpoints::handle_request(call).await
        }
        _ => endpoints::handle_request(call).await,
    };
    if response.body().is_full()
        && matches!(fault, Some(EmulatedFault::DieMidstream(_) | EmulatedFault::CloseAfterHead))
    {
        response = response.map(|body| truncate_body(&body));
    }
    let closes = matches!(fault, Some(EmulatedFault::CloseKeepalive));
    response.body_mut().attach_request(open, closes.then_some(trick));
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("emulated"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}

/// The fault that the request asks for, else the one that stands.
fn select_fault(call: &EmulatedRequest) -> Option<EmulatedFault> {
    let path = call.head.uri.path();
    if path.starts_with("/emulate/") {
        return None;
    }
    let asked = call.header("x-emulate-fault").and_then(EmulatedFault::parse);
    asked.or_else(|| lock(&call.replica.fault_injector).take_fault(&call.head.method, path))
}

fn fault_response(status: u16) -> Response<EmulatedBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, ApiError::injected_fault(status).to_json());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Promises all of a body, sends half of it and breaks the connection.
fn truncate_body(body: &EmulatedBody) -> EmulatedBody {
    let bytes = body.bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let (to, said) = mpsc::channel(2);
    let writer = tokio::spawn(async move {
        // Whoever does not listen any more has dropped the body.
        let _ = to.send(Ok(half)).await;
        sleep(FLUSH_DELAY).await;
        let _ = to.send(Err(BodyAborted)).await;
    });
    EmulatedBody::from_channel(said, writer.abort_handle(), Some(bytes.len() as u64))
}
