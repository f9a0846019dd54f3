//! The health of a pool's members: what follows from the ends of requests, from health checks and from stalls.

use std::sync::Arc;
use std::time::Duration;

use super::eligibility::{EligibilityScan, MemberState};
use super::member::PoolMember;
use super::state::{Pool, PoolState};
use crate::eject::{EjectCause, EjectState};
use crate::fleet::health::member_health::MemberHealth;
use crate::fleet::health::stall_detector::ActivitySample;
use crate::fleet::{HealthCheck, Outcome, Replica, RetryStats};
use crate::units::{Moment, ReplicaId, Slot};

/// An ejection of a member, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTransition {
    /// The replica's name.
    pub replica: Arc<str>,
    /// The cause of the ejection.
    pub cause: EjectCause,
    /// Whether the ejection begins.
    pub ejected: bool,
}

impl Pool {
    /// Returns each member's state, in configuration order.
    pub fn member_states(&self, now: Moment) -> Vec<MemberState> {
        let mut state = self.lock_state();
        self.update_slow_start(&mut state, now);
        let scan = self.begin_scan(&state, now);
        let members = self.members.iter().zip(&state.member_health);
        members.map(|(member, health)| member.state(health, &scan)).collect()
    }

    /// Returns whether some member may be chosen.
    pub fn has_eligible(&self, now: Moment) -> bool {
        self.has_eligible_matching(now, |_| true)
    }

    /// Returns whether some member other than `replica` may be chosen.
    pub fn has_eligible_other_than(&self, replica: &Replica, now: Moment) -> bool {
        self.has_eligible_matching(now, |other| other.id() != replica.id())
    }

    fn has_eligible_matching(&self, now: Moment, matches: impl Fn(&Replica) -> bool) -> bool {
        let state = self.lock_state();
        let scan = self.begin_scan(&state, now);
        let is_eligible = |(member, health): (&PoolMember, &MemberHealth)| {
            member.accepts_unpinned() && matches(&member.replica) && member.check_eligible(health, None, &scan).is_ok()
        };
        self.members.iter().zip(&state.member_health).any(is_eligible)
    }

    /// Records a settled request's outcome with the member's health and the policy.
    pub(super) fn record_outcome(&self, slot: Slot, outcome: Outcome, now: Moment) {
        let mut state = self.lock_state();
        state.member_health[slot.index()].record_outcome(outcome, now);
        if matches!(outcome, Outcome::Failed { .. }) {
            state.policy.on_failure(slot);
        }
    }

    /// Records that a member is busy.
    pub(super) fn record_busy(&self, slot: Slot, retry_after: Option<Duration>, now: Moment) {
        self.lock_state().member_health[slot.index()].busy_backoff.record(retry_after, now);
    }

    /// Takes a retry from the pool's budget. Returns whether there was one.
    ///
    /// It is needed to send a request to a second replica after the first has received bytes of it; not after a refused
    /// connection.
    pub fn try_take_retry(&self, now: Moment) -> bool {
        let in_flight = self.members.iter().map(|member| u64::from(member.replica.in_flight())).sum();
        self.lock_state().retry_budget.try_take(self.spec.failure_policy.retry_limits, in_flight, now)
    }

    /// Returns a retry to the budget, if no replica was found for it.
    pub fn return_retry(&self, now: Moment) {
        self.lock_state().retry_budget.return_retry(now);
    }

    /// Returns the retries since the start.
    pub fn retry_stats(&self) -> RetryStats {
        self.lock_state().retry_budget.stats()
    }

    /// Returns each member's number of ejections by [`EjectCause::ALL`], in configuration order.
    pub fn ejections(&self) -> Vec<[u64; EjectCause::ALL.len()]> {
        self.lock_state().member_health.iter().map(MemberHealth::ejections).collect()
    }

