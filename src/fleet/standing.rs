//! What a pool remembers of one member: its failures, and since when it has been back.

use std::time::Duration;

use super::busy::Busy;
use super::watch::Watch;
use super::{Check, Outcome, Phase};
use crate::eject::{Admission, Cause, Ejector, Limits};
use crate::units::{Moment, Weight};

/// Members that become ready within this time of their pool's first have started with it.
const TOGETHER: Duration = Duration::from_secs(10);
/// Weights are offered to policies in thousandths, so that one that grows has steps between nothing and 1.
const WHOLE: u128 = 1_000;
/// A replica that so many requests in a row found as faulty as another one, and none was served by, is at fault itself: two
/// replicas that are broken in the same way vouch for each other.
const DOUBTS: u32 = 8;

/// One member's failures and its way back.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) ejector: Ejector,
    pub(super) busy: Busy,
    pub(super) watch: Watch,
    pub(super) health: Health,
    /// Faults in a row that were taken to be the requests'.
    doubts: u32,
    /// How often each of [`Cause::ALL`] has taken it out.
    ejections: [u64; Cause::ALL.len()],
    warmth: Warmth,
    /// The replica's count of absences when it was last looked at.
    absences: u32,
}

/// What the checks of a replica came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    out: bool,
    /// Answers in a row that say otherwise.
    against: u32,
}

/// nginx's `slow_start`: how far a member that has come back is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warmth {
    /// It has not been there since the pool was made.
    Fresh,
    /// It is away, or was when it was last looked at.
    Cold,
    /// It came back then.
    Warming(Moment),
    Warm,
}

impl Standing {
    /// A member of a pool that is made now.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            ejector: Ejector::new(limits),
            busy: Busy::default(),
            watch: Watch::default(),
            health: Health::default(),
            doubts: 0,
            ejections: Default::default(),
            warmth: Warmth::Fresh,
            absences: 0,
        }
    }

    /// A member that joins a pool which serves already, or had been taken out of it by its description.
    pub(super) const fn joining(mut self) -> Self {
        self.warmth = Warmth::Cold;
        self
    }

    /// The same history under other limits.
    pub(super) fn with(self, limits: Limits) -> Self {
        Self { ejector: self.ejector.with(limits), ..self }
    }

    /// Takes note of whether the member is there, ejection aside, and how often it has been away; `opened` is when the
    /// pool's first member was there.
    pub(super) fn look(&mut self, is_there: bool, absences: u32, opened: Moment, now: Moment) {
        let left = self.absences != absences;
        self.absences = absences;
        self.warmth = match (is_there, self.warmth) {
            (false, Warmth::Fresh) => Warmth::Fresh,
            (false, _) => Warmth::Cold,
            (true, Warmth::Fresh) if now.since(opened) <= TOGETHER => Warmth::Warm,
            (true, Warmth::Fresh | Warmth::Cold) => Warmth::Warming(now),
            (true, _) if left => Warmth::Warming(now),
            (true, warmth) => warmth,
        };
    }

    /// Draws the consequences of how a request on the member ended.
    pub(super) fn judge(&mut self, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::Failed { phase: Phase::Connect } => self.failed(Cause::Refused, now),
            Outcome::Failed { .. } => self.failed(Cause::Failed, now),
            Outcome::Excused => {
                self.doubts += 1;
                if self.doubts >= DOUBTS {
                    self.doubts = 0;
                    self.failed(Cause::Failed, now);
                }
            }
            Outcome::Busy { retry_after } => {
                self.busy.told(retry_after, now);
                self.served(now);
            }
            Outcome::Completed => {
                self.doubts = 0;
                self.served(now);
            }
            Outcome::Refused => self.served(now),
            Outcome::ClientGone | Outcome::Ours => {}
        }
    }

    fn failed(&mut self, cause: Cause, now: Moment) {
        let begins = self.ejector.failed(cause, now);
        self.count(cause, begins);
    }

    /// Ejects it because nothing comes from it. Returns whether it was in until now.
    pub(super) fn stalls(&mut self, now: Moment) -> bool {
        let begins = !self.ejector.is_out() && self.ejector.eject(Cause::Stalled, now);
        if begins {
            self.watch.stalls(now);
        }
        self.count(Cause::Stalled, begins);
        begins
    }

    /// Ends an ejection for its silence.
    pub(super) fn revives(&mut self, now: Moment) -> bool {
        let revives = self.ejector.cause() == Some(Cause::Stalled);
        if revives {
            self.ejector.cleared();
            self.warmth = Warmth::Warming(now);
        }
        revives
    }

    /// Takes note of a check. Returns whether it took the member out, or brought it back.
    pub(super) fn checked(&mut self, passed: bool, check: &Check, now: Moment) -> bool {
        let turns = self.health.look(passed, check);
        self.count(Cause::Check, turns && !passed);
        if turns && passed {
            self.warmth = Warmth::Warming(now);
        }
        turns
    }

    fn count(&mut self, cause: Cause, begins: bool) {
        let at = Cause::ALL.iter().position(|known| *known == cause);
        if let Some(count) = at.and_then(|at| self.ejections.get_mut(at)) {
            *count += u64::from(begins);
        }
    }

    /// What it is left alone for.
    pub(super) fn out_for(&self) -> Option<Cause> {
        if self.health.is_out() { Some(Cause::Check) } else { self.ejector.cause() }
    }

    /// How often each of [`Cause::ALL`] has taken it out.
    pub(super) const fn ejections(&self) -> [u64; Cause::ALL.len()] {
        self.ejections
    }

    /// Counts an answer; one that ends an ejection begins the way back.
    pub(super) fn served(&mut self, now: Moment) {
        let was_out = self.ejector.admits(now) != Admission::Admitted;
        self.ejector.served();
        if was_out && self.ejector.admits(now) == Admission::Admitted {
            self.warmth = Warmth::Warming(now);
        }
    }

    /// The member's weight now, in thousandths and at least one of them: it grows linearly over `slow_start`.
    pub(super) fn weight(&self, weight: Weight, slow_start: Duration, now: Moment) -> Weight {
        let full = u128::from(weight.get()) * WHOLE;
        let reached = match self.warmth {
            Warmth::Warming(since) if now.since(since) < slow_start => {
                full * now.since(since).as_nanos() / slow_start.as_nanos().max(1)
            }
            _ => full,
        };
        u32::try_from(reached.max(1)).ok().and_then(Weight::new).unwrap_or(weight)
    }
}

