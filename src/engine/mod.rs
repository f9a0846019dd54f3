//! Floor 1: a model of a vLLM replica as a value.
//!
//! Continuous batching with chunked prefill, a block prefix cache and preemption, in whatever time the caller lives in:
//! real time in `emulate`, simulated time in `replay`. What happens depends only on the sequence of [`Engine::submit`]
//! and [`Engine::abort`] calls and their moments; [`Engine::advance`] merely tells what has happened by then.
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
use blocks::Blocks;
use schedule::Sequence;

/// What a replica can do. A step takes `(step + prefill_token * p + attention * a / 1000 + sequence * n + context_token *
/// c) / speed`, for `p` prompt tokens computed with `a` tokens before them in all, `n` sequences decoding and `c` tokens in
/// their contexts.
///
/// The default is an 8B model on one H100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Fixed time of a step.
    pub step: Duration,
    /// Time per prompt token computed in a step.
    pub prefill_token: Duration,
    /// Time per thousand pairs of a prompt token computed and a token before it, so that prefill grows with the square of a
    /// long prompt's length; the default leaves it out.
    pub attention: Duration,
    /// Time per sequence that decodes in a step.
    pub sequence: Duration,
    /// Time per token in the contexts of the sequences that decode in a step.
    pub context_token: Duration,
    /// How much faster than these times the replica is; 1 if not positive and finite.
    pub speed: f64,
    /// KV memory, rounded down to whole blocks (at least one).
    pub kv: Tokens,
    /// Tokens in a block; at least 1.
    pub block: Tokens,
    /// Sequences that may run at once; at least 1.
    pub max_sequences: u32,
    /// Tokens that may be computed in a step; at least 1.
    pub step_tokens: Tokens,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            step: Duration::from_millis(6),
            prefill_token: Duration::from_micros(32),
            attention: Duration::ZERO,
            sequence: Duration::from_micros(25),
            context_token: Duration::from_nanos(49),
            speed: 1.0,
            kv: Tokens(430_000),
            block: Tokens(16),
            max_sequences: 256,
            step_tokens: Tokens(8192),
        }
    }
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The caller's name for it, unique among the requests in the engine.
    pub id: u64,
    /// Hashes of the prompt's full blocks, in order; equal prefixes have equal hashes. May be shorter than the prompt:
    /// what has no hash is never cached.
    pub blocks: Vec<u64>,
    /// Length of the prompt; counted as at least 1.
    pub prompt: Tokens,
    /// Tokens to generate. 0 is a pooling request: it finishes when its prompt is computed.
    pub output: Tokens,
}

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When: the end of a step.
    pub at: Moment,
    /// Whose: [`Work::id`].
    pub id: u64,
    /// What.
    pub kind: EventKind,
}

/// What happened to a request. A request's events are `FirstToken`, `Token` (output - 1 times), `Finished`; only
/// `Finished` for an output of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
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
pub enum Refused {
    /// Prompt and output need more KV memory than the replica has.
    TooLarge {
        /// Tokens needed.
        need: Tokens,
        /// Tokens there are.
        kv: Tokens,
    },
    /// The id belongs to a request that is still in the engine.
    SameId,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { need, kv } => write!(f, "the request needs {need} tokens of KV memory of {kv}"),
            Self::SameId => f.write_str("a request with this id is running or waiting"),
        }
    }
}

impl std::error::Error for Refused {}

/// What a replica tells about itself; the totals count since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
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
pub struct Engine {
    constants: Constants,
    blocks: Blocks,
    /// All sequences; vacant places are reused.
    sequences: Vec<Sequence>,
    vacant: Vec<usize>,
    places: BTreeMap<u64, usize>,
    waiting: VecDeque<usize>,
    /// In the order of admission: the last one is preempted first.
    running: Vec<usize>,
    /// When the step under way ends; `None` while idle.
    ends: Option<Moment>,
    /// Happened, not yet told.
    untold: Vec<Event>,
    totals: Stats,
}

impl Engine {
    /// An idle replica with an empty cache. *Cost*: 28 bytes per KV block.
    pub fn new(constants: Constants) -> Self {
        let mut constants = constants;
        constants.block = Tokens(constants.block.0.max(1));
        constants.max_sequences = constants.max_sequences.max(1);
        constants.step_tokens = Tokens(constants.step_tokens.0.max(1));
        if !(constants.speed.is_finite() && constants.speed > 0.0) {
            constants.speed = 1.0;
        }
        Self {
            blocks: Blocks::new((constants.kv.0 / constants.block.0).max(1)),
            constants,
            sequences: Vec::new(),
            vacant: Vec::new(),
            places: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            ends: None,
            untold: Vec::new(),
            totals: Stats::default(),
        }
    }

    /// What the replica can do, with the lower bounds applied.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// Puts a request at the end of the queue; an idle replica begins a step with it at once.
    ///
    /// `now` must not lie before that of an earlier call. *Errors*: [`Refused`]. *Cost*: the steps up to `now`, plus
    /// about 20 ns per block of the prompt.
    pub fn submit(&mut self, work: Work, now: Moment) -> Result<(), Refused> {
        self.catch_up(now);
        if self.places.contains_key(&work.id) {
            return Err(Refused::SameId);
        }
        let block = self.constants.block.0;
        // The last token is never an input, so it takes no place.
        let need = Tokens(work.prompt.0.max(1).saturating_add(work.output.0.saturating_sub(1)));
        let kv = Tokens((self.blocks.count() as u64).saturating_mul(block));
        if need > kv {
            return Err(Refused::TooLarge { need, kv });
        }
        let id = work.id;
        let sequence = Sequence::new(work, block);
        let place = match self.vacant.pop() {
            Some(place) => {
                self.sequences[place] = sequence;
                place
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() - 1
            }
        };
        self.places.insert(id, place);
        self.waiting.push_back(place);
        if self.ends.is_none() {
            self.begin(now);
        }
        Ok(())
    }

    /// Takes a request out; what it holds is free at once, a step under way still takes its time. Returns whether the
    /// request was still there. Its events up to `now` are still told.
    pub fn abort(&mut self, id: u64, now: Moment) -> bool {
        self.catch_up(now);
        let Some(place) = self.places.get(&id).copied() else { return false };
        self.waiting.retain(|p| *p != place);
        self.running.retain(|p| *p != place);
        self.leave(place);
        self.totals.aborted += 1;
        true
    }

    /// Appends to `out` what has happened up to `now` and was not told before, in order of time; returns when the step
    /// under way ends, `None` while idle.
    ///
    /// A late caller gets the events it would have got by calling at every step's end. *Cost*: about 15 ns per running
    /// request and step.
    pub fn advance(&mut self, now: Moment, out: &mut Vec<Event>) -> Option<Moment> {
        self.catch_up(now);
        out.append(&mut self.untold);
        self.ends
    }

    /// The state after all steps that ended by the last call of `submit`, `abort` or `advance`. O(requests).
    pub fn stats(&self) -> Stats {
        let held = (self.blocks.count() - self.blocks.free()) as f64;
        let resident = self.places.values().map(|place| self.sequences[*place].known()).sum();
        Stats {
            resident: Tokens(resident),
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            kv_usage: held / self.blocks.count() as f64,
            ..self.totals
        }
    }

    fn catch_up(&mut self, now: Moment) {
        while let Some(end) = self.ends.filter(|end| *end <= now) {
            self.complete(end);
            self.begin(end);
        }
    }
}
