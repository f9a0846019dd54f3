//! `/v1/chat/completions`.

use super::choices_event;
use super::error_body::openai_error_body;
use super::prompt_members::{ContentMember, MediaKind, PromptMember, PromptPart};
use super::spec::DialectSpec;

pub(super) static SPEC: DialectSpec = DialectSpec {
    read_event: choices_event::read_event,
    error_event: Some(choices_event::error_event),
    error_body: openai_error_body,
    prompt_members: &[
        PromptMember { name: "tools", part: PromptPart::Tools },
        PromptMember { name: "messages", part: PromptPart::Turns },
    ],
    content_members: &[
        ("role", ContentMember::Role),
        ("type", ContentMember::Ignored),
        ("cache_control", ContentMember::IgnoredObject),
        ("id", ContentMember::Ignored),
        ("tool_call_id", ContentMember::Ignored),
        ("detail", ContentMember::Ignored),
        ("format", ContentMember::Ignored),
        ("file_id", ContentMember::Ignored),
        ("url", ContentMember::MediaSource),
        ("data", ContentMember::MediaSource),
        ("file_data", ContentMember::MediaSource),
        ("image_url", ContentMember::MediaUrl(MediaKind::Image)),
        ("video_url", ContentMember::MediaUrl(MediaKind::Image)),
        ("audio_url", ContentMember::MediaUrl(MediaKind::Audio)),
        ("file", ContentMember::MediaObject(MediaKind::Image)),
        ("input_audio", ContentMember::MediaObject(MediaKind::Audio)),
    ],
    takes_stream_options: true,
    null_stop_reason_aborts: false,
    stores_responses: false,
};
