//! The endpoints of an emulated replica.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use super::api_error::ApiError;
use super::dialects::answer::{AnswerProgress, DialectWriter};
use super::dialects::messages::MessagesWriter;
use super::dialects::openai::{ChatWriter, CompletionsWriter};
use super::dialects::responses::ResponsesWriter;
use super::faults::EmulatedFault;
use super::generate::{EventSink, Generation};
use super::request::{GenerateRequest, parse_object};
use super::response_body::EmulatedBody;
use super::server::{EmulatedRequest, ReplicaState, lock};
use super::{compute_endpoints, info_endpoints};
use crate::dialect::Dialect;

/// What answers a path.
#[derive(Clone, Copy, Debug)]
enum EmulatedEndpoint {
    Generate(Dialect),
    Compute(compute_endpoints::ComputeTask),
    Info(info_endpoints::InfoEndpoint),
    /// vLLM's control endpoints: they must never be reachable through a router, so here they answer.
    Control,
    SetFault,
    ClearFault,
}

use EmulatedEndpoint::{Compute, Control, Generate, Info};

const ROUTES: &[(&str, &str, EmulatedEndpoint)] = &[
    ("POST", "/v1/chat/completions", Generate(Dialect::Chat)),
    ("POST", "/v1/completions", Generate(Dialect::Completions)),
    ("POST", "/v1/responses", Generate(Dialect::Responses)),
    ("POST", "/v1/messages", Generate(Dialect::Messages)),
    ("POST", "/v1/messages/count_tokens", Compute(compute_endpoints::ComputeTask::CountTokens)),
    ("POST", "/v1/embeddings", Compute(compute_endpoints::ComputeTask::Embed)),
    ("POST", "/v1/rerank", Compute(compute_endpoints::ComputeTask::Rerank)),
    ("POST", "/rerank", Compute(compute_endpoints::ComputeTask::Rerank)),
    ("POST", "/v1/score", Compute(compute_endpoints::ComputeTask::Score)),
    ("POST", "/score", Compute(compute_endpoints::ComputeTask::Score)),
    ("POST", "/pooling", Compute(compute_endpoints::ComputeTask::Pooling)),
    ("POST", "/classify", Compute(compute_endpoints::ComputeTask::Classify)),
    ("POST", "/tokenize", Compute(compute_endpoints::ComputeTask::Tokenize)),
    ("POST", "/detokenize", Compute(compute_endpoints::ComputeTask::Detokenize)),
    ("POST", "/v1/audio/transcriptions", Compute(compute_endpoints::ComputeTask::Transcribe)),
    ("POST", "/v1/audio/translations", Compute(compute_endpoints::ComputeTask::Transcribe)),
    ("POST", "/v1/audio/speech", Compute(compute_endpoints::ComputeTask::Synthesize)),
    ("GET", "/v1/models", Info(info_endpoints::InfoEndpoint::Models)),
    ("GET", "/health", Info(info_endpoints::InfoEndpoint::Health)),
    ("GET", "/ping", Info(info_endpoints::InfoEndpoint::Health)),
    ("POST", "/ping", Info(info_endpoints::InfoEndpoint::Health)),
    ("GET", "/version", Info(info_endpoints::InfoEndpoint::Version)),
    ("GET", "/load", Info(info_endpoints::InfoEndpoint::Load)),
    ("GET", "/metrics", Info(info_endpoints::InfoEndpoint::Metrics)),
    ("POST", "/sleep", Control),
    ("POST", "/wake_up", Control),
    ("GET", "/is_sleeping", Control),
    ("POST", "/pause", Control),
    ("POST", "/resume", Control),
    ("POST", "/reset_prefix_cache", Control),
    ("POST", "/reset_mm_cache", Control),
    ("POST", "/update_weights", Control),
    ("POST", "/init_weight_transfer_engine", Control),
    ("POST", "/collective_rpc", Control),
    ("POST", "/scale_elastic_ep", Control),
    ("POST", "/start_profile", Control),
    ("POST", "/stop_profile", Control),
    ("GET", "/server_info", Control),
    ("POST", "/v1/load_lora_adapter", Control),
    ("POST", "/v1/unload_lora_adapter", Control),
    ("POST", "/emulate/faults", EmulatedEndpoint::SetFault),
    ("DELETE", "/emulate/faults", EmulatedEndpoint::ClearFault),
];

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, text: String) -> Response<EmulatedBody> {
    typed_response(status, "application/json", text.into())
}

