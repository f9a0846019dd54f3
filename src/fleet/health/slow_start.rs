//! nginx's `slow_start`: the weight of a member that has returned ramps up.

use std::time::Duration;

use crate::units::{Moment, Weight};

/// Members that become ready within this time of their pool's first one start at full weight.
const POOL_START_WINDOW: Duration = Duration::from_secs(10);
/// Weights are offered to policies in thousandths, so that a ramp has steps between 0 and 1.
const WEIGHT_SCALE: u128 = 1_000;

/// The ramp of one member.
#[derive(Clone, Copy, Debug)]
pub(in crate::fleet) struct SlowStart {
    phase: RampPhase,
    /// The replica's drain count at the last update.
    last_drain_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RampPhase {
    /// Never in service since the pool was created.
    New,
    /// Not in service at the last update.
    Absent,
    /// Returned at this time.
    Ramping(Moment),
    Full,
}

impl SlowStart {
    /// Creates the state of a member of a new pool.
    pub(super) const fn new() -> Self {
        Self { phase: RampPhase::New, last_drain_count: 0 }
    }

    /// Makes the next return start a ramp.
    pub(super) const fn set_absent(&mut self) {
        self.phase = RampPhase::Absent;
    }

    /// Starts a ramp.
    pub(super) const fn restart(&mut self, now: Moment) {
        self.phase = RampPhase::Ramping(now);
    }

    /// Records whether the member is in service, ejection aside, and how often it was drained. `pool_started_at` is the
    /// time when the pool's first member was in service.
    pub(in crate::fleet) fn update(
        &mut self,
        in_service: bool,
        drain_count: u32,
        pool_started_at: Moment,
        now: Moment,
    ) {
        let was_drained = self.last_drain_count != drain_count;
        self.last_drain_count = drain_count;
        self.phase = match (in_service, self.phase) {
            (false, RampPhase::New) => RampPhase::New,
            (false, _) => RampPhase::Absent,
            (true, RampPhase::New) if now.since(pool_started_at) <= POOL_START_WINDOW => RampPhase::Full,
            (true, RampPhase::New | RampPhase::Absent) => RampPhase::Ramping(now),
            (true, _) if was_drained => RampPhase::Ramping(now),
            (true, phase) => phase,
        };
    }

    /// Returns the current weight in thousandths, at least one: it ramps up linearly over `duration`.
    pub(in crate::fleet) fn scaled_weight(&self, weight: Weight, duration: Duration, now: Moment) -> Weight {
        let full = u128::from(weight.get()) * WEIGHT_SCALE;
        let reached = match self.phase {
            RampPhase::Ramping(since) if now.since(since) < duration => {
                full * now.since(since).as_nanos() / duration.as_nanos().max(1)
            }
            _ => full,
        };
        u32::try_from(reached.max(1)).ok().and_then(Weight::new).unwrap_or(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(40);

    fn at_seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(100 + seconds)
    }

    fn weight(member: &SlowStart, now: Moment) -> u32 {
        member.scaled_weight(Weight::new(2).unwrap(), DURATION, now).get()
    }

    #[test]
    fn members_that_start_with_their_pool_have_full_weight_at_once() {
        let mut member = SlowStart::new();
        member.update(false, 0, at_seconds(0), at_seconds(0));
        member.update(true, 0, at_seconds(0), at_seconds(3));
        assert_eq!(weight(&member, at_seconds(3)), 2_000);
    }

    #[test]
    fn weight_ramps_up_linearly_from_the_return_to_the_end_of_slow_start() {
        let mut joined = SlowStart::new();
        joined.set_absent();
        joined.update(true, 0, at_seconds(0), at_seconds(60));
        assert_eq!(
            [60, 61, 70, 80, 99, 100, 200].map(|now| weight(&joined, at_seconds(now))),
            [1, 50, 500, 1_000, 1_950, 2_000, 2_000]
        );
        let mut late = SlowStart::new();
        late.update(false, 0, at_seconds(0), at_seconds(0));
        late.update(true, 0, at_seconds(0), at_seconds(60));
        assert_eq!(weight(&late, at_seconds(70)), 500, "the other members started long before");
    }

    #[test]
    fn absences_between_two_updates_count_as_well() {
        let mut member = SlowStart::new();
        member.update(true, 0, at_seconds(0), at_seconds(0));
        member.update(true, 1, at_seconds(0), at_seconds(50));
        assert_eq!(weight(&member, at_seconds(60)), 500);
        member.update(false, 1, at_seconds(0), at_seconds(61));
        member.update(true, 1, at_seconds(0), at_seconds(70));
        assert_eq!(weight(&member, at_seconds(70)), 1);
    }
}
