//! The admin listener: its connections, and who may use it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use http::{HeaderValue, Method, Request, header};
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

/// Checks whether a request may be served.
///
/// A name in `Host` that a foreign page has made lead here (DNS rebinding) would let that page read and change
/// everything, so only addresses and listed names are served. A page of another origin may change nothing.
///
/// *Errors*: the host is unknown, another site's page sent a change, or the request shows no token or a wrong one.
fn authorize(app: &AppState, request: &Request<Incoming>) -> Result<(), RequestError> {
    let settings = app.settings();
    let AdminAccess { token, metrics_need_token, hosts } = &settings.admin_access;
    let (path, headers) = (request.uri().path(), request.headers());
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_health = matches!(path, "/livez" | "/readyz" | "/health");
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if !is_health && path != "/metrics" && host.is_some_and(|host| !is_known_host(host, hosts)) {
        return Err(RequestError::UnknownAdminHost);
    }
    if !is_read && headers.get_all(header::ORIGIN).iter().any(|origin| !is_same_origin(origin, host)) {
        return Err(RequestError::CrossOriginAdmin);
    }
    let is_open = match path {
        "/metrics" => is_read && !metrics_need_token,
        // They show the form for the token, and take it.
        "/" => is_read,
        "/login" | "/logout" => true,
        _ => is_read && is_health,
    };
    let Some(token) = token.as_ref().filter(|_| !is_open) else { return Ok(()) };
    if app.admin_sessions.has_session(headers, app.clock.now()) {
        return Ok(());
    }
    let mut tokens = headers.get_all(header::AUTHORIZATION).iter().filter_map(|v| bearer_token(v.as_bytes()));
    match tokens.next() {
        Some(secret) if token.matches_secret(secret) => Ok(()),
        Some(_) => Err(RequestError::ApiKeyInvalid),
        None => Err(RequestError::AdminTokenMissing),
    }
}

/// Returns whether `host` is an address, this machine's own name, or listed.
fn is_known_host(host: &str, listed: &[String]) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    literal.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || listed.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns whether `Origin` names the host that the request is for.
fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}

async fn serve_connection(stream: tokio::net::TcpStream, app: Arc<AppState>, router: Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, mut router) = (app.clone(), router.clone());
        async move {
            if let Err(error) = authorize(&app, &request) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_listed_names_are_known_hosts() {
        let listed = ["router.example".to_owned()];
        for host in ["127.0.0.1:9464", "10.0.0.1", "[::1]:9464", "[::1]", "localhost:9464", "Router.Example:9464"] {
            assert!(is_known_host(host, &listed), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil:9464", "", ":9464", "router.example.evil"]
        {
            assert!(!is_known_host(host, &listed), "{host}");
        }
    }

    #[test]
    fn origin_of_another_port_is_another() {
        let is_same = |origin: &'static str| is_same_origin(&HeaderValue::from_static(origin), Some("127.0.0.1:9464"));
        assert!(is_same("http://127.0.0.1:9464") && is_same("https://127.0.0.1:9464"));
        assert!(!is_same("http://127.0.0.1:80") && !is_same("null") && !is_same("http://evil.example"));
    }
}
