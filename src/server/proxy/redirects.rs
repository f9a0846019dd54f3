//! Redirects of replicas to themselves, as nginx's `proxy_redirect default`.

use http::{HeaderMap, HeaderValue, header};

use crate::fleet::Origin;
use crate::routes::{PathMatch, Route};
use crate::server::request::route::ProxyRoute;

/// Replaces a location at the replica's own address, which clients may not reach, by the path that leads there through
/// the router: in `Location`, and behind `url=` in `Refresh`. Other locations stay.
pub(super) fn rewrite_redirects(headers: &mut HeaderMap, origin: &Origin, route: &ProxyRoute, request_path: &str) {
    for name in [header::LOCATION, header::REFRESH] {
        let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else { continue };
        let start = if name == header::REFRESH { url_start(value) } else { Some(0) };
        let Some((before, location)) = start.and_then(|start| value.split_at_checked(start)) else { continue };
        let Some(path) = own_path(location, origin) else { continue };
        let path = client_path(path, route.routed.route(), &route.path, request_path);
        if let Ok(value) = HeaderValue::try_from(format!("{before}{path}")) {
            headers.insert(name, value);
        }
    }
}

/// Returns where the URL of a `Refresh` begins; `None` if it has none.
fn url_start(refresh: &str) -> Option<usize> {
    refresh.to_ascii_lowercase().find("url=").map(|at| at + "url=".len())
}

/// Returns the part of a location behind the replica's address and the path of its URL; `None` for another address.
fn own_path<'a>(location: &'a str, origin: &Origin) -> Option<&'a str> {
    let (_, rest) = location.split_once("://")?;
    let path = rest.strip_prefix(origin.authority().as_str())?.strip_prefix(origin.path_prefix())?;
    path.starts_with('/').then_some(path)
}

/// Returns the path by which a client reaches `path` of a replica.
///
/// `sent_path` and `request_path` are those of the request: where the first lacks the prefix of the second, it was removed.
fn client_path(path: &str, route: &Route, sent_path: &str, request_path: &str) -> String {
    let prefix = route.path.prefix();
    if let Some(replacement) = &route.replace_path {
        return path
            .strip_prefix(replacement.as_str())
            .map_or_else(|| path.to_owned(), |rest| format!("{prefix}{rest}"));
    }
    let is_stripped = matches!(route.path, PathMatch::Segments(_))
        && request_path.starts_with(prefix)
        && !sent_path.starts_with(prefix);
    if is_stripped { format!("{prefix}{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routes::{RouteAction, RouteScope};

    #[test]
    fn url_of_refresh_is_found() {
        for (refresh, url) in [("0;url=http://a/", Some("http://a/")), ("5; URL=/x", Some("/x")), ("5", None)] {
            assert_eq!(url_start(refresh).map(|start| &refresh[start..]), url);
        }
    }

    #[test]
    fn location_at_the_replica_leads_through_the_router() {
        let origin: Origin = "http://10.0.0.1:8000/base".parse().unwrap();
        let pools = || RouteAction::Pools(vec!["a".into()]);
        let scope = Arc::new(RouteScope::default());
        let plain = Route::new("/".parse().unwrap(), pools(), scope.clone());
        let replaced = Route {
            replace_path: Some("/v1/".to_owned()),
            ..Route::new("/api/".parse().unwrap(), pools(), scope.clone())
        };
        let team = Route::new(PathMatch::Segments("/team".to_owned()), pools(), scope);
        for (route, location, wanted) in [
            (&plain, "http://10.0.0.1:8000/base/docs/", Some("/docs/")),
            (&plain, "https://10.0.0.1:8000/base/docs?a=1", Some("/docs?a=1")),
            (&plain, "http://10.0.0.1:8000/elsewhere", None),
            (&plain, "http://10.0.0.1:80001/base/docs", None),
            (&plain, "http://llm.example/docs", None),
            (&plain, "/docs", None),
            (&replaced, "http://10.0.0.1:8000/base/v1/models/", Some("/api/models/")),
            (&team, "http://10.0.0.1:8000/base/v1/models/", Some("/team/v1/models/")),
        ] {
            let path =
                own_path(location, &origin).map(|path| client_path(path, route, "/v1/models", "/team/v1/models"));
            assert_eq!(path.as_deref(), wanted, "{location}");
        }
    }
}
