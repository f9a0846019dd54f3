//! The models that replicas serve, read from `/v1/models`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Response;
use serde::Deserialize;

use super::probe_client::{ProbeClient, root_cause};
use crate::clock::Clock;
use crate::fleet::{ApiKey, Pool, Replica, ReplicaModels};
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::TlsStore;
use crate::units::ModelName;

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
}

/// Reads the models of one replica at intervals.
pub(super) struct ModelPoller {
    pub(super) client: ProbeClient,
    pub(super) pool: Arc<Pool>,
    pub(super) intervals: PollIntervals,
}

impl ModelPoller {
    /// Reads the models until it is dropped.
    pub(super) async fn poll(self, log: Arc<ErrorLog>, clock: Clock) {
        let replica = self.client.replica();
        let mut last_error = String::new();
        loop {
            let response = self.client.get(MODELS_PATH, self.pool.api_key()).send().await;
            self.client.record_port_state(&response, clock);
            let wait = match read_models(response).await {
                Ok(models) => {
                    apply_models(replica, models, &self.pool, &log);
                    last_error.clear();
                    self.intervals.steady_interval
                }
                // Models that are known stay: whether the replica is ejected is decided elsewhere.
                Err(error) => {
                    let is_known = *replica.models() != ReplicaModels::Unknown;
                    if !is_known && error != last_error {
                        log.write(LogLevel::Warn, format_args!("replica {} is not ready: {error}", replica.name()));
                    }
                    last_error = error;
                    if is_known { self.intervals.steady_interval } else { self.intervals.initial_interval }
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// Reads the models of new replicas once, before they join; [`run_probes`](super::run_probes) repeats what fails.
pub async fn probe_new(replicas: Vec<(Arc<Replica>, Option<ApiKey>)>, tls_store: &TlsStore) {
    let probes = replicas.into_iter().map(async |(replica, key)| {
        let Ok(client) = ProbeClient::new(replica.clone(), tls_store) else { return };
        let probe = async { read_models(client.get(MODELS_PATH, key.as_ref()).send().await).await };
        if let Ok(Ok(models)) = tokio::time::timeout(RELOAD_WAIT, probe).await {
            replica.set_models(models);
        }
    });
    join_all(probes).await;
}

fn apply_models(replica: &Replica, models: ReplicaModels, pool: &Pool, log: &ErrorLog) {
    if !replica.set_models(models) {
        return;
    }
    match &*replica.models() {
        ReplicaModels::Listed(names) => {
            let names: Vec<&str> = names.iter().map(ModelName::as_str).collect();
            log.write(LogLevel::Info, format_args!("replica {} serves {}", replica.name(), names.join(", ")));
        }
        ReplicaModels::Unlisted if pool.configured_models().is_empty() => log.write(
            LogLevel::Warn,
            format_args!(
                "replica {} has no {MODELS_PATH}, so it gets no requests: set the pool's `model`, or \
                 `paths = \"any\"` if it is no OpenAI-compatible server",
                replica.name()
            ),
        ),
        ReplicaModels::Unlisted | ReplicaModels::Unknown => {}
    }
}

/// Reads the response to a request for [`MODELS_PATH`].
///
/// *Errors*: the replica cannot be reached, or reports that it is not ready.
async fn read_models(response: reqwest::Result<Response>) -> Result<ReplicaModels, String> {
    let mut response = response.map_err(|error| root_cause(&error))?;
    let status = response.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(format!("{MODELS_PATH} returned {status}"));
    }
    if !status.is_success() {
        // 404: an engine without a list. 401: the key comes with each request. The replica is up in both cases.
        return Ok(ReplicaModels::Unlisted);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| root_cause(&error))? {
        if body.len() + chunk.len() > MAX_MODEL_LIST_BYTES {
            return Err(format!("{MODELS_PATH} is larger than {} MiB", MAX_MODEL_LIST_BYTES >> 20));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(parse_models(&body))
}

fn parse_models(body: &[u8]) -> ReplicaModels {
    match serde_json::from_slice::<ModelList>(body) {
        Ok(ModelList { mut data }) => {
            data.sort_by_key(|entry| entry.parent.is_some());
            ReplicaModels::Listed(data.iter().map(|entry| entry.id.as_str().into()).collect())
        }
        Err(_) => ReplicaModels::Unlisted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_models_come_before_adapters() {
        let body = br#"{"object":"list","data":[{"id":"lora","parent":"base"},{"id":"base","parent":null}]}"#;
        assert_eq!(parse_models(body), ReplicaModels::Listed(vec!["base".into(), "lora".into()]));
    }

    #[test]
    fn body_that_is_no_list_is_unlisted() {
        assert_eq!(parse_models(b"<html>"), ReplicaModels::Unlisted);
        assert_eq!(parse_models(b"{\"detail\":\"x\"}"), ReplicaModels::Unlisted);
    }
}
