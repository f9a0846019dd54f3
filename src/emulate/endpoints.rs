//! The endpoints of an emulated replica.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use super::answer::{Answer, Pen};
use super::ask::{Ask, object};
use super::body::Body;
use super::fault::Fault;
use super::generate::{Outlet, Talk};
use super::messages::Messages;
use super::openai::{Chat, Completions};
use super::problem::Problem;
use super::responses::Responses;
use super::service::{Call, Shared, lock};
use super::{about, tasks};
use crate::units::Dialect;

/// What answers a path.
#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Generate(Dialect),
    Task(tasks::Task),
    About(about::About),
    /// vLLM's control endpoints: they must never be reachable through a router, so here they answer.
    Control,
    Faults,
    ClearFaults,
}

use Endpoint::{About, Control, Generate, Task};

const ROUTES: &[(&str, &str, Endpoint)] = &[
    ("POST", "/v1/chat/completions", Generate(Dialect::Chat)),
    ("POST", "/v1/completions", Generate(Dialect::Completions)),
    ("POST", "/v1/responses", Generate(Dialect::Responses)),
    ("POST", "/v1/messages", Generate(Dialect::Messages)),
    ("POST", "/v1/messages/count_tokens", Task(tasks::Task::CountTokens)),
    ("POST", "/v1/embeddings", Task(tasks::Task::Embed)),
    ("POST", "/v1/rerank", Task(tasks::Task::Rerank)),
    ("POST", "/rerank", Task(tasks::Task::Rerank)),
    ("POST", "/v1/score", Task(tasks::Task::Score)),
    ("POST", "/score", Task(tasks::Task::Score)),
    ("POST", "/pooling", Task(tasks::Task::Pool)),
    ("POST", "/classify", Task(tasks::Task::Classify)),
    ("POST", "/tokenize", Task(tasks::Task::Tokenize)),
    ("POST", "/detokenize", Task(tasks::Task::Detokenize)),
    ("POST", "/v1/audio/transcriptions", Task(tasks::Task::Hear)),
    ("POST", "/v1/audio/translations", Task(tasks::Task::Hear)),
    ("POST", "/v1/audio/speech", Task(tasks::Task::Speak)),
    ("GET", "/v1/models", About(about::About::Models)),
    ("GET", "/health", About(about::About::Health)),
    ("GET", "/ping", About(about::About::Health)),
    ("POST", "/ping", About(about::About::Health)),
    ("GET", "/version", About(about::About::Version)),
    ("GET", "/load", About(about::About::Load)),
    ("GET", "/metrics", About(about::About::Metrics)),
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
    ("POST", "/emulate/faults", Endpoint::Faults),
    ("DELETE", "/emulate/faults", Endpoint::ClearFaults),
];

/// A JSON answer.
pub(super) fn json(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "application/json", text.into())
}

