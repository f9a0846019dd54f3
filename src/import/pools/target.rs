//! The replicas and paths behind a `proxy_pass`.

use std::collections::BTreeSet;

use super::imported_pool::{PoolTlsKeys, PoolUpstream};
use super::tls;
use crate::balance;
use crate::config::closest_match;
use crate::import::blocks::{NginxLocation, NginxUpstreamServer};
use crate::import::context::ImportContext;
use crate::import::directives::upstream::{ServerAddress, parse_server};
use crate::import::syntax::directive::Directive;

/// What a location's `proxy_pass` leads to.
pub(super) struct ProxyPassTarget {
    pub(super) upstream: PoolUpstream,
    pub(super) path: Option<String>,
}

/// The effect of a `proxy_pass` on paths.
struct PathMapping {
    /// The pool's `path`.
    path: Option<String>,
    /// The prefix that is added to paths for the replicas; empty: none.
    prefix: String,
    /// Whether every path reaches the replicas.
    any_path: bool,
}

/// The parts of a `proxy_pass` URL.
struct ProxyPassUrl<'a> {
    scheme: &'static str,
    /// Host and port, or the name of an upstream.
    authority: &'a str,
    /// Path and query; empty if there are none.
    uri: &'a str,
}

/// The servers and the policy of an upstream or an address.
struct ResolvedServers {
    servers: Vec<NginxUpstreamServer>,
    policy: String,
    sticky: Option<String>,
    /// Whether `proxy_pass` names an upstream.
    is_upstream: bool,
}

/// Resolves a `proxy_pass`; `None` and a remark or a diagnostic if it leads nowhere. Adds its upstream to `used`.
pub(super) fn resolve_target(
    context: &mut ImportContext,
    location: &NginxLocation,
    pass: &Directive,
    used: &mut BTreeSet<String>,
) -> Option<ProxyPassTarget> {
    let url = parse_url(context, pass)?;
    let Some(mapping) = map_path(context, location, pass, url.uri) else {
        // The upstream is named, so no remark on an unused one.
        used.insert(url.authority.to_owned());
        return None;
    };
    let mut resolved = resolve_servers(context, &url, pass, used)?;
    let mut tls = PoolTlsKeys::default();
    if url.scheme == "https" {
        let host = resolved.is_upstream.then_some(url.authority);
        tls = tls::build_pool_tls(context, &location.verification, pass, host);
        for server in &mut resolved.servers {
            server.url = server.url.replacen("http://", "https://", 1);
        }
    }
    if !mapping.any_path {
        context
            .report
            .add_note(&location.directive, "the path is stripped, and only API paths below it reach the replicas");
    } else if mapping.path.is_some() && !location.is_exact && !location.path.ends_with('/') {
        context
            .report
            .add_note(&location.directive, "it matches whole segments here: the path itself and paths below it");
    }
    let replicas = resolved.servers.iter().map(|server| format_replica(server, &mapping.prefix)).collect();
    let upstream = PoolUpstream {
        name: url.authority.to_owned(),
        replicas,
        policy: resolved.policy,
        sticky: resolved.sticky,
        any_path: mapping.any_path,
        tls,
    };
    Some(ProxyPassTarget { upstream, path: mapping.path })
}

/// Returns the parts of the URL; `None` and a remark or a diagnostic if it is no URL of a replica.
fn parse_url<'a>(context: &mut ImportContext, pass: &'a Directive) -> Option<ProxyPassUrl<'a>> {
    let (url, word) = (pass.arg(0), pass.args.first()?);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, uri) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if url.contains('$') {
        context.report.add_impossible(pass, "variables are not supported");
        return None;
    }
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let issue = word.span.diagnostic("this URL contains spaces or control characters");
        context.report.add_diagnostic(issue.with_help("a request line cannot contain them"));
        return None;
    }
    let scheme = match scheme {
        "http" => "http",
        "https" => "https",
        _ => "",
    };
    if !scheme.is_empty() && rest.starts_with("unix:") {
        context.report.add_unsupported(pass, "write the replica as `unix:/path` by hand");
        return None;
    }
    if scheme.is_empty() || authority.is_empty() {
        let issue = word.span.diagnostic("`proxy_pass` takes a URL");
        context.report.add_diagnostic(issue.with_help(format!("did you mean `http://{rest}`?")));
        return None;
    }
    Some(ProxyPassUrl { scheme, authority, uri })
}

