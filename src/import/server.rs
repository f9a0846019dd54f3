//! `server` and `location` blocks as they are written.

use super::headers::Header;
use super::remark::{Kind, Where};
use super::tls::{Shown, Verified};
use super::tree::Directive;
use super::walk::{Scope, Walk};
use super::{guards, headers, upstream};
use crate::config::Listen;

/// A `server` block.
pub(super) struct Server {
    /// Empty: nginx's default, `*:80`.
    pub(super) listens: Vec<Listening>,
    /// Lower case, without patterns.
    pub(super) names: Vec<String>,
    pub(super) locations: Vec<Location>,
    /// Whether it answers everything by itself.
    pub(super) closed: bool,
    /// What refuses paths that fit a pattern.
    pub(super) patterns: Vec<Directive>,
    pub(super) shown: Shown,
}

/// A `listen`.
pub(super) struct Listening {
    pub(super) what: String,
    pub(super) at: Where,
    pub(super) address: Listen,
    /// Whether `default_server` is there.
    pub(super) default: bool,
    /// Whether TLS is spoken there.
    pub(super) tls: bool,
    /// Whether clients can be accepted there.
    pub(super) usable: bool,
}

/// A `location` block, its own and inherited directives that matter to a pool.
pub(super) struct Location {
    pub(super) directive: Directive,
    pub(super) path: String,
    /// `location = /path`.
    pub(super) exact: bool,
    pub(super) pass: Option<Directive>,
    /// The status that its requests are refused with.
    pub(super) refused: Option<u16>,
    /// The key that replicas are sent in `Authorization`.
    pub(super) key: Option<String>,
    /// Headers of requests, and of answers.
    pub(super) request: Vec<Header>,
    pub(super) response: Vec<Header>,
    /// How replicas are verified.
    pub(super) verified: Verified,
}

/// `server { ... }`, or a server of an upstream.
pub(super) fn server(walk: &mut Walk, directive: &Directive) {
    if walk.scope == Scope::Upstream {
        return upstream::server(walk, directive);
    }
    if !walk.belongs(directive, &[Scope::Main, Scope::Http], "`http`, or a line `server ADDRESS;` in `upstream`") {
        return;
    }
    let Some(block) = &directive.block else {
        let issue = directive.name.at.issue("`server` with an address belongs in `upstream`");
        return walk.notes.issue(issue.help("in `http` it takes a block: server { ... }"));
    };
    let (shown, closed, patterns) = (Shown::default(), false, Vec::new());
    let (listens, names, locations) = (Vec::new(), Vec::new(), Vec::new());
    walk.server = Some(Server { listens, names, locations, closed, patterns, shown });
    walk.block(block, Scope::Server);
    walk.servers.extend(walk.server.take());
}

/// `location [= | ^~ | ~ | ~*] PATH { ... }`.
pub(super) fn location(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Server, Scope::Location], "`server`") {
        return;
    }
    let words = directive.texts();
    let (how, path) = match words.as_slice() {
        [how @ ("=" | "^~" | "~" | "~*"), path] => (*how, *path),
        [word] => {
            ["=", "^~", "~*", "~"].iter().find_map(|how| Some((*how, word.strip_prefix(how)?))).unwrap_or(("", word))
        }
        _ => {
            let issue = directive.name.at.issue("`location` takes a path and a block");
            return walk.notes.issue(issue.help("for example location /v1/ { proxy_pass http://chat; }"));
        }
    };
    let Some(block) = &directive.block else {
        return walk
            .notes
            .issue(directive.name.at.issue("`location` needs a block").help("write it between `{` and `}`"));
    };
    match (how, path) {
        ("~" | "~*", _) => return guards::pattern(walk, directive),
        (_, path) if path.starts_with('@') => return walk.notes.cannot(directive, "nothing leads to a named location"),
        // It may keep requests out, and no key of ours takes it.
        (_, path) if path.contains(char::is_control) => {
            let at = directive.args.last().map_or(&directive.name.at, |word| &word.at);
            let issue = at.issue("this path has control characters in it");
            return walk.notes.issue(issue.help("take the location out to import the rest"));
        }
        _ => {}
    }
    let mut head = directive.clone();
    head.block = Some(Vec::new());
    let (path, exact) = (path.to_owned(), how == "=");
    let around = walk.location.replace(Location {
        directive: head,
        path,
        exact,
        pass: None,
        refused: None,
        key: None,
        request: Vec::new(),
        response: Vec::new(),
        verified: Verified::default(),
    });
    walk.block(block, Scope::Location);
    let inner = std::mem::replace(&mut walk.location, around);
    if let (Some(server), Some(inner)) = (&mut walk.server, inner) {
        let nested = block.iter().any(|directive| directive.name.text == "location");
        if inner.pass.is_none() && inner.refused.is_none() && !nested {
            walk.notes.cannot(&inner.directive, "there is no proxy_pass in it: its path is refused with 404");
        }
        server.locations.push(inner);
    }
}

