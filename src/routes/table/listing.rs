//! The routes as lines for people: `check --routes` and the report of a reload.

use std::fmt;

use super::lookup::RouteTable;
use crate::routes::{AddressSet, Answer, KeyAccess, ListenAddr, Route, RouteAction, RouteScope};

/// One route at one address: what is open there, for whom, and with which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLine {
    /// The listener's address.
    pub listen: String,
    /// The host's names; `*` for all names that no other host of the address takes.
    pub host: String,
    /// The path in nginx's words.
    pub path: String,
    /// The pools, or the answer.
    pub target: String,
    /// Who may ask: keys, addresses, methods.
    pub clients: String,
    /// The body limit and the timeouts.
    pub limits: String,
}

impl RouteLine {
    /// The titles of the columns.
    pub const TITLES: [&str; 6] = ["listen", "host", "path", "leads to", "who may ask", "limits"];

    /// Returns the texts of the columns.
    pub fn columns(&self) -> [&str; 6] {
        [&self.listen, &self.host, &self.path, &self.target, &self.clients, &self.limits]
    }
}

impl fmt::Display for RouteLine {
    /// All columns in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, host, path, target, clients, limits } = self;
        write!(f, "{listen} {host} {path} -> {target}")?;
        let details: Vec<&str> =
            [clients, limits].into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if details.is_empty() { Ok(()) } else { write!(f, " ({})", details.join("; ")) }
    }
}

impl RouteTable {
    /// Returns a line for each route at each address, in the order in which they are tried.
    ///
    /// `listens` are all addresses; `describe_pool` adds to a pool's name what is open of it; `has_keys`: clients need
    /// one unless a route says otherwise.
    pub fn list(
        &self,
        listens: &[ListenAddr],
        describe_pool: &dyn Fn(&str) -> String,
        has_keys: bool,
    ) -> Vec<RouteLine> {
        let mut lines = Vec::new();
        for address in self.addresses(listens) {
            for (host, is_default) in self.hosts_at(address) {
                let mut names: Vec<String> = host.names().iter().map(ToString::to_string).collect();
                if is_default {
                    names.push("*".to_owned());
                }
                for route in host.routes() {
                    lines.push(RouteLine {
                        listen: address.to_string(),
                        host: names.join(","),
                        path: describe_path(route),
                        target: describe_target(route, describe_pool),
                        clients: describe_clients(route, has_keys),
                        limits: describe_limits(route),
                    });
                }
            }
        }
        lines
    }
}

fn describe_path(route: &Route) -> String {
    match &route.replace_path {
        Some(replacement) => format!("{} as {replacement}", route.path),
        None => route.path.to_string(),
    }
}

fn describe_target(route: &Route, describe_pool: &dyn Fn(&str) -> String) -> String {
    match &route.action {
        RouteAction::Pools(pools) => pools.iter().map(|pool| describe_pool(pool)).collect::<Vec<_>>().join(", "),
        RouteAction::NotFound => "404".to_owned(),
        RouteAction::Answer(Answer::Close) => "close".to_owned(),
        RouteAction::Answer(Answer::Redirect { status, location }) => format!("{status} {}", location.source()),
        RouteAction::Answer(answer) => answer.status().to_string(),
    }
}

/// Returns who may ask; nothing for a route that answers itself, which is open to all.
fn describe_clients(route: &Route, has_keys: bool) -> String {
    let RouteScope { access, methods, keys, .. } = &*route.scope;
    if route.pools().is_empty() {
        return String::new();
    }
    let key = match keys {
        KeyAccess::Any if has_keys => "any key".to_owned(),
        KeyAccess::Any | KeyAccess::Open => "no key".to_owned(),
        KeyAccess::Named(names) => format!("key {}", names.iter().map(|name| &**name).collect::<Vec<_>>().join("/")),
    };
    let rules = access.iter().map(|rule| {
        let verb = if rule.is_allowed { "allow" } else { "deny" };
        match rule.addresses {
            AddressSet::All => format!("{verb} all"),
            AddressSet::Unix => format!("{verb} unix:"),
            AddressSet::Network(network) => format!("{verb} {network}"),
        }
    });
    let methods = methods.iter().map(|methods| methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join("/"));
    std::iter::once(key).chain(rules).chain(methods).collect::<Vec<_>>().join(", ")
}

fn describe_limits(route: &Route) -> String {
    let RouteScope { body_bytes, timeouts, .. } = &*route.scope;
    if route.pools().is_empty() {
        return String::new();
    }
    let body = match body_bytes {
        bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
        bytes => format!("{bytes}B"),
    };
    let (first, plain, idle) = (timeouts.first_byte, timeouts.plain_answer, timeouts.idle);
    format!("body {body}, first byte {first:?}, plain answer {plain:?}, idle {idle:?}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routes::{HostListen, HostSpec, PathMatch, ServerCertificates};

    #[test]
    fn every_route_is_listed_at_each_of_its_addresses() {
        let scope = Arc::new(RouteScope {
            access: vec!["allow 10.0.0.0/8".parse().unwrap(), "deny all".parse().unwrap()],
            keys: KeyAccess::Named([Arc::from("a")].into()),
            ..RouteScope::default()
        });
        let route = |path: &str, action| Route::new(path.parse::<PathMatch>().unwrap(), action, scope.clone());
        let listen = |address: &str| HostListen { address: address.parse().unwrap(), is_default: address == "81" };
        let host = HostSpec {
            names: vec!["h".parse().unwrap()],
            listens: vec![listen("80"), listen("81")],
            scope: scope.clone(),
            routes: vec![
                route("/v1/", RouteAction::Pools(vec!["chat".into()])),
                route("= /x", RouteAction::Answer(Answer::parse("403").unwrap())),
            ],
            is_closed: true,
            certificates: ServerCertificates::default(),
        };
        let table = RouteTable::new(vec![host], &[]);
        let lines = table.list(&[], &|pool| format!("pool {pool}"), true);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let limits = "body 32MiB, first byte 300s, plain answer 600s, idle 120s";
        assert_eq!(
            lines[..3],
            [
                "0.0.0.0:80 h = /x -> 403".to_owned(),
                format!("0.0.0.0:80 h /v1/ -> pool chat (key a, allow 10.0.0.0/8, deny all; {limits})"),
                "0.0.0.0:80 h / -> 404".to_owned(),
            ]
        );
        assert!(lines.len() == 6 && lines[5] == "0.0.0.0:81 h,* / -> 404", "{lines:?}");
    }
}
