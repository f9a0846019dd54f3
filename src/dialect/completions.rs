//! `/v1/completions`: the events of chat completions, and a prompt without turns.

use super::choices_event;
use super::error_body::openai_error_body;
use super::prompt_members::{PromptMember, PromptPart};
use super::spec::DialectSpec;

pub(super) static SPEC: DialectSpec = DialectSpec {
    read_event: choices_event::read_event,
    error_event: Some(choices_event::error_event),
    error_body: openai_error_body,
    prompt_members: &[PromptMember { name: "prompt", part: PromptPart::Text }],
    content_members: &[],
    takes_stream_options: true,
    null_stop_reason_aborts: false,
    stores_responses: false,
};