/// An answer of any type.
pub(super) fn typed_response(status: StatusCode, kind: &'static str, bytes: bytes::Bytes) -> Response<EmulatedBody> {
    let mut response = Response::new(EmulatedBody::from_bytes(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Answers a request as if it met no fault before its head, and with its streaming faults.
pub(super) async fn handle_request(call: EmulatedRequest) -> Response<EmulatedBody> {
    if call.replica.settings.echo {
        return info_endpoints::echo_request(&call);
    }
    let path = call.head.uri.path().to_owned();
    if let Some(response) = handle_path_with_id(&call, &path) {
        return response;
    }
    let endpoint = match find_endpoint(call.head.method.as_str(), &path) {
        Ok(endpoint) => endpoint,
        Err(Some(allowed)) => return method_not_allowed(allowed),
        Err(None) => return json_response(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#.to_owned()),
    };
    let done = || Ok(json_response(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    let answered = match endpoint {
        Generate(dialect) => handle_generate(call, dialect).await,
        Compute(task) => compute_endpoints::handle_compute(&call, task).await,
        Info(about) => Ok(info_endpoints::handle_info(&call, about)),
        Control => done(),
        EmulatedEndpoint::SetFault if !lock(&call.replica.fault_injector).apply_order(&call.body) => {
            Err(ApiError::invalid_value("no such fault, or no such order".to_owned(), "fault"))
        }
        EmulatedEndpoint::SetFault => done(),
        EmulatedEndpoint::ClearFault => {
            lock(&call.replica.fault_injector).clear();
            done()
        }
    };
    answered.unwrap_or_else(|problem| json_response(problem.status, problem.to_json()))
}

/// The endpoint of a path, else a method that the path has, if it has any.
fn find_endpoint(method: &str, path: &str) -> Result<EmulatedEndpoint, Option<&'static str>> {
    let mut allowed = None;
    for (theirs, _, endpoint) in ROUTES.iter().filter(|(_, route, _)| *route == path) {
        if *theirs == method {
            return Ok(*endpoint);
        }
        allowed = allowed.or(Some(*theirs));
    }
    Err(allowed)
}

fn method_not_allowed(allowed: &'static str) -> Response<EmulatedBody> {
    let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#.to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Paths that end in a name: remembered responses and lock-steps. `None` if the path is none of them.
fn handle_path_with_id(call: &EmulatedRequest, path: &str) -> Option<Response<EmulatedBody>> {
    let method = call.head.method.as_str();
    if let Some(id) = path.strip_prefix("/emulate/next/") {
        let known = lock(&call.replica.lockstep_streams).get(id).map(|steps| steps.add_permits(1)).is_some();
        let status = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Some(json_response(status, "{}".to_owned()));
    }
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, wanted) = match rest.strip_suffix("/cancel") {
        Some(id) => (id, "POST"),
        None if method == "DELETE" => (rest, "DELETE"),
        None => (rest, "GET"),
    };
    if method != wanted {
        return Some(method_not_allowed(wanted));
    }
    let mut shelf = lock(&call.replica.responses);
    let Some(kept) = shelf.get(id).map(str::to_owned) else {
        let problem = ApiError::unknown_response(id);
        return Some(json_response(problem.status, problem.to_json()));
    };
    if wanted != "DELETE" {
        return Some(json_response(StatusCode::OK, kept));
    }
    shelf.remove(id);
    Some(json_response(
        StatusCode::OK,
        format!(r#"{{"id":{},"object":"response","deleted":true}}"#, super::dialects::answer::quote_json(id)),
    ))
}

/// Reads a JSON body as vLLM would accept it.
pub(super) fn parse_json_body(call: &EmulatedRequest) -> Result<Value, ApiError> {
    match call.header("content-type") {
        Some(kind) if !kind.starts_with("application/json") => Err(ApiError::unsupported_content_type()),
        _ => parse_object(&call.body),
    }
}

async fn handle_generate(call: EmulatedRequest, dialect: Dialect) -> Result<Response<EmulatedBody>, ApiError> {
    let body = parse_json_body(&call)?;
    let mut ask =
        GenerateRequest::parse(dialect, &body, call.header_number("x-emulate-tokens"), &call.replica.settings)?;
    if dialect == Dialect::Responses
        && let Some(previous) = body.get("previous_response_id").and_then(Value::as_str)
        && lock(&call.replica.responses).get(previous).is_none()
    {
        return Err(ApiError::unknown_response(previous));
    }
    ask.usage_options.continuous_usage |= call.fault == Some(EmulatedFault::UsageEverywhere);
    let stored = dialect == Dialect::Responses && body.get("store") != Some(&Value::Bool(false));
    let refused = |e: crate::engine::SubmitError| ApiError::invalid_value(e.to_string(), "input_tokens");
    let ticket = call.replica.runner.submit(ask.engine_requests()).map_err(refused)?;
    let stream = ask.stream;
    let answer = AnswerProgress {
        id: new_response_id(dialect, &call),
        created: call.replica.clock.unix_time().as_secs(),
        cached_tokens: 0,
        generated_tokens: vec![0; ask.choice_count()],
        omits_usage: call.fault == Some(EmulatedFault::NoUsage),
        request: ask,
    };
    let kept = stored.then(|| (call.replica.clone(), answer.id.clone()));
    let keep = move |text: &str| {
        if let Some((shared, id)) = kept {
            lock(&shared.responses).insert(id, text.to_owned());
        }
    };
    let per_event = call.header_number("x-emulate-tokens-per-event").unwrap_or(1);
    let mut talk = Generation::new(dialect, answer, new_dialect_writer(dialect), ticket, per_event);
    if !stream {
        let text = talk.collect_response(call.fault).await?;
        keep(&text);
        return Ok(json_response(StatusCode::OK, text));
    }
    let (to, said) = mpsc::channel(1);
    let steps = LockstepStream::register(&call);
    let mut outlet = EventSink::new(to, call.fault, call.socket_fault, steps.as_ref().map(|s| s.permits.clone()));
    // Owned by the body, which ends it.
    let writer = tokio::spawn(async move {
        let _steps = steps;
        if let Some(text) = talk.stream_response(&mut outlet).await {
            keep(&text);
        }
    });
    let mut response = Response::new(EmulatedBody::from_channel(said, writer.abort_handle(), None));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
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

fn new_response_id(dialect: Dialect, call: &EmulatedRequest) -> String {
    match dialect {
        Dialect::Completions => format!("cmpl-{}", call.request_id),
        Dialect::Responses => format!("resp_{}", call.replica.new_id()),
        _ => format!("chatcmpl-{}", call.request_id),
    }
}

/// A stream in lock-step: known by its request id for as long as it is written.
struct LockstepStream {
    replica: Arc<ReplicaState>,
    request_id: String,
    permits: Arc<Semaphore>,
}

impl LockstepStream {
    fn register(call: &EmulatedRequest) -> Option<Self> {
        call.header("x-emulate-lockstep")?;
        let (shared, id, permits) = (call.replica.clone(), call.request_id.clone(), Arc::new(Semaphore::new(0)));
        lock(&shared.lockstep_streams).insert(id.clone(), permits.clone());
        Some(Self { replica: shared, request_id: id, permits })
    }
}

impl Drop for LockstepStream {
    fn drop(&mut self) {
        lock(&self.replica.lockstep_streams).remove(&self.request_id);
    }
}
