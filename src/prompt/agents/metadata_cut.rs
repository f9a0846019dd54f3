//! The edits that cut clients' metadata from a request's body.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use super::volatile_text::{VOLATILE_TEXTS, VolatileScope, metadata_length};
use crate::dialect::PromptPart;
use crate::prompt::json::range_in;
use crate::prompt::turns::{find_element, find_member, is_system_role, turn_role};
use crate::prompt::{BodyEdit, PromptMembers};

static MARKERS: LazyLock<Vec<Finder<'static>>> = LazyLock::new(|| {
    let rows = VOLATILE_TEXTS.iter().filter(|row| row.scope == VolatileScope::Metadata);
    rows.map(|row| Finder::new(row.marker)).collect()
});

/// Returns the edits that cut the metadata from `body`, of which `prompt` is the prompt.
///
/// *Shape*: a text that is nothing else is removed with its block, and a message without further blocks with it; of
/// others the beginning is cut. Only texts of the system. Nothing is cut from markers that are written with escapes, and
/// no message if none would remain. *Cost*: one search of the body; if it has the marker, the system's messages are
/// parsed again.
pub fn metadata_edits(body: &[u8], prompt: &PromptMembers<'_>) -> Vec<BodyEdit> {
    if MARKERS.iter().all(|marker| marker.find(body).is_none()) {
        return Vec::new();
    }
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    let mut cut = MetadataCut { text, edits: Vec::new() };
    for (part, value) in prompt.iter() {
        match part {
            PromptPart::Tools => {}
            PromptPart::System | PromptPart::Text => _ = cut.cut_content(value),
            PromptPart::Turns => cut.cut_turns(value),
        }
    }
    cut.edits
}

/// The rest of a text or list after the cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CutRest {
    Text,
    Nothing,
}

struct MetadataCut<'a> {
    text: &'a str,
    edits: Vec<BodyEdit>,
}

