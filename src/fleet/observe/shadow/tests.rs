use crate::routes::PoolRoute;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::fleet::{
    AgentOptions, ChoiceObservers, ChoiceReason, DecisionLog, FailurePolicy, Fleet, LeaseObserver, LeaseReport,
    LoggedRequest, MemberSpec, PathPolicy, PoolSpec, ReplicaModels, ReplicaPin, TokenAccounting, UpstreamTls,
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
        models: ["m".into()].into_iter().collect(),
        policy: PolicySpec::parse(policy).unwrap(),
        shadow: Some(PolicySpec::parse(shadow).unwrap()),
        members: ports.iter().map(member).collect(),
        route: PoolRoute::default(),
        accepts_azure: false,
        path_policy: PathPolicy::Any,
        websocket: false,
        fallback: None,
        failure_policy: FailurePolicy::default(),
        token_accounting: TokenAccounting::default(),
        api_key: None,
        sticky: None,
        agents: AgentOptions::default(),
        tls: UpstreamTls::default(),
    }
}

fn build_fleet(specs: Vec<PoolSpec>) -> (Fleet, Arc<ShadowResultLog>) {
    let results = Arc::new(ShadowResultLog::default());
    let observer: Arc<dyn LeaseObserver> = results.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Unlisted);
    }
    (fleet, results)
}

/// A request of 640 tokens; requests with one `prompt_id` share the prompt.
fn acquire_request(prompt_id: u64) -> AcquireRequest<'static> {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let policy_request =
        PolicyRequest { prompt: Tokens(640), output: Tokens(0), key: b"", client_addr: client, tried_slots: &[] };
    let prefix = PromptFingerprint::from_blocks((0..10).map(|at| prompt_id << 32 | at), Tokens(64), Tokens(640));
    let (pinned, tried) = (None, Vec::new());
    AcquireRequest {
        policy_request,
        model: None,
        estimate: None,
        prefix: Some(Arc::new(prefix)),
        pin: pinned,
        tried,
        observers: ChoiceObservers::default(),
    }
}

fn at_millis(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

#[test]
fn shadow_policy_sees_its_own_load_and_caches() {
    let (fleet, results) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    let mut leases = Vec::new();
    for n in 0..3 {
        let mut lease = pool.acquire(&acquire_request(7), at_millis(n)).unwrap();
        lease.record_progress(ResponseProgress { content_events: 1, usage: None }, at_millis(n));
        leases.push(lease);
    }
    let real: Vec<u32> = fleet.replicas().iter().map(|replica| replica.in_flight()).collect();
    assert_eq!(real, [2, 1]);
    let shadow_loads = pool.shadow_loads();
    let (busy, idle) =
        if shadow_loads[0].0 > 0 { (shadow_loads[0], shadow_loads[1]) } else { (shadow_loads[1], shadow_loads[0]) };
    assert_eq!((busy.0, idle), (3, (0, TokenLoad::default())), "all go where the prompt is cached");
    assert_eq!((busy.1.decoding_streams, busy.1.prefill), (3, Tokens(0)));
    leases.into_iter().for_each(|lease| lease.settle(Outcome::Completed, at_millis(9)));
    assert_eq!(pool.shadow_loads(), [(0, TokenLoad::default()); 2]);
    let results = results.0.lock().unwrap();
    let results: Vec<ShadowResult> = results.iter().flatten().copied().collect();
    assert_eq!(results.iter().map(|result| result.cached.unwrap().0).collect::<Vec<_>>(), [0, 639, 639]);
    assert_eq!(results.iter().filter(|result| result.same_choice).count(), if shadow_loads[0].0 > 0 { 2 } else { 1 });
    assert!(results.iter().all(|result| result.policy == "token_cost"));
}

#[test]
fn pinned_request_is_reserved_on_its_replica_and_is_no_choice() {
    let (fleet, results) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    let id = fleet.replicas()[1].id();
    let lease = pool
        .acquire(&AcquireRequest { pin: Some(ReplicaPin::Required(id)), ..acquire_request(1) }, at_millis(0))
        .unwrap();
    assert_eq!(pool.shadow_loads().iter().map(|load| load.0).collect::<Vec<_>>(), [0, 1]);
    drop(lease);
    assert_eq!(*results.0.lock().unwrap(), [None]);
    assert_eq!(pool.shadow_loads(), [(0, TokenLoad::default()); 2]);
}

#[test]
fn busy_members_are_chosen_without_the_policy_and_logged_as_first_free() {
    let (fleet, results) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let pool = fleet.pools().remove(0);
    for n in 0..2 {
        let lease = pool.acquire(&acquire_request(1), at_millis(n)).unwrap();
        lease.mark_busy(None, at_millis(n));
        lease.settle(Outcome::Busy { retry_after: None }, at_millis(n));
    }
    let decisions = Arc::new(DecisionLog::new(1));
    let observers = ChoiceObservers {
        decision_log: Some((decisions.clone(), LoggedRequest { id: "a".into(), ..LoggedRequest::default() })),
        shadow_key: b"",
    };
    drop(pool.acquire(&AcquireRequest { observers, ..acquire_request(1) }, at_millis(2)).unwrap());
    let result = decisions.find_by_request_id("a").remove(0);
    let reason = result.chosen.as_ref().map(|chosen| chosen.reason);
    assert_eq!((reason, result.candidates.len(), result.skipped.len()), (Ok(ChoiceReason::FirstFree), 1, 1));
    assert_eq!(result.skipped[0].1, "busy");
    assert_eq!(results.0.lock().unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn reload_keeps_shadow_load_unless_the_policy_changes() {
    let (fleet, _) = build_fleet(vec![pool_spec(&[1, 2], "round_robin", "least_conn")]);
    let leases: Vec<_> = (0..2).map(|n| fleet.pools()[0].acquire(&acquire_request(n), at_millis(n)).unwrap()).collect();
    let in_flight = |fleet: &Fleet| fleet.pools()[0].shadow_loads().iter().map(|load| load.0).collect::<Vec<_>>();
    fleet.reload(vec![pool_spec(&[2, 3], "round_robin", "least_conn")]).unwrap();
    assert_eq!(in_flight(&fleet), [1, 0]);
    fleet.reload(vec![pool_spec(&[2, 3], "round_robin", "least_tokens")]).unwrap();
    assert_eq!(in_flight(&fleet), [0, 0]);
    fleet.reload(vec![pool_spec(&[2, 1], "round_robin", "least_tokens")]).unwrap();
    drop(leases);
    assert_eq!(in_flight(&fleet), [0, 0]);
}

#[test]
fn prompt_of_failed_request_is_not_cached_in_shadow() {
    let (fleet, results) = build_fleet(vec![pool_spec(&[1], "round_robin", "token_cost")]);
    let pool = fleet.pools().remove(0);
    for _ in 0..2 {
        pool.acquire(&acquire_request(1), at_millis(0)).unwrap().settle(Outcome::Refused, at_millis(1));
    }
    pool.acquire(&acquire_request(1), at_millis(2)).unwrap().settle(Outcome::Completed, at_millis(3));
    let phase = Phase::Connect;
    pool.acquire(&acquire_request(1), at_millis(4)).unwrap().settle(Outcome::Failed { phase }, at_millis(5));
    pool.acquire(&acquire_request(1), at_millis(6)).unwrap().settle(Outcome::Completed, at_millis(7));
    let cached: Vec<u64> = results.0.lock().unwrap().iter().map(|result| result.unwrap().cached.unwrap().0).collect();
    assert_eq!(cached, [0, 0, 0, 639, 0]);
}
