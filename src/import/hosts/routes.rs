//! The routes of a host, from the locations of its server.

use super::flat_locations::{FlatLocation, flatten_locations};
use super::imported_host::{ImportedRoute, RouteTarget};
use super::path_replacement::{PathReplacement, read_replacement};
use super::pattern;
use crate::import::blocks::{LocationKind, NginxAnswer, NginxServer};
use crate::import::context::ImportContext;
use crate::import::pools::PoolTable;
use crate::import::scoped_keys::ScopedKeys;
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
    let mut routes: Vec<ImportedRoute> = Vec::new();
    for location in &flat {
        for route in build_location_routes(context, server, location, &flat, pools) {
            // `/a/` and `= /a/` may both redirect `/a`.
            if !routes.iter().any(|known| known.path == route.path) {
                routes.push(route);
            }
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
    let FlatLocation { location, kind, .. } = flat;
    let modifier = match kind {
        LocationKind::Exact => "= ",
        LocationKind::FirmPrefix => "^~ ",
        LocationKind::Pattern => "~ ",
        LocationKind::PatternAnyCase => "~* ",
        LocationKind::Prefix => "",
    };
    let text = format!("{modifier}{}", flat.path);
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

/// Returns the routes of a location: its own, and those of paths that nginx treats otherwise within it. None, and a
/// diagnostic, if it cannot be carried.
fn build_location_routes(
    context: &mut ImportContext,
    server: &NginxServer,
    flat: &FlatLocation<'_>,
    all: &[FlatLocation<'_>],
    pools: &mut PoolTable,
) -> Vec<ImportedRoute> {
    let location = flat.location;
    let Some(path) = write_path(context, flat) else { return Vec::new() };
    let mut replacement = PathReplacement::default();
    let target = match (&location.answer, &location.proxy_pass) {
        _ if location.is_internal => RouteTarget::Answer(quote_toml("404")),
        (Some(answer), _) => RouteTarget::Answer(answer.toml.clone()),
        (None, Some(pass)) => {
            let target = pools.add_target(context, location, pass);
            let read =
                target.and_then(|target| Some((read_replacement(context, flat, pass, &target.uri)?, target.pool)));
            let Some((read, pool)) = read else { return Vec::new() };
            replacement = read;
            RouteTarget::Pool(pool)
        }
        (None, None) => {
            if location.nested.is_empty() {
                let reason = "it has no proxy_pass: its requests are answered 404";
                context.report.add_impossible(&location.directive, reason);
            }
            // nginx looks for a file, but for addresses first.
            let is_denied = location.keys.get("access").is_some_and(|rules| rules.starts_with("[\"deny all\""));
            RouteTarget::Answer(quote_toml(if is_denied { "403" } else { "404" }))
        }
    };
    let mut keys = location.keys.differing_from(&server.keys);
    if matches!(target, RouteTarget::Answer(_)) {
        // The router does not look at addresses before it answers, and nginx does not before a `return`.
        keys.remove("access");
    }
    let route = ImportedRoute {
        path,
        target,
        replace_path: replacement.path,
        keys,
        source_comment: location.directive.to_comment(),
    };
    let mut routes: Vec<ImportedRoute> = build_slashless_route(flat, all, &route).into_iter().collect();
    if let Some(below) = replacement.below {
        routes.extend(build_routes_below(flat, all, &route, below));
    }
    routes.push(route);
    routes
}

/// Returns the routes of a longer prefix that a `rewrite` in the location replaces.
fn build_routes_below(
    flat: &FlatLocation<'_>,
    all: &[FlatLocation<'_>],
    route: &ImportedRoute,
    (prefix, replacement): (String, String),
) -> Vec<ImportedRoute> {
    let is_longer = |other: &&FlatLocation<'_>| other.path.len() > flat.path.len();
    let mut prefixes = all.iter().filter(|other| other.kind.is_prefix()).filter(is_longer);
    if prefixes.any(|other| prefix.starts_with(&other.path)) {
        return Vec::new();
    }
    let modifier = if flat.kind == LocationKind::FirmPrefix { "^~ " } else { "" };
    let with_path = |path: String, replace_path: Option<String>| ImportedRoute { path, replace_path, ..route.clone() };
    let mut routes = Vec::new();
    // The router redirects the path without the slash to it; in nginx it is one of the location's paths.
    let slashless = prefix.strip_suffix('/').filter(|path| path.len() > flat.path.len());
    if let Some(path) = slashless.filter(|path| !has_path(all, path)) {
        let rest = path.get(flat.path.len()..).unwrap_or_default();
        let replaced = route.replace_path.as_ref().map(|start| format!("{start}{rest}"));
        routes.push(with_path(format!("{modifier}{path}"), replaced));
    }
    routes.push(with_path(format!("{modifier}{prefix}"), Some(replacement)));
    routes
}

/// Returns whether a location has exactly this path or prefix.
fn has_path(all: &[FlatLocation<'_>], path: &str) -> bool {
    all.iter().any(|other| !other.kind.is_pattern() && other.path == path)
}

/// Returns the route of a location's path without its final slash, where nginx answers for a location with a
/// `proxy_pass` and the router's own redirect does not: exact paths, and locations that answer themselves.
fn build_slashless_route(
    flat: &FlatLocation<'_>,
    all: &[FlatLocation<'_>],
    route: &ImportedRoute,
) -> Option<ImportedRoute> {
    let FlatLocation { location, kind, .. } = flat;
    if matches!(route.target, RouteTarget::Pool(_)) && *kind != LocationKind::Exact {
        return None;
    }
    let path = location.path.strip_suffix('/').filter(|path| !path.is_empty() && !kind.is_pattern())?;
    location.proxy_pass.as_ref()?;
    if has_path(all, path) {
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
