//! Syntax errors, said so that someone who writes nginx's language understands them.

use toml::de::{DeTable, Error};

use super::report::{Issue, Place};

/// Parses a file; goes on after an error as far as that makes sense.
pub(super) fn parse(whole: &Place) -> Result<DeTable<'_>, Vec<Issue>> {
    let (root, errors) = DeTable::parse_recoverable(&whole.source().text);
    let mut issues: Vec<Issue> = Vec::new();
    for error in &errors {
        let issue = issue(error, whole);
        // One slip makes the parser stumble more than once; the first time says it best.
        if issues.iter().all(|known| known.line != issue.line) {
            issues.push(issue);
        }
    }
    if issues.is_empty() { Ok(root.into_inner()) } else { Err(issues) }
}

fn issue(error: &Error, whole: &Place) -> Issue {
    let at = whole.at(error.span().unwrap_or(0..0));
    if error.message() == "duplicate key" {
        return at.issue(format!("`{}` is given twice", at.written())).help("keep one");
    }
    let issue = at.issue(format!("TOML syntax: {}", error.message()));
    issue
}
