//! The endpoints of an emulated replica.

mod compute;
mod generate;
mod info;
mod stored;

use http::{Response, StatusCode};

use super::api_error::ApiError;
use super::emulated_request::EmulatedRequest;
use super::http_response::{error_response, json_response, method_not_allowed};
use super::response_body::EmulatedBody;
use super::state::lock;
use crate::dialect::Dialect;
use compute::ComputeTask;
use info::InfoEndpoint;

/// The handler of a path.
#[derive(Clone, Copy, Debug)]
enum EmulatedEndpoint {
    Generate(Dialect),
    Compute(ComputeTask),
    Info(InfoEndpoint),
    /// vLLM's control endpoints. A router must block them, so here they respond.
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
    ("POST", "/v1/messages/count_tokens", Compute(ComputeTask::CountTokens)),
    ("POST", "/v1/embeddings", Compute(ComputeTask::Embed)),
    ("POST", "/v1/rerank", Compute(ComputeTask::Rerank)),
    ("POST", "/rerank", Compute(ComputeTask::Rerank)),
    ("POST", "/v1/score", Compute(ComputeTask::Score)),
    ("POST", "/score", Compute(ComputeTask::Score)),
    ("POST", "/pooling", Compute(ComputeTask::Pooling)),
    ("POST", "/classify", Compute(ComputeTask::Classify)),
    ("POST", "/tokenize", Compute(ComputeTask::Tokenize)),
    ("POST", "/detokenize", Compute(ComputeTask::Detokenize)),
    ("POST", "/v1/audio/transcriptions", Compute(ComputeTask::Transcribe)),
    ("POST", "/v1/audio/translations", Compute(ComputeTask::Transcribe)),
    ("POST", "/v1/audio/speech", Compute(ComputeTask::Synthesize)),
    ("GET", "/v1/models", Info(InfoEndpoint::Models)),
    ("GET", "/health", Info(InfoEndpoint::Health)),
    ("GET", "/ping", Info(InfoEndpoint::Health)),
    ("POST", "/ping", Info(InfoEndpoint::Health)),
    ("GET", "/version", Info(InfoEndpoint::Version)),
    ("GET", "/load", Info(InfoEndpoint::Load)),
    ("GET", "/metrics", Info(InfoEndpoint::Metrics)),
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

/// Returns the response to a request. Faults before the response head are the caller's, faults in the body are applied.
pub(super) async fn handle_request(request: EmulatedRequest) -> Response<EmulatedBody> {
    if request.replica.settings.echo {
        return info::echo_request(&request);
    }
    let path = request.head.uri.path().to_owned();
    if let Some(response) = stored::handle_path_with_id(&request, &path) {
        return response;
    }
    let endpoint = match find_endpoint(request.head.method.as_str(), &path) {
        Ok(endpoint) => endpoint,
        Err(Some(allowed)) => return method_not_allowed(allowed),
        Err(None) => return json_response(StatusCode::NOT_FOUND, r#"{"detail":"Not Found"}"#.to_owned()),
    };
    let ok = || Ok(json_response(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    let response = match endpoint {
        Generate(dialect) => generate::handle_generate(request, dialect).await,
        Compute(task) => compute::handle_compute(&request, task).await,
        Info(endpoint) => Ok(info::handle_info(&request, endpoint)),
        Control => ok(),
        EmulatedEndpoint::SetFault if !lock(&request.replica.fault_injector).apply_order(&request.body) => {
            Err(ApiError::invalid_value("unknown fault or invalid order".to_owned(), "fault"))
        }
        EmulatedEndpoint::SetFault => ok(),
        EmulatedEndpoint::ClearFault => {
            lock(&request.replica.fault_injector).clear();
            ok()
        }
    };
    response.unwrap_or_else(|error| error_response(&error))
}

/// Returns the endpoint of a path.
///
/// *Errors*: another method that the path has; `None` if there is no such path.
fn find_endpoint(method: &str, path: &str) -> Result<EmulatedEndpoint, Option<&'static str>> {
    let mut allowed = None;
    for (route_method, _, endpoint) in ROUTES.iter().filter(|(_, route, _)| *route == path) {
        if *route_method == method {
            return Ok(*endpoint);
        }
        allowed = allowed.or(Some(*route_method));
    }
    Err(allowed)
}
