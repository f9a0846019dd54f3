//! The messages of the feed as JSON. Rows are arrays, whose members are named once in `meta`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::recent_requests::REQUEST_FIELDS;
use super::rounded::rounded;
use super::window::Counts;
use crate::balance::{self, PolicyEntry};
use crate::fleet::{MemberState, MemberStatus, Outcome, Pool, Replica};
use crate::routes::ListenAddr;
use crate::server::AppState;
use crate::units::Moment;

/// The members of a replica's row, in order.
const REPLICA_FIELDS: [&str; 21] = [
    "state",
    "reason",
    "since",
    "weight",
    "in_flight",
    "prefill_tokens",
    "decoding",
    "resident_tokens",
    "kv_tokens",
    "prompt_tokens_per_second",
    "generated_tokens_per_second",
    "ttft_p50",
    "ttft_p95",
    "believed_hits",
    "reported_hits",
    "external_requests",
    "external_tokens",
    "failures",
    "ejected_until",
    "prefill_slowdown",
    "decode_slowdown",
];

/// The figures of one replica in one pool.
pub(super) struct ReplicaFigures<'a> {
    pub(super) replica: &'a Replica,
    pub(super) status: MemberStatus,
    /// The Unix time since which it has its state.
    pub(super) since: u64,
    /// Prompt tokens and generated tokens per second.
    pub(super) token_rates: (f64, f64),
    /// Of the last seconds, for quantiles.
    pub(super) recent: Counts,
    /// Of the last minute.
    pub(super) minute: Counts,
}

/// What the shadow policy of a pool did in the last minute.
#[derive(Clone, Copy, Default)]
pub(super) struct ShadowFigures {
    pub(super) other_share: Option<f64>,
    pub(super) cached_share: Option<f64>,
    pub(super) shadow_cached_share: Option<f64>,
}

/// Returns the message `meta`: what seldom changes.
pub(super) fn build_meta(app: &AppState) -> String {
    let settings = app.settings();
    let has_free_port = |address: &ListenAddr| address.socket_addr().is_some_and(|address| address.port() == 0);
    let bound = app.control.bound_addresses.get().filter(|_| settings.listen.iter().any(has_free_port));
    let listen: Vec<String> = bound.unwrap_or(&settings.listen).iter().map(ToString::to_string).collect();
    let example =
        |entry: &PolicyEntry| format!("{} {}", entry.name, entry.samples.first().unwrap_or(&"")).trim().to_owned();
    let policies = balance::policy_table().iter().map(example);
    let pools: Vec<Value> = app.fleet.pools().iter().map(pool_meta).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": app.start_time.as_secs(),
        "listen": listen,
        "needs_login": settings.admin_access.token.is_some(),
        "has_keys": !settings.tenants.is_empty(),
        "explain": app.logs.decisions.capacity(),
        "record": app.logs.recorder.is_some(),
        "reloadable": app.control.config_source.get().is_some(),
        "policies": policies.collect::<Vec<_>>(),
        "replica_fields": REPLICA_FIELDS,
        "request_fields": REQUEST_FIELDS,
        "pools": pools,
    })
    .to_string()
}

fn pool_meta(pool: &Arc<Pool>) -> Value {
    let spec = pool.spec();
    let members = pool.replicas().zip(&spec.members).map(|(replica, member)| {
        json!({
            "name": &**replica.name(),
            "url": replica.origin().to_string(),
            "weight": member.weight.get(),
            "backup": member.backup,
        })
    });
    json!({
        "name": &**pool.name(),
        "policy": spec.policy.to_string(),
        "shadow": spec.shadow.as_ref().map(ToString::to_string),
        "models": pool.models().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "replicas": members.collect::<Vec<_>>(),
    })
}

/// Returns the member `router` of the message `second`; `recent` was counted in the last `seconds`, and the sums in the
/// last second and the last minute.
pub(super) fn router_json(
    recent: &Counts,
    seconds: f64,
    [second, minute]: &[Counts; 2],
    totals: RouterTotals,
) -> Value {
    json!({
        "requests_per_second": rounded(recent.requests() as f64 / seconds, 1),
        "prompt_tokens_per_second": rounded(totals.prompt_rate, 1),
        "generated_tokens_per_second": rounded(totals.generated_rate, 1),
        "in_flight": totals.in_flight,
        "ttft_p50": quantile(recent, 0.5),
        "ttft_p95": quantile(recent, 0.95),
        "ttft_p99": quantile(recent, 0.99),
        "errors_per_minute": minute.errors(),
        "cached_share": optional(minute.cached_share(), 3),
        "outcomes": outcomes_json(second),
    })
}

/// Sums over all replicas.
#[derive(Clone, Copy, Default)]
pub(super) struct RouterTotals {
    pub(super) prompt_rate: f64,
    pub(super) generated_rate: f64,
    pub(super) in_flight: u32,
}

