//! What a request for generation asks for.

use serde_json::Value;

use super::Settings;
use super::problem::Problem;
use super::prompt::{Prompt, chat_text, fold, prompt_texts};
use crate::engine::Work;
use crate::units::{Dialect, Tokens};

/// Answers of more choices than this are refused.
const CHOICES: u64 = 128;
/// Output length where neither the request nor a header says one.
const OUTPUT: u64 = 64;

/// A request for generation, read.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) prompts: Vec<Prompt>,
    /// Choices per prompt.
    pub(super) n: usize,
    /// Tokens per choice.
    pub(super) output: u64,
    /// `length` if the request set a bound, `stop` if the model chose to end; a tool call always ends by itself.
    pub(super) finish: &'static str,
    pub(super) stream: bool,
    pub(super) usage: UsageWish,
    /// Alternatives per token; `None`: no log probabilities.
    pub(super) logprobs: Option<u64>,
    /// The function to be called instead of plain text.
    pub(super) tool: Option<String>,
    /// The bound as the request gave it, for dialects that repeat it.
    pub(super) bound: Option<u64>,
}

/// Where a stream tells usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UsageWish {
    pub(super) at_end: bool,
    pub(super) everywhere: bool,
}

impl Ask {
    /// Reads a body of `dialect`; `output` is the length that a header asks for where the body does not.
    pub(super) fn read(
        dialect: Dialect,
        body: &Value,
        output: Option<u64>,
        settings: &Settings,
    ) -> Result<Self, Problem> {
        let model = model(body, settings)?;
        let salt = body.get("cache_salt").and_then(Value::as_str).unwrap_or_default();
        let seed = fold(salt.as_bytes(), fold(model.as_bytes(), 0));
        let texts = match dialect {
            Dialect::Completions => prompt_texts(body.get("prompt").ok_or_else(|| Problem::missing("prompt"))?),
            Dialect::Responses => vec![chat_text(body, body.get("input").ok_or_else(|| Problem::missing("input"))?)],
            _ => vec![chat_text(body, body.get("messages").ok_or_else(|| Problem::missing("messages"))?)],
        };
        let block = settings.constants.block;
        let prompts = texts.iter().map(|text| Prompt::of(text, seed, block)).collect();
        let (stream, usage) = stream_wish(body)?;
        let bound = bound(body)?;
        check_temperature(body)?;
        let tool = tool(body);
        let n = body.get("n").and_then(Value::as_u64).unwrap_or(1).max(1);
        if n.saturating_mul(texts.len() as u64) > CHOICES {
            return Err(Problem::bad_value(format!("n must be at most {CHOICES}, got {n}."), "n"));
        }
        let ask = Self {
            prompts,
            n: n as usize,
            output: bound.or(output).unwrap_or(OUTPUT).max(1),
            finish: match (body.get("tool_choice"), &tool, bound) {
                (Some(Value::String(_)), Some(_), _) => "tool_calls",
                (_, None, Some(_)) => "length",
                _ => "stop",
            },
            stream,
            usage,
            logprobs: logprobs(body),
            tool,
            bound,
            model,
        };
        ask.check_length(settings)?;
        Ok(ask)
    }

    /// The engine's work, choice by choice: all choices of the first prompt, then those of the next.
    pub(super) fn works(&self) -> Vec<Work> {
        let choices = self.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, self.n));
        let work = |prompt: &Prompt| Work {
            id: 0,
            blocks: prompt.blocks.clone(),
            prompt: Tokens(prompt.tokens),
            output: Tokens(self.output),
        };
        choices.map(work).collect()
    }

    pub(super) fn choices(&self) -> usize {
        self.prompts.len() * self.n
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompts.iter().map(|p| p.tokens).sum()
    }

    fn check_length(&self, settings: &Settings) -> Result<(), Problem> {
        let longest = self.prompts.iter().map(|p| p.tokens).max().unwrap_or_default();
        if longest.saturating_add(self.output) <= settings.max_model_len {
            return Ok(());
        }
        let message = format!(
            "This model's maximum context length is {} tokens. However, you requested {} output tokens and your prompt \
             contains {longest} input tokens. Please reduce the length of the input prompt. (parameter=input_tokens, \
             value={longest})",
            settings.max_model_len, self.output
        );
        Err(Problem::bad_value(message, "input_tokens"))
    }
}

