//! From servers, locations and upstreams to pools: one for each way a request can take.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::context::ImportContext;
use super::directives::access_rules;
use super::directives::headers::TomlHeader;
use super::directives::server::{NginxListen, NginxLocation, NginxServer};
use super::directives::tls;
use super::directives::upstream;
use super::directives::upstream::NginxUpstreamServer;
use super::report::{RemarkKind, SourceLine};
use super::syntax::parser::Directive;
use crate::balance;
use crate::config::{ListenAddr, closest_match};

/// A `[[pool]]`.
pub(super) struct ImportedPool {
    pub(super) name: String,
    /// The upstream, or the address, that it is made of.
    upstream: String,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    /// Whether every path reaches the replicas.
    pub(super) any_path: bool,
    pub(super) policy: String,
    /// As TOML.
    pub(super) sticky: Option<String>,
    /// Replicas as strings of `replicas`.
    pub(super) replicas: Vec<String>,
    pub(super) api_key: Option<String>,
    /// Paths that are refused, and their statuses.
    pub(super) blocked_paths: Vec<(String, u16)>,
    /// Headers of requests, and of answers.
    pub(super) request_headers: Vec<TomlHeader>,
    pub(super) response_headers: Vec<TomlHeader>,
    pub(super) tls: tls::PoolTlsKeys,
    /// Where it is from, for people.
    pub(super) source_comment: String,
}

/// What a location's `proxy_pass` comes to.
struct ProxyPassTarget {
    /// The upstream, or the address itself.
    name: String,
    servers: Vec<NginxUpstreamServer>,
    policy: String,
    sticky: Option<String>,
    /// What is put in front of paths.
    prefix: String,
    path: Option<String>,
    any_path: bool,
    tls: tls::PoolTlsKeys,
}

/// Makes the pools and finds the addresses that lead to them.
pub(super) fn build_pools(walk: &mut ImportContext) -> (Vec<ImportedPool>, Vec<ListenAddr>) {
    let servers = std::mem::take(&mut walk.servers);
    let serving: Vec<usize> =
        (0..servers.len()).filter(|i| servers.get(*i).is_some_and(NginxServer::is_proxied)).collect();
    // Where nginx's default server leads to no replica, other hosts lead to none here either.
    let default = serving.iter().copied().find(|i| is_default_server(&servers, *i));
    let mut pools = Vec::new();
    let mut used = BTreeSet::new();
    for (i, server) in servers.iter().enumerate().filter(|(i, _)| serving.contains(i)) {
        let hosts: Vec<Option<&str>> =
            if default == Some(i) { vec![None] } else { server.names.iter().map(|name| Some(name.as_str())).collect() };
        for pattern in &server.blocked_patterns {
            let name = &pattern.name.text;
            let issue =
                pattern.name.span.diagnostic(format!("`{name}` refuses paths that fit a pattern, and would not here"));
            walk.report
                .add_diagnostic(issue.with_help("write the location with the beginning of a path, or take it out"));
        }
        let targets: Vec<Option<ProxyPassTarget>> = server
            .locations
            .iter()
            .map(|location| {
                resolve_target(walk, location, location.proxy_pass.as_ref().filter(|_| !hosts.is_empty())?, &mut used)
            })
            .collect();
        let open: Vec<bool> = targets.iter().map(Option::is_some).collect();
        for (location, target) in server.locations.iter().zip(&targets) {
            let Some(pass) = &location.proxy_pass else { continue };
            if hosts.is_empty() {
                let why = "no host tells its server from the others, and addresses do not";
                walk.report.add_impossible(pass, why);
            }
            let Some(target) = target else { continue };
            walk.report.carried_count += 1;
            let refused = access_rules::collect_blocked_paths(server, &open, &location.path, location.is_exact);
            let below = format!("{}/", location.path);
            if location.is_exact && !refused.iter().any(|(path, _)| *path == below) {
                walk.report.add_note(&location.directive, "paths below it lead there as well");
            }
            for host in &hosts {
                let mut pool = build_pool(target, *host, location);
                pool.source_comment = describe_source(location, server, host.is_none());
                pool.blocked_paths.clone_from(&refused);
                add_pool(walk, &mut pools, pool, pass);
            }
        }
    }
    report_unused_upstreams(walk, &used);
    report_shared_upstreams(walk, &pools);
    let serving: Vec<&NginxServer> =
        servers.iter().enumerate().filter(|(i, _)| serving.contains(i)).map(|(_, s)| s).collect();
    report_exclusive_addresses(walk, &serving);
    let listens =
        tls::secure_addresses(walk, collect_addresses(&serving), &serving, default.and_then(|i| servers.get(i)));
    tls::finish_tls(walk);
    (pools, listens)
}

