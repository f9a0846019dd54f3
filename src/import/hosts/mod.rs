//! The hosts and routes of router.toml, from nginx's servers and locations.

mod addresses;
mod certificates;
mod flat_locations;
pub(super) mod imported_host;
mod name_answers;
mod names;
mod path_replacement;
mod pattern;
mod router_keys;
mod routes;

use super::blocks::NginxServer;
use super::context::ImportContext;
use super::pools::PoolTable;
use super::pools::imported_pool::ImportedPool;
use super::scoped_keys::{ACCESS_LOG, ScopedKeys};
use imported_host::{CertificateFiles, ImportedHost, RouteTarget};
use names::ServerPlace;

/// What router.toml has of nginx's servers.
pub(super) struct ImportedRouting {
    /// The addresses of hosts without their own.
    pub(super) listens: Vec<String>,
    pub(super) certificates: CertificateFiles,
    /// The keys at the top.
    pub(super) keys: ScopedKeys,
    pub(super) hosts: Vec<ImportedHost>,
    pub(super) pools: Vec<ImportedPool>,
}

/// Returns the hosts, their routes and the pools.
pub(super) fn build_routing(context: &mut ImportContext) -> ImportedRouting {
    let mut servers = std::mem::take(&mut context.servers);
    let mut served = addresses::served_addresses(context, &servers);
    certificates::remove_unusable_addresses(context, &servers, &mut served);
    certificates::report_rejected_handshakes(context, &servers, &served);
    let places = names::place_servers(context, &servers, &served);
    for (server, _) in servers.iter().zip(&places).filter(|(_, place)| place.is_none()) {
        context
            .report
            .add_not_needed(&server.directive, "no request reaches it in nginx, or its addresses are left out");
    }
    let mut keys = context.outer_keys.clone();
    if let ([server], [Some(_)]) = (servers.as_mut_slice(), places.as_slice()) {
        // What holds for the only server holds at the top.
        keys = server.keys.clone();
    }
    let reached: Vec<(&NginxServer, &ServerPlace<'_>)> =
        servers.iter().zip(&places).filter_map(|(server, place)| Some((server, place.as_ref()?))).collect();
    router_keys::choose_router_keys(context, &reached.iter().map(|(server, _)| *server).collect::<Vec<_>>());
    let mut pools = PoolTable::default();
    let mut hosts = Vec::new();
    for (server, place) in &reached {
        let has_tls = place.addresses.iter().any(|at| matches!(at.address, crate::routes::ListenAddr::Tls(_)));
        let certificates =
            if has_tls { certificates::server_certificates(context, server) } else { CertificateFiles::default() };
        let routes = routes::build_routes(context, server, &mut pools);
        let host = ImportedHost {
            names: Vec::new(),
            listens: Vec::new(),
            certificates,
            keys: server.keys.differing_from(&keys),
            routes,
            source_comment: server.directive.to_comment(),
        };
        hosts.extend(name_answers::split_host(server, place, host));
    }
    pools.report_upstreams(context);
    certificates::finish_tls(context);
    let mut routing = ImportedRouting {
        listens: Vec::new(),
        certificates: CertificateFiles::default(),
        keys,
        hosts,
        pools: pools.pools,
    };
    let uses_server_name = names_server(context, &routing);
    routing.raise_common_values(&reached, uses_server_name);
    routing.lower_access_logs();
    routing
}

/// Returns whether a value has the variable `$server_name`, which is the first name of the host.
fn names_server(context: &ImportContext, routing: &ImportedRouting) -> bool {
    let has_variable = |text: &str| text.contains("$server_name") || text.contains("${server_name}");
    let formats = context.settings.get("log.formats").map(|formats| formats.toml.as_str());
    let routes = || routing.hosts.iter().flat_map(|host| &host.routes);
    let answers = routes().filter_map(|route| match &route.target {
        RouteTarget::Answer(answer) => Some(answer.as_str()),
        RouteTarget::Pool(_) => None,
    });
    let keys = [&routing.keys].into_iter().chain(routing.hosts.iter().map(|host| &host.keys));
    let keys = keys.chain(routes().map(|route| &route.keys));
    formats.into_iter().chain(answers).chain(keys.flat_map(ScopedKeys::values)).any(has_variable)
}

impl ImportedRouting {
    /// Moves several access logs at the top to the hosts, as `[log]` has one.
    fn lower_access_logs(&mut self) {
        let Some(logs) = self.keys.get(ACCESS_LOG).filter(|logs| logs.starts_with('[')).map(str::to_owned) else {
            return;
        };
        for host in &mut self.hosts {
            if host.keys.written(ACCESS_LOG).is_none() {
                host.keys.set(ACCESS_LOG, logs.clone());
            }
        }
        // Requests of no host are in the first.
        let first = logs.trim_start_matches('[').split("\", ").next().unwrap_or_default();
        self.keys.set(ACCESS_LOG, format!("{}\"", first.trim_end_matches(['"', ']'])));
    }

    /// Moves what all hosts share to the top.
    fn raise_common_values(&mut self, reached: &[(&NginxServer, &ServerPlace<'_>)], uses_server_name: bool) {
        let plain = |place: &ServerPlace<'_>| -> Vec<String> {
            place.addresses.iter().map(|at| at.address.to_string()).collect()
        };
        if let Some((_, first)) = reached.first()
            && reached.iter().all(|(_, place)| plain(place) == plain(first))
        {
            self.listens = plain(first);
        }
        for host in &mut self.hosts {
            if host.listens == self.listens {
                host.listens.clear();
            }
        }
        if let ([host], false) = (self.hosts.as_mut_slice(), uses_server_name) {
            // It takes all requests, whatever its names are.
            host.names.clear();
            host.listens.clear();
        }
        let mut with_tls = self.hosts.iter().map(|host| &host.certificates).filter(|files| !files.chains.is_empty());
        if let Some(first) = with_tls.next().cloned()
            && with_tls.all(|files| *files == first)
        {
            self.hosts.iter_mut().for_each(|host| host.certificates = CertificateFiles::default());
            self.certificates = first;
        }
    }

    /// Returns the keys in force in the only route, if one pool takes all requests: then no host is needed.
    pub(super) fn plain_keys(&self) -> Option<ScopedKeys> {
        let ([host], [_]) = (self.hosts.as_slice(), self.pools.as_slice()) else { return None };
        let [route] = host.routes.as_slice() else { return None };
        let leads_to_pool = matches!(route.target, RouteTarget::Pool(_));
        let is_plain = leads_to_pool && route.path == "/" && route.replace_path.is_none() && host.names.is_empty();
        let has_one_log = !host.keys.overlaid_by(&route.keys).get(ACCESS_LOG).is_some_and(|logs| logs.starts_with('['));
        (is_plain && has_one_log).then(|| self.keys.overlaid_by(&host.keys).overlaid_by(&route.keys))
    }
}
