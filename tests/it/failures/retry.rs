//! Answers that another replica may better: faults and busy replicas, before the client has seen a byte.

use crate::harness::{Router, ask, chat, replica};

const CHAT: &str = "/v1/chat/completions";

/// Makes the next `count` chats of a replica meet a fault.
fn fault(replica: &tokenweir::emulate::Replica, fault: &str, count: u32) {
    let body = format!(r#"{{"fault":"{fault}","count":{count}}}"#);
    let reply = ask(replica.addr(), "POST", "/emulate/faults", "content-type: application/json\r\n", body);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn pool(n: usize) -> (Vec<tokenweir::emulate::Replica>, Router) {
    let replicas: Vec<_> = (0..n).map(|_| replica(&["m"])).collect();
    let urls: Vec<String> = replicas.iter().map(|r| r.url()).collect();
    let router = Router::over(urls.iter().map(String::as_str));
    (replicas, router)
}

fn outcomes(router: &Router, outcome: &str) -> f64 {
    router.metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

#[test]
fn a_500_is_tried_once_more_elsewhere() {
    for stream in [false, true] {
        let (replicas, router) = pool(2);
        fault(&replicas[0], "500", 1);
        let replies: Vec<u16> = (0..2).map(|_| router.post(CHAT, chat("m", 3, stream)).status).collect();
        assert_eq!(replies, [200, 200], "stream: {stream}");
        assert_eq!((outcomes(&router, "failed"), outcomes(&router, "completed")), (1.0, 2.0));
    }
}

#[test]
fn a_request_that_fails_everywhere_is_to_blame_itself() {
    let (replicas, router) = pool(3);
    replicas.iter().for_each(|r| fault(r, "500", 2));
    let reply = router.post(CHAT, chat("m", 3, false));
    assert_eq!(reply.status, 500);
    assert!(reply.header("x-upstream").is_some(), "the replica's own answer");
    assert_eq!(outcomes(&router, "failed"), 0.0);
    assert_eq!(outcomes(&router, "refused"), 2.0, "one replay and no more");
    assert_eq!(router.get("/readyz").status, 200);
}

#[test]
fn a_busy_replica_is_passed_over_while_another_is_not() {
    let (replicas, router) = pool(3);
    fault(&replicas[0], "503", 100);
    fault(&replicas[1], "429", 100);
    for _ in 0..9 {
        assert_eq!(router.post(CHAT, chat("m", 2, true)).status, 200);
    }
    assert!(outcomes(&router, "busy") > 0.0);
    assert_eq!(outcomes(&router, "failed"), 0.0, "being busy is no failure");
    fault(&replicas[2], "503", 1);
    let reply = router.post(CHAT, chat("m", 2, true));
    assert!([429, 503].contains(&reply.status), "the last busy one's own answer: {}", reply.status);
}
