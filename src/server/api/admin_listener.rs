//! The admin listener: health and metrics, on a port of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse as _;
use http::{Method, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_service::Service;

use crate::config::AdminAccess;
use crate::server::request::auth::bearer_token;
use crate::server::{AppState, RequestError};

/// The most connections at once; scrapers and people need few.
const MAX_CONNECTIONS: usize = 64;

/// Serves until dropped.
pub(in crate::server) async fn run(app: Arc<AppState>, listener: TcpListener) {
    let router = super::admin_router(app.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, app.clone(), router.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Tells whether a request may be served.
///
/// *Errors*: it needs the token; or it comes from a web page, which must not act for whoever looks at it.
fn authorize(access: &AdminAccess, request: &Request<Incoming>) -> Result<(), RequestError> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && request.headers().contains_key(header::ORIGIN) {
        return Err(RequestError::CrossOriginAdmin);
    }
    let is_open = match request.uri().path() {
        "/livez" | "/readyz" | "/health" => true,
        "/metrics" => !access.metrics_need_token,
        _ => false,
    };
    let Some(token) = access.token.as_ref().filter(|_| !is_open || !reads) else { return Ok(()) };
    let mut shown = request.headers().get_all(header::AUTHORIZATION).iter().filter_map(|v| bearer_token(v.as_bytes()));
    match shown.next() {
        Some(shown) if token.matches_secret(shown) => Ok(()),
        Some(_) => Err(RequestError::ApiKeyInvalid),
        None => Err(RequestError::AdminTokenMissing),
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, app: Arc<AppState>, router: axum::Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, mut router) = (app.clone(), router.clone());
        async move {
            if let Err(refusal) = authorize(&app.settings().admin_access, &request) {
                return Ok(refusal.into_response());
            }
            Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {}))
        }
    });
    // A scraper that hangs up is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
