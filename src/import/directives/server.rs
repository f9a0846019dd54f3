//! `server` and `location` blocks.

use super::{access_rules, headers, upstream};
use crate::import::blocks::{BlockScope, NginxListen, NginxLocation, NginxServer};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;
use crate::routes::ListenAddr;

/// `events` and `http`: their own directives count.
pub(super) fn open_container(context: &mut ImportContext, directive: &Directive) -> Option<BlockScope> {
    let scope = if directive.name.text == "http" { BlockScope::Http } else { BlockScope::Events };
    context.check_scope(directive, &[BlockScope::Main], "no block").then_some(scope)
}

pub(super) const fn close_container(_: &mut ImportContext, _: &Directive) {}

/// `server { ... }`, or a server of an upstream.
pub(super) fn open_server(context: &mut ImportContext, directive: &Directive) -> Option<BlockScope> {
    const PLACE: &str = "`http`, or a line `server ADDRESS;` in `upstream`";
    if context.open.scope == BlockScope::Upstream {
        upstream::handle_upstream_server(context, directive);
        return None;
    }
    if !context.check_scope(directive, &[BlockScope::Main, BlockScope::Http], PLACE) {
        return None;
    }
    if directive.block.is_none() {
        let issue = directive.name.span.diagnostic("`server` with an address belongs in `upstream`");
        context.report.add_diagnostic(issue.with_help("in `http` write a block: server { ... }"));
        return None;
    }
    let named_proxies = access_rules::find_named_proxies(directive);
    context.open.server = Some(NginxServer { named_proxies, ..NginxServer::default() });
    Some(BlockScope::Server)
}

pub(super) fn close_server(context: &mut ImportContext, _: &Directive) {
    access_rules::check_server(context);
    if let Some(mut server) = context.open.server.take() {
        server.certificates = context.open.served_certificates();
        context.servers.push(server);
    }
}

/// `location [= | ^~ | ~ | ~*] PATH { ... }`.
pub(super) fn open_location(context: &mut ImportContext, directive: &Directive) -> Option<BlockScope> {
    if !context.check_scope(directive, &[BlockScope::Server, BlockScope::Location], "`server`") {
        return None;
    }
    let words = directive.arg_texts();
    let (modifier, path) = match words.as_slice() {
        [modifier @ ("=" | "^~" | "~" | "~*"), path] => (*modifier, *path),
        [word] => {
            let mut modifiers = ["=", "^~", "~*", "~"].iter();
            modifiers.find_map(|modifier| Some((*modifier, word.strip_prefix(modifier)?))).unwrap_or(("", word))
        }
        _ => {
            let issue = directive.name.span.diagnostic("`location` takes a path and a block");
            let issue = issue.with_help("for example location /v1/ { proxy_pass http://chat; }");
            context.report.add_diagnostic(issue);
            return None;
        }
    };
    if directive.block.is_none() {
        let issue = directive.name.span.diagnostic("`location` needs a block");
        context.report.add_diagnostic(issue.with_help("write it between `{` and `}`"));
        return None;
    }
    if matches!(modifier, "~" | "~*") {
        access_rules::handle_regex_location(context, directive);
        return None;
    }
    if path.starts_with('@') {
        context.report.add_impossible(directive, "named locations are not reachable");
        return None;
    }
    // It may be a guard, and no key of router.toml takes such a path.
    if path.contains(char::is_control) {
        let span = directive.args.last().map_or(&directive.name.span, |word| &word.span);
        let issue = span.diagnostic("this path contains control characters");
        context.report.add_diagnostic(issue.with_help("remove the location to import the rest"));
        return None;
    }
    let mut head = directive.clone();
    head.block = Some(Vec::new());
    context.open.locations.push(NginxLocation::new(head, path.to_owned(), modifier == "="));
    Some(BlockScope::Location)
}

/// Collects the directives in force in the location, and adds it to its server.
pub(super) fn close_location(context: &mut ImportContext, directive: &Directive) {
    let Some(mut location) = context.open.locations.pop() else { return };
    location.proxy_pass = location.proxy_pass.filter(|_| location.blocked_status.is_none());
    location.verification = context.open.upstream_verification();
    access_rules::check_location(context, &location);
    headers::collect_headers(&context.open, &mut location);
    let Some(server) = &mut context.open.server else { return };
    let has_nested = directive.block.iter().flatten().any(|inner| inner.name.text == "location");
    if location.proxy_pass.is_none() && location.blocked_status.is_none() && !has_nested {
        let reason = "it has no proxy_pass: the path is refused with 404";
        context.report.add_impossible(&location.directive, reason);
    }
    server.locations.push(location);
}

