//! Layer 2: the state that requests share: pools, replicas and the leases on them. One lock per pool, no I/O, no clock.

mod builder;
mod health;
mod lease_report;
mod load;
mod lock;
mod observe;
mod outcome;
mod pool;
mod reload_diff;
mod replica;
mod routed_pools;
mod snapshot;
mod spec;

use std::fmt;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

pub use health::port_state::{HUNG_AFTER, PortState};
pub use health::retry_budget::{RetryBudgetLimits, RetryStats};
pub use lease_report::{LeaseObserver, LeaseReport, LeaseTimeline};
pub use load::engine_stats::{EngineReport, EngineStats, ExternalLoad};
pub use load::length_estimate::{LengthEstimate, LengthEstimator};
pub use load::token_intervals::{INTERVAL_BOUNDS_SECONDS, TokenIntervals};
pub use observe::decision_log::{
    CandidateTerms, ChoiceReason, ChosenReplica, DecisionLog, DecisionRecord, DecisionResult, LoggedRequest,
    RecentDecision,
};
pub use observe::shadow::ShadowResult;
pub use outcome::{Outcome, Phase, ResponseProgress};
pub use pool::acquire_request::{AcquireRequest, ChoiceObservers, ReplicaPin};
pub use pool::eligibility::{MemberState, NoReplica};
pub use pool::lease::Lease;
pub use pool::member_status::MemberStatus;
pub use pool::{HealthTransition, Pool};
pub use reload_diff::ReloadDiff;
pub use replica::{MAX_MODELS_PER_REPLICA, ModelListFault, Replica, ReplicaModels};
pub use routed_pools::{FoundRoute, PoolLookupError, RoutedPools};
pub use spec::failure_policy::{FailurePolicy, HealthCheck};
pub use spec::fleet::FleetSpec;
pub use spec::member::{DnsLookup, MemberSpec};
pub use spec::origin::{Origin, OriginError};
pub use spec::path_policy::PathPolicy;
pub use spec::pool::{AgentOptions, ApiKey, PoolSpec, TokenAccounting};
pub use spec::sticky::{SameSite, Sticky, StickyCookie, StickyVariable};
pub use spec::tls::{TrustRoots, UpstreamTls};

use crate::balance::PolicyError;
use crate::routes::{ArrivalAddr, Route, RouteLookup};
use builder::FleetBuilder;
use snapshot::FleetSnapshot;

/// All pools and replicas. No singleton: a simulation creates several.
pub struct Fleet {
    snapshot: ArcSwap<FleetSnapshot>,
    /// Guards the construction of the next generation; readers of the current one never wait for it.
    builder: Mutex<FleetBuilder>,
}

impl Fleet {
    /// Creates a fleet. `seed` seeds the policies' random numbers.
    ///
    /// *Errors*: a policy cannot be built for its pool's members.
    pub fn new(spec: impl Into<FleetSpec>, observer: &Arc<dyn LeaseObserver>, seed: u64) -> Result<Self, PolicyError> {
        let builder = FleetBuilder::new(observer.clone(), seed);
        let fleet = Self { snapshot: ArcSwap::default(), builder: Mutex::new(builder) };
        fleet.reload(spec)?;
        Ok(fleet)
    }

    /// Replaces the pools and routes, in one step. Returns what has changed.
    ///
    /// A pool with the same description stays as it is. A replica that stays keeps its identity, load and failures;
    /// requests on a removed one complete there. *Errors*: as [`Fleet::new`]; then nothing has changed.
    pub fn reload(&self, spec: impl Into<FleetSpec>) -> Result<ReloadDiff, PolicyError> {
        let mut builder = lock::lock(&self.builder);
        let before = self.snapshot.load_full();
        let mut diff = self.apply_spec(&mut builder, spec.into())?;
        drop(builder);
        diff.record_moved_keys(&before, &self.snapshot.load());
        Ok(diff)
    }

