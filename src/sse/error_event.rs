//! How a stream that cannot be finished is ended for its client: by an error event in the words of its endpoint.

use serde_json::json;

use crate::units::Dialect;

/// What a stream's client is told when it has none, between the head and the first event.
pub const WAITING_COMMENT: &str = ": waiting\n\n";

/// Returns the event that tells a client why its stream ends here; `None` for paths whose words are not known.
///
/// *Shape*: OpenAI's `data: {"error": {...}}` for chat and completions, the `error` event of the Responses API with
/// `sequence` as its number, Anthropic's `error` event for messages. No `[DONE]` belongs behind it.
pub fn error_event(dialect: Dialect, message: &str, sequence: u64) -> Option<String> {
    let (name, data) = match dialect {
        Dialect::Chat | Dialect::Completions => {
            let error = json!({"message": message, "type": "api_error", "param": null, "code": "upstream_error"});
            ("", json!({ "error": error }))
        }
        Dialect::Responses => {
            let data = json!({"type": "error", "code": "server_error", "message": message, "param": null,
                "sequence_number": sequence});
            ("event: error\n", data)
        }
        Dialect::Messages => {
            let error = json!({"type": "api_error", "message": message});
            ("event: error\n", json!({"type": "error", "error": error}))
        }
        Dialect::Other => return None,
    };
    Some(format!("{name}data: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::super::{BodyFormat, BodyObserver};
    use super::*;

    #[test]
    fn the_error_event_is_one_to_our_own_eyes() {
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages] {
            let event = error_event(dialect, "it \"broke\"\n", 7).unwrap();
            let mut observer = BodyObserver::new(dialect, BodyFormat::Stream);
            let mut events = Vec::new();
            observer.observe_events(event.as_bytes(), |judged| events.push(judged));
            assert!(observer.has_error() && !observer.has_client_error() && !observer.is_done(), "{event}");
            assert_eq!(events.len(), 1, "{event}");
        }
        assert_eq!(error_event(Dialect::Other, "x", 0), None);
    }

    #[test]
    fn what_a_client_is_told_while_it_waits_is_no_event() {
        let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Stream);
        observer.observe_events(WAITING_COMMENT.as_bytes(), |judged| assert!(!judged.is_event));
        assert_eq!((observer.pending_bytes(), observer.has_content()), (0, false));
    }
}
