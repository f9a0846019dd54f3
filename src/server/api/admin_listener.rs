//! The admin listener: its connections, and who may use it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
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

/// The most connections at once.
const MAX_CONNECTIONS: usize = 64;

/// Serves `router` on `listener` until dropped.
pub(in crate::server) async fn run(app: Arc<AppState>, listener: TcpListener, router: Router) {
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

/// Checks whether a request may be served. A web page may read but not change anything, or it could act for its
/// visitor.
///
/// *Errors*: the request shows no token or a wrong one, or a web page sent it.
fn authorize(access: &AdminAccess, request: &Request<Incoming>) -> Result<(), RequestError> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read && request.headers().contains_key(header::ORIGIN) {
        return Err(RequestError::CrossOriginAdmin);
    }
    let is_open = match request.uri().path() {
        "/livez" | "/readyz" | "/health" => true,
        "/metrics" => !access.metrics_need_token,
        _ => false,
    };
    let Some(token) = access.token.as_ref().filter(|_| !is_open || !is_read) else { return Ok(()) };
    let mut tokens = request.headers().get_all(header::AUTHORIZATION).iter().filter_map(|v| bearer_token(v.as_bytes()));
    match tokens.next() {
        Some(secret) if token.matches_secret(secret) => Ok(()),
        Some(_) => Err(RequestError::ApiKeyInvalid),
        None => Err(RequestError::AdminTokenMissing),
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, app: Arc<AppState>, router: Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, mut router) = (app.clone(), router.clone());
        async move {
            if let Err(error) = authorize(&app.settings().admin_access, &request) {
                return Ok(error.into_response());
            }
            Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {}))
        }
    });
    // A connection that the scraper closes is not an error.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
