//! `least_prefill`: the fewest prompt tokens to prefill.
//!
//! Source: own; nginx's `least_conn` with waiting prompt tokens in place of requests.

use crate::balance::select::min_by_weight;
use crate::balance::smooth_round_robin::SmoothRoundRobin;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Chooses the replica with the fewest prompt tokens to prefill per weight, then with the fewest resident tokens; ties
/// rotate by smooth round robin.
struct LeastPrefill(SmoothRoundRobin);

impl Policy for LeastPrefill {
    /// O(n).
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        min_by_weight(&mut self.0, candidates, |replica| [replica.load.prefill.0, replica.load.resident.0])
    }

    fn on_failure(&mut self, slot: Slot) {
        self.0.on_failure(slot);
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(LeastPrefill(SmoothRoundRobin::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::TokenLoad;
    use crate::balance::laws::{candidates, members, request};
    use crate::units::Tokens;

    #[test]
    fn prefill_is_compared_before_resident() {
        let choose = |loads: [(u64, u64); 2]| {
            let mut offered = candidates(&[1, 1]);
            for (candidate, (prefill, resident)) in offered.iter_mut().zip(loads) {
                candidate.load = TokenLoad {
                    prefill: Tokens(prefill),
                    waiting_requests: 0,
                    decoding_streams: 0,
                    resident: Tokens(resident),
                };
            }
            let mut policy = build(&members(&[1, 1]), &[]).unwrap();
            policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0
        };
        assert_eq!(choose([(10, 0), (0, 1000)]), 1);
        assert_eq!(choose([(10, 200), (10, 100)]), 1);
        assert_eq!(choose([(10, 100), (10, 100)]), 0);
    }
}