    /// Creates the replicas that a reload of `specs` would add. Returns those that have a model list, with the API key
    /// they require.
    ///
    /// A replica whose models are known before the reload can be chosen from its first moment on.
    pub fn prepare_replicas(&self, specs: &[PoolSpec]) -> Vec<(Arc<Replica>, Option<ApiKey>)> {
        let mut builder = lock::lock(&self.builder);
        let present = self.replicas();
        let mut prepared = Vec::new();
        for spec in specs {
            for member in &spec.members {
                let Some(replica) = builder.prepare_replica(member, &present) else { continue };
                if spec.path_policy != PathPolicy::Any {
                    prepared.push((replica, spec.api_key.clone()));
                }
            }
        }
        builder.limit_prepared();
        prepared
    }

    /// Changes the description of one pool, in one step. `None` if there is no pool of this name.
    ///
    /// *Errors*: that of `change`, or as [`Fleet::new`]; then nothing has changed.
    pub fn edit_pool<E: From<PolicyError>>(
        &self,
        pool: &str,
        change: impl FnOnce(&mut PoolSpec) -> Result<(), E>,
    ) -> Option<Result<ReloadDiff, E>> {
        let mut builder = lock::lock(&self.builder);
        let mut fleet = self.spec();
        let spec = fleet.pools.iter_mut().find(|spec| &*spec.name == pool)?;
        Some(change(spec).and_then(|()| self.apply_spec(&mut builder, fleet).map_err(E::from)))
    }

    fn spec(&self) -> FleetSpec {
        let snapshot = self.snapshot.load();
        let pools = snapshot.pools.iter().map(|pool| pool.spec().clone()).collect();
        FleetSpec { pools, routes: snapshot.routes.clone() }
    }

    fn apply_spec(&self, builder: &mut FleetBuilder, spec: FleetSpec) -> Result<ReloadDiff, PolicyError> {
        let before = self.snapshot.load_full();
        let next = builder.build_snapshot(spec, &before)?;
        let diff = ReloadDiff::new(&before, &next);
        builder.release_prepared(&next);
        self.snapshot.store(Arc::new(next));
        Ok(diff)
    }

    /// Returns the route of a request, with its pools: by the address of its connection, by `host` (lower case, without
    /// port) and by the path as received.
    pub fn find_route(&self, arrival: &ArrivalAddr, host: &str, path: &str) -> FoundRoute {
        let snapshot = self.snapshot.load();
        let pools = |route: &Route| snapshot.routed_pools.get(route.index).cloned();
        match snapshot.routes.find(arrival, host, path) {
            RouteLookup::Found(route) => pools(route).map_or(FoundRoute::Unknown, FoundRoute::Route),
            RouteLookup::AddSlash(route) => pools(route).map_or(FoundRoute::Unknown, FoundRoute::AddSlash),
            RouteLookup::Unknown if snapshot.routes.has_closed_hosts() => FoundRoute::Closed,
            RouteLookup::Unknown => FoundRoute::Unknown,
        }
    }

    /// Returns the route whose settings hold for requests that are refused before their host is known.
    pub fn find_default_route(&self, arrival: &ArrivalAddr) -> Option<Arc<RoutedPools>> {
        let snapshot = self.snapshot.load();
        snapshot.routed_pools.get(snapshot.routes.find_default(arrival)?.index).cloned()
    }

    /// Returns the pool called `name`.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.snapshot.load().pool(name).cloned()
    }

    /// Returns whether some pool's policy has a hash key from the request's body. O(1).
    pub fn needs_body(&self) -> bool {
        self.snapshot.load().needs_body
    }

    /// Returns whether some pool's policy uses prompt fingerprints. O(1).
    pub fn needs_prefix(&self) -> bool {
        self.snapshot.load().needs_prefix
    }

    /// Returns whether some pool cuts clients' metadata from bodies. O(1).
    pub fn cuts_metadata(&self) -> bool {
        self.snapshot.load().cuts_metadata
    }

    /// Returns all pools, in configuration order.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.snapshot.load().pools.clone()
    }

    /// Returns all replicas, each once.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.snapshot.load().replicas.clone()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pools()).finish()
    }
}

#[cfg(test)]
mod tests;
