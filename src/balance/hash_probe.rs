//! The common part of nginx's hashes: members by weight, and the fallback when a hash hits ineligible members only.

use super::hot_key::HotKeyDetector;
use super::smooth_round_robin::SmoothRoundRobin;
use super::{Candidate, PolicyMember, PolicyRequest};
use crate::units::Slot;

/// Misses of one request; after more of them it is placed by round robin.
pub(super) const MAX_MISSES: u32 = 20;

/// The members that a hash selects from, up or down, and the rotation for requests that it cannot place.
#[derive(Debug)]
pub(super) struct HashProbe {
    /// The sum of the weights up to and with each member, and its slot; without backups.
    cumulative_weights: Vec<(u64, Slot)>,
    rotation: SmoothRoundRobin,
    hot_key_detector: HotKeyDetector,
}

impl HashProbe {
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let mut sum = 0;
        let primaries = members.iter().filter(|m| !m.backup);
        let cumulative_weights = primaries.map(|m| {
            sum += u64::from(m.weight.get());
            (sum, m.slot)
        });
        Self {
            cumulative_weights: cumulative_weights.collect(),
            rotation: SmoothRoundRobin::new(members),
            hot_key_detector: HotKeyDetector::default(),
        }
    }

    /// Returns the member that `hash` selects by weight; `None` without members. O(log n).
    fn slot_for(&self, hash: u64) -> Option<Slot> {
        let (total, _) = self.cumulative_weights.last()?;
        let position = hash % total;
        self.cumulative_weights
            .get(self.cumulative_weights.partition_point(|(sum, _)| *sum <= position))
            .map(|(_, slot)| *slot)
    }

    /// Returns whether hashing is pointless: there is one member, or only backups are offered.
    pub(super) fn needs_no_hash(&self, candidates: &[Candidate]) -> bool {
        let is_hashed = |c: &Candidate| self.cumulative_weights.iter().any(|(_, slot)| *slot == c.slot);
        self.cumulative_weights.len() < 2 || !candidates.first().is_some_and(is_hashed)
    }

    /// Returns the first candidate that `hashes` select, else the next by round robin.
    ///
    /// nginx continues its sequence when a request is retried. This starts the sequence over, so the first hit on a
    /// member that failed the request is that earlier choice and no miss.
    pub(super) fn choose_by_hashes(
        &mut self,
        hashes: impl Iterator<Item = u64>,
        request: &PolicyRequest<'_>,
        candidates: &[Candidate],
    ) -> Option<Slot> {
        let mut hit_before: Vec<Slot> = Vec::new();
        let mut misses = 0;
        for slot in hashes.map_while(|hash| self.slot_for(hash)) {
            if find_candidate(slot, candidates).is_some() {
                return Some(slot);
            }
            if request.tried_slots.contains(&slot) && !hit_before.contains(&slot) {
                hit_before.push(slot);
                continue;
            }
            misses += 1;
            if misses > MAX_MISSES {
                break;
            }
        }
        self.choose_by_rotation(candidates)
    }

    /// Returns the next candidate by round robin. With one candidate its effective weight recovers, as in nginx.
    pub(super) fn choose_by_rotation(&mut self, candidates: &[Candidate]) -> Option<Slot> {
        self.rotation.choose_next(candidates.iter())
    }

    pub(super) fn on_failure(&mut self, slot: Slot) {
        self.rotation.on_failure(slot);
    }

    /// Records the hash of a request's key.
    pub(super) fn record_key(&mut self, key: u32) {
        self.hot_key_detector.record_key(key);
    }

    pub(super) const fn has_hot_key(&self) -> bool {
        self.hot_key_detector.has_hot_key()
    }
}

/// Returns the candidate at `slot`. O(log n).
pub(super) fn find_candidate(slot: Slot, candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.binary_search_by_key(&slot, |c| c.slot).ok().and_then(|index| candidates.get(index))
}
