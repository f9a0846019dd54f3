//! Choices: which member gets a request, and which error there is without one.

use super::*;

#[test]
fn lease_reserves_until_settled_or_dropped() {
    let (fleet, recorder) = build_fleet(vec![pool_spec("m", &[1])]);
    let pool = fleet.pool("m").unwrap();
    let first = pool.acquire(&acquire_request(), at_seconds(0)).unwrap();
    let second = pool.acquire(&acquire_request(), at_seconds(0)).unwrap();
    let replica = first.replica().clone();
    assert_eq!(replica.in_flight(), 2);
    first.settle(Outcome::Completed, at_seconds(1));
    drop(second);
    assert_eq!(replica.in_flight(), 0);
    let outcomes: Vec<Outcome> = recorder.0.lock().unwrap().iter().map(|(_, o)| *o).collect();
    assert_eq!(outcomes, [Outcome::Completed, Outcome::ClientGone]);
}

#[test]
fn failed_replica_is_ejected_for_fail_timeout() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(fail_next_request(&pool, at_seconds(0)), "10.0.0.1:1");
    for _ in 0..3 {
        assert_eq!(&**pool.acquire(&acquire_request(), at_seconds(5)).unwrap().replica().name(), "10.0.0.1:2");
    }
    let mut later: Vec<_> =
        (0..3).map(|_| pool.acquire(&acquire_request(), at_seconds(11)).unwrap().replica().name().clone()).collect();
    later.sort();
    assert!(later.contains(&"10.0.0.1:1".into()), "{later:?}");
}

#[test]
fn error_for_all_ejected_has_retry_after() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    fail_next_request(&pool, at_seconds(0));
    fail_next_request(&pool, at_seconds(2));
    let error = pool.acquire(&acquire_request(), at_seconds(4)).unwrap_err();
    assert_eq!(error, NoReplica::AllEjected { retry_after: Duration::from_secs(6) });
    assert!(!pool.has_eligible(at_seconds(4)));
}

#[test]
fn only_replica_is_never_ejected_for_requests() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1])]);
    let pool = fleet.pool("m").unwrap();
    for _ in 0..5 {
        fail_next_request(&pool, at_seconds(0));
    }
}

#[test]
fn client_faults_and_hangups_do_not_eject() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    for outcome in [Outcome::Refused, Outcome::ClientGone, Outcome::RouterError, Outcome::Completed] {
        for _ in 0..4 {
            pool.acquire(&acquire_request(), at_seconds(0)).unwrap().settle(outcome, at_seconds(0));
        }
    }
    assert!(fleet.replicas().iter().all(|r| r.times_chosen() == 8));
}

#[test]
fn backup_is_chosen_only_without_other_members() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[1].backup = true;
    let (fleet, _) = build_fleet(vec![spec]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(fail_next_request(&pool, at_seconds(0)), "10.0.0.1:1");
    assert_eq!(&**pool.acquire(&acquire_request(), at_seconds(1)).unwrap().replica().name(), "10.0.0.1:2");
}

#[test]
fn full_and_down_members_are_not_chosen() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[0].max_conns = Some(1);
    spec.members[1].down = true;
    let (fleet, _) = build_fleet(vec![spec]);
    let pool = fleet.pool("m").unwrap();
    let held = pool.acquire(&acquire_request(), at_seconds(0)).unwrap();
    assert_eq!(pool.acquire(&acquire_request(), at_seconds(0)).unwrap_err(), NoReplica::AllFull);
    drop(held);
    assert!(pool.acquire(&acquire_request(), at_seconds(0)).is_ok());
}

#[test]
fn tried_replica_is_skipped_and_required_pin_is_binding() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let mut attempt = acquire_request();
    attempt.tried = vec![ids[0]];
    assert_eq!(pool.acquire(&attempt, at_seconds(0)).unwrap().replica().id(), ids[1]);
    attempt.pin = Some(ReplicaPin::Required(ids[0]));
    assert_eq!(pool.acquire(&attempt, at_seconds(0)).unwrap_err(), NoReplica::PinnedUnavailable);
    attempt.tried.clear();
    for _ in 0..4 {
        assert_eq!(pool.acquire(&attempt, at_seconds(0)).unwrap().replica().id(), ids[0]);
    }
    attempt.pin = None;
    attempt.tried = ids;
    assert_eq!(pool.acquire(&attempt, at_seconds(0)).unwrap_err(), NoReplica::AllTried);
}

