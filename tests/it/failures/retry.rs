//! Retries on another replica before the first byte: faults and busy replicas.

use crate::harness::{TestRouter, chat_body, send_request, start_replica};

const CHAT_PATH: &str = "/v1/chat/completions";

/// Makes the next `count` chats of a replica meet a fault.
fn order_fault(replica: &tokenweir::emulate::EmulatedReplica, fault: &str, count: u32) {
    let body = format!(r#"{{"fault":"{fault}","count":{count}}}"#);
    let reply = send_request(replica.addr(), "POST", "/emulate/faults", "content-type: application/json\r\n", body);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn start_pool(n: usize) -> (Vec<tokenweir::emulate::EmulatedReplica>, TestRouter) {
    let replicas: Vec<_> = (0..n).map(|_| start_replica(&["m"])).collect();
    let urls: Vec<String> = replicas.iter().map(|r| r.url()).collect();
    let router = TestRouter::start_with_replicas(urls.iter().map(String::as_str));
    (replicas, router)
}

fn attempt_count(router: &TestRouter, outcome: &str) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

#[test]
fn a_500_is_retried_once() {
    for stream in [false, true] {
        let (replicas, router) = start_pool(2);
        order_fault(&replicas[0], "500", 1);
        let replies: Vec<u16> = (0..2).map(|_| router.post(CHAT_PATH, chat_body("m", 3, stream)).status).collect();
        assert_eq!(replies, [200, 200], "stream: {stream}");
        assert_eq!((attempt_count(&router, "failed"), attempt_count(&router, "completed")), (1.0, 2.0));
    }
}

#[test]
fn request_failing_everywhere_blames_the_request() {
    let (replicas, router) = start_pool(3);
    replicas.iter().for_each(|r| order_fault(r, "500", 2));
    let reply = router.post(CHAT_PATH, chat_body("m", 3, false));
    assert_eq!(reply.status, 500);
    assert!(reply.header("x-upstream").is_some(), "the replica's own answer");
    assert_eq!(attempt_count(&router, "failed"), 0.0);
    assert_eq!(attempt_count(&router, "refused"), 2.0, "one retry and no more");
    assert_eq!(router.get("/readyz").status, 200);
}

#[test]
fn busy_replica_is_skipped_while_another_is_free() {
    let (replicas, router) = start_pool(3);
    order_fault(&replicas[0], "503", 100);
    order_fault(&replicas[1], "429", 100);
    for _ in 0..9 {
        assert_eq!(router.post(CHAT_PATH, chat_body("m", 2, true)).status, 200);
    }
    assert!(attempt_count(&router, "busy") > 0.0);
    assert_eq!(attempt_count(&router, "failed"), 0.0, "busy is no failure");
    order_fault(&replicas[2], "503", 1);
    let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
    assert!([429, 503].contains(&reply.status), "the last busy replica's own response: {}", reply.status);
}
