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
/// An epoch of a replica ends when so small a part of what it has room for was last sent in it.
const PART: u64 = 16;
/// Epochs that are told apart.
const EPOCHS: u32 = 32;
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
/// what it has been sent since then is more than it has room for, whatever was sent repeatedly counted once, as in a cache
/// that forgets what was used least recently; to within a sixteenth. *Cost*: 8 MiB, taken with the first entry and never
/// more; no lock. No text is kept.
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
    /// The epoch now.
    epoch: AtomicU32,
    /// The oldest that is remembered.
    oldest: AtomicU32,
    /// Tokens that were last sent in each epoch.
    sent: [AtomicU64; EPOCHS as usize],
    /// Tokens there is room for; 0 if that is not known.
    room: AtomicU64,
}

/// The epochs of a place that are remembered.
#[derive(Clone, Copy, Default)]
struct Span {
    now: u32,
    /// How many before it.
    before: u32,
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
        let spans = self.spans();
        let mut having = u8::MAX;
        for (at, hash) in prefix.hashes().enumerate() {
            having &= bucket(buckets, hash).having(hash, &spans);
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
        let spans = self.spans();
        let now = own.epoch.load(Ordering::Relaxed);
        let entry = Entry { place, epoch: now };
        let (mut before, mut moved) = (Tokens(0), (None, Tokens(0)));
        for (at, hash) in prefix.hashes().enumerate() {
            let upto = prefix.tokens(at + 1, prompt);
            let from = bucket(buckets, hash).put(hash, entry, &spans);
            // Neighbours were mostly sent together.
            if from != moved.0 {
                own.count(moved, now);
                moved = (from, Tokens(0));
            }
            moved.1 += upto - before;
            before = upto;
        }
        own.count(moved, now);
        own.pass(now);
    }

    /// Forgets what the replica at `place` has of a prompt beyond its first `blocks` blocks.
    pub fn trim(&self, place: usize, prefix: &Prefix, prompt: Tokens, blocks: usize) {
        let (Some(buckets), Some(own)) = (self.buckets.get(), self.places.get(place)) else { return };
        for (at, hash) in prefix.hashes().enumerate().skip(blocks) {
            if let Some(epoch) = bucket(buckets, hash).remove(hash, place) {
                own.take(epoch, prefix.tokens(at + 1, prompt) - prefix.tokens(at, prompt));
            }
        }
    }