/// Returns a pool of the message `second`.
pub(super) fn pool_json(
    replicas: &[ReplicaFigures<'_>],
    shadow: Option<ShadowFigures>,
    app: &AppState,
    now: Moment,
) -> Value {
    let (state, reason) = pool_state(replicas);
    let waiting: u32 = replicas.iter().map(|figures| figures.replica.load().waiting_requests).sum();
    let shadow = shadow.map(|shadow| {
        json!({
            "other_share": optional(shadow.other_share, 3),
            "cached_share": optional(shadow.cached_share, 3),
            "shadow_cached_share": optional(shadow.shadow_cached_share, 3),
        })
    });
    json!({
        "state": state,
        "reason": reason,
        "imbalance": optional(imbalance(replicas), 2),
        "waiting": waiting,
        "shadow": shadow,
        "replicas": replicas.iter().map(|figures| figures.to_row(app, now)).collect::<Vec<_>>(),
    })
}

impl ReplicaFigures<'_> {
    /// Returns the row by [`REPLICA_FIELDS`].
    fn to_row(&self, app: &AppState, now: Moment) -> Value {
        let (replica, status) = (self.replica, &self.status);
        let load = replica.load();
        let report = replica.engine_report(now);
        let external = report.as_ref().map(|report| (report.external.requests, report.external.load.resident.0));
        let until = status.ejected_until.map(|until| (app.clock.unix_time() + until.since(now)).as_secs());
        json!([
            status.state.as_str(),
            state_reason(status.state, replica),
            self.since,
            rounded(status.weight, 3),
            replica.in_flight(),
            load.prefill.0,
            load.decoding_streams,
            load.resident.0,
            report.as_ref().and_then(|report| report.stats.kv_capacity).map(|tokens| tokens.0),
            rounded(self.token_rates.0, 1),
            rounded(self.token_rates.1, 1),
            quantile(&self.recent, 0.5),
            quantile(&self.recent, 0.95),
            optional(self.minute.estimated_cached_share(), 3),
            optional(self.minute.cached_share(), 3),
            external.map(|(requests, _)| requests),
            external.map(|(_, tokens)| tokens),
            status.failures,
            until,
            rounded(status.prefill_slowdown, 2),
            rounded(status.decode_slowdown, 2),
        ])
    }
}

/// Returns the busiest replica's resident tokens over the mean of those in service; `None` without tokens.
fn imbalance(replicas: &[ReplicaFigures<'_>]) -> Option<f64> {
    let in_service =
        replicas.iter().filter(|figures| matches!(figures.status.state, MemberState::Admitted | MemberState::Busy));
    let resident: Vec<u64> = in_service.map(|figures| figures.replica.load().resident.0).collect();
    let (sum, max) = (resident.iter().sum::<u64>(), resident.iter().max()?);
    (sum > 0).then(|| *max as f64 * resident.len() as f64 / sum as f64)
}

/// Returns the state of a pool, and why it is not `ok`.
fn pool_state(replicas: &[ReplicaFigures<'_>]) -> (&'static str, Option<String>) {
    let gets_requests = |state| matches!(state, MemberState::Admitted | MemberState::Busy | MemberState::Probing);
    let can_serve = replicas.iter().filter(|figures| gets_requests(figures.status.state)).count();
    let is_wanted = |state| {
        !matches!(state, MemberState::Admitted | MemberState::Down | MemberState::Drained | MemberState::Draining)
    };
    let troubled: Vec<&ReplicaFigures<'_>> =
        replicas.iter().filter(|figures| is_wanted(figures.status.state)).collect();
    let names =
        troubled.iter().take(3).map(|figures| format!("{} {}", figures.replica.name(), figures.status.state.as_str()));
    let mut reason = names.collect::<Vec<_>>().join(", ");
    if troubled.len() > 3 {
        reason += &format!(" and {} more", troubled.len() - 3);
    }
    match (can_serve, troubled.is_empty()) {
        (0, true) => ("down", Some("no replica is in service".to_owned())),
        (0, false) => ("down", Some(reason)),
        (_, false) => ("degraded", Some(reason)),
        (_, true) => ("ok", None),
    }
}

/// Returns why a replica is in its state: the cause of an ejection, or the fault of its list of models.
pub(in crate::server) fn state_reason(state: MemberState, replica: &Replica) -> Option<String> {
    match state {
        MemberState::NotReady => replica.model_list_fault().map(|fault| fault.to_string()),
        state => state.ejection_cause().map(|cause| cause.as_str().to_owned()),
    }
}

pub(super) fn outcomes_json(counts: &Counts) -> Map<String, Value> {
    let counts = Outcome::ALL.iter().zip(counts.outcomes);
    counts.map(|(outcome, count)| (outcome.as_str().to_owned(), count.into())).collect()
}

fn quantile(counts: &Counts, quantile: f64) -> Value {
    optional(counts.ttft_quantile(quantile), 3)
}

fn optional(value: Option<f64>, digits: i32) -> Value {
    value.map_or(Value::Null, |value| rounded(value, digits))
}
