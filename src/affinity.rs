//! Floor 1: which replicas are taken to have which prompts' beginnings in their prefix caches.
//!
//! Beliefs, never facts: two threads that write at once may cost an entry, and a hash may stand for another prompt (one
//! in 2^52 a look). What is believed wrongly costs a prefill, and no answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::prompt::Prefix;
use crate::units::Tokens;

/// Replicas that share an index.
pub const PLACES: usize = 8;
/// Tokens that a replica's cache is taken to have room for if nothing is known.
const ROOM: Tokens = Tokens(2_000_000);
/// A replica's entries are as many epochs old at most; in each it is sent a share of what it has room for.
const EPOCHS: u32 = 16;
const BUCKETS: usize = 1 << 16;
/// Entries in a bucket: two cache lines.
const WAYS: usize = 16;

/// Bits of an entry, from the lowest: its place, counted from one so that nothing is zero; the epoch; part of the hash.
const PLACE_BITS: u32 = 4;
const EPOCH_BITS: u32 = 24;
const EPOCH_MASK: u32 = (1 << EPOCH_BITS) - 1;

/// Hashes of prompts' beginnings, with the replicas that were last sent them.
///
/// *Shape*: for [`PLACES`] replicas, each known by its place. What a replica was sent longest ago is forgotten first: once
/// it has been sent, since then, as many tokens as it has room for, those that are repeated within a sixteenth of that
/// counted once. *Cost*: 8 MiB, taken with the first entry and never more; no lock. No text is kept.
pub struct Index {
    buckets: OnceLock<Box<[Bucket]>>,
    places: [CachePadded<Place>; PLACES],
}

#[repr(align(128))]
#[derive(Default)]
struct Bucket([AtomicU64; WAYS]);

/// One replica's time, told in tokens.
#[derive(Default)]
struct Place {
    epoch: AtomicU32,
    /// Tokens that were sent in this epoch and had not been in it before.
    sent: AtomicU64,
    /// Tokens there is room for; 0 if that is not known.
    room: AtomicU64,
}

/// An entry: that a replica has a beginning.
#[derive(Clone, Copy)]
struct Entry {
    place: usize,
    epoch: u32,
}

impl Index {
    /// Returns how many of a prompt's blocks each replica is taken to have, by place. *Cost*: a cache miss a block, as
    /// long as some replica has it.
    pub fn longest(&self, prefix: &Prefix) -> [usize; PLACES] {
        let mut longest = [0; PLACES];
        let Some(buckets) = self.buckets.get() else { return longest };
        let epochs = self.epochs();
        let mut having = u8::MAX;
        for (at, hash) in prefix.hashes().enumerate() {
            having &= bucket(buckets, hash).having(hash, &epochs);
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
    pub fn note(&self, place: usize, prefix: &Prefix, prompt: Tokens) {
        let (Some(own), true) = (self.places.get(place), prefix.hashes().len() > 0) else { return };
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS).map(|_| Bucket::default()).collect());
        let epochs = self.epochs();
        let entry = Entry { place, epoch: own.epoch.load(Ordering::Relaxed) };
        let mut before = Tokens(0);
        let mut fresh = Tokens(0);
        for (at, hash) in prefix.hashes().enumerate() {
            let upto = prefix.tokens(at + 1, prompt);
            if bucket(buckets, hash).put(hash, entry, &epochs) {
                fresh += upto - before;
            }
            before = upto;
        }
        own.spend(fresh);
    }

    /// Forgets what the replica at `place` has of a prompt beyond its first `blocks` blocks.
    pub fn trim(&self, place: usize, prefix: &Prefix, blocks: usize) {
        let Some(buckets) = self.buckets.get() else { return };
        for hash in prefix.hashes().skip(blocks) {
            bucket(buckets, hash).remove(hash, place);
        }
    }

