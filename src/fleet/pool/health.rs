//! Which members of a pool are well, and what is concluded from how requests and checks end.

use std::sync::Arc;
use std::time::Duration;

use super::super::screening::{Screening, State};
use super::super::standing::Standing;
use super::super::watch::Seen;
use super::super::{Check, Outcome, Replays, Replica};
use super::{Inner, Member, Pool};
use crate::eject::{Admission, Cause};
use crate::units::{Moment, ReplicaId, Slot};

/// A member that is left alone from now on, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The replica's name.
    pub replica: Arc<str>,
    /// What it was left alone for.
    pub cause: Cause,
    /// Whether it is from now on.
    pub out: bool,
}

impl Pool {
    /// Tells of each member whether it could be chosen now, in configuration order.
    pub fn states(&self, now: Moment) -> Vec<State> {
        let mut inner = self.lock();
        self.look(&mut inner, now);
        let screened = self.screen(&inner, now);
        let state = |(member, standing): (&Member, &Standing)| {
            let mut screening = screened.clone();
            match (member.admits(standing, self.ground(), &mut screening), standing.ejector.admits(now)) {
                (true, _) if !member.takes_new() => State::Draining,
                (true, Admission::Probing) => State::Probing,
                (true, _) if standing.busy.is_now(now) => State::Busy,
                (true, _) => State::Admitted,
                (false, _) if member.replica.is_drained() => State::Drained,
                (false, _) if member.spec.down => State::Down,
                (false, _) if screening.not_ready => State::NotReady,
                (false, _) if screening.full => State::Full,
                (false, _) => State::Ejected(standing.out_for().unwrap_or(Cause::Check)),
            }
        };
        self.members.iter().zip(&inner.standings).map(state).collect()
    }

    /// Tells whether some member could be chosen now.
    pub fn ready(&self, now: Moment) -> bool {
        self.has_ready(now, |_| true)
    }

    /// Tells whether some member other than `replica` could be chosen now.
    pub fn ready_without(&self, replica: &Replica, now: Moment) -> bool {
        self.has_ready(now, |other| other.id() != replica.id())
    }

    fn has_ready(&self, now: Moment, wanted: impl Fn(&Replica) -> bool) -> bool {
        let inner = self.lock();
        let mut screening = self.screen(&inner, now);
        let mut admits = |member: &Member, standing| member.admits(standing, self.ground(), &mut screening);
        let mut all = self.members.iter().zip(&inner.standings);
        all.any(|(member, standing)| member.takes_new() && wanted(&member.replica) && admits(member, standing))
    }

    /// Feeds a settled request's outcome to the ejector and the policy.
    pub(in super::super) fn judge(&self, at: Slot, outcome: Outcome, now: Moment) {
        let mut inner = self.lock();
        let Inner { policy, standings, .. } = &mut *inner;
        standings[at.index()].judge(outcome, now);
        if matches!(outcome, Outcome::Failed { .. }) {
            policy.failed(at);
        }
    }

    /// Takes note that a member is busy.
    pub(in super::super) fn passes_over(&self, at: Slot, retry_after: Option<Duration>, now: Moment) {
        self.lock().standings[at.index()].busy.told(retry_after, now);
    }

    /// Takes a replay out of the pool's budget, if there is one left: a request that bytes of were sent may then be sent to
    /// another replica. A refused connection needs none.
    pub fn may_replay(&self, now: Moment) -> bool {
        let in_flight = self.members.iter().map(|member| u64::from(member.replica.in_flight())).sum();
        self.lock().budget.take(self.spec.failing.replays, in_flight, now)
    }

    /// Puts back a replay that there was no replica for.
    pub fn keeps_replay(&self, now: Moment) {
        self.lock().budget.put_back(now);
    }

    /// Replays since the start.
    pub fn replays(&self) -> Replays {
        self.lock().budget.total()
    }

    /// Tells of each member how often each of [`Cause::ALL`] has taken it out, in configuration order.
    pub fn ejections(&self) -> Vec<[u64; Cause::ALL.len()]> {
        self.lock().standings.iter().map(Standing::ejections).collect()
    }

