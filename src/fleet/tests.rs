//! The fleet as its users see it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::balance::{Job, Spec};
use crate::prompt::MediaTokens;
use crate::units::{ModelName, Moment, Tokens};

#[derive(Default)]
struct Book(Mutex<Vec<(String, Outcome)>>);

impl Observer for Book {
    fn settled(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push((report.replica.name().to_string(), report.outcome));
    }
}

fn at(seconds: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(100 + seconds)
}

fn member(port: u16) -> MemberSpec {
    MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap())
}

fn spec(name: &str, ports: &[u16]) -> PoolSpec {
    PoolSpec {
        media: MediaTokens::default(),
        tokens: None,
        ask_for_usage: true,
        name: name.into(),
        models: vec![ModelName::from(name)],
        policy: Spec::parse("round_robin").unwrap(),
        members: ports.iter().map(|p| member(*p)).collect(),
        route: Route::default(),
        paths: Paths::Listed(Vec::new()),
        fallback: None,
        api_key: None,
        tls: Default::default(),
    }
}

fn attempt() -> Attempt<'static> {
    let job =
        Job { prompt: Tokens(10), output: Tokens(0), key: b"", client: IpAddr::V4(Ipv4Addr::LOCALHOST), tried: &[] };
    Attempt { job, model: None, measured: None, pinned: None, tried: Vec::new() }
}

fn fleet_of(specs: Vec<PoolSpec>) -> (Fleet, Arc<Book>) {
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
    for outcome in [Outcome::Refused, Outcome::ClientGone, Outcome::Busy { retry_after: None }, Outcome::Ours] {
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
    attempt.pinned = Some(ids[0]);
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
        route: Route { host: host.map(str::to_owned), path: path.map(str::to_owned) },
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
