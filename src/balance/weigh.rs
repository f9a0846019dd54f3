//! The least of a load per weight, fairly among equals.

use std::cmp::Ordering;

use super::Candidate;
use super::smooth::Smooth;
use crate::units::Slot;

/// The candidate whose load per weight is least, compared number by number; equals take turns by smooth round robin, and
/// a lone winner takes no turn, as in nginx's least_conn.
///
/// Compares by cross-multiplying, so no division and no rounding. `None` if there are no candidates. O(n).
pub(super) fn least<const N: usize>(
    turns: &mut Smooth,
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
        return Some(least.at);
    }
    turns.turn(candidates.iter().filter(|candidate| compare(candidate, least).is_eq()))
}
