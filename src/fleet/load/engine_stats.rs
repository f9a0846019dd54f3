//! An engine's report on itself, and the load in it that did not come through this router.

use std::time::Duration;

use crate::balance::TokenLoad;
use crate::units::{Moment, Tokens};

/// An engine's metrics at one moment; `None` where it does not report one. Totals count from the engine's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Requests in the batch.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Share of the KV memory that requests hold, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Capacity of the KV memory in tokens.
    pub kv_capacity: Option<Tokens>,
    /// Tokens in a block of the prefix cache.
    pub block_tokens: Option<Tokens>,
    /// Total of prompt tokens.
    pub prompt_tokens: Option<Tokens>,
    /// Total of prompt tokens found in the prefix cache.
    pub cached_tokens: Option<Tokens>,
    /// Total of generated tokens.
    pub generated_tokens: Option<Tokens>,
    /// Number of requests whose prompts `prompt_tokens` sums up.
    pub prompt_requests: Option<u64>,
}

/// Load on an engine from other routers and from clients that connect to it directly. An estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExternalLoad {
    /// Requests, running and waiting.
    pub requests: u32,
    /// Their tokens: all in `resident`, prompts of waiting requests in `prefill` as well.
    pub load: TokenLoad,
}

/// An engine's stats and the estimate derived from them, valid until `expires_at`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineReport {
    /// The engine's own numbers.
    pub stats: EngineStats,
    /// The part of its load that is not ours.
    pub external: ExternalLoad,
    /// Time of the scrape.
    pub received_at: Moment,
    /// End of validity.
    pub expires_at: Moment,
    /// The engine's requests less ours, in this scrape alone.
    surplus: u32,
}

/// Our own requests on the engine at the time of the scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct OwnLoad {
    pub(in crate::fleet) in_flight: u32,
    pub(in crate::fleet) load: TokenLoad,
}

impl EngineStats {
    /// Returns the number of requests in the engine.
    pub const fn total_requests(&self) -> u32 {
        self.running.saturating_add(self.waiting)
    }

    /// Returns the tokens in KV memory that requests hold.
    pub fn kv_tokens_used(&self) -> Option<Tokens> {
        let (usage, capacity) = self.kv_usage.zip(self.kv_capacity)?;
        Some(Tokens((usage.clamp(0.0, 1.0) * capacity.0 as f64).round() as u64))
    }

    /// Returns the mean length of the prompts so far; zero if unknown.
    pub fn mean_prompt(&self) -> Tokens {
        let (prompt, requests) = self.prompt_tokens.zip(self.prompt_requests).unwrap_or_default();
        Tokens(prompt.0.checked_div(requests).unwrap_or_default())
    }
}

impl EngineReport {
    /// Builds the report of a scrape at `received_at`; `previous` is the one before it.
    ///
    /// Requests count as external only if both scrapes had the surplus. A request of ours that has just ended here, or
    /// has not quite arrived there, is in one of the two only.
    pub(in crate::fleet) fn new(
        stats: EngineStats,
        own: OwnLoad,
        previous: Option<&Self>,
        received_at: Moment,
        validity: Duration,
    ) -> Self {
        let surplus = stats.total_requests().saturating_sub(own.in_flight);
        let requests = previous.map_or(0, |previous| previous.surplus.min(surplus));
        Self {
            stats,
            external: ExternalLoad::estimate(stats, own, requests),
            received_at,
            expires_at: received_at + validity,
            surplus,
        }
    }
}

impl ExternalLoad {
    fn estimate(stats: EngineStats, own: OwnLoad, requests: u32) -> Self {
        if requests == 0 {
            return Self::default();
        }
        let waiting_requests = estimate_waiting(stats, own, requests);
        let mean = stats.mean_prompt().0;
        let prefill = Tokens(mean.saturating_mul(waiting_requests.into()));
        // Waiting requests hold no memory yet. Requests that share a prefix hold less than the sum of their lengths.
        let held = stats.kv_tokens_used().map_or(Tokens(0), |used| (used + prefill) - own.load.resident);
        let resident = held.max(Tokens(mean.saturating_mul(requests.into())));
        let decoding_streams = (requests - waiting_requests).min(stats.running);
        Self { requests, load: TokenLoad { prefill, waiting_requests, decoding_streams, resident } }
    }
}

