//! `/v1/responses`: typed events, the last of which carries the whole response.

use serde_json::json;

use super::choices_event;
use super::error_body::openai_error_body;
use super::event::{ErrorBlame, EventContent, RawEvent, WantedFields};
use super::event_json::{find_event_type, read_error, read_inner_object};
use super::prompt_members::{ContentMember, MediaKind, PromptMember, PromptPart};
use super::spec::DialectSpec;

pub(super) static SPEC: DialectSpec = DialectSpec {
    read_event,
    error_event: Some(error_event),
    error_body: openai_error_body,
    prompt_members: &[
        PromptMember { name: "tools", part: PromptPart::Tools },
        PromptMember { name: "instructions", part: PromptPart::System },
        PromptMember { name: "input", part: PromptPart::Turns },
    ],
    content_members: &[
        ("role", ContentMember::Role),
        ("type", ContentMember::Ignored),
        ("id", ContentMember::Ignored),
        ("call_id", ContentMember::Ignored),
        ("detail", ContentMember::Ignored),
        ("status", ContentMember::Ignored),
        ("file_id", ContentMember::Ignored),
        ("encrypted_content", ContentMember::Ignored),
        ("file_data", ContentMember::MediaSource),
        ("image_url", ContentMember::MediaUrl(MediaKind::Image)),
        ("file_url", ContentMember::MediaUrl(MediaKind::Image)),
    ],
    takes_stream_options: false,
    null_stop_reason_aborts: false,
    stores_responses: true,
};

/// Reads an event by its type; one of an unknown type as a choices event.
fn read_event<'a>(event: &RawEvent<'a>, wanted: WantedFields) -> EventContent<'a> {
    let Some(kind) = find_event_type(event, |kind| kind == b"error" || kind.starts_with(b"response.")) else {
        return choices_event::read_event(event, wanted);
    };
    if kind == b"error" {
        return read_error(event);
    }
    if kind.ends_with(b".delta") {
        return EventContent { has_content: true, ..EventContent::default() };
    }
    let done = matches!(kind, b"response.completed" | b"response.incomplete" | b"response.failed");
    let inner = if done || wanted.id {
        read_inner_object(event, wanted, |members| members.response)
    } else {
        EventContent::default()
    };
    EventContent { done, error: (kind == b"response.failed").then_some(ErrorBlame::Replica), ..inner }
}

fn error_event(message: &str, sequence: u64) -> String {
    let data = json!({"type": "error", "code": "server_error", "message": message, "param": null, "sequence_number": sequence});
    format!("event: error\ndata: {data}\n\n")
}
