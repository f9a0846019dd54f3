//! The models that replicas serve, read from `/v1/models`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;
use tokio::sync::mpsc;

use super::model_refresh::ReadRequest;
use super::probe_client::{ProbeClient, root_cause};
use crate::clock::Clock;
use crate::fleet::{ApiKey, ModelListFault, Replica, ReplicaModels};
use crate::http::StatusMeaning;
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::TlsStore;
use crate::units::{ModelName, Tokens};

const MODELS_PATH: &str = "/v1/models";
/// How long a reload waits for the replicas that it adds.
const RELOAD_WAIT: Duration = Duration::from_secs(2);
/// Largest model list that is read.
const MAX_MODEL_LIST_BYTES: usize = 4 << 20;

/// How often the models of a replica are read.
#[derive(Clone, Copy, Debug)]
pub struct PollIntervals {
    /// Until the replica has responded.
    pub initial_interval: Duration,
    /// Afterwards, so that models loaded later appear.
    pub steady_interval: Duration,
}

impl Default for PollIntervals {
    /// 5 s, then 60 s.
    fn default() -> Self {
        Self { initial_interval: Duration::from_secs(5), steady_interval: Duration::from_secs(60) }
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
    /// The base model of an adapter; `None` for a base model.
    #[serde(default)]
    parent: Option<String>,
    /// The longest prompt and answer together, in tokens, as vLLM and SGLang list it; anything, as another server does.
    #[serde(default)]
    max_model_len: Value,
}

/// What a replica lists.
#[derive(Debug, PartialEq, Eq)]
struct ListedModels {
    /// At least one name, base models first.
    names: Vec<ModelName>,
    /// Those that are known.
    context_lengths: Vec<(ModelName, Tokens)>,
}

/// Reads the models of one replica at intervals, and whenever a request asks for it.
pub(super) struct ModelPoller {
    pub(super) client: ProbeClient,
    /// The key that the replica requires.
    pub(super) api_key: Option<ApiKey>,
    /// Whether some pool takes its models from the replica's list.
    pub(super) learns_models: bool,
    pub(super) intervals: PollIntervals,
    pub(super) requests: mpsc::Receiver<ReadRequest>,
    /// The request for the read under way.
    pub(super) current_request: Option<ReadRequest>,
}

/// An answer to a request for [`MODELS_PATH`] without a list.
struct ModelListError {
    fault: ModelListFault,
    /// The cause or the redirect's target, for the log only; empty if the fault says all.
    details: String,
}

impl From<ModelListFault> for ModelListError {
    fn from(fault: ModelListFault) -> Self {
        Self { fault, details: String::new() }
    }
}

impl ModelPoller {
    /// Reads the models until it is dropped.
    pub(super) async fn poll(mut self, log: Arc<ErrorLog>, clock: Clock) {
        loop {
            let response = self.client.get(MODELS_PATH, self.api_key.as_ref()).send().await;
            self.client.record_port_state(&response, clock);
            let result = read_models(response).await;
            self.apply(result, &log);
            let wait = if self.is_settled() { self.intervals.steady_interval } else { self.intervals.initial_interval };
            // The last request is answered by this read.
            self.current_request = None;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(request) = self.requests.recv() => self.current_request = Some(request),
            }
        }
    }

    /// Returns whether the replica has said all that its pools need.
    fn is_settled(&self) -> bool {
        let replica = self.client.replica();
        match replica.model_list_fault() {
            None => true,
            Some(fault) => !self.learns_models && fault.is_answer(),
        }
    }

    fn apply(&self, result: Result<ListedModels, ModelListError>, log: &ErrorLog) {
        let replica = self.client.replica();
        match result {
            Ok(ListedModels { names, context_lengths }) => {
                replica.set_context_lengths(context_lengths);
                let text = names.iter().map(ModelName::as_str).collect::<Vec<_>>().join(", ");
                if replica.set_models(ReplicaModels::Listed(names)) {
                    log.write(LogLevel::Info, format_args!("replica {} serves {text}", replica.name()));
                }
            }
            Err(ModelListError { fault, details }) => {
                let is_new = replica.set_model_list_fault(fault);
                let is_ready =
                    matches!(&*replica.models(), ReplicaModels::Listed(_)) || !self.learns_models && fault.is_answer();
                if is_new && !is_ready {
                    let name = replica.name();
                    log.write(LogLevel::Warn, format_args!("replica {name} is not ready: {fault}{details}"));
                }
            }
        }
    }
}

/// Reads the models of new replicas once, before they join; [`run_probes`](super::run_probes) repeats what fails.
pub async fn probe_new(replicas: Vec<(Arc<Replica>, Option<ApiKey>)>, tls_store: &TlsStore) {
    let probes = replicas.into_iter().map(async |(replica, key)| {
        let Ok(client) = ProbeClient::new(replica.clone(), tls_store) else { return };
        let probe = async { read_models(client.get(MODELS_PATH, key.as_ref()).send().await).await };
        let models = match tokio::time::timeout(RELOAD_WAIT, probe).await {
            Ok(Ok(ListedModels { names, context_lengths })) => {
                replica.set_context_lengths(context_lengths);
                ReplicaModels::Listed(names)
            }
            // The poller that follows stores and logs the fault.
            Ok(Err(error)) if error.fault.is_answer() => ReplicaModels::Unlisted,
            Ok(Err(_)) | Err(_) => return,
        };
        replica.set_models(models);
    });
    join_all(probes).await;
}

