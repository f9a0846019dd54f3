//! The token ledger under random load in virtual time: never negative, and empty at the end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenweir::balance::{PolicyRequest, SeededRng};
use tokenweir::config;
use tokenweir::dialect::Dialect;
use tokenweir::fleet::{
    AcquireRequest, ChoiceObservers, Fleet, Lease, LeaseObserver, LeaseReport, LengthEstimate, Outcome, Phase, Pool,
    PoolSpec, Replica, ReplicaModels, ResponseProgress,
};
use tokenweir::prompt::{ParsedBody, PromptFingerprint, TextStats};
use tokenweir::sse::{self, BodyFormat};
use tokenweir::units::{ModelName, Moment, Tokens};

const REQUEST_COUNT: u64 = 10_000;
const MAX_CONCURRENT: usize = 60;
/// An upper bound of all reserved tokens; a counter above it has underflowed.
const MAX_TOTAL_TOKENS: u64 = 100_000_000;

#[derive(Default)]
struct SettlementCounter(AtomicU64);

impl LeaseObserver for SettlementCounter {
    fn on_settled(&self, _: &LeaseReport<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request in flight: the rest of its response, and its observers.
struct RunningRequest {
    lease: Lease,
    observer: sse::BodyObserver,
    remaining_chunks: Vec<String>,
    counts_events: bool,
}

fn build_specs(ports: &[u64], policy: &str, shadow: &str) -> Vec<PoolSpec> {
    let replicas: Vec<String> = ports.iter().map(|port| format!("\"http://10.0.0.1:{port}\"")).collect();
    let replicas = replicas.join(", ");
    let text = format!("replicas = [{replicas}]\nmodel = \"m\"\npolicy = \"{policy}\"\nshadow = \"{shadow}\"\n");
    config::load(&text, "router.toml", []).unwrap_or_else(|report| panic!("{report}")).settings.pools
}

/// Returns a response's events in the dialect's format; with `usage` they end in a usage event.
fn answer_events(dialect: Dialect, events: u64, prompt: u64, usage: bool) -> Vec<String> {
    let (prompt, completion) = (prompt + 3, events * 2);
    let count = match dialect {
        Dialect::Chat | Dialect::Completions | Dialect::Other => {
            format!("\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion}}}")
        }
        Dialect::Responses | Dialect::Messages => {
            format!("\"usage\":{{\"input_tokens\":{prompt},\"output_tokens\":{completion}}}")
        }
    };
    let (piece, last) = match dialect {
        Dialect::Chat => {
            ("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}", format!("data: {{\"choices\":[],{count}}}"))
        }
        Dialect::Completions | Dialect::Other => {
            ("data: {\"choices\":[{\"text\":\"x\"}]}", format!("data: {{\"choices\":[],{count}}}"))
        }
        Dialect::Responses => (
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}",
            format!("data: {{\"type\":\"response.completed\",\"response\":{{{count}}}}}"),
        ),
        Dialect::Messages => (
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"x\"}}",
            format!("data: {{\"type\":\"message_delta\",{count}}}"),
        ),
    };
    let mut chunks: Vec<String> = (0..events).map(|_| format!("{piece}\n\n")).collect();
    if usage {
        chunks.push(format!("{last}\n\n"));
    }
    chunks
}

fn assert_loads_sound(replicas: &[Arc<Replica>]) {
    for replica in replicas {
        let load = replica.load();
        assert!(
            load.prefill.0 < MAX_TOTAL_TOKENS && load.resident.0 < MAX_TOTAL_TOKENS,
            "{}: {load:?}",
            replica.name()
        );
        assert!(
            load.decoding_streams <= replica.in_flight() && replica.in_flight() as usize <= MAX_CONCURRENT,
            "{load:?}"
        );
    }
}

/// Asserts that the ledgers of shadow policies are sound.
fn assert_shadow_loads_sound(pools: &[Arc<Pool>]) {
    for (in_flight, load) in pools.iter().flat_map(|pool| pool.shadow_loads()) {
        assert!(load.prefill.0 < MAX_TOTAL_TOKENS && load.resident.0 < MAX_TOTAL_TOKENS, "{load:?}");
        assert!(load.decoding_streams <= in_flight && in_flight as usize <= MAX_CONCURRENT, "{load:?}");
    }
}

struct LedgerStorm {
    fleet: Fleet,
    rng: SeededRng,
    now: Moment,
    running: Vec<RunningRequest>,
    /// Every replica so far.
    all_replicas: Vec<Arc<Replica>>,
    /// Every pool so far.
    all_pools: Vec<Arc<Pool>>,
    started_count: u64,
}

impl LedgerStorm {
    fn register_replicas(&mut self) {
        self.all_pools.extend(self.fleet.pools());
        for replica in self.fleet.replicas() {
            replica.set_models(ReplicaModels::Listed(vec![ModelName::from("m")]));
            if !self.all_replicas.iter().any(|known| known.id() == replica.id()) {
                self.all_replicas.push(replica);
            }
        }
    }

