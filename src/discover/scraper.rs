//! Asking engines for their metrics.

use std::sync::Arc;
use std::time::Duration;

use super::metrics_parser::MetricsParser;
use crate::clock::Clock;
use crate::fleet::{ApiKey, EngineStats, Fleet, Replica};

/// How long one look may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of an exposition that are read; vLLM's has about 55 KB.
const MAX_METRICS_BYTES: usize = 4 << 20;
/// How often a replica without an engine's metrics is asked whether it has any by now.
const UNSUPPORTED_INTERVAL: Duration = Duration::from_secs(60);
/// What was said is believed for so many times the time to the next look.
const STATS_VALID_INTERVALS: u32 = 3;

/// A replica to ask, and how.
pub(super) struct MetricsScraper {
    pub(super) replica: Arc<Replica>,
    pub(super) api_key: Option<ApiKey>,
    pub(super) interval: Duration,
}

/// Why nothing was learned.
enum ScrapeError {
    /// It is down, slow, or not ready.
    Transient,
    /// It serves, and this is not what it serves.
    Unsupported,
}

impl MetricsScraper {
    /// Every replica that some pool wants to know about, as often as the pool that wants it most often.
    pub(super) fn from_fleet(fleet: &Fleet) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for pool in fleet.pools() {
            let Some(every) = pool.spec().token_accounting.engine_metrics_interval else { continue };
            for replica in pool.replicas() {
                match all.iter_mut().find(|known| known.replica.id() == replica.id()) {
                    Some(known) => known.interval = known.interval.min(every),
                    None => {
                        all.push(Self { replica: replica.clone(), api_key: pool.api_key().cloned(), interval: every });
                    }
                }
            }
        }
        all
    }

    /// Asks for ever.
    pub(super) async fn poll(self, client: reqwest::Client, clock: Clock) {
        loop {
            let wait = match self.scrape_once(&client, clock).await {
                Ok(()) | Err(ScrapeError::Transient) => self.interval,
                Err(ScrapeError::Unsupported) => self.interval.max(UNSUPPORTED_INTERVAL),
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn scrape_once(&self, client: &reqwest::Client, clock: Clock) -> Result<(), ScrapeError> {
        let before = self.replica.in_flight();
        let vitals = self.fetch_stats(client, clock).await?;
        // The engine counted somewhere between: with the larger number, what has just come or gone is not foreign.
        let in_flight = before.max(self.replica.in_flight());
        self.replica.set_engine_stats(vitals, in_flight, clock.now(), self.interval * STATS_VALID_INTERVALS);
        Ok(())
    }

    async fn fetch_stats(&self, client: &reqwest::Client, clock: Clock) -> Result<EngineStats, ScrapeError> {
        let request = super::build_get_request(client, self.replica.origin(), "/metrics", self.api_key.as_ref())
            .timeout(SCRAPE_TIMEOUT);
        let answer = request.send().await;
        super::record_port_state(&self.replica, &answer, clock);
        let mut answer = answer.map_err(|_| ScrapeError::Transient)?;
        let status = answer.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(ScrapeError::Transient);
        }
        if !status.is_success() {
            return Err(ScrapeError::Unsupported);
        }
        let (mut exposition, mut size) = (MetricsParser::default(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(|_| ScrapeError::Transient)? {
            size += chunk.len();
            if size > MAX_METRICS_BYTES {
                return Err(ScrapeError::Unsupported);
            }
            exposition.push(&chunk);
        }
        exposition.finish().ok_or(ScrapeError::Unsupported)
    }
}