    /// Forgets all that the replica at `place` has. O(1).
    pub fn clear(&self, place: usize) {
        if let Some(place) = self.places.get(place) {
            place.epoch.fetch_add(EPOCHS, Ordering::Relaxed);
        }
    }

    /// Takes note of how many tokens the replica at `place` has room for.
    pub fn resize(&self, place: usize, room: Tokens) {
        if let Some(place) = self.places.get(place) {
            place.room.store(room.0, Ordering::Relaxed);
        }
    }

    /// Bytes that it takes, for entries alone.
    pub fn bytes(&self) -> usize {
        self.buckets.get().map_or(0, |buckets| std::mem::size_of_val(&**buckets))
    }

    fn epochs(&self) -> [u32; PLACES] {
        std::array::from_fn(|at| self.places.get(at).map_or(0, |place| place.epoch.load(Ordering::Relaxed)))
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { buckets: OnceLock::new(), places: std::array::from_fn(|_| CachePadded::default()) }
    }
}

impl Place {
    fn spend(&self, fresh: Tokens) {
        let sent = self.sent.fetch_add(fresh.0, Ordering::Relaxed).saturating_add(fresh.0);
        let room = match self.room.load(Ordering::Relaxed) {
            0 => ROOM.0,
            room => room,
        };
        let share = (room / u64::from(EPOCHS)).max(1);
        // Two threads that both see the epoch end would only forget a sixteenth early.
        if sent >= share {
            self.sent.store(sent % share, Ordering::Relaxed);
            let epochs = u32::try_from(sent / share).unwrap_or(EPOCHS).min(EPOCHS);
            self.epoch.fetch_add(epochs, Ordering::Relaxed);
        }
    }
}

fn bucket(buckets: &[Bucket], hash: u64) -> &Bucket {
    &buckets[hash as usize % BUCKETS]
}

impl Bucket {
    /// The places of the replicas that have what hashes to `hash`, a bit each.
    fn having(&self, hash: u64, epochs: &[u32; PLACES]) -> u8 {
        let mut having = 0;
        for cell in &self.0 {
            let cell = cell.load(Ordering::Relaxed);
            if (cell ^ hash) >> (PLACE_BITS + EPOCH_BITS) == 0
                && let Some(entry) = Entry::read(cell)
                && entry.age(epochs) < EPOCHS
            {
                having |= 1 << entry.place;
            }
        }
        having
    }

    /// Puts an entry in place of the same from an earlier epoch, of none, or of the oldest. Returns whether it is new in
    /// its epoch.
    fn put(&self, hash: u64, entry: Entry, epochs: &[u32; PLACES]) -> bool {
        let mut oldest = (0, &self.0[0]);
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            let age = match Entry::read(known) {
                None => u32::MAX,
                Some(old) if old.place == entry.place && (known ^ hash) >> (PLACE_BITS + EPOCH_BITS) == 0 => {
                    cell.store(entry.write(hash), Ordering::Relaxed);
                    return old.epoch != entry.epoch & EPOCH_MASK;
                }
                Some(old) => old.age(epochs),
            };
            if age >= oldest.0 {
                oldest = (age, cell);
            }
        }
        oldest.1.store(entry.write(hash), Ordering::Relaxed);
        true
    }

    fn remove(&self, hash: u64, place: usize) {
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            let is_it = Entry::read(known).is_some_and(|entry| entry.place == place);
            if is_it && (known ^ hash) >> (PLACE_BITS + EPOCH_BITS) == 0 {
                cell.store(0, Ordering::Relaxed);
            }
        }
    }
}

impl Entry {
    fn read(cell: u64) -> Option<Self> {
        let place = (cell as usize & ((1 << PLACE_BITS) - 1)).checked_sub(1)?;
        Some(Self { place, epoch: (cell >> PLACE_BITS) as u32 & EPOCH_MASK })
    }

    fn write(self, hash: u64) -> u64 {
        let tag = hash >> (PLACE_BITS + EPOCH_BITS) << (PLACE_BITS + EPOCH_BITS);
        tag | u64::from(self.epoch & EPOCH_MASK) << PLACE_BITS | (self.place as u64 + 1)
    }

