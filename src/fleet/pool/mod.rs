//! The replicas that can stand in for each other, and the choice among them.

pub(super) mod acquire_request;
pub(super) mod eligibility;
mod health;
pub(super) mod lease;
pub(super) mod member;
mod models;
mod observe;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::health::member_health::MemberHealth;
use super::health::retry_budget::RetryBudget;
use super::load::length_estimate::LengthEstimators;
use super::load::prefix_cache::PrefixLookup;
use super::load::relative_speed::{SpeedEstimator, SpeedSample};
use super::observe::shadow::ShadowPolicy;
use super::{
    AcquireRequest, ApiKey, Lease, LeaseObserver, MemberSpec, NoReplica, PathPolicy, PoolSpec, Replica, ReplicaPin,
    Sticky,
};
use crate::balance::{Candidate, HashKey, Policy, PolicyError, PolicyRequest, SeededRng, SlowdownFactors};
use crate::units::{ModelName, Moment, ReplicaId, Slot, Tokens, Weight};
use eligibility::EligibilityScan;
pub use health::HealthTransition;
use lease::LeaseParts;
use member::{PoolMember, PoolRules, policy_members};
use observe::ChoiceContext;
pub(super) use observe::RequestObservers;

/// What a pool's lock guards.
struct PoolState {
    policy: Box<dyn Policy>,
    rng: SeededRng,
    member_health: Vec<MemberHealth>,
    retry_budget: RetryBudget,
    speed_estimator: SpeedEstimator,
    /// When a member could first be chosen.
    first_ready_at: Option<Moment>,
    /// Kept to spare an allocation a choice.
    candidates: Vec<Candidate>,
    tried: Vec<Slot>,
    /// It has been said that the policy is lopsided.
    hot_key_reported: bool,
}

/// Replicas that can stand in for each other.
pub struct Pool {
    spec: PoolSpec,
    /// The same, for decisions to tell of when the pool is gone.
    shared_spec: Arc<PoolSpec>,
    members: Vec<PoolMember>,
    /// Who is asked beside the policy.
    shadow: Option<Arc<ShadowPolicy>>,
    observer: Arc<dyn LeaseObserver>,
    state: Mutex<PoolState>,
    hot_key_warning: AtomicBool,
    length_estimators: Arc<LengthEstimators>,
    /// Some member has a `slow_start`; without one nobody is looked after.
    has_slow_start: bool,
    /// No member was given a weight, so that their speeds are learned in its place.
    learns_speed: bool,
}

