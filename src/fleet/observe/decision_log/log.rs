//! The bounded log of decisions.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::entry::DecisionEntry;
use super::recent::RecentDecision;
use super::record::{DecisionRecord, DecisionResult};
use crate::fleet::lock::lock;

/// Maximum of replicas over all logged decisions; the oldest decisions are evicted first.
const MAX_REPLICAS: usize = 16_384;

/// The last decisions. The policy's terms are computed on demand, not on the request path.
///
/// *Shape*: at most `capacity` decisions, with 16,384 replicas in total. *Cost*: a short lock for each decision and for
/// its end. It contains no prompt text.
#[derive(Debug)]
pub struct DecisionLog {
    capacity: AtomicUsize,
    /// Guards the decisions. Never held while another lock is.
    ring: Mutex<LogRing>,
}

#[derive(Debug, Default)]
struct LogRing {
    /// The number of the oldest entry.
    first_number: u64,
    entries: VecDeque<DecisionEntry>,
    /// Total of replicas in `entries`.
    replica_count: usize,
}

impl DecisionLog {
    /// Creates a log of the last `capacity` decisions; 0 logs none.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: AtomicUsize::new(capacity), ring: Mutex::default() }
    }

    /// Sets the capacity.
    pub fn resize(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
        lock(&self.ring).evict(capacity, MAX_REPLICAS);
    }

    /// Returns the maximum of logged decisions.
    pub fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Returns the decisions for a request, in order; empty if there are none, or none any more.
    pub fn find_by_request_id(&self, id: &str) -> Vec<DecisionRecord> {
        let entries: Vec<DecisionEntry> =
            lock(&self.ring).entries.iter().filter(|entry| &*entry.request.id == id).map(DecisionEntry::copy).collect();
        entries.iter().map(DecisionEntry::to_record).collect()
    }

    /// Returns the latest decisions, at most `max`, oldest first.
    pub fn recent(&self, max: usize) -> Vec<RecentDecision> {
        let ring = lock(&self.ring);
        ring.entries.iter().skip(ring.entries.len().saturating_sub(max)).map(RecentDecision::new).collect()
    }

    /// Returns the decision of this number as a line, if it is still logged: `pool=chat policy=token_cost ...`.
    pub(in crate::fleet::observe) fn decision_line(&self, number: u64) -> Option<String> {
        let entry = lock(&self.ring).get_mut(number)?.copy();
        Some(entry.format_line())
    }

    /// Appends a decision. Returns its number.
    pub(in crate::fleet) fn push(&self, entry: DecisionEntry) -> u64 {
        let capacity = self.capacity();
        let mut ring = lock(&self.ring);
        ring.evict(capacity.saturating_sub(1), MAX_REPLICAS.saturating_sub(entry.snapshot.replica_count()));
        let number = ring.first_number + ring.entries.len() as u64;
        if capacity > 0 {
            ring.replica_count += entry.snapshot.replica_count();
            ring.entries.push_back(entry);
        }
        number
    }

    /// Records how a decision's request ended.
    pub(in crate::fleet::observe) fn record_result(&self, number: u64, result: DecisionResult) {
        if let Some(entry) = lock(&self.ring).get_mut(number) {
            entry.result = Some(result);
        }
    }

    /// Returns the total of logged replicas.
    #[cfg(test)]
    pub(super) fn replica_count(&self) -> usize {
        lock(&self.ring).replica_count
    }
}

impl LogRing {
    fn get_mut(&mut self, number: u64) -> Option<&mut DecisionEntry> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first_number)?).ok()?)
    }

    fn evict(&mut self, max_entries: usize, max_replicas: usize) {
        while self.entries.len() > max_entries || self.replica_count > max_replicas {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.first_number += 1;
            self.replica_count -= oldest.snapshot.replica_count();
        }
    }
}
