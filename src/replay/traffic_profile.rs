//! The distribution of sessions of each kind of synthetic traffic.

use std::f64::consts::TAU;
use std::time::Duration;

use super::scenario::sample_unit;
use super::trace::{BlockRun, TraceRequest};
use crate::balance::SeededRng;
use crate::units::Tokens;

/// Tokens of a block.
pub(super) const BLOCK_TOKENS: u64 = 64;
/// Longest prompt; a conversation ends before it.
pub(super) const MAX_PROMPT_TOKENS: u64 = 60_000;
/// Block ids reserved for one shared prefix or one session.
const BLOCK_ID_RANGE: u64 = 1 << 20;
/// Seconds before the trace in which sessions may start.
const LEAD_IN_SECONDS: f64 = 300.0;

/// A log-normal distribution.
#[derive(Clone, Copy)]
struct LogNormal {
    median: f64,
    /// Standard deviation of the logarithm.
    sigma: f64,
    max: f64,
}

/// The distribution of sessions of a kind.
pub(super) struct TrafficProfile {
    /// Sessions started per second.
    pub(super) sessions_per_second: f64,
    /// Lengths of the shared prefixes. The frequency of the n-th is in proportion to 1 / n.
    shared_prefix_tokens: &'static [u64],
    /// Probability of a further turn.
    next_turn_probability: f64,
    /// Tokens that a turn adds to the prompt.
    turn_tokens: LogNormal,
    /// Probability that the session starts with a document.
    document_probability: f64,
    document_tokens: LogNormal,
    answer_tokens: LogNormal,
    /// Seconds from the end of a turn to the next.
    think_seconds: LogNormal,
    pub(super) closed_loop: bool,
}

const ZERO_LOG_NORMAL: LogNormal = LogNormal { median: 0.0, sigma: 0.0, max: 0.0 };

pub(super) const CHAT_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 4.0,
    shared_prefix_tokens: &[450, 1_200, 2_600, 700],
    next_turn_probability: 0.8,
    turn_tokens: LogNormal { median: 120.0, sigma: 1.2, max: 8_000.0 },
    document_probability: 0.2,
    document_tokens: LogNormal { median: 9_000.0, sigma: 0.8, max: 48_000.0 },
    answer_tokens: LogNormal { median: 220.0, sigma: 0.9, max: 2_000.0 },
    think_seconds: LogNormal { median: 30.0, sigma: 0.8, max: 240.0 },
    closed_loop: false,
};

pub(super) const TOOLS_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 24.0,
    shared_prefix_tokens: &[6_100, 2_500, 4_200, 1_300, 3_000, 5_200, 1_900, 800],
    next_turn_probability: 0.0,
    turn_tokens: LogNormal { median: 500.0, sigma: 1.3, max: 32_000.0 },
    document_probability: 0.0,
    document_tokens: ZERO_LOG_NORMAL,
    answer_tokens: LogNormal { median: 40.0, sigma: 1.0, max: 1_000.0 },
    think_seconds: ZERO_LOG_NORMAL,
    closed_loop: false,
};

pub(super) const AGENTS_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 1.0,
    shared_prefix_tokens: &[17_000, 12_000, 21_000],
    next_turn_probability: 0.95,
    turn_tokens: LogNormal { median: 700.0, sigma: 1.1, max: 16_000.0 },
    document_probability: 0.0,
    document_tokens: ZERO_LOG_NORMAL,
    answer_tokens: LogNormal { median: 180.0, sigma: 0.9, max: 4_000.0 },
    think_seconds: LogNormal { median: 4.0, sigma: 1.0, max: 60.0 },
    closed_loop: true,
};

pub(super) const UNIFORM_PROFILE: TrafficProfile = TrafficProfile {
    sessions_per_second: 60.0,
    shared_prefix_tokens: &[0],
    next_turn_probability: 0.0,
    turn_tokens: LogNormal { median: 1_000.0, sigma: 0.4, max: 4_000.0 },
    document_probability: 0.0,
    document_tokens: ZERO_LOG_NORMAL,
    answer_tokens: LogNormal { median: 150.0, sigma: 0.4, max: 600.0 },
    think_seconds: ZERO_LOG_NORMAL,
    closed_loop: false,
};

impl TrafficProfile {
    /// Returns the seconds before the trace in which sessions may start, so that some are in progress at its start.
    pub(super) fn lead_in_seconds(&self) -> f64 {
        if self.think_seconds.median > 0.0 && !self.closed_loop { LEAD_IN_SECONDS } else { 0.0 }
    }

    /// Returns the turns of a session that starts at second `start`; turns before second 0 are left out.
    pub(super) fn sample_session(&self, session: u64, start: f64, rng: &mut SeededRng) -> Vec<TraceRequest> {
        let (prefix, prefix_tokens) = self.sample_shared_prefix(rng);
        let mut prompt = prefix_tokens;
        if sample_unit(rng) <= self.document_probability {
            prompt += self.document_tokens.sample_tokens(rng);
        }
        let (mut turns, mut sent_at, mut pause) = (Vec::new(), start, 0.0);
        for turn in 0.. {
            prompt += self.turn_tokens.sample_tokens(rng);
            let output = self.answer_tokens.sample_tokens(rng);
            if prompt > MAX_PROMPT_TOKENS {
                break;
            }
            let think_time = self.closed_loop.then(|| Duration::from_secs_f64(pause));
            let shared_blocks = prefix_tokens / BLOCK_TOKENS;
            let own_blocks = prompt / BLOCK_TOKENS - shared_blocks;
            // Shared prefixes have the first ids.
            let first_own_id = (session + self.shared_prefix_tokens.len() as u64) * BLOCK_ID_RANGE;
            let block_runs = vec![
                BlockRun { first_id: prefix * BLOCK_ID_RANGE, count: shared_blocks },
                BlockRun { first_id: first_own_id, count: own_blocks },
            ];
            if sent_at >= 0.0 {
                turns.push(TraceRequest {
                    sent_at: Duration::from_secs_f64(sent_at),
                    prompt: Tokens(prompt),
                    output: Tokens(output),
                    block_size: Tokens(BLOCK_TOKENS),
                    block_runs,
                    session: Some(session),
                    turn,
                    think_time,
                });
            }
            prompt += output;
            pause = self.think_seconds.sample(rng);
            sent_at += pause;
            if sample_unit(rng) > self.next_turn_probability {
                break;
            }
        }
        turns
    }

    /// Returns the index of a shared prefix and its tokens.
    fn sample_shared_prefix(&self, rng: &mut SeededRng) -> (u64, u64) {
        let weights = || (1..=self.shared_prefix_tokens.len()).map(|rank| 1.0 / rank as f64);
        let mut remaining = sample_unit(rng) * weights().sum::<f64>();
        for ((prefix, tokens), weight) in (0u64..).zip(self.shared_prefix_tokens).zip(weights()) {
            remaining -= weight;
            if remaining <= 0.0 {
                return (prefix, *tokens);
            }
        }
        (0, self.shared_prefix_tokens.first().copied().unwrap_or_default())
    }
}

impl LogNormal {
    fn sample(self, rng: &mut SeededRng) -> f64 {
        // Box-Muller transform.
        let normal = (-2.0 * sample_unit(rng).ln()).sqrt() * (TAU * sample_unit(rng)).cos();
        (self.median * (self.sigma * normal).exp()).min(self.max)
    }

    /// Returns a sample of at least 1.
    fn sample_tokens(self, rng: &mut SeededRng) -> u64 {
        self.sample(rng).round().max(1.0) as u64
    }
}
