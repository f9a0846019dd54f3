//! `GET /live` on the admin listener: the live feed as `text/event-stream`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;

use crate::server::AppState;
use crate::server::live::viewer;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/live", get(live))
}

async fn live(State(app): State<Arc<AppState>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(viewer::events(&app))).into_response()
}
