//! A request for generation.

use serde_json::Value;

use super::tool_call::ToolCall;
use crate::dialect::Dialect;
use crate::emulate::api_error::ApiError;
use crate::emulate::prompt::{EmulatedPrompt, chat_text, hash_bytes, prompt_texts};
use crate::emulate::settings::EmulatorSettings;
use crate::engine::EngineRequest;
use crate::units::Tokens;

/// Most choices of all prompts together.
const MAX_CHOICES: u64 = 128;
/// Output length if neither the request nor a header sets one.
const DEFAULT_OUTPUT_TOKENS: u64 = 64;

/// A parsed request for generation.
#[derive(Debug)]
pub(in crate::emulate) struct GenerateRequest {
    pub(in crate::emulate) model: String,
    pub(super) prompts: Vec<EmulatedPrompt>,
    /// Choices per prompt.
    pub(super) choices_per_prompt: usize,
    /// Tokens per choice.
    pub(in crate::emulate) output_tokens: u64,
    /// `length` if the request sets a bound, else `stop` or `tool_calls`.
    pub(in crate::emulate) finish_reason: &'static str,
    pub(in crate::emulate) stream: bool,
    pub(in crate::emulate) usage_options: UsageOptions,
    /// Alternatives per token; `None` without log probabilities.
    pub(in crate::emulate) top_logprobs: Option<u64>,
    /// The call that the answer is; `None` for plain text.
    pub(in crate::emulate) tool_call: Option<ToolCall>,
    /// The bound that the request sets, for dialects that repeat it.
    pub(in crate::emulate) max_tokens: Option<u64>,
}

/// The events of a stream that contain usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::emulate) struct UsageOptions {
    /// The last one.
    pub(in crate::emulate) include_usage: bool,
    /// Every one.
    pub(in crate::emulate) continuous_usage: bool,
}

impl GenerateRequest {
    /// Parses a body of `dialect`. `default_output` is the output length if the body sets none.
    ///
    /// *Errors*: a missing field, an invalid value, or a prompt that is too long.
    pub(in crate::emulate) fn parse(
        dialect: Dialect,
        body: &Value,
        default_output: Option<u64>,
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
        let tool = ToolCall::find(body);
        let n = body.get("n").and_then(Value::as_u64).unwrap_or(1).max(1);
        if n.saturating_mul(texts.len() as u64) > MAX_CHOICES {
            return Err(ApiError::invalid_value(format!("n must be at most {MAX_CHOICES}, got {n}."), "n"));
        }
        let asked = bound.or(default_output).unwrap_or(DEFAULT_OUTPUT_TOKENS).max(1);
        let written = tool.as_ref().and_then(ToolCall::written_tokens);
        let output_tokens = written.unwrap_or_else(|| asked.min(settings.stop_after.unwrap_or(asked)).max(1));
        let request = Self {
            prompts,
            choices_per_prompt: n as usize,
            output_tokens,
            finish_reason: match (&tool, bound) {
                (Some(tool), _) if tool.is_models_choice => "tool_calls",
                (None, Some(bound)) if output_tokens >= bound => "length",
                _ => "stop",
            },
            stream,
            usage_options: usage,
            top_logprobs: parse_logprobs(body),
            tool_call: tool,
            max_tokens: bound,
            model,
        };
        request.check_context_length(settings)?;
        Ok(request)
    }

    /// Returns the requests to the engine: all choices of the first prompt, then those of the next.
    pub(in crate::emulate) fn engine_requests(&self) -> Vec<EngineRequest> {
        let choices = self.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, self.choices_per_prompt));
        let engine_request = |prompt: &EmulatedPrompt| EngineRequest {
            id: 0,
            block_hashes: prompt.block_hashes.clone(),
            prompt: Tokens(prompt.tokens),
            output: Tokens(self.output_tokens),
        };
        choices.map(engine_request).collect()
    }

    pub(in crate::emulate) fn choice_count(&self) -> usize {
        self.prompts.len() * self.choices_per_prompt
    }

    pub(in crate::emulate) fn prompt_tokens(&self) -> u64 {
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

/// Returns the model that a request names, else the first one.
///
/// *Errors*: an unknown model, or no text.
pub(in crate::emulate) fn resolve_model(body: &Value, settings: &EmulatorSettings) -> Result<String, ApiError> {
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
    let is_set = |name| options.get(name).and_then(Value::as_bool).unwrap_or_default();
    let include_usage = is_set("include_usage");
    Ok((stream, UsageOptions { include_usage, continuous_usage: include_usage && is_set("continuous_usage_stats") }))
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
                    let location = format!("body.{field}");
                    return Err(ApiError::validation_error(
                        "int_parsing",
                        &location,
                        "Input should be a valid integer",
                    ));
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