impl Pool {
    pub(super) fn new(
        spec: PoolSpec,
        replicas: Vec<Arc<Replica>>,
        observer: Arc<dyn LeaseObserver>,
        seed: u64,
    ) -> Result<Self, PolicyError> {
        let inner = PoolState {
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
        let shadow = shadow.map(Arc::new);
        let member = |(spec, replica): (&MemberSpec, Arc<Replica>)| PoolMember { replica, spec: spec.clone() };
        let members = spec.members.iter().zip(replicas).map(member).collect();
        let meters = Arc::new(LengthEstimators::new(spec.token_accounting.media_tokens));
        let starts_slowly = spec.members.iter().any(|m| !m.slow_start.is_zero());
        let learns_speed = spec.members.iter().all(|m| m.weight == Weight::ONE);
        let (inner, lopsided) = (Mutex::new(inner), AtomicBool::new(false));
        let described = Arc::new(spec.clone());
        Ok(Self {
            spec,
            shared_spec: described,
            members,
            shadow,
            observer,
            state: inner,
            hot_key_warning: lopsided,
            length_estimators: meters,
            has_slow_start: starts_slowly,
            learns_speed,
        })
    }

    /// Goes on with what the pool of this name before it knows of the replicas that stay.
    pub(super) fn inherit(&mut self, old: &Self) {
        if self.spec.token_accounting.media_tokens == old.spec.token_accounting.media_tokens {
            self.length_estimators = old.length_estimators.clone();
        }
        if let (Some(shadow), Some(old)) = (self.shadow.as_mut().and_then(Arc::get_mut), &old.shadow) {
            shadow.inherit(old);
        }
        let (opened, budget, known) = {
            let inner = old.lock_state();
            let known = old.members.iter().zip(&inner.member_health);
            let known: Vec<_> = known.map(|(m, s)| (m.replica.id(), m.is_in_service(old.rules()), s.clone())).collect();
            (inner.first_ready_at, inner.retry_budget.clone(), known)
        };
        let mut inner = self.lock_state();
        (inner.first_ready_at, inner.retry_budget) = (opened, budget);
        for (member, standing) in self.members.iter().zip(&mut inner.member_health) {
            let before = known.iter().find(|(id, ..)| *id == member.replica.id());
            *standing = match before {
                Some((_, was_there, old)) if *was_there || !member.is_in_service(self.rules()) => {
                    old.clone().with_limits(member.spec.eject_limits)
                }
                Some((_, _, old)) => old.clone().with_limits(member.spec.eject_limits).into_new_member(),
                None => standing.clone().into_new_member(),
            };
        }
    }

    /// What the pool was made from.
    pub const fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// The pool's name.
    pub const fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// The only host it takes requests for, if there is one.
    pub fn host(&self) -> Option<&str> {
        self.spec.route.host.as_deref()
    }

    /// The policy's name in the table.
    pub fn policy_name(&self) -> &'static str {
        self.spec.policy.name()
    }