    /// Ejects stalled members, and readmits those that have sent data since. To be called about every second.
    ///
    /// *Cost*: one lock, O(members squared) at worst.
    pub fn detect_stalls(&self, now: Moment) -> Vec<HealthTransition> {
        let Some(stall_timeout) = self.spec.failure_policy.stall_timeout else { return Vec::new() };
        let mut state = self.lock_state();
        let samples: Vec<ActivitySample> =
            self.members.iter().map(|member| ActivitySample::from_replica(&member.replica)).collect();
        let members = &mut state.member_health;
        for (sample, health) in samples.iter().zip(members.iter_mut()) {
            health.stall_detector.observe(sample, now);
        }
        let recovered =
            members.iter().map(|health| health.stall_detector.longest_recovered()).max().unwrap_or_default();
        let limit = stall_timeout + recovered * 2;
        let mut transitions = Vec::new();
        for (index, (health, member)) in members.iter_mut().zip(&self.members).enumerate() {
            let Some(sample) = samples.get(index) else { continue };
            let readmitted = health.stall_detector.take_recovered(sample) && health.readmit_stalled(now);
            let is_stalled = health.stall_detector.is_stalled(sample, limit, now)
                && ActivitySample::has_active_peer(&samples, index, now);
            let ejected = is_stalled && health.eject_stalled(now);
            if readmitted || ejected {
                let replica = member.replica.name().clone();
                transitions.push(HealthTransition { replica, cause: EjectCause::Stalled, ejected });
            }
        }
        transitions
    }

    /// Records the result of a health check. Returns the transition it caused.
    ///
    /// A passed check that requested a token also ends an ejection as stalled.
    pub fn record_check(
        &self,
        replica: ReplicaId,
        check: &HealthCheck,
        passed: bool,
        now: Moment,
    ) -> Option<HealthTransition> {
        let index = self.members.iter().position(|member| member.replica.id() == replica)?;
        let replica = self.members.get(index)?.replica.name().clone();
        let mut state = self.lock_state();
        let health = state.member_health.get_mut(index)?;
        if health.record_check(passed, check, now) {
            return Some(HealthTransition { replica, cause: EjectCause::HealthCheck, ejected: !passed });
        }
        let readmitted = passed && check.model.is_some() && health.readmit_stalled(now);
        readmitted.then_some(HealthTransition { replica, cause: EjectCause::Stalled, ejected: false })
    }

    /// Updates the slow start of all members.
    pub(super) fn update_slow_start(&self, state: &mut PoolState, now: Moment) {
        if !self.has_slow_start {
            return;
        }
        let rules = self.rules();
        for (member, health) in self.members.iter().zip(&mut state.member_health) {
            let in_service = member.is_in_service(rules);
            let pool_started_at = if in_service { *state.first_ready_at.get_or_insert(now) } else { now };
            health.slow_start.update(in_service, member.replica.drain_count(), pool_started_at, now);
        }
    }

    /// Returns the conditions of an eligibility test at `now`.
    pub(super) fn begin_scan(&self, state: &PoolState, now: Moment) -> EligibilityScan {
        let check_interval = self.spec.failure_policy.health_check.as_ref().map(|check| check.interval);
        let scan = EligibilityScan { now, rules: self.rules(), panic: false, check_interval };
        let any_over_limit = state.member_health.iter().any(|health| health.ejector.is_over_limit());
        EligibilityScan { panic: any_over_limit && self.is_panic(state, &scan), ..scan }
    }

