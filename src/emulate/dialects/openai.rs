//! The dialects of `/v1/chat/completions` and `/v1/completions`, spelled as vLLM 0.32 does.

use super::answer::{
    AnswerProgress, DialectWriter, TokenChunk, choice_text, token_logprob, token_text, tool_arguments, tool_call_id,
};
use crate::emulate::json::quote_json;

const CALL_ID_PREFIX: &str = "chatcmpl-tool-";
const SYSTEM_FINGERPRINT: &str = r#""system_fingerprint":"emulated""#;

/// Writer of `/v1/chat/completions`.
#[derive(Debug, Default)]
pub(in crate::emulate) struct ChatWriter;

/// Writer of `/v1/completions`.
#[derive(Debug, Default)]
pub(in crate::emulate) struct CompletionsWriter;

impl DialectWriter for ChatWriter {
    fn write_opening_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let role = |choice| {
            format!(
                r#"{}{{"index":{choice},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]{},"prompt_token_ids":null,"prompt_text":null}}"#,
                chunk_head(answer, "chat.completion.chunk"),
                running_usage(answer),
            )
        };
        (0..answer.request.choice_count()).map(role).map(|json| data_event(&json)).collect()
    }

    fn write_chunk_events(&mut self, answer: &AnswerProgress, chunk: &TokenChunk) -> Vec<String> {
        let mut events = Vec::new();
        if answer.request.tool_call.is_none() {
            events.push(chat_chunk(answer, chunk, &content_delta(chunk), chunk.finish_reason));
            return events;
        }
        // vLLM sends the function's name in one event, its arguments in the next ones, and the finish reason in
        // another.
        if chunk.tokens.start == 0 && !chunk.tokens.is_empty() {
            events.push(chat_chunk(answer, chunk, &tool_name_delta(answer, chunk.choice), None));
        }
        if !chunk.tokens.is_empty() {
            events.push(chat_chunk(answer, chunk, &tool_arguments_delta(answer, chunk), None));
        }
        if chunk.finish_reason.is_some() {
            events.push(chat_chunk(answer, &TokenChunk { tokens: 0..0, ..chunk.clone() }, "{}", chunk.finish_reason));
        }
        events
    }

    fn write_final_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        let created = r#","created_cache_tokens":0"#;
        openai_final_events(answer, "chat.completion.chunk", created)
    }

    fn write_response(&mut self, answer: &AnswerProgress, finish: &str) -> String {
        let choice = |choice: usize| {
            let tokens = answer.generated_tokens.get(choice).copied().unwrap_or_default();
            let (content, calls) = match &answer.request.tool_call {
                None => (choice_text(choice, 0..tokens), String::new()),
                Some(call) => (
                    String::new(),
                    format!(
                        r#","tool_calls":[{{"id":{},"type":"function","function":{{"name":{},"arguments":{}}}}}]"#,
                        quote_json(&tool_call_id(answer, choice, CALL_ID_PREFIX)),
                        quote_json(&call.name),
                        quote_json(&tool_arguments(answer, choice, 0..tokens)),
                    ),
                ),
            };
            let chunk = TokenChunk { choice, tokens: 0..tokens, finish_reason: None };
            format!(
                r#"{{"index":{choice},"message":{{"role":"assistant","content":{},"refusal":null,"annotations":null,"audio":null,"function_call":null{calls},"reasoning":null}},"logprobs":{},"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"routed_experts":null}}"#,
                quote_json(&content),
                chat_logprobs(answer, &chunk),
            )
        };
        let choices: Vec<String> = (0..answer.request.choice_count()).map(choice).collect();
        format!(
            r#"{}{}],"service_tier":null,{SYSTEM_FINGERPRINT}{},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
            chunk_head(answer, "chat.completion"),
            choices.join(","),
            full_usage(answer, "0"),
        )
    }
}

impl DialectWriter for CompletionsWriter {
    fn write_opening_events(&mut self, _: &AnswerProgress) -> Vec<String> {
        Vec::new()
    }

