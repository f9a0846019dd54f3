//! Floor 2: the state that requests share: pools, replicas and the leases on them. One lock per pool, no I/O, no clock.

mod health;
mod load;
mod observe;
mod reload_diff;

mod outcome;
mod pool;
mod replica;
mod spec;
#[cfg(test)]
mod tests;
mod virtual_host;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

pub use health::port_state::{HUNG_AFTER, PortState};
pub use health::retry_budget::{RetryBudgetLimits, RetryStats};
pub use load::engine_stats::{EngineReport, EngineStats, ExternalLoad};
pub use load::length_estimate::{LengthEstimate, LengthEstimator};
pub use load::token_intervals::{INTERVAL_BOUNDS_SECONDS, TokenIntervals};
pub use observe::decision_log::{CandidateTerms, DecisionLog, DecisionRecord, DecisionResult};
pub use observe::shadow::ShadowResult;
pub use outcome::{LeaseObserver, LeaseReport, Outcome, Phase, ResponseProgress};
pub use pool::acquire_request::{AcquireRequest, ChoiceObservers, ReplicaPin};
pub use pool::eligibility::{MemberState, NoReplica};
pub use pool::lease::Lease;
pub use pool::{HealthTransition, Pool};
pub use reload_diff::ReloadDiff;
pub use replica::{MAX_MODELS_PER_REPLICA, Replica, ReplicaModels};
pub use spec::failure_policy::{FailurePolicy, HealthCheck};
pub use spec::origin::{Origin, OriginError};
pub use spec::sticky::{SameSite, Sticky, StickyCookie, StickyVariable};
pub use spec::tls::{TrustRoots, UpstreamTls};
pub use spec::{ApiKey, BlockedPath, DnsLookup, MemberSpec, PathPolicy, PoolSpec, Route, TokenAccounting};
pub use virtual_host::{PoolLookupError, VirtualHost};

use crate::balance::{PolicyError, SeededRng};
use crate::units::ReplicaId;
use load::prefix_cache::CacheSlotAllocator;

/// The most replicas that are announced and have not come.
const MAX_PREPARED_REPLICAS: usize = 4_096;

/// Everything requests can be routed to. No singleton: a simulation makes several.
pub struct Fleet {
    snapshot: ArcSwap<FleetSnapshot>,
    /// Guards the making of the next table; readers of the present one never wait for it.
    builder: Mutex<FleetBuilder>,
}

/// One generation of the fleet: never changed, only replaced.
#[derive(Default)]
struct FleetSnapshot {
    pools: Vec<Arc<Pool>>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    replicas: Vec<Arc<Replica>>,
    /// Some pool's policy wants to know a request by what its body says.
    needs_body: bool,
    /// Some pool's policy wants to know where a prompt is cached.
    needs_prefix: bool,
}

/// What outlives the tables.
struct FleetBuilder {
    observer: Arc<dyn LeaseObserver>,
    rng: SeededRng,
    next_id: u64,
    cache_slots: CacheSlotAllocator,
    /// Replicas that are to come with the next table.
    prepared: Vec<Arc<Replica>>,
}

impl Fleet {
    /// Makes a fleet. Members of several pools that have one origin are one replica. `seed` feeds the policies' dice.
    ///
    /// *Errors*: a policy cannot be made for its pool's members.
    pub fn new(specs: Vec<PoolSpec>, observer: &Arc<dyn LeaseObserver>, seed: u64) -> Result<Self, PolicyError> {
        let maker = FleetBuilder {
            observer: observer.clone(),
            rng: SeededRng::from_seed(seed),
            next_id: 0,
            cache_slots: CacheSlotAllocator::default(),
            prepared: Vec::new(),
        };
        let fleet = Self { snapshot: ArcSwap::default(), builder: Mutex::new(maker) };
        fleet.reload(specs)?;
        Ok(fleet)
    }

    /// Puts other pools in the place of the present ones, in one step. Returns what has changed.
    ///
    /// A pool whose description is the same stays as it is. A replica that stays keeps its identity, its load and its
    /// failures; requests on one that goes end where they are. *Errors*: as [`Fleet::new`]; nothing has changed then.
    pub fn reload(&self, specs: Vec<PoolSpec>) -> Result<ReloadDiff, PolicyError> {
        let mut maker = self.lock_builder();
        let before = self.snapshot.load_full();
        let mut changes = self.apply_specs(&mut maker, specs)?;
        drop(maker);
        changes.record_moved_keys(&before, &self.snapshot.load());
        Ok(changes)
    }

