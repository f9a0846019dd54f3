//! The hosts and routes of router.toml, from nginx's servers and locations.

mod addresses;
mod certificates;
mod flat_locations;
pub(super) mod imported_host;
mod names;
mod pattern;
mod router_keys;
mod routes;

use super::blocks::NginxServer;
use super::context::ImportContext;
use super::pools::PoolTable;
use super::pools::imported_pool::ImportedPool;
use super::scoped_keys::{ACCESS_LOG, ScopedKeys};
use addresses::ServedAddress;
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
        if server.keys.get(ACCESS_LOG) != keys.get(ACCESS_LOG) {
            let reason = "its access_log is not carried over: the router has one";
            context.report.add_impossible(&server.directive, reason);
        }
        hosts.push(ImportedHost {
            names: place.names.clone(),
            listens: place.addresses.iter().map(|at| listen_words(at, &place.names)).collect(),
            certificates,
            keys: server.keys.differing_from(&keys),
            routes: routes::build_routes(context, server, &mut pools),
            source_comment: server.directive.to_comment(),
        });
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
    routing.raise_common_values(&reached);
    routing
}

/// Returns an address as the host of these names writes it.
fn listen_words(at: &ServedAddress, names: &[String]) -> String {
    let mark = if at.is_default && !names.is_empty() { " default_server" } else { "" };
    format!("{}{mark}", at.address)
}

impl ImportedRouting {
    /// Moves what all hosts share to the top.
    fn raise_common_values(&mut self, reached: &[(&NginxServer, &ServerPlace<'_>)]) {
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
        if let [host] = self.hosts.as_mut_slice() {
            // It takes all requests, whatever its names are.
            host.names.clear();
            host.listens.clear();
        }
        for host in &mut self.hosts {
            // The router chooses by the names in the certificates.
            let CertificateFiles { chains, keys } = std::mem::take(&mut host.certificates);
            for (chain, key) in chains.into_iter().zip(keys) {
                if !self.certificates.chains.contains(&chain) {
                    self.certificates.chains.push(chain);
                    self.certificates.keys.push(key);
                }
            }
        }
    }

    /// Returns the keys in force in the only route, if one pool takes all requests: then no host is needed.
    pub(super) fn plain_keys(&self) -> Option<ScopedKeys> {
        let ([host], [_]) = (self.hosts.as_slice(), self.pools.as_slice()) else { return None };
        let [route] = host.routes.as_slice() else { return None };
        let leads_to_pool = matches!(route.target, RouteTarget::Pool(_));
        let is_plain = leads_to_pool && route.path == "/" && route.replace_path.is_none();
        is_plain.then(|| self.keys.overlaid_by(&host.keys).overlaid_by(&route.keys))
    }
}