    fn write_chunk_events(&mut self, answer: &AnswerProgress, chunk: &TokenChunk) -> Vec<String> {
        let fingerprint = match chunk.finish_reason {
            Some(_) if !answer.usage_options().include_usage => format!(",{SYSTEM_FINGERPRINT}"),
            _ => String::new(),
        };
        let json = format!(
            r#"{}{{"index":{},"text":{},"logprobs":{},"finish_reason":{},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]{}{fingerprint}}}"#,
            chunk_head(answer, "text_completion"),
            chunk.choice,
            quote_json(&choice_text(chunk.choice, chunk.tokens.clone())),
            completion_logprobs(answer, chunk),
            chunk.finish_reason.map_or_else(|| "null".to_owned(), quote_json),
            running_usage(answer),
        );
        vec![data_event(&json)]
    }

    fn write_final_events(&mut self, answer: &AnswerProgress) -> Vec<String> {
        openai_final_events(answer, "text_completion", "")
    }

    fn write_response(&mut self, answer: &AnswerProgress, finish: &str) -> String {
        let choice = |choice: usize| {
            let tokens = answer.generated_tokens.get(choice).copied().unwrap_or_default();
            let chunk = TokenChunk { choice, tokens: 0..tokens, finish_reason: None };
            format!(
                r#"{{"index":{choice},"text":{},"logprobs":{},"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}}"#,
                quote_json(&choice_text(choice, 0..tokens)),
                completion_logprobs(answer, &chunk),
            )
        };
        let choices: Vec<String> = (0..answer.request.choice_count()).map(choice).collect();
        format!(
            r#"{}{}],"service_tier":null,{SYSTEM_FINGERPRINT}{},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
            chunk_head(answer, "text_completion"),
            choices.join(","),
            full_usage(answer, "null"),
        )
    }
}

/// Returns an event without a name.
pub(in crate::emulate) fn data_event(json: &str) -> String {
    format!("data: {json}\n\n")
}

/// Returns the beginning of a response up to the first choice.
fn chunk_head(answer: &AnswerProgress, object: &str) -> String {
    format!(
        r#"{{"id":{},"object":"{object}","created":{},"model":{},"choices":["#,
        quote_json(&answer.id),
        answer.created,
        quote_json(&answer.request.model),
    )
}