    /// Looks for replicas that have taken requests and from which nothing comes while others are at work, and for those of
    /// which that is no longer true. To be called about every second. *Cost*: one lock, O(members squared) at worst.
    pub fn tick(&self, now: Moment) -> Vec<Checked> {
        let Some(margin) = self.spec.failing.stalled else { return Vec::new() };
        let mut inner = self.lock();
        let seen: Vec<Seen> = self.members.iter().map(|member| Seen::of(&member.replica)).collect();
        let standings = &mut inner.standings;
        for (seen, standing) in seen.iter().zip(standings.iter_mut()) {
            standing.watch.look(seen, now);
        }
        let survived = standings.iter().map(|standing| standing.watch.survived()).max().unwrap_or_default();
        let limit = margin + survived * 2;
        let mut turns = Vec::new();
        for (at, standing) in standings.iter_mut().enumerate() {
            let (Some(one), Some(member)) = (seen.get(at), self.members.get(at)) else { continue };
            let revived = standing.watch.revives(one) && standing.revives(now);
            let stalled = standing.watch.is_stalled(one, limit, now) && Seen::others_work(&seen, at, now);
            let stalled = stalled && standing.stalls(now);
            if revived || stalled {
                turns.push(Checked { replica: member.replica.name().clone(), cause: Cause::Stalled, out: stalled });
            }
        }
        turns
    }

    /// Takes note of how a check of a replica ended. Returns what it changed.
    ///
    /// `passed`: as `check` says; a check that a token was asked for ends a silence too.
    pub fn checked(&self, replica: ReplicaId, check: &Check, passed: bool, now: Moment) -> Option<Checked> {
        let at = self.members.iter().position(|member| member.replica.id() == replica)?;
        let (member, mut inner) = (self.members.get(at)?, self.lock());
        let standing = inner.standings.get_mut(at)?;
        let replica = member.replica.name().clone();
        if standing.checked(passed, check, now) {
            return Some(Checked { replica, cause: Cause::Check, out: !passed });
        }
        let revived = passed && check.model.is_some() && standing.revives(now);
        revived.then_some(Checked { replica, cause: Cause::Stalled, out: false })
    }

    /// One look at the members at one moment.
    pub(super) fn screen(&self, inner: &Inner, now: Moment) -> Screening {
        let checked_every = self.spec.failing.check.as_ref().map(|check| check.every);
        let mut screening = Screening { checked_every, ..Screening::at(now) };
        screening.panic = inner.standings.iter().any(|s| s.ejector.is_out()) && self.panics(inner, &screening);
        screening
    }

