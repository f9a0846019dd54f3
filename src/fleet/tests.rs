//! The fleet as its users see it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::balance::{Job, Spec};
use crate::units::{ModelName, Moment, Tokens};

#[derive(Default)]
pub(super) struct Book(Mutex<Vec<(String, Outcome)>>);

impl Observer for Book {
    fn settled(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push((report.replica.name().to_string(), report.outcome));
    }
}

pub(super) fn at(seconds: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(100 + seconds)
}

fn member(port: u16) -> MemberSpec {
    MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap())
}

pub(super) fn spec(name: &str, ports: &[u16]) -> PoolSpec {
    PoolSpec {
        metering: Metering::default(),
        name: name.into(),
        models: vec![ModelName::from(name)],
        policy: Spec::parse("round_robin").unwrap(),
        shadow: None,
        members: ports.iter().map(|p| member(*p)).collect(),
        route: Route::default(),
        paths: Paths::Listed(Vec::new()),
        fallback: None,
        api_key: None,
        sticky: None,
        tls: Default::default(),
        failing: Default::default(),
    }
}

pub(super) fn attempt() -> Attempt<'static> {
    let job =
        Job { prompt: Tokens(10), output: Tokens(0), key: b"", client: IpAddr::V4(Ipv4Addr::LOCALHOST), tried: &[] };
    Attempt {
        job,
        model: None,
        measured: None,
        prefix: None,
        pinned: None,
        tried: Vec::new(),
        beside: Beside::default(),
    }
}

pub(super) fn fleet_of(specs: Vec<PoolSpec>) -> (Fleet, Arc<Book>) {
    let book = Arc::new(Book::default());
    let observer: Arc<dyn Observer> = book.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.learn(Models::Unlisted);
    }
    (fleet, book)
}

fn fail(pool: &Arc<Pool>, now: Moment) -> String {
    let lease = pool.acquire(&attempt(), now).unwrap();
    let name = lease.replica().name().to_string();
    lease.settle(Outcome::Failed { phase: Phase::Connect }, now);
    name
}

#[test]
fn a_lease_charges_until_it_is_settled_or_dropped() {
    let (fleet, book) = fleet_of(vec![spec("m", &[1])]);
    let pool = fleet.pool("m").unwrap();
    let first = pool.acquire(&attempt(), at(0)).unwrap();
    let second = pool.acquire(&attempt(), at(0)).unwrap();
    let replica = first.replica().clone();
    assert_eq!(replica.in_flight(), 2);
    first.settle(Outcome::Completed, at(1));
    drop(second);
    assert_eq!(replica.in_flight(), 0);
    let outcomes: Vec<Outcome> = book.0.lock().unwrap().iter().map(|(_, o)| *o).collect();
    assert_eq!(outcomes, [Outcome::Completed, Outcome::ClientGone]);
}

#[test]
fn a_failed_replica_is_left_alone_for_fail_timeout() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(fail(&pool, at(0)), "10.0.0.1:1");
    for _ in 0..3 {
        assert_eq!(&**pool.acquire(&attempt(), at(5)).unwrap().replica().name(), "10.0.0.1:2");
    }
    let mut later: Vec<_> =
        (0..3).map(|_| pool.acquire(&attempt(), at(11)).unwrap().replica().name().clone()).collect();
    later.sort();
    assert!(later.contains(&"10.0.0.1:1".into()), "{later:?}");
}

#[test]
fn when_all_have_failed_the_error_says_how_long() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    fail(&pool, at(0));
    fail(&pool, at(2));
    let none = pool.acquire(&attempt(), at(4)).unwrap_err();
    assert_eq!(none, NoReplica::AllEjected { retry_after: Duration::from_secs(6) });
    assert!(!pool.ready(at(4)));
}

#[test]
fn the_only_replica_is_never_ejected() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1])]);
    let pool = fleet.pool("m").unwrap();
    for _ in 0..5 {
        fail(&pool, at(0));
    }
}

