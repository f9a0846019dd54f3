//! What we answer ourselves: models, health, and on the admin listener the metrics.

pub(super) mod admin_listener;
pub(super) mod explain;
pub(super) mod pools;

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::{AppState, RequestError};
use crate::dialect::Dialect;
use crate::fleet::{PoolLookupError, VirtualHost};
use crate::tenants::Tenant;
use crate::units::ModelName;

/// The site a request came in by, and whose key it shows, if there are such.
pub(super) type RequestScope = (Option<Arc<VirtualHost>>, Option<Arc<Tenant>>);

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

/// Our paths on the data listener.
pub(super) fn data_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(get_model))
        .merge(health_routes())
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// Our paths on the admin listener.
pub(super) fn admin_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/metrics", get(get_metrics))
        .merge(pools::routes())
        .merge(explain::routes())
        .merge(health_routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path)
        .with_state(app)
}

fn health_routes() -> Router<Arc<AppState>> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/health", get(readyz))
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        self.to_response(Dialect::Other).map(Into::into)
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means that some pool has a replica that can be chosen, and that the process is not about to stop.
async fn readyz(State(app): State<Arc<AppState>>) -> Response {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let now = app.clock.now();
    if app.fleet.pools().iter().any(|pool| pool.has_eligible(now)) {
        return "ok\n".into_response();
    }
    let why = "no replica is ready: none has answered /v1/models, or all have failed\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn get_metrics(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let text = app.metrics.render(&app.fleet, app.clock.now(), app.logs.dropped_lines());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn list_models(
    State(app): State<Arc<AppState>>,
    Extension(through): Extension<RequestScope>,
) -> Json<ModelListResponse> {
    let data = visible_models(&through).into_iter().map(|(name, pool)| model_object(&app, &name, &pool)).collect();
    Json(ModelListResponse { object: "list", data })
}

async fn get_model(
    State(app): State<Arc<AppState>>,
    Extension(through): Extension<RequestScope>,
    Path(id): Path<String>,
) -> Result<Json<ModelObject>, RequestError> {
    match visible_models(&through).into_iter().find(|(name, _)| name.as_str() == id) {
        Some((name, pool)) => Ok(Json(model_object(&app, &name, &pool))),
        None => Err(RequestError::from((PoolLookupError::UnknownModel, Some(id.as_str())))),
    }
}

/// Every model of the site that may be asked for with its pool, the first pool's where several have it; sorted by name.
fn visible_models((site, tenant): &RequestScope) -> Vec<(ModelName, Arc<str>)> {
    let pools = site.as_ref().map(|site| site.pools()).unwrap_or_default();
    let each = |pool: &Arc<crate::fleet::Pool>| {
        let name = pool.name().clone();
        pool.models().into_iter().map(move |model| (model, name.clone()))
    };
    let mut names: Vec<_> = pools.iter().flat_map(each).collect();
    names.retain(|(name, _)| tenant.as_ref().is_none_or(|tenant| tenant.can_use_model(name.as_str())));
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    names.dedup_by(|(a, _), (b, _)| a == b);
    names
}

fn model_object(app: &AppState, name: &ModelName, pool: &str) -> ModelObject {
    ModelObject { id: name.to_string(), object: "model", created: app.start_time.as_secs(), owned_by: pool.to_owned() }
}

async fn method_not_allowed(method: http::Method) -> RequestError {
    RequestError::MethodNotAllowed { method: method.to_string(), allow: vec![http::Method::GET, http::Method::HEAD] }
}

async fn unknown_path(uri: http::Uri) -> RequestError {
    RequestError::UnknownPath(uri.path().chars().take(256).collect())
}
