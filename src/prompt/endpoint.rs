//! The API paths that the router relays to replicas. Paths that it serves itself (`/v1/models`, health) are not among
//! them.

use http::Method;
use thiserror::Error;

use crate::dialect::Dialect;

/// A row of the table of endpoints.
#[derive(Debug)]
pub struct ApiEndpoint {
    /// The path. `{id}` stands for a response's id, `{any}` for any one segment, `{rest}` for one or more.
    pub path: &'static str,
    /// The allowed methods.
    pub methods: &'static [Method],
    /// The shape of requests and responses.
    pub dialect: Dialect,
    /// The kind of the request's body.
    pub body: BodyKind,
    /// It generates tokens, possibly as a stream.
    pub generates: bool,
    /// For a path that counts a prompt's tokens: the answer up to the number. The router answers with its own estimate
    /// where the engine has no such path.
    pub token_count: Option<&'static str>,
}

/// The kind of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A JSON object that names the model.
    Json,
    /// A form; the model is one of its fields. Some engines take the same members as a JSON object.
    Multipart,
    /// Not read by the router.
    None,
}

/// An endpoint found for a request.
#[derive(Clone, Copy, Debug)]
pub struct EndpointMatch<'p> {
    /// The row of the table.
    pub endpoint: &'static ApiEndpoint,
    /// The id in the path of a stored response; `None` for other paths.
    pub response_id: Option<&'p str>,
}

/// Why no endpoint was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// The path does not exist: 404.
    #[error("unknown path")]
    UnknownPath,
    /// The path does not allow the method: 405.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The allowed methods, for the `allow` header.
        allow: Vec<Method>,
    },
}

/// The table, in the order in which it is searched: what clients of OpenAI, Anthropic and Cohere and of vLLM,
/// SGLang and llama.cpp compute with a model.
///
/// Not in it: paths with state that the router cannot find again (`/v1/files`, `/v1/batches`, `/v1/conversations`,
/// `/v1/videos`), engines' own APIs (`/generate`), and paths that control an engine.
pub static ENDPOINTS: &[ApiEndpoint] = &[
    generation_endpoint("/v1/chat/completions", Dialect::Chat),
    generation_endpoint("/v1/completions", Dialect::Completions),
    generation_endpoint("/v1/responses", Dialect::Responses),
    generation_endpoint("/v1/messages", Dialect::Messages),
    generation_endpoint("/v1/responses/compact", Dialect::Responses),
    ApiEndpoint {
        token_count: Some(r#"{"object":"response.input_tokens","input_tokens":"#),
        ..json_endpoint("/v1/responses/input_tokens")
    },
    stored_response_endpoint("/v1/responses/{id}", &[Method::GET, Method::DELETE]),
    stored_response_endpoint("/v1/responses/{id}/cancel", &[Method::POST]),
    stored_response_endpoint("/v1/responses/{id}/{rest}", &[Method::GET, Method::DELETE]),
    ApiEndpoint { token_count: Some(r#"{"input_tokens":"#), ..json_endpoint("/v1/messages/count_tokens") },
    generation_endpoint("/v1/chat/completions/batch", Dialect::Other),
    json_endpoint("/v1/chat/completions/render"),
    json_endpoint("/v1/completions/render"),
    json_endpoint("/v1/embeddings"),
    json_endpoint("/v2/embed"),
    json_endpoint("/v1/rerank"),
    json_endpoint("/v2/rerank"),
    json_endpoint("/rerank"),
    json_endpoint("/v1/reranking"),
    json_endpoint("/reranking"),
    json_endpoint("/v1/score"),
    json_endpoint("/score"),
    json_endpoint("/v1/decisions"),
    json_endpoint("/v1/moderations"),
    json_endpoint("/pooling"),
    json_endpoint("/v1/classify"),
    json_endpoint("/classify"),
    json_endpoint("/v1/tokenize"),
    json_endpoint("/tokenize"),
    json_endpoint("/v1/detokenize"),
    json_endpoint("/detokenize"),
    json_endpoint("/apply-template"),
    generation_endpoint("/infill", Dialect::Other),
    generation_endpoint("/v1/audio/speech", Dialect::Other),
    form_endpoint("/v1/audio/{any}"),
    generation_endpoint("/v1/images/generations", Dialect::Other),
    form_endpoint("/v1/images/edits"),
    form_endpoint("/v1/images/variations"),
];

/// Finds the endpoint of a request.
///
/// *Shape*: a path must be written exactly as in the table. A path with an empty or dot segment, a percent sign, a
/// backslash, a byte that is not printable ASCII or a trailing slash never matches, so that router and replica cannot
/// read it differently. *Errors*: the path does not exist, or does not allow the method.
pub fn match_endpoint<'p>(method: &Method, path: &'p str) -> Result<EndpointMatch<'p>, EndpointError> {
    let segments = path
        .strip_prefix('/')
        .filter(|rest| rest.split('/').all(is_plain_segment))
        .ok_or(EndpointError::UnknownPath)?;
    let mut allow: Vec<Method> = Vec::new();
    for endpoint in ENDPOINTS {
        let Some(response_id) = match_pattern(endpoint.path, segments) else { continue };
        if endpoint.methods.contains(method) {
            return Ok(EndpointMatch { endpoint, response_id });
        }
        let further: Vec<Method> = endpoint.methods.iter().filter(|method| !allow.contains(method)).cloned().collect();
        allow.extend(further);
    }
    if allow.is_empty() { Err(EndpointError::UnknownPath) } else { Err(EndpointError::MethodNotAllowed { allow }) }
}

const fn generation_endpoint(path: &'static str, dialect: Dialect) -> ApiEndpoint {
    ApiEndpoint { path, methods: &[Method::POST], dialect, body: BodyKind::Json, generates: true, token_count: None }
}

const fn json_endpoint(path: &'static str) -> ApiEndpoint {
    ApiEndpoint { generates: false, ..generation_endpoint(path, Dialect::Other) }
}

const fn form_endpoint(path: &'static str) -> ApiEndpoint {
    ApiEndpoint { body: BodyKind::Multipart, ..generation_endpoint(path, Dialect::Other) }
}

const fn stored_response_endpoint(path: &'static str, methods: &'static [Method]) -> ApiEndpoint {
    ApiEndpoint { methods, body: BodyKind::None, generates: false, ..generation_endpoint(path, Dialect::Responses) }
}

fn is_plain_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b'?' | b'#');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain)
}

