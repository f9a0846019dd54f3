//! Answers without a stream that take minutes: their first byte comes when all has been generated.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::{HttpResponse, build_request};
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";
const JSON: &str = "application/json";
const ANSWER: &str = "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"long\"},\"finish_reason\":\"stop\"}]}";
/// How long a plain answer takes; stands for 310 s.
const GENERATION: Duration = Duration::from_millis(1_500);

fn wants_stream(received: &ReceivedRequest) -> bool {
    received.body.windows(13).any(|bytes| bytes == b"\"stream\":true")
}

/// Sends an event every 50 ms until the router closes the connection.
fn play_endless_stream(to: &mut TcpStream) -> KeepConnection {
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let mut alive = to.write_all(STREAM_HEAD.as_bytes()).is_ok();
    while alive {
        alive = to.write_all(chunk.as_bytes()).is_ok();
        thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Starts a replica whose streams never end and whose plain answers take [`GENERATION`]; with `early_head` their head
/// comes at once.
fn start_slow_replica(early_head: bool) -> ScriptedReplica {
    ScriptedReplica::start(&["m"], move |received, to| {
        if wants_stream(received) {
            return play_endless_stream(to);
        }
        let response = build_response(200, JSON, ANSWER);
        let head_bytes = if early_head { response.len() - ANSWER.len() } else { 0 };
        let head_sent = to.write_all(&response[..head_bytes]).is_ok();
        thread::sleep(GENERATION);
        head_sent && to.write_all(&response[head_bytes..]).is_ok()
    })
}

fn start_router(replica: &ScriptedReplica, timeouts: &str) -> TestRouter {
    let text = format!("replicas = [{:?}]\n[timeouts]\nfirst_byte = \"200ms\"\n{timeouts}", replica.url());
    TestRouter::start(&text).wait_until_ready()
}

/// Returns the response to a plain request, sent while a stream of the same replica is active.
fn post_beside_a_stream(router: &TestRouter) -> HttpResponse {
    let mut stream = router.connect();
    stream.send(build_request("POST", CHAT_PATH, "", chat_body("m", 9, true)));
    assert_eq!(stream.read_head().status, 200);
    thread::scope(|scope| {
        let reply = scope.spawn(|| router.post(CHAT_PATH, chat_body("m", 9, false)));
        while !reply.is_finished() {
            stream.read_piece().expect("the stream is active");
        }
        reply.join().expect("the request has a response")
    })
}

fn failed_attempts(router: &TestRouter) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &["outcome=\"failed\""])
}

#[test]
fn plain_answer_may_take_longer_than_the_first_event_of_a_stream() {
    for early_head in [false, true] {
        let replica = start_slow_replica(early_head);
        let router = start_router(&replica, "");
        let reply = router.post(CHAT_PATH, chat_body("m", 9, false));
        assert_eq!((reply.status, reply.text().as_str()), (200, ANSWER), "head first: {early_head}");
        assert_eq!((failed_attempts(&router), replica.received_requests().len()), (0.0, 1));
    }
}

#[test]
fn plain_answer_is_awaited_while_its_replica_sends_data() {
    for early_head in [false, true] {
        let replica = start_slow_replica(early_head);
        let router = start_router(&replica, "plain_answer = \"200ms\"");
        let reply = post_beside_a_stream(&router);
        assert_eq!((reply.status, reply.text().as_str()), (200, ANSWER), "head first: {early_head}");
        assert_eq!(failed_attempts(&router), 0.0);
    }
}

#[test]
fn plain_answer_of_a_silent_replica_times_out_and_counts() {
    let replica = start_slow_replica(false);
    let router = start_router(&replica, "plain_answer = \"200ms\"");
    let reply = router.post(CHAT_PATH, chat_body("m", 9, false));
    assert_eq!((reply.status, reply.header("x-should-retry")), (504, Some("false")));
    wait_until("the attempt is counted", || failed_attempts(&router) == 1.0);
}

#[test]
fn timeout_ejects_no_replica_that_sends_data_on_other_requests() {
    for early_head in [false, true] {
        let replica = start_slow_replica(early_head);
        let router = start_router(&replica, "plain_answer = \"200ms\"\nplain_answer_max = \"400ms\"");
        let reply = post_beside_a_stream(&router);
        assert_eq!(reply.status, 504, "head first: {early_head}");
        let count = |outcome: &str| router.sum_metric("tokenweir_attempts_total", &[outcome]);
        wait_until("the attempt is counted", || count("outcome=\"router_error\"") == 1.0);
        assert_eq!(count("outcome=\"failed\""), 0.0);
    }
}

#[test]
fn replica_busy_with_one_plain_answer_is_not_stalled() {
    let slow = ScriptedReplica::start(&["m"], |_, to| {
        thread::sleep(Duration::from_secs(3));
        to.write_all(&build_response(200, JSON, ANSWER)).is_ok()
    });
    let other = ScriptedReplica::start(&["m"], respond_ok);
    let urls = [slow.url(), other.url()];
    let router =
        TestRouter::start(&format!("policy = \"round_robin\"\nstall_timeout = \"500ms\"\nreplicas = {urls:?}"))
            .wait_until_ready();
    let replica = router.server.fleet().replicas()[0].clone();
    thread::scope(|scope| {
        let reply = scope.spawn(|| router.post(CHAT_PATH, chat_body("m", 9, false)));
        wait_until("the slow replica has the request", || slow.received_requests().len() == 1);
        // While drained, the slow replica gets no further request.
        replica.set_drained(true);
        while !reply.is_finished() {
            assert_eq!(router.post(CHAT_PATH, chat_body("m", 9, false)).status, 200);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(reply.join().expect("the request has a response").text(), ANSWER);
    });
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
}