/// The body as an object.
pub(super) fn object(body: &[u8]) -> Result<Value, Problem> {
    if body.is_empty() {
        return Err(Problem::invalid("missing", "body", "Field required"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|e| {
        let at = e.column();
        Problem::invalid("json_invalid", &format!("body.{at}"), "JSON decode error")
    })?;
    if !value.is_object() {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return Err(Problem::invalid("model_attributes_type", "body", message));
    }
    Ok(value)
}

/// The model a request names, or the first there is.
pub(super) fn model(body: &Value, settings: &Settings) -> Result<String, Problem> {
    let first = || settings.models.first().cloned().unwrap_or_default();
    match body.get("model") {
        None | Some(Value::Null) => Ok(first()),
        Some(Value::String(name)) if settings.models.contains(name) => Ok(name.clone()),
        Some(Value::String(name)) => Err(Problem::no_model(name)),
        Some(_) => Err(Problem::invalid("string_type", "body.model", "Input should be a valid string")),
    }
}

fn stream_wish(body: &Value) -> Result<(bool, UsageWish), Problem> {
    let stream = body.get("stream").and_then(Value::as_bool).unwrap_or_default();
    let Some(options) = body.get("stream_options").filter(|o| !o.is_null()) else {
        return Ok((stream, UsageWish::default()));
    };
    if !stream {
        let message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)";
        return Err(Problem::bad_value(message.to_owned(), "stream_options"));
    }
    let wants = |name| options.get(name).and_then(Value::as_bool).unwrap_or_default();
    let at_end = wants("include_usage");
    Ok((stream, UsageWish { at_end, everywhere: at_end && wants("continuous_usage_stats") }))
}

fn check_temperature(body: &Value) -> Result<(), Problem> {
    let Some(value) = body.get("temperature").filter(|t| !t.is_null()) else { return Ok(()) };
    match value.as_f64() {
        Some(given) if given < 0.0 => {
            let message =
                format!("temperature must be non-negative, got {given:?}. (parameter=temperature, value={given:?})");
            Err(Problem::bad_value(message, "temperature"))
        }
        Some(_) => Ok(()),
        None => {
            let message = "Input should be a valid number, unable to parse string as a number";
            Err(Problem::invalid("float_parsing", "body.temperature", message))
        }
    }
}

fn bound(body: &Value) -> Result<Option<u64>, Problem> {
    for field in ["max_completion_tokens", "max_tokens", "max_output_tokens"] {
        match body.get(field) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_u64() {
                Some(0) => {
                    let message = format!("{field} must be at least 1, got 0. (parameter={field}, value=0)");
                    return Err(Problem::bad_value(message, field));
                }
                Some(bound) => return Ok(Some(bound)),
                None => {
                    let at = format!("body.{field}");
                    return Err(Problem::invalid("int_parsing", &at, "Input should be a valid integer"));
                }
            },
        }
    }
    Ok(None)
}

fn logprobs(body: &Value) -> Option<u64> {
    match body.get("logprobs")? {
        Value::Bool(true) => Some(body.get("top_logprobs").and_then(Value::as_u64).unwrap_or_default().min(20)),
        value => value.as_u64().map(|top| top.min(20)),
    }
}

/// The function that `tool_choice` demands, by name or as the first of `required`.
fn tool(body: &Value) -> Option<String> {
    let name = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
    match body.get("tool_choice")? {
        Value::String(word) if word == "required" => name(body.get("tools")?.get(0)?),
        named => name(named),
    }
}