/// Returns how many of `requests` external ones wait: their share of the queue, and at least the part of the queue that
/// our own requests without a first token cannot explain.
fn estimate_waiting(stats: EngineStats, own: OwnLoad, requests: u32) -> u32 {
    let share = u64::from(stats.waiting) * u64::from(requests) / u64::from(stats.total_requests().max(1));
    let unexplained = stats.waiting.saturating_sub(own.in_flight.saturating_sub(own.load.decoding_streams));
    u32::try_from(share).unwrap_or(u32::MAX).max(unexplained).min(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_STATS: EngineStats = EngineStats {
        running: 0,
        waiting: 0,
        kv_usage: Some(0.0),
        kv_capacity: Some(Tokens(10_000)),
        block_tokens: Some(Tokens(16)),
        prompt_tokens: Some(Tokens(3_000)),
        cached_tokens: None,
        generated_tokens: None,
        prompt_requests: Some(10),
    };

    fn engine_stats(running: u32, waiting: u32, kv_usage: f64) -> EngineStats {
        EngineStats { running, waiting, kv_usage: Some(kv_usage), ..IDLE_STATS }
    }

    fn own_load(in_flight: u32, decoding: u32, resident: u64) -> OwnLoad {
        OwnLoad {
            in_flight,
            load: TokenLoad {
                waiting_requests: in_flight.saturating_sub(decoding),
                decoding_streams: decoding,
                resident: Tokens(resident),
                ..TokenLoad::default()
            },
        }
    }

    /// Returns the external load after two scrapes.
    fn external_load(scrapes: [(EngineStats, OwnLoad); 2]) -> ExternalLoad {
        let mut report = None;
        for (stats, own) in scrapes {
            report = Some(EngineReport::new(stats, own, report.as_ref(), Moment::ZERO, Duration::from_secs(15)));
        }
        report.unwrap().external
    }

    fn steady_external_load(stats: EngineStats, own: OwnLoad) -> (u32, u32, u64, u64) {
        let ExternalLoad { requests, load } = external_load([(stats, own); 2]);
        (requests, load.waiting_requests, load.prefill.0, load.resident.0)
    }

    #[test]
    fn requests_beyond_our_own_are_external() {
        assert_eq!(steady_external_load(engine_stats(3, 0, 0.2), own_load(1, 1, 500)), (2, 0, 0, 1_500));
        assert_eq!(
            steady_external_load(engine_stats(3, 0, 0.2), own_load(3, 3, 500)),
            (0, 0, 0, 0),
            "all are our own, whatever they hold"
        );
        assert_eq!(
            steady_external_load(engine_stats(3, 0, 0.2), own_load(5, 3, 500)),
            (0, 0, 0, 0),
            "some of ours have not arrived"
        );
        assert_eq!(steady_external_load(engine_stats(0, 0, 0.0), own_load(0, 0, 0)), (0, 0, 0, 0));
    }

    #[test]
    fn external_requests_have_at_least_the_mean_prompt() {
        assert_eq!(steady_external_load(engine_stats(4, 0, 0.01), own_load(0, 0, 0)), (4, 0, 0, 1_200));
        let unreported = EngineStats { kv_usage: None, kv_capacity: None, ..engine_stats(4, 0, 0.0) };
        assert_eq!(steady_external_load(unreported, own_load(0, 0, 0)), (4, 0, 0, 1_200));
        let new = EngineStats { prompt_tokens: None, prompt_requests: Some(0), ..unreported };
        assert_eq!(steady_external_load(new, own_load(0, 0, 0)), (4, 0, 0, 0));
    }

    #[test]
    fn waiting_external_requests_count_as_prefill_and_resident() {
        assert_eq!(steady_external_load(engine_stats(2, 6, 0.5), own_load(0, 0, 0)), (8, 6, 1_800, 6_800));
        assert_eq!(
            steady_external_load(engine_stats(4, 4, 0.5), own_load(4, 4, 2_000)),
            (4, 4, 1_200, 4_200),
            "all of ours decode"
        );
        assert_eq!(
            steady_external_load(engine_stats(4, 4, 0.5), own_load(4, 0, 2_000)),
            (4, 2, 600, 3_600),
            "unknown: by shares"
        );
    }

    #[test]
    fn surplus_of_one_scrape_is_ignored_and_the_smaller_of_two_counts() {
        let (idle, full) = ((engine_stats(0, 0, 0.0), own_load(0, 0, 0)), (engine_stats(9, 0, 0.5), own_load(0, 0, 0)));
        assert_eq!(
            EngineReport::new(full.0, full.1, None, Moment::ZERO, Duration::ZERO).external,
            ExternalLoad::default()
        );
        assert_eq!(external_load([idle, full]).requests, 0);
        assert_eq!(external_load([full, idle]).requests, 0);
        assert_eq!(external_load([(engine_stats(4, 0, 0.5), own_load(1, 1, 10)), full]).requests, 3);
    }

    #[test]
    fn extreme_stats_saturate() {
        let stats = EngineStats {
            running: u32::MAX,
            waiting: u32::MAX,
            kv_usage: Some(f64::INFINITY),
            kv_capacity: Some(Tokens(u64::MAX)),
            prompt_tokens: Some(Tokens(u64::MAX)),
            prompt_requests: Some(1),
            ..IDLE_STATS
        };
        let (requests, waiting, prefill, resident) = steady_external_load(stats, own_load(0, 0, 0));
        assert_eq!((requests, waiting, prefill, resident), (u32::MAX, u32::MAX, u64::MAX, u64::MAX));
        assert_eq!(EngineStats { kv_usage: Some(f64::NAN), ..stats }.kv_tokens_used(), Some(Tokens(0)));
    }
}
