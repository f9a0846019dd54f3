//! Letting web pages of other origins call, where the configuration says so.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::config::CorsSettings;

/// Headers that a page may read beside the simple ones.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("x-request-id, x-upstream, retry-after, x-should-retry");
const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
const ANY_HEADER: HeaderValue = HeaderValue::from_static("*, authorization");
/// Two hours, the most that browsers honour.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const REQUEST_METHOD: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;

/// Tells whether a request is a browser's question before the request itself.
pub(in crate::server) fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(header::ORIGIN)
        && head.headers.contains_key(REQUEST_METHOD)
}

/// The origin to name in the answer, if the request has one and it is allowed.
pub(in crate::server) fn allowed_origin(cors: &CorsSettings, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if cors.origins.iter().any(|o| o == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    cors.origins.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin.as_bytes())).then(|| origin.clone())
}

/// Answers a preflight. One from an origin that is not allowed gets no permission, and the browser says so.
pub(in crate::server) fn preflight_response<B: Default>(asked: &HeaderMap) -> Response<B> {
    let mut answer = Response::new(B::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(ANY_HEADER);
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
    answer
}

/// Gives an answer its permission, in place of what a replica may have said for itself.
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

    fn origin(allowed_origins: &[&str], asking: &'static str) -> Option<HeaderValue> {
        let cors = CorsSettings { origins: allowed_origins.iter().map(|o| (*o).to_owned()).collect() };
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(asking));
        allowed_origin(&cors, &headers)
    }

    #[test]
    fn only_listed_origins_are_named_in_the_answer() {
        assert_eq!(origin(&["https://a.example"], "https://a.example").unwrap(), "https://a.example");
        assert_eq!(origin(&["*"], "https://b.example").unwrap(), "*");
        assert!(origin(&["https://a.example"], "https://b.example").is_none());
    }
}
