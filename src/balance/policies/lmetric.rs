//! `lmetric`: prompt tokens to compute times requests.
//!
//! Source: "LMetric" (2025), whose score is prefill tokens times batch size.

use crate::balance::select::{min_cost, uncached_tokens};
use crate::balance::{Candidate, Policy, PolicyError, PolicyMember, PolicyRequest, SeededRng};
use crate::units::Slot;

/// The factor on a cost before it is divided by the weight, so that the division loses little.
const DIVISION_SCALE: u128 = 1 << 20;

/// Chooses the replica with the least product of prompt tokens to compute and requests, per weight; ties at random.
/// Both include this request.
struct Lmetric;

impl Policy for Lmetric {
    /// O(n).
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], rng: &mut SeededRng) -> Option<Slot> {
        min_cost(candidates, rng, |replica| {
            let tokens = u128::from(replica.load.prefill.0) + u128::from(uncached_tokens(request, replica));
            // `min_cost` divides by the weight once more: twice the weight takes twice the tokens in twice the
            // requests.
            tokens * (u128::from(replica.in_flight) + 1) * DIVISION_SCALE / u128::from(replica.weight.get())
        })
    }

    fn needs_prefix(&self) -> bool {
        true
    }
}

pub(super) fn build(_: &[PolicyMember], args: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    PolicyError::reject_arguments(args)?;
    Ok(Box::new(Lmetric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::laws::{candidates, request};
    use crate::units::Tokens;

    #[test]
    fn tokens_to_compute_are_multiplied_by_requests() {
        let mut offered = candidates(&[1, 1]);
        (offered[0].in_flight, offered[0].cached) = (4, Tokens(75));
        let choose =
            |offered: &[Candidate]| Lmetric.choose(&request(), offered, &mut SeededRng::from_seed(0)).unwrap().0;
        assert_eq!(choose(&offered), 1, "25 of 100 tokens five times against 100 once");
        offered[0].in_flight = 2;
        assert_eq!(choose(&offered), 0);
    }
}
