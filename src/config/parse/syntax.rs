//! TOML syntax errors, with help for those who write nginx's language.

use toml::de::{DeTable, Error};

use crate::config::diagnostics::{Diagnostic, Span, may_hold_secret};

/// Parses a file into its tree and the errors of duplicate keys; of a duplicate key the tree has the first value.
///
/// *Errors*: every other syntax error.
pub(in crate::config) fn parse_document(document: &Span) -> Result<(DeTable<'_>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (root, errors) = DeTable::parse_recoverable(&document.source().text);
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for error in &errors {
        let diagnostic = syntax_diagnostic(error, document);
        // One mistake makes the parser fail several times on a line; its first message is the useful one.
        if diagnostics.iter().all(|known| known.line != diagnostic.line) {
            diagnostics.push(diagnostic);
        }
    }
    if errors.iter().all(is_duplicate_key) { Ok((root.into_inner(), diagnostics)) } else { Err(diagnostics) }
}

fn is_duplicate_key(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn syntax_diagnostic(error: &Error, document: &Span) -> Diagnostic {
    let span = document.with_range(error.span().unwrap_or(0..0));
    if is_duplicate_key(error) {
        return span.diagnostic(format!("`{}` is given twice", span.text())).with_help("keep one");
    }
    let diagnostic = span.diagnostic(format!("TOML syntax: {}", error.message()));
    match suggest_fix(span.line_text()) {
        Some(help) => diagnostic.with_help(help),
        None => diagnostic,
    }
}

/// Returns the help for a mistake that the line shows.
fn suggest_fix(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.ends_with('{') || line == "}" {
        return Some("there are no blocks here: nginx's `upstream` is a `[[pool]]`".to_owned());
    }
    let (line, semicolon) = line.strip_suffix(';').map_or((line, false), |line| (line, true));
    let (key, value) = line.split_once('=').or_else(|| line.split_once(' '))?;
    let (key, value) = (key.trim(), value.trim());
    let is_word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    // A secret must not be shown; a value with quotes has another mistake.
    if !is_word
        || may_hold_secret(&format!("{key} = {value}"))
        || value.is_empty()
        || value.contains(['"', '\'', '[', '{'])
    {
        return semicolon.then(|| "lines end without `;`".to_owned());
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
    fn nginx_line_is_rewritten_as_toml() {
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
