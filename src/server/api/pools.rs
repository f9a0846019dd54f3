//! The admin listener's view of the replicas, and what can be done to them while the router runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::balance::{PolicyError, TokenLoad};
use crate::config;
use crate::eject::EjectCause;
use crate::fleet::{EngineReport, MemberSpec, Pool, ReplicaModels};
use crate::server::AppState;
use crate::server::reload::{ReloadReport, reload};
use crate::tls::TlsStore;
use crate::units::{Moment, Tokens, Weight};

/// A pool as it is now.
#[derive(Serialize)]
struct PoolView {
    pool: String,
    policy: String,
    models: Vec<String>,
    replicas: Vec<ReplicaView>,
}

/// What a reload has changed.
#[derive(Serialize)]
struct ReloadView {
    /// All of it for people, as the error log has it.
    changed: String,
    pools_added: Vec<String>,
    pools_changed: Vec<String>,
    pools_removed: Vec<String>,
    replicas_added: Vec<String>,
    replicas_removed: Vec<String>,
    /// Pools that go by a key, each with the share of keys that have another replica now, from 0 to 1.
    keys_moved: BTreeMap<String, f64>,
    /// What takes effect after a restart, and warnings.
    notes: Vec<String>,
}

/// A replica as a member of a pool.
#[derive(Serialize)]
struct ReplicaView {
    name: String,
    url: String,
    state: &'static str,
    /// What it is left alone for: `refused`, `failed`, `stalled` or `check`.
    reason: Option<&'static str>,
    weight: u32,
    in_flight: u32,
    chosen: u64,
    models: Vec<String>,
    /// Of the requests in flight.
    tokens: LoadView,
    /// `None` where its engine has not told of itself lately.
    engine: Option<EngineView>,
}

/// The token ledger of one replica.
#[derive(Serialize)]
struct LoadView {
    /// Prompt tokens of requests without a first token yet.
    prefill: u64,
    /// Streams that have had theirs.
    decoding: u32,
    /// Prompt and generated tokens of all requests.
    resident: u64,
}

/// What an engine says of itself, and what of it did not come through here.
#[derive(Serialize)]
struct EngineView {
    age_seconds: f64,
    running: u32,
    waiting: u32,
    kv_usage: Option<f64>,
    kv_tokens: Option<u64>,
    block_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    cached_prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    external_requests: u32,
    external_waiting: u32,
    external_tokens: LoadView,
}

/// A replica to add, in the words of the configuration: `http://10.0.0.3:8000 weight=2`.
#[derive(Deserialize)]
struct AddReplica {
    replica: String,
}

/// What may be set of a member.
#[derive(Deserialize)]
struct SetWeight {
    weight: u32,
}

/// Why something cannot be done.
enum AdminError {
    NotFound(&'static str),
    Invalid(String),
}

impl From<PolicyError> for AdminError {
    fn from(bad: PolicyError) -> Self {
        Self::Invalid(bad.to_string())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::NotFound(what) => (StatusCode::NOT_FOUND, format!("there is no such {what}")),
            Self::Invalid(why) => (StatusCode::BAD_REQUEST, why),
        };
        (status, Json(serde_json::json!({ "error": { "message": message } }))).into_response()
    }
}

/// The paths of this file.
pub(in crate::server) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/reload", post(post_reload))
        .route("/pools", get(list_pools))
        .route("/pools/{pool}", get(get_pool))
        .route("/pools/{pool}/replicas", post(add_replica))
        .route("/pools/{pool}/replicas/{name}", put(set_weight).delete(remove_replica))
        .route("/replicas/{name}/drain", post(drain_replica).delete(undrain_replica))
}

async fn post_reload(State(app): State<Arc<AppState>>) -> Result<Json<ReloadView>, AdminError> {
    let ReloadReport { changes, notes } = reload(&app).await.map_err(AdminError::Invalid)?;
    let text = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect();
    Ok(Json(ReloadView {
        changed: changes.to_string(),
        pools_added: text(&changes.pools_added),
        pools_changed: text(&changes.pools_changed),
        pools_removed: text(&changes.pools_removed),
        replicas_added: text(&changes.replicas_added),
        replicas_removed: text(&changes.replicas_removed),
        keys_moved: changes.keys_moved.iter().map(|(pool, share)| (pool.to_string(), *share)).collect(),
        notes,
    }))
}

async fn list_pools(State(app): State<Arc<AppState>>) -> Json<Vec<PoolView>> {
    Json(app.fleet.pools().iter().map(|pool| pool_view(&app, pool)).collect())
}

async fn get_pool(State(app): State<Arc<AppState>>, Path(pool): Path<String>) -> Result<Json<PoolView>, AdminError> {
    let pool = app.fleet.pool(&pool).ok_or(AdminError::NotFound("pool"))?;
    Ok(Json(pool_view(&app, &pool)))
}

/// Adds a replica until the next reload, whose file then has the word.
async fn add_replica(
    State(app): State<Arc<AppState>>,
    Path(pool): Path<String>,
    Json(addition): Json<AddReplica>,
) -> Result<Json<PoolView>, AdminError> {
    let mut member = parse_replica(&addition.replica)?;
    if member.dns_lookup.is_some() {
        return Err(AdminError::Invalid("names with `resolve` belong in the file".to_owned()));
    }
    let tls = app.fleet.pool(&pool).ok_or(AdminError::NotFound("pool"))?.spec().tls.clone();
    member.origin.set_tls(&tls);
    if member.origin.tls().is_some() {
        let mut keyring = TlsStore::clone(&app.tls_store.load());
        keyring.add_trust(&tls.trust_roots).map_err(|bad| AdminError::Invalid(format!("{bad}; {}", bad.help)))?;
        app.tls_store.store(keyring.into());
    }
    edit_pool(&app, &pool, |members| {
        if members.iter().any(|m| m.name == member.name || m.origin == member.origin) {
            return Err(AdminError::Invalid("the pool has this replica already".to_owned()));
        }
        members.push(member);
        Ok(())
    })
}

