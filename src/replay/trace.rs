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
    /// When it was sent, from the trace's start.
    pub sent_at: Duration,
    /// Length of the prompt.
    pub prompt: Tokens,
    /// Length of the answer, at least 1.
    pub output: Tokens,
    /// Tokens that a block of the prompt stands for; at least 1 if there are blocks.
    pub block_size: Tokens,
    /// The prompt's full blocks in order. Equal ids at one place: the prompts are equal up to the block's end.
    pub block_runs: Vec<BlockRun>,
    /// The conversation that it belongs to.
    pub session: Option<u64>,
    /// Its place in the conversation.
    pub turn: u32,
    /// How long after the end of the turn before it is sent; `None`: it is sent when it is, whatever happened before.
    pub think_time: Option<Duration>,
}

/// Blocks with ids in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The first id.
    pub first_id: u64,
    /// How many there are.
    pub count: u64,
}

/// Requests in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    requests: Vec<TraceRequest>,
    /// Of each request the next turn of its conversation, if it waits for this one.
    next_turns: Vec<Option<usize>>,
    /// Those that wait for no other.
    start_indices: Vec<usize>,
    closed_loop: bool,
}

impl TraceRequest {
    /// The blocks' ids, in order.
    pub fn block_ids(&self) -> impl Iterator<Item = u64> {
        self.block_runs.iter().flat_map(|run| (0..run.count).map(|at| run.first_id.wrapping_add(at)))
    }

    /// Tokens in all the blocks.
    pub fn block_tokens(&self) -> u64 {
        self.block_runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.count)).saturating_mul(self.block_size.0)
    }

    /// The prompt as routers know it.
    pub fn prompt_fingerprint(&self) -> Arc<PromptFingerprint> {
        Arc::new(PromptFingerprint::from_blocks(self.block_ids(), self.block_size, self.prompt))
    }

    /// Hashes of the prompt's full blocks of `size` tokens, as an engine has them.
    ///
    /// *Shape*: as many as lie within the trace's own blocks; each is made of the id of the block that its last token
    /// is in, so two prompts share it only if the trace says so.
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
    /// Orders requests by time and ties the turns of conversations together.
    ///
    /// If any request has a [`TraceRequest::think_time`] the trace is a closed loop: each session's turns wait for each other.
    pub fn new(mut requests: Vec<TraceRequest>) -> Self {
        requests.sort_by_key(|request| (request.sent_at, request.session, request.turn));
        let closed = requests.iter().any(|request| request.think_time.is_some());
        let mut next = vec![None; requests.len()];
        let mut starts = Vec::new();
        let mut last: BTreeMap<u64, usize> = BTreeMap::new();
        let mut order: Vec<usize> = (0..requests.len()).collect();
        if closed {
            order.sort_by_key(|at| requests.get(*at).map(|request| request.turn));
        }
        for at in order {
            let session = requests.get(at).and_then(|request| request.session).filter(|_| closed);
            match session.and_then(|session| last.insert(session, at)).and_then(|before| next.get_mut(before)) {
                Some(before) => *before = Some(at),
                None => starts.push(at),
            }
        }
        starts.sort_unstable();
        Self { requests, next_turns: next, start_indices: starts, closed_loop: closed }
    }

    /// The requests, in order of time.
    pub fn requests(&self) -> &[TraceRequest] {
        &self.requests
    }

    /// Whether turns wait for each other: the clients' next requests depend on how fast they are served.
    pub const fn is_closed_loop(&self) -> bool {
        self.closed_loop
    }

    /// Those that wait for no other, in order of time.
    pub(super) fn start_indices(&self) -> &[usize] {
        &self.start_indices
    }

    /// The turn that waits for this one, and how long after its end it is sent.
    pub(super) fn next_turn(&self, at: usize) -> Option<(usize, Duration)> {
        let next = self.next_turns.get(at).copied().flatten()?;
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

    fn request_in_session(session: u64, turn: u32, at: u64, think: Option<u64>) -> TraceRequest {
        let think = think.map(Duration::from_millis);
        TraceRequest {
            sent_at: Duration::from_secs(at),
            session: Some(session),
            turn,
            think_time: think,
            ..TraceRequest::default()
        }
    }

    #[test]
    fn engine_blocks_are_shared_as_far_as_the_traces_are() {
        let shared = |a: &TraceRequest, b: &TraceRequest, size| {
            let (a, b) = (a.engine_block_hashes(Tokens(size)), b.engine_block_hashes(Tokens(size)));
            a.iter().zip(&b).take_while(|(a, b)| a == b).count()
        };
        let (one, other) =
            (request_with_blocks(&[(5, 3), (90, 1)], 512, 2_100), request_with_blocks(&[(5, 3), (80, 1)], 512, 2_048));
        assert_eq!(one.engine_block_hashes(Tokens(16)).len(), 128);
        assert_eq!(shared(&one, &other, 16), 96);
        // A block across the border belongs to what is behind it.
        assert_eq!((shared(&one, &other, 1_000), one.engine_block_hashes(Tokens(1_000)).len()), (1, 2));
        assert_eq!(shared(&one, &request_with_blocks(&[(6, 2)], 512, 1_024), 16), 0);
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
