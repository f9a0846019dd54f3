//! `/pools`, `/replicas` and `/reload` on the admin listener: the state of the replicas, and changes to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::pool_view::PoolView;
use crate::balance::{PolicyError, PolicySpec};
use crate::config;
use crate::fleet::{MemberSpec, PoolSpec};
use crate::server::AppState;
use crate::server::reload::{ReloadReport, reload};
use crate::tls::TlsStore;
use crate::units::Weight;

/// The changes of a reload.
#[derive(Serialize)]
struct ReloadView {
    /// All changes as text, as the error log has them.
    changed: String,
    pools_added: Vec<String>,
    pools_changed: Vec<String>,
    pools_removed: Vec<String>,
    replicas_added: Vec<String>,
    replicas_removed: Vec<String>,
    /// For each pool with a hash key, the share of keys that have moved to another replica, from 0 to 1.
    keys_moved: BTreeMap<String, f64>,
    /// Lines of routes as `check --routes` has them, each after `+` if it is new, after `-` if it is gone.
    routes_changed: Vec<String>,
    /// Warnings, and changes that take effect after a restart.
    notes: Vec<String>,
}

/// A replica to add, as the configuration writes it: `http://10.0.0.3:8000 weight=2`.
#[derive(Deserialize)]
struct AddReplica {
    replica: String,
}

/// The changes of a member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditMember {
    weight: Option<u32>,
    down: Option<bool>,
}

/// The policy to use until the next reload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPolicy {
    policy: String,
}

/// The reasons for which an admin request fails.
enum AdminError {
    NotFound(&'static str),
    Invalid(String),
}

impl From<PolicyError> for AdminError {
    fn from(error: PolicyError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::NotFound(kind) => (StatusCode::NOT_FOUND, format!("there is no such {kind}")),
            Self::Invalid(reason) => (StatusCode::BAD_REQUEST, reason),
        };
        (status, Json(serde_json::json!({ "error": { "message": message } }))).into_response()
    }
}

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/reload", post(post_reload))
        .route("/pools", get(list_pools))
        .route("/pools/{pool}", get(get_pool))
        .route("/pools/{pool}/policy", put(set_policy))
        .route("/pools/{pool}/replicas", post(add_replica))
        .route("/pools/{pool}/replicas/{name}", put(edit_member).delete(remove_replica))
        .route("/replicas/{name}/drain", post(drain_replica).delete(undrain_replica))
}

async fn post_reload(State(app): State<Arc<AppState>>) -> Result<Json<ReloadView>, AdminError> {
    let report = reload(&app).await.map_err(AdminError::Invalid)?;
    let changed = report.changes_text();
    let ReloadReport { changes, route_changes, notes } = report;
    let to_text = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect();
    Ok(Json(ReloadView {
        changed,
        pools_added: to_text(&changes.pools_added),
        pools_changed: to_text(&changes.pools_changed),
        pools_removed: to_text(&changes.pools_removed),
        replicas_added: to_text(&changes.replicas_added),
        replicas_removed: to_text(&changes.replicas_removed),
        keys_moved: changes.keys_moved.iter().map(|(pool, share)| (pool.to_string(), *share)).collect(),
        routes_changed: route_changes,
        notes,
    }))
}

async fn list_pools(State(app): State<Arc<AppState>>) -> Json<Vec<PoolView>> {
    let now = app.clock.now();
    Json(app.fleet.pools().iter().map(|pool| PoolView::new(pool, now)).collect())
}

async fn get_pool(State(app): State<Arc<AppState>>, Path(pool): Path<String>) -> Result<Json<PoolView>, AdminError> {
    let pool = app.fleet.pool(&pool).ok_or(AdminError::NotFound("pool"))?;
    Ok(Json(PoolView::new(&pool, app.clock.now())))
}

/// Adds a replica. The next reload removes it unless the file has it too.
///
/// *Errors*: the pool is unknown, or the replica is invalid.
async fn add_replica(
    State(app): State<Arc<AppState>>,
    Path(pool): Path<String>,
    Json(addition): Json<AddReplica>,
) -> Result<Json<PoolView>, AdminError> {
    let mut member = parse_replica(&addition.replica)?;
    if member.dns_lookup.is_some() {
        return Err(AdminError::Invalid(
            "a replica with `resolve` can only be added in the configuration file".to_owned(),
        ));
    }
    let tls = app.fleet.pool(&pool).ok_or(AdminError::NotFound("pool"))?.spec().tls.clone();
    member.origin.set_tls(&tls);
    if member.origin.tls().is_some() {
        let mut tls_store = TlsStore::clone(&app.tls_store.load());
        tls_store
            .add_trust(&tls.trust_roots)
            .map_err(|error| AdminError::Invalid(format!("{error}; {}", error.help)))?;
        app.tls_store.store(tls_store.into());
    }
    edit_pool(&app, &pool, |spec| {
        let members = &mut spec.members;
        if members.iter().any(|m| m.name == member.name || m.origin == member.origin) {
            return Err(AdminError::Invalid("the pool already has this replica".to_owned()));
        }
        members.push(member);
        Ok(())
    })
}

