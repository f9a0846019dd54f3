//! The construction of the next generation of the fleet.

use std::sync::Arc;

use super::load::prefix_cache::CacheSlotAllocator;
use super::snapshot::FleetSnapshot;
use super::{FleetSpec, LeaseObserver, MemberSpec, Pool, PoolSpec, Replica, RoutedPools};
use crate::balance::{PolicyError, SeededRng};
use crate::units::ReplicaId;

/// Maximum of replicas that are prepared and not part of a generation yet.
const MAX_PREPARED_REPLICAS: usize = 4_096;

/// The state that outlives generations.
pub(super) struct FleetBuilder {
    observer: Arc<dyn LeaseObserver>,
    rng: SeededRng,
    next_id: u64,
    cache_slots: CacheSlotAllocator,
    /// Replicas that are expected in the next generation.
    prepared: Vec<Arc<Replica>>,
}

impl FleetBuilder {
    pub(super) fn new(observer: Arc<dyn LeaseObserver>, seed: u64) -> Self {
        Self {
            observer,
            rng: SeededRng::from_seed(seed),
            next_id: 0,
            cache_slots: CacheSlotAllocator::default(),
            prepared: Vec::new(),
        }
    }

    /// Builds the generation after `before`, with its replicas and the prepared ones where they match.
    ///
    /// *Errors*: a policy cannot be built for its pool's members.
    pub(super) fn build_snapshot(
        &mut self,
        FleetSpec { pools: specs, routes }: FleetSpec,
        before: &FleetSnapshot,
    ) -> Result<FleetSnapshot, PolicyError> {
        let mut replicas: Vec<Arc<Replica>> = Vec::new();
        let mut pools = Vec::with_capacity(specs.len());
        for spec in specs {
            let members = self.find_or_build_replicas(&spec, before, &mut replicas);
            pools.push(self.build_pool(spec, members, before)?);
        }
        Ok(FleetSnapshot {
            routed_pools: routes.routes().iter().map(|route| Arc::new(RoutedPools::new(route, &pools))).collect(),
            routes,
            needs_body: pools.iter().any(|pool| pool.needs_body()),
            needs_prefix: pools.iter().any(|pool| pool.needs_prefix()),
            cuts_metadata: pools.iter().any(|pool| pool.spec().agents.cuts_metadata),
            pools,
            replicas,
        })
    }

    /// Returns the replicas of a pool's members, and adds the new ones to `replicas`.
    fn find_or_build_replicas(
        &mut self,
        spec: &PoolSpec,
        before: &FleetSnapshot,
        replicas: &mut Vec<Arc<Replica>>,
    ) -> Vec<Arc<Replica>> {
        let mut members = Vec::with_capacity(spec.members.len());
        for member in &spec.members {
            let mut known = replicas.iter().chain(&before.replicas).chain(&self.prepared);
            let known = known.find(|replica| replica.matches_spec(member)).cloned();
            let replica = known.unwrap_or_else(|| self.build_replica(member));
            if !replicas.iter().any(|r| r.id() == replica.id()) {
                replicas.push(replica.clone());
            }
            members.push(replica);
        }
        members
    }

    /// Returns the pool of `spec`: the one before if its description is the same, else a new one with its history.
    ///
    /// *Errors*: the policy cannot be built.
    fn build_pool(
        &mut self,
        spec: PoolSpec,
        members: Vec<Arc<Replica>>,
        before: &FleetSnapshot,
    ) -> Result<Arc<Pool>, PolicyError> {
        let old = before.pool(&spec.name);
        if let Some(old) = old.filter(|old| *old.spec() == spec) {
            return Ok(old.clone());
        }
        let mut pool = Pool::new(spec, members, self.observer.clone(), self.rng.next_u64())?;
        if let Some(old) = old {
            pool.inherit(old);
        }
        Ok(Arc::new(pool))
    }

    /// Returns the replica prepared for `member`, which is new; `None` if a replica of `present` or a prepared one
    /// matches.
    pub(super) fn prepare_replica(&mut self, member: &MemberSpec, present: &[Arc<Replica>]) -> Option<Arc<Replica>> {
        if present.iter().chain(&self.prepared).any(|replica| replica.matches_spec(member)) {
            return None;
        }
        let replica = self.build_replica(member);
        self.prepared.push(replica.clone());
        Some(replica)
    }

    /// Removes the oldest prepared replicas beyond [`MAX_PREPARED_REPLICAS`].
    pub(super) fn limit_prepared(&mut self) {
        let surplus = self.prepared.len().saturating_sub(MAX_PREPARED_REPLICAS);
        self.prepared.drain(..surplus);
    }

    /// Removes the prepared replicas that are part of `next`; others may still be in preparation elsewhere.
    pub(super) fn release_prepared(&mut self, next: &FleetSnapshot) {
        self.prepared.retain(|replica| !next.replicas.iter().any(|known| known.id() == replica.id()));
    }

    fn build_replica(&mut self, member: &MemberSpec) -> Arc<Replica> {
        let id = ReplicaId(self.next_id);
        self.next_id += 1;
        Arc::new(Replica::new(id, member, self.cache_slots.allocate()))
    }
}
