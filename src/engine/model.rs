//! The speed and size of a simulated replica.

use std::time::Duration;

use crate::units::Tokens;

/// The speed and size of a replica. A step takes `(step + prefill_token * p + attention * a / 1000 + sequence * n +
/// context_token * c) / speed`, for `p` computed prompt tokens with `a` tokens before them in all, and `n` decoding
/// sequences with `c` tokens in their contexts.
///
/// The default is an 8B model on one H100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineModel {
    /// Fixed time of a step.
    pub step_time: Duration,
    /// Time per prompt token computed in a step.
    pub prefill_token_time: Duration,
    /// Time per thousand pairs of a computed prompt token and a token before it. It makes prefill grow with the square
    /// of a long prompt's length; zero by default.
    pub attention_time: Duration,
    /// Time per sequence that decodes in a step.
    pub sequence_time: Duration,
    /// Time per token in the contexts of the sequences that decode in a step.
    pub context_token_time: Duration,
    /// The factor by which the replica is faster than these times; 1 if not positive and finite.
    pub speed: f64,
    /// KV memory, rounded down to whole blocks, at least one.
    pub kv_capacity: Tokens,
    /// Tokens in a block, at least 1.
    pub block_size: Tokens,
    /// Sequences that may run at once, at least 1.
    pub max_sequences: u32,
    /// Tokens that may be computed in a step, at least 1.
    pub max_step_tokens: Tokens,
}

impl EngineModel {
    /// Returns the model with its lower bounds applied.
    pub(super) fn with_lower_bounds(self) -> Self {
        Self {
            block_size: Tokens(self.block_size.0.max(1)),
            max_sequences: self.max_sequences.max(1),
            max_step_tokens: Tokens(self.max_step_tokens.0.max(1)),
            speed: if self.speed.is_finite() && self.speed > 0.0 { self.speed } else { 1.0 },
            ..self
        }
    }
}

impl Default for EngineModel {
    fn default() -> Self {
        Self {
            step_time: Duration::from_millis(6),
            prefill_token_time: Duration::from_micros(32),
            attention_time: Duration::ZERO,
            sequence_time: Duration::from_micros(25),
            context_token_time: Duration::from_nanos(49),
            speed: 1.0,
            kv_capacity: Tokens(430_000),
            block_size: Tokens(16),
            max_sequences: 256,
            max_step_tokens: Tokens(8192),
        }
    }
}
