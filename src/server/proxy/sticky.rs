//! nginx's `sticky`: pins a client to its replica before the policy is asked. The pin moves when the replica is gone.

use std::fmt::Write as _;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::session_table::SessionKey;
use crate::fleet::{Lease, Outcome, Pool, ReplicaPin, Sticky, StickyCookie, StickyVariable};
use crate::http::{find_cookie, find_set_cookie};
use crate::server::AppState;
use crate::upstream::UpstreamResponse;

/// Returns the client's replica in a pool with `sticky`; `None` if the client has none. Another replica will do.
pub(super) fn lookup_pin(app: &AppState, pool: &Pool, head: &Parts) -> Option<ReplicaPin> {
    let replica = match pool.sticky()? {
        Sticky::Cookie(cookie) => {
            pool.find_replica_by_token(std::str::from_utf8(find_cookie(&head.headers, &cookie.name)?).ok()?)
        }
        Sticky::Learn { lookup, timeout, .. } => {
            let id = first_value(lookup, &head.headers, None)?;
            app.tables.sessions.get(SessionKey { pool: pool.name(), id }, *timeout, app.clock.now())
        }
    };
    replica.map(ReplicaPin::Preferred)
}

/// Pins the client to the replica that has responded. Returns the cookie to set; `None` if the client has it already.
///
/// A failed or busy replica is not pinned.
pub(super) fn store_pin(
    app: &AppState,
    lease: &Lease,
    head: &Parts,
    response: &UpstreamResponse,
) -> Option<HeaderValue> {
    if matches!(response.outcome, Outcome::Failed { .. } | Outcome::Busy { .. }) {
        return None;
    }
    let (pool, replica) = (lease.pool(), lease.replica());
    match pool.sticky()? {
        Sticky::Cookie(cookie) => {
            let known = find_cookie(&head.headers, &cookie.name) == Some(replica.cookie_token().as_bytes());
            if known { None } else { HeaderValue::try_from(format_cookie(cookie, replica.cookie_token())).ok() }
        }
        Sticky::Learn { create, lookup, timeout } => {
            let now = app.clock.now();
            let moved = first_value(lookup, &head.headers, None).filter(|id| {
                // Only a known session can move.
                let owner = app.tables.sessions.get(SessionKey { pool: pool.name(), id }, *timeout, now);
                owner.is_some_and(|owner| owner != replica.id())
            });
            let created = first_value(create, &head.headers, Some(&response.head.headers));
            for id in moved.into_iter().chain(created) {
                app.tables.sessions.insert(SessionKey { pool: pool.name(), id }, replica.id(), *timeout, now);
            }
            None
        }
    }
}

/// Returns the first of these variables that is not empty.
fn first_value<'a>(
    variables: &[StickyVariable],
    request: &'a HeaderMap,
    response: Option<&'a HeaderMap>,
) -> Option<&'a [u8]> {
    let value = |variable: &StickyVariable| match variable {
        StickyVariable::Cookie(name) => find_cookie(request, name),
        StickyVariable::Header(name) => request.get(name).map(HeaderValue::as_bytes),
        StickyVariable::UpstreamCookie(name) => find_set_cookie(response?, name),
        StickyVariable::UpstreamHeader(name) => response?.get(name).map(HeaderValue::as_bytes),
    };
    variables.iter().filter_map(value).find(|value| !value.is_empty())
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
        assert_eq!(first_value(&cookies, &request, None), Some(&b"yes"[..]));
        assert_eq!(first_value(&cookies[..2], &request, None), None);
        let mut response = HeaderMap::new();
        response.append(header::SET_COOKIE, HeaderValue::from_static("sid=abc; Path=/; x=1"));
        let set_by_response = ["x", "sid"].map(|name| StickyVariable::UpstreamCookie(name.to_owned()));
        assert_eq!(first_value(&set_by_response, &request, Some(&response)), Some(&b"abc"[..]));
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
