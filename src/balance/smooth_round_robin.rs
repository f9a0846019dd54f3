//! nginx's smooth weighted rotation: `round_robin`, and the tie-break of other policies.

use super::{Candidate, PolicyMember};
use crate::units::Slot;

/// The rotation state of one member.
#[derive(Clone, Copy, Debug, Default)]
struct RotationState {
    /// Grows at every rotation by `effective_weight`, scaled to the candidate's weight. The chosen member's falls by
    /// the sum of these.
    current_weight: i64,
    /// The weight, lowered after failures and regained by one at every rotation.
    effective_weight: i64,
    weight: i64,
    max_fails: u32,
}

/// The rotation state of a pool, by slot.
#[derive(Debug)]
pub(super) struct SmoothRoundRobin {
    states: Vec<RotationState>,
}

impl SmoothRoundRobin {
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let state = |m: &PolicyMember| {
            let weight = i64::from(m.weight.get());
            RotationState { current_weight: 0, effective_weight: weight, weight, max_fails: m.max_fails }
        };
        Self { states: members.iter().map(state).collect() }
    }

    /// Returns the next of `candidates` in the rotation; the first of equals. O(n).
    ///
    /// Source: nginx `ngx_http_upstream_round_robin.c`, `ngx_http_upstream_get_peer`.
    pub(super) fn choose_next<'a>(&mut self, candidates: impl Iterator<Item = &'a Candidate>) -> Option<Slot> {
        let mut total = 0;
        let mut best: Option<(i64, Slot)> = None;
        for candidate in candidates {
            let Some(state) = self.states.get_mut(candidate.slot.index()) else { continue };
            // In slow start a candidate's weight is a part of its configured one. Exact where it divides evenly.
            let gain = state.effective_weight * i64::from(candidate.weight.get()) / state.weight;
            state.current_weight += gain;
            total += gain;
            if state.effective_weight < state.weight {
                state.effective_weight += 1;
            }
            if best.is_none_or(|(current, _)| state.current_weight > current) {
                best = Some((state.current_weight, candidate.slot));
            }
        }
        let (_, slot) = best?;
        self.states[slot.index()].current_weight -= total;
        Some(slot)
    }

    /// Lowers the member's effective weight by `weight / max_fails`.
    pub(super) fn on_failure(&mut self, slot: Slot) {
        if let Some(state) = self.states.get_mut(slot.index())
            && state.max_fails > 0
        {
            state.effective_weight = (state.effective_weight - state.weight / i64::from(state.max_fails)).max(0);
        }
    }
}
