//! What an engine says of itself, and what that tells of load that did not come through this router.

use std::time::Duration;

use crate::balance::TokenLoad;
use crate::units::{Moment, Tokens};

/// What an engine says of itself at one moment; `None` where it does not say. Totals count since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineStats {
    /// Requests in the batch.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Share of the KV memory that requests hold, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Tokens that the KV memory has room for.
    pub kv_capacity: Option<Tokens>,
    /// Tokens in a block of the prefix cache.
    pub block_tokens: Option<Tokens>,
    /// Prompt tokens so far.
    pub prompt_tokens: Option<Tokens>,
    /// Prompt tokens so far that were found in the prefix cache.
    pub cached_tokens: Option<Tokens>,
    /// Tokens generated so far.
    pub generated_tokens: Option<Tokens>,
    /// The requests that `prompt` is the sum of.
    pub prompt_requests: Option<u64>,
}

/// Load on an engine from elsewhere: other routers, clients that ask it directly. An estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExternalLoad {
    /// Requests, running and waiting.
    pub requests: u32,
    /// What they come to in our terms: every token in `resident`, the prompts of those that wait in `prefill` too.
    pub load: TokenLoad,
}

/// What is taken to be true of an engine from one look at it until the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineReport {
    /// What it said.
    pub stats: EngineStats,
    /// What of it is not ours.
    pub external: ExternalLoad,
    /// When it said so.
    pub received_at: Moment,
    /// When that is too old to be believed.
    pub expires_at: Moment,
    /// Its requests less ours, at this look alone.
    surplus: u32,
}

/// What of ours was on the engine when it spoke.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct OwnLoad {
    pub(in crate::fleet) in_flight: u32,
    pub(in crate::fleet) load: TokenLoad,
}

impl EngineStats {
    /// Requests in the engine.
    pub const fn total_requests(&self) -> u32 {
        self.running.saturating_add(self.waiting)
    }

    /// Tokens in the KV memory that requests hold.
    pub fn kv_tokens_used(&self) -> Option<Tokens> {
        let (usage, capacity) = self.kv_usage.zip(self.kv_capacity)?;
        Some(Tokens((usage.clamp(0.0, 1.0) * capacity.0 as f64).round() as u64))
    }

    /// The length of the prompts so far, on average; zero if nothing is known.
    pub fn mean_prompt(&self) -> Tokens {
        let (prompt, requests) = self.prompt_tokens.zip(self.prompt_requests).unwrap_or_default();
        Tokens(prompt.0.checked_div(requests).unwrap_or_default())
    }
}

impl EngineReport {
    /// Judges what an engine said at `at`; `before` is what was taken to be true until then.
    ///
    /// Requests are foreign if they were too many at both looks: one of ours that has just ended here, or has not quite
    /// arrived there, is not.
    pub(in crate::fleet) fn new(
        vitals: EngineStats,
        ours: OwnLoad,
        before: Option<&Self>,
        at: Moment,
        good_for: Duration,
    ) -> Self {
        let excess = vitals.total_requests().saturating_sub(ours.in_flight);
        let requests = before.map_or(0, |before| before.surplus.min(excess));
        Self {
            stats: vitals,
            external: ExternalLoad::estimate(vitals, ours, requests),
            received_at: at,
            expires_at: at + good_for,
            surplus: excess,
        }
    }
}

impl ExternalLoad {
    fn estimate(vitals: EngineStats, ours: OwnLoad, requests: u32) -> Self {
        if requests == 0 {
            return Self::default();
        }
        let waiting = estimate_waiting(vitals, ours, requests);
        let mean = vitals.mean_prompt().0;
        let prefill = Tokens(mean.saturating_mul(waiting.into()));
        // Requests that wait hold no memory yet. Those that share a prefix hold less of it than they weigh by themselves.
        let held = vitals.kv_tokens_used().map_or(Tokens(0), |held| (held + prefill) - ours.load.resident);
        let resident = held.max(Tokens(mean.saturating_mul(requests.into())));
        let decoding = (requests - waiting).min(vitals.running);
        Self { requests, load: TokenLoad { prefill, waiting_requests: waiting, decoding_streams: decoding, resident } }
    }
}

