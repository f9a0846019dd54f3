//! The dialect of `/v1/responses`: named and numbered events, no `[DONE]`.

use std::collections::VecDeque;

use super::answer::{AnswerProgress, DialectWriter, TokenChunk, choice_text, tool_arguments, tool_call_id};
use crate::emulate::json::quote_json;

/// Responses that a replica stores; the oldest are removed.
const MAX_STORED_RESPONSES: usize = 1000;

/// Writer of `/v1/responses`.
#[derive(Debug, Default)]
pub(in crate::emulate) struct ResponsesWriter {
    /// Number of the next event.
    next_sequence_number: u64,
    finish_reason: Option<&'static str>,
}

/// The stored responses of a replica: ids and JSON.
#[derive(Debug, Default)]
pub(in crate::emulate) struct ResponseStore {
    responses: VecDeque<(String, String)>,
}

impl ResponseStore {
    pub(in crate::emulate) fn insert(&mut self, id: String, json: String) {
        if self.responses.len() >= MAX_STORED_RESPONSES {
            self.responses.pop_front();
        }
        self.responses.push_back((id, json));
    }

    pub(in crate::emulate) fn get(&self, id: &str) -> Option<&str> {
        self.responses.iter().find(|(stored, _)| stored == id).map(|(_, json)| json.as_str())
    }

    /// Removes a response. Returns whether it was stored.
    pub(in crate::emulate) fn remove(&mut self, id: &str) -> bool {
        let before = self.responses.len();
        self.responses.retain(|(stored, _)| stored != id);
        self.responses.len() < before
    }
}

impl ResponsesWriter {
    fn format_event(&mut self, kind: &str, fields: &str) -> String {
        self.format_event_with_tail(kind, fields, "")
    }

    /// Fields are in alphabetical order, so some follow the number.
    fn format_event_with_tail(&mut self, kind: &str, before: &str, after: &str) -> String {
        let number = self.next_sequence_number;
        self.next_sequence_number += 1;
        format!("event: {kind}\ndata: {{{before},\"sequence_number\":{number},{after}\"type\":\"{kind}\"}}\n\n")
    }

