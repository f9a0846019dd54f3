//! The replicas that hold stored responses, so that follow-up requests reach the right one.

use std::sync::Arc;
use std::time::Duration;

use super::bounded_map::BoundedMap;
use crate::units::{Moment, ReplicaId};

/// The most ids that are kept. At most 256 bytes of id each: about 42 MB at worst, 17 MB with the ids of engines.
const MAX_RESPONSE_IDS: usize = 100_000;
/// The time for which an id is kept.
const RESPONSE_ID_LIFETIME: Duration = Duration::from_secs(3_600);

/// The replica that holds a stored response.
#[derive(Clone, Debug)]
pub(in crate::server) struct ResponseOwner {
    /// By name, because a reload replaces the pool.
    pub(in crate::server) pool: Arc<str>,
    pub(in crate::server) replica: ReplicaId,
    /// The tenant whose request made the response; `None` without keys.
    pub(in crate::server) tenant: Option<Arc<str>>,
}

/// A bounded map from response ids to their replicas. The oldest ids are evicted first.
pub(in crate::server) struct ResponseTable {
    owners: BoundedMap<ResponseOwner>,
}

/// The owner of a response whose id is not known yet.
pub(in crate::server) struct OwnerRegistration {
    pub(super) table: Arc<ResponseTable>,
    pub(super) owner: ResponseOwner,
}

impl OwnerRegistration {
    /// Records the owner of the response with this id.
    pub(in crate::server) fn record(self, id: &str, now: Moment) {
        self.table.insert(id, self.owner, now);
    }
}

impl Default for ResponseTable {
    fn default() -> Self {
        Self { owners: BoundedMap::new(MAX_RESPONSE_IDS) }
    }
}

impl ResponseTable {
    /// Records the owner of a response.
    fn insert(&self, id: &str, owner: ResponseOwner, now: Moment) {
        self.owners.insert(id.as_bytes(), owner, RESPONSE_ID_LIFETIME, now);
    }

    /// Returns the owner of a response; `None` if it is unknown.
    pub(in crate::server) fn get(&self, id: &str, now: Moment) -> Option<ResponseOwner> {
        self.owners.get(id.as_bytes(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> ResponseOwner {
        ResponseOwner { pool: "p".into(), replica: ReplicaId(1), tenant: None }
    }

    #[test]
    fn table_is_bounded_and_evicts_the_oldest_ids() {
        let (table, owner) = (ResponseTable::default(), owner());
        for i in 0..MAX_RESPONSE_IDS + 10 {
            table.insert(&i.to_string(), owner.clone(), Moment::ZERO);
        }
        assert_eq!(table.owners.len(), MAX_RESPONSE_IDS);
        assert!(table.get("9", Moment::ZERO).is_none());
        assert!(table.get("10", Moment::ZERO).is_some());
    }

    #[test]
    fn id_expires_after_an_hour() {
        let (table, owner) = (ResponseTable::default(), owner());
        table.insert("a", owner.clone(), Moment::ZERO);
        assert!(table.get("a", Moment::ZERO + RESPONSE_ID_LIFETIME).is_some());
        let later = Moment::ZERO + RESPONSE_ID_LIFETIME + Duration::from_secs(1);
        assert!(table.get("a", later).is_none());
        table.insert("b", owner, later);
        assert_eq!(table.owners.len(), 1);
    }
}
