//! What a pool does for those who look on, its decisions' record and its shadow policy; and what it asks of requests for
//! both.

use std::sync::Arc;

use super::eligibility::EligibilityScan;
use super::member::PoolMember;
use super::{Pool, PoolState};
use crate::balance::{Candidate, HashKey, TokenLoad};
use crate::eject::EjectCause;
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::load::prefix_cache::PrefixLookup;
use crate::fleet::observe::decision_log::{
    CandidateSnapshot, ChoiceReason, DecisionEntry, DecisionLog, DecisionResult,
};
use crate::fleet::observe::shadow::{ActualChoice, ShadowReservation};
use crate::fleet::{AcquireRequest, NoReplica, ResponseProgress, ShadowResult};
use crate::units::{Moment, Slot};

/// What follows a request beside its charge.
#[derive(Debug)]
pub(in crate::fleet) struct RequestObservers {
    logged_decision: Option<(Arc<DecisionLog>, u64)>,
    shadow_reservation: Option<ShadowReservation>,
}

/// A choice as it came about.
#[derive(Clone, Copy)]
pub(super) struct ChoiceContext {
    pub(super) chosen: Option<Slot>,
    pub(super) pinned: bool,
    pub(super) now: Moment,
}

impl RequestObservers {
    /// The decision in a line, if it is kept.
    pub(in crate::fleet) fn decision_line(&self) -> Option<String> {
        let (decisions, number) = self.logged_decision.as_ref()?;
        decisions.decision_line(*number)
    }

    /// The answer goes on.
    pub(in crate::fleet) fn on_progress(&mut self, seen: ResponseProgress, now: Moment) {
        if let Some(imagined) = &mut self.shadow_reservation {
            imagined.on_progress(seen, now);
        }
    }

    /// What the shadow policy would have done.
    pub(in crate::fleet) fn shadow_result(&self) -> Option<ShadowResult> {
        self.shadow_reservation.as_ref()?.result()
    }

    /// The request has ended, on the replica at `at`.
    pub(in crate::fleet) fn finish(self, at: Slot, end: DecisionResult) {
        if let Some(imagined) = self.shadow_reservation {
            imagined.finish(end.outcome, at, end.time_to_first_token.is_some());
        }
        if let Some((decisions, number)) = self.logged_decision {
            decisions.record_result(number, end);
        }
    }
}

impl Pool {
    /// What the shadow policy wants to know requests by.
    pub fn shadow_key(&self) -> Option<&HashKey> {
        self.spec.shadow.as_ref()?.key()
    }

    /// Whether the policy, or the shadow policy, wants to know a request by what its body says.
    pub fn needs_body(&self) -> bool {
        [self.hash_key(), self.shadow_key()].into_iter().flatten().any(HashKey::needs_body)
    }

    /// Whether requests' fingerprints are of use here: to the policy, to the shadow policy or to their keys.
    pub fn needs_prefix(&self) -> bool {
        let policies = [Some(&self.spec.policy), self.spec.shadow.as_ref()];
        policies
            .into_iter()
            .flatten()
            .any(|policy| policy.needs_prefix() || policy.key().is_some_and(HashKey::needs_prefix))
    }

    /// Requests and tokens that would be on each replica if the shadow policy had its way; empty without one.
    pub fn shadow_loads(&self) -> Vec<(u32, TokenLoad)> {
        self.shadow.as_ref().map(|shadow| shadow.loads()).unwrap_or_default()
    }

