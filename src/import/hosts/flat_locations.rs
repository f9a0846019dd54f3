//! The locations of a server in one list, as router.toml has them.
//!
//! nginx chooses a location among those of the server, and then among those nested in it: exact paths, then the longest
//! prefix, then regular expressions of the innermost location that has any. Flattened locations give the same results,
//! but where a location outside has a longer prefix, which hides the nested one.

use super::pattern::anchor_below;
use crate::import::blocks::{LocationKind, NginxLocation};
use crate::import::context::ImportContext;

/// A location as it stands in the server.
pub(super) struct FlatLocation<'a> {
    pub(super) location: &'a NginxLocation,
    /// Nested prefixes yield to regular expressions where the outermost location does.
    pub(super) kind: LocationKind,
    /// The path; a nested regular expression with the prefix around it.
    pub(super) path: String,
    depth: usize,
}

/// A location around others, and those next to it.
#[derive(Clone, Copy)]
struct OuterLocation<'a> {
    location: &'a NginxLocation,
    siblings: &'a [NginxLocation],
}

/// Returns the locations that requests can reach: nested regular expressions first, the innermost before others, then
/// the order of the file.
pub(super) fn flatten_locations<'a>(
    context: &mut ImportContext,
    locations: &'a [NginxLocation],
) -> Vec<FlatLocation<'a>> {
    let mut flat = Vec::new();
    add_locations(context, locations, &mut Vec::new(), &mut flat);
    report_duplicates(context, &flat);
    flat.sort_by_key(|flat| if flat.kind.is_pattern() { std::cmp::Reverse(flat.depth) } else { std::cmp::Reverse(0) });
    flat
}

fn add_locations<'a>(
    context: &mut ImportContext,
    locations: &'a [NginxLocation],
    outer: &mut Vec<OuterLocation<'a>>,
    flat: &mut Vec<FlatLocation<'a>>,
) {
    for location in locations {
        if let Some(other) = outer.iter().find_map(|outer| hiding_location(location, outer)) {
            let reason = format!("`{}` takes its requests", other.directive.to_one_line());
            context.report.add_not_needed(&location.directive, reason);
            continue;
        }
        let Some((kind, path)) = flat_path(location, outer) else {
            let parent = outer.last().map_or_else(String::new, |outer| outer.location.directive.to_one_line());
            let issue = location.path_span().diagnostic(format!("this location cannot be inside `{parent}`"));
            context.report.add_diagnostic(issue.with_help("write it in the `server`"));
            continue;
        };
        flat.push(FlatLocation { location, kind, path, depth: outer.len() });
        outer.push(OuterLocation { location, siblings: locations });
        add_locations(context, &location.nested, outer, flat);
        outer.pop();
    }
}

/// Returns the kind and path of a location in the server; `None` if nginx refuses it in the location around it, or no
/// path has its meaning.
fn flat_path(location: &NginxLocation, outer: &[OuterLocation<'_>]) -> Option<(LocationKind, String)> {
    let path = location.path.clone();
    let (Some(outermost), Some(parent)) = (outer.first(), outer.last()) else {
        // A firm prefix would keep its own regular expressions off too.
        let kind = match location.kind {
            LocationKind::FirmPrefix if has_nested_pattern(location) => LocationKind::Prefix,
            kind => kind,
        };
        return Some((kind, path));
    };
    if !parent.location.kind.is_prefix() {
        return None;
    }
    if location.kind.is_pattern() {
        let is_firm = outermost.location.kind == LocationKind::FirmPrefix;
        let has_other_patterns = outermost.siblings.iter().any(|sibling| sibling.kind.is_pattern());
        let is_firm_beside = |other: &NginxLocation| other.kind == LocationKind::FirmPrefix;
        if is_firm && has_other_patterns
            || parent.location.nested.iter().any(is_firm_beside)
            || outer.iter().any(|outer| is_split_by_sibling(outer, &parent.location.path))
        {
            return None;
        }
        let ignores_case = location.kind == LocationKind::PatternAnyCase;
        let anchored = anchor_below(&parent.location.path, &location.path, ignores_case)?;
        return Some((LocationKind::Pattern, anchored));
    }
    let kind = match location.kind {
        LocationKind::Exact => LocationKind::Exact,
        _ if has_nested_pattern(outermost.location) => LocationKind::Prefix,
        _ => outermost.location.kind,
    };
    path.starts_with(&parent.location.path).then_some((kind, path))
}

fn has_nested_pattern(location: &NginxLocation) -> bool {
    location.nested.iter().any(|nested| nested.kind.is_pattern() || has_nested_pattern(nested))
}

/// Returns whether a location next to `outer` takes some of the requests below `path`, which is in `outer`.
fn is_split_by_sibling(outer: &OuterLocation<'_>, path: &str) -> bool {
    let is_longer = |other: &NginxLocation| other.path.len() > outer.location.path.len();
    outer.siblings.iter().any(|other| other.kind.is_prefix() && is_longer(other) && other.path.starts_with(path))
}

/// Returns the location next to one around `nested` that nginx chooses instead.
fn hiding_location<'a>(nested: &NginxLocation, outer: &OuterLocation<'a>) -> Option<&'a NginxLocation> {
    outer.siblings.iter().filter(|_| !nested.kind.is_pattern()).find(|other| {
        let is_longer = other.path.len() > outer.location.path.len();
        let is_same_path = other.kind == LocationKind::Exact && nested.kind == other.kind && nested.path == other.path;
        is_same_path || other.kind.is_prefix() && is_longer && nested.path.starts_with(&other.path)
    })
}

/// Reports locations with the same path, of which nginx refuses all but the first.
fn report_duplicates(context: &mut ImportContext, flat: &[FlatLocation<'_>]) {
    for (index, FlatLocation { location, kind, path, .. }) in flat.iter().enumerate() {
        let is_same = |other: &&FlatLocation<'_>| {
            let is_same_kind = other.kind == *kind || other.kind.is_prefix() && kind.is_prefix();
            is_same_kind && other.path == *path
        };
        if let Some(first) = flat.iter().take(index).find(is_same) {
            let issue = location.path_span().diagnostic(format!("a second location for `{path}`"));
            let line = first.location.directive.name.line;
            context.report.add_diagnostic(issue.with_help(format!("the first is in line {line}")));
        }
    }
}
