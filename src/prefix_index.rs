//! Layer 1: an estimate of which replicas have which prompt prefixes in their caches.
//!
//! It may be wrong: two threads that write at once may lose an entry, and a hash may stand for another prompt (one in
//! 2^52 look-ups). A wrong entry costs a prefill, never a response.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::prompt::PromptFingerprint;
use crate::units::Tokens;

/// Replicas that share an index.
pub const REPLICAS_PER_INDEX: usize = 8;
/// The assumed capacity of a replica's cache if it is not known.
const DEFAULT_CAPACITY: Tokens = Tokens(2_000_000);
/// An epoch of a replica ends when this part of its capacity was last sent in it.
const EPOCHS_PER_CAPACITY: u64 = 16;
/// Epochs that are remembered.
const MAX_EPOCHS: u32 = 32;
const BUCKET_COUNT: usize = 1 << 16;
/// Entries in a bucket: two cache lines.
const ENTRIES_PER_BUCKET: usize = 16;

/// Bits of an entry, from the lowest: replica index plus one, so that no entry is zero; the epoch; part of the hash.
const REPLICA_INDEX_BITS: u32 = 4;
const EPOCH_BITS: u32 = 24;
const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Hashes of prompt prefixes, with the replicas that were last sent them.
///
/// *Shape*: for [`REPLICAS_PER_INDEX`] replicas, by index. The least recently sent prefixes of a replica are forgotten
/// once the distinct tokens sent since exceed its capacity, as in an LRU cache, to within a sixteenth. *Cost*: 8 MiB,
/// allocated with the first entry; no lock. No text is kept.
pub struct PrefixIndex {
    buckets: OnceLock<Box<[IndexBucket]>>,
    replicas: [CachePadded<ReplicaEpochs>; REPLICAS_PER_INDEX],
}

#[repr(align(128))]
#[derive(Default)]
struct IndexBucket([AtomicU64; ENTRIES_PER_BUCKET]);

/// The epochs of one replica, family length is measured in tokens.
#[derive(Default)]
struct ReplicaEpochs {
    /// The current epoch.
    current_epoch: AtomicU32,
    /// The oldest remembered epoch.
    oldest_epoch: AtomicU32,
    /// Tokens last sent in each epoch.
    sent_tokens: [AtomicU64; MAX_EPOCHS as usize],
    /// The capacity in tokens; 0 if it is not known.
    capacity: AtomicU64,
}

/// The remembered epochs of a replica.
#[derive(Clone, Copy, Default)]
struct EpochRange {
    current: u32,
    /// The number of remembered epochs before it.
    older_epochs: u32,
}

/// An entry: a replica was sent a prefix in an epoch.
#[derive(Clone, Copy)]
struct IndexEntry {
    replica_index: usize,
    epoch: u32,
}

impl PrefixIndex {
    /// Returns the number of a prompt's first blocks that each replica probably has, by replica index. *Cost*: a cache
    /// miss per block, up to the first block that no replica has.
    pub fn cached_blocks(&self, fingerprint: &PromptFingerprint) -> [usize; REPLICAS_PER_INDEX] {
        let mut cached = [0; REPLICAS_PER_INDEX];
        let Some(buckets) = self.buckets.get() else { return cached };
        let ranges = self.epoch_ranges();
        let mut mask = u8::MAX;
        for (block, hash) in fingerprint.hashes().enumerate() {
            mask &= bucket_for(buckets, hash).replica_mask(hash, &ranges);
            if mask == 0 {
                break;
            }
            for (replica_index, blocks) in cached.iter_mut().enumerate() {
                if mask & (1 << replica_index) != 0 {
                    *blocks = block + 1;
                }
            }
        }
        cached
    }

    /// Records that a replica is sent a prompt of `prompt` tokens.
    pub fn insert(&self, replica_index: usize, fingerprint: &PromptFingerprint, prompt: Tokens) {
        let (Some(replica), true) = (self.replicas.get(replica_index), fingerprint.hashes().len() > 0) else { return };
        let buckets = self.buckets.get_or_init(|| (0..BUCKET_COUNT).map(|_| IndexBucket::default()).collect());
        let ranges = self.epoch_ranges();
        let epoch = replica.current_epoch.load(Ordering::Relaxed);
        let entry = IndexEntry { replica_index, epoch };
        let (mut tokens_before, mut run_epoch, mut run_tokens) = (Tokens(0), None, Tokens(0));
        for (block, hash) in fingerprint.hashes().enumerate() {
            let tokens_after = fingerprint.tokens_in_blocks(block + 1, prompt);
            let previous_epoch = bucket_for(buckets, hash).insert(hash, entry, &ranges);
            // Adjacent blocks were mostly sent in one epoch, so they are counted together.
            if previous_epoch != run_epoch {
                replica.record_sent(epoch, run_epoch, run_tokens);
                (run_epoch, run_tokens) = (previous_epoch, Tokens(0));
            }
            run_tokens += tokens_after - tokens_before;
            tokens_before = tokens_after;
        }
        replica.record_sent(epoch, run_epoch, run_tokens);
        replica.expire_and_advance(epoch);
    }

