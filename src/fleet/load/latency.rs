//! How fast a replica has answered lately.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::units::Tokens;

/// A new answer's share in an average is one in this many.
const EWMA_DIVISOR: u64 = 8;
/// Shorter prompts say nothing of how fast prompts are read.
const MIN_PROMPT_TOKENS: Tokens = Tokens(256);
/// What a prompt's token is taken to need while nothing is known.
const DEFAULT_PREFILL_TIME_PER_TOKEN: Duration = Duration::from_millis(1);

/// Averages over a replica's completed answers, each new answer weighing an eighth, from every pool that has it.
#[derive(Debug, Default)]
pub(in crate::fleet) struct LatencyAverages {
    first_byte: Ewma,
    last_byte: Ewma,
    /// For each token of a prompt, its time in the queue included.
    prefill_per_token: Ewma,
}

/// Nanoseconds; 0 before the first answer.
#[derive(Debug, Default)]
struct Ewma(AtomicU64);

impl LatencyAverages {
    /// Takes note of an answer, by the times from its choice to the first byte of its body and to its end.
    pub(in crate::fleet) fn record(&self, first_byte: Duration, last_byte: Duration) {
        self.first_byte.record(first_byte);
        self.last_byte.record(last_byte);
    }

    /// Takes note of a prompt's length and the time from its choice to the first token.
    pub(in crate::fleet) fn record_prefill(&self, prompt: Tokens, time: Duration) {
        if let (true, Ok(tokens)) = (prompt >= MIN_PROMPT_TOKENS, u32::try_from(prompt.0)) {
            self.prefill_per_token.record(time / tokens);
        }
    }

    /// How long prompts of so many tokens take, as far as is known.
    pub(in crate::fleet) fn expected_prefill(&self, prompts: Tokens) -> Duration {
        let token = self.prefill_per_token.decayed(0);
        let each = if token.is_zero() { DEFAULT_PREFILL_TIME_PER_TOKEN } else { token };
        each.saturating_mul(u32::try_from(prompts.0).unwrap_or(u32::MAX))
    }

    /// The average times to the first byte and to the end, halved `rounds` times so that a replica that was slow once is
    /// tried again; zero if nothing is known.
    pub(in crate::fleet) fn decayed(&self, rounds: u32) -> (Duration, Duration) {
        (self.first_byte.decayed(rounds), self.last_byte.decayed(rounds))
    }
}

impl Ewma {
    fn record(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let next = |known: u64| {
            Some(if known == 0 { time } else { known - known / EWMA_DIVISOR + time / EWMA_DIVISOR }.max(1))
        };
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn decayed(&self, rounds: u32) -> Duration {
        let known = self.0.load(Ordering::Relaxed);
        // Something is known however often it is halved.
        let left = known.checked_shr(rounds).unwrap_or(0).max(u64::from(known > 0));
        Duration::from_nanos(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_weighs_an_eighth_and_time_halves() {
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
    fn prompts_are_expected_to_be_read_as_fast_as_those_before() {
        let averages = LatencyAverages::default();
        averages.record_prefill(Tokens(10), Duration::from_secs(9));
        assert_eq!(averages.expected_prefill(Tokens(2_000)), Duration::from_secs(2), "nothing is known yet");
        averages.record_prefill(Tokens(1_000), Duration::from_millis(100));
        assert_eq!(averages.expected_prefill(Tokens(2_000)), Duration::from_millis(200));
    }
}
