//! What happens at the beginning and at the end of a step.

use std::time::Duration;

use super::{Constants, Engine, Event, EventKind, Work};
use crate::units::{Moment, Tokens};

/// A request in the engine.
#[derive(Debug)]
pub(super) struct Sequence {
    work: Work,
    /// The blocks it holds, in order of the text.
    held: Vec<u32>,
    /// Tokens whose KV is in `held`.
    computed: u64,
    /// Tokens being computed by the step under way.
    scheduled: u64,
    generated: u64,
    /// Prompt tokens found in the cache at the first admission; `None` before it.
    cached: Option<u64>,
    /// Leading blocks of `held` that the cache knows, or need not be told of.
    remembered: usize,
}

impl Sequence {
    /// A request that has not run. `block` is the block size in tokens, at least 1.
    pub(super) fn new(mut work: Work, block: u64) -> Self {
        work.prompt = Tokens(work.prompt.0.max(1));
        let full = usize::try_from(work.prompt.0 / block).unwrap_or(usize::MAX);
        work.blocks.truncate(full);
        Self { work, held: Vec::new(), computed: 0, scheduled: 0, generated: 0, cached: None, remembered: 0 }
    }

    /// Tokens known so far: to generate one more, all of them must be computed.
    pub(super) fn known(&self) -> u64 {
        self.work.prompt.0 + self.generated
    }

    fn left(&self) -> u64 {
        self.known() - self.computed
    }

    fn is_done(&self) -> bool {
        let output = self.work.output.0;
        self.generated >= output && (output > 0 || self.left() == 0)
    }

    /// True once only the newest generated token is missing.
    fn decodes(&self) -> bool {
        self.generated > 0 && self.left() == 1
    }
}

/// The batch of one step as the step's time depends on it.
#[derive(Default)]
struct Batch {
    prefill: u64,
    /// Of a prompt token computed and a token before it.
    pairs: u64,
    sequences: u64,
    context: u64,
}

impl Batch {
    fn add(&mut self, sequence: &Sequence, tokens: u64) {
        if sequence.decodes() {
            self.sequences += 1;
            self.context += sequence.known();
        } else {
            self.prefill += tokens;
            self.pairs += tokens * sequence.computed + tokens * tokens.saturating_sub(1) / 2;
        }
    }

    fn is_empty(&self) -> bool {
        self.prefill + self.sequences == 0
    }

    /// At least a nanosecond, so that time passes under any constants.
    fn time(&self, constants: &Constants) -> Duration {
        let cost = |each: Duration, count: u64| (each.as_nanos() as u64).saturating_mul(count);
        let nanos = cost(constants.step, 1)
            .saturating_add(cost(constants.prefill_token, self.prefill))
            .saturating_add(cost(constants.attention, self.pairs) / 1_000)
            .saturating_add(cost(constants.sequence, self.sequences))
            .saturating_add(cost(constants.context_token, self.context));
        Duration::from_nanos(((nanos as f64 / constants.speed).round() as u64).max(1))
    }
}

impl Engine {
    /// Fills a batch and lets a step begin at `at`: first the running sequences in order, then new ones.
    pub(super) fn begin(&mut self, at: Moment) {
        let mut budget = self.constants.step_tokens.0;
        let mut batch = Batch::default();
        let preempted = self.continue_running(&mut budget, &mut batch);
        if !preempted {
            self.admit_waiting(&mut budget, &mut batch);
        }
        self.ends = (!batch.is_empty()).then(|| at + batch.time(&self.constants));
    }

    /// Credits the step that ended at `at`.
    pub(super) fn complete(&mut self, at: Moment) {
        let mut finished = false;
        for &place in &self.running {
            let sequence = &mut self.sequences[place];
            sequence.computed += std::mem::take(&mut sequence.scheduled);
            if sequence.left() > 0 {
                continue;
            }
            let id = sequence.work.id;
            if sequence.generated == 0 {
                self.totals.prompt += sequence.work.prompt;
            }
            if sequence.work.output.0 > 0 {
                let cached = Tokens(sequence.cached.unwrap_or_default());
                let first = sequence.generated == 0;
                let kind = if first { EventKind::FirstToken { cached } } else { EventKind::Token };
                sequence.generated += 1;
                self.totals.generated += Tokens(1);
                self.untold.push(Event { at, id, kind });
            }
            if sequence.is_done() {
                finished = true;
                self.totals.finished += 1;
                self.untold.push(Event { at, id, kind: EventKind::Finished });
            }
        }
        if finished {
            self.remove_finished();
        }
    }

