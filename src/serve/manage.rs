//! The admin listener's view of the replicas, and what can be done to them while the router runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::App;
use super::reload::{Reloaded, reload};
use crate::balance::{BadPolicy, Load};
use crate::config;
use crate::eject::Cause;
use crate::fleet::{MemberSpec, Models, Pool, Truth};
use crate::tls::Keyring;
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
    foreign_requests: u32,
    foreign_waiting: u32,
    foreign_tokens: LoadView,
}

/// A replica to add, in the words of the configuration: `http://10.0.0.3:8000 weight=2`.
#[derive(Deserialize)]
struct Addition {
    replica: String,
}

/// What may be set of a member.
#[derive(Deserialize)]
struct Setting {
    weight: u32,
}

/// Why something cannot be done.
enum Trouble {
    Unknown(&'static str),
    Bad(String),
}

impl From<BadPolicy> for Trouble {
    fn from(bad: BadPolicy) -> Self {
        Self::Bad(bad.to_string())
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Unknown(what) => (StatusCode::NOT_FOUND, format!("there is no such {what}")),
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why),
        };
        (status, Json(serde_json::json!({ "error": { "message": message } }))).into_response()
    }
}

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/reload", post(again))
        .route("/pools", get(pools))
        .route("/pools/{pool}", get(one))
        .route("/pools/{pool}/replicas", post(add))
        .route("/pools/{pool}/replicas/{name}", put(set).delete(remove))
        .route("/replicas/{name}/drain", post(drain).delete(undrain))
}

