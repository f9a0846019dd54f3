//! Paths that end in an id: stored responses and streams in lock-step.

use http::{Response, StatusCode};

use crate::emulate::api_error::ApiError;
use crate::emulate::emulated_request::EmulatedRequest;
use crate::emulate::http_response::{error_response, json_response, method_not_allowed};
use crate::emulate::json::quote_json;
use crate::emulate::response_body::EmulatedBody;
use crate::emulate::state::lock;

/// Returns the response to a path that ends in an id: a stored response or a stream in lock-step. `None` for other
/// paths.
pub(super) fn handle_path_with_id(request: &EmulatedRequest, path: &str) -> Option<Response<EmulatedBody>> {
    let method = request.head.method.as_str();
    if let Some(id) = path.strip_prefix("/emulate/next/") {
        let known = lock(&request.replica.lockstep_streams).get(id).map(|permits| permits.add_permits(1)).is_some();
        let status = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Some(json_response(status, "{}".to_owned()));
    }
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, expected_method) = match rest.strip_suffix("/cancel") {
        Some(id) => (id, "POST"),
        None if method == "DELETE" => (rest, "DELETE"),
        None => (rest, "GET"),
    };
    if method != expected_method {
        return Some(method_not_allowed(expected_method));
    }
    let mut responses = lock(&request.replica.responses);
    let Some(stored) = responses.get(id).map(str::to_owned) else {
        return Some(error_response(&ApiError::unknown_response(id)));
    };
    if expected_method != "DELETE" {
        return Some(json_response(StatusCode::OK, stored));
    }
    responses.remove(id);
    Some(json_response(StatusCode::OK, format!(r#"{{"id":{},"object":"response","deleted":true}}"#, quote_json(id))))
}
