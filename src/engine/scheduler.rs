//! The scheduler: which sequences run in a step, and the memory that they hold.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::block_pool::BlockPool;
use super::event::{EngineEvent, EngineEventKind};
use super::model::EngineModel;
use super::request::{EngineRequest, SubmitError};
use super::sequence::EngineSequence;
use super::stats::SchedulerStats;
use super::step_batch::StepBatch;
use crate::units::{Moment, Tokens};

/// The requests of one replica and their memory.
#[derive(Debug)]
pub(super) struct Scheduler {
    model: EngineModel,
    block_pool: BlockPool,
    /// All sequences; vacant indexes are reused.
    sequences: Vec<EngineSequence>,
    free_indexes: Vec<usize>,
    index_by_id: BTreeMap<u64, usize>,
    waiting: VecDeque<usize>,
    /// In the order of admission: the last one is preempted first.
    running: Vec<usize>,
    totals: SchedulerStats,
}

impl Scheduler {
    pub(super) fn new(model: EngineModel) -> Self {
        let model = model.with_lower_bounds();
        Self {
            block_pool: BlockPool::new((model.kv_capacity.0 / model.block_size.0).max(1)),
            model,
            sequences: Vec::new(),
            free_indexes: Vec::new(),
            index_by_id: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            totals: SchedulerStats::default(),
        }
    }

    pub(super) fn model(&self) -> &EngineModel {
        &self.model
    }

    pub(super) fn set_speed(&mut self, speed: f64) {
        self.model = EngineModel { speed, ..self.model }.with_lower_bounds();
    }

    /// Puts a request at the end of the queue.
    ///
    /// *Errors*: the request needs more memory than there is, or its id is in use.
    pub(super) fn submit(&mut self, request: EngineRequest) -> Result<(), SubmitError> {
        if self.index_by_id.contains_key(&request.id) {
            return Err(SubmitError::DuplicateId);
        }
        let block_size = self.model.block_size.0;
        // The last token is never an input, so it needs no memory.
        let needed = Tokens(request.prompt.0.max(1).saturating_add(request.output.0.saturating_sub(1)));
        let kv_capacity = Tokens((self.block_pool.block_count() as u64).saturating_mul(block_size));
        if needed > kv_capacity {
            return Err(SubmitError::TooLarge { needed, kv_capacity });
        }
        let id = request.id;
        let sequence = EngineSequence::new(request, block_size);
        let index = match self.free_indexes.pop() {
            Some(index) => {
                self.sequences[index] = sequence;
                index
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() - 1
            }
        };
        self.index_by_id.insert(id, index);
        self.waiting.push_back(index);
        Ok(())
    }

    /// Removes a request; returns whether it was there.
    pub(super) fn abort(&mut self, id: u64) -> bool {
        let Some(index) = self.index_by_id.get(&id).copied() else { return false };
        self.waiting.retain(|other| *other != index);
        self.running.retain(|other| *other != index);
        self.remove_sequence(index);
        self.totals.aborted += 1;
        true
    }

    pub(super) fn stats(&self) -> SchedulerStats {
        let held = (self.block_pool.block_count() - self.block_pool.free_count()) as f64;
        let resident = self.index_by_id.values().map(|index| self.sequences[*index].known_tokens()).sum();
        SchedulerStats {
            resident: Tokens(resident),
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            kv_usage: held / self.block_pool.block_count() as f64,
            ..self.totals
        }
    }

    /// Fills a batch, first from the running sequences in order, then from new ones. Returns the step's time; `None` if
    /// there is nothing to run.
    pub(super) fn begin_step(&mut self) -> Option<Duration> {
        let mut budget = self.model.max_step_tokens.0;
        let mut batch = StepBatch::default();
        let preempted = self.continue_running(&mut budget, &mut batch);
        if !preempted {
            self.admit_waiting(&mut budget, &mut batch);
        }
        (!batch.is_empty()).then(|| batch.step_time(&self.model))
    }

    /// Credits the step that ended at `end` and appends its events.
    pub(super) fn complete_step(&mut self, end: Moment, events: &mut Vec<EngineEvent>) {
        let mut any_finished = false;
        for &index in &self.running {
            let sequence = &mut self.sequences[index];
            sequence.computed_tokens += std::mem::take(&mut sequence.scheduled_tokens);
            if sequence.uncomputed_tokens() > 0 {
                continue;
            }
            let request_id = sequence.request.id;
            if sequence.generated_tokens == 0 {
                self.totals.prompt += sequence.request.prompt;
            }
            if sequence.request.output.0 > 0 {
                let cached = Tokens(sequence.cached_tokens.unwrap_or_default());
                let is_first = sequence.generated_tokens == 0;
                let kind = if is_first { EngineEventKind::FirstToken { cached } } else { EngineEventKind::Token };
                sequence.generated_tokens += 1;
                self.totals.generated += Tokens(1);
                events.push(EngineEvent { moment: end, request_id, kind });
            }
            if sequence.is_done() {
                any_finished = true;
                self.totals.finished += 1;
                events.push(EngineEvent { moment: end, request_id, kind: EngineEventKind::Finished });
            }
        }
        if any_finished {
            self.remove_finished();
        }
    }

    /// Removes a sequence that is in no queue any more, with all that it holds.
    fn remove_sequence(&mut self, index: usize) {
        self.release_blocks(index);
        self.index_by_id.remove(&self.sequences[index].request.id);
        self.free_indexes.push(index);
    }

