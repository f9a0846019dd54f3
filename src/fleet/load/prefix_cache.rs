//! Estimate of one replica's prefix cache: its position in a prefix index that up to eight replicas share.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use crate::prefix_index::{PrefixIndex, REPLICAS_PER_INDEX};
use crate::prompt::PromptFingerprint;
use crate::units::Tokens;

/// A prefix index and its occupied positions.
#[derive(Default)]
struct SharedIndex {
    index: PrefixIndex,
    /// One bit for each occupied position.
    used_positions: AtomicU8,
}

/// A replica's position in an index; freed and cleared on drop.
pub(in crate::fleet) struct CacheSlot {
    shared_index: Arc<SharedIndex>,
    position: usize,
}

/// Assigns cache slots to replicas.
#[derive(Clone, Default)]
pub(in crate::fleet) struct CacheSlotAllocator(Vec<Weak<SharedIndex>>);

/// The cached blocks of one prompt on the replicas of some indexes.
pub(in crate::fleet) struct PrefixLookup<'a> {
    prefix: &'a PromptFingerprint,
    prompt: Tokens,
    /// By index: number of cached blocks, by position.
    blocks_by_index: Vec<(*const SharedIndex, [usize; REPLICAS_PER_INDEX])>,
}

impl CacheSlotAllocator {
    /// Returns a slot of the first index that has a free position.
    pub(in crate::fleet) fn allocate(&mut self) -> CacheSlot {
        self.0.retain(|index| index.strong_count() > 0);
        if let Some(slot) = self.0.iter().filter_map(Weak::upgrade).find_map(SharedIndex::allocate) {
            return slot;
        }
        let index = Arc::new(SharedIndex { index: PrefixIndex::default(), used_positions: AtomicU8::new(1) });
        self.0.push(Arc::downgrade(&index));
        CacheSlot { shared_index: index, position: 0 }
    }
}

impl SharedIndex {
    fn allocate(self: Arc<Self>) -> Option<CacheSlot> {
        // The fleet's builder allocates one slot at a time; meanwhile slots can only be freed.
        let position = (!self.used_positions.load(Ordering::Acquire)).checked_ilog2()?;
        self.used_positions.fetch_or(1 << position, Ordering::AcqRel);
        Some(CacheSlot { shared_index: self, position: usize::try_from(position).ok()? })
    }
}

impl CacheSlot {
    /// Records that the replica is sent a prompt.
    pub(in crate::fleet) fn record(&self, prefix: &PromptFingerprint, prompt: Tokens) {
        self.shared_index.index.insert(self.position, prefix, prompt);
    }

    /// Removes a prompt's blocks beyond its first `tokens`.
    pub(in crate::fleet) fn trim(&self, prefix: &PromptFingerprint, prompt: Tokens, tokens: Tokens) {
        let blocks =
            (0..prefix.hashes().len()).take_while(|at| prefix.tokens_in_blocks(at + 1, prompt) <= tokens).count();
        self.shared_index.index.trim(self.position, prefix, prompt, blocks);
    }

    /// Removes all of the replica's blocks.
    pub(in crate::fleet) fn clear(&self) {
        self.shared_index.index.clear_replica(self.position);
    }

    /// Sets the capacity of the replica's cache.
    pub(in crate::fleet) fn resize(&self, capacity: Tokens) {
        self.shared_index.index.set_capacity(self.position, capacity);
    }
}

impl<'a> PrefixLookup<'a> {
    /// Looks a prompt up for the replicas of `slots`. *Cost*: one walk per index, so one for eight replicas.
    pub(in crate::fleet) fn new(
        prefix: &'a PromptFingerprint,
        prompt: Tokens,
        slots: impl Iterator<Item = &'a CacheSlot>,
    ) -> Self {
        let mut blocks_by_index: Vec<(*const SharedIndex, [usize; REPLICAS_PER_INDEX])> = Vec::new();
        for slot in slots {
            let index = Arc::as_ptr(&slot.shared_index);
            if !blocks_by_index.iter().any(|(known, _)| *known == index) {
                blocks_by_index.push((index, slot.shared_index.index.cached_blocks(prefix)));
            }
        }
        Self { prefix, prompt, blocks_by_index }
    }

    /// Returns the prompt tokens cached on the replica of `slot`, by the estimate; fewer than the prompt has, since the
    /// last token is always computed.
    pub(in crate::fleet) fn cached_tokens(&self, slot: &CacheSlot) -> Tokens {
        let index = self.blocks_by_index.iter().find(|(index, _)| *index == Arc::as_ptr(&slot.shared_index));
        let blocks = index.and_then(|(_, blocks)| blocks.get(slot.position).copied()).unwrap_or_default();
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
    fn eight_replicas_share_an_index_and_a_freed_slot_is_reused_empty() {
        let mut allocator = CacheSlotAllocator::default();
        let slots: Vec<CacheSlot> = (0..17).map(|_| allocator.allocate()).collect();
        assert_eq!(allocator.0.len(), 3);
        let prefix = PromptFingerprint::from_blocks([1, 2], Tokens(64), Tokens(128));
        slots[3].record(&prefix, Tokens(128));
        slots[9].record(&prefix, Tokens(128));
        let cached = |slots: &[CacheSlot]| -> Vec<u64> {
            let cached = PrefixLookup::new(&prefix, Tokens(128), slots.iter());
            slots.iter().map(|slot| cached.cached_tokens(slot).0).collect()
        };
        let mut wanted = vec![0; 17];
        (wanted[3], wanted[9]) = (127, 127);
        assert_eq!(cached(&slots), wanted);
        let mut slots = slots;
        drop(slots.remove(3));
        slots.insert(3, allocator.allocate());
        wanted[3] = 0;
        assert_eq!((cached(&slots), allocator.0.len()), (wanted, 3));
        slots.truncate(8);
        drop(allocator.allocate());
        assert_eq!(allocator.0.len(), 2);
    }
}
