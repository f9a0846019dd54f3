//! `round_robin`: nginx's smooth weighted round robin.
//!
//! Source: nginx `ngx_http_upstream_round_robin.c`.

use crate::balance::smooth_round_robin::SmoothRoundRobin;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Rotates over the replicas in proportion to their weights, spread evenly.
struct RoundRobin(SmoothRoundRobin);

impl Policy for RoundRobin {
    /// O(n).
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        self.0.choose_next(candidates.iter())
    }

    fn on_failure(&mut self, slot: Slot) {
        self.0.on_failure(slot);
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(RoundRobin(SmoothRoundRobin::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose_many(weights: &[u32], n: usize) -> Vec<u32> {
        let mut policy = build(&members(weights), &[]).unwrap();
        let mut rng = SeededRng::from_seed(0);
        let offered = candidates(weights);
        (0..n).map(|_| policy.choose(&request(), &offered, &mut rng).unwrap().0).collect()
    }

    #[test]
    fn weights_5_1_1_interleave_as_nginx_documents() {
        assert_eq!(choose_many(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_rotate_in_configuration_order() {
        assert_eq!(choose_many(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn failed_replica_regains_its_weight_by_one_a_round() {
        let weights = [4, 4];
        let mut policy = build(&members(&weights), &[]).unwrap();
        let mut rng = SeededRng::from_seed(0);
        policy.on_failure(Slot(0));
        let offered = candidates(&weights);
        let picks: Vec<u32> = (0..6).map(|_| policy.choose(&request(), &offered, &mut rng).unwrap().0).collect();
        // Effective weight of slot 0: 0, 1, 2, 3, 4 by nginx's arithmetic.
        assert_eq!(picks, [1, 1, 0, 1, 0, 1]);
    }
}
