//! `server` and `location` blocks as they are written.

use super::headers::TomlHeader;
use super::tls::{ServedCertificates, UpstreamVerification};
use super::{access_rules, headers, upstream};
use crate::config::ListenAddr;
use crate::import::context::{BlockScope, ImportContext};
use crate::import::report::{RemarkKind, SourceLine};
use crate::import::syntax::parser::Directive;

/// A `server` block.
pub(in crate::import) struct NginxServer {
    /// Empty: nginx's default, `*:80`.
    pub(in crate::import) listens: Vec<NginxListen>,
    /// Lower case, without patterns.
    pub(in crate::import) names: Vec<String>,
    pub(in crate::import) locations: Vec<NginxLocation>,
    /// Whether it answers everything by itself.
    pub(in crate::import) has_return: bool,
    /// What refuses paths that fit a pattern.
    pub(in crate::import) blocked_patterns: Vec<Directive>,
    pub(in crate::import) certificates: ServedCertificates,
}

/// A `listen`.
pub(in crate::import) struct NginxListen {
    pub(in crate::import) directive_text: String,
    pub(in crate::import) source_line: SourceLine,
    pub(in crate::import) address: ListenAddr,
    /// Whether `default_server` is there.
    pub(in crate::import) is_default: bool,
    /// Whether TLS is spoken there.
    pub(in crate::import) is_tls: bool,
    /// Whether clients can be accepted there.
    pub(in crate::import) is_supported: bool,
}

/// A `location` block, its own and inherited directives that matter to a pool.
pub(in crate::import) struct NginxLocation {
    pub(in crate::import) directive: Directive,
    pub(in crate::import) path: String,
    /// `location = /path`.
    pub(in crate::import) is_exact: bool,
    pub(in crate::import) proxy_pass: Option<Directive>,
    /// The status that its requests are refused with.
    pub(in crate::import) blocked_status: Option<u16>,
    /// The key that replicas are sent in `Authorization`.
    pub(in crate::import) api_key: Option<String>,
    /// Headers of requests, and of answers.
    pub(in crate::import) request_headers: Vec<TomlHeader>,
    pub(in crate::import) response_headers: Vec<TomlHeader>,
    /// How replicas are verified.
    pub(in crate::import) verification: UpstreamVerification,
}

/// `server { ... }`, or a server of an upstream.
pub(in crate::import) fn handle_server(walk: &mut ImportContext, directive: &Directive) {
    if walk.scope == BlockScope::Upstream {
        return upstream::handle_upstream_server(walk, directive);
    }
    if !walk.check_scope(
        directive,
        &[BlockScope::Main, BlockScope::Http],
        "`http`, or a line `server ADDRESS;` in `upstream`",
    ) {
        return;
    }
    let Some(block) = &directive.block else {
        let issue = directive.name.span.diagnostic("`server` with an address belongs in `upstream`");
        return walk.report.add_diagnostic(issue.with_help("in `http` it takes a block: server { ... }"));
    };
    let (shown, closed, patterns) = (ServedCertificates::default(), false, Vec::new());
    let (listens, names, locations) = (Vec::new(), Vec::new(), Vec::new());
    walk.current_server = Some(NginxServer {
        listens,
        names,
        locations,
        has_return: closed,
        blocked_patterns: patterns,
        certificates: shown,
    });
    walk.read_block(block, BlockScope::Server);
    walk.servers.extend(walk.current_server.take());
}

/// `location [= | ^~ | ~ | ~*] PATH { ... }`.
pub(in crate::import) fn handle_location(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Server, BlockScope::Location], "`server`") {
        return;
    }
    let words = directive.arg_texts();
    let (how, path) = match words.as_slice() {
        [how @ ("=" | "^~" | "~" | "~*"), path] => (*how, *path),
        [word] => {
            ["=", "^~", "~*", "~"].iter().find_map(|how| Some((*how, word.strip_prefix(how)?))).unwrap_or(("", word))
        }
        _ => {
            let issue = directive.name.span.diagnostic("`location` takes a path and a block");
            return walk
                .report
                .add_diagnostic(issue.with_help("for example location /v1/ { proxy_pass http://chat; }"));
        }
    };
    let Some(block) = &directive.block else {
        return walk.report.add_diagnostic(
            directive.name.span.diagnostic("`location` needs a block").with_help("write it between `{` and `}`"),
        );
    };
    match (how, path) {
        ("~" | "~*", _) => return access_rules::handle_regex_location(walk, directive),
        (_, path) if path.starts_with('@') => {
            return walk.report.add_impossible(directive, "nothing leads to a named location");
        }
        // It may keep requests out, and no key of ours takes it.
        (_, path) if path.contains(char::is_control) => {
            let at = directive.args.last().map_or(&directive.name.span, |word| &word.span);
            let issue = at.diagnostic("this path has control characters in it");
            return walk.report.add_diagnostic(issue.with_help("take the location out to import the rest"));
        }
        _ => {}
    }
    let mut head = directive.clone();
    head.block = Some(Vec::new());
    let (path, exact) = (path.to_owned(), how == "=");
    let around = walk.current_location.replace(NginxLocation {
        directive: head,
        path,
        is_exact: exact,
        proxy_pass: None,
        blocked_status: None,
        api_key: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        verification: UpstreamVerification::default(),
    });
    walk.read_block(block, BlockScope::Location);
    let inner = std::mem::replace(&mut walk.current_location, around);
    if let (Some(server), Some(inner)) = (&mut walk.current_server, inner) {
        let nested = block.iter().any(|directive| directive.name.text == "location");
        if inner.proxy_pass.is_none() && inner.blocked_status.is_none() && !nested {
            walk.report.add_impossible(&inner.directive, "there is no proxy_pass in it: its path is refused with 404");
        }
        server.locations.push(inner);
    }
}