#[test]
fn client_faults_and_hangups_do_not_eject() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    for outcome in [Outcome::Refused, Outcome::ClientGone, Outcome::Ours, Outcome::Completed] {
        for _ in 0..4 {
            pool.acquire(&attempt(), at(0)).unwrap().settle(outcome, at(0));
        }
    }
    assert!(fleet.replicas().iter().all(|r| r.chosen() == 8));
}

#[test]
fn backups_are_chosen_only_when_nothing_else_is_left() {
    let mut spec = spec("m", &[1, 2]);
    spec.members[1].backup = true;
    let (fleet, _) = fleet_of(vec![spec]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(fail(&pool, at(0)), "10.0.0.1:1");
    assert_eq!(&**pool.acquire(&attempt(), at(1)).unwrap().replica().name(), "10.0.0.1:2");
}

#[test]
fn max_conns_and_down_keep_requests_away() {
    let mut spec = spec("m", &[1, 2]);
    spec.members[0].max_conns = Some(1);
    spec.members[1].down = true;
    let (fleet, _) = fleet_of(vec![spec]);
    let pool = fleet.pool("m").unwrap();
    let held = pool.acquire(&attempt(), at(0)).unwrap();
    assert_eq!(pool.acquire(&attempt(), at(0)).unwrap_err(), NoReplica::AllFull);
    drop(held);
    assert!(pool.acquire(&attempt(), at(0)).is_ok());
}

#[test]
fn a_tried_replica_is_not_offered_again_and_a_pinned_one_is_the_only_one() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let mut attempt = attempt();
    attempt.tried = vec![ids[0]];
    assert_eq!(pool.acquire(&attempt, at(0)).unwrap().replica().id(), ids[1]);
    attempt.pinned = Some(Pin::Only(ids[0]));
    assert_eq!(pool.acquire(&attempt, at(0)).unwrap_err(), NoReplica::PinnedGone);
    attempt.tried.clear();
    for _ in 0..4 {
        assert_eq!(pool.acquire(&attempt, at(0)).unwrap().replica().id(), ids[0]);
    }
    attempt.pinned = None;
    attempt.tried = ids;
    assert_eq!(pool.acquire(&attempt, at(0)).unwrap_err(), NoReplica::AllTried);
}

