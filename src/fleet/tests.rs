//! The fleet as its users see it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::balance::{PolicyRequest, PolicySpec};
use crate::units::{ModelName, Moment, Tokens};

#[derive(Default)]
pub(super) struct OutcomeRecorder(Mutex<Vec<(String, Outcome)>>);

impl LeaseObserver for OutcomeRecorder {
    fn on_settled(&self, report: &LeaseReport<'_>) {
        self.0.lock().unwrap().push((report.replica.name().to_string(), report.outcome));
    }
}

pub(super) fn at_seconds(seconds: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(100 + seconds)
}

fn member(port: u16) -> MemberSpec {
    MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap())
}

pub(super) fn pool_spec(name: &str, ports: &[u16]) -> PoolSpec {
    PoolSpec {
        token_accounting: TokenAccounting::default(),
        name: name.into(),
        models: vec![ModelName::from(name)],
        policy: PolicySpec::parse("round_robin").unwrap(),
        shadow: None,
        members: ports.iter().map(|p| member(*p)).collect(),
        route: Route::default(),
        path_policy: PathPolicy::Listed(Vec::new()),
        fallback: None,
        api_key: None,
        sticky: None,
        tls: Default::default(),
        failure_policy: Default::default(),
    }
}

pub(super) fn acquire_request() -> AcquireRequest<'static> {
    let job = PolicyRequest {
        prompt: Tokens(10),
        output: Tokens(0),
        key: b"",
        client_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        tried_slots: &[],
    };
    AcquireRequest {
        policy_request: job,
        model: None,
        estimate: None,
        prefix: None,
        pin: None,
        tried: Vec::new(),
        observers: ChoiceObservers::default(),
    }
}

pub(super) fn build_fleet(specs: Vec<PoolSpec>) -> (Fleet, Arc<OutcomeRecorder>) {
    let book = Arc::new(OutcomeRecorder::default());
    let observer: Arc<dyn LeaseObserver> = book.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Unlisted);
    }
    (fleet, book)
}

fn fail_next_request(pool: &Arc<Pool>, now: Moment) -> String {
    let lease = pool.acquire(&acquire_request(), now).unwrap();
    let name = lease.replica().name().to_string();
    lease.settle(Outcome::Failed { phase: Phase::Connect }, now);
    name
}

#[test]
fn a_lease_charges_until_it_is_settled_or_dropped() {
    let (fleet, book) = build_fleet(vec![pool_spec("m", &[1])]);
    let pool = fleet.pool("m").unwrap();
    let first = pool.acquire(&acquire_request(), at_seconds(0)).unwrap();
    let second = pool.acquire(&acquire_request(), at_seconds(0)).unwrap();
    let replica = first.replica().clone();
    assert_eq!(replica.in_flight(), 2);
    first.settle(Outcome::Completed, at_seconds(1));
    drop(second);
    assert_eq!(replica.in_flight(), 0);
    let outcomes: Vec<Outcome> = book.0.lock().unwrap().iter().map(|(_, o)| *o).collect();
    assert_eq!(outcomes, [Outcome::Completed, Outcome::ClientGone]);
}

#[test]
fn a_failed_replica_is_left_alone_for_fail_timeout() {
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
fn when_all_have_failed_the_error_says_how_long() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    fail_next_request(&pool, at_seconds(0));
    fail_next_request(&pool, at_seconds(2));
    let none = pool.acquire(&acquire_request(), at_seconds(4)).unwrap_err();
    assert_eq!(none, NoReplica::AllEjected { retry_after: Duration::from_secs(6) });
    assert!(!pool.has_eligible(at_seconds(4)));
}

