//! What a replica tells about itself and about a request.

use std::fmt::Write;

use http::{Response, StatusCode};

use super::answer::quote;
use super::body::Body;
use super::endpoints::{json, typed};
use super::prompt::fold;
use super::service::Call;
use crate::engine::Stats;

/// An endpoint that answers from what is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    Models,
    Health,
    Version,
    Load,
    Metrics,
}

pub(super) fn answer(call: &Call, about: About) -> Response<Body> {
    match about {
        About::Models => json(StatusCode::OK, models(call)),
        About::Health => Response::new(Body::whole("")),
        About::Version => json(StatusCode::OK, r#"{"version":"0.32.0"}"#.to_owned()),
        About::Load => json(StatusCode::OK, format!(r#"{{"server_load":{}}}"#, load(&call.shared.runner.stats()))),
        About::Metrics => {
            let kind = "text/plain; version=1.0.0; charset=utf-8";
            typed(StatusCode::OK, kind, metrics(call).into())
        }
    }
}

/// The request as it came in: client, request line, headers and body.
pub(super) fn echo(call: &Call) -> Response<Body> {
    let mut text = format!("client: {}\n{} {}\n", call.peer, call.head.method, call.head.uri).into_bytes();
    for (name, value) in &call.head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(&call.body);
    typed(StatusCode::OK, "text/plain; charset=utf-8", text.into())
}

fn load(stats: &Stats) -> u32 {
    stats.running + stats.waiting
}

fn models(call: &Call) -> String {
    let created = call.shared.clock.time_of_day().as_secs();
    let model = |name: &String| {
        let permission = fold(name.as_bytes(), 0);
        let name = quote(name);
        format!(
            r#"{{"id":{name},"object":"model","created":{created},"owned_by":"vllm","root":{name},"parent":null,"max_model_len":{},"permission":[{{"id":"modelperm-{permission:016x}","object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}]}}"#,
            call.shared.settings.max_model_len,
        )
    };
    let models: Vec<String> = call.shared.settings.models.iter().map(model).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, models.join(","))
}

/// The part of vLLM's metrics that routers read, and what no engine tells but a test of routers wants to know.
fn metrics(call: &Call) -> String {
    let stats = call.shared.runner.stats();
    let constants = &call.shared.settings.constants;
    let model = quote(call.shared.settings.models.first().map(String::as_str).unwrap_or_default());
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
        "# HELP vllm:request_success_total Requests that have left.\n# TYPE vllm:request_success counter\n\
         vllm:request_success_total{{engine=\"0\",finished_reason=\"length\",model_name={model}}} {}.0\n\
         vllm:request_success_total{{engine=\"0\",finished_reason=\"abort\",model_name={model}}} {}.0\n",
        stats.finished, stats.aborted
    );
    let block = constants.block.0.max(1);
    let _ = write!(
        text,
        "# HELP vllm:cache_config_info Configuration of the cache.\n# TYPE vllm:cache_config_info gauge\n\
         vllm:cache_config_info{{block_size=\"{block}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",engine=\"0\",\
         num_gpu_blocks=\"{}\"}} 1.0\n",
        (constants.kv.0 / block).max(1)
    );
    let _ = write!(
        text,
        "# HELP emulated:resident_tokens Prompt and generated tokens of all requests.\n\
         # TYPE emulated:resident_tokens gauge\nemulated:resident_tokens{{model_name={model}}} {:?}\n",
        stats.resident.0 as f64
    );
    text
}
