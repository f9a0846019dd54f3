//! The dialects of `/v1/chat/completions` and `/v1/completions`, spelled as vLLM 0.32 does.

use super::answer::{Answer, Pen, Piece, arguments, logprob, quote, text, word};

const FINGERPRINT: &str = r#""system_fingerprint":"emulated""#;

/// `/v1/chat/completions`.
#[derive(Debug, Default)]
pub(super) struct Chat;

/// `/v1/completions`.
#[derive(Debug, Default)]
pub(super) struct Completions;

impl Pen for Chat {
    fn opening(&mut self, answer: &Answer) -> Vec<String> {
        let role = |choice| {
            format!(
                r#"{}{{"index":{choice},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]{},"prompt_token_ids":null,"prompt_text":null}}"#,
                chunk_head(answer, "chat.completion.chunk"),
                running_usage(answer),
            )
        };
        (0..answer.ask.choices()).map(role).map(|json| data(&json)).collect()
    }

    fn piece(&mut self, answer: &Answer, piece: &Piece) -> Vec<String> {
        let mut events = Vec::new();
        if answer.ask.tool.is_none() {
            events.push(chat_chunk(answer, piece, &content_delta(piece), piece.finish));
            return events;
        }
        // vLLM names the function in one event, adds arguments in the next ones and finishes in one of its own.
        if piece.tokens.start == 0 && !piece.tokens.is_empty() {
            events.push(chat_chunk(answer, piece, &tool_name_delta(answer, piece.choice), None));
        }
        if !piece.tokens.is_empty() {
            events.push(chat_chunk(answer, piece, &tool_arguments_delta(answer, piece), None));
        }
        if piece.finish.is_some() {
            events.push(chat_chunk(answer, &Piece { tokens: 0..0, ..piece.clone() }, "{}", piece.finish));
        }
        events
    }

    fn ending(&mut self, answer: &Answer) -> Vec<String> {
        let created = r#","created_cache_tokens":0"#;
        openai_ending(answer, "chat.completion.chunk", created)
    }

    fn whole(&mut self, answer: &Answer, finish: &str) -> String {
        let choice = |choice: usize| {
            let tokens = answer.generated.get(choice).copied().unwrap_or_default();
            let (content, calls) = match &answer.ask.tool {
                None => (text(choice, 0..tokens), String::new()),
                Some(name) => (
                    String::new(),
                    format!(
                        r#","tool_calls":[{{"id":{},"type":"function","function":{{"name":{},"arguments":{}}}}}]"#,
                        quote(&tool_id(answer, choice)),
                        quote(name),
                        quote(&arguments(choice, 0..tokens, answer.ask.output)),
                    ),
                ),
            };
            let piece = Piece { choice, tokens: 0..tokens, finish: None };
            format!(
                r#"{{"index":{choice},"message":{{"role":"assistant","content":{},"refusal":null,"annotations":null,"audio":null,"function_call":null{calls},"reasoning":null}},"logprobs":{},"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"routed_experts":null}}"#,
                quote(&content),
                chat_logprobs(answer, &piece),
            )
        };
        let choices: Vec<String> = (0..answer.ask.choices()).map(choice).collect();
        format!(
            r#"{}{}],"service_tier":null,{FINGERPRINT}{},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
            chunk_head(answer, "chat.completion"),
            choices.join(","),
            whole_usage(answer, "0"),
        )
    }
}

impl Pen for Completions {
    fn opening(&mut self, _: &Answer) -> Vec<String> {
        Vec::new()
    }

    fn piece(&mut self, answer: &Answer, piece: &Piece) -> Vec<String> {
        let fingerprint = match piece.finish {
            Some(_) if !answer.usage_wish().at_end => format!(",{FINGERPRINT}"),
            _ => String::new(),
        };
        let json = format!(
            r#"{}{{"index":{},"text":{},"logprobs":{},"finish_reason":{},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]{}{fingerprint}}}"#,
            chunk_head(answer, "text_completion"),
            piece.choice,
            quote(&text(piece.choice, piece.tokens.clone())),
            completion_logprobs(answer, piece),
            piece.finish.map_or_else(|| "null".to_owned(), quote),
            running_usage(answer),
        );
        vec![data(&json)]
    }

    fn ending(&mut self, answer: &Answer) -> Vec<String> {
        openai_ending(answer, "text_completion", "")
    }

    fn whole(&mut self, answer: &Answer, finish: &str) -> String {
        let choice = |choice: usize| {
            let tokens = answer.generated.get(choice).copied().unwrap_or_default();
            let piece = Piece { choice, tokens: 0..tokens, finish: None };
            format!(
                r#"{{"index":{choice},"text":{},"logprobs":{},"finish_reason":"{finish}","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}}"#,
                quote(&text(choice, 0..tokens)),
                completion_logprobs(answer, &piece),
            )
        };
        let choices: Vec<String> = (0..answer.ask.choices()).map(choice).collect();
        format!(
            r#"{}{}],"service_tier":null,{FINGERPRINT}{},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
            chunk_head(answer, "text_completion"),
            choices.join(","),
            whole_usage(answer, "null"),
        )
    }
}

/// An event without a name.
pub(super) fn data(json: &str) -> String {
    format!("data: {json}\n\n")
}

/// Everything up to the first choice.
fn chunk_head(answer: &Answer, object: &str) -> String {
    format!(
        r#"{{"id":{},"object":"{object}","created":{},"model":{},"choices":["#,
        quote(&answer.id),
        answer.created,
        quote(&answer.ask.model),
    )
}

