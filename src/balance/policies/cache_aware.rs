//! `cache_aware`: SGLang's rule, to compare with.

use crate::balance::select::min_cost;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Requests in flight are out of balance if some replica has so many more than another,
const MAX_IMBALANCE_REQUESTS: u32 = 64;

/// Chooses the replica with the longest cached beginning if that is more than 0.3 of the prompt, else the one with the
/// fewest requests, as it does while those are out of balance: by more than 64 and 1.5 times. Equals at random.
struct CacheAware;

impl Policy for CacheAware {
    /// O(n). Source: the `cache_aware` policy of SGLang's router, which goes to the replica with the least in its tree
    /// where this one goes to the one with the fewest requests.
    fn choose(&mut self, job: &PolicyRequest<'_>, candidates: &[Candidate], dice: &mut SeededRng) -> Option<Slot> {
        let most = candidates.iter().map(|c| c.in_flight).max()?;
        let least = candidates.iter().map(|c| c.in_flight).min()?;
        let uneven = most - least > MAX_IMBALANCE_REQUESTS && u64::from(most) * 2 > u64::from(least) * 3;
        let longest = candidates.iter().map(|c| c.cached).max()?;
        let matched = u128::from(longest.0) * 10 > u128::from(job.prompt.0) * 3;
        if matched && !uneven {
            return min_cost(candidates, dice, |c| u128::from((longest - c.cached).0));
        }
        min_cost(candidates, dice, |c| c.in_flight.into())
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

pub(in crate::balance) fn build(_: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
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
        for (at, candidate) in offered.iter_mut().enumerate() {
            (candidate.cached, candidate.in_flight) = (Tokens(cached[at]), in_flight[at]);
        }
        CacheAware.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn a_long_match_wins_until_requests_are_out_of_balance() {
        assert_eq!(choose([31, 0], [60, 0]), 0);
        assert_eq!(choose([30, 0], [60, 0]), 1, "too short a match");
        assert_eq!(choose([90, 0], [65, 0]), 1);
        assert_eq!(choose([90, 0], [200, 135]), 0, "65 more, and not 1.5 times");
        assert_eq!(choose([40, 50], [0, 9]), 1);
    }
}
