//! The routes of a host, from the locations of its server.

use super::flat_locations::{FlatLocation, flatten_locations};
use super::imported_host::{ImportedRoute, RouteTarget};
use super::pattern;
use crate::import::blocks::{LocationKind, NginxAnswer, NginxServer};
use crate::import::context::ImportContext;
use crate::import::directives::access_rules::{REWRITE_REASON, report_guard};
use crate::import::directives::rewrites::replaced_path;
use crate::import::pools::PoolTable;
use crate::import::scoped_keys::{ACCESS_LOG, ScopedKeys};
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::routes::PathMatch;

/// Returns the routes of a server.
pub(super) fn build_routes(
    context: &mut ImportContext,
    server: &NginxServer,
    pools: &mut PoolTable,
) -> Vec<ImportedRoute> {
    if let Some(NginxAnswer { toml, directive }) = &server.answer {
        report_unreached(context, server, directive);
        return vec![ImportedRoute {
            path: "/".to_owned(),
            target: RouteTarget::Answer(toml.clone()),
            replace_path: None,
            keys: ScopedKeys::default(),
            source_comment: directive.to_comment(),
        }];
    }
    let flat = flatten_locations(context, &server.locations);
    let mut routes = Vec::new();
    for location in &flat {
        if let Some(route) = build_route(context, server, location, pools) {
            routes.extend(build_slashless_route(location, &flat, &route));
            routes.push(route);
        }
    }
    routes
}

/// Remarks on the locations that a `return` of their server keeps all requests from.
fn report_unreached(context: &mut ImportContext, server: &NginxServer, answer: &Directive) {
    let name = &answer.name.text;
    for location in &server.locations {
        let reason = format!("the `{name}` of its server in line {} answers every request", answer.name.line);
        context.report.add_not_needed(&location.directive, reason);
    }
}

/// Returns a location's `path`; `None` and a diagnostic if the router has no such path.
fn write_path(context: &mut ImportContext, flat: &FlatLocation<'_>) -> Option<String> {
    let FlatLocation { location, kind } = flat;
    let modifier = match kind {
        LocationKind::Exact => "= ",
        LocationKind::FirmPrefix => "^~ ",
        LocationKind::Pattern => "~ ",
        LocationKind::PatternAnyCase => "~* ",
        LocationKind::Prefix => "",
    };
    let text = format!("{modifier}{}", location.path);
    let difference = pattern::difference(&location.path).filter(|_| kind.is_pattern());
    let reason = match (difference, text.parse::<PathMatch>()) {
        (Some(difference), _) => difference.to_owned(),
        (None, Err(error)) => error.to_string(),
        (None, Ok(path)) if path.to_string() != text => "white space at its beginning or end".to_owned(),
        (None, Ok(_)) => return Some(text),
    };
    let issue = location.path_span().diagnostic(format!("the path of this location cannot be carried: {reason}"));
    context.report.add_diagnostic(issue.with_help("write the location in another way, or remove it"));
    None
}

/// Returns the route of a location; `None` and a diagnostic if it cannot be carried.
fn build_route(
    context: &mut ImportContext,
    server: &NginxServer,
    flat: &FlatLocation<'_>,
    pools: &mut PoolTable,
) -> Option<ImportedRoute> {
    let location = flat.location;
    let path = write_path(context, flat)?;
    let mut replace_path = None;
    let target = match (&location.answer, &location.proxy_pass) {
        _ if location.is_internal => RouteTarget::Answer(quote_toml("404")),
        (Some(answer), _) => RouteTarget::Answer(answer.toml.clone()),
        (None, Some(pass)) => {
            let target = pools.add_target(context, server, location, pass)?;
            replace_path = replacement(context, flat, pass, &target.uri)?;
            RouteTarget::Pool(target.pool)
        }
        (None, None) => {
            if location.nested.is_empty() {
                let reason = "it has no proxy_pass: its requests are answered 404";
                context.report.add_impossible(&location.directive, reason);
            }
            RouteTarget::Answer(quote_toml("404"))
        }
    };
    if location.keys.get(ACCESS_LOG) != server.keys.get(ACCESS_LOG) {
        context.report.add_impossible(&location.directive, "its access_log is not carried over: the router has one");
    }
    Some(ImportedRoute {
        path,
        target,
        replace_path,
        keys: location.keys.differing_from(&server.keys),
        source_comment: location.directive.to_comment(),
    })
}

/// Returns the path that takes the place of the location's; outer `None` and a diagnostic if there is no such path.
fn replacement(
    context: &mut ImportContext,
    flat: &FlatLocation<'_>,
    pass: &Directive,
    uri: &str,
) -> Option<Option<String>> {
    let FlatLocation { location, kind } = flat;
    let span = pass.args.first().map_or(&pass.name.span, |word| &word.span);
    if let Some(rewrite) = &location.rewrite {
        let replaced = match kind {
            LocationKind::Prefix | LocationKind::FirmPrefix | LocationKind::Exact => {
                replaced_path(rewrite, &location.path, *kind == LocationKind::Exact)
            }
            _ => None,
        };
        match &replaced {
            None => report_guard(context, rewrite, REWRITE_REASON),
            // As in nginx, the path in the URL has no effect then.
            Some(_) => context.report.carried_count += 1,
        }
        return replaced.map(Some);
    }
    if uri.is_empty() {
        return Some(None);
    }
    if kind.is_pattern() {
        let issue = span.diagnostic("the URL has a path, and its location is a regular expression");
        context.report.add_diagnostic(issue.with_help("nginx refuses it too: remove the path"));
        return None;
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) || !uri.starts_with('/') {
        let issue = span.diagnostic("the path of this URL cannot be carried");
        let help = "it begins with `/` and has visible ASCII characters only, and no `?` or `#`";
        context.report.add_diagnostic(issue.with_help(help));
        return None;
    }
    Some(Some(uri.to_owned()))
}

/// Returns the route of a location's path without its final slash, where nginx answers for a location with a
/// `proxy_pass` and the router's own redirect does not: exact paths, and locations that answer themselves.
fn build_slashless_route(
    flat: &FlatLocation<'_>,
    all: &[FlatLocation<'_>],
    route: &ImportedRoute,
) -> Option<ImportedRoute> {
    let FlatLocation { location, kind } = flat;
    if matches!(route.target, RouteTarget::Pool(_)) && *kind != LocationKind::Exact {
        return None;
    }
    let path = location.path.strip_suffix('/').filter(|path| !path.is_empty() && !kind.is_pattern())?;
    location.proxy_pass.as_ref()?;
    let is_taken = |other: &FlatLocation<'_>| !other.kind.is_pattern() && other.location.path == path;
    if all.iter().any(is_taken) {
        return None;
    }
    let answer = if location.is_internal { "404".to_owned() } else { format!("301 {path}/$is_args$args") };
    Some(ImportedRoute {
        path: format!("= {path}"),
        target: RouteTarget::Answer(quote_toml(&answer)),
        replace_path: None,
        keys: route.keys.clone(),
        source_comment: route.source_comment.clone(),
    })
}
