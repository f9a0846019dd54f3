//! The locations of a server in one list, as router.toml has them.
//!
//! nginx chooses a location among those of the server, and then among those nested in it. Flattened prefixes give the
//! same results, but where a location outside has a longer prefix, which hides the nested one.

use crate::import::blocks::{LocationKind, NginxLocation};
use crate::import::context::ImportContext;

/// A location as it stands in the server.
pub(super) struct FlatLocation<'a> {
    pub(super) location: &'a NginxLocation,
    /// Nested prefixes yield to regular expressions where the outermost location does.
    pub(super) kind: LocationKind,
}

/// A location around others, and those next to it.
struct OuterLocation<'a> {
    location: &'a NginxLocation,
    siblings: &'a [NginxLocation],
}

/// Returns the locations that requests can reach, in the order of the file, each after those around it.
pub(super) fn flatten_locations<'a>(
    context: &mut ImportContext,
    locations: &'a [NginxLocation],
) -> Vec<FlatLocation<'a>> {
    let mut flat = Vec::new();
    add_locations(context, locations, &mut Vec::new(), &mut flat);
    report_duplicates(context, &flat);
    flat
}

fn add_locations<'a>(
    context: &mut ImportContext,
    locations: &'a [NginxLocation],
    outer: &mut Vec<OuterLocation<'a>>,
    flat: &mut Vec<FlatLocation<'a>>,
) {
    for location in locations {
        if let Some(parent) = outer.last().map(|outer| outer.location)
            && !may_nest(location, parent)
        {
            let message = format!("this location cannot be inside `{}`", parent.directive.to_one_line());
            let issue = location.path_span().diagnostic(message);
            context.report.add_diagnostic(issue.with_help("write it in the `server`"));
            continue;
        }
        if let Some(other) = outer.iter().find_map(|outer| hiding_location(location, outer)) {
            let reason = format!("`{}` takes its requests", other.directive.to_one_line());
            context.report.add_not_needed(&location.directive, reason);
            continue;
        }
        let kind = match (location.kind, outer.first()) {
            (LocationKind::Prefix | LocationKind::FirmPrefix, Some(outermost)) => outermost.location.kind,
            (kind, _) => kind,
        };
        flat.push(FlatLocation { location, kind });
        outer.push(OuterLocation { location, siblings: locations });
        add_locations(context, &location.nested, outer, flat);
        outer.pop();
    }
}

/// Returns whether nginx and the router can both have a location inside another.
fn may_nest(location: &NginxLocation, parent: &NginxLocation) -> bool {
    let is_below = location.path.starts_with(&parent.path);
    parent.kind.is_prefix() && is_below && (location.kind.is_prefix() || location.kind == LocationKind::Exact)
}

/// Returns the location next to one around `nested` that nginx chooses instead.
fn hiding_location<'a>(nested: &NginxLocation, outer: &OuterLocation<'a>) -> Option<&'a NginxLocation> {
    outer.siblings.iter().find(|other| {
        let is_longer = other.path.len() > outer.location.path.len();
        let is_same_path = other.kind == LocationKind::Exact && nested.kind == other.kind && nested.path == other.path;
        is_same_path || other.kind.is_prefix() && is_longer && nested.path.starts_with(&other.path)
    })
}

/// Reports locations with the same path, of which nginx refuses all but the first.
fn report_duplicates(context: &mut ImportContext, flat: &[FlatLocation<'_>]) {
    for (index, FlatLocation { location, kind }) in flat.iter().enumerate() {
        let is_same = |other: &&FlatLocation<'_>| {
            let is_same_kind = other.kind == *kind || other.kind.is_prefix() && kind.is_prefix();
            is_same_kind && !kind.is_pattern() && other.location.path == location.path
        };
        if let Some(first) = flat.iter().take(index).find(is_same) {
            let issue = location.path_span().diagnostic(format!("a second location for `{}`", location.path));
            let line = first.location.directive.name.line;
            context.report.add_diagnostic(issue.with_help(format!("the first is in line {line}")));
        }
    }
}
