//! From servers, locations and upstreams to pools: one for each way a request can take.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::guards;
use super::headers::Header;
use super::remark::{Kind, Where};
use super::server::{Listening, Location, Server};
use super::tls;
use super::tree::Directive;
use super::upstream::{self, Member};
use super::walk::Walk;
use crate::balance;
use crate::config::{Listen, nearest};

/// A `[[pool]]`.
pub(super) struct Pool {
    pub(super) name: String,
    /// The upstream, or the address, that it is made of.
    upstream: String,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    /// Whether every path reaches the replicas.
    pub(super) any: bool,
    pub(super) policy: String,
    /// As TOML.
    pub(super) sticky: Option<String>,
    /// Replicas as strings of `replicas`.
    pub(super) replicas: Vec<String>,
    pub(super) api_key: Option<String>,
    /// Paths that are refused, and their statuses.
    pub(super) refused: Vec<(String, u16)>,
    /// Headers of requests, and of answers.
    pub(super) request: Vec<Header>,
    pub(super) response: Vec<Header>,
    pub(super) tls: tls::Keys,
    /// Where it is from, for people.
    pub(super) from: String,
}

/// What a location's `proxy_pass` comes to.
struct Target {
    /// The upstream, or the address itself.
    name: String,
    members: Vec<Member>,
    policy: String,
    sticky: Option<String>,
    /// What is put in front of paths.
    prefix: String,
    path: Option<String>,
    any: bool,
    tls: tls::Keys,
}

/// Makes the pools and finds the addresses that lead to them.
pub(super) fn assemble(walk: &mut Walk) -> (Vec<Pool>, Vec<Listen>) {
    let servers = std::mem::take(&mut walk.servers);
    let serving: Vec<usize> = (0..servers.len()).filter(|i| servers.get(*i).is_some_and(Server::serves)).collect();
    // Where nginx's default server leads to no replica, other hosts lead to none here either.
    let default = serving.iter().copied().find(|i| is_default(&servers, *i));
    let mut pools = Vec::new();
    let mut used = BTreeSet::new();
    for (i, server) in servers.iter().enumerate().filter(|(i, _)| serving.contains(i)) {
        let hosts: Vec<Option<&str>> =
            if default == Some(i) { vec![None] } else { server.names.iter().map(|name| Some(name.as_str())).collect() };
        for pattern in &server.patterns {
            let name = &pattern.name.text;
            let issue = pattern.name.at.issue(format!("`{name}` refuses paths that fit a pattern, and would not here"));
            walk.notes.issue(issue.help("write the location with the beginning of a path, or take it out"));
        }
        let targets: Vec<Option<Target>> = server
            .locations
            .iter()
            .map(|location| target(walk, location, location.pass.as_ref().filter(|_| !hosts.is_empty())?, &mut used))
            .collect();
        let open: Vec<bool> = targets.iter().map(Option::is_some).collect();
        for (location, target) in server.locations.iter().zip(&targets) {
            let Some(pass) = &location.pass else { continue };
            if hosts.is_empty() {
                let why = "no host tells its server from the others, and addresses do not";
                walk.notes.cannot(pass, why);
            }
            let Some(target) = target else { continue };
            walk.notes.carried += 1;
            let refused = guards::refused(server, &open, &location.path, location.exact);
            let below = format!("{}/", location.path);
            if location.exact && !refused.iter().any(|(path, _)| *path == below) {
                walk.notes.note(&location.directive, "paths below it lead there as well");
            }
            for host in &hosts {
                let mut pool = pool(target, *host, location);
                pool.from = from(location, server, host.is_none());
                pool.refused.clone_from(&refused);
                add(walk, &mut pools, pool, pass);
            }
        }
    }
    for upstream in walk.upstreams.iter().filter(|upstream| !used.contains(&upstream.name)) {
        let why = "no proxy_pass leads to it".to_owned();
        walk.notes.about(Kind::NotNeeded, upstream.what.clone(), upstream.at.clone(), why);
    }
    share(walk, &pools);
    let serving: Vec<&Server> =
        servers.iter().enumerate().filter(|(i, _)| serving.contains(i)).map(|(_, s)| s).collect();
    tell_apart(walk, &serving);
    let listens = tls::secure(walk, addresses(&serving), &serving, default.and_then(|i| servers.get(i)));
    tls::finish(walk);
    (pools, listens)
}

impl Server {
    /// Whether any of its requests leads to a replica.
    fn serves(&self) -> bool {
        !self.closed && self.locations.iter().any(|location| location.pass.is_some())
    }
}

/// Says which upstreams are several pools here.
fn share(walk: &mut Walk, pools: &[Pool]) {
    for upstream in &walk.upstreams {
        let count = pools.iter().filter(|pool| pool.upstream == upstream.name).count();
        if count > 1 {
            let why = format!("it is {count} pools here: each takes its turns and counts failures by itself");
            walk.notes.about(Kind::Note, upstream.what.clone(), upstream.at.clone(), why);
        }
    }
}

