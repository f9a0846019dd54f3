//! Checks of a request's head that do not depend on its target.

use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version, header};

use crate::config::Limits;
use crate::http::{MalformedHost, is_resolvable_path, request_host};
use crate::server::RequestError;

/// Headers that may occur once. `Host` has its own error. *Source*: nginx 1.22, `ngx_http_headers_in`.
static UNIQUE_HEADERS: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
];

/// Checks the size of a head, its path, its `Host`, its framing, its repeated headers and its method.
///
/// hyper has already limited the head of an HTTP/1 request; of HTTP/2 it limits only the total size. It removes the
/// second of two lengths, which `has_two_lengths` reports.
///
/// *Errors*: the head is too large or ambiguous, or its method is one that no replica supports.
pub(in crate::server) fn validate_head(
    head: &Parts,
    limits: &Limits,
    has_two_lengths: bool,
) -> Result<(), RequestError> {
    let Parts { method, uri, headers, .. } = head;
    if uri.path_and_query().is_some_and(|p| p.as_str().len() > limits.uri_bytes) {
        return Err(RequestError::UriTooLong { limit_bytes: limits.uri_bytes });
    }
    if !is_resolvable_path(uri.path()) {
        return Err(RequestError::InvalidPath);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    if headers.len() > limits.headers || bytes > limits.header_bytes {
        return Err(RequestError::head_too_large(limits));
    }
    validate_host(head)?;
    // A body with a coding other than `chunked` would reach the replica without that coding named.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(first) = codings.next()
        && !(first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
    {
        return Err(RequestError::Malformed);
    }
    if has_two_lengths {
        return Err(RequestError::Malformed);
    }
    if let Some(repeated) = repeated_header(headers) {
        return Err(RequestError::RepeatedHeader(repeated));
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let allow = vec![Method::GET, Method::POST, Method::DELETE];
        return Err(RequestError::MethodNotAllowed { method: method.to_string(), allow });
    }
    // `OPTIONS *` is for the router itself, which has nothing to answer.
    if !uri.path().starts_with('/') {
        return Err(RequestError::Malformed);
    }
    Ok(())
}

/// Returns a header that occurs several times and may occur once.
fn repeated_header(headers: &HeaderMap) -> Option<&'static HeaderName> {
    if headers.keys_len() == headers.len() {
        return None;
    }
    UNIQUE_HEADERS.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some())
}

/// Checks that a request names one host; over HTTP/1.0 it may name none.
///
/// *Errors*: the host is missing, given twice or malformed.
fn validate_host(head: &Parts) -> Result<(), RequestError> {
    let Parts { uri, version, headers, .. } = head;
    let lines = headers.get_all(header::HOST).iter().count();
    let is_missing = match *version {
        Version::HTTP_09 | Version::HTTP_10 => false,
        Version::HTTP_11 => lines == 0,
        _ => lines == 0 && uri.authority().is_none(),
    };
    if lines > 1 || is_missing {
        return Err(RequestError::InvalidHostHeader(lines));
    }
    match request_host(uri, *version, headers.get(header::HOST)) {
        // The target of CONNECT is an authority alone. The method is refused for its own reason.
        Err(MalformedHost) if head.method != Method::CONNECT => Err(RequestError::MalformedHost),
        _ => Ok(()),
    }
}
