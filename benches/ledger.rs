//! The cost of routing: measuring a prompt, choosing a replica, observing a stream. Run with `cargo bench --bench
//! ledger`.
//!
//! Each row is the best of many rounds, which a busy machine disturbs least.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenweir::balance::{self, PolicyRequest};
use tokenweir::config;
use tokenweir::fleet::{
    AcquireRequest, ChoiceObservers, Fleet, LeaseObserver, LeaseReport, Outcome, ReplicaModels, ResponseProgress,
};
use tokenweir::prompt::{MediaTokens, ParsedBody, PromptFingerprint, TextStats, TokenEstimator, fingerprint_and_count};
use tokenweir::units::{ModelName, Moment, Tokens};

const ROUNDS: u32 = 200;

struct BenchObserver;

impl LeaseObserver for BenchObserver {
    fn on_settled(&self, _: &LeaseReport<'_>) {}
}

fn main() {
    println!("{:<56} {:>10}", "", "ns each");
    bench_prompts();
    for policy in balance::policy_table().iter().map(|row| format!("{} {}", row.name, row.samples[0])) {
        for replicas in [4, 16, 64, 256] {
            bench_choices(policy.trim_end(), replicas);
        }
    }
    bench_streams();
    println!("\n{:<56} {:>10} {:>10}", "", "median us", "p99 us");
    for replicas in [8, 64] {
        for tokens in [12_000, 64_000] {
            bench_prefixes(replicas, tokens);
        }
    }
}

fn bench_prompts() {
    for (name, bytes) in [("2 KB", 2_000), ("1 MB", 1_000_000)] {
        let prose = "The quick brown fox said \\\"jump\\\" to the lazy dog.\\n".repeat(bytes / 52);
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prose}"}}],"stream":true}}"#);
        print_best_time(&format!("parse a prompt of {name}"), 1, || {
            black_box(ParsedBody::parse(black_box(body.as_bytes())).is_ok());
        });
        let estimator = TokenEstimator::new(MediaTokens::default());
        print_best_time(&format!("parse, count and fingerprint a prompt of {name}"), 1, || {
            let request = ParsedBody::parse(black_box(body.as_bytes())).expect("a good body");
            black_box(fingerprint_and_count(&request.prompt, &["m"]));
        });
        print_best_time(&format!("parse, count and estimate a prompt of {name}"), 1, || {
            let request = ParsedBody::parse(black_box(body.as_bytes())).expect("a good body");
            black_box(estimator.estimate(&TextStats::from_prompt(&request.prompt)));
        });
    }
    let plain =
        format!(r#"{{"prompt":"{}"}}"#, "The quick brown fox said jump to the lazy dog. ".repeat(1_000_000 / 47));
    let plain = ParsedBody::parse(plain.as_bytes()).expect("a good body");
    print_best_time("count a prompt of 1 MB without escapes", 1, || {
        black_box(TextStats::from_prompt(black_box(&plain.prompt)));
    });
    let census = TextStats { turns: 3, words: 500, letters: 2400, punctuation: 60, ..TextStats::default() };
    let mut estimator = TokenEstimator::new(MediaTokens::default());
    print_best_time("learn from a reported length", 1000, || estimator.learn(black_box(&census), Tokens(640)));
}

fn build_fleet(policy: &str, replicas: usize) -> Fleet {
    let urls: Vec<String> = (0..replicas).map(|at| format!("\"http://10.0.{}.{}:1\"", at / 250, at % 250)).collect();
    let text = format!("replicas = [{}]\nmodel = \"m\"\npolicy = \"{policy}\"\n", urls.join(", "));
    let pools = config::load(&text, "bench.toml", []).expect("a good configuration").settings.pools;
    let observer: Arc<dyn LeaseObserver> = Arc::new(BenchObserver);
    let fleet = Fleet::new(pools, &observer, 1).expect("a good policy");
    for replica in fleet.replicas() {
        replica.set_models(ReplicaModels::Listed(vec![ModelName::from("m")]));
    }
    fleet
}

fn acquire_request() -> AcquireRequest<'static> {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let job = PolicyRequest {
        prompt: Tokens(500),
        output: Tokens(100),
        key: b"session-1",
        client_addr: client,
        tried_slots: &[],
    };
    AcquireRequest {
        policy_request: job,
        model: Some("m"),
        estimate: None,
        prefix: None,
        pin: None,
        tried: Vec::new(),
        observers: ChoiceObservers::default(),
    }
}

/// Measures a choice with its reservation and settlement, while each replica has two other requests.
fn bench_choices(policy: &str, replicas: usize) {
    let fleet = build_fleet(policy, replicas);
    let pool = fleet.pools().remove(0);
    let attempt = acquire_request();
    let now = Moment::ZERO + Duration::from_secs(1);
    let others: Vec<_> = (0..2 * replicas).map(|_| pool.acquire(&attempt, now)).collect();
    print_best_time(&format!("{policy}, {replicas} replicas: choose, charge, settle"), 500, || {
        let lease = pool.acquire(black_box(&attempt), now).expect("all can be chosen");
        lease.settle(Outcome::RouterError, now);
    });
    drop(others);
}

fn bench_streams() {
    let fleet = build_fleet("least_tokens", 4);
    let pool = fleet.pools().remove(0);
    let mut lease = pool.acquire(&acquire_request(), Moment::ZERO).expect("all can be chosen");
    let mut now = Moment::ZERO;
    print_best_time("follow an event of a stream in the ledger", 1000, || {
        now = now + Duration::from_millis(7);
        lease.record_progress(black_box(ResponseProgress { content_events: 1, usage: None }), now);
    });
}

/// Measures a choice by cached prefixes with a full index. All conversations share a system prompt, then differ.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn bench_prefixes(replicas: usize, tokens: usize) {
    let fleet = build_fleet("token_cost", replicas);
    let pool = fleet.pools().remove(0);
    let text = |session: usize| {
        let system = "You are a helpful assistant. ".repeat(500);
        let own = format!("{session} says what the quick brown fox did. ").repeat(tokens / 10);
        let body =
            format!(r#"{{"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{own}"}}]}}"#);
        Arc::new(fingerprint_and_count(&ParsedBody::parse(body.as_bytes()).expect("a good body").prompt, &["m"]).1)
    };
    // Enough conversations to fill every replica's estimated cache.
    let sessions: Vec<Arc<PromptFingerprint>> = (0..replicas * 2_000_000 / tokens).map(text).collect();
    let now = Moment::ZERO + Duration::from_secs(1);
    let mut took = Vec::new();
    for round in 0..3 {
        for prefix in &sessions {
            let mut attempt = AcquireRequest { prefix: Some(prefix.clone()), ..acquire_request() };
            attempt.policy_request.prompt = Tokens(tokens as u64);
            let start = Instant::now();
            let lease = pool.acquire(black_box(&attempt), now).expect("all can be chosen");
            if round > 0 {
                took.push(start.elapsed());
            }
            lease.settle(Outcome::Completed, now);
        }
    }
    took.sort();
    let us = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e6;
    let name = format!("token_cost, {replicas} replicas, {tokens} tokens: look up, choose, record");
    println!("{name:<56} {:>10.1} {:>10.1}", us(50), us(99));
}

/// Prints the best time of a call of `run` in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn print_best_time(name: &str, calls: usize, mut run: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| run());
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!("{name:<56} {:>10.1}", best.as_secs_f64() * 1e9 / calls as f64);
}
