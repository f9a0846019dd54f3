//! Floor 3: asking replicas which models they serve and whether they are well, and engines for their metrics.

mod health_check;
mod metrics_parser;
mod scraper;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use http::header::HOST;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;

use crate::clock::Clock;
use crate::fleet::{ApiKey, Fleet, Origin, PathPolicy, Pool, Replica, ReplicaModels};
use crate::telemetry::{ErrorLog, LogLevel};
use crate::tls::{self, TlsStore};
use crate::units::{ModelName, ReplicaId};
use health_check::HealthChecker;
pub use health_check::watch_stalls;
use scraper::MetricsScraper;

/// How long one question may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reload waits for the replicas that it brings.
const RELOAD_WAIT: Duration = Duration::from_secs(2);
/// The most bytes of a list that are read.
const MAX_MODEL_LIST_BYTES: usize = 4 << 20;

/// How often replicas are asked.
#[derive(Clone, Copy, Debug)]
pub struct PollIntervals {
    /// While a replica has not answered.
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
    /// Set on adapters: the model they sit on.
    #[serde(default)]
    parent: Option<String>,
}

/// Resolves every name to the addresses of one host: that of a replica whose certificate is for another name.
struct FixedResolver(String);

impl Resolve for FixedResolver {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // reqwest puts the URL's port in the place of 0.
            let found = tokio::net::lookup_host((host, 0)).await?.collect::<Vec<_>>();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Asks every replica of every pool that has models for them, and those of pools that want to know for their engine's
/// metrics, each by itself and for ever. Ends when dropped; `keyring` is used all that time.
pub async fn run_probes(
    fleet: Arc<Fleet>,
    log: Arc<ErrorLog>,
    keyring: Arc<TlsStore>,
    clock: Clock,
    pace: PollIntervals,
) {
    let clients = build_clients(&fleet, &keyring, &log);
    let client =
        |replica: &Replica| clients.iter().find(|(id, _)| *id == replica.id()).map(|(_, client)| client.clone());
    let mut asking = Vec::new();
    let mut seen = Vec::new();
    for pool in fleet.pools().into_iter().filter(|p| *p.path_policy() != PathPolicy::Any) {
        for replica in pool.replicas().filter(|r| !seen.contains(&r.id())).cloned().collect::<Vec<_>>() {
            seen.push(replica.id());
            if let Some(client) = client(&replica) {
                asking.push(poll_models(client, (replica, pool.clone()), log.clone(), clock, pace));
            }
        }
    }
    let looking = MetricsScraper::from_fleet(&fleet).into_iter();
    let looking = looking.filter_map(|scrape| client(&scrape.replica).map(|client| scrape.poll(client, clock)));
    let checking = HealthChecker::from_fleet(&fleet).into_iter();
    let checking =
        checking.filter_map(|checker| client(&checker.replica).map(|client| checker.poll(client, log.clone(), clock)));
    futures_util::future::join3(join_all(asking), join_all(looking), join_all(checking)).await;
}

/// Asks replicas once, before they are let in; one that does not answer in time is asked again by [`run_probes`].
pub async fn probe_new(fresh: Vec<(Arc<Replica>, Option<ApiKey>)>, keyring: &TlsStore) {
    let asking = fresh.into_iter().map(async |(replica, key)| {
        let Ok(client) = build_client(replica.origin(), keyring) else { return };
        let asked = async { read_models(build_models_request(&client, &replica, key.as_ref()).send().await).await };
        if let Ok(Ok(models)) = tokio::time::timeout(RELOAD_WAIT, asked).await {
            replica.set_models(models);
        }
    });
    join_all(asking).await;
}

/// A client for each replica; the log says which cannot have one.
fn build_clients(fleet: &Fleet, keyring: &TlsStore, log: &ErrorLog) -> Vec<(ReplicaId, reqwest::Client)> {
    let one = |replica: &Arc<Replica>| match build_client(replica.origin(), keyring) {
        Ok(client) => Some((replica.id(), client)),
        Err(error) => {
            log.write(
                LogLevel::Error,
                format_args!("replica {} cannot be asked for anything: {error}", replica.name()),
            );
            None
        }
    };
    fleet.replicas().iter().filter_map(one).collect()
}

/// A client for one replica, which verifies it as requests do.
fn build_client(origin: &Origin, keyring: &TlsStore) -> reqwest::Result<reqwest::Client> {
    let trust = origin.tls().and_then(|tls| keyring.client_config(&tls.trust_roots));
    let config = trust.map_or_else(tls::empty_client_config, |config| (**config).clone());
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let other_name = origin.tls().is_some_and(|tls| tls.server_name.is_some());
    if other_name || origin.address().is_some() {
        let host = origin.address().map_or_else(|| origin.host().to_owned(), |address| address.to_string());
        builder = builder.dns_resolver(Arc::new(FixedResolver(host)));
    }
    let builder = builder.tls_backend_preconfigured(config);
    // No connection is kept: it would wait for a minute, and a server with a single thread would serve nobody else.
    builder.timeout(PROBE_TIMEOUT).pool_max_idle_per_host(0).build()
}

/// Asks a replica for `path` by GET.
fn build_get_request(
    client: &reqwest::Client,
    origin: &Origin,
    path: &str,
    key: Option<&ApiKey>,
) -> reqwest::RequestBuilder {
    build_request(client, (Method::GET, origin), path, key)
}

/// Asks a replica for `path`. The name in its certificate stands in the place of its host.
fn build_request(
    client: &reqwest::Client,
    (method, origin): (Method, &Origin),
    path: &str,
    key: Option<&ApiKey>,
) -> reqwest::RequestBuilder {
    let url = match origin.tls().and_then(|tls| tls.server_name.as_ref()) {
        Some(name) => format!("https://{name}:{}{}{path}", origin.port(), origin.path_prefix()),
        None => format!("{origin}{path}"),
    };
    let request = client.request(method, url).header(HOST, origin.authority());
    match key {
        Some(key) => request.bearer_auth(key.reveal()),
        None => request,
    }
}

async fn poll_models(
    client: reqwest::Client,
    (replica, pool): (Arc<Replica>, Arc<Pool>),
    log: Arc<ErrorLog>,
    clock: Clock,
    pace: PollIntervals,
) {
    let mut complaint = String::new();
    loop {
        let answer = build_models_request(&client, &replica, pool.api_key()).send().await;
        record_port_state(&replica, &answer, clock);
        let wait = match read_models(answer).await {
            Ok(models) => {
                apply_models(&replica, models, &pool, &log);
                complaint.clear();
                pace.steady_interval
            }
            // What is already known stays: a replica that is down for a while is the ejector's business.
            Err(why) => {
                let known = *replica.models() != ReplicaModels::Unknown;
                if !known && why != complaint {
                    log.write(LogLevel::Warn, format_args!("replica {} is not ready: {why}", replica.name()));
                }
                complaint = why;
                if known { pace.steady_interval } else { pace.initial_interval }
            }
        };
        tokio::time::sleep(wait).await;
    }
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
                "replica {} has no /v1/models, so no request reaches it: name the pool's `model`, or write \
                 `paths = \"any\"` if it is no OpenAI-compatible server",
                replica.name()
            ),
        ),
        ReplicaModels::Unlisted | ReplicaModels::Unknown => {}
    }
}