impl MetadataCut<'_> {
    /// Cuts from the system's turns.
    fn cut_turns(&mut self, turns: &RawValue) {
        let edits_before = self.edits.len();
        let mut elements = Vec::new();
        find_element(turns, |turn| {
            let is_system = turn_role(turn).is_some_and(is_system_role);
            let content = if is_system { find_member(turn, "content") } else { None };
            let edits_of_earlier_turns = self.edits.len();
            let is_empty = content.is_some_and(|content| self.cut_content(content) == CutRest::Nothing);
            if is_empty {
                self.edits.truncate(edits_of_earlier_turns);
            }
            elements.push((range_in(self.text, turn), is_empty));
            false
        });
        if elements.iter().all(|(_, is_empty)| *is_empty) {
            self.edits.truncate(edits_before);
            return;
        }
        self.remove_elements(&elements);
    }

    /// Cuts from a text, or from a list of texts and blocks. Returns what is left of it.
    fn cut_content(&mut self, content: &RawValue) -> CutRest {
        if content.get().starts_with('"') {
            return self.cut_string(content);
        }
        let mut elements = Vec::new();
        find_element(content, |block| {
            let text = if block.get().starts_with('"') { Some(block) } else { find_member(block, "text") };
            let edits_of_earlier_blocks = self.edits.len();
            let is_empty = text.is_some_and(|text| self.cut_string(text) == CutRest::Nothing);
            if is_empty {
                self.edits.truncate(edits_of_earlier_blocks);
            }
            elements.push((range_in(self.text, block), is_empty));
            false
        });
        self.remove_elements(&elements);
        let is_empty = !elements.is_empty() && elements.iter().all(|(_, is_empty)| *is_empty);
        if is_empty { CutRest::Nothing } else { CutRest::Text }
    }

    /// Cuts the metadata at the beginning of a JSON string.
    fn cut_string(&mut self, string: &RawValue) -> CutRest {
        let inner = string.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let length = inner.map_or(0, metadata_length);
        if length == 0 {
            return CutRest::Text;
        }
        let start = range_in(self.text, string).start + 1;
        self.edits.push(BodyEdit::replace(start..start + length, ""));
        if inner.is_some_and(|inner| inner.len() == length) { CutRest::Nothing } else { CutRest::Text }
    }

    /// Removes the elements of an array that are marked, each run of them with the commas that are then too many.
    fn remove_elements(&mut self, elements: &[(Range<usize>, bool)]) {
        let mut at = 0;
        while let Some(run) = elements.get(at..).filter(|rest| !rest.is_empty()) {
            let length = run.iter().take_while(|(_, is_removed)| *is_removed).count();
            if let (Some((first, _)), Some((last, _))) = (run.first(), run.get(length.wrapping_sub(1))) {
                let before = at.checked_sub(1).and_then(|before| elements.get(before));
                let range = match (run.get(length), before) {
                    (Some((next, _)), _) => first.start..next.start,
                    (None, Some((before, _))) => before.end..last.end,
                    (None, None) => first.start..last.end,
                };
                self.edits.push(BodyEdit::replace(range, ""));
            }
            at += length + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::prompt::{ParsedBody, fingerprint_and_count, splice};

    const HEADER: &str = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;";

    fn cut(body: &str) -> String {
        let body = body.replace('@', HEADER);
        let parsed = ParsedBody::parse(body.as_bytes()).unwrap();
        let edits = metadata_edits(body.as_bytes(), &parsed.prompt);
        let pieces = splice(&Bytes::copy_from_slice(body.as_bytes()), edits).unwrap();
        let cut = String::from_utf8(pieces.into_iter().flatten().collect()).unwrap();
        let again = ParsedBody::parse(cut.as_bytes()).unwrap();
        assert_eq!(metadata_edits(cut.as_bytes(), &again.prompt), [], "{cut}");
        let blocks = |parsed: &ParsedBody<'_>| fingerprint_and_count(&parsed.prompt, &[]).0;
        assert_eq!(blocks(&parsed).letters, blocks(&again).letters, "counts leave out what is cut");
        cut
    }

    #[test]
    fn metadata_is_cut_in_every_dialect_and_spelling() {
        for (body, wanted) in [
            (
                r#"{"system":[{"type":"text","text":"@"}, {"type":"text","text":"s"}],"messages":[]}"#,
                r#"{"system":[{"type":"text","text":"s"}],"messages":[]}"#,
            ),
            (r#"{"system":[{"text":"s"} , {"text":"@"} ]}"#, r#"{"system":[{"text":"s"} ]}"#),
            (r#"{"system":[{"text":"@"}]}"#, r#"{"system":[]}"#),
            (
                r#"{"system":[{"text":"@"},{"text":"@\n"},{"text":"s"},{"text":"@"},{"text":"@"}]}"#,
                r#"{"system":[{"text":"s"}]}"#,
            ),
            (r#"{"system":"@\nYou are"}"#, r#"{"system":"You are"}"#),
            (r#"{"system":"@"}"#, r#"{"system":""}"#),
            (r#"{"instructions":"@You are","input":"hi"}"#, r#"{"instructions":"You are","input":"hi"}"#),
            (
                r#"{"messages":[{"role":"system","content":"@\n\nYou are"},{"role":"user","content":"@"}]}"#,
                &format!(
                    r#"{{"messages":[{{"role":"system","content":"You are"}},{{"role":"user","content":"{HEADER}"}}]}}"#
                ),
            ),
            (
                r#"{"messages":[{"content":"@","role":"system"},{"role":"user","content":"a"}]}"#,
                r#"{"messages":[{"role":"user","content":"a"}]}"#,
            ),
            (
                r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"@"},{"type":"text","text":"s"}]},{"role":"user"}]}"#,
                r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"s"}]},{"role":"user"}]}"#,
            ),
            (
                r#"{"input":[{"role":"user","content":"a"},{"role":"developer","content":[{"type":"input_text","text":"@"}]}]}"#,
                r#"{"input":[{"role":"user","content":"a"}]}"#,
            ),
            (r#"{"prompt":"@\nYou are"}"#, r#"{"prompt":"You are"}"#),
            (
                r#"{"messages":[{"role":"system","content":"s"},{"role":"assistant","content":"@"}]}"#,
                &format!(
                    r#"{{"messages":[{{"role":"system","content":"s"}},{{"role":"assistant","content":"{HEADER}"}}]}}"#
                ),
            ),
        ] {
            assert_eq!(cut(body), wanted);
        }
    }

    #[test]
    fn last_message_and_other_texts_stay() {
        for body in [
            &format!(r#"{{"messages":[{{"role":"system","content":"{HEADER}"}}]}}"#) as &str,
            r#"{"system":"about x-anthropic-billing-header","messages":[5,"x",{"role":"system"}]}"#,
            r#"{"tools":[{"description":"x-anthropic-billing-header: a=b;"}]}"#,
        ] {
            let parsed = ParsedBody::parse(body.as_bytes()).unwrap();
            assert_eq!(metadata_edits(body.as_bytes(), &parsed.prompt), []);
        }
    }
}
