//! A pool: its description, its members, and the state that its lock guards.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::eligibility::PoolRules;
use super::member::PoolMember;
use crate::balance::{Candidate, HashKey, Policy, PolicyError, SeededRng};
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::health::retry_budget::RetryBudget;
use crate::fleet::load::length_estimate::LengthEstimators;
use crate::fleet::load::relative_speed::{SpeedEstimator, SpeedSample};
use crate::fleet::lock::lock;
use crate::fleet::observe::shadow::ShadowPolicy;
use crate::fleet::spec::member::policy_members;
use crate::fleet::{ApiKey, LeaseObserver, MemberSpec, PathPolicy, PoolSpec, Replica, Sticky};
use crate::units::{ModelNames, Moment, ReplicaId, Slot, Weight};

/// The mutable part of a pool.
pub(super) struct PoolState {
    pub(super) policy: Box<dyn Policy>,
    pub(super) rng: SeededRng,
    /// By slot.
    pub(super) member_health: Vec<MemberHealth>,
    pub(super) retry_budget: RetryBudget,
    pub(super) speed_estimator: SpeedEstimator,
    /// Time when a member was first in service.
    pub(super) first_ready_at: Option<Moment>,
    /// The candidates of the last choice; reused to save an allocation.
    pub(super) candidates: Vec<Candidate>,
    /// The tried slots of the last choice; reused to save an allocation.
    pub(super) tried: Vec<Slot>,
    /// Whether the hot-key warning has been raised.
    pub(super) hot_key_reported: bool,
}

/// Replicas that can serve the same requests.
pub struct Pool {
    pub(super) spec: PoolSpec,
    /// A copy of `spec` for logged decisions, which may outlive the pool.
    pub(super) shared_spec: Arc<PoolSpec>,
    /// By slot.
    pub(super) members: Vec<PoolMember>,
    pub(super) shadow: Option<Arc<ShadowPolicy>>,
    observer: Arc<dyn LeaseObserver>,
    /// Guards the choice and the members' health.
    state: Mutex<PoolState>,
    pub(super) hot_key_warning: AtomicBool,
    pub(super) length_estimators: Arc<LengthEstimators>,
    /// Whether some member has a `slow_start`; without one, no ramp is kept.
    pub(super) has_slow_start: bool,
    /// Whether all members have the default weight, so that their relative speeds are learned.
    pub(super) learns_speed: bool,
}

impl Pool {
    /// Creates a pool of `replicas`, one for each member of `spec`.
    ///
    /// *Errors*: a policy cannot be built for the members.
    pub(in crate::fleet) fn new(
        spec: PoolSpec,
        replicas: Vec<Arc<Replica>>,
        observer: Arc<dyn LeaseObserver>,
        seed: u64,
    ) -> Result<Self, PolicyError> {
        let state = PoolState {
            policy: spec.policy.build(&policy_members(&spec.members))?,
            rng: SeededRng::from_seed(seed),
            member_health: spec.members.iter().map(|m| MemberHealth::new(m.eject_limits)).collect(),
            retry_budget: RetryBudget::default(),
            speed_estimator: SpeedEstimator::new(spec.members.len()),
            first_ready_at: None,
            candidates: Vec::with_capacity(spec.members.len()),
            tried: Vec::new(),
            hot_key_reported: false,
        };
        let shadow =
            spec.shadow.as_ref().map(|policy| ShadowPolicy::new(policy, &spec.members, &replicas, seed)).transpose()?;
        let member = |(spec, replica): (&MemberSpec, Arc<Replica>)| PoolMember { replica, spec: spec.clone() };
        Ok(Self {
            members: spec.members.iter().zip(replicas).map(member).collect(),
            shadow: shadow.map(Arc::new),
            observer,
            state: Mutex::new(state),
            hot_key_warning: AtomicBool::new(false),
            length_estimators: Arc::new(LengthEstimators::new(spec.token_accounting.media_tokens)),
            has_slow_start: spec.members.iter().any(|m| !m.slow_start.is_zero()),
            learns_speed: spec.members.iter().all(|m| m.weight == Weight::ONE),
            shared_spec: Arc::new(spec.clone()),
            spec,
        })
    }