    /// Makes the replicas that a reload of `specs` would bring and returns those that have models to tell, with the key
    /// they ask for. Asked before the reload, they can be chosen from its first moment on.
    pub fn prepare_replicas(&self, specs: &[PoolSpec]) -> Vec<(Arc<Replica>, Option<ApiKey>)> {
        let mut maker = self.lock_builder();
        let present = self.replicas();
        let mut fresh = Vec::new();
        for spec in specs {
            for member in &spec.members {
                if present.iter().chain(&maker.prepared).any(|replica| replica.matches_spec(member)) {
                    continue;
                }
                let replica = maker.build_replica(member);
                maker.prepared.push(replica.clone());
                if spec.path_policy != PathPolicy::Any {
                    fresh.push((replica, spec.api_key.clone()));
                }
            }
        }
        // What was announced and never came is let go of, the oldest first.
        let surplus = maker.prepared.len().saturating_sub(MAX_PREPARED_REPLICAS);
        maker.prepared.drain(..surplus);
        fresh
    }

    /// Changes the description of one pool, in one step. `None` if there is no pool of this name.
    ///
    /// *Errors*: what `change` says, or as [`Fleet::new`]; nothing has changed then.
    pub fn edit_pool<E: From<PolicyError>>(
        &self,
        pool: &str,
        change: impl FnOnce(&mut PoolSpec) -> Result<(), E>,
    ) -> Option<Result<ReloadDiff, E>> {
        let mut maker = self.lock_builder();
        let mut specs = self.pool_specs();
        let spec = specs.iter_mut().find(|spec| &*spec.name == pool)?;
        Some(change(spec).and_then(|()| self.apply_specs(&mut maker, specs).map_err(E::from)))
    }

    fn pool_specs(&self) -> Vec<PoolSpec> {
        self.snapshot.load().pools.iter().map(|pool| pool.spec().clone()).collect()
    }

    fn lock_builder(&self) -> MutexGuard<'_, FleetBuilder> {
        // Nothing under the lock can leave it half-changed.
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_specs(&self, maker: &mut FleetBuilder, specs: Vec<PoolSpec>) -> Result<ReloadDiff, PolicyError> {
        let before = self.snapshot.load_full();
        let next = maker.build_snapshot(specs, &before)?;
        let changes = ReloadDiff::new(&before, &next);
        // Others may be asked right now for whoever announced them.
        let has_come = |replica: &Arc<Replica>| next.replicas.iter().any(|known| known.id() == replica.id());
        maker.prepared.retain(|replica| !has_come(replica));
        self.snapshot.store(Arc::new(next));
        Ok(changes)
    }

    /// Finds the pools that share a request's host and path. `None` if no pool takes them.
    pub fn virtual_host(&self, host: &str, path: &str) -> Option<Arc<VirtualHost>> {
        virtual_host::find_virtual_host(&self.snapshot.load().virtual_hosts, host, path).cloned()
    }

    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.snapshot.load().pools.iter().find(|p| &**p.name() == name).cloned()
    }

    /// Tells whether some pool's policy wants to know a request by what its body says. O(1).
    pub fn needs_body(&self) -> bool {
        self.snapshot.load().needs_body
    }

    /// Tells whether some pool's policy wants to know where a prompt is cached. O(1).
    pub fn needs_prefix(&self) -> bool {
        self.snapshot.load().needs_prefix
    }

    /// All pools, in configuration order.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.snapshot.load().pools.clone()
    }

    /// All replicas, each once.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.snapshot.load().replicas.clone()
    }
}

impl FleetBuilder {
    fn build_snapshot(&mut self, specs: Vec<PoolSpec>, before: &FleetSnapshot) -> Result<FleetSnapshot, PolicyError> {
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
                        .chain(&self.prepared)
                        .find(|replica| replica.matches_spec(member))
                        .cloned();
                    let replica = known.unwrap_or_else(|| self.build_replica(member));
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
                    let mut pool = Pool::new(spec, members, self.observer.clone(), self.rng.next_u64())?;
                    if let Some(old) = old {
                        pool.inherit(old);
                    }
                    Arc::new(pool)
                }
            };
            routed.push(pool);
        }
        let asks_body = routed.iter().any(|pool| pool.needs_body());
        let asks_prefix = routed.iter().any(|pool| pool.needs_prefix());
        Ok(FleetSnapshot {
            virtual_hosts: virtual_host::build_virtual_hosts(&routed),
            pools: routed,
            replicas,
            needs_body: asks_body,
            needs_prefix: asks_prefix,
        })
    }

    fn build_replica(&mut self, member: &MemberSpec) -> Arc<Replica> {
        let id = ReplicaId(self.next_id);
        self.next_id += 1;
        Arc::new(Replica::new(id, member, self.cache_slots.allocate()))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pools()).finish()
    }
}
