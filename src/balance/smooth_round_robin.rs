//! nginx's smooth weighted rotation, which round robin is and other policies break their ties by.

use super::{Candidate, PolicyMember};
use crate::units::Slot;

#[derive(Clone, Copy, Debug, Default)]
struct RotationState {
    /// Grows by `effective`, as a share of the weight offered, at every rotation the member takes part in; falls by the rotation's sum when it is chosen.
    current_weight: i64,
    /// The weight, lowered after failures and regained by one at every rotation.
    effective_weight: i64,
    weight: i64,
    max_fails: u32,
}

/// The rotation's memory, a turn per member.
#[derive(Debug)]
pub(super) struct SmoothRoundRobin {
    states: Vec<RotationState>,
}

impl SmoothRoundRobin {
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let turn = |m: &PolicyMember| {
            let weight = i64::from(m.weight.get());
            RotationState { current_weight: 0, effective_weight: weight, weight, max_fails: m.max_fails }
        };
        Self { states: members.iter().map(turn).collect() }
    }

    /// Returns whose turn it is among `candidates`; the first of equals. O(n).
    ///
    /// Source: nginx `ngx_http_upstream_round_robin.c`, `ngx_http_upstream_get_peer`.
    pub(super) fn choose_next<'a>(&mut self, candidates: impl Iterator<Item = &'a Candidate>) -> Option<Slot> {
        let mut total = 0;
        let mut best: Option<(i64, Slot)> = None;
        for candidate in candidates {
            let Some(turn) = self.states.get_mut(candidate.slot.index()) else { continue };
            // A share of what is offered, which grows while the member comes back; exact where it is a multiple.
            let gain = turn.effective_weight * i64::from(candidate.weight.get()) / turn.weight;
            turn.current_weight += gain;
            total += gain;
            if turn.effective_weight < turn.weight {
                turn.effective_weight += 1;
            }
            if best.is_none_or(|(current, _)| turn.current_weight > current) {
                best = Some((turn.current_weight, candidate.slot));
            }
        }
        let (_, at) = best?;
        self.states[at.index()].current_weight -= total;
        Some(at)
    }

    /// Lowers the member's effective weight by a share of its weight, so that it comes back gently.
    pub(super) fn on_failure(&mut self, at: Slot) {
        if let Some(turn) = self.states.get_mut(at.index())
            && turn.max_fails > 0
        {
            turn.effective_weight = (turn.effective_weight - turn.weight / i64::from(turn.max_fails)).max(0);
        }
    }
}
