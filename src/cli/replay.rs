//! `tokenweir replay`: the results of other policies for recorded traffic.

use std::io::{IsTerminal, Write};

use super::args::ReplayArgs;
use super::output::{print_error, print_line};
use crate::balance::PolicySpec;
use crate::replay::{self, CapacityResult, ReplayResult, Scenario, Slo, SyntheticKind, Trace};
use crate::units::Tokens;

/// Replays that a search for the capacity takes, about.
const EXPECTED_SEARCH_RUNS: usize = 20;

/// The format of results.
enum OutputFormat {
    Csv,
    Json,
    /// Text, with a line about the replay above it.
    Text {
        introduction: String,
    },
}

/// A progress bar, on terminals only.
struct ProgressLine {
    total: usize,
    shown_percent: Option<usize>,
    is_terminal: bool,
}

/// Replays a trace under each policy and prints a row for each.
///
/// *Errors*: a policy or the trace is wrong.
pub(super) fn run(args: &ReplayArgs) -> Result<(), String> {
    let policies = args.policy.iter().map(|text| PolicySpec::parse(text.trim()).map_err(|error| error.to_string()));
    let policies = policies.collect::<Result<Vec<_>, _>>()?;
    let trace = match (&args.trace, args.synthetic) {
        (Some(path), _) => replay::open_trace(path).map_err(|error| error.to_string())?,
        (None, kind) => {
            replay::synthesize_trace(kind.unwrap_or(SyntheticKind::Chat), args.requests as usize, args.seed)
        }
    };
    let scenario = build_scenario(args, &trace);
    let format = match (args.csv, args.json) {
        (true, _) => OutputFormat::Csv,
        (_, true) => OutputFormat::Json,
        _ => OutputFormat::Text { introduction: format_introduction(&trace, &scenario) },
    };
    if args.capacity {
        search_capacities(&trace, &policies, &scenario, &format)
    } else {
        replay_policies(&trace, &policies, &scenario, &format)
    }
}

fn replay_policies(
    trace: &Trace,
    policies: &[PolicySpec],
    scenario: &Scenario,
    format: &OutputFormat,
) -> Result<(), String> {
    let mut rows: Vec<ReplayResult> = Vec::with_capacity(policies.len());
    for policy in policies {
        let mut progress = ProgressLine::new(trace.requests().len());
        let result = replay::replay_trace(trace, policy, scenario, &mut |done| progress.show(policy, done));
        progress.clear();
        rows.push(result.map_err(|error| format!("{policy}: {error}"))?);
    }
    format.print_rows(&rows, [replay::format_text, replay::format_csv, replay::format_json]);
    for row in rows.iter().filter(|row| row.counts.refused > 0) {
        let reason = "need more KV memory than a replica has and count as late";
        print_error(format_args!("{}: {} requests {reason}", row.policy, row.counts.refused));
    }
    Ok(())
}

fn search_capacities(
    trace: &Trace,
    policies: &[PolicySpec],
    scenario: &Scenario,
    format: &OutputFormat,
) -> Result<(), String> {
    let mut rows: Vec<CapacityResult> = Vec::with_capacity(policies.len());
    for policy in policies {
        let mut progress = ProgressLine::new(EXPECTED_SEARCH_RUNS);
        let mut runs = 0;
        let result = replay::find_capacity(trace, policy, scenario, &mut || {
            runs += 1;
            progress.show(policy, runs.min(EXPECTED_SEARCH_RUNS));
        });
        progress.clear();
        rows.push(result.map_err(|error| format!("{policy}: {error}"))?);
    }
    format.print_rows(&rows, [CapacityResult::format_text, CapacityResult::format_csv, CapacityResult::format_json]);
    Ok(())
}

impl OutputFormat {
    /// Prints rows by the writer of the format.
    fn print_rows<Row>(&self, rows: &[Row], [text, csv, json]: [fn(&[Row]) -> String; 3]) {
        let output = match self {
            Self::Csv => csv(rows),
            Self::Json => json(rows),
            Self::Text { introduction } => format!("{introduction}\n{}", text(rows)),
        };
        print_line(output.trim_end());
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
    let load = if trace.is_closed_loop() { format!("{speed} new sessions a second") } else { format!("speed {speed}") };
    let Slo { ttft, tpot } = scenario.slo;
    format!(
        "{} requests, {} replicas, {load}, seed {}; the first 15 % are left out; good: TTFT < {ttft:?}, TPOT < {tpot:?}",
        trace.requests().len(),
        scenario.replicas,
        scenario.seed,
    )
}

impl ProgressLine {
    fn new(total: usize) -> Self {
        Self { total: total.max(1), shown_percent: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, policy: &PolicySpec, done: usize) {
        let percent = done * 100 / self.total;
        if self.is_terminal && self.shown_percent != Some(percent) {
            self.shown_percent = Some(percent);
            let bar = "#".repeat(percent * 40 / 100);
            let mut err = std::io::stderr();
            // A terminal that is gone needs no progress.
            let _ = write!(err, "\r{policy} [{bar:<40}] {percent:>3} %").and_then(|()| err.flush());
        }
    }

    fn clear(&self) {
        if self.shown_percent.is_some() {
            // As above.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
