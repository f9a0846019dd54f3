//! By the tokens that a replica holds and still has to prefill.

use super::smooth::Smooth;
use super::weigh::least;
use super::{BadPolicy, Candidate, Dice, Job, Member, Policy};
use crate::units::Slot;

/// Chooses the replica with the fewest tokens, resident and queued for prefill, per weight; equals take turns by smooth
/// round robin.
struct LeastTokens(Smooth);

impl Policy for LeastTokens {
    /// O(n). A prompt that waits counts twice: it takes memory, and the time of everyone behind it.
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], _: &mut Dice) -> Option<Slot> {
        least(&mut self.0, candidates, |replica| [(replica.load.resident + replica.load.prefill).0])
    }

    fn failed(&mut self, at: Slot) {
        self.0.failed(at);
    }
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    BadPolicy::unless_empty(args)?;
    Ok(Box::new(LeastTokens(Smooth::new(members))))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;
    use crate::balance::Load;
    use crate::units::Tokens;

    fn choose(weights: &[u32], loads: &[(u64, u64)]) -> u32 {
        let mut offered = candidates(weights);
        for (candidate, (prefill, resident)) in offered.iter_mut().zip(loads) {
            candidate.load = Load { prefill: Tokens(*prefill), waiting: 0, decoding: 0, resident: Tokens(*resident) };
        }
        let mut policy = build(&members(weights), &[]).unwrap();
        policy.choose(&job(), &offered, &mut Dice::seeded(0)).unwrap().0
    }

    #[test]
    fn tokens_are_compared_per_weight() {
        assert_eq!(choose(&[1, 1], &[(0, 100), (0, 90)]), 1);
        assert_eq!(choose(&[1, 1], &[(0, 100), (20, 90)]), 0, "what waits for prefill counts again");
        assert_eq!(choose(&[1, 4], &[(0, 100), (0, 390)]), 1);
        assert_eq!(choose(&[1, 4], &[(0, 100), (0, 410)]), 0);
    }

    #[test]
    fn equals_take_turns() {
        let mut policy = build(&members(&[1, 2]), &[]).unwrap();
        let offered = candidates(&[1, 2]);
        let mut dice = Dice::seeded(0);
        let picks: Vec<u32> = (0..3).map(|_| policy.choose(&job(), &offered, &mut dice).unwrap().0).collect();
        assert_eq!(picks, [1, 0, 1]);
    }
}
