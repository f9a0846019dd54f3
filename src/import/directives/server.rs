//! `server` and `location` blocks.

use super::{access_rules, answers, real_ip, upstream};
use crate::import::blocks::{BlockScope, LocationKind, NginxListen, NginxLocation, NginxServer};
use crate::import::context::ImportContext;
use crate::import::inheritance::{api_key_in_force, keys_in_force, nearest_value};
use crate::import::report::RemarkKind;
use crate::import::scoped_keys::ROUTER_KEYS;
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
    let mut server = NginxServer::new(directive);
    server.named_proxies = access_rules::find_named_proxies(directive);
    context.open.server = Some(server);
    Some(BlockScope::Server)
}

/// Collects the directives in force in the server.
pub(super) fn close_server(context: &mut ImportContext, _: &Directive) {
    if let Some(server) = &context.open.server
        && let (None, Some(directive)) = (&server.answer, server.return_directive.clone())
    {
        let answer = answers::convert_return(context, &directive);
        context.open.server.iter_mut().for_each(|server| server.answer.clone_from(&answer));
    }
    access_rules::check_server(context);
    let Some(mut server) = context.open.server.take() else { return };
    server.certificates = context.open.served_certificates();
    server.rejecting = context.open.rejecting_directive();
    let levels = &context.open.levels;
    server.keys = keys_in_force(levels);
    let router_values = ROUTER_KEYS.iter().filter_map(|(key, _)| Some((*key, nearest_value(levels, key)?.clone())));
    server.router_keys = router_values.collect();
    context.outer_keys = keys_in_force(levels.split_last().map_or(&[], |(_, outer)| outer));
    access_rules::apply_server_conditions(context, &mut server);
    if let Some(split) = server.split.take() {
        answers::convert_answers_by_name(context, &mut server, split);
    }
    context.servers.push(server);
}

/// `location [= | ^~ | ~ | ~* | @] PATH { ... }`.
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
    let kind = match modifier {
        "=" => LocationKind::Exact,
        "^~" => LocationKind::FirmPrefix,
        "~" => LocationKind::Pattern,
        "~*" => LocationKind::PatternAnyCase,
        _ if path.starts_with('@') => {
            context.report.add_impossible(directive, "clients cannot reach named locations");
            return None;
        }
        _ => LocationKind::Prefix,
    };
    // It may be a guard, and no key of router.toml takes such a path.
    if path.contains(char::is_control) {
        let span = directive.args.last().map_or(&directive.name.span, |word| &word.span);
        let issue = span.diagnostic("this path contains control characters");
        context.report.add_diagnostic(issue.with_help("remove the location to import the rest"));
        return None;
    }
    // `internal` holds for the locations within, too.
    let is_internal = context.open.location().is_some_and(|outer| outer.is_internal);
    context.open.locations.push(NginxLocation { is_internal, ..NginxLocation::new(directive, kind, path) });
    Some(BlockScope::Location)
}

/// Collects the directives in force in the location, and adds it to its server or to the location around it.
pub(super) fn close_location(context: &mut ImportContext, directive: &Directive) {
    real_ip::check_nested_rules(context, directive);
    let Some(mut location) = context.open.locations.pop() else { return };
    location.verification = context.open.upstream_verification();
    location.api_key = api_key_in_force(&context.open);
    location.keys = keys_in_force(&context.open.levels);
    if let (None, Some(directive)) = (&location.answer, location.return_directive.take()) {
        location.answer = answers::convert_return(context, &directive);
    }
    access_rules::check_location(context, &location);
    access_rules::apply_conditions(context, &mut location);
    match (context.open.locations.last_mut(), &mut context.open.server) {
        (Some(outer), _) => outer.nested.push(location),
        (None, Some(server)) => server.locations.push(location),
        (None, None) => {}
    }
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
    if let Some(server) = &mut context.open.server {
        server.has_listen = true;
    }
    let Some((address, words)) = directive.args.split_first() else {
        return context.reject_argument(directive, ADDRESS_SYNTAX);
    };
    let parsed =
        address.text.parse::<ListenAddr>().or_else(|bad| format!("{}:80", address.text).parse().map_err(|_| bad));
    let address = match parsed {
        Ok(address) => address,
        Err(_) if address.text.contains(|c: char| c.is_ascii_alphabetic()) && !address.text.starts_with('[') => {
            return context.report.add_impossible(directive, "`listen` takes addresses, no names: it is left out");
        }
        Err(_) => return context.reject_argument(directive, ADDRESS_SYNTAX),
    };
    if words.iter().any(|word| word.text == "quic") {
        // It is a UDP address, and says nothing of the TCP address.
        return context.report.add_unsupported(directive, "QUIC is not supported, so the address is left out");
    }
    let (mut is_default, mut is_supported, mut has_ipv4, mut is_tls) = (false, true, false, false);
    for word in words {
        match word.text.as_str() {
            "default_server" | "default" => is_default = true,
            "ipv6only=off" => has_ipv4 = true,
            "ssl" if matches!(address, ListenAddr::Tcp(_)) => is_tls = true,
            "ssl" | "proxy_protocol" => is_supported = false,
            text => report_unneeded_parameter(context, directive, text),
        }
    }
    if is_supported {
        context.report.carried_count += 1;
    } else {
        context.report.add_unsupported(
            directive,
            "PROXY protocol and TLS on a Unix socket are not supported, so the address is left out",
        );
    }
    let mut add = |address: ListenAddr| {
        let Some(server) = &mut context.open.server else { return };
        if server.listens.iter().any(|listen| listen.address == address) {
            let issue = directive.name.span.diagnostic(format!("a duplicate `listen` on {address}"));
            return context.report.add_diagnostic(issue.with_help("remove it"));
        }
        let directive = directive.clone();
        server.listens.push(NginxListen { directive, address, is_default, is_tls, is_supported });
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
