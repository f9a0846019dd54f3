//! Streaming: events arrive at once, whole, and at the right client.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::captures::{STREAM_HEAD, capture_player, decode_chunks, deliverable_part, load_captures};
use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body, send_request, start_replica, wait_until};
use tokenweir::balance::SeededRng;
use tokenweir::clock;

/// Reads exactly one event.
fn read_event(client: &mut TestClient<TcpStream>) -> Option<String> {
    let mut event = Vec::new();
    while !event.ends_with(b"\n\n") {
        event.extend(client.read_piece()?);
    }
    Some(String::from_utf8(event).unwrap())
}

#[test]
fn event_arrives_before_the_replica_sends_the_next() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let bodies = [
        ("/v1/chat/completions", chat_body("m", 12, true)),
        (
            "/v1/completions",
            r#"{"model":"m","prompt":"hi","max_tokens":12,"stream":true,
            "stream_options":{"include_usage":true}}"#
                .to_owned(),
        ),
        ("/v1/responses", r#"{"model":"m","input":"hi","max_output_tokens":12,"stream":true}"#.to_owned()),
        ("/v1/messages", chat_body("m", 12, true)),
    ];
    for (path, body) in bodies {
        let mut client = router.connect();
        let id = path.rsplit('/').next().unwrap();
        let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: {id}\r\n");
        client.send(build_request("POST", path, &headers, &body));
        assert_eq!(client.read_head().status, 200);
        let mut events = 0;
        while let Some(event) = read_event(&mut client) {
            assert_eq!(event.matches("\n\n").count(), 1, "{path}: one event at a time: {event}");
            events += 1;
            // 404 once the stream has ended.
            send_request(replica.addr(), "POST", &format!("/emulate/next/{id}"), "", "");
        }
        assert!(!client.is_broken() && events >= 12, "{path}: {events} events");
    }
}

#[test]
fn streams_of_real_servers_cut_at_every_byte_arrive_unchanged_up_to_an_abort() {
    const CLIENTS: usize = 8;
    let streams = Arc::new(load_captures());
    let replica = ScriptedReplica::start(&["m"], capture_player(streams.clone()));
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let wanted: Vec<Vec<u8>> = streams.iter().map(|(_, wire)| decode_chunks(wire)).collect();
    // Every byte on the wire, chunk framing included.
    let cuts: Vec<(usize, usize)> =
        streams.iter().enumerate().flat_map(|(at, (_, wire))| (0..=wire.len()).map(move |cut| (at, cut))).collect();
    assert!(cuts.len() > 30_000, "{}", cuts.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = router.connect();
                while let Some((at, cut)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = format!("/v1/chat/completions?{at}-{cut}");
                    client.send(build_request("POST", &path, "", r#"{"model":"m"}"#));
                    let reply = client.read_response();
                    let (passed, whole) = deliverable_part(&wanted[*at]);
                    let name = &streams[*at].0;
                    assert!(reply.status == 200 && reply.complete == whole, "{name} cut at {cut}: {}", reply.head);
                    let rest = reply.body.strip_prefix(passed).unwrap_or_else(|| panic!("{name} cut at {cut} differs"));
                    assert!(rest.is_empty() == whole, "{name} cut at {cut} has more");
                    if !whole {
                        assert!(rest.starts_with(b"data: {\"error\":"), "{name} cut at {cut} has no error event");
                        client = router.connect();
                    }
                }
            });
        }
    });
    assert_eq!(router.in_flight(), 0);
}

/// Returns the events of a seed; lengths and bytes differ from those of other seeds.
fn seeded_events(seed: u64) -> Vec<String> {
    let mut dice = SeededRng::from_seed(seed);
    let piece = |_| {
        let length = 1 + (dice.next_u64() % 900) as usize;
        let filler: String = (0..length).map(|_| char::from(b'a' + (dice.next_u64() % 26) as u8)).collect();
        format!("data: {{\"seed\":{seed},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{filler}\"}}}}]}}\n\n")
    };
    (0..20).map(piece).collect()
}

#[test]
fn two_hundred_concurrent_streams_do_not_mix() {
    const STREAMS: u64 = 200;
    let base = clock::random_seed() >> 8;
    println!("seed {base}");
    let begun = Arc::new(AtomicUsize::new(0));
    let counting = begun.clone();
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let pieces = seeded_events(received.header("x-request-id").unwrap().parse().unwrap());
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        for (at, piece) in pieces.iter().enumerate() {
            if at == 1 {
                counting.fetch_add(1, Ordering::Relaxed);
                wait_until("all streams run", || counting.load(Ordering::Relaxed) as u64 >= STREAMS);
            }
            to.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
        }
        to.write_all(b"0\r\n\r\n").is_ok()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    thread::scope(|scope| {
        for seed in base..base + STREAMS {
            let router = &router;
            scope.spawn(move || {
                let headers = format!("x-request-id: {seed}\r\n");
                let reply = router.send_request("POST", "/v1/chat/completions", &headers, chat_body("m", 1, true));
                assert!(
                    reply.complete && reply.body == seeded_events(seed).concat().as_bytes(),
                    "stream {seed} (base {base})"
                );
                assert_eq!(reply.header("x-request-id").unwrap(), seed.to_string());
            });
        }
    });
    assert_eq!((begun.load(Ordering::Relaxed) as u64, router.in_flight()), (STREAMS, 0));
}

#[test]
fn reported_usage_is_summed_in_the_metrics() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let (mut prompt, mut completion) = (0.0, 0.0);
    for (path, field) in [
        ("/v1/chat/completions", ["prompt_tokens", "completion_tokens"]),
        ("/v1/messages", ["input_tokens", "output_tokens"]),
    ] {
        for (tokens, stream) in [(7, true), (11, false)] {
            let reply = router.post(path, chat_body("m", tokens, stream));
            let text = reply.text();
            let last = |name: &str| {
                let from = text.rfind(&format!("\"{name}\":")).unwrap() + name.len() + 3;
                text[from..].split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<f64>().unwrap()
            };
            assert_eq!(last(field[1]), f64::from(tokens), "{path}: {text}");
            prompt += last(field[0]);
            completion += f64::from(tokens);
        }
    }
    // The router counts usage the client did not request, and does not pass it on.
    let silent = chat_body("m", 5, true).replace(r#","stream_options":{"include_usage":true}"#, "");
    let reply = router.post("/v1/chat/completions", silent);
    assert!(reply.status == 200 && !reply.text().contains("\"usage\":{"), "{}", reply.text());
    prompt += prompt / 4.0;
    completion += 5.0;
    wait_until("all leases have settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 5.0);
    let labels = format!("replica=\"{}\"", replica.addr());
    assert_eq!(router.sum_metric("tokenweir_prompt_tokens_total", &[&labels]), prompt);
    assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[&labels]), completion);
    assert_eq!(router.sum_metric("tokenweir_ttft_seconds_count", &[]), 3.0, "streams have a first token");
    assert_eq!(router.sum_metric("tokenweir_duration_seconds_count", &[]), 5.0);
    assert_eq!(router.sum_metric("tokenweir_requests_total", &["2xx"]), 5.0);
}
