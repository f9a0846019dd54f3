//! Which members of a pool are well, and what is concluded from how requests and checks end.

use std::sync::Arc;
use std::time::Duration;

use super::eligibility::{EligibilityScan, MemberState};
use super::{Pool, PoolMember, PoolState};
use crate::eject::{EjectCause, EjectState};
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::health::stall_detector::ActivitySample;
use crate::fleet::{HealthCheck, Outcome, Replica, RetryStats};
use crate::units::{Moment, ReplicaId, Slot};

/// A member that is left alone from now on, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTransition {
    /// The replica's name.
    pub replica: Arc<str>,
    /// What it was left alone for.
    pub cause: EjectCause,
    /// Whether it is from now on.
    pub ejected: bool,
}

impl Pool {
    /// Tells of each member whether it could be chosen now, in configuration order.
    pub fn member_states(&self, now: Moment) -> Vec<MemberState> {
        let mut inner = self.lock_state();
        self.update_slow_start(&mut inner, now);
        let screened = self.begin_scan(&inner, now);
        let state = |(member, standing): (&PoolMember, &MemberHealth)| {
            let mut screening = screened.clone();
            match (member.check_eligible(standing, self.rules(), &mut screening), standing.ejector.state(now)) {
                (true, _) if !member.accepts_new() => MemberState::Draining,
                (true, EjectState::Probing) => MemberState::Probing,
                (true, _) if standing.busy_backoff.is_active(now) => MemberState::Busy,
                (true, _) => MemberState::Admitted,
                (false, _) if member.replica.is_drained() => MemberState::Drained,
                (false, _) if member.spec.down => MemberState::Down,
                (false, _) if screening.any_not_ready => MemberState::NotReady,
                (false, _) if screening.any_full => MemberState::Full,
                (false, _) => MemberState::Ejected(standing.ejection_cause().unwrap_or(EjectCause::HealthCheck)),
            }
        };
        self.members.iter().zip(&inner.member_health).map(state).collect()
    }

    /// Tells whether some member could be chosen now.
    pub fn has_eligible(&self, now: Moment) -> bool {
        self.has_eligible_matching(now, |_| true)
    }

    /// Tells whether some member other than `replica` could be chosen now.
    pub fn has_eligible_other_than(&self, replica: &Replica, now: Moment) -> bool {
        self.has_eligible_matching(now, |other| other.id() != replica.id())
    }

    fn has_eligible_matching(&self, now: Moment, wanted: impl Fn(&Replica) -> bool) -> bool {
        let inner = self.lock_state();
        let mut screening = self.begin_scan(&inner, now);
        let mut admits = |member: &PoolMember, standing| member.check_eligible(standing, self.rules(), &mut screening);
        let mut all = self.members.iter().zip(&inner.member_health);
        all.any(|(member, standing)| member.accepts_new() && wanted(&member.replica) && admits(member, standing))
    }

    /// Feeds a settled request's outcome to the ejector and the policy.
    pub(in crate::fleet) fn record_outcome(&self, at: Slot, outcome: Outcome, now: Moment) {
        let mut inner = self.lock_state();
        let PoolState { policy, member_health: standings, .. } = &mut *inner;
        standings[at.index()].record_outcome(outcome, now);
        if matches!(outcome, Outcome::Failed { .. }) {
            policy.on_failure(at);
        }
    }

    /// Takes note that a member is busy.
    pub(in crate::fleet) fn record_busy(&self, at: Slot, retry_after: Option<Duration>, now: Moment) {
        self.lock_state().member_health[at.index()].busy_backoff.record(retry_after, now);
    }

    /// Takes a replay out of the pool's budget, if there is one left: a request that bytes of were sent may then be sent to
    /// another replica. A refused connection needs none.
    pub fn try_take_retry(&self, now: Moment) -> bool {
        let in_flight = self.members.iter().map(|member| u64::from(member.replica.in_flight())).sum();
        self.lock_state().retry_budget.try_take(self.spec.failure_policy.retry_limits, in_flight, now)
    }

    /// Puts back a replay that there was no replica for.
    pub fn return_retry(&self, now: Moment) {
        self.lock_state().retry_budget.return_retry(now);
    }

    /// Replays since the start.
    pub fn retry_stats(&self) -> RetryStats {
        self.lock_state().retry_budget.stats()
    }

    /// Tells of each member how often each of [`EjectCause::ALL`] has taken it out, in configuration order.
    pub fn ejections(&self) -> Vec<[u64; EjectCause::ALL.len()]> {
        self.lock_state().member_health.iter().map(MemberHealth::ejections).collect()
    }

