//! What nginx's hashes share: members laid out by weight, and where a request goes when the hash has hit only members
//! that it may not have.

use super::hot_key::HotKeyDetector;
use super::smooth_round_robin::SmoothRoundRobin;
use super::{Candidate, PolicyMember, PolicyRequest};
use crate::units::Slot;

/// After more misses than this a request takes its turn by round robin.
pub(super) const MAX_MISSES: u32 = 20;

/// The members that hashes run over, up or down, and the rotation behind them.
#[derive(Debug)]
pub(super) struct HashProbe {
    /// Slots with the sum of the weights up to and with each; backups are left out.
    cumulative_weights: Vec<(u64, Slot)>,
    rotation: SmoothRoundRobin,
    hot_key_detector: HotKeyDetector,
}

impl HashProbe {
    pub(super) fn new(members: &[PolicyMember]) -> Self {
        let mut sum = 0;
        let primaries = members.iter().filter(|m| !m.backup);
        let upto = primaries.map(|m| {
            sum += u64::from(m.weight.get());
            (sum, m.slot)
        });
        Self {
            cumulative_weights: upto.collect(),
            rotation: SmoothRoundRobin::new(members),
            hot_key_detector: HotKeyDetector::default(),
        }
    }

    /// The member that `hash` falls on, by weight; `None` if there is none to fall on. O(log n).
    fn slot_for(&self, hash: u64) -> Option<Slot> {
        let (total, _) = self.cumulative_weights.last()?;
        let wanted = hash % total;
        self.cumulative_weights
            .get(self.cumulative_weights.partition_point(|(sum, _)| *sum <= wanted))
            .map(|(_, at)| *at)
    }

    /// Tells whether there is nothing to hash for: one member, or only backups to choose from.
    pub(super) fn needs_no_hash(&self, candidates: &[Candidate]) -> bool {
        let hashed = |c: &Candidate| self.cumulative_weights.iter().any(|(_, at)| *at == c.slot);
        self.cumulative_weights.len() < 2 || !candidates.first().is_some_and(hashed)
    }

    /// Takes the first member that `hashes` fall on and that is a candidate, else a turn.
    ///
    /// nginx goes on where it left off when a request comes back from a member that failed it. This starts anew, so the
    /// first hit on such a member is that choice and no miss.
    pub(super) fn choose_by_hashes(
        &mut self,
        hashes: impl Iterator<Item = u64>,
        job: &PolicyRequest<'_>,
        candidates: &[Candidate],
    ) -> Option<Slot> {
        let mut met: Vec<Slot> = Vec::new();
        let mut misses = 0;
        for at in hashes.map_while(|hash| self.slot_for(hash)) {
            if find_candidate(at, candidates).is_some() {
                return Some(at);
            }
            if job.tried_slots.contains(&at) && !met.contains(&at) {
                met.push(at);
                continue;
            }
            misses += 1;
            if misses > MAX_MISSES {
                break;
            }
        }
        self.choose_by_rotation(candidates)
    }

    /// Whose turn it is; among a single one that means that its effective weight grows back, as in nginx.
    pub(super) fn choose_by_rotation(&mut self, candidates: &[Candidate]) -> Option<Slot> {
        self.rotation.choose_next(candidates.iter())
    }

    pub(super) fn on_failure(&mut self, at: Slot) {
        self.rotation.on_failure(at);
    }

    /// Remembers a request's key, by a hash of it.
    pub(super) fn record_key(&mut self, key: u32) {
        self.hot_key_detector.record_key(key);
    }

    pub(super) const fn has_hot_key(&self) -> bool {
        self.hot_key_detector.has_hot_key()
    }
}

/// The candidate at a slot.
pub(super) fn find_candidate(at: Slot, candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.binary_search_by_key(&at, |c| c.slot).ok().and_then(|found| candidates.get(found))
}
