//! Endpoints that compute something other than text.

use http::{Response, StatusCode};
use serde_json::Value;

use crate::emulate::api_error::ApiError;
use crate::emulate::dialects::answer::choice_text;
use crate::emulate::emulated_request::EmulatedRequest;
use crate::emulate::generate::request::resolve_model;
use crate::emulate::http_response::{json_response, typed_response};
use crate::emulate::json::quote_json;
use crate::emulate::prompt::{EmulatedPrompt, chat_text, hash_bytes};
use crate::emulate::response_body::EmulatedBody;
use crate::engine::{EngineRequest, SubmitError};
use crate::units::Tokens;

/// Numbers in an emulated embedding.
const EMBEDDING_DIMENSIONS: u64 = 8;
/// Tokens of an emulated transcript.
const TRANSCRIPT_TOKENS: u64 = 12;

/// An endpoint that computes.
#[derive(Clone, Copy, Debug)]
pub(super) enum ComputeTask {
    Embed,
    Rerank,
    Score,
    Pooling,
    Classify,
    Tokenize,
    Detokenize,
    CountTokens,
    Transcribe,
    Synthesize,
}

/// The input of most tasks: the model, the texts, and their prompt tokens.
struct ComputeJob {
    model: String,
    texts: Vec<Vec<u8>>,
    tokens: u64,
}

pub(super) async fn handle_compute(
    request: &EmulatedRequest,
    task: ComputeTask,
) -> Result<Response<EmulatedBody>, ApiError> {
    if matches!(task, ComputeTask::Transcribe) {
        return transcribe(request).await;
    }
    let body = request.parse_json_body()?;
    let model = resolve_model(&body, &request.replica.settings)?;
    let texts = match task {
        ComputeTask::Tokenize | ComputeTask::CountTokens | ComputeTask::Detokenize => {
            return handle_tokenize(request, task, &body);
        }
        ComputeTask::Rerank => pair_texts(&body, "query", "documents")?,
        ComputeTask::Score => {
            pair_texts(&body, "text_1", "text_2").or_else(|_| pair_texts(&body, "queries", "documents"))?
        }
        _ => collect_texts(body.get("input").ok_or_else(|| ApiError::missing_field("input"))?),
    };
    let tokens = compute_texts(request, &model, &texts, 0).await?;
    let job = ComputeJob { model, texts, tokens };
    if matches!(task, ComputeTask::Synthesize) {
        return Ok(typed_response(StatusCode::OK, "audio/wav", silent_wav()));
    }
    Ok(json_response(StatusCode::OK, render_response(request, task, &job, &body)))
}

/// Runs the texts through the engine. Returns their length in tokens.
///
/// *Errors*: a text is longer than the model takes.
async fn compute_texts(
    request: &EmulatedRequest,
    model: &str,
    texts: &[Vec<u8>],
    output: u64,
) -> Result<u64, ApiError> {
    let block = request.replica.settings.engine_model.block_size;
    let seed = hash_bytes(model.as_bytes(), 0);
    let prompts: Vec<EmulatedPrompt> = texts.iter().map(|text| EmulatedPrompt::from_text(text, seed, block)).collect();
    let tokens = prompts.iter().map(|p| p.tokens).sum();
    let engine_request = |prompt: EmulatedPrompt| EngineRequest {
        id: 0,
        block_hashes: prompt.block_hashes,
        prompt: Tokens(prompt.tokens),
        output: Tokens(output),
    };
    let engine_requests = prompts.into_iter().map(engine_request).collect();
    let refused = |error: SubmitError| ApiError::invalid_value(error.to_string(), "input_tokens");
    let mut submitted = request.replica.runner.submit(engine_requests).map_err(refused)?;
    while submitted.next_event().await.is_some() {}
    Ok(tokens)
}