#[test]
fn a_request_that_would_rather_stay_goes_elsewhere_when_it_must() {
    let mut spec = spec("m", &[1, 2, 3]);
    spec.members[0].max_conns = Some(1);
    spec.members[1].backup = true;
    let (fleet, _) = fleet_of(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let pinned = |at: usize| Attempt { pinned: Some(Pin::Rather(ids[at])), ..attempt() };
    let id = |pool: &Arc<Pool>, attempt: &Attempt<'_>, now| pool.acquire(attempt, now).unwrap().replica().id();
    assert!((0..4).all(|_| id(&pool, &pinned(0), at(0)) == ids[0]));
    assert!((0..4).all(|_| id(&pool, &pinned(1), at(0)) == ids[1]), "a backup is as good as any");

    let held = pool.acquire(&pinned(0), at(0)).unwrap();
    assert_eq!(id(&pool, &pinned(0), at(0)), ids[2], "it is full");
    drop(held);
    let failed = Attempt { tried: vec![ids[0]], ..pinned(0) };
    assert_eq!(id(&pool, &failed, at(0)), ids[2]);
    pool.acquire(&pinned(0), at(0)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at(0));
    assert_eq!(id(&pool, &pinned(0), at(1)), ids[2], "it is ejected");
    assert_eq!(id(&pool, &pinned(0), at(20)), ids[0]);
    spec.members.remove(0);
    fleet.reload(vec![spec]).unwrap();
    assert_eq!(id(&fleet.pool("m").unwrap(), &pinned(0), at(0)), ids[2], "it is gone");
}

#[test]
fn a_draining_member_takes_only_what_belongs_to_it() {
    let mut spec = spec("m", &[1, 2]);
    spec.members[0].drain = true;
    let (fleet, _) = fleet_of(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    assert_eq!(pool.states(at(0)), [State::Draining, State::Admitted]);
    assert!((0..4).all(|_| pool.acquire(&attempt(), at(0)).unwrap().replica().id() == ids[1]));
    for pin in [Pin::Only(ids[0]), Pin::Rather(ids[0])] {
        let pinned = Attempt { pinned: Some(pin), ..attempt() };
        assert_eq!(pool.acquire(&pinned, at(0)).unwrap().replica().id(), ids[0]);
    }
    spec.members[1].down = true;
    fleet.reload(vec![spec]).unwrap();
    let pool = fleet.pool("m").unwrap();
    assert_eq!(pool.acquire(&attempt(), at(0)).unwrap_err(), NoReplica::AllDown);
    assert!(!pool.ready(at(0)));
}

/// The share of the first replica in 200 picks by turns, none of which lasts.
fn share(pool: &Arc<Pool>, now: Moment) -> usize {
    let first = pool.replicas().next().unwrap().id();
    (0..200).filter(|_| pool.acquire(&attempt(), now).unwrap().replica().id() == first).count()
}

#[test]
fn slow_start_lets_a_member_that_comes_back_grow_into_its_share() {
    let mut spec = spec("m", &[1, 2]);
    spec.members[0].slow_start = Duration::from_secs(100);
    let (fleet, _) = fleet_of(vec![spec.clone()]);
    let pool = fleet.pool("m").unwrap();
    assert_eq!(share(&pool, at(0)), 100, "all start together");

    // From ejection.
    let pin = Attempt { pinned: Some(Pin::Only(pool.replicas().next().unwrap().id())), ..attempt() };
    pool.acquire(&pin, at(1)).unwrap().settle(Outcome::Failed { phase: Phase::Connect }, at(1));
    assert_eq!(share(&pool, at(2)), 0);
    pool.acquire(&pin, at(20)).unwrap().settle(Outcome::Completed, at(20));
    // A weight of x beside one of 1 is a share of x / (1 + x).
    for (seconds, wanted) in [(30, 18), (45, 40), (70, 67), (120, 100), (200, 100)] {
        let found = share(&pool, at(seconds));
        assert!(found.abs_diff(wanted) <= 4, "{found} of 200 at {seconds} s, wanted {wanted}");
    }

    // From a drain by hand that nobody saw.
    pool.replicas().next().unwrap().drain(true);
    pool.replicas().next().unwrap().drain(false);
    assert!(share(&pool, at(300)) <= 2);
    assert!(share(&pool, at(400)).abs_diff(100) <= 2);

    // From `down`.
    spec.members[0].down = true;
    fleet.reload(vec![spec.clone()]).unwrap();
    spec.members[0].down = false;
    fleet.reload(vec![spec.clone()]).unwrap();
    let pool = fleet.pool("m").unwrap();
    assert!(share(&pool, at(500)) <= 2);
    assert!(share(&pool, at(550)).abs_diff(67) <= 4);

    // Newly added.
    let mut added = spec.clone();
    added.members.insert(0, MemberSpec { slow_start: Duration::from_secs(100), ..member(7) });
    added.members[1].down = true;
    fleet.reload(vec![added]).unwrap();
    let pool = fleet.pool("m").unwrap();
    pool.replicas().for_each(|r| {
        r.learn(Models::Unlisted);
    });
    assert!(share(&pool, at(600)) <= 2);
    assert!(share(&pool, at(650)).abs_diff(67) <= 4);
}

#[test]
fn replicas_that_all_start_slowly_still_serve() {
    let mut spec = spec("m", &[1, 2]);
    let (fleet, _) = fleet_of(vec![spec.clone()]);
    for policy in ["round_robin", "least_conn", "least_time last_byte"] {
        spec.policy = Spec::parse(policy).unwrap();
        spec.members.iter_mut().for_each(|m| m.slow_start = Duration::from_secs(100));
        fleet.reload(vec![spec.clone()]).unwrap();
        let pool = fleet.pool("m").unwrap();
        for replica in pool.replicas() {
            replica.drain(true);
            replica.drain(false);
        }
        for seconds in [0, 1, 50] {
            let found = share(&pool, at(seconds));
            assert!(found.abs_diff(100) <= 2, "{policy}: {found} of 200 at {seconds} s");
        }
    }
}

#[test]
fn a_reload_counts_the_keys_that_moved() {
    let mut keyed = spec("m", &[1, 2, 3, 4]);
    keyed.policy = Spec::parse("hash $user consistent").unwrap();
    let (fleet, _) = fleet_of(vec![keyed.clone(), spec("turns", &[5])]);
    keyed.members.pop();
    let changes = fleet.reload(vec![keyed, spec("turns", &[5, 6])]).unwrap();
    let [(name, share)] = changes.keys_moved.as_slice() else { panic!("{changes}") };
    assert!(&**name == "m" && (0.15..0.35).contains(share), "{changes}");
    assert!(changes.to_string().contains("; keys moved: "), "{changes}");
}

#[test]
fn one_url_in_two_pools_is_one_replica_with_one_load() {
    let (fleet, _) = fleet_of(vec![spec("a", &[1]), spec("b", &[1])]);
    let held = fleet.pool("a").unwrap().acquire(&attempt(), at(0)).unwrap();
    assert_eq!(fleet.replicas().len(), 1);
    let other = fleet.pool("b").unwrap().acquire(&attempt(), at(0)).unwrap();
    assert_eq!((held.replica().id(), other.replica().in_flight()), (other.replica().id(), 2));
}

#[test]
fn a_pool_without_models_sends_each_model_where_it_is_listed() {
    let mut learning = spec("learned", &[1, 2, 3]);
    learning.models.clear();
    let observer: Arc<dyn Observer> = Arc::new(Book::default());
    let fleet = Fleet::new(vec![learning], &observer, 1).unwrap();
    let site = fleet.site("h", "/v1/chat/completions").unwrap();
    assert_eq!(site.pool(Some("x")).unwrap_err(), NoPool::NotYetKnown);
    let pool = fleet.pool("learned").unwrap();
    assert_eq!(pool.acquire(&attempt(), at(0)).unwrap_err(), NoReplica::NotReady);

    let replicas: Vec<_> = pool.replicas().cloned().collect();
    replicas[0].learn(Models::Listed(vec!["x".into()]));
    replicas[1].learn(Models::Listed(vec!["x".into(), "y".into()]));
    assert_eq!(site.pool(Some("z")).unwrap_err(), NoPool::NotYetKnown);
    replicas[2].learn(Models::Unlisted);
    assert_eq!(site.pool(Some("z")).unwrap_err(), NoPool::UnknownModel);
    let wanted = Attempt { model: Some("y"), ..attempt() };
    for _ in 0..3 {
        let lease = site.pool(wanted.model).unwrap().acquire(&wanted, at(0)).unwrap();
        assert_eq!(lease.replica().id(), replicas[1].id());
    }
    assert_eq!(pool.models(), ["x".into(), "y".into()]);
}

#[test]
fn host_comes_before_path_and_the_longest_path_wins() {
    let routed = |name: &str, host: Option<&str>, path: Option<&str>| PoolSpec {
        route: Route { host: host.map(str::to_owned), path: path.map(str::to_owned), ..Route::default() },
        ..spec(name, &[1])
    };
    let (fleet, _) = fleet_of(vec![
        routed("any", None, None),
        routed("team", None, Some("/team")),
        routed("team-a", None, Some("/team/a")),
        routed("host", Some("gpu.local"), None),
    ]);
    let pool = |host: &str, path: &str| fleet.site(host, path).unwrap().pools()[0].name().to_string();
    assert_eq!(pool("x", "/v1/chat/completions"), "any");
    assert_eq!(pool("x", "/teamwork/v1"), "any");
    assert_eq!(pool("x", "/team/v1/completions"), "team");
    assert_eq!(pool("x", "/team/a/v1/completions"), "team-a");
    assert_eq!(pool("gpu.local", "/team/a"), "host");
}

#[test]
fn a_pool_that_refuses_paths_hides_no_other_of_its_host() {
    let mut refusing = spec("a", &[1]);
    refusing.route.refused = vec![Refused { path: "/closed".to_owned(), exact: false, status: 403 }];
    let (fleet, _) = fleet_of(vec![refusing, spec("b", &[2])]);
    let site = fleet.site("", "/v1").unwrap();
    assert_eq!(["a", "b"].map(|model| site.pool(Some(model)).unwrap().name().to_string()), ["a", "b"]);
}

#[test]
fn a_request_without_a_model_needs_a_single_pool() {
    let (fleet, _) = fleet_of(vec![spec("a", &[1])]);
    assert_eq!(&**fleet.site("", "/v1").unwrap().pool(None).unwrap().name(), "a");
    let (fleet, _) = fleet_of(vec![spec("a", &[1]), spec("b", &[2])]);
    assert_eq!(fleet.site("", "/v1").unwrap().pool(None).unwrap_err(), NoPool::ModelMissing);
}

#[test]
fn a_pool_that_takes_everything_comes_after_those_that_name_the_model() {
    let mut any = spec("any", &[1]);
    any.models.clear();
    any.paths = Paths::Any;
    let (fleet, _) = fleet_of(vec![any, spec("m", &[2])]);
    let site = fleet.site("", "/v1").unwrap();
    let name = |model| site.pool(model).unwrap().name().to_string();
    assert_eq!((name(Some("m")), name(Some("x")), name(None)), ("m".into(), "any".into(), "any".into()));
}

#[test]
fn a_reload_keeps_replicas_their_load_and_their_failures() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2]), spec("same", &[9])]);
    let (pool, same) = (fleet.pool("m").unwrap(), fleet.pool("same").unwrap());
    fail(&pool, at(0));
    let held = pool.acquire(&attempt(), at(1)).unwrap();
    let ids: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    let mut next = spec("m", &[2, 3, 1]);
    next.members[0].weight = crate::units::Weight::new(5).unwrap();
    let changes = fleet.reload(vec![next, spec("same", &[9]), spec("new", &[3])]).unwrap();
    assert_eq!(changes.to_string(), "pools added: new; pools changed: m; replicas added: 10.0.0.1:3");
    assert!(Arc::ptr_eq(&same, &fleet.pool("same").unwrap()));
    let pool = fleet.pool("m").unwrap();
    let now: Vec<_> = pool.replicas().map(|r| r.id()).collect();
    assert_eq!((now[0], now[2]), (ids[1], ids[0]));
    assert_eq!(held.replica().in_flight(), 1);
    for _ in 0..6 {
        assert_ne!(pool.acquire(&attempt(), at(2)).unwrap().replica().id(), ids[0], "it is still ejected");
    }
    drop(held);
    assert!(fleet.replicas().iter().all(|r| r.in_flight() == 0));
    assert_eq!(fleet.reload(fleet.pools().iter().map(|p| p.spec().clone()).collect()).unwrap().to_string(), "nothing");
}

