//! The answers that routes give themselves: nginx's `return`, and the redirect to a path with a slash at its end.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Uri, header};

use super::body::BodySource;
use super::error::RequestError;
use crate::log_format::{LogFormat, RequestRecord};
use crate::routes::{Answer, escape_path};
use crate::server::request_log::RequestLog;

/// Returns the response of an answer. That of a closed connection is never sent.
pub(in crate::server) fn answer_response(answer: &Answer, log: &RequestLog) -> Response<BodySource> {
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    match answer {
        Answer::Status(code) if *code >= 400 => {
            BodySource::from_error(&RequestError::BlockedPath(*code), log.context().dialect)
        }
        Answer::Status(code) => {
            let mut response = empty_response(status(*code));
            if *code < 300 && *code != 204 {
                // nginx's default type, also for no text.
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            response
        }
        Answer::Close => empty_response(StatusCode::FORBIDDEN),
        Answer::Text { status: code, text, content_type } => {
            let mut response = Response::new(BodySource::Local(render(text, log).into()));
            *response.status_mut() = status(*code);
            response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
            response
        }
        Answer::Redirect { status: code, location } => redirect(status(*code), render(location, log), log),
    }
}

/// Returns the redirect to the request's path with a slash at its end.
pub(in crate::server) fn slash_redirect(uri: &Uri, log: &RequestLog) -> Response<BodySource> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    redirect(StatusCode::MOVED_PERMANENTLY, format!("{}/{query}", escape_path(uri.path())).into_bytes(), log)
}

fn empty_response(status: StatusCode) -> Response<BodySource> {
    let mut response = Response::new(BodySource::Local(axum::body::Body::empty()));
    *response.status_mut() = status;
    response
}

fn render(format: &LogFormat, log: &RequestLog) -> Vec<u8> {
    let mut text = Vec::new();
    log.with_record(None, |record| format.render(record, &mut text));
    text
}

/// Returns a redirect. A location that is a path is completed by the scheme, the host and the port of the request.
fn redirect(status: StatusCode, location: Vec<u8>, log: &RequestLog) -> Response<BodySource> {
    let location = match location.first() {
        Some(b'/') => {
            log.with_record(None, |record| [origin(record, &log.context().host).as_bytes(), &location].concat())
        }
        _ => location,
    };
    let mut response = empty_response(status);
    match HeaderValue::from_maybe_shared(Bytes::from(location)) {
        Ok(location) => drop(response.headers_mut().insert(header::LOCATION, location)),
        // A line feed of the client's, in an escape that a variable has decoded.
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// Returns scheme, host and port as nginx writes them. If the request names no host, the address of the connection
/// stands for it; a Unix socket has none.
fn origin(record: &RequestRecord<'_>, host: &str) -> String {
    let connection = &record.request_line.connection;
    let (scheme, default_port) = if connection.tls.is_some() { ("https", 443) } else { ("http", 80) };
    let port = connection.socket_addrs.map(|(_, local)| local.port()).filter(|port| *port != default_port);
    let address = match connection.socket_addrs.map(|(_, local)| local.ip()) {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        None => String::new(),
    };
    match (if host.is_empty() { address.as_str() } else { host }, port) {
        ("", _) => String::new(),
        (host, Some(port)) => format!("{scheme}://{host}:{port}"),
        (host, None) => format!("{scheme}://{host}"),
    }
}
