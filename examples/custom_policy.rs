//! A custom policy: prompts of more than 8,000 tokens go to the first half of the replicas, the rest to the others.
//!
//! `cargo run --example custom_policy` runs it with two emulated replicas, sends a short and a long prompt, and prints
//! the replica that answered each.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use tokenweir::balance::{
    Candidate, Policy, PolicyEntry, PolicyError, PolicyMember, PolicyRequest, PolicySpec, SeededRng,
};
use tokenweir::clock::Clock;
use tokenweir::config::{self, LogSink};
use tokenweir::emulate::{EmulatedReplica, EmulatorSettings};
use tokenweir::server::Server;
use tokenweir::tls;
use tokenweir::units::Slot;

/// Separates long prompts from short ones.
struct LongFirst;

impl Policy for LongFirst {
    fn choose(&mut self, request: &PolicyRequest<'_>, candidates: &[Candidate], _: &mut SeededRng) -> Option<Slot> {
        // All candidates are eligible, so the policy checks no health.
        let (long, short) = candidates.split_at(candidates.len().div_ceil(2));
        let half = if request.prompt.0 > 8_000 || short.is_empty() { long } else { short };
        half.iter().min_by_key(|candidate| candidate.in_flight).map(|candidate| candidate.slot)
    }
}

fn build_policy(_: &[PolicyMember], _: &[&str]) -> Result<Box<dyn Policy>, PolicyError> {
    Ok(Box::new(LongFirst))
}

static LONG_FIRST: PolicyEntry = PolicyEntry::new("long_first", "long prompts to the first half", build_policy);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let start =
        || EmulatedReplica::start(TcpListener::bind("127.0.0.1:0")?, EmulatorSettings::default(), Clock::start());
    let replicas = [start()?, start()?];
    let urls = [format!("{} name=long", replicas[0].url()), format!("{} name=short", replicas[1].url())];
    let mut settings = config::from_urls(&urls, [])?.settings;
    settings.listen = vec!["127.0.0.1:0".parse()?];
    settings.admin = None;
    settings.log.access = LogSink::Off;
    settings.pools[0].policy = PolicySpec::from(&LONG_FIRST);

    let server = Server::start(settings)?;
    let base = format!("http://{}", server.listen_addresses()[0]);
    // reqwest is built without TLS here, and this client needs none.
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls::empty_client_config()).build()?;
    while !client.get(format!("{base}/readyz")).send().await?.status().is_success() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for words in [10, 10_000] {
        let body = serde_json::json!({ "model": "emulated-8b", "max_tokens": 1, "prompt": "word ".repeat(words) });
        let answer = client.post(format!("{base}/v1/completions")).json(&body).send().await?;
        println!("{words} words went to {:?}", answer.headers()["x-upstream"]);
    }
    server.stop();
    Ok(())
}