/// The question for a replica's models.
fn build_models_request(client: &reqwest::Client, replica: &Replica, key: Option<&ApiKey>) -> reqwest::RequestBuilder {
    build_get_request(client, replica.origin(), "/v1/models", key)
}

/// Tells the replica's door whether the connection for a question came about.
fn record_port_state(replica: &Replica, answer: &reqwest::Result<reqwest::Response>, clock: Clock) {
    match answer {
        Ok(_) => replica.port_state().record_connected(),
        Err(error) if is_connection_refused(error) => replica.port_state().record_refused(clock.now()),
        Err(_) => {}
    }
}

/// Tells whether nobody listened at the other end.
fn is_connection_refused(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Reads the answer to that question.
///
/// *Errors*: the replica cannot be reached, or says it is not ready.
async fn read_models(answer: reqwest::Result<reqwest::Response>) -> Result<ReplicaModels, String> {
    let mut answer = answer.map_err(|error| root_cause(&error))?;
    let status = answer.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(format!("/v1/models answered {status}"));
    }
    if !status.is_success() {
        // 404: an engine without a list; 401: the key comes with each request. It is up either way.
        return Ok(ReplicaModels::Unlisted);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| root_cause(&error))? {
        if body.len() + chunk.len() > MAX_MODEL_LIST_BYTES {
            return Err("/v1/models is larger than 4 MiB".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(parse_models(&body))
}

fn parse_models(body: &[u8]) -> ReplicaModels {
    match serde_json::from_slice::<ModelList>(body) {
        Ok(ModelList { mut data }) => {
            data.sort_by_key(|card| card.parent.is_some());
            ReplicaModels::Listed(data.iter().map(|card| card.id.as_str().into()).collect())
        }
        Err(_) => ReplicaModels::Unlisted,
    }
}

/// The telling part of a chain of errors: "connection refused", not "error sending request".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = tls::explain_handshake_error(error) {
        return why;
    }
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
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
    fn what_is_no_list_is_unlisted() {
        assert_eq!(parse_models(b"<html>"), ReplicaModels::Unlisted);
        assert_eq!(parse_models(b"{\"detail\":\"x\"}"), ReplicaModels::Unlisted);
    }
}
