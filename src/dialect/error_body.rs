//! The bodies of error responses of our own.

use serde::Serialize;

/// An error to write as a body.
#[derive(Clone, Copy, Debug)]
pub struct ErrorDetails<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The message for the client.
    pub message: &'a str,
    /// The member of the request that is wrong; `None` if it is not about one.
    pub param: Option<&'a str>,
    /// OpenAI's code of the error; `None` if it has none.
    pub code: Option<&'a str>,
}

#[derive(Serialize)]
struct ErrorEnvelope<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// Writes OpenAI's error object.
pub(super) fn openai_error_body(details: &ErrorDetails<'_>) -> String {
    write_body(details, None, error_type(details.status))
}

/// Writes Anthropic's error object. OpenAI's clients find theirs in it as well.
pub(super) fn anthropic_error_body(details: &ErrorDetails<'_>) -> String {
    let kind = if details.status == 401 { "authentication_error" } else { error_type(details.status) };
    write_body(details, Some("error"), kind)
}

fn write_body(details: &ErrorDetails<'_>, envelope_kind: Option<&str>, kind: &str) -> String {
    let ErrorDetails { message, param, code, .. } = *details;
    let envelope = ErrorEnvelope { kind: envelope_kind, error: ErrorObject { message, kind, param, code } };
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// The error types that OpenAI and Anthropic share.
fn error_type(status: u16) -> &'static str {
    match status {
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anthropic_body_has_the_envelope_and_its_own_type_for_401() {
        let details = ErrorDetails { status: 401, message: "no \"key\"", param: None, code: Some("invalid_api_key") };
        assert_eq!(
            openai_error_body(&details),
            r#"{"error":{"message":"no \"key\"","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#
        );
        assert_eq!(
            anthropic_error_body(&details),
            r#"{"type":"error","error":{"message":"no \"key\"","type":"authentication_error","param":null,"code":"invalid_api_key"}}"#
        );
    }
}
