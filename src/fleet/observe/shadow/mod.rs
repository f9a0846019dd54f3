//! A second policy that is asked beside a pool's own and not obeyed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::balance::{Candidate, Policy, PolicyError, PolicyRequest, PolicySpec, SeededRng, TokenLoad};
use crate::fleet::load::ledger::{LoadLedger, LoadReservation};
use crate::fleet::load::prefix_cache::{CacheSlot, CacheSlotAllocator, PrefixLookup};
use crate::fleet::pool::member::{PoolMember, policy_members};
use crate::fleet::{AcquireRequest, MemberSpec, Outcome, Phase, Replica, ResponseProgress};
use crate::prompt::PromptFingerprint;
use crate::units::{Moment, ReplicaId, Slot, Tokens};

/// What a shadow policy would have done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowResult {
    /// The policy's name in the table.
    pub policy: &'static str,
    /// Whether it would have chosen the same replica.
    pub same_choice: bool,
    /// What of the prompt would have been cached where it would have gone; `None` if the policy does not ask.
    pub cached: Option<Tokens>,
}

/// A policy and the load there would be if it had its way.
pub(in crate::fleet) struct ShadowPolicy {
    spec: PolicySpec,
    /// By slot.
    replicas: Vec<Arc<ShadowReplica>>,
    cache_slots: CacheSlotAllocator,
    /// Guards the policy. Never held while another lock is.
    state: Mutex<ShadowState>,
}

struct ShadowState {
    policy: Box<dyn Policy>,
    rng: SeededRng,
    /// Kept to spare an allocation a choice.
    candidates: Vec<Candidate>,
}

/// A replica as it would be.
#[derive(Debug)]
struct ShadowReplica {
    replica_id: ReplicaId,
    ledger: LoadLedger,
    /// Only where the policy wants to know where prompts are cached.
    cache_slot: Option<CacheSlot>,
}

/// A request where the shadow policy would have sent it. It weighs there what it weighs on its real replica, as long.
pub(in crate::fleet) struct ShadowReservation {
    shadow: Arc<ShadowPolicy>,
    replica: Arc<ShadowReplica>,
    /// Taken at the end.
    reservation: Option<LoadReservation>,
    prompt: Tokens,
    cached: Tokens,
    prefix: Option<Arc<PromptFingerprint>>,
    /// `None` where no policy was asked.
    same_choice: Option<bool>,
}

/// What happened to a request in its pool.
pub(in crate::fleet) struct ActualChoice<'a> {
    pub(in crate::fleet) members: &'a [PoolMember],
    /// Who could be chosen.
    pub(in crate::fleet) candidates: &'a [Candidate],
    pub(in crate::fleet) chosen: Slot,
    /// The request belonged there; the policy was not asked.
    pub(in crate::fleet) pinned: bool,
    pub(in crate::fleet) now: Moment,
}

impl ShadowPolicy {
    /// *Errors*: the policy cannot be made for these members.
    pub(in crate::fleet) fn new(
        spec: &PolicySpec,
        members: &[MemberSpec],
        replicas: &[Arc<Replica>],
        seed: u64,
    ) -> Result<Self, PolicyError> {
        let inner = ShadowState {
            policy: spec.build(&policy_members(members))?,
            rng: SeededRng::from_seed(seed),
            candidates: Vec::new(),
        };
        let mut shadow = Self {
            spec: spec.clone(),
            replicas: Vec::new(),
            cache_slots: CacheSlotAllocator::default(),
            state: Mutex::new(inner),
        };
        shadow.replicas = replicas.iter().map(|replica| shadow.build_replica(replica.id())).collect();
        Ok(shadow)
    }

    /// Goes on with the load that the shadow before it has imagined, if that had the same policy.
    pub(in crate::fleet) fn inherit(&mut self, old: &Self) {
        if self.spec != old.spec {
            return;
        }
        self.cache_slots = old.cache_slots.clone();
        let ids: Vec<ReplicaId> = self.replicas.drain(..).map(|double| double.replica_id).collect();
        for id in ids {
            let known = old.replicas.iter().find(|double| double.replica_id == id).cloned();
            let double = known.unwrap_or_else(|| self.build_replica(id));
            self.replicas.push(double);
        }
    }

    fn build_replica(&mut self, of: ReplicaId) -> Arc<ShadowReplica> {
        let seat = self.spec.needs_prefix().then(|| self.cache_slots.allocate());
        Arc::new(ShadowReplica { replica_id: of, ledger: LoadLedger::default(), cache_slot: seat })
    }

