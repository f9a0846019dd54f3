//! Checks that hosts and routes fit each other.

use super::draft::{HostDraft, HostRouteDraft};
use crate::config::build_context::BuildContext;
use crate::config::diagnostics::{Span, SpannedValue};
use crate::config::parse::suggest::suggestion;
use crate::config::settings::Settings;
use crate::routes::{HostListen, ListenAddr, PathMatch};

/// Checks that each request leads to one host and one route, and that pools and keys exist.
pub(super) fn check_hosts(hosts: &[HostDraft], settings: &Settings, context: &mut BuildContext) {
    let mut known: Vec<(&HostDraft, Option<String>)> = Vec::new();
    for host in hosts {
        check_names(host, &known, settings, context);
        known.extend(host.names.iter().map(|name| (host, Some(name.value.to_string()))));
        if host.names.is_empty() {
            known.push((host, None));
        }
        check_keys(&host.scope.key_names, settings, context);
        for (index, route) in host.routes.iter().enumerate() {
            check_route(route, settings, context);
            check_keys(&route.scope.key_names, settings, context);
            let earlier = host.routes.get(..index).unwrap_or_default();
            check_path(route, earlier, context);
        }
    }
    check_defaults(hosts, context);
}

/// Checks that no other host has a name and an address of this one.
fn check_names(
    host: &HostDraft,
    known: &[(&HostDraft, Option<String>)],
    settings: &Settings,
    context: &mut BuildContext,
) {
    let names = host.names.iter().map(|name| (Some(name.value.to_string()), &name.span));
    let nameless = host.names.is_empty().then_some((None, &host.span));
    for (name, span) in names.chain(nameless) {
        let same = |(other, other_name): &&(&HostDraft, Option<String>)| {
            *other_name == name && !std::ptr::eq(*other, host) && share_address(host, other, settings)
        };
        let Some((other, _)) = known.iter().find(same) else { continue };
        let place = other.span.relative_to(span);
        let (message, help) = match name {
            None => {
                (format!("another host without `name` has the same address ({place})"), "give one of them a `name`")
            }
            Some(name) => {
                (format!("another host is called `{name}` at the same address ({place})"), "keep one of them")
            }
        };
        context.errors.push(span.diagnostic(message).with_help(help));
    }
}

fn share_address(a: &HostDraft, b: &HostDraft, settings: &Settings) -> bool {
    let addresses = |host: &HostDraft| -> Vec<ListenAddr> {
        match host.listens.as_slice() {
            [] => settings.listen.clone(),
            listens => listens.iter().map(|listen| listen.value.address.clone()).collect(),
        }
    };
    let others = addresses(b);
    addresses(a).iter().any(|address| others.iter().any(|other| other.has_same_address(address)))
}

/// Checks that an address has one default host.
fn check_defaults(hosts: &[HostDraft], context: &mut BuildContext) {
    let mut known: Vec<(&HostListen, &Span)> = Vec::new();
    for SpannedValue { value: listen, span } in hosts.iter().flat_map(|host| &host.listens) {
        if !listen.is_default {
            continue;
        }
        match known.iter().find(|(other, _)| other.address.has_same_address(&listen.address)) {
            Some((_, first)) => {
                let first = first.relative_to(span);
                let issue = span.diagnostic(format!("`{}` has a default host already ({first})", listen.address));
                context.errors.push(issue.with_help("write `default_server` once for each address"));
            }
            None => known.push((listen, span)),
        }
    }
}

fn check_keys(names: &[SpannedValue<std::sync::Arc<str>>], settings: &Settings, context: &mut BuildContext) {
    let known: Vec<&str> = settings.tenants.names().collect();
    for SpannedValue { value: name, span } in names.iter().filter(|name| !known.contains(&&*name.value)) {
        let issue = span.diagnostic(format!("unknown key `{name}`"));
        context.errors.push(issue.with_help(suggestion(name, "keys", &known)));
    }
}

/// Checks that a route has a path, leads somewhere, and that its pools exist.
fn check_route(route: &HostRouteDraft, settings: &Settings, context: &mut BuildContext) {
    if route.has_errors {
        return;
    }
    let mut add =
        |span: &Span, message: &str, help: &str| context.errors.push(span.diagnostic(message).with_help(help));
    if route.path.is_none() {
        add(&route.span, "a route without `path`", "write path = \"/\" for every path");
    }
    match (&route.pools, &route.answer) {
        (Some(pools), None) if pools.is_empty() => {
            add(&route.span, "a route without pools", "name one, or write `answer`");
        }
        (None, None) => add(&route.span, "a route that leads nowhere", "write `pools`, or `answer`"),
        (Some(_), Some(answer)) => add(&answer.span, "a route has `pools` or `answer`, not both", "remove one of them"),
        _ => {}
    }
    let is_regex = route.path.as_ref().is_some_and(|path| matches!(path.value, PathMatch::Regex(_)));
    if let Some(replaced) = route.replace_path.as_ref().filter(|_| is_regex) {
        let help = "write the `path` as a prefix or an exact path";
        add(&replaced.span, "`replace_path` replaces a text, and a regular expression is none", help);
    }
    let known: Vec<&str> = settings.pools.iter().map(|pool| &*pool.name).collect();
    for SpannedValue { value: name, span } in route.pools.iter().flatten().filter(|pool| !known.contains(&&*pool.value))
    {
        let issue = span.diagnostic(format!("unknown pool `{name}`"));
        context.errors.push(issue.with_help(suggestion(name, "pools", &known)));
    }
}

/// Checks that no earlier route of the host has the same path.
fn check_path(route: &HostRouteDraft, earlier: &[HostRouteDraft], context: &mut BuildContext) {
    let Some(SpannedValue { value: path, span }) = &route.path else { return };
    let same_text = |other: &PathMatch| {
        let is_exact = |path: &PathMatch| matches!(path, PathMatch::Exact(_));
        let is_regex = |path: &PathMatch| matches!(path, PathMatch::Regex(_));
        let same_kind = is_exact(path) == is_exact(other) && is_regex(path) == is_regex(other);
        if is_regex(path) { path == other } else { same_kind && path.prefix() == other.prefix() }
    };
    let same = earlier.iter().filter_map(|other| other.path.as_ref()).find(|other| same_text(&other.value));
    if let Some(first) = same {
        let place = first.span.relative_to(span);
        let issue = span.diagnostic(format!("the path `{path}` has a route already ({place})"));
        context.errors.push(issue.with_help("keep one of them"));
    }
}
