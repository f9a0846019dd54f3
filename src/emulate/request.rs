//! What a request for generation asks for.

use serde_json::Value;

use super::EmulatorSettings;
use super::api_error::ApiError;
use super::prompt::{EmulatedPrompt, chat_text, hash_bytes, prompt_texts};
use crate::dialect::Dialect;
use crate::engine::EngineRequest;
use crate::units::Tokens;

/// Answers of more choices than this are refused.
const MAX_CHOICES: u64 = 128;
/// Output length where neither the request nor a header says one.
const DEFAULT_OUTPUT_TOKENS: u64 = 64;

/// A request for generation, read.
#[derive(Debug)]
pub(super) struct GenerateRequest {
    pub(super) model: String,
    pub(super) prompts: Vec<EmulatedPrompt>,
    /// Choices per prompt.
    pub(super) choices_per_prompt: usize,
    /// Tokens per choice.
    pub(super) output_tokens: u64,
    /// `length` if the request set a bound, `stop` if the model chose to end; a tool call always ends by itself.
    pub(super) finish_reason: &'static str,
    pub(super) stream: bool,
    pub(super) usage_options: UsageOptions,
    /// Alternatives per token; `None`: no log probabilities.
    pub(super) top_logprobs: Option<u64>,
    /// The function to be called instead of plain text.
    pub(super) tool_name: Option<String>,
    /// The bound as the request gave it, for dialects that repeat it.
    pub(super) max_tokens: Option<u64>,
}

/// Where a stream tells usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UsageOptions {
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
}

impl GenerateRequest {
    /// Reads a body of `dialect`; `output` is the length that a header asks for where the body does not.
    pub(super) fn parse(
        dialect: Dialect,
        body: &Value,
        output: Option<u64>,
        settings: &EmulatorSettings,
    ) -> Result<Self, ApiError> {
        let model = resolve_model(body, settings)?;
        let salt = body.get("cache_salt").and_then(Value::as_str).unwrap_or_default();
        let seed = hash_bytes(salt.as_bytes(), hash_bytes(model.as_bytes(), 0));
        let texts = match dialect {
            Dialect::Completions => prompt_texts(body.get("prompt").ok_or_else(|| ApiError::missing_field("prompt"))?),
            Dialect::Responses => {
                vec![chat_text(body, body.get("input").ok_or_else(|| ApiError::missing_field("input"))?)]
            }
            _ => vec![chat_text(body, body.get("messages").ok_or_else(|| ApiError::missing_field("messages"))?)],
        };
        let block = settings.engine_model.block_size;
        let prompts = texts.iter().map(|text| EmulatedPrompt::from_text(text, seed, block)).collect();
        let (stream, usage) = parse_stream_options(body)?;
        let bound = parse_max_tokens(body)?;
        check_temperature(body)?;
        let tool = parse_tool_choice(body);
        let n = body.get("n").and_then(Value::as_u64).unwrap_or(1).max(1);
        if n.saturating_mul(texts.len() as u64) > MAX_CHOICES {
            return Err(ApiError::invalid_value(format!("n must be at most {MAX_CHOICES}, got {n}."), "n"));
        }
        let ask = Self {
            prompts,
            choices_per_prompt: n as usize,
            output_tokens: bound.or(output).unwrap_or(DEFAULT_OUTPUT_TOKENS).max(1),
            finish_reason: match (body.get("tool_choice"), &tool, bound) {
                (Some(Value::String(_)), Some(_), _) => "tool_calls",
                (_, None, Some(_)) => "length",
                _ => "stop",
            },
            stream,
            usage_options: usage,
            top_logprobs: parse_logprobs(body),
            tool_name: tool,
            max_tokens: bound,
            model,
        };
        ask.check_context_length(settings)?;
        Ok(ask)
    }

