//! Compression: one key for the whole router.

use crate::config::parse::units;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;

/// `gzip on | off`, `gzip_types TYPE ...` and `gzip_min_length SIZE`; converted together at the end.
pub(super) fn handle_gzip(context: &mut ImportContext, directive: &Directive) {
    match (directive.name.text.as_str(), directive.arg(0)) {
        ("gzip", text) if text != "on" && text != "off" => context.reject_argument(directive, "on or off"),
        ("gzip_min_length", size) if units::parse_size(size).is_none() => {
            context.reject_argument(directive, "a size such as 1k or 256");
        }
        _ => context.deferred.gzip.push(directive.clone()),
    }
}

/// Turns compression on if nginx compresses JSON anywhere. It compresses text/html only, unless `gzip_types` lists
/// more.
pub(in crate::import) fn finish_gzip(context: &mut ImportContext) {
    let all = std::mem::take(&mut context.deferred.gzip);
    let lists_json = |directive: &Directive| {
        let kinds = ["*", "application/json"];
        directive.name.text == "gzip_types" && directive.arg_texts().iter().any(|kind| kinds.contains(kind))
    };
    let is_on = |directive: &Directive| directive.name.text == "gzip" && directive.arg(0) == "on";
    let on = all.iter().any(is_on) && all.iter().any(lists_json);
    let (lengths, others): (Vec<_>, Vec<_>) = all.iter().partition(|d| d.name.text == "gzip_min_length");
    for directive in lengths {
        match units::parse_size(directive.arg(0)) {
            // The least of several lengths wins.
            Some(size @ 1..) if on => {
                context.set_key("gzip", quote_toml(directive.arg(0)), u128::MAX - size as u128, directive);
            }
            Some(_) if on => context.set_key("gzip", quote_toml("1"), u128::MAX, directive),
            _ => context.report.add_not_needed(directive, "JSON is not compressed"),
        }
    }
    for directive in others {
        match directive.name.text.as_str() {
            "gzip" if directive.arg(0) == "off" => match on {
                true => context.report.add_impossible(directive, "the router has one setting, and it is on"),
                false => context.report.add_not_needed(directive, "responses are not compressed"),
            },
            _ if on => {
                context.set_max("gzip", quote_toml("20"), 0, directive);
                context.report.carried_count += 1;
            }
            "gzip" => {
                let reason = "by default it compresses text/html only; see gzip_types";
                context.report.add_not_needed(directive, reason);
            }
            _ => context.report.add_not_needed(directive, "JSON is not compressed, and streams never are"),
        }
    }
    let lists_events = |directive: &&Directive| directive.arg_texts().contains(&"text/event-stream");
    if let Some(directive) = all.iter().find(lists_events) {
        context.report.add_impossible(directive, "streams are never compressed, so that events are sent without delay");
    }
}
