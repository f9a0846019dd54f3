//! Usage that the router requests from replicas: counted, and removed from the client's stream.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::TestRouter;
use crate::harness::captures::{capture_player, decode_chunks, deliverable_part, load_captures};
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};

const BODY_WITHOUT_USAGE: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const BODY_WITH_USAGE: &str = r#"{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}"#;
const CHAT_PATH: &str = "/v1/chat/completions";
const CONTENT_EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
const USAGE_EVENT: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";

fn requests_usage(received: &ReceivedRequest) -> bool {
    received.body.windows(13).any(|bytes| bytes == b"include_usage")
}

fn write_stream(to: &mut TcpStream, body: &str) -> KeepConnection {
    to.write_all(&build_response(200, "text/event-stream", body)).is_ok()
}

/// Returns a stream without its usage; `None` if other events carry usage too. The usage event itself stays, with an
/// empty choice, if it is the only one that has the fingerprint.
fn remove_usage_events(body: &[u8]) -> Option<Vec<u8>> {
    const FINGERPRINT: &str = "\"system_fingerprint\":";
    let text = std::str::from_utf8(body).unwrap();
    let carries = |event: &str| event.contains("\"usage\":{");
    let alone = |event: &str| carries(event) && event.contains("\"choices\":[],");
    let mut kept = String::new();
    for event in text.split_inclusive("\n\n") {
        if carries(event) && !alone(event) {
            return None;
        }
        match event.split_once("\"choices\":[],\"usage\":{").filter(|_| alone(event)) {
            None => kept += event,
            Some((start, rest)) if !kept.contains(FINGERPRINT) => {
                let Some((_, fingerprint)) = rest.split_once(FINGERPRINT) else { continue };
                let empty = match start.contains("\"text_completion\"") {
                    true => r#"{"index":0,"text":"","logprobs":null,"finish_reason":null}"#,
                    false => r#"{"index":0,"delta":{},"finish_reason":null}"#,
                };
                let value = fingerprint.trim_end().strip_suffix('}').unwrap();
                kept += &format!("{start}{FINGERPRINT}{value},\"choices\":[{empty}]}}\n\n");
            }
            Some(_) => {}
        }
    }
    Some(kept.into_bytes())
}

#[test]
fn streams_of_real_servers_cut_at_every_byte_lose_their_usage_and_nothing_else() {
    const CLIENTS: usize = 8;
    let mut streams = load_captures();
    streams.retain(|(_, wire)| remove_usage_events(&decode_chunks(wire)).is_some());
    let wanted: Vec<Vec<u8>> =
        streams.iter().map(|(_, wire)| remove_usage_events(&decode_chunks(wire)).unwrap()).collect();
    let changed = streams.iter().zip(&wanted).filter(|((_, wire), wanted)| decode_chunks(wire) != **wanted).count();
    assert!(changed >= 4 && changed < streams.len(), "{changed} of {}", streams.len());
    let streams = Arc::new(streams);
    let replica = ScriptedReplica::start(&["m"], capture_player(streams.clone()));
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let cuts: Vec<(usize, usize)> =
        streams.iter().enumerate().flat_map(|(at, (_, wire))| (0..=wire.len()).map(move |cut| (at, cut))).collect();
    println!("{} streams, {changed} with usage, {} cuts", streams.len(), cuts.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = router.connect();
                while let Some((at, cut)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = format!("{CHAT_PATH}?{at}-{cut}");
                    client.send(crate::harness::client::build_request("POST", &path, "", BODY_WITHOUT_USAGE));
                    let reply = client.read_response();
                    let (passed, whole) = deliverable_part(&wanted[*at]);
                    assert!(
                        reply.status == 200 && reply.complete == whole,
                        "{} cut at {cut}: {}",
                        streams[*at].0,
                        reply.head
                    );
                    if whole {
                        assert!(reply.body == passed, "{} cut at {cut} differs", streams[*at].0);
                    } else {
                        assert!(
                            reply.body.starts_with(passed) && !reply.text().contains("\"usage\":{"),
                            "cut at {cut}"
                        );
                        client = router.connect();
                    }
                }
            });
        }
    });
    assert!(replica.received_requests().iter().all(requests_usage));
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn requested_usage_is_delivered() {
    let body = format!("{CONTENT_EVENT}{USAGE_EVENT}data: [DONE]\n\n");
    let played = body.clone();
    let replica = ScriptedReplica::start(&["m"], move |_, to| write_stream(to, &played));
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    assert_eq!(router.post(CHAT_PATH, BODY_WITH_USAGE).text(), body);
    assert_eq!(replica.last_request().body, BODY_WITH_USAGE.as_bytes());
    assert_eq!(router.post(CHAT_PATH, BODY_WITHOUT_USAGE).text(), format!("{CONTENT_EVENT}data: [DONE]\n\n"));
    assert_eq!(replica.last_request().body, BODY_WITH_USAGE.as_bytes(), "the usage option is inserted in front");
    assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[]), 4.0);
}

