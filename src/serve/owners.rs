//! Which replica holds which stored response, so that follow-ups go where the answer is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use crate::units::{Moment, ReplicaId};

/// The most ids remembered. At most 256 bytes of id each: about 42 MB at worst, 17 MB as engines write ids.
const IDS: usize = 100_000;
/// How long an id is remembered.
const KEEP: Duration = Duration::from_secs(3_600);

/// A replica as an owner of responses.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// The pool's name: after a reload there is another pool behind it.
    pub(super) pool: Arc<str>,
    pub(super) replica: ReplicaId,
    /// The name of the key that the response was made with.
    pub(super) tenant: Option<Arc<str>>,
}

/// A bounded map from response ids to their replicas; the oldest ids go first.
#[derive(Default)]
pub(super) struct Owners {
    by_id: DashMap<Arc<str>, (Owner, Moment)>,
    /// Guards the order in which ids came.
    order: Mutex<VecDeque<(Arc<str>, Moment)>>,
}

impl Owners {
    /// Remembers an id, and forgets what is too old or one too many.
    pub(super) fn put(&self, id: &str, owner: Owner, now: Moment) {
        let id: Arc<str> = id.into();
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.by_id.insert(id.clone(), (owner, now)).is_none() {
            order.push_back((id, now));
        }
        while let Some((_, since)) = order.front() {
            if order.len() <= IDS && now.since(*since) <= KEEP {
                break;
            }
            if let Some((oldest, _)) = order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// Finds the owner of an id.
    pub(super) fn get(&self, id: &str, now: Moment) -> Option<Owner> {
        let entry = self.by_id.get(id)?;
        let (owner, since) = entry.value();
        (now.since(*since) <= KEEP).then(|| owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { pool: "p".into(), replica: ReplicaId(1), tenant: None }
    }

    #[test]
    fn the_map_stays_bounded_and_forgets_the_oldest_first() {
        let (owners, owner) = (Owners::default(), owner());
        for i in 0..IDS + 10 {
            owners.put(&i.to_string(), owner.clone(), Moment::ZERO);
        }
        assert_eq!(owners.by_id.len(), IDS);
        assert!(owners.get("9", Moment::ZERO).is_none());
        assert!(owners.get("10", Moment::ZERO).is_some());
    }

    #[test]
    fn an_id_is_forgotten_after_an_hour() {
        let (owners, owner) = (Owners::default(), owner());
        owners.put("a", owner.clone(), Moment::ZERO);
        assert!(owners.get("a", Moment::ZERO + KEEP).is_some());
        let later = Moment::ZERO + KEEP + Duration::from_secs(1);
        assert!(owners.get("a", later).is_none());
        owners.put("b", owner, later);
        assert_eq!(owners.by_id.len(), 1);
    }
}
