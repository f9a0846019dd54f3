//! Endpoints that compute something other than a stream of text.

use http::{Response, StatusCode};
use serde_json::Value;

use super::answer::{quote, text};
use super::ask::model;
use super::body::Body;
use super::endpoints::{json, read, typed};
use super::problem::Problem;
use super::prompt::{Prompt, chat_text, fold};
use super::service::Call;
use crate::engine::Work;
use crate::units::Tokens;

/// Length of an emulated embedding.
const DIMENSIONS: u64 = 8;
/// Tokens of an emulated transcript.
const TRANSCRIPT: u64 = 12;

/// An endpoint that computes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    Embed,
    Rerank,
    Score,
    Pool,
    Classify,
    Tokenize,
    Detokenize,
    CountTokens,
    Hear,
    Speak,
}

/// What most tasks need: the model and the texts that its prompt tokens are counted of.
struct Job {
    model: String,
    texts: Vec<Vec<u8>>,
    tokens: u64,
}

pub(super) async fn answer(call: &Call, task: Task) -> Result<Response<Body>, Problem> {
    if matches!(task, Task::Hear) {
        return hear(call).await;
    }
    let body = read(call)?;
    let model = model(&body, &call.shared.settings)?;
    let texts = match task {
        Task::Tokenize | Task::CountTokens | Task::Detokenize => return tokenize(call, task, &body),
        Task::Rerank => pairs(&body, "query", "documents")?,
        Task::Score => pairs(&body, "text_1", "text_2").or_else(|_| pairs(&body, "queries", "documents"))?,
        _ => texts(body.get("input").ok_or_else(|| Problem::missing("input"))?),
    };
    let tokens = compute(call, &model, &texts, 0).await?;
    let job = Job { model, texts, tokens };
    if matches!(task, Task::Speak) {
        return Ok(typed(StatusCode::OK, "audio/wav", silence()));
    }
    Ok(json(StatusCode::OK, written(call, task, &job, &body)))
}

/// Runs the texts through the engine; returns their length in tokens.
async fn compute(call: &Call, model: &str, texts: &[Vec<u8>], output: u64) -> Result<u64, Problem> {
    let block = call.shared.settings.constants.block;
    let seed = fold(model.as_bytes(), 0);
    let prompts: Vec<Prompt> = texts.iter().map(|text| Prompt::of(text, seed, block)).collect();
    let tokens = prompts.iter().map(|p| p.tokens).sum();
    let work = |p: Prompt| Work { id: 0, blocks: p.blocks, prompt: Tokens(p.tokens), output: Tokens(output) };
    let works = prompts.into_iter().map(work).collect();
    let refused = |e: crate::engine::Refused| Problem::bad_value(e.to_string(), "input_tokens");
    let mut ticket = call.shared.runner.submit(works).map_err(refused)?;
    while ticket.next().await.is_some() {}
    Ok(tokens)
}