    /// Looks for replicas that have taken requests and from which nothing comes while others are at work, and for those of
    /// which that is no longer true. To be called about every second. *Cost*: one lock, O(members squared) at worst.
    pub fn detect_stalls(&self, now: Moment) -> Vec<HealthTransition> {
        let Some(margin) = self.spec.failure_policy.stall_timeout else { return Vec::new() };
        let mut inner = self.lock_state();
        let seen: Vec<ActivitySample> =
            self.members.iter().map(|member| ActivitySample::from_replica(&member.replica)).collect();
        let standings = &mut inner.member_health;
        for (seen, standing) in seen.iter().zip(standings.iter_mut()) {
            standing.stall_detector.observe(seen, now);
        }
        let survived =
            standings.iter().map(|standing| standing.stall_detector.longest_recovered()).max().unwrap_or_default();
        let limit = margin + survived * 2;
        let mut turns = Vec::new();
        for (at, standing) in standings.iter_mut().enumerate() {
            let (Some(one), Some(member)) = (seen.get(at), self.members.get(at)) else { continue };
            let revived = standing.stall_detector.take_recovered(one) && standing.readmit_stalled(now);
            let stalled =
                standing.stall_detector.is_stalled(one, limit, now) && ActivitySample::has_active_peer(&seen, at, now);
            let stalled = stalled && standing.eject_stalled(now);
            if revived || stalled {
                turns.push(HealthTransition {
                    replica: member.replica.name().clone(),
                    cause: EjectCause::Stalled,
                    ejected: stalled,
                });
            }
        }
        turns
    }

    /// Takes note of how a check of a replica ended. Returns what it changed.
    ///
    /// `passed`: as `check` says; a check that a token was asked for ends a silence too.
    pub fn record_check(
        &self,
        replica: ReplicaId,
        check: &HealthCheck,
        passed: bool,
        now: Moment,
    ) -> Option<HealthTransition> {
        let at = self.members.iter().position(|member| member.replica.id() == replica)?;
        let (member, mut inner) = (self.members.get(at)?, self.lock_state());
        let standing = inner.member_health.get_mut(at)?;
        let replica = member.replica.name().clone();
        if standing.record_check(passed, check, now) {
            return Some(HealthTransition { replica, cause: EjectCause::HealthCheck, ejected: !passed });
        }
        let revived = passed && check.model.is_some() && standing.readmit_stalled(now);
        revived.then_some(HealthTransition { replica, cause: EjectCause::Stalled, ejected: false })
    }

    /// One look at the members at one moment.
    pub(super) fn begin_scan(&self, inner: &PoolState, now: Moment) -> EligibilityScan {
        let checked_every = self.spec.failure_policy.health_check.as_ref().map(|check| check.interval);
        let mut screening = EligibilityScan { check_interval: checked_every, ..EligibilityScan::new(now) };
        screening.panic =
            inner.member_health.iter().any(|s| s.ejector.is_over_limit()) && self.is_panic(inner, &screening);
        screening
    }