/// Notes the `upstream` blocks that no `proxy_pass` names.
fn report_unused_upstreams(walk: &mut ImportContext, used: &BTreeSet<String>) {
    for upstream in walk.upstreams.iter().filter(|upstream| !used.contains(&upstream.name)) {
        let (text, line) = (upstream.directive_text.clone(), upstream.source_line.clone());
        walk.report.add_remark_at(RemarkKind::NotNeeded, text, line, "no proxy_pass leads to it".to_owned());
    }
}

impl NginxServer {
    /// Whether any of its requests leads to a replica.
    fn is_proxied(&self) -> bool {
        !self.has_return && self.locations.iter().any(|location| location.proxy_pass.is_some())
    }
}

/// Says which upstreams are several pools here.
fn report_shared_upstreams(walk: &mut ImportContext, pools: &[ImportedPool]) {
    for upstream in &walk.upstreams {
        let count = pools.iter().filter(|pool| pool.upstream == upstream.name).count();
        if count > 1 {
            let why = format!("it is {count} pools here: each takes its turns and counts failures by itself");
            walk.report.add_remark_at(
                RemarkKind::Note,
                upstream.directive_text.clone(),
                upstream.source_line.clone(),
                why,
            );
        }
    }
}

/// Where a server that names no address listens.
fn default_listen_address() -> ListenAddr {
    ListenAddr::Tcp(SocketAddr::from(([0, 0, 0, 0], 80)))
}

/// Whether requests to hosts that no server names lead to server `i`, at some address.
fn is_default_server(servers: &[NginxServer], i: usize) -> bool {
    let at = |server: &NginxServer, address: &ListenAddr| match server.listens.as_slice() {
        [] => *address == default_listen_address(),
        listens => listens.iter().any(|listen| listen.address == *address),
    };
    let named = |address: &ListenAddr| {
        servers.iter().position(|s| s.listens.iter().any(|listen| listen.is_default && listen.address == *address))
    };
    let first = |address: &ListenAddr| named(address).or_else(|| servers.iter().position(|server| at(server, address)));
    match servers.get(i).map(|server| server.listens.as_slice()) {
        None => false,
        Some([]) => first(&default_listen_address()) == Some(i),
        Some(listens) => listens.iter().any(|listen| first(&listen.address) == Some(i)),
    }
}

/// Says which addresses would have led to one server only.
fn report_exclusive_addresses(walk: &mut ImportContext, serving: &[&NginxServer]) {
    let usable = |server: &NginxServer| -> Vec<ListenAddr> {
        if server.listens.is_empty() {
            return vec![default_listen_address()];
        }
        server.listens.iter().filter(|listen| listen.is_supported).map(|listen| listen.address.clone()).collect()
    };
    let Some((first, others)) = serving.split_first() else { return };
    let common = usable(first);
    for server in others {
        for NginxListen { directive_text: what, source_line: at, .. } in
            server.listens.iter().filter(|l| l.is_supported && !common.contains(&l.address))
        {
            let why = "every address leads to every server: hosts and paths alone tell them apart".to_owned();
            walk.report.add_remark_at(RemarkKind::Impossible, what.clone(), at.clone(), why);
        }
    }
}