#[test]
fn a_removed_replica_lives_until_its_last_request_ends_and_its_id_is_not_reused() {
    let (fleet, book) = fleet_of(vec![spec("m", &[1])]);
    let held = fleet.pool("m").unwrap().acquire(&attempt(), at(0)).unwrap();
    let old = held.replica().id();
    fleet.reload(vec![spec("m", &[2])]).unwrap();
    fleet.reload(vec![spec("m", &[1])]).unwrap();
    assert!(fleet.replicas().iter().all(|r| r.id() != old));
    held.settle(Outcome::Completed, at(3));
    assert_eq!(book.0.lock().unwrap().len(), 1);
}

#[test]
fn what_one_announces_is_not_forgotten_by_the_change_of_another() {
    let (fleet, _) = fleet_of(vec![spec("a", &[1]), spec("b", &[2])]);
    let fresh = fleet.announce(&[spec("b", &[2, 3])]);
    fresh[0].0.learn(Models::Unlisted);
    let add = |port| {
        move |spec: &mut PoolSpec| -> Result<(), BadPolicy> {
            spec.members.push(member(port));
            Ok(())
        }
    };
    fleet.edit("a", add(9)).unwrap().unwrap();
    fleet.edit("b", add(3)).unwrap().unwrap();
    let came = fleet.pool("b").unwrap().replicas().nth(1).unwrap().clone();
    assert_eq!((came.id(), &*came.models()), (fresh[0].0.id(), &Models::Unlisted));
}