#[test]
fn the_only_replica_is_never_ejected() {
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
fn backups_are_chosen_only_when_nothing_else_is_left() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[1].backup = true;
    let (fleet, _) = build_fleet(vec![spec]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(fail_next_request(&pool, at_seconds(0)), "10.0.0.1:1");
    assert_eq!(&**pool.acquire(&acquire_request(), at_seconds(1)).unwrap().replica().name(), "10.0.0.1:2");
}

#[test]
fn max_conns_and_down_keep_requests_away() {
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
fn a_tried_replica_is_not_offered_again_and_a_pinned_one_is_the_only_one() {
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
fn a_request_that_would_rather_stay_goes_elsewhere_when_it_must() {
    let mut spec = pool_spec("m", &[1, 2, 3]);
    spec.members[0].max_conns = Some(1);
    spec.members[1].backup = true;
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let pinned = |at: usize| AcquireRequest { pin: Some(ReplicaPin::Preferred(ids[at])), ..acquire_request() };
    let id = |pool: &Arc<Pool>, attempt: &AcquireRequest<'_>, now| pool.acquire(attempt, now).unwrap().replica().id();
    assert!((0..4).all(|_| id(&pool, &pinned(0), at_seconds(0)) == ids[0]));
    assert!((0..4).all(|_| id(&pool, &pinned(1), at_seconds(0)) == ids[1]), "a backup is as good as any");

    let held = pool.acquire(&pinned(0), at_seconds(0)).unwrap();
    assert_eq!(id(&pool, &pinned(0), at_seconds(0)), ids[2], "it is full");
    drop(held);
    let failed = AcquireRequest { tried: vec![ids[0]], ..pinned(0) };
    assert_eq!(id(&pool, &failed, at_seconds(0)), ids[2]);
    pool.acquire(&pinned(0), at_seconds(0)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at_seconds(0));
    assert_eq!(id(&pool, &pinned(0), at_seconds(1)), ids[2], "it is ejected");
    assert_eq!(id(&pool, &pinned(0), at_seconds(20)), ids[0]);
    spec.members.remove(0);
    fleet.reload(vec![spec]).unwrap();
    assert_eq!(id(&fleet.pool("m").unwrap(), &pinned(0), at_seconds(0)), ids[2], "it is gone");
}

#[test]
fn a_draining_member_takes_only_what_belongs_to_it() {
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

/// The share of the first replica in 200 picks by turns, none of which lasts.
fn count_first_replica(pool: &Arc<Pool>, now: Moment) -> usize {
    let first = pool.replicas().next().unwrap().id();
    (0..200).filter(|_| pool.acquire(&acquire_request(), now).unwrap().replica().id() == first).count()
}

#[test]
fn slow_start_lets_a_member_that_comes_back_grow_into_its_share() {
    let mut spec = pool_spec("m", &[1, 2]);
    spec.members[0].slow_start = Duration::from_secs(100);
    let (fleet, _) = build_fleet(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(count_first_replica(&pool, at_seconds(0)), 100, "all start together");

    // From ejection.
    let pin =
        AcquireRequest { pin: Some(ReplicaPin::Required(pool.replicas().next().unwrap().id())), ..acquire_request() };
    pool.acquire(&pin, at_seconds(1)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at_seconds(1));
    assert_eq!(count_first_replica(&pool, at_seconds(2)), 0);
    pool.acquire(&pin, at_seconds(20)).unwrap().settle(Outcome::Completed, at_seconds(20));
    // A weight of x beside one of 1 is a share of x / (1 + x).
    for (seconds, wanted) in [(30, 18), (45, 40), (70, 67), (120, 100), (200, 100)] {
        let found = count_first_replica(&pool, at_seconds(seconds));
        assert!(found.abs_diff(wanted) <= 4, "{found} of 200 at {seconds} s, wanted {wanted}");
    }

    // From a drain by hand that nobody saw.
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
fn replicas_that_all_start_slowly_still_serve() {
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

#[test]
fn a_reload_counts_the_keys_that_moved() {
    let mut keyed = pool_spec("m", &[1, 2, 3, 4]);
    keyed.policy = PolicySpec::parse("hash $user consistent").unwrap();
    let (fleet, _) = build_fleet(vec![keyed.clone(), pool_spec("turns", &[5])]);
    keyed.members.pop();
    let changes = fleet.reload(vec![keyed, pool_spec("turns", &[5, 6])]).unwrap();
    let [(name, share)] = changes.keys_moved.as_slice() else { panic!("{changes}") };
    assert!(&**name == "m" && (0.15..0.35).contains(share), "{changes}");
    assert!(changes.to_string().contains("; keys moved: "), "{changes}");
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
fn a_pool_without_models_sends_each_model_where_it_is_listed() {
    let mut learning = pool_spec("learned", &[1, 2, 3]);
    learning.models.clear();
    let observer: Arc<dyn LeaseObserver> = Arc::new(OutcomeRecorder::default());
    let fleet = Fleet::new(vec![learning], &observer, 1).unwrap();
    let site = fleet.virtual_host("h", "/v1/chat/completions").unwrap();
    assert_eq!(site.find_pool(Some("x")).unwrap_err(), PoolLookupError::ModelsPending);
    let pool = fleet.pool("learned").unwrap();
    assert_eq!(pool.acquire(&acquire_request(), at_seconds(0)).unwrap_err(), NoReplica::NotReady);

    let replicas: Vec<_> = pool.replicas().cloned().collect();
    replicas[0].set_models(ReplicaModels::Listed(vec!["x".into()]));
    replicas[1].set_models(ReplicaModels::Listed(vec!["x".into(), "y".into()]));
    assert_eq!(site.find_pool(Some("z")).unwrap_err(), PoolLookupError::ModelsPending);
    replicas[2].set_models(ReplicaModels::Unlisted);
    assert_eq!(site.find_pool(Some("z")).unwrap_err(), PoolLookupError::UnknownModel);
    let wanted = AcquireRequest { model: Some("y"), ..acquire_request() };
    for _ in 0..3 {
        let lease = site.find_pool(wanted.model).unwrap().acquire(&wanted, at_seconds(0)).unwrap();
        assert_eq!(lease.replica().id(), replicas[1].id());
    }
    assert_eq!(pool.models(), ["x".into(), "y".into()]);
}

#[test]
fn host_comes_before_path_and_the_longest_path_wins() {
    let routed = |name: &str, host: Option<&str>, path: Option<&str>| PoolSpec {
        route: Route { host: host.map(str::to_owned), path: path.map(str::to_owned), ..Route::default() },
        ..pool_spec(name, &[1])
    };
    let (fleet, _) = build_fleet(vec![
        routed("any", None, None),
        routed("team", None, Some("/team")),
        routed("team-a", None, Some("/team/a")),
        routed("host", Some("gpu.local"), None),
    ]);
    let pool = |host: &str, path: &str| fleet.virtual_host(host, path).unwrap().pools()[0].name().to_string();
    assert_eq!(pool("x", "/v1/chat/completions"), "any");
    assert_eq!(pool("x", "/teamwork/v1"), "any");
    assert_eq!(pool("x", "/team/v1/completions"), "team");
    assert_eq!(pool("x", "/team/a/v1/completions"), "team-a");
    assert_eq!(pool("gpu.local", "/team/a"), "host");
}

#[test]
fn a_pool_that_refuses_paths_hides_no_other_of_its_host() {
    let mut refusing = pool_spec("a", &[1]);
    refusing.route.blocked_paths = vec![BlockedPath { path: "/closed".to_owned(), exact: false, status: 403 }];
    let (fleet, _) = build_fleet(vec![refusing, pool_spec("b", &[2])]);
    let site = fleet.virtual_host("", "/v1").unwrap();
    assert_eq!(["a", "b"].map(|model| site.find_pool(Some(model)).unwrap().name().to_string()), ["a", "b"]);
}

#[test]
fn a_request_without_a_model_needs_a_single_pool() {
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1])]);
    assert_eq!(&**fleet.virtual_host("", "/v1").unwrap().find_pool(None).unwrap().name(), "a");
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1]), pool_spec("b", &[2])]);
    assert_eq!(fleet.virtual_host("", "/v1").unwrap().find_pool(None).unwrap_err(), PoolLookupError::ModelMissing);
}

