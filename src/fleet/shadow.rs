//! A second policy that is asked beside a pool's own and not obeyed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::load::{Charge, Ledger};
use super::member::{Member, describe};
use super::seat::{Held, Seat, Shelves};
use super::{Attempt, MemberSpec, Outcome, Phase, PolicySpec, Progress, Replica};
use crate::balance::{BadPolicy, Candidate, Dice, Job, Load, Policy};
use crate::prompt::Prefix;
use crate::units::{Moment, ReplicaId, Slot, Tokens};

/// What a shadow policy would have done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The policy's name in the table.
    pub policy: &'static str,
    /// Whether it would have chosen the same replica.
    pub same: bool,
    /// What of the prompt would have been cached where it would have gone; `None` if the policy does not ask.
    pub cached: Option<Tokens>,
}

/// A policy and the load there would be if it had its way.
pub(super) struct Shadow {
    spec: PolicySpec,
    /// By slot.
    doubles: Vec<Arc<Double>>,
    shelves: Shelves,
    /// Guards the policy. Never held while another lock is.
    inner: Mutex<Inner>,
}

struct Inner {
    policy: Box<dyn Policy>,
    dice: Dice,
    /// Kept to spare an allocation a choice.
    offered: Vec<Candidate>,
}

/// A replica as it would be.
#[derive(Debug)]
struct Double {
    of: ReplicaId,
    ledger: Ledger,
    /// Only where the policy wants to know where prompts are cached.
    seat: Option<Seat>,
}

/// A request where the shadow policy would have sent it. It weighs there what it weighs on its real replica, as long.
pub(super) struct Imagined {
    shadow: Arc<Shadow>,
    double: Arc<Double>,
    /// Taken at the end.
    charge: Option<Charge>,
    prompt: Tokens,
    cached: Tokens,
    prefix: Option<Arc<Prefix>>,
    /// `None` where no policy was asked.
    same: Option<bool>,
}

/// What happened to a request in its pool.
pub(super) struct Happened<'a> {
    pub(super) members: &'a [Member],
    /// Who could be chosen.
    pub(super) offered: &'a [Candidate],
    pub(super) chosen: Slot,
    /// The request belonged there; the policy was not asked.
    pub(super) pinned: bool,
    pub(super) now: Moment,
}

impl Shadow {
    /// *Errors*: the policy cannot be made for these members.
    pub(super) fn new(
        spec: &PolicySpec,
        members: &[MemberSpec],
        replicas: &[Arc<Replica>],
        seed: u64,
    ) -> Result<Self, BadPolicy> {
        let inner = Inner { policy: spec.build(&describe(members))?, dice: Dice::seeded(seed), offered: Vec::new() };
        let mut shadow =
            Self { spec: spec.clone(), doubles: Vec::new(), shelves: Shelves::default(), inner: Mutex::new(inner) };
        shadow.doubles = replicas.iter().map(|replica| shadow.double(replica.id())).collect();
        Ok(shadow)
    }

    /// Goes on with the load that the shadow before it has imagined, if that had the same policy.
    pub(super) fn take_over(&mut self, old: &Self) {
        if self.spec != old.spec {
            return;
        }
        self.shelves = old.shelves.clone();
        let ids: Vec<ReplicaId> = self.doubles.drain(..).map(|double| double.of).collect();
        for id in ids {
            let known = old.doubles.iter().find(|double| double.of == id).cloned();
            let double = known.unwrap_or_else(|| self.double(id));
            self.doubles.push(double);
        }
    }

    fn double(&mut self, of: ReplicaId) -> Arc<Double> {
        let seat = self.spec.asks_prefix().then(|| self.shelves.seat());
        Arc::new(Double { of, ledger: Ledger::default(), seat })
    }

