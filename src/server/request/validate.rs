//! What is wrong with a request's head whatever it is for.

use http::request::Parts;
use http::{Method, Version, header};

use crate::config::Limits;
use crate::server::RequestError;

/// Refuses what is too large, what could be for two hosts or end in two places, and methods that no replica has.
///
/// hyper has looked at HTTP/1 heads before; of HTTP/2 it bounds only the sum.
pub(in crate::server) fn validate_head(head: &Parts, limits: &Limits) -> Result<(), RequestError> {
    let Parts { method, uri, version, headers, .. } = head;
    if uri.path_and_query().is_some_and(|p| p.as_str().len() > limits.uri_bytes) {
        return Err(RequestError::UriTooLong { limit_bytes: limits.uri_bytes });
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    if headers.len() > limits.headers || bytes > limits.header_bytes {
        return Err(RequestError::head_too_large(limits));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && *version == Version::HTTP_11 {
        return Err(RequestError::InvalidHostHeader(hosts));
    }
    // A body in another coding than chunks would reach the replica as what it is not.
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