    /// Returns whether panic mode applies: `failed` and `stalled` hold for more than one and more than half of the
    /// members in service, or for all that could otherwise be chosen. Then the requests, or the router, are more likely
    /// at fault.
    fn is_panic(&self, state: &PoolState, scan: &EligibilityScan) -> bool {
        let (mut in_service, mut admitted, mut passive) = (0, 0, 0);
        for (member, health) in self.members.iter().zip(&state.member_health) {
            if !member.is_in_service(scan.rules) {
                continue;
            }
            in_service += 1;
            if scan.check_interval.is_some() && health.check_state.is_unhealthy() {
                continue;
            }
            match health.ejector.state(scan.now) {
                EjectState::Ejected { cause, .. } => passive += usize::from(cause.is_passive()),
                EjectState::Probing if member.is_still_stalled(health) => passive += 1,
                EjectState::Admitted | EjectState::Probing => admitted += 1,
            }
        }
        passive > 0 && (admitted == 0 || passive > (in_service / 2).max(1))
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

    /// Acquires the member at this index.
    fn acquire_on_member(pool: &Arc<Pool>, member: usize, now: Moment) -> Lease {
        let id = pool.replicas().nth(member).unwrap().id();
        pool.acquire(&AcquireRequest { pin: Some(ReplicaPin::Required(id)), ..acquire_request() }, now).unwrap()
    }

    fn choose_member(pool: &Arc<Pool>, now: Moment) -> usize {
        let lease = pool.acquire(&acquire_request(), now).unwrap();
        let index = pool.replicas().position(|replica| replica.id() == lease.replica().id()).unwrap();
        lease.settle(Outcome::RouterError, now);
        index
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
    fn refused_connections_eject_all_and_failed_requests_never_the_last() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let (first, second) = (acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0)));
        first.settle(CONNECT_FAILURE, at_seconds(0));
        second.settle(FIRST_BYTE_FAILURE, at_seconds(0));
        assert_eq!(reachable_members(&pool, at_seconds(1)), [1], "the other member refuses connections");
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
    fn busy_member_is_skipped_unless_all_are_busy() {
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
        assert_eq!(
            pool.acquire(&again, at_seconds(2)).unwrap_err(),
            NoReplica::AllTried,
            "its response goes to the client"
        );
        assert_eq!(
            (reachable_members(&pool, at_seconds(4)), reachable_members(&pool, at_seconds(10))),
            (vec![1], vec![0, 1])
        );
        let preferred = AcquireRequest {
            pin: Some(ReplicaPin::Preferred(pool.replicas().next().unwrap().id())),
            ..acquire_request()
        };
        acquire_on_member(&pool, 0, at_seconds(20)).settle(BUSY, at_seconds(20));
        assert_eq!(
            pool.acquire(&preferred, at_seconds(20)).unwrap().replica().id(),
            pool.replicas().nth(1).unwrap().id()
        );
        assert_eq!(pool.ejections(), [[0; 4]; 2]);
    }

    fn send_content(lease: &mut Lease, now: Moment) {
        lease.record_progress(ResponseProgress { content_events: 1, usage: None }, now);
    }

    #[test]
    fn stalled_member_is_ejected_until_data_comes() {
        let (_fleet, pool) = build_pool(&[1, 2, 3]);
        let (mut slow, mut stalled, mut active) = (
            acquire_on_member(&pool, 0, at_seconds(0)),
            acquire_on_member(&pool, 0, at_seconds(0)),
            acquire_on_member(&pool, 1, at_seconds(0)),
        );
        send_content(&mut slow, at_seconds(1));
        let mut ejected_at = None;
        for second in 2..300 {
            send_content(&mut active, at_seconds(second));
            let transitions = pool.detect_stalls(at_seconds(second));
            if let [transition] = transitions.as_slice() {
                assert!(
                    transition.ejected
                        && transition.cause == EjectCause::Stalled
                        && &*transition.replica == "10.0.0.1:1"
                );
                ejected_at.get_or_insert(second);
            }
            assert!(transitions.is_empty() || ejected_at == Some(second), "reported once");
        }
        // The 30 s, plus 1 ms for each of 10 prompt tokens.
        assert_eq!(ejected_at, Some(32));
        assert_eq!(reachable_members(&pool, at_seconds(299)), [1, 2], "no probe: a request is pending there");
        assert_eq!(pool.member_states(at_seconds(299))[0], MemberState::Ejected(EjectCause::Stalled));
        send_content(&mut stalled, at_seconds(300));
        let readmitted = pool.detect_stalls(at_seconds(300));
        assert_eq!(readmitted.iter().map(|transition| transition.ejected).collect::<Vec<_>>(), [false]);
        assert_eq!(reachable_members(&pool, at_seconds(300)), [0, 1, 2]);
    }