    /// Asks the policy about a request that is on its replica already, and charges whom it says.
    ///
    /// *Cost*: as the pool's own choice.
    pub(super) fn imagine(self: &Arc<Self>, attempt: &Attempt<'_>, happened: &Happened<'_>) -> Option<Imagined> {
        let prefix = attempt.prefix.as_ref().filter(|_| self.spec.asks_prefix());
        let tried: Vec<Slot> = (0u32..)
            .zip(happened.members)
            .filter(|(_, member)| attempt.tried.contains(&member.replica.id()))
            .map(|(slot, _)| Slot(slot))
            .collect();
        let job = Job { key: attempt.beside.shadow_key, tried: &tried, ..attempt.job() };
        let seats = self.doubles.iter().filter_map(|double| double.seat.as_ref());
        let held = prefix.map(|prefix| Held::of(prefix, job.prompt, seats));
        let cached = |double: &Double| match (&held, &double.seat) {
            (Some(held), Some(seat)) => held.by(seat),
            _ => Tokens(0),
        };
        let mut inner = self.lock();
        let Inner { policy, dice, offered, .. } = &mut *inner;
        offered.clear();
        for real in happened.offered {
            let (double, member) = self.doubles.get(real.at.index()).zip(happened.members.get(real.at.index()))?;
            let load = double.ledger.load() + member.replica.foreign_load(happened.now);
            offered.push(Candidate { in_flight: double.ledger.in_flight(), load, cached: cached(double), ..*real });
        }
        let would = if happened.pinned { None } else { policy.choose(&job, offered, dice) };
        let at = would.filter(|at| offered.iter().any(|c| c.at == *at)).unwrap_or(happened.chosen);
        let double = self.doubles.get(at.index())?.clone();
        let cached = cached(&double);
        let uncached = (job.prompt - cached).max(Tokens(1));
        let charge = double.ledger.charge(job.prompt.max(Tokens(1)), uncached, happened.now);
        drop(inner);
        if let (Some(seat), Some(prefix), Some(member)) = (&double.seat, prefix, happened.members.get(at.index())) {
            if let Some(room) = member.replica.room(happened.now) {
                seat.resize(room);
            }
            seat.note(prefix, job.prompt);
        }
        let same = (!happened.pinned).then_some(at == happened.chosen);
        let (shadow, prefix) = (self.clone(), prefix.cloned());
        Some(Imagined { shadow, double, charge: Some(charge), prompt: job.prompt, cached, prefix, same })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can leave it half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is imagined on each member: requests and tokens.
    pub(super) fn loads(&self) -> Vec<(u32, Load)> {
        self.doubles.iter().map(|double| (double.ledger.in_flight(), double.ledger.load())).collect()
    }
}

impl Imagined {
    /// The real answer goes on.
    pub(super) fn follow(&mut self, seen: Progress, now: Moment) {
        let (Some(charge), ledger) = (&mut self.charge, &self.double.ledger) else { return };
        if seen.content_events > 0 {
            charge.first_token(ledger);
            charge.grow(ledger, seen.content_events, now);
        }
        if let Some(usage) = seen.usage {
            charge.correct(ledger, usage, now);
        }
    }

    /// What there is to count of it; `None` where no policy was asked.
    pub(super) fn told(&self) -> Option<Shadowed> {
        let cached = self.shadow.spec.asks_prefix().then_some(self.cached);
        Some(Shadowed { policy: self.shadow.spec.name(), same: self.same?, cached })
    }

    /// The request has ended on its real replica, which is at `real`; `begun`: after a first token.
    pub(super) fn end(mut self, outcome: Outcome, real: Slot, begun: bool) {
        self.release(outcome == Outcome::Completed);
        if let (Some(seat), Some(prefix)) = (&self.double.seat, &self.prefix)
            && !begun
            && outcome != Outcome::Completed
        {
            seat.trim(prefix, self.prompt, self.cached);
        }
        if let Outcome::Failed { phase } = outcome {
            self.shadow.lock().policy.failed(real);
            // What is down comes back empty, whoever would have been sent there.
            let double = self.shadow.doubles.get(real.index());
            if let Some(seat) = double.and_then(|double| double.seat.as_ref()).filter(|_| phase == Phase::Connect) {
                seat.clear();
            }
        }
    }

    fn release(&mut self, whole: bool) {
        if let Some(charge) = self.charge.take() {
            charge.release(&self.double.ledger, whole);
        }
    }
}

impl Drop for Imagined {
    fn drop(&mut self) {
        self.release(false);
    }
}

impl fmt::Debug for Imagined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imagined").field("on", &self.double.of).field("same", &self.same).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