    /// What there was to choose from, if anybody looks on. Copied under the lock; nothing is worked out.
    pub(super) fn snapshot_candidates(
        &self,
        inner: &PoolState,
        attempt: &AcquireRequest<'_>,
        held: Option<&PrefixLookup<'_>>,
        choice: ChoiceContext,
    ) -> Option<CandidateSnapshot> {
        let kept = attempt.observers.decision_log.is_some();
        if !kept && self.shadow.is_none() {
            return None;
        }
        let candidate = |at: Slot| -> Option<Candidate> {
            let (member, standing) = (self.members.get(at.index())?, inner.member_health.get(at.index())?);
            Some(member.to_candidate(at, standing, held, choice.now))
        };
        let way = match choice.chosen {
            _ if choice.pinned => ChoiceReason::Pinned,
            Some(_) if inner.candidates.is_empty() => ChoiceReason::FirstFree,
            _ => ChoiceReason::Policy,
        };
        let mut seen = CandidateSnapshot::new(way);
        match choice.chosen {
            Some(_) if way == ChoiceReason::Policy => seen.candidates.clone_from(&inner.candidates),
            Some(at) => seen.candidates.extend(candidate(at)),
            None => {}
        }
        if kept && !choice.pinned {
            seen.skipped = self.skipped_members(inner, attempt, &seen.candidates, choice.now);
        }
        Some(seen)
    }

    /// Who was not offered, and why.
    fn skipped_members(
        &self,
        inner: &PoolState,
        attempt: &AcquireRequest<'_>,
        offered: &[Candidate],
        now: Moment,
    ) -> Vec<(Slot, &'static str)> {
        let mut passed = Vec::new();
        if offered.len() == self.members.len() {
            return passed;
        }
        let screened = self.begin_scan(inner, now);
        for (slot, (member, standing)) in (0u32..).zip(self.members.iter().zip(&inner.member_health)) {
            if offered.binary_search_by_key(&Slot(slot), |c| c.slot).is_err() {
                passed.push((Slot(slot), self.skip_reason(member, standing, attempt, screened.clone())));
            }
        }
        passed
    }

    fn skip_reason(
        &self,
        member: &PoolMember,
        standing: &MemberHealth,
        attempt: &AcquireRequest<'_>,
        mut screening: EligibilityScan,
    ) -> &'static str {
        match (self.is_eligible(member, standing, attempt, &mut screening), &screening) {
            (true, _) if !member.accepts_new() => "draining",
            (true, _) if attempt.is_pin_required() => "not the replica that the request belongs to",
            (true, _) if standing.busy_backoff.is_active(screening.now) => "busy",
            (true, _) => "a backup",
            (false, EligibilityScan { any_tried: true, .. }) => "has failed this request",
            (false, EligibilityScan { any_not_ready: true, .. }) => "not ready",
            (false, EligibilityScan { any_full: true, .. }) => "full",
            (false, EligibilityScan { earliest_readmission: Some(_), .. }) => match standing.ejection_cause() {
                Some(EjectCause::Refused) => "ejected: refused a connection",
                Some(EjectCause::Failed) => "ejected: failed",
                Some(EjectCause::Stalled) => "ejected: stalled",
                Some(EjectCause::HealthCheck) | None => "ejected: failed its check",
            },
            (false, _) if member.spec.down => "down",
            (false, _) if member.replica.is_drained() => "drained",
            (false, _) => "without the model",
        }
    }

    /// Hands what was seen to those who look on.
    pub(super) fn notify_observers(
        &self,
        seen: Option<CandidateSnapshot>,
        attempt: &AcquireRequest<'_>,
        chosen: Result<Slot, NoReplica>,
        now: Moment,
    ) -> Option<Box<RequestObservers>> {
        let seen = seen?;
        let imagined = self.shadow.as_ref().zip(chosen.ok()).and_then(|(shadow, chosen)| {
            let (members, offered, pinned) = (&*self.members, &*seen.candidates, seen.reason != ChoiceReason::Policy);
            shadow.evaluate(attempt, &ActualChoice { members, candidates: offered, chosen, pinned, now })
        });
        let kept = attempt.observers.decision_log.as_ref().map(|(decisions, id)| {
            let decision =
                DecisionEntry::new(id, &self.shared_spec, &attempt.estimated_policy_request(), (seen, chosen), now);
            (decisions.clone(), decisions.push(decision))
        });
        Some(Box::new(RequestObservers { logged_decision: kept, shadow_reservation: imagined }))
    }
}