#[test]
fn a_pool_that_takes_everything_comes_after_those_that_name_the_model() {
    let mut any = pool_spec("any", &[1]);
    any.models.clear();
    any.path_policy = PathPolicy::Any;
    let (fleet, _) = build_fleet(vec![any, pool_spec("m", &[2])]);
    let site = fleet.virtual_host("", "/v1").unwrap();
    let name = |model| site.find_pool(model).unwrap().name().to_string();
    assert_eq!((name(Some("m")), name(Some("x")), name(None)), ("m".into(), "any".into(), "any".into()));
}

#[test]
fn a_reload_keeps_replicas_their_load_and_their_failures() {
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1, 2]), pool_spec("same", &[9])]);
    let (pool, same) = (fleet.pool("m").unwrap(), fleet.pool("same").unwrap());
    fail_next_request(&pool, at_seconds(0));
    let held = pool.acquire(&acquire_request(), at_seconds(1)).unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let mut next = pool_spec("m", &[2, 3, 1]);
    next.members[0].weight = crate::units::Weight::new(5).unwrap();
    let changes = fleet.reload(vec![next, pool_spec("same", &[9]), pool_spec("new", &[3])]).unwrap();
    assert_eq!(changes.to_string(), "pools added: new; pools changed: m; replicas added: 10.0.0.1:3");
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
    assert_eq!(fleet.reload(fleet.pools().iter().map(|p| p.spec().clone()).collect()).unwrap().to_string(), "nothing");
}