/// The addresses of these servers, without those that another covers.
fn collect_addresses(serving: &[&NginxServer]) -> Vec<ListenAddr> {
    let mut all: Vec<ListenAddr> = Vec::new();
    for server in serving {
        let listens = server.listens.iter().filter(|listen| listen.is_supported).map(|listen| listen.address.clone());
        let default = server.listens.is_empty().then(default_listen_address);
        for address in listens.chain(default) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    let covered = |address: &ListenAddr| {
        let Some(address) = address.socket_addr() else { return false };
        all.iter().filter_map(ListenAddr::socket_addr).any(|other| {
            let wide = other.ip().is_unspecified() && other.is_ipv4() == address.is_ipv4();
            wide && other.port() == address.port() && other != address
        })
    };
    let shown = |address: &ListenAddr| match address {
        ListenAddr::Tcp(plain) if tls::is_tls_address(serving, address) => ListenAddr::Tls(*plain),
        address => address.clone(),
    };
    all.iter().filter(|address| !covered(address)).map(shown).collect()
}

/// Adds a pool under a name of its own, if no other takes its requests.
fn add_pool(walk: &mut ImportContext, pools: &mut Vec<ImportedPool>, mut pool: ImportedPool, pass: &Directive) {
    if let Some(other) = pools.iter().find(|other| (&other.host, &other.path) == (&pool.host, &pool.path)) {
        walk.report.carried_count = walk.report.carried_count.saturating_sub(1);
        return walk.report.add_impossible(pass, format!("pool `{}` has the same host and path", other.name));
    }
    let taken = |name: &str| pools.iter().any(|pool| pool.name == name);
    if taken(&pool.name) {
        let at = pool.host.as_ref().map(|host| format!("@{host}")).unwrap_or_default();
        pool.name = format!("{}{at}{}", pool.name, pool.path.as_deref().unwrap_or_default());
    }
    let base = pool.name.clone();
    let mut number = 2;
    while taken(&pool.name) {
        pool.name = format!("{base}#{number}");
        number += 1;
    }
    pools.push(pool);
}

fn build_pool(target: &ProxyPassTarget, host: Option<&str>, location: &NginxLocation) -> ImportedPool {
    let replicas = target.servers.iter().map(|member| {
        let mut words = vec![format!("{}{}", member.url, target.prefix)];
        words.extend(member.options.iter().cloned());
        if !target.prefix.is_empty() && member.spec.dns_lookup.is_none() {
            // Two replicas of one address are told apart by name.
            words.push(format!("name={}{}", member.spec.name, target.prefix));
        }
        words.join(" ")
    });
    ImportedPool {
        name: target.name.clone(),
        upstream: target.name.clone(),
        host: host.map(str::to_owned),
        path: target.path.clone(),
        any_path: target.any_path,
        policy: target.policy.clone(),
        sticky: target.sticky.clone(),
        replicas: replicas.collect(),
        api_key: location.api_key.clone(),
        blocked_paths: Vec::new(),
        request_headers: location.request_headers.clone(),
        response_headers: location.response_headers.clone(),
        tls: target.tls.clone(),
        source_comment: String::new(),
    }
}

/// Where a pool is from. nginx has a server for hosts that no other names; its pools name none.
fn describe_source(location: &NginxLocation, server: &NginxServer, default: bool) -> String {
    let SourceLine { file, line } = location.directive.source_line();
    let what = location.directive.to_one_line();
    let hosts = match server.names.as_slice() {
        [] => String::new(),
        names if default => format!(" for {} and every other host", names.join(", ")),
        names => format!(" for {}", names.join(", ")),
    };
    format!("{}{hosts} ({file}:{line})", what.trim_end_matches(" {}"))
}

/// Follows a `proxy_pass`; says why if it leads nowhere.
fn resolve_target(
    walk: &mut ImportContext,
    location: &NginxLocation,
    pass: &Directive,
    used: &mut BTreeSet<String>,
) -> Option<ProxyPassTarget> {
    let (url, word) = (pass.arg(0), pass.args.first()?);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, uri) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if url.contains('$') {
        walk.report.add_impossible(pass, "there are no variables");
        return None;
    }
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let issue = word.span.diagnostic("this URL has blanks or control characters in it");
        walk.report.add_diagnostic(issue.with_help("no request line can hold them"));
        return None;
    }
    match scheme {
        "http" | "https" if rest.starts_with("unix:") => {
            walk.report.add_impossible(pass, "replicas are reached over TCP");
            return None;
        }
        "http" | "https" if !authority.is_empty() => {}
        _ => {
            let issue = word.span.diagnostic("`proxy_pass` takes a URL");
            walk.report.add_diagnostic(issue.with_help(format!("did you mean `http://{rest}`?")));
            return None;
        }
    }
    let Some((path, prefix, any)) = map_path(walk, location, pass, uri) else {
        // Its upstream is not unused for that.
        used.insert(authority.to_owned());
        return None;
    };
    let (mut members, policy) = resolve_servers(walk, (scheme, authority), pass, used)?;
    let upstream = walk.upstreams.iter().find(|upstream| upstream.name == authority);
    let sticky = upstream.and_then(|upstream| upstream.sticky.clone());
    let mut tls = tls::PoolTlsKeys::default();
    if scheme == "https" {
        let upstream = used.contains(authority).then_some(authority);
        tls = tls::build_pool_tls(walk, &location.verification, pass, upstream);
        for NginxUpstreamServer { url, .. } in &mut members {
            *url = url.replacen("http://", "https://", 1);
        }
    }
    if !any {
        walk.report.add_note(
            &location.directive,
            "the path is taken off the API's paths, and no other path reaches the replicas",
        );
    } else if path.is_some() && !location.is_exact && !location.path.ends_with('/') {
        walk.report.add_note(&location.directive, "here it takes whole segments: the path itself and what is below it");
    }
    Some(ProxyPassTarget {
        name: authority.to_owned(),
        servers: members,
        policy,
        sticky,
        prefix,
        path,
        any_path: any,
        tls,
    })
}

