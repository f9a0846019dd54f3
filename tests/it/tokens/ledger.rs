//! The token ledger through storms of requests in virtual time: never negative, and nothing left at the end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenweir::balance::{Dice, Job};
use tokenweir::config;
use tokenweir::fleet::{
    Attempt, Beside, Fleet, Lease, Measured, Models, Observer, Outcome, Phase, Pool, PoolSpec, Progress, Replica,
    Report,
};
use tokenweir::prompt::{Census, Prefix, Request};
use tokenweir::sse::{self, Kind};
use tokenweir::units::{Dialect, ModelName, Moment, Tokens};

const REQUESTS: u64 = 10_000;
const AT_ONCE: usize = 60;
/// More than all requests at once can weigh: a counter above it has gone below zero.
const BOUND: u64 = 100_000_000;

#[derive(Default)]
struct Settled(AtomicU64);

impl Observer for Settled {
    fn settled(&self, _: &Report<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request on its way: what is still to come of its answer, and who follows it.
struct Running {
    lease: Lease,
    observer: sse::Observer,
    chunks: Vec<String>,
    streams: bool,
}

fn specs(ports: &[u64], policy: &str, shadow: &str) -> Vec<PoolSpec> {
    let replicas: Vec<String> = ports.iter().map(|port| format!("\"http://10.0.0.1:{port}\"")).collect();
    let replicas = replicas.join(", ");
    let text = format!("replicas = [{replicas}]\nmodel = \"m\"\npolicy = \"{policy}\"\nshadow = \"{shadow}\"\n");
    config::load(&text, "router.toml", []).unwrap_or_else(|report| panic!("{report}")).settings.pools
}

/// What a replica sends, in the dialect's shape; `usage`: at its end, as it should.
fn answer(dialect: Dialect, events: u64, prompt: u64, usage: bool) -> Vec<String> {
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

fn sound(replicas: &[Arc<Replica>]) {
    for replica in replicas {
        let load = replica.load();
        assert!(load.prefill.0 < BOUND && load.resident.0 < BOUND, "{}: {load:?}", replica.name());
        assert!(load.decoding <= replica.in_flight() && replica.in_flight() as usize <= AT_ONCE, "{load:?}");
    }
}

/// What shadow policies imagine is as sound.
fn sound_in_mind(pools: &[Arc<Pool>]) {
    for (in_flight, load) in pools.iter().flat_map(|pool| pool.imagined()) {
        assert!(load.prefill.0 < BOUND && load.resident.0 < BOUND, "{load:?}");
        assert!(load.decoding <= in_flight && in_flight as usize <= AT_ONCE, "{load:?}");
    }
}

struct Storm {
    fleet: Fleet,
    dice: Dice,
    now: Moment,
    running: Vec<Running>,
    /// Every replica there ever was.
    seen: Vec<Arc<Replica>>,
    /// Every pool.
    pools: Vec<Arc<Pool>>,
    started: u64,
}

impl Storm {
    fn meet(&mut self) {
        self.pools.extend(self.fleet.pools());
        for replica in self.fleet.replicas() {
            replica.learn(Models::Listed(vec![ModelName::from("m")]));
            if !self.seen.iter().any(|known| known.id() == replica.id()) {
                self.seen.push(replica);
            }
        }
    }

    fn begin(&mut self) {
        let body = format!("{{\"prompt\":\"{}\"}}", "word ".repeat(self.dice.below(400) as usize));
        let census = Census::of(&Request::parse(body.as_bytes()).unwrap().text);
        let pool = self.fleet.pools().remove(0);
        let measured: Measured = pool.meter(Some("m")).measure(&census, b"", Some(Tokens(50)));
        let prompt = measured.prompt.0;
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let job = Job { prompt: Tokens(0), output: Tokens(0), key: b"", client, tried: &[] };
        // A few prompts that begin alike, as policies for caches are told.
        let whose = self.dice.below(5) << 32;
        let prefix = Prefix::of_blocks((0..prompt / 64).map(|at| whose | at), Tokens(64), Tokens(prompt));
        let mut attempt = Attempt {
            job,
            model: Some("m"),
            measured: Some(measured),
            prefix: Some(Arc::new(prefix)),
            pinned: None,
            tried: Vec::new(),
            beside: Beside::default(),
        };
        // Some requests fail before they begin and are tried elsewhere.
        while let Ok(lease) = pool.acquire(&attempt, self.now) {
            self.started += 1;
            if self.dice.below(8) > 0 {
                let dialects =
                    [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages, Dialect::Other];
                let dialect = dialects[self.dice.below(5) as usize];
                let chunks = answer(dialect, self.dice.below(60), prompt, self.dice.below(5) > 0);
                let observer = sse::Observer::new(dialect, Kind::Stream);
                let streams = self.dice.below(6) > 0;
                self.running.push(Running { lease, observer, chunks, streams });
                return;
            }
            attempt.tried.push(lease.replica().id());
            let phase = if self.dice.below(2) == 0 { Phase::Connect } else { Phase::FirstByte };
            lease.settle(Outcome::Failed { phase }, self.now);
        }
    }

    /// A chunk of some request, or its end, whatever that is.
    fn go_on(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let at = self.dice.below(self.running.len() as u64) as usize;
        let ends = self.dice.below(60) == 0;
        let request = &mut self.running[at];
        if !ends && !request.chunks.is_empty() {
            let chunk = request.chunks.remove(0);
            let seen = request.observer.observe(chunk.as_bytes());
            let content_events = if request.streams { seen.content_events } else { 0 };
            request.lease.progress(Progress { content_events, usage: request.observer.usage() }, self.now);
            return;
        }
        let Running { lease, .. } = self.running.swap_remove(at);
        match self.dice.below(6) {
            _ if !ends => lease.settle(Outcome::Completed, self.now),
            0 => lease.settle(Outcome::Failed { phase: Phase::Stream }, self.now),
            1 => lease.settle(Outcome::Ours, self.now),
            2 => lease.settle(Outcome::Busy { retry_after: None }, self.now),
            3 => lease.settle(Outcome::Refused, self.now),
            _ => drop(lease),
        }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(self.dice.below(5_000));
        match self.dice.below(2_000) {
            0 => {
                let from = self.dice.below(3);
                let policies = ["least_tokens", "token_cost", "least_conn", "round_robin", "random two"];
                let [policy, shadow] = [5, 2].map(|few| policies[self.dice.below(few) as usize]);
                self.fleet.reload(specs(&[8000 + from, 8003, 8004 + from, 8010], policy, shadow)).unwrap();
                self.meet();
            }
            _ if self.running.len() < AT_ONCE && self.dice.below(12) == 0 => self.begin(),
            _ => self.go_on(),
        }
    }
}

#[test]
fn nothing_is_left_on_any_replica_after_any_storm() {
    let seed = tokenweir::clock::seed();
    println!("seed {seed}");
    let settled = Arc::new(Settled::default());
    let observer: Arc<dyn Observer> = settled.clone();
    let fleet = Fleet::new(specs(&[8000, 8001, 8002, 8003], "least_tokens", "token_cost"), &observer, seed).unwrap();
    let (running, seen, pools) = (Vec::new(), Vec::new(), Vec::new());
    let mut storm = Storm { fleet, dice: Dice::seeded(seed), now: Moment::ZERO, running, seen, pools, started: 0 };
    storm.meet();
    let mut busiest = 0;
    while storm.started < REQUESTS {
        storm.step();
        sound(&storm.fleet.replicas());
        sound_in_mind(&storm.fleet.pools());
        busiest = busiest.max(storm.fleet.replicas().iter().map(|replica| replica.load().resident.0).sum());
    }
    storm.running.clear();
    assert!(busiest > 5_000, "the storm was one: {busiest} tokens at once");
    assert!(storm.seen.len() > 4, "replicas came and went");
    for replica in &storm.seen {
        let load = replica.load();
        assert_eq!((replica.in_flight(), load.prefill, load.decoding, load.resident), (0, Tokens(0), 0, Tokens(0)));
    }
    assert!(storm.pools.len() > 2, "policies changed");
    let imagined: Vec<_> = storm.pools.iter().flat_map(|pool| pool.imagined()).collect();
    assert!(imagined.len() >= 4 * storm.pools.len());
    for (in_flight, load) in imagined {
        assert_eq!((in_flight, load.prefill, load.decoding, load.resident), (0, Tokens(0), 0, Tokens(0)));
    }
    assert_eq!(settled.0.load(Ordering::Relaxed), storm.started);
}