    #[test]
    fn slow_client_does_not_stall_its_replica() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let (mut slow_client, mut active) =
            (acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0)));
        send_content(&mut slow_client, at_seconds(1));
        for second in 1..300 {
            send_content(&mut active, at_seconds(second));
            assert!(pool.detect_stalls(at_seconds(second)).is_empty());
        }
    }

    #[test]
    fn silence_of_all_or_of_a_long_prompt_is_no_stall() {
        let (_fleet, pool) = build_pool(&[1, 2]);
        let leases = [acquire_on_member(&pool, 0, at_seconds(0)), acquire_on_member(&pool, 1, at_seconds(0))];
        assert!((1..500).all(|second| pool.detect_stalls(at_seconds(second)).is_empty()), "no member is active");
        drop(leases);
        let mut active = acquire_on_member(&pool, 1, at_seconds(500));
        let mut long = acquire_request();
        long.policy_request.prompt = crate::units::Tokens(200_000);
        long.pin = Some(ReplicaPin::Required(pool.replicas().next().unwrap().id()));
        let long_lease = pool.acquire(&long, at_seconds(600)).unwrap();
        for second in 501..800 {
            send_content(&mut active, at_seconds(second));
            assert!(pool.detect_stalls(at_seconds(second)).is_empty(), "{second}");
        }
        drop(long_lease);
    }

    #[test]
    fn checks_eject_all_and_a_passed_token_check_ends_a_stall() {
        let check = HealthCheck { rise: 1, fall: 2, model: Some("m".into()), ..HealthCheck::default() };
        let mut spec: PoolSpec = pool_spec("m", &[1, 2]);
        spec.failure_policy.health_check = Some(check.clone());
        let (fleet, _) = build_fleet(vec![spec.clone()]);
        let pool = fleet.pool("m").unwrap();
        let ids: Vec<ReplicaId> = pool.replicas().map(|replica| replica.id()).collect();
        for id in &ids {
            assert_eq!(pool.record_check(*id, &check, false, at_seconds(0)), None);
            assert!(pool.record_check(*id, &check, false, at_seconds(1)).unwrap().ejected);
        }
        let error = NoReplica::AllEjected { retry_after: check.interval };
        assert_eq!(pool.acquire(&acquire_request(), at_seconds(2)).unwrap_err(), error);
        assert_eq!(pool.member_states(at_seconds(2)), [MemberState::Ejected(EjectCause::HealthCheck); 2]);
        assert!(!pool.record_check(ids[0], &check, true, at_seconds(3)).unwrap().ejected);
        assert_eq!(reachable_members(&pool, at_seconds(3)), [0]);
        spec.failure_policy.health_check = None;
        fleet.reload(vec![spec]).unwrap();
        let pool = fleet.pool("m").unwrap();
        assert_eq!(reachable_members(&pool, at_seconds(4)), [0, 1], "without checks");

        let (_stalled, mut active) =
            (acquire_on_member(&pool, 0, at_seconds(10)), acquire_on_member(&pool, 1, at_seconds(10)));
        for second in 10..60 {
            send_content(&mut active, at_seconds(second));
            pool.detect_stalls(at_seconds(second));
        }
        assert_eq!(reachable_members(&pool, at_seconds(60)), [1]);
        let readmitted = pool.record_check(ids[0], &check, true, at_seconds(60)).unwrap();
        assert_eq!((readmitted.cause, readmitted.ejected), (EjectCause::Stalled, false));
        assert_eq!(reachable_members(&pool, at_seconds(60)), [0, 1]);
    }
}
