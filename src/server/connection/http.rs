//! HTTP/1 and HTTP/2 on one client connection, by hyper.

use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::disconnect::DisconnectDetector;
use super::error_rewrite::ErrorRewriteStream;
use super::handler::RequestHandler;
use super::state::ConnectionState;
use super::thread_bound::ThreadBound;
use super::timeouts::{HeaderReadTimer, TimeoutStream};
use crate::config::Settings;
use crate::server::Lifecycle;
use crate::telemetry::LogLevel;

/// Requests of one HTTP/2 connection that may be reset before they are handled. With one more the connection is closed
/// (rapid reset, CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Bytes buffered of one HTTP/2 response that the client does not read.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// Spawns hyper's tasks on the worker's thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Serves the requests of one connection until it ends. A drain ends it after the requests under way.
pub(super) async fn serve_connection(
    handler: &Rc<RequestHandler>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    state: Rc<ConnectionState>,
    mut lifecycle: watch::Receiver<Lifecycle>,
) {
    let app = &handler.worker.app;
    let settings = app.settings();
    let header_timeout = settings.scope.timeouts.client_header;
    let stream = TimeoutStream::new(stream, state.timeouts());
    let timer = HeaderReadTimer::new(state.timeouts());
    let stream = ErrorRewriteStream::new(stream, app.clone(), state.clone());
    let stream = DisconnectDetector::new(stream, state.clone(), settings.half_close);
    let (detection_timeout, is_detected) = timer.protocol_detection_timeout();
    let service = service_fn(|request: Request<Incoming>| {
        is_detected.set(true);
        let (handler, active) = (handler.clone(), state.start_request(request.version()));
        async move { handler.handle(request, active).await }
    });
    let mut builder = http_builder(&settings);
    // hyper takes the times from the timer. It only needs some value here to use it.
    builder.http1().timer(timer).header_read_timeout(header_timeout);
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(ThreadBound::new(stream)), service));
    // A connection that had requests needs no line: their access-log records show its end.
    let log_header_timeout = || {
        if state.request_count.get() == 0 {
            let client = state.peer.addr_text();
            let message = format_args!(
                "connection from {client} closed: no complete request within {header_timeout:?} \
                 (`timeouts.client_header`)"
            );
            app.logs.error.write(LogLevel::Info, message);
        }
    };
    tokio::select! {
        // Bytes that have arrived are read before the timeout counts.
        biased;
        ended = connection.as_mut() => if ended.is_err_and(|error| is_header_timeout(&*error)) {
            log_header_timeout();
        },
        () = detection_timeout => log_header_timeout(),
        () = wait_for_phase(&mut lifecycle, |phase| phase != Lifecycle::Running) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    // The connection's task carries the tunnel too, so that a drain waits for it and the end of the process cuts it.
    let tunnel = state.take_tunnel();
    if let Some(tunnel) = tunnel {
        tunnel.await;
    }
}

/// Waits for a phase. Drops the guard that `wait_for` returns: it would block the next change of the phase.
pub(super) async fn wait_for_phase(lifecycle: &mut watch::Receiver<Lifecycle>, wanted: impl Fn(Lifecycle) -> bool) {
    drop(lifecycle.wait_for(|phase| wanted(*phase)).await);
}

fn http_builder(settings: &Settings) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .max_buf_size(settings.limits.header_bytes)
        .max_headers(settings.limits.headers)
        .half_close(settings.half_close)
        .preserve_header_case(settings.preserve_header_case)
        // The names of headers that are the router's own.
        .title_case_headers(settings.preserve_header_case)
        // Small responses and events are written faster as one slice than as a list of slices.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.limits.streams_per_connection)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        // hyper closes the connection above twice the limit; up to that `validate_head` responds with 431.
        .max_header_list_size(u32::try_from(settings.limits.header_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(HTTP2_PING_INTERVAL));
    builder
}

/// Returns whether a connection has ended by hyper's header timeout.
fn is_header_timeout(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
}