impl Health {
    /// Tells whether the checks have taken it out.
    pub(super) const fn is_out(&self) -> bool {
        self.out
    }

    fn look(&mut self, passed: bool, check: &Check) -> bool {
        self.against = if passed == self.out { self.against + 1 } else { 0 };
        let turns = self.against >= if self.out { check.rise } else { check.fall };
        if turns {
            (self.out, self.against) = (!self.out, 0);
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(40);

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100 + seconds)
    }

    fn weight(standing: &Standing, now: Moment) -> u32 {
        standing.weight(Weight::new(2).unwrap(), OVER, now).get()
    }

    fn fresh() -> Standing {
        Standing::new(Limits::default())
    }

    #[test]
    fn members_that_start_with_their_pool_have_their_weight_at_once() {
        let mut standing = fresh();
        standing.look(false, 0, at(0), at(0));
        standing.look(true, 0, at(0), at(3));
        assert_eq!(weight(&standing, at(3)), 2_000);
    }

    #[test]
    fn a_weight_grows_linearly_from_the_return_to_the_end_of_slow_start() {
        let mut joined = fresh().joining();
        joined.look(true, 0, at(0), at(60));
        assert_eq!(
            [60, 61, 70, 80, 99, 100, 200].map(|now| weight(&joined, at(now))),
            [1, 50, 500, 1_000, 1_950, 2_000, 2_000]
        );
        let mut late = fresh();
        late.look(false, 0, at(0), at(0));
        late.look(true, 0, at(0), at(60));
        assert_eq!(weight(&late, at(70)), 500, "the others serve since long before");
    }

    #[test]
    fn absences_that_nobody_looked_at_count_as_well() {
        let mut standing = fresh();
        standing.look(true, 0, at(0), at(0));
        standing.look(true, 1, at(0), at(50));
        assert_eq!(weight(&standing, at(60)), 500);
        standing.look(false, 1, at(0), at(61));
        standing.look(true, 1, at(0), at(70));
        assert_eq!(weight(&standing, at(70)), 1);
    }

    #[test]
    fn a_probe_that_is_served_begins_the_return() {
        let mut standing = fresh();
        standing.look(true, 0, at(0), at(0));
        standing.judge(Outcome::Failed { phase: Phase::Connect }, at(10));
        standing.ejector.chosen(at(21));
        assert_eq!(weight(&standing, at(21)), 2_000, "a probe is not kept waiting");
        standing.served(at(22));
        assert_eq!(weight(&standing, at(32)), 500);
        standing.served(at(33));
        assert_eq!(weight(&standing, at(42)), 1_000, "further answers change nothing");
    }

    #[test]
    fn checks_take_out_after_fall_and_bring_back_after_rise() {
        let mut standing = fresh();
        let check = Check { rise: 2, fall: 3, ..Check::default() };
        let mut turns = String::new();
        for passed in "++--+---+-++".chars() {
            let turned = standing.checked(passed == '+', &check, at(0));
            turns.push(if turned { '!' } else { '.' });
            turns.push(if standing.health.is_out() { 'o' } else { 'i' });
        }
        assert_eq!(turns, ".i.i.i.i.i.i.i!o.o.o.o!i");
        assert_eq!(standing.ejections(), [0, 0, 0, 1]);
    }

    #[test]
    fn faults_that_another_shares_count_only_if_nothing_is_served_between_many() {
        let mut standing = fresh();
        for n in 0..100 {
            standing.judge(if n % 7 == 6 { Outcome::Completed } else { Outcome::Excused }, at(n));
            assert!(!standing.ejector.is_out());
        }
        (0..DOUBTS).for_each(|_| standing.judge(Outcome::Excused, at(101)));
        assert_eq!(standing.ejector.cause(), Some(Cause::Failed));
    }

    #[test]
    fn being_busy_never_ejects() {
        let mut standing = fresh();
        (0..1_000).for_each(|n| standing.judge(Outcome::Busy { retry_after: None }, at(n)));
        assert!(!standing.ejector.is_out() && standing.busy.is_now(at(999)));
        assert_eq!(standing.ejections(), [0; 4]);
    }
}
