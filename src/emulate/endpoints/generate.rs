//! Endpoints that generate text.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::dialect::Dialect;
use crate::emulate::api_error::ApiError;
use crate::emulate::dialects::answer::{AnswerProgress, DialectWriter};
use crate::emulate::dialects::messages::MessagesWriter;
use crate::emulate::dialects::openai::{ChatWriter, CompletionsWriter};
use crate::emulate::dialects::responses::ResponsesWriter;
use crate::emulate::emulated_request::EmulatedRequest;
use crate::emulate::faults::EmulatedFault;
use crate::emulate::generate::event_sink::EventSink;
use crate::emulate::generate::generation::Generation;
use crate::emulate::generate::request::GenerateRequest;
use crate::emulate::http_response::json_response;
use crate::emulate::response_body::EmulatedBody;
use crate::emulate::state::{ReplicaState, lock};
use crate::engine::SubmitError;

/// Returns the response to a request for generation, whole or as a stream.
///
/// *Errors*: the request is invalid, or the engine rejects it.
pub(super) async fn handle_generate(
    request: EmulatedRequest,
    dialect: Dialect,
) -> Result<Response<EmulatedBody>, ApiError> {
    let body = request.parse_json_body()?;
    let mut parsed =
        GenerateRequest::parse(dialect, &body, request.header_number("x-emulate-tokens"), &request.replica.settings)?;
    if dialect == Dialect::Responses
        && let Some(previous) = body.get("previous_response_id").and_then(Value::as_str)
        && lock(&request.replica.responses).get(previous).is_none()
    {
        return Err(ApiError::unknown_response(previous));
    }
    parsed.usage_options.continuous_usage |= request.fault == Some(EmulatedFault::UsageEverywhere);
    let stored = dialect == Dialect::Responses && body.get("store") != Some(&Value::Bool(false));
    let refused = |error: SubmitError| ApiError::invalid_value(error.to_string(), "input_tokens");
    let submitted = request.replica.runner.submit(parsed.engine_requests()).map_err(refused)?;
    let stream = parsed.stream;
    let answer = AnswerProgress {
        id: new_response_id(dialect, &request),
        created: request.replica.clock.unix_time().as_secs(),
        cached_tokens: 0,
        generated_tokens: vec![0; parsed.choice_count()],
        omits_usage: request.fault == Some(EmulatedFault::NoUsage),
        request: parsed,
    };
    let stored = stored.then(|| (request.replica.clone(), answer.id.clone()));
    let store = move |text: &str| {
        if let Some((state, id)) = stored {
            lock(&state.responses).insert(id, text.to_owned());
        }
    };
    let tokens_per_event = request.header_number("x-emulate-tokens-per-event").unwrap_or(1);
    let mut generation = Generation::new(dialect, answer, new_dialect_writer(dialect), submitted, tokens_per_event);
    if !stream {
        let text = generation.collect_response(request.fault).await?;
        store(&text);
        return Ok(json_response(StatusCode::OK, text));
    }
    let (sender, chunks) = mpsc::channel(1);
    let lockstep = LockstepStream::register(&request);
    let permits = lockstep.as_ref().map(|stream| stream.permits.clone());
    let mut sink = EventSink::new(sender, request.fault, request.socket_fault, permits);
    // The body owns the task and aborts it on drop.
    let writer = tokio::spawn(async move {
        let _lockstep = lockstep;
        if let Some(text) = generation.stream_response(&mut sink).await {
            store(&text);
        }
    });
    let mut response = Response::new(EmulatedBody::from_channel(chunks, writer.abort_handle(), None));
    let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

fn new_dialect_writer(dialect: Dialect) -> Box<dyn DialectWriter> {
    match dialect {
        Dialect::Completions => Box::new(CompletionsWriter),
        Dialect::Responses => Box::new(ResponsesWriter::default()),
        Dialect::Messages => Box::new(MessagesWriter),
        Dialect::Chat | Dialect::Other => Box::new(ChatWriter),
    }
}

fn new_response_id(dialect: Dialect, request: &EmulatedRequest) -> String {
    match dialect {
        Dialect::Completions => format!("cmpl-{}", request.request_id),
        Dialect::Responses => format!("resp_{}", request.replica.new_id()),
        _ => format!("chatcmpl-{}", request.request_id),
    }
}

/// The entry of a stream in lock-step in [`ReplicaState::lockstep_streams`]. Removed on drop.
struct LockstepStream {
    replica: Arc<ReplicaState>,
    request_id: String,
    permits: Arc<Semaphore>,
}

impl LockstepStream {
    fn register(request: &EmulatedRequest) -> Option<Self> {
        request.header("x-emulate-lockstep")?;
        let permits = Arc::new(Semaphore::new(0));
        let request_id = request.request_id.clone();
        lock(&request.replica.lockstep_streams).insert(request_id.clone(), permits.clone());
        Some(Self { replica: request.replica.clone(), request_id, permits })
    }
}

impl Drop for LockstepStream {
    fn drop(&mut self) {
        lock(&self.replica.lockstep_streams).remove(&self.request_id);
    }
}
