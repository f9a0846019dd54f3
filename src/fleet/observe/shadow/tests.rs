use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::fleet::{
    ChoiceObservers, DecisionLog, FailurePolicy, Fleet, LeaseObserver, LeaseReport, MemberSpec, PathPolicy, PoolSpec,
    ReplicaModels, ReplicaPin, Route, TokenAccounting, UpstreamTls,
};

#[derive(Default)]
struct ShadowResultLog(Mutex<Vec<Option<ShadowResult>>>);

impl LeaseObserver for ShadowResultLog {
    fn on_settled(&self, report: &LeaseReport<'_>) {
        self.0.lock().unwrap().push(report.shadow_result);
    }
}

fn pool_spec(ports: &[u16], policy: &str, shadow: &str) -> PoolSpec {
    let member = |port: &u16| MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap());
    PoolSpec {
        name: "p".into(),
        models: vec!["m".into()],
        policy: PolicySpec::parse(policy).unwrap(),
        shadow: Some(PolicySpec::parse(shadow).unwrap()),
        members: ports.iter().map(member).collect(),
        route: Route::default(),
        path_policy: PathPolicy::Any,
        fallback: None,
        failure_policy: FailurePolicy::default(),
        token_accounting: TokenAccounting::default(),
        api_key: None,
        sticky: None,
        tls: UpstreamTls::default(),
    }
}

fn build_fleet(specs: Vec<PoolSpec>) -> (Fleet, Arc<ShadowResultLog>) {
    let heard = Arc::new(ShadowResultLog::default());
    let observer: Arc<dyn LeaseObserver> = heard.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Unlisted);
    }
    (fleet, heard)
}

/// A request of 640 tokens of whoever's prompt.
fn acquire_request(whose: u64) -> AcquireRequest<'static> {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let job = PolicyRequest { prompt: Tokens(640), output: Tokens(0), key: b"", client_addr: client, tried_slots: &[] };
    let prefix = PromptFingerprint::from_blocks((0..10).map(|at| whose << 32 | at), Tokens(64), Tokens(640));
    let (pinned, tried) = (None, Vec::new());
    AcquireRequest {
        policy_request: job,
        model: None,
        estimate: None,
        prefix: Some(Arc::new(prefix)),
        pin: pinned,
        tried,
        observers: ChoiceObservers::default(),
    }
}

fn at_millis(ms: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(ms)
}

#[test]
fn it_sees_the_load_and_the_caches_that_there_would_be() {
    let (fleet, heard) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    let mut leases = Vec::new();
    for n in 0..3 {
        let mut lease = pool.acquire(&acquire_request(7), at_millis(n)).unwrap();
        lease.record_progress(ResponseProgress { content_events: 1, usage: None }, at_millis(n));
        leases.push(lease);
    }
    let real: Vec<u32> = fleet.replicas().iter().map(|replica| replica.in_flight()).collect();
    assert_eq!(real, [2, 1]);
    let imagined = pool.shadow_loads();
    let (busy, idle) = if imagined[0].0 > 0 { (imagined[0], imagined[1]) } else { (imagined[1], imagined[0]) };
    assert_eq!((busy.0, idle), (3, (0, TokenLoad::default())), "all go where the prompt is cached");
    assert_eq!((busy.1.decoding_streams, busy.1.prefill), (3, Tokens(0)));
    leases.into_iter().for_each(|lease| lease.settle(Outcome::Completed, at_millis(9)));
    assert_eq!(pool.shadow_loads(), [(0, TokenLoad::default()); 2]);
    let heard = heard.0.lock().unwrap();
    let heard: Vec<ShadowResult> = heard.iter().flatten().copied().collect();
    assert_eq!(heard.iter().map(|told| told.cached.unwrap().0).collect::<Vec<_>>(), [0, 639, 639]);
    assert_eq!(heard.iter().filter(|told| told.same_choice).count(), if imagined[0].0 > 0 { 2 } else { 1 });
    assert!(heard.iter().all(|told| told.policy == "token_cost"));
}

#[test]
fn a_request_that_belongs_to_a_replica_weighs_there_and_is_no_decision() {
    let (fleet, heard) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    let id = fleet.replicas()[1].id();
    let lease = pool
        .acquire(&AcquireRequest { pin: Some(ReplicaPin::Required(id)), ..acquire_request(1) }, at_millis(0))
        .unwrap();
    assert_eq!(pool.shadow_loads().iter().map(|double| double.0).collect::<Vec<_>>(), [0, 1]);
    drop(lease);
    assert_eq!(*heard.0.lock().unwrap(), [None]);
    assert_eq!(pool.shadow_loads(), [(0, TokenLoad::default()); 2]);
}

#[test]
fn where_all_are_busy_no_policy_is_asked_and_the_decision_says_so() {
    let (fleet, heard) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    for n in 0..2 {
        let lease = pool.acquire(&acquire_request(1), at_millis(n)).unwrap();
        lease.mark_busy(None, at_millis(n));
        lease.settle(Outcome::Busy { retry_after: None }, at_millis(n));
    }
    let decisions = Arc::new(DecisionLog::new(1));
    let beside = ChoiceObservers { decision_log: Some((decisions.clone(), "a".into())), shadow_key: b"" };
    drop(pool.acquire(&AcquireRequest { observers: beside, ..acquire_request(1) }, at_millis(2)).unwrap());
    let told = decisions.find_by_request_id("a").remove(0);
    assert_eq!((told.reason, told.candidates.len(), told.skipped.len()), ("first free", 1, 1));
    assert_eq!(told.skipped[0].1, "busy");
    assert_eq!(heard.0.lock().unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn a_reload_keeps_what_is_imagined_of_replicas_that_stay_unless_the_policy_changes() {
    let (fleet, _) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let leases: Vec<_> = (0..2).map(|n| fleet.pools()[0].acquire(&acquire_request(n), at_millis(n)).unwrap()).collect();
    let in_flight = |fleet: &Fleet| fleet.pools()[0].shadow_loads().iter().map(|double| double.0).collect::<Vec<_>>();
    fleet.reload(vec![pool_spec(&[2, 3], "round_robin", "least_conn")]).unwrap();
    assert_eq!(in_flight(&fleet), [1, 0]);
    fleet.reload(vec![pool_spec(&[2, 3], "round_robin", "least_tokens")]).unwrap();
    assert_eq!(in_flight(&fleet), [0, 0]);
    fleet.reload(vec![pool_spec(&[2, 1], "round_robin", "least_tokens")]).unwrap();
    drop(leases);
    assert_eq!(in_flight(&fleet), [0, 0]);
}

#[test]
fn what_was_never_computed_is_not_imagined_to_be_cached() {
    let (fleet, heard) = build_fleet(vec![pool_spec(&[1], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    for _ in 0..2 {
        pool.acquire(&acquire_request(1), at_millis(0)).unwrap().settle(Outcome::Refused, at_millis(1));
    }
    pool.acquire(&acquire_request(1), at_millis(2)).unwrap().settle(Outcome::Completed, at_millis(3));
    let phase = Phase::Connect;
    pool.acquire(&acquire_request(1), at_millis(4)).unwrap().settle(Outcome::Failed { phase }, at_millis(5));
    pool.acquire(&acquire_request(1), at_millis(6)).unwrap().settle(Outcome::Completed, at_millis(7));
    let cached: Vec<u64> = heard.0.lock().unwrap().iter().map(|told| told.unwrap().cached.unwrap().0).collect();
    assert_eq!(cached, [0, 0, 0, 639, 0]);
}
