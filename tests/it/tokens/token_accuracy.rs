//! The router's token counts beside the truth of the engines: totals, and what is on a replica at a moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Router, fast, replica_with, wait_until};
use tokenweir::balance::Dice;
use tokenweir::emulate::Replica;
use tokenweir::engine::Constants;

const CHAT: &str = "/v1/chat/completions";
const CLIENTS: u64 = 24;
const MOMENTS: usize = 100;
const BETWEEN: Duration = Duration::from_millis(20);

fn replicas() -> [Replica; 2] {
    // 30 streams take about 2 ms a token, so that at every moment many are on their way.
    let constants = Constants { speed: 3.0, ..Constants::default() };
    [(); 2].map(|()| replica_with(tokenweir::emulate::Settings { constants, ..fast(&["m"]) }))
}

/// A prompt of some length that no other begins like, and a wish for some tokens.
fn body(dice: &mut Dice, more: &str) -> String {
    let text = "the water is level ".repeat(1 + dice.below(120) as usize);
    let (own, tokens) = (dice.bits(), 40 + dice.below(160));
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{own} {text}"}}],"max_tokens":{tokens}{more}}}"#)
}

/// Prompt and generated tokens by the engines' own account.
fn truth(replicas: &[Replica]) -> [f64; 2] {
    let sum = |part: fn(&Replica) -> u64| replicas.iter().map(part).sum::<u64>() as f64;
    [sum(|replica| replica.stats().prompt.0), sum(|replica| replica.stats().generated.0)]
}

fn counted(router: &Router) -> [f64; 2] {
    ["tokenweir_prompt_tokens_total", "tokenweir_completion_tokens_total"].map(|name| router.metric(name, &[]))
}

#[test]
fn totals_are_the_engines_own_when_every_answer_runs_to_its_end() {
    let replicas = replicas();
    let router = Router::over([&*replicas[0].url(), &*replicas[1].url()]);
    let mut dice = Dice::seeded(11);
    let usage = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let wishes = ["", r#","stream":true"#, usage];
    let bodies: Vec<String> = (0..90).map(|at| body(&mut dice, wishes[at % 3])).collect();
    thread::scope(|scope| {
        for chunk in bodies.chunks(8) {
            let mut client = router.client();
            scope.spawn(move || {
                for body in chunk {
                    client.send(crate::harness::client::request("POST", CHAT, "", body));
                    let reply = client.reply();
                    assert!(reply.status == 200 && reply.whole, "{}", reply.head);
                }
            });
        }
    });
    wait_until("all have settled", || router.metric("tokenweir_attempts_total", &["completed"]) == 90.0);
    assert_eq!(counted(&router), truth(&replicas));
    assert!(truth(&replicas)[1] > 3_600.0);
}

/// Runs streams, one event for `per_event` tokens, and returns how far the ledger is off on average, as a share of
/// what the engines hold.
fn mean_error(per_event: u32) -> f64 {
    let replicas = replicas();
    let router = Router::over([&*replicas[0].url(), &*replicas[1].url()]);
    let seeds = AtomicU64::new(0);
    let enough = AtomicU64::new(0);
    let mut errors = Vec::new();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let headers = format!("x-emulate-tokens-per-event: {per_event}\r\n");
                let mut client = router.client();
                while enough.load(Ordering::Relaxed) == 0 {
                    let mut dice = Dice::seeded(seeds.fetch_add(1, Ordering::Relaxed));
                    let body = body(&mut dice, r#","stream":true"#);
                    client.send(crate::harness::client::request("POST", CHAT, &headers, body));
                    assert!(client.reply().whole);
                }
            });
        }
        // What an event stands for, and how many bytes a token has, is learned from streams that ended.
        wait_until("streams have ended", || router.metric("tokenweir_attempts_total", &["completed"]) >= 40.0);
        for _ in 0..MOMENTS {
            thread::sleep(BETWEEN);
            for (replica, held) in router.server.fleet().replicas().iter().zip(&replicas) {
                let (ours, theirs) = (replica.load().resident.0 as f64, held.stats().resident.0 as f64);
                if theirs > 0.0 {
                    errors.push((ours - theirs).abs() / theirs);
                }
            }
        }
        enough.store(1, Ordering::Relaxed);
    });
    assert!(errors.len() > MOMENTS, "the replicas were busy: {} of {}", errors.len(), 2 * MOMENTS);
    errors.iter().sum::<f64>() / errors.len() as f64
}

#[test]
fn what_is_resident_is_known_within_a_tenth_while_streams_run() {
    println!("{:>16} {:>12}", "tokens an event", "mean error");
    for per_event in [1, 4] {
        let mut error = mean_error(per_event);
        for _ in 0..2 {
            // Where others have the CPU events are late on their way; that is not what is measured.
            error = if error > 0.1 { mean_error(per_event) } else { error };
        }
        println!("{per_event:>16} {:>10.1} %", error * 100.0);
        assert!(error <= 0.1, "off by {:.1} % with {per_event} tokens an event", error * 100.0);
    }
}
