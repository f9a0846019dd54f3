//! Reads the metrics of engines from `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use super::metrics_parser::MetricsParser;
use super::probe_client::ProbeClient;
use crate::clock::Clock;
use crate::fleet::{ApiKey, EngineStats, Fleet, Replica};
use crate::http::StatusMeaning;

/// Longest duration of one scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest exposition that is read; vLLM's has about 55 KB.
const MAX_METRICS_BYTES: usize = 4 << 20;
/// How often a replica without engine metrics is scraped again.
const UNSUPPORTED_INTERVAL: Duration = Duration::from_secs(60);
/// How long the metrics are valid, in scrape intervals.
const STATS_VALID_INTERVALS: u32 = 3;

/// Scrapes the engine metrics of one replica.
pub(super) struct MetricsScraper {
    pub(super) replica: Arc<Replica>,
    api_key: Option<ApiKey>,
    interval: Duration,
}

/// Why a scrape gave no metrics.
enum ScrapeError {
    /// The replica is down, slow or not ready.
    Transient,
    /// The replica is up and has no engine metrics.
    Unsupported,
}

impl MetricsScraper {
    /// Returns a scraper for each replica that a pool wants metrics of, at the shortest interval of its pools.
    pub(super) fn from_fleet(fleet: &Fleet) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for pool in fleet.pools() {
            let Some(interval) = pool.spec().token_accounting.engine_metrics_interval else { continue };
            for replica in pool.replicas() {
                match all.iter_mut().find(|known| known.replica.id() == replica.id()) {
                    Some(known) => known.interval = known.interval.min(interval),
                    None => {
                        all.push(Self { replica: replica.clone(), api_key: pool.api_key().cloned(), interval });
                    }
                }
            }
        }
        all
    }

    /// Scrapes the replica at intervals until it is dropped.
    pub(super) async fn poll(self, client: ProbeClient, clock: Clock) {
        loop {
            let wait = match self.scrape_once(&client, clock).await {
                Ok(()) | Err(ScrapeError::Transient) => self.interval,
                Err(ScrapeError::Unsupported) => self.interval.max(UNSUPPORTED_INTERVAL),
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn scrape_once(&self, client: &ProbeClient, clock: Clock) -> Result<(), ScrapeError> {
        let before = self.replica.in_flight();
        let stats = self.fetch_stats(client, clock).await?;
        // The engine counted between the two. With the larger count no request of ours counts as another client's.
        let in_flight = before.max(self.replica.in_flight());
        self.replica.set_engine_stats(stats, in_flight, clock.now(), self.interval * STATS_VALID_INTERVALS);
        Ok(())
    }

    async fn fetch_stats(&self, client: &ProbeClient, clock: Clock) -> Result<EngineStats, ScrapeError> {
        let response = client.get("/metrics", self.api_key.as_ref()).timeout(SCRAPE_TIMEOUT).send().await;
        client.record_port_state(&response, clock);
        let mut response = response.map_err(|_| ScrapeError::Transient)?;
        let status = response.status();
        if matches!(StatusMeaning::of(status.as_u16()), StatusMeaning::Busy | StatusMeaning::ReplicaFault) {
            return Err(ScrapeError::Transient);
        }
        if !status.is_success() {
            return Err(ScrapeError::Unsupported);
        }
        let mut parser = MetricsParser::default();
        let mut size_bytes = 0;
        while let Some(chunk) = response.chunk().await.map_err(|_| ScrapeError::Transient)? {
            size_bytes += chunk.len();
            if size_bytes > MAX_METRICS_BYTES {
                return Err(ScrapeError::Unsupported);
            }
            parser.push(&chunk);
        }
        parser.finish().ok_or(ScrapeError::Unsupported)
    }
}
