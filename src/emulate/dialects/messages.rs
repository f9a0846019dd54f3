//! The dialect of `/v1/messages`: named events, no `[DONE]`.

use super::answer::{AnswerProgress, DialectWriter, TokenChunk, choice_text, tool_arguments, tool_call_id};
use crate::emulate::json::quote_json;

/// Writer of `/v1/messages`.
#[derive(Debug, Default)]
pub(in crate::emulate) struct MessagesWriter;

impl DialectWriter for MessagesWriter {
    fn write_opening_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let usage = match answer.omits_usage {
            true => String::new(),
            false => format!(r#","usage":{{"input_tokens":{},"output_tokens":0}}"#, answer.request.prompt_tokens()),
        };
        let start = format!(
            r#""message":{{"id":{},"type":"message","role":"assistant","content":[],"model":{},"stop_reason":null,"stop_sequence":null{usage}}}"#,
            quote_json(&answer.id),
            quote_json(&answer.request.model),
        );
        vec![
            format_event("message_start", &start),
            format_event("content_block_start", &format!(r#""content_block":{},"index":0"#, content_block(answer, 0))),
        ]
    }

    fn write_chunk_events(&mut self, answer: &AnswerProgress, chunk: &TokenChunk) -> Vec<String> {
        let mut events = Vec::new();
        if !chunk.tokens.is_empty() {
            let delta = if answer.request.tool_call.is_some() {
                let part = quote_json(&tool_arguments(answer, chunk.choice, chunk.tokens.clone()));
                format!(r#"{{"type":"input_json_delta","partial_json":{part}}}"#)
            } else {
                let words = quote_json(&choice_text(chunk.choice, chunk.tokens.clone()));
                format!(r#"{{"type":"text_delta","text":{words}}}"#)
            };
            events.push(format_event("content_block_delta", &format!(r#""delta":{delta},"index":0"#)));
        }
        if let Some(finish) = chunk.finish_reason {
            events.push(format_event("content_block_stop", r#""index":0"#));
            let stop = stop_reason(answer, finish);
            let delta = format!(r#""delta":{{"stop_reason":{stop},"stop_sequence":null}}{}"#, format_usage(answer));
            events.push(format_event("message_delta", &delta));
        }
        events
    }

    fn write_final_events(&mut self, _: &AnswerProgress) -> Vec<String> {
        vec!["event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned()]
    }

    fn write_response(&mut self, answer: &AnswerProgress, finish: &str) -> String {
        format!(
            r#"{{"id":{},"type":"message","role":"assistant","content":[{}],"model":{},"stop_reason":{}{}}}"#,
            quote_json(&answer.id),
            content_block(answer, answer.completion_tokens()),
            quote_json(&answer.request.model),
            stop_reason(answer, finish),
            format_usage(answer),
        )
    }
}

fn format_event(kind: &str, fields: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{fields}}}\n\n")
}

/// Returns the block of this many tokens: a tool's use, else text. A tool's input is empty until it is whole.
fn content_block(answer: &AnswerProgress, tokens: u64) -> String {
    let Some(call) = &answer.request.tool_call else {
        return format!(r#"{{"type":"text","text":{}}}"#, quote_json(&choice_text(0, 0..tokens)));
    };
    let is_whole = tokens == answer.request.output_tokens;
    format!(
        r#"{{"type":"tool_use","id":{},"name":{},"input":{}}}"#,
        quote_json(&tool_call_id(answer, 0, "toolu_")),
        quote_json(&call.name),
        if is_whole { tool_arguments(answer, 0, 0..tokens) } else { "{}".to_owned() },
    )
}

/// Returns the stop reason as JSON; vLLM has none for an abort.
fn stop_reason(answer: &AnswerProgress, finish: &str) -> String {
    match finish {
        "abort" => "null".to_owned(),
        _ if answer.request.tool_call.is_some() => quote_json("tool_use"),
        "length" => quote_json("max_tokens"),
        "stop" => quote_json("end_turn"),
        other => quote_json(other),
    }
}

/// Returns the usage member. `input_tokens` excludes cached tokens in this dialect.
fn format_usage(answer: &AnswerProgress) -> String {
    if answer.omits_usage {
        return String::new();
    }
    format!(
        r#","usage":{{"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{}}}"#,
        answer.request.prompt_tokens().saturating_sub(answer.cached_tokens),
        answer.completion_tokens(),
        answer.cached_tokens,
    )
}
