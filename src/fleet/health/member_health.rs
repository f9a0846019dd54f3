//! What a pool remembers of one member: its failures, and since when it has been back.

use std::time::Duration;

use super::busy_backoff::BusyBackoff;
use super::stall_detector::StallDetector;
use crate::eject::{EjectCause, EjectLimits, EjectState, Ejector};
use crate::fleet::{HealthCheck, Outcome, Phase};
use crate::units::{Moment, Weight};

/// Members that become ready within this time of their pool's first have started with it.
const POOL_START_WINDOW: Duration = Duration::from_secs(10);
/// Weights are offered to policies in thousandths, so that one that grows has steps between nothing and 1.
const WEIGHT_SCALE: u128 = 1_000;
/// A replica that so many requests in a row found as faulty as another one, and none was served by, is at fault itself: two
/// replicas that are broken in the same way vouch for each other.
const MAX_SHARED_FAULTS: u32 = 8;

/// One member's failures and its way back.
#[derive(Clone, Debug)]
pub(in crate::fleet) struct MemberHealth {
    pub(in crate::fleet) ejector: Ejector,
    pub(in crate::fleet) busy_backoff: BusyBackoff,
    pub(in crate::fleet) stall_detector: StallDetector,
    pub(in crate::fleet) check_state: CheckState,
    /// Faults in a row that were taken to be the requests'.
    shared_faults: u32,
    /// How often each of [`EjectCause::ALL`] has taken it out.
    ejections: [u64; EjectCause::ALL.len()],
    slow_start: SlowStart,
    /// The replica's count of absences when it was last looked at.
    last_drain_count: u32,
}

/// What the checks of a replica came to.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::fleet) struct CheckState {
    unhealthy: bool,
    /// Answers in a row that say otherwise.
    contrary_results: u32,
}

/// nginx's `slow_start`: how far a member that has come back is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlowStart {
    /// It has not been there since the pool was made.
    New,
    /// It is away, or was when it was last looked at.
    Absent,
    /// It came back then.
    Ramping(Moment),
    Full,
}

impl MemberHealth {
    /// A member of a pool that is made now.
    pub(in crate::fleet) fn new(limits: EjectLimits) -> Self {
        Self {
            ejector: Ejector::new(limits),
            busy_backoff: BusyBackoff::default(),
            stall_detector: StallDetector::default(),
            check_state: CheckState::default(),
            shared_faults: 0,
            ejections: Default::default(),
            slow_start: SlowStart::New,
            last_drain_count: 0,
        }
    }

    /// A member that joins a pool which serves already, or had been taken out of it by its description.
    pub(in crate::fleet) const fn into_new_member(mut self) -> Self {
        self.slow_start = SlowStart::Absent;
        self
    }

    /// The same history under other limits.
    pub(in crate::fleet) fn with_limits(self, limits: EjectLimits) -> Self {
        Self { ejector: self.ejector.with_limits(limits), ..self }
    }

    /// Takes note of whether the member is there, ejection aside, and how often it has been away; `opened` is when the
    /// pool's first member was there.
    pub(in crate::fleet) fn update_presence(&mut self, is_there: bool, absences: u32, opened: Moment, now: Moment) {
        let left = self.last_drain_count != absences;
        self.last_drain_count = absences;
        self.slow_start = match (is_there, self.slow_start) {
            (false, SlowStart::New) => SlowStart::New,
            (false, _) => SlowStart::Absent,
            (true, SlowStart::New) if now.since(opened) <= POOL_START_WINDOW => SlowStart::Full,
            (true, SlowStart::New | SlowStart::Absent) => SlowStart::Ramping(now),
            (true, _) if left => SlowStart::Ramping(now),
            (true, warmth) => warmth,
        };
    }