    /// What the policy wants to know requests by.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.spec.policy.key()
    }

    /// Tells, once, that most requests have the same key, so that the policy spreads hardly any load.
    pub fn take_hot_key_warning(&self) -> bool {
        self.hot_key_warning.load(Ordering::Relaxed) && self.hot_key_warning.swap(false, Ordering::Relaxed)
    }

    /// The names clients may ask for; empty if they are learned.
    pub fn configured_models(&self) -> &[ModelName] {
        &self.spec.models
    }

    /// The status that a path is refused with, if it is; `path` is as [`super::BlockedPath::matches`] compares it. The longest counts.
    pub fn blocked_status(&self, path: &[u8]) -> Option<u16> {
        let refused = self.spec.route.blocked_paths.iter().filter(|refused| refused.matches(path));
        refused.max_by_key(|refused| (refused.exact, refused.path.len())).map(|refused| refused.status)
    }

    /// Which of the replicas' paths can be reached.
    pub const fn path_policy(&self) -> &PathPolicy {
        &self.spec.path_policy
    }

    /// The pool that takes over when this one has no replica.
    pub const fn fallback(&self) -> Option<&Arc<str>> {
        self.spec.fallback.as_ref()
    }

    /// The key its replicas ask for.
    pub const fn api_key(&self) -> Option<&ApiKey> {
        self.spec.api_key.as_ref()
    }

    /// The replicas, in configuration order.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Arc<Replica>> {
        self.members.iter().map(|m| &m.replica)
    }

    /// The member whose [`Replica::mark`] this is.
    pub fn find_replica_by_token(&self, mark: &str) -> Option<ReplicaId> {
        self.replicas().find(|replica| replica.cookie_token() == mark).map(|replica| replica.id())
    }

    /// How clients stay on their replica.
    pub const fn sticky(&self) -> Option<&Sticky> {
        self.spec.sticky.as_ref()
    }

    /// Tells whether a member has never answered `/v1/models`, or has no address yet.
    pub fn is_waiting_for_models(&self) -> bool {
        let unheard = |m: &PoolMember| !m.spec.down && !m.replica.has_known_models();
        self.needs_model_list() && (self.members.is_empty() || self.members.iter().any(unheard))
    }

    /// Chooses a replica and charges it, in one step: the one that the request belongs to, else whom the policy says.
    ///
    /// *Errors*: no member may be chosen; the error says why. *Cost*: one lock, O(members); before it a look at the index
    /// and after it a note there, if the policy asks where prompts are cached.
    pub fn acquire(self: &Arc<Self>, attempt: &AcquireRequest<'_>, now: Moment) -> Result<Lease, NoReplica> {
        let prefix = attempt.prefix.as_ref().filter(|_| self.spec.policy.needs_prefix());
        let (prompt, measured) = (attempt.estimated_policy_request().prompt, attempt.estimate.clone());
        let seats = self.members.iter().map(|member| member.replica.cache_slot());
        let held = prefix.map(|prefix| PrefixLookup::new(prefix, prompt, seats));
        let mut inner = self.lock_state();
        self.update_slow_start(&mut inner, now);
        let mut screening = self.begin_scan(&inner, now);
        let pinned = attempt.pin.and_then(|pin| self.choose_pinned(&inner, pin, attempt, &mut screening));
        let chosen = match pinned {
            None if !attempt.is_pin_required() => {
                self.choose_by_policy(&mut inner, attempt, held.as_ref(), &mut screening)
            }
            pinned => pinned,
        };
        let seen = self.snapshot_candidates(
            &inner,
            attempt,
            held.as_ref(),
            ChoiceContext { chosen, pinned: pinned.is_some(), now },
        );
        let Some(at) = chosen else {
            drop(inner);
            let none = if attempt.is_pin_required() { NoReplica::PinnedUnavailable } else { screening.no_replica() };
            self.notify_observers(seen, attempt, Err(none), now);
            return Err(none);
        };
        let member = &self.members[at.index()];
        inner.member_health[at.index()].ejector.record_chosen(now);
        if attempt.tried.is_empty() {
            inner.retry_budget.record_request(now);
        }
        let seat = member.replica.cache_slot();
        let cached = held.as_ref().map_or(Tokens(0), |held| held.cached_tokens(seat));
        let found_idle = member.replica.load().prefill == Tokens(0);
        // What nobody measured is still a request: where all cost nothing, the fewest of them decide.
        let charge = member.replica.reserve(prompt.max(Tokens(1)), (prompt - cached).max(Tokens(1)), now);
        drop(inner);
        if let Some(prefix) = prefix {
            seat.record(prefix, prompt);
        }
        let aside = self.notify_observers(seen, attempt, Ok(at), now);
        let (cached, replica) = (prefix.map(|_| cached), member.replica.clone());
        let prefix = attempt.prefix.clone();
        let chosen =
            LeaseParts { replica, slot: at, prompt, cached, found_idle, prefix, estimate: measured, observers: aside };
        Ok(Lease::new(self.clone(), chosen, charge, now))
    }

    /// Learns how fast a member is.
    pub(super) fn record_speed(&self, at: Slot, sample: SpeedSample) {
        if self.learns_speed && self.spec.policy.needs_prefix() {
            self.lock_state().speed_estimator.record(at.index(), sample);
        }
    }

    pub(super) const fn observer(&self) -> &Arc<dyn LeaseObserver> {
        &self.observer
    }

    fn lock_state(&self) -> MutexGuard<'_, PoolState> {
        // Nothing under the lock can leave it half-changed, so a panic elsewhere does not make the pool unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn needs_model_list(&self) -> bool {
        self.spec.path_policy != PathPolicy::Any
    }

    fn rules(&self) -> PoolRules {
        PoolRules { needs_model_list: self.needs_model_list(), ejection_enabled: self.members.len() > 1 }
    }

    /// Notes who is there, so that those who come back grow into their share.
    fn update_slow_start(&self, inner: &mut PoolState, now: Moment) {
        if !self.has_slow_start {
            return;
        }
        let ground = self.rules();
        for (member, standing) in self.members.iter().zip(&mut inner.member_health) {
            let is_there = member.is_in_service(ground);
            let opened = if is_there { *inner.first_ready_at.get_or_insert(now) } else { now };
            standing.update_presence(is_there, member.replica.drain_count(), opened, now);
        }
    }

    /// The member that the request belongs to, if it can be chosen.
    fn choose_pinned(
        &self,
        inner: &PoolState,
        pin: ReplicaPin,
        attempt: &AcquireRequest<'_>,
        screening: &mut EligibilityScan,
    ) -> Option<Slot> {
        let at = self.members.iter().position(|m| m.replica.id() == pin.replica_id())?;
        let (member, standing) = (self.members.get(at)?, inner.member_health.get(at)?);
        if !attempt.is_pin_required() && standing.busy_backoff.is_active(screening.now) {
            return None;
        }
        self.is_eligible(member, standing, attempt, screening).then_some(Slot(u32::try_from(at).ok()?))
    }

    /// Asks the policy.
    fn choose_by_policy(
        &self,
        inner: &mut PoolState,
        attempt: &AcquireRequest<'_>,
        held: Option<&PrefixLookup<'_>>,
        screening: &mut EligibilityScan,
    ) -> Option<Slot> {
        let PoolState {
            policy,
            rng: dice,
            member_health: standings,
            speed_estimator: speeds,
            candidates: offered,
            tried,
            hot_key_reported: told,
            ..
        } = inner;
        tried.clear();
        if !attempt.tried.is_empty() {
            let members = (0u32..).zip(&self.members).filter(|(_, m)| attempt.tried.contains(&m.replica.id()));
            tried.extend(members.map(|(slot, _)| Slot(slot)));
        }
        let job = PolicyRequest { tried_slots: tried, ..attempt.estimated_policy_request() };
        for backup in [false, true] {
            offered.clear();
            for (slot, (member, standing)) in (0u32..).zip(self.members.iter().zip(standings.iter())) {
                let wanted = member.spec.backup == backup && member.accepts_new();
                if !wanted || !self.is_eligible(member, standing, attempt, screening) {
                    continue;
                }
                if standing.busy_backoff.is_active(screening.now) {
                    screening.record_busy(standing.busy_backoff.deadline(), Slot(slot));
                } else {
                    let candidate = member.to_candidate(Slot(slot), standing, held, screening.now);
                    let pace =
                        if self.learns_speed { speeds.slowdown(slot as usize) } else { SlowdownFactors::default() };
                    offered.push(Candidate { slowdown: pace, ..candidate });
                }
            }
            let Some(at) = policy.choose(&job, offered, dice) else { continue };
            if !*told && policy.has_hot_key() {
                *told = true;
                self.hot_key_warning.store(true, Ordering::Relaxed);
            }
            // Only what was offered is taken: a faulty policy of one's own must not reach an ejected replica.
            let chosen = offered.iter().find(|c| c.slot == at).or(offered.first());
            if let Some(chosen) = chosen {
                return Some(chosen.slot);
            }
        }
        // A request that one replica was too busy for does not go round all the others that have said the same.
        let told =
            tried.iter().any(|at| standings.get(at.index()).is_some_and(|s| s.busy_backoff.is_active(screening.now)));
        screening.first_free.filter(|_| !told).map(|(_, at)| at)
    }

    /// The one eligibility test: what holds for every request, then what this one asks for.
    fn is_eligible(
        &self,
        member: &PoolMember,
        standing: &MemberHealth,
        attempt: &AcquireRequest<'_>,
        screening: &mut EligibilityScan,
    ) -> bool {
        let replica = &member.replica;
        if attempt.tried.contains(&replica.id()) {
            screening.any_tried = true;
            return false;
        }
        let lists = |model: &str| replica.has_model(model);
        let learns = self.needs_model_list() && self.spec.models.is_empty();
        member.check_eligible(standing, self.rules(), screening) && (!learns || attempt.model.is_none_or(lists))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}
