//! Floor 3: asking replicas which models they serve and whether they are well, and engines for their metrics.

mod check;
mod exposition;
mod scrape;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use http::header::HOST;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;

use crate::clock::Clock;
use crate::fleet::{ApiKey, Fleet, Models, Origin, Paths, Pool, Replica};
use crate::telemetry::{ErrorLog, Level};
use crate::tls::{self, Keyring};
use crate::units::{ModelName, ReplicaId};
use check::Checker;
pub use check::watch;
use scrape::Scrape;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reload waits for the replicas that it brings.
const GREETING: Duration = Duration::from_secs(2);
/// The most bytes of a list that are read.
const LIST_BYTES: usize = 4 << 20;

/// How often replicas are asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// While a replica has not answered.
    pub until_known: Duration,
    /// Afterwards, so that models loaded later appear.
    pub once_known: Duration,
}

impl Default for Pace {
    /// 5 s, then 60 s.
    fn default() -> Self {
        Self { until_known: Duration::from_secs(5), once_known: Duration::from_secs(60) }
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<Card>,
}

#[derive(Deserialize)]
struct Card {
    id: String,
    /// Set on adapters: the model they sit on.
    #[serde(default)]
    parent: Option<String>,
}

/// Resolves every name to the addresses of one host: that of a replica whose certificate is for another name.
struct Fixed(String);

impl Resolve for Fixed {
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
pub async fn run(fleet: Arc<Fleet>, log: Arc<ErrorLog>, keyring: Arc<Keyring>, clock: Clock, pace: Pace) {
    let clients = clients(&fleet, &keyring, &log);
    let client =
        |replica: &Replica| clients.iter().find(|(id, _)| *id == replica.id()).map(|(_, client)| client.clone());
    let mut asking = Vec::new();
    let mut seen = Vec::new();
    for pool in fleet.pools().into_iter().filter(|p| *p.paths() != Paths::Any) {
        for replica in pool.replicas().filter(|r| !seen.contains(&r.id())).cloned().collect::<Vec<_>>() {
            seen.push(replica.id());
            if let Some(client) = client(&replica) {
                asking.push(follow(client, (replica, pool.clone()), log.clone(), clock, pace));
            }
        }
    }
    let looking = Scrape::all(&fleet).into_iter();
    let looking = looking.filter_map(|scrape| client(&scrape.replica).map(|client| scrape.follow(client, clock)));
    let checking = Checker::all(&fleet).into_iter();
    let checking = checking
        .filter_map(|checker| client(&checker.replica).map(|client| checker.follow(client, log.clone(), clock)));
    futures_util::future::join3(join_all(asking), join_all(looking), join_all(checking)).await;
}

/// Asks replicas once, before they are let in; one that does not answer in time is asked again by [`run`].
pub async fn greet(fresh: Vec<(Arc<Replica>, Option<ApiKey>)>, keyring: &Keyring) {
    let asking = fresh.into_iter().map(async |(replica, key)| {
        let Ok(client) = client(replica.origin(), keyring) else { return };
        let asked = async { models(list(&client, &replica, key.as_ref()).send().await).await };
        if let Ok(Ok(models)) = tokio::time::timeout(GREETING, asked).await {
            replica.learn(models);
        }
    });
    join_all(asking).await;
}

/// A client for each replica; the log says which cannot have one.
fn clients(fleet: &Fleet, keyring: &Keyring, log: &ErrorLog) -> Vec<(ReplicaId, reqwest::Client)> {
    let one = |replica: &Arc<Replica>| match client(replica.origin(), keyring) {
        Ok(client) => Some((replica.id(), client)),
        Err(error) => {
            log.write(Level::Error, format_args!("replica {} cannot be asked for anything: {error}", replica.name()));
            None
        }
    };
    fleet.replicas().iter().filter_map(one).collect()
}

/// A client for one replica, which verifies it as requests do.
fn client(origin: &Origin, keyring: &Keyring) -> reqwest::Result<reqwest::Client> {
    let trust = origin.tls().and_then(|tls| keyring.client(&tls.trust));
    let config = trust.map_or_else(tls::trusting_nobody, |config| (**config).clone());
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let other_name = origin.tls().is_some_and(|tls| tls.name.is_some());
    if other_name || origin.address().is_some() {
        let host = origin.address().map_or_else(|| origin.host().to_owned(), |address| address.to_string());
        builder = builder.dns_resolver(Arc::new(Fixed(host)));
    }
    let builder = builder.tls_backend_preconfigured(config);
    // No connection is kept: it would wait for a minute, and a server with a single thread would serve nobody else.
    builder.timeout(PATIENCE).pool_max_idle_per_host(0).build()
}

/// Asks a replica for `path` by GET.
fn get(client: &reqwest::Client, origin: &Origin, path: &str, key: Option<&ApiKey>) -> reqwest::RequestBuilder {
    ask_for(client, (Method::GET, origin), path, key)
}

/// Asks a replica for `path`. The name in its certificate stands in the place of its host.
fn ask_for(
    client: &reqwest::Client,
    (method, origin): (Method, &Origin),
    path: &str,
    key: Option<&ApiKey>,
) -> reqwest::RequestBuilder {
    let url = match origin.tls().and_then(|tls| tls.name.as_ref()) {
        Some(name) => format!("https://{name}:{}{}{path}", origin.port(), origin.prefix()),
        None => format!("{origin}{path}"),
    };
    let request = client.request(method, url).header(HOST, origin.authority());
    match key {
        Some(key) => request.bearer_auth(key.reveal()),
        None => request,
    }
}

async fn follow(
    client: reqwest::Client,
    (replica, pool): (Arc<Replica>, Arc<Pool>),
    log: Arc<ErrorLog>,
    clock: Clock,
    pace: Pace,
) {
    let mut complaint = String::new();
    loop {
        let answer = list(&client, &replica, pool.api_key()).send().await;
        knock(&replica, &answer, clock);
        let wait = match models(answer).await {
            Ok(models) => {
                note(&replica, models, &pool, &log);
                complaint.clear();
                pace.once_known
            }
            // What is already known stays: a replica that is down for a while is the ejector's business.
            Err(why) => {
                let known = *replica.models() != Models::Unknown;
                if !known && why != complaint {
                    log.write(Level::Warn, format_args!("replica {} is not ready: {why}", replica.name()));
                }
                complaint = why;
                if known { pace.once_known } else { pace.until_known }
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn note(replica: &Replica, models: Models, pool: &Pool, log: &ErrorLog) {
    if !replica.learn(models) {
        return;
    }
    match &*replica.models() {
        Models::Listed(names) => {
            let names: Vec<&str> = names.iter().map(ModelName::as_str).collect();
            log.write(Level::Info, format_args!("replica {} serves {}", replica.name(), names.join(", ")));
        }
        Models::Unlisted if pool.configured_models().is_empty() => log.write(
            Level::Warn,
            format_args!(
                "replica {} has no /v1/models, so no request reaches it: name the pool's `model`, or write \
                 `paths = \"any\"` if it is no OpenAI-compatible server",
                replica.name()
            ),
        ),
        Models::Unlisted | Models::Unknown => {}
    }
}

/// The question for a replica's models.
fn list(client: &reqwest::Client, replica: &Replica, key: Option<&ApiKey>) -> reqwest::RequestBuilder {
    get(client, replica.origin(), "/v1/models", key)
}

/// Tells the replica's door whether the connection for a question came about.
fn knock(replica: &Replica, answer: &reqwest::Result<reqwest::Response>, clock: Clock) {
    match answer {
        Ok(_) => replica.door().opened(),
        Err(error) if is_refused(error) => replica.door().refused(clock.now()),
        Err(_) => {}
    }
}

/// Tells whether nobody listened at the other end.
fn is_refused(error: &reqwest::Error) -> bool {
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
async fn models(answer: reqwest::Result<reqwest::Response>) -> Result<Models, String> {
    let mut answer = answer.map_err(|error| innermost(&error))?;
    let status = answer.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(format!("/v1/models answered {status}"));
    }
    if !status.is_success() {
        // 404: an engine without a list; 401: the key comes with each request. It is up either way.
        return Ok(Models::Unlisted);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + chunk.len() > LIST_BYTES {
            return Err("/v1/models is larger than 4 MiB".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(read(&body))
}

fn read(body: &[u8]) -> Models {
    match serde_json::from_slice::<List>(body) {
        Ok(List { mut data }) => {
            data.sort_by_key(|card| card.parent.is_some());
            Models::Listed(data.iter().map(|card| card.id.as_str().into()).collect())
        }
        Err(_) => Models::Unlisted,
    }
}

/// The telling part of a chain of errors: "connection refused", not "error sending request".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(why) = tls::explain(error) {
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
        assert_eq!(read(body), Models::Listed(vec!["base".into(), "lora".into()]));
    }

    #[test]
    fn what_is_no_list_is_unlisted() {
        assert_eq!(read(b"<html>"), Models::Unlisted);
        assert_eq!(read(b"{\"detail\":\"x\"}"), Models::Unlisted);
    }
}
