//! Responses to OPTIONS, other than those to a browser's preflight requests.

use http::{HeaderValue, Method, Response, StatusCode, header};

/// Returns the response to OPTIONS on a path that the router serves itself.
pub(super) async fn allowed_methods() -> Response<axum::body::Body> {
    options_response(&[Method::GET, Method::HEAD])
}

/// Returns the response to OPTIONS: the methods that a path has.
pub(in crate::server) fn options_response<B: Default>(methods: &[Method]) -> Response<B> {
    let names: Vec<&str> = methods.iter().chain([&Method::OPTIONS]).map(Method::as_str).collect();
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::try_from(names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}
