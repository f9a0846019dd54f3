//! `tokenweir replay`: what other policies would make of recorded traffic.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::print_line;
use crate::balance::PolicySpec;
use crate::replay::{self, CapacityResult, ReplayResult, Scenario, Slo, SyntheticKind, Trace};
use crate::units::Tokens;

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// The trace: JSON lines, Mooncake's JSON lines or Azure's CSV, compressed by gzip or not
    #[arg(required_unless_present = "synthetic")]
    trace: Option<PathBuf>,
    /// Make a trace up instead: chat, tools, agents or uniform
    #[arg(long, value_name = "KIND", conflicts_with = "trace")]
    synthetic: Option<SyntheticKind>,
    /// How many requests to make up
    #[arg(long, value_name = "COUNT", default_value_t = 3000, requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Policies, as in a configuration, with commas between them
    #[arg(long, value_delimiter = ',', default_value = "least_conn,token_cost")]
    policy: Vec<String>,
    /// Replicas behind the router
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    replicas: u32,
    /// How many times faster than recorded requests arrive; of a closed loop (`think_ms`), sessions begun per second
    /// [default: 1, of a closed loop 0.1]
    #[arg(long)]
    speed: Option<f64>,
    /// Makes chance repeatable
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Routers that share nothing; each request comes to one of them by chance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    routers: u32,
    /// Begins the routers anew at this second, knowing nothing
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    restart_at: Option<Duration>,
    /// KV memory of a replica, in tokens
    #[arg(long, value_name = "TOKENS")]
    kv: Option<u64>,
    /// How many times faster than an 8B model on one H100 a replica is; with commas, one replica after the other
    #[arg(long, value_name = "SPEED", value_delimiter = ',')]
    engine_speed: Vec<f64>,
    /// A good answer's longest time to the first token, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "2")]
    slo_ttft: Duration,
    /// A good answer's longest mean time between two tokens, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0.05")]
    slo_tpot: Duration,
    /// Search for the highest speed that the replicas bear, 90 % of answers being good, and for the fewest replicas that
    /// bear `--speed`
    #[arg(long)]
    capacity: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How results are printed.
struct OutputFormat {
    csv: bool,
    json: bool,
    introduction: String,
}

/// Shows how far a replay is, on a terminal only.
struct ProgressLine {
    total: usize,
    shown_percent: Option<usize>,
    is_terminal: bool,
}

/// Replays a trace under each policy and prints a row for each.
pub(super) fn run(args: &ReplayArgs) -> Result<(), String> {
    let policies = args.policy.iter().map(|text| PolicySpec::parse(text.trim()).map_err(|bad| bad.to_string()));
    let policies = policies.collect::<Result<Vec<_>, _>>()?;
    let trace = match (&args.trace, args.synthetic) {
        (Some(path), _) => replay::open_trace(path).map_err(|bad| bad.to_string())?,
        (None, kind) => {
            replay::synthesize_trace(kind.unwrap_or(SyntheticKind::Chat), args.requests as usize, args.seed)
        }
    };
    let scenario = build_scenario(args, &trace);
    let form = OutputFormat { csv: args.csv, json: args.json, introduction: format_introduction(&trace, &scenario) };
    if args.capacity {
        search_capacities(&trace, &policies, &scenario, &form)
    } else {
        replay_policies(&trace, &policies, &scenario, &form)
    }
}

fn replay_policies(
    trace: &Trace,
    policies: &[PolicySpec],
    scenario: &Scenario,
    form: &OutputFormat,
) -> Result<(), String> {
    let mut rows: Vec<ReplayResult> = Vec::with_capacity(policies.len());
    for policy in policies {
        let mut progress = ProgressLine::new(trace.requests().len());
        let figures = replay::replay_trace(trace, policy, scenario, &mut |done| progress.show(policy, done));
        progress.clear();
        rows.push(figures.map_err(|problem| format!("{policy}: {problem}"))?);
    }
    form.print_rows(&rows, [replay::format_text, replay::format_csv, replay::format_json]);
    for row in rows.iter().filter(|row| row.counts.refused > 0) {
        let why = "need more KV memory than a replica has and count as not answered in time";
        print_line(&mut std::io::stderr(), format_args!("{}: {} requests {why}", row.policy, row.counts.refused));
    }
    Ok(())
}

fn search_capacities(
    trace: &Trace,
    policies: &[PolicySpec],
    scenario: &Scenario,
    form: &OutputFormat,
) -> Result<(), String> {
    let mut rows: Vec<CapacityResult> = Vec::with_capacity(policies.len());
    for policy in policies {
        // About as many replays as it takes.
        let (mut progress, mut ran) = (ProgressLine::new(20), 0);
        let found = replay::find_capacity(trace, policy, scenario, &mut || {
            ran += 1;
            progress.show(policy, ran.min(20));
        });
        progress.clear();
        rows.push(found.map_err(|problem| format!("{policy}: {problem}"))?);
    }
    form.print_rows(&rows, [CapacityResult::format_text, CapacityResult::format_csv, CapacityResult::format_json]);
    Ok(())
}

impl OutputFormat {
    /// Prints rows as a text, CSV or JSON; `forms` in this order.
    fn print_rows<Row>(&self, rows: &[Row], [text, csv, json]: [fn(&[Row]) -> String; 3]) {
        let written = match (self.csv, self.json) {
            (true, _) => csv(rows),
            (_, true) => json(rows),
            _ => format!("{}\n{}", self.introduction, text(rows)),
        };
        print_line(&mut std::io::stdout(), format_args!("{}", written.trim_end()));
    }
}

fn build_scenario(args: &ReplayArgs, trace: &Trace) -> Scenario {
    let mut scenario = Scenario {
        replicas: args.replicas as usize,
        engine_speeds: args.engine_speed.clone(),
        speed: args.speed.unwrap_or(if trace.is_closed_loop() { 0.1 } else { 1.0 }),
        routers: args.routers as usize,
        restart_at: args.restart_at,
        slo: Slo { ttft: args.slo_ttft, tpot: args.slo_tpot },
        seed: args.seed,
        ..Scenario::default()
    };
    if let Some(kv) = args.kv {
        scenario.engine_model.kv_capacity = Tokens(kv);
    }
    scenario
}

fn format_introduction(trace: &Trace, scenario: &Scenario) -> String {
    let speed = scenario.speed;
    let load =
        if trace.is_closed_loop() { format!("{speed} sessions begun a second") } else { format!("speed {speed}") };
    let Slo { ttft, tpot } = scenario.slo;
    format!(
        "{} requests, {} replicas, {load}, seed {}; the first 15 % are left out; good: TTFT < {ttft:?}, TPOT < {tpot:?}",
        trace.requests().len(),
        scenario.replicas,
        scenario.seed,
    )
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a time".to_owned())
}

impl ProgressLine {
    fn new(total: usize) -> Self {
        Self { total: total.max(1), shown_percent: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, what: &PolicySpec, done: usize) {
        let percent = done * 100 / self.total;
        if self.is_terminal && self.shown_percent != Some(percent) {
            self.shown_percent = Some(percent);
            let bar = "#".repeat(percent * 40 / 100);
            let mut err = std::io::stderr();
            // Nobody is told of a terminal that is gone.
            let _ = write!(err, "\r{what} [{bar:<40}] {percent:>3} %").and_then(|()| err.flush());
        }
    }

    fn clear(&self) {
        if self.shown_percent.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
