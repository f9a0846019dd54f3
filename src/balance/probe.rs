//! What nginx's hashes share: members laid out by weight, and where a request goes when the hash has hit only members
//! that it may not have.

use super::hot::Hot;
use super::smooth::Smooth;
use super::{Candidate, Job, Member};
use crate::units::Slot;

/// After more misses than this a request takes its turn by round robin.
pub(super) const MISSES: u32 = 20;

/// The members that hashes run over, up or down, and the rotation behind them.
#[derive(Debug)]
pub(super) struct Probe {
    /// Slots with the sum of the weights up to and with each; backups are left out.
    upto: Vec<(u64, Slot)>,
    smooth: Smooth,
    hot: Hot,
}

impl Probe {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut sum = 0;
        let primaries = members.iter().filter(|m| !m.backup);
        let upto = primaries.map(|m| {
            sum += u64::from(m.weight.get());
            (sum, m.at)
        });
        Self { upto: upto.collect(), smooth: Smooth::new(members), hot: Hot::default() }
    }

    /// The member that `hash` falls on, by weight; `None` if there is none to fall on. O(log n).
    fn at(&self, hash: u64) -> Option<Slot> {
        let (total, _) = self.upto.last()?;
        let wanted = hash % total;
        self.upto.get(self.upto.partition_point(|(sum, _)| *sum <= wanted)).map(|(_, at)| *at)
    }

    /// Tells whether there is nothing to hash for: one member, or only backups to choose from.
    pub(super) fn is_moot(&self, candidates: &[Candidate]) -> bool {
        let hashed = |c: &Candidate| self.upto.iter().any(|(_, at)| *at == c.at);
        self.upto.len() < 2 || !candidates.first().is_some_and(hashed)
    }

    /// Takes the first member that `hashes` fall on and that is a candidate, else a turn.
    ///
    /// nginx goes on where it left off when a request comes back from a member that failed it. This starts anew, so the
    /// first hit on such a member is that choice and no miss.
    pub(super) fn first(
        &mut self,
        hashes: impl Iterator<Item = u64>,
        job: &Job<'_>,
        candidates: &[Candidate],
    ) -> Option<Slot> {
        let mut met: Vec<Slot> = Vec::new();
        let mut misses = 0;
        for at in hashes.map_while(|hash| self.at(hash)) {
            if candidate(at, candidates).is_some() {
                return Some(at);
            }
            if job.tried.contains(&at) && !met.contains(&at) {
                met.push(at);
                continue;
            }
            misses += 1;
            if misses > MISSES {
                break;
            }
        }
        self.turn(candidates)
    }

    /// Whose turn it is; among a single one that means that its effective weight grows back, as in nginx.
    pub(super) fn turn(&mut self, candidates: &[Candidate]) -> Option<Slot> {
        self.smooth.turn(candidates.iter())
    }

    pub(super) fn failed(&mut self, at: Slot) {
        self.smooth.failed(at);
    }

    /// Remembers a request's key, by a hash of it.
    pub(super) fn saw(&mut self, key: u32) {
        self.hot.saw(key);
    }

    pub(super) const fn is_lopsided(&self) -> bool {
        self.hot.found()
    }
}

/// The candidate at a slot.
pub(super) fn candidate(at: Slot, candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.binary_search_by_key(&at, |c| c.at).ok().and_then(|found| candidates.get(found))
}
