//! `GET /live` on the admin listener: the live feed as `text/event-stream`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::server::AppState;
use crate::server::live::viewer;

/// The most viewers at once. The admin listener's other connections are left to health checks, scrapers and changes.
const MAX_VIEWERS: usize = 32;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/live", get(live))
}

async fn live(State(app): State<Arc<AppState>>) -> Response {
    if app.live.viewers() >= MAX_VIEWERS {
        let message = format!("the live feed has {MAX_VIEWERS} viewers already, close one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    }
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(viewer::events(&app))).into_response()
}
