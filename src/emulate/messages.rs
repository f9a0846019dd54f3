//! The dialect of `/v1/messages`: named events, no `[DONE]`.

use super::answer::{Answer, Pen, Piece, quote, text};

/// `/v1/messages`, Anthropic's.
#[derive(Debug, Default)]
pub(super) struct Messages;

impl Pen for Messages {
    fn opening(&mut self, answer: &Answer) -> Vec<String> {
        let usage = match answer.secretive {
            true => String::new(),
            false => format!(r#","usage":{{"input_tokens":{},"output_tokens":0}}"#, answer.ask.prompt_tokens()),
        };
        let start = format!(
            r#""message":{{"id":{},"type":"message","role":"assistant","content":[],"model":{},"stop_reason":null,"stop_sequence":null{usage}}}"#,
            quote(&answer.id),
            quote(&answer.ask.model),
        );
        vec![
            event("message_start", &start),
            event("content_block_start", r#""content_block":{"type":"text","text":""},"index":0"#),
        ]
    }

    fn piece(&mut self, answer: &Answer, piece: &Piece) -> Vec<String> {
        let mut events = Vec::new();
        if !piece.tokens.is_empty() {
            let words = quote(&text(piece.choice, piece.tokens.clone()));
            let delta = format!(r#""delta":{{"type":"text_delta","text":{words}}},"index":0"#);
            events.push(event("content_block_delta", &delta));
        }
        if let Some(finish) = piece.finish {
            events.push(event("content_block_stop", r#""index":0"#));
            let stop = stop_reason(finish);
            let delta = format!(r#""delta":{{"stop_reason":{stop},"stop_sequence":null}}{}"#, usage(answer));
            events.push(event("message_delta", &delta));
        }
        events
    }

    fn ending(&mut self, _: &Answer) -> Vec<String> {
        vec!["event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned()]
    }

    fn whole(&mut self, answer: &Answer, finish: &str) -> String {
        format!(
            r#"{{"id":{},"type":"message","role":"assistant","content":[{{"type":"text","text":{}}}],"model":{},"stop_reason":{}{}}}"#,
            quote(&answer.id),
            quote(&text(0, 0..answer.completion_tokens())),
            quote(&answer.ask.model),
            stop_reason(finish),
            usage(answer),
        )
    }
}

fn event(kind: &str, fields: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{fields}}}\n\n")
}

/// As JSON; vLLM has no word for an abort.
fn stop_reason(finish: &str) -> String {
    match finish {
        "length" => quote("max_tokens"),
        "stop" => quote("end_turn"),
        "abort" => "null".to_owned(),
        other => quote(other),
    }
}

/// What was cached is no part of `input_tokens` here.
fn usage(answer: &Answer) -> String {
    if answer.secretive {
        return String::new();
    }
    format!(
        r#","usage":{{"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{}}}"#,
        answer.ask.prompt_tokens().saturating_sub(answer.cached),
        answer.completion_tokens(),
        answer.cached,
    )
}
