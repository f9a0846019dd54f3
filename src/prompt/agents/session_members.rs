//! The session of a conversation, where clients name it in the body.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::prompt::json::{for_each_member, parse_string};
use crate::prompt::turns::find_member;

/// The longest session id that counts. Those of known clients have up to 150 bytes.
pub const MAX_SESSION_ID_BYTES: usize = 256;
/// What stands before the session in Claude Code's older `metadata.user_id`: `user_..._account_..._session_UUID`.
const USER_ID_SESSION: &str = "_session_";

/// The members of a body that may name the session, as they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionMembers<'a> {
    /// `metadata`: an object of the client's.
    pub(in crate::prompt) metadata: Option<&'a RawValue>,
    /// `session_id` (OpenRouter's), `conversation_id`.
    pub(in crate::prompt) id: Option<&'a RawValue>,
    /// `conversation` of the responses API: an id, or an object with one.
    pub(in crate::prompt) conversation: Option<&'a RawValue>,
}

impl<'a> SessionMembers<'a> {
    /// Returns the id of the session; `None` if the body names none.
    pub fn session_id(&self) -> Option<Cow<'a, str>> {
        let conversation = self.conversation.map(|value| find_member(value, "id").unwrap_or(value));
        let direct = [self.id, conversation].into_iter().flatten().filter_map(parse_id).next();
        direct.or_else(|| self.metadata.and_then(session_in_metadata))
    }

    /// Returns the user that `metadata.user_id` names; `None` if it names a session.
    pub fn user(&self) -> Option<Cow<'a, str>> {
        let user = find_member(self.metadata?, "user_id").and_then(parse_id)?;
        if session_in_user_id(&user).is_some() { None } else { Some(user) }
    }
}

/// Returns whether a text may name a session: not empty, of visible ASCII characters, and not too long.
///
/// A longer one could only be meant to use up memory.
pub fn is_session_id(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= MAX_SESSION_ID_BYTES && id.iter().all(u8::is_ascii_graphic)
}

fn parse_id(value: &RawValue) -> Option<Cow<'_, str>> {
    parse_string(value).filter(|id| is_session_id(id.as_bytes()))
}

/// Returns the session that a `metadata` object names.
fn session_in_metadata(metadata: &RawValue) -> Option<Cow<'_, str>> {
    let (mut direct, mut user_id) = (None, None);
    let read = for_each_member(metadata.get(), |name, value| {
        match name {
            // Clients of LiteLLM; Qwen Code; Open WebUI.
            "session_id" | "sessionId" | "chat_id" => direct = parse_id(value).or(direct.take()),
            "user_id" => user_id = parse_string(value),
            _ => {}
        }
        Ok(())
    });
    read.ok()?;
    direct.or_else(|| session_in_user_id(&user_id?).map(Cow::Owned))
}

/// Returns the session in Claude Code's `metadata.user_id`: `user_..._session_UUID`, or a JSON object as a string.
fn session_in_user_id(user_id: &str) -> Option<String> {
    if user_id.starts_with('{') {
        let object: &RawValue = serde_json::from_str(user_id).ok()?;
        return find_member(object, "session_id").and_then(parse_id).map(Cow::into_owned);
    }
    let (_, session) = user_id.rsplit_once(USER_ID_SESSION)?;
    is_session_id(session.as_bytes()).then(|| session.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::super::ParsedBody;
    use super::*;

    fn session_of(body: &str) -> Option<String> {
        ParsedBody::parse(body.as_bytes()).unwrap().session.session_id().map(Cow::into_owned)
    }

    #[test]
    fn session_is_found_where_clients_put_it() {
        for body in [
            r#"{"session_id":"s-1"}"#,
            r#"{"conversation_id":"s-1"}"#,
            r#"{"conversation":"s-1"}"#,
            r#"{"conversation":{"id":"s-1"}}"#,
            r#"{"metadata":{"session_id":"s-1"}}"#,
            r#"{"metadata":{"sessionId":"s-1","promptId":"p"}}"#,
            r#"{"metadata":{"chat_id":"s-1"}}"#,
            r#"{"metadata":{"user_id":"user_0a1b_account_2c3d_session_s-1"}}"#,
            r#"{"metadata":{"user_id":"user_0a1b_account__session_s-1"}}"#,
            r#"{"metadata":{"user_id":"{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"s-1\"}"}}"#,
        ] {
            assert_eq!(session_of(body).as_deref(), Some("s-1"), "{body}");
        }
    }

    #[test]
    fn other_values_name_no_session() {
        let long = "x".repeat(MAX_SESSION_ID_BYTES + 1);
        for body in [
            "{}",
            r#"{"metadata":{"user_id":"user-17"}}"#,
            r#"{"metadata":{"user_id":"{\"device_id\":\"d\"}"}}"#,
            r#"{"metadata":{"user_id":"{broken"}}"#,
            r#"{"metadata":{"user_id":"user_session_"}}"#,
            r#"{"metadata":{"user_id":5,"session_id":[]}}"#,
            r#"{"metadata":"x","session_id":7,"conversation":{"id":null}}"#,
            r#"{"session_id":""}"#,
            r#"{"session_id":"two words"}"#,
            &format!(r#"{{"session_id":"{long}","metadata":{{"session_id":"{long}"}}}}"#),
        ] {
            assert_eq!(session_of(body), None, "{body}");
        }
    }

    #[test]
    fn user_id_without_a_session_is_a_user() {
        let user = |body: &str| ParsedBody::parse(body.as_bytes()).unwrap().session.user().map(Cow::into_owned);
        assert_eq!(user(r#"{"metadata":{"user_id":"user-17"}}"#).as_deref(), Some("user-17"));
        assert_eq!(user(r#"{"metadata":{"user_id":"user_a_session_b"}}"#), None);
        assert_eq!(user(r#"{"metadata":{}}"#), None);
    }
}