    fn remove_finished(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        running.retain(|&index| {
            let is_done = self.sequences[index].is_done();
            if is_done {
                self.remove_sequence(index);
            }
            !is_done
        });
        self.running = running;
    }

    /// Adds the running sequences to the batch; returns whether one had to be preempted.
    fn continue_running(&mut self, budget: &mut u64, batch: &mut StepBatch) -> bool {
        let mut preempted = false;
        let mut position = 0;
        while position < self.running.len() && *budget > 0 {
            let index = self.running[position];
            let tokens = self.sequences[index].uncomputed_tokens().min(*budget);
            // The sequences after `position` are not in the batch yet, so preempting them takes nothing from it.
            while !self.allocate_blocks(index, tokens) {
                preempted = true;
                let Some(youngest) = self.running.pop() else { break };
                self.preempt(youngest);
                if youngest == index {
                    return true;
                }
            }
            self.schedule_tokens(index, tokens, budget, batch);
            position += 1;
        }
        preempted
    }

    /// Admits sequences from the queue as long as they fit.
    fn admit_waiting(&mut self, budget: &mut u64, batch: &mut StepBatch) {
        while *budget > 0 && self.running.len() < self.model.max_sequences as usize {
            let Some(&index) = self.waiting.front() else { return };
            if !self.share_prefix(index) {
                return;
            }
            self.waiting.pop_front();
            self.running.push(index);
            let tokens = self.sequences[index].uncomputed_tokens().min(*budget);
            let fits = self.allocate_blocks(index, tokens);
            debug_assert!(fits, "share_prefix saw enough free blocks for the whole sequence");
            self.schedule_tokens(index, tokens, budget, batch);
        }
    }

    fn schedule_tokens(&mut self, index: usize, tokens: u64, budget: &mut u64, batch: &mut StepBatch) {
        *budget -= tokens;
        batch.add_sequence(&self.sequences[index], tokens);
        self.sequences[index].scheduled_tokens = tokens;
    }

    /// Gives a waiting sequence the cached blocks of its prefix, at most all but its last token. Changes nothing and
    /// returns `false` if the rest of the sequence does not fit into the free blocks.
    fn share_prefix(&mut self, index: usize) -> bool {
        let block_size = self.model.block_size.0;
        let sequence = &mut self.sequences[index];
        let known = sequence.known_tokens();
        let usable = ((known - 1) / block_size) as usize;
        debug_assert!(sequence.held_blocks.is_empty(), "a waiting sequence holds nothing");
        let mut unreferenced = 0;
        for hash in sequence.request.block_hashes.iter().take(usable) {
            let Some(block) = self.block_pool.find_cached(*hash) else { break };
            unreferenced += usize::from(self.block_pool.is_free(block));
            sequence.held_blocks.push(block);
        }
        let hits = sequence.held_blocks.len();
        if known.div_ceil(block_size) as usize - hits > self.block_pool.free_count() - unreferenced {
            sequence.held_blocks.clear();
            return false;
        }
        for block in &sequence.held_blocks {
            self.block_pool.add_reference(*block);
        }
        sequence.computed_tokens = hits as u64 * block_size;
        sequence.cached_blocks = hits;
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.computed_tokens);
            self.totals.cache_queries += sequence.request.prompt;
            self.totals.cache_hits += Tokens(sequence.computed_tokens);
        }
        true
    }

    /// Allocates the blocks for `tokens` more and caches the prompt blocks that they fill. Changes nothing and returns
    /// `false` if too few are free.
    fn allocate_blocks(&mut self, index: usize, tokens: u64) -> bool {
        let block_size = self.model.block_size.0;
        let sequence = &mut self.sequences[index];
        let computed = sequence.computed_tokens + tokens;
        let missing = (computed.div_ceil(block_size) as usize).saturating_sub(sequence.held_blocks.len());
        if missing > self.block_pool.free_count() {
            return false;
        }
        sequence.held_blocks.extend((0..missing).map_while(|_| self.block_pool.allocate()));
        let full = ((computed / block_size) as usize).min(sequence.request.block_hashes.len());
        for at in sequence.cached_blocks..full {
            self.block_pool.cache_block(sequence.held_blocks[at], sequence.request.block_hashes[at]);
        }
        sequence.cached_blocks = sequence.cached_blocks.max(full);
        true
    }

    /// Puts a running sequence back to the front of the queue; all its tokens must be computed again.
    fn preempt(&mut self, index: usize) {
        self.release_blocks(index);
        self.waiting.push_front(index);
        self.totals.preemptions += 1;
    }

    fn release_blocks(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        // From back to front, so that the cache forgets the end of a prompt first.
        for block in sequence.held_blocks.drain(..).rev() {
            self.block_pool.release(block);
        }
        (sequence.computed_tokens, sequence.scheduled_tokens, sequence.cached_blocks) = (0, 0, 0);
    }

    /// Asserts that nothing runs, waits, is held or referenced.
    #[cfg(test)]
    pub(super) fn assert_empty(&self) {
        let stats = self.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_usage), (0, 0, 0.0));
        assert_eq!(self.block_pool.free_count(), self.block_pool.block_count());
        assert!((0..self.block_pool.block_count()).all(|block| self.block_pool.is_free(block as u32)));
        assert!(self.index_by_id.is_empty());
        assert_eq!(self.free_indexes.len(), self.sequences.len());
    }
}
