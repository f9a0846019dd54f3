//! What a pool passes on to the observers of its choices: the decision log and the shadow policy.

use super::eligibility::{EligibilityScan, Ineligible};
use super::state::{Pool, PoolState};
use crate::balance::{Candidate, HashKey, TokenLoad};
use crate::fleet::load::prefix_cache::PrefixLookup;
use crate::fleet::observe::decision_log::{CandidateSnapshot, ChoiceReason, DecisionEntry};
use crate::fleet::observe::request_observers::RequestObservers;
use crate::fleet::observe::shadow::ActualChoice;
use crate::fleet::{AcquireRequest, NoReplica, Sticky};
use crate::units::{Moment, Slot};

/// A choice and its inputs.
#[derive(Clone, Copy)]
pub(super) struct ObservedChoice<'a> {
    pub(super) request: &'a AcquireRequest<'a>,
    pub(super) lookup: Option<&'a PrefixLookup<'a>>,
    pub(super) scan: EligibilityScan,
    pub(super) chosen: Option<Slot>,
    /// Whether the request was pinned to the chosen replica.
    pub(super) pinned: bool,
}

impl Pool {
    /// Returns the shadow policy's hash key, if it has one.
    pub fn shadow_key(&self) -> Option<&HashKey> {
        self.spec.shadow.as_ref()?.key()
    }

    /// Returns whether `sticky`, or the hash key of the policy or the shadow policy, needs the request's body.
    pub fn needs_body(&self) -> bool {
        self.needs_session() || [self.hash_key(), self.shadow_key()].into_iter().flatten().any(HashKey::needs_body)
    }

    /// Returns whether `sticky` needs the session that the client names.
    pub fn needs_session(&self) -> bool {
        self.sticky().is_some_and(Sticky::needs_session)
    }

    /// Returns whether prompt fingerprints are used: by the policy, by the shadow policy or in their hash keys.
    pub fn needs_prefix(&self) -> bool {
        let policies = [Some(&self.spec.policy), self.spec.shadow.as_ref()];
        policies
            .into_iter()
            .flatten()
            .any(|policy| policy.needs_prefix() || policy.key().is_some_and(HashKey::needs_prefix))
    }

    /// Returns the requests and tokens on each replica under the shadow policy; empty without one.
    pub fn shadow_loads(&self) -> Vec<(u32, TokenLoad)> {
        self.shadow.as_ref().map(|shadow| shadow.loads()).unwrap_or_default()
    }

    /// Returns a copy of the candidates, made under the lock; `None` without observers.
    pub(super) fn snapshot_candidates(
        &self,
        state: &PoolState,
        choice: &ObservedChoice<'_>,
    ) -> Option<CandidateSnapshot> {
        let is_logged = choice.request.observers.decision_log.is_some();
        if !is_logged && self.shadow.is_none() {
            return None;
        }
        let now = choice.scan.now;
        let candidate = |slot: Slot| -> Option<Candidate> {
            let (member, health) = (self.members.get(slot.index())?, state.member_health.get(slot.index())?);
            Some(member.to_candidate(slot, health, choice.lookup, now))
        };
        let reason = match choice.chosen {
            _ if choice.pinned => ChoiceReason::Pinned,
            Some(_) if state.candidates.is_empty() => ChoiceReason::FirstFree,
            _ => ChoiceReason::Policy,
        };
        let mut snapshot = CandidateSnapshot::new(reason, now);
        match choice.chosen {
            Some(_) if reason == ChoiceReason::Policy => snapshot.candidates.clone_from(&state.candidates),
            Some(slot) => snapshot.candidates.extend(candidate(slot)),
            None => {}
        }
        if is_logged && !choice.pinned {
            snapshot.skipped = self.skipped_members(state, choice, &snapshot.candidates);
        }
        Some(snapshot)
    }

    /// Returns the members that were no candidates, with the reasons.
    fn skipped_members(
        &self,
        state: &PoolState,
        choice: &ObservedChoice<'_>,
        candidates: &[Candidate],
    ) -> Vec<(Slot, Ineligible)> {
        if candidates.len() == self.members.len() {
            return Vec::new();
        }
        let members = (0u32..).map(Slot).zip(self.members.iter().zip(&state.member_health));
        let skipped = members.filter(|(slot, _)| candidates.binary_search_by_key(slot, |c| c.slot).is_err());
        skipped
            .map(|(slot, (member, health))| (slot, member.skip_reason(health, choice.request, &choice.scan)))
            .collect()
    }

    /// Passes the choice on to the observers. Returns those that follow the request to its end; `None` without any.
    pub(super) fn notify_observers(
        &self,
        snapshot: Option<CandidateSnapshot>,
        request: &AcquireRequest<'_>,
        chosen: Result<Slot, NoReplica>,
        now: Moment,
    ) -> Option<Box<RequestObservers>> {
        let snapshot = snapshot?;
        let shadow_reservation = self.shadow.as_ref().zip(chosen.ok()).and_then(|(shadow, chosen)| {
            let pinned = snapshot.reason != ChoiceReason::Policy;
            let (members, candidates) = (&*self.members, &*snapshot.candidates);
            shadow.evaluate(request, &ActualChoice { members, candidates, chosen, pinned, now })
        });
        let logged_decision = request.observers.decision_log.as_ref().map(|(log, logged)| {
            let policy_request = request.estimated_policy_request();
            let entry = DecisionEntry::new(logged, &self.shared_spec, &policy_request, snapshot, chosen);
            (log.clone(), log.push(entry))
        });
        Some(Box::new(RequestObservers { logged_decision, shadow_reservation }))
    }
}
