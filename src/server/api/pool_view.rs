//! Pools and replicas as the admin API shows them.

use std::sync::Arc;

use serde::Serialize;

use crate::balance::TokenLoad;
use crate::fleet::{EngineReport, MemberSpec, MemberStatus, Pool, Replica, ReplicaModels};
use crate::server::live::message::state_reason;
use crate::units::{Moment, Tokens};

/// The state of a pool.
#[derive(Serialize)]
pub(super) struct PoolView {
    pool: String,
    policy: String,
    models: Vec<String>,
    replicas: Vec<ReplicaView>,
}

/// The state of a replica as a member of a pool.
#[derive(Serialize)]
struct ReplicaView {
    name: String,
    url: String,
    state: &'static str,
    /// The cause of an ejection (`refused`, `failed`, `stalled` or `check`), or why a replica is `not_ready`; `None` in
    /// other states.
    reason: Option<String>,
    weight: u32,
    /// The weight, reduced while `slow_start` runs.
    effective_weight: f64,
    /// Failures within `fail_timeout`.
    failures: u32,
    in_flight: u32,
    /// Times that it was chosen, by any pool.
    times_chosen: u64,
    models: Vec<String>,
    /// The load of the requests in flight.
    load: LoadView,
    /// `None` unless the engine has reported metrics recently.
    engine: Option<EngineView>,
}

/// The token load of one replica.
#[derive(Serialize)]
struct LoadView {
    /// Prompt tokens of requests without a first token.
    prefill_tokens: u64,
    /// Streams that have sent their first token.
    decoding_streams: u32,
    /// Prompt and generated tokens of all requests.
    resident_tokens: u64,
}

/// The metrics of an engine, and the part of its load that did not come through this router.
#[derive(Serialize)]
struct EngineView {
    age_seconds: f64,
    running_requests: u32,
    waiting_requests: u32,
    kv_usage: Option<f64>,
    kv_tokens: Option<u64>,
    block_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    cached_prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    external_requests: u32,
    external_waiting_requests: u32,
    external_load: LoadView,
}

impl From<TokenLoad> for LoadView {
    fn from(load: TokenLoad) -> Self {
        Self {
            prefill_tokens: load.prefill.0,
            decoding_streams: load.decoding_streams,
            resident_tokens: load.resident.0,
        }
    }
}

impl EngineView {
    fn new(report: &EngineReport, now: Moment) -> Self {
        let EngineReport { stats, external, received_at, .. } = report;
        let count = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.0);
        Self {
            age_seconds: now.since(*received_at).as_secs_f64(),
            running_requests: stats.running,
            waiting_requests: stats.waiting,
            kv_usage: stats.kv_usage,
            kv_tokens: count(stats.kv_capacity),
            block_tokens: count(stats.block_tokens),
            prompt_tokens: count(stats.prompt_tokens),
            cached_prompt_tokens: count(stats.cached_tokens),
            completion_tokens: count(stats.generated_tokens),
            external_requests: external.requests,
            external_waiting_requests: external.load.waiting_requests,
            external_load: external.load.into(),
        }
    }
}

impl PoolView {
    pub(super) fn new(pool: &Pool, now: Moment) -> Self {
        let members = pool.replicas().zip(&pool.spec().members).zip(pool.member_statuses(now));
        Self {
            pool: pool.name().to_string(),
            policy: pool.spec().policy.to_string(),
            models: pool.models().iter().map(ToString::to_string).collect(),
            replicas: members.map(|((replica, spec), status)| ReplicaView::new(replica, spec, status, now)).collect(),
        }
    }
}

impl ReplicaView {
    fn new(replica: &Arc<Replica>, spec: &MemberSpec, status: MemberStatus, now: Moment) -> Self {
        let state = status.state;
        Self {
            name: replica.name().to_string(),
            url: replica.origin().to_string(),
            state: state.as_str(),
            reason: state_reason(state, replica),
            weight: spec.weight.get(),
            effective_weight: status.weight,
            failures: status.failures,
            in_flight: replica.in_flight(),
            times_chosen: replica.times_chosen(),
            models: match &*replica.models() {
                ReplicaModels::Listed(names) => names.iter().map(ToString::to_string).collect(),
                ReplicaModels::Unlisted | ReplicaModels::Unknown => Vec::new(),
            },
            load: replica.load().into(),
            engine: replica.engine_report(now).map(|report| EngineView::new(&report, now)),
        }
    }
}
