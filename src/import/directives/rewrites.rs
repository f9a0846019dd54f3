//! `rewrite` and `set`.
//!
//! A `rewrite` is carried over where it replaces the location's own path, or redirects every request. Any other one
//! leads requests elsewhere, so it stops the import.

use super::access_rules::{REWRITE_REASON, report_guard};
use crate::import::blocks::{BlockScope, NginxAnswer};
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;
use crate::import::toml_text::quote_toml;
use crate::log_format::{LogFormat, ValueAvailability};

/// Patterns that every path matches, with what `$1` stands for in them.
const MATCH_ALL: [(&str, &str); 7] =
    [("^", ""), (".*", ""), ("^.*$", ""), ("^/", ""), ("(.*)", "$uri"), ("^(.*)$", "$uri"), ("^/(.*)$", "/$uri")];

/// `rewrite PATTERN REPLACEMENT [last | break | redirect | permanent]`.
pub(super) fn handle_rewrite(context: &mut ImportContext, directive: &Directive) {
    if has_break(context) {
        return context.report.add_not_needed(directive, "a `break` before it keeps nginx from it");
    }
    let [pattern, replacement, flags @ ..] = directive.args.as_slice() else {
        return context.reject_argument(directive, "a pattern and a replacement");
    };
    let flag = flags.first().map_or("", |word| word.text.as_str());
    let is_url = ["http://", "https://", "$scheme"].iter().any(|start| replacement.text.starts_with(start));
    let status = match flag {
        "permanent" => Some(301),
        "redirect" => Some(302),
        _ if is_url => Some(302),
        _ => None,
    };
    if let Some(status) = status {
        return match redirect_target(&pattern.text, &replacement.text) {
            Some(url) => add_redirect(context, directive, status, &url),
            None => reject_rewrite(context, directive),
        };
    }
    match (flag, context.open.scope, context.open.location()) {
        ("break", BlockScope::Location, Some(location)) if location.rewrite.is_none() && flags.len() == 1 => {
            location.rewrite = Some(directive.clone());
            location.has_break = true;
        }
        _ => reject_rewrite(context, directive),
    }
}

/// `break`: ends the rewrite directives of its block.
pub(super) fn handle_break(context: &mut ImportContext, directive: &Directive) {
    context.report.add_not_needed(directive, "`return` and `rewrite` after it are left out");
    match (context.open.scope, context.open.locations.last_mut(), &mut context.open.server) {
        (BlockScope::Location, Some(location), _) => location.has_break = true,
        (_, _, Some(server)) => server.has_break = true,
        _ => {}
    }
}

/// Returns whether a `break` ends the rewrite directives of the block that is being read.
fn has_break(context: &ImportContext) -> bool {
    match (context.open.scope, context.open.locations.last(), &context.open.server) {
        (BlockScope::Location, Some(location), _) => location.has_break,
        (_, _, server) => server.as_ref().is_some_and(|server| server.has_break),
    }
}

/// Remarks on a `rewrite` that cannot be carried over; the import stops at its line if the server leads to replicas.
fn reject_rewrite(context: &mut ImportContext, directive: &Directive) {
    context.report.add_impossible(directive, format!("not carried over: {REWRITE_REASON}"));
    if let Some(server) = &mut context.open.server {
        server.rewrites.push(directive.clone());
    }
}

/// Returns the URL that a redirect of every path leads to; `None` if it cannot be said without the pattern.
fn redirect_target(pattern: &str, replacement: &str) -> Option<String> {
    let (_, capture) = MATCH_ALL.iter().find(|(text, _)| *text == pattern)?;
    let (url, has_args) = match replacement.strip_suffix('?') {
        Some(url) => (url, true),
        None => (replacement, replacement.contains('?')),
    };
    let url = match *capture {
        "" => url.to_owned(),
        "$uri" => url.replace("$1", "$uri"),
        _ => url.replace("/$1", "$uri"),
    };
    let has_capture = url.split('$').skip(1).any(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    if has_capture || url.contains('?') {
        return None;
    }
    Some(match url.strip_suffix("$uri") {
        // Both name the path as the client wrote it; `$uri` would be decoded.
        Some(start) if !has_args => format!("{start}$request_uri"),
        _ if has_args => url,
        _ => format!("{url}$is_args$args"),
    })
}

fn add_redirect(context: &mut ImportContext, directive: &Directive, status: u16, url: &str) {
    if let Err(bad) = LogFormat::for_header(url, ValueAvailability::AtRequest) {
        return report_guard(context, directive, &bad.to_string());
    }
    let answer = NginxAnswer { toml: quote_toml(&format!("{status} {url}")), directive: directive.clone() };
    context.report.carried_count += 1;
    match (context.open.locations.last_mut(), &mut context.open.server) {
        (Some(location), _) if context.open.scope == BlockScope::Location => {
            location.answer.get_or_insert(answer);
        }
        (_, Some(server)) => {
            server.answer.get_or_insert(answer);
        }
        _ => {}
    }
}

/// `set $NAME VALUE`. The value may be a key, so no remark repeats it.
pub(super) fn handle_set(context: &mut ImportContext, directive: &Directive) {
    if directive.args.len() != 2 || !directive.arg(0).starts_with('$') {
        return context.reject_argument(directive, "a variable and a value");
    }
    let subject = format!("set {} ...;", directive.arg(0));
    let reason = "its value is written out where `proxy_pass` and conditions use it".to_owned();
    context.report.add_remark_at(RemarkKind::NotNeeded, subject, directive.source_line(), reason);
}

/// What a `rewrite ... break` does with the paths of its location.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::import) enum PathRewrite {
    /// The text takes the place of the location's path.
    Whole(String),
    /// The text takes the place of a longer prefix; other paths stay as they are.
    Below { prefix: String, replacement: String },
}

