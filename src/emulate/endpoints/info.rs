//! Endpoints that report the state of the replica.

use std::fmt::Write;

use http::{Response, StatusCode};

use crate::emulate::emulated_request::EmulatedRequest;
use crate::emulate::http_response::{json_response, typed_response};
use crate::emulate::json::quote_json;
use crate::emulate::prompt::hash_bytes;
use crate::emulate::response_body::EmulatedBody;
use crate::engine::SchedulerStats;

/// An endpoint without computation.
#[derive(Clone, Copy, Debug)]
pub(super) enum InfoEndpoint {
    Models,
    Health,
    Version,
    Load,
    Metrics,
}

pub(super) fn handle_info(request: &EmulatedRequest, endpoint: InfoEndpoint) -> Response<EmulatedBody> {
    match endpoint {
        InfoEndpoint::Models => json_response(StatusCode::OK, render_models(request)),
        InfoEndpoint::Health => Response::new(EmulatedBody::from_bytes("")),
        InfoEndpoint::Version => json_response(StatusCode::OK, r#"{"version":"0.32.0"}"#.to_owned()),
        InfoEndpoint::Load => json_response(
            StatusCode::OK,
            format!(r#"{{"server_load":{}}}"#, server_load(&request.replica.runner.stats())),
        ),
        InfoEndpoint::Metrics => {
            let content_type = "text/plain; version=1.0.0; charset=utf-8";
            typed_response(StatusCode::OK, content_type, render_metrics(request).into())
        }
    }
}

/// Returns the request as received: client, request line, headers and body.
pub(super) fn echo_request(request: &EmulatedRequest) -> Response<EmulatedBody> {
    let mut text =
        format!("client: {}\n{} {}\n", request.peer_addr, request.head.method, request.head.uri).into_bytes();
    for (name, value) in &request.head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(&request.body);
    typed_response(StatusCode::OK, "text/plain; charset=utf-8", text.into())
}

fn server_load(stats: &SchedulerStats) -> u32 {
    stats.running + stats.waiting
}

fn render_models(request: &EmulatedRequest) -> String {
    let created = request.replica.clock.unix_time().as_secs();
    let model = |name: &String| {
        let permission = hash_bytes(name.as_bytes(), 0);
        let name = quote_json(name);
        format!(
            r#"{{"id":{name},"object":"model","created":{created},"owned_by":"vllm","root":{name},"parent":null,"max_model_len":{},"permission":[{{"id":"modelperm-{permission:016x}","object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}]}}"#,
            request.replica.settings.max_model_len,
        )
    };
    let models: Vec<String> = request.replica.settings.models.iter().map(model).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, models.join(","))
}

/// Returns the metrics of vLLM that routers read, and one for tests that real engines do not report.
fn render_metrics(request: &EmulatedRequest) -> String {
    let stats = request.replica.runner.stats();
    let model_settings = &request.replica.settings.engine_model;
    let model = quote_json(request.replica.settings.models.first().map(String::as_str).unwrap_or_default());
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let family = name.strip_suffix("_total").unwrap_or(name);
        let _ = write!(
            text,
            "# HELP vllm:{name} {help}\n# TYPE vllm:{family} {kind}\nvllm:{name}{{engine=\"0\",model_name={model}}} {value:?}\n"
        );
    };
    metric("num_requests_running", "gauge", "Requests in the batch.", f64::from(stats.running));
    metric("num_requests_waiting", "gauge", "Requests in the queue.", f64::from(stats.waiting));
    metric("kv_cache_usage_perc", "gauge", "Share of KV blocks held, 0 to 1.", stats.kv_usage);
    metric("prefix_cache_queries_total", "counter", "Prompt tokens looked up.", stats.cache_queries.0 as f64);
    metric("prefix_cache_hits_total", "counter", "Prompt tokens found.", stats.cache_hits.0 as f64);
    metric("prompt_tokens_total", "counter", "Prompt tokens computed or found.", stats.prompt.0 as f64);
    metric("generation_tokens_total", "counter", "Tokens generated.", stats.generated.0 as f64);
    metric("num_preemptions_total", "counter", "Preemptions.", stats.preemptions as f64);
    let _ = write!(
        text,
        "# HELP vllm:request_success_total Requests that ended.\n# TYPE vllm:request_success counter\n\
         vllm:request_success_total{{engine=\"0\",finished_reason=\"length\",model_name={model}}} {}.0\n\
         vllm:request_success_total{{engine=\"0\",finished_reason=\"abort\",model_name={model}}} {}.0\n",
        stats.finished, stats.aborted
    );
    let block = model_settings.block_size.0.max(1);
    let _ = write!(
        text,
        "# HELP vllm:cache_config_info Configuration of the cache.\n# TYPE vllm:cache_config_info gauge\n\
         vllm:cache_config_info{{block_size=\"{block}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",engine=\"0\",\
         num_gpu_blocks=\"{}\"}} 1.0\n",
        (model_settings.kv_capacity.0 / block).max(1)
    );
    let _ = write!(
        text,
        "# HELP emulated:resident_tokens Prompt and generated tokens of all requests.\n\
         # TYPE emulated:resident_tokens gauge\nemulated:resident_tokens{{model_name={model}}} {:?}\n",
        stats.resident.0 as f64
    );
    text
}
