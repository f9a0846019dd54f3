//! Text that clients put into prompts and that changes while the conversation stays the same. One table.
//!
//! Two rules decide what may be left out, and where:
//!
//! - *The prefix must be what the engine sees.* A date in a system prompt is text for the model: when it changes, the
//!   engine's cache ends there, and so must the fingerprint. Only [`VolatileScope::Metadata`], which is no text for the
//!   model, is left out of fingerprint, `$prefix` and token counts: engines drop it before templating, or the router
//!   cuts it (`cut_client_metadata`). An engine that gets it and keeps it has nothing cached of the text behind it, on
//!   any replica, so there too no other replica is the better choice.
//! - *A session is not a prefix.* [`VolatileScope::Context`] is for the model and stays in the fingerprint, but says
//!   nothing of which conversation it is: it is equal in all sessions of a project, or changes at midnight. Only the
//!   conversation hash leaves it out.
//!
//! `docs/agent-traffic.md` has the same rows with versions and sources, and the texts that are deliberately not in the table.

use crate::prompt::unescape::decode_first_char;

/// A kind of volatile text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::prompt) enum VolatileScope {
    /// Not text for the model: left out wherever the prompt is read. In system text only.
    Metadata,
    /// Text for the model about its surroundings: left out of the conversation hash only. In the user's turns.
    Context,
}

/// A row of the table: what such a text begins with.
#[derive(Debug)]
pub(in crate::prompt) struct VolatileText {
    pub(in crate::prompt) scope: VolatileScope,
    /// The first characters of the string, exactly.
    pub(in crate::prompt) marker: &'static str,
}

pub(in crate::prompt) static VOLATILE_TEXTS: &[VolatileText] = &[
    // Claude Code: `x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;`. vLLM looks for
    // the same marker.
    metadata("x-anthropic-billing-header"),
    // Claude Code: the project's CLAUDE.md and the date.
    context("<system-reminder>"),
    // Codex, each in a message of its own.
    context("<environment_context>"),
    context("<user_instructions>"),
    context("# AGENTS.md instructions"),
    // Cline, Roo Code, Kilo Code.
    context("<environment_details>"),
    // The first message of Gemini CLI and Qwen Code, before the user's.
    context("This is the Gemini CLI. We are setting up the context for our chat."),
    context("This is the Qwen Code. We are setting up the context for our chat."),
];

const fn metadata(marker: &'static str) -> VolatileText {
    VolatileText { scope: VolatileScope::Metadata, marker }
}

const fn context(marker: &'static str) -> VolatileText {
    VolatileText { scope: VolatileScope::Context, marker }
}

/// Returns the length of the metadata with which a system text begins, line breaks after it included; 0 without any.
///
/// `string` is the inner text of a JSON string, and the length is that of its spelling. The metadata is a marker with
/// fields such as `cch=eb6c6;` on one line; the line is not always broken after them, since proxies join blocks of
/// text in different ways. *Cost*: one comparison for a text that begins otherwise.
pub(in crate::prompt) fn metadata_length(string: &str) -> usize {
    if !may_begin_metadata(string) {
        return 0;
    }
    find_marker(string, VolatileScope::Metadata)
        .map_or(0, |start| start + string.get(start..).map_or(0, measure_fields))
}

/// Returns whether a user's text is context: nothing that identifies the conversation.
pub(in crate::prompt) fn is_context(string: &str) -> bool {
    find_marker(string, VolatileScope::Context).is_some()
}

fn may_begin_metadata(string: &str) -> bool {
    matches!(string.as_bytes().first(), Some(b'x' | b'\\'))
}

/// Returns the length of the marker of this scope with which `string` begins, as it is written.
fn find_marker(string: &str, scope: VolatileScope) -> Option<usize> {
    let rows = VOLATILE_TEXTS.iter().filter(|row| row.scope == scope);
    rows.filter_map(|row| strip_marker(string, row.marker)).next()
}

fn strip_marker(string: &str, marker: &str) -> Option<usize> {
    let mut at = 0;
    for wanted in marker.chars() {
        let (found, length) = decode_first_char(string.get(at..)?)?;
        if found != wanted {
            return None;
        }
        at += length;
    }
    Some(at)
}

