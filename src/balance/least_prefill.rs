//! By the prompt tokens that wait to be prefilled.

use super::smooth::Smooth;
use super::weigh::least;
use super::{BadPolicy, Candidate, Dice, Job, Member, Policy};
use crate::units::Slot;

/// Chooses the replica with the fewest prompt tokens not prefilled yet per weight, then with the fewest resident;
/// equals take turns by smooth round robin.
struct LeastPrefill(Smooth);

impl Policy for LeastPrefill {
    /// O(n).
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], _: &mut Dice) -> Option<Slot> {
        least(&mut self.0, candidates, |replica| [replica.load.prefill.0, replica.load.resident.0])
    }

    fn failed(&mut self, at: Slot) {
        self.0.failed(at);
    }
}

pub(super) fn build(members: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    BadPolicy::unless_empty(args)?;
    Ok(Box::new(LeastPrefill(Smooth::new(members))))
}

#[cfg(test)]
mod tests {
    use super::super::laws::{candidates, job, members};
    use super::*;
    use crate::balance::Load;
    use crate::units::Tokens;

    #[test]
    fn what_waits_comes_before_what_is_there() {
        let choose = |loads: [(u64, u64); 2]| {
            let mut offered = candidates(&[1, 1]);
            for (candidate, (prefill, resident)) in offered.iter_mut().zip(loads) {
                candidate.load = Load { prefill: Tokens(prefill), waiting: 0, decoding: 0, resident: Tokens(resident) };
            }
            let mut policy = build(&members(&[1, 1]), &[]).unwrap();
            policy.choose(&job(), &offered, &mut Dice::seeded(0)).unwrap().0
        };
        assert_eq!(choose([(10, 0), (0, 1000)]), 1);
        assert_eq!(choose([(10, 200), (10, 100)]), 1);
        assert_eq!(choose([(10, 100), (10, 100)]), 0);
    }
}
