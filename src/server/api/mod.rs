//! The endpoints that the router serves itself: models and health for clients, the admin API, and the metrics.

pub(super) mod admin_listener;
mod explain;
mod health;
mod live;
mod login;
mod metrics_endpoint;
mod model_shapes;
mod models;
mod options;
mod page;
mod pool_view;
mod pools;
mod request_scope;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
pub(super) use model_shapes::ModelShape;
pub(super) use options::options_response;
pub(super) use request_scope::RequestScope;

use super::{AppState, RequestError};

/// Returns the router of the data listener.
pub(super) fn data_router(app: Arc<AppState>) -> Router {
    Router::new()
        .merge(models::routes())
        .merge(health::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// Returns the router of the admin listener.
pub(super) fn admin_router(app: Arc<AppState>) -> Router {
    Router::new()
        .merge(metrics_endpoint::routes())
        .merge(pools::routes())
        .merge(explain::routes())
        .merge(live::routes())
        .merge(login::routes())
        .merge(page::routes())
        .merge(health::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path)
        .with_state(app)
}

async fn method_not_allowed(method: Method) -> RequestError {
    RequestError::MethodNotAllowed { method: method.to_string(), allow: vec![Method::GET, Method::HEAD] }
}

async fn unknown_path(uri: Uri) -> RequestError {
    RequestError::UnknownPath(uri.path().chars().take(256).collect())
}