    /// Draws the consequences of how a request on the member ended.
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
        let begins = self.ejector.record_failure(cause, now);
        self.count_ejection(cause, begins);
    }

    /// Ejects it because nothing comes from it. Returns whether it was in until now.
    pub(in crate::fleet) fn eject_stalled(&mut self, now: Moment) -> bool {
        let begins = !self.ejector.is_over_limit() && self.ejector.eject(EjectCause::Stalled, now);
        if begins {
            self.stall_detector.mark_stalled(now);
        }
        self.count_ejection(EjectCause::Stalled, begins);
        begins
    }

    /// Ends an ejection for its silence.
    pub(in crate::fleet) fn readmit_stalled(&mut self, now: Moment) -> bool {
        let revives = self.ejector.cause() == Some(EjectCause::Stalled);
        if revives {
            self.ejector.reset();
            self.slow_start = SlowStart::Ramping(now);
        }
        revives
    }

    /// Takes note of a check. Returns whether it took the member out, or brought it back.
    pub(in crate::fleet) fn record_check(&mut self, passed: bool, check: &HealthCheck, now: Moment) -> bool {
        let turns = self.check_state.record(passed, check);
        self.count_ejection(EjectCause::HealthCheck, turns && !passed);
        if turns && passed {
            self.slow_start = SlowStart::Ramping(now);
        }
        turns
    }

    fn count_ejection(&mut self, cause: EjectCause, begins: bool) {
        let at = EjectCause::ALL.iter().position(|known| *known == cause);
        if let Some(count) = at.and_then(|at| self.ejections.get_mut(at)) {
            *count += u64::from(begins);
        }
    }

    /// What it is left alone for.
    pub(in crate::fleet) fn ejection_cause(&self) -> Option<EjectCause> {
        if self.check_state.is_unhealthy() { Some(EjectCause::HealthCheck) } else { self.ejector.cause() }
    }

    /// How often each of [`EjectCause::ALL`] has taken it out.
    pub(in crate::fleet) const fn ejections(&self) -> [u64; EjectCause::ALL.len()] {
        self.ejections
    }

    /// Counts an answer; one that ends an ejection begins the way back.
    pub(in crate::fleet) fn record_success(&mut self, now: Moment) {
        let was_out = self.ejector.state(now) != EjectState::Admitted;
        self.ejector.record_success();
        if was_out && self.ejector.state(now) == EjectState::Admitted {
            self.slow_start = SlowStart::Ramping(now);
        }
    }

    /// The member's weight now, in thousandths and at least one of them: it grows linearly over `slow_start`.
    pub(in crate::fleet) fn scaled_weight(&self, weight: Weight, slow_start: Duration, now: Moment) -> Weight {
        let full = u128::from(weight.get()) * WEIGHT_SCALE;
        let reached = match self.slow_start {
            SlowStart::Ramping(since) if now.since(since) < slow_start => {
                full * now.since(since).as_nanos() / slow_start.as_nanos().max(1)
            }
            _ => full,
        };
        u32::try_from(reached.max(1)).ok().and_then(Weight::new).unwrap_or(weight)
    }
}

impl CheckState {
    /// Tells whether the checks have taken it out.
    pub(in crate::fleet) const fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    fn record(&mut self, passed: bool, check: &HealthCheck) -> bool {
        self.contrary_results = if passed == self.unhealthy { self.contrary_results + 1 } else { 0 };
        let turns = self.contrary_results >= if self.unhealthy { check.rise } else { check.fall };
        if turns {
            (self.unhealthy, self.contrary_results) = (!self.unhealthy, 0);
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_START: Duration = Duration::from_secs(40);

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100 + seconds)
    }

    fn weight(standing: &MemberHealth, now: Moment) -> u32 {
        standing.scaled_weight(Weight::new(2).unwrap(), SLOW_START, now).get()
    }

    fn new_member() -> MemberHealth {
        MemberHealth::new(EjectLimits::default())
    }

