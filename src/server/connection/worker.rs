//! A worker: one thread, one runtime, its own connections to the replicas. A client's connection stays on its worker.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::accepted::{AcceptedConnection, ClientSocket};
use super::handler::RequestHandler;
use super::http::{serve_connection, wait_for_phase};
use super::peer_addr::PeerAddr;
use super::state::ConnectionState;
use super::timeouts::ConnectionTimeouts;
use super::tls_handshake;
use super::worker_load::WorkerLoad;
use crate::log_format::{ConnectionInfo, TlsSession};
use crate::routes::{ArrivalAddr, ListenAddr};
use crate::server::{AppState, Lifecycle};

/// Interval at which idle connections to replicas are swept.
const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Serves the connections from `queue` until it is closed and they have ended, or the process ends.
pub(in crate::server) async fn run(
    app: Arc<AppState>,
    load: Arc<WorkerLoad>,
    mut queue: mpsc::Receiver<AcceptedConnection>,
    mut lifecycle: watch::Receiver<Lifecycle>,
) {
    let handler = Rc::new(RequestHandler::new(app.clone(), load));
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(IDLE_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            accepted = queue.recv() => match accepted {
                Some(accepted) => {
                    connections.spawn_local(handle_connection(handler.clone(), accepted, lifecycle.clone()));
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
            _ = sweep.tick() => handler.worker.upstream.sweep(&app.settings().scope.timeouts),
        }
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = wait_for_phase(&mut lifecycle, |phase| phase == Lifecycle::Ended) => {}
    }
}

async fn handle_connection(
    handler: Rc<RequestHandler>,
    AcceptedConnection { socket, listen, guard: _guard }: AcceptedConnection,
    lifecycle: watch::Receiver<Lifecycle>,
) {
    let app = &handler.worker.app;
    // `from_std` registers the socket with this thread's runtime. It fails only for a socket that is closed already.
    match socket {
        ClientSocket::Tcp(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream) {
                let (addrs, arrival) = (socket_addrs(app, &stream), new_arrival(listen, &stream));
                let connection = new_connection(app, PeerAddr::of_connection(peer), arrival, addrs, None);
                serve_connection(&handler, stream, connection, lifecycle).await;
            }
        }
        ClientSocket::Tls(stream, peer) => {
            if let Ok(stream) = TcpStream::from_std(stream)
                && let (addrs, arrival) = (socket_addrs(app, &stream), new_arrival(listen, &stream))
                && let Some((stream, session)) = tls_handshake::handshake(app, stream, peer, &arrival).await
            {
                let connection = new_connection(app, PeerAddr::of_connection(peer), arrival, addrs, Some(session));
                serve_connection(&handler, stream, connection, lifecycle).await;
            }
        }
        ClientSocket::Unix(stream) => {
            if let Ok(stream) = UnixStream::from_std(stream) {
                let arrival = ArrivalAddr { listen, local: None };
                let connection = new_connection(app, PeerAddr::Unix, arrival, None, None);
                serve_connection(&handler, stream, connection, lifecycle).await;
            }
        }
    }
}

/// Returns the address that a connection has arrived at. A host may have one of those that a wildcard address covers, now
/// or after a reload.
fn new_arrival(listen: ListenAddr, stream: &TcpStream) -> ArrivalAddr {
    let is_wildcard = listen.socket_addr().is_some_and(|address| address.ip().is_unspecified());
    let local = is_wildcard.then(|| stream.local_addr().ok()).flatten();
    ArrivalAddr { listen, local }
}

/// Returns the addresses of both ends, if an access log or a configured header needs them.
fn socket_addrs(app: &AppState, stream: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    let log_needs = app.logs.access.load().needs_socket_addrs();
    let is_needed = log_needs || app.settings().headers.required_fields().socket_addrs;
    is_needed.then_some(())?;
    Some((stream.peer_addr().ok()?, stream.local_addr().ok()?))
}

/// Counts a connection and returns its state.
fn new_connection(
    app: &AppState,
    peer: PeerAddr,
    arrival: ArrivalAddr,
    socket_addrs: Option<(SocketAddr, SocketAddr)>,
    tls: Option<TlsSession>,
) -> Rc<ConnectionState> {
    let number = app.connections_accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let timeouts = ConnectionTimeouts::new(&app.settings().scope.timeouts);
    ConnectionState::new(peer, arrival, ConnectionInfo { number, socket_addrs, tls }, timeouts)
}
