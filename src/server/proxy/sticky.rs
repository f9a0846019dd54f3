//! nginx's `sticky`: pins a client to its replica before the policy is asked. The pin moves when the replica is gone.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};

use super::hash_key::KeyInputs;
use super::session_table::SessionKey;
use crate::fleet::{Lease, Outcome, Pool, ReplicaPin, Sticky, StickyCookie, StickyVariable};
use crate::http::{find_cookie, find_set_cookie};
use crate::server::AppState;
use crate::upstream::UpstreamResponse;

/// Returns the client's replica in a pool with `sticky`; `None` if the client has none. Another replica will do.
pub(super) fn lookup_pin(app: &AppState, pool: &Pool, inputs: &KeyInputs<'_>) -> Option<ReplicaPin> {
    let head = inputs.head;
    let replica = match pool.sticky()? {
        Sticky::Cookie(cookie) => {
            pool.find_replica_by_token(std::str::from_utf8(find_cookie(&head.headers, &cookie.name)?).ok()?)
        }
        Sticky::Learn { lookup, timeout, .. } => {
            let id = SessionValues::new(inputs, pool, None).find(lookup)?;
            app.tables.sessions.get(SessionKey { pool: pool.name(), id }, *timeout, app.clock.now())
        }
    };
    replica.map(ReplicaPin::Preferred)
}

/// Pins the client to the replica that has responded. Returns the cookie to set; `None` if the client has one already
/// that ends with its browser.
///
/// A failed or busy replica is not pinned.
pub(super) fn store_pin(
    app: &AppState,
    lease: &Lease,
    inputs: &KeyInputs<'_>,
    response: &UpstreamResponse,
) -> Option<HeaderValue> {
    if matches!(response.outcome, Outcome::Failed { .. } | Outcome::Busy { .. }) {
        return None;
    }
    let (pool, replica) = (lease.pool(), lease.replica());
    match pool.sticky()? {
        Sticky::Cookie(cookie) => {
            let known = find_cookie(&inputs.head.headers, &cookie.name) == Some(replica.cookie_token().as_bytes());
            // The age of a cookie with `expires` counts from the last response.
            if known && cookie.expires.is_none() {
                None
            } else {
                HeaderValue::try_from(format_cookie(cookie, replica.cookie_token())).ok()
            }
        }
        Sticky::Learn { create, lookup, timeout } => {
            let now = app.clock.now();
            let moved = SessionValues::new(inputs, pool, None).find(lookup).filter(|id| {
                // Only a known session can move.
                let owner = app.tables.sessions.get(SessionKey { pool: pool.name(), id }, *timeout, now);
                owner.is_some_and(|owner| owner != replica.id())
            });
            let created = SessionValues::new(inputs, pool, Some(&response.head.headers)).find(create);
            for id in moved.into_iter().chain(created) {
                app.tables.sessions.insert(SessionKey { pool: pool.name(), id }, replica.id(), *timeout, now);
            }
            None
        }
    }
}

/// The values that variables of `sticky` have.
struct SessionValues<'a> {
    request: &'a HeaderMap,
    response: Option<&'a HeaderMap>,
    /// The session that the client names.
    session: Option<&'a [u8]>,
}

impl<'a> SessionValues<'a> {
    fn new(inputs: &'a KeyInputs<'_>, pool: &'a Pool, response: Option<&'a HeaderMap>) -> Self {
        let session = if pool.needs_session() { inputs.named_session(pool) } else { None };
        Self { request: &inputs.head.headers, response, session }
    }

    /// Returns the first of these variables that is not empty.
    fn find(&self, variables: &[StickyVariable]) -> Option<&'a [u8]> {
        let value = |variable: &StickyVariable| match variable {
            StickyVariable::Cookie(name) => find_cookie(self.request, name),
            StickyVariable::Header(name) => self.request.get(name).map(HeaderValue::as_bytes),
            StickyVariable::UpstreamCookie(name) => find_set_cookie(self.response?, name),
            StickyVariable::UpstreamHeader(name) => self.response?.get(name).map(HeaderValue::as_bytes),
            StickyVariable::Session => self.session,
        };
        variables.iter().filter_map(value).find(|value| !value.is_empty())
    }
}

/// Returns the text of `Set-Cookie`.
fn format_cookie(cookie: &StickyCookie, value: &str) -> String {
    let mut text = format!("{}={value}", cookie.name);
    // Writing to a string cannot fail.
    if let Some(expires) = cookie.expires {
        let _ = write!(text, "; Max-Age={}", expires.as_secs());
    }
    if let Some(domain) = &cookie.domain {
        let _ = write!(text, "; Domain={domain}");
    }
    if let Some(path) = &cookie.path {
        let _ = write!(text, "; Path={path}");
    }
    if cookie.http_only {
        text.push_str("; HttpOnly");
    }
    if cookie.secure {
        text.push_str("; Secure");
    }
    if let Some(same_site) = cookie.same_site {
        let _ = write!(text, "; SameSite={}", same_site.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header;

    use super::*;
    use crate::fleet::SameSite;

    #[test]
    fn first_variable_with_a_value_names_the_session() {
        let mut request = HeaderMap::new();
        request.append(header::COOKIE, HeaderValue::from_static("a=1; empty=; sid=yes"));
        let cookies = ["none", "empty", "sid", "a"].map(|name| StickyVariable::Cookie(name.to_owned()));
        let values = |response| SessionValues { request: &request, response, session: Some(b"named") };
        assert_eq!(values(None).find(&cookies), Some(&b"yes"[..]));
        assert_eq!(values(None).find(&cookies[..2]), None);
        assert_eq!(values(None).find(&[StickyVariable::Session]), Some(&b"named"[..]));
        let mut response = HeaderMap::new();
        response.append(header::SET_COOKIE, HeaderValue::from_static("sid=abc; Path=/; x=1"));
        let set_by_response = ["x", "sid"].map(|name| StickyVariable::UpstreamCookie(name.to_owned()));
        assert_eq!(values(Some(&response)).find(&set_by_response), Some(&b"abc"[..]));
    }

    #[test]
    fn set_cookie_has_the_configured_attributes() {
        let plain = StickyCookie { name: "route".to_owned(), ..StickyCookie::default() };
        assert_eq!(format_cookie(&plain, "f00"), "route=f00");
        let full = StickyCookie {
            expires: Some(Duration::from_secs(3_600)),
            domain: Some(".example.com".to_owned()),
            path: Some("/".to_owned()),
            http_only: true,
            secure: true,
            same_site: Some(SameSite::Lax),
            ..plain
        };
        let wanted = "route=f00; Max-Age=3600; Domain=.example.com; Path=/; HttpOnly; Secure; SameSite=Lax";
        assert_eq!(format_cookie(&full, "f00"), wanted);
    }
}