#[test]
fn a_bad_reload_changes_nothing() {
    fn build(_: &[crate::balance::Member], _: &[&str]) -> Result<Box<dyn crate::balance::Policy>, BadPolicy> {
        Err(BadPolicy::Unknown("x".to_owned()))
    }
    static BAD: crate::balance::Entry = crate::balance::Entry::new("bad", "", build);
    let (fleet, _) = fleet_of(vec![spec("m", &[1])]);
    let bad = PoolSpec { policy: Spec::from(&BAD), ..spec("other", &[2]) };
    assert!(fleet.reload(vec![bad]).is_err());
    assert!(fleet.pool("m").is_some() && fleet.pool("other").is_none());
}

#[test]
fn a_drained_replica_is_not_chosen_until_that_is_undone() {
    let (fleet, _) = fleet_of(vec![spec("m", &[1, 2])]);
    let pool = fleet.pool("m").unwrap();
    let first = pool.replicas().next().unwrap().clone();
    first.drain(true);
    fleet.reload(vec![spec("m", &[1, 2, 3])]).unwrap();
    let pool = fleet.pool("m").unwrap();
    pool.replicas().for_each(|r| {
        r.learn(Models::Unlisted);
    });
    for _ in 0..6 {
        assert_ne!(pool.acquire(&attempt(), at(0)).unwrap().replica().id(), first.id());
    }
    first.drain(false);
    assert!((0..3).any(|_| pool.acquire(&attempt(), at(0)).unwrap().replica().id() == first.id()));
}

