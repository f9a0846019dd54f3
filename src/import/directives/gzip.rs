//! Compression, which one key has for the whole router.

use crate::config::parse::units;
use crate::import::context::{ImportContext, quote_toml};
use crate::import::syntax::parser::Directive;

/// `gzip on | off`, `gzip_types TYPE ...` and `gzip_min_length SIZE`, which mean something together only.
pub(in crate::import) fn handle_gzip(walk: &mut ImportContext, directive: &Directive) {
    match (directive.name.text.as_str(), directive.arg(0)) {
        ("gzip", text) if text != "on" && text != "off" => walk.reject_argument(directive, "on or off"),
        ("gzip_min_length", size) if units::parse_size(size).is_none() => {
            walk.reject_argument(directive, "a size such as 1k or 256");
        }
        _ => walk.gzip_directives.push(directive.clone()),
    }
}

/// Compresses JSON if nginx did so somewhere: it does text/html by itself, other types where it is told.
pub(in crate::import) fn finish_gzip(walk: &mut ImportContext) {
    let all = std::mem::take(&mut walk.gzip_directives);
    let json = |directive: &Directive| {
        let kinds = ["*", "application/json"];
        directive.name.text == "gzip_types" && directive.arg_texts().iter().any(|kind| kinds.contains(kind))
    };
    let is_on = |directive: &Directive| directive.name.text == "gzip" && directive.arg(0) == "on";
    let on = all.iter().any(is_on) && all.iter().any(json);
    let (lengths, others): (Vec<_>, Vec<_>) = all.iter().partition(|d| d.name.text == "gzip_min_length");
    for directive in lengths {
        match units::parse_size(directive.arg(0)) {
            // The least of several counts.
            Some(size @ 1..) if on => {
                walk.set_key("gzip", quote_toml(directive.arg(0)), u128::MAX - size as u128, directive);
            }
            Some(_) if on => walk.set_key("gzip", quote_toml("1"), u128::MAX, directive),
            _ => walk.report.add_not_needed(directive, "JSON is not compressed"),
        }
    }
    for directive in others {
        match directive.name.text.as_str() {
            "gzip" if directive.arg(0) == "off" => match on {
                true => walk.report.add_impossible(directive, "there is one for the whole router, and it is on"),
                false => walk.report.add_not_needed(directive, "answers are not compressed"),
            },
            _ if on => {
                walk.set_max("gzip", quote_toml("20"), 0, directive);
                walk.report.carried_count += 1;
            }
            "gzip" => {
                let why = "of itself it compresses text/html only; for other types see gzip_types";
                walk.report.add_not_needed(directive, why);
            }
            _ => walk.report.add_not_needed(directive, "JSON is not compressed, and streams never are"),
        }
    }
    let events = |directive: &&Directive| directive.arg_texts().contains(&"text/event-stream");
    if let Some(directive) = all.iter().find(events) {
        walk.report.add_impossible(directive, "streams are never compressed, so that every event goes out at once");
    }
}
