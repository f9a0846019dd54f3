//! Finding out that one key makes up most requests, so that a hash spreads nothing.

/// Picks that are looked at together.
const WINDOW_PICKS: u32 = 1_000;
/// Picks of one key among them that are too many.
const MAX_PICKS_PER_KEY: u32 = 800;

/// Looks for a key that has more than 80 % of 1,000 picks: it is guessed in one thousand and counted in the next.
///
/// Source of the guess: Boyer, Moore, "MJRTY: a fast majority vote algorithm", 1981.
#[derive(Debug, Default)]
pub(super) struct HotKeyDetector {
    suspect_key: Option<u32>,
    suspect_count: u32,
    leading_key: u32,
    votes: u32,
    pick_count: u32,
    detected: bool,
}

impl HotKeyDetector {
    /// Takes note of the key of one pick, by a hash of it. O(1).
    pub(super) fn record_key(&mut self, key: u32) {
        self.suspect_count += u32::from(self.suspect_key == Some(key));
        if self.votes == 0 {
            self.leading_key = key;
        }
        if self.leading_key == key {
            self.votes += 1;
        } else {
            self.votes -= 1;
        }
        self.pick_count += 1;
        if self.pick_count == WINDOW_PICKS {
            let found = self.detected || self.suspect_count > MAX_PICKS_PER_KEY;
            *self =
                Self { suspect_key: (self.votes > 0).then_some(self.leading_key), detected: found, ..Self::default() };
        }
    }

    /// Tells whether there was such a key since the start.
    pub(super) const fn has_hot_key(&self) -> bool {
        self.detected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detects_hot_key(mostly: u32) -> bool {
        let mut hot = HotKeyDetector::default();
        for at in 0..2 * WINDOW_PICKS {
            hot.record_key(if at % 100 < mostly { 7 } else { at + 100 });
        }
        hot.has_hot_key()
    }

    #[test]
    fn more_than_eighty_percent_of_one_key_are_found() {
        assert!(detects_hot_key(81));
        assert!(!detects_hot_key(80));
        assert!(!detects_hot_key(0));
    }
}
