//! A recorded stream of requests, without their text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::Dice;
use crate::prompt::Prefix;
use crate::units::Tokens;

/// A request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// When it was sent, from the trace's start.
    pub at: Duration,
    /// Length of the prompt.
    pub prompt: Tokens,
    /// Length of the answer, at least 1.
    pub output: Tokens,
    /// Tokens that a block of the prompt stands for; at least 1 if there are blocks.
    pub block: Tokens,
    /// The prompt's full blocks in order. Equal ids at one place: the prompts are equal up to the block's end.
    pub blocks: Vec<Run>,
    /// The conversation that it belongs to.
    pub session: Option<u64>,
    /// Its place in the conversation.
    pub turn: u32,
    /// How long after the end of the turn before it is sent; `None`: it is sent when it is, whatever happened before.
    pub think: Option<Duration>,
}

/// Blocks with ids in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first id.
    pub first: u64,
    /// How many there are.
    pub count: u64,
}

/// Requests in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    requests: Vec<Request>,
    /// Of each request the next turn of its conversation, if it waits for this one.
    next: Vec<Option<usize>>,
    /// Those that wait for no other.
    starts: Vec<usize>,
    closed: bool,
}

impl Request {
    /// The blocks' ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().flat_map(|run| (0..run.count).map(|at| run.first.wrapping_add(at)))
    }

    /// Tokens in all the blocks.
    pub fn block_tokens(&self) -> u64 {
        self.blocks.iter().fold(0u64, |sum, run| sum.saturating_add(run.count)).saturating_mul(self.block.0)
    }

    /// The prompt as routers know it.
    pub fn prefix(&self) -> Arc<Prefix> {
        Arc::new(Prefix::of_blocks(self.ids(), self.block, self.prompt))
    }

    /// Hashes of the prompt's full blocks of `size` tokens, as an engine has them.
    ///
    /// *Shape*: as many as lie within the trace's own blocks; each is made of the id of the block that its last token
    /// is in, so two prompts share it only if the trace says so.
    pub fn engine_blocks(&self, size: Tokens) -> Vec<u64> {
        let size = size.0.max(1);
        let mut hashes = Vec::with_capacity(usize::try_from(self.block_tokens() / size).unwrap_or_default());
        let (mut end, mut last) = (0, size);
        for id in self.ids() {
            end += self.block.0;
            let seed = Dice::seeded(id).bits();
            while last <= end {
                hashes.push(Dice::seeded(seed ^ (last / size)).bits());
                last += size;
            }
        }
        hashes
    }
}

impl Trace {
    /// Orders requests by time and ties the turns of conversations together.
    ///
    /// If any request has a [`Request::think`] the trace is a closed loop: each session's turns wait for each other.
    pub fn new(mut requests: Vec<Request>) -> Self {
        requests.sort_by_key(|request| (request.at, request.session, request.turn));
        let closed = requests.iter().any(|request| request.think.is_some());
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
        Self { requests, next, starts, closed }
    }

    /// The requests, in order of time.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Whether turns wait for each other: the clients' next requests depend on how fast they are served.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Those that wait for no other, in order of time.
    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The turn that waits for this one, and how long after its end it is sent.
    pub(super) fn after(&self, at: usize) -> Option<(usize, Duration)> {
        let next = self.next.get(at).copied().flatten()?;
        Some((next, self.requests.get(next)?.think.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(blocks: &[(u64, u64)], block: u64, prompt: u64) -> Request {
        let blocks = blocks.iter().map(|(first, count)| Run { first: *first, count: *count }).collect();
        Request { prompt: Tokens(prompt), output: Tokens(1), block: Tokens(block), blocks, ..Request::default() }
    }

    fn turn(session: u64, turn: u32, at: u64, think: Option<u64>) -> Request {
        let think = think.map(Duration::from_millis);
        Request { at: Duration::from_secs(at), session: Some(session), turn, think, ..Request::default() }
    }

    #[test]
    fn engine_blocks_are_shared_as_far_as_the_traces_are() {
        let shared = |a: &Request, b: &Request, size| {
            let (a, b) = (a.engine_blocks(Tokens(size)), b.engine_blocks(Tokens(size)));
            a.iter().zip(&b).take_while(|(a, b)| a == b).count()
        };
        let (one, other) = (request(&[(5, 3), (90, 1)], 512, 2_100), request(&[(5, 3), (80, 1)], 512, 2_048));
        assert_eq!(one.engine_blocks(Tokens(16)).len(), 128);
        assert_eq!(shared(&one, &other, 16), 96);
        // A block across the border belongs to what is behind it.
        assert_eq!((shared(&one, &other, 1_000), one.engine_blocks(Tokens(1_000)).len()), (1, 2));
        assert_eq!(shared(&one, &request(&[(6, 2)], 512, 1_024), 16), 0);
        let mut all = one.engine_blocks(Tokens(16));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 128);
    }

    #[test]
    fn turns_wait_for_each_other_in_a_closed_loop_only() {
        let open = Trace::new(vec![turn(1, 1, 5, None), turn(1, 0, 2, None), turn(2, 0, 3, None)]);
        assert_eq!((open.is_closed(), open.starts(), open.after(0)), (false, &[0, 1, 2][..], None));
        let requests = vec![turn(1, 2, 9, Some(7)), turn(1, 0, 2, Some(0)), turn(2, 0, 3, None), turn(1, 1, 9, None)];
        let closed = Trace::new(requests);
        assert_eq!((closed.is_closed(), closed.starts()), (true, &[0, 1][..]));
        assert_eq!(closed.after(0), Some((2, Duration::ZERO)));
        assert_eq!(closed.after(2), Some((3, Duration::from_millis(7))));
        assert_eq!((closed.after(3), closed.after(1)), (None, None));
    }
}
