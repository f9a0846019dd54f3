//! Floor 1: a model of a vLLM replica as a value.
//!
//! Continuous batching with chunked prefill, a block prefix cache and preemption, in whatever time the caller lives in:
//! real time in `emulate`, simulated time in `replay`. What happens depends only on the sequence of [`SimulatedEngine::submit`]
//! and [`SimulatedEngine::abort`] calls and their moments; [`SimulatedEngine::advance`] merely tells what has happened by then.
//!
//! *Source*: vLLM `v1/core/sched/scheduler.py`. Left out: priorities, speculative decoding, LoRA, encoder inputs, and
//! the caching of generated tokens (they take KV memory while their sequence runs, and are forgotten with it).

mod blocks;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::units::{Moment, Tokens};
use blocks::BlockPool;
use schedule::EngineSequence;

/// What a replica can do. A step takes `(step + prefill_token * p + attention * a / 1000 + sequence * n + context_token *
/// c) / speed`, for `p` prompt tokens computed with `a` tokens before them in all, `n` sequences decoding and `c` tokens in
/// their contexts.
///
/// The default is an 8B model on one H100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineModel {
    /// Fixed time of a step.
    pub step_time: Duration,
    /// Time per prompt token computed in a step.
    pub prefill_token_time: Duration,
    /// Time per thousand pairs of a prompt token computed and a token before it, so that prefill grows with the square of a
    /// long prompt's length; the default leaves it out.
    pub attention_time: Duration,
    /// Time per sequence that decodes in a step.
    pub sequence_time: Duration,
    /// Time per token in the contexts of the sequences that decode in a step.
    pub context_token_time: Duration,
    /// How much faster than these times the replica is; 1 if not positive and finite.
    pub speed: f64,
    /// KV memory, rounded down to whole blocks (at least one).
    pub kv_capacity: Tokens,
    /// Tokens in a block; at least 1.
    pub block_size: Tokens,
    /// Sequences that may run at once; at least 1.
    pub max_sequences: u32,
    /// Tokens that may be computed in a step; at least 1.
    pub max_step_tokens: Tokens,
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

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineRequest {
    /// The caller's name for it, unique among the requests in the engine.
    pub id: u64,
    /// Hashes of the prompt's full blocks, in order; equal prefixes have equal hashes. May be shorter than the prompt:
    /// what has no hash is never cached.
    pub block_hashes: Vec<u64>,
    /// Length of the prompt; counted as at least 1.
    pub prompt: Tokens,
    /// Tokens to generate. 0 is a pooling request: it finishes when its prompt is computed.
    pub output: Tokens,
}

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineEvent {
    /// When: the end of a step.
    pub moment: Moment,
    /// Whose: [`EngineRequest::id`].
    pub request_id: u64,
    /// What.
    pub kind: EngineEventKind,
}

/// What happened to a request. A request's events are `FirstToken`, `Token` (output - 1 times), `Finished`; only
/// `Finished` for an output of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEventKind {
    /// The prompt is computed and the first token generated.
    FirstToken {
        /// Prompt tokens that were found in the prefix cache when the request was admitted.
        cached: Tokens,
    },
    /// A further token was generated.
    Token,
    /// All tokens were generated, at the same moment as the last of them.
    Finished,
}

/// Why work was not taken. The engine is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Prompt and output need more KV memory than the replica has.
    TooLarge {
        /// Tokens needed.
        needed: Tokens,
        /// Tokens there are.
        kv_capacity: Tokens,
    },
    /// The id belongs to a request that is still in the engine.
    DuplicateId,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { needed: need, kv_capacity: kv } => {
                write!(f, "the request needs {need} tokens of KV memory of {kv}")
            }
            Self::DuplicateId => f.write_str("a request with this id is running or waiting"),
        }
    }
}

impl std::error::Error for SubmitError {}

/// What a replica tells about itself; the totals count since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests in the batch.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Share of the KV blocks that are held by running requests, 0 to 1.
    pub kv_usage: f64,
    /// Prompt and generated tokens of all requests, those in the queue included.
    pub resident: Tokens,
    /// Prompt tokens that were looked up in the prefix cache.
    pub cache_queries: Tokens,
    /// Prompt tokens that were found there.
    pub cache_hits: Tokens,
    /// Prompt tokens of requests whose prompt was computed, cached ones included.
    pub prompt: Tokens,
    /// Tokens generated.
    pub generated: Tokens,
    /// Times a request was put back into the queue because KV memory ran out.
    pub preemptions: u64,
    /// Requests that came to their end.
    pub finished: u64,
    /// Requests that were aborted.
    pub aborted: u64,
}