/// Returns the id in the path of `segments`, if any; `None` if the path does not match `pattern`.
fn match_pattern<'p>(pattern: &str, segments: &'p str) -> Option<Option<&'p str>> {
    let mut id = None;
    let mut segments = segments.split('/');
    for part in pattern.split('/').skip(1) {
        let segment = segments.next()?;
        match part {
            "{id}" => id = Some(segment),
            "{any}" => {}
            "{rest}" => return Some(id),
            _ if part == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_found_by_its_own_path_and_methods_only() {
        for row in ENDPOINTS {
            let path = row.path.replace("{id}", "resp_1").replace("{any}", "translations").replace("{rest}", "a/b");
            for method in row.methods {
                let found = match_endpoint(method, &path).unwrap();
                assert_eq!(found.endpoint.path, row.path, "{method} {path}");
                assert_eq!(found.response_id, row.path.contains("{id}").then_some("resp_1"));
            }
            let refused = match_endpoint(&Method::PATCH, &path).unwrap_err();
            let EndpointError::MethodNotAllowed { allow } = refused else { panic!("{path}: {refused}") };
            assert!(row.methods.iter().all(|method| allow.contains(method)));
        }
    }

    #[test]
    fn known_paths_have_their_dialect_and_body_kind() {
        use BodyKind::{Json, Multipart, None};
        for (method, path, dialect, body, generates) in [
            (Method::POST, "/v1/chat/completions", Dialect::Chat, Json, true),
            (Method::POST, "/v1/completions", Dialect::Completions, Json, true),
            (Method::POST, "/v1/responses", Dialect::Responses, Json, true),
            (Method::GET, "/v1/responses/resp_1", Dialect::Responses, None, false),
            (Method::DELETE, "/v1/responses/resp_1", Dialect::Responses, None, false),
            (Method::POST, "/v1/responses/resp_1/cancel", Dialect::Responses, None, false),
            (Method::GET, "/v1/responses/resp_1/input_items", Dialect::Responses, None, false),
            (Method::POST, "/v1/responses/compact", Dialect::Responses, Json, true),
            (Method::POST, "/v1/responses/input_tokens", Dialect::Other, Json, false),
            (Method::POST, "/v1/messages", Dialect::Messages, Json, true),
            (Method::POST, "/v1/messages/count_tokens", Dialect::Other, Json, false),
            (Method::POST, "/v1/embeddings", Dialect::Other, Json, false),
            (Method::POST, "/v1/audio/transcriptions", Dialect::Other, Multipart, true),
            (Method::POST, "/v1/audio/speech", Dialect::Other, Json, true),
        ] {
            let row = match_endpoint(&method, path).unwrap().endpoint;
            assert_eq!((row.dialect, row.body, row.generates), (dialect, body, generates), "{method} {path}");
        }
    }

    #[test]
    fn wrong_method_is_refused_with_the_allowed_ones() {
        let allow = |method: Method, path| match_endpoint(&method, path).unwrap_err();
        let post = EndpointError::MethodNotAllowed { allow: vec![Method::POST] };
        assert_eq!(allow(Method::GET, "/v1/chat/completions"), post);
        assert_eq!(allow(Method::HEAD, "/tokenize"), post);
        assert_eq!(allow(Method::OPTIONS, "/v1/audio/speech"), post);
        let get_delete = vec![Method::GET, Method::DELETE];
        assert_eq!(allow(Method::GET, "/v1/images/edits"), post);
        assert_eq!(allow(Method::POST, "/v1/responses/a"), EndpointError::MethodNotAllowed { allow: get_delete });
        let all = vec![Method::POST, Method::GET, Method::DELETE];
        assert_eq!(allow(Method::PUT, "/v1/responses/a/cancel"), EndpointError::MethodNotAllowed { allow: all });
    }

    #[test]
    fn ambiguous_paths_are_unknown() {
        for path in [
            "",
            "/",
            "*",
            "v1/chat/completions",
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/./chat/completions",
            "/v1/x/../chat/completions",
            "/V1/chat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat/completion%73",
            "/v1/responses/",
            "/v1/responses/..",
            "/v1/responses/%2e%2e/sleep",
            "/v1/responses/a%2Fb",
            "/v1/responses/a/../../../sleep",
            "/v1/responses/a\\b",
            "/v1/responses/a b",
            "/v1/responses/a\u{e9}",
            "/v1/responses/a?b",
            "/v1/audio",
            "/v1/audio/",
            "/v1/audio/a/b",
            "/v1/models",
            "/v1/models/x",
            "/v1/chat",
            "/v1",
            "/sleep",
            "/reset_prefix_cache",
            "/metrics",
        ] {
            assert_eq!(match_endpoint(&Method::POST, path).unwrap_err(), EndpointError::UnknownPath, "{path}");
        }
    }
}
