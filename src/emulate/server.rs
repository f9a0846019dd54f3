//! The HTTP server of an emulated replica.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api_error::ApiError;
use super::emulated_request::EmulatedRequest;
use super::endpoints;
use super::faults::EmulatedFault;
use super::faulty_socket::{FLUSH_DELAY, FaultySocket, SocketFault};
use super::http_response::json_response;
use super::response_body::{BodyAborted, EmulatedBody, OpenRequest};
use super::state::{ReplicaState, lock};

/// Longest request body that is accepted.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Serves connections and runs the engine. Never returns; on drop it closes all connections.
pub(super) async fn serve(listener: TcpListener, state: Arc<ReplicaState>) -> Infallible {
    let runner = state.runner.clone();
    tokio::select! {
        never = accept_connections(listener, state) => never,
        () = runner.run() => std::future::pending().await,
    }
}

async fn accept_connections(listener: TcpListener, state: Arc<ReplicaState>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                state.counters.accepted_connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve_connection(stream, peer, state.clone()));
            }
            // Out of file descriptors: wait until connections end.
            Err(_) => sleep(FLUSH_DELAY).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, state: Arc<ReplicaState>) {
    // A client that has left is noticed at the first read.
    let _ = stream.set_nodelay(true);
    let socket_fault = Arc::new(SocketFault::default());
    let socket = FaultySocket::new(stream, socket_fault.clone());
    // hyper's header timeout also runs while a connection is idle.
    let idle = state.settings.keepalive_timeout;
    let service = service_fn(move |request| respond(state.clone(), peer, socket_fault.clone(), request));
    let mut server = http1::Builder::new();
    // The client notices how the connection ends.
    let _ = server.timer(TokioTimer::new()).header_read_timeout(idle).serve_connection(socket, service).await;
}

async fn respond(
    state: Arc<ReplicaState>,
    peer_addr: SocketAddr,
    socket_fault: Arc<SocketFault>,
    request: Request<Incoming>,
) -> Result<Response<EmulatedBody>, BodyAborted> {
    state.counters.count_request(request.uri().path());
    let open_request = OpenRequest::new(state.counters.clone());
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| BodyAborted)?.to_bytes();
    let client_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let request_id = client_id.unwrap_or_else(|| state.new_id());
    let mut request = EmulatedRequest {
        replica: state,
        peer_addr,
        socket_fault: socket_fault.clone(),
        head,
        body,
        request_id: request_id.clone(),
        fault: None,
    };
    request.fault = select_fault(&request);
    let fault = request.fault;
    let mut response = match fault {
        Some(EmulatedFault::CloseBeforeHead) => return Err(BodyAborted),
        Some(EmulatedFault::Status(status)) => fault_response(status),
        Some(EmulatedFault::SlowHeaders(time)) => {
            sleep(time).await;
            endpoints::handle_request(request).await
        }
        _ => endpoints::handle_request(request).await,
    };
    if response.body().is_full()
        && matches!(fault, Some(EmulatedFault::DieMidstream(_) | EmulatedFault::CloseAfterHead))
    {
        response = response.map(|body| truncate_body(&body));
    }
    let closes = matches!(fault, Some(EmulatedFault::CloseKeepalive));
    response.body_mut().attach_request(open_request, closes.then_some(socket_fault));
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("emulated"));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert("x-request-id", id);
    }
    Ok(response)
}

/// Returns the fault that the request's header names, else the injected one.
fn select_fault(request: &EmulatedRequest) -> Option<EmulatedFault> {
    let path = request.head.uri.path();
    if path.starts_with("/emulate/") {
        return None;
    }
    let named = request.header("x-emulate-fault").and_then(EmulatedFault::parse);
    named.or_else(|| lock(&request.replica.fault_injector).take_fault(&request.head.method, path))
}

fn fault_response(status: u16) -> Response<EmulatedBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, ApiError::injected_fault(status).to_json());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Returns a body that announces the length of `body`, sends half of it and breaks the connection.
fn truncate_body(body: &EmulatedBody) -> EmulatedBody {
    let bytes = body.bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let (sender, chunks) = mpsc::channel(2);
    let writer = tokio::spawn(async move {
        // Sending fails only if the body was dropped.
        let _ = sender.send(Ok(half)).await;
        sleep(FLUSH_DELAY).await;
        let _ = sender.send(Err(BodyAborted)).await;
    });
    EmulatedBody::from_channel(chunks, writer.abort_handle(), Some(bytes.len() as u64))
}
