//! Promises about failing replicas: retries, their targets and their limits.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::setup::{
    CHAT_PATH, CONTENT_EVENT, FullPort, JSON_CONTENT_TYPE, StageRouter, Stopwatch, attempt_count, ejected_count,
    encode_chunk, post_chat, sleep_millis, start_fixed_replica, start_good_replica, start_router,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::HttpResponse;
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TEST_TIMEOUT, chat_body, unused_addr, wait_until};

fn retry_count(router: &StageRouter, result: &str) -> f64 {
    router.sum_metric("tokenweir_retries_total", &[&format!("result=\"{result}\"")])
}

/// Returns the number of requests that each replica has received.
fn request_counts<const N: usize>(replicas: &[ScriptedReplica; N]) -> [usize; N] {
    replicas.each_ref().map(|replica| replica.received_requests().len())
}

/// "A refused connection is not a replay (no byte was sent): every eligible replica is tried once."
#[test]
fn refused_connection_is_no_retry_and_every_replica_is_tried() {
    let alive = start_good_replica();
    let gone: Vec<String> = (0..4).map(|_| format!("http://{} max_fails=0", unused_addr())).collect();
    let router = StageRouter::start(&format!(
        "policy = \"round_robin\"\npaths = \"any\"\nmodel = \"m\"\nretry_budget_percent = 0\nretry_budget_min = 0\n\
         replicas = [{:?}, {:?}, {:?}, {:?}, {:?}]",
        gone[0],
        gone[1],
        gone[2],
        gone[3],
        alive.url()
    ));
    assert!((0..10).all(|_| post_chat(&router).status == 200));
    assert_eq!((retry_count(&router, "made"), retry_count(&router, "denied")), (0.0, 0.0));
}

/// "A timed-out connection is not a replay."
#[test]
fn timed_out_connection_is_no_retry() {
    let (full, alive) = (FullPort::start(), start_good_replica());
    let router = StageRouter::start(&format!(
        "policy = \"round_robin\"\npaths = \"any\"\nmodel = \"m\"\nretry_budget_percent = 0\nretry_budget_min = 0\n\
         replicas = [\"http://{} max_fails=0\", {:?}]\n[timeouts]\nconnect = \"200ms\"",
        full.addr,
        alive.url()
    ));
    assert!((0..4).all(|_| post_chat(&router).status == 200));
    assert_eq!((retry_count(&router, "made"), alive.received_requests().len()), (0.0, 4));
    assert!(attempt_count(&router, "failed") >= 2.0, "the full port was tried");
}

/// "A reused connection closed with 0 bytes is re-sent on a fresh one and is no attempt."
#[test]
fn stale_connection_is_no_attempt() {
    let seen = Mutex::new(Vec::new());
    // The replica answers the first request of each connection and closes at the second.
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let from = to.peer_addr().unwrap();
        let again = seen.lock().unwrap().contains(&from);
        seen.lock().unwrap().push(from);
        !again && respond_ok(received, to)
    });
    let router = start_router([&replica], "workers = 1\nretry_budget_percent = 0\nretry_budget_min = 0");
    assert!((0..10).all(|_| post_chat(&router).status == 200));
    assert!(replica.received_requests().len() > 10, "connections were reused");
    wait_until("all attempts are counted", || attempt_count(&router, "completed") == 10.0);
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &[]), 10.0);
    assert_eq!(retry_count(&router, "made"), 0.0);
}

/// "Closed before any byte, or any 5xx but 501, 503 and 529, before the first byte: one replay on another replica."
#[test]
fn failure_before_the_first_byte_is_retried_once() {
    for status in [0, 500, 502, 504, 521, 599] {
        let bad = move |_: &_, to: &mut std::net::TcpStream| {
            status > 0 && to.write_all(&build_response(status, JSON_CONTENT_TYPE, "{}")).is_ok()
        };
        let replicas = [ScriptedReplica::start(&["m"], bad), ScriptedReplica::start(&["m"], bad), start_good_replica()];
        let router = start_router(&replicas, "");
        let reply = post_chat(&router);
        // Round robin: the first is chosen, the second gets the retry, and there is no third attempt.
        assert_eq!(
            (request_counts(&replicas), reply.status),
            ([1, 1, 0], if status > 0 { status } else { 502 }),
            "{status}"
        );
        let two = [ScriptedReplica::start(&["m"], bad), start_good_replica()];
        let router = start_router(&two, "");
        assert_eq!((post_chat(&router).status, request_counts(&two)), (200, [1, 1]), "{status}");
        assert_eq!((retry_count(&router, "made"), attempt_count(&router, "failed")), (1.0, 1.0), "{status}");
    }
}

