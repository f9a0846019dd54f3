//! The wait for the first token under `least_tokens` and `least_conn` when a few prompts are 150 times as long as the
//! others.
//! Run with `cargo bench --bench heavy_tail [-- [--load PERCENT] [--seconds N] [--speed N] [--runs N]]`.
//!
//! The bench runs four emulated replicas and a router in this process, over real HTTP. Requests follow a seeded
//! schedule, independent of responses, and waits count from the scheduled time. Runs are interleaved; each has its own
//! replicas and router, and both policies get the same schedule.

mod http;

use std::time::Duration;

use http::{BenchResult, BenchSetup, read_first_event_time};
use tokenweir::balance::SeededRng;
use tokenweir::clock::Clock;
use tokenweir::emulate::load;
use tokenweir::engine::EngineModel;
use tokenweir::units::{Moment, Tokens};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

const REPLICA_COUNT: usize = 4;
const SHORT_PROMPT_TOKENS: u64 = 200;
const LONG_PROMPT_TOKENS: u64 = 30_000;
const LONG_PERCENT: u64 = 10;
/// Minimum and maximum tokens of a response.
const ANSWER_TOKENS: [u64; 2] = [20, 60];
const POLICIES: [&str; 2] = ["least_tokens", "least_conn"];

#[derive(Clone, Copy)]
struct HeavyTailOptions {
    /// The share of the engines' time spent on prefill, in percent.
    load_percent: f64,
    seconds: f64,
    engine_speed: f64,
    runs: u64,
}

/// A scheduled request.
struct ScheduledRequest {
    /// The time since the beginning of the run.
    due_after: Duration,
    prompt_tokens: u64,
    answer_tokens: u64,
}

/// The outcome of a request: prompt length, wait for the first token, and delay of sending.
struct RequestWait {
    prompt_tokens: u64,
    first_token_wait: Duration,
    lateness: Duration,
}

/// Quantiles of the waits, in seconds.
#[derive(Clone, Copy)]
struct WaitQuantiles {
    p50: f64,
    p99: f64,
    p99_short: f64,
    p99_long: f64,
}

impl HeavyTailOptions {
    fn from_args() -> BenchResult<Self> {
        let mut options = Self { load_percent: 65.0, seconds: 40.0, engine_speed: 2.0, runs: 3 };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value: f64 = args.next().ok_or(format!("{name} takes a number"))?.parse()?;
            match name.as_str() {
                "--load" => options.load_percent = value,
                "--seconds" => options.seconds = value,
                "--speed" => options.engine_speed = value,
                "--runs" => options.runs = value as u64,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }

    fn engine_model(&self) -> EngineModel {
        EngineModel { speed: self.engine_speed, ..EngineModel::default() }
    }

    /// Returns the requests per second that produce the configured prefill load.
    fn request_rate(&self) -> f64 {
        let mean = (SHORT_PROMPT_TOKENS * (100 - LONG_PERCENT) + LONG_PROMPT_TOKENS * LONG_PERCENT) as f64 / 100.0;
        let seconds = mean * self.engine_model().prefill_token_time.as_secs_f64() / self.engine_speed;
        self.load_percent / 100.0 * REPLICA_COUNT as f64 / seconds
    }

    fn schedule_arrivals(&self, seed: u64) -> Vec<ScheduledRequest> {
        let mut dice = SeededRng::from_seed(seed);
        let mut at = 0.0;
        let mut arrivals = Vec::new();
        loop {
            let unit = (dice.next_below(1 << 32) + 1) as f64 / (1u64 << 32) as f64;
            at -= unit.ln() / self.request_rate();
            if at > self.seconds {
                return arrivals;
            }
            let prompt = if dice.next_below(100) < LONG_PERCENT { LONG_PROMPT_TOKENS } else { SHORT_PROMPT_TOKENS };
            let answer = ANSWER_TOKENS[0] + dice.next_below(ANSWER_TOKENS[1] - ANSWER_TOKENS[0] + 1);
            arrivals.push(ScheduledRequest {
                due_after: Duration::from_secs_f64(at),
                prompt_tokens: prompt,
                answer_tokens: answer,
            });
        }
    }
}

impl WaitQuantiles {
    fn from_waits(waits: &[RequestWait]) -> Self {
        let p99 = |which: fn(u64) -> bool| quantile(waits.iter().filter(|w| which(w.prompt_tokens)), 0.99);
        Self {
            p50: quantile(waits.iter(), 0.5),
            p99: p99(|_| true),
            p99_short: p99(|prompt| prompt == SHORT_PROMPT_TOKENS),
            p99_long: p99(|prompt| prompt == LONG_PROMPT_TOKENS),
        }
    }

    fn median(runs: &[Self]) -> Self {
        let middle = |column: fn(&Self) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(column).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50: middle(|run| run.p50),
            p99: middle(|run| run.p99),
            p99_short: middle(|run| run.p99_short),
            p99_long: middle(|run| run.p99_long),
        }
    }