    /// Tells whether so many have failed requests that the requests, or we, are rather to blame: more than half of those
    /// that are there, at least one, or all that could be chosen.
    fn panics(&self, inner: &Inner, screening: &Screening) -> bool {
        let (mut there, mut fit, mut passive) = (0, 0, 0);
        for (member, standing) in self.members.iter().zip(&inner.standings) {
            if !member.is_there(self.ground()) {
                continue;
            }
            there += 1;
            if screening.checked_every.is_some() && standing.health.is_out() {
                continue;
            }
            match standing.ejector.admits(screening.now) {
                Admission::Ejected { cause, .. } => passive += usize::from(cause.is_passive()),
                Admission::Probing if member.hangs(standing) => passive += 1,
                Admission::Admitted | Admission::Probing => fit += 1,
            }
        }
        passive > 0 && (fit == 0 || passive > (there / 2).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{at, attempt, fleet_of, spec};
    use super::super::super::{Attempt, Fleet, Lease, NoReplica, Phase, Pin, PoolSpec, Progress};
    use super::*;

    const BROKEN: Outcome = Outcome::Failed { phase: Phase::FirstByte };
    const REFUSED: Outcome = Outcome::Failed { phase: Phase::Connect };
    const BUSY: Outcome = Outcome::Busy { retry_after: None };

    fn pool_of(ports: &[u16]) -> (Fleet, Arc<Pool>) {
        let (fleet, _) = fleet_of(vec![spec("m", ports)]);
        let pool = fleet.pool("m").unwrap();
        (fleet, pool)
    }

    /// A request on the member at this place.
    fn on(pool: &Arc<Pool>, member: usize, now: Moment) -> Lease {
        let id = pool.replicas().nth(member).unwrap().id();
        pool.acquire(&Attempt { pinned: Some(Pin::Only(id)), ..attempt() }, now).unwrap()
    }

    fn goes_to(pool: &Arc<Pool>, now: Moment) -> usize {
        let lease = pool.acquire(&attempt(), now).unwrap();
        let at = pool.replicas().position(|replica| replica.id() == lease.replica().id()).unwrap();
        lease.settle(Outcome::Ours, now);
        at
    }

    fn reached(pool: &Arc<Pool>, now: Moment) -> Vec<usize> {
        let mut all: Vec<usize> = (0..20).map(|_| goes_to(pool, now)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn failed_requests_eject_half_of_a_pool_and_no_more() {
        let (_fleet, pool) = pool_of(&[1, 2, 3, 4]);
        let leases: Vec<Lease> = (0..4).map(|member| on(&pool, member, at(0))).collect();
        for (lease, wanted) in leases.into_iter().zip([&[1, 2, 3][..], &[2, 3], &[0, 1, 2, 3], &[0, 1, 2, 3]]) {
            lease.settle(BROKEN, at(0));
            assert_eq!(reached(&pool, at(1)), wanted);
        }
        on(&pool, 3, at(2)).settle(Outcome::Completed, at(2));
        assert!(pool.ready(at(2)));
    }

    #[test]
    fn refused_connections_take_all_and_failed_requests_never_the_last() {
        let (_fleet, pool) = pool_of(&[1, 2]);
        let (first, second) = (on(&pool, 0, at(0)), on(&pool, 1, at(0)));
        first.settle(REFUSED, at(0));
        second.settle(BROKEN, at(0));
        assert_eq!(reached(&pool, at(1)), [1], "the other does not even listen");
        let third = on(&pool, 1, at(20));
        third.settle(Outcome::Completed, at(20));
        let (first, second) = (on(&pool, 0, at(21)), on(&pool, 1, at(21)));
        first.settle(REFUSED, at(21));
        second.settle(REFUSED, at(21));
        assert!(matches!(pool.acquire(&attempt(), at(22)), Err(NoReplica::AllEjected { .. })));
        assert_eq!(pool.states(at(22)), [State::Ejected(Cause::Refused); 2]);
        assert_eq!(pool.ejections(), [[2, 0, 0, 0], [1, 1, 0, 0]]);
    }

    #[test]
    fn a_busy_member_is_passed_over_unless_all_are() {
        let (_fleet, pool) = pool_of(&[1, 2]);
        on(&pool, 0, at(0)).settle(Outcome::Busy { retry_after: Some(Duration::from_secs(9)) }, at(0));
        assert_eq!(reached(&pool, at(1)), [1]);
        assert_eq!(pool.states(at(1)), [State::Busy, State::Admitted]);
        on(&pool, 1, at(1)).settle(Outcome::Busy { retry_after: Some(Duration::from_secs(2)) }, at(1));
        assert_eq!(reached(&pool, at(2)), [1], "it is free first");
        let mut again = attempt();
        again.tried.push(pool.replicas().nth(1).unwrap().id());
        assert_eq!(pool.acquire(&again, at(2)).unwrap_err(), NoReplica::AllTried, "its answer is the client's");
        assert_eq!((reached(&pool, at(4)), reached(&pool, at(10))), (vec![1], vec![0, 1]));
        let rather = Attempt { pinned: Some(Pin::Rather(pool.replicas().next().unwrap().id())), ..attempt() };
        on(&pool, 0, at(20)).settle(BUSY, at(20));
        assert_eq!(pool.acquire(&rather, at(20)).unwrap().replica().id(), pool.replicas().nth(1).unwrap().id());
        assert_eq!(pool.ejections(), [[0; 4]; 2]);
    }

    fn moves(lease: &mut Lease, now: Moment) {
        lease.progress(Progress { content_events: 1, usage: None }, now);
    }

    #[test]
    fn a_wedged_engine_is_left_alone_until_something_comes_from_it() {
        let (_fleet, pool) = pool_of(&[1, 2, 3]);
        let (mut slow, mut wedged, mut well) = (on(&pool, 0, at(0)), on(&pool, 0, at(0)), on(&pool, 1, at(0)));
        moves(&mut slow, at(1));
        let mut turned = None;
        for second in 2..300 {
            moves(&mut well, at(second));
            let turns = pool.tick(at(second));
            if let [turn] = turns.as_slice() {
                assert!(turn.out && turn.cause == Cause::Stalled && &*turn.replica == "10.0.0.1:1");
                turned.get_or_insert(second);
            }
            assert!(turns.is_empty() || turned == Some(second), "told once");
        }
        // 10 tokens of prompt at 1 ms are expected beside the 30 s.
        assert_eq!(turned, Some(32));
        assert_eq!(reached(&pool, at(299)), [1, 2], "no probe: a request waits there already");
        assert_eq!(pool.states(at(299))[0], State::Ejected(Cause::Stalled));
        moves(&mut wedged, at(300));
        let back = pool.tick(at(300));
        assert_eq!(back.iter().map(|turn| turn.out).collect::<Vec<_>>(), [false]);
        assert_eq!(reached(&pool, at(300)), [0, 1, 2]);
    }

    #[test]
    fn a_client_that_does_not_read_is_no_silence_of_its_replica() {
        let (_fleet, pool) = pool_of(&[1, 2]);
        let (mut unread, mut well) = (on(&pool, 0, at(0)), on(&pool, 1, at(0)));
        moves(&mut unread, at(1));
        for second in 1..300 {
            moves(&mut well, at(second));
            assert!(pool.tick(at(second)).is_empty());
        }
    }

    #[test]
    fn silence_of_all_or_without_work_or_of_a_long_prompt_is_none() {
        let (_fleet, pool) = pool_of(&[1, 2]);
        let held = [on(&pool, 0, at(0)), on(&pool, 1, at(0))];
        assert!((1..500).all(|second| pool.tick(at(second)).is_empty()), "nobody is at work");
        drop(held);
        let mut well = on(&pool, 1, at(500));
        let mut long = attempt();
        long.job.prompt = crate::units::Tokens(200_000);
        long.pinned = Some(Pin::Only(pool.replicas().next().unwrap().id()));
        let reading = pool.acquire(&long, at(600)).unwrap();
        for second in 501..800 {
            moves(&mut well, at(second));
            assert!(pool.tick(at(second)).is_empty(), "{second}");
        }
        drop(reading);
    }

    #[test]
    fn checks_may_take_all_and_a_token_that_is_answered_ends_a_silence() {
        let check = Check { rise: 1, fall: 2, model: Some("m".into()), ..Check::default() };
        let mut described: PoolSpec = spec("m", &[1, 2]);
        described.failing.check = Some(check.clone());
        let (fleet, _) = fleet_of(vec![described.clone()]);
        let pool = fleet.pool("m").unwrap();
        let ids: Vec<ReplicaId> = pool.replicas().map(|replica| replica.id()).collect();
        for id in &ids {
            assert_eq!(pool.checked(*id, &check, false, at(0)), None);
            assert!(pool.checked(*id, &check, false, at(1)).unwrap().out);
        }
        let none = NoReplica::AllEjected { retry_after: check.every };
        assert_eq!(pool.acquire(&attempt(), at(2)).unwrap_err(), none);
        assert_eq!(pool.states(at(2)), [State::Ejected(Cause::Check); 2]);
        assert!(!pool.checked(ids[0], &check, true, at(3)).unwrap().out);
        assert_eq!(reached(&pool, at(3)), [0]);
        described.failing.check = None;
        fleet.reload(vec![described]).unwrap();
        let pool = fleet.pool("m").unwrap();
        assert_eq!(reached(&pool, at(4)), [0, 1], "nobody looks any more");

        let (_wedged, mut well) = (on(&pool, 0, at(10)), on(&pool, 1, at(10)));
        for second in 10..60 {
            moves(&mut well, at(second));
            pool.tick(at(second));
        }
        assert_eq!(reached(&pool, at(60)), [1]);
        let back = pool.checked(ids[0], &check, true, at(60)).unwrap();
        assert_eq!((back.cause, back.out), (Cause::Stalled, false));
        assert_eq!(reached(&pool, at(60)), [0, 1]);
    }
}
