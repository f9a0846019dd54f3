//! Every reason for an answer of our own that is an error, and the one place where errors become status codes.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use thiserror::Error;

use crate::config::Limits;
use crate::dialect::{Dialect, ErrorDetails};
use crate::fleet::{NoReplica, Phase, PoolLookupError};
use crate::prompt::BodyError;
use crate::upstream::SendError;

/// OpenAI's clients retry by it, and not by the status, where it is there.
pub(in crate::server) const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// To have the same done once more would be as vain and cost the replicas as much.
pub(in crate::server) const SHOULD_NOT_RETRY: HeaderValue = HeaderValue::from_static("false");

/// Why a request is not answered by a replica.
#[derive(Debug, Error)]
pub(in crate::server) enum RequestError {
    #[error("{0}")]
    InvalidBody(#[from] BodyError),
    #[error("the request body is larger than {limit_bytes} bytes (`limits.body_bytes` in the router's configuration)")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the request body did not arrive: nothing came for {0:?}")]
    BodyTimeout(Duration),
    #[error("the request body broke off")]
    BodyIncomplete,
    #[error("the request target is longer than {limit_bytes} bytes (`limits.uri_bytes` in the router's configuration)")]
    UriTooLong { limit_bytes: usize },
    #[error(
        "the request's head is larger than {limit_bytes} bytes or has more than {limit_lines} header lines \
         (`limits.header_bytes` and `limits.headers` in the router's configuration)"
    )]
    HeadTooLarge { limit_bytes: usize, limit_lines: usize },
    #[error("the request cannot be read as HTTP/1.1, or could be read in two ways")]
    Malformed,
    #[error("the request has {0} `Host` headers and needs one")]
    InvalidHostHeader(usize),
    #[error("this router asks for a key: send it as `Authorization: Bearer KEY` (or as `x-api-key`)")]
    ApiKeyMissing,
    #[error("the admin listener asks for its token: send it as `Authorization: Bearer TOKEN`")]
    AdminTokenMissing,
    #[error("web pages cannot change anything here")]
    CrossOriginAdmin,
    #[error("Incorrect API key provided.")]
    ApiKeyInvalid,
    #[error("this key is for some models only: name one of them as `model`")]
    ModelRequiredByKey,
    #[error("unknown path {0}: this router serves the OpenAI API's paths below /v1")]
    UnknownPath(String),
    #[error("this path is not open to clients")]
    BlockedPath(u16),
    #[error("{method} is not allowed on this path; allowed: {}", join_methods(allow))]
    MethodNotAllowed { method: String, allow: Vec<Method> },
    #[error("The model `{0}` does not exist. GET /v1/models lists those that do.")]
    UnknownModel(String),
    #[error("you must provide a `model`: this router serves several")]
    ModelMissing,
    #[error("{0}")]
    ModelsUnknown(PoolLookupError),
    #[error("{0}")]
    NoReplica(#[from] NoReplica),
    #[error("no response with this id is known to any replica")]
    UnknownResponse,
    #[error("too many request bodies are in flight (`limits.in_flight_bytes` in the router's configuration)")]
    BodyBudgetExhausted,
    #[error("too many requests are in flight (`limits.in_flight_requests` in the router's configuration)")]
    RequestLimitReached { retry_after_seconds: u64 },
    #[error(
        "too many requests for this model are in flight (`max_in_flight` of its pool in the router's configuration)"
    )]
    PoolLimitReached { retry_after_seconds: u64 },
    #[error("no replica could be connected to")]
    UpstreamUnreachable,
    #[error("the replica closed the connection before it answered")]
    UpstreamClosed,
    #[error("the replica did not begin its answer in time")]
    UpstreamTimeout,
}

impl RequestError {
    /// Why a lost attempt cannot be made good.
    pub(in crate::server) const fn from_send_error(failure: &SendError) -> Self {
        match failure {
            SendError { phase: Phase::Connect, .. } => Self::UpstreamUnreachable,
            SendError { timed_out: true, .. } => Self::UpstreamTimeout,
            SendError { .. } => Self::UpstreamClosed,
        }
    }

