//! Every error response of the router, and the one place where errors become status codes.

use std::time::Duration;

use axum::response::IntoResponse;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use thiserror::Error;

use crate::config::Limits;
use crate::dialect::{Dialect, ErrorDetails};
use crate::fleet::{NoReplica, Phase, PoolLookupError};
use crate::prompt::BodyError;
use crate::upstream::SendError;

/// Overrides the status in the decision of OpenAI's clients whether to retry.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// For requests that would fail again and cost the replicas as much.
const SHOULD_NOT_RETRY: HeaderValue = HeaderValue::from_static("false");

/// The reasons for which a request gets an error instead of a replica's response.
#[derive(Debug, Error)]
pub(in crate::server) enum RequestError {
    #[error("{0}")]
    InvalidBody(#[from] BodyError),
    #[error("the request body is larger than {limit_bytes} bytes (`limits.body_bytes` in the router's configuration)")]
    BodyTooLarge { limit_bytes: usize },
    #[error(
        "the request body has the content coding `{0}`; the router decodes gzip, deflate and zstd, up to three of them"
    )]
    UnsupportedCoding(String),
    #[error("the request body is not what its `Content-Encoding` says: {0}")]
    CorruptCoding(String),
    #[error("the request body did not arrive: no data for {0:?}")]
    BodyTimeout(Duration),
    #[error("the request body ended early")]
    BodyIncomplete,
    #[error("the request target is longer than {limit_bytes} bytes (`limits.uri_bytes` in the router's configuration)")]
    UriTooLong { limit_bytes: usize },
    #[error(
        "the request head is larger than {limit_bytes} bytes or has more than {limit_lines} header lines \
         (`limits.header_bytes` and `limits.headers` in the router's configuration)"
    )]
    HeadTooLarge { limit_bytes: usize, limit_lines: usize },
    #[error("the request is malformed or ambiguous HTTP/1.1")]
    Malformed,
    #[error("the path of the request has an invalid `%` escape or leads above the root")]
    InvalidPath,
    #[error("the request has {0} `Host` headers; it needs exactly one")]
    InvalidHostHeader(usize),
    #[error("the request has several `{0}` headers; it may have one")]
    RepeatedHeader(&'static HeaderName),
    #[error("the request names no valid host: `Host`, or the target, must be `name` or `name:port`")]
    MalformedHost,
    #[error("an API key is required: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    ApiKeyMissing,
    #[error("the admin token is required: send it as `Authorization: Bearer TOKEN`")]
    AdminTokenMissing,
    #[error("web pages of other sites may not change anything on the admin listener")]
    CrossOriginAdmin,
    #[error("`Host` must be an IP address, `localhost` or one of `admin_hosts`")]
    UnknownAdminHost,
    #[error("Incorrect API key provided.")]
    ApiKeyInvalid,
    #[error("this key is limited to some models: name one of them as `model`")]
    ModelRequiredByKey,
    #[error("unknown path {0}: this router serves the paths of the OpenAI API under /v1")]
    UnknownPath(String),
    #[error(
        "no WebSocket can be opened here: the path takes none, or the pool has no `websocket = true` in the router's configuration"
    )]
    WebSocketDisabled,
    #[error("this path is blocked")]
    BlockedPath(u16),
    #[error("clients at this address may not use this path (`access` in the router's configuration)")]
    AddressDenied,
    #[error("clients may not use {0} on this path (`methods` in the router's configuration)")]
    MethodDenied(Method),
    #[error("{method} is not allowed on this path; allowed: {}", join_methods(allow))]
    MethodNotAllowed { method: String, allow: Vec<Method> },
    #[error("`limit` must be a whole number from 1 to {max}")]
    InvalidPageLimit { max: usize },
    #[error("The model `{0}` does not exist. GET /v1/models lists the models that do.")]
    UnknownModel(String),
    #[error("you must provide a `model`: this router serves several models")]
    ModelMissing,
    #[error("{0}")]
    ModelsUnknown(PoolLookupError),
    #[error("{0}")]
    NoReplica(#[from] NoReplica),
    #[error("no replica has a response with this id")]
    UnknownResponse,
    #[error("too many request bodies are in flight (`limits.in_flight_bytes` in the router's configuration)")]
    BodyBudgetExhausted,
    #[error("too many requests are in flight (`limits.in_flight_requests` in the router's configuration)")]
    RequestLimitReached { retry_after_seconds: u64 },
    #[error(
        "too many requests for this model are in flight (`max_in_flight` of its pool in the router's configuration)"
    )]
    PoolLimitReached { retry_after_seconds: u64 },
    #[error("no replica accepts connections")]
    UpstreamUnreachable,
    #[error("the replica closed the connection before it responded")]
    UpstreamClosed,
    #[error("the replica did not respond in time")]
    UpstreamTimeout,
}

