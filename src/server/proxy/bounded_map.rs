//! A bounded map whose entries expire, shared by all workers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use crate::units::Moment;

/// The recently used entries that one insertion may skip in search of one to evict.
const MAX_EVICTION_STEPS: usize = 8;

/// A map of at most `max_entries`. A full map evicts its oldest entry that was not used recently.
pub(super) struct BoundedMap<V> {
    max_entries: usize,
    entries: DashMap<Arc<[u8]>, MapEntry<V>>,
    /// Guards the order in which entries are considered for eviction.
    eviction_order: Mutex<VecDeque<Arc<[u8]>>>,
}

struct MapEntry<V> {
    value: V,
    expires_at: Moment,
    /// Used since it was last considered for eviction.
    recently_used: bool,
}

impl<V: Clone> BoundedMap<V> {
    pub(super) fn new(max_entries: usize) -> Self {
        Self { max_entries, entries: DashMap::new(), eviction_order: Mutex::default() }
    }

    /// Returns the value of `key`; `None` if there is none or it has expired.
    pub(super) fn get(&self, key: &[u8], now: Moment) -> Option<V> {
        let entry = self.entries.get(key)?;
        (now <= entry.expires_at).then(|| entry.value.clone())
    }

    /// Returns the value of `key` as [`BoundedMap::get`] does. The entry then counts as used and expires `lifetime`
    /// later.
    pub(super) fn get_and_extend(&self, key: &[u8], lifetime: Duration, now: Moment) -> Option<V> {
        let mut entry = self.entries.get_mut(key)?;
        if now > entry.expires_at {
            return None;
        }
        entry.expires_at = now + lifetime;
        entry.recently_used = true;
        Some(entry.value.clone())
    }

    /// Inserts or replaces the value of `key`, and evicts what has expired or exceeds the bound.
    pub(super) fn insert(&self, key: &[u8], value: V, lifetime: Duration, now: Moment) {
        let key: Arc<[u8]> = key.into();
        let entry = MapEntry { value, expires_at: now + lifetime, recently_used: false };
        if self.entries.insert(key.clone(), entry).is_some() {
            return;
        }
        let mut order = self.eviction_order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(key);
        self.evict(&mut order, now);
    }

    /// Removes expired entries from the front, and others while there are too many.
    fn evict(&self, order: &mut VecDeque<Arc<[u8]>>, now: Moment) {
        let mut steps = 0;
        while let Some(first) = order.pop_front() {
            let is_full = order.len() >= self.max_entries;
            let is_kept = self.entries.get_mut(&first).is_some_and(|mut entry| {
                let keep = !is_full || std::mem::take(&mut entry.recently_used) && steps < MAX_EVICTION_STEPS;
                keep && now <= entry.expires_at
            });
            if !is_kept {
                self.entries.remove(&first);
            } else if is_full {
                steps += 1;
                order.push_back(first);
            } else {
                order.push_front(first);
                return;
            }
        }
    }

    /// Returns the number of entries, expired ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.eviction_order.lock().unwrap().len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn moment_at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn full_map_evicts_oldest_entry_that_was_not_used() {
        let map = BoundedMap::new(3);
        for key in [b"a", b"b", b"c"] {
            map.insert(key, key[0], LIFETIME, moment_at(0));
        }
        assert_eq!(map.get_and_extend(b"a", LIFETIME, moment_at(1)), Some(b'a'));
        map.get(b"b", moment_at(1));
        map.insert(b"d", b'd', LIFETIME, moment_at(1));
        assert_eq!((map.len(), map.get(b"b", moment_at(1))), (3, None));
        assert_eq!(map.get(b"a", moment_at(1)), Some(b'a'));
    }

    #[test]
    fn expired_entry_is_not_returned_and_leaves_with_the_next_insertion() {
        let map = BoundedMap::new(3);
        map.insert(b"a", 1, LIFETIME, moment_at(0));
        assert_eq!((map.get(b"a", moment_at(60)), map.get(b"a", moment_at(61))), (Some(1), None));
        map.insert(b"b", 2, LIFETIME, moment_at(61));
        assert_eq!(map.len(), 1);
    }
}
