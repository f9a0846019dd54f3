//! A replica as a member of one pool, and whether it may be chosen.

use std::sync::Arc;
use std::time::Duration;

use super::eligibility::EligibilityScan;
use crate::balance::{self, Candidate, SlowdownFactors};
use crate::eject::{EjectCause, EjectState};
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::load::prefix_cache::PrefixLookup;
use crate::fleet::{MemberSpec, Replica};
use crate::units::{Moment, Slot, Tokens};

/// When to ask again for a member that is out until something comes from it.
const WEDGED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What holds for all members of a pool.
#[derive(Clone, Copy)]
pub(in crate::fleet) struct PoolRules {
    /// Nobody is let in before they have said what they serve.
    pub(in crate::fleet) needs_model_list: bool,
    /// Like nginx: the only server of a pool is always tried.
    pub(in crate::fleet) ejection_enabled: bool,
}

pub(in crate::fleet) struct PoolMember {
    pub(in crate::fleet) replica: Arc<Replica>,
    pub(in crate::fleet) spec: MemberSpec,
}

impl PoolMember {
    /// The member as a policy may choose it.
    pub(in crate::fleet) fn to_candidate(
        &self,
        at: Slot,
        standing: &MemberHealth,
        held: Option<&PrefixLookup<'_>>,
        now: Moment,
    ) -> Candidate {
        let (first_byte, last_byte) = self.replica.latency_averages().decayed(standing.ejector.missed_periods(now));
        let weight = standing.scaled_weight(self.spec.weight, self.spec.slow_start, now);
        let (in_flight, load) = (self.replica.in_flight(), self.replica.total_load(now));
        let cached = held.map_or(Tokens(0), |held| held.cached_tokens(self.replica.cache_slot()));
        Candidate {
            slot: at,
            weight,
            in_flight,
            load,
            cached,
            slowdown: SlowdownFactors::default(),
            first_byte,
            last_byte,
        }
    }

    /// Tells whether requests are meant to come here at all, failures and load aside.
    pub(in crate::fleet) fn is_in_service(&self, ground: PoolRules) -> bool {
        let wanted = !self.spec.down && !self.spec.drain && !self.replica.is_drained();
        wanted && (!ground.needs_model_list || self.replica.has_known_models())
    }

    /// Tells whether the member can be chosen for a request that belongs to it; others need [`PoolMember::accepts_new`] too.
    pub(in crate::fleet) fn check_eligible(
        &self,
        standing: &MemberHealth,
        ground: PoolRules,
        screening: &mut EligibilityScan,
    ) -> bool {
        if self.spec.down || self.replica.is_drained() {
            return false;
        }
        if ground.needs_model_list && !self.replica.has_known_models() {
            screening.any_not_ready = true;
            return false;
        }
        if self.spec.max_conns.is_some_and(|most| self.replica.in_flight() >= most) {
            screening.any_full = true;
            return false;
        }
        if let Some(every) = screening.check_interval.filter(|_| standing.check_state.is_unhealthy()) {
            screening.record_ejected(screening.now + every);
            return false;
        }
        let until = match standing.ejector.state(screening.now) {
            EjectState::Ejected { cause, .. } if screening.panic && cause.is_passive() => return true,
            EjectState::Ejected { ends_at: until, .. } if ground.ejection_enabled => until,
            // Requests wait there already; one more would learn nothing that they do not.
            EjectState::Probing if self.is_wedged(standing) && ground.ejection_enabled && !screening.panic => {
                screening.now + WEDGED_RETRY_AFTER
            }
            _ => return true,
        };
        screening.record_ejected(until);
        false
    }

    /// Tells whether requests wait on a replica from which nothing comes.
    pub(in crate::fleet) fn is_wedged(&self, standing: &MemberHealth) -> bool {
        standing.ejector.cause() == Some(EjectCause::Stalled) && self.replica.activity().unanswered() > 0
    }

    /// Tells whether the member takes requests that do not belong to it.
    pub(in crate::fleet) const fn accepts_new(&self) -> bool {
        !self.spec.drain
    }
}

/// Members as policies are told of them when they are built.
pub(in crate::fleet) fn policy_members(members: &[MemberSpec]) -> Vec<balance::PolicyMember> {
    let one = |(at, spec): (usize, &MemberSpec)| balance::PolicyMember {
        slot: Slot(u32::try_from(at).unwrap_or(u32::MAX)),
        name: spec.name.to_string(),
        weight: spec.weight,
        max_fails: spec.eject_limits.max_fails,
        backup: spec.backup,
    };
    members.iter().enumerate().map(one).collect()
}
