//! The cost of reading: nanoseconds per event of a response, and per KiB of a request. Run with `cargo bench --bench
//! wire`.
//!
//! Each row is the best of many rounds, which a busy machine disturbs least.

use std::hint::black_box;
use std::time::Instant;

use tokenweir::dialect::Dialect;
use tokenweir::prompt::{ParsedBody, multipart};
use tokenweir::sse::{BodyFormat, BodyObserver};

const ROUNDS: u32 = 200;

fn main() {
    println!("{:<48} {:>10} {:>10}", "", "ns each", "ns a KiB");
    bench_streams();
    bench_documents();
    bench_requests();
}

fn bench_streams() {
    let plain = chat_event(r#"{"content":"ase"}"#, "");
    let null_usage = chat_event(r#"{"content":"ase"}"#, r#","usage":null"#);
    let usage = chat_event(
        r#"{"content":"ase"}"#,
        r#","usage":{"prompt_tokens":12,"total_tokens":20,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":0}}"#,
    );
    let delta = "event: response.output_text.delta\ndata: {\"content_index\":0,\"delta\":\"sistant\",\"item_id\":\"msg_92f4171\
        ed023ccf2\",\"logprobs\":[],\"output_index\":0,\"sequence_number\":4,\"type\":\"response.output_text.delta\"}\n\n";
    let block = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\
        \"text\":\"ase\"},\"index\":0}\n\n";
    for (name, dialect, event) in [
        ("chat event", Dialect::Chat, plain.as_str()),
        ("chat event with `usage: null`", Dialect::Chat, &null_usage),
        ("chat event with usage (parsed)", Dialect::Chat, &usage),
        ("responses delta", Dialect::Responses, delta),
        ("messages delta", Dialect::Messages, block),
    ] {
        let mut observer = BodyObserver::new(dialect, BodyFormat::Stream);
        observer.observe(plain.as_bytes());
        print_best_time(&format!("{name}, a chunk each"), 1000, event.len(), || {
            black_box(observer.observe(black_box(event.as_bytes())));
        });
    }
    let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Stream);
    observer.observe(plain.as_bytes());
    let (left, right) = plain.split_at(100);
    print_best_time("chat event, cut in two chunks", 1000, plain.len(), || {
        black_box(observer.observe(black_box(left.as_bytes())));
        black_box(observer.observe(black_box(right.as_bytes())));
    });
    let many = plain.repeat(1024);
    let per = print_best_time("chat events, 1,024 a chunk", 1, many.len(), || {
        black_box(observer.observe(black_box(many.as_bytes())));
    });
    println!("{:<48} {:>10.1}", "  an event of these", per / 1024.0);
    print_best_time("first chat event (parsed), observer and all", 100, plain.len(), || {
        let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Stream);
        black_box(observer.observe(black_box(plain.as_bytes())));
    });
}

fn bench_documents() {
    let numbers = vec!["-0.012345678"; 80_000].join(",");
    let embedding = format!(r#"{{"data":[{{"embedding":[{numbers}]}}],"usage":{{"prompt_tokens":7}}}}"#);
    let text = format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "some prose\\n".repeat(80_000));
    for (name, body) in [("1 MB embedding", &embedding), ("1 MB of text in an answer", &text)] {
        print_best_time(name, 1, body.len(), || {
            let mut observer = BodyObserver::new(Dialect::Other, BodyFormat::Json);
            for chunk in body.as_bytes().chunks(16 * 1024) {
                black_box(observer.observe(black_box(chunk)));
            }
        });
    }
}

fn bench_requests() {
    for (name, bytes) in [("2 KB prompt", 2_000), ("1 MB prompt", 1_000_000)] {
        let prose = "The quick brown fox said \\\"jump\\\" to the lazy dog.\\n".repeat(bytes / 52);
        let body = format!(
            r#"{{"model":"llama","stream":true,"max_tokens":100,"messages":[{{"role":"user","content":"{prose}"}}]}}"#
        );
        print_best_time(name, (100_000 / bytes).max(1), body.len(), || {
            black_box(ParsedBody::parse(black_box(body.as_bytes())).is_ok());
        });
    }
    let sound = "RIFF\r\nabcdefgh".repeat(80_000);
    let form = format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{sound}\r\n--XX\r\n\
         Content-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n"
    );
    print_best_time("1 MB form", 1, form.len(), || {
        let found = multipart::find_field("multipart/form-data; boundary=XX", black_box(form.as_bytes()), "model");
        assert!(black_box(found).is_ok_and(|field| field.is_some()));
    });
}

fn chat_event(delta: &str, more: &str) -> String {
    format!(
        r#"data: {{"id":"chatcmpl-cap-chat-stream","object":"chat.completion.chunk","created":1795355508,"model":"tiny","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null,"token_ids":null}}]{more}}}"#
    ) + "\n\n"
}

/// Prints the best time of a call of `run`, which reads `bytes`; returns it in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn print_best_time(name: &str, calls: usize, bytes: usize, mut run: impl FnMut()) -> f64 {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| run());
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    let each = best.as_secs_f64() * 1e9 / calls as f64;
    println!("{name:<48} {each:>10.1} {:>10.1}", each / (bytes as f64 / 1024.0));
    each
}