fn counts(answer: &Answer) -> String {
    let (prompt, completion) = (answer.ask.prompt_tokens(), answer.completion_tokens());
    format!(r#""prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{completion}"#, prompt + completion)
}

fn running_usage(answer: &Answer) -> String {
    if !answer.usage_wish().everywhere {
        return String::new();
    }
    format!(r#","usage":{{{},"completion_tokens_details":null}}"#, counts(answer))
}

fn whole_usage(answer: &Answer, created_cache: &str) -> String {
    if answer.secretive {
        return String::new();
    }
    format!(
        r#","usage":{{{},"prompt_tokens_details":{{"cached_tokens":{},"created_cache_tokens":{created_cache},"multimodal_tokens":null}},"completion_tokens_details":null}}"#,
        counts(answer),
        answer.cached,
    )
}

fn openai_ending(answer: &Answer, object: &str, created_cache: &str) -> Vec<String> {
    let mut events = Vec::new();
    if answer.usage_wish().at_end {
        let json = format!(
            r#"{}],"usage":{{{},"prompt_tokens_details":{{"cached_tokens":{}{created_cache}}}}},{FINGERPRINT}}}"#,
            chunk_head(answer, object),
            counts(answer),
            answer.cached,
        );
        events.push(data(&json));
    }
    events.push(data("[DONE]"));
    events
}

fn chat_chunk(answer: &Answer, piece: &Piece, delta: &str, finish: Option<&str>) -> String {
    let (finish, fingerprint) = match finish {
        None => (String::from(r#""finish_reason":null"#), ""),
        Some(reason) => {
            let told = if answer.usage_wish().at_end { "" } else { r#","system_fingerprint":"emulated""# };
            (format!(r#""finish_reason":"{reason}","stop_reason":null"#), told)
        }
    };
    let json = format!(
        r#"{}{{"index":{},"delta":{delta},"logprobs":{},{finish},"token_ids":null}}]{}{fingerprint}}}"#,
        chunk_head(answer, "chat.completion.chunk"),
        piece.choice,
        chat_logprobs(answer, piece),
        running_usage(answer),
    );
    data(&json)
}

fn content_delta(piece: &Piece) -> String {
    if piece.tokens.is_empty() {
        return "{}".to_owned();
    }
    format!(r#"{{"content":{}}}"#, quote(&text(piece.choice, piece.tokens.clone())))
}

fn tool_id(answer: &Answer, choice: usize) -> String {
    format!("chatcmpl-tool-{:016x}", super::prompt::fold(answer.id.as_bytes(), choice as u64))
}

fn tool_name_delta(answer: &Answer, choice: usize) -> String {
    format!(
        r#"{{"content":null,"tool_calls":[{{"id":{},"type":"function","index":0,"function":{{"name":{}}}}}]}}"#,
        quote(&tool_id(answer, choice)),
        quote(answer.ask.tool.as_deref().unwrap_or_default()),
    )
}

fn tool_arguments_delta(answer: &Answer, piece: &Piece) -> String {
    format!(
        r#"{{"content":null,"tool_calls":[{{"index":0,"function":{{"arguments":{}}}}}]}}"#,
        quote(&arguments(piece.choice, piece.tokens.clone(), answer.ask.output)),
    )
}

fn chat_logprobs(answer: &Answer, piece: &Piece) -> String {
    let Some(top) = answer.ask.logprobs.filter(|_| !piece.tokens.is_empty()) else { return "null".to_owned() };
    let entry = |at: u64, rank: u64| {
        let token = word(piece.choice, at + rank);
        let bytes: Vec<String> = token.bytes().map(|b| b.to_string()).collect();
        format!(r#""token":{},"logprob":{:?},"bytes":[{}]"#, quote(&token), logprob(at, rank), bytes.join(","))
    };
    let token = |at: u64| {
        let alternatives: Vec<String> = (0..top).map(|rank| format!("{{{}}}", entry(at, rank))).collect();
        format!(r#"{{{},"top_logprobs":[{}]}}"#, entry(at, 0), alternatives.join(","))
    };
    let tokens: Vec<String> = piece.tokens.clone().map(token).collect();
    format!(r#"{{"content":[{}]}}"#, tokens.join(","))
}

fn completion_logprobs(answer: &Answer, piece: &Piece) -> String {
    let Some(top) = answer.ask.logprobs else { return "null".to_owned() };
    let mut offset = text(piece.choice, 0..piece.tokens.start).len();
    let (mut offsets, mut probabilities, mut tokens, mut tops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for at in piece.tokens.clone() {
        let token = word(piece.choice, at);
        offsets.push(offset.to_string());
        offset += token.len();
        probabilities.push(format!("{:?}", logprob(at, 0)));
        let alternative = |rank| format!("{}:{:?}", quote(&word(piece.choice, at + rank)), logprob(at, rank));
        tops.push(format!("{{{}}}", (0..top).map(alternative).collect::<Vec<_>>().join(",")));
        tokens.push(quote(&token));
    }
    format!(
        r#"{{"text_offset":[{}],"token_logprobs":[{}],"tokens":[{}],"top_logprobs":[{}]}}"#,
        offsets.join(","),
        probabilities.join(","),
        tokens.join(","),
        tops.join(","),
    )
}
