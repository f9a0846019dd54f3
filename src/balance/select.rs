//! Choosing the candidate with the least load or cost per weight.

use std::cmp::Ordering;

use super::smooth_round_robin::SmoothRoundRobin;
use super::{Candidate, PolicyRequest, SeededRng};
use crate::units::Slot;

/// Returns the slot of the candidate with the least load per weight. Equals rotate by smooth round robin; a single
/// minimum leaves the rotation unchanged, as in nginx's least_conn.
///
/// Loads are compared number by number, by cross-multiplying, so no division and no rounding. `None` if `candidates` is
/// empty. O(n).
pub(super) fn min_by_weight<const N: usize>(
    rotation: &mut SmoothRoundRobin,
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
    rotation.choose_next(candidates.iter().filter(|candidate| compare(candidate, least).is_eq()))
}

/// Returns the slot of the candidate with the least cost per weight; of equals, one at random. O(n).
pub(super) fn min_cost(
    candidates: &[Candidate],
    rng: &mut SeededRng,
    cost: impl Fn(&Candidate) -> u128,
) -> Option<Slot> {
    let mut best: Option<(&Candidate, u128)> = None;
    let mut equals = 1;
    for candidate in candidates {
        let cost = cost(candidate);
        let order = best.map_or(Ordering::Less, |(best, least)| {
            let (best_weight, weight) = (u128::from(best.weight.get()), u128::from(candidate.weight.get()));
            cost.saturating_mul(best_weight).cmp(&least.saturating_mul(weight))
        });
        equals = if order.is_eq() { equals + 1 } else { equals };
        if order.is_lt() {
            equals = 1;
        }
        // The nth of equals replaces the one chosen before it with a probability of 1/n.
        if order.is_lt() || order.is_eq() && rng.next_below(equals) == 0 {
            best = Some((candidate, cost));
        }
    }
    best.map(|(best, _)| best.slot)
}

/// Returns the tokens of the prompt that are not cached on `candidate`, at least one.
pub(super) fn uncached_tokens(request: &PolicyRequest<'_>, candidate: &Candidate) -> u64 {
    (request.prompt - candidate.cached).0.max(1)
}
