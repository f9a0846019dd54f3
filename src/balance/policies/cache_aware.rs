//! `cache_aware`: the rule of SGLang's router, for comparison.
//!
//! Source: SGLang's router, policy `cache_aware`. Without a match it chooses the replica with the smallest prefix tree;
//! this one chooses the replica with the fewest requests.

use crate::balance::select::min_cost;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// The difference in requests in flight above which the load is out of balance, if the ratio is above 1.5 too.
const MAX_IMBALANCE_REQUESTS: u32 = 64;

/// Chooses the replica with the longest cached prefix if that is more than 30 % of the prompt and the load is in
/// balance, else the one with the fewest requests; ties at random.
struct CacheAware;

impl Policy for CacheAware {
    /// O(n).
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        let max = candidates.iter().map(|c| c.in_flight).max()?;
        let min = candidates.iter().map(|c| c.in_flight).min()?;
        let is_imbalanced = max - min > MAX_IMBALANCE_REQUESTS && u64::from(max) * 2 > u64::from(min) * 3;
        let longest = candidates.iter().map(|c| c.cached).max()?;
        let has_match = u128::from(longest.0) * 10 > u128::from(request.prompt.0) * 3;
        if has_match && !is_imbalanced {
            return min_cost(candidates, rng, |c| u128::from((longest - c.cached).0));
        }
        min_cost(candidates, rng, |c| c.in_flight.into())
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

pub(super) fn build(_: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(CacheAware))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, request};
    use crate::units::Tokens;

    fn choose(cached: [u64; 2], in_flight: [u32; 2]) -> u32 {
        let mut offered = candidates(&[1, 1]);
        for (index, candidate) in offered.iter_mut().enumerate() {
            (candidate.cached, candidate.in_flight) = (Tokens(cached[index]), in_flight[index]);
        }
        CacheAware.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn long_match_wins_while_requests_are_in_balance() {
        assert_eq!(choose([31, 0], [60, 0]), 0);
        assert_eq!(choose([30, 0], [60, 0]), 1, "the match is too short");
        assert_eq!(choose([90, 0], [65, 0]), 1);
        assert_eq!(choose([90, 0], [200, 135]), 0, "65 more, but less than 1.5 times");
        assert_eq!(choose([40, 50], [0, 9]), 1);
    }
}
