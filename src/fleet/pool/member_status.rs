//! The state of a pool's members with the figures behind it, for the admin listener.

use super::eligibility::{EligibilityScan, Ineligible, MemberState};
use super::member::PoolMember;
use super::state::Pool;
use crate::balance::SlowdownFactors;
use crate::fleet::health::member_health::MemberHealth;
use crate::units::Moment;

/// Weights are scaled in thousandths.
const WEIGHT_SCALE: f64 = 1_000.0;

/// One member at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberStatus {
    /// Its state.
    pub state: MemberState,
    /// Its weight, reduced while its slow start runs.
    pub weight: f64,
    /// Its failures within `fail_timeout`.
    pub failures: u32,
    /// The earliest end of its ejection; `None` unless it is ejected.
    pub ejected_until: Option<Moment>,
    /// Its learned time for a prefill, relative to the median of the pool: 2 is twice as slow.
    pub prefill_slowdown: f64,
    /// Its learned time between tokens, relative to the median of the pool.
    pub decode_slowdown: f64,
}

impl Pool {
    /// Returns each member's status, in configuration order.
    pub fn member_statuses(&self, now: Moment) -> Vec<MemberStatus> {
        let mut state = self.lock_state();
        self.update_slow_start(&mut state, now);
        let scan = self.begin_scan(&state, now);
        let slowdowns = (0..self.members.len()).map(|index| state.speed_estimator.slowdown(index));
        let members = self.members.iter().zip(&state.member_health).zip(slowdowns);
        members.map(|((member, health), slowdown)| MemberStatus::new(member, health, slowdown, &scan)).collect()
    }
}

impl MemberStatus {
    fn new(member: &PoolMember, health: &MemberHealth, slowdown: SlowdownFactors, scan: &EligibilityScan) -> Self {
        let ratio = |parts: u32| f64::from(parts) / f64::from(SlowdownFactors::ONE);
        let weight = health.slow_start.scaled_weight(member.spec.weight, member.spec.slow_start, scan.now);
        Self {
            state: member.state(health, scan),
            weight: f64::from(weight.get()) / WEIGHT_SCALE,
            failures: health.ejector.failures(scan.now),
            ejected_until: match member.check_eligible(health, None, scan) {
                Err(Ineligible::Ejected { until, .. }) => Some(until),
                _ => None,
            },
            prefill_slowdown: ratio(slowdown.prefill),
            decode_slowdown: ratio(slowdown.decode),
        }
    }
}