fn render_response(request: &EmulatedRequest, task: ComputeTask, job: &ComputeJob, body: &Value) -> String {
    let id = &request.request_id;
    let (model, tokens) = (quote_json(&job.model), job.tokens);
    let created = request.replica.clock.unix_time().as_secs();
    let usage = format!(
        r#""usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens},"completion_tokens":0,"prompt_tokens_details":null}}"#
    );
    let list = |kind: &str, render: &dyn Fn(usize, &[u8]) -> String| {
        let data: Vec<String> = job.texts.iter().enumerate().map(|(index, text)| render(index, text)).collect();
        let data = data.join(",");
        format!(r#"{{"id":"{kind}-{id}","object":"list","created":{created},"model":{model},"data":[{data}],{usage}}}"#)
    };
    match task {
        ComputeTask::Score => list("score", &|index, text| {
            format!(r#"{{"index":{index},"object":"score","score":{:?}}}"#, unit_hash(text, 0))
        }),
        ComputeTask::Classify => list("classify", &|index, text| {
            let p = unit_hash(text, 0);
            format!(r#"{{"index":{index},"label":"LABEL_0","probs":[{p:?},{:?}],"num_classes":2}}"#, 1.0 - p)
        }),
        ComputeTask::Pooling => list("pool", &|index, text| {
            format!(r#"{{"index":{index},"object":"pooling","data":[{}]}}"#, render_vector(text))
        }),
        ComputeTask::Rerank => render_rerank(id, job, body),
        _ => list("embd", &|index, text| {
            format!(r#"{{"index":{index},"object":"embedding","embedding":[{}]}}"#, render_vector(text))
        }),
    }
}

/// Returns the results by descending relevance, at most `top_n`.
fn render_rerank(id: &str, job: &ComputeJob, body: &Value) -> String {
    let documents = body.get("documents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut results: Vec<(usize, f64)> =
        job.texts.iter().enumerate().map(|(index, text)| (index, unit_hash(text, 0))).collect();
    results.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let top = body.get("top_n").and_then(Value::as_u64).filter(|n| *n > 0).unwrap_or(u64::MAX);
    results.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    let result = |(index, score): &(usize, f64)| {
        let document = documents.get(*index).and_then(Value::as_str).unwrap_or_default();
        let document = quote_json(document);
        format!(
            r#"{{"index":{index},"document":{{"text":{document},"multi_modal":null}},"relevance_score":{score:?}}}"#
        )
    };
    let results: Vec<String> = results.iter().map(result).collect();
    format!(
        r#"{{"id":"rerank-{id}","model":{},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}},"results":[{}]}}"#,
        quote_json(&job.model),
        results.join(","),
        tokens = job.tokens,
    )
}

fn handle_tokenize(
    request: &EmulatedRequest,
    task: ComputeTask,
    body: &Value,
) -> Result<Response<EmulatedBody>, ApiError> {
    if matches!(task, ComputeTask::Detokenize) {
        let tokens = body.get("tokens").and_then(Value::as_array).ok_or_else(|| ApiError::missing_field("tokens"))?;
        let prompt = quote_json(&choice_text(0, 0..tokens.len() as u64));
        return Ok(json_response(StatusCode::OK, format!(r#"{{"prompt":{prompt}}}"#)));
    }
    let bytes = match (body.get("messages"), body.get("prompt")) {
        (Some(messages), _) => chat_text(body, messages),
        (None, Some(prompt)) => collect_texts(prompt).concat(),
        (None, None) => return Err(ApiError::missing_field("messages")),
    };
    let count = EmulatedPrompt::from_text(&bytes, 0, Tokens(16)).tokens;
    if matches!(task, ComputeTask::CountTokens) {
        let json = format!(r#"{{"input_tokens":{count},"context_management":{{"original_input_tokens":{count}}}}}"#);
        return Ok(json_response(StatusCode::OK, json));
    }
    let tokens: Vec<String> = bytes.chunks(4).map(|piece| (hash_bytes(piece, 0) % 100_000).to_string()).collect();
    let longest = request.replica.settings.max_model_len;
    let tokens = tokens.join(",");
    let json = format!(r#"{{"count":{count},"max_model_len":{longest},"tokens":[{tokens}],"token_strs":null}}"#);
    Ok(json_response(StatusCode::OK, json))
}

/// Returns the response to a multipart upload; longer sound takes longer.
///
/// *Errors*: the upload has no file or no known model.
async fn transcribe(request: &EmulatedRequest) -> Result<Response<EmulatedBody>, ApiError> {
    let kind = request.header("content-type").unwrap_or_default();
    if !kind.starts_with("multipart/form-data") {
        return Err(ApiError::missing_field("file"));
    }
    let model_name = form_field(&request.body, "model").map(Value::from).unwrap_or_default();
    let model = resolve_model(&Value::from_iter([("model", model_name)]), &request.replica.settings)?;
    // About ten tokens per second of 16 kHz sound.
    let sound = vec![0; request.body.len() / 800 + 1];
    compute_texts(request, &model, &[sound], TRANSCRIPT_TOKENS).await?;
    let words = quote_json(&choice_text(0, 0..TRANSCRIPT_TOKENS));
    let seconds = request.body.len() / 32_000 + 1;
    let json = format!(r#"{{"text":{words},"usage":{{"type":"duration","seconds":{seconds}}}}}"#);
    Ok(json_response(StatusCode::OK, json))
}

/// Returns a text field of a multipart form.
fn form_field(form: &[u8], name: &str) -> Option<String> {
    let after =
        |text: &[u8], mark: &[u8]| text.windows(mark.len()).position(|w| w == mark).map(|start| start + mark.len());
    let start = after(form, format!("name=\"{name}\"").as_bytes())?;
    let rest = form.get(start..)?;
    let value = rest.get(after(rest, b"\r\n\r\n")?..)?;
    let end = value.windows(2).position(|w| w == b"\r\n")?;
    String::from_utf8(value.get(..end)?.to_vec()).ok()
}

/// Returns the texts of an input: a text, a token list, or a list of either. Anything else counts as its JSON.
fn collect_texts(input: &Value) -> Vec<Vec<u8>> {
    match input {
        Value::Array(items) if !items.iter().all(Value::is_number) => items.iter().flat_map(collect_texts).collect(),
        Value::String(text) => vec![text.clone().into_bytes()],
        other => vec![other.to_string().into_bytes()],
    }
}

/// Returns each text of `many`, after the text of `one` or, if `one` is a list, after its element at the same index.
///
/// *Errors*: a member is missing.
fn pair_texts(body: &Value, one: &str, many: &str) -> Result<Vec<Vec<u8>>, ApiError> {
    let firsts = collect_texts(body.get(one).ok_or_else(|| ApiError::missing_field(one))?);
    let seconds = collect_texts(body.get(many).ok_or_else(|| ApiError::missing_field(many))?);
    let first = |index: usize| firsts.get(index).or(firsts.first()).cloned().unwrap_or_default();
    Ok(seconds.iter().enumerate().map(|(index, second)| [first(index).as_slice(), b"\n", second].concat()).collect())
}

/// Returns a number from 0 to 1 that depends on the text only.
fn unit_hash(text: &[u8], seed: u64) -> f64 {
    (hash_bytes(text, seed) >> 40) as f64 / (1u64 << 24) as f64
}

fn render_vector(text: &[u8]) -> String {
    let numbers: Vec<String> =
        (0..EMBEDDING_DIMENSIONS).map(|seed| format!("{:?}", unit_hash(text, seed) - 0.5)).collect();
    numbers.join(",")
}

/// Returns a WAV file with a few samples of silence.
fn silent_wav() -> bytes::Bytes {
    const SAMPLES: u32 = 16;
    let mut wav = Vec::new();
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + 2 * SAMPLES).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&[16, 0, 0, 0, 1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0]);
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&(2 * SAMPLES).to_le_bytes());
    wav.resize(wav.len() + 2 * SAMPLES as usize, 0);
    wav.into()
}
