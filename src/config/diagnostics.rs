//! Errors and warnings of a configuration, with their places.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// All errors of a configuration: those of the file by line, then those of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    diagnostics: Vec<Diagnostic>,
}

/// An error or a warning, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, environment variable or command-line argument.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The error, in one line.
    pub message: String,
    /// The way to fix it, in one line; `None` if the message says all.
    pub help: Option<String>,
    /// The line and the number of characters to underline; `None` where the line might show a secret.
    excerpt: Option<(String, usize)>,
}

/// A text that configuration is read from, and its name.
#[derive(Default)]
pub(super) struct SourceText {
    pub(super) file: String,
    pub(super) text: String,
}

/// A range of a source text; the default is an empty text without a name.
#[derive(Clone, Default)]
pub(crate) struct Span {
    source: Arc<SourceText>,
    range: Range<usize>,
}

/// A value and its place.
#[derive(Clone)]
pub(crate) struct SpannedValue<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl Diagnostics {
    /// Sorts the diagnostics: those of `file` first, each source by line. Equal ones are kept once.
    pub(crate) fn new(file: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_cached_key(|d| (d.file != file, d.file.clone(), d.line, d.column));
        diagnostics.dedup();
        Self { diagnostics }
    }

    /// Returns the diagnostics in order, at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }
}

impl fmt::Display for Diagnostics {
    /// Writes every diagnostic, with an empty line between two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// Sets the help.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(sanitize(&help.into()));
        self
    }

    /// Removes the line, where it might show a secret or adds nothing.
    pub(crate) fn without_excerpt(mut self) -> Self {
        self.excerpt = None;
        self
    }
}

impl From<Diagnostic> for Vec<Diagnostic> {
    fn from(diagnostic: Diagnostic) -> Self {
        vec![diagnostic]
    }
}

impl fmt::Display for Diagnostic {
    /// Writes `file:line:column: message`, the line with its place underlined, and `= help: ...`, without a final
    /// newline.
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
    /// Returns the whole of a new source text; `file` is its name.
    pub(crate) fn from_text(file: impl Into<String>, text: impl Into<String>) -> Self {
        let source = SourceText { file: file.into(), text: text.into() };
        let range = 0..source.text.len();
        Self { source: Arc::new(source), range }
    }

    /// Returns another range of the same source.
    pub(crate) fn with_range(&self, range: Range<usize>) -> Self {
        Self { source: Arc::clone(&self.source), range }
    }

    pub(super) fn source(&self) -> &SourceText {
        &self.source
    }

    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// Returns the text of the range; empty if the range is outside the source.
    pub(crate) fn text(&self) -> &str {
        self.source.text.get(self.range.clone()).unwrap_or_default()
    }

    /// Returns the line on which the range starts.
    pub(super) fn line_text(&self) -> &str {
        self.position().2
    }

    /// Returns the place for a message about `other`: the line, or the source's name if the two are of different
    /// sources.
    pub(super) fn relative_to(&self, other: &Self) -> String {
        let line = self.position().0;
        if self.source.file == other.source.file { format!("line {line}") } else { self.source.file.clone() }
    }

    /// Returns an error or a warning at this place; the line is left out if it may hold a secret.
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

    /// Returns the line and column of the start, from 1, and the line's text.
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
    pub(crate) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// Returns whether a line may hold a secret: it sets a key for secrets, or one that users mistake for it.
pub(super) fn may_hold_secret(line: &str) -> bool {
    let line = ["_env", "_file"].iter().fold(line.to_owned(), |line, end| {
        line.replace(&format!("api_key{end}"), "").replace(&format!("admin_token{end}"), "")
    });
    let sets_key = |word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let after = line[at + word.len()..].trim_start_matches(['"', '\'']).trim_start();
            after.starts_with('=') && !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-')
        })
    };
    ["api_key", "admin_token"].iter().any(|word| line.contains(word)) || sets_key("hash") || has_api_key(&line)
}

/// Returns whether the line has a word such as `sk-1234`, the usual form of API keys.
fn has_api_key(line: &str) -> bool {
    line.match_indices("sk-").any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-'))
}

/// Replaces control characters, which could change the state of the terminal.
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
    fn message_is_one_line_without_control_characters() {
        let issue = Span::from_text("f", "a").with_range(0..1).diagnostic("`\n` and `\x1b[2J`").with_help("not \r");
        assert_eq!((&*issue.message, issue.help.as_deref()), ("`\u{fffd}` and `\u{fffd}[2J`", Some("not \u{fffd}")));
    }

    #[test]
    fn diagnostic_shows_its_line_and_place() {
        let text = "a = 1\nb = \"x\"\n";
        assert_eq!(render_diagnostic(text, 10..13), "f:2:5: m\n  |\n2 | b = \"x\"\n  |     ^^^\n  = help: h");
    }

    #[test]
    fn columns_count_characters_and_tabs_stay() {
        assert_eq!(render_diagnostic("\té = x", 6..7), "f:1:6: m\n  |\n1 | \té = x\n  | \t    ^\n  = help: h");
    }

    #[test]
    fn place_at_the_end_or_outside_is_shown() {
        for span in [5..5, 6..9, 9..20, 100..101] {
            assert!(render_diagnostic("a = [\n", span.clone()).starts_with("f:"), "{span:?}");
        }
        assert_eq!(render_diagnostic("", 0..0), "f:1:1: m\n  |\n1 |\n  | ^\n  = help: h");
    }

    #[test]
    fn line_that_may_hold_a_secret_is_not_shown() {
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
    fn diagnostics_are_sorted_by_source_and_line() {
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
