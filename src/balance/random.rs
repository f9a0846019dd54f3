//! `random`: nginx's weighted random choice.

use super::{BadPolicy, Candidate, Dice, Job, Member, Policy};
use crate::units::Slot;

/// Chooses at random in proportion to the weights.
struct Random;

impl Policy for Random {
    /// One throw over the weights of those that may be chosen: the distribution nginx reaches by throwing again.
    /// O(n). Source: nginx `ngx_http_upstream_random_module.c`.
    fn choose(&mut self, _: &Job<'_>, candidates: &[Candidate], dice: &mut Dice) -> Option<Slot> {
        let total: u64 = candidates.iter().map(|c| u64::from(c.weight.get())).sum();
        let mut left = dice.below(total);
        for candidate in candidates {
            let weight = u64::from(candidate.weight.get());
            if left < weight {
                return Some(candidate.at);
            }
            left -= weight;
        }
        None
    }
}

pub(super) fn build(_: &[Member], args: &[&str]) -> Result<Box<dyn Policy>, BadPolicy> {
    BadPolicy::unless_empty(args)?;
    Ok(Box::new(Random))
}
