//! The router and the model that an agent is to use.

use reqwest::Url;

/// Everything that an agent has to know.
#[derive(Clone, Debug)]
pub(in crate::cli) struct RouterTarget {
    pub(in crate::cli) url: RouterUrl,
    /// `None` if the router needs none.
    pub(in crate::cli) key: Option<ClientKey>,
    pub(in crate::cli) model: String,
    /// Longest prompt and answer together, in tokens; `None` if unknown.
    pub(in crate::cli) context: Option<u64>,
}

/// A client's API key and the environment variable that holds it.
#[derive(Clone)]
pub(in crate::cli) struct ClientKey {
    pub(in crate::cli) env_name: String,
    pub(in crate::cli) value: String,
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKey").field("env_name", &self.env_name).finish_non_exhaustive()
    }
}

/// A router's address without a path, such as `http://127.0.0.1:8080`, or with the path before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct RouterUrl(String);

impl RouterUrl {
    /// Parses an address, with or without `/v1`.
    ///
    /// *Errors*: it is not the URL of an HTTP server.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let help = "it is like http://127.0.0.1:8080";
        let url: Url = text.parse().map_err(|error| format!("--url {text} is not a URL: {error}; {help}"))?;
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(format!("--url {text} is not the address of a router: {help}"));
        }
        let text = url.as_str().trim_end_matches('/');
        Ok(Self(text.strip_suffix("/v1").unwrap_or(text).trim_end_matches('/').to_owned()))
    }

    pub(in crate::cli) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the address with `/v1`, as OpenAI's clients want it.
    pub(in crate::cli) fn with_v1(&self) -> String {
        format!("{}/v1", self.0)
    }

    pub(in crate::cli) fn uses_tls(&self) -> bool {
        self.0.starts_with("https:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_taken_with_and_without_v1() {
        for text in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "HTTP://h:1//"] {
            let url = RouterUrl::parse(text).unwrap();
            assert_eq!((url.as_str(), url.with_v1().as_str()), ("http://h:1", "http://h:1/v1"), "{text}");
        }
        assert_eq!(RouterUrl::parse("https://h/llm/v1").unwrap().as_str(), "https://h/llm");
        for text in ["h:1", "127.0.0.1:8080", "ftp://h", "http://user@h", "http://h?x=1", ""] {
            assert!(RouterUrl::parse(text).unwrap_err().contains("http://127.0.0.1:8080"), "{text}");
        }
    }
}