    /// Forgets all that the replica at `place` has.
    pub fn clear(&self, place: usize) {
        if let Some(place) = self.places.get(place) {
            let now = place.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            place.oldest.store(now, Ordering::Relaxed);
            place.sent.iter().for_each(|sent| sent.store(0, Ordering::Relaxed));
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

    fn spans(&self) -> [Span; PLACES] {
        std::array::from_fn(|at| self.places.get(at).map_or(Span::default(), |place| place.span()))
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { buckets: OnceLock::new(), places: std::array::from_fn(|_| CachePadded::default()) }
    }
}

impl Place {
    fn span(&self) -> Span {
        let oldest = self.oldest.load(Ordering::Relaxed);
        let now = self.epoch.load(Ordering::Relaxed);
        Span { now, before: now.wrapping_sub(oldest).min(EPOCHS) }
    }

    fn sent(&self, epoch: u32) -> &AtomicU64 {
        &self.sent[(epoch % EPOCHS) as usize]
    }

    /// Counts tokens that were sent `now`, and were last sent at another epoch if they are remembered.
    fn count(&self, (from, tokens): (Option<u32>, Tokens), now: u32) {
        if from == Some(now & EPOCH_MASK) {
            return;
        }
        self.sent(now).fetch_add(tokens.0, Ordering::Relaxed);
        if let Some(epoch) = from {
            self.take(epoch, tokens);
        }
    }

    fn take(&self, epoch: u32, tokens: Tokens) {
        let less = |sent: u64| Some(sent.saturating_sub(tokens.0));
        // The closure always gives a value, so this cannot fail.
        let _ = self.sent(epoch).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Forgets what there is no room for, and ends the epoch `now` if enough was sent in it.
    fn pass(&self, now: u32) {
        let room = match self.room.load(Ordering::Relaxed) {
            0 => ROOM.0,
            room => room,
        };
        let mut all = self.sent.iter().fold(0u64, |all, sent| all.saturating_add(sent.load(Ordering::Relaxed)));
        while all > room
            && let Some(forgotten) = self.forget()
        {
            all = all.saturating_sub(forgotten);
        }
        if self.sent(now).load(Ordering::Relaxed) >= (room / PART).max(1) {
            if self.span().before + 1 >= EPOCHS {
                self.forget();
            }
            // Of two threads that both see the epoch end one ends it.
            let _ = self.epoch.compare_exchange(now, now.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Forgets the oldest epoch and returns the tokens that were last sent in it; `None` if it is the present one, or if
    /// another thread does so.
    fn forget(&self) -> Option<u64> {
        let oldest = self.oldest.load(Ordering::Relaxed);
        if oldest == self.epoch.load(Ordering::Relaxed) {
            return None;
        }
        self.oldest.compare_exchange(oldest, oldest.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(self.sent(oldest).swap(0, Ordering::Relaxed))
    }
}

fn bucket(buckets: &[Bucket], hash: u64) -> &Bucket {
    &buckets[hash as usize % BUCKETS]
}

impl Bucket {
    /// The places of the replicas that have what hashes to `hash`, a bit each.
    fn having(&self, hash: u64, spans: &[Span; PLACES]) -> u8 {
        let mut having = 0;
        for cell in &self.0 {
            let cell = cell.load(Ordering::Relaxed);
            if is_of(cell, hash)
                && let Some(entry) = Entry::read(cell)
                && entry.age(spans).is_some()
            {
                having |= 1 << entry.place;
            }
        }
        having
    }

    /// Puts an entry in place of the same, of none or of a forgotten one, or of the oldest. Returns the epoch that it had
    /// if it was remembered.
    fn put(&self, hash: u64, entry: Entry, spans: &[Span; PLACES]) -> Option<u32> {
        let mut oldest = (0, &self.0[0]);
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            let old = Entry::read(known);
            let age = old.and_then(|old| old.age(spans)).unwrap_or(u32::MAX);
            if let Some(old) = old.filter(|old| old.place == entry.place && is_of(known, hash)) {
                cell.store(entry.write(hash), Ordering::Relaxed);
                return (age < u32::MAX).then_some(old.epoch);
            }
            if age >= oldest.0 {
                oldest = (age, cell);
            }
        }
        oldest.1.store(entry.write(hash), Ordering::Relaxed);
        None
    }

    /// Returns the epoch that it was put in.
    fn remove(&self, hash: u64, place: usize) -> Option<u32> {
        let mut found = None;
        for cell in &self.0 {
            let known = cell.load(Ordering::Relaxed);
            if let Some(entry) = Entry::read(known).filter(|entry| entry.place == place && is_of(known, hash)) {
                cell.store(0, Ordering::Relaxed);
                found = Some(entry.epoch);
            }
        }
        found
    }
}

/// Tells whether an entry is of what hashes to `hash`.
fn is_of(cell: u64, hash: u64) -> bool {
    (cell ^ hash) >> (PLACE_BITS + EPOCH_BITS) == 0
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

    /// In epochs of its replica; `None` if it is forgotten.
    fn age(self, spans: &[Span; PLACES]) -> Option<u32> {
        let span = spans.get(self.place)?;
        let age = span.now.wrapping_sub(self.epoch) & EPOCH_MASK;
        (age <= span.before).then_some(age)
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
        index.trim(0, &prompt(1, 9).0, prompt(1, 9).1, 5);
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
    fn it_forgets_as_a_plain_list_of_the_latest_does_to_within_a_sixteenth() {
        const ROOM: u64 = 64_000;
        let index = Index::default();
        index.resize(0, Tokens(ROOM));
        let mut dice = Dice::seeded(5);
        // Blocks sent, the latest last.
        let mut list: Vec<(u64, u64)> = Vec::new();
        let (mut kept, mut gone) = (0, 0);
        for _ in 0..4_000 {
            // Some prompts come again and again, some seldom.
            let families = 1 + dice.below(40);
            let (whose, blocks) = (dice.below(families), 1 + dice.below(80));
            note(&index, 0, &prompt(whose, blocks));
            list.retain(|(of, at)| *of != whose || *at >= blocks);
            list.extend((0..blocks).rev().map(|at| (whose, at)));
            let (whose, blocks) = list[dice.below(list.len() as u64) as usize];
            let since = list.iter().rev().take_while(|block| **block != (whose, blocks)).count() as u64 * 64;
            let known = index.longest(&prompt(whose, blocks + 1).0)[0] as u64 > blocks;
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
