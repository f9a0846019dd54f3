//! What happens at the beginning and at the end of a step.

use std::time::Duration;

use super::{EngineEvent, EngineEventKind, EngineModel, EngineRequest, SimulatedEngine};
use crate::units::{Moment, Tokens};

/// A request in the engine.
#[derive(Debug)]
pub(super) struct EngineSequence {
    request: EngineRequest,
    /// The blocks it holds, in order of the text.
    held_blocks: Vec<u32>,
    /// Tokens whose KV is in `held`.
    computed_tokens: u64,
    /// Tokens being computed by the step under way.
    scheduled_tokens: u64,
    generated_tokens: u64,
    /// Prompt tokens found in the cache at the first admission; `None` before it.
    cached_tokens: Option<u64>,
    /// Leading blocks of `held` that the cache knows, or need not be told of.
    cached_blocks: usize,
}

impl EngineSequence {
    /// A request that has not run. `block` is the block size in tokens, at least 1.
    pub(super) fn new(mut work: EngineRequest, block: u64) -> Self {
        work.prompt = Tokens(work.prompt.0.max(1));
        let full = usize::try_from(work.prompt.0 / block).unwrap_or(usize::MAX);
        work.block_hashes.truncate(full);
        Self {
            request: work,
            held_blocks: Vec::new(),
            computed_tokens: 0,
            scheduled_tokens: 0,
            generated_tokens: 0,
            cached_tokens: None,
            cached_blocks: 0,
        }
    }

    /// Tokens known so far: to generate one more, all of them must be computed.
    pub(super) fn known_tokens(&self) -> u64 {
        self.request.prompt.0 + self.generated_tokens
    }

    fn uncomputed_tokens(&self) -> u64 {
        self.known_tokens() - self.computed_tokens
    }

    fn is_done(&self) -> bool {
        let output = self.request.output.0;
        self.generated_tokens >= output && (output > 0 || self.uncomputed_tokens() == 0)
    }

    /// True once only the newest generated token is missing.
    fn is_decoding(&self) -> bool {
        self.generated_tokens > 0 && self.uncomputed_tokens() == 1
    }
}

/// The batch of one step as the step's time depends on it.
#[derive(Default)]
struct StepBatch {
    prefill_tokens: u64,
    /// Of a prompt token computed and a token before it.
    attention_pairs: u64,
    decode_sequences: u64,
    context_tokens: u64,
}

impl StepBatch {
    fn add_sequence(&mut self, sequence: &EngineSequence, tokens: u64) {
        if sequence.is_decoding() {
            self.decode_sequences += 1;
            self.context_tokens += sequence.known_tokens();
        } else {
            self.prefill_tokens += tokens;
            self.attention_pairs += tokens * sequence.computed_tokens + tokens * tokens.saturating_sub(1) / 2;
        }
    }

    fn is_empty(&self) -> bool {
        self.prefill_tokens + self.decode_sequences == 0
    }

    /// At least a nanosecond, so that time passes under any constants.
    fn step_time(&self, constants: &EngineModel) -> Duration {
        let cost = |each: Duration, count: u64| (each.as_nanos() as u64).saturating_mul(count);
        let nanos = cost(constants.step_time, 1)
            .saturating_add(cost(constants.prefill_token_time, self.prefill_tokens))
            .saturating_add(cost(constants.attention_time, self.attention_pairs) / 1_000)
            .saturating_add(cost(constants.sequence_time, self.decode_sequences))
            .saturating_add(cost(constants.context_token_time, self.context_tokens));
        Duration::from_nanos(((nanos as f64 / constants.speed).round() as u64).max(1))
    }
}

impl SimulatedEngine {
    /// Fills a batch and lets a step begin at `at`: first the running sequences in order, then new ones.
    pub(super) fn begin_step(&mut self, at: Moment) {
        let mut budget = self.model.max_step_tokens.0;
        let mut batch = StepBatch::default();
        let preempted = self.continue_running(&mut budget, &mut batch);
        if !preempted {
            self.admit_waiting(&mut budget, &mut batch);
        }
        self.step_end = (!batch.is_empty()).then(|| at + batch.step_time(&self.model));
    }

    /// Credits the step that ended at `at`.
    pub(super) fn complete_step(&mut self, at: Moment) {
        let mut finished = false;
        for &place in &self.running {
            let sequence = &mut self.sequences[place];
            sequence.computed_tokens += std::mem::take(&mut sequence.scheduled_tokens);
            if sequence.uncomputed_tokens() > 0 {
                continue;
            }
            let id = sequence.request.id;
            if sequence.generated_tokens == 0 {
                self.totals.prompt += sequence.request.prompt;
            }
            if sequence.request.output.0 > 0 {
                let cached = Tokens(sequence.cached_tokens.unwrap_or_default());
                let first = sequence.generated_tokens == 0;
                let kind = if first { EngineEventKind::FirstToken { cached } } else { EngineEventKind::Token };
                sequence.generated_tokens += 1;
                self.totals.generated += Tokens(1);
                self.pending_events.push(EngineEvent { moment: at, request_id: id, kind });
            }
            if sequence.is_done() {
                finished = true;
                self.totals.finished += 1;
                self.pending_events.push(EngineEvent { moment: at, request_id: id, kind: EngineEventKind::Finished });
            }
        }
        if finished {
            self.remove_finished();
        }
    }