/// Kept until all upstreams are known.
pub(in crate::import) fn handle_proxy_pass(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Location], "`location`") {
        return;
    }
    if directive.args.len() != 1 {
        return walk.reject_argument(directive, "one URL, such as http://chat;");
    }
    if let Some(location) = &mut walk.current_location {
        location.proxy_pass = Some(directive.clone());
    }
}

/// Gathers what is in force at the end of a location.
pub(in crate::import) fn close_location(walk: &mut ImportContext) {
    let Some(mut location) = walk.current_location.take() else { return };
    location.proxy_pass = location.proxy_pass.filter(|_| location.blocked_status.is_none());
    location.verification = walk.tls.upstream_verification();
    access_rules::check_access_rules(walk, &location);
    headers::collect_headers(walk, &mut location);
    walk.current_location = Some(location);
}

/// `listen ADDRESS [default_server] [ssl] ...`.
pub(in crate::import) fn handle_listen(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Server], "`server`") {
        return;
    }
    let Some((address, words)) = directive.args.split_first() else {
        return walk.reject_argument(directive, ADDRESS_SYNTAX);
    };
    let parsed =
        address.text.parse::<ListenAddr>().or_else(|bad| format!("{}:80", address.text).parse().map_err(|_| bad));
    let address = match parsed {
        Ok(address) => address,
        Err(_) if address.text.contains(|c: char| c.is_ascii_alphabetic()) && !address.text.starts_with('[') => {
            return walk.report.add_impossible(directive, "names are not listened at, only addresses");
        }
        Err(_) => return walk.reject_argument(directive, ADDRESS_SYNTAX),
    };
    let (mut default, mut usable, mut both, mut tls) = (false, true, false, false);
    for word in words {
        match word.text.as_str() {
            "default_server" | "default" => default = true,
            "ipv6only=off" => both = true,
            "ssl" if matches!(address, ListenAddr::Tcp(_)) => tls = true,
            "ssl" | "quic" | "proxy_protocol" => usable = false,
            text => report_unneeded_parameter(walk, directive, text),
        }
    }
    if usable {
        walk.report.carried_count += 1;
    } else {
        walk.report.add_unsupported(
            directive,
            "no QUIC, no PROXY protocol and no TLS at a Unix socket yet, so this address is left out",
        );
    }
    let Some(server) = &mut walk.current_server else { return };
    let mut add = |address: ListenAddr| {
        server.listens.push(NginxListen {
            directive_text: directive.to_one_line(),
            source_line: directive.source_line(),
            address,
            is_default: default,
            is_tls: tls,
            is_supported: usable,
        });
    };
    match address {
        ListenAddr::Tcp(tcp) if both && tcp.ip().is_unspecified() && tcp.is_ipv6() => {
            add(ListenAddr::Tcp((std::net::Ipv4Addr::UNSPECIFIED, tcp.port()).into()));
            add(ListenAddr::Tcp(tcp));
        }
        address => add(address),
    }
}

/// Notes a parameter of `listen` that has no counterpart because none is needed.
fn report_unneeded_parameter(walk: &mut ImportContext, directive: &Directive, parameter: &str) {
    let reason = match parameter {
        "http2" => "HTTP/2 is always there",
        _ => "connections are handed to the worker with the fewest streams",
    };
    let what = format!("`{parameter}` of listen");
    walk.report.add_remark_at(RemarkKind::NotNeeded, what, directive.source_line(), reason.to_owned());
}

const ADDRESS_SYNTAX: &str = "an address such as 80, 127.0.0.1:8080, [::]:80 or unix:/path";

/// `server_name NAME ...`.
pub(in crate::import) fn handle_server_name(walk: &mut ImportContext, directive: &Directive) {
    if !walk.check_scope(directive, &[BlockScope::Server], "`server`") {
        return;
    }
    if directive.args.is_empty() {
        return walk.reject_argument(directive, "names, such as llm.example.com");
    }
    walk.report.carried_count += 1;
    for name in directive.arg_texts() {
        let refused = match name {
            "" | "_" => continue,
            name if name.starts_with('~') => "hosts are compared whole, not with regular expressions",
            name if name.contains(['*', '$']) => "hosts are compared whole, without patterns",
            name if name.starts_with('.') => "only the host itself is taken, not those below it",
            _ => "",
        };
        if !refused.is_empty() {
            walk.report.add_remark_at(
                RemarkKind::Impossible,
                format!("server_name {name};"),
                directive.source_line(),
                refused.to_owned(),
            );
        }
        let host = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.').to_ascii_lowercase();
        let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let Some(server) = &mut walk.current_server else { return };
        if plain && !server.names.contains(&host) {
            server.names.push(host);
        } else if !plain && refused.is_empty() {
            let why = "that is no host's name".to_owned();
            walk.report.add_remark_at(
                RemarkKind::Impossible,
                format!("server_name {name};"),
                directive.source_line(),
                why,
            );
        }
    }
}
