//! Floor 2: the state that requests share: pools, replicas and the leases on them. One lock per pool, no I/O, no clock.

mod attempt;
mod averages;
mod budget;
mod busy;
mod changes;
mod decisions;
mod door;
mod failing;
mod gaps;
mod lease;
mod load;
mod member;
mod meter;
mod origin;

mod outcome;
mod pool;
mod replica;
mod screening;
mod seat;
mod shadow;
mod signs;
mod site;
mod spec;
mod speed;
mod standing;
mod sticky;
#[cfg(test)]
mod tests;
mod trust;
mod vitals;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

pub use attempt::{Attempt, Beside, Pin};
pub use budget::{ReplayLimits, Replays};
pub use changes::Changes;
pub use decisions::{Decisions, End, Scored, Told};
pub use door::{Door, HUNG_AFTER};
pub use failing::{Check, Failing};
pub use gaps::{GAP_SECONDS, Gaps};
pub use lease::Lease;
pub use meter::{Measured, Meter};
pub use origin::{BadOrigin, Origin};
pub use outcome::{Observer, Outcome, Phase, Progress, Report};
pub use pool::{Checked, Pool};
pub use replica::{MODELS_PER_REPLICA, Models, Replica};
pub use screening::{NoReplica, State};
pub use shadow::Shadowed;
pub use site::{NoPool, Site};
pub use spec::{ApiKey, Lookup, MemberSpec, Metering, Paths, PolicySpec, PoolSpec, Refused, Route};
pub use sticky::{Cookie, SameSite, Sticky, Variable};
pub use trust::{Tls, Trust};
pub use vitals::{Foreign, Truth, Vitals};

use crate::balance::{BadPolicy, Dice};
use crate::units::ReplicaId;
use seat::Shelves;

/// The most replicas that are announced and have not come.
const ANNOUNCED: usize = 4_096;

/// Everything requests can be routed to. No singleton: a simulation makes several.
pub struct Fleet {
    table: ArcSwap<Table>,
    /// Guards the making of the next table; readers of the present one never wait for it.
    maker: Mutex<Maker>,
}

/// One generation of the fleet: never changed, only replaced.
#[derive(Default)]
struct Table {
    pools: Vec<Arc<Pool>>,
    sites: Vec<Arc<Site>>,
    replicas: Vec<Arc<Replica>>,
    /// Some pool's policy wants to know a request by what its body says.
    asks_body: bool,
    /// Some pool's policy wants to know where a prompt is cached.
    asks_prefix: bool,
}

/// What outlives the tables.
struct Maker {
    observer: Arc<dyn Observer>,
    dice: Dice,
    next_id: u64,
    shelves: Shelves,
    /// Replicas that are to come with the next table.
    announced: Vec<Arc<Replica>>,
}

impl Fleet {
    /// Makes a fleet. Members of several pools that have one origin are one replica. `seed` feeds the policies' dice.
    ///
    /// *Errors*: a policy cannot be made for its pool's members.
    pub fn new(specs: Vec<PoolSpec>, observer: &Arc<dyn Observer>, seed: u64) -> Result<Self, BadPolicy> {
        let maker = Maker {
            observer: observer.clone(),
            dice: Dice::seeded(seed),
            next_id: 0,
            shelves: Shelves::default(),
            announced: Vec::new(),
        };
        let fleet = Self { table: ArcSwap::default(), maker: Mutex::new(maker) };
        fleet.reload(specs)?;
        Ok(fleet)
    }

    /// Puts other pools in the place of the present ones, in one step. Returns what has changed.
    ///
    /// A pool whose description is the same stays as it is. A replica that stays keeps its identity, its load and its
    /// failures; requests on one that goes end where they are. *Errors*: as [`Fleet::new`]; nothing has changed then.
    pub fn reload(&self, specs: Vec<PoolSpec>) -> Result<Changes, BadPolicy> {
        let mut maker = self.maker();
        let before = self.table.load_full();
        let mut changes = self.replace(&mut maker, specs)?;
        drop(maker);
        changes.count_keys(&before, &self.table.load());
        Ok(changes)
    }

