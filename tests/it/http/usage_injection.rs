//! Usage that the client did not ask for: asked for by the router, counted, and kept from the client.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::Router;
use crate::harness::captures::{captured, dechunked, passable, player};
use crate::harness::scripted::{Heard, Keep, Scripted, whole};

const SILENT: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const ASKED: &str = r#"{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}"#;
const CHAT: &str = "/v1/chat/completions";
const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";

fn asks(heard: &Heard) -> bool {
    heard.body.windows(13).any(|bytes| bytes == b"include_usage")
}

fn stream(to: &mut TcpStream, body: &str) -> Keep {
    to.write_all(&whole(200, "text/event-stream", body)).is_ok()
}

/// A stream without its usage event; `None` if other events carry usage too, so that it cannot be taken out.
fn without_usage(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).unwrap();
    let carries = |event: &&str| event.contains("\"usage\":{");
    let alone = |event: &&str| carries(event) && event.contains("\"choices\":[],");
    let events: Vec<&str> = text.split_inclusive("\n\n").collect();
    if events.iter().any(|event| carries(event) && !alone(event)) {
        return None;
    }
    Some(events.iter().filter(|event| !alone(event)).flat_map(|event| event.bytes()).collect())
}

#[test]
fn streams_of_real_servers_cut_at_every_byte_lose_their_usage_event_and_nothing_else() {
    const CLIENTS: usize = 8;
    let mut streams = captured();
    streams.retain(|(_, wire)| without_usage(&dechunked(wire)).is_some());
    let wanted: Vec<Vec<u8>> = streams.iter().map(|(_, wire)| without_usage(&dechunked(wire)).unwrap()).collect();
    let changed = streams.iter().zip(&wanted).filter(|((_, wire), wanted)| dechunked(wire) != **wanted).count();
    assert!(changed >= 4 && changed < streams.len(), "{changed} of {}", streams.len());
    let streams = Arc::new(streams);
    let replica = Scripted::start(&["m"], player(streams.clone()));
    let router = Router::over([&*replica.url()]);
    let cuts: Vec<(usize, usize)> =
        streams.iter().enumerate().flat_map(|(at, (_, wire))| (0..=wire.len()).map(move |cut| (at, cut))).collect();
    println!("{} streams, {changed} with usage, {} cuts", streams.len(), cuts.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = router.client();
                while let Some((at, cut)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = format!("{CHAT}?{at}-{cut}");
                    client.send(crate::harness::client::request("POST", &path, "", SILENT));
                    let reply = client.reply();
                    let (passed, whole) = passable(&wanted[*at]);
                    assert!(
                        reply.status == 200 && reply.whole == whole,
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
                        client = router.client();
                    }
                }
            });
        }
    });
    assert!(replica.heard().iter().all(asks));
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn who_asked_for_usage_gets_it() {
    let body = format!("{CONTENT}{USAGE}data: [DONE]\n\n");
    let played = body.clone();
    let replica = Scripted::start(&["m"], move |_, to| stream(to, &played));
    let router = Router::over([&*replica.url()]);
    assert_eq!(router.post(CHAT, ASKED).text(), body);
    assert_eq!(replica.last().body, ASKED.as_bytes());
    assert_eq!(router.post(CHAT, SILENT).text(), format!("{CONTENT}data: [DONE]\n\n"));
    assert_eq!(replica.last().body, ASKED.as_bytes(), "the question goes in front");
    assert_eq!(router.metric("tokenweir_completion_tokens_total", &[]), 4.0);
}

#[test]
fn a_replica_that_refuses_the_question_is_asked_without_and_never_again() {
    let replica = Scripted::start(&["m"], |heard, to| match asks(heard) {
        true => to.write_all(&whole(400, "application/json", "{}")).is_ok(),
        false => stream(to, CONTENT),
    });
    let router = Router::over([&*replica.url()]);
    for requests in [2, 3, 4] {
        let reply = router.post(CHAT, SILENT);
        assert_eq!((reply.status, reply.text().as_str()), (200, CONTENT));
        assert_eq!(replica.heard().len(), requests);
        assert_eq!(replica.last().body, SILENT.as_bytes());
    }
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn a_400_is_the_clients_once_the_replica_has_taken_the_question() {
    let replica = Scripted::start(&["m"], |heard, to| match heard.target().contains("bad") {
        true => to.write_all(&whole(400, "application/json", "{}")).is_ok(),
        false => stream(to, CONTENT),
    });
    let router = Router::over([&*replica.url()]);
    let bad = format!("{CHAT}?bad");
    assert_eq!(router.post(&bad, SILENT).status, 400);
    assert_eq!(replica.heard().len(), 2, "it may have been the question");
    assert!(!asks(&replica.last()));
    assert_eq!(router.post(CHAT, SILENT).status, 200);
    assert!(asks(&replica.last()), "a request that is refused either way says nothing about the question");
    assert_eq!(router.post(&bad, SILENT).status, 400);
    assert_eq!(replica.heard().len(), 4);
}

#[test]
fn a_replica_that_adds_usage_to_other_events_is_not_asked_again() {
    let leaking = CONTENT.replace("]}\n", "],\"usage\":{\"prompt_tokens\":3}}\n");
    let played = leaking.clone();
    let replica = Scripted::start(&["m"], move |heard, to| stream(to, if asks(heard) { &played } else { CONTENT }));
    let router = Router::over([&*replica.url()]);
    assert_eq!(router.post(CHAT, SILENT).text(), leaking);
    assert_eq!(router.post(CHAT, SILENT).text(), CONTENT);
    assert_eq!(replica.last().body, SILENT.as_bytes());
}

#[test]
fn what_came_before_a_cut_is_delivered() {
    let replica = Scripted::start(&["m"], |_, to| {
        let begun = format!("{CONTENT}data: {{\"choi");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = to.write_all(format!("{head}{:x}\r\n{begun}\r\n", begun.len()).as_bytes());
        false
    });
    let router = Router::over([&*replica.url()]);
    let reply = router.post(CHAT, SILENT);
    assert!(!reply.whole);
    let ending = reply.text().strip_prefix(CONTENT).map(str::to_owned).unwrap();
    assert!(ending.starts_with("data: {\"error\":"), "whole events, and why there are no more: {ending}");
    assert_eq!(router.metric("tokenweir_attempts_total", &["failed"]), 1.0);
}
