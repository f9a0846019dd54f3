//! From the drafts of hosts and routes to the table of routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::addresses::collect_addresses;
use super::checks::check_hosts;
use super::draft::{HostDraft, HostRouteDraft};
use crate::balance::PolicySpec;
use crate::config::build_context::BuildContext;
use crate::config::settings::Settings;
use crate::routes::{HostSpec, Route, RouteAction, RouteScope, RouteTable, ServerCertificates, add_pool_routes};

/// Builds the routes of the hosts and of the pools that no route names, and sums up what their settings need.
///
/// `has_listen`: the addresses at the top are given.
pub(in crate::config) fn build_routes(
    settings: &mut Settings,
    hosts: &[HostDraft],
    has_listen: bool,
    context: &mut BuildContext,
) {
    check_hosts(hosts, settings, context);
    let named: BTreeSet<&str> = named_pools(hosts).collect();
    let mut specs: Vec<HostSpec> = hosts.iter().map(|host| build_host(host, &settings.scope)).collect();
    let unnamed = settings.pools.iter().filter(|pool| !named.contains(&*pool.name));
    let needs_top = has_listen || hosts.iter().any(|host| host.listens.is_empty()) || unnamed.clone().count() > 0;
    add_pool_routes(&mut specs, unnamed.map(|pool| (&pool.name, &pool.route)), &settings.scope);
    let routes = RouteTable::new(specs, &settings.listen);
    settings.listen = collect_addresses(&settings.listen, needs_top, hosts, context);
    let scopes = routes.routes().iter().map(|route| &route.scope).chain([&settings.scope]);
    settings.headers.collect_requirements(scopes.map(|scope| &scope.headers), &routes.required_fields());
    let mut keys = settings.pools.iter().flat_map(|pool| [Some(&pool.policy), pool.shadow.as_ref()]);
    if keys.any(|policy| policy.and_then(PolicySpec::key).is_some_and(|key| key.required_fields().socket_addrs)) {
        settings.headers.require_socket_addrs();
    }
    settings.routes = Arc::new(routes);
}

/// Returns the names of the pools that routes lead to.
pub(in crate::config) fn named_pools(hosts: &[HostDraft]) -> impl Iterator<Item = &str> {
    let pools = hosts.iter().flat_map(|host| &host.routes).filter_map(|route| route.pools.as_ref());
    pools.flatten().map(|pool| &*pool.value)
}

fn build_host(draft: &HostDraft, top: &RouteScope) -> HostSpec {
    let scope = Arc::new(draft.scope.apply(top));
    HostSpec {
        names: draft.names.iter().map(|name| name.value.clone()).collect(),
        listens: draft.listens.iter().map(|listen| listen.value.clone()).collect(),
        routes: draft.routes.iter().filter_map(|route| build_route(route, &scope)).collect(),
        scope,
        is_closed: true,
        certificates: ServerCertificates {
            chains: draft.certificates.chains.iter().map(|file| file.value.clone()).collect(),
            keys: draft.certificates.keys.iter().map(|file| file.value.clone()).collect(),
        },
    }
}

/// Returns the route; `None` if a part of it is missing, which the checks have reported.
fn build_route(draft: &HostRouteDraft, host: &RouteScope) -> Option<Route> {
    let action = match (&draft.answer, &draft.pools) {
        (Some(answer), _) => RouteAction::Answer(answer.value.clone()),
        (None, pools) => RouteAction::Pools(pools.as_ref()?.iter().map(|pool| pool.value.clone()).collect()),
    };
    let route = Route::new(draft.path.as_ref()?.value.clone(), action, Arc::new(draft.scope.apply(host)));
    Some(Route { replace_path: draft.replace_path.as_ref().map(|path| path.value.clone()), ..route })
}
