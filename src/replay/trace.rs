//! A recorded stream of requests, without their text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::SeededRng;
use crate::prompt::PromptFingerprint;
use crate::units::Tokens;

/// A request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceRequest {
    /// Time of sending, from the start of the trace.
    pub sent_at: Duration,
    /// Length of the prompt.
    pub prompt: Tokens,
    /// Length of the answer, at least 1.
    pub output: Tokens,
    /// Tokens per block of the prompt; at least 1 if there are blocks.
    pub block_size: Tokens,
    /// The prompt's full blocks in order. Prompts with equal ids at an index are equal up to the block's end.
    pub block_runs: Vec<BlockRun>,
    /// The id of the conversation; `None` if it is unknown.
    pub session: Option<u64>,
    /// Index of the turn in the conversation.
    pub turn: u32,
    /// Time from the end of the previous turn to this one; `None` if it is sent at [`TraceRequest::sent_at`] in any
    /// case.
    pub think_time: Option<Duration>,
}

/// Blocks with sequential ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The first id.
    pub first_id: u64,
    /// Number of blocks.
    pub count: u64,
}

/// Requests in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    requests: Vec<TraceRequest>,
    /// By request: the index of the next turn, if it waits for this one.
    next_turns: Vec<Option<usize>>,
    /// Indices of requests that wait for no other.
    start_indices: Vec<usize>,
    closed_loop: bool,
}

impl TraceRequest {
    /// Returns the ids of the blocks in order.
    pub fn block_ids(&self) -> impl Iterator<Item = u64> {
        self.block_runs.iter().flat_map(|run| (0..run.count).map(|offset| run.first_id.wrapping_add(offset)))
    }

    /// Returns the tokens of all blocks.
    pub fn block_tokens(&self) -> u64 {
        self.block_runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.count)).saturating_mul(self.block_size.0)
    }

    /// Returns the fingerprint of the prompt for routers.
    pub fn prompt_fingerprint(&self) -> Arc<PromptFingerprint> {
        Arc::new(PromptFingerprint::from_blocks(self.block_ids(), self.block_size, self.prompt))
    }

    /// Returns hashes of the prompt's full blocks of `size` tokens for an engine.
    ///
    /// *Shape*: only blocks within the trace's own blocks. Each hash depends on the trace's block of its last token, so
    /// two prompts share it only if they share that block.
    pub fn engine_block_hashes(&self, size: Tokens) -> Vec<u64> {
        let size = size.0.max(1);
        let mut hashes = Vec::with_capacity(usize::try_from(self.block_tokens() / size).unwrap_or_default());
        let (mut end, mut last) = (0, size);
        for id in self.block_ids() {
            end += self.block_size.0;
            let seed = SeededRng::from_seed(id).next_u64();
            while last <= end {
                hashes.push(SeededRng::from_seed(seed ^ (last / size)).next_u64());
                last += size;
            }
        }
        hashes
    }
}

impl Trace {
    /// Orders requests by time and links the turns of conversations.
    ///
    /// If a request has a [`TraceRequest::think_time`], the trace is a closed loop: each turn waits for the previous
    /// one.
    pub fn new(mut requests: Vec<TraceRequest>) -> Self {
        requests.sort_by_key(|request| (request.sent_at, request.session, request.turn));
        let closed_loop = requests.iter().any(|request| request.think_time.is_some());
        let mut next = vec![None; requests.len()];
        let mut starts = Vec::new();
        let mut last: BTreeMap<u64, usize> = BTreeMap::new();
        let mut order: Vec<usize> = (0..requests.len()).collect();
        if closed_loop {
            order.sort_by_key(|index| requests.get(*index).map(|request| request.turn));
        }
        for index in order {
            let session = requests.get(index).and_then(|request| request.session).filter(|_| closed_loop);
            match session.and_then(|session| last.insert(session, index)).and_then(|previous| next.get_mut(previous)) {
                Some(next) => *next = Some(index),
                None => starts.push(index),
            }
        }
        starts.sort_unstable();
        Self { requests, next_turns: next, start_indices: starts, closed_loop }
    }

