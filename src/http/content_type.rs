//! `Content-Type`.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Returns whether `Content-Type` is `application/json`, with or without parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    has_media_type(headers, "application/json")
}

/// Returns whether `Content-Type` is `text/event-stream`, with or without parameters.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    has_media_type(headers, "text/event-stream")
}

/// Returns whether `Content-Type` is `media_type`, with or without parameters.
pub fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| is_media_type(value.as_bytes(), media_type))
}

/// Returns whether the `Content-Type` value `value` is `media_type`, with or without parameters.
///
/// Ignores case; `application/jsonl` is not `application/json`. Source: RFC 9110, section 8.3.1.
pub fn is_media_type(value: &[u8], media_type: &str) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(media_type.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_ignores_case_and_parameters() {
        for (value, is_json_value) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json ;charset=utf-8", true),
            ("application/jsonl", false),
            ("application/json-patch+json", false),
            ("text/plain; application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), is_json_value, "{value}");
        }
        let events = HeaderMap::from_iter([(CONTENT_TYPE, "text/event-stream; charset=utf-8".parse().unwrap())]);
        assert!(is_event_stream(&events) && !is_json(&events));
        assert!(!is_event_stream(&HeaderMap::new()));
    }
}