    fn text_done_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let id = quote_json(&item_id(answer));
        let words = format!(r#""text":{},"#, quote_json(&choice_text(0, 0..answer.completion_tokens())));
        let done = format!(r#""content_index":0,"item_id":{id},"logprobs":[],"output_index":0"#);
        let part = format!(r#""content_index":0,"item_id":{id},"output_index":0,"part":{}"#, content_part(answer));
        vec![
            self.format_event_with_tail("response.output_text.done", &done, &words),
            self.format_event("response.content_part.done", &part),
        ]
    }
}

impl DialectWriter for ResponsesWriter {
    fn write_opening_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let response = format!(r#""response":{}"#, response_object(answer, None));
        let item = format!(r#""item":{},"output_index":0"#, output_item(answer, "in_progress"));
        let mut events = vec![
            self.format_event("response.created", &response),
            self.format_event("response.in_progress", &response),
            self.format_event("response.output_item.added", &item),
        ];
        if answer.request.tool_call.is_some() {
            return events;
        }
        let part = format!(
            r#""content_index":0,"item_id":{},"output_index":0,"part":{{"annotations":[],"text":"","type":"output_text","logprobs":[]}}"#,
            quote_json(&item_id(answer)),
        );
        events.push(self.format_event("response.content_part.added", &part));
        events
    }

    fn write_chunk_events(&mut self, answer: &AnswerProgress, chunk: &TokenChunk) -> Vec<String> {
        self.finish_reason = chunk.finish_reason.or(self.finish_reason);
        if chunk.tokens.is_empty() {
            return Vec::new();
        }
        if answer.request.tool_call.is_some() {
            let delta = format!(
                r#""delta":{},"item_id":{},"output_index":0"#,
                quote_json(&tool_arguments(answer, chunk.choice, chunk.tokens.clone())),
                quote_json(&item_id(answer)),
            );
            return vec![self.format_event("response.function_call_arguments.delta", &delta)];
        }
        let delta = format!(
            r#""content_index":0,"delta":{},"item_id":{},"logprobs":[],"output_index":0"#,
            quote_json(&choice_text(chunk.choice, chunk.tokens.clone())),
            quote_json(&item_id(answer)),
        );
        vec![self.format_event("response.output_text.delta", &delta)]
    }

    fn write_final_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let mut events = match &answer.request.tool_call {
            None => self.text_done_events(answer),
            Some(call) => {
                let done = format!(
                    r#""arguments":{},"item_id":{},"name":{},"output_index":0"#,
                    quote_json(&tool_arguments(answer, 0, 0..answer.completion_tokens())),
                    quote_json(&item_id(answer)),
                    quote_json(&call.name),
                );
                vec![self.format_event("response.function_call_arguments.done", &done)]
            }
        };
        let item_done = format!(r#""item":{},"output_index":0"#, output_item(answer, "completed"));
        let finish = self.finish_reason.unwrap_or(answer.request.finish_reason);
        let whole = format!(r#""response":{}"#, response_object(answer, Some(finish)));
        events.push(self.format_event("response.output_item.done", &item_done));
        events.push(self.format_event("response.completed", &whole));
        events
    }

    fn write_response(&mut self, answer: &AnswerProgress, finish: &str) -> String {
        response_object(answer, Some(finish))
    }
}

fn item_id(answer: &AnswerProgress) -> String {
    let prefix = if answer.request.tool_call.is_some() { "fc_" } else { "msg_" };
    answer.id.replacen("resp_", prefix, 1)
}

fn content_part(answer: &AnswerProgress) -> String {
    let words = quote_json(&choice_text(0, 0..answer.completion_tokens()));
    format!(r#"{{"annotations":[],"text":{words},"type":"output_text","logprobs":null}}"#)
}

/// Returns the output item of this status: the tool call, else the message. It is empty while it is in progress.
fn output_item(answer: &AnswerProgress, status: &str) -> String {
    let id = quote_json(&item_id(answer));
    let completed = status == "completed";
    let Some(call) = &answer.request.tool_call else {
        let part = if completed { content_part(answer) } else { String::new() };
        return format!(
            r#"{{"id":{id},"content":[{part}],"role":"assistant","status":"{status}","type":"message","phase":null}}"#,
        );
    };
    let tokens = if completed { answer.completion_tokens() } else { 0 };
    format!(
        r#"{{"arguments":{},"call_id":{},"name":{},"type":"function_call","id":{id},"status":"{status}"}}"#,
        quote_json(&tool_arguments(answer, 0, 0..tokens)),
        quote_json(&tool_call_id(answer, 0, "call_")),
        quote_json(&call.name),
    )
}

/// Returns the response object; `finish` is `None` while it is in progress.
fn response_object(answer: &AnswerProgress, finish: Option<&str>) -> String {
    let (status, details) = match finish {
        None => ("in_progress", "null"),
        Some("stop" | "tool_calls") => ("completed", "null"),
        Some("abort") => ("cancelled", "null"),
        Some(_) => ("incomplete", r#"{"reason":"max_output_tokens"}"#),
    };
    let output = if finish.is_some() { output_item(answer, "completed") } else { String::new() };
    let bound = answer.request.max_tokens.unwrap_or(answer.request.output_tokens);
    let usage = if finish.is_none() || answer.omits_usage { "null".to_owned() } else { usage_object(answer) };
    format!(
        r#"{{"id":{},"created_at":{},"incomplete_details":{details},"instructions":null,"metadata":null,"model":{},"object":"response","output":[{output}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":{bound},"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null}}"#,
        quote_json(&answer.id),
        answer.created,
        quote_json(&answer.request.model),
    )
}

fn usage_object(answer: &AnswerProgress) -> String {
    let (input, output) = (answer.request.prompt_tokens(), answer.completion_tokens());
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{},"cache_write_tokens":0,"input_tokens_per_turn":[],"cached_tokens_per_turn":[]}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":0,"tool_output_tokens":0,"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]}},"total_tokens":{}}}"#,
        answer.cached_tokens,
        input + output,
    )
}
