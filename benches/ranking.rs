//! Comparison of a simulated replay with real HTTP: the mean wait for the first token under `token_cost` and
//! `least_conn`.
//! Run with `cargo bench --bench ranking [-- [--trace FILE] [--from S] [--seconds S] [--speed N] [--engine N] [--runs
//! N]]`.
//!
//! The real side is four emulated replicas and a router in this process. The simulation replays the same slice of a
//! trace on the same engines in virtual time. Runs are interleaved, each with its own replicas and router.

mod http;

use std::path::Path;
use std::time::Duration;

use http::{BenchResult, BenchSetup, read_first_event_time};
use tokenweir::balance::{PolicySpec, SeededRng};
use tokenweir::clock::Clock;
use tokenweir::emulate::load;
use tokenweir::engine::EngineModel;
use tokenweir::replay::{self, Scenario, SyntheticKind, Trace, TraceRequest};
use tokenweir::units::Moment;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

const REPLICA_COUNT: usize = 4;
const POLICIES: [&str; 2] = ["token_cost", "least_conn"];
/// The share of requests at the start that is excluded, as in a replay.
const WARM_UP_SHARE: f64 = 0.15;
const BYTES_PER_TOKEN: u64 = 4;

struct RankingOptions {
    /// `None` for a synthetic trace.
    trace_path: Option<String>,
    /// The start of the slice, in seconds of the trace.
    start_seconds: f64,
    slice_seconds: f64,
    /// The factor by which requests arrive faster than recorded, with engines of speed 1.
    speed: f64,
    /// The factor by which everything runs faster.
    engine_speed: f64,
    runs: usize,
}

impl RankingOptions {
    fn from_args() -> BenchResult<Self> {
        let mut options = Self {
            trace_path: None,
            start_seconds: 120.0,
            slice_seconds: 240.0,
            speed: 1.0,
            engine_speed: 2.0,
            runs: 3,
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().ok_or(format!("{name} takes a value"))?;
            match name.as_str() {
                "--trace" => options.trace_path = Some(value),
                "--from" => options.start_seconds = value.parse()?,
                "--seconds" => options.slice_seconds = value.parse()?,
                "--speed" => options.speed = value.parse()?,
                "--engine" => options.engine_speed = value.parse()?,
                "--runs" => options.runs = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }

    fn load_slice(&self) -> BenchResult<Trace> {
        let whole = match &self.trace_path {
            Some(path) => replay::open_trace(Path::new(path))?,
            None => replay::synthesize_trace(SyntheticKind::Tools, 2_000, 1),
        };
        let (from, until) = (self.start_seconds, self.start_seconds + self.slice_seconds);
        let inside = whole.requests().iter().filter(|request| (from..until).contains(&request.sent_at.as_secs_f64()));
        let shift = |request: &TraceRequest| TraceRequest {
            sent_at: request.sent_at - Duration::from_secs_f64(from),
            ..request.clone()
        };
        let requests: Vec<TraceRequest> = inside.map(shift).collect();
        if requests.is_empty() {
            return Err("the slice is empty".into());
        }
        Ok(Trace::new(requests))
    }

    fn scenario(&self) -> Scenario {
        let usual = Scenario::default();
        let constants = EngineModel { speed: self.engine_speed, ..usual.engine_model };
        Scenario { replicas: REPLICA_COUNT, engine_model: constants, speed: self.speed * self.engine_speed, ..usual }
    }
}

fn main() -> BenchResult<()> {
    let options = RankingOptions::from_args()?;
    let (trace, scenario) = (options.load_slice()?, options.scenario());
    println!("{} requests in {:.0} s", trace.requests().len(), options.slice_seconds / scenario.speed);
    let mut virtual_time = [0.0; 2];
    for (policy, mean) in POLICIES.iter().zip(&mut virtual_time) {
        *mean = replay::replay_trace(&trace, &PolicySpec::parse(policy)?, &scenario, &mut |_| ())?.ttft_mean_s;
    }
    print_row("virtual time", virtual_time);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ratios = Vec::new();
    for run in 1..=options.runs {
        let mut means = [0.0; 2];
        for (policy, mean) in POLICIES.iter().zip(&mut means) {
            *mean = runtime.block_on(run_policy(policy, &trace, &scenario))?;
        }
        print_row(&format!("real HTTP, run {run}"), means);
        ratios.push(means[0] / means[1]);
    }
    ratios.sort_by(f64::total_cmp);
    let (real, simulated) = (ratios[ratios.len() / 2], virtual_time[0] / virtual_time[1]);
    println!(
        "median ratio over HTTP {real:.2}, in virtual time {simulated:.2}: {:+.0} %",
        (real / simulated - 1.0) * 100.0
    );
    Ok(())
}

fn print_row(name: &str, [token_cost, least_conn]: [f64; 2]) {
    let ratio = token_cost / least_conn;
    println!("{name:<20} mean TTFT, s: token_cost {token_cost:.3}, least_conn {least_conn:.3}, ratio {ratio:.2}");
}

/// Sends the slice to fresh replicas and a router; returns the mean wait in seconds.
async fn run_policy(policy: &str, trace: &Trace, scenario: &Scenario) -> BenchResult<f64> {
    let setup = BenchSetup::new(policy, REPLICA_COUNT, scenario.engine_model).await?;
    let (client, clock) = (load::build_client()?, Clock::start());
    let mut open = JoinSet::new();
    let skipped = (trace.requests().len() as f64 * WARM_UP_SHARE) as usize;
    for (number, request) in trace.requests().iter().enumerate() {
        let due = Moment::ZERO + request.sent_at.div_f64(scenario.speed);
        let body = build_body(number, request);
        sleep_until(clock.deadline(due)).await;
        let request = client.post(&setup.url).header("content-type", "application/json").body(body);
        open.spawn(async move {
            let waited = read_first_event_time(request, clock).await?.since(due);
            BenchResult::Ok((number >= skipped).then_some(waited))
        });
    }
    let mut waits = Vec::new();
    while let Some(waited) = open.join_next().await {
        waits.extend(waited??);
    }
    let generated: u64 = setup.replicas.iter().map(|replica| replica.stats().generated.0).sum();
    let expected: u64 = trace.requests().iter().map(|request| request.output.0).sum();
    if generated != expected {
        return Err(format!("{generated} tokens generated of {expected}").into());
    }
    setup.server.stop();
    Ok(waits.iter().map(Duration::as_secs_f64).sum::<f64>() / waits.len() as f64)
}

/// Returns a body whose prompt has text for its blocks' ids, then text unique to the request.
fn build_body(number: usize, request: &TraceRequest) -> String {
    let mut text = String::new();
    let block = request.block_size.0 * BYTES_PER_TOKEN;
    for id in request.block_ids() {
        fill_text(&mut text, id, block);
    }
    // Without the overhead of a chat's role.
    let rest = (request.prompt.0 * BYTES_PER_TOKEN).saturating_sub(text.len() as u64 + 6);
    fill_text(&mut text, u64::MAX - number as u64, rest);
    let answer = request.output;
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":{answer},"stream":true}}"#)
}

/// Appends `bytes` bytes of text generated from `seed`.
fn fill_text(text: &mut String, seed: u64, bytes: u64) {
    let mut dice = SeededRng::from_seed(seed);
    let end = text.len() + bytes as usize;
    while text.len() < end {
        text.push_str(&format!("{:016x} ", dice.next_u64()));
    }
    text.truncate(end);
}
