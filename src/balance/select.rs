//! The least of a load or of a cost per weight, fairly among equals.

use std::cmp::Ordering;

use super::smooth_round_robin::SmoothRoundRobin;
use super::{Candidate, PolicyRequest, SeededRng};
use crate::units::Slot;

/// The candidate whose load per weight is least, compared number by number; equals take turns by smooth round robin, and
/// a lone winner takes no turn, as in nginx's least_conn.
///
/// Compares by cross-multiplying, so no division and no rounding. `None` if there are no candidates. O(n).
pub(super) fn min_by_weight<const N: usize>(
    turns: &mut SmoothRoundRobin,
    candidates: &[Candidate],
    load: impl Fn(&Candidate) -> [u64; N],
) -> Option<Slot> {
    let compare = |a: &Candidate, b: &Candidate| {
        let scaled = |load: [u64; N], by: &Candidate| load.map(|n| u128::from(n) * u128::from(by.weight.get()));
        scaled(load(a), b).cmp(&scaled(load(b), a))
    };
    let mut least = candidates.first()?;
    let mut ties = false;
    for candidate in candidates.iter().skip(1) {
        match compare(candidate, least) {
            Ordering::Less => (least, ties) = (candidate, false),
            Ordering::Equal => ties = true,
            Ordering::Greater => {}
        }
    }
    if !ties {
        return Some(least.slot);
    }
    turns.choose_next(candidates.iter().filter(|candidate| compare(candidate, least).is_eq()))
}

/// The candidate whose cost per weight is least; of equals, one at random. O(n).
pub(super) fn min_cost(
    candidates: &[Candidate],
    dice: &mut SeededRng,
    cost: impl Fn(&Candidate) -> u128,
) -> Option<Slot> {
    let mut best: Option<(&Candidate, u128)> = None;
    let mut equals = 1;
    for candidate in candidates {
        let cost = cost(candidate);
        let order = best.map_or(Ordering::Less, |(best, least)| {
            let (ours, theirs) = (u128::from(best.weight.get()), u128::from(candidate.weight.get()));
            cost.saturating_mul(ours).cmp(&least.saturating_mul(theirs))
        });
        equals = if order.is_eq() { equals + 1 } else { equals };
        if order.is_lt() {
            equals = 1;
        }
        // The nth of equals takes the place of those before it with a chance of one in n.
        if order.is_lt() || order.is_eq() && dice.next_below(equals) == 0 {
            best = Some((candidate, cost));
        }
    }
    best.map(|(best, _)| best.slot)
}

/// Tokens of the job's prompt that would have to be computed there, at least one.
pub(super) fn uncached_tokens(job: &PolicyRequest<'_>, candidate: &Candidate) -> u64 {
    (job.prompt - candidate.cached).0.max(1)
}
