//! The admin listener's view of the replicas, and what can be done to them while the router runs.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::App;
use super::reload::reload;
use crate::balance::BadPolicy;
use crate::config;
use crate::fleet::{MemberSpec, Models, Pool};
use crate::tls::Keyring;
use crate::units::Weight;

/// A pool as it is now.
#[derive(Serialize)]
struct PoolView {
    pool: String,
    policy: String,
    models: Vec<String>,
    replicas: Vec<ReplicaView>,
}

/// A replica as a member of a pool.
#[derive(Serialize)]
struct ReplicaView {
    name: String,
    url: String,
    state: &'static str,
    weight: u32,
    in_flight: u32,
    chosen: u64,
    models: Vec<String>,
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

async fn again(State(app): State<Arc<App>>) -> Result<String, Trouble> {
    reload(&app).await.map(|changes| format!("{changes}\n")).map_err(Trouble::Bad)
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
    let weight = Weight::new(setting.weight).ok_or_else(|| Trouble::Bad("a weight is at least 1".to_owned()))?;
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

fn view(app: &App, pool: &Pool) -> PoolView {
    let states = pool.states(app.clock.now());
    let one =
        |((replica, spec), state): ((&Arc<crate::fleet::Replica>, &MemberSpec), crate::fleet::State)| ReplicaView {
            name: replica.name().to_string(),
            url: replica.origin().to_string(),
            state: state.as_str(),
            weight: spec.weight.get(),
            in_flight: replica.in_flight(),
            chosen: replica.chosen(),
            models: match &*replica.models() {
                Models::Listed(names) => names.iter().map(ToString::to_string).collect(),
                Models::Unlisted | Models::Unknown => Vec::new(),
            },
        };
    PoolView {
        pool: pool.name().to_string(),
        policy: pool.spec().policy.to_string(),
        models: pool.models().iter().map(ToString::to_string).collect(),
        replicas: pool.replicas().zip(&pool.spec().members).zip(states).map(one).collect(),
    }
}