/// Advice about a retry that depends on the request's attempts and its pool.
pub(in crate::server) struct RetryAdvice {
    /// The seconds until the pool's tokens are worked off; `None` if capacity is not the reason.
    pub(in crate::server) retry_after_seconds: Option<u64>,
    pub(in crate::server) attempt_count: usize,
}

impl RequestError {
    /// Returns the error for a failed attempt that is not retried.
    pub(in crate::server) const fn from_send_error(error: &SendError) -> Self {
        match error {
            SendError { phase: Phase::Connect, .. } => Self::UpstreamUnreachable,
            SendError { timed_out: true, .. } => Self::UpstreamTimeout,
            SendError { .. } => Self::UpstreamClosed,
        }
    }

    /// Returns the error for a request whose pool was not found by its model.
    pub(in crate::server) fn from_lookup(error: PoolLookupError, model: Option<&str>) -> Self {
        match error {
            PoolLookupError::UnknownModel => Self::UnknownModel(model.unwrap_or_default().chars().take(256).collect()),
            PoolLookupError::ModelMissing => Self::ModelMissing,
            PoolLookupError::ModelsPending | PoolLookupError::NoModelList(_) => Self::ModelsUnknown(error),
        }
    }

    /// Returns the error for a head that exceeds the limits.
    pub(in crate::server) const fn head_too_large(limits: &Limits) -> Self {
        Self::HeadTooLarge { limit_bytes: limits.header_bytes, limit_lines: limits.headers }
    }

    /// Returns whether no replica is known to serve the model.
    pub(in crate::server) const fn is_unknown_model(&self) -> bool {
        matches!(self, Self::UnknownModel(_) | Self::ModelsUnknown(_))
    }

    /// Returns whether capacity is exhausted, so that the token throughput says when to retry.
    pub(in crate::server) const fn is_over_capacity(&self) -> bool {
        matches!(self, Self::NoReplica(NoReplica::AllFull) | Self::BodyBudgetExhausted)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidBody(_) | Self::BodyIncomplete | Self::ModelMissing | Self::ModelRequiredByKey => {
                StatusCode::BAD_REQUEST
            }
            Self::Malformed | Self::InvalidHostHeader(_) | Self::MalformedHost | Self::RepeatedHeader(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::InvalidPageLimit { .. } | Self::CorruptCoding(_) => StatusCode::BAD_REQUEST,
            Self::WebSocketDisabled | Self::InvalidPath => StatusCode::BAD_REQUEST,
            Self::UnsupportedCoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ApiKeyMissing | Self::ApiKeyInvalid | Self::AdminTokenMissing => StatusCode::UNAUTHORIZED,
            Self::CrossOriginAdmin | Self::UnknownAdminHost | Self::AddressDenied | Self::MethodDenied(_) => {
                StatusCode::FORBIDDEN
            }
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::UnknownPath(_) | Self::UnknownModel(_) | Self::UnknownResponse => StatusCode::NOT_FOUND,
            Self::BlockedPath(status) => StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN),
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::PoolLimitReached { .. } | Self::NoReplica(NoReplica::AllFull) => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestLimitReached { .. }
            | Self::ModelsUnknown(_)
            | Self::NoReplica(_)
            | Self::BodyBudgetExhausted
            | Self::UpstreamUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamClosed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns OpenAI's error code; `None` where it has none.
    const fn code(&self) -> Option<&'static str> {
        match self {
            Self::UnknownModel(_) => Some("model_not_found"),
            Self::UnknownPath(_) => Some("unknown_url"),
            Self::ApiKeyMissing | Self::ApiKeyInvalid | Self::AdminTokenMissing => Some("invalid_api_key"),
            Self::PoolLimitReached { .. } | Self::NoReplica(NoReplica::AllFull) => Some("rate_limit_exceeded"),
            Self::RequestLimitReached { .. } | Self::BodyBudgetExhausted => Some("overloaded"),
            Self::MethodNotAllowed { .. } => Some("method_not_supported"),
            Self::WebSocketDisabled => Some("websocket_not_supported"),
            Self::ModelsUnknown(_) | Self::NoReplica(_) | Self::UpstreamUnreachable => Some("no_replica"),
            _ => None,
        }
    }

