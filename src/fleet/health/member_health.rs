//! The health of one member, as its pool sees it.

use super::busy_backoff::BusyBackoff;
use super::check::CheckState;
use super::slow_start::SlowStart;
use super::stall_detector::StallDetector;
use crate::eject::{EjectCause, EjectLimits, EjectState, Ejector};
use crate::fleet::{HealthCheck, Outcome, Phase};
use crate::units::Moment;

/// Consecutive shared faults, without a success between them, that count as the member's own fault. Two replicas broken
/// in the same way would otherwise excuse each other.
const MAX_SHARED_FAULTS: u32 = 8;

/// One member's failures, checks and return.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct MemberHealth {
    pub(in crate::fleet) ejector: Ejector,
    pub(in crate::fleet) busy_backoff: BusyBackoff,
    pub(in crate::fleet) stall_detector: StallDetector,
    pub(in crate::fleet) check_state: CheckState,
    pub(in crate::fleet) slow_start: SlowStart,
    /// Consecutive faults attributed to the requests.
    shared_faults: u32,
    /// Number of ejections, by [`EjectCause::ALL`].
    ejections: [u64; EjectCause::ALL.len()],
}

impl MemberHealth {
    /// Creates the health of a member of a new pool.
    pub(in crate::fleet) fn new(limits: EjectLimits) -> Self {
        Self {
            ejector: Ejector::new(limits),
            busy_backoff: BusyBackoff::default(),
            stall_detector: StallDetector::default(),
            check_state: CheckState::default(),
            slow_start: SlowStart::new(),
            shared_faults: 0,
            ejections: Default::default(),
        }
    }

    /// Returns it as a member that joins a pool in operation, or returns to it by a reload: slow start applies.
    pub(in crate::fleet) const fn into_new_member(mut self) -> Self {
        self.slow_start.set_absent();
        self
    }

    /// Returns the same history under other limits.
    pub(in crate::fleet) fn with_limits(self, limits: EjectLimits) -> Self {
        Self { ejector: self.ejector.with_limits(limits), ..self }
    }

    /// Records how a request on the member ended.
    pub(in crate::fleet) fn record_outcome(&mut self, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::Failed { phase: Phase::Connect } => self.record_failure(EjectCause::Refused, now),
            Outcome::Failed { .. } => self.record_failure(EjectCause::Failed, now),
            Outcome::SharedFault => {
                self.shared_faults += 1;
                if self.shared_faults >= MAX_SHARED_FAULTS {
                    self.shared_faults = 0;
                    self.record_failure(EjectCause::Failed, now);
                }
            }
            Outcome::Busy { retry_after } => {
                self.busy_backoff.record(retry_after, now);
                self.record_success(now);
            }
            Outcome::Completed => {
                self.shared_faults = 0;
                self.record_success(now);
            }
            Outcome::Refused => self.record_success(now),
            Outcome::ClientGone | Outcome::RouterError => {}
        }
    }

    fn record_failure(&mut self, cause: EjectCause, now: Moment) {
        if self.ejector.record_failure(cause, now) {
            self.count_ejection(cause);
        }
    }

    /// Records a response; one that ends an ejection starts the slow start ramp.
    pub(super) fn record_success(&mut self, now: Moment) {
        let was_ejected = self.ejector.state(now) != EjectState::Admitted;
        self.ejector.record_success();
        if was_ejected && self.ejector.state(now) == EjectState::Admitted {
            self.slow_start.restart(now);
        }
    }

    /// Ejects the member as stalled. Returns whether that begins an ejection.
    pub(in crate::fleet) fn eject_stalled(&mut self, now: Moment) -> bool {
        let begins = !self.ejector.is_over_limit() && self.ejector.eject(EjectCause::Stalled, now);
        if begins {
            self.stall_detector.mark_stalled(now);
            self.count_ejection(EjectCause::Stalled);
        }
        begins
    }

    /// Ends an ejection as stalled. Returns whether there was one.
    pub(in crate::fleet) fn readmit_stalled(&mut self, now: Moment) -> bool {
        let was_stalled = self.ejector.cause() == Some(EjectCause::Stalled);
        if was_stalled {
            self.ejector.reset();
            self.slow_start.restart(now);
        }
        was_stalled
    }

    /// Records a health check. Returns whether it ejected the member, or readmitted it.
    pub(in crate::fleet) fn record_check(&mut self, passed: bool, check: &HealthCheck, now: Moment) -> bool {
        let changed = self.check_state.record(passed, check);
        match (changed, passed) {
            (true, true) => self.slow_start.restart(now),
            (true, false) => self.count_ejection(EjectCause::HealthCheck),
            (false, _) => {}
        }
        changed
    }

    fn count_ejection(&mut self, cause: EjectCause) {
        let index = EjectCause::ALL.iter().position(|known| *known == cause);
        if let Some(count) = index.and_then(|index| self.ejections.get_mut(index)) {
            *count += 1;
        }
    }

    /// Returns the number of ejections so far, by [`EjectCause::ALL`].
    pub(in crate::fleet) const fn ejections(&self) -> [u64; EjectCause::ALL.len()] {
        self.ejections
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::units::Weight;

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100 + seconds)
    }

    fn weight(member: &MemberHealth, now: Moment) -> u32 {
        member.slow_start.scaled_weight(Weight::new(2).unwrap(), Duration::from_secs(40), now).get()
    }

    fn new_member() -> MemberHealth {
        MemberHealth::new(EjectLimits::default())
    }

    #[test]
    fn successful_probe_starts_the_ramp() {
        let mut member = new_member();
        member.slow_start.update(true, 0, at_seconds(0), at_seconds(0));
        member.record_outcome(Outcome::Failed { phase: Phase::Connect }, at_seconds(10));
        member.ejector.record_chosen(at_seconds(21));
        assert_eq!(weight(&member, at_seconds(21)), 2_000, "a probe has full weight");
        member.record_success(at_seconds(22));
        assert_eq!(weight(&member, at_seconds(32)), 500);
        member.record_success(at_seconds(33));
        assert_eq!(weight(&member, at_seconds(42)), 1_000, "further responses change nothing");
    }

    #[test]
    fn ejection_by_check_is_counted_once() {
        let mut member = new_member();
        let check = HealthCheck { rise: 2, fall: 3, ..HealthCheck::default() };
        for passed in "++--+---+-++".chars() {
            member.record_check(passed == '+', &check, at_seconds(0));
        }
        assert_eq!(member.ejections(), [0, 0, 0, 1]);
    }

    #[test]
    fn shared_faults_eject_only_without_a_success_between_eight() {
        let mut member = new_member();
        for n in 0..100 {
            member.record_outcome(if n % 7 == 6 { Outcome::Completed } else { Outcome::SharedFault }, at_seconds(n));
            assert!(!member.ejector.is_over_limit());
        }
        (0..MAX_SHARED_FAULTS).for_each(|_| member.record_outcome(Outcome::SharedFault, at_seconds(101)));
        assert_eq!(member.ejector.cause(), Some(EjectCause::Failed));
    }

    #[test]
    fn busy_responses_never_eject() {
        let mut member = new_member();
        (0..1_000).for_each(|n| member.record_outcome(Outcome::Busy { retry_after: None }, at_seconds(n)));
        assert!(!member.ejector.is_over_limit() && member.busy_backoff.is_active(at_seconds(999)));
        assert_eq!(member.ejections(), [0; 4]);
    }
}