    /// The engine's work, choice by choice: all choices of the first prompt, then those of the next.
    pub(super) fn engine_requests(&self) -> Vec<EngineRequest> {
        let choices = self.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, self.choices_per_prompt));
        let work = |prompt: &EmulatedPrompt| EngineRequest {
            id: 0,
            block_hashes: prompt.block_hashes.clone(),
            prompt: Tokens(prompt.tokens),
            output: Tokens(self.output_tokens),
        };
        choices.map(work).collect()
    }

    pub(super) fn choice_count(&self) -> usize {
        self.prompts.len() * self.choices_per_prompt
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompts.iter().map(|p| p.tokens).sum()
    }

    fn check_context_length(&self, settings: &EmulatorSettings) -> Result<(), ApiError> {
        let longest = self.prompts.iter().map(|p| p.tokens).max().unwrap_or_default();
        if longest.saturating_add(self.output_tokens) <= settings.max_model_len {
            return Ok(());
        }
        let message = format!(
            "This model's maximum context length is {} tokens. However, you requested {} output tokens and your prompt \
             contains {longest} input tokens. Please reduce the length of the input prompt. (parameter=input_tokens, \
             value={longest})",
            settings.max_model_len, self.output_tokens
        );
        Err(ApiError::invalid_value(message, "input_tokens"))
    }
}

/// The body as an object.
pub(super) fn parse_object(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::validation_error("missing", "body", "Field required"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|e| {
        let at = e.column();
        ApiError::validation_error("json_invalid", &format!("body.{at}"), "JSON decode error")
    })?;
    if !value.is_object() {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return Err(ApiError::validation_error("model_attributes_type", "body", message));
    }
    Ok(value)
}

/// The model a request names, or the first there is.
pub(super) fn resolve_model(body: &Value, settings: &EmulatorSettings) -> Result<String, ApiError> {
    let first = || settings.models.first().cloned().unwrap_or_default();
    match body.get("model") {
        None | Some(Value::Null) => Ok(first()),
        Some(Value::String(name)) if settings.models.contains(name) => Ok(name.clone()),
        Some(Value::String(name)) => Err(ApiError::unknown_model(name)),
        Some(_) => Err(ApiError::validation_error("string_type", "body.model", "Input should be a valid string")),
    }
}

fn parse_stream_options(body: &Value) -> Result<(bool, UsageOptions), ApiError> {
    let stream = body.get("stream").and_then(Value::as_bool).unwrap_or_default();
    let Some(options) = body.get("stream_options").filter(|o| !o.is_null()) else {
        return Ok((stream, UsageOptions::default()));
    };
    if !stream {
        let message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)";
        return Err(ApiError::invalid_value(message.to_owned(), "stream_options"));
    }
    let wants = |name| options.get(name).and_then(Value::as_bool).unwrap_or_default();
    let at_end = wants("include_usage");
    Ok((stream, UsageOptions { include_usage: at_end, continuous_usage: at_end && wants("continuous_usage_stats") }))
}

fn check_temperature(body: &Value) -> Result<(), ApiError> {
    let Some(value) = body.get("temperature").filter(|t| !t.is_null()) else { return Ok(()) };
    match value.as_f64() {
        Some(given) if given < 0.0 => {
            let message =
                format!("temperature must be non-negative, got {given:?}. (parameter=temperature, value={given:?})");
            Err(ApiError::invalid_value(message, "temperature"))
        }
        Some(_) => Ok(()),
        None => {
            let message = "Input should be a valid number, unable to parse string as a number";
            Err(ApiError::validation_error("float_parsing", "body.temperature", message))
        }
    }
}

fn parse_max_tokens(body: &Value) -> Result<Option<u64>, ApiError> {
    for field in ["max_completion_tokens", "max_tokens", "max_output_tokens"] {
        match body.get(field) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_u64() {
                Some(0) => {
                    let message = format!("{field} must be at least 1, got 0. (parameter={field}, value=0)");
                    return Err(ApiError::invalid_value(message, field));
                }
                Some(bound) => return Ok(Some(bound)),
                None => {
                    let at = format!("body.{field}");
                    return Err(ApiError::validation_error("int_parsing", &at, "Input should be a valid integer"));
                }
            },
        }
    }
    Ok(None)
}

fn parse_logprobs(body: &Value) -> Option<u64> {
    match body.get("logprobs")? {
        Value::Bool(true) => Some(body.get("top_logprobs").and_then(Value::as_u64).unwrap_or_default().min(20)),
        value => value.as_u64().map(|top| top.min(20)),
    }
}

/// The function that `tool_choice` demands, by name or as the first of `required`.
fn parse_tool_choice(body: &Value) -> Option<String> {
    let name = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
    match body.get("tool_choice")? {
        Value::String(word) if word == "required" => name(body.get("tools")?.get(0)?),
        named => name(named),
    }
}