    /// Returns the requests in order of time.
    pub fn requests(&self) -> &[TraceRequest] {
        &self.requests
    }

    /// Returns whether turns wait for the previous turn to end.
    pub const fn is_closed_loop(&self) -> bool {
        self.closed_loop
    }

    /// Returns the indices of requests that wait for no other, in order of time.
    pub(super) fn start_indices(&self) -> &[usize] {
        &self.start_indices
    }

    /// Returns the index of the turn that waits for this request, and its think time.
    pub(super) fn next_turn(&self, index: usize) -> Option<(usize, Duration)> {
        let next = self.next_turns.get(index).copied().flatten()?;
        Some((next, self.requests.get(next)?.think_time.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_with_blocks(blocks: &[(u64, u64)], block: u64, prompt: u64) -> TraceRequest {
        let blocks = blocks.iter().map(|(first, count)| BlockRun { first_id: *first, count: *count }).collect();
        TraceRequest {
            prompt: Tokens(prompt),
            output: Tokens(1),
            block_size: Tokens(block),
            block_runs: blocks,
            ..TraceRequest::default()
        }
    }

    fn request_in_session(session: u64, turn: u32, sent_at_seconds: u64, think: Option<u64>) -> TraceRequest {
        let think = think.map(Duration::from_millis);
        TraceRequest {
            sent_at: Duration::from_secs(sent_at_seconds),
            session: Some(session),
            turn,
            think_time: think,
            ..TraceRequest::default()
        }
    }

    #[test]
    fn engine_blocks_are_shared_like_those_of_the_trace() {
        let shared_blocks = |a: &TraceRequest, b: &TraceRequest, size| {
            let (a, b) = (a.engine_block_hashes(Tokens(size)), b.engine_block_hashes(Tokens(size)));
            a.iter().zip(&b).take_while(|(a, b)| a == b).count()
        };
        let (one, other) =
            (request_with_blocks(&[(5, 3), (90, 1)], 512, 2_100), request_with_blocks(&[(5, 3), (80, 1)], 512, 2_048));
        assert_eq!(one.engine_block_hashes(Tokens(16)).len(), 128);
        assert_eq!(shared_blocks(&one, &other, 16), 96);
        // A block across two blocks of the trace depends on the second.
        assert_eq!((shared_blocks(&one, &other, 1_000), one.engine_block_hashes(Tokens(1_000)).len()), (1, 2));
        assert_eq!(shared_blocks(&one, &request_with_blocks(&[(6, 2)], 512, 1_024), 16), 0);
        let mut all = one.engine_block_hashes(Tokens(16));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 128);
    }

    #[test]
    fn turns_wait_for_each_other_in_a_closed_loop_only() {
        let open = Trace::new(vec![
            request_in_session(1, 1, 5, None),
            request_in_session(1, 0, 2, None),
            request_in_session(2, 0, 3, None),
        ]);
        assert_eq!((open.is_closed_loop(), open.start_indices(), open.next_turn(0)), (false, &[0, 1, 2][..], None));
        let requests = vec![
            request_in_session(1, 2, 9, Some(7)),
            request_in_session(1, 0, 2, Some(0)),
            request_in_session(2, 0, 3, None),
            request_in_session(1, 1, 9, None),
        ];
        let closed = Trace::new(requests);
        assert_eq!((closed.is_closed_loop(), closed.start_indices()), (true, &[0, 1][..]));
        assert_eq!(closed.next_turn(0), Some((2, Duration::ZERO)));
        assert_eq!(closed.next_turn(2), Some((3, Duration::from_millis(7))));
        assert_eq!((closed.next_turn(3), closed.next_turn(1)), (None, None));
    }
}