/// Returns what a `rewrite ... break` does in the location `path`; `None` if that depends on more than a prefix.
pub(in crate::import) fn read_path_rewrite(rewrite: &Directive, path: &str, is_exact: bool) -> Option<PathRewrite> {
    convert_path_rewrite((rewrite.arg(0), rewrite.arg(1)), path, is_exact)
}

fn convert_path_rewrite((pattern, replacement): (&str, &str), path: &str, is_exact: bool) -> Option<PathRewrite> {
    let is_path = |text: &str| text.starts_with('/') && !text.contains(['$', '?']);
    let matches_all = MATCH_ALL.iter().any(|(text, capture)| *text == pattern && capture.is_empty());
    if is_exact {
        let literal = || unescape_literal(pattern.strip_prefix('^')?.strip_suffix('$')?);
        let matches = matches_all || literal().is_some_and(|literal| literal == path);
        return (matches && is_path(replacement)).then(|| PathRewrite::Whole(replacement.to_owned()));
    }
    let (prefix, start) = split_prefix_rewrite(pattern, replacement)?;
    let rewrite = match path.strip_prefix(prefix.as_str()) {
        Some(rest) => PathRewrite::Whole(format!("{start}{rest}")),
        None => {
            PathRewrite::Below { replacement: start, prefix: Some(prefix).filter(|prefix| prefix.starts_with(path))? }
        }
    };
    let (PathRewrite::Whole(text) | PathRewrite::Below { replacement: text, .. }) = &rewrite;
    is_path(text).then_some(rewrite)
}

/// Returns the literal prefix of a pattern `^PREFIX(.*)$`, and what takes its place.
fn split_prefix_rewrite(pattern: &str, replacement: &str) -> Option<(String, String)> {
    let inner = pattern.strip_prefix('^')?;
    let inner = inner.strip_suffix('$').unwrap_or(inner);
    let start = replacement.strip_suffix("$1")?;
    if let Some(literal) = inner.strip_suffix("(/.*)") {
        return Some((format!("{}/", unescape_literal(literal)?), format!("{start}/")));
    }
    let literal = inner.strip_suffix("(.*)")?;
    match literal.strip_suffix("/?") {
        Some(literal) => Some((format!("{}/", unescape_literal(literal)?), start.to_owned())),
        None => Some((unescape_literal(literal)?, start.to_owned())),
    }
}

/// Returns the text that a regular expression without operators matches.
pub(in crate::import) fn unescape_literal(pattern: &str) -> Option<String> {
    let mut literal = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => literal.push(chars.next().filter(char::is_ascii_punctuation)?),
            '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' => return None,
            c => literal.push(c),
        }
    }
    Some(literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_of_every_path_names_its_url() {
        for (pattern, replacement, expected) in [
            ("^", "https://$host$request_uri?", Some("https://$host$request_uri")),
            ("^(.*)$", "https://$host$1", Some("https://$host$request_uri")),
            ("^/(.*)$", "https://a.example/$1", Some("https://a.example$request_uri")),
            ("^", "/new", Some("/new$is_args$args")),
            ("^/(.*)$", "https://a.example/x-$1", None),
            ("^/old$", "/new", None),
            ("^(.*)$", "/x?path=$1", None),
        ] {
            assert_eq!(redirect_target(pattern, replacement).as_deref(), expected, "{pattern} {replacement}");
        }
    }

    #[test]
    fn rewrite_replaces_the_location_or_a_longer_prefix() {
        let whole = |text: &str| Some(PathRewrite::Whole(text.to_owned()));
        let below = |prefix: &str, text: &str| {
            Some(PathRewrite::Below { prefix: prefix.to_owned(), replacement: text.to_owned() })
        };
        for (path, is_exact, pattern, replacement, expected) in [
            ("/x/", false, "^/x/(.*)$", "/$1", whole("/")),
            ("/x/", false, "^/x(/.*)$", "$1", whole("/")),
            ("/x/y/", false, "^/x/(.*)$", "/v1/$1", whole("/v1/y/")),
            ("/x", false, "^/x(/.*)$", "$1", below("/x/", "/")),
            ("/x/", false, "^/x/v1/(.*)$", "/v1/$1", below("/x/v1/", "/v1/")),
            ("/x/", false, "^/y/(.*)$", "/$1", None),
            ("/x/", false, "^", "/y", None),
            ("/x", true, "^", "/y", whole("/y")),
            ("/x", true, "^/x$", "/y", whole("/y")),
            ("/x", true, "^/y$", "/z", None),
            ("/x/", false, "^/x/(.*)$", "/y?path=$1", None),
            ("/x/", false, "^/x/(.*)$", "y$1", None),
        ] {
            assert_eq!(convert_path_rewrite((pattern, replacement), path, is_exact), expected, "{path} {pattern}");
        }
    }

    #[test]
    fn prefix_rewrite_is_a_literal_and_its_replacement() {
        for (pattern, replacement, expected) in [
            ("^/x/(.*)$", "/$1", Some(("/x/", "/"))),
            ("^/x/(.*)", "/v1/$1", Some(("/x/", "/v1/"))),
            ("^/x(/.*)$", "$1", Some(("/x/", "/"))),
            ("^/x/?(.*)$", "/$1", Some(("/x/", "/"))),
            ("^/a\\.b/(.*)$", "/$1", Some(("/a.b/", "/"))),
            ("^/x/(.+)$", "/$1", None),
            ("^/(a|b)/(.*)$", "/$2", None),
            ("/x/(.*)$", "/$1", None),
        ] {
            let found = split_prefix_rewrite(pattern, replacement);
            assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{pattern} {replacement}");
        }
    }
}
