//! Finding out that one key makes up most requests, so that a hash spreads nothing.

/// Picks that are looked at together.
const WINDOW: u32 = 1_000;
/// Picks of one key among them that are too many.
const MOST: u32 = 800;

/// Looks for a key that has more than 80 % of 1,000 picks: it is guessed in one thousand and counted in the next.
///
/// Source of the guess: Boyer, Moore, "MJRTY: a fast majority vote algorithm", 1981.
#[derive(Debug, Default)]
pub(super) struct Hot {
    suspect: Option<u32>,
    counted: u32,
    leader: u32,
    votes: u32,
    seen: u32,
    found: bool,
}

impl Hot {
    /// Takes note of the key of one pick, by a hash of it. O(1).
    pub(super) fn saw(&mut self, key: u32) {
        self.counted += u32::from(self.suspect == Some(key));
        if self.votes == 0 {
            self.leader = key;
        }
        if self.leader == key {
            self.votes += 1;
        } else {
            self.votes -= 1;
        }
        self.seen += 1;
        if self.seen == WINDOW {
            let found = self.found || self.counted > MOST;
            *self = Self { suspect: (self.votes > 0).then_some(self.leader), found, ..Self::default() };
        }
    }

    /// Tells whether there was such a key since the start.
    pub(super) const fn found(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mostly: u32) -> bool {
        let mut hot = Hot::default();
        for at in 0..2 * WINDOW {
            hot.saw(if at % 100 < mostly { 7 } else { at + 100 });
        }
        hot.found()
    }

    #[test]
    fn more_than_eighty_percent_of_one_key_are_found() {
        assert!(found(81));
        assert!(!found(80));
        assert!(!found(0));
    }
}
