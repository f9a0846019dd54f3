//! The shadow policy: a second policy, evaluated on a pool's live requests; its choices are only recorded.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::balance::{Candidate, Policy, PolicyError, PolicyRequest, PolicySpec, SeededRng, TokenLoad};
use crate::fleet::load::ledger::{LoadLedger, LoadReservation};
use crate::fleet::load::prefix_cache::{CacheSlot, CacheSlotAllocator, PrefixLookup};
use crate::fleet::lock::lock;
use crate::fleet::pool::member::PoolMember;
use crate::fleet::spec::member::policy_members;
use crate::fleet::{AcquireRequest, MemberSpec, Outcome, Phase, Replica, ResponseProgress};
use crate::prompt::PromptFingerprint;
use crate::units::{Moment, ReplicaId, Slot, Tokens};

/// A shadow policy's choice for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowResult {
    /// The policy's name in the table.
    pub policy: &'static str,
    /// Whether it chose the same replica.
    pub same_choice: bool,
    /// Prompt tokens that would have been cached on its choice; `None` if the pool computes no fingerprints.
    pub cached: Option<Tokens>,
}

/// A policy, and the load on the replicas if its choices were followed.
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
    /// The candidates of the last choice; reused to save an allocation.
    candidates: Vec<Candidate>,
}

/// A replica as it would be loaded.
#[derive(Debug)]
struct ShadowReplica {
    replica_id: ReplicaId,
    ledger: LoadLedger,
    /// Empty if the pool computes no fingerprints. Policies that do not use it fill it, too: what they find is compared.
    cache_slot: CacheSlot,
}

/// A request's load on the replica that the shadow policy chose.
pub(in crate::fleet) struct ShadowReservation {
    shadow: Arc<ShadowPolicy>,
    replica: Arc<ShadowReplica>,
    /// Taken when it is released.
    reservation: Option<LoadReservation>,
    prompt: Tokens,
    cached: Tokens,
    prefix: Option<Arc<PromptFingerprint>>,
    /// `None` if the policy was not asked.
    same_choice: Option<bool>,
}

/// The pool's choice for a request.
pub(in crate::fleet) struct ActualChoice<'a> {
    pub(in crate::fleet) members: &'a [PoolMember],
    pub(in crate::fleet) candidates: &'a [Candidate],
    pub(in crate::fleet) chosen: Slot,
    /// Whether it was made without the policy.
    pub(in crate::fleet) pinned: bool,
    pub(in crate::fleet) now: Moment,
}

impl ShadowPolicy {
    /// Creates a shadow policy for the members of a pool.
    ///
    /// *Errors*: the policy cannot be built for these members.
    pub(in crate::fleet) fn new(
        spec: &PolicySpec,
        members: &[MemberSpec],
        replicas: &[Arc<Replica>],
        seed: u64,
    ) -> Result<Self, PolicyError> {
        let state = ShadowState {
            policy: spec.build(&policy_members(members))?,
            rng: SeededRng::from_seed(seed),
            candidates: Vec::new(),
        };
        let mut shadow = Self {
            spec: spec.clone(),
            replicas: Vec::new(),
            cache_slots: CacheSlotAllocator::default(),
            state: Mutex::new(state),
        };
        shadow.replicas = replicas.iter().map(|replica| shadow.build_replica(replica.id())).collect();
        Ok(shadow)
    }

    /// Takes over the load of the shadow policy before a reload, if it was the same policy.
    pub(in crate::fleet) fn inherit(&mut self, old: &Self) {
        if self.spec != old.spec {
            return;
        }
        self.cache_slots = old.cache_slots.clone();
        let ids: Vec<ReplicaId> = self.replicas.drain(..).map(|replica| replica.replica_id).collect();
        for id in ids {
            let known = old.replicas.iter().find(|replica| replica.replica_id == id).cloned();
            let replica = known.unwrap_or_else(|| self.build_replica(id));
            self.replicas.push(replica);
        }
    }

    fn build_replica(&mut self, replica_id: ReplicaId) -> Arc<ShadowReplica> {
        let cache_slot = self.cache_slots.allocate();
        Arc::new(ShadowReplica { replica_id, ledger: LoadLedger::default(), cache_slot })
    }

