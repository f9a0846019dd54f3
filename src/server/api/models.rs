//! `/v1/models`: the models that the client may use, from all pools of its virtual host.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::RequestScope;
use crate::fleet::{Pool, PoolLookupError};
use crate::server::{AppState, RequestError};
use crate::units::ModelName;

#[derive(Serialize)]
struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

#[derive(Serialize)]
struct ModelListResponse {
    object: &'static str,
    data: Vec<ModelObject>,
}

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/models", get(list_models)).route("/v1/models/{*id}", get(get_model))
}

async fn list_models(
    State(app): State<Arc<AppState>>,
    Extension(scope): Extension<RequestScope>,
) -> Json<ModelListResponse> {
    let data = visible_models(&scope).into_iter().map(|(name, pool)| model_object(&app, &name, &pool)).collect();
    Json(ModelListResponse { object: "list", data })
}

async fn get_model(
    State(app): State<Arc<AppState>>,
    Extension(scope): Extension<RequestScope>,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, RequestError> {
    let find = || visible_models(&scope).into_iter().find(|(name, _)| name.as_str() == id);
    let mut found = find();
    if found.is_none() && scope.virtual_host.as_ref().is_some_and(|host| host.learns_models()) {
        app.control.model_refresh.refresh_all(app.clock.now()).await;
        found = find();
    }
    match found {
        Some((name, pool)) => Ok(Json(model_object(&app, &name, &pool))),
        None => Err(RequestError::from_lookup(PoolLookupError::UnknownModel, Some(&id))),
    }
}

/// Returns each model that the client may use, with the name of the first pool that has it, sorted by name.
fn visible_models(scope: &RequestScope) -> Vec<(ModelName, Arc<str>)> {
    let pools = scope.virtual_host.as_ref().map(|host| host.pools()).unwrap_or_default();
    let models_of = |pool: &Arc<Pool>| {
        let name = pool.name().clone();
        pool.models().into_iter().map(move |model| (model, name.clone()))
    };
    let mut models: Vec<_> = pools.iter().flat_map(models_of).collect();
    models.retain(|(name, _)| scope.tenant.as_ref().is_none_or(|tenant| tenant.can_use_model(name.as_str())));
    models.sort_by(|(a, _), (b, _)| a.cmp(b));
    models.dedup_by(|(a, _), (b, _)| a == b);
    models
}

fn model_object(app: &AppState, name: &ModelName, pool: &str) -> ModelObject {
    ModelObject { id: name.to_string(), object: "model", created: app.start_time.as_secs(), owned_by: pool.to_owned() }
}
