//! Floor 2: the state that requests share: pools, replicas and the leases on them. One lock per pool, no I/O, no clock.

mod lease;
mod origin;
mod pace;
mod pool;
mod replica;
mod site;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use lease::{Lease, Observer, Outcome, Phase, Progress, Report};
pub use origin::{BadOrigin, Origin};
pub use pool::{Attempt, NoReplica, Pool};
pub use replica::{MODELS_PER_REPLICA, Models, Replica};
pub use site::{NoPool, Site};
pub use spec::{ApiKey, MemberSpec, Paths, PolicySpec, PoolSpec, Route};

use crate::balance::{BadPolicy, Dice, Key};
use crate::units::ReplicaId;

/// Everything requests can be routed to. No singleton: a simulation makes several.
pub struct Fleet {
    table: ArcSwap<Table>,
}

/// One generation of the fleet: never changed, only replaced.
struct Table {
    pools: Vec<Arc<Pool>>,
    sites: Vec<Arc<site::Site>>,
    replicas: Vec<Arc<Replica>>,
    /// Some pool's policy wants to know a request by what its body says.
    asks_body: bool,
}

impl Fleet {
    /// Makes a fleet. Members of several pools that have one origin are one replica. `seed` feeds the policies' dice.
    ///
    /// *Errors*: a policy cannot be made for its pool's members.
    pub fn new(specs: Vec<PoolSpec>, observer: &Arc<dyn Observer>, seed: u64) -> Result<Self, BadPolicy> {
        let mut dice = Dice::seeded(seed);
        let mut replicas: BTreeMap<Origin, Arc<Replica>> = BTreeMap::new();
        let mut routed = Vec::new();
        for spec in specs {
            let mut members = Vec::with_capacity(spec.members.len());
            for member in &spec.members {
                let id = ReplicaId(replicas.len() as u64);
                let fresh = || Arc::new(Replica::new(id, member));
                members.push(replicas.entry(member.origin.clone()).or_insert_with(fresh).clone());
            }
            let route = spec.route.clone();
            routed.push((route, Arc::new(Pool::new(spec, members, observer.clone(), dice.bits())?)));
        }
        let reads = |(_, pool): &(Route, Arc<Pool>)| pool.key().is_some_and(Key::asks_body);
        let table = Table {
            asks_body: routed.iter().any(reads),
            sites: site::sites(&routed),
            pools: routed.into_iter().map(|(_, pool)| pool).collect(),
            replicas: replicas.into_values().collect(),
        };
        Ok(Self { table: ArcSwap::from_pointee(table) })
    }

    /// Finds the pools that share a request's host and path. `None` if no pool takes them.
    pub fn site(&self, host: &str, path: &str) -> Option<Arc<Site>> {
        site::find(&self.table.load().sites, host, path).cloned()
    }

    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.table.load().pools.iter().find(|p| &**p.name() == name).cloned()
    }

    /// Tells whether some pool's policy wants to know a request by what its body says. O(1).
    pub fn asks_body(&self) -> bool {
        self.table.load().asks_body
    }

    /// All pools, in configuration order.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.table.load().pools.clone()
    }

    /// All replicas, each once.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.table.load().replicas.clone()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pools()).finish()
    }
}
