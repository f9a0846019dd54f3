//! Emulated clients: streamed chats with shared prefixes, at a given rate.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::balance::SeededRng;
use crate::tls;

/// Sessions; the prompts of one share a prefix.
const SESSION_COUNT: u64 = 8;
/// The sentence that prompts repeat: 16 tokens of four bytes.
const PROMPT_SENTENCE: &str = "a weir holds water back and gives each channel its even share. ";

/// Settings of the emulated clients.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadSettings {
    /// Base URL without `/v1` and without a slash at the end.
    pub base_url: String,
    /// Requested model.
    pub model: String,
    /// Requests per second, on average.
    pub requests_per_second: f64,
    /// Most requests in progress; arrivals above it are skipped.
    pub max_open_requests: usize,
    /// Longest response, in tokens; lengths are uniform from 1.
    pub max_tokens: u64,
    /// Requests to send; `None` for no limit.
    pub max_requests: Option<u64>,
    /// Seed of arrivals, prompts and lengths.
    pub seed: u64,
}

/// Results of the emulated clients.
#[derive(Debug, Default)]
pub struct LoadCounters {
    /// Requests sent.
    pub sent: AtomicU64,
    /// Complete streams.
    pub completed: AtomicU64,
    /// Requests that were refused, failed or cut.
    pub failed: AtomicU64,
    /// Arrivals skipped because of [`LoadSettings::max_open_requests`].
    pub skipped: AtomicU64,
    /// Tokens of complete streams, by their usage.
    pub generated_tokens: AtomicU64,
}

/// Returns the time to the next arrival of a Poisson process, at most a minute.
fn sample_arrival_gap(rng: &mut SeededRng, rate: f64) -> Duration {
    let unit = ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let seconds = -unit.ln() / rate.max(1e-3);
    Duration::from_secs_f64(seconds.clamp(0.0, 60.0))
}

/// Sends requests until all are answered, or until `stop` is ready, which drops the open ones.
///
/// *Errors*: the HTTP client cannot be set up. Failed requests are counted.
pub async fn run_load(
    settings: LoadSettings,
    counters: Arc<LoadCounters>,
    stop: impl Future<Output = ()>,
) -> Result<(), reqwest::Error> {
    let client = build_client()?;
    tokio::select! {
        () = send_requests(&settings, &counters, &client) => {}
        () = stop => {}
    }
    Ok(())
}

/// Returns a client without proxies and redirects.
///
/// *Errors*: the HTTP client cannot be set up.
pub fn build_client() -> Result<reqwest::Client, reqwest::Error> {
    // uvicorn closes idle connections after 5 s, and a request on a closing connection would fail.
    let idle = Duration::from_secs(4);
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.tls_backend_preconfigured(tls::empty_client_config()).pool_idle_timeout(idle).build()
}

async fn send_requests(settings: &LoadSettings, counters: &Arc<LoadCounters>, client: &reqwest::Client) {
    let mut rng = SeededRng::from_seed(settings.seed);
    let mut open = JoinSet::new();
    let mut sent = 0;
    while settings.max_requests.is_none_or(|limit| sent < limit) {
        sleep(sample_arrival_gap(&mut rng, settings.requests_per_second)).await;
        while open.try_join_next().is_some() {}
        let body = build_chat_body(settings, &mut rng);
        if open.len() >= settings.max_open_requests.max(1) {
            counters.skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        sent += 1;
        counters.sent.fetch_add(1, Ordering::Relaxed);
        let request = client.post(format!("{}/v1/chat/completions", settings.base_url)).json(&body);
        let counters = counters.clone();
        open.spawn(async move {
            match read_stream(request).await {
                Some(tokens) => {
                    counters.completed.fetch_add(1, Ordering::Relaxed);
                    counters.generated_tokens.fetch_add(tokens, Ordering::Relaxed);
                }
                None => {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while open.join_next().await.is_some() {}
}

/// Returns a chat of one of the sessions: the session's prefix, of one of four lengths, and a unique question.
fn build_chat_body(settings: &LoadSettings, rng: &mut SeededRng) -> Value {
    let session = rng.next_below(SESSION_COUNT);
    let sentences = [4, 16, 64, 128][(session % 4) as usize];
    let system = format!("session {session}. {}", PROMPT_SENTENCE.repeat(sentences));
    let question = format!("question {}: {}", rng.next_u64(), PROMPT_SENTENCE.repeat(1 + rng.next_below(8) as usize));
    json!({
        "model": settings.model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "max_tokens": 1 + rng.next_below(settings.max_tokens),
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Reads a stream to its end. Returns its tokens, 0 if it reports none; `None` if the request failed or was cut.
async fn read_stream(request: reqwest::RequestBuilder) -> Option<u64> {
    let response = request.send().await.ok()?.error_for_status().ok()?;
    let mut events = response.bytes_stream().eventsource();
    let mut tokens = 0;
    while let Some(event) = events.next().await {
        let data = event.ok()?.data;
        if data == "[DONE]" {
            return Some(tokens);
        }
        let event: Value = serde_json::from_str(&data).ok()?;
        if event.get("error").is_some() {
            return None;
        }
        if let Some(reported) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
            tokens = reported;
        }
    }
    None
}
