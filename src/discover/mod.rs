//! Layer 3: probes replicas: the models they serve, their health, and the metrics of their engines.

mod health_check;
mod metrics_parser;
mod model_refresh;
mod models;
mod probe_client;
mod scraper;

use std::sync::Arc;

use futures_util::future::{join_all, join3};

use crate::clock::Clock;
use crate::fleet::{ApiKey, Fleet, PathPolicy, Pool, Replica};
use crate::telemetry::ErrorLog;
use crate::tls::TlsStore;
use health_check::HealthChecker;
use models::ModelPoller;
use scraper::MetricsScraper;

pub use health_check::watch_stalls;
pub use model_refresh::ModelRefresh;
pub use models::{PollIntervals, probe_new};
pub use probe_client::ProbeClients;

/// What the probes share with the rest of the process.
#[derive(Clone)]
pub struct ProbeContext {
    /// The error log.
    pub log: Arc<ErrorLog>,
    /// The trust roots of `https://` replicas.
    pub tls_store: Arc<TlsStore>,
    /// The clock.
    pub clock: Clock,
    /// Requests of clients to read models at once.
    pub model_refresh: Arc<ModelRefresh>,
}

/// Probes every replica of `fleet` until it is dropped: its models, and its health and engine metrics where a pool
/// wants them. Returns only if there is nothing to probe.
///
/// The `tls_store` is used all that time, so a reload has to start it again. It keeps in `clients` those that can still be
/// used.
pub async fn run_probes(
    fleet: Arc<Fleet>,
    context: ProbeContext,
    clients: &mut ProbeClients,
    intervals: PollIntervals,
) {
    let ProbeContext { log, tls_store, clock, model_refresh } = context;
    clients.update(&fleet, &tls_store, &log);
    let client = |replica: &Replica| clients.get(replica);
    model_refresh.clear();
    let model_polls: Vec<_> = models_to_poll(&fleet)
        .into_iter()
        .filter_map(|ModelsToPoll { replica, learns_models, api_key }| {
            let requests = model_refresh.register(replica.id(), learns_models);
            let client = client(&replica)?;
            let poller = ModelPoller { client, api_key, learns_models, intervals, requests, current_request: None };
            Some(poller.poll(log.clone(), clock))
        })
        .collect();
    let scrapers = MetricsScraper::from_fleet(&fleet).into_iter();
    let scrapes = scrapers.filter_map(|scraper| client(&scraper.replica).map(|client| scraper.poll(client, clock)));
    let checkers = HealthChecker::from_fleet(&fleet).into_iter();
    let checks =
        checkers.filter_map(|checker| client(&checker.replica).map(|client| checker.poll(client, log.clone(), clock)));
    join3(join_all(model_polls), join_all(scrapes), join_all(checks)).await;
}

/// A replica whose models some pool needs.
struct ModelsToPoll {
    replica: Arc<Replica>,
    /// Whether some pool takes its models from the replica's list.
    learns_models: bool,
    /// The key of the first pool that has one.
    api_key: Option<ApiKey>,
}

fn models_to_poll(fleet: &Fleet) -> Vec<ModelsToPoll> {
    let mut all: Vec<ModelsToPoll> = Vec::new();
    let needs_models = |pool: &Arc<Pool>| *pool.path_policy() != PathPolicy::Any;
    for pool in fleet.pools().into_iter().filter(needs_models) {
        for replica in pool.replicas() {
            let api_key = pool.api_key().cloned();
            match all.iter_mut().find(|known| known.replica.id() == replica.id()) {
                Some(known) => {
                    known.learns_models |= pool.learns_models();
                    known.api_key = known.api_key.take().or(api_key);
                }
                None => {
                    all.push(ModelsToPoll { replica: replica.clone(), learns_models: pool.learns_models(), api_key });
                }
            }
        }
    }
    all
}