    /// Forgets what a replica has of a prompt beyond its first `blocks` blocks.
    pub fn trim(&self, replica_index: usize, fingerprint: &PromptFingerprint, prompt: Tokens, blocks: usize) {
        let (Some(buckets), Some(replica)) = (self.buckets.get(), self.replicas.get(replica_index)) else { return };
        for (block, hash) in fingerprint.hashes().enumerate().skip(blocks) {
            if let Some(epoch) = bucket_for(buckets, hash).remove(hash, replica_index) {
                let before = fingerprint.tokens_in_blocks(block, prompt);
                replica.subtract_sent(epoch, fingerprint.tokens_in_blocks(block + 1, prompt) - before);
            }
        }
    }

    /// Forgets everything that a replica has.
    pub fn clear_replica(&self, replica_index: usize) {
        if let Some(replica) = self.replicas.get(replica_index) {
            let epoch = replica.current_epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            replica.oldest_epoch.store(epoch, Ordering::Relaxed);
            replica.sent_tokens.iter().for_each(|sent| sent.store(0, Ordering::Relaxed));
        }
    }

    /// Sets the capacity of a replica's cache.
    pub fn set_capacity(&self, replica_index: usize, capacity: Tokens) {
        if let Some(replica) = self.replicas.get(replica_index) {
            replica.capacity.store(capacity.0, Ordering::Relaxed);
        }
    }

    /// Returns the bytes allocated for entries; zero before the first.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.get().map_or(0, |buckets| std::mem::size_of_val(&**buckets))
    }

    fn epoch_ranges(&self) -> [EpochRange; REPLICAS_PER_INDEX] {
        std::array::from_fn(|index| self.replicas.get(index).map_or(EpochRange::default(), |r| r.epoch_range()))
    }
}

impl Default for PrefixIndex {
    fn default() -> Self {
        Self { buckets: OnceLock::new(), replicas: std::array::from_fn(|_| CachePadded::default()) }
    }
}

impl ReplicaEpochs {
    fn epoch_range(&self) -> EpochRange {
        let oldest = self.oldest_epoch.load(Ordering::Relaxed);
        let current = self.current_epoch.load(Ordering::Relaxed);
        EpochRange { current, older_epochs: current.wrapping_sub(oldest).min(MAX_EPOCHS) }
    }

    fn sent_in_epoch(&self, epoch: u32) -> &AtomicU64 {
        &self.sent_tokens[(epoch % MAX_EPOCHS) as usize]
    }

    /// Moves tokens that are sent in `epoch` there from the epoch in which they were last sent; `None` if that is
    /// forgotten.
    fn record_sent(&self, epoch: u32, previous_epoch: Option<u32>, tokens: Tokens) {
        if previous_epoch == Some(epoch & EPOCH_MASK) {
            return;
        }
        self.sent_in_epoch(epoch).fetch_add(tokens.0, Ordering::Relaxed);
        if let Some(previous) = previous_epoch {
            self.subtract_sent(previous, tokens);
        }
    }

    fn subtract_sent(&self, epoch: u32, tokens: Tokens) {
        let subtract = |sent: u64| Some(sent.saturating_sub(tokens.0));
        // The closure always returns a value, so this cannot fail.
        let _ = self.sent_in_epoch(epoch).fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
    }