    /// Tells whether so many have failed requests that the requests, or we, are rather to blame: more than half of those
    /// that are there, at least one, or all that could be chosen.
    fn is_panic(&self, inner: &PoolState, screening: &EligibilityScan) -> bool {
        let (mut there, mut fit, mut passive) = (0, 0, 0);
        for (member, standing) in self.members.iter().zip(&inner.member_health) {
            if !member.is_in_service(self.rules()) {
                continue;
            }
            there += 1;
            if screening.check_interval.is_some() && standing.check_state.is_unhealthy() {
                continue;
            }
            match standing.ejector.state(screening.now) {
                EjectState::Ejected { cause, .. } => passive += usize::from(cause.is_passive()),
                EjectState::Probing if member.is_wedged(standing) => passive += 1,
                EjectState::Admitted | EjectState::Probing => fit += 1,
            }
        }
        passive > 0 && (fit == 0 || passive > (there / 2).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{acquire_request, at_seconds, build_fleet, pool_spec};
    use crate::fleet::{AcquireRequest, Fleet, Lease, NoReplica, Phase, PoolSpec, ReplicaPin, ResponseProgress};

    const FIRST_BYTE_FAILURE: Outcome = Outcome::Failed { phase: Phase::FirstByte };
    const CONNECT_FAILURE: Outcome = Outcome::Failed { phase: Phase::Connect };
    const BUSY: Outcome = Outcome::Busy { retry_after: None };

    fn build_pool(ports: &[u16]) -> (Fleet, Arc<Pool>) {
        let (fleet, _) = build_fleet(vec![pool_spec("m", ports)]);
        let pool = fleet.pool("m").unwrap();
        (fleet, pool)
    }

    /// A request on the member at this place.
    fn acquire_on_member(pool: &Arc<Pool>, member: usize, now: Moment) -> Lease {
        let id = pool.replicas().nth(member).unwrap().id();
        pool.acquire(&AcquireRequest { pin: Some(ReplicaPin::Required(id)), ..acquire_request() }, now).unwrap()
    }

    fn choose_member(pool: &Arc<Pool>, now: Moment) -> usize {
        let lease = pool.acquire(&acquire_request(), now).unwrap();
        let at = pool.replicas().position(|replica| replica.id() == lease.replica().id()).unwrap();
        lease.settle(Outcome::RouterError, now);
        at
    }

    fn reachable_members(pool: &Arc<Pool>, now: Moment) -> Vec<usize> {
        let mut all: Vec<usize> = (0..20).map(|_| choose_member(pool, now)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn failed_requests_eject_half_of_a_pool_and_no_more() {
        let (_fleet, pool) = build_pool(&[1, 2, 3, 4]);
        let leases: Vec<Lease> = (0..4).map(|member| acquire_on_member(&pool, member, at_seconds(0))).collect();
        for (lease, wanted) in leases.into_iter().zip([&[1, 2, 3][..], &[2, 3], &[0, 1, 2, 3], &[0, 1, 2, 3]]) {
            lease.settle(FIRST_BYTE_FAILURE, at_seconds(0));
            assert_eq!(reachable_members(&pool, at_seconds(1)), wanted);
        }
        acquire_on_member(&pool, 3, at_seconds(2)).settle(Outcome::Completed, at_seconds(2));
        assert!(pool.has_eligible(at_seconds(2)));
    }

    #[test]
    fn refused_connections_take_all_and_failed_requests_never_the_last() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let (first, second) = (acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0)));
        first.settle(CONNECT_FAILURE, at_seconds(0));
        second.settle(FIRST_BYTE_FAILURE, at_seconds(0));
        assert_eq!(reachable_members(&pool, at_seconds(1)), [1], "the other does not even listen");
        let third = acquire_on_member(&pool, 1, at_seconds(20));
        third.settle(Outcome::Completed, at_seconds(20));
        let (first, second) =
            (acquire_on_member(&pool, 0, at_seconds(21)), acquire_on_member(&pool, 1, at_seconds(21)));
        first.settle(CONNECT_FAILURE, at_seconds(21));
        second.settle(CONNECT_FAILURE, at_seconds(21));
        assert!(matches!(pool.acquire(&acquire_request(), at_seconds(22)), Err(NoReplica::AllEjected { .. })));
        assert_eq!(pool.member_states(at_seconds(22)), [MemberState::Ejected(EjectCause::Refused); 2]);
        assert_eq!(pool.ejections(), [[2, 0, 0, 0], [1, 1, 0, 0]]);
    }

    #[test]
    fn a_busy_member_is_passed_over_unless_all_are() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        acquire_on_member(&pool, 0, at_seconds(0))
            .settle(Outcome::Busy { retry_after: Some(Duration::from_secs(9)) }, at_seconds(0));
        assert_eq!(reachable_members(&pool, at_seconds(1)), [1]);
        assert_eq!(pool.member_states(at_seconds(1)), [MemberState::Busy, MemberState::Admitted]);
        acquire_on_member(&pool, 1, at_seconds(1))
            .settle(Outcome::Busy { retry_after: Some(Duration::from_secs(2)) }, at_seconds(1));
        assert_eq!(reachable_members(&pool, at_seconds(2)), [1], "it is free first");
        let mut again = acquire_request();
        again.tried.push(pool.replicas().nth(1).unwrap().id());
        assert_eq!(pool.acquire(&again, at_seconds(2)).unwrap_err(), NoReplica::AllTried, "its answer is the client's");
        assert_eq!(
            (reachable_members(&pool, at_seconds(4)), reachable_members(&pool, at_seconds(10))),
            (vec![1], vec![0, 1])
        );
        let rather = AcquireRequest {
            pin: Some(ReplicaPin::Preferred(pool.replicas().next().unwrap().id())),
            ..acquire_request()
        };
        acquire_on_member(&pool, 0, at_seconds(20)).settle(BUSY, at_seconds(20));
        assert_eq!(pool.acquire(&rather, at_seconds(20)).unwrap().replica().id(), pool.replicas().nth(1).unwrap().id());
        assert_eq!(pool.ejections(), [[0; 4]; 2]);
    }

    fn send_content(lease: &mut Lease, now: Moment) {
        lease.record_progress(ResponseProgress { content_events: 1, usage: None }, now);
    }