    #[test]
    fn members_that_start_with_their_pool_have_their_weight_at_once() {
        let mut standing = new_member();
        standing.update_presence(false, 0, at_seconds(0), at_seconds(0));
        standing.update_presence(true, 0, at_seconds(0), at_seconds(3));
        assert_eq!(weight(&standing, at_seconds(3)), 2_000);
    }

    #[test]
    fn a_weight_grows_linearly_from_the_return_to_the_end_of_slow_start() {
        let mut joined = new_member().into_new_member();
        joined.update_presence(true, 0, at_seconds(0), at_seconds(60));
        assert_eq!(
            [60, 61, 70, 80, 99, 100, 200].map(|now| weight(&joined, at_seconds(now))),
            [1, 50, 500, 1_000, 1_950, 2_000, 2_000]
        );
        let mut late = new_member();
        late.update_presence(false, 0, at_seconds(0), at_seconds(0));
        late.update_presence(true, 0, at_seconds(0), at_seconds(60));
        assert_eq!(weight(&late, at_seconds(70)), 500, "the others serve since long before");
    }

    #[test]
    fn absences_that_nobody_looked_at_count_as_well() {
        let mut standing = new_member();
        standing.update_presence(true, 0, at_seconds(0), at_seconds(0));
        standing.update_presence(true, 1, at_seconds(0), at_seconds(50));
        assert_eq!(weight(&standing, at_seconds(60)), 500);
        standing.update_presence(false, 1, at_seconds(0), at_seconds(61));
        standing.update_presence(true, 1, at_seconds(0), at_seconds(70));
        assert_eq!(weight(&standing, at_seconds(70)), 1);
    }

    #[test]
    fn a_probe_that_is_served_begins_the_return() {
        let mut standing = new_member();
        standing.update_presence(true, 0, at_seconds(0), at_seconds(0));
        standing.record_outcome(Outcome::Failed { phase: Phase::Connect }, at_seconds(10));
        standing.ejector.record_chosen(at_seconds(21));
        assert_eq!(weight(&standing, at_seconds(21)), 2_000, "a probe is not kept waiting");
        standing.record_success(at_seconds(22));
        assert_eq!(weight(&standing, at_seconds(32)), 500);
        standing.record_success(at_seconds(33));
        assert_eq!(weight(&standing, at_seconds(42)), 1_000, "further answers change nothing");
    }

    #[test]
    fn checks_take_out_after_fall_and_bring_back_after_rise() {
        let mut standing = new_member();
        let check = HealthCheck { rise: 2, fall: 3, ..HealthCheck::default() };
        let mut turns = String::new();
        for passed in "++--+---+-++".chars() {
            let turned = standing.record_check(passed == '+', &check, at_seconds(0));
            turns.push(if turned { '!' } else { '.' });
            turns.push(if standing.check_state.is_unhealthy() { 'o' } else { 'i' });
        }
        assert_eq!(turns, ".i.i.i.i.i.i.i!o.o.o.o!i");
        assert_eq!(standing.ejections(), [0, 0, 0, 1]);
    }

    #[test]
    fn faults_that_another_shares_count_only_if_nothing_is_served_between_many() {
        let mut standing = new_member();
        for n in 0..100 {
            standing.record_outcome(if n % 7 == 6 { Outcome::Completed } else { Outcome::SharedFault }, at_seconds(n));
            assert!(!standing.ejector.is_over_limit());
        }
        (0..MAX_SHARED_FAULTS).for_each(|_| standing.record_outcome(Outcome::SharedFault, at_seconds(101)));
        assert_eq!(standing.ejector.cause(), Some(EjectCause::Failed));
    }

    #[test]
    fn being_busy_never_ejects() {
        let mut standing = new_member();
        (0..1_000).for_each(|n| standing.record_outcome(Outcome::Busy { retry_after: None }, at_seconds(n)));
        assert!(!standing.ejector.is_over_limit() && standing.busy_backoff.is_active(at_seconds(999)));
        assert_eq!(standing.ejections(), [0; 4]);
    }
}