    /// Takes over the history of `old`, the pool of the same name before a reload, for the replicas that stay.
    pub(in crate::fleet) fn inherit(&mut self, old: &Self) {
        if self.spec.token_accounting.media_tokens == old.spec.token_accounting.media_tokens {
            self.length_estimators = old.length_estimators.clone();
        }
        if let (Some(shadow), Some(old)) = (self.shadow.as_mut().and_then(Arc::get_mut), &old.shadow) {
            shadow.inherit(old);
        }
        let (first_ready_at, retry_budget, old_health) = {
            let state = old.lock_state();
            let history = old.members.iter().zip(&state.member_health);
            let history: Vec<_> =
                history.map(|(m, health)| (m.replica.id(), m.is_in_service(old.rules()), health.clone())).collect();
            (state.first_ready_at, state.retry_budget.clone(), history)
        };
        let mut state = self.lock_state();
        state.first_ready_at = first_ready_at;
        state.retry_budget = retry_budget;
        for (member, health) in self.members.iter().zip(&mut state.member_health) {
            let before = old_health.iter().find(|(id, ..)| *id == member.replica.id());
            *health = match before {
                Some((_, was_in_service, old)) if *was_in_service || !member.is_in_service(self.rules()) => {
                    old.clone().with_limits(member.spec.eject_limits)
                }
                Some((_, _, old)) => old.clone().with_limits(member.spec.eject_limits).into_new_member(),
                None => health.clone().into_new_member(),
            };
        }
    }

    /// Returns the pool's description.
    pub const fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Returns the pool's name.
    pub const fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// Returns the policy's name in the table.
    pub fn policy_name(&self) -> &'static str {
        self.spec.policy.name()
    }

    /// Returns the policy's hash key, if it has one.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.spec.policy.key()
    }

    /// Returns, once, whether most requests have the same key, so that the policy hardly spreads any load.
    pub fn take_hot_key_warning(&self) -> bool {
        self.hot_key_warning.load(Ordering::Relaxed) && self.hot_key_warning.swap(false, Ordering::Relaxed)
    }

    /// Returns the configured model names; empty if they are learned.
    pub const fn configured_models(&self) -> &ModelNames {
        &self.spec.models
    }

    /// Returns the paths of its replicas that clients can reach.
    pub const fn path_policy(&self) -> &PathPolicy {
        &self.spec.path_policy
    }

    /// Returns the pool that serves a request when this one has no replica for it.
    pub const fn fallback(&self) -> Option<&Arc<str>> {
        self.spec.fallback.as_ref()
    }

    /// Returns the key that its replicas require.
    pub const fn api_key(&self) -> Option<&ApiKey> {
        self.spec.api_key.as_ref()
    }

    /// Returns the session affinity.
    pub const fn sticky(&self) -> Option<&Sticky> {
        self.spec.sticky.as_ref()
    }

    /// Returns the replicas, in configuration order.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Arc<Replica>> {
        self.members.iter().map(|m| &m.replica)
    }

    /// Returns the member with this [`Replica::cookie_token`].
    pub fn find_replica_by_token(&self, cookie_token: &str) -> Option<ReplicaId> {
        self.replicas().find(|replica| replica.cookie_token() == cookie_token).map(|replica| replica.id())
    }

    /// Records the speed that a response of a member has shown.
    pub(super) fn record_speed(&self, slot: Slot, sample: SpeedSample) {
        if self.learns_speed && self.spec.policy.needs_prefix() {
            self.lock_state().speed_estimator.record(slot.index(), sample);
        }
    }

    pub(super) const fn observer(&self) -> &Arc<dyn LeaseObserver> {
        &self.observer
    }

    pub(super) fn lock_state(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.state)
    }

    pub(super) fn rules(&self) -> PoolRules {
        let needs_model_list = self.needs_model_list();
        PoolRules {
            needs_model_list,
            learns_models: needs_model_list && self.spec.models.is_empty(),
            ejection_enabled: self.members.len() > 1,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}
