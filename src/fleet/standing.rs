//! What a pool remembers of one member: its failures, and since when it has been back.

use std::time::Duration;

use crate::eject::{Admission, Ejector, Limits};
use crate::units::{Moment, Weight};

/// Members that become ready within this time of their pool's first have started with it.
const TOGETHER: Duration = Duration::from_secs(10);
/// Weights are offered to policies in thousandths, so that one that grows has steps between nothing and 1.
const WHOLE: u128 = 1_000;

/// One member's failures and its way back.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) ejector: Ejector,
    warmth: Warmth,
    /// The replica's count of absences when it was last looked at.
    absences: u32,
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
    pub(super) const fn new(limits: Limits) -> Self {
        Self { ejector: Ejector::new(limits), warmth: Warmth::Fresh, absences: 0 }
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
        standing.ejector.failed(at(10));
        standing.ejector.chosen(at(21));
        assert_eq!(weight(&standing, at(21)), 2_000, "a probe is not kept waiting");
        standing.served(at(22));
        assert_eq!(weight(&standing, at(32)), 500);
        standing.served(at(33));
        assert_eq!(weight(&standing, at(42)), 1_000, "further answers change nothing");
    }
}
