//! The bodies of error responses: those of our own, and the one of replicas that routing must understand.

use serde::Serialize;
use serde_json::Value;

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

/// Returns whether a replica's error response says that it does not have the requested model.
///
/// *Shape*: vLLM, SGLang and OpenAI (`error.message`, `error.code`), Ollama (a text as `error`, or `error.message`),
/// llama.cpp (400 or 404), Anthropic (`model: NAME`), Azure (`DeploymentNotFound`), FastAPI (`detail`). A path or a stored
/// response that does not exist is not meant.
pub fn reports_unknown_model(status: u16, body: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
    let error = ["error", "detail"].iter().find_map(|name| body.get(name)).unwrap_or(&body);
    // FastAPI's `detail` may hold the envelope.
    let error = error.get("error").unwrap_or(error);
    let member = |name| error.get(name).and_then(Value::as_str);
    if matches!(member("code"), Some("model_not_found" | "DeploymentNotFound")) {
        return true;
    }
    let message = error.as_str().or_else(|| member("message")).unwrap_or_default().to_ascii_lowercase();
    match status {
        404 if member("type") == Some("not_found_error") && message.starts_with("model: ") => true,
        404 => message.contains("model") && says_missing(&message),
        400 => ["model ", "the model "].iter().any(|start| message.starts_with(start)) && says_missing(&message),
        _ => false,
    }
}

fn says_missing(message: &str) -> bool {
    ["not found", "not exist", "no such model", "unknown model"].iter().any(|text| message.contains(text))
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

    #[test]
    fn unknown_model_is_recognized_in_the_words_of_each_engine() {
        for (engine, status, body) in [
            (
                "vLLM",
                404,
                r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#,
            ),
            (
                "vLLM to 0.9, SGLang",
                404,
                r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
            ),
            (
                "OpenAI",
                404,
                r#"{"error":{"message":"The model `x` has been deprecated","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            ),
            (
                "Ollama, /v1",
                404,
                r#"{"error":{"message":"model 'x' not found","type":"not_found_error","param":null,"code":null}}"#,
            ),
            ("Ollama", 404, r#"{"error":"model \"x\" not found, try pulling it first"}"#),
            (
                "llama.cpp",
                400,
                r#"{"error":{"code":400,"message":"model 'x' not found","type":"invalid_request_error"}}"#,
            ),
            ("llama.cpp", 404, r#"{"error":{"code":404,"message":"model is not found","type":"not_found_error"}}"#),
            ("Anthropic", 404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#),
            ("Azure", 404, r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist."}}"#),
            ("a gateway", 404, r#"{"detail":{"error":{"message":"Model 'x' not found","code":"model_not_found"}}}"#),
        ] {
            assert!(reports_unknown_model(status, body.as_bytes()), "{engine}: {body}");
        }
        for (status, body) in [
            (404, r#"{"detail":"Not Found"}"#),
            (404, r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#),
            (404, r#"{"error":{"message":"Response with id 'resp_1' not found.","type":"invalid_request_error"}}"#),
            (404, "<html>model not found</html>"),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 8 tokens","type":"BadRequestError"}}"#,
            ),
            (400, r#"{"error":{"message":"chat template not found for the model","type":"BadRequestError"}}"#),
            (500, r#"{"error":{"message":"model 'x' not found"}}"#),
        ] {
            assert!(!reports_unknown_model(status, body.as_bytes()), "{body}");
        }
    }
}
