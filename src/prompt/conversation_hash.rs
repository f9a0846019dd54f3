//! A hash of a conversation's first message, which is the same in all requests of the conversation.

use super::pieces::{PromptPiece, for_each_identifying_piece, for_each_piece_in};
use super::prompt_members::PromptMembers;
use super::turns::{find_element, turn_role};
use crate::dialect::PromptPart;

/// Bytes of the first message that are hashed; its length is hashed as well.
const MAX_HASHED_BYTES: u64 = 16 * 1024;

/// Returns a hash of the user's first turn; of the whole prompt if there are no turns, or none is the user's.
///
/// The same on every machine, for any spelling of the JSON, for a text and a list with this text, and wherever cache
/// breakpoints are. Texts that agents put in front of the user's are left out, and a turn with nothing else is not the
/// first one. `None` if there is no prompt. *Cost*: the turns before are parsed again, and at most 16 KiB hashed, 16 us.
/// Source of the hash: FNV-1a, 64 bits.
pub fn conversation_hash(prompt: &PromptMembers<'_>) -> Option<u64> {
    user_turn_hash(prompt).or_else(|| {
        let turns = prompt.find(PromptPart::Turns).map(|turns| (PromptPart::Turns, turns));
        let (part, value) = turns.or_else(|| Some((PromptPart::Text, prompt.find(PromptPart::Text)?)))?;
        let mut hash = PieceHash::default();
        for_each_piece_in(part, value, |piece| hash.add_piece(piece));
        hash.finish()
    })
}

/// Returns a hash of the user's first turn that has more than context; `None` if there is none.
pub fn user_turn_hash(prompt: &PromptMembers<'_>) -> Option<u64> {
    let mut found = None;
    find_element(prompt.find(PromptPart::Turns)?, |turn| {
        if turn_role(turn) == Some("\"user\"") {
            let mut hash = PieceHash::default();
            for_each_identifying_piece(turn.get(), |piece| match piece {
                // All have the same role, which stands before the text or after it.
                PromptPiece::Turn(_) => {}
                piece => hash.add_piece(piece),
            });
            found = hash.finish();
        }
        found.is_some()
    })?;
    found
}

/// A hash under construction.
struct PieceHash {
    hash: u64,
    length: u64,
}

impl Default for PieceHash {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, length: 0 }
    }
}

impl PieceHash {
    fn add_piece(&mut self, piece: PromptPiece<'_>) {
        let text = match piece {
            PromptPiece::Turn(text)
            | PromptPiece::Text(text)
            | PromptPiece::Tools(text)
            | PromptPiece::TokenId(text)
            | PromptPiece::Media(_, text) => text,
        };
        let room = MAX_HASHED_BYTES.saturating_sub(self.length);
        let hashed = text.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.push_bytes(text.as_bytes().get(..hashed).unwrap_or_default());
        self.length += text.len() as u64;
        // Token ids run together otherwise, and a text would continue a role.
        if !matches!(piece, PromptPiece::Text(_)) {
            self.push_bytes(b"\x1f");
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.hash = bytes.iter().fold(self.hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Returns the hash; `None` if there was no text.
    fn finish(mut self) -> Option<u64> {
        let length = self.length;
        self.push_bytes(&length.to_le_bytes());
        (length > 0).then_some(self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParsedBody;
    use super::*;

    fn hash_body(body: &str) -> Option<u64> {
        conversation_hash(&ParsedBody::parse(body.as_bytes()).unwrap().prompt)
    }

    #[test]
    fn hash_stays_the_same_as_the_conversation_grows() {
        let one = hash_body(r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"}]}"#);
        let two = hash_body(
            r#"{"messages":[{"role":"system","content":"t"},{"role":"user","content":"a"},{"role":"assistant"}]}"#,
        );
        let other = hash_body(r#"{"messages":[{"role":"user","content":"b"},{"role":"user","content":"a"}]}"#);
        assert!(one.is_some() && one == two && one != other);
        assert_eq!(hash_body(r#"{"input":[{"role":"user","content":"a"}]}"#), one);
    }

    #[test]
    fn hash_does_not_depend_on_the_form_of_the_message_or_on_cache_breakpoints() {
        let hashes = [
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[{"content":"\u0061","role":"user"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral",
                "ttl":"1h"}}]},{"role":"assistant"}]}"#,
            r#"{"input":[{"type":"message","id":"msg_1","role":"user","content":[{"type":"input_text","text":"a"}]}]}"#,
            r#"{"input":"a"}"#,
        ]
        .map(hash_body);
        assert!(hashes[0].is_some() && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    }

    #[test]
    fn texts_that_agents_put_in_front_of_the_users_do_not_count() {
        let plain = hash_body(r#"{"messages":[{"role":"user","content":"fix it"}]}"#);
        for context in [
            // Codex.
            r#"{"role":"user","content":[{"type":"input_text","text":"<environment_context>\n  <cwd>/w</cwd>"}]}"#,
            r##"{"role":"user","content":"# AGENTS.md instructions for /w"}"##,
            // Gemini CLI.
            r#"{"role":"user","content":"This is the Gemini CLI. We are setting up the context for our chat.\nToday"},
                {"role":"assistant","content":"Got it."}"#,
        ] {
            let body = format!(r#"{{"messages":[{context},{{"role":"user","content":"fix it"}}]}}"#);
            assert_eq!(hash_body(&body), plain, "{context}");
        }
        // Claude Code and Qwen Code, which moves the date to a later message.
        for reminders in [
            r#"{"type":"text","text":"\u003csystem-reminder>\nToday's date is Monday."},"#,
            r#"{"type":"text","text":"<system-reminder>Skills"},{"type":"text","text":"<system-reminder>Date"},"#,
        ] {
            let body = format!(
                r#"{{"messages":[{{"role":"user","content":[{reminders}{{"type":"text","text":"fix it"}}]}}]}}"#
            );
            assert_eq!(hash_body(&body), plain, "{reminders}");
        }
        let context = r#"{"messages":[{"role":"user","content":"<environment_context>"}]}"#;
        assert!(hash_body(context).is_some() && hash_body(context) != plain, "there is no other message");
    }

    #[test]
    fn only_user_turns_have_a_user_turn_hash() {
        let hash = |body: &str| user_turn_hash(&ParsedBody::parse(body.as_bytes()).unwrap().prompt);
        assert!(hash(r#"{"messages":[{"role":"user","content":"a"}]}"#).is_some());
        for body in [r#"{"messages":[{"role":"system","content":"a"}]}"#, r#"{"prompt":"a"}"#, r#"{"messages":[]}"#] {
            assert_eq!(hash(body), None, "{body}");
        }
    }

    #[test]
    fn prompt_without_a_user_turn_is_hashed_whole() {
        let all = [r#"{"prompt":"a"}"#, r#"{"prompt":"b"}"#, r#"{"input":"c"}"#, r#"{"messages":[{"role":"tool"},5]}"#];
        let mut hashes: Vec<_> = all.map(hash_body).into_iter().flatten().collect();
        hashes.dedup();
        assert_eq!(hashes.len(), 4);
        assert_eq!(hash_body(r#"{"model":"m"}"#), None);
    }

    #[test]
    fn hash_is_the_same_on_every_machine() {
        assert_eq!(hash_body(r#"{"prompt":"a"}"#), hash_body(r#"{"prompt" : "a" }"#));
        assert_eq!(hash_body(r#"{"prompt":"a"}"#), Some(16_059_730_272_186_482_733));
    }
}
