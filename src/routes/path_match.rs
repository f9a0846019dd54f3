//! The paths of a route: nginx's `location` words, and a pool's `path`.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

/// The paths of a route. They are compared with the path in normal form: without escapes, dots and double slashes.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// `= /path`: this path only.
    Exact(String),
    /// `/path`: every path that begins with the text.
    Prefix(String),
    /// `^~ /path`: the same, and no regular expression is tried where it is the longest.
    FinalPrefix(String),
    /// The path and all below it, in whole segments; without a final slash. A pool's `path`.
    Segments(String),
    /// `~ regex` or `~* regex`.
    Regex(PathRegex),
}

/// A regular expression for paths.
#[derive(Clone, Debug)]
pub struct PathRegex {
    regex: Regex,
    ignores_case: bool,
}

/// Why a text does not describe paths.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathMatchError {
    /// A prefix or an exact path without `/`.
    #[error("a path begins with `/`; before it may stand `=`, `^~`, `~` or `~*`")]
    MissingSlash,
    /// Control characters.
    #[error("a path has no control characters")]
    ControlCharacter,
    /// A regular expression that cannot be compiled.
    #[error("this regular expression is not supported: {0}")]
    Regex(String),
}

impl PathRegex {
    /// Compiles an expression.
    ///
    /// *Errors*: its syntax is wrong, or of a kind that takes more than linear time.
    fn new(pattern: &str, ignores_case: bool) -> Result<Self, PathMatchError> {
        // nginx compares bytes.
        let regex = RegexBuilder::new(pattern).unicode(false).case_insensitive(ignores_case).build();
        let reason = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        Ok(Self { regex: regex.map_err(|error| PathMatchError::Regex(reason(error)))?, ignores_case })
    }

    fn matches(&self, path: &[u8]) -> bool {
        // In PCRE `$` also matches before a line feed at the end.
        self.regex.is_match(path) || path.strip_suffix(b"\n").is_some_and(|path| self.regex.is_match(path))
    }
}

impl PathMatch {
    /// Returns whether the route is for `path`, which is in normal form.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) | Self::FinalPrefix(prefix) => path.starts_with(prefix.as_bytes()),
            Self::Segments(prefix) => {
                if prefix.is_empty() {
                    return true;
                }
                let rest = path.strip_prefix(prefix.as_bytes());
                rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
            }
            Self::Regex(regex) => regex.matches(path),
        }
    }

    /// Returns the text that a matching path begins with; empty for a regular expression.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::FinalPrefix(text) | Self::Segments(text) => text,
            Self::Regex(_) => "",
        }
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.to_string() == other.to_string()
    }
}

impl Eq for PathMatch {}

impl FromStr for PathMatch {
    type Err = PathMatchError;

    /// Parses nginx's words: `/path`, `= /path`, `^~ /path`, `~ regex`, `~* regex`.
    ///
    /// *Errors*: no path, or a regular expression that cannot be compiled.
    fn from_str(text: &str) -> Result<Self, PathMatchError> {
        if text.contains(char::is_control) {
            return Err(PathMatchError::ControlCharacter);
        }
        if let Some(pattern) = text.strip_prefix("~*") {
            return PathRegex::new(pattern.trim_start(), true).map(Self::Regex);
        }
        if let Some(pattern) = text.strip_prefix('~') {
            return PathRegex::new(pattern.trim_start(), false).map(Self::Regex);
        }
        let (path, make): (_, fn(String) -> Self) = if let Some(path) = text.strip_prefix('=') {
            (path, Self::Exact)
        } else if let Some(path) = text.strip_prefix("^~") {
            (path, Self::FinalPrefix)
        } else {
            (text, Self::Prefix)
        };
        let path = path.trim_start();
        if path.starts_with('/') { Ok(make(path.to_owned())) } else { Err(PathMatchError::MissingSlash) }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "= {path}"),
            Self::FinalPrefix(path) => write!(f, "^~ {path}"),
            Self::Prefix(path) => f.write_str(path),
            Self::Segments(path) if path.is_empty() => f.write_str("/"),
            Self::Segments(path) => f.write_str(path),
            Self::Regex(PathRegex { regex, ignores_case }) => {
                write!(f, "{} {regex}", if *ignores_case { "~*" } else { "~" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_nginx_are_parsed_and_written_as_read() {
        for text in ["/", "/v1/", "= /ping", "^~ /x", "~ ^/v[12]/", r"~* \.PHP$"] {
            assert_eq!(text.parse::<PathMatch>().unwrap().to_string(), text);
        }
        assert_eq!("=/ping".parse::<PathMatch>().unwrap().to_string(), "= /ping");
        for (text, wanted) in [
            ("v1", PathMatchError::MissingSlash),
            ("= ", PathMatchError::MissingSlash),
            ("@x", PathMatchError::MissingSlash),
            ("/a\nb", PathMatchError::ControlCharacter),
        ] {
            assert_eq!(text.parse::<PathMatch>().unwrap_err(), wanted, "{text}");
        }
        for text in ["~ (", r"~ (a)\1", "~ (?=a)", "~ (?>a)"] {
            assert!(matches!(text.parse::<PathMatch>(), Err(PathMatchError::Regex(_))), "{text}");
        }
    }

    #[test]
    fn paths_match_as_in_nginx() {
        let matches = |text: &str, path: &str| text.parse::<PathMatch>().unwrap().matches(path.as_bytes());
        assert!(matches("/v1", "/v1") && matches("/v1", "/v10") && !matches("/v1/", "/v1"));
        assert!(matches("= /v1", "/v1") && !matches("= /v1", "/v1/"));
        assert!(matches("~ ^/v[12]/", "/v2/x") && !matches("~ ^/V", "/v2") && matches("~* ^/V", "/v2"));
        assert!(matches("~ /admin$", "/admin\n") && !matches("~ /admin$", "/admin\n\n"));
        let segments = PathMatch::Segments("/a".to_owned());
        assert!(segments.matches(b"/a") && segments.matches(b"/a/b") && !segments.matches(b"/ab"));
        assert!(PathMatch::Segments(String::new()).matches(b"/") && PathMatch::Segments(String::new()).matches(b"*"));
    }
}