    fn print(self, run: &str, policy: &str, rest: &str) {
        let Self { p50, p99, p99_short, p99_long } = self;
        println!("{run:>6} {policy:<13} {p50:>8.3} {p99:>8.3} {p99_short:>12.3} {p99_long:>12.3} {rest}");
    }
}

fn main() -> BenchResult<()> {
    let options = HeavyTailOptions::from_args()?;
    println!(
        "{:.1} requests/s, {LONG_PERCENT} % of them {LONG_PROMPT_TOKENS} tokens long and the others {SHORT_PROMPT_TOKENS}; prefill takes {} % of \
         {REPLICA_COUNT} replicas of speed {}\n",
        options.request_rate(),
        options.load_percent,
        options.engine_speed
    );
    println!(
        "{:>6} {:<13} {:>8} {:>8} {:>12} {:>12}",
        "", "TTFT, seconds", "p50", "p99", "p99 of short", "p99 of long"
    );
    let mut figures = POLICIES.map(|_| Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for run in 1..=options.runs {
        for (policy, figures) in POLICIES.iter().zip(&mut figures) {
            let arrivals = options.schedule_arrivals(run);
            let waits = runtime.block_on(run_policy(policy, arrivals, options))?;
            let late = waits.iter().map(|wait| wait.lateness).max().unwrap_or_default();
            let of_run = WaitQuantiles::from_waits(&waits);
            of_run.print(
                &run.to_string(),
                policy,
                &format!("({} requests, sent at most {late:.0?} late)", waits.len()),
            );
            figures.push(of_run);
        }
    }
    let medians = figures.map(|runs| WaitQuantiles::median(&runs));
    println!();
    for (policy, figures) in POLICIES.iter().zip(medians) {
        figures.print("median", policy, "");
    }
    let [tokens, conn] = medians;
    let ratio = |column: fn(WaitQuantiles) -> f64| column(tokens) / column(conn);
    let ratios = WaitQuantiles {
        p50: ratio(|f| f.p50),
        p99: ratio(|f| f.p99),
        p99_short: ratio(|f| f.p99_short),
        p99_long: ratio(|f| f.p99_long),
    };
    ratios.print("ratio", "", "");
    Ok(())
}

/// Runs the schedule against fresh replicas and a router; returns the waits.
async fn run_policy(
    policy: &str,
    arrivals: Vec<ScheduledRequest>,
    options: HeavyTailOptions,
) -> BenchResult<Vec<RequestWait>> {
    let stand = BenchSetup::new(policy, REPLICA_COUNT, options.engine_model()).await?;
    let (client, clock) = (load::build_client()?, Clock::start());
    let mut open = JoinSet::new();
    let expected: u64 = arrivals.iter().map(|arrival| arrival.answer_tokens).sum();
    for (number, arrival) in arrivals.into_iter().enumerate() {
        let due = Moment::ZERO + arrival.due_after;
        sleep_until(clock.deadline(due)).await;
        let late = clock.now().since(due);
        let request =
            client.post(&stand.url).header("content-type", "application/json").body(build_body(number, &arrival));
        open.spawn(async move {
            let first_token = read_first_event_time(request, clock).await?.since(due);
            BenchResult::Ok(RequestWait {
                prompt_tokens: arrival.prompt_tokens,
                first_token_wait: first_token,
                lateness: late,
            })
        });
    }
    let mut waits = Vec::new();
    while let Some(waited) = open.join_next().await {
        waits.push(waited??);
    }
    let replicas = &stand.replicas;
    let generated: Tokens = replicas.iter().fold(Tokens(0), |sum, replica| sum + replica.stats().generated);
    let cached: u64 = replicas.iter().map(|replica| replica.stats().cache_hits.0).sum();
    if (generated.0, cached) != (expected, 0) {
        return Err(format!("{generated} tokens generated of {expected}, {cached} of prompts cached").into());
    }
    stand.server.stop();
    Ok(waits)
}

/// Returns a body whose prompt has a unique prefix, so that none of it is cached.
fn build_body(number: usize, arrival: &ScheduledRequest) -> String {
    // Four bytes per token, less the overhead of a chat's role.
    let mut text = format!("{number} ");
    while text.len() as u64 + 6 < arrival.prompt_tokens * 4 {
        text.push_str("over the weir the water is even ");
    }
    text.truncate(arrival.prompt_tokens as usize * 4 - 6);
    let answer = arrival.answer_tokens;
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":{answer},"stream":true}}"#)
}

/// Returns the wait in seconds that this share of requests does not exceed.
fn quantile<'a>(waits: impl Iterator<Item = &'a RequestWait>, share: f64) -> f64 {
    let mut values: Vec<f64> = waits.map(|wait| wait.first_token_wait.as_secs_f64()).collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.max(1) - 1).copied().unwrap_or(f64::NAN)
}
