//! Checks of a request's head that do not depend on its target.

use http::request::Parts;
use http::{Method, Version, header};

use crate::config::Limits;
use crate::http::is_resolvable_path;
use crate::server::RequestError;

/// Checks the size of a head, its path, its `Host`, its transfer coding and its method.
///
/// hyper has already limited the head of an HTTP/1 request; of HTTP/2 it limits only the total size.
///
/// *Errors*: the head is too large or ambiguous, or its method is one that no replica supports.
pub(in crate::server) fn validate_head(head: &Parts, limits: &Limits) -> Result<(), RequestError> {
    let Parts { method, uri, version, headers, .. } = head;
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
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && *version == Version::HTTP_11 {
        return Err(RequestError::InvalidHostHeader(hosts));
    }
    // A body with a coding other than `chunked` would reach the replica without that coding named.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(first) = codings.next()
        && !(first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none())
    {
        return Err(RequestError::Malformed);
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        let allow = vec![Method::GET, Method::POST, Method::DELETE];
        return Err(RequestError::MethodNotAllowed { method: method.to_string(), allow });
    }
    Ok(())
}
