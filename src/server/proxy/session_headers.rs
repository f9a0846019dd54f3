//! Request headers by which clients name the session. One table; `docs/agent-traffic.md` has versions and sources.

use http::{HeaderMap, HeaderValue};

use crate::prompt::agents::is_session_id;

/// The headers, in the order in which they are looked for: the ones that are set on purpose, then those of agents.
const SESSION_HEADERS: &[&str] = &[
    "x-session-id",
    // Claude Code.
    "x-claude-code-session-id",
    // Codex; the second in older versions and in pi.
    "session-id",
    "session_id",
    // OpenCode, Kilo Code; clients of Cloudflare's Workers AI.
    "x-session-affinity",
    // OpenCode, Goose and others, for OpenCode's own service.
    "x-opencode-session",
    // Kilo Code.
    "x-kilocode-taskid",
    // Goose.
    "agent-session-id",
    // Qwen Code.
    "x-qwen-code-session-id",
    // Copilot CLI.
    "x-client-session-id",
    // Open WebUI, Coder.
    "x-openwebui-chat-id",
    "x-coder-chat-id",
    // Clients of LiteLLM, and of NVIDIA's gateway.
    "x-litellm-session-id",
    "x-multi-turn-session-id",
    // Codex before 2026, and gateways.
    "conversation_id",
    "x-conversation-id",
];

/// Returns the session that a header names: one of `configured` first, then one of known clients.
///
/// A value that is empty, too long or has other than visible ASCII characters names no session, so what a client can
/// make the router keep or hash is bounded. *Cost*: a look-up per row, 10 ns each.
pub(super) fn find_session_header<'a>(headers: &'a HeaderMap, configured: &[String]) -> Option<&'a [u8]> {
    let names = configured.iter().map(String::as_str).chain(SESSION_HEADERS.iter().copied());
    let values = names.filter_map(|name| headers.get(name)).map(HeaderValue::as_bytes);
    values.map(<[u8]>::trim_ascii).find(|value| is_session_id(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::prompt::agents::MAX_SESSION_ID_BYTES;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let to_field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        fields.iter().map(to_field).collect()
    }

    #[test]
    fn every_row_names_a_session_and_is_documented() {
        let page = include_str!("../../../docs/agent-traffic.md");
        for name in SESSION_HEADERS {
            assert_eq!(find_session_header(&headers(&[(name, " s-1 ")]), &[]), Some(&b"s-1"[..]), "{name}");
            assert!(page.contains(&format!("`{name}`")), "docs/agent-traffic.md lacks {name}");
        }
        assert_eq!(find_session_header(&headers(&[("x-request-id", "s-1")]), &[]), None);
    }

    #[test]
    fn configured_headers_come_first() {
        let both = headers(&[("x-session-id", "known"), ("x-own", "own")]);
        assert_eq!(find_session_header(&both, &["x-own".to_owned()]), Some(&b"own"[..]));
        assert_eq!(find_session_header(&both, &["x-absent".to_owned()]), Some(&b"known"[..]));
    }

    #[test]
    fn value_that_is_no_id_is_passed_over() {
        let long = "x".repeat(MAX_SESSION_ID_BYTES + 1);
        for bad in ["", "two words", "\u{e9}", &long] {
            let one = headers(&[("x-session-id", bad), ("session-id", "good")]);
            assert_eq!(find_session_header(&one, &[]), Some(&b"good"[..]), "{bad}");
        }
        let longest = &long[1..];
        assert_eq!(find_session_header(&headers(&[("session_id", longest)]), &[]), Some(longest.as_bytes()));
    }
}