/// How many of `requests` foreign ones wait: their share of the queue, and at least what our own requests without a
/// first token cannot account for.
fn estimate_waiting(vitals: EngineStats, ours: OwnLoad, requests: u32) -> u32 {
    let share = u64::from(vitals.waiting) * u64::from(requests) / u64::from(vitals.total_requests().max(1));
    let unexplained = vitals.waiting.saturating_sub(ours.in_flight.saturating_sub(ours.load.decoding_streams));
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

    /// What is foreign after two looks.
    fn external_load(looks: [(EngineStats, OwnLoad); 2]) -> ExternalLoad {
        let mut truth = None;
        for (vitals, ours) in looks {
            truth = Some(EngineReport::new(vitals, ours, truth.as_ref(), Moment::ZERO, Duration::from_secs(15)));
        }
        truth.unwrap().external
    }

    fn steady_external_load(vitals: EngineStats, ours: OwnLoad) -> (u32, u32, u64, u64) {
        let ExternalLoad { requests, load } = external_load([(vitals, ours); 2]);
        (requests, load.waiting_requests, load.prefill.0, load.resident.0)
    }

    #[test]
    fn what_the_engine_has_more_than_we_sent_is_foreign() {
        assert_eq!(steady_external_load(engine_stats(3, 0, 0.2), own_load(1, 1, 500)), (2, 0, 0, 1_500));
        assert_eq!(
            steady_external_load(engine_stats(3, 0, 0.2), own_load(3, 3, 500)),
            (0, 0, 0, 0),
            "all are ours, whatever they hold"
        );
        assert_eq!(
            steady_external_load(engine_stats(3, 0, 0.2), own_load(5, 3, 500)),
            (0, 0, 0, 0),
            "some of ours have not arrived"
        );
        assert_eq!(steady_external_load(engine_stats(0, 0, 0.0), own_load(0, 0, 0)), (0, 0, 0, 0));
    }

    #[test]
    fn foreign_requests_weigh_at_least_a_mean_prompt_each() {
        assert_eq!(steady_external_load(engine_stats(4, 0, 0.01), own_load(0, 0, 0)), (4, 0, 0, 1_200));
        let silent = EngineStats { kv_usage: None, kv_capacity: None, ..engine_stats(4, 0, 0.0) };
        assert_eq!(steady_external_load(silent, own_load(0, 0, 0)), (4, 0, 0, 1_200));
        let new = EngineStats { prompt_tokens: None, prompt_requests: Some(0), ..silent };
        assert_eq!(steady_external_load(new, own_load(0, 0, 0)), (4, 0, 0, 0));
    }

    #[test]
    fn those_that_wait_count_for_prefill_and_again_as_resident() {
        assert_eq!(steady_external_load(engine_stats(2, 6, 0.5), own_load(0, 0, 0)), (8, 6, 1_800, 6_800));
        assert_eq!(
            steady_external_load(engine_stats(4, 4, 0.5), own_load(4, 4, 2_000)),
            (4, 4, 1_200, 4_200),
            "ours all decode"
        );
        assert_eq!(
            steady_external_load(engine_stats(4, 4, 0.5), own_load(4, 0, 2_000)),
            (4, 2, 600, 3_600),
            "nobody knows: by shares"
        );
    }

    #[test]
    fn one_look_is_not_enough_and_the_smaller_excess_counts() {
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
    fn absurd_numbers_saturate() {
        let vitals = EngineStats {
            running: u32::MAX,
            waiting: u32::MAX,
            kv_usage: Some(f64::INFINITY),
            kv_capacity: Some(Tokens(u64::MAX)),
            prompt_tokens: Some(Tokens(u64::MAX)),
            prompt_requests: Some(1),
            ..IDLE_STATS
        };
        let (requests, waiting, prefill, resident) = steady_external_load(vitals, own_load(0, 0, 0));
        assert_eq!((requests, waiting, prefill, resident), (u32::MAX, u32::MAX, u64::MAX, u64::MAX));
        assert_eq!(EngineStats { kv_usage: Some(f64::NAN), ..vitals }.kv_tokens_used(), Some(Tokens(0)));
    }
}
