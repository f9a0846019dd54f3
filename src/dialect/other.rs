//! Paths whose shapes are not known: embeddings, reranking, tokenization, speech. Only `usage` and errors are read.

use super::choices_event;
use super::error_body::openai_error_body;
use super::prompt_members::{PromptMember, PromptPart};
use super::spec::DialectSpec;

pub(super) static SPEC: DialectSpec = DialectSpec {
    read_event: choices_event::read_event,
    error_event: None,
    error_body: openai_error_body,
    prompt_members: &[
        PromptMember { name: "input", part: PromptPart::Turns },
        PromptMember { name: "prompt", part: PromptPart::Text },
    ],
    content_members: &[],
    takes_stream_options: false,
    null_stop_reason_aborts: false,
    stores_responses: false,
};