    /// Forgets what exceeds the capacity, and ends the epoch if enough was sent in it.
    fn expire_and_advance(&self, epoch: u32) {
        let capacity = match self.capacity.load(Ordering::Relaxed) {
            0 => DEFAULT_CAPACITY.0,
            capacity => capacity,
        };
        let mut total =
            self.sent_tokens.iter().fold(0u64, |sum, sent| sum.saturating_add(sent.load(Ordering::Relaxed)));
        while total > capacity
            && let Some(forgotten) = self.forget_oldest()
        {
            total = total.saturating_sub(forgotten);
        }
        if self.sent_in_epoch(epoch).load(Ordering::Relaxed) >= (capacity / EPOCHS_PER_CAPACITY).max(1) {
            if self.epoch_range().older_epochs + 1 >= MAX_EPOCHS {
                self.forget_oldest();
            }
            // If two threads do this at once, one of them succeeds, which is enough.
            let next = epoch.wrapping_add(1);
            let _ = self.current_epoch.compare_exchange(epoch, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Forgets the oldest epoch and returns the tokens last sent in it; `None` if it is the current one, or if another
    /// thread forgets it.
    fn forget_oldest(&self) -> Option<u64> {
        let oldest = self.oldest_epoch.load(Ordering::Relaxed);
        if oldest == self.current_epoch.load(Ordering::Relaxed) {
            return None;
        }
        self.oldest_epoch
            .compare_exchange(oldest, oldest.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        Some(self.sent_in_epoch(oldest).swap(0, Ordering::Relaxed))
    }
}

fn bucket_for(buckets: &[IndexBucket], hash: u64) -> &IndexBucket {
    &buckets[hash as usize % BUCKET_COUNT]
}

impl IndexBucket {
    /// Returns the replicas that have the prefix with this hash, a bit each.
    fn replica_mask(&self, hash: u64, ranges: &[EpochRange; REPLICAS_PER_INDEX]) -> u8 {
        let mut mask = 0;
        for cell in &self.0 {
            let cell = cell.load(Ordering::Relaxed);
            if matches_hash(cell, hash)
                && let Some(entry) = IndexEntry::unpack(cell)
                && entry.age(ranges).is_some()
            {
                mask |= 1 << entry.replica_index;
            }
        }
        mask
    }

    /// Stores an entry in place of the same one, else of an empty, forgotten or the oldest one. Returns the previous
    /// epoch of the same entry if it is remembered.
    fn insert(&self, hash: u64, entry: IndexEntry, ranges: &[EpochRange; REPLICAS_PER_INDEX]) -> Option<u32> {
        let mut oldest = (0, &self.0[0]);
        for cell in &self.0 {
            let packed = cell.load(Ordering::Relaxed);
            let old = IndexEntry::unpack(packed);
            let age = old.and_then(|old| old.age(ranges)).unwrap_or(u32::MAX);
            if let Some(old) = old.filter(|old| old.replica_index == entry.replica_index && matches_hash(packed, hash))
            {
                cell.store(entry.pack(hash), Ordering::Relaxed);
                return (age < u32::MAX).then_some(old.epoch);
            }
            if age >= oldest.0 {
                oldest = (age, cell);
            }
        }
        oldest.1.store(entry.pack(hash), Ordering::Relaxed);
        None
    }

    /// Removes an entry and returns its epoch.
    fn remove(&self, hash: u64, replica_index: usize) -> Option<u32> {
        let mut found = None;
        for cell in &self.0 {
            let packed = cell.load(Ordering::Relaxed);
            if let Some(entry) = IndexEntry::unpack(packed)
                .filter(|entry| entry.replica_index == replica_index && matches_hash(packed, hash))
            {
                cell.store(0, Ordering::Relaxed);
                found = Some(entry.epoch);
            }
        }
        found
    }
}

/// Returns whether an entry belongs to `hash`.
fn matches_hash(cell: u64, hash: u64) -> bool {
    (cell ^ hash) >> (REPLICA_INDEX_BITS + EPOCH_BITS) == 0
}

impl IndexEntry {
    fn unpack(cell: u64) -> Option<Self> {
        let replica_index = (cell as usize & ((1 << REPLICA_INDEX_BITS) - 1)).checked_sub(1)?;
        Some(Self { replica_index, epoch: (cell >> REPLICA_INDEX_BITS) as u32 & EPOCH_MASK })
    }

    fn pack(self, hash: u64) -> u64 {
        let tag = hash >> (REPLICA_INDEX_BITS + EPOCH_BITS) << (REPLICA_INDEX_BITS + EPOCH_BITS);
        tag | u64::from(self.epoch & EPOCH_MASK) << REPLICA_INDEX_BITS | (self.replica_index as u64 + 1)
    }

    /// Returns the age in epochs of its replica; `None` if it is forgotten.
    fn age(self, ranges: &[EpochRange; REPLICAS_PER_INDEX]) -> Option<u32> {
        let range = ranges.get(self.replica_index)?;
        let age = range.current.wrapping_sub(self.epoch) & EPOCH_MASK;
        (age <= range.older_epochs).then_some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::SeededRng;

    /// Returns a prompt of blocks of 64 tokens; prompts of one family share their prefix.
    fn make_prompt(family: u64, blocks: u64) -> (PromptFingerprint, Tokens) {
        let tokens = Tokens(blocks * 64);
        (PromptFingerprint::from_blocks((0..blocks).map(|block| family << 32 | block), Tokens(64), tokens), tokens)
    }

    fn insert_prompt(index: &PrefixIndex, replica_index: usize, (fingerprint, tokens): &(PromptFingerprint, Tokens)) {
        index.insert(replica_index, fingerprint, *tokens);
    }

    #[test]
    fn longest_prefix_is_found_for_every_replica_at_once() {
        let index = PrefixIndex::default();
        assert_eq!((index.cached_blocks(&make_prompt(1, 9).0), index.memory_bytes()), ([0; 8], 0));
        insert_prompt(&index, 0, &make_prompt(1, 9));
        insert_prompt(&index, 3, &make_prompt(1, 4));
        insert_prompt(&index, 7, &make_prompt(2, 9));
        assert_eq!(index.cached_blocks(&make_prompt(1, 20).0), [9, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(index.cached_blocks(&make_prompt(1, 2).0), [2, 0, 0, 2, 0, 0, 0, 0]);
        index.trim(0, &make_prompt(1, 9).0, make_prompt(1, 9).1, 5);
        assert_eq!(index.cached_blocks(&make_prompt(1, 20).0)[0], 5);
        index.clear_replica(0);
        assert_eq!(index.cached_blocks(&make_prompt(1, 20).0), [0, 0, 0, 4, 0, 0, 0, 0]);
        insert_prompt(&index, 0, &make_prompt(1, 3));
        assert_eq!(index.cached_blocks(&make_prompt(1, 20).0)[0], 3);
    }

    #[test]
    fn least_recently_sent_prefix_is_forgotten_first_and_repeated_one_stays() {
        let index = PrefixIndex::default();
        index.set_capacity(0, Tokens(64_000));
        for round in 0..30 {
            insert_prompt(&index, 0, &make_prompt(1, 10));
            insert_prompt(&index, 0, &make_prompt(100 + round, 50));
        }
        assert_eq!(index.cached_blocks(&make_prompt(1, 10).0)[0], 10);
        assert_eq!(index.cached_blocks(&make_prompt(129, 50).0)[0], 50);
        assert_eq!(index.cached_blocks(&make_prompt(129 - 12, 50).0)[0], 50, "some 40,000 tokens ago");
        assert_eq!(index.cached_blocks(&make_prompt(129 - 24, 50).0)[0], 0, "some 80,000 tokens ago");
    }

    #[test]
    fn index_forgets_like_an_lru_list_to_within_a_sixteenth() {
        const CAPACITY: u64 = 64_000;
        let index = PrefixIndex::default();
        index.set_capacity(0, Tokens(CAPACITY));
        let mut rng = SeededRng::from_seed(5);
        // The blocks sent, the latest last.
        let mut list: Vec<(u64, u64)> = Vec::new();
        let (mut kept, mut forgotten) = (0, 0);
        for _ in 0..4_000 {
            // Some prompts are frequent, some rare.
            let families = 1 + rng.next_below(40);
            let (family, blocks) = (rng.next_below(families), 1 + rng.next_below(80));
            insert_prompt(&index, 0, &make_prompt(family, blocks));
            list.retain(|(other, block)| *other != family || *block >= blocks);
            list.extend((0..blocks).rev().map(|block| (family, block)));
            let (family, blocks) = list[rng.next_below(list.len() as u64) as usize];
            let since = list.iter().rev().take_while(|block| **block != (family, blocks)).count() as u64 * 64;
            let known = index.cached_blocks(&make_prompt(family, blocks + 1).0)[0] as u64 > blocks;
            // Adjacent blocks are forgotten one prompt at a time.
            if since < CAPACITY * 14 / 16 - 80 * 64 {
                assert!(known, "forgotten {since} tokens later");
                kept += 1;
            } else if since > CAPACITY * 18 / 16 + 80 * 64 {
                assert!(!known, "known {since} tokens later");
                forgotten += 1;
            }
        }
        assert!(kept > 500 && forgotten > 500, "{kept} {forgotten}");
    }

    #[test]
    fn memory_is_constant_over_ten_million_prompts_and_the_latest_are_known() {
        let index = PrefixIndex::default();
        let mut rng = SeededRng::from_seed(1);
        for at in 0..10_000_000u64 {
            // One block each, so that the test takes seconds.
            index.insert(
                (at % 8) as usize,
                &PromptFingerprint::from_blocks([rng.next_u64()], Tokens(64), Tokens(64)),
                Tokens(64),
            );
            assert!(at > 0 || index.memory_bytes() == 8 << 20);
        }
        assert_eq!(index.memory_bytes(), 8 << 20);
        insert_prompt(&index, 2, &make_prompt(9, 300));
        assert_eq!(index.cached_blocks(&make_prompt(9, 300).0)[2], 300);
    }

    #[test]
    fn eight_replicas_with_two_million_tokens_each_are_remembered() {
        let index = PrefixIndex::default();
        // 30,000 blocks of 64 tokens each are 1.9 M tokens.
        for family in 0..8 * 300u64 {
            insert_prompt(&index, (family % 8) as usize, &make_prompt(1_000 + family, 100));
        }
        let known = |family: u64| index.cached_blocks(&make_prompt(1_000 + family, 100).0)[(family % 8) as usize];
        let blocks: usize = (0..8 * 300).map(known).sum();
        assert!(blocks >= 239_000, "{blocks} of 240,000");
    }
}