/// One replica. See the module's documentation.
#[derive(Debug)]
pub struct SimulatedEngine {
    model: EngineModel,
    block_pool: BlockPool,
    /// All sequences; vacant places are reused.
    sequences: Vec<EngineSequence>,
    free_indexes: Vec<usize>,
    index_by_id: BTreeMap<u64, usize>,
    waiting: VecDeque<usize>,
    /// In the order of admission: the last one is preempted first.
    running: Vec<usize>,
    /// When the step under way ends; `None` while idle.
    step_end: Option<Moment>,
    /// Happened, not yet told.
    pending_events: Vec<EngineEvent>,
    totals: SchedulerStats,
}

impl SimulatedEngine {
    /// An idle replica with an empty cache. *Cost*: 28 bytes per KV block.
    pub fn new(constants: EngineModel) -> Self {
        let mut constants = constants;
        constants.block_size = Tokens(constants.block_size.0.max(1));
        constants.max_sequences = constants.max_sequences.max(1);
        constants.max_step_tokens = Tokens(constants.max_step_tokens.0.max(1));
        if !(constants.speed.is_finite() && constants.speed > 0.0) {
            constants.speed = 1.0;
        }
        Self {
            block_pool: BlockPool::new((constants.kv_capacity.0 / constants.block_size.0).max(1)),
            model: constants,
            sequences: Vec::new(),
            free_indexes: Vec::new(),
            index_by_id: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            step_end: None,
            pending_events: Vec::new(),
            totals: SchedulerStats::default(),
        }
    }

    /// What the replica can do, with the lower bounds applied.
    pub fn model(&self) -> &EngineModel {
        &self.model
    }

    /// Puts a request at the end of the queue; an idle replica begins a step with it at once.
    ///
    /// `now` must not lie before that of an earlier call. *Errors*: [`SubmitError`]. *Cost*: the steps up to `now`, plus
    /// about 20 ns per block of the prompt.
    pub fn submit(&mut self, work: EngineRequest, now: Moment) -> Result<(), SubmitError> {
        self.run_until(now);
        if self.index_by_id.contains_key(&work.id) {
            return Err(SubmitError::DuplicateId);
        }
        let block = self.model.block_size.0;
        // The last token is never an input, so it takes no place.
        let need = Tokens(work.prompt.0.max(1).saturating_add(work.output.0.saturating_sub(1)));
        let kv = Tokens((self.block_pool.block_count() as u64).saturating_mul(block));
        if need > kv {
            return Err(SubmitError::TooLarge { needed: need, kv_capacity: kv });
        }
        let id = work.id;
        let sequence = EngineSequence::new(work, block);
        let place = match self.free_indexes.pop() {
            Some(place) => {
                self.sequences[place] = sequence;
                place
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() - 1
            }
        };
        self.index_by_id.insert(id, place);
        self.waiting.push_back(place);
        if self.step_end.is_none() {
            self.begin_step(now);
        }
        Ok(())
    }

    /// Takes a request out; what it holds is free at once, a step under way still takes its time. Returns whether the
    /// request was still there. Its events up to `now` are still told.
    pub fn abort(&mut self, id: u64, now: Moment) -> bool {
        self.run_until(now);
        let Some(place) = self.index_by_id.get(&id).copied() else { return false };
        self.waiting.retain(|p| *p != place);
        self.running.retain(|p| *p != place);
        self.remove_sequence(place);
        self.totals.aborted += 1;
        true
    }

    /// Appends to `out` what has happened up to `now` and was not told before, in order of time; returns when the step
    /// under way ends, `None` while idle.
    ///
    /// A late caller gets the events it would have got by calling at every step's end. *Cost*: about 15 ns per running
    /// request and step.
    pub fn advance(&mut self, now: Moment, out: &mut Vec<EngineEvent>) -> Option<Moment> {
        self.run_until(now);
        out.append(&mut self.pending_events);
        self.step_end
    }

    /// The state after all steps that ended by the last call of `submit`, `abort` or `advance`. O(requests).
    pub fn stats(&self) -> SchedulerStats {
        let held = (self.block_pool.block_count() - self.block_pool.free_count()) as f64;
        let resident = self.index_by_id.values().map(|place| self.sequences[*place].known_tokens()).sum();
        SchedulerStats {
            resident: Tokens(resident),
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            kv_usage: held / self.block_pool.block_count() as f64,
            ..self.totals
        }
    }

    fn run_until(&mut self, now: Moment) {
        while let Some(end) = self.step_end.filter(|end| *end <= now) {
            self.complete_step(end);
            self.begin_step(end);
        }
    }
}
