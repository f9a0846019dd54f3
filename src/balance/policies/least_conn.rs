//! `least_conn`: nginx's least connections.
//!
//! Source: nginx `ngx_http_upstream_least_conn_module.c`.

use crate::balance::select::min_by_weight;
use crate::balance::smooth_round_robin::SmoothRoundRobin;
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Chooses the replica with the fewest requests in flight per weight; ties rotate by smooth round robin.
struct LeastConn(SmoothRoundRobin);

impl Policy for LeastConn {
    /// O(n).
    fn choose(&mut self, _: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        min_by_weight(&mut self.0, candidates, |replica| [replica.in_flight.into()])
    }

    fn on_failure(&mut self, slot: Slot) {
        self.0.on_failure(slot);
    }
}

pub(super) fn build(members: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(LeastConn(SmoothRoundRobin::new(members))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, members, request};

    fn choose(weights: &[u32], in_flight: &[u32]) -> u32 {
        let mut offered = candidates(weights);
        offered.iter_mut().zip(in_flight).for_each(|(c, n)| c.in_flight = *n);
        let mut policy = build(&members(weights), &[]).unwrap();
        policy.choose(&request(), &offered, &mut SeededRng::from_seed(0)).unwrap().0
    }

    #[test]
    fn requests_are_compared_per_weight() {
        assert_eq!(choose(&[1, 1, 1], &[2, 1, 3]), 1);
        assert_eq!(choose(&[1, 4], &[1, 3]), 1);
        assert_eq!(choose(&[1, 4], &[1, 5]), 0);
    }

    #[test]
    fn ties_go_to_the_heavier_replica_then_rotate() {
        let weights = [1, 2];
        let mut policy = build(&members(&weights), &[]).unwrap();
        let mut rng = SeededRng::from_seed(0);
        let offered = candidates(&weights);
        let picks: Vec<u32> = (0..3).map(|_| policy.choose(&request(), &offered, &mut rng).unwrap().0).collect();
        assert_eq!(picks, [1, 0, 1]);
    }
}
