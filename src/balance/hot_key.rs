//! Detection of a key that makes up most requests, so that a hash spreads no load.

/// Picks of one window.
const WINDOW_PICKS: u32 = 1_000;
/// Picks of one key in a window; above this the key is hot.
const MAX_PICKS_PER_KEY: u32 = 800;

/// Detects a key with more than 80 % of 1,000 picks: one window finds the suspect, the next one counts it.
///
/// Source of the vote: Boyer, Moore, "MJRTY: a fast majority vote algorithm", 1981.
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
    /// Records the hash of one pick's key. O(1).
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
            let detected = self.detected || self.suspect_count > MAX_PICKS_PER_KEY;
            *self = Self { suspect_key: (self.votes > 0).then_some(self.leading_key), detected, ..Self::default() };
        }
    }

    /// Returns whether there has been a hot key since the start.
    pub(super) const fn has_hot_key(&self) -> bool {
        self.detected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detects_hot_key(percent: u32) -> bool {
        let mut detector = HotKeyDetector::default();
        for pick in 0..2 * WINDOW_PICKS {
            detector.record_key(if pick % 100 < percent { 7 } else { pick + 100 });
        }
        detector.has_hot_key()
    }

    #[test]
    fn key_with_more_than_eighty_percent_is_hot() {
        assert!(detects_hot_key(81));
        assert!(!detects_hot_key(80));
        assert!(!detects_hot_key(0));
    }
}