async fn remove_replica(
    State(app): State<Arc<AppState>>,
    Path((pool, name)): Path<(String, String)>,
) -> Result<Json<PoolView>, AdminError> {
    edit_pool(&app, &pool, |members| {
        let at = members.iter().position(|m| *m.name == *name).ok_or(AdminError::NotFound("replica"))?;
        if members.len() == 1 {
            return Err(AdminError::Invalid("a pool needs a replica: drain this one instead".to_owned()));
        }
        members.remove(at);
        Ok(())
    })
}

async fn set_weight(
    State(app): State<Arc<AppState>>,
    Path((pool, name)): Path<(String, String)>,
    Json(setting): Json<SetWeight>,
) -> Result<Json<PoolView>, AdminError> {
    let weight = Weight::new(setting.weight).filter(|weight| weight.get() <= 65_535);
    let weight = weight.ok_or_else(|| AdminError::Invalid("a weight is from 1 to 65535".to_owned()))?;
    edit_pool(&app, &pool, |members| {
        let member = members.iter_mut().find(|m| *m.name == *name).ok_or(AdminError::NotFound("replica"))?;
        member.weight = weight;
        Ok(())
    })
}

async fn drain_replica(
    State(app): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<PoolView>>, AdminError> {
    set_drained(&app, &name, true)
}

async fn undrain_replica(
    State(app): State<Arc<AppState>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<PoolView>>, AdminError> {
    set_drained(&app, &name, false)
}

/// Keeps new requests away from a replica, in every pool that has it; answers with those pools.
fn set_drained(app: &AppState, name: &str, drained: bool) -> Result<Json<Vec<PoolView>>, AdminError> {
    let replicas = app.fleet.replicas();
    let replica = replicas.iter().find(|r| &**r.name() == name).ok_or(AdminError::NotFound("replica"))?;
    replica.set_drained(drained);
    let pools = app.fleet.pools();
    let having = pools.iter().filter(|pool| pool.replicas().any(|r| r.id() == replica.id()));
    Ok(Json(having.map(|pool| pool_view(app, pool)).collect()))
}

fn edit_pool(
    app: &AppState,
    pool: &str,
    change: impl FnOnce(&mut Vec<MemberSpec>) -> Result<(), AdminError>,
) -> Result<Json<PoolView>, AdminError> {
    app.fleet.edit_pool(pool, |spec| change(&mut spec.members)).ok_or(AdminError::NotFound("pool"))??;
    app.control.replicas_changed.notify_one();
    let pool = app.fleet.pool(pool).ok_or(AdminError::NotFound("pool"))?;
    Ok(Json(pool_view(app, &pool)))
}

fn parse_replica(words: &str) -> Result<MemberSpec, AdminError> {
    let loaded =
        config::from_urls(&[words.to_owned()], []).map_err(|report| AdminError::Invalid(report.to_string()))?;
    let members = loaded.settings.pools.into_iter().flat_map(|pool| pool.members);
    members.last().ok_or_else(|| AdminError::Invalid("no replica was named".to_owned()))
}

impl From<TokenLoad> for LoadView {
    fn from(load: TokenLoad) -> Self {
        Self { prefill: load.prefill.0, decoding: load.decoding_streams, resident: load.resident.0 }
    }
}

impl EngineView {
    fn new(truth: &EngineReport, now: Moment) -> Self {
        let EngineReport { stats: vitals, external: foreign, received_at: at, .. } = truth;
        let count = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.0);
        Self {
            age_seconds: now.since(*at).as_secs_f64(),
            running: vitals.running,
            waiting: vitals.waiting,
            kv_usage: vitals.kv_usage,
            kv_tokens: count(vitals.kv_capacity),
            block_tokens: count(vitals.block_tokens),
            prompt_tokens: count(vitals.prompt_tokens),
            cached_prompt_tokens: count(vitals.cached_tokens),
            completion_tokens: count(vitals.generated_tokens),
            external_requests: foreign.requests,
            external_waiting: foreign.load.waiting_requests,
            external_tokens: foreign.load.into(),
        }
    }
}

fn pool_view(app: &AppState, pool: &Pool) -> PoolView {
    let now = app.clock.now();
    let states = pool.member_states(now);
    let one = |((replica, spec), state): ((&Arc<crate::fleet::Replica>, &MemberSpec), crate::fleet::MemberState)| {
        ReplicaView {
            name: replica.name().to_string(),
            url: replica.origin().to_string(),
            state: state.as_str(),
            reason: state.ejection_cause().map(EjectCause::as_str),
            weight: spec.weight.get(),
            in_flight: replica.in_flight(),
            chosen: replica.times_chosen(),
            models: match &*replica.models() {
                ReplicaModels::Listed(names) => names.iter().map(ToString::to_string).collect(),
                ReplicaModels::Unlisted | ReplicaModels::Unknown => Vec::new(),
            },
            tokens: replica.load().into(),
            engine: replica.engine_report(now).map(|truth| EngineView::new(&truth, now)),
        }
    };
    PoolView {
        pool: pool.name().to_string(),
        policy: pool.spec().policy.to_string(),
        models: pool.models().iter().map(ToString::to_string).collect(),
        replicas: pool.replicas().zip(&pool.spec().members).zip(states).map(one).collect(),
    }
}
