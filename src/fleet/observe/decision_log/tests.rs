use crate::routes::PoolRoute;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::balance::{Candidate, PolicyRequest, PolicySpec, SlowdownFactors, TokenLoad};
use crate::fleet::{
    AgentOptions, FailurePolicy, MemberSpec, Outcome, PathPolicy, PoolSpec, TokenAccounting, UpstreamTls,
};
use crate::units::{ModelNames, Slot, Tokens, Weight};

fn pool_spec(replicas: u16) -> Arc<PoolSpec> {
    let member = |port: u16| MemberSpec::new(format!("http://10.0.0.1:{port}").parse().unwrap());
    Arc::new(PoolSpec {
        name: "chat".into(),
        models: ModelNames::default(),
        policy: PolicySpec::default(),
        shadow: None,
        members: (0..replicas).map(|index| member(8_000 + index)).collect(),
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
    })
}

fn candidate(index: u32) -> Candidate {
    Candidate {
        slot: Slot(index),
        weight: Weight::new(2_000).unwrap(),
        in_flight: 1,
        load: TokenLoad { prefill: Tokens(40), waiting_requests: 0, decoding_streams: 2, resident: Tokens(400) },
        cached: Tokens(60),
        slowdown: SlowdownFactors::default(),
        first_byte: Duration::ZERO,
        last_byte: Duration::ZERO,
    }
}

fn decision_entry(id: &str, replicas: u16, chosen: u32) -> DecisionEntry {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request =
        PolicyRequest { prompt: Tokens(100), output: Tokens(0), key: b"", client_addr: client, tried_slots: &[] };
    let candidates = (0..u32::from(replicas)).map(candidate).collect();
    let snapshot = CandidateSnapshot { candidates, ..CandidateSnapshot::default() };
    let logged = LoggedRequest { id: id.into(), ..LoggedRequest::default() };
    DecisionEntry::new(&logged, &pool_spec(replicas), &request, snapshot, Ok(Slot(chosen)))
}

#[test]
fn decision_is_shown_in_the_policys_terms_with_its_result() {
    let decisions = DecisionLog::new(10);
    let number = decisions.push(decision_entry("a", 2, 1));
    assert_eq!(decisions.find_by_request_id("a")[0].result, None);
    let outcome = Outcome::Completed;
    let result = DecisionResult {
        outcome,
        duration: Duration::from_secs(2),
        time_to_first_token: Some(Duration::from_secs(1)),
        usage: None,
    };
    decisions.record_result(number, result);
    let record = decisions.find_by_request_id("a");
    let [record] = &record[..] else { panic!("{record:?}") };
    assert_eq!(
        (&*record.pool, &*record.policy, record.result, record.cached),
        ("chat", "token_cost", Some(result), Some(Tokens(60)))
    );
    let chosen = ChosenReplica { name: "10.0.0.1:8001".into(), reason: ChoiceReason::Policy };
    assert_eq!(record.chosen, Ok(chosen));
    let load = [("waiting", 40.0), ("prompts", 0.0), ("uncached", 40.0), ("streams", 2.0), ("resident", 400.0)];
    let price = [("prefill_pace", 1.0), ("decode_pace", 1.0), ("cost", 280.0), ("weight", 2.0)];
    let wanted = [&load[..], &price].concat();
    assert_eq!(record.candidates[1].terms, wanted);
    assert_eq!(
        decisions.decision_line(number).as_deref(),
        Some(
            "pool=chat policy=token_cost replica=10.0.0.1:8001 candidates=2 reason=policy prompt_tokens=100 \
             estimated_cached_tokens=60"
        )
    );
}

#[test]
fn oldest_decisions_are_evicted_by_number_and_by_replicas() {
    let decisions = DecisionLog::new(3);
    let numbers: Vec<u64> = ["a", "b", "c", "d"].map(|id| decisions.push(decision_entry(id, 2, 0))).into();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(
        (decisions.find_by_request_id("a").len(), decisions.find_by_request_id("b").len(), decisions.replica_count()),
        (0, 1, 6)
    );
    decisions.resize(1);
    assert_eq!((decisions.find_by_request_id("c").len(), decisions.find_by_request_id("d").len()), (0, 1));
    // The end of an evicted decision's request changes no other decision.
    let late = DecisionResult {
        outcome: Outcome::RouterError,
        duration: Duration::ZERO,
        time_to_first_token: None,
        usage: None,
    };
    decisions.record_result(0, late);
    assert_eq!(decisions.find_by_request_id("d")[0].result, None);
    decisions.resize(0);
    decisions.push(decision_entry("e", 2, 0));
    assert_eq!(
        (decisions.find_by_request_id("d").len(), decisions.find_by_request_id("e").len(), decisions.replica_count()),
        (0, 0, 0)
    );
    decisions.resize(100_000);
    for _ in 0..300 {
        decisions.push(decision_entry("f", 1_000, 0));
    }
    assert_eq!((decisions.find_by_request_id("f").len(), decisions.replica_count()), (16, 16_000));
}

#[test]
fn chosen_replica_survives_truncation() {
    let decisions = DecisionLog::new(1);
    decisions.push(decision_entry("a", 3_000, 2_999));
    let record = decisions.find_by_request_id("a").remove(0);
    let chosen = record.chosen.unwrap();
    assert_eq!((record.candidates.len(), record.omitted_replicas, chosen.reason), (1_024, 1_976, ChoiceReason::Policy));
    assert_eq!(record.candidates.last().unwrap().name, chosen.name);
}
