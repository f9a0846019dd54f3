//! A prompt's pieces in order, independent of how its JSON is written.

use memchr::memchr2;
use serde_json::value::RawValue;

use super::agents::volatile_text::{is_context, metadata_length};
use super::prompt_members::PromptMembers;
use super::turns::{first_value, is_system_role, turn_role};
use super::unescape::unescape;
use crate::dialect::{ContentMember, MediaKind, PromptPart, content_member};

/// Objects and arrays are tracked down to this depth; strings below it are text.
const MAX_TRACKED_DEPTH: usize = 16;
/// A longer name has no meaning here, even with every character written as an escape.
const MAX_NAME_BYTES: usize = 128;

/// One piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptPiece<'a> {
    /// The start of a turn, with its role as written.
    Turn(&'a str),
    /// Text with its escapes replaced. One string may come in several pieces.
    Text(&'a str),
    /// Definitions of tools, as written.
    Tools(&'a str),
    /// A token, by its id as written.
    TokenId(&'a str),
    /// An image or a sound: its URL or base64 data, as written.
    Media(MediaKind, &'a str),
}

/// Passes the pieces of a prompt to `each`: tools, then the system prompt, then the turns.
///
/// Metadata of clients in front of system texts is left out, see [`super::agents`].
///
/// *Shape*: equal prompts give the same text for any white space and escapes, though not always cut into the same
/// pieces. *Cost*: strings pass at the speed of `memchr`; no recursion, and no allocation except for a name with
/// escapes. With counting, about 13 ns an escape.
pub fn for_each_piece(prompt: &PromptMembers<'_>, mut each: impl FnMut(PromptPiece<'_>)) {
    for (part, value) in prompt.iter() {
        for_each_piece_in(part, value, &mut each);
    }
}

/// Passes the pieces of one part of a prompt to `each`.
pub(super) fn for_each_piece_in(part: PromptPart, value: &RawValue, mut each: impl FnMut(PromptPiece<'_>)) {
    match part {
        PromptPart::Tools => each(PromptPiece::Tools(value.get())),
        _ => PieceWalker::new(part).walk_json(value.get(), &mut each),
    }
}

/// Passes the pieces of one turn to `each`, without the texts that say nothing of which conversation it is.
pub(super) fn for_each_identifying_piece(turn: &str, mut each: impl FnMut(PromptPiece<'_>)) {
    PieceWalker { skips_context: true, ..PieceWalker::new(PromptPart::Turns) }.walk_json(turn, &mut each);
}

/// The position in a JSON value. The value was checked when the body was parsed, so invalid JSON is skipped.
struct PieceWalker {
    part: PromptPart,
    skips_context: bool,
    /// The position of the outermost open object: in [`PromptPart::Turns`], the turn.
    turn_start: usize,
    /// Whether this turn is the system's; `None` until that matters.
    is_system_turn: Option<bool>,
    depth: usize,
    /// Open objects; numbers outside objects are token ids.
    open_objects: usize,
    /// By depth, the member whose value the open object or array is; `None` for text.
    containers: [Option<ContentMember>; MAX_TRACKED_DEPTH],
    /// The member whose value comes next; `None` for text.
    member: Option<ContentMember>,
}

impl PieceWalker {
    const fn new(part: PromptPart) -> Self {
        Self {
            part,
            skips_context: false,
            turn_start: 0,
            is_system_turn: None,
            depth: 0,
            open_objects: 0,
            containers: [None; MAX_TRACKED_DEPTH],
            member: None,
        }
    }

    fn walk_json(&mut self, json: &str, each: &mut impl FnMut(PromptPiece<'_>)) {
        let bytes = json.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    let end = find_string_end(bytes, at + 1);
                    let string = json.get(at + 1..end).unwrap_or_default();
                    let rest = bytes.get(end + 1..).unwrap_or_default();
                    if self.open_objects > 0 && rest.trim_ascii_start().first() == Some(&b':') {
                        self.member = escaped_content_member(string);
                    } else {
                        self.emit_string(json, string, each);
                    }
                    at = end;
                }
                b'{' => {
                    if self.open_objects == 0 {
                        (self.turn_start, self.is_system_turn) = (at, None);
                    }
                    self.open_objects += 1;
                    self.open_container(self.member);
                }
                // The elements of an array have the meaning of the array.
                b'[' => self.open_container(self.member.or(self.current_container())),
                b'}' => {
                    self.open_objects = self.open_objects.saturating_sub(1);
                    self.close_container();
                }
                b']' => self.close_container(),
                b',' => self.member = None,
                b'0'..=b'9' if self.open_objects == 0 => {
                    let digits = bytes.get(at..).unwrap_or_default();
                    let length = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
                    each(PromptPiece::TokenId(json.get(at..at + length).unwrap_or_default()));
                    at += length - 1;
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn open_container(&mut self, member: Option<ContentMember>) {
        self.depth += 1;
        if let Some(place) = self.containers.get_mut(self.depth) {
            *place = member;
        }
        self.member = None;
    }

    fn close_container(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.member = None;
    }

    fn current_container(&self) -> Option<ContentMember> {
        self.containers.get(self.depth).copied().flatten()
    }

    fn emit_string(&mut self, json: &str, string: &str, each: &mut impl FnMut(PromptPiece<'_>)) {
        use ContentMember::{Ignored, IgnoredObject, MediaObject, MediaSource, MediaUrl, Role};
        match (self.member, self.current_container()) {
            (Some(MediaUrl(kind)), _) | (Some(MediaSource), Some(MediaUrl(kind) | MediaObject(kind))) => {
                each(PromptPiece::Media(kind, string));
            }
            (Some(Role), _) => each(PromptPiece::Turn(string)),
            (Some(Ignored), _) | (_, Some(MediaUrl(_) | IgnoredObject)) => {}
            _ => {
                let text = string.get(self.skipped_length(json, string)..).unwrap_or_default();
                unescape(text, &mut |text| each(PromptPiece::Text(text)));
            }
        }
    }

    /// Returns the bytes at the start of a text that are left out.
    fn skipped_length(&mut self, json: &str, string: &str) -> usize {
        if self.skips_context && is_context(string) {
            return string.len();
        }
        match metadata_length(string) {
            length if length > 0 && self.is_system_text(json) => length,
            _ => 0,
        }
    }

    /// Returns whether a text here is the system's. The role may stand after the text, so the turn is looked through,
    /// once.
    fn is_system_text(&mut self, json: &str) -> bool {
        match self.part {
            PromptPart::System | PromptPart::Text => true,
            PromptPart::Tools => false,
            PromptPart::Turns if self.open_objects == 0 => false,
            PromptPart::Turns => *self.is_system_turn.get_or_insert_with(|| {
                let turn = json.get(self.turn_start..).and_then(first_value);
                turn.and_then(turn_role).is_some_and(is_system_role)
            }),
        }
    }
}

/// Returns the meaning of the member whose name is written as `name`.
fn escaped_content_member(name: &str) -> Option<ContentMember> {
    if name.len() > MAX_NAME_BYTES || !name.contains('\\') {
        return content_member(name);
    }
    let mut plain = String::new();
    unescape(name, &mut |text| plain.push_str(text));
    content_member(&plain)
}

/// Returns the position of the closing quote of the string that begins at `at`.
fn find_string_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) else { return bytes.len() };
        match bytes.get(at + found) {
            Some(b'\\') => at += found + 2,
            _ => return at + found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParsedBody;
    use super::*;

    /// Returns the text joined, other pieces in brackets.
    fn render_pieces(body: &str) -> String {
        let mut all = String::new();
        for_each_piece(&ParsedBody::parse(body.as_bytes()).unwrap().prompt, |piece| match piece {
            PromptPiece::Text(text) => all.push_str(text),
            PromptPiece::Turn(role) => all.push_str(&format!("[{role}]")),
            PromptPiece::Tools(tools) => all.push_str(&format!("[tools {tools}]")),
            PromptPiece::TokenId(id) => all.push_str(&format!("<{id}>")),
            PromptPiece::Media(media, source) => all.push_str(&format!("[{media:?} {source}]")),
        });
        all
    }

    #[test]
    fn pieces_do_not_depend_on_spelling() {
        let plain = r#"{"messages":[{"role":"user","content":"h\u00e9 \"x\"\n😀"}]}"#;
        let other = "{ \"messages\" : [ {\"content\":\n \"h\u{e9} \\u0022x\\u0022\\u000a\\ud83d\\ude00\" } ] }";
        assert_eq!(render_pieces(plain), "[user]h\u{e9} \"x\"\n😀");
        assert_eq!(render_pieces(other), "h\u{e9} \"x\"\n😀");
        assert_eq!(render_pieces(r#"{"prompt":"\ud800 \udc00x\/\t"}"#), "\u{fffd} \u{fffd}x/\t");
        let names =
            r#"{"messages":[{"r\u006fle":"user","content":{"\u0069mage_url":{"\u0075rl":"u","d\u0065tail":"d"}}}]}"#;
        assert_eq!(render_pieces(names), "[user][Image u]");
        let many = "\\u4f60".repeat(100);
        assert_eq!(render_pieces(&format!(r#"{{"prompt":"{many}"}}"#)), "你".repeat(100));
    }

    #[test]
    fn media_are_separate_from_text_in_every_dialect() {
        let chat = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"see"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"high"}},
            {"type":"input_audio","input_audio":{"data":"BBBB","format":"wav"}}]},
            {"role":"tool","tool_call_id":"c1","content":"url: http://x"}]}"#;
        assert_eq!(render_pieces(chat), "[user]see[Image data:image/png;base64,AAAA][Audio BBBB][tool]url: http://x");
        let responses = r#"{"instructions":"be","input":[{"role":"user","content":[{"type":"input_text","text":"a"},
            {"type":"input_image","image_url":"http://x/y.png"}]},{"type":"function_call","call_id":"f","name":"n",
            "arguments":"{\"url\":\"u\"}"}]}"#;
        assert_eq!(render_pieces(responses), r#"be[user]a[Image http://x/y.png]n{"url":"u"}"#);
        let messages = r#"{"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":[
            {"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"CC"}},
            {"type":"tool_use","id":"t","name":"f","input":{"url":"u","n":[5],"source":"v"}}]}]}"#;
        assert_eq!(render_pieces(messages), "s[user][Image CC]fuv");
    }

    #[test]
    fn numbers_outside_objects_are_token_ids() {
        assert_eq!(render_pieces(r#"{"prompt":[1,22,333]}"#), "<1><22><333>");
        assert_eq!(render_pieces(r#"{"prompt":[[1],[22, 3]],"input":["a","b"]}"#), "ab<1><22><3>");
        assert_eq!(render_pieces(r#"{"messages":[{"content":"x","n":5}]}"#), "x");
    }

    #[test]
    fn tools_come_first_and_as_written() {
        assert_eq!(render_pieces(r#"{"messages":[{"content":"x"}],"tools":[{"a":1}]}"#), r#"[tools [{"a":1}]]x"#);
    }
}