/// Reads the response to a request for [`MODELS_PATH`].
///
/// *Errors*: the replica cannot be reached, or gives no list.
async fn read_models(response: reqwest::Result<Response>) -> Result<ListedModels, ModelListError> {
    let unreachable = |error: reqwest::Error| ModelListError {
        fault: ModelListFault::Unreachable,
        details: format!(": {}", root_cause(&error)),
    };
    let mut response = response.map_err(unreachable)?;
    if let Some(fault) = status_fault(response.status()) {
        let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
        let target = target.map(|target| format!(" ({})", String::from_utf8_lossy(target.as_bytes()).escape_debug()));
        return Err(ModelListError { fault, details: target.unwrap_or_default() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_MODEL_LIST_BYTES {
            return Err(ModelListFault::TooLarge(MAX_MODEL_LIST_BYTES >> 20).into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(parse_models(&body)?)
}

/// Returns the fault that a status shows; `None` for a success.
fn status_fault(status: StatusCode) -> Option<ModelListFault> {
    Some(match status.as_u16() {
        200..=299 => return None,
        300..=399 => ModelListFault::Redirect(status.as_u16()),
        401 => ModelListFault::Unauthorized,
        403 => ModelListFault::Forbidden,
        other => match StatusMeaning::of(other) {
            StatusMeaning::Busy | StatusMeaning::ReplicaFault => ModelListFault::Unavailable(other),
            // 501: the server has no such path.
            StatusMeaning::Success | StatusMeaning::RequestFault => ModelListFault::NoSuchPath(other),
        },
    })
}

fn parse_models(body: &[u8]) -> Result<ListedModels, ModelListFault> {
    let ModelList { mut data } = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => ModelListFault::NoList,
        _ if body.trim_ascii_start().first().is_some_and(|first| b"{[".contains(first)) => ModelListFault::Malformed,
        _ => ModelListFault::NotJson,
    })?;
    if data.is_empty() {
        return Err(ModelListFault::Empty);
    }
    data.sort_by_key(|entry| entry.parent.is_some());
    let length = |entry: &ModelEntry| {
        let length = entry.max_model_len.as_u64().filter(|length| *length > 0)?;
        Some((entry.id.as_str().into(), Tokens(length)))
    };
    Ok(ListedModels {
        names: data.iter().map(|entry| entry.id.as_str().into()).collect(),
        context_lengths: data.iter().filter_map(length).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_models_come_before_adapters() {
        let body = br#"{"object":"list","data":[{"id":"lora","parent":"base"},{"id":"base","parent":null}]}"#;
        assert_eq!(parse_models(body).unwrap().names, ["base".into(), "lora".into()]);
    }

    #[test]
    fn context_lengths_are_read_where_they_are_numbers() {
        let body = br#"{"data":[{"id":"a","max_model_len":4096},{"id":"b","max_model_len":null},{"id":"c"},
            {"id":"d","max_model_len":"8k"},{"id":"e","max_model_len":-1},
            {"id":"f","max_model_len":0}]}"#;
        let models = parse_models(body).unwrap();
        assert_eq!((models.names.len(), models.context_lengths), (6, vec![("a".into(), Tokens(4096))]));
    }

    #[test]
    fn body_that_is_no_list_has_its_own_fault() {
        for (body, fault) in [
            ("", ModelListFault::NotJson),
            ("<html>", ModelListFault::NotJson),
            (r#"{"data":[{"id":"m"}"#, ModelListFault::Malformed),
            (r#"{"data":[{"id":}]}"#, ModelListFault::Malformed),
            (r#"{"detail":"x"}"#, ModelListFault::NoList),
            (r#"{"data":null}"#, ModelListFault::NoList),
            (r#"{"data":[]}"#, ModelListFault::Empty),
        ] {
            assert_eq!(parse_models(body.as_bytes()), Err(fault), "{body}");
        }
    }

    #[test]
    fn status_without_a_list_has_its_own_fault() {
        let fault = |status: u16| status_fault(StatusCode::from_u16(status).unwrap());
        assert_eq!([200, 204].map(fault), [None; 2]);
        assert_eq!(fault(307), Some(ModelListFault::Redirect(307)));
        assert_eq!(fault(401), Some(ModelListFault::Unauthorized));
        assert_eq!(fault(403), Some(ModelListFault::Forbidden));
        for status in [404, 405, 501] {
            assert_eq!(fault(status), Some(ModelListFault::NoSuchPath(status)));
        }
        for status in [429, 500, 502, 503, 504, 521] {
            assert_eq!(fault(status), Some(ModelListFault::Unavailable(status)));
        }
    }
}
