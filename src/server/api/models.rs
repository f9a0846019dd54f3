//! `/v1/models`: the models that the client may use, from all pools of its route, in OpenAI's shape or, for
//! requests with `anthropic-version`, in Anthropic's.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::HeaderMap;

use super::model_shapes::{ModelShape, ModelView, PageQuery};
use super::options::allowed_methods;
use super::request_scope::RequestScope;
use crate::fleet::{Pool, PoolLookupError};
use crate::server::{AppState, RequestError};
use crate::units::{ModelFit, ModelName};

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v1/models", get(list_models).options(allowed_methods))
        .route("/v1/models/{*id}", get(get_model).options(allowed_methods))
}

async fn list_models(
    State(app): State<Arc<AppState>>,
    Extension(scope): Extension<RequestScope>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let shape = ModelShape::requested_by(&headers);
    let models = visible_models(&app, &scope);
    match shape.list(&models, &query) {
        Ok(body) => body.into_response(),
        Err(error) => error_response(&error, shape),
    }
}

async fn get_model(
    State(app): State<Arc<AppState>>,
    Extension(scope): Extension<RequestScope>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let shape = ModelShape::requested_by(&headers);
    let mut found = find_model(&app, &scope, &id);
    if found.is_none() && scope.routed.as_ref().is_some_and(|routed| routed.learns_models()) {
        app.control.model_refresh.refresh_all(app.clock.now()).await;
        found = find_model(&app, &scope, &id);
    }
    match found {
        Some(model) => shape.object(&model).into_response(),
        None => error_response(&RequestError::from_lookup(PoolLookupError::UnknownModel, Some(&id)), shape),
    }
}

/// Returns each model that the client may use, sorted by name.
fn visible_models(app: &AppState, scope: &RequestScope) -> Vec<ModelView> {
    let Some(routed) = &scope.routed else { return Vec::new() };
    let models_of = |pool: &Arc<Pool>| {
        let pool = pool.clone();
        pool.models().into_iter().map(move |model| (model, pool.clone()))
    };
    let mut models: Vec<(ModelName, Arc<Pool>)> = routed.pools().iter().flat_map(models_of).collect();
    // A model that stands for a pattern may fit another pool better.
    models.retain(|(name, pool)| {
        let server = routed.find_by_model(name.as_str());
        server.is_some_and(|server| server.name() == pool.name()) && scope.can_use_model(name.as_str())
    });
    models.sort_by(|(a, _), (b, _)| a.cmp(b));
    models.dedup_by(|(a, _), (b, _)| a == b);
    models.into_iter().map(|(name, pool)| ModelView::new(name.as_str(), &pool, app.start_time)).collect()
}

/// Returns a model that the client may use; one that only fits a pattern counts.
fn find_model(app: &AppState, scope: &RequestScope, id: &str) -> Option<ModelView> {
    let pool = scope.routed.as_ref()?.find_by_model(id).filter(|_| scope.can_use_model(id))?;
    let is_pattern = matches!(pool.model_fit(id), Some(ModelFit::Pattern(_)));
    // The pattern itself is no model.
    (!is_pattern || !id.ends_with('*')).then(|| ModelView::new(id, pool, app.start_time))
}

fn error_response(error: &RequestError, shape: ModelShape) -> Response {
    error.to_response(shape.error_dialect()).map(Into::into)
}