/// Returns the length of `: name=value; name=value;` and of the white space after it; without fields, of the line.
fn measure_fields(string: &str) -> usize {
    let mut cursor = CharCursor { string, at: 0 };
    cursor.skip_while(|c| c == ':');
    let mut end = 0;
    loop {
        cursor.skip_while(|c| c == ' ' || c == '\t');
        let has_name = cursor.skip_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') > 0;
        if !has_name || cursor.skip_one('=').is_none() {
            break;
        }
        cursor.skip_while(|c| c != ';' && !c.is_whitespace());
        if cursor.skip_one(';').is_some() {
            end = cursor.at;
            continue;
        }
        if cursor.is_line_end() {
            end = cursor.at;
        }
        break;
    }
    if end == 0 {
        cursor.at = 0;
        cursor.skip_while(|c| c != '\n' && c != '\r');
        end = cursor.at;
    }
    cursor.at = end;
    cursor.skip_while(char::is_whitespace);
    cursor.at
}

/// A position in the inner text of a JSON string.
struct CharCursor<'a> {
    string: &'a str,
    at: usize,
}

impl CharCursor<'_> {
    fn peek(&self) -> Option<(char, usize)> {
        decode_first_char(self.string.get(self.at..)?)
    }

    /// Returns the number of characters skipped.
    fn skip_while(&mut self, matches: impl Fn(char) -> bool) -> usize {
        let mut count = 0;
        while let Some((_, length)) = self.peek().filter(|(found, _)| matches(*found)) {
            self.at += length;
            count += 1;
        }
        count
    }

    fn skip_one(&mut self, wanted: char) -> Option<()> {
        let (_, length) = self.peek().filter(|(found, _)| *found == wanted)?;
        self.at += length;
        Some(())
    }

    fn is_line_end(&self) -> bool {
        self.peek().is_none_or(|(found, _)| found == '\n' || found == '\r')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;";

    #[test]
    fn metadata_ends_where_the_text_for_the_model_begins() {
        for (rest, text) in [
            ("", ""),
            ("\\n", ""),
            ("\\nYou are an agent.", "You are an agent."),
            ("\\r\\n\\r\\nYou are an agent.", "You are an agent."),
            ("You are an agent; do=this", "You are an agent; do=this"),
            (" You are an agent.", "You are an agent."),
            ("\\u000aA=b", "A=b"),
        ] {
            let string = format!("{HEADER}{rest}");
            assert_eq!(&string[metadata_length(&string)..], text, "{rest}");
        }
    }

    #[test]
    fn metadata_is_known_in_any_version_and_spelling() {
        for (string, text) in [
            ("x-anthropic-billing-header: account=abc; cch=rotating\\nYou", "You"),
            ("x-anthropic-billing-header: cc_version=2.1.36; cc_workload=cron;\\nYou", "You"),
            ("x-anthropic-billing-header:cch=1;You", "You"),
            ("x-anthropic-billing-header", ""),
            ("x-anthropic-billing-header: of another form\\nYou", "You"),
            ("\\u0078-anthropic\\u002dbilling-header: cch=00000;\\u000aYou", "You"),
        ] {
            assert_eq!(&string[metadata_length(string)..], text, "{string}");
        }
        for other in ["", "x", "You", " x-anthropic-billing-header: cch=1;", "x-anthropic", "\\", "\\u", "\\u00"] {
            assert_eq!(metadata_length(other), 0, "{other}");
        }
    }

    #[test]
    fn rows_are_distinct_and_the_fast_check_covers_them() {
        for (at, row) in VOLATILE_TEXTS.iter().enumerate() {
            assert!(row.marker.len() >= 16, "{row:?}");
            assert!(VOLATILE_TEXTS.iter().skip(at + 1).all(|other| !other.marker.starts_with(row.marker)));
            assert!(row.scope != VolatileScope::Metadata || may_begin_metadata(row.marker));
            assert_eq!(is_context(row.marker), row.scope == VolatileScope::Context);
        }
    }

    #[test]
    fn rows_are_documented() {
        let page = include_str!("../../../docs/agent-traffic.md");
        for row in VOLATILE_TEXTS {
            assert!(page.contains(row.marker), "docs/agent-traffic.md lacks {row:?}");
        }
    }
}