    fn begin_request(&mut self) {
        let body = format!("{{\"prompt\":\"{}\"}}", "word ".repeat(self.rng.next_below(400) as usize));
        let census = TextStats::from_prompt(&ParsedBody::parse(body.as_bytes()).unwrap().prompt);
        let pool = self.fleet.pools().remove(0);
        let measured: LengthEstimate = pool.length_estimator(Some("m")).estimate(&census, b"", Some(Tokens(50)));
        let prompt = measured.prompt.0;
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let job =
            PolicyRequest { prompt: Tokens(0), output: Tokens(0), key: b"", client_addr: client, tried_slots: &[] };
        // A few prompts share a prefix, for policies that use the prefix cache.
        let family = self.rng.next_below(5) << 32;
        let prefix = PromptFingerprint::from_blocks((0..prompt / 64).map(|at| family | at), Tokens(64), Tokens(prompt));
        let mut attempt = AcquireRequest {
            policy_request: job,
            model: Some("m"),
            estimate: Some(measured),
            prefix: Some(Arc::new(prefix)),
            pin: None,
            tried: Vec::new(),
            observers: ChoiceObservers::default(),
        };
        // Some requests fail before they begin and are retried.
        while let Ok(lease) = pool.acquire(&attempt, self.now) {
            self.started_count += 1;
            if self.rng.next_below(8) > 0 {
                let dialects =
                    [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages, Dialect::Other];
                let dialect = dialects[self.rng.next_below(5) as usize];
                let chunks = answer_events(dialect, self.rng.next_below(60), prompt, self.rng.next_below(5) > 0);
                let observer = sse::BodyObserver::new(dialect, BodyFormat::Stream);
                let streams = self.rng.next_below(6) > 0;
                self.running.push(RunningRequest { lease, observer, remaining_chunks: chunks, counts_events: streams });
                return;
            }
            attempt.tried.push(lease.replica().id());
            let phase = if self.rng.next_below(2) == 0 { Phase::Connect } else { Phase::FirstByte };
            lease.settle(Outcome::Failed { phase }, self.now);
        }
    }

    /// Delivers a chunk of a random request, or ends it.
    fn advance_request(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.rng.next_below(self.running.len() as u64) as usize;
        let ends = self.rng.next_below(60) == 0;
        let request = &mut self.running[at];
        if !ends && !request.remaining_chunks.is_empty() {
            let chunk = request.remaining_chunks.remove(0);
            let seen = request.observer.observe(chunk.as_bytes());
            let content_events = if request.counts_events { seen.content_events } else { 0 };
            request
                .lease
                .record_progress(ResponseProgress { content_events, usage: request.observer.usage() }, self.now);
            return;
        }
        let RunningRequest { lease, .. } = self.running.swap_remove(at);
        match self.rng.next_below(6) {
            _ if !ends => lease.settle(Outcome::Completed, self.now),
            0 => lease.settle(Outcome::Failed { phase: Phase::Stream }, self.now),
            1 => lease.settle(Outcome::RouterError, self.now),
            2 => lease.settle(Outcome::Busy { retry_after: None }, self.now),
            3 => lease.settle(Outcome::Refused, self.now),
            _ => drop(lease),
        }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(self.rng.next_below(5_000));
        match self.rng.next_below(2_000) {
            0 => {
                let from = self.rng.next_below(3);
                let policies = ["least_tokens", "token_cost", "least_conn", "round_robin", "random two"];
                let [policy, shadow] = [5, 2].map(|few| policies[self.rng.next_below(few) as usize]);
                self.fleet.reload(build_specs(&[8000 + from, 8003, 8004 + from, 8010], policy, shadow)).unwrap();
                self.register_replicas();
            }
            _ if self.running.len() < MAX_CONCURRENT && self.rng.next_below(12) == 0 => self.begin_request(),
            _ => self.advance_request(),
        }
    }
}

#[test]
fn no_load_is_left_on_any_replica_after_storms() {
    let seed = tokenweir::clock::random_seed();
    println!("seed {seed}");
    let settled = Arc::new(SettlementCounter::default());
    let observer: Arc<dyn LeaseObserver> = settled.clone();
    let fleet =
        Fleet::new(build_specs(&[8000, 8001, 8002, 8003], "least_tokens", "token_cost"), &observer, seed).unwrap();
    let (running, seen, pools) = (Vec::new(), Vec::new(), Vec::new());
    let mut storm = LedgerStorm {
        fleet,
        rng: SeededRng::from_seed(seed),
        now: Moment::ZERO,
        running,
        all_replicas: seen,
        all_pools: pools,
        started_count: 0,
    };
    storm.register_replicas();
    let mut busiest = 0;
    while storm.started_count < REQUEST_COUNT {
        storm.step();
        assert_loads_sound(&storm.fleet.replicas());
        assert_shadow_loads_sound(&storm.fleet.pools());
        busiest = busiest.max(storm.fleet.replicas().iter().map(|replica| replica.load().resident.0).sum());
    }
    storm.running.clear();
    assert!(busiest > 5_000, "too little load: {busiest} tokens at once");
    assert!(storm.all_replicas.len() > 4, "replicas were added and removed");
    for replica in &storm.all_replicas {
        let load = replica.load();
        assert_eq!(
            (replica.in_flight(), load.prefill, load.decoding_streams, load.resident),
            (0, Tokens(0), 0, Tokens(0))
        );
    }
    assert!(storm.all_pools.len() > 2, "policies changed");
    let imagined: Vec<_> = storm.all_pools.iter().flat_map(|pool| pool.shadow_loads()).collect();
    assert!(imagined.len() >= 4 * storm.all_pools.len());
    for (in_flight, load) in imagined {
        assert_eq!((in_flight, load.prefill, load.decoding_streams, load.resident), (0, Tokens(0), 0, Tokens(0)));
    }
    assert_eq!(settled.0.load(Ordering::Relaxed), storm.started_count);
}
