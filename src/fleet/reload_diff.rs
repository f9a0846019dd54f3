//! The changes that a reload has made, for logs and the admin listener.

use std::fmt;
use std::sync::Arc;

use super::snapshot::FleetSnapshot;
use super::spec::member::policy_members;
use super::{Pool, Replica};
use crate::balance;

/// Names of added, removed and changed pools and replicas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReloadDiff {
    /// Added pools.
    pub pools_added: Vec<Arc<str>>,
    /// Pools whose description has changed.
    pub pools_changed: Vec<Arc<str>>,
    /// Removed pools.
    pub pools_removed: Vec<Arc<str>>,
    /// Added replicas.
    pub replicas_added: Vec<Arc<str>>,
    /// Removed replicas; requests on them complete there.
    pub replicas_removed: Vec<Arc<str>>,
    /// Changed pools with a hash policy, each with the share of keys that moved to another replica, 0 to 1. Empty
    /// unless the change was a reload.
    pub keys_moved: Vec<(Arc<str>, f64)>,
}

impl ReloadDiff {
    /// Returns the changes from one generation to the next.
    pub(super) fn new(before: &FleetSnapshot, after: &FleetSnapshot) -> Self {
        let pool_names = |from: &FleetSnapshot, matches: &dyn Fn(&Arc<Pool>) -> bool| {
            from.pools.iter().filter(|pool| matches(pool)).map(|pool| pool.name().clone()).collect()
        };
        let contains =
            |replicas: &[Arc<Replica>], wanted: &Replica| replicas.iter().any(|replica| replica.id() == wanted.id());
        let replicas_only_in = |from: &FleetSnapshot, other: &FleetSnapshot| {
            let gone = from.replicas.iter().filter(|replica| !contains(&other.replicas, replica));
            gone.map(|replica| replica.name().clone()).collect()
        };
        let is_same = |pool: &Arc<Pool>| before.pools.iter().any(|old| Arc::ptr_eq(old, pool));
        Self {
            pools_added: pool_names(after, &|pool| before.pool(pool.name()).is_none()),
            pools_changed: pool_names(after, &|pool| before.pool(pool.name()).is_some() && !is_same(pool)),
            pools_removed: pool_names(before, &|pool| after.pool(pool.name()).is_none()),
            replicas_added: replicas_only_in(after, before),
            replicas_removed: replicas_only_in(before, after),
            keys_moved: Vec::new(),
        }
    }

    /// Sets `keys_moved`.
    pub(super) fn record_moved_keys(&mut self, before: &FleetSnapshot, after: &FleetSnapshot) {
        for name in &self.pools_changed {
            let (Some(old), Some(new)) = (before.pool(name), after.pool(name)) else { continue };
            let (old, new) = (old.spec(), new.spec());
            let (old_members, new_members) = (policy_members(&old.members), policy_members(&new.members));
            let share = balance::moved_share((&old.policy, &old_members), (&new.policy, &new_members));
            self.keys_moved.extend(share.map(|share| (name.clone(), share)));
        }
    }

    /// Returns whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
        let changes: Vec<String> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(change, names)| format!("{change}: {}", names.join(", ")))
            .collect();
        f.write_str(if self.is_empty() { "nothing" } else { "" })?;
        f.write_str(&changes.join("; "))?;
        for (pool, share) in &self.keys_moved {
            write!(f, "; keys moved: {:.1} % of {pool}", share * 100.0)?;
        }
        Ok(())
    }
}
