//! CORS: access for web pages of the configured origins.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::config::CorsSettings;

/// The response headers that a page may read in addition to the safelisted ones.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("x-request-id, x-upstream, retry-after, x-should-retry");
const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
const ANY_HEADER: HeaderValue = HeaderValue::from_static("*, authorization");
/// Two hours, the longest that browsers accept.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const REQUEST_METHOD: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;

/// Returns whether a request is a browser's preflight request.
pub(in crate::server) fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(header::ORIGIN)
        && head.headers.contains_key(REQUEST_METHOD)
}

/// Returns the origin to name in the response; `None` if the request has none or it is not allowed.
pub(in crate::server) fn allowed_origin(cors: &CorsSettings, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if cors.origins.iter().any(|o| o == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    cors.origins.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin.as_bytes())).then(|| origin.clone())
}

/// Returns the response to a preflight request. Without [`add_cors_headers`] it permits nothing.
pub(in crate::server) fn preflight_response<B: Default>(request_headers: &HeaderMap) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allowed = request_headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(ANY_HEADER);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
    response
}

/// Sets the headers that permit `origin`; they replace those of a replica.
pub(in crate::server) fn add_cors_headers(headers: &mut HeaderMap, origin: HeaderValue) {
    if origin != "*" {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(allowed_origins: &[&str], requested: &'static str) -> Option<HeaderValue> {
        let cors = CorsSettings { origins: allowed_origins.iter().map(|o| (*o).to_owned()).collect() };
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(requested));
        allowed_origin(&cors, &headers)
    }

    #[test]
    fn only_configured_origin_is_allowed() {
        assert_eq!(origin(&["https://a.example"], "https://a.example").unwrap(), "https://a.example");
        assert_eq!(origin(&["*"], "https://b.example").unwrap(), "*");
        assert!(origin(&["https://a.example"], "https://b.example").is_none());
    }
}
