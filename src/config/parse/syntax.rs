//! Syntax errors, said so that someone who writes nginx's language understands them.

use toml::de::{DeTable, Error};

use crate::config::diagnostics::{Diagnostic, Span, may_hold_secret};

/// Parses a file; the issues beside the tree are of keys given twice, of which the tree has the first.
///
/// *Errors*: everything else that is no TOML.
pub(in crate::config) fn parse_document(whole: &Span) -> Result<(DeTable<'_>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (root, errors) = DeTable::parse_recoverable(&whole.source().text);
    let mut issues: Vec<Diagnostic> = Vec::new();
    for error in &errors {
        let issue = syntax_diagnostic(error, whole);
        // One slip makes the parser stumble more than once; the first time says it best.
        if issues.iter().all(|known| known.line != issue.line) {
            issues.push(issue);
        }
    }
    if errors.iter().all(is_duplicate_key) { Ok((root.into_inner(), issues)) } else { Err(issues) }
}

fn is_duplicate_key(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn syntax_diagnostic(error: &Error, whole: &Span) -> Diagnostic {
    let at = whole.with_range(error.span().unwrap_or(0..0));
    if is_duplicate_key(error) {
        return at.diagnostic(format!("`{}` is given twice", at.text())).with_help("keep one");
    }
    let issue = at.diagnostic(format!("TOML syntax: {}", error.message()));
    match suggest_fix(at.line_text()) {
        Some(advice) => issue.with_help(advice),
        None => issue,
    }
}

/// What to do about the slips that a line shows.
fn suggest_fix(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.ends_with('{') || line == "}" {
        return Some("there are no blocks here: nginx's `upstream` is a `[[pool]]`".to_owned());
    }
    let (line, colon) = line.strip_suffix(';').map_or((line, false), |line| (line, true));
    let (key, value) = line.split_once('=').or_else(|| line.split_once(' '))?;
    let (key, value) = (key.trim(), value.trim());
    let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    // A key must not be shown, and what has quotes already lacks something else.
    if !word
        || may_hold_secret(&format!("{key} = {value}"))
        || value.is_empty()
        || value.contains(['"', '\'', '[', '{'])
    {
        return colon.then(|| "lines end without `;`".to_owned());
    }
    let value = match value {
        "yes" | "on" => "true".to_owned(),
        "no" => "false".to_owned(),
        number if number.parse::<i64>().is_ok() => number.to_owned(),
        text => format!("\"{text}\""),
    };
    Some(format!("write `{key} = {value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_lines_are_rewritten() {
        for (line, wanted) in [
            ("worker_processes 4;", "write `worker_processes = 4`"),
            ("policy = least_conn # why", "write `policy = \"least_conn\"`"),
            ("upstream chat {", "there are no blocks here: nginx's `upstream` is a `[[pool]]`"),
            ("x_upstream on;", "write `x_upstream = true`"),
            ("policy = \"random\";", "lines end without `;`"),
        ] {
            assert_eq!(suggest_fix(line).as_deref(), Some(wanted), "{line}");
        }
        for line in ["", "=", "a = \"x", "api_key = sk-1", "b = [1,"] {
            assert_eq!(suggest_fix(line), None, "{line}");
        }
    }
}
