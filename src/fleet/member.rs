//! A replica as a member of one pool, and whether it may be chosen.

use std::sync::Arc;
use std::time::Duration;

use super::screening::Screening;
use super::seat::Held;
use super::standing::Standing;
use super::{MemberSpec, Replica};
use crate::balance::{self, Candidate, Pace};
use crate::eject::{Admission, Cause};
use crate::units::{Moment, Slot, Tokens};

/// When to ask again for a member that is out until something comes from it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What holds for all members of a pool.
#[derive(Clone, Copy)]
pub(super) struct Ground {
    /// Nobody is let in before they have said what they serve.
    pub(super) waits_for_models: bool,
    /// Like nginx: the only server of a pool is always tried.
    pub(super) ejects: bool,
}

pub(super) struct Member {
    pub(super) replica: Arc<Replica>,
    pub(super) spec: MemberSpec,
}

impl Member {
    /// The member as a policy may choose it.
    pub(super) fn candidate(&self, at: Slot, standing: &Standing, held: Option<&Held<'_>>, now: Moment) -> Candidate {
        let (first_byte, last_byte) = self.replica.averages().after(standing.ejector.rounds_missed(now));
        let weight = standing.weight(self.spec.weight, self.spec.slow_start, now);
        let (in_flight, load) = (self.replica.in_flight(), self.replica.whole_load(now));
        let cached = held.map_or(Tokens(0), |held| held.by(self.replica.seat()));
        Candidate { at, weight, in_flight, load, cached, pace: Pace::default(), first_byte, last_byte }
    }

    /// Tells whether requests are meant to come here at all, failures and load aside.
    pub(super) fn is_there(&self, ground: Ground) -> bool {
        let wanted = !self.spec.down && !self.spec.drain && !self.replica.is_drained();
        wanted && (!ground.waits_for_models || self.replica.answered())
    }

    /// Tells whether the member can be chosen for a request that belongs to it; others need [`Member::takes_new`] too.
    pub(super) fn admits(&self, standing: &Standing, ground: Ground, screening: &mut Screening) -> bool {
        if self.spec.down || self.replica.is_drained() {
            return false;
        }
        if ground.waits_for_models && !self.replica.answered() {
            screening.not_ready = true;
            return false;
        }
        if self.spec.max_conns.is_some_and(|most| self.replica.in_flight() >= most) {
            screening.full = true;
            return false;
        }
        if let Some(every) = screening.checked_every.filter(|_| standing.health.is_out()) {
            screening.ejected(screening.now + every);
            return false;
        }
        let until = match standing.ejector.admits(screening.now) {
            Admission::Ejected { cause, .. } if screening.panic && cause.is_passive() => return true,
            Admission::Ejected { until, .. } if ground.ejects => until,
            // Requests wait there already; one more would learn nothing that they do not.
            Admission::Probing if self.hangs(standing) && ground.ejects && !screening.panic => {
                screening.now + LOOK_AGAIN
            }
            _ => return true,
        };
        screening.ejected(until);
        false
    }

    /// Tells whether requests wait on a replica from which nothing comes.
    pub(super) fn hangs(&self, standing: &Standing) -> bool {
        standing.ejector.cause() == Some(Cause::Stalled) && self.replica.signs().unanswered() > 0
    }

    /// Tells whether the member takes requests that do not belong to it.
    pub(super) const fn takes_new(&self) -> bool {
        !self.spec.drain
    }
}

/// Members as policies are told of them when they are built.
pub(super) fn describe(members: &[MemberSpec]) -> Vec<balance::Member> {
    let one = |(at, spec): (usize, &MemberSpec)| balance::Member {
        at: Slot(u32::try_from(at).unwrap_or(u32::MAX)),
        name: spec.name.to_string(),
        weight: spec.weight,
        max_fails: spec.eject.max_fails,
        backup: spec.backup,
    };
    members.iter().enumerate().map(one).collect()
}