    #[test]
    fn a_wedged_engine_is_left_alone_until_something_comes_from_it() {
        let (_fleet, pool) = build_pool(&[1, 2, 3]);
        let (mut slow, mut wedged, mut well) = (
            acquire_on_member(&pool, 0, at_seconds(0)),
            acquire_on_member(&pool, 0, at_seconds(0)),
            acquire_on_member(&pool, 1, at_seconds(0)),
        );
        send_content(&mut slow, at_seconds(1));
        let mut turned = None;
        for second in 2..300 {
            send_content(&mut well, at_seconds(second));
            let turns = pool.detect_stalls(at_seconds(second));
            if let [turn] = turns.as_slice() {
                assert!(turn.ejected && turn.cause == EjectCause::Stalled && &*turn.replica == "10.0.0.1:1");
                turned.get_or_insert(second);
            }
            assert!(turns.is_empty() || turned == Some(second), "told once");
        }
        // 10 tokens of prompt at 1 ms are expected beside the 30 s.
        assert_eq!(turned, Some(32));
        assert_eq!(reachable_members(&pool, at_seconds(299)), [1, 2], "no probe: a request waits there already");
        assert_eq!(pool.member_states(at_seconds(299))[0], MemberState::Ejected(EjectCause::Stalled));
        send_content(&mut wedged, at_seconds(300));
        let back = pool.detect_stalls(at_seconds(300));
        assert_eq!(back.iter().map(|turn| turn.ejected).collect::<Vec<_>>(), [false]);
        assert_eq!(reachable_members(&pool, at_seconds(300)), [0, 1, 2]);
    }

    #[test]
    fn a_client_that_does_not_read_is_no_silence_of_its_replica() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let (mut unread, mut well) =
            (acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0)));
        send_content(&mut unread, at_seconds(1));
        for second in 1..300 {
            send_content(&mut well, at_seconds(second));
            assert!(pool.detect_stalls(at_seconds(second)).is_empty());
        }
    }

    #[test]
    fn silence_of_all_or_without_work_or_of_a_long_prompt_is_none() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let held = [acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0))];
        assert!((1..500).all(|second| pool.detect_stalls(at_seconds(second)).is_empty()), "nobody is at work");
        drop(held);
        let mut well = acquire_on_member(&pool, 1, at_seconds(500));
        let mut long = acquire_request();
        long.policy_request.prompt = crate::units::Tokens(200_000);
        long.pin = Some(ReplicaPin::Required(pool.replicas().next().unwrap().id()));
        let reading = pool.acquire(&long, at_seconds(600)).unwrap();
        for second in 501..800 {
            send_content(&mut well, at_seconds(second));
            assert!(pool.detect_stalls(at_seconds(second)).is_empty(), "{second}");
        }
        drop(reading);
    }

    #[test]
    fn checks_may_take_all_and_a_token_that_is_answered_ends_a_silence() {
        let check = HealthCheck { rise: 1, fall: 2, model: Some("m".into()), ..HealthCheck::default() };
        let mut described: PoolSpec = pool_spec("m", &[1, 2]);
        described.failure_policy.health_check = Some(check.clone());
        let (fleet, _) = build_fleet(vec![described.clone()]);
        let pool = fleet.pool("m").unwrap();
        let ids: Vec<ReplicaId> = pool.replicas().map(|replica| replica.id()).collect();
        for id in &ids {
            assert_eq!(pool.record_check(*id, &check, false, at_seconds(0)), None);
            assert!(pool.record_check(*id, &check, false, at_seconds(1)).unwrap().ejected);
        }
        let none = NoReplica::AllEjected { retry_after: check.interval };
        assert_eq!(pool.acquire(&acquire_request(), at_seconds(2)).unwrap_err(), none);
        assert_eq!(pool.member_states(at_seconds(2)), [MemberState::Ejected(EjectCause::HealthCheck); 2]);
        assert!(!pool.record_check(ids[0], &check, true, at_seconds(3)).unwrap().ejected);
        assert_eq!(reachable_members(&pool, at_seconds(3)), [0]);
        described.failure_policy.health_check = None;
        fleet.reload(vec![described]).unwrap();
        let pool = fleet.pool("m").unwrap();
        assert_eq!(reachable_members(&pool, at_seconds(4)), [0, 1], "nobody looks any more");

        let (_wedged, mut well) =
            (acquire_on_member(&pool, 0, at_seconds(10)), acquire_on_member(&pool, 1, at_seconds(10)));
        for second in 10..60 {
            send_content(&mut well, at_seconds(second));
            pool.detect_stalls(at_seconds(second));
        }
        assert_eq!(reachable_members(&pool, at_seconds(60)), [1]);
        let back = pool.record_check(ids[0], &check, true, at_seconds(60)).unwrap();
        assert_eq!((back.cause, back.ejected), (EjectCause::Stalled, false));
        assert_eq!(reachable_members(&pool, at_seconds(60)), [0, 1]);
    }
}