#[test]
fn replica_that_rejects_stream_options_is_retried_without() {
    let replica = ScriptedReplica::start(&["m"], |received, to| match requests_usage(received) {
        true => to.write_all(&build_response(400, "application/json", "{}")).is_ok(),
        false => write_stream(to, CONTENT_EVENT),
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for requests in [2, 3, 4] {
        let reply = router.post(CHAT_PATH, BODY_WITHOUT_USAGE);
        assert_eq!((reply.status, reply.text().as_str()), (200, CONTENT_EVENT));
        assert_eq!(replica.received_requests().len(), requests);
        assert_eq!(replica.last_request().body, BODY_WITHOUT_USAGE.as_bytes());
    }
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn a_400_after_accepted_stream_options_is_relayed() {
    let replica = ScriptedReplica::start(&["m"], |received, to| match received.target().contains("bad") {
        true => to.write_all(&build_response(400, "application/json", "{}")).is_ok(),
        false => write_stream(to, CONTENT_EVENT),
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let bad = format!("{CHAT_PATH}?bad");
    assert_eq!(router.post(&bad, BODY_WITHOUT_USAGE).status, 400);
    assert_eq!(replica.received_requests().len(), 2, "retried without the usage option");
    assert!(!requests_usage(&replica.last_request()));
    assert_eq!(router.post(CHAT_PATH, BODY_WITHOUT_USAGE).status, 200);
    assert!(
        requests_usage(&replica.last_request()),
        "a request refused with and without the usage option does not turn it off"
    );
    assert_eq!(router.post(&bad, BODY_WITHOUT_USAGE).status, 400);
    assert_eq!(replica.received_requests().len(), 4);
}

#[test]
fn replica_with_mixed_usage_events_is_not_asked_again() {
    let leaking = CONTENT_EVENT.replace("]}\n", "],\"usage\":{\"prompt_tokens\":3}}\n");
    let played = leaking.clone();
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        write_stream(to, if requests_usage(received) { &played } else { CONTENT_EVENT })
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    assert_eq!(router.post(CHAT_PATH, BODY_WITHOUT_USAGE).text(), leaking);
    assert_eq!(router.post(CHAT_PATH, BODY_WITHOUT_USAGE).text(), CONTENT_EVENT);
    assert_eq!(replica.last_request().body, BODY_WITHOUT_USAGE.as_bytes());
}

#[test]
fn events_before_a_cut_are_delivered() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let begun = format!("{CONTENT_EVENT}data: {{\"choi");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = to.write_all(format!("{head}{:x}\r\n{begun}\r\n", begun.len()).as_bytes());
        false
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(CHAT_PATH, BODY_WITHOUT_USAGE);
    assert!(!reply.complete);
    let ending = reply.text().strip_prefix(CONTENT_EVENT).map(str::to_owned).unwrap();
    assert!(ending.starts_with("data: {\"error\":"), "whole events, then an error event: {ending}");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["failed"]), 1.0);
}
