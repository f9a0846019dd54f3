//! `/v1/messages`, Anthropic's: typed events, token counts at the start and at the end, errors in an envelope.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::json;

use super::choices_event;
use super::error_body::anthropic_error_body;
use super::event::{EventContent, RawEvent, WantedFields};
use super::event_json::{find_event_type, find_values, read_error, read_inner_object};
use super::prompt_members::{ContentMember, MediaKind, PromptMember, PromptPart};
use super::spec::DialectSpec;

static STOP_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"stop_reason\""));

pub(super) static SPEC: DialectSpec = DialectSpec {
    read_event,
    error_event: Some(error_event),
    error_body: anthropic_error_body,
    prompt_members: &[
        PromptMember { name: "tools", part: PromptPart::Tools },
        PromptMember { name: "system", part: PromptPart::System },
        PromptMember { name: "messages", part: PromptPart::Turns },
    ],
    content_members: &[
        ("role", ContentMember::Role),
        ("type", ContentMember::Ignored),
        ("cache_control", ContentMember::IgnoredObject),
        ("id", ContentMember::Ignored),
        ("tool_use_id", ContentMember::Ignored),
        ("media_type", ContentMember::Ignored),
        ("file_id", ContentMember::Ignored),
        ("signature", ContentMember::Ignored),
        ("url", ContentMember::MediaSource),
        ("data", ContentMember::MediaSource),
        ("source", ContentMember::MediaObject(MediaKind::Image)),
    ],
    takes_stream_options: false,
    null_stop_reason_aborts: true,
    stores_responses: false,
};

/// Reads an event by its type; one of an unknown type as a choices event.
fn read_event<'a>(event: &RawEvent<'a>, wanted: WantedFields) -> EventContent<'a> {
    match find_event_type(event, is_known_type) {
        None => choices_event::read_event(event, wanted),
        Some(b"content_block_delta") => EventContent { has_content: true, ..EventContent::default() },
        Some(b"message_start") => read_inner_object(event, wanted, |members| members.message),
        Some(b"message_delta") => EventContent {
            lacks_stop_reason: find_values(&STOP_REASON, event.data).next().map(|value| value.starts_with(b"null")),
            ..read_inner_object(event, WantedFields { id: false, ..wanted }, |_| None)
        },
        Some(b"message_stop") => EventContent { done: true, ..EventContent::default() },
        Some(b"error") => read_error(event),
        Some(_) => EventContent::default(),
    }
}

fn is_known_type(kind: &[u8]) -> bool {
    matches!(kind, b"error" | b"ping") || kind.starts_with(b"message_") || kind.starts_with(b"content_block_")
}

fn error_event(message: &str, _sequence: u64) -> String {
    let data = json!({"type": "error", "error": {"type": "api_error", "message": message}});
    format!("event: error\ndata: {data}\n\n")
}