fn usage_counts(answer: &AnswerProgress) -> String {
    let (prompt, completion) = (answer.request.prompt_tokens(), answer.completion_tokens());
    format!(r#""prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{completion}"#, prompt + completion)
}

fn running_usage(answer: &AnswerProgress) -> String {
    if !answer.usage_options().continuous_usage {
        return String::new();
    }
    format!(r#","usage":{{{},"completion_tokens_details":null}}"#, usage_counts(answer))
}

fn full_usage(answer: &AnswerProgress, created_cache: &str) -> String {
    if answer.omits_usage {
        return String::new();
    }
    format!(
        r#","usage":{{{},"prompt_tokens_details":{{"cached_tokens":{},"created_cache_tokens":{created_cache},"multimodal_tokens":null}},"completion_tokens_details":null}}"#,
        usage_counts(answer),
        answer.cached_tokens,
    )
}

fn openai_final_events(answer: &AnswerProgress, object: &str, created_cache: &str) -> Vec<String> {
    let mut events = Vec::new();
    if answer.usage_options().include_usage {
        let json = format!(
            r#"{}],"usage":{{{},"prompt_tokens_details":{{"cached_tokens":{}{created_cache}}}}},{SYSTEM_FINGERPRINT}}}"#,
            chunk_head(answer, object),
            usage_counts(answer),
            answer.cached_tokens,
        );
        events.push(data_event(&json));
    }
    events.push(data_event("[DONE]"));
    events
}

fn chat_chunk(answer: &AnswerProgress, chunk: &TokenChunk, delta: &str, finish: Option<&str>) -> String {
    let (finish, fingerprint) = match finish {
        None => (String::from(r#""finish_reason":null"#), ""),
        Some(reason) => {
            let fingerprint =
                if answer.usage_options().include_usage { "" } else { r#","system_fingerprint":"emulated""# };
            (format!(r#""finish_reason":"{reason}","stop_reason":null"#), fingerprint)
        }
    };
    let json = format!(
        r#"{}{{"index":{},"delta":{delta},"logprobs":{},{finish},"token_ids":null}}]{}{fingerprint}}}"#,
        chunk_head(answer, "chat.completion.chunk"),
        chunk.choice,
        chat_logprobs(answer, chunk),
        running_usage(answer),
    );
    data_event(&json)
}

fn content_delta(chunk: &TokenChunk) -> String {
    if chunk.tokens.is_empty() {
        return "{}".to_owned();
    }
    format!(r#"{{"content":{}}}"#, quote_json(&choice_text(chunk.choice, chunk.tokens.clone())))
}

fn tool_name_delta(answer: &AnswerProgress, choice: usize) -> String {
    format!(
        r#"{{"content":null,"tool_calls":[{{"id":{},"type":"function","index":0,"function":{{"name":{}}}}}]}}"#,
        quote_json(&tool_call_id(answer, choice, CALL_ID_PREFIX)),
        quote_json(answer.request.tool_call.as_ref().map_or("", |call| &call.name)),
    )
}

fn tool_arguments_delta(answer: &AnswerProgress, chunk: &TokenChunk) -> String {
    format!(
        r#"{{"content":null,"tool_calls":[{{"index":0,"function":{{"arguments":{}}}}}]}}"#,
        quote_json(&tool_arguments(answer, chunk.choice, chunk.tokens.clone())),
    )
}

fn chat_logprobs(answer: &AnswerProgress, chunk: &TokenChunk) -> String {
    let Some(top) = answer.request.top_logprobs.filter(|_| !chunk.tokens.is_empty()) else { return "null".to_owned() };
    let entry = |index: u64, rank: u64| {
        let token = token_text(chunk.choice, index + rank);
        let bytes: Vec<String> = token.bytes().map(|b| b.to_string()).collect();
        format!(
            r#""token":{},"logprob":{:?},"bytes":[{}]"#,
            quote_json(&token),
            token_logprob(index, rank),
            bytes.join(",")
        )
    };
    let token = |index: u64| {
        let alternatives: Vec<String> = (0..top).map(|rank| format!("{{{}}}", entry(index, rank))).collect();
        format!(r#"{{{},"top_logprobs":[{}]}}"#, entry(index, 0), alternatives.join(","))
    };
    let tokens: Vec<String> = chunk.tokens.clone().map(token).collect();
    format!(r#"{{"content":[{}]}}"#, tokens.join(","))
}

fn completion_logprobs(answer: &AnswerProgress, chunk: &TokenChunk) -> String {
    let Some(top) = answer.request.top_logprobs else { return "null".to_owned() };
    let mut offset = choice_text(chunk.choice, 0..chunk.tokens.start).len();
    let (mut offsets, mut probabilities, mut tokens, mut tops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for index in chunk.tokens.clone() {
        let token = token_text(chunk.choice, index);
        offsets.push(offset.to_string());
        offset += token.len();
        probabilities.push(format!("{:?}", token_logprob(index, 0)));
        let alternative =
            |rank| format!("{}:{:?}", quote_json(&token_text(chunk.choice, index + rank)), token_logprob(index, rank));
        tops.push(format!("{{{}}}", (0..top).map(alternative).collect::<Vec<_>>().join(",")));
        tokens.push(quote_json(&token));
    }
    format!(
        r#"{{"text_offset":[{}],"token_logprobs":[{}],"tokens":[{}],"top_logprobs":[{}]}}"#,
        offsets.join(","),
        probabilities.join(","),
        tokens.join(","),
        tops.join(","),
    )
}
