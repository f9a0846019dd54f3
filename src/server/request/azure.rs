//! The paths of Azure OpenAI, which name the model, and the paths of OpenAI's API that they stand for.

use http::Method;

use crate::prompt::endpoint::{EndpointError, match_endpoint};

/// Most segments of a deployment's name. Names such as `org/model` have two.
const MAX_NAME_SEGMENTS: usize = 4;

/// A path of Azure OpenAI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AzurePath<'p> {
    /// The path of OpenAI's API, `/v1/...`. It need not exist.
    pub(super) path: String,
    /// The model that the path names; `None` if the body does.
    pub(super) deployment: Option<&'p str>,
}

impl<'p> AzurePath<'p> {
    /// Parses `/openai/deployments/NAME/...`, `/openai/v1/...` or `/openai/...`; `None` for another path.
    pub(super) fn parse(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix("/openai/")?;
        let Some(rest) = rest.strip_prefix("deployments/") else {
            return Some(Self { path: format!("/v1/{}", rest.strip_prefix("v1/").unwrap_or(rest)), deployment: None });
        };
        rest.match_indices('/').take(MAX_NAME_SEGMENTS).find_map(|(end, _)| {
            let (name, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
            let path = format!("/v1/{rest}");
            let exists = !matches!(match_endpoint(&Method::POST, &path), Err(EndpointError::UnknownPath));
            (is_plain_name(name) && exists).then_some(Self { path, deployment: Some(name) })
        })
    }
}

/// Returns a query without `api-version`; `None` if nothing is left.
pub(super) fn strip_api_version(query: &str) -> Option<String> {
    let kept: Vec<&str> = query.split('&').filter(|pair| pair.split('=').next() != Some("api-version")).collect();
    Some(kept.join("&")).filter(|query| !query.is_empty())
}

/// Returns whether a name is written without escapes and without segments that a replica could resolve.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\');
    name.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_those_of_openai() {
        for (path, wanted, deployment) in [
            ("/openai/deployments/m/chat/completions", "/v1/chat/completions", Some("m")),
            ("/openai/deployments/gpt-4.1/embeddings", "/v1/embeddings", Some("gpt-4.1")),
            ("/openai/deployments/org/m/audio/speech", "/v1/audio/speech", Some("org/m")),
            ("/openai/v1/chat/completions", "/v1/chat/completions", None),
            ("/openai/v1/models/m", "/v1/models/m", None),
            ("/openai/responses/resp_1", "/v1/responses/resp_1", None),
            ("/openai/models", "/v1/models", None),
        ] {
            assert_eq!(AzurePath::parse(path), Some(AzurePath { path: wanted.to_owned(), deployment }), "{path}");
        }
        for path in [
            "/openai",
            "/v1/chat/completions",
            "/openai/deployments/m",
            "/openai/deployments//chat/completions",
            "/openai/deployments/../chat/completions",
            "/openai/deployments/m%2f/chat/completions",
            "/openai/deployments/m/../../sleep",
            "/openai/deployments/m/sleep",
            "/openai/deployments/a/b/c/d/e/chat/completions",
        ] {
            assert_eq!(AzurePath::parse(path), None, "{path}");
        }
    }

    #[test]
    fn api_version_is_removed_from_a_query() {
        assert_eq!(strip_api_version("api-version=2024-06-01"), None);
        assert_eq!(strip_api_version("a=1&api-version=preview&b").as_deref(), Some("a=1&b"));
        assert_eq!(strip_api_version("api-versions=1").as_deref(), Some("api-versions=1"));
    }
}
