//! Trace replays: deterministic, complete, and in line with queueing theory.

use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokenweir::balance::PolicySpec;
use tokenweir::balance::{SeededRng, policy_table};
use tokenweir::engine::EngineModel;
use tokenweir::replay::{self, BlockRun, ReplayResult, Scenario, Slo, SyntheticKind, Trace, TraceRequest};
use tokenweir::units::Tokens;

const MOONCAKE_TRACE: &str = r#"{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2353, 2354]}
{"timestamp": 30535, "input_length": 6472, "output_length": 0, "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2366]}
"#;
const AZURE_TRACE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.5000000,4808,10\r\n2023-11-17 00:00:01.7500000,3180,8\r\n2024-03-01 00:00:00,1,2";

fn parse_policy(text: &str) -> PolicySpec {
    PolicySpec::parse(text).unwrap()
}

fn replay_with(trace: &Trace, text: &str, scenario: &Scenario) -> ReplayResult {
    replay::replay_trace(trace, &parse_policy(text), scenario, &mut |_| ()).unwrap()
}

/// Returns every policy of the table, each with its first sample's arguments.
fn all_policies() -> impl Iterator<Item = String> {
    policy_table().iter().map(|row| format!("{} {}", row.name, row.samples[0]).trim().to_owned())
}

fn parse_error(text: &str) -> String {
    replay::parse_trace(text.as_bytes(), "some.trace").unwrap_err().to_string()
}

#[test]
fn mooncake_trace_is_read_without_partial_blocks() {
    let trace = replay::parse_trace(MOONCAKE_TRACE.as_bytes(), "m").unwrap();
    let [first, second] = trace.requests() else { panic!("{trace:?}") };
    assert_eq!((first.sent_at, first.prompt, first.output), (Duration::from_millis(27_482), Tokens(6_955), Tokens(52)));
    assert_eq!((first.block_ids().count(), first.block_size, second.block_ids().last()), (13, Tokens(512), Some(57)));
    assert_eq!((second.output, trace.is_closed_loop()), (Tokens(1), false));
}

#[test]
fn azure_csv_times_start_at_zero() {
    let trace = replay::parse_trace(AZURE_TRACE.as_bytes(), "a").unwrap();
    let got: Vec<_> = trace.requests().iter().map(|r| (r.sent_at, r.prompt.0, r.output.0)).collect();
    // 2023-11-17 to 2024-03-01 is 105 days, with a leap February.
    let last = Duration::from_millis(500) + Duration::from_secs(105 * 86_400);
    assert_eq!(got, [(Duration::ZERO, 4_808, 10), (Duration::from_millis(2_250), 3_180, 8), (last, 1, 2)]);
}

#[test]
fn own_trace_is_read_compressed_or_not_in_any_order() {
    let text = concat!(
        r#"{"timestamp_ms":2000.5,"input_tokens":200,"output_tokens":3,"block_tokens":64,"block_runs":[7,2,20,1],"session":4,"turn":1,"think_ms":50}"#,
        "\n\n",
        r#"{"timestamp_ms":0,"input_tokens":100,"output_tokens":3,"block_tokens":64,"block_runs":[7,1],"session":4,"turn":0,"think_ms":0,"unknown":[]}"#,
    );
    let trace = replay::parse_trace(text.as_bytes(), "t").unwrap();
    assert!(trace.is_closed_loop());
    let second = &trace.requests()[1];
    assert_eq!(second.block_ids().collect::<Vec<_>>(), [7, 8, 20]);
    assert_eq!((second.think_time, second.turn), (Some(Duration::from_millis(50)), 1));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    assert_eq!(replay::parse_trace(encoder.finish().unwrap().as_slice(), "t.gz").unwrap(), trace);
}

#[test]
fn bad_trace_line_is_refused_with_its_place() {
    let line =
        |rest: &str| parse_error(&format!("{MOONCAKE_TRACE}{{\"timestamp\": 1, \"output_length\": 1, {rest}}}\n"));
    for (rest, why) in [
        ("\"x\": 1", "missing field `input_tokens`"),
        ("\"input_length\": -4", "invalid value: integer `-4`, expected u64"),
        ("\"input_length\": 511, \"block_runs\": [1, 1]", "the blocks have 512 tokens and the prompt 511"),
        ("\"input_length\": 5, \"block_runs\": [1, 18446744073709551615]", "tokens and the prompt 5"),
        ("\"input_length\": 5, \"block_runs\": [1]", "block_runs has a first id without a count"),
        ("\"input_length\": 5, \"block_tokens\": 0, \"block_runs\": [1, 9]", "block_tokens is 0"),
        ("\"input_length\": 99999999999", "99999999999 tokens are more than"),
        ("\"input_length\": 5, \"think_ms\": -1", "think_ms is not a time: -1"),
    ] {
        let error = line(rest);
        assert!(error.starts_with("some.trace:3: ") && error.contains(why), "{error}");
    }
    assert_eq!(parse_error("\n{\"timestamp\": 1"), "some.trace:2: EOF while parsing an object");
    for (row, why) in [
        ("2023-11-16,5,5", "`2023-11-16` is not a time such as 2023-11-16 18:15:46.6805900"),
        ("2023-13-16 00:00:00,5,5", "`2023-13-16 00:00:00` is not a time such as 2023-11-16 18:15:46.6805900"),
        ("2023-11-16 00:00:00,5", "only 2 columns"),
        ("2023-11-16 00:00:00,5,x", "`x` is not a number of tokens"),
    ] {
        assert_eq!(parse_error(&format!("{AZURE_TRACE}\n{row}\n")), format!("some.trace:5: {why}"));
    }
    assert!(parse_error("a,b,c\n1,2,3\n").starts_with("some.trace:1: neither JSON nor"));
    assert_eq!(parse_error("\n \n"), "some.trace: no request found");
}

#[test]
fn token_totals_equal_the_trace_under_every_policy() {
    for kind in [SyntheticKind::Chat, SyntheticKind::Agents] {
        let trace = replay::synthesize_trace(kind, 200, 5);
        let sum = |tokens: fn(&TraceRequest) -> Tokens| Tokens(trace.requests().iter().map(|r| tokens(r).0).sum());
        let scenario = Scenario { routers: 2, restart_at: Some(Duration::from_secs(20)), ..Scenario::default() };
        for policy in all_policies() {
            let counts = replay_with(&trace, &policy, &scenario).counts;
            assert_eq!((counts.prompt, counts.output), (sum(|r| r.prompt), sum(|r| r.output)), "{policy}");
            assert_eq!((counts.requests, counts.measured, counts.refused), (200, 170, 0), "{policy}");
        }
    }
}

#[test]
fn replay_is_reproducible_by_its_seed() {
    let trace = replay::synthesize_trace(SyntheticKind::Agents, 150, 5);
    let scenario = Scenario { routers: 3, ..Scenario::default() };
    for text in all_policies() {
        let rows: Vec<String> = (0..2).map(|_| replay::format_json(&[replay_with(&trace, &text, &scenario)])).collect();
        assert_eq!(rows[0], rows[1], "{text}");
        let other = Scenario { seed: 2, ..scenario.clone() };
        assert_ne!(rows[0], replay::format_json(&[replay_with(&trace, &text, &other)]), "{text}");
    }
}

#[test]
fn hits_of_one_replica_equal_an_lru_list() {
    const BLOCKS: usize = 200;
    let mut dice = SeededRng::from_seed(11);
    let mut requests = Vec::new();
    for at in 0..2_000 {
        // One of six prefix families, so far apart in time that no two requests overlap.
        let (family, prompt) = (dice.next_below(6), 1 + dice.next_below(16 * 120));
        let blocks = vec![BlockRun { first_id: family * 1_000, count: prompt / 16 }];
        let at = Duration::from_secs(at);
        requests.push(TraceRequest {
            sent_at: at,
            prompt: Tokens(prompt),
            output: Tokens(1),
            block_size: Tokens(16),
            block_runs: blocks,
            ..TraceRequest::default()
        });
    }
    let trace = Trace::new(requests);
    // A model of an LRU cache, most recently used last; a prompt's end is older than its beginning.
    let (mut list, mut hits): (Vec<u64>, u64) = (Vec::new(), 0);
    for request in trace.requests() {
        let ids: Vec<u64> = request.block_ids().collect();
        let usable = (request.prompt.0 as usize - 1) / 16;
        let hit = ids.iter().take(usable).take_while(|id| list.contains(id)).count();
        hits += 16 * hit as u64;
        list.retain(|id| !ids[..hit].contains(id));
        let fresh = (request.prompt.0 as usize).div_ceil(16) - hit;
        let spare = BLOCKS - hit - list.len();
        list.drain(..fresh.saturating_sub(spare).min(list.len()));
        let kept: Vec<u64> =
            ids.iter().enumerate().filter(|(at, id)| *at < hit || !list.contains(id)).map(|(_, id)| *id).collect();
        list.extend(kept.iter().rev());
    }
    let constants = EngineModel { kv_capacity: Tokens(16 * BLOCKS as u64), ..EngineModel::default() };
    let scenario = Scenario { replicas: 1, engine_model: constants, ..Scenario::default() };
    assert!(hits > 100_000, "{hits}");
    assert_eq!(replay_with(&trace, "round_robin", &scenario).counts.cached, Tokens(hits));
}

/// With one server, Poisson arrivals and constant service time the mean wait is `rho s / (2 (1 - rho))`
/// (Pollaczek-Khinchine).
#[test]
fn one_sequence_at_a_time_waits_as_an_m_d_1_queue() {
    let constants = EngineModel { max_sequences: 1, ..EngineModel::default() };
    let alone = |trace: &Trace| {
        let scenario = Scenario { replicas: 1, engine_model: constants, ..Scenario::default() };
        replay_with(trace, "least_conn", &scenario).ttft_mean_s
    };
    let request = |at| TraceRequest { sent_at: at, prompt: Tokens(125), output: Tokens(1), ..TraceRequest::default() };
    let service = alone(&Trace::new(vec![request(Duration::ZERO), request(Duration::from_secs(1))]));
    for load in [0.3, 0.6, 0.8] {
        let (mut dice, mut now) = (SeededRng::from_seed(42), 0.0);
        let mut arrive = |_| {
            let chance = ((dice.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            now -= chance.ln() * service / load;
            request(Duration::from_secs_f64(now))
        };
        let trace = Trace::new((0..60_000).map(&mut arrive).collect());
        let (wait, expected) = (alone(&trace) - service, load * service / (2.0 * (1.0 - load)));
        assert!((wait / expected - 1.0).abs() < 0.05, "load {load}: mean wait {wait} instead of {expected}");
    }
}

#[test]
fn closed_loop_waits_for_the_answer_and_think_time() {
    let turn = |turn, prompt: u64| TraceRequest {
        prompt: Tokens(prompt),
        output: Tokens(10),
        session: Some(1),
        turn,
        think_time: Some(Duration::from_secs(5)),
        ..TraceRequest::default()
    };
    // Turns sent at once would queue behind each other.
    let trace = Trace::new((0..10).map(|at| turn(at, 10_000)).collect());
    let scenario = Scenario { replicas: 1, ..Scenario::default() };
    let figures = replay_with(&trace, "least_conn", &scenario);
    assert!(figures.ttft_p99_s < figures.ttft_mean_s * 1.000_001, "{figures:?}");
    let open = Trace::new((0..10).map(|at| TraceRequest { think_time: None, ..turn(at, 10_000) }).collect());
    assert!(replay_with(&open, "least_conn", &scenario).ttft_mean_s > 3.0 * figures.ttft_mean_s);
}

#[test]
fn request_too_large_for_any_engine_counts_as_unanswered() {
    let request = |at, prompt| TraceRequest {
        sent_at: Duration::from_secs(at),
        prompt: Tokens(prompt),
        output: Tokens(1),
        ..TraceRequest::default()
    };
    let trace = Trace::new((0..20).map(|at| request(at, if at >= 10 { 100 } else { 9_000 })).collect());
    let mut scenario = Scenario { replicas: 2, ..Scenario::default() };
    scenario.engine_model.kv_capacity = Tokens(8_000);
    let figures = replay_with(&trace, "least_tokens", &scenario);
    assert_eq!((figures.counts.refused, figures.counts.measured, figures.counts.output), (10, 17, Tokens(10)));
    assert!((figures.goodput_pct - 100.0 * 10.0 / 17.0).abs() < 1e-9, "{figures:?}");
}

#[test]
fn restarted_router_loses_its_index_and_engines_keep_caches() {
    let trace = replay::synthesize_trace(SyntheticKind::Agents, 1_500, 9);
    let scenario = Scenario::default();
    let kept = replay_with(&trace, "token_cost", &scenario);
    let lost =
        replay_with(&trace, "token_cost", &Scenario { restart_at: Some(Duration::from_secs(200)), ..scenario.clone() });
    assert!(lost.hit_pct < kept.hit_pct, "{} and {}", lost.hit_pct, kept.hit_pct);
    // A restart after the end changes nothing.
    let never = Scenario { restart_at: Some(Duration::from_secs(1 << 30)), ..scenario };
    assert_eq!(replay_with(&trace, "token_cost", &never), kept);
}

#[test]
fn capacity_finds_the_load_at_which_goodput_falls() {
    let trace = replay::synthesize_trace(SyntheticKind::Uniform, 600, 1);
    let slo = Slo { ttft: Duration::from_millis(300), tpot: Duration::from_millis(50) };
    let scenario = Scenario { replicas: 2, slo, ..Scenario::default() };
    let found = replay::find_capacity(&trace, &parse_policy("least_conn"), &scenario, &mut || ()).unwrap();
    let speed = found.speed.unwrap();
    let good = |speed, replicas| {
        replay_with(&trace, "least_conn", &Scenario { speed, replicas, ..scenario.clone() }).goodput_pct
            >= replay::GOODPUT_GOAL_PCT
    };
    assert!(good(speed, 2) && !good(speed * 1.02, 2), "{found:?}");
    let replicas = found.replicas.unwrap();
    assert!(good(1.0, replicas) && !good(1.0, replicas - 1), "{found:?}");
}

fn run_replay_command(args: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenweir"));
    let Output { status, stdout, stderr } = command.arg("replay").args(args).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn replay_command_prints_a_row_per_policy() {
    let common = ["--synthetic", "chat", "--requests", "200", "--policy", "round_robin,hash $session consistent"];
    let (ok, table, error) = run_replay_command(&common);
    assert!(ok && error.is_empty(), "{error}");
    assert!(table.contains("200 requests, 8 replicas, speed 1, seed 1"), "{table}");
    assert_eq!(
        table
            .lines()
            .filter(|line| line.starts_with("round_robin ") || line.starts_with("hash $session consistent "))
            .count(),
        2
    );
    let (_, json, _) = run_replay_command(&[&common[..], &["--json"]].concat());
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[1]["policy"], "hash $session consistent");
    assert!(rows[0]["ttft_mean_s"].as_f64().unwrap() > 0.0 && rows[0]["goodput_pct"].is_f64());
    assert_eq!(run_replay_command(&[&common[..], &["--json"]].concat()).1, json);
    let (_, csv, _) = run_replay_command(&[&common[..], &["--csv"]].concat());
    assert!(csv.starts_with("policy,ttft_mean_s,ttft_p50_s,"), "{csv}");
}

#[test]
fn replay_command_explains_errors() {
    let fails = |args: &[&str]| {
        let (ok, _, error) = run_replay_command(args);
        assert!(!ok);
        error
    };
    assert!(fails(&["nowhere.jsonl"]).starts_with("cannot read nowhere.jsonl: "));
    assert!(fails(&["--synthetic", "chat", "--policy", "least_con"]).contains("least_con"));
    assert!(fails(&["--synthetic", "chat", "--speed", "0"]).contains("speed must be above 0, not 0"));
    assert!(fails(&["--synthetic", "novels"]).contains("chat, tools, agents, uniform"));
    assert!(fails(&[]).contains("required"));
}

#[test]
fn half_speed_replica_gets_about_half_the_work() {
    // Returns the last replica's work relative to the mean of the others.
    let slow = |load: f64, speeds: &[f64]| {
        let scenario = Scenario { replicas: 4, speed: load, engine_speeds: speeds.to_vec(), ..Scenario::default() };
        let work =
            replay_with(&replay::synthesize_trace(SyntheticKind::Chat, 1_500, 3), "token_cost", &scenario).replica_work;
        work[3].0 as f64 / (work[..3].iter().map(|tokens| tokens.0 as f64).sum::<f64>() / 3.0)
    };
    for load in [0.7, 1.0] {
        let (equal, half) = (slow(load, &[1.0]), slow(load, &[1.0, 1.0, 1.0, 0.5]));
        println!("load {load}: {half:.2} of the others' work, {equal:.2} at the same speed");
        // Conversations stay where they are cached, so even equal replicas differ.
        assert!((0.35..=0.65).contains(&(half / equal)), "{half} at half the speed, {equal} at the same");
    }
}
