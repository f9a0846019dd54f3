//! A replica that hangs while it stops: its port refuses connections, its streams stay open and silent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, wait_until};
use tokenweir::clock::Clock;
use tokenweir::fleet::HUNG_AFTER;
use tokenweir::units::Moment;

const CHAT_PATH: &str = "/v1/chat/completions";
const CONTENT_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";

fn encode_chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Starts a replica that begins a stream with `begun` and then sends no data. For `path?N` it first sends N events, one
/// per second.
fn start_hanging_replica(begun: &'static str) -> ScriptedReplica {
    ScriptedReplica::start_with_metrics(&["m"], move |received, to: &mut TcpStream| {
        if received.target() == "/metrics" {
            // A 503 keeps the scrape interval short.
            return to.write_all(&build_response(503, "text/plain", "")).is_ok();
        }
        to.write_all(format!("{STREAM_HEAD}{begun}").as_bytes()).unwrap();
        if let Some((_, events)) = received.target().split_once('?') {
            for _ in 0..events.parse().unwrap() {
                thread::sleep(Duration::from_secs(1));
                to.write_all(encode_chunk(CONTENT_EVENT).as_bytes()).unwrap();
            }
            return to.write_all(b"0\r\n\r\n").is_ok();
        }
        while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        false
    })
}

fn start_router(replicas: &[&ScriptedReplica]) -> TestRouter {
    let urls: Vec<String> = replicas.iter().map(|replica| replica.url()).collect();
    let policy = "policy = \"round_robin\"\nengine_metrics = \"200ms\"";
    TestRouter::start(&format!("{policy}\nreplicas = {urls:?}")).wait_until_ready()
}

#[test]
fn silent_stream_of_a_hung_replica_is_ended() {
    let hung = start_hanging_replica(encode_chunk(CONTENT_EVENT).leak());
    let router = start_router(&[&hung]);
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, true)));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_piece().unwrap(), CONTENT_EVENT.as_bytes());
    let clock = Clock::start();
    // The port is closed now; the next scrape finds that out.
    drop(hung);
    let rest = String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(client.is_broken() && rest.starts_with("data: {\"error\":"), "{rest}");
    assert!(clock.now().since(Moment::ZERO) >= HUNG_AFTER);
    wait_until("the outcome is counted", || router.sum_metric("tokenweir_attempts_total", &["failed"]) == 1.0);
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn stream_without_events_of_a_hung_replica_is_retried() {
    let (hung, good) = (start_hanging_replica(""), Arc::new(Mutex::new(None)));
    let answer = format!("{CONTENT_EVENT}data: [DONE]\n\n");
    let played = answer.clone();
    let spare = ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(&build_response(200, "text/event-stream", &played)).is_ok()
    });
    let router = start_router(&[&hung, &spare]);
    thread::scope(|scope| {
        scope.spawn(|| *good.lock().unwrap() = Some(router.post(CHAT_PATH, chat_body("m", 9, true))));
        wait_until("the replica has the request", || hung.received_requests().len() == 1);
        drop(hung);
    });
    let reply = good.lock().unwrap().take().unwrap();
    assert_eq!((reply.status, reply.complete, reply.text()), (200, true, answer));
}

/// A plain response sends no data until it is complete, so silence alone is no hang. A retry takes `stall_timeout` and
/// another replica.
#[test]
fn json_answer_of_a_hung_replica_is_retried_if_another_exists() {
    let says_nothing = || {
        ScriptedReplica::start_with_metrics(&["m"], |received, to: &mut TcpStream| {
            if received.target() == "/metrics" {
                return to.write_all(&build_response(503, "text/plain", "")).is_ok();
            }
            while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
            false
        })
    };
    let (hung, spare, reply) = (says_nothing(), ScriptedReplica::start(&["m"], respond_ok), Mutex::new(None));
    let urls = [&hung, &spare].map(ScriptedReplica::url);
    let keys = "policy = \"round_robin\"\nengine_metrics = \"200ms\"\nstall_timeout = \"1s\"";
    let router = TestRouter::start(&format!("{keys}\nreplicas = {urls:?}")).wait_until_ready();
    thread::scope(|scope| {
        scope.spawn(|| *reply.lock().unwrap() = Some(router.post(CHAT_PATH, chat_body("m", 9, false))));
        wait_until("the replica has the request", || hung.received_requests().len() == 1);
        drop(hung);
    });
    let reply = reply.lock().unwrap().take().unwrap();
    assert_eq!((reply.status, spare.received_requests().len()), (200, 1));

    let alone = says_nothing();
    let router = TestRouter::start(&format!(
        "{keys}\nreplicas = [{:?}]\ntimeouts.first_byte = \"6s\"\ntimeouts.plain_answer = \"6s\"",
        alone.url()
    ))
    .wait_until_ready();
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, false)));
    wait_until("the replica has the request", || alone.received_requests().len() == 1);
    drop(alone);
    assert_eq!(client.read_response().status, 504, "without another replica the full timeout applies");
}

#[test]
fn replica_that_drains_with_a_closed_port_is_not_hung() {
    let drains = start_hanging_replica(encode_chunk(CONTENT_EVENT).leak());
    let router = start_router(&[&drains]);
    let (signal, signals) = channel();
    thread::scope(|scope| {
        let busy = scope.spawn(|| router.post(&format!("{CHAT_PATH}?7"), chat_body("m", 9, true)));
        let (quiet, signal) = (&router, signal);
        let quiet = scope.spawn(move || {
            let mut client = quiet.connect();
            client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, true)));
            client.read_head();
            assert_eq!(client.read_piece().unwrap(), CONTENT_EVENT.as_bytes());
            signal.send(()).unwrap();
            // This stream ends only when the other one has ended, too.
            client.read_remaining_body()
        });
        signals.recv().unwrap();
        wait_until("both streams run", || {
            drains.received_requests().iter().filter(|h| h.target() != "/metrics").count() == 2
        });
        let clock = Clock::start();
        drop(drains);
        let reply = busy.join().unwrap();
        assert_eq!((reply.complete, reply.text()), (true, CONTENT_EVENT.repeat(8)));
        let ended = clock.now().since(Moment::ZERO);
        assert!(ended > HUNG_AFTER + Duration::from_secs(1), "{ended:?}");
        assert!(!quiet.is_finished(), "one active stream shows that the replica is alive");
        assert!(String::from_utf8(quiet.join().unwrap()).unwrap().starts_with("data: {\"error\":"));
    });
}
