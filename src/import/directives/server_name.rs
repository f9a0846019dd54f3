//! `server_name`.

use super::rewrites::unescape_literal;
use crate::import::blocks::{BlockScope, NginxServerName};
use crate::import::context::ImportContext;
use crate::import::syntax::directive::{Directive, DirectiveWord};
use crate::routes::HostName;

/// The beginnings of patterns that match every name below a domain.
const ANY_SUBDOMAIN: [&str; 4] = ["^.+\\.", "^(.+)\\.", "^(.*)\\.", "^.*\\."];
/// The most names that one pattern is written as.
const MAX_NAMES: usize = 32;

/// `server_name NAME ...`.
pub(super) fn handle_server_name(context: &mut ImportContext, directive: &Directive) {
    if !context.check_scope(directive, &[BlockScope::Server], "`server`") {
        return;
    }
    if directive.args.is_empty() {
        return context.reject_argument(directive, "names, such as llm.example.com");
    }
    context.report.carried_count += 1;
    for word in &directive.args {
        let names = match word.text.strip_prefix('~') {
            Some(pattern) => pattern_names(pattern),
            None => Some(vec![word.text.to_ascii_lowercase()]),
        };
        match names.filter(|names| names.iter().all(|name| is_name(name))) {
            Some(names) => names.into_iter().for_each(|name| add_name(context, directive, word, name)),
            None => reject_name(context, word),
        }
    }
}

fn add_name(context: &mut ImportContext, directive: &Directive, word: &DirectiveWord, name: String) {
    if name.ends_with('.') {
        // nginx takes the final dot off the client's name, so the two are never equal.
        let reason = format!("no request has the name {name}: nginx takes the final dot off the client's");
        return context.report.add_not_needed(directive, reason);
    }
    let Some(server) = &mut context.open.server else { return };
    let is_pattern = word.text.starts_with('~');
    if !server.names.iter().any(|known| known.text == name) {
        let (span, source_line) = (word.span.clone(), directive.source_line());
        server.names.push(NginxServerName { text: name, is_pattern, span, source_line });
    }
}

fn reject_name(context: &mut ImportContext, word: &DirectiveWord) {
    let (message, help) = if word.text.starts_with('~') {
        let help = "write the names, or a wildcard: *.example.com";
        (format!("the pattern `{}` cannot be written as names", word.text), help)
    } else if word.text.contains('$') {
        (format!("`{}` depends on the machine", word.text), "write the name")
    } else {
        (format!("`{}` is no host name", word.text), "remove it")
    };
    context.report.add_diagnostic(word.span.diagnostic(message).with_help(help));
}

/// Returns whether a text is a name, with a wildcard at its beginning or end; empty for requests without `Host`.
fn is_name(text: &str) -> bool {
    text.is_empty() || text.parse::<HostName>().is_ok()
}

/// Returns the names that a regular expression matches; `None` if they are not a few names and wildcards.
fn pattern_names(pattern: &str) -> Option<Vec<String>> {
    let pattern = without_group_names(pattern);
    let body = pattern.strip_suffix('$')?;
    if let Some(domain) = ANY_SUBDOMAIN.iter().find_map(|start| body.strip_prefix(start)) {
        return Some(vec![format!("*.{}", unescape_literal(domain)?.to_ascii_lowercase())]);
    }
    let names = expand_alternatives(body.strip_prefix('^')?)?;
    let names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    Some(names).filter(|names| names.iter().all(|name| !name.starts_with(['*', '.']) && !name.ends_with(['*', '.'])))
}

/// Removes `?<name>` and `?:` from groups.
fn without_group_names(pattern: &str) -> String {
    let mut plain = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("(?") {
        plain.push_str(before);
        plain.push('(');
        let after = after.strip_prefix('P').unwrap_or(after);
        rest = match after.strip_prefix(':') {
            Some(after) => after,
            None => match after.strip_prefix('<').and_then(|after| after.split_once('>')) {
                Some((name, after)) if !name.starts_with(['=', '!']) => after,
                // Another kind of group; it stays, and is no literal.
                _ => {
                    plain.push('?');
                    after
                }
            },
        };
    }
    plain + rest
}

/// Returns the texts of a pattern with literals, groups `(a|b)` and optional groups `(a)?`.
fn expand_alternatives(pattern: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, group)) = rest.split_once('(') {
        let (inner, after) = group.split_once(')').filter(|(inner, _)| !inner.contains('('))?;
        let literal = unescape_literal(before)?;
        let mut choices: Vec<String> = inner.split('|').map(unescape_literal).collect::<Option<_>>()?;
        rest = after.strip_prefix('?').unwrap_or(after);
        if rest.len() < after.len() {
            choices.push(String::new());
        }
        let join = |name: &String| choices.iter().map(|choice| format!("{name}{literal}{choice}")).collect::<Vec<_>>();
        names = names.iter().flat_map(join).collect();
        if names.len() > MAX_NAMES {
            return None;
        }
    }
    let end = unescape_literal(rest)?;
    names.iter_mut().for_each(|name| name.push_str(&end));
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_pattern_is_written_as_names() {
        for (pattern, expected) in [
            ("^www\\.a\\.example$", Some(vec!["www.a.example"])),
            ("^(www\\.)?a\\.example$", Some(vec!["www.a.example", "a.example"])),
            ("^(?<sub>b|C)\\.a\\.example$", Some(vec!["b.a.example", "c.a.example"])),
            ("^(?<user>.+)\\.a\\.example$", Some(vec!["*.a.example"])),
            ("^.*\\.a\\.example$", Some(vec!["*.a.example"])),
            ("^[^.]+\\.a\\.example$", None),
            ("a\\.example$", None),
            ("^a\\.example", None),
            ("^a.example$", None),
            ("^(a|b(c|d))\\.example$", None),
            ("^(?!a)b$", None),
            ("^a+$", None),
        ] {
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(pattern_names(pattern), expected, "{pattern}");
        }
    }
}
