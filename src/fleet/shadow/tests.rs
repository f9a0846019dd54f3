use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::fleet::{
    Beside, Decisions, Failing, Fleet, MemberSpec, Metering, Models, Observer, Paths, Pin, PoolSpec, Report, Route, Tls,
};

#[derive(Default)]
struct Heard(Mutex<Vec<Option<Shadowed>>>);

impl Observer for Heard {
    fn settled(&self, report: &Report<'_>) {
        self.0.lock().unwrap().push(report.shadowed);
    }
}

fn spec(ports: &[u16], policy: &str, shadow: &str) -> PoolSpec {
    let member = |port: &u16| MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap());
    PoolSpec {
        name: "p".into(),
        models: vec!["m".into()],
        policy: PolicySpec::parse(policy).unwrap(),
        shadow: Some(PolicySpec::parse(shadow).unwrap()),
        members: ports.iter().map(member).collect(),
        route: Route::default(),
        paths: Paths::Any,
        fallback: None,
        failing: Failing::default(),
        metering: Metering::default(),
        api_key: None,
        sticky: None,
        tls: Tls::default(),
    }
}

fn fleet(specs: Vec<PoolSpec>) -> (Fleet, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let observer: Arc<dyn Observer> = heard.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.learn(Models::Unlisted);
    }
    (fleet, heard)
}

/// A request of 640 tokens of whoever's prompt.
fn attempt(whose: u64) -> Attempt<'static> {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let job = Job { prompt: Tokens(640), output: Tokens(0), key: b"", client, tried: &[] };
    let prefix = Prefix::of_blocks((0..10).map(|at| whose << 32 | at), Tokens(64), Tokens(640));
    let (pinned, tried) = (None, Vec::new());
    Attempt {
        job,
        model: None,
        measured: None,
        prefix: Some(Arc::new(prefix)),
        pinned,
        tried,
        beside: Beside::default(),
    }
}

fn at(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

#[test]
fn it_sees_the_load_and_the_caches_that_there_would_be() {
    let (fleet, heard) = fleet(vec![spec(&[1, 2], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    let mut leases = Vec::new();
    for n in 0..3 {
        let mut lease = pool.acquire(&attempt(7), at(n)).unwrap();
        lease.progress(Progress { content_events: 1, usage: None }, at(n));
        leases.push(lease);
    }
    let real: Vec<u32> = fleet.replicas().iter().map(|replica| replica.in_flight()).collect();
    assert_eq!(real, [2, 1]);
    let imagined = pool.imagined();
    let (busy, idle) = if imagined[0].0 > 0 { (imagined[0], imagined[1]) } else { (imagined[1], imagined[0]) };
    assert_eq!((busy.0, idle), (3, (0, Load::default())), "all go where the prompt is cached");
    assert_eq!((busy.1.decoding, busy.1.prefill), (3, Tokens(0)));
    leases.into_iter().for_each(|lease| lease.settle(Outcome::Completed, at(9)));
    assert_eq!(pool.imagined(), [(0, Load::default()); 2]);
    let heard = heard.0.lock().unwrap();
    let heard: Vec<Shadowed> = heard.iter().flatten().copied().collect();
    assert_eq!(heard.iter().map(|told| told.cached.unwrap().0).collect::<Vec<_>>(), [0, 639, 639]);
    assert_eq!(heard.iter().filter(|told| told.same).count(), if imagined[0].0 > 0 { 2 } else { 1 });
    assert!(heard.iter().all(|told| told.policy == "token_cost"));
}

#[test]
fn a_request_that_belongs_to_a_replica_weighs_there_and_is_no_decision() {
    let (fleet, heard) = fleet(vec![spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    let id = fleet.replicas()[1].id();
    let lease = pool.acquire(&Attempt { pinned: Some(Pin::Only(id)), ..attempt(1) }, at(0)).unwrap();
    assert_eq!(pool.imagined().iter().map(|double| double.0).collect::<Vec<_>>(), [0, 1]);
    drop(lease);
    assert_eq!(*heard.0.lock().unwrap(), [None]);
    assert_eq!(pool.imagined(), [(0, Load::default()); 2]);
}

#[test]
fn where_all_are_busy_no_policy_is_asked_and_the_decision_says_so() {
    let (fleet, heard) = fleet(vec![spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    for n in 0..2 {
        let lease = pool.acquire(&attempt(1), at(n)).unwrap();
        lease.busy(None, at(n));
        lease.settle(Outcome::Busy { retry_after: None }, at(n));
    }
    let decisions = Arc::new(Decisions::new(1));
    let beside = Beside { kept: Some((decisions.clone(), "a".into())), shadow_key: b"" };
    drop(pool.acquire(&Attempt { beside, ..attempt(1) }, at(2)).unwrap());
    let told = decisions.of("a").remove(0);
    assert_eq!((told.why, told.candidates.len(), told.passed_over.len()), ("first free", 1, 1));
    assert_eq!(told.passed_over[0].1, "busy");
    assert_eq!(heard.0.lock().unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn a_reload_keeps_what_is_imagined_of_replicas_that_stay_unless_the_policy_changes() {
    let (fleet, _) = fleet(vec![spec(&[1, 2], "round_robin", "least_conn")]);
    let leases: Vec<_> = (0..2).map(|n| fleet.pools()[0].acquire(&attempt(n), at(n)).unwrap()).collect();
    let in_flight = |fleet: &Fleet| fleet.pools()[0].imagined().iter().map(|double| double.0).collect::<Vec<_>>();
    fleet.reload(vec![spec(&[2, 3], "round_robin", "least_conn")]).unwrap();
    assert_eq!(in_flight(&fleet), [1, 0]);
    fleet.reload(vec![spec(&[2, 3], "round_robin", "least_tokens")]).unwrap();
    assert_eq!(in_flight(&fleet), [0, 0]);
    fleet.reload(vec![spec(&[2, 1], "round_robin", "least_tokens")]).unwrap();
    drop(leases);
    assert_eq!(in_flight(&fleet), [0, 0]);
}

#[test]
fn what_was_never_computed_is_not_imagined_to_be_cached() {
    let (fleet, heard) = fleet(vec![spec(&[1], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    for _ in 0..2 {
        pool.acquire(&attempt(1), at(0)).unwrap().settle(Outcome::Refused, at(1));
    }
    pool.acquire(&attempt(1), at(2)).unwrap().settle(Outcome::Completed, at(3));
    let phase = Phase::Connect;
    pool.acquire(&attempt(1), at(4)).unwrap().settle(Outcome::Failed { phase }, at(5));
    pool.acquire(&attempt(1), at(6)).unwrap().settle(Outcome::Completed, at(7));
    let cached: Vec<u64> = heard.0.lock().unwrap().iter().map(|told| told.unwrap().cached.unwrap().0).collect();
    assert_eq!(cached, [0, 0, 0, 639, 0]);
}
