//! What a replica is taken to have in its prefix cache: its place in an index that it shares with others.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use crate::prefix_index::{PrefixIndex, REPLICAS_PER_INDEX};
use crate::prompt::PromptFingerprint;
use crate::units::Tokens;

/// An index and who sits where in it.
#[derive(Default)]
pub(in crate::fleet) struct SharedIndex {
    index: PrefixIndex,
    /// A bit for each place that is taken.
    used_positions: AtomicU8,
}

/// A replica's place in an index. Dropped, it is free for another.
pub(in crate::fleet) struct CacheSlot {
    shared_index: Arc<SharedIndex>,
    position: usize,
}

/// Gives replicas their seats.
#[derive(Clone, Default)]
pub(in crate::fleet) struct CacheSlotAllocator(Vec<Weak<SharedIndex>>);

/// What the replicas of some shelves are taken to have of one prompt.
pub(in crate::fleet) struct PrefixLookup<'a> {
    prefix: &'a PromptFingerprint,
    prompt: Tokens,
    /// By shelf: blocks by place.
    blocks_by_index: Vec<(*const SharedIndex, [usize; REPLICAS_PER_INDEX])>,
}

impl CacheSlotAllocator {
    /// A seat on the first shelf that has one.
    pub(in crate::fleet) fn allocate(&mut self) -> CacheSlot {
        self.0.retain(|shelf| shelf.strong_count() > 0);
        if let Some(seat) = self.0.iter().filter_map(Weak::upgrade).find_map(|shelf| shelf.allocate()) {
            return seat;
        }
        let shelf = Arc::new(SharedIndex { index: PrefixIndex::default(), used_positions: AtomicU8::new(1) });
        self.0.push(Arc::downgrade(&shelf));
        CacheSlot { shared_index: shelf, position: 0 }
    }
}

impl SharedIndex {
    fn allocate(self: Arc<Self>) -> Option<CacheSlot> {
        // Only a fleet's maker gives seats, one at a time; others can only give theirs back meanwhile.
        let place = (!self.used_positions.load(Ordering::Acquire)).checked_ilog2()?;
        self.used_positions.fetch_or(1 << place, Ordering::AcqRel);
        Some(CacheSlot { shared_index: self, position: usize::try_from(place).ok()? })
    }
}

impl CacheSlot {
    /// Takes note that the replica is sent a prompt.
    pub(in crate::fleet) fn record(&self, prefix: &PromptFingerprint, prompt: Tokens) {
        self.shared_index.index.insert(self.position, prefix, prompt);
    }

    /// Forgets what the replica has of a prompt beyond its first `tokens`.
    pub(in crate::fleet) fn trim(&self, prefix: &PromptFingerprint, prompt: Tokens, tokens: Tokens) {
        let blocks =
            (0..prefix.hashes().len()).take_while(|at| prefix.tokens_in_blocks(at + 1, prompt) <= tokens).count();
        self.shared_index.index.trim(self.position, prefix, prompt, blocks);
    }

    /// Forgets all that the replica has.
    pub(in crate::fleet) fn clear(&self) {
        self.shared_index.index.clear_replica(self.position);
    }

    /// Takes note of what the replica's cache has room for.
    pub(in crate::fleet) fn resize(&self, room: Tokens) {
        self.shared_index.index.set_capacity(self.position, room);
    }
}

impl<'a> PrefixLookup<'a> {
    /// Looks a prompt up for those who sit in `seats`. *Cost*: a walk a shelf, so one for eight replicas.
    pub(in crate::fleet) fn new(
        prefix: &'a PromptFingerprint,
        prompt: Tokens,
        seats: impl Iterator<Item = &'a CacheSlot>,
    ) -> Self {
        let mut blocks: Vec<(*const SharedIndex, [usize; REPLICAS_PER_INDEX])> = Vec::new();
        for seat in seats {
            let shelf = Arc::as_ptr(&seat.shared_index);
            if !blocks.iter().any(|(known, _)| *known == shelf) {
                blocks.push((shelf, seat.shared_index.index.cached_blocks(prefix)));
            }
        }
        Self { prefix, prompt, blocks_by_index: blocks }
    }

    /// The tokens that the replica in `seat` is taken to have; fewer than the prompt has, since the last is always computed.
    pub(in crate::fleet) fn cached_tokens(&self, seat: &CacheSlot) -> Tokens {
        let shelf = self.blocks_by_index.iter().find(|(shelf, _)| *shelf == Arc::as_ptr(&seat.shared_index));
        let blocks = shelf.and_then(|(_, blocks)| blocks.get(seat.position).copied()).unwrap_or_default();
        self.prefix.tokens_in_blocks(blocks, self.prompt).min(self.prompt - Tokens(1))
    }
}

impl Drop for CacheSlot {
    fn drop(&mut self) {
        self.clear();
        self.shared_index.used_positions.fetch_and(!(1 << self.position), Ordering::AcqRel);
    }
}

impl fmt::Debug for CacheSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheSlot").field(&self.position).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_replicas_share_an_index_and_a_seat_left_is_taken_again_empty() {
        let mut shelves = CacheSlotAllocator::default();
        let seats: Vec<CacheSlot> = (0..17).map(|_| shelves.allocate()).collect();
        assert_eq!(shelves.0.len(), 3);
        let prefix = PromptFingerprint::from_blocks([1, 2], Tokens(64), Tokens(128));
        seats[3].record(&prefix, Tokens(128));
        seats[9].record(&prefix, Tokens(128));
        let held = |seats: &[CacheSlot]| -> Vec<u64> {
            let held = PrefixLookup::new(&prefix, Tokens(128), seats.iter());
            seats.iter().map(|seat| held.cached_tokens(seat).0).collect()
        };
        let mut wanted = vec![0; 17];
        (wanted[3], wanted[9]) = (127, 127);
        assert_eq!(held(&seats), wanted);
        let mut seats = seats;
        drop(seats.remove(3));
        seats.insert(3, shelves.allocate());
        wanted[3] = 0;
        assert_eq!((held(&seats), shelves.0.len()), (wanted, 3));
        seats.truncate(8);
        drop(shelves.allocate());
        assert_eq!(shelves.0.len(), 2);
    }
}