/// Where a server that names no address listens.
fn port_80() -> Listen {
    Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 80)))
}

/// Whether requests to hosts that no server names lead to server `i`, at some address.
fn is_default(servers: &[Server], i: usize) -> bool {
    let at = |server: &Server, address: &Listen| match server.listens.as_slice() {
        [] => *address == port_80(),
        listens => listens.iter().any(|listen| listen.address == *address),
    };
    let named = |address: &Listen| {
        servers.iter().position(|s| s.listens.iter().any(|listen| listen.default && listen.address == *address))
    };
    let first = |address: &Listen| named(address).or_else(|| servers.iter().position(|server| at(server, address)));
    match servers.get(i).map(|server| server.listens.as_slice()) {
        None => false,
        Some([]) => first(&port_80()) == Some(i),
        Some(listens) => listens.iter().any(|listen| first(&listen.address) == Some(i)),
    }
}

/// Says which addresses would have led to one server only.
fn tell_apart(walk: &mut Walk, serving: &[&Server]) {
    let usable = |server: &Server| -> Vec<Listen> {
        if server.listens.is_empty() {
            return vec![port_80()];
        }
        server.listens.iter().filter(|listen| listen.usable).map(|listen| listen.address.clone()).collect()
    };
    let Some((first, others)) = serving.split_first() else { return };
    let common = usable(first);
    for server in others {
        for Listening { what, at, .. } in server.listens.iter().filter(|l| l.usable && !common.contains(&l.address)) {
            let why = "every address leads to every server: hosts and paths alone tell them apart".to_owned();
            walk.notes.about(Kind::Cannot, what.clone(), at.clone(), why);
        }
    }
}

