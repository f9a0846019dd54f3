//! `/livez`, `/readyz` and `/health`, for supervisors and load balancers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::options::allowed_methods;
use crate::server::AppState;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/livez", get(livez).options(allowed_methods))
        .route("/readyz", get(readyz).options(allowed_methods))
        .route("/health", get(readyz).options(allowed_methods))
}

async fn livez() -> &'static str {
    "ok\n"
}

/// Returns 200 if some pool has an eligible replica and the process is not draining, else 503.
async fn readyz(State(app): State<Arc<AppState>>) -> Response {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let now = app.clock.now();
    if app.fleet.pools().iter().any(|pool| pool.has_eligible(now)) {
        return "ok\n".into_response();
    }
    let fault = app.fleet.pools().iter().find_map(|pool| pool.model_list_fault());
    let reason = match fault {
        Some(fault) => format!("no replica is ready: {fault}\n"),
        None => "no replica is ready: none has answered /v1/models, or all have failed\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}
