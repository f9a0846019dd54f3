//! `GET /` on the admin listener: the live page, and the same table without scripts at `/table`.

mod assets;
mod table;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::page::assets::{PAGE, POLICY};
use crate::server::AppState;
use crate::server::response::gzip::accepts_gzip;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/", get(page)).route("/table", get(table_page))
}

/// The live page, or the form for the token where one is needed.
async fn page(State(app): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    if app.settings().admin_access.token.is_some() && !app.admin_sessions.has_session(&headers, app.clock.now()) {
        return login_form(StatusCode::OK, "");
    }
    let table = table::render(&app);
    let (body, etag) = PAGE.with_table(&table);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let mut response = html(StatusCode::OK, Vec::new());
    if accepts_gzip(&headers) {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = assets::compress(&body).into();
    } else {
        *response.body_mut() = body.into();
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding, cookie"));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

async fn table_page(State(app): State<Arc<AppState>>) -> Response {
    html(StatusCode::OK, assets::plain_page(&table::render(&app)).into_bytes())
}

/// Returns the form for the admin token.
pub(super) fn login_form(status: StatusCode, message: &str) -> Response {
    html(status, assets::login_page(message).into_bytes())
}

fn html(status: StatusCode, body: Vec<u8>) -> Response {
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (status, headers, body).into_response()
}
