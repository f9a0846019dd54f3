//! Layer 3: probes replicas: the models they serve, their health, and the metrics of their engines.

mod health_check;
mod metrics_parser;
mod models;
mod probe_client;
mod scraper;

use std::sync::Arc;

use futures_util::future::{join_all, join3};

use crate::clock::Clock;
use crate::fleet::{Fleet, PathPolicy, Replica};
use crate::telemetry::ErrorLog;
use crate::tls::TlsStore;
use health_check::HealthChecker;
use models::ModelPoller;
use scraper::MetricsScraper;

pub use health_check::watch_stalls;
pub use models::{PollIntervals, probe_new};

/// Probes every replica of `fleet` until it is dropped: its models, and its health and engine metrics where a pool
/// wants them. Returns only if there is nothing to probe.
///
/// `tls_store` is used all that time, so a reload has to start it again.
pub async fn run_probes(
    fleet: Arc<Fleet>,
    log: Arc<ErrorLog>,
    tls_store: Arc<TlsStore>,
    clock: Clock,
    intervals: PollIntervals,
) {
    let clients = probe_client::build_clients(&fleet, &tls_store, &log);
    let client = |replica: &Replica| clients.iter().find(|client| client.replica().id() == replica.id()).cloned();
    let mut model_polls = Vec::new();
    let mut polled = Vec::new();
    for pool in fleet.pools().into_iter().filter(|pool| *pool.path_policy() != PathPolicy::Any) {
        for replica in pool.replicas() {
            if polled.contains(&replica.id()) {
                continue;
            }
            polled.push(replica.id());
            if let Some(client) = client(replica) {
                let poller = ModelPoller { client, pool: pool.clone(), intervals };
                model_polls.push(poller.poll(log.clone(), clock));
            }
        }
    }
    let scrapers = MetricsScraper::from_fleet(&fleet).into_iter();
    let scrapes = scrapers.filter_map(|scraper| client(&scraper.replica).map(|client| scraper.poll(client, clock)));
    let checkers = HealthChecker::from_fleet(&fleet).into_iter();
    let checks =
        checkers.filter_map(|checker| client(&checker.replica).map(|client| checker.poll(client, log.clone(), clock)));
    join3(join_all(model_polls), join_all(scrapes), join_all(checks)).await;
}
