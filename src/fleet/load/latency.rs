//! Recent latency averages of a replica.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Tokens;

/// A new sample has weight 1/8 in an average.
const EWMA_DIVISOR: u64 = 8;
/// Shorter prompts say nothing about prefill speed.
const MIN_PROMPT_TOKENS: Tokens = Tokens(256);
/// Prefill time per token while no sample exists.
const DEFAULT_PREFILL_TIME_PER_TOKEN: Duration = Duration::from_millis(1);

/// Moving averages over a replica's completed requests, from every pool that has it. A new sample has weight 1/8.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LatencyAverages {
    first_byte: Ewma,
    last_byte: Ewma,
    /// Per prompt token, time in the engine's queue included.
    prefill_per_token: Ewma,
}

/// Nanoseconds; 0 before the first sample.
#[derive(Debug, Default)]
struct Ewma(AtomicU64);

impl LatencyAverages {
    /// Records a completed request: the times from its choice to the first byte of the body and to the end.
    pub(in crate::fleet) fn record(&self, first_byte: Duration, last_byte: Duration) {
        self.first_byte.record(first_byte);
        self.last_byte.record(last_byte);
    }

    /// Records a prompt's length and the time from its choice to the first token.
    pub(in crate::fleet) fn record_prefill(&self, prompt: Tokens, time: Duration) {
        if let (true, Ok(tokens)) = (prompt >= MIN_PROMPT_TOKENS, u32::try_from(prompt.0)) {
            self.prefill_per_token.record(time / tokens);
        }
    }

    /// Returns the expected time to prefill `prompts` tokens.
    pub(in crate::fleet) fn expected_prefill(&self, prompts: Tokens) -> Duration {
        let average = self.prefill_per_token.decayed(0);
        let per_token = if average.is_zero() { DEFAULT_PREFILL_TIME_PER_TOKEN } else { average };
        per_token.saturating_mul(u32::try_from(prompts.0).unwrap_or(u32::MAX))
    }

    /// Returns the average times to the first byte and to the end; zero without a sample.
    ///
    /// They are halved `periods` times, so that a replica that was slow once is tried again.
    pub(in crate::fleet) fn decayed(&self, periods: u32) -> (Duration, Duration) {
        (self.first_byte.decayed(periods), self.last_byte.decayed(periods))
    }
}

impl Ewma {
    fn record(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let next = |average: u64| {
            Some(if average == 0 { time } else { average - average / EWMA_DIVISOR + time / EWMA_DIVISOR }.max(1))
        };
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn decayed(&self, periods: u32) -> Duration {
        let average = self.0.load(Ordering::Relaxed);
        // At least 1 ns remains: zero means that there is no sample.
        let left = average.checked_shr(periods).unwrap_or(0).max(u64::from(average > 0));
        Duration::from_nanos(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_has_weight_one_eighth_and_periods_halve() {
        let averages = LatencyAverages::default();
        assert_eq!(averages.decayed(0), (Duration::ZERO, Duration::ZERO));
        let ms = Duration::from_millis;
        averages.record(ms(80), ms(800));
        assert_eq!(averages.decayed(0), (ms(80), ms(800)));
        averages.record(ms(160), ms(0));
        assert_eq!(averages.decayed(0).0, ms(90));
        assert_eq!(averages.decayed(1).0, ms(45));
        assert_eq!(averages.decayed(500).0, Duration::from_nanos(1));
    }

    #[test]
    fn expected_prefill_follows_earlier_prompts() {
        let averages = LatencyAverages::default();
        averages.record_prefill(Tokens(10), Duration::from_secs(9));
        assert_eq!(averages.expected_prefill(Tokens(2_000)), Duration::from_secs(2), "no sample yet");
        averages.record_prefill(Tokens(1_000), Duration::from_millis(100));
        assert_eq!(averages.expected_prefill(Tokens(2_000)), Duration::from_millis(200));
    }
}
