//! `/metrics` on the admin listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::server::AppState;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/metrics", get(get_metrics))
}

async fn get_metrics(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let text = app.metrics.render(&app.fleet, app.clock.now(), app.logs.dropped_lines());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
