//! Lookups in the table, compared with nginx's rules.

use crate::routes::*;
use std::sync::Arc;

fn route(path: &str, words: &str) -> Route {
    let action = match words.strip_prefix("pool ") {
        Some(pool) => RouteAction::Pools(vec![pool.into()]),
        None => RouteAction::Answer(Answer::parse(words).unwrap()),
    };
    Route::new(path.parse().unwrap(), action, Arc::default())
}

fn host(names: &[&str], listens: &[(&str, bool)], routes: &[(&str, &str)]) -> HostSpec {
    HostSpec {
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        listens: listens
            .iter()
            .map(|(address, is_default)| HostListen { address: address.parse().unwrap(), is_default: *is_default })
            .collect(),
        scope: Arc::default(),
        routes: routes.iter().map(|(path, words)| route(path, words)).collect(),
        is_closed: true,
        certificates: ServerCertificates::default(),
    }
}

/// Returns what a request finds: a pool, a status, `slash` or `unknown`.
fn find(table: &RouteTable, arrival: (&str, Option<&str>), name: &str, path: &str) -> String {
    let (listen, local) = arrival;
    let arrival = ArrivalAddr { listen: listen.parse().unwrap(), local: local.map(|local| local.parse().unwrap()) };
    match table.find(&arrival, name, path) {
        RouteLookup::Found(route) => match &route.action {
            RouteAction::Pools(pools) => pools.join(","),
            RouteAction::Answer(answer) => answer.status().to_string(),
            RouteAction::NotFound => "404".to_owned(),
        },
        RouteLookup::AddSlash(_) => "slash".to_owned(),
        RouteLookup::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn location_is_found_as_in_nginx() {
    let routes = [
        ("/", "pool root"),
        ("= /", "pool exact"),
        ("/api/", "pool api"),
        ("/api/admin", "403"),
        ("^~ /static/", "pool static"),
        (r"~ \.php$", "404"),
        ("~* ^/API/v[12]$", "pool regex"),
        ("/both", "pool both"),
        ("/both/", "pool below"),
    ];
    let table = RouteTable::new(vec![host(&[], &[], &routes)], &[]);
    for (path, wanted) in [
        ("/", "exact"),
        ("/x", "root"),
        ("/api", "slash"),
        ("/api/", "api"),
        ("/api/x", "api"),
        ("/api/administrator", "403"),
        ("/x/../api/%61dmin", "403"),
        ("//api//admin", "403"),
        ("/x.php", "404"),
        ("/static/x.php", "static"),
        ("/static", "slash"),
        ("/api/V1", "regex"),
        ("/both", "both"),
        ("/both/x", "below"),
    ] {
        assert_eq!(find(&table, ("80", None), "any", path), wanted, "{path}");
    }
    let closed = RouteTable::new(vec![host(&[], &[], &[("/v1/", "pool a")])], &[]);
    assert_eq!(find(&closed, ("80", None), "", "/livez"), "404");
}

#[test]
fn host_is_found_by_address_and_name() {
    let hosts = vec![
        host(&["a", "*.a"], &[("80", false), ("81", false)], &[("/", "pool a")]),
        host(&["closed"], &[("80", true)], &[]),
        host(&[], &[("81", false)], &[("/", "pool rest")]),
        host(&["inner"], &[("127.0.0.1:80", false)], &[("/", "pool inner")]),
        host(&["top"], &[], &[("/", "pool top")]),
    ];
    let table = RouteTable::new(hosts, &["90".parse().unwrap()]);
    for (listen, local, name, wanted) in [
        ("80", None, "a", "a"),
        ("80", None, "x.a", "a"),
        ("80", None, "closed", "404"),
        ("80", None, "other", "404"),
        ("80", None, "top", "404"),
        ("80", Some("10.0.0.1:80"), "a", "a"),
        ("80", Some("127.0.0.1:80"), "a", "unknown"),
        ("80", Some("127.0.0.1:80"), "inner", "inner"),
        ("81", None, "other", "rest"),
        ("81", None, "a", "a"),
        ("90", None, "top", "top"),
        ("90", None, "a", "unknown"),
        ("99", None, "a", "unknown"),
        ("unix:/x", None, "a", "unknown"),
    ] {
        assert_eq!(find(&table, (listen, local), name, "/"), wanted, "{listen} {local:?} {name}");
    }
}

#[test]
fn default_host_has_the_settings_of_requests_without_a_host() {
    let hosts = vec![
        host(&["", "a"], &[("80", false)], &[]),
        host(&["b"], &[("80", true)], &[]),
        host(&[], &[("81", false)], &[("/", "403")]),
        host(&["c"], &[("82", false)], &[]),
    ];
    let table = RouteTable::new(hosts, &[]);
    for (listen, wanted) in [("80", Some(Some("b"))), ("81", Some(None)), ("82", None), ("83", None)] {
        let found = table.find_default(&ArrivalAddr { listen: listen.parse().unwrap(), local: None });
        assert_eq!(found.map(|route| route.server_name.as_deref()), wanted, "{listen}");
        assert!(found.is_none_or(|route| route.action == RouteAction::NotFound));
    }
    assert_eq!(find(&table, ("80", None), "", "/"), "404");
}

#[test]
fn pools_keep_their_own_hosts_and_paths() {
    let blocked = |path: &str, exact, status| BlockedPath { path: path.to_owned(), exact, status };
    let pools: Vec<(Arc<str>, PoolRoute)> = [
        ("a", None, None, vec![blocked("/admin", false, 403), blocked("/ping", true, 404)]),
        ("b", None, None, Vec::new()),
        ("team", None, Some("/team"), Vec::new()),
        ("shut", None, Some("/shut/x"), vec![blocked("/shut", false, 410)]),
        ("named", Some("h"), None, Vec::new()),
    ]
    .into_iter()
    .map(|(name, host, path, blocked_paths)| {
        let (host, path): (Option<&str>, Option<&str>) = (host, path);
        (name.into(), PoolRoute { host: host.map(str::to_owned), path: path.map(str::to_owned), blocked_paths })
    })
    .collect();
    let table = RouteTable::from_pools(pools.iter().map(|(name, route)| (name, route)));
    for (name, path, wanted) in [
        ("any", "/v1", "a,b"),
        ("any", "/team", "team"),
        ("any", "/teams", "a,b"),
        ("any", "/administration", "403"),
        ("any", "/ping", "404"),
        ("any", "/ping/x", "a,b"),
        ("any", "/shut/x/y", "410"),
        ("h", "/admin", "named"),
    ] {
        assert_eq!(find(&table, ("80", None), name, path), wanted, "{name} {path}");
    }
}