    /// A head that is beyond the limits.
    pub(in crate::server) const fn head_too_large(limits: &Limits) -> Self {
        Self::HeadTooLarge { limit_bytes: limits.header_bytes, limit_lines: limits.headers }
    }

    /// Tells whether it is for want of room, so that the ledger may know when to ask again.
    pub(in crate::server) const fn is_over_capacity(&self) -> bool {
        matches!(self, Self::NoReplica(NoReplica::AllFull) | Self::BodyBudgetExhausted)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidBody(_) | Self::BodyIncomplete | Self::ModelMissing | Self::ModelRequiredByKey => {
                StatusCode::BAD_REQUEST
            }
            Self::Malformed | Self::InvalidHostHeader(_) => StatusCode::BAD_REQUEST,
            Self::ApiKeyMissing | Self::ApiKeyInvalid | Self::AdminTokenMissing => StatusCode::UNAUTHORIZED,
            Self::CrossOriginAdmin => StatusCode::FORBIDDEN,
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

    const fn code(&self) -> Option<&'static str> {
        match self {
            Self::UnknownModel(_) => Some("model_not_found"),
            Self::UnknownPath(_) => Some("unknown_url"),
            Self::ApiKeyMissing | Self::ApiKeyInvalid | Self::AdminTokenMissing => Some("invalid_api_key"),
            Self::PoolLimitReached { .. } | Self::NoReplica(NoReplica::AllFull) => Some("rate_limit_exceeded"),
            Self::RequestLimitReached { .. } | Self::BodyBudgetExhausted => Some("overloaded"),
            Self::MethodNotAllowed { .. } => Some("method_not_supported"),
            Self::ModelsUnknown(_) | Self::NoReplica(_) | Self::UpstreamUnreachable => Some("no_replica"),
            _ => None,
        }
    }

    const fn param(&self) -> Option<&'static str> {
        match self {
            Self::InvalidBody(bad) => bad.param,
            Self::UnknownModel(_) | Self::ModelMissing | Self::ModelRequiredByKey => Some("model"),
            _ => None,
        }
    }

    /// Seconds after which asking again may help, 1 to 30.
    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::NoReplica(NoReplica::AllEjected { retry_after }) => {
                Some(retry_after.as_millis().div_ceil(1_000).clamp(1, 30) as u64)
            }
            Self::RequestLimitReached { retry_after_seconds: retry_after }
            | Self::PoolLimitReached { retry_after_seconds: retry_after } => Some(*retry_after),
            Self::ModelsUnknown(_) | Self::NoReplica(NoReplica::NotReady) => Some(5),
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
        let mut answer = Response::new((dialect.spec().error_body)(&details));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("true"));
        }
        if matches!(self, Self::UpstreamTimeout) {
            headers.insert(X_SHOULD_RETRY, SHOULD_NOT_RETRY);
        }
        if matches!(self, Self::Malformed | Self::InvalidHostHeader(_)) {
            // Nobody can tell where its body ends.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::MethodNotAllowed { allow, .. } = self
            && let Ok(allow) = HeaderValue::try_from(join_methods(allow))
        {
            headers.insert(header::ALLOW, allow);
        }
        answer
    }
}

fn join_methods(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

impl From<(PoolLookupError, Option<&str>)> for RequestError {
    fn from((why, model): (PoolLookupError, Option<&str>)) -> Self {
        match why {
            PoolLookupError::UnknownModel => Self::UnknownModel(model.unwrap_or_default().chars().take(256).collect()),
            PoolLookupError::ModelMissing => Self::ModelMissing,
            PoolLookupError::ModelsPending => Self::ModelsUnknown(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_told_in_openai_words() {
        let answer = RequestError::UnknownModel("gpt-9".to_owned()).to_response(Dialect::Chat);
        assert_eq!(answer.status(), 404);
        let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        assert!(body.get("type").is_none());
    }

    #[test]
    fn what_may_pass_says_when_to_ask_again() {
        let none = NoReplica::AllEjected { retry_after: Duration::from_secs(300) };
        let answer = RequestError::NoReplica(none).to_response(Dialect::Messages);
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "30"));
        assert_eq!(answer.headers()[X_SHOULD_RETRY], "true");
        let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        assert_eq!(body["type"], "error");
    }
}
