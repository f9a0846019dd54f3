//! The batch of one step, as far as the step's time depends on it.

use std::time::Duration;

use super::model::EngineModel;
use super::sequence::EngineSequence;

/// The size of one step's batch.
#[derive(Default)]
pub(super) struct StepBatch {
    prefill_tokens: u64,
    /// Pairs of a computed prompt token and a token before it.
    attention_pairs: u64,
    decode_sequences: u64,
    context_tokens: u64,
}

impl StepBatch {
    pub(super) fn add_sequence(&mut self, sequence: &EngineSequence, tokens: u64) {
        if sequence.is_decoding() {
            self.decode_sequences += 1;
            self.context_tokens += sequence.known_tokens();
        } else {
            self.prefill_tokens += tokens;
            self.attention_pairs += tokens * sequence.computed_tokens + tokens * tokens.saturating_sub(1) / 2;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prefill_tokens + self.decode_sequences == 0
    }

    /// Returns the time of the step: at least a nanosecond, so that time passes under any model.
    pub(super) fn step_time(&self, model: &EngineModel) -> Duration {
        let cost = |each: Duration, count: u64| (each.as_nanos() as u64).saturating_mul(count);
        let nanos = cost(model.step_time, 1)
            .saturating_add(cost(model.prefill_token_time, self.prefill_tokens))
            .saturating_add(cost(model.attention_time, self.attention_pairs) / 1_000)
            .saturating_add(cost(model.sequence_time, self.decode_sequences))
            .saturating_add(cost(model.context_token_time, self.context_tokens));
        Duration::from_nanos(((nanos as f64 / model.speed).round() as u64).max(1))
    }
}
