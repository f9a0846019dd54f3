//! Whole HTTP responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::api_error::ApiError;
use super::response_body::EmulatedBody;

/// Returns a response with a JSON body.
pub(super) fn json_response(status: StatusCode, json: String) -> Response<EmulatedBody> {
    typed_response(status, "application/json", json.into())
}

/// Returns a response with a body of any type.
pub(super) fn typed_response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<EmulatedBody> {
    let mut response = Response::new(EmulatedBody::from_bytes(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn error_response(error: &ApiError) -> Response<EmulatedBody> {
    json_response(error.status, error.to_json())
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Response<EmulatedBody> {
    let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#.to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
