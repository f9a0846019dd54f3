//! `least_tokens`: the fewest tokens, resident and to prefill.
//!
//! Source: own; nginx's `least_conn` with tokens in place of requests.

use crate::balance::select::min_by_weight;
use crate::balance::smooth_round_robin::SmoothRoundRobin;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Chooses the replica with the fewest tokens, resident and to prefill, per weight; ties rotate by smooth round robin.
struct LeastTokens(SmoothRoundRobin);

impl Policy for LeastTokens {
    /// O(n). A waiting prompt counts twice: it takes memory, and it delays all requests queued after it.
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        min_by_weight(&mut self.0, candidates, |replica| [(replica.load.resident + replica.load.prefill).0])
    }

    fn on_failure(&mut self, slot: Slot) {
        self.0.on_failure(slot);
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(LeastTokens(SmoothRoundRobin::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::TokenLoad;
    use crate::balance::laws::{candidates, members, request};
    use crate::units::Tokens;

    fn choose(weights: &[u32], loads: &[(u64, u64)]) -> u32 {
        let mut offered = candidates(weights);
        for (candidate, (prefill, resident)) in offered.iter_mut().zip(loads) {
            candidate.load = TokenLoad {
                prefill: Tokens(*prefill),
                waiting_requests: 0,
                decoding_streams: 0,
                resident: Tokens(*resident),
            };
        }
        let mut policy = build(&members(weights), &[]).unwrap();
        policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn tokens_are_compared_per_weight() {
        assert_eq!(choose(&[1, 1], &[(0, 100), (0, 90)]), 1);
        assert_eq!(choose(&[1, 1], &[(0, 100), (20, 90)]), 0, "tokens to prefill count twice");
        assert_eq!(choose(&[1, 4], &[(0, 100), (0, 390)]), 1);
        assert_eq!(choose(&[1, 4], &[(0, 100), (0, 410)]), 0);
    }

    #[test]
    fn ties_rotate() {
        let mut policy = build(&members(&[1, 2]), &[]).unwrap();
        let offered = candidates(&[1, 2]);
        let mut rng = SeededRng::from_seed(0);
        let picks: Vec<u32> = (0..3).map(|_| policy.choose(&request(), &offered, &mut rng).unwrap().0).collect();
        assert_eq!(picks, [1, 0, 1]);
    }
}