/// An answer of any type.
pub(super) fn typed(status: StatusCode, kind: &'static str, bytes: bytes::Bytes) -> Response<Body> {
    let mut response = Response::new(Body::whole(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Answers a request as if it met no fault before its head, and with its streaming faults.
pub(super) async fn answer(call: Call) -> Response<Body> {
    if call.shared.settings.echo {
        return about::echo(&call);
    }
    let path = call.head.uri.path().to_owned();
    if let Some(response) = numbered(&call, &path) {
        return response;
    }
    let endpoint = match find(call.head.method.as_str(), &path) {
        Ok(endpoint) => endpoint,
        Err(Some(allowed)) => return wrong_method(allowed),
        Err(None) => return json(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#.to_owned()),
    };
    let done = || Ok(json(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    let answered = match endpoint {
        Generate(dialect) => generate(call, dialect).await,
        Task(task) => tasks::answer(&call, task).await,
        About(about) => Ok(about::answer(&call, about)),
        Control => done(),
        Endpoint::Faults if !lock(&call.shared.faults).order(&call.body) => {
            Err(Problem::bad_value("no such fault, or no such order".to_owned(), "fault"))
        }
        Endpoint::Faults => done(),
        Endpoint::ClearFaults => {
            lock(&call.shared.faults).clear();
            done()
        }
    };
    answered.unwrap_or_else(|problem| json(problem.status, problem.json()))
}

/// The endpoint of a path, else a method that the path has, if it has any.
fn find(method: &str, path: &str) -> Result<Endpoint, Option<&'static str>> {
    let mut allowed = None;
    for (theirs, _, endpoint) in ROUTES.iter().filter(|(_, route, _)| *route == path) {
        if *theirs == method {
            return Ok(*endpoint);
        }
        allowed = allowed.or(Some(*theirs));
    }
    Err(allowed)
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, r#"{"detail":"Method Not Allowed"}"#.to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Paths that end in a name: remembered responses and lock-steps. `None` if the path is none of them.
fn numbered(call: &Call, path: &str) -> Option<Response<Body>> {
    let method = call.head.method.as_str();
    if let Some(id) = path.strip_prefix("/emulate/next/") {
        let known = lock(&call.shared.steps).get(id).map(|steps| steps.add_permits(1)).is_some();
        let status = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Some(json(status, "{}".to_owned()));
    }
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, wanted) = match rest.strip_suffix("/cancel") {
        Some(id) => (id, "POST"),
        None if method == "DELETE" => (rest, "DELETE"),
        None => (rest, "GET"),
    };
    if method != wanted {
        return Some(wrong_method(wanted));
    }
    let mut shelf = lock(&call.shared.shelf);
    let Some(kept) = shelf.get(id).map(str::to_owned) else {
        let problem = Problem::no_response(id);
        return Some(json(problem.status, problem.json()));
    };
    if wanted != "DELETE" {
        return Some(json(StatusCode::OK, kept));
    }
    shelf.remove(id);
    Some(json(StatusCode::OK, format!(r#"{{"id":{},"object":"response","deleted":true}}"#, super::answer::quote(id))))
}

/// Reads a JSON body as vLLM would accept it.
pub(super) fn read(call: &Call) -> Result<Value, Problem> {
    match call.header("content-type") {
        Some(kind) if !kind.starts_with("application/json") => Err(Problem::content_type()),
        _ => object(&call.body),
    }
}

async fn generate(call: Call, dialect: Dialect) -> Result<Response<Body>, Problem> {
    let body = read(&call)?;
    let mut ask = Ask::read(dialect, &body, call.number("x-emulate-tokens"), &call.shared.settings)?;
    if dialect == Dialect::Responses
        && let Some(previous) = body.get("previous_response_id").and_then(Value::as_str)
        && lock(&call.shared.shelf).get(previous).is_none()
    {
        return Err(Problem::no_response(previous));
    }
    ask.usage.everywhere |= call.fault == Some(Fault::UsageEverywhere);
    let stored = dialect == Dialect::Responses && body.get("store") != Some(&Value::Bool(false));
    let refused = |e: crate::engine::Refused| Problem::bad_value(e.to_string(), "input_tokens");
    let ticket = call.shared.runner.submit(ask.works()).map_err(refused)?;
    let stream = ask.stream;
    let answer = Answer {
        id: id(dialect, &call),
        created: call.shared.clock.time_of_day().as_secs(),
        cached: 0,
        generated: vec![0; ask.choices()],
        secretive: call.fault == Some(Fault::NoUsage),
        ask,
    };
    let kept = stored.then(|| (call.shared.clone(), answer.id.clone()));
    let keep = move |text: &str| {
        if let Some((shared, id)) = kept {
            lock(&shared.shelf).keep(id, text.to_owned());
        }
    };
    let per_event = call.number("x-emulate-tokens-per-event").unwrap_or(1);
    let mut talk = Talk::new(dialect, answer, pen(dialect), ticket, per_event);
    if !stream {
        let text = talk.whole(call.fault).await?;
        keep(&text);
        return Ok(json(StatusCode::OK, text));
    }
    let (to, said) = mpsc::channel(1);
    let steps = Steps::of(&call);
    let mut outlet = Outlet::new(to, call.fault, call.trick, steps.as_ref().map(|s| s.permits.clone()));
    // Owned by the body, which ends it.
    let writer = tokio::spawn(async move {
        let _steps = steps;
        if let Some(text) = talk.stream(&mut outlet).await {
            keep(&text);
        }
    });
    let mut response = Response::new(Body::stream(said, writer.abort_handle(), None));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn pen(dialect: Dialect) -> Box<dyn Pen> {
    match dialect {
        Dialect::Completions => Box::new(Completions),
        Dialect::Responses => Box::new(Responses::default()),
        Dialect::Messages => Box::new(Messages),
        Dialect::Chat | Dialect::Other => Box::new(Chat),
    }
}

fn id(dialect: Dialect, call: &Call) -> String {
    match dialect {
        Dialect::Completions => format!("cmpl-{}", call.id),
        Dialect::Responses => format!("resp_{}", call.shared.fresh_id()),
        _ => format!("chatcmpl-{}", call.id),
    }
}

/// A stream in lock-step: known by its request id for as long as it is written.
struct Steps {
    shared: Arc<Shared>,
    id: String,
    permits: Arc<Semaphore>,
}

impl Steps {
    fn of(call: &Call) -> Option<Self> {
        call.header("x-emulate-lockstep")?;
        let (shared, id, permits) = (call.shared.clone(), call.id.clone(), Arc::new(Semaphore::new(0)));
        lock(&shared.steps).insert(id.clone(), permits.clone());
        Some(Self { shared, id, permits })
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        lock(&self.shared.steps).remove(&self.id);
    }
}
