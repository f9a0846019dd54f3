//! A replica as a member of one pool, and the one test of its eligibility.

use std::sync::Arc;
use std::time::Duration;

use super::acquire_request::AcquireRequest;
use super::eligibility::{EligibilityScan, Eligible, Ineligible, MemberState, PoolRules};
use crate::balance::{Candidate, SlowdownFactors};
use crate::eject::{EjectCause, EjectState};
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::load::prefix_cache::PrefixLookup;
use crate::fleet::{MemberSpec, Replica};
use crate::units::{Moment, Slot, Tokens};

/// Retry time suggested while a stalled member has requests pending.
const STALLED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A replica and its settings in one pool.
pub(in crate::fleet) struct PoolMember {
    pub(in crate::fleet) replica: Arc<Replica>,
    pub(super) spec: MemberSpec,
}

impl PoolMember {
    /// Returns the member as a candidate for the policy.
    pub(super) fn to_candidate(
        &self,
        slot: Slot,
        health: &MemberHealth,
        lookup: Option<&PrefixLookup<'_>>,
        now: Moment,
    ) -> Candidate {
        let (first_byte, last_byte) = self.replica.latency_averages().decayed(health.ejector.missed_periods(now));
        Candidate {
            slot,
            weight: health.slow_start.scaled_weight(self.spec.weight, self.spec.slow_start, now),
            in_flight: self.replica.in_flight(),
            load: self.replica.total_load(now),
            cached: lookup.map_or(Tokens(0), |lookup| lookup.cached_tokens(self.replica.cache_slot())),
            slowdown: SlowdownFactors::default(),
            first_byte,
            last_byte,
        }
    }

    /// Returns whether the member is in service: neither down, drained nor draining, and ready. Ignores health and
    /// load.
    pub(super) fn is_in_service(&self, rules: PoolRules) -> bool {
        let in_rotation = !self.spec.down && !self.spec.drain && !self.replica.is_drained();
        in_rotation && self.is_ready(rules)
    }

    /// Returns whether the pool knows the models of the member, as far as it needs them.
    pub(super) fn is_ready(&self, rules: PoolRules) -> bool {
        match rules {
            PoolRules { learns_models: true, .. } => self.replica.lists_models(),
            PoolRules { needs_model_list: true, .. } => self.replica.has_known_models(),
            _ => true,
        }
    }

    /// Returns whether the member gets requests that are not pinned to it.
    pub(super) const fn accepts_unpinned(&self) -> bool {
        !self.spec.drain
    }

    /// Returns whether the member may be chosen, for `request` if there is one: the only eligibility test.
    ///
    /// A request not pinned to the member needs [`PoolMember::accepts_unpinned`] as well. Busy members and backups are
    /// eligible; the choice ranks them last. *Errors*: why it may not be chosen.
    pub(super) fn check_eligible(
        &self,
        health: &MemberHealth,
        request: Option<&AcquireRequest<'_>>,
        scan: &EligibilityScan,
    ) -> Result<Eligible, Ineligible> {
        let EligibilityScan { now, rules, panic, check_interval } = *scan;
        if request.is_some_and(|request| request.tried.contains(&self.replica.id())) {
            return Err(Ineligible::Tried);
        }
        if self.replica.is_drained() {
            return Err(Ineligible::Drained);
        }
        if self.spec.down {
            return Err(Ineligible::Down);
        }
        if !self.is_ready(rules) {
            return Err(Ineligible::NotReady(self.replica.model_list_fault()));
        }
        if self.spec.max_conns.is_some_and(|max| self.replica.in_flight() >= max) {
            return Err(Ineligible::Full);
        }
        if let Some(interval) = check_interval.filter(|_| health.check_state.is_unhealthy()) {
            return Err(Ineligible::Ejected { cause: EjectCause::HealthCheck, until: now + interval });
        }
        let eligible = match health.ejector.state(now) {
            EjectState::Ejected { cause, .. } if panic && cause.is_passive() => Eligible::Admitted,
            EjectState::Ejected { cause, ends_at } if rules.ejection_enabled => {
                return Err(Ineligible::Ejected { cause, until: ends_at });
            }
            // Its pending requests serve as the probe.
            EjectState::Probing if self.is_still_stalled(health) && rules.ejection_enabled && !panic => {
                return Err(Ineligible::Ejected { cause: EjectCause::Stalled, until: now + STALLED_RETRY_AFTER });
            }
            EjectState::Probing => Eligible::Probing,
            EjectState::Ejected { .. } | EjectState::Admitted => Eligible::Admitted,
        };
        match request.and_then(|request| request.model) {
            Some(model) if rules.learns_models && !self.replica.has_model(model) => Err(Ineligible::ModelNotListed),
            _ => Ok(eligible),
        }
    }

    /// Returns the member's state.
    pub(super) fn state(&self, health: &MemberHealth, scan: &EligibilityScan) -> MemberState {
        match self.check_eligible(health, None, scan) {
            Err(reason) => reason.member_state(),
            Ok(_) if !self.accepts_unpinned() => MemberState::Draining,
            Ok(Eligible::Probing) => MemberState::Probing,
            Ok(Eligible::Admitted) if health.busy_backoff.is_active(scan.now) => MemberState::Busy,
            Ok(Eligible::Admitted) => MemberState::Admitted,
        }
    }

    /// Returns why the member was no candidate for `request`.
    pub(super) fn skip_reason(
        &self,
        health: &MemberHealth,
        request: &AcquireRequest<'_>,
        scan: &EligibilityScan,
    ) -> Ineligible {
        match self.check_eligible(health, Some(request), scan) {
            Err(reason) => reason,
            Ok(_) if !self.accepts_unpinned() => Ineligible::Draining,
            Ok(_) if request.is_pin_required() => Ineligible::NotPinned,
            Ok(_) if health.busy_backoff.is_active(scan.now) => Ineligible::Busy,
            Ok(_) => Ineligible::Backup,
        }
    }

    /// Returns whether the member was ejected as stalled and still has requests without a first byte.
    pub(super) fn is_still_stalled(&self, health: &MemberHealth) -> bool {
        health.ejector.cause() == Some(EjectCause::Stalled) && self.replica.activity().unanswered() > 0
    }
}