    /// Returns OpenAI's name of the request member at fault; `None` if there is none.
    const fn param(&self) -> Option<&'static str> {
        match self {
            Self::InvalidBody(error) => error.param,
            Self::InvalidPageLimit { .. } => Some("limit"),
            Self::UnknownModel(_) | Self::ModelMissing | Self::ModelRequiredByKey => Some("model"),
            _ => None,
        }
    }

    /// Returns the seconds after which a retry may succeed, 1 to 30; `None` if none will.
    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::NoReplica(NoReplica::AllEjected { retry_after }) => {
                Some(retry_after.as_millis().div_ceil(1_000).clamp(1, 30) as u64)
            }
            Self::RequestLimitReached { retry_after_seconds: retry_after }
            | Self::PoolLimitReached { retry_after_seconds: retry_after } => Some(*retry_after),
            Self::ModelsUnknown(_) | Self::NoReplica(NoReplica::NotReady | NoReplica::NoModelList(_)) => Some(5),
            Self::NoReplica(_) | Self::BodyBudgetExhausted | Self::UpstreamUnreachable => Some(1),
            _ => None,
        }
    }

    /// Returns the error response, its body as clients of `dialect` expect it.
    pub(in crate::server) fn to_response(&self, dialect: Dialect) -> Response<String> {
        let status = self.status();
        let message = self.to_string();
        let details =
            ErrorDetails { status: status.as_u16(), message: &message, param: self.param(), code: self.code() };
        let mut response = Response::new((dialect.spec().error_body)(&details));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("true"));
        }
        if matches!(self, Self::UpstreamTimeout) {
            headers.insert(X_SHOULD_RETRY, SHOULD_NOT_RETRY);
        }
        if matches!(self, Self::Malformed | Self::InvalidHostHeader(_) | Self::MalformedHost) {
            // The end of the body is unknown.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::UnsupportedCoding(_)) {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd"));
        }
        if let Self::MethodNotAllowed { allow, .. } = self
            && let Ok(allow) = HeaderValue::try_from(join_methods(allow))
        {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl RetryAdvice {
    /// Sets the headers about a retry: when it may succeed, or that it will not.
    pub(in crate::server) fn apply<B>(&self, error: &RequestError, response: &mut Response<B>) {
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Two replicas have died of the request, or of something that both have in common.
        if matches!(error, RequestError::UpstreamClosed) && self.attempt_count > 1 {
            response.headers_mut().insert(X_SHOULD_RETRY, SHOULD_NOT_RETRY);
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> axum::response::Response {
        self.to_response(Dialect::Other).map(Into::into)
    }
}

fn join_methods(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_model_has_openai_code_and_param() {
        let response = RequestError::UnknownModel("gpt-9".to_owned()).to_response(Dialect::Chat);
        assert_eq!(response.status(), 404);
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        assert!(body.get("type").is_none());
    }

    #[test]
    fn temporary_error_has_retry_after_of_at_most_30_seconds() {
        let none = NoReplica::AllEjected { retry_after: Duration::from_secs(300) };
        let response = RequestError::NoReplica(none).to_response(Dialect::Messages);
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "30"));
        assert_eq!(response.headers()[X_SHOULD_RETRY], "true");
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(body["type"], "error");
    }
}
