//! Floor 1: which replicas are taken to have which prompts' beginnings in their prefix caches.
//!
//! Beliefs, never facts: two threads that write at once may cost an entry, and a hash may stand for another prompt (one
//! in 2^52 a look). What is believed wrongly costs a prefill, and no answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::prompt::PromptFingerprint;
use crate::units::Tokens;

/// Replicas that share an index.
pub const REPLICAS_PER_INDEX: usize = 8;
/// Tokens that a replica's cache is taken to have room for if nothing is known.
const DEFAULT_CAPACITY: Tokens = Tokens(2_000_000);
/// An epoch of a replica ends when so small a part of what it has room for was last sent in it.
const EPOCHS_PER_CAPACITY: u64 = 16;
/// Epochs that are told apart.
const MAX_EPOCHS: u32 = 32;
const BUCKET_COUNT: usize = 1 << 16;
/// Entries in a bucket: two cache lines.
const ENTRIES_PER_BUCKET: usize = 16;

/// Bits of an entry, from the lowest: its place, counted from one so that nothing is zero; the epoch; part of the hash.
const REPLICA_INDEX_BITS: u32 = 4;
const EPOCH_BITS: u32 = 24;
const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Hashes of prompts' beginnings, with the replicas that were last sent them.
///
/// *Shape*: for [`REPLICAS_PER_INDEX`] replicas, each known by its place. What a replica was sent longest ago is forgotten first: once
/// what it has been sent since then is more than it has room for, whatever was sent repeatedly counted once, as in a cache
/// that forgets what was used least recently; to within a sixteenth. *Cost*: 8 MiB, taken with the first entry and never
/// more; no lock. No text is kept.
pub struct PrefixIndex {
    buckets: OnceLock<Box<[IndexBucket]>>,
    replicas: [CachePadded<ReplicaEpochs>; REPLICAS_PER_INDEX],
}

#[repr(align(128))]
#[derive(Default)]
struct IndexBucket([AtomicU64; ENTRIES_PER_BUCKET]);

/// One replica's time, told in tokens.
#[derive(Default)]
struct ReplicaEpochs {
    /// The epoch now.
    current_epoch: AtomicU32,
    /// The oldest that is remembered.
    oldest_epoch: AtomicU32,
    /// Tokens that were last sent in each epoch.
    sent_tokens: [AtomicU64; MAX_EPOCHS as usize],
    /// Tokens there is room for; 0 if that is not known.
    capacity: AtomicU64,
}

/// The epochs of a place that are remembered.
#[derive(Clone, Copy, Default)]
struct EpochRange {
    current: u32,
    /// How many before it.
    older_epochs: u32,
}

/// An entry: that a replica has a beginning.
#[derive(Clone, Copy)]
struct IndexEntry {
    replica_index: usize,
    epoch: u32,
}

impl PrefixIndex {
    /// Returns how many of a prompt's blocks each replica is taken to have, by place. *Cost*: a cache miss a block, as
    /// long as some replica has it.
    pub fn cached_blocks(&self, prefix: &PromptFingerprint) -> [usize; REPLICAS_PER_INDEX] {
        let mut longest = [0; REPLICAS_PER_INDEX];
        let Some(buckets) = self.buckets.get() else { return longest };
        let spans = self.epoch_ranges();
        let mut having = u8::MAX;
        for (at, hash) in prefix.hashes().enumerate() {
            having &= bucket_for(buckets, hash).replica_mask(hash, &spans);
            if having == 0 {
                break;
            }
            for (place, blocks) in longest.iter_mut().enumerate() {
                if having & (1 << place) != 0 {
                    *blocks = at + 1;
                }
            }
        }
        longest
    }

    /// Takes note that the replica at `place` is sent a prompt of `prompt` tokens.
    pub fn insert(&self, place: usize, prefix: &PromptFingerprint, prompt: Tokens) {
        let (Some(own), true) = (self.replicas.get(place), prefix.hashes().len() > 0) else { return };
        let buckets = self.buckets.get_or_init(|| (0..BUCKET_COUNT).map(|_| IndexBucket::default()).collect());
        let spans = self.epoch_ranges();
        let now = own.current_epoch.load(Ordering::Relaxed);
        let entry = IndexEntry { replica_index: place, epoch: now };
        let (mut before, mut moved) = (Tokens(0), (None, Tokens(0)));
        for (at, hash) in prefix.hashes().enumerate() {
            let upto = prefix.tokens_in_blocks(at + 1, prompt);
            let from = bucket_for(buckets, hash).insert(hash, entry, &spans);
            // Neighbours were mostly sent together.
            if from != moved.0 {
                own.record_sent(moved, now);
                moved = (from, Tokens(0));
            }
            moved.1 += upto - before;
            before = upto;
        }
        own.record_sent(moved, now);
        own.expire_and_advance(now);
    }

