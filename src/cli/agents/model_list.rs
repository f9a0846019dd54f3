//! The models that a router lists.

use reqwest::StatusCode;
use serde::Deserialize;

use super::target::{ClientKey, RouterUrl};
use crate::cli::http_client::{build_plain_client, build_tls_client, root_cause};

/// A model of `/v1/models`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(in crate::cli) struct ListedModel {
    pub(in crate::cli) id: String,
    /// Longest prompt and answer together, in tokens, as vLLM lists it.
    #[serde(default)]
    pub(in crate::cli) max_model_len: Option<u64>,
}

#[derive(Deserialize)]
struct ModelListBody {
    data: Vec<ListedModel>,
}

/// Returns the models that the router lists for this key.
///
/// *Errors*: the router cannot be reached, or refuses the key, or is none.
pub(in crate::cli) async fn fetch_models(url: &RouterUrl, key: Option<&ClientKey>) -> Result<Vec<ListedModel>, String> {
    let router = url.as_str();
    let client = if url.uses_tls() { build_tls_client() } else { build_plain_client() }?;
    let mut request = client.get(format!("{}/models", url.with_v1()));
    if let Some(key) = key {
        request = request.bearer_auth(&key.value);
    }
    let help = "start it with `tokenweir serve`, or name another with `--url`";
    let failure =
        |error: reqwest::Error| format!("cannot reach the router at {router}: {}; {help}", root_cause(&error));
    let response = request.send().await.map_err(failure)?;
    let status = response.status();
    let body = response.bytes().await.map_err(failure)?;
    match (status, serde_json::from_slice::<ModelListBody>(&body)) {
        (StatusCode::OK, Ok(list)) => Ok(list.data),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(match key {
            Some(key) => format!("the router at {router} refuses the API key in {}", key.env_name),
            None => format!(
                "the router at {router} needs an API key: set TOKENWEIR_API_KEY, or name the variable that has it with \
                 `--key-env`"
            ),
        }),
        _ => Err(format!("{router} is not a router: it answered {status} to /v1/models; {help}")),
    }
}

/// Returns the model of this name, which need not be listed; without a name the only one.
///
/// *Errors*: no name, and not one model.
pub(in crate::cli) fn choose_model(models: Vec<ListedModel>, name: Option<&str>) -> Result<ListedModel, String> {
    if let Some(name) = name {
        let listed = models.into_iter().find(|model| model.id == name);
        return Ok(listed.unwrap_or_else(|| ListedModel { id: name.to_owned(), max_model_len: None }));
    }
    match <[ListedModel; 1]>::try_from(models) {
        Ok([only]) => Ok(only),
        Err(models) if models.is_empty() => {
            Err("the router lists no model: its replicas may still be loading; name one with `--model`".to_owned())
        }
        Err(models) => {
            let names: Vec<String> = models.into_iter().map(|model| model.id).collect();
            Err(format!("the router lists {} models: choose one with `--model`: {}", names.len(), names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<ListedModel> {
        names.iter().map(|name| ListedModel { id: (*name).to_owned(), max_model_len: Some(9) }).collect()
    }

    #[test]
    fn model_is_the_only_one_or_the_named_one() {
        assert_eq!(choose_model(listed(&["a"]), None).unwrap().id, "a");
        assert_eq!(choose_model(listed(&["a", "b"]), Some("b")).unwrap(), listed(&["b"])[0]);
        let unlisted = choose_model(listed(&["a"]), Some("claude-x")).unwrap();
        assert_eq!((unlisted.id.as_str(), unlisted.max_model_len), ("claude-x", None));
        assert!(choose_model(listed(&["a", "b"]), None).unwrap_err().ends_with("`--model`: a, b"));
        assert!(choose_model(Vec::new(), None).unwrap_err().contains("still be loading"));
    }
}