#[test]
fn load_from_elsewhere_counts_for_token_policies_alone_and_until_it_is_too_old() {
    let vitals = Vitals {
        running: 5,
        kv_usage: Some(0.5),
        kv_capacity: Some(Tokens(1000)),
        prompt: Some(Tokens(80)),
        requests: Some(4),
        ..Vitals::default()
    };
    for (policy, moved) in [("least_tokens", true), ("least_prefill", true), ("least_conn", false)] {
        let described = PoolSpec { policy: Spec::parse(policy).unwrap(), ..spec("m", &[1, 2]) };
        let (fleet, _) = fleet_of(vec![described]);
        let (pool, replicas) = (fleet.pool("m").unwrap(), fleet.replicas());
        for look in [0, 5] {
            replicas[0].learn_vitals(vitals, 0, at(look), Duration::from_secs(15));
        }
        let picks = |now| [(); 4].map(|()| pool.acquire(&attempt(), now).unwrap().replica().id());
        let elsewhere = [replicas[1].id(); 4];
        assert_eq!(picks(at(6)) == elsewhere, moved, "{policy}");
        assert_ne!(picks(at(20)), elsewhere, "{policy}");
        assert_eq!((replicas[0].load(), replicas[0].in_flight()), (crate::balance::Load::default(), 0));
        let truth = replicas[0].truth(at(19)).unwrap();
        assert_eq!((truth.foreign.requests, truth.foreign.load.resident), (5, Tokens(500)));
        assert_eq!(replicas[0].truth(at(20)), None);
    }
}
