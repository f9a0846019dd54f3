//! Tests of the fleet through its public interface, and what they share.

mod acquire;
mod reload;
mod routing;
mod slow_start;

use crate::routes::PoolRoute;
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
        models: [ModelName::from(name)].into_iter().collect(),
        policy: PolicySpec::parse("round_robin").unwrap(),
        shadow: None,
        members: ports.iter().map(|p| member(*p)).collect(),
        route: PoolRoute::default(),
        accepts_azure: false,
        path_policy: PathPolicy::Listed(Vec::new()),
        websocket: false,
        fallback: None,
        api_key: None,
        sticky: None,
        agents: AgentOptions::default(),
        tls: Default::default(),
        failure_policy: Default::default(),
    }
}

pub(super) fn acquire_request() -> AcquireRequest<'static> {
    let policy_request = PolicyRequest {
        prompt: Tokens(10),
        output: Tokens(0),
        key: b"",
        client_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
        tried_slots: &[],
    };
    AcquireRequest {
        policy_request,
        model: None,
        estimate: None,
        prefix: None,
        pin: None,
        tried: Vec::new(),
        observers: ChoiceObservers::default(),
    }
}

pub(super) fn build_fleet(specs: Vec<PoolSpec>) -> (Fleet, Arc<OutcomeRecorder>) {
    let recorder = Arc::new(OutcomeRecorder::default());
    let observer: Arc<dyn LeaseObserver> = recorder.clone();
    let fleet = Fleet::new(specs, &observer, 1).unwrap();
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Unlisted);
    }
    (fleet, recorder)
}

fn fail_next_request(pool: &Arc<Pool>, now: Moment) -> String {
    let lease = pool.acquire(&acquire_request(), now).unwrap();
    let name = lease.replica().name().to_string();
    lease.settle(Outcome::Failed { phase: Phase::Connect }, now);
    name
}