    /// Frees all that the sequence at `place` holds; it must be in no queue any more.
    pub(super) fn leave(&mut self, place: usize) {
        self.release(place);
        self.places.remove(&self.sequences[place].work.id);
        self.vacant.push(place);
    }

    fn remove_finished(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        running.retain(|&place| {
            let sequence = &self.sequences[place];
            let stays = !sequence.is_done();
            if !stays {
                self.leave(place);
            }
            stays
        });
        self.running = running;
    }

    /// Returns whether a sequence had to be preempted.
    fn continue_running(&mut self, budget: &mut u64, batch: &mut Batch) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while at < self.running.len() && *budget > 0 {
            let place = self.running[at];
            let tokens = self.sequences[place].left().min(*budget);
            // Those behind `at` have no place in the batch yet, so nothing is to be taken back from it.
            while !self.grow(place, tokens) {
                preempted = true;
                let Some(youngest) = self.running.pop() else { break };
                self.preempt(youngest);
                if youngest == place {
                    return true;
                }
            }
            *budget -= tokens;
            batch.add(&self.sequences[place], tokens);
            self.sequences[place].scheduled = tokens;
            at += 1;
        }
        preempted
    }

    fn admit_waiting(&mut self, budget: &mut u64, batch: &mut Batch) {
        while *budget > 0 && self.running.len() < self.constants.max_sequences as usize {
            let Some(&place) = self.waiting.front() else { return };
            if !self.share_prefix(place) {
                return;
            }
            self.waiting.pop_front();
            self.running.push(place);
            let tokens = self.sequences[place].left().min(*budget);
            let fits = self.grow(place, tokens);
            debug_assert!(fits, "share_prefix saw enough free blocks for the whole sequence");
            *budget -= tokens;
            batch.add(&self.sequences[place], tokens);
            self.sequences[place].scheduled = tokens;
        }
    }

    /// Takes what the cache has of a waiting sequence, at most all but its last token; does nothing and returns false if
    /// the rest of the sequence does not fit into the free blocks.
    fn share_prefix(&mut self, place: usize) -> bool {
        let size = self.constants.block.0;
        let sequence = &mut self.sequences[place];
        let known = sequence.known();
        let usable = ((known - 1) / size) as usize;
        debug_assert!(sequence.held.is_empty(), "a waiting sequence holds nothing");
        let mut unheld = 0;
        for hash in sequence.work.blocks.iter().take(usable) {
            let Some(block) = self.blocks.find(*hash) else { break };
            unheld += usize::from(self.blocks.is_free(block));
            sequence.held.push(block);
        }
        let hits = sequence.held.len();
        if known.div_ceil(size) as usize - hits > self.blocks.free() - unheld {
            sequence.held.clear();
            return false;
        }
        for block in &sequence.held {
            self.blocks.share(*block);
        }
        sequence.computed = hits as u64 * size;
        sequence.remembered = hits;
        if sequence.cached.is_none() {
            sequence.cached = Some(sequence.computed);
            self.totals.cache_queries += sequence.work.prompt;
            self.totals.cache_hits += Tokens(sequence.computed);
        }
        true
    }

    /// Takes the blocks for `tokens` more and tells the cache of the prompt blocks that they fill; changes nothing and
    /// returns false if too few are free.
    fn grow(&mut self, place: usize, tokens: u64) -> bool {
        let size = self.constants.block.0;
        let sequence = &mut self.sequences[place];
        let computed = sequence.computed + tokens;
        let missing = (computed.div_ceil(size) as usize).saturating_sub(sequence.held.len());
        if missing > self.blocks.free() {
            return false;
        }
        sequence.held.extend((0..missing).map_while(|_| self.blocks.take()));
        let full = ((computed / size) as usize).min(sequence.work.blocks.len());
        for at in sequence.remembered..full {
            self.blocks.remember(sequence.held[at], sequence.work.blocks[at]);
        }
        sequence.remembered = sequence.remembered.max(full);
        true
    }

    /// Puts a running sequence back to the front of the queue; all its tokens must be computed again.
    fn preempt(&mut self, place: usize) {
        self.release(place);
        self.waiting.push_front(place);
        self.totals.preemptions += 1;
    }

    fn release(&mut self, place: usize) {
        let sequence = &mut self.sequences[place];
        // Back to front, so that of a prompt the cache forgets the end first.
        for block in sequence.held.drain(..).rev() {
            self.blocks.release(block);
        }
        (sequence.computed, sequence.scheduled, sequence.remembered) = (0, 0, 0);
    }
}