/// `proxy_pass URL`; resolved when all upstreams are known.
pub(super) fn handle_proxy_pass(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Location], "`location`") {
        return;
    }
    if directive.args.len() != 1 {
        return context.reject_argument(directive, "one URL, such as http://chat;");
    }
    if let Some(location) = context.open.location() {
        location.proxy_pass = Some(directive.clone());
    }
}

/// `listen ADDRESS [default_server] [ssl] ...`.
pub(super) fn handle_listen(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Server], "`server`") {
        return;
    }
    let Some((address, words)) = directive.args.split_first() else {
        return context.reject_argument(directive, ADDRESS_SYNTAX);
    };
    let parsed =
        address.text.parse::<ListenAddr>().or_else(|bad| format!("{}:80", address.text).parse().map_err(|_| bad));
    let address = match parsed {
        Ok(address) => address,
        Err(_) if address.text.contains(|c: char| c.is_ascii_alphabetic()) && !address.text.starts_with('[') => {
            return context.report.add_impossible(directive, "`listen` takes addresses, no names");
        }
        Err(_) => return context.reject_argument(directive, ADDRESS_SYNTAX),
    };
    let (mut is_default, mut is_supported, mut has_ipv4, mut is_tls) = (false, true, false, false);
    for word in words {
        match word.text.as_str() {
            "default_server" | "default" => is_default = true,
            "ipv6only=off" => has_ipv4 = true,
            "ssl" if matches!(address, ListenAddr::Tcp(_)) => is_tls = true,
            "ssl" | "quic" | "proxy_protocol" => is_supported = false,
            text => report_unneeded_parameter(context, directive, text),
        }
    }
    if is_supported {
        context.report.carried_count += 1;
    } else {
        context.report.add_unsupported(
            directive,
            "QUIC, PROXY protocol and TLS on a Unix socket are not supported, so the address is left out",
        );
    }
    let Some(server) = &mut context.open.server else { return };
    let mut add = |address: ListenAddr| {
        server.listens.push(NginxListen {
            directive_text: directive.to_one_line(),
            source_line: directive.source_line(),
            address,
            is_default,
            is_tls,
            is_supported,
        });
    };
    match address {
        ListenAddr::Tcp(tcp) if has_ipv4 && tcp.ip().is_unspecified() && tcp.is_ipv6() => {
            add(ListenAddr::Tcp((std::net::Ipv4Addr::UNSPECIFIED, tcp.port()).into()));
            add(ListenAddr::Tcp(tcp));
        }
        address => add(address),
    }
}

/// Notes a parameter of `listen` that needs no counterpart.
fn report_unneeded_parameter(context: &mut ImportContext, directive: &Directive, parameter: &str) {
    let reason = match parameter {
        "http2" => "HTTP/2 is always enabled",
        parameter if parameter.starts_with("so_keepalive=") => "`timeouts.tcp_keepalive` probes clients and replicas",
        _ => "connections go to the worker with the fewest streams",
    };
    let subject = format!("`{parameter}` of listen");
    context.report.add_remark_at(RemarkKind::NotNeeded, subject, directive.source_line(), reason.to_owned());
}

const ADDRESS_SYNTAX: &str = "an address such as 80, 127.0.0.1:8080, [::]:80 or unix:/path";

/// `server_name NAME ...`.
pub(super) fn handle_server_name(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Server], "`server`") {
        return;
    }
    if directive.args.is_empty() {
        return context.reject_argument(directive, "names, such as llm.example.com");
    }
    context.report.carried_count += 1;
    for name in directive.arg_texts() {
        let refused = match name {
            "" | "_" => continue,
            name if name.starts_with('~') => "server names are compared exactly, not with regular expressions",
            name if name.contains(['*', '$']) => "server names are compared exactly, without wildcards",
            name if name.starts_with('.') => "only the name itself is matched, no subdomains",
            _ => "",
        };
        if !refused.is_empty() {
            context.report.add_remark_at(
                RemarkKind::Impossible,
                format!("server_name {name};"),
                directive.source_line(),
                refused.to_owned(),
            );
        }
        let host = name.strip_prefix('.').unwrap_or(name).trim_end_matches('.').to_ascii_lowercase();
        let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let Some(server) = &mut context.open.server else { return };
        if is_host && !server.names.contains(&host) {
            server.names.push(host);
        } else if !is_host && refused.is_empty() {
            let reason = "not a valid host name".to_owned();
            context.report.add_remark_at(
                RemarkKind::Impossible,
                format!("server_name {name};"),
                directive.source_line(),
                reason,
            );
        }
    }
}