/// "Within a per-pool budget (20 % of requests over 10 s, + 3)." At the defaults.
#[test]
fn retries_are_at_most_a_fifth_of_the_requests_and_three() {
    let (bad, alive) = (start_fixed_replica(500, "{}"), start_good_replica());
    let replicas = [format!("{} max_fails=0", bad.url()), alive.url()];
    let router = StageRouter::start(&format!("policy = \"round_robin\"\nreplicas = {replicas:?}")).wait_until_ready();
    let watch = Stopwatch::start();
    let lost = (0..60).filter(|_| post_chat(&router).status != 200).count();
    let (made, denied) = (retry_count(&router, "made"), retry_count(&router, "denied"));
    assert!(watch.elapsed() < Duration::from_secs(10), "all requests fall within the budget's window");
    assert!((12.0..=15.0).contains(&made), "{made} of 60 requests: 20 % and 3");
    assert_eq!(lost as f64, denied);
}

/// "If the second gives the same status, the request is to blame and neither counts."
#[test]
fn same_failure_at_two_replicas_blames_the_request() {
    let replicas = [start_fixed_replica(500, "{}"), start_fixed_replica(500, "{}"), start_good_replica()];
    let router = start_router(&replicas, "");
    assert_eq!((post_chat(&router).status, request_counts(&replicas)), (500, [1, 1, 0]));
    assert_eq!((attempt_count(&router, "failed"), ejected_count(&router)), (0.0, 0.0));
}

/// "429/503/529 (*busy*): the next replica at once; the busy one is passed over until its `Retry-After`."
#[test]
fn busy_replica_is_skipped_until_its_retry_after() {
    for status in [429, 503, 529] {
        let busy = ScriptedReplica::start(&["m"], move |_, to| {
            let head = format!("HTTP/1.1 {status} X\r\nretry-after: 2\r\ncontent-length: 4\r\n\r\nbusy");
            to.write_all(head.as_bytes()).is_ok()
        });
        let replicas =
            [busy, start_fixed_replica(status, "{}"), start_fixed_replica(status, "{}"), start_good_replica()];
        let router = start_router(&replicas, "");
        let watch = Stopwatch::start();
        assert!((0..12).all(|_| post_chat(&router).status == 200), "{status}: busy replicas cause no failure");
        assert_eq!(replicas[0].received_requests().len(), 1);
        wait_until("the busy replica is tried again", || {
            post_chat(&router).status == 200 && replicas[0].received_requests().len() == 2
        });
        assert!(watch.elapsed() >= Duration::from_millis(1_900), "{:?}", watch.elapsed());
        assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
    }
}

/// "Until its `Retry-After`": a date is valid too.
#[test]
fn retry_after_may_be_a_date() {
    let busy = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 503 X\r\nretry-after: Fri, 01 Jan 2100 00:00:00 GMT\r\ncontent-length: 4\r\n\r\nbusy";
        to.write_all(head.as_bytes()).is_ok()
    });
    let replicas = [busy, start_good_replica()];
    let (router, watch) = (start_router(&replicas, ""), Stopwatch::start());
    while watch.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(post_chat(&router).status, 200);
        sleep_millis(20);
    }
    assert_eq!(replicas[0].received_requests().len(), 1);
}

/// "Else 1 s doubling to 5 s."
#[test]
fn busy_replica_without_retry_after_backs_off_longer_each_time() {
    let replicas = [start_fixed_replica(503, "{}"), start_good_replica()];
    let router = start_router(&replicas, "");
    let watch = Stopwatch::start();
    let mut times = Vec::new();
    while times.len() < 5 {
        assert!(post_chat(&router).status == 200 && watch.elapsed() < 2 * TEST_TIMEOUT);
        if replicas[0].received_requests().len() > times.len() {
            times.push(watch.elapsed());
        }
        sleep_millis(10);
    }
    let gaps: Vec<f64> = times.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    // 1, 2, 4 and 5 s; a request follows within about 10 ms.
    for (gap, wanted) in gaps.iter().zip([1.0, 2.0, 4.0, 5.0]) {
        assert!((wanted - 0.05..wanted + 0.9).contains(gap), "{gaps:?}");
    }
}

/// "Unless all are busy": then one of them still gets the request.
#[test]
fn if_all_are_busy_a_replicas_own_answer_is_relayed() {
    let replicas = [start_fixed_replica(429, "\"full\""), start_fixed_replica(429, "\"full\"")];
    let router = start_router(&replicas, "");
    for _ in 0..5 {
        let reply = post_chat(&router);
        assert_eq!((reply.status, &*reply.text()), (429, "\"full\""));
    }
    assert!(request_counts(&replicas).iter().sum::<usize>() >= 6);
}

