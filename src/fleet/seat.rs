//! What a replica is taken to have in its prefix cache: its place in an index that it shares with others.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use crate::affinity::{Index, PLACES};
use crate::prompt::Prefix;
use crate::units::Tokens;

/// An index and who sits where in it.
#[derive(Default)]
pub(super) struct Shelf {
    index: Index,
    /// A bit for each place that is taken.
    taken: AtomicU8,
}

/// A replica's place in an index. Dropped, it is free for another.
pub(super) struct Seat {
    shelf: Arc<Shelf>,
    place: usize,
}

/// Gives replicas their seats.
#[derive(Clone, Default)]
pub(super) struct Shelves(Vec<Weak<Shelf>>);

/// What the replicas of some shelves are taken to have of one prompt.
pub(super) struct Held<'a> {
    prefix: &'a Prefix,
    prompt: Tokens,
    /// By shelf: blocks by place.
    blocks: Vec<(*const Shelf, [usize; PLACES])>,
}

impl Shelves {
    /// A seat on the first shelf that has one.
    pub(super) fn seat(&mut self) -> Seat {
        self.0.retain(|shelf| shelf.strong_count() > 0);
        if let Some(seat) = self.0.iter().filter_map(Weak::upgrade).find_map(|shelf| shelf.seat()) {
            return seat;
        }
        let shelf = Arc::new(Shelf { index: Index::default(), taken: AtomicU8::new(1) });
        self.0.push(Arc::downgrade(&shelf));
        Seat { shelf, place: 0 }
    }
}

impl Shelf {
    fn seat(self: Arc<Self>) -> Option<Seat> {
        // Only a fleet's maker gives seats, one at a time; others can only give theirs back meanwhile.
        let place = (!self.taken.load(Ordering::Acquire)).checked_ilog2()?;
        self.taken.fetch_or(1 << place, Ordering::AcqRel);
        Some(Seat { shelf: self, place: usize::try_from(place).ok()? })
    }
}

impl Seat {
    /// Takes note that the replica is sent a prompt.
    pub(super) fn note(&self, prefix: &Prefix, prompt: Tokens) {
        self.shelf.index.note(self.place, prefix, prompt);
    }

    /// Forgets what the replica has of a prompt beyond its first `tokens`.
    pub(super) fn trim(&self, prefix: &Prefix, prompt: Tokens, tokens: Tokens) {
        let blocks = (0..prefix.hashes().len()).take_while(|at| prefix.tokens(at + 1, prompt) <= tokens).count();
        self.shelf.index.trim(self.place, prefix, prompt, blocks);
    }

    /// Forgets all that the replica has.
    pub(super) fn clear(&self) {
        self.shelf.index.clear(self.place);
    }

    /// Takes note of what the replica's cache has room for.
    pub(super) fn resize(&self, room: Tokens) {
        self.shelf.index.resize(self.place, room);
    }
}

impl<'a> Held<'a> {
    /// Looks a prompt up for those who sit in `seats`. *Cost*: a walk a shelf, so one for eight replicas.
    pub(super) fn of(prefix: &'a Prefix, prompt: Tokens, seats: impl Iterator<Item = &'a Seat>) -> Self {
        let mut blocks: Vec<(*const Shelf, [usize; PLACES])> = Vec::new();
        for seat in seats {
            let shelf = Arc::as_ptr(&seat.shelf);
            if !blocks.iter().any(|(known, _)| *known == shelf) {
                blocks.push((shelf, seat.shelf.index.longest(prefix)));
            }
        }
        Self { prefix, prompt, blocks }
    }

    /// The tokens that the replica in `seat` is taken to have; fewer than the prompt has, since the last is always computed.
    pub(super) fn by(&self, seat: &Seat) -> Tokens {
        let shelf = self.blocks.iter().find(|(shelf, _)| *shelf == Arc::as_ptr(&seat.shelf));
        let blocks = shelf.and_then(|(_, blocks)| blocks.get(seat.place).copied()).unwrap_or_default();
        self.prefix.tokens(blocks, self.prompt).min(self.prompt - Tokens(1))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clear();
        self.shelf.taken.fetch_and(!(1 << self.place), Ordering::AcqRel);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seat").field(&self.place).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_replicas_share_an_index_and_a_seat_left_is_taken_again_empty() {
        let mut shelves = Shelves::default();
        let seats: Vec<Seat> = (0..17).map(|_| shelves.seat()).collect();
        assert_eq!(shelves.0.len(), 3);
        let prefix = Prefix::of_blocks([1, 2], Tokens(64), Tokens(128));
        seats[3].note(&prefix, Tokens(128));
        seats[9].note(&prefix, Tokens(128));
        let held = |seats: &[Seat]| -> Vec<u64> {
            let held = Held::of(&prefix, Tokens(128), seats.iter());
            seats.iter().map(|seat| held.by(seat).0).collect()
        };
        let mut wanted = vec![0; 17];
        (wanted[3], wanted[9]) = (127, 127);
        assert_eq!(held(&seats), wanted);
        let mut seats = seats;
        drop(seats.remove(3));
        seats.insert(3, shelves.seat());
        wanted[3] = 0;
        assert_eq!((held(&seats), shelves.0.len()), (wanted, 3));
        seats.truncate(8);
        drop(shelves.seat());
        assert_eq!(shelves.0.len(), 2);
    }
}
