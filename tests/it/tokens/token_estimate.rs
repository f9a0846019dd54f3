//! The estimate of a prompt's tokens compared with real vocabularies: prose, code, Chinese and JSON.

use serde_json::{Value, json};
use tiktoken_rs::{CoreBPE, cl100k_base, o200k_base};
use tokenweir::balance::SeededRng;
use tokenweir::prompt::{MediaTokens, ParsedBody, TextStats, TokenEstimator};
use tokenweir::units::Tokens;

/// Tokens that chat templates add per turn, and per prompt.
const TOKENS_PER_TURN: usize = 4;
const TOKENS_PER_PROMPT: usize = 3;

/// A kind of text, in pieces for requests.
struct TextKind {
    name: &'static str,
    pieces: Vec<String>,
}

fn random_below(dice: &mut SeededRng, n: usize) -> usize {
    dice.next_below(n as u64) as usize
}

fn split_lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn load_text_kinds(dice: &mut SeededRng) -> Vec<TextKind> {
    let functions = include_str!("../../data/texts/code.txt").split("\n\n").map(str::to_owned).collect();
    let words = ["order", "customer", "status", "price", "shipped", "warehouse", "created_at", "note", "currency"];
    let records = (0..200).map(|_| {
        let id = random_below(dice, 1_000_000);
        let mut record = json!({"id": id, "name": format!("item-{}", random_below(dice, 5000)), "active": random_below(dice, 2) == 0,
            "amount": random_below(dice, 100_000) as f64 / 100.0, "time": format!("2026-0{}-1{}T0{}:15:00Z",
            1 + random_below(dice, 9), random_below(dice, 9), random_below(dice, 9))});
        for _ in 0..random_below(dice, 4) {
            record[words[random_below(dice, words.len())]] = json!(words[random_below(dice, words.len())]);
        }
        serde_json::to_string_pretty(&record).unwrap()
    });
    vec![
        TextKind { name: "json", pieces: records.collect() },
        TextKind { name: "chat", pieces: split_lines(include_str!("../../data/texts/chat.txt")) },
        TextKind { name: "code", pieces: functions },
        TextKind { name: "chinese", pieces: split_lines(include_str!("../../data/texts/chinese.txt")) },
    ]
}

/// Returns a conversation of one to seven turns, and its length in tokens.
fn random_conversation(kind: &TextKind, bpe: &CoreBPE, dice: &mut SeededRng) -> (TextStats, Tokens) {
    let mut tokens = TOKENS_PER_PROMPT;
    let turns: Vec<Value> = (0..1 + random_below(dice, 7))
        .map(|at| {
            let first = random_below(dice, kind.pieces.len());
            let some: Vec<&str> =
                kind.pieces.iter().cycle().skip(first).take(1 + random_below(dice, 6)).map(String::as_str).collect();
            let content = some.join("\n");
            tokens += TOKENS_PER_TURN + bpe.encode_ordinary(&content).len();
            json!({"role": if at % 2 == 0 { "user" } else { "assistant" }, "content": content})
        })
        .collect();
    let body = json!({"model": "m", "messages": turns}).to_string();
    (TextStats::from_prompt(&ParsedBody::parse(body.as_bytes()).unwrap().prompt), Tokens(tokens as u64))
}

fn median(mut errors: Vec<f64>) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// Returns the median relative error of 100 prompts, in percent.
fn median_error(estimator: &TokenEstimator, kind: &TextKind, bpe: &CoreBPE, dice: &mut SeededRng) -> f64 {
    let error = |_| {
        let (census, tokens) = random_conversation(kind, bpe, dice);
        (estimator.estimate(&census).0 as f64 / tokens.0 as f64 - 1.0).abs() * 100.0
    };
    median((0..100).map(error).collect())
}

#[test]
fn after_fifty_requests_the_median_error_is_at_most_5_percent() {
    let mut dice = SeededRng::from_seed(4);
    let kinds = load_text_kinds(&mut dice);
    let mut worst: f64 = 0.0;
    println!("median error in percent:   before, after 50 of its kind, after 50 of all kinds");
    for (name, bpe) in [("o200k", o200k_base().unwrap()), ("cl100k", cl100k_base().unwrap())] {
        let mut mixed = TokenEstimator::new(MediaTokens::default());
        for _ in 0..50 {
            let kind = &kinds[random_below(&mut dice, kinds.len())];
            let (census, tokens) = random_conversation(kind, &bpe, &mut dice);
            mixed.learn(&census, tokens);
        }
        for kind in &kinds {
            let mut own = TokenEstimator::new(MediaTokens::default());
            let before = median_error(&own, kind, &bpe, &mut dice);
            for _ in 0..50 {
                let (census, tokens) = random_conversation(kind, &bpe, &mut dice);
                own.learn(&census, tokens);
            }
            let after = median_error(&own, kind, &bpe, &mut dice);
            let of_mixed = median_error(&mixed, kind, &bpe, &mut dice);
            println!("{name:>8} {:>8}: {before:>10.1} {after:>6.1} {of_mixed:>6.1}", kind.name);
            worst = worst.max(after).max(of_mixed);
        }
    }
    assert!(worst <= 5.0, "{worst:.1} %");
}

#[test]
fn similar_prompts_do_not_bias_the_estimate() {
    let mut dice = SeededRng::from_seed(3);
    let mut estimator = TokenEstimator::new(MediaTokens::default());
    for at in 0..3_000 {
        let system = "a weir holds water back. ".repeat([4, 20, 60][random_below(&mut dice, 3)]);
        let user =
            format!("question {}: {}", dice.next_u64(), "over the weir ".repeat(1 + random_below(&mut dice, 39)));
        let body = json!({"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]});
        let census = TextStats::from_prompt(&ParsedBody::parse(body.to_string().as_bytes()).unwrap().prompt);
        let actual = ((system.len() + user.len()) / 4 + 8) as u64;
        let error = (estimator.estimate(&census).0 as f64 / actual as f64 - 1.0).abs();
        assert!(at < 50 || error < 0.05, "off by {error:.2} after {at} requests");
        estimator.learn(&census, Tokens(actual));
    }
}