#[test]
fn preferred_pin_falls_back_when_ineligible() {
    let mut spec = pool_spec("m", &[1, 2, 3]);
    spec.members[0].max_conns = Some(1);
    spec.members[1].backup = true;
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let pinned = |at: usize| AcquireRequest { pin: Some(ReplicaPin::Preferred(ids[at])), ..acquire_request() };
    let id = |pool: &Arc<Pool>, attempt: &AcquireRequest<'_>, now| pool.acquire(attempt, now).unwrap().replica().id();
    assert!((0..4).all(|_| id(&pool, &pinned(0), at_seconds(0)) == ids[0]));
    assert!((0..4).all(|_| id(&pool, &pinned(1), at_seconds(0)) == ids[1]), "a pinned backup is chosen");

    let held = pool.acquire(&pinned(0), at_seconds(0)).unwrap();
    assert_eq!(id(&pool, &pinned(0), at_seconds(0)), ids[2], "its pinned replica is full");
    drop(held);
    let failed = AcquireRequest { tried: vec![ids[0]], ..pinned(0) };
    assert_eq!(id(&pool, &failed, at_seconds(0)), ids[2]);
    pool.acquire(&pinned(0), at_seconds(0)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at_seconds(0));
    assert_eq!(id(&pool, &pinned(0), at_seconds(1)), ids[2], "its pinned replica is ejected");
    assert_eq!(id(&pool, &pinned(0), at_seconds(20)), ids[0]);
    spec.members.remove(0);
    fleet.reload(vec![spec]).unwrap();
    assert_eq!(id(&fleet.pool("m").unwrap(), &pinned(0), at_seconds(0)), ids[2], "its pinned replica is removed");
}

#[test]
fn draining_member_gets_pinned_requests_only() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[0].drain = true;
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    assert_eq!(pool.member_states(at_seconds(0)), [MemberState::Draining, MemberState::Admitted]);
    assert!((0..4).all(|_| pool.acquire(&acquire_request(), at_seconds(0)).unwrap().replica().id() == ids[1]));
    for pin in [ReplicaPin::Required(ids[0]), ReplicaPin::Preferred(ids[0])] {
        let pinned = AcquireRequest { pin: Some(pin), ..acquire_request() };
        assert_eq!(pool.acquire(&pinned, at_seconds(0)).unwrap().replica().id(), ids[0]);
    }
    spec.members[1].down = true;
    fleet.reload(vec![spec]).unwrap();
    let pool = fleet.pool("m").unwrap();
    assert_eq!(pool.acquire(&acquire_request(), at_seconds(0)).unwrap_err(), NoReplica::AllDown);
    assert!(!pool.has_eligible(at_seconds(0)));
}

#[test]
fn drained_replica_is_not_chosen_until_undrained() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    let first = pool.replicas().next().unwrap().clone();
    first.set_drained(true);
    fleet.reload(vec![pool_spec("m", &[1, 2, 3])]).unwrap();
    let pool = fleet.pool("m").unwrap();
    pool.replicas().for_each(|r| {
        r.set_models(ReplicaModels::Unlisted);
    });
    for _ in 0..6 {
        assert_ne!(pool.acquire(&acquire_request(), at_seconds(0)).unwrap().replica().id(), first.id());
    }
    first.set_drained(false);
    assert!((0..3).any(|_| pool.acquire(&acquire_request(), at_seconds(0)).unwrap().replica().id() == first.id()));
}

#[test]
fn external_load_counts_for_token_policies_until_it_expires() {
    let stats = EngineStats {
        running: 5,
        kv_usage: Some(0.5),
        kv_capacity: Some(Tokens(1000)),
        prompt_tokens: Some(Tokens(80)),
        prompt_requests: Some(4),
        ..EngineStats::default()
    };
    for (policy, moved) in [("least_tokens", true), ("least_prefill", true), ("least_conn", false)] {
        let spec = PoolSpec { policy: PolicySpec::parse(policy).unwrap(), ..pool_spec("m", &[1, 2]) };
        let (fleet, _) = build_fleet(vec![spec]);
        let (pool, replicas) = (fleet.pool("m").unwrap(), fleet.replicas());
        for second in [0, 5] {
            replicas[0].set_engine_stats(stats, 0, at_seconds(second), Duration::from_secs(15));
        }
        let picks = |now| [(); 4].map(|()| pool.acquire(&acquire_request(), now).unwrap().replica().id());
        let other_replica = [replicas[1].id(); 4];
        assert_eq!(picks(at_seconds(6)) == other_replica, moved, "{policy}");
        assert_ne!(picks(at_seconds(20)), other_replica, "{policy}");
        assert_eq!((replicas[0].load(), replicas[0].in_flight()), (crate::balance::TokenLoad::default(), 0));
        let report = replicas[0].engine_report(at_seconds(19)).unwrap();
        assert_eq!((report.external.requests, report.external.load.resident), (5, Tokens(500)));
        assert_eq!(replicas[0].engine_report(at_seconds(20)), None);
    }
}
