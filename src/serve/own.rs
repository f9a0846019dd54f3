//! What we answer ourselves: models, health, and on the admin listener the metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::{App, Refusal, explain, manage};
use crate::fleet::{NoPool, Site};
use crate::tenants::Tenant;
use crate::units::{Dialect, ModelName};

/// The site a request came in by, and whose key it shows, if there are such.
pub(super) type Through = (Option<Arc<Site>>, Option<Arc<Tenant>>);

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

#[derive(Serialize)]
struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// Our paths on the data listener.
pub(super) fn data(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .merge(health())
        .method_not_allowed_fallback(not_allowed)
        .with_state(app)
}

/// Our paths on the admin listener.
pub(super) fn admin(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .merge(manage::routes())
        .merge(explain::routes())
        .merge(health())
        .method_not_allowed_fallback(not_allowed)
        .fallback(unknown)
        .with_state(app)
}

fn health() -> Router<Arc<App>> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/health", get(readyz))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.answer(Dialect::Other).map(Into::into)
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means that some pool has a replica that can be chosen, and that the process is not about to stop.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let now = app.clock.now();
    if app.fleet.pools().iter().any(|pool| pool.ready(now)) {
        return "ok\n".into_response();
    }
    let why = "no replica is ready: none has answered /v1/models, or all have failed\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let lost = app.access.load().as_ref().map_or(0, |log| log.lost()) + app.errors.lost();
    let lost = lost + app.lines_lost.load(Ordering::Relaxed) + app.recorder.as_ref().map_or(0, |record| record.lost());
    let text = app.metrics.render(&app.fleet, app.clock.now(), lost);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn models(State(app): State<Arc<App>>, Extension(through): Extension<Through>) -> Json<Models> {
    let data = names(&through).into_iter().map(|(name, pool)| card(&app, &name, &pool)).collect();
    Json(Models { object: "list", data })
}

async fn model(
    State(app): State<Arc<App>>,
    Extension(through): Extension<Through>,
    Path(id): Path<String>,
) -> Result<Json<Model>, Refusal> {
    match names(&through).into_iter().find(|(name, _)| name.as_str() == id) {
        Some((name, pool)) => Ok(Json(card(&app, &name, &pool))),
        None => Err(Refusal::from((NoPool::UnknownModel, Some(id.as_str())))),
    }
}

/// Every model of the site that may be asked for with its pool, the first pool's where several have it; sorted by name.
fn names((site, tenant): &Through) -> Vec<(ModelName, Arc<str>)> {
    let pools = site.as_ref().map(|site| site.pools()).unwrap_or_default();
    let each = |pool: &Arc<crate::fleet::Pool>| {
        let name = pool.name().clone();
        pool.models().into_iter().map(move |model| (model, name.clone()))
    };
    let mut names: Vec<_> = pools.iter().flat_map(each).collect();
    names.retain(|(name, _)| tenant.as_ref().is_none_or(|tenant| tenant.may_use(name.as_str())));
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    names.dedup_by(|(a, _), (b, _)| a == b);
    names
}

fn card(app: &App, name: &ModelName, pool: &str) -> Model {
    Model { id: name.to_string(), object: "model", created: app.started.as_secs(), owned_by: pool.to_owned() }
}

async fn not_allowed(method: http::Method) -> Refusal {
    Refusal::Method { method: method.to_string(), allow: vec![http::Method::GET, http::Method::HEAD] }
}

async fn unknown(uri: http::Uri) -> Refusal {
    Refusal::UnknownPath(uri.path().chars().take(256).collect())
}