    /// Forgets what the replica at `place` has of a prompt beyond its first `blocks` blocks.
    pub fn trim(&self, place: usize, prefix: &PromptFingerprint, prompt: Tokens, blocks: usize) {
        let (Some(buckets), Some(own)) = (self.buckets.get(), self.replicas.get(place)) else { return };
        for (at, hash) in prefix.hashes().enumerate().skip(blocks) {
            if let Some(epoch) = bucket_for(buckets, hash).remove(hash, place) {
                own.subtract_sent(epoch, prefix.tokens_in_blocks(at + 1, prompt) - prefix.tokens_in_blocks(at, prompt));
            }
        }
    }

    /// Forgets all that the replica at `place` has.
    pub fn clear_replica(&self, place: usize) {
        if let Some(place) = self.replicas.get(place) {
            let now = place.current_epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            place.oldest_epoch.store(now, Ordering::Relaxed);
            place.sent_tokens.iter().for_each(|sent| sent.store(0, Ordering::Relaxed));
        }
    }

    /// Takes note of how many tokens the replica at `place` has room for.
    pub fn set_capacity(&self, place: usize, room: Tokens) {
        if let Some(place) = self.replicas.get(place) {
            place.capacity.store(room.0, Ordering::Relaxed);
        }
    }

    /// Bytes that it takes, for entries alone.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.get().map_or(0, |buckets| std::mem::size_of_val(&**buckets))
    }

    fn epoch_ranges(&self) -> [EpochRange; REPLICAS_PER_INDEX] {
        std::array::from_fn(|at| self.replicas.get(at).map_or(EpochRange::default(), |place| place.epoch_range()))
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
        let now = self.current_epoch.load(Ordering::Relaxed);
        EpochRange { current: now, older_epochs: now.wrapping_sub(oldest).min(MAX_EPOCHS) }
    }

    fn sent_in_epoch(&self, epoch: u32) -> &AtomicU64 {
        &self.sent_tokens[(epoch % MAX_EPOCHS) as usize]
    }

    /// Counts tokens that were sent `now`, and were last sent at another epoch if they are remembered.
    fn record_sent(&self, (from, tokens): (Option<u32>, Tokens), now: u32) {
        if from == Some(now & EPOCH_MASK) {
            return;
        }
        self.sent_in_epoch(now).fetch_add(tokens.0, Ordering::Relaxed);
        if let Some(epoch) = from {
            self.subtract_sent(epoch, tokens);
        }
    }

    fn subtract_sent(&self, epoch: u32, tokens: Tokens) {
        let less = |sent: u64| Some(sent.saturating_sub(tokens.0));
        // The closure always gives a value, so this cannot fail.
        let _ = self.sent_in_epoch(epoch).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Forgets what there is no room for, and ends the epoch `now` if enough was sent in it.
    fn expire_and_advance(&self, now: u32) {
        let room = match self.capacity.load(Ordering::Relaxed) {
            0 => DEFAULT_CAPACITY.0,
            room => room,
        };
        let mut all = self.sent_tokens.iter().fold(0u64, |all, sent| all.saturating_add(sent.load(Ordering::Relaxed)));
        while all > room
            && let Some(forgotten) = self.forget_oldest()
        {
            all = all.saturating_sub(forgotten);
        }
        if self.sent_in_epoch(now).load(Ordering::Relaxed) >= (room / EPOCHS_PER_CAPACITY).max(1) {
            if self.epoch_range().older_epochs + 1 >= MAX_EPOCHS {
                self.forget_oldest();
            }
            // Of two threads that both see the epoch end one ends it.
            let _ = self.current_epoch.compare_exchange(now, now.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Forgets the oldest epoch and returns the tokens that were last sent in it; `None` if it is the present one, or if
    /// another thread does so.
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
    /// The places of the replicas that have what hashes to `hash`, a bit each.
    fn replica_mask(&self, hash: u64, spans: &[EpochRange; REPLICAS_PER_INDEX]) -> u8 {
        let mut having = 0;
        for cell in &self.0 {
            let cell = cell.load(Ordering::Relaxed);
            if matches_hash(cell, hash)
                && let Some(entry) = IndexEntry::unpack(cell)
                && entry.age(spans).is_some()
            {
                having |= 1 << entry.replica_index;
            }
        }
        having
    }

    /// Puts an entry in place of the same, of none or of a forgotten one, or of the oldest. Returns the epoch that it had
    /// if it was remembered.
    fn insert(&self, hash: u64, entry: IndexEntry, spans: &[EpochRange; REPLICAS_PER_INDEX]) -> Option<u32> {
        let mut oldest = (0, &self.0[0]);
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            let old = IndexEntry::unpack(known);
            let age = old.and_then(|old| old.age(spans)).unwrap_or(u32::MAX);
            if let Some(old) = old.filter(|old| old.replica_index == entry.replica_index && matches_hash(known, hash)) {
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

    /// Returns the epoch that it was put in.
    fn remove(&self, hash: u64, place: usize) -> Option<u32> {
        let mut found = None;
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            if let Some(entry) =
                IndexEntry::unpack(known).filter(|entry| entry.replica_index == place && matches_hash(known, hash))
            {
                cell.store(0, Ordering::Relaxed);
                found = Some(entry.epoch);
            }
        }
        found
    }
}

/// Tells whether an entry is of what hashes to `hash`.
fn matches_hash(cell: u64, hash: u64) -> bool {
    (cell ^ hash) >> (REPLICA_INDEX_BITS + EPOCH_BITS) == 0
}

impl IndexEntry {
    fn unpack(cell: u64) -> Option<Self> {
        let place = (cell as usize & ((1 << REPLICA_INDEX_BITS) - 1)).checked_sub(1)?;
        Some(Self { replica_index: place, epoch: (cell >> REPLICA_INDEX_BITS) as u32 & EPOCH_MASK })
    }

    fn pack(self, hash: u64) -> u64 {
        let tag = hash >> (REPLICA_INDEX_BITS + EPOCH_BITS) << (REPLICA_INDEX_BITS + EPOCH_BITS);
        tag | u64::from(self.epoch & EPOCH_MASK) << REPLICA_INDEX_BITS | (self.replica_index as u64 + 1)
    }

    /// In epochs of its replica; `None` if it is forgotten.
    fn age(self, spans: &[EpochRange; REPLICAS_PER_INDEX]) -> Option<u32> {
        let span = spans.get(self.replica_index)?;
        let age = span.current.wrapping_sub(self.epoch) & EPOCH_MASK;
        (age <= span.older_epochs).then_some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::SeededRng;

    /// A prompt of so many blocks of 64 tokens, alike with others of the same `whose` as far as both go.
    fn make_prompt(whose: u64, blocks: u64) -> (PromptFingerprint, Tokens) {
        let tokens = Tokens(blocks * 64);
        (PromptFingerprint::from_blocks((0..blocks).map(|at| whose << 32 | at), Tokens(64), tokens), tokens)
    }

    fn insert_prompt(index: &PrefixIndex, place: usize, (prefix, tokens): &(PromptFingerprint, Tokens)) {
        index.insert(place, prefix, *tokens);
    }

    #[test]
    fn the_longest_beginning_is_found_for_every_replica_in_one_walk() {
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
    fn what_was_sent_longest_ago_is_forgotten_first_and_what_is_repeated_stays() {
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
    fn it_forgets_as_a_plain_list_of_the_latest_does_to_within_a_sixteenth() {
        const ROOM: u64 = 64_000;
        let index = PrefixIndex::default();
        index.set_capacity(0, Tokens(ROOM));
        let mut dice = SeededRng::from_seed(5);
        // Blocks sent, the latest last.
        let mut list: Vec<(u64, u64)> = Vec::new();
        let (mut kept, mut gone) = (0, 0);
        for _ in 0..4_000 {
            // Some prompts come again and again, some seldom.
            let families = 1 + dice.next_below(40);
            let (whose, blocks) = (dice.next_below(families), 1 + dice.next_below(80));
            insert_prompt(&index, 0, &make_prompt(whose, blocks));
            list.retain(|(of, at)| *of != whose || *at >= blocks);
            list.extend((0..blocks).rev().map(|at| (whose, at)));
            let (whose, blocks) = list[dice.next_below(list.len() as u64) as usize];
            let since = list.iter().rev().take_while(|block| **block != (whose, blocks)).count() as u64 * 64;
            let known = index.cached_blocks(&make_prompt(whose, blocks + 1).0)[0] as u64 > blocks;
            // Neighbours of a block are forgotten a prompt at a time.
            if since < ROOM * 14 / 16 - 80 * 64 {
                assert!(known, "forgotten {since} tokens later");
                kept += 1;
            } else if since > ROOM * 18 / 16 + 80 * 64 {
                assert!(!known, "known {since} tokens later");
                gone += 1;
            }
        }
        assert!(kept > 500 && gone > 500, "{kept} {gone}");
    }

    #[test]
    fn memory_is_the_same_after_ten_million_prompts_and_the_latest_are_known() {
        let index = PrefixIndex::default();
        let mut dice = SeededRng::from_seed(1);
        for at in 0..10_000_000u64 {
            // One block each, so that the test takes seconds.
            index.insert(
                (at % 8) as usize,
                &PromptFingerprint::from_blocks([dice.next_u64()], Tokens(64), Tokens(64)),
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
        for whose in 0..8 * 300u64 {
            insert_prompt(&index, (whose % 8) as usize, &make_prompt(1_000 + whose, 100));
        }
        let known = |whose: u64| index.cached_blocks(&make_prompt(1_000 + whose, 100).0)[(whose % 8) as usize];
        let blocks: usize = (0..8 * 300).map(known).sum();
        assert!(blocks >= 239_000, "{blocks} of 240,000");
    }
}