/// Returns a server as a string of `replicas`.
fn format_replica(server: &NginxUpstreamServer, prefix: &str) -> String {
    let mut words = vec![format!("{}{prefix}", server.url)];
    words.extend(server.options.iter().cloned());
    if !prefix.is_empty() && server.spec.dns_lookup.is_none() {
        // Replicas of one address with different prefixes need different names.
        words.push(format!("name={}{prefix}", server.spec.name));
    }
    words.join(" ")
}

/// Returns the servers of a URL's host, and their policy; `None` and a remark or a diagnostic if there are none.
fn resolve_servers(
    context: &mut ImportContext,
    url: &ProxyPassUrl<'_>,
    pass: &Directive,
    used: &mut BTreeSet<String>,
) -> Option<ResolvedServers> {
    const DEFAULT_POLICY: &str = "round_robin";
    let (word, authority) = (pass.args.first()?, url.authority);
    if let Some(upstream) = context.upstreams.iter().find(|upstream| upstream.name == authority) {
        used.insert(authority.to_owned());
        let policy = upstream.policy.clone().unwrap_or_else(|| DEFAULT_POLICY.to_owned());
        let (mut servers, sticky) = (upstream.servers.clone(), upstream.sticky.clone());
        // nginx rejects `slow_start` with such a policy, and so does router.toml.
        if balance::PolicySpec::parse(&policy).is_ok_and(|policy| !policy.supports_slow_start()) {
            servers.iter_mut().for_each(|server| server.options.retain(|word| !word.starts_with("slow_start=")));
        }
        if servers.is_empty() {
            context.report.add_impossible(pass, "its upstream has no usable server");
            return None;
        }
        return Some(ResolvedServers { servers, policy, sticky, is_upstream: true });
    }
    let near = closest_match(authority, context.upstreams.iter().map(|upstream| upstream.name.as_str()));
    if let Some(near) = near.filter(|_| !authority.contains(['.', ':', '['])) {
        let issue = word.span.diagnostic(format!("unknown upstream `{authority}`"));
        let issue = issue.with_help(format!("did you mean `{near}`?"));
        context.report.add_diagnostic(issue);
        return None;
    }
    let default_port = if url.scheme == "https" { 443 } else { 80 };
    let address = ServerAddress { scheme: url.scheme, default_port, text: authority, span: &word.span };
    let server = parse_server(context, &address, Vec::new())?;
    let policy = DEFAULT_POLICY.to_owned();
    Some(ResolvedServers { servers: vec![server], policy, sticky: None, is_upstream: false })
}

/// Returns the effect on paths; `None` and a remark if router.toml cannot express it.
fn map_path(context: &mut ImportContext, location: &NginxLocation, pass: &Directive, uri: &str) -> Option<PathMapping> {
    let from = location.path.as_str();
    if !from.starts_with('/') || !from.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) {
        context.report.add_impossible(
            &location.directive,
            "a path must start with `/` and contain visible ASCII characters only",
        );
        return None;
    }
    let without_slash = |path: &str| Some(path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
    if uri.is_empty() || uri == from {
        return Some(PathMapping { path: without_slash(from), prefix: String::new(), any_path: true });
    }
    let base = uri.trim_end_matches('/');
    if from == "/" && uri.ends_with('/') && !base.ends_with("/v1") && !base.contains(['?', '#']) && !location.is_exact {
        return Some(PathMapping { path: None, prefix: base.to_owned(), any_path: true });
    }
    let from_folder = if from.ends_with('/') { from.to_owned() } else { format!("{from}/") };
    match from_folder.strip_suffix(uri) {
        Some(removed) if uri.ends_with('/') && !removed.is_empty() && !location.is_exact => {
            Some(PathMapping { path: without_slash(removed), prefix: String::new(), any_path: false })
        }
        _ => {
            context.report.add_impossible(pass, format!("{from} would become {uri}: paths are not rewritten"));
            None
        }
    }
}