/// The addresses of these servers, without those that another covers.
fn addresses(serving: &[&Server]) -> Vec<Listen> {
    let mut all: Vec<Listen> = Vec::new();
    for server in serving {
        let listens = server.listens.iter().filter(|listen| listen.usable).map(|listen| listen.address.clone());
        let default = server.listens.is_empty().then(port_80);
        for address in listens.chain(default) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    let covered = |address: &Listen| {
        let Some(address) = address.address() else { return false };
        all.iter().filter_map(Listen::address).any(|other| {
            let wide = other.ip().is_unspecified() && other.is_ipv4() == address.is_ipv4();
            wide && other.port() == address.port() && other != address
        })
    };
    let shown = |address: &Listen| match address {
        Listen::Tcp(plain) if tls::is_spoken(serving, address) => Listen::Tls(*plain),
        address => address.clone(),
    };
    all.iter().filter(|address| !covered(address)).map(shown).collect()
}

/// Adds a pool under a name of its own, if no other takes its requests.
fn add(walk: &mut Walk, pools: &mut Vec<Pool>, mut pool: Pool, pass: &Directive) {
    if let Some(other) = pools.iter().find(|other| (&other.host, &other.path) == (&pool.host, &pool.path)) {
        walk.notes.carried = walk.notes.carried.saturating_sub(1);
        return walk.notes.cannot(pass, format!("pool `{}` has the same host and path", other.name));
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

fn pool(target: &Target, host: Option<&str>, location: &Location) -> Pool {
    let replicas = target.members.iter().map(|member| {
        let mut words = vec![format!("{}{}", member.url, target.prefix)];
        words.extend(member.words.iter().cloned());
        if !target.prefix.is_empty() && member.spec.lookup.is_none() {
            // Two replicas of one address are told apart by name.
            words.push(format!("name={}{}", member.spec.name, target.prefix));
        }
        words.join(" ")
    });
    Pool {
        name: target.name.clone(),
        upstream: target.name.clone(),
        host: host.map(str::to_owned),
        path: target.path.clone(),
        any: target.any,
        policy: target.policy.clone(),
        sticky: target.sticky.clone(),
        replicas: replicas.collect(),
        api_key: location.key.clone(),
        refused: Vec::new(),
        request: location.request.clone(),
        response: location.response.clone(),
        tls: target.tls.clone(),
        from: String::new(),
    }
}

/// Where a pool is from. nginx has a server for hosts that no other names; its pools name none.
fn from(location: &Location, server: &Server, default: bool) -> String {
    let Where { file, line } = location.directive.place();
    let what = location.directive.shown();
    let hosts = match server.names.as_slice() {
        [] => String::new(),
        names if default => format!(" for {} and every other host", names.join(", ")),
        names => format!(" for {}", names.join(", ")),
    };
    format!("{}{hosts} ({file}:{line})", what.trim_end_matches(" {}"))
}

/// Follows a `proxy_pass`; says why if it leads nowhere.
fn target(walk: &mut Walk, location: &Location, pass: &Directive, used: &mut BTreeSet<String>) -> Option<Target> {
    let (url, word) = (pass.arg(0), pass.args.first()?);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, uri) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if url.contains('$') {
        walk.notes.cannot(pass, "there are no variables");
        return None;
    }
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let issue = word.at.issue("this URL has blanks or control characters in it");
        walk.notes.issue(issue.help("no request line can hold them"));
        return None;
    }
    match scheme {
        "http" | "https" if rest.starts_with("unix:") => {
            walk.notes.cannot(pass, "replicas are reached over TCP");
            return None;
        }
        "http" | "https" if !authority.is_empty() => {}
        _ => {
            let issue = word.at.issue("`proxy_pass` takes a URL");
            walk.notes.issue(issue.help(format!("did you mean `http://{rest}`?")));
            return None;
        }
    }
    let Some((path, prefix, any)) = route(walk, location, pass, uri) else {
        // Its upstream is not unused for that.
        used.insert(authority.to_owned());
        return None;
    };
    let (mut members, policy) = replicas(walk, (scheme, authority), pass, used)?;
    let upstream = walk.upstreams.iter().find(|upstream| upstream.name == authority);
    let sticky = upstream.and_then(|upstream| upstream.sticky.clone());
    let mut tls = tls::Keys::default();
    if scheme == "https" {
        let upstream = used.contains(authority).then_some(authority);
        tls = tls::keys(walk, &location.verified, pass, upstream);
        for Member { url, .. } in &mut members {
            *url = url.replacen("http://", "https://", 1);
        }
    }
    if !any {
        walk.notes
            .note(&location.directive, "the path is taken off the API's paths, and no other path reaches the replicas");
    } else if path.is_some() && !location.exact && !location.path.ends_with('/') {
        walk.notes.note(&location.directive, "here it takes whole segments: the path itself and what is below it");
    }
    Some(Target { name: authority.to_owned(), members, policy, sticky, prefix, path, any, tls })
}

/// The replicas that a URL's host stands for, and how one is chosen.
fn replicas(
    walk: &mut Walk,
    (scheme, authority): (&str, &str),
    pass: &Directive,
    used: &mut BTreeSet<String>,
) -> Option<(Vec<Member>, String)> {
    const DEFAULT: &str = "round_robin";
    let word = pass.args.first()?;
    if let Some(upstream) = walk.upstreams.iter().find(|upstream| upstream.name == authority) {
        used.insert(authority.to_owned());
        let policy = upstream.policy.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let mut found = (upstream.members.clone(), policy);
        // nginx refuses that; so would we.
        if balance::Spec::parse(&found.1).is_ok_and(|policy| !policy.can_start_slowly()) {
            found.0.iter_mut().for_each(|member| member.words.retain(|word| !word.starts_with("slow_start=")));
        }
        if found.0.is_empty() {
            walk.notes.cannot(pass, "no server of its upstream can be reached");
            return None;
        }
        return Some(found);
    }
    let near = nearest(authority, walk.upstreams.iter().map(|upstream| upstream.name.as_str()));
    if let Some(near) = near.filter(|_| !authority.contains(['.', ':', '['])) {
        let issue = word.at.issue(format!("there is no upstream `{authority}`"));
        let issue = issue.help(format!("did you mean `{near}`?"));
        walk.notes.issue(issue);
        return None;
    }
    let port = if scheme == "https" { 443 } else { 80 };
    let member = upstream::member(walk, (scheme, port, authority), &word.at, Vec::new())?;
    Some((vec![member], DEFAULT.to_owned()))
}

/// What becomes of paths: the pool's `path`, what is put in front for the replicas, and whether every path goes on.
fn route(walk: &mut Walk, location: &Location, pass: &Directive, uri: &str) -> Option<(Option<String>, String, bool)> {
    let from = location.path.as_str();
    if !from.starts_with('/') || !from.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) {
        walk.notes.cannot(&location.directive, "a path begins with `/` and is of visible ASCII characters");
        return None;
    }
    let short = |path: &str| Some(path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
    if uri.is_empty() || uri == from {
        return Some((short(from), String::new(), true));
    }
    let base = uri.trim_end_matches('/');
    if from == "/" && uri.ends_with('/') && !base.ends_with("/v1") && !base.contains(['?', '#']) && !location.exact {
        return Some((None, base.to_owned(), true));
    }
    let cut = if from.ends_with('/') { from.to_owned() } else { format!("{from}/") };
    match cut.strip_suffix(uri) {
        Some(cut) if uri.ends_with('/') && !cut.is_empty() && !location.exact => {
            Some((short(cut), String::new(), false))
        }
        _ => {
            walk.notes.cannot(pass, format!("{from} would become {uri}: paths are not rewritten"));
            None
        }
    }
}
