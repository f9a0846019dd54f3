//! What is wrong with a configuration, and where: the texts people see.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Everything that is wrong with a configuration: the file's issues by line, then those of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    issues: Vec<Issue>,
}

/// One thing that is wrong, or that only looks wrong, with the line it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The file, or the environment variable or command-line argument.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, in one line.
    pub help: Option<String>,
    /// The line and how much of it to underline; `None` where it might show a secret.
    excerpt: Option<(String, usize)>,
}

/// A text that configuration is read from.
pub(super) struct Source {
    pub(super) file: String,
    pub(super) text: String,
}

/// A piece of a source.
#[derive(Clone)]
pub(crate) struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

/// A value and where it was written.
#[derive(Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Place,
}

impl Report {
    /// Sorts the issues: `file` first, each source by line.
    pub(crate) fn new(file: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_cached_key(|issue| (issue.file != file, issue.file.clone(), issue.line, issue.column));
        issues.dedup();
        Self { issues }
    }

    /// The issues in order, at least one.
    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }

    pub(super) fn into_issues(self) -> Vec<Issue> {
        self.issues
    }
}

impl fmt::Display for Report {
    /// Prints every issue, an empty line between two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{issue}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl Issue {
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(harmless(&help.into()));
        self
    }

    /// Without the line, where it says nothing more.
    pub(crate) fn bare(mut self) -> Self {
        self.excerpt = None;
        self
    }
}

impl From<Issue> for Vec<Issue> {
    fn from(issue: Issue) -> Self {
        vec![issue]
    }
}

impl fmt::Display for Issue {
    /// `file:line:column: message`, the line with the place underlined, and `= help: ...`; no line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        if let Some((line, width)) = &self.excerpt {
            let before: String =
                line.chars().take(self.column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n{gutter} |\n{number} |")?;
            if !line.is_empty() {
                write!(f, " {}", harmless(line))?;
            }
            write!(f, "\n{gutter} | {before}{}", "^".repeat(*width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n{gutter} = help: {help}"),
            None => Ok(()),
        }
    }
}

impl Place {
    /// All of a source.
    pub(crate) fn whole(file: impl Into<String>, text: impl Into<String>) -> Self {
        let source = Source { file: file.into(), text: text.into() };
        let span = 0..source.text.len();
        Self { source: Arc::new(source), span }
    }

    /// Another piece of the same source.
    pub(crate) fn at(&self, span: Range<usize>) -> Self {
        Self { source: Arc::clone(&self.source), span }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn start(&self) -> usize {
        self.span.start
    }

    /// The text as it is written there.
    pub(crate) fn written(&self) -> &str {
        self.source.text.get(self.span.clone()).unwrap_or_default()
    }

    /// The line it is on.
    pub(super) fn line(&self) -> &str {
        self.position().2
    }

    /// Where it is, to be read inside a message about another place.
    pub(super) fn seen_from(&self, other: &Self) -> String {
        let line = self.position().0;
        if self.source.file == other.source.file { format!("line {line}") } else { self.source.file.clone() }
    }

    pub(crate) fn issue(&self, message: impl Into<String>) -> Issue {
        let (line, column, text) = self.position();
        let secret = conceals(text) || conceals(&format!("{} =", self.source.file.to_ascii_lowercase()));
        let width = self.written().lines().next().map_or(0, |first| first.chars().count());
        Issue {
            file: self.source.file.clone(),
            line,
            column,
            message: harmless(&message.into()),
            help: None,
            excerpt: (!secret).then(|| (text.to_owned(), width.max(1))),
        }
    }

    /// Line and column from 1, and the line itself.
    fn position(&self) -> (usize, usize, &str) {
        let text = self.source.text.as_str();
        let start = (0..=self.span.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(text.len(), |at| start + at);
        let line = text.get(line_start..line_end).unwrap_or_default().trim_end_matches('\r');
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        (before.matches('\n').count() + 1, column + 1, line)
    }
}

impl<T> At<T> {
    pub(crate) fn new(value: T, at: Place) -> Self {
        Self { value, at }
    }
}

/// Tells whether a line may hold a secret: it sets a key that is for one, or that people take for one.
pub(super) fn conceals(line: &str) -> bool {
    let line = ["_env", "_file"].iter().fold(line.to_owned(), |line, end| {
        line.replace(&format!("api_key{end}"), "").replace(&format!("admin_token{end}"), "")
    });
    let sets = |word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let behind = line[at + word.len()..].trim_start_matches(['"', '\'']).trim_start();
            behind.starts_with('=') && !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-')
        })
    };
    ["api_key", "admin_token"].iter().any(|word| line.contains(word)) || sets("hash") || has_key(&line)
}

/// Tells whether there is a word such as `sk-1234`, which is what keys look like.
fn has_key(line: &str) -> bool {
    line.match_indices("sk-").any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
}

/// Configuration goes to a terminal here: what could steer the terminal does not.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        Place::whole("f", text).at(span).issue("m").help("h").to_string()
    }

    #[test]
    fn what_is_said_is_one_line_and_steers_no_terminal() {
        let issue = Place::whole("f", "a").at(0..1).issue("`\n` and `\x1b[2J`").help("not \r");
        assert_eq!((&*issue.message, issue.help.as_deref()), ("`\u{fffd}` and `\u{fffd}[2J`", Some("not \u{fffd}")));
    }

    #[test]
    fn an_issue_shows_its_line_and_place() {
        let text = "a = 1\nb = \"x\"\n";
        assert_eq!(shown(text, 10..13), "f:2:5: m\n  |\n2 | b = \"x\"\n  |     ^^^\n  = help: h");
    }

    #[test]
    fn columns_count_characters_and_tabs_stay() {
        assert_eq!(shown("\té = x", 6..7), "f:1:6: m\n  |\n1 | \té = x\n  | \t    ^\n  = help: h");
    }

    #[test]
    fn places_at_the_end_or_outside_are_shown_too() {
        for span in [5..5, 6..9, 9..20, 100..101] {
            assert!(shown("a = [\n", span.clone()).starts_with("f:"), "{span:?}");
        }
        assert_eq!(shown("", 0..0), "f:1:1: m\n  |\n1 |\n  | ^\n  = help: h");
    }

    #[test]
    fn lines_that_may_hold_a_key_are_not_shown() {
        for line in ["hash = 'x'", "{ name = 'a', hash='x' }", "admin_token = 'x'", "key = sk-1", "\"hash\" = 1"] {
            assert!(conceals(line), "{line}");
        }
        for line in [
            "policy = 'hash $session'",
            "api_key_env = 'K'",
            "admin_token_file = '/x'",
            "key = 'a.pem'",
            "task-1",
            "policy = \"hash\"",
            "a = \"ip_hash\"",
        ] {
            assert!(!conceals(line), "{line}");
        }
        assert_eq!(shown("api_key = 1234", 10..14), "f:1:11: m\n  = help: h");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert!(!shown("a = \"\u{1b}[31m\"", 4..10).contains('\u{1b}'));
    }

    #[test]
    fn reports_are_sorted_by_source_and_line() {
        let (file, var) = (Place::whole("z.toml", "a\nb\n"), Place::whole("A", "x"));
        let issues = vec![var.issue("3"), file.at(2..3).issue("2"), file.at(0..1).issue("1"), file.at(0..1).issue("1")];
        let order: Vec<String> = Report::new("z.toml", issues).issues().iter().map(|i| i.message.clone()).collect();
        assert_eq!(order, ["1", "2", "3"]);
    }
}