/// The replicas that a URL's host stands for, and how one is chosen.
fn resolve_servers(
    walk: &mut ImportContext,
    (scheme, authority): (&str, &str),
    pass: &Directive,
    used: &mut BTreeSet<String>,
) -> Option<(Vec<NginxUpstreamServer>, String)> {
    const DEFAULT_POLICY: &str = "round_robin";
    let word = pass.args.first()?;
    if let Some(upstream) = walk.upstreams.iter().find(|upstream| upstream.name == authority) {
        used.insert(authority.to_owned());
        let policy = upstream.policy.clone().unwrap_or_else(|| DEFAULT_POLICY.to_owned());
        let mut found = (upstream.servers.clone(), policy);
        // nginx refuses that; so would we.
        if balance::PolicySpec::parse(&found.1).is_ok_and(|policy| !policy.supports_slow_start()) {
            found.0.iter_mut().for_each(|member| member.options.retain(|word| !word.starts_with("slow_start=")));
        }
        if found.0.is_empty() {
            walk.report.add_impossible(pass, "no server of its upstream can be reached");
            return None;
        }
        return Some(found);
    }
    let near = closest_match(authority, walk.upstreams.iter().map(|upstream| upstream.name.as_str()));
    if let Some(near) = near.filter(|_| !authority.contains(['.', ':', '['])) {
        let issue = word.span.diagnostic(format!("there is no upstream `{authority}`"));
        let issue = issue.with_help(format!("did you mean `{near}`?"));
        walk.report.add_diagnostic(issue);
        return None;
    }
    let port = if scheme == "https" { 443 } else { 80 };
    let member = upstream::parse_server(walk, (scheme, port, authority), &word.span, Vec::new())?;
    Some((vec![member], DEFAULT_POLICY.to_owned()))
}

/// What becomes of paths: the pool's `path`, what is put in front for the replicas, and whether every path goes on.
fn map_path(
    walk: &mut ImportContext,
    location: &NginxLocation,
    pass: &Directive,
    uri: &str,
) -> Option<(Option<String>, String, bool)> {
    let from = location.path.as_str();
    if !from.starts_with('/') || !from.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) {
        walk.report.add_impossible(&location.directive, "a path begins with `/` and is of visible ASCII characters");
        return None;
    }
    let short = |path: &str| Some(path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
    if uri.is_empty() || uri == from {
        return Some((short(from), String::new(), true));
    }
    let base = uri.trim_end_matches('/');
    if from == "/" && uri.ends_with('/') && !base.ends_with("/v1") && !base.contains(['?', '#']) && !location.is_exact {
        return Some((None, base.to_owned(), true));
    }
    let cut = if from.ends_with('/') { from.to_owned() } else { format!("{from}/") };
    match cut.strip_suffix(uri) {
        Some(cut) if uri.ends_with('/') && !cut.is_empty() && !location.is_exact => {
            Some((short(cut), String::new(), false))
        }
        _ => {
            walk.report.add_impossible(pass, format!("{from} would become {uri}: paths are not rewritten"));
            None
        }
    }
}
