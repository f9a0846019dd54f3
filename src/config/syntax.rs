//! Syntax errors, said so that someone who writes nginx's language understands them.

use toml::de::{DeTable, Error};

use super::report::{Issue, Place, conceals};

/// Parses a file; the issues beside the tree are of keys given twice, of which the tree has the first.
///
/// *Errors*: everything else that is no TOML.
pub(super) fn parse(whole: &Place) -> Result<(DeTable<'_>, Vec<Issue>), Vec<Issue>> {
    let (root, errors) = DeTable::parse_recoverable(&whole.source().text);
    let mut issues: Vec<Issue> = Vec::new();
    for error in &errors {
        let issue = issue(error, whole);
        // One slip makes the parser stumble more than once; the first time says it best.
        if issues.iter().all(|known| known.line != issue.line) {
            issues.push(issue);
        }
    }
    if errors.iter().all(doubled) { Ok((root.into_inner(), issues)) } else { Err(issues) }
}

fn doubled(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn issue(error: &Error, whole: &Place) -> Issue {
    let at = whole.at(error.span().unwrap_or(0..0));
    if doubled(error) {
        return at.issue(format!("`{}` is given twice", at.written())).help("keep one");
    }
    let issue = at.issue(format!("TOML syntax: {}", error.message()));
    match advice(at.line()) {
        Some(advice) => issue.help(advice),
        None => issue,
    }
}

/// What to do about the slips that a line shows.
fn advice(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.ends_with('{') || line == "}" {
        return Some("there are no blocks here: nginx's `upstream` is a `[[pool]]`".to_owned());
    }
    let (line, colon) = line.strip_suffix(';').map_or((line, false), |line| (line, true));
    let (key, value) = line.split_once('=').or_else(|| line.split_once(' '))?;
    let (key, value) = (key.trim(), value.trim());
    let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    // A key must not be shown, and what has quotes already lacks something else.
    if !word || conceals(&format!("{key} = {value}")) || value.is_empty() || value.contains(['"', '\'', '[', '{']) {
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
            assert_eq!(advice(line).as_deref(), Some(wanted), "{line}");
        }
        for line in ["", "=", "a = \"x", "api_key = sk-1", "b = [1,"] {
            assert_eq!(advice(line), None, "{line}");
        }
    }
}
