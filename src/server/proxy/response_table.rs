//! Which replica holds which stored response, so that follow-ups go where the answer is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use crate::units::{Moment, ReplicaId};

/// The most ids remembered. At most 256 bytes of id each: about 42 MB at worst, 17 MB as engines write ids.
const MAX_RESPONSE_IDS: usize = 100_000;
/// How long an id is remembered.
const RESPONSE_ID_LIFETIME: Duration = Duration::from_secs(3_600);

/// A replica as an owner of responses.
#[derive(Clone, Debug)]
pub(in crate::server) struct ResponseOwner {
    /// The pool's name: after a reload there is another pool behind it.
    pub(in crate::server) pool: Arc<str>,
    pub(in crate::server) replica: ReplicaId,
    /// The name of the key that the response was made with.
    pub(in crate::server) tenant: Option<Arc<str>>,
}

/// A bounded map from response ids to their replicas; the oldest ids go first.
#[derive(Default)]
pub(in crate::server) struct ResponseTable {
    by_id: DashMap<Arc<str>, (ResponseOwner, Moment)>,
    /// Guards the order in which ids came.
    insertion_order: Mutex<VecDeque<(Arc<str>, Moment)>>,
}

impl ResponseTable {
    /// Remembers an id, and forgets what is too old or one too many.
    pub(in crate::server) fn insert(&self, id: &str, owner: ResponseOwner, now: Moment) {
        let id: Arc<str> = id.into();
        let mut order = self.insertion_order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.by_id.insert(id.clone(), (owner, now)).is_none() {
            order.push_back((id, now));
        }
        while let Some((_, since)) = order.front() {
            if order.len() <= MAX_RESPONSE_IDS && now.since(*since) <= RESPONSE_ID_LIFETIME {
                break;
            }
            if let Some((oldest, _)) = order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// Finds the owner of an id.
    pub(in crate::server) fn get(&self, id: &str, now: Moment) -> Option<ResponseOwner> {
        let entry = self.by_id.get(id)?;
        let (owner, since) = entry.value();
        (now.since(*since) <= RESPONSE_ID_LIFETIME).then(|| owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> ResponseOwner {
        ResponseOwner { pool: "p".into(), replica: ReplicaId(1), tenant: None }
    }

    #[test]
    fn the_map_stays_bounded_and_forgets_the_oldest_first() {
        let (owners, owner) = (ResponseTable::default(), owner());
        for i in 0..MAX_RESPONSE_IDS + 10 {
            owners.insert(&i.to_string(), owner.clone(), Moment::ZERO);
        }
        assert_eq!(owners.by_id.len(), MAX_RESPONSE_IDS);
        assert!(owners.get("9", Moment::ZERO).is_none());
        assert!(owners.get("10", Moment::ZERO).is_some());
    }

    #[test]
    fn an_id_is_forgotten_after_an_hour() {
        let (owners, owner) = (ResponseTable::default(), owner());
        owners.insert("a", owner.clone(), Moment::ZERO);
        assert!(owners.get("a", Moment::ZERO + RESPONSE_ID_LIFETIME).is_some());
        let later = Moment::ZERO + RESPONSE_ID_LIFETIME + Duration::from_secs(1);
        assert!(owners.get("a", later).is_none());
        owners.insert("b", owner, later);
        assert_eq!(owners.by_id.len(), 1);
    }
}