    /// In epochs of its replica.
    fn age(self, epochs: &[u32; PLACES]) -> u32 {
        epochs.get(self.place).map_or(u32::MAX, |now| now.wrapping_sub(self.epoch) & EPOCH_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Dice;

    /// A prompt of so many blocks of 64 tokens, alike with others of the same `whose` as far as both go.
    fn prompt(whose: u64, blocks: u64) -> (Prefix, Tokens) {
        let tokens = Tokens(blocks * 64);
        (Prefix::of_blocks((0..blocks).map(|at| whose << 32 | at), Tokens(64), tokens), tokens)
    }

    fn note(index: &Index, place: usize, (prefix, tokens): &(Prefix, Tokens)) {
        index.note(place, prefix, *tokens);
    }

    #[test]
    fn the_longest_beginning_is_found_for_every_replica_in_one_walk() {
        let index = Index::default();
        assert_eq!((index.longest(&prompt(1, 9).0), index.bytes()), ([0; 8], 0));
        note(&index, 0, &prompt(1, 9));
        note(&index, 3, &prompt(1, 4));
        note(&index, 7, &prompt(2, 9));
        assert_eq!(index.longest(&prompt(1, 20).0), [9, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(index.longest(&prompt(1, 2).0), [2, 0, 0, 2, 0, 0, 0, 0]);
        index.trim(0, &prompt(1, 9).0, 5);
        assert_eq!(index.longest(&prompt(1, 20).0)[0], 5);
        index.clear(0);
        assert_eq!(index.longest(&prompt(1, 20).0), [0, 0, 0, 4, 0, 0, 0, 0]);
        note(&index, 0, &prompt(1, 3));
        assert_eq!(index.longest(&prompt(1, 20).0)[0], 3);
    }

    #[test]
    fn what_was_sent_longest_ago_is_forgotten_first_and_what_is_repeated_stays() {
        let index = Index::default();
        index.resize(0, Tokens(64_000));
        for round in 0..30 {
            note(&index, 0, &prompt(1, 10));
            note(&index, 0, &prompt(100 + round, 50));
        }
        assert_eq!(index.longest(&prompt(1, 10).0)[0], 10);
        assert_eq!(index.longest(&prompt(129, 50).0)[0], 50);
        assert_eq!(index.longest(&prompt(129 - 12, 50).0)[0], 50, "some 40,000 tokens ago");
        assert_eq!(index.longest(&prompt(129 - 24, 50).0)[0], 0, "some 80,000 tokens ago");
    }

    #[test]
    fn memory_is_the_same_after_ten_million_prompts_and_the_latest_are_known() {
        let index = Index::default();
        let mut dice = Dice::seeded(1);
        for at in 0..10_000_000u64 {
            // One block each, so that the test takes seconds.
            index.note((at % 8) as usize, &Prefix::of_blocks([dice.bits()], Tokens(64), Tokens(64)), Tokens(64));
            assert!(at > 0 || index.bytes() == 8 << 20);
        }
        assert_eq!(index.bytes(), 8 << 20);
        note(&index, 2, &prompt(9, 300));
        assert_eq!(index.longest(&prompt(9, 300).0)[2], 300);
    }

    #[test]
    fn eight_replicas_with_two_million_tokens_each_are_remembered() {
        let index = Index::default();
        // 30,000 blocks of 64 tokens each are 1.9 M tokens.
        for whose in 0..8 * 300u64 {
            note(&index, (whose % 8) as usize, &prompt(1_000 + whose, 100));
        }
        let known = |whose: u64| index.longest(&prompt(1_000 + whose, 100).0)[(whose % 8) as usize];
        let blocks: usize = (0..8 * 300).map(known).sum();
        assert!(blocks >= 239_000, "{blocks} of 240,000");
    }
}
