//! Slow start of members that return.

use super::*;

/// Returns how often the first replica is chosen in 200 consecutive requests.
fn count_first_replica(pool: &Arc<Pool>, now: Moment) -> usize {
    let first = pool.replicas().next().unwrap().id();
    (0..200).filter(|_| pool.acquire(&acquire_request(), now).unwrap().replica().id() == first).count()
}

#[test]
fn slow_start_ramps_up_every_kind_of_return() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[0].slow_start = Duration::from_secs(100);
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(count_first_replica(&pool, at_seconds(0)), 100, "all start with the pool");

    // From ejection.
    let pin =
        AcquireRequest { pin: Some(ReplicaPin::Required(pool.replicas().next().unwrap().id())), ..acquire_request() };
    pool.acquire(&pin, at_seconds(1)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at_seconds(1));
    assert_eq!(count_first_replica(&pool, at_seconds(2)), 0);
    pool.acquire(&pin, at_seconds(20)).unwrap().settle(Outcome::Completed, at_seconds(20));
    // A weight of x against one of 1 is a share of x / (1 + x).
    for (seconds, wanted) in [(30, 18), (45, 40), (70, 67), (120, 100), (200, 100)] {
        let found = count_first_replica(&pool, at_seconds(seconds));
        assert!(found.abs_diff(wanted) <= 4, "{found} of 200 at {seconds} s, wanted {wanted}");
    }

    // From a drain undone before the next request.
    pool.replicas().next().unwrap().set_drained(true);
    pool.replicas().next().unwrap().set_drained(false);
    assert!(count_first_replica(&pool, at_seconds(300)) <= 2);
    assert!(count_first_replica(&pool, at_seconds(400)).abs_diff(100) <= 2);

    // From `down`.
    spec.members[0].down = true;
    fleet.reload(vec![spec.clone()]).unwrap();
    spec.members[0].down = false;
    fleet.reload(vec![spec.clone()]).unwrap();
    let pool = fleet.pool("m").unwrap();
    assert!(count_first_replica(&pool, at_seconds(500)) <= 2);
    assert!(count_first_replica(&pool, at_seconds(550)).abs_diff(67) <= 4);

    // Newly added.
    let mut added = spec.clone();
    added.members.insert(0, MemberSpec { slow_start: Duration::from_secs(100), ..member(7) });
    added.members[1].down = true;
    fleet.reload(vec![added]).unwrap();
    let pool = fleet.pool("m").unwrap();
    pool.replicas().for_each(|r| {
        r.set_models(ReplicaModels::Unlisted);
    });
    assert!(count_first_replica(&pool, at_seconds(600)) <= 2);
    assert!(count_first_replica(&pool, at_seconds(650)).abs_diff(67) <= 4);
}

#[test]
fn pool_of_ramping_members_still_serves() {
    let mut spec = pool_spec("m", &[1, 2]);
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    for policy in ["round_robin", "least_conn", "least_time last_byte"] {
        spec.policy = PolicySpec::parse(policy).unwrap();
        spec.members.iter_mut().for_each(|m| m.slow_start = Duration::from_secs(100));
        fleet.reload(vec![spec.clone()]).unwrap();
        let pool = fleet.pool("m").unwrap();
        for replica in pool.replicas() {
            replica.set_drained(true);
            replica.set_drained(false);
        }
        for seconds in [0, 1, 50] {
            let found = count_first_replica(&pool, at_seconds(seconds));
            assert!(found.abs_diff(100) <= 2, "{policy}: {found} of 200 at {seconds} s");
        }
    }
}
