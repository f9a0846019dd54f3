//! What takes the place of a location's path in requests to replicas: the path in `proxy_pass`, or a `rewrite`.

use super::flat_locations::FlatLocation;
use crate::import::blocks::LocationKind;
use crate::import::context::ImportContext;
use crate::import::directives::access_rules::{REWRITE_REASON, report_guard};
use crate::import::directives::rewrites::{PathRewrite, read_path_rewrite};
use crate::import::syntax::directive::Directive;

/// What takes the place of a location's path.
#[derive(Default)]
pub(super) struct PathReplacement {
    /// In place of the location's path; `None`: replicas get the path as received.
    pub(super) path: Option<String>,
    /// A longer prefix, and what takes its place.
    pub(super) below: Option<(String, String)>,
}

/// Reads the replacement in a location whose `proxy_pass` has the path `uri`; `None` and a diagnostic if it cannot be
/// carried over.
pub(super) fn read_replacement(
    context: &mut ImportContext,
    flat: &FlatLocation<'_>,
    pass: &Directive,
    uri: &str,
) -> Option<PathReplacement> {
    let path = if uri.is_empty() { None } else { Some(check_uri(context, flat, pass, uri)?) };
    let Some(rewrite) = &flat.location.rewrite else { return Some(PathReplacement { path, below: None }) };
    let is_exact = flat.kind == LocationKind::Exact;
    let read = (!flat.kind.is_pattern()).then(|| read_path_rewrite(rewrite, &flat.path, is_exact)).flatten();
    let Some(read) = read else {
        report_guard(context, rewrite, REWRITE_REASON);
        return None;
    };
    context.report.carried_count += 1;
    // As in nginx, the path in the URL has no effect after a rewrite.
    Some(match read {
        PathRewrite::Whole(path) => PathReplacement { path: Some(path), below: None },
        PathRewrite::Below { prefix, replacement } => PathReplacement { path, below: Some((prefix, replacement)) },
    })
}

/// Returns the path in a `proxy_pass`; `None` and a diagnostic if it is no replacement.
fn check_uri(context: &mut ImportContext, flat: &FlatLocation<'_>, pass: &Directive, uri: &str) -> Option<String> {
    let span = pass.args.first().map_or(&pass.name.span, |word| &word.span);
    if flat.kind.is_pattern() {
        let issue = span.diagnostic("the URL has a path, and its location is a regular expression");
        context.report.add_diagnostic(issue.with_help("nginx refuses it too: remove the path"));
        return None;
    }
    if !uri.starts_with('/') || !uri.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) {
        let issue = span.diagnostic("the path of this URL cannot be carried");
        let help = "it begins with `/` and has visible ASCII characters only, and no `?` or `#`";
        context.report.add_diagnostic(issue.with_help(help));
        return None;
    }
    Some(uri.to_owned())
}