    /// Evaluates the policy for a request that has its replica already, and reserves its tokens on the choice.
    ///
    /// *Cost*: as the pool's own choice.
    pub(in crate::fleet) fn evaluate(
        self: &Arc<Self>,
        request: &AcquireRequest<'_>,
        actual: &ActualChoice<'_>,
    ) -> Option<ShadowReservation> {
        let prefix = request.prefix.as_ref();
        let tried: Vec<Slot> = (0u32..)
            .zip(actual.members)
            .filter(|(_, member)| request.tried.contains(&member.replica.id()))
            .map(|(slot, _)| Slot(slot))
            .collect();
        let policy_request = PolicyRequest {
            key: request.observers.shadow_key,
            tried_slots: &tried,
            ..request.estimated_policy_request()
        };
        let prompt = policy_request.prompt;
        let cache_slots = self.replicas.iter().map(|replica| &replica.cache_slot);
        let lookup = prefix.map(|prefix| PrefixLookup::new(prefix, prompt, cache_slots));
        let cached_on = |replica: &ShadowReplica| {
            lookup.as_ref().map_or(Tokens(0), |lookup| lookup.cached_tokens(&replica.cache_slot))
        };
        let mut state = lock(&self.state);
        let ShadowState { policy, rng, candidates } = &mut *state;
        candidates.clear();
        for real in actual.candidates {
            let index = real.slot.index();
            let (replica, member) = self.replicas.get(index).zip(actual.members.get(index))?;
            let load = replica.ledger.load() + member.replica.external_load(actual.now);
            let (in_flight, cached) = (replica.ledger.in_flight(), cached_on(replica));
            candidates.push(Candidate { in_flight, load, cached, ..*real });
        }
        let chosen = if actual.pinned { None } else { policy.choose(&policy_request, candidates, rng) };
        let slot = chosen.filter(|slot| candidates.iter().any(|c| c.slot == *slot)).unwrap_or(actual.chosen);
        let replica = self.replicas.get(slot.index())?.clone();
        let cached = cached_on(&replica);
        let uncached = (prompt - cached).max(Tokens(1));
        let reservation = replica.ledger.reserve(prompt.max(Tokens(1)), uncached, actual.now);
        drop(state);
        if let (Some(prefix), Some(member)) = (prefix, actual.members.get(slot.index())) {
            if let Some(capacity) = member.replica.kv_capacity(actual.now) {
                replica.cache_slot.resize(capacity);
            }
            replica.cache_slot.record(prefix, prompt);
        }
        Some(ShadowReservation {
            shadow: self.clone(),
            replica,
            reservation: Some(reservation),
            prompt,
            cached,
            prefix: prefix.cloned(),
            same_choice: (!actual.pinned).then_some(slot == actual.chosen),
        })
    }

    /// Returns the requests and tokens on each member.
    pub(in crate::fleet) fn loads(&self) -> Vec<(u32, TokenLoad)> {
        self.replicas.iter().map(|replica| (replica.ledger.in_flight(), replica.ledger.load())).collect()
    }
}

impl ShadowReservation {
    /// Records a part of the real response.
    pub(super) fn on_progress(&mut self, progress: ResponseProgress, now: Moment) {
        let (Some(reservation), ledger) = (&mut self.reservation, &self.replica.ledger) else { return };
        if progress.content_events > 0 {
            reservation.record_first_token(ledger);
            reservation.add_output(ledger, progress.content_events, now);
        }
        if let Some(usage) = progress.usage {
            reservation.apply_usage(ledger, usage, now);
        }
    }

    /// Returns the policy's choice; `None` if it was not asked.
    pub(super) fn result(&self) -> Option<ShadowResult> {
        let cached = self.prefix.as_ref().map(|_| self.cached);
        Some(ShadowResult { policy: self.shadow.spec.name(), same_choice: self.same_choice?, cached })
    }

    /// Records the end of the request on its real replica, in `slot`; `had_first_token` if generated content had come.
    pub(super) fn finish(mut self, outcome: Outcome, slot: Slot, had_first_token: bool) {
        self.release(outcome == Outcome::Completed);
        if let Some(prefix) = &self.prefix
            && !had_first_token
            && outcome != Outcome::Completed
        {
            self.replica.cache_slot.trim(prefix, self.prompt, self.cached);
        }
        if let Outcome::Failed { phase } = outcome {
            lock(&self.shadow.state).policy.on_failure(slot);
            // A replica that is down returns with an empty cache, under any policy.
            if let Some(failed) = self.shadow.replicas.get(slot.index()).filter(|_| phase == Phase::Connect) {
                failed.cache_slot.clear();
            }
        }
    }

    fn release(&mut self, completed: bool) {
        if let Some(reservation) = self.reservation.take() {
            reservation.release(&self.replica.ledger, completed);
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
            .field("replica_id", &self.replica.replica_id)
            .field("same_choice", &self.same_choice)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