    /// Makes the replicas that a reload of `specs` would bring and returns those that have models to tell, with the key
    /// they ask for. Asked before the reload, they can be chosen from its first moment on.
    pub fn announce(&self, specs: &[PoolSpec]) -> Vec<(Arc<Replica>, Option<ApiKey>)> {
        let mut maker = self.maker();
        let present = self.replicas();
        let mut fresh = Vec::new();
        for spec in specs {
            for member in &spec.members {
                if present.iter().chain(&maker.announced).any(|replica| replica.is(member)) {
                    continue;
                }
                let replica = maker.replica(member);
                maker.announced.push(replica.clone());
                if spec.paths != Paths::Any {
                    fresh.push((replica, spec.api_key.clone()));
                }
            }
        }
        // What was announced and never came is let go of, the oldest first.
        let surplus = maker.announced.len().saturating_sub(ANNOUNCED);
        maker.announced.drain(..surplus);
        fresh
    }

    /// Changes the description of one pool, in one step. `None` if there is no pool of this name.
    ///
    /// *Errors*: what `change` says, or as [`Fleet::new`]; nothing has changed then.
    pub fn edit<E: From<BadPolicy>>(
        &self,
        pool: &str,
        change: impl FnOnce(&mut PoolSpec) -> Result<(), E>,
    ) -> Option<Result<Changes, E>> {
        let mut maker = self.maker();
        let mut specs = self.specs();
        let spec = specs.iter_mut().find(|spec| &*spec.name == pool)?;
        Some(change(spec).and_then(|()| self.replace(&mut maker, specs).map_err(E::from)))
    }

    fn specs(&self) -> Vec<PoolSpec> {
        self.table.load().pools.iter().map(|pool| pool.spec().clone()).collect()
    }

    fn maker(&self) -> MutexGuard<'_, Maker> {
        // Nothing under the lock can leave it half-changed.
        self.maker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, maker: &mut Maker, specs: Vec<PoolSpec>) -> Result<Changes, BadPolicy> {
        let before = self.table.load_full();
        let next = maker.table(specs, &before)?;
        let changes = Changes::between(&before, &next);
        // Others may be asked right now for whoever announced them.
        let has_come = |replica: &Arc<Replica>| next.replicas.iter().any(|known| known.id() == replica.id());
        maker.announced.retain(|replica| !has_come(replica));
        self.table.store(Arc::new(next));
        Ok(changes)
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

    /// Tells whether some pool's policy wants to know where a prompt is cached. O(1).
    pub fn asks_prefix(&self) -> bool {
        self.table.load().asks_prefix
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

impl Maker {
    fn table(&mut self, specs: Vec<PoolSpec>, before: &Table) -> Result<Table, BadPolicy> {
        let mut replicas: Vec<Arc<Replica>> = Vec::new();
        let mut routed = Vec::with_capacity(specs.len());
        for spec in specs {
            let members: Vec<Arc<Replica>> = spec
                .members
                .iter()
                .map(|member| {
                    let known = replicas
                        .iter()
                        .chain(&before.replicas)
                        .chain(&self.announced)
                        .find(|replica| replica.is(member))
                        .cloned();
                    let replica = known.unwrap_or_else(|| self.replica(member));
                    if !replicas.iter().any(|r| r.id() == replica.id()) {
                        replicas.push(replica.clone());
                    }
                    replica
                })
                .collect();
            let old = before.pools.iter().find(|pool| pool.name() == &spec.name);
            let pool = match old {
                Some(old) if *old.spec() == spec => old.clone(),
                _ => {
                    let mut pool = Pool::new(spec, members, self.observer.clone(), self.dice.bits())?;
                    if let Some(old) = old {
                        pool.take_over(old);
                    }
                    Arc::new(pool)
                }
            };
            routed.push(pool);
        }
        let asks_body = routed.iter().any(|pool| pool.asks_body());
        let asks_prefix = routed.iter().any(|pool| pool.asks_prefix());
        Ok(Table { sites: site::sites(&routed), pools: routed, replicas, asks_body, asks_prefix })
    }

    fn replica(&mut self, member: &MemberSpec) -> Arc<Replica> {
        let id = ReplicaId(self.next_id);
        self.next_id += 1;
        Arc::new(Replica::new(id, member, self.shelves.seat()))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pools()).finish()
    }
}
