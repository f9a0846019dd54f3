//! The dialect of `/v1/responses`: named and numbered events, no `[DONE]`.

use std::collections::VecDeque;

use super::answer::{Answer, Pen, Piece, quote, text};

/// Responses that a replica remembers; the oldest are forgotten.
const REMEMBERED: usize = 1000;

/// `/v1/responses`.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Number of the next event.
    sequence: u64,
    finish: Option<&'static str>,
}

/// The responses that a replica can be asked for again.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: VecDeque<(String, String)>,
}

impl Shelf {
    pub(super) fn keep(&mut self, id: String, json: String) {
        if self.kept.len() >= REMEMBERED {
            self.kept.pop_front();
        }
        self.kept.push_back((id, json));
    }

    pub(super) fn get(&self, id: &str) -> Option<&str> {
        self.kept.iter().find(|(kept, _)| kept == id).map(|(_, json)| json.as_str())
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.kept.len();
        self.kept.retain(|(kept, _)| kept != id);
        self.kept.len() < before
    }
}

impl Responses {
    fn event(&mut self, kind: &str, fields: &str) -> String {
        self.event_around(kind, fields, "")
    }

    /// The fields stand in alphabetical order, so some come after the number.
    fn event_around(&mut self, kind: &str, before: &str, after: &str) -> String {
        let number = self.sequence;
        self.sequence += 1;
        format!("event: {kind}\ndata: {{{before},\"sequence_number\":{number},{after}\"type\":\"{kind}\"}}\n\n")
    }
}

impl Pen for Responses {
    fn opening(&mut self, answer: &Answer) -> Vec<String> {
        let response = format!(r#""response":{}"#, response(answer, None));
        let item = format!(r#""item":{},"output_index":0"#, item(answer, "in_progress", ""));
        let part = format!(
            r#""content_index":0,"item_id":{},"output_index":0,"part":{{"annotations":[],"text":"","type":"output_text","logprobs":[]}}"#,
            quote(&item_id(answer)),
        );
        vec![
            self.event("response.created", &response),
            self.event("response.in_progress", &response),
            self.event("response.output_item.added", &item),
            self.event("response.content_part.added", &part),
        ]
    }

    fn piece(&mut self, answer: &Answer, piece: &Piece) -> Vec<String> {
        self.finish = piece.finish.or(self.finish);
        if piece.tokens.is_empty() {
            return Vec::new();
        }
        let delta = format!(
            r#""content_index":0,"delta":{},"item_id":{},"logprobs":[],"output_index":0"#,
            quote(&text(piece.choice, piece.tokens.clone())),
            quote(&item_id(answer)),
        );
        vec![self.event("response.output_text.delta", &delta)]
    }

    fn ending(&mut self, answer: &Answer) -> Vec<String> {
        let (id, part) = (quote(&item_id(answer)), part(answer));
        let words = format!(r#""text":{},"#, quote(&text(0, 0..answer.completion_tokens())));
        let done = format!(r#""content_index":0,"item_id":{id},"logprobs":[],"output_index":0"#);
        let part_done = format!(r#""content_index":0,"item_id":{id},"output_index":0,"part":{part}"#);
        let item_done = format!(r#""item":{},"output_index":0"#, item(answer, "completed", &part));
        let whole = format!(r#""response":{}"#, response(answer, Some(self.finish.unwrap_or(answer.ask.finish))));
        vec![
            self.event_around("response.output_text.done", &done, &words),
            self.event("response.content_part.done", &part_done),
            self.event("response.output_item.done", &item_done),
            self.event("response.completed", &whole),
        ]
    }

    fn whole(&mut self, answer: &Answer, finish: &str) -> String {
        response(answer, Some(finish))
    }
}

fn item_id(answer: &Answer) -> String {
    answer.id.replacen("resp_", "msg_", 1)
}

fn part(answer: &Answer) -> String {
    let words = quote(&text(0, 0..answer.completion_tokens()));
    format!(r#"{{"annotations":[],"text":{words},"type":"output_text","logprobs":null}}"#)
}

fn item(answer: &Answer, status: &str, part: &str) -> String {
    format!(
        r#"{{"id":{},"content":[{part}],"role":"assistant","status":"{status}","type":"message","phase":null}}"#,
        quote(&item_id(answer)),
    )
}

/// The response object; `finish` is `None` while it is in progress.
fn response(answer: &Answer, finish: Option<&str>) -> String {
    let (status, details, output) = match finish {
        None => ("in_progress", "null".to_owned(), String::new()),
        Some("stop") => ("completed", "null".to_owned(), item(answer, "completed", &part(answer))),
        Some("abort") => ("cancelled", "null".to_owned(), item(answer, "completed", &part(answer))),
        Some(_) => {
            let details = r#"{"reason":"max_output_tokens"}"#.to_owned();
            ("incomplete", details, item(answer, "completed", &part(answer)))
        }
    };
    let bound = answer.ask.bound.unwrap_or(answer.ask.output);
    let usage = if finish.is_none() || answer.secretive { "null".to_owned() } else { usage(answer) };
    format!(
        r#"{{"id":{},"created_at":{},"incomplete_details":{details},"instructions":null,"metadata":null,"model":{},"object":"response","output":[{output}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":{bound},"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null}}"#,
        quote(&answer.id),
        answer.created,
        quote(&answer.ask.model),
    )
}

fn usage(answer: &Answer) -> String {
    let (input, output) = (answer.ask.prompt_tokens(), answer.completion_tokens());
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{},"cache_write_tokens":0,"input_tokens_per_turn":[],"cached_tokens_per_turn":[]}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":0,"tool_output_tokens":0,"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]}},"total_tokens":{}}}"#,
        answer.cached,
        input + output,
    )
}