/// "When no retry is allowed, the replica's own answer is relayed unchanged."
#[test]
fn last_failing_answer_is_relayed_unchanged() {
    for status in [500, 502, 503, 504, 429] {
        let replica = ScriptedReplica::start(&["m"], move |_, to| {
            let head = format!("HTTP/1.1 {status} Odd\r\ncontent-type: text/html\r\nx-own: a\r\nretry-after: 17\r\n");
            to.write_all(format!("{head}content-length: 9\r\n\r\n<b>no</b>").as_bytes()).is_ok()
        });
        let reply: HttpResponse = post_chat(&start_router([&replica], ""));
        assert_eq!((reply.status, &*reply.text()), (status, "<b>no</b>"));
        let headers = ["content-type", "x-own", "retry-after"].map(|name| reply.header(name).unwrap());
        assert_eq!(headers, ["text/html", "a", "17"]);
    }
}

/// "Nothing is replayed after the first byte."
#[test]
fn no_retry_after_the_first_byte() {
    let begun = format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT));
    let bad = ScriptedReplica::start(&["m"], move |_, to| to.write_all(begun.as_bytes()).is_err());
    let replicas = [bad, start_good_replica()];
    let router = start_router(&replicas, "");
    let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
    assert!(reply.text().starts_with(CONTENT_EVENT) && !reply.complete);
    assert_eq!((request_counts(&replicas), retry_count(&router, "made")), ([1, 0], 0.0));
}

/// "Before the first byte: one replay": half a JSON answer has not reached the client.
#[test]
fn truncated_json_answer_is_retried() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"half\":";
    let replicas =
        [ScriptedReplica::start(&["m"], move |_, to| to.write_all(half.as_bytes()).is_err()), start_good_replica()];
    let reply = post_chat(&start_router(&replicas, ""));
    assert_eq!((reply.status, &*reply.text(), request_counts(&replicas)), (200, "{}", [1, 1]));
}

/// "All replicas down: JSON 503 at once, recovers by itself."
#[test]
fn all_replicas_down_is_503_at_once_and_recovers() {
    let addr = unused_addr();
    let gone = format!("\"http://{addr} fail_timeout=1s\", \"http://{} fail_timeout=1s\"", unused_addr());
    let router = StageRouter::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = [{gone}]"));
    let watch = Stopwatch::start();
    for _ in 0..2 {
        let reply = post_chat(&router);
        assert_eq!((reply.status, reply.openai_error()["code"].as_str()), (503, Some("no_replica")));
    }
    assert!(watch.elapsed() < Duration::from_secs(2), "at once");
    let back = std::net::TcpListener::bind(addr).unwrap();
    let settings = crate::harness::fast_settings(&["m"]);
    let _back = tokenweir::emulate::EmulatedReplica::start(back, settings, tokenweir::clock::Clock::start()).unwrap();
    wait_until("the router serves again", || post_chat(&router).status == 200);
}

/// "Usage is delivered when asked, never leaked when not."
#[test]
fn usage_is_delivered_only_if_requested() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    let done = "data: [DONE]\n\n";
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let has_usage = received.body.windows(13).any(|bytes| bytes == b"include_usage");
        let body = format!("{CONTENT_EVENT}{}{done}", if has_usage { usage } else { "" });
        to.write_all(&build_response(200, "text/event-stream", &body)).is_ok()
    });
    let router = start_router([&replica], "");
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, true)).text(), format!("{CONTENT_EVENT}{usage}{done}"));
    let silent = r#"{"model":"m","messages":[],"stream":true}"#;
    let refusing = r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":false}}"#;
    for body in [silent, refusing] {
        assert_eq!(router.post(CHAT_PATH, body).text(), format!("{CONTENT_EVENT}{done}"), "{body}");
    }
}

/// "Connect (3.5 s ...)": at the default, an unresponsive port is given up in that time, without a fault of the router.
#[test]
fn silent_port_times_out_after_3500_ms() {
    let full = FullPort::start();
    let router = StageRouter::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = [\"http://{}\"]", full.addr));
    let watch = Stopwatch::start();
    let reply = post_chat(&router);
    let took = watch.elapsed().as_secs_f64();
    assert!((3.4..5.5).contains(&took), "{took} s");
    assert!((502..=504).contains(&reply.status) && reply.openai_error()["message"].is_string(), "{}", reply.status);
}

/// "(... survives one lost SYN)": the first SYN is dropped, the second is sent a second later.
#[test]
fn lost_syn_costs_a_second_and_no_request() {
    static CONNECTS: AtomicUsize = AtomicUsize::new(0);
    let full = FullPort::start();
    let router = StageRouter::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = [\"http://{}\"]", full.addr));
    std::thread::scope(|scope| {
        let reply = scope.spawn(|| {
            let watch = Stopwatch::start();
            CONNECTS.fetch_add(1, Ordering::SeqCst);
            (router.get("/x").status, watch.elapsed())
        });
        wait_until("the connection attempt has started", || CONNECTS.load(Ordering::SeqCst) == 1);
        sleep_millis(400);
        full.start_accepting(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        let (status, took) = reply.join().unwrap();
        assert_eq!(status, 200, "after {took:?}");
        assert!(took >= Duration::from_millis(700), "its first SYN was lost: {took:?}");
    });
}