/// Kept until all upstreams are known.
pub(super) fn proxy_pass(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Location], "`location`") {
        return;
    }
    if directive.args.len() != 1 {
        return walk.wrong(directive, "one URL, such as http://chat;");
    }
    if let Some(location) = &mut walk.location {
        location.pass = Some(directive.clone());
    }
}

/// Gathers what is in force at the end of a location.
pub(super) fn close(walk: &mut Walk) {
    let Some(mut location) = walk.location.take() else { return };
    location.pass = location.pass.filter(|_| location.refused.is_none());
    location.verified = walk.tls.verified();
    guards::close(walk, &location);
    headers::close(walk, &mut location);
    walk.location = Some(location);
}

/// `listen ADDRESS [default_server] [ssl] ...`.
pub(super) fn listen(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Server], "`server`") {
        return;
    }
    let Some((address, words)) = directive.args.split_first() else { return walk.wrong(directive, ADDRESS) };
    let parsed = address.text.parse::<Listen>().or_else(|bad| format!("{}:80", address.text).parse().map_err(|_| bad));
    let address = match parsed {
        Ok(address) => address,
        Err(_) if address.text.contains(|c: char| c.is_ascii_alphabetic()) && !address.text.starts_with('[') => {
            return walk.notes.cannot(directive, "names are not listened at, only addresses");
        }
        Err(_) => return walk.wrong(directive, ADDRESS),
    };
    let (mut default, mut usable, mut both, mut tls) = (false, true, false, false);
    for word in words {
        match word.text.as_str() {
            "default_server" | "default" => default = true,
            "ipv6only=off" => both = true,
            "ssl" if matches!(address, Listen::Tcp(_)) => tls = true,
            "ssl" | "quic" | "proxy_protocol" => usable = false,
            "http2" => {
                let why = "HTTP/2 is always there".to_owned();
                walk.notes.about(Kind::NotNeeded, "`http2` of listen".to_owned(), directive.place(), why);
            }
            text => {
                let what = format!("`{text}` of listen");
                let why = "connections are handed to the worker with the fewest streams";
                walk.notes.about(Kind::NotNeeded, what, directive.place(), why.to_owned());
            }
        }
    }
    if usable {
        walk.notes.carried += 1;
    } else {
        walk.notes.not_yet(
            directive,
            "no QUIC, no PROXY protocol and no TLS at a Unix socket yet, so this address is left out",
        );
    }
    let Some(server) = &mut walk.server else { return };
    let mut add = |address: Listen| {
        server.listens.push(Listening {
            what: directive.shown(),
            at: directive.place(),
            address,
            default,
            tls,
            usable,
        });
    };
    match address {
        Listen::Tcp(tcp) if both && tcp.ip().is_unspecified() && tcp.is_ipv6() => {
            add(Listen::Tcp((std::net::Ipv4Addr::UNSPECIFIED, tcp.port()).into()));
            add(Listen::Tcp(tcp));
        }
        address => add(address),
    }
}

const ADDRESS: &str = "an address such as 80, 127.0.0.1:8080, [::]:80 or unix:/path";

/// `server_name NAME ...`.
pub(super) fn server_name(walk: &mut Walk, directive: &Directive) {
    if !walk.belongs(directive, &[Scope::Server], "`server`") {
        return;
    }
    if directive.args.is_empty() {
        return walk.wrong(directive, "names, such as llm.example.com");
    }
    walk.notes.carried += 1;
    for name in directive.texts() {
        let refused = match name {
            "" | "_" => continue,
            name if name.starts_with('~') => "hosts are compared whole, not with regular expressions",
            name if name.contains(['*', '$']) => "hosts are compared whole, without patterns",
            name if name.starts_with('.') => "only the host itself is taken, not those below it",
            _ => "",
        };
        if !refused.is_empty() {
            walk.notes.about(Kind::Cannot, format!("server_name {name};"), directive.place(), refused.to_owned());
        }
        let host = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.').to_ascii_lowercase();
        let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let Some(server) = &mut walk.server else { return };
        if plain && !server.names.contains(&host) {
            server.names.push(host);
        } else if !plain && refused.is_empty() {
            let why = "that is no host's name".to_owned();
            walk.notes.about(Kind::Cannot, format!("server_name {name};"), directive.place(), why);
        }
    }
}
