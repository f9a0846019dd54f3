//! A hash of a conversation's first message, which is the same in all requests of the conversation.

use std::fmt;

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json;
use super::prompt_members::PromptMembers;
use crate::dialect::PromptPart;

/// Bytes of the first message that are hashed, as written; its length is hashed as well.
const MAX_HASHED_BYTES: usize = 16 * 1024;

/// Returns a hash of the user's first turn; of the whole prompt if there are no turns, or none is the user's.
///
/// The same on every machine. `None` if there is no prompt. *Cost*: the turns before are parsed again, and at most 16
/// KiB hashed, 16 us. Source of the hash: FNV-1a, 64 bits.
pub fn conversation_hash(prompt: &PromptMembers<'_>) -> Option<u64> {
    let turns = prompt.find(PromptPart::Turns);
    let first = turns.and_then(find_first_user_turn).or(turns).or_else(|| prompt.find(PromptPart::Text))?;
    let bytes = first.get().as_bytes();
    let hashed = bytes.get(..MAX_HASHED_BYTES).unwrap_or(bytes);
    let length = (bytes.len() as u64).to_le_bytes();
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    Some(hashed.iter().chain(&length).fold(0xcbf2_9ce4_8422_2325, step))
}

/// Returns the first element of an array that is an object with `"role": "user"`.
fn find_first_user_turn(turns: &RawValue) -> Option<&RawValue> {
    let mut found = None;
    // The visitor returns an error to stop at the turn it looks for; the body as a whole has been checked before.
    let _ = serde_json::Deserializer::from_str(turns.get()).deserialize_seq(TurnVisitor(&mut found));
    found
}

struct TurnVisitor<'f, 'a>(&'f mut Option<&'a RawValue>);

impl<'a> Visitor<'a> for TurnVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut turns: A) -> Result<(), A::Error> {
        while let Some(turn) = turns.next_element::<&'a RawValue>()? {
            if is_user_turn(turn) {
                *self.0 = Some(turn);
                return Err(A::Error::custom("found"));
            }
        }
        Ok(())
    }
}

fn is_user_turn(turn: &RawValue) -> bool {
    let mut is_user = false;
    let parsed = json::for_each_member(turn.get(), |name, value| {
        if name == "role" {
            is_user = value.get() == "\"user\"";
        }
        Ok(())
    });
    parsed.is_ok() && is_user
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
        assert_eq!(hash_body(r#"{"prompt":"a"}"#), Some(3_557_666_512_735_942_153));
    }
}
