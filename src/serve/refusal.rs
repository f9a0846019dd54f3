//! Every reason for an answer of our own that is an error, and the one place where errors become status codes.

use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;
use thiserror::Error;

use crate::fleet::{NoPool, NoReplica, Phase};
use crate::prompt::BadBody;
use crate::units::Dialect;
use crate::upstream::Failure;

/// OpenAI's clients obey it before they look at the status.
const X_SHOULD_RETRY: &str = "x-should-retry";

/// Why a request is not answered by a replica.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    BadBody(#[from] BadBody),
    #[error("the request body is larger than {limit_bytes} bytes (`limits.body_bytes` in the router's configuration)")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the request body did not arrive: nothing came for {0:?}")]
    BodyStalled(Duration),
    #[error("the request body broke off")]
    BodyBroken,
    #[error("the request target is longer than {limit_bytes} bytes (`limits.uri_bytes` in the router's configuration)")]
    UriTooLong { limit_bytes: usize },
    #[error("unknown path {0}: this router serves the OpenAI API's paths below /v1")]
    UnknownPath(String),
    #[error("this path is not open to clients")]
    Refused(u16),
    #[error("{method} is not allowed on this path; allowed: {}", joined(allow))]
    Method { method: String, allow: Vec<Method> },
    #[error("The model `{0}` does not exist. GET /v1/models lists those that do.")]
    UnknownModel(String),
    #[error("you must provide a `model`: this router serves several")]
    ModelMissing,
    #[error("{0}")]
    NotYetKnown(NoPool),
    #[error("{0}")]
    NoReplica(#[from] NoReplica),
    #[error("no response with this id is known to any replica")]
    UnknownResponse,
    #[error("too many request bodies are in flight (`limits.in_flight_bytes` in the router's configuration)")]
    BodiesInFlight,
    #[error("no replica could be connected to")]
    Unreachable,
    #[error("the replica closed the connection before it answered")]
    Closed,
    #[error("the replica did not begin its answer in time")]
    Late,
}

/// OpenAI's error object.
#[derive(Serialize)]
struct Envelope<'a> {
    /// Anthropic's clients look for it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl Refusal {
    /// Why a lost attempt cannot be made good.
    pub(super) const fn lost(failure: &Failure) -> Self {
        match failure {
            Failure { phase: Phase::Connect, .. } => Self::Unreachable,
            Failure { timed_out: true, .. } => Self::Late,
            Failure { .. } => Self::Closed,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadBody(_) | Self::BodyBroken | Self::ModelMissing => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled(_) => StatusCode::REQUEST_TIMEOUT,
            Self::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::UnknownPath(_) | Self::UnknownModel(_) | Self::UnknownResponse => StatusCode::NOT_FOUND,
            Self::Refused(status) => StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN),
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoReplica(NoReplica::AllFull) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotYetKnown(_) | Self::NoReplica(_) | Self::BodiesInFlight | Self::Unreachable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Closed => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    const fn code(&self) -> Option<&'static str> {
        match self {
            Self::UnknownModel(_) => Some("model_not_found"),
            Self::UnknownPath(_) => Some("unknown_url"),
            Self::Method { .. } => Some("method_not_supported"),
            Self::NotYetKnown(_) | Self::NoReplica(_) | Self::Unreachable => Some("no_replica"),
            _ => None,
        }
    }

    const fn param(&self) -> Option<&'static str> {
        match self {
            Self::BadBody(bad) => bad.param,
            Self::UnknownModel(_) | Self::ModelMissing => Some("model"),
            _ => None,
        }
    }

    /// Seconds after which asking again may help, 1 to 30.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NoReplica(NoReplica::AllEjected { retry_after }) => {
                Some(retry_after.as_millis().div_ceil(1_000).clamp(1, 30) as u64)
            }
            Self::NotYetKnown(_) | Self::NoReplica(NoReplica::NotReady) => Some(5),
            Self::NoReplica(_) | Self::BodiesInFlight | Self::Unreachable => Some(1),
            _ => None,
        }
    }

    /// The answer, its body as OpenAI's clients read it; for `/v1/messages` Anthropic's find theirs in it as well.
    pub(super) fn answer(&self, dialect: Dialect) -> Response<String> {
        let status = self.status();
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        };
        let envelope = Envelope {
            kind: (dialect == Dialect::Messages).then_some("error"),
            error: ErrorObject { message: self.to_string(), kind, param: self.param(), code: self.code() },
        };
        let mut answer = Response::new(serde_json::to_string(&envelope).unwrap_or_default());
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("true"));
        }
        if let Self::Method { allow, .. } = self
            && let Ok(allow) = HeaderValue::try_from(joined(allow))
        {
            headers.insert(header::ALLOW, allow);
        }
        answer
    }
}

fn joined(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

impl From<(NoPool, Option<&str>)> for Refusal {
    fn from((why, model): (NoPool, Option<&str>)) -> Self {
        match why {
            NoPool::UnknownModel => Self::UnknownModel(model.unwrap_or_default().chars().take(256).collect()),
            NoPool::ModelMissing => Self::ModelMissing,
            NoPool::NotYetKnown => Self::NotYetKnown(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_told_in_openai_words() {
        let answer = Refusal::UnknownModel("gpt-9".to_owned()).answer(Dialect::Chat);
        assert_eq!(answer.status(), 404);
        let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        assert!(body.get("type").is_none());
    }

    #[test]
    fn what_may_pass_says_when_to_ask_again() {
        let none = NoReplica::AllEjected { retry_after: Duration::from_secs(300) };
        let answer = Refusal::NoReplica(none).answer(Dialect::Messages);
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "30"));
        assert_eq!(answer.headers()[X_SHOULD_RETRY], "true");
        let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        assert_eq!(body["type"], "error");
    }
}
