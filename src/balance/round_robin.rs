//! `round_robin`: nginx's default, smooth and weighted.

use super::smooth::Smooth;
use super::{BadPolicy, Candidate, Dice, Job, Member, Policy};
use crate::units::Slot;

/// Gives every replica its turn, in proportion to the weights and spread evenly.
struct RoundRobin(Smooth);

impl Policy for RoundRobin {
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], _: &mut Dice) -> Option<Slot> {
        self.0.turn(candidates.iter())
    }

    fn failed(&mut self, at: Slot) {
        self.0.failed(at);
    }
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    BadPolicy::unless_empty(args)?;
    Ok(Box::new(RoundRobin(Smooth::new(members))))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;

    fn picks(weights: &[u32], n: usize) -> Vec<u32> {
        let mut policy = build(&members(weights), &[]).unwrap();
        let mut dice = Dice::seeded(0);
        let offered = candidates(weights);
        (0..n).map(|_| policy.choose(&job(), &offered, &mut dice).unwrap().0).collect()
    }

    #[test]
    fn weights_5_1_1_interleave_as_nginx_documents() {
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_take_turns_in_configuration_order() {
        assert_eq!(picks(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_failed_replica_regains_its_weight_by_one_a_round() {
        let weights = [4, 4];
        let mut policy = build(&members(&weights), &[]).unwrap();
        let mut dice = Dice::seeded(0);
        policy.failed(Slot(0));
        let offered = candidates(&weights);
        let picks: Vec<u32> = (0..6).map(|_| policy.choose(&job(), &offered, &mut dice).unwrap().0).collect();
        // Effective weight of slot 0: 0, 1, 2, 3, 4 by nginx's arithmetic.
        assert_eq!(picks, [1, 1, 0, 1, 0, 1]);
    }
}
