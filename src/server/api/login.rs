//! `POST /login` and `POST /logout` on the admin listener: sessions of browsers, where an admin token is configured.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::page;
use crate::server::AppState;
use crate::server::admin_sessions::SESSION_COOKIE;

pub(super) fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/login", post(log_in)).route("/logout", post(log_out))
}

/// Starts a session for a form with the admin token in the field `token`.
async fn log_in(State(app): State<Arc<AppState>>, body: Bytes) -> Response {
    let now = app.clock.now();
    let settings = app.settings();
    let Some(token) = &settings.admin_access.token else { return to_page(None) };
    if !app.admin_sessions.may_log_in(now) {
        return page::login_form(StatusCode::TOO_MANY_REQUESTS, "Too many attempts. Try again in a second.");
    }
    let form = std::str::from_utf8(&body).unwrap_or_default();
    let secret = form.split('&').find_map(|pair| pair.strip_prefix("token=")).map(decode_form).unwrap_or_default();
    if !token.matches_secret(&secret) {
        app.admin_sessions.record_failure(now);
        return page::login_form(StatusCode::UNAUTHORIZED, "This is not the admin token.");
    }
    let id = app.admin_sessions.start(now);
    to_page(Some(format!("{SESSION_COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict")))
}

async fn log_out(State(app): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    app.admin_sessions.end(&headers);
    to_page(Some(format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0")))
}

/// Redirects to the page.
fn to_page(cookie: Option<String>) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Decodes a value of `application/x-www-form-urlencoded`.
fn decode_form(value: &str) -> Vec<u8> {
    crate::http::percent_decode(value.replace('+', " ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_values_are_decoded() {
        assert_eq!(decode_form("a+b%2Bc%3d%"), b"a b+c=%");
    }
}
