//! nginx's smooth weighted rotation, which round robin is and other policies break their ties by.

use super::{Candidate, Member};
use crate::units::Slot;

#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// Grows by `effective`, as a share of the weight offered, at every rotation the member takes part in; falls by the rotation's sum when it is chosen.
    current: i64,
    /// The weight, lowered after failures and regained by one at every rotation.
    effective: i64,
    weight: i64,
    max_fails: u32,
}

/// The rotation's memory, a turn per member.
#[derive(Debug)]
pub(super) struct Smooth {
    turns: Vec<Turn>,
}

impl Smooth {
    pub(super) fn new(members: &[Member]) -> Self {
        let turn = |m: &Member| {
            let weight = i64::from(m.weight.get());
            Turn { current: 0, effective: weight, weight, max_fails: m.max_fails }
        };
        Self { turns: members.iter().map(turn).collect() }
    }

    /// Returns whose turn it is among `candidates`; the first of equals. O(n).
    ///
    /// Source: nginx `ngx_http_upstream_round_robin.c`, `ngx_http_upstream_get_peer`.
    pub(super) fn turn<'a>(&mut self, candidates: impl Iterator<Item = &'a Candidate>) -> Option<Slot> {
        let mut total = 0;
        let mut best: Option<(i64, Slot)> = None;
        for candidate in candidates {
            let Some(turn) = self.turns.get_mut(candidate.at.index()) else { continue };
            // A share of what is offered, which grows while the member comes back; exact where it is a multiple.
            let gain = turn.effective * i64::from(candidate.weight.get()) / turn.weight;
            turn.current += gain;
            total += gain;
            if turn.effective < turn.weight {
                turn.effective += 1;
            }
            if best.is_none_or(|(current, _)| turn.current > current) {
                best = Some((turn.current, candidate.at));
            }
        }
        let (_, at) = best?;
        self.turns[at.index()].current -= total;
        Some(at)
    }

    /// Lowers the member's effective weight by a share of its weight, so that it comes back gently.
    pub(super) fn failed(&mut self, at: Slot) {
        if let Some(turn) = self.turns.get_mut(at.index())
            && turn.max_fails > 0
        {
            turn.effective = (turn.effective - turn.weight / i64::from(turn.max_fails)).max(0);
        }
    }
}