    /// Asks the policy about a request that is on its replica already, and charges whom it says.
    ///
    /// *Cost*: as the pool's own choice.
    pub(in crate::fleet) fn evaluate(
        self: &Arc<Self>,
        attempt: &AcquireRequest<'_>,
        happened: &ActualChoice<'_>,
    ) -> Option<ShadowReservation> {
        let prefix = attempt.prefix.as_ref().filter(|_| self.spec.needs_prefix());
        let tried: Vec<Slot> = (0u32..)
            .zip(happened.members)
            .filter(|(_, member)| attempt.tried.contains(&member.replica.id()))
            .map(|(slot, _)| Slot(slot))
            .collect();
        let job = PolicyRequest {
            key: attempt.observers.shadow_key,
            tried_slots: &tried,
            ..attempt.estimated_policy_request()
        };
        let seats = self.replicas.iter().filter_map(|double| double.cache_slot.as_ref());
        let held = prefix.map(|prefix| PrefixLookup::new(prefix, job.prompt, seats));
        let cached = |double: &ShadowReplica| match (&held, &double.cache_slot) {
            (Some(held), Some(seat)) => held.cached_tokens(seat),
            _ => Tokens(0),
        };
        let mut inner = self.lock_state();
        let ShadowState { policy, rng: dice, candidates: offered, .. } = &mut *inner;
        offered.clear();
        for real in happened.candidates {
            let (double, member) = self.replicas.get(real.slot.index()).zip(happened.members.get(real.slot.index()))?;
            let load = double.ledger.load() + member.replica.external_load(happened.now);
            offered.push(Candidate { in_flight: double.ledger.in_flight(), load, cached: cached(double), ..*real });
        }
        let would = if happened.pinned { None } else { policy.choose(&job, offered, dice) };
        let at = would.filter(|at| offered.iter().any(|c| c.slot == *at)).unwrap_or(happened.chosen);
        let double = self.replicas.get(at.index())?.clone();
        let cached = cached(&double);
        let uncached = (job.prompt - cached).max(Tokens(1));
        let charge = double.ledger.reserve(job.prompt.max(Tokens(1)), uncached, happened.now);
        drop(inner);
        if let (Some(seat), Some(prefix), Some(member)) = (&double.cache_slot, prefix, happened.members.get(at.index()))
        {
            if let Some(room) = member.replica.kv_capacity(happened.now) {
                seat.resize(room);
            }
            seat.record(prefix, job.prompt);
        }
        let same = (!happened.pinned).then_some(at == happened.chosen);
        let (shadow, prefix) = (self.clone(), prefix.cloned());
        Some(ShadowReservation {
            shadow,
            replica: double,
            reservation: Some(charge),
            prompt: job.prompt,
            cached,
            prefix,
            same_choice: same,
        })
    }

    fn lock_state(&self) -> MutexGuard<'_, ShadowState> {
        // Nothing under the lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is imagined on each member: requests and tokens.
    pub(in crate::fleet) fn loads(&self) -> Vec<(u32, TokenLoad)> {
        self.replicas.iter().map(|double| (double.ledger.in_flight(), double.ledger.load())).collect()
    }
}

impl ShadowReservation {
    /// The real answer goes on.
    pub(in crate::fleet) fn on_progress(&mut self, seen: ResponseProgress, now: Moment) {
        let (Some(charge), ledger) = (&mut self.reservation, &self.replica.ledger) else { return };
        if seen.content_events > 0 {
            charge.record_first_token(ledger);
            charge.add_output(ledger, seen.content_events, now);
        }
        if let Some(usage) = seen.usage {
            charge.apply_usage(ledger, usage, now);
        }
    }

    /// What there is to count of it; `None` where no policy was asked.
    pub(in crate::fleet) fn result(&self) -> Option<ShadowResult> {
        let cached = self.shadow.spec.needs_prefix().then_some(self.cached);
        Some(ShadowResult { policy: self.shadow.spec.name(), same_choice: self.same_choice?, cached })
    }

    /// The request has ended on its real replica, which is at `real`; `begun`: after a first token.
    pub(in crate::fleet) fn finish(mut self, outcome: Outcome, real: Slot, begun: bool) {
        self.release(outcome == Outcome::Completed);
        if let (Some(seat), Some(prefix)) = (&self.replica.cache_slot, &self.prefix)
            && !begun
            && outcome != Outcome::Completed
        {
            seat.trim(prefix, self.prompt, self.cached);
        }
        if let Outcome::Failed { phase } = outcome {
            self.shadow.lock_state().policy.on_failure(real);
            // What is down comes back empty, whoever would have been sent there.
            let double = self.shadow.replicas.get(real.index());
            if let Some(seat) = double.and_then(|double| double.cache_slot.as_ref()).filter(|_| phase == Phase::Connect)
            {
                seat.clear();
            }
        }
    }

    fn release(&mut self, whole: bool) {
        if let Some(charge) = self.reservation.take() {
            charge.release(&self.replica.ledger, whole);
        }
    }
}

impl Drop for ShadowReservation {
    fn drop(&mut self) {
        self.release(false);
    }
}

impl fmt::Debug for ShadowReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowReservation")
            .field("on", &self.replica.replica_id)
            .field("same", &self.same_choice)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
