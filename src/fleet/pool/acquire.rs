//! The choice of a replica, and the reservation on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::eligibility::{EligibilityScan, RejectionSummary};
use super::lease::{Lease, LeaseParts, PromptEstimate};
use super::observe::ObservedChoice;
use super::state::{Pool, PoolState};
use crate::balance::{Candidate, PolicyRequest, SlowdownFactors};
use crate::fleet::load::prefix_cache::PrefixLookup;
use crate::fleet::{AcquireRequest, NoReplica};
use crate::units::{Moment, Slot, Tokens};

/// One choice in progress.
struct ReplicaChoice<'a> {
    request: &'a AcquireRequest<'a>,
    /// Cached blocks of the prompt, if the policy uses them.
    lookup: Option<&'a PrefixLookup<'a>>,
    scan: EligibilityScan,
    rejections: RejectionSummary,
}

impl Pool {
    /// Chooses a replica and reserves the request's tokens on it, in one step: the pinned one, else the policy's
    /// choice.
    ///
    /// *Errors*: no member may be chosen. *Cost*: one lock, O(members). A policy that uses prefix caches adds an index
    /// look-up before it and an insert after it.
    pub fn acquire(self: &Arc<Self>, request: &AcquireRequest<'_>, now: Moment) -> Result<Lease, NoReplica> {
        let prefix = request.prefix.as_ref().filter(|_| self.spec.policy.needs_prefix());
        let prompt = request.estimated_policy_request().prompt;
        let cache_slots = self.members.iter().map(|member| member.replica.cache_slot());
        let lookup = prefix.map(|prefix| PrefixLookup::new(prefix, prompt, cache_slots));
        let lookup = lookup.as_ref();
        let mut state = self.lock_state();
        self.update_slow_start(&mut state, now);
        let scan = self.begin_scan(&state, now);
        let mut choice = ReplicaChoice { request, lookup, scan, rejections: RejectionSummary::default() };
        let pinned = self.choose_pinned(&state, &mut choice);
        let chosen = match pinned {
            None if !request.is_pin_required() => self.choose_by_policy(&mut state, &mut choice),
            pinned => pinned,
        };
        let observed = ObservedChoice { request, lookup, scan, chosen, pinned: pinned.is_some() };
        let snapshot = self.snapshot_candidates(&state, &observed);
        let Some(slot) = chosen else {
            drop(state);
            let pin_required = request.is_pin_required();
            let error = if pin_required { NoReplica::PinnedUnavailable } else { choice.rejections.no_replica(now) };
            self.notify_observers(snapshot, request, Err(error), now);
            return Err(error);
        };
        let replica = &self.members[slot.index()].replica;
        state.member_health[slot.index()].ejector.record_chosen(now);
        if request.tried.is_empty() {
            state.retry_budget.record_request(now);
        }
        let cache_slot = replica.cache_slot();
        let cached = lookup.map(|lookup| lookup.cached_tokens(cache_slot));
        let found_idle = replica.load().prefill == Tokens(0);
        let uncached = prompt - cached.unwrap_or_default();
        // At least one token each: where all requests have zero tokens, their number decides.
        let reservation = replica.reserve(prompt.max(Tokens(1)), uncached.max(Tokens(1)), now);
        drop(state);
        if let Some(prefix) = prefix {
            cache_slot.record(prefix, prompt);
        }
        let observers = self.notify_observers(snapshot, request, Ok(slot), now);
        let lengths = request.estimate.clone();
        let prompt = PromptEstimate { tokens: prompt, cached, prefix: request.prefix.clone(), lengths };
        let parts = LeaseParts { replica: replica.clone(), slot, prompt, found_idle, observers };
        Ok(Lease::new(self.clone(), parts, reservation, now))
    }

    /// Returns the slot that the request is pinned to, if that member may be chosen.
    fn choose_pinned(&self, state: &PoolState, choice: &mut ReplicaChoice<'_>) -> Option<Slot> {
        let pinned = choice.request.pin?.replica_id();
        let index = self.members.iter().position(|m| m.replica.id() == pinned)?;
        let (member, health) = (self.members.get(index)?, state.member_health.get(index)?);
        if !choice.request.is_pin_required() && health.busy_backoff.is_active(choice.scan.now) {
            return None;
        }
        match member.check_eligible(health, Some(choice.request), &choice.scan) {
            Ok(_) => Some(Slot(u32::try_from(index).ok()?)),
            Err(reason) => {
                choice.rejections.record(reason);
                None
            }
        }
    }

    /// Returns the policy's choice among the eligible members, then among the eligible backups. If all of them are
    /// busy, the first to be free.
    fn choose_by_policy(&self, state: &mut PoolState, choice: &mut ReplicaChoice<'_>) -> Option<Slot> {
        let PoolState { policy, rng, candidates, tried, hot_key_reported, .. } = state;
        let request = choice.request;
        let now = choice.scan.now;
        tried.clear();
        if !request.tried.is_empty() {
            let members = (0u32..).zip(&self.members).filter(|(_, m)| request.tried.contains(&m.replica.id()));
            tried.extend(members.map(|(slot, _)| Slot(slot)));
        }
        let policy_request = PolicyRequest { tried_slots: tried, ..request.estimated_policy_request() };
        let mut first_free: Option<(Moment, Slot)> = None;
        for backup in [false, true] {
            candidates.clear();
            for (slot, (member, health)) in (0u32..).zip(self.members.iter().zip(&state.member_health)) {
                if member.spec.backup != backup || !member.accepts_unpinned() {
                    continue;
                }
                if let Err(reason) = member.check_eligible(health, Some(request), &choice.scan) {
                    choice.rejections.record(reason);
                    continue;
                }
                let slot = Slot(slot);
                if health.busy_backoff.is_active(now) {
                    let free_at = health.busy_backoff.deadline();
                    if first_free.is_none_or(|(first, _)| free_at < first) {
                        first_free = Some((free_at, slot));
                    }
                    continue;
                }
                let slowdown = match self.learns_speed {
                    true => state.speed_estimator.slowdown(slot.index()),
                    false => SlowdownFactors::default(),
                };
                let candidate = member.to_candidate(slot, health, choice.lookup, now);
                candidates.push(Candidate { slowdown, ..candidate });
            }
            let Some(slot) = policy.choose(&policy_request, candidates, rng) else { continue };
            if !*hot_key_reported && policy.has_hot_key() {
                *hot_key_reported = true;
                self.hot_key_warning.store(true, Ordering::Relaxed);
            }
            // Only a candidate is accepted: a faulty third-party policy must not reach an ejected replica.
            let chosen = candidates.iter().find(|c| c.slot == slot).or(candidates.first());
            if let Some(chosen) = chosen {
                return Some(chosen.slot);
            }
        }
        // A request that one member was too busy for is not sent to another busy one.
        let is_busy = |slot: &Slot| {
            state.member_health.get(slot.index()).is_some_and(|health| health.busy_backoff.is_active(now))
        };
        first_free.filter(|_| !tried.iter().any(is_busy)).map(|(_, slot)| slot)
    }
}