fn written(call: &Call, task: Task, job: &Job, body: &Value) -> String {
    let id = &call.id;
    let (model, tokens) = (quote(&job.model), job.tokens);
    let created = call.shared.clock.time_of_day().as_secs();
    let usage = format!(
        r#""usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens},"completion_tokens":0,"prompt_tokens_details":null}}"#
    );
    let list = |kind: &str, each: &dyn Fn(usize, &[u8]) -> String| {
        let data: Vec<String> = job.texts.iter().enumerate().map(|(at, text)| each(at, text)).collect();
        let data = data.join(",");
        format!(r#"{{"id":"{kind}-{id}","object":"list","created":{created},"model":{model},"data":[{data}],{usage}}}"#)
    };
    match task {
        Task::Score => {
            list("score", &|at, text| format!(r#"{{"index":{at},"object":"score","score":{:?}}}"#, unit(text, 0)))
        }
        Task::Classify => list("classify", &|at, text| {
            let p = unit(text, 0);
            format!(r#"{{"index":{at},"label":"LABEL_0","probs":[{p:?},{:?}],"num_classes":2}}"#, 1.0 - p)
        }),
        Task::Pool => {
            list("pool", &|at, text| format!(r#"{{"index":{at},"object":"pooling","data":[{}]}}"#, vector(text)))
        }
        Task::Rerank => rerank(id, job, body),
        _ => {
            list("embd", &|at, text| format!(r#"{{"index":{at},"object":"embedding","embedding":[{}]}}"#, vector(text)))
        }
    }
}

/// Results by falling relevance, at most `top_n`.
fn rerank(id: &str, job: &Job, body: &Value) -> String {
    let documents = body.get("documents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut results: Vec<(usize, f64)> = job.texts.iter().enumerate().map(|(at, text)| (at, unit(text, 0))).collect();
    results.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let top = body.get("top_n").and_then(Value::as_u64).filter(|n| *n > 0).unwrap_or(u64::MAX);
    results.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    let result = |(at, score): &(usize, f64)| {
        let document = documents.get(*at).and_then(Value::as_str).unwrap_or_default();
        let document = quote(document);
        format!(r#"{{"index":{at},"document":{{"text":{document},"multi_modal":null}},"relevance_score":{score:?}}}"#)
    };
    let results: Vec<String> = results.iter().map(result).collect();
    format!(
        r#"{{"id":"rerank-{id}","model":{},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}},"results":[{}]}}"#,
        quote(&job.model),
        results.join(","),
        tokens = job.tokens,
    )
}

fn tokenize(call: &Call, task: Task, body: &Value) -> Result<Response<Body>, Problem> {
    if matches!(task, Task::Detokenize) {
        let tokens = body.get("tokens").and_then(Value::as_array).ok_or_else(|| Problem::missing("tokens"))?;
        let prompt = quote(&text(0, 0..tokens.len() as u64));
        return Ok(json(StatusCode::OK, format!(r#"{{"prompt":{prompt}}}"#)));
    }
    let bytes = match (body.get("messages"), body.get("prompt")) {
        (Some(messages), _) => chat_text(body, messages),
        (None, Some(prompt)) => texts(prompt).concat(),
        (None, None) => return Err(Problem::missing("messages")),
    };
    let count = Prompt::of(&bytes, 0, Tokens(16)).tokens;
    if matches!(task, Task::CountTokens) {
        let counted = format!(r#"{{"input_tokens":{count},"context_management":{{"original_input_tokens":{count}}}}}"#);
        return Ok(json(StatusCode::OK, counted));
    }
    let tokens: Vec<String> = bytes.chunks(4).map(|piece| (fold(piece, 0) % 100_000).to_string()).collect();
    let longest = call.shared.settings.max_model_len;
    let tokens = tokens.join(",");
    let answer = format!(r#"{{"count":{count},"max_model_len":{longest},"tokens":[{tokens}],"token_strs":null}}"#);
    Ok(json(StatusCode::OK, answer))
}

/// A multipart upload: longer sound takes longer.
async fn hear(call: &Call) -> Result<Response<Body>, Problem> {
    let kind = call.header("content-type").unwrap_or_default();
    if !kind.starts_with("multipart/form-data") {
        return Err(Problem::missing("file"));
    }
    let named = form_field(&call.body, "model").map(Value::from).unwrap_or_default();
    let model = model(&Value::from_iter([("model", named)]), &call.shared.settings)?;
    // About ten tokens per second of 16 kHz sound.
    let sound = vec![0; call.body.len() / 800 + 1];
    compute(call, &model, &[sound], TRANSCRIPT).await?;
    let words = quote(&text(0, 0..TRANSCRIPT));
    let seconds = call.body.len() / 32_000 + 1;
    let answer = format!(r#"{{"text":{words},"usage":{{"type":"duration","seconds":{seconds}}}}}"#);
    Ok(json(StatusCode::OK, answer))
}

/// A text field of a multipart form, found by its name.
fn form_field(form: &[u8], name: &str) -> Option<String> {
    let after = |text: &[u8], mark: &[u8]| text.windows(mark.len()).position(|w| w == mark).map(|at| at + mark.len());
    let start = after(form, format!("name=\"{name}\"").as_bytes())?;
    let rest = form.get(start..)?;
    let value = rest.get(after(rest, b"\r\n\r\n")?..)?;
    let end = value.windows(2).position(|w| w == b"\r\n")?;
    String::from_utf8(value.get(..end)?.to_vec()).ok()
}

/// A text or token list, or a list of either; anything else counts as its JSON.
fn texts(input: &Value) -> Vec<Vec<u8>> {
    match input {
        Value::Array(items) if !items.iter().all(Value::is_number) => items.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone().into_bytes()],
        other => vec![other.to_string().into_bytes()],
    }
}

/// Every second text behind the first one (or behind its own, if there are as many).
fn pairs(body: &Value, one: &str, many: &str) -> Result<Vec<Vec<u8>>, Problem> {
    let firsts = texts(body.get(one).ok_or_else(|| Problem::missing(one))?);
    let seconds = texts(body.get(many).ok_or_else(|| Problem::missing(many))?);
    let first = |at: usize| firsts.get(at).or(firsts.first()).cloned().unwrap_or_default();
    Ok(seconds.iter().enumerate().map(|(at, second)| [first(at).as_slice(), b"\n", second].concat()).collect())
}

/// A number from 0 to 1 that is the same for the same text.
fn unit(text: &[u8], seed: u64) -> f64 {
    (fold(text, seed) >> 40) as f64 / (1u64 << 24) as f64
}

fn vector(text: &[u8]) -> String {
    let numbers: Vec<String> = (0..DIMENSIONS).map(|at| format!("{:?}", unit(text, at) - 0.5)).collect();
    numbers.join(",")
}

/// A WAV file with a few samples of silence.
fn silence() -> bytes::Bytes {
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