#[test]
fn a_removed_replica_lives_until_its_last_request_ends_and_its_id_is_not_reused() {
    let (fleet, book) = build_fleet(vec![pool_spec("m", &[1])]);
    let held = fleet.pool("m").unwrap().acquire(&acquire_request(), at_seconds(0)).unwrap();
    let old = held.replica().id();
    fleet.reload(vec![pool_spec("m", &[2])]).unwrap();
    fleet.reload(vec![pool_spec("m", &[1])]).unwrap();
    assert!(fleet.replicas().iter().all(|r| r.id() != old));
    held.settle(Outcome::Completed, at_seconds(3));
    assert_eq!(book.0.lock().unwrap().len(), 1);
}

#[test]
fn what_one_announces_is_not_forgotten_by_the_change_of_another() {
    let (fleet, _) = build_fleet(vec![pool_spec("a", &[1]), pool_spec("b", &[2])]);
    let fresh = fleet.prepare_replicas(&[pool_spec("b", &[2, 3])]);
    fresh[0].0.set_models(ReplicaModels::Unlisted);
    let add = |port| {
        move |spec: &mut PoolSpec| -> Result<(), PolicyError> {
            spec.members.push(member(port));
            Ok(())
        }
    };
    fleet.edit_pool("a", add(9)).unwrap().unwrap();
    fleet.edit_pool("b", add(3)).unwrap().unwrap();
    let came = fleet.pool("b").unwrap().replicas().nth(1).unwrap().clone();
    assert_eq!((came.id(), &*came.models()), (fresh[0].0.id(), &ReplicaModels::Unlisted));
}

#[test]
fn a_bad_reload_changes_nothing() {
    fn build(_: &[crate::balance::PolicyMember], _: &[&str]) -> Result<Box<dyn crate::balance::Policy>, PolicyError> {
        Err(PolicyError::UnknownPolicy("x".to_owned()))
    }
    static BAD_POLICY: crate::balance::PolicyEntry = crate::balance::PolicyEntry::new("bad", "", build);
    let (fleet, _) = build_fleet(vec![pool_spec("m", &[1])]);
    let bad = PoolSpec { policy: PolicySpec::from(&BAD_POLICY), ..pool_spec("other", &[2]) };
    assert!(fleet.reload(vec![bad]).is_err());
    assert!(fleet.pool("m").is_some() && fleet.pool("other").is_none());
}

#[test]
fn a_drained_replica_is_not_chosen_until_that_is_undone() {
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
fn load_from_elsewhere_counts_for_token_policies_alone_and_until_it_is_too_old() {
    let vitals = EngineStats {
        running: 5,
        kv_usage: Some(0.5),
        kv_capacity: Some(Tokens(1000)),
        prompt_tokens: Some(Tokens(80)),
        prompt_requests: Some(4),
        ..EngineStats::default()
    };
    for (policy, moved) in [("least_tokens", true), ("least_prefill", true), ("least_conn", false)] {
        let described = PoolSpec { policy: PolicySpec::parse(policy).unwrap(), ..pool_spec("m", &[1, 2]) };
        let (fleet, _) = build_fleet(vec![described]);
        let (pool, replicas) = (fleet.pool("m").unwrap(), fleet.replicas());
        for look in [0, 5] {
            replicas[0].set_engine_stats(vitals, 0, at_seconds(look), Duration::from_secs(15));
        }
        let picks = |now| [(); 4].map(|()| pool.acquire(&acquire_request(), now).unwrap().replica().id());
        let elsewhere = [replicas[1].id(); 4];
        assert_eq!(picks(at_seconds(6)) == elsewhere, moved, "{policy}");
        assert_ne!(picks(at_seconds(20)), elsewhere, "{policy}");
        assert_eq!((replicas[0].load(), replicas[0].in_flight()), (crate::balance::TokenLoad::default(), 0));
        let truth = replicas[0].engine_report(at_seconds(19)).unwrap();
        assert_eq!((truth.external.requests, truth.external.load.resident), (5, Tokens(500)));
        assert_eq!(replicas[0].engine_report(at_seconds(20)), None);
    }
}
