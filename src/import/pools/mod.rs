//! The pools and addresses of router.toml, from nginx's servers, locations and upstreams.
//!
//! A pool is made for each host and path that a `proxy_pass` serves.

mod addresses;
mod blocked_paths;
pub(super) mod imported_pool;
mod target;
mod tls;

use std::collections::BTreeSet;

use super::blocks::{NginxLocation, NginxServer};
use super::context::ImportContext;
use super::report::RemarkKind;
use super::syntax::directive::{Directive, SourceLine};
use crate::routes::ListenAddr;
use imported_pool::ImportedPool;
use target::ProxyPassTarget;

/// Returns the pools, and the addresses to listen at.
pub(super) fn build_pools(context: &mut ImportContext) -> (Vec<ImportedPool>, Vec<ListenAddr>) {
    let servers = std::mem::take(&mut context.servers);
    let proxied: Vec<usize> =
        (0..servers.len()).filter(|index| servers.get(*index).is_some_and(has_replicas)).collect();
    // If nginx's default server leads to no replica, unknown hosts lead to none here either.
    let default = proxied.iter().copied().find(|index| addresses::is_default_server(&servers, *index));
    let mut pools = Vec::new();
    let mut used_upstreams = BTreeSet::new();
    for (index, server) in servers.iter().enumerate().filter(|(index, _)| proxied.contains(index)) {
        report_blocked_patterns(context, server);
        let hosts: Vec<Option<&str>> = match default == Some(index) {
            true => vec![None],
            false => server.names.iter().map(|name| Some(name.as_str())).collect(),
        };
        build_server_pools(context, server, &hosts, &mut pools, &mut used_upstreams);
    }
    report_unused_upstreams(context, &used_upstreams);
    report_shared_upstreams(context, &pools);
    let serving: Vec<&NginxServer> = proxied.iter().filter_map(|index| servers.get(*index)).collect();
    addresses::report_exclusive_addresses(context, &serving);
    let listens = addresses::collect_addresses(&serving);
    let default = default.and_then(|index| servers.get(index));
    let listens = tls::secure_addresses(context, listens, &serving, default);
    tls::finish_tls(context);
    (pools, listens)
}

/// Returns whether any request to a server reaches a replica.
fn has_replicas(server: &NginxServer) -> bool {
    !server.has_return && server.locations.iter().any(|location| location.proxy_pass.is_some())
}

/// Reports the guards in locations with a pattern, which cannot be carried.
fn report_blocked_patterns(context: &mut ImportContext, server: &NginxServer) {
    for pattern in &server.blocked_patterns {
        let name = &pattern.name.text;
        let issue =
            pattern.name.span.diagnostic(format!("`{name}` refuses paths by a pattern, which the router cannot do"));
        let help = "write the location with a path prefix, or remove it";
        context.report.add_diagnostic(issue.with_help(help));
    }
}

/// Adds the pools of a server: one for each location with a `proxy_pass` and each of `hosts`.
fn build_server_pools(
    context: &mut ImportContext,
    server: &NginxServer,
    hosts: &[Option<&str>],
    pools: &mut Vec<ImportedPool>,
    used_upstreams: &mut BTreeSet<String>,
) {
    let mut targets: Vec<Option<ProxyPassTarget>> = Vec::new();
    for location in &server.locations {
        let pass = location.proxy_pass.as_ref().filter(|_| !hosts.is_empty());
        targets.push(pass.and_then(|pass| target::resolve_target(context, location, pass, used_upstreams)));
    }
    let is_proxied: Vec<bool> = targets.iter().map(Option::is_some).collect();
    for (location, target) in server.locations.iter().zip(&targets) {
        let Some(pass) = &location.proxy_pass else { continue };
        if hosts.is_empty() {
            let reason = "its server has no name of its own, and the address does not select a server";
            context.report.add_impossible(pass, reason);
        }
        let Some(target) = target else { continue };
        context.report.carried_count += 1;
        let blocked = blocked_paths::collect_blocked_paths(server, &is_proxied, &location.path, location.is_exact);
        let below = format!("{}/", location.path);
        if location.is_exact && !blocked.iter().any(|(path, _)| *path == below) {
            context.report.add_note(&location.directive, "paths below it match too");
        }
        for host in hosts {
            let pool = ImportedPool {
                name: target.upstream.name.clone(),
                host: host.map(str::to_owned),
                path: target.path.clone(),
                upstream: target.upstream.clone(),
                api_key: location.api_key.clone(),
                blocked_paths: blocked.clone(),
                request_headers: location.request_headers.clone(),
                response_headers: location.response_headers.clone(),
                source_comment: describe_source(location, server, host.is_none()),
            };
            add_pool(context, pools, pool, pass);
        }
    }
}

/// Adds a pool under a unique name, unless another one has its host and path.
fn add_pool(context: &mut ImportContext, pools: &mut Vec<ImportedPool>, mut pool: ImportedPool, pass: &Directive) {
    if let Some(other) = pools.iter().find(|other| (&other.host, &other.path) == (&pool.host, &pool.path)) {
        context.report.carried_count = context.report.carried_count.saturating_sub(1);
        return context.report.add_impossible(pass, format!("pool `{}` has the same host and path", other.name));
    }
    let is_taken = |name: &str| pools.iter().any(|pool| pool.name == name);
    if is_taken(&pool.name) {
        let host = pool.host.as_ref().map(|host| format!("@{host}")).unwrap_or_default();
        pool.name = format!("{}{host}{}", pool.name, pool.path.as_deref().unwrap_or_default());
    }
    let base = pool.name.clone();
    let mut number = 2;
    while is_taken(&pool.name) {
        pool.name = format!("{base}#{number}");
        number += 1;
    }
    pools.push(pool);
}

/// Returns the comment on a pool's origin. The pools of nginx's default server have no host, so it lists the names.
fn describe_source(location: &NginxLocation, server: &NginxServer, is_default: bool) -> String {
    let SourceLine { file, line } = location.directive.source_line();
    let directive = location.directive.to_one_line();
    let hosts = match server.names.as_slice() {
        [] => String::new(),
        names if is_default => format!(" for {} and every other host", names.join(", ")),
        names => format!(" for {}", names.join(", ")),
    };
    format!("{}{hosts} ({file}:{line})", directive.trim_end_matches(" {}"))
}

/// Remarks on the `upstream` blocks that no `proxy_pass` names.
fn report_unused_upstreams(context: &mut ImportContext, used_upstreams: &BTreeSet<String>) {
    for upstream in context.upstreams.iter().filter(|upstream| !used_upstreams.contains(&upstream.name)) {
        let (text, line) = (upstream.directive_text.clone(), upstream.source_line.clone());
        context.report.add_remark_at(RemarkKind::NotNeeded, text, line, "no proxy_pass leads to it".to_owned());
    }
}

/// Notes the upstreams that become several pools.
fn report_shared_upstreams(context: &mut ImportContext, pools: &[ImportedPool]) {
    for upstream in &context.upstreams {
        let count = pools.iter().filter(|pool| pool.upstream.name == upstream.name).count();
        if count > 1 {
            let (text, line) = (upstream.directive_text.clone(), upstream.source_line.clone());
            let reason = format!("it becomes {count} pools: each has its own rotation and failure counts");
            context.report.add_remark_at(RemarkKind::Note, text, line, reason);
        }
    }
}
