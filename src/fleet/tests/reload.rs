//! Reloads: what stays, what changes.

use super::*;

#[test]
fn reload_reports_share_of_moved_keys() {
    let mut keyed = pool_spec("m", &[1, 2, 3, 4]);
    keyed.policy = PolicySpec::parse("hash $user consistent").unwrap();
    let (fleet, _) = build_fleet(vec![keyed.clone(), pool_spec("turns", &[5])]);
    keyed.members.pop();
    let diff = fleet.reload(vec![keyed, pool_spec("turns", &[5, 6])]).unwrap();
    let [(name, share)] = diff.keys_moved.as_slice() else { panic!("{diff}") };
    assert!(&**name == "m" && (0.15..0.35).contains(share), "{diff}");
    assert!(diff.to_string().contains("; keys moved: "), "{diff}");
}

#[test]
fn one_url_in_two_pools_is_one_replica_with_one_load() {
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1]), pool_spec("b", &[1])]);
    let held = fleet.pool("a").unwrap().acquire(&acquire_request(), at_seconds(0)).unwrap();
    assert_eq!(fleet.replicas().len(), 1);
    let other = fleet.pool("b").unwrap().acquire(&acquire_request(), at_seconds(0)).unwrap();
    assert_eq!((held.replica().id(), other.replica().in_flight()), (other.replica().id(), 2));
}

#[test]
fn reload_keeps_replicas_their_load_and_their_failures() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2]), pool_spec("same", &[9])]);
    let (pool, same) = (fleet.pool("m").unwrap(), fleet.pool("same").unwrap());
    fail_next_request(&pool, at_seconds(0));
    let held = pool.acquire(&acquire_request(), at_seconds(1)).unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let mut next = pool_spec("m", &[2, 3, 1]);
    next.members[0].weight = crate::units::Weight::new(5).unwrap();
    let diff = fleet.reload(vec![next, pool_spec("same", &[9]), pool_spec("new", &[3])]).unwrap();
    assert_eq!(diff.to_string(), "pools added: new; pools changed: m; replicas added: 10.0.0.1:3");
    assert!(Arc::ptr_eq(&same, &fleet.pool("same").unwrap()));
    let pool = fleet.pool("m").unwrap();
    let now: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    assert_eq!((now[0], now[2]), (ids[1], ids[0]));
    assert_eq!(held.replica().in_flight(), 1);
    for _ in 0..6 {
        assert_ne!(
            pool.acquire(&acquire_request(), at_seconds(2)).unwrap().replica().id(),
            ids[0],
            "it is still ejected"
        );
    }
    drop(held);
    assert!(fleet.replicas().iter().all(|r| r.in_flight() == 0));
    assert_eq!(
        fleet.reload(fleet.pools().iter().map(|p| p.spec().clone()).collect::<Vec<_>>()).unwrap().to_string(),
        "nothing"
    );
}

#[test]
fn removed_replica_lives_until_its_last_request_ends_and_its_id_is_not_reused() {
    let (fleet, recorder) = build_fleet(vec![pool_spec("m", &[1])]);
    let held = fleet.pool("m").unwrap().acquire(&acquire_request(), at_seconds(0)).unwrap();
    let old = held.replica().id();
    fleet.reload(vec![pool_spec("m", &[2])]).unwrap();
    fleet.reload(vec![pool_spec("m", &[1])]).unwrap();
    assert!(fleet.replicas().iter().all(|r| r.id() != old));
    held.settle(Outcome::Completed, at_seconds(3));
    assert_eq!(recorder.0.lock().unwrap().len(), 1);
}

#[test]
fn prepared_replica_survives_edit_of_another_pool() {
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1]), pool_spec("b", &[2])]);
    let prepared = fleet.prepare_replicas(&[pool_spec("b", &[2, 3])]);
    prepared[0].0.set_models(ReplicaModels::Unlisted);
    let add = |port| {
        move |spec: &mut PoolSpec| -> Result<(), PolicyError> {
            spec.members.push(member(port));
            Ok(())
        }
    };
    fleet.edit_pool("a", add(9)).unwrap().unwrap();
    fleet.edit_pool("b", add(3)).unwrap().unwrap();
    let added = fleet.pool("b").unwrap().replicas().nth(1).unwrap().clone();
    assert_eq!((added.id(), &*added.models()), (prepared[0].0.id(), &ReplicaModels::Unlisted));
}

#[test]
fn bad_reload_changes_nothing() {
    fn build(_: &[crate::balance::PolicyMember], _: &[&str]) -> Result<Box<dyn crate::balance::Policy>, PolicyError> {
        Err(PolicyError::UnknownPolicy("x".to_owned()))
    }
    static BAD_POLICY: crate::balance::PolicyEntry = crate::balance::PolicyEntry::new("bad", "", build);
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1])]);
    let bad = PoolSpec { policy: PolicySpec::from(&BAD_POLICY), ..pool_spec("other", &[2]) };
    assert!(fleet.reload(vec![bad]).is_err());
    assert!(fleet.pool("m").is_some() && fleet.pool("other").is_none());
}
