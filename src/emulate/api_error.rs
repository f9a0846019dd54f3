//! Errors in the words of vLLM.

use http::StatusCode;

use super::json::quote_json;

/// The error response to a request.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) kind: &'static str,
    pub(super) param: Option<String>,
}

impl ApiError {
    pub(super) fn unknown_model(name: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{name}` does not exist."),
            kind: "NotFoundError",
            param: Some("model".to_owned()),
        }
    }

    pub(super) fn unknown_response(id: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: format!("Response with id '{id}' not found."),
            kind: "invalid_request_error",
            param: Some("response_id".to_owned()),
        }
    }

    /// A field of the right type with an invalid value.
    pub(super) fn invalid_value(message: String, param: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message, kind: "BadRequestError", param: Some(param.to_owned()) }
    }

    /// A body without the shape of a request, in the words of pydantic.
    pub(super) fn validation_error(kind: &str, loc: &str, message: &str) -> Self {
        let message = format!("1 validation error:\n  {{'type': '{kind}', 'loc': '{loc}', 'msg': '{message}'}}");
        Self { status: StatusCode::BAD_REQUEST, message, kind: "Bad Request", param: Some(loc.to_owned()) }
    }

    pub(super) fn missing_field(field: &str) -> Self {
        Self::validation_error("missing", &format!("body.{field}"), "Field required")
    }

    pub(super) fn unsupported_content_type() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed".to_owned(),
            kind: "Bad Request",
            param: None,
        }
    }

    pub(super) fn engine_dead() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "EngineCore encountered an issue. See stack trace (above) for the root cause.".to_owned(),
            kind: "InternalServerError",
            param: None,
        }
    }

    pub(super) fn injected_fault(status: StatusCode) -> Self {
        let message = format!("emulated fault: {}", status.as_u16());
        Self { status, message, kind: "EmulatedFault", param: None }
    }

    pub(super) fn to_json(&self) -> String {
        format!(
            r#"{{"error":{{"message":{},"type":{},"param":{},"code":{}}}}}"#,
            quote_json(&self.message),
            quote_json(self.kind),
            self.param.as_deref().map_or_else(|| "null".to_owned(), quote_json),
            self.status.as_u16()
        )
    }
}
