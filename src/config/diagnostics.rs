//! What is wrong with a configuration, and where: the texts people see.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Everything that is wrong with a configuration: the file's issues by line, then those of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    diagnostics: Vec<Diagnostic>,
}

/// One thing that is wrong, or that only looks wrong, with the line it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
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
pub(super) struct SourceText {
    pub(super) file: String,
    pub(super) text: String,
}

/// A piece of a source.
#[derive(Clone)]
pub(crate) struct Span {
    source: Arc<SourceText>,
    range: Range<usize>,
}

/// A value and where it was written.
#[derive(Clone)]
pub(crate) struct SpannedValue<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl Diagnostics {
    /// Sorts the issues: `file` first, each source by line.
    pub(crate) fn new(file: &str, mut issues: Vec<Diagnostic>) -> Self {
        issues.sort_by_cached_key(|issue| (issue.file != file, issue.file.clone(), issue.line, issue.column));
        issues.dedup();
        Self { diagnostics: issues }
    }

    /// The issues in order, at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }
}

impl fmt::Display for Diagnostics {
    /// Prints every issue, an empty line between two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{issue}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(sanitize(&help.into()));
        self
    }

    /// Without the line, where it says nothing more.
    pub(crate) fn without_excerpt(mut self) -> Self {
        self.excerpt = None;
        self
    }
}

impl From<Diagnostic> for Vec<Diagnostic> {
    fn from(issue: Diagnostic) -> Self {
        vec![issue]
    }
}

impl fmt::Display for Diagnostic {
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
                write!(f, " {}", sanitize(line))?;
            }
            write!(f, "\n{gutter} | {before}{}", "^".repeat(*width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n{gutter} = help: {help}"),
            None => Ok(()),
        }
    }
}

impl Span {
    /// All of a source.
    pub(crate) fn from_text(file: impl Into<String>, text: impl Into<String>) -> Self {
        let source = SourceText { file: file.into(), text: text.into() };
        let span = 0..source.text.len();
        Self { source: Arc::new(source), range: span }
    }

    /// Another piece of the same source.
    pub(crate) fn with_range(&self, span: Range<usize>) -> Self {
        Self { source: Arc::clone(&self.source), range: span }
    }

    pub(super) fn source(&self) -> &SourceText {
        &self.source
    }

    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// The text as it is written there.
    pub(crate) fn text(&self) -> &str {
        self.source.text.get(self.range.clone()).unwrap_or_default()
    }

    /// The line it is on.
    pub(super) fn line_text(&self) -> &str {
        self.position().2
    }

    /// Where it is, to be read inside a message about another place.
    pub(super) fn relative_to(&self, other: &Self) -> String {
        let line = self.position().0;
        if self.source.file == other.source.file { format!("line {line}") } else { self.source.file.clone() }
    }

    pub(crate) fn diagnostic(&self, message: impl Into<String>) -> Diagnostic {
        let (line, column, text) = self.position();
        let secret = may_hold_secret(text) || may_hold_secret(&format!("{} =", self.source.file.to_ascii_lowercase()));
        let width = self.text().lines().next().map_or(0, |first| first.chars().count());
        Diagnostic {
            file: self.source.file.clone(),
            line,
            column,
            message: sanitize(&message.into()),
            help: None,
            excerpt: (!secret).then(|| (text.to_owned(), width.max(1))),
        }
    }

    /// Line and column from 1, and the line itself.
    fn position(&self) -> (usize, usize, &str) {
        let text = self.source.text.as_str();
        let start = (0..=self.range.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(text.len(), |at| start + at);
        let line = text.get(line_start..line_end).unwrap_or_default().trim_end_matches('\r');
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        (before.matches('\n').count() + 1, column + 1, line)
    }
}

impl<T> SpannedValue<T> {
    pub(crate) fn new(value: T, at: Span) -> Self {
        Self { value, span: at }
    }
}

/// Tells whether a line may hold a secret: it sets a key that is for one, or that people take for one.
pub(super) fn may_hold_secret(line: &str) -> bool {
    let line = ["_env", "_file"].iter().fold(line.to_owned(), |line, end| {
        line.replace(&format!("api_key{end}"), "").replace(&format!("admin_token{end}"), "")
    });
    let sets = |word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let behind = line[at + word.len()..].trim_start_matches(['"', '\'']).trim_start();
            behind.starts_with('=') && !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-')
        })
    };
    ["api_key", "admin_token"].iter().any(|word| line.contains(word)) || sets("hash") || has_api_key(&line)
}

/// Tells whether there is a word such as `sk-1234`, which is what keys look like.
fn has_api_key(line: &str) -> bool {
    line.match_indices("sk-").any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
}

/// Configuration goes to a terminal here: what could steer the terminal does not.
fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render_diagnostic(text: &str, span: Range<usize>) -> String {
        Span::from_text("f", text).with_range(span).diagnostic("m").with_help("h").to_string()
    }

    #[test]
    fn what_is_said_is_one_line_and_steers_no_terminal() {
        let issue = Span::from_text("f", "a").with_range(0..1).diagnostic("`\n` and `\x1b[2J`").with_help("not \r");
        assert_eq!((&*issue.message, issue.help.as_deref()), ("`\u{fffd}` and `\u{fffd}[2J`", Some("not \u{fffd}")));
    }

    #[test]
    fn an_issue_shows_its_line_and_place() {
        let text = "a = 1\nb = \"x\"\n";
        assert_eq!(render_diagnostic(text, 10..13), "f:2:5: m\n  |\n2 | b = \"x\"\n  |     ^^^\n  = help: h");
    }

    #[test]
    fn columns_count_characters_and_tabs_stay() {
        assert_eq!(render_diagnostic("\té = x", 6..7), "f:1:6: m\n  |\n1 | \té = x\n  | \t    ^\n  = help: h");
    }

    #[test]
    fn places_at_the_end_or_outside_are_shown_too() {
        for span in [5..5, 6..9, 9..20, 100..101] {
            assert!(render_diagnostic("a = [\n", span.clone()).starts_with("f:"), "{span:?}");
        }
        assert_eq!(render_diagnostic("", 0..0), "f:1:1: m\n  |\n1 |\n  | ^\n  = help: h");
    }

    #[test]
    fn lines_that_may_hold_a_key_are_not_shown() {
        for line in ["hash = 'x'", "{ name = 'a', hash='x' }", "admin_token = 'x'", "key = sk-1", "\"hash\" = 1"] {
            assert!(may_hold_secret(line), "{line}");
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
            assert!(!may_hold_secret(line), "{line}");
        }
        assert_eq!(render_diagnostic("api_key = 1234", 10..14), "f:1:11: m\n  = help: h");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert!(!render_diagnostic("a = \"\u{1b}[31m\"", 4..10).contains('\u{1b}'));
    }

    #[test]
    fn reports_are_sorted_by_source_and_line() {
        let (file, var) = (Span::from_text("z.toml", "a\nb\n"), Span::from_text("A", "x"));
        let issues = vec![
            var.diagnostic("3"),
            file.with_range(2..3).diagnostic("2"),
            file.with_range(0..1).diagnostic("1"),
            file.with_range(0..1).diagnostic("1"),
        ];
        let order: Vec<String> =
            Diagnostics::new("z.toml", issues).diagnostics().iter().map(|i| i.message.clone()).collect();
        assert_eq!(order, ["1", "2", "3"]);
    }
}
