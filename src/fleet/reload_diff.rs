//! What a reload has changed, for people.

use std::fmt;
use std::sync::Arc;

use super::pool::member::policy_members;
use super::{FleetSnapshot, Pool, Replica};
use crate::balance;

/// The names of what came, went or is described otherwise than before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadDiff {
    /// Pools that are new.
    pub pools_added: Vec<Arc<str>>,
    /// Pools that are described otherwise than before.
    pub pools_changed: Vec<Arc<str>>,
    /// Pools that are gone.
    pub pools_removed: Vec<Arc<str>>,
    /// Replicas that are new.
    pub replicas_added: Vec<Arc<str>>,
    /// Replicas that are gone; requests on them end where they are.
    pub replicas_removed: Vec<Arc<str>>,
    /// Pools that go by a key and are described otherwise than before, each with the share of keys that another replica
    /// has now, from 0 to 1; only a reload counts them.
    pub keys_moved: Vec<(Arc<str>, f64)>,
}

impl ReloadDiff {
    /// Counts the keys that have moved.
    pub(super) fn record_moved_keys(&mut self, before: &FleetSnapshot, after: &FleetSnapshot) {
        for name in &self.pools_changed {
            let named = |table: &FleetSnapshot| table.pools.iter().find(|pool| pool.name() == name).cloned();
            let (Some(old), Some(new)) = (named(before), named(after)) else { continue };
            let (was, is) = (policy_members(&old.spec().members), policy_members(&new.spec().members));
            let share = balance::moved_share((&old.spec().policy, &was), (&new.spec().policy, &is));
            self.keys_moved.extend(share.map(|share| (name.clone(), share)));
        }
    }

    /// Tells whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn new(before: &FleetSnapshot, after: &FleetSnapshot) -> Self {
        let named = |pools: &[Arc<Pool>], name: &str| pools.iter().any(|pool| &**pool.name() == name);
        let kept = |replicas: &[Arc<Replica>], one: &Replica| replicas.iter().any(|replica| replica.id() == one.id());
        let pool_names = |from: &FleetSnapshot, wanted: &dyn Fn(&Arc<Pool>) -> bool| {
            from.pools.iter().filter(|pool| wanted(pool)).map(|pool| pool.name().clone()).collect()
        };
        let replica_names = |from: &FleetSnapshot, other: &FleetSnapshot| {
            let gone = from.replicas.iter().filter(|replica| !kept(&other.replicas, replica));
            gone.map(|replica| replica.name().clone()).collect()
        };
        let same = |pool: &Arc<Pool>| before.pools.iter().any(|old| Arc::ptr_eq(old, pool));
        Self {
            pools_added: pool_names(after, &|pool| !named(&before.pools, pool.name())),
            pools_changed: pool_names(after, &|pool| named(&before.pools, pool.name()) && !same(pool)),
            pools_removed: pool_names(before, &|pool| !named(&after.pools, pool.name())),
            replicas_added: replica_names(after, before),
            replicas_removed: replica_names(before, after),
            keys_moved: Vec::new(),
        }
    }
}

impl fmt::Display for ReloadDiff {
    /// One line, `nothing` if nothing has changed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("pools added", &self.pools_added),
            ("pools changed", &self.pools_changed),
            ("pools removed", &self.pools_removed),
            ("replicas added", &self.replicas_added),
            ("replicas removed", &self.replicas_removed),
        ];
        let told: Vec<String> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {}", names.join(", ")))
            .collect();
        f.write_str(if self.is_empty() { "nothing" } else { "" })?;
        f.write_str(&told.join("; "))?;
        for (pool, share) in &self.keys_moved {
            write!(f, "; keys moved: {:.1} % of {pool}", share * 100.0)?;
        }
        Ok(())
    }
}