async fn again(State(app): State<Arc<App>>) -> Result<Json<ReloadView>, Trouble> {
    let Reloaded { changes, notes } = reload(&app).await.map_err(Trouble::Bad)?;
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

async fn pools(State(app): State<Arc<App>>) -> Json<Vec<PoolView>> {
    Json(app.fleet.pools().iter().map(|pool| view(&app, pool)).collect())
}

async fn one(State(app): State<Arc<App>>, Path(pool): Path<String>) -> Result<Json<PoolView>, Trouble> {
    let pool = app.fleet.pool(&pool).ok_or(Trouble::Unknown("pool"))?;
    Ok(Json(view(&app, &pool)))
}

/// Adds a replica until the next reload, whose file then has the word.
async fn add(
    State(app): State<Arc<App>>,
    Path(pool): Path<String>,
    Json(addition): Json<Addition>,
) -> Result<Json<PoolView>, Trouble> {
    let mut member = member(&addition.replica)?;
    if member.lookup.is_some() {
        return Err(Trouble::Bad("names with `resolve` belong in the file".to_owned()));
    }
    let tls = app.fleet.pool(&pool).ok_or(Trouble::Unknown("pool"))?.spec().tls.clone();
    member.origin.verify_by(&tls);
    if member.origin.tls().is_some() {
        let mut keyring = Keyring::clone(&app.keyring.load());
        keyring.learn(&tls.trust).map_err(|bad| Trouble::Bad(format!("{bad}; {}", bad.help)))?;
        app.keyring.store(keyring.into());
    }
    edit(&app, &pool, |members| {
        if members.iter().any(|m| m.name == member.name || m.origin == member.origin) {
            return Err(Trouble::Bad("the pool has this replica already".to_owned()));
        }
        members.push(member);
        Ok(())
    })
}

async fn remove(
    State(app): State<Arc<App>>,
    Path((pool, name)): Path<(String, String)>,
) -> Result<Json<PoolView>, Trouble> {
    edit(&app, &pool, |members| {
        let at = members.iter().position(|m| *m.name == *name).ok_or(Trouble::Unknown("replica"))?;
        if members.len() == 1 {
            return Err(Trouble::Bad("a pool needs a replica: drain this one instead".to_owned()));
        }
        members.remove(at);
        Ok(())
    })
}

async fn set(
    State(app): State<Arc<App>>,
    Path((pool, name)): Path<(String, String)>,
    Json(setting): Json<Setting>,
) -> Result<Json<PoolView>, Trouble> {
    let weight = Weight::new(setting.weight).filter(|weight| weight.get() <= 65_535);
    let weight = weight.ok_or_else(|| Trouble::Bad("a weight is from 1 to 65535".to_owned()))?;
    edit(&app, &pool, |members| {
        let member = members.iter_mut().find(|m| *m.name == *name).ok_or(Trouble::Unknown("replica"))?;
        member.weight = weight;
        Ok(())
    })
}

async fn drain(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Vec<PoolView>>, Trouble> {
    keep_away(&app, &name, true)
}

async fn undrain(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Vec<PoolView>>, Trouble> {
    keep_away(&app, &name, false)
}

/// Keeps new requests away from a replica, in every pool that has it; answers with those pools.
fn keep_away(app: &App, name: &str, drained: bool) -> Result<Json<Vec<PoolView>>, Trouble> {
    let replicas = app.fleet.replicas();
    let replica = replicas.iter().find(|r| &**r.name() == name).ok_or(Trouble::Unknown("replica"))?;
    replica.drain(drained);
    let pools = app.fleet.pools();
    let having = pools.iter().filter(|pool| pool.replicas().any(|r| r.id() == replica.id()));
    Ok(Json(having.map(|pool| view(app, pool)).collect()))
}

fn edit(
    app: &App,
    pool: &str,
    change: impl FnOnce(&mut Vec<MemberSpec>) -> Result<(), Trouble>,
) -> Result<Json<PoolView>, Trouble> {
    app.fleet.edit(pool, |spec| change(&mut spec.members)).ok_or(Trouble::Unknown("pool"))??;
    app.changed.notify_one();
    let pool = app.fleet.pool(pool).ok_or(Trouble::Unknown("pool"))?;
    Ok(Json(view(app, &pool)))
}

fn member(words: &str) -> Result<MemberSpec, Trouble> {
    let loaded = config::from_urls(&[words.to_owned()], []).map_err(|report| Trouble::Bad(report.to_string()))?;
    let members = loaded.settings.pools.into_iter().flat_map(|pool| pool.members);
    members.last().ok_or_else(|| Trouble::Bad("no replica was named".to_owned()))
}

impl From<Load> for LoadView {
    fn from(load: Load) -> Self {
        Self { prefill: load.prefill.0, decoding: load.decoding, resident: load.resident.0 }
    }
}

impl EngineView {
    fn new(truth: &Truth, now: Moment) -> Self {
        let Truth { vitals, foreign, at, .. } = truth;
        let count = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.0);
        Self {
            age_seconds: now.since(*at).as_secs_f64(),
            running: vitals.running,
            waiting: vitals.waiting,
            kv_usage: vitals.kv_usage,
            kv_tokens: count(vitals.kv_capacity),
            block_tokens: count(vitals.block),
            prompt_tokens: count(vitals.prompt),
            cached_prompt_tokens: count(vitals.cached),
            completion_tokens: count(vitals.generated),
            foreign_requests: foreign.requests,
            foreign_waiting: foreign.load.waiting,
            foreign_tokens: foreign.load.into(),
        }
    }
}

fn view(app: &App, pool: &Pool) -> PoolView {
    let now = app.clock.now();
    let states = pool.states(now);
    let one =
        |((replica, spec), state): ((&Arc<crate::fleet::Replica>, &MemberSpec), crate::fleet::State)| ReplicaView {
            name: replica.name().to_string(),
            url: replica.origin().to_string(),
            state: state.as_str(),
            reason: state.cause().map(Cause::as_str),
            weight: spec.weight.get(),
            in_flight: replica.in_flight(),
            chosen: replica.chosen(),
            models: match &*replica.models() {
                Models::Listed(names) => names.iter().map(ToString::to_string).collect(),
                Models::Unlisted | Models::Unknown => Vec::new(),
            },
            tokens: replica.load().into(),
            engine: replica.truth(now).map(|truth| EngineView::new(&truth, now)),
        };
    PoolView {
        pool: pool.name().to_string(),
        policy: pool.spec().policy.to_string(),
        models: pool.models().iter().map(ToString::to_string).collect(),
        replicas: pool.replicas().zip(&pool.spec().members).zip(states).map(one).collect(),
    }
}