async fn remove_replica(
    State(app): State<Arc<AppState>>,
    Path((pool, name)): Path<(String, String)>,
) -> Result<Json<PoolView>, AdminError> {
    edit_pool(&app, &pool, |spec| {
        let members = &mut spec.members;
        let index = members.iter().position(|m| *m.name == *name).ok_or(AdminError::NotFound("replica"))?;
        if members.len() == 1 {
            return Err(AdminError::Invalid(
                "the last replica of a pool cannot be removed; drain it instead".to_owned(),
            ));
        }
        members.remove(index);
        Ok(())
    })
}

/// Sets a member's weight, or takes it out of service or back.
///
/// *Errors*: the pool or the replica is unknown, or the weight is out of range.
async fn edit_member(
    State(app): State<Arc<AppState>>,
    Path((pool, name)): Path<(String, String)>,
    Json(edit): Json<EditMember>,
) -> Result<Json<PoolView>, AdminError> {
    let weight = match edit.weight {
        Some(weight) => {
            let weight = Weight::new(weight).filter(|weight| weight.get() <= 65_535);
            Some(weight.ok_or_else(|| AdminError::Invalid("a weight must be from 1 to 65535".to_owned()))?)
        }
        None => None,
    };
    edit_pool(&app, &pool, |spec| {
        let member = spec.members.iter_mut().find(|m| *m.name == *name).ok_or(AdminError::NotFound("replica"))?;
        member.weight = weight.unwrap_or(member.weight);
        member.down = edit.down.unwrap_or(member.down);
        Ok(())
    })
}

/// Sets a pool's policy until the next reload.
///
/// *Errors*: the pool or the policy is unknown.
async fn set_policy(
    State(app): State<Arc<AppState>>,
    Path(pool): Path<String>,
    Json(setting): Json<SetPolicy>,
) -> Result<Json<PoolView>, AdminError> {
    let policy = PolicySpec::parse(&setting.policy)?;
    edit_pool(&app, &pool, |spec| {
        spec.policy = policy;
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

/// Starts or ends the drain of a replica in every pool that has it; returns those pools.
///
/// *Errors*: the replica is unknown.
fn set_drained(app: &AppState, name: &str, drained: bool) -> Result<Json<Vec<PoolView>>, AdminError> {
    let replicas = app.fleet.replicas();
    let replica = replicas.iter().find(|r| &**r.name() == name).ok_or(AdminError::NotFound("replica"))?;
    replica.set_drained(drained);
    let (pools, now) = (app.fleet.pools(), app.clock.now());
    let members_of = pools.iter().filter(|pool| pool.replicas().any(|r| r.id() == replica.id()));
    Ok(Json(members_of.map(|pool| PoolView::new(pool, now)).collect()))
}

/// Changes a pool and returns its new state.
///
/// *Errors*: there is no such pool, or `change` fails.
fn edit_pool(
    app: &AppState,
    pool: &str,
    change: impl FnOnce(&mut PoolSpec) -> Result<(), AdminError>,
) -> Result<Json<PoolView>, AdminError> {
    app.fleet.edit_pool(pool, change).ok_or(AdminError::NotFound("pool"))??;
    app.control.replicas_changed.notify_one();
    let pool = app.fleet.pool(pool).ok_or(AdminError::NotFound("pool"))?;
    Ok(Json(PoolView::new(&pool, app.clock.now())))
}

/// Parses a replica as the configuration writes it.
///
/// *Errors*: the text is not a valid replica.
fn parse_replica(text: &str) -> Result<MemberSpec, AdminError> {
    let loaded = config::from_urls(&[text.to_owned()], []).map_err(|report| AdminError::Invalid(report.to_string()))?;
    let members = loaded.settings.pools.into_iter().flat_map(|pool| pool.members);
    members.last().ok_or_else(|| AdminError::Invalid("the request names no replica".to_owned()))
}
