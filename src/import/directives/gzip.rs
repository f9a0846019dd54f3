//! Compression.

use crate::config::parse::units;
use crate::import::context::ImportContext;
use crate::import::inheritance::{GZIP, GZIP_LENGTH, lists_json};
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;

/// `gzip on | off`, `gzip_types TYPE ...` and `gzip_min_length SIZE`; counted together at the end.
pub(super) fn handle_gzip(context: &mut ImportContext, directive: &Directive) {
    match (directive.name.text.as_str(), directive.arg(0)) {
        ("gzip", text @ ("on" | "off")) => {
            context.set_part(GZIP, text.to_owned(), 0, directive);
        }
        ("gzip", _) => return context.reject_argument(directive, "on or off"),
        ("gzip_min_length", text) => {
            let Some(size) = units::parse_size(text) else {
                return context.reject_argument(directive, "a size such as 1k or 256");
            };
            context.set_part(GZIP_LENGTH, quote_toml(if size == 0 { "1" } else { text }), 0, directive);
        }
        _ => {
            let types = directive.arg_texts().into_iter().map(str::to_owned);
            if let Some(level) = context.open.level() {
                level.gzip_types.extend(types);
            }
        }
    }
    context.deferred.gzip.push(directive.clone());
}

/// Counts the directives, by whether nginx compresses JSON anywhere. It compresses text/html only, unless `gzip_types`
/// lists more.
pub(in crate::import) fn finish_gzip(context: &mut ImportContext) {
    let all = std::mem::take(&mut context.deferred.gzip);
    let is_on = |directive: &Directive| directive.name.text == "gzip" && directive.arg(0) == "on";
    let lists = |directive: &Directive| {
        directive.name.text == "gzip_types" && directive.arg_texts().iter().any(|kind| lists_json(kind))
    };
    let on = all.iter().any(is_on) && all.iter().any(lists);
    for directive in &all {
        let reason = match directive.name.text.as_str() {
            _ if on => {
                context.report.carried_count += 1;
                continue;
            }
            "gzip" if directive.arg(0) == "on" => "by default it compresses text/html only; see gzip_types",
            "gzip" => "responses are not compressed",
            "gzip_types" => "JSON is not compressed, and streams never are",
            _ => "JSON is not compressed",
        };
        context.report.add_not_needed(directive, reason);
    }
    let lists_events = |directive: &&Directive| directive.arg_texts().contains(&"text/event-stream");
    if let Some(directive) = all.iter().find(lists_events) {
        context.report.add_impossible(directive, "streams are never compressed, so that events are sent without delay");
    }
}