    /// Frees all that the sequence at `place` holds; it must be in no queue any more.
    pub(super) fn remove_sequence(&mut self, place: usize) {
        self.release_blocks(place);
        self.index_by_id.remove(&self.sequences[place].request.id);
        self.free_indexes.push(place);
    }

    fn remove_finished(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        running.retain(|&place| {
            let sequence = &self.sequences[place];
            let stays = !sequence.is_done();
            if !stays {
                self.remove_sequence(place);
            }
            stays
        });
        self.running = running;
    }

    /// Returns whether a sequence had to be preempted.
    fn continue_running(&mut self, budget: &mut u64, batch: &mut StepBatch) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while at < self.running.len() && *budget > 0 {
            let place = self.running[at];
            let tokens = self.sequences[place].uncomputed_tokens().min(*budget);
            // Those behind `at` have no place in the batch yet, so nothing is to be taken back from it.
            while !self.allocate_blocks(place, tokens) {
                preempted = true;
                let Some(youngest) = self.running.pop() else { break };
                self.preempt(youngest);
                if youngest == place {
                    return true;
                }
            }
            *budget -= tokens;
            batch.add_sequence(&self.sequences[place], tokens);
            self.sequences[place].scheduled_tokens = tokens;
            at += 1;
        }
        preempted
    }

    fn admit_waiting(&mut self, budget: &mut u64, batch: &mut StepBatch) {
        while *budget > 0 && self.running.len() < self.model.max_sequences as usize {
            let Some(&place) = self.waiting.front() else { return };
            if !self.share_prefix(place) {
                return;
            }
            self.waiting.pop_front();
            self.running.push(place);
            let tokens = self.sequences[place].uncomputed_tokens().min(*budget);
            let fits = self.allocate_blocks(place, tokens);
            debug_assert!(fits, "share_prefix saw enough free blocks for the whole sequence");
            *budget -= tokens;
            batch.add_sequence(&self.sequences[place], tokens);
            self.sequences[place].scheduled_tokens = tokens;
        }
    }

    /// Takes what the cache has of a waiting sequence, at most all but its last token; does nothing and returns false if
    /// the rest of the sequence does not fit into the free blocks.
    fn share_prefix(&mut self, place: usize) -> bool {
        let size = self.model.block_size.0;
        let sequence = &mut self.sequences[place];
        let known = sequence.known_tokens();
        let usable = ((known - 1) / size) as usize;
        debug_assert!(sequence.held_blocks.is_empty(), "a waiting sequence holds nothing");
        let mut unheld = 0;
        for hash in sequence.request.block_hashes.iter().take(usable) {
            let Some(block) = self.block_pool.find_cached(*hash) else { break };
            unheld += usize::from(self.block_pool.is_free(block));
            sequence.held_blocks.push(block);
        }
        let hits = sequence.held_blocks.len();
        if known.div_ceil(size) as usize - hits > self.block_pool.free_count() - unheld {
            sequence.held_blocks.clear();
            return false;
        }
        for block in &sequence.held_blocks {
            self.block_pool.add_reference(*block);
        }
        sequence.computed_tokens = hits as u64 * size;
        sequence.cached_blocks = hits;
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.computed_tokens);
            self.totals.cache_queries += sequence.request.prompt;
            self.totals.cache_hits += Tokens(sequence.computed_tokens);
        }
        true
    }

    /// Takes the blocks for `tokens` more and tells the cache of the prompt blocks that they fill; changes nothing and
    /// returns false if too few are free.
    fn allocate_blocks(&mut self, place: usize, tokens: u64) -> bool {
        let size = self.model.block_size.0;
        let sequence = &mut self.sequences[place];
        let computed = sequence.computed_tokens + tokens;
        let missing = (computed.div_ceil(size) as usize).saturating_sub(sequence.held_blocks.len());
        if missing > self.block_pool.free_count() {
            return false;
        }
        sequence.held_blocks.extend((0..missing).map_while(|_| self.block_pool.allocate()));
        let full = ((computed / size) as usize).min(sequence.request.block_hashes.len());
        for at in sequence.cached_blocks..full {
            self.block_pool.cache_block(sequence.held_blocks[at], sequence.request.block_hashes[at]);
        }
        sequence.cached_blocks = sequence.cached_blocks.max(full);
        true
    }

    /// Puts a running sequence back to the front of the queue; all its tokens must be computed again.
    fn preempt(&mut self, place: usize) {
        self.release_blocks(place);
        self.waiting.push_front(place);
        self.totals.preemptions += 1;
    }

    fn release_blocks(&mut self, place: usize) {
        let sequence = &mut self.sequences[place];
        // Back to front, so that of a prompt the cache forgets the end first.
        for block in sequence.held_blocks.drain(..).rev() {
            self.block_pool.release(block);
        }
        (sequence.computed_tokens, sequence.scheduled_tokens, sequence.cached_blocks) = (0, 0, 0);
    }
}
