//! Ejection: its causes and its duration, and the limit on retries.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::client::{HttpResponse, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, fast_settings, send_request, start_replica, unused_addr, wait_until};
use tokenweir::clock::Clock;
use tokenweir::emulate::EmulatedReplica;

const CHAT_PATH: &str = "/v1/chat/completions";
const JSON_CONTENT_TYPE: &str = "application/json";

fn post_chat(router: &TestRouter) -> HttpResponse {
    router.post(CHAT_PATH, chat_body("m", 2, false))
}

fn start_router(replicas: &[String], more: &str) -> TestRouter {
    TestRouter::start(&format!("replicas = {replicas:?}\n{more}")).wait_until_ready()
}

/// Returns state and reason of a replica of the first pool.
fn replica_state(router: &TestRouter, index: usize) -> (String, String) {
    let pools = send_request(router.admin_addr, "GET", "/pools", "", "").json();
    let replica = &pools[0]["replicas"][index];
    let word = |name: &str| replica[name].as_str().unwrap_or_default().to_owned();
    (word("state"), word("reason"))
}

fn has_state(router: &TestRouter, index: usize, wanted: (&str, &str)) -> bool {
    let (state, reason) = replica_state(router, index);
    (&*state, &*reason) == wanted
}

/// Starts a replica like vLLM with `--shutdown-timeout` after SIGTERM: healthy, and an immediate 500 for every request.
fn start_draining_replica() -> ScriptedReplica {
    ScriptedReplica::start(&["m"], |received, to| {
        let status = if received.target() == "/health" { 200 } else { 500 };
        to.write_all(&build_response(status, JSON_CONTENT_TYPE, r#"{"error":{"message":"engine is stopping"}}"#))
            .is_ok()
    })
}

#[test]
fn fast_failing_replica_attracts_no_load() {
    for policy in ["least_conn", "least_tokens", "least_time last_byte", "round_robin"] {
        let (hole, good) = (start_draining_replica(), start_replica(&["m"]));
        let replicas = [hole.url(), good.url()];
        // Eight requests may be in flight before the replica is known to fail.
        let keys = format!("policy = \"{policy}\"\nretry_budget_min = 8\nhealth_check = {{ interval = \"100ms\" }}");
        let router = start_router(&replicas, &keys);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = router.connect();
                    for _ in 0..25 {
                        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 20, false)));
                        assert_eq!(client.read_response().status, 200, "{policy}");
                    }
                });
            }
        });
        let fell = hole.received_requests().iter().filter(|received| received.method() == "POST").count();
        // The eight clients may all choose it before the first response arrives.
        assert!((1..=8).contains(&fell), "{policy}: {fell} of 200");
        assert!(has_state(&router, 0, ("ejected", "failed")), "{policy}: ejected despite its health");
        wait_until("its health is checked", || {
            hole.received_requests().iter().any(|received| received.target() == "/health")
        });
        assert_eq!(router.sum_metric("tokenweir_ejected", &["replica="]), 1.0);
        assert_eq!(router.sum_metric("tokenweir_ejections_total", &["reason=\"failed\""]), 1.0);
        assert_eq!(router.in_flight(), 0);
    }
}

#[test]
fn two_replicas_failing_alike_are_blamed_after_eight_times() {
    let (holes, good) =
        ([start_draining_replica(), start_draining_replica()], [start_replica(&["m"]), start_replica(&["m"])]);
    let replicas = [holes[0].url(), holes[1].url(), good[0].url(), good[1].url()];
    let router = start_router(&replicas, "policy = \"least_conn\"\nretry_budget_min = 100");
    let lost = (0..60).filter(|_| post_chat(&router).status != 200).count();
    assert!(lost <= 8, "{lost} of 60 lost");
    for at in [0, 1] {
        assert!(has_state(&router, at, ("ejected", "failed")));
    }
}

#[test]
fn exhausted_retry_budget_relays_the_replicas_answer() {
    let (bad, good) = (start_draining_replica(), ScriptedReplica::start(&["m"], respond_ok));
    let replicas = [format!("{} max_fails=0", bad.url()), good.url()];
    let router = start_router(&replicas, "policy = \"round_robin\"\nretry_budget_percent = 0\nretry_budget_min = 3");
    let replies: Vec<HttpResponse> = (0..20).map(|_| post_chat(&router)).collect();
    let failed: Vec<&HttpResponse> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert_eq!(failed.len(), 10 - 3, "every second request reaches it, three of them are retried");
    assert!(failed.iter().all(|reply| reply.status == 500 && reply.text().contains("engine is stopping")));
    assert_eq!(router.sum_metric("tokenweir_retries_total", &["made"]), 3.0);
    assert_eq!(router.sum_metric("tokenweir_retries_total", &["denied"]), 7.0);
}

#[test]
fn refused_connection_is_not_counted_as_retry() {
    let alive = start_replica(&["m"]);
    let gone: Vec<String> = (0..3).map(|_| format!("http://{} max_fails=0", unused_addr())).collect();
    let config = format!(
        "policy = \"round_robin\"\nmodel = \"m\"\npaths = \"any\"\nretry_budget_percent = 0\nretry_budget_min = 0\nreplicas = [{:?}, {:?}, {:?}, {:?}]",
        gone[0],
        gone[1],
        gone[2],
        alive.url()
    );
    let router = TestRouter::start(&config);
    assert!((0..12).all(|_| post_chat(&router).status == 200), "every replica is tried");
    assert_eq!(router.sum_metric("tokenweir_retries_total", &[]), 0.0);
}

#[test]
fn request_with_idempotency_key_reaches_one_replica() {
    for (status, body) in [(500, "engine is stopping"), (503, "busy")] {
        let play = move |_: &_, to: &mut std::net::TcpStream| {
            to.write_all(&build_response(status, "text/plain", body)).is_ok()
        };
        let replicas = [ScriptedReplica::start(&["m"], play), ScriptedReplica::start(&["m"], play)];
        let router =
            TestRouter::start_with_replicas(replicas.each_ref().map(ScriptedReplica::url).iter().map(String::as_str));
        let reply = router.send_request("POST", CHAT_PATH, "Idempotency-Key: 7\r\n", chat_body("m", 2, false));
        assert_eq!((reply.status, &*reply.text()), (status, body));
        assert_eq!(replicas.iter().map(|replica| replica.received_requests().len()).sum::<usize>(), 1);
    }
    let closing = [(); 2].map(|()| ScriptedReplica::start(&["m"], |_, _| false));
    let router =
        TestRouter::start_with_replicas(closing.each_ref().map(ScriptedReplica::url).iter().map(String::as_str));
    assert_eq!(router.send_request("POST", CHAT_PATH, "Idempotency-Key: 7\r\n", chat_body("m", 2, false)).status, 502);
    assert_eq!(closing.iter().map(|replica| replica.received_requests().len()).sum::<usize>(), 1);
    let gone = format!("http://{}", unused_addr());
    let (good, config) = (start_replica(&["m"]), "policy = \"round_robin\"\npaths = \"any\"");
    let router = TestRouter::start(&format!("{config}\nreplicas = [{gone:?}, {:?}]", good.url()));
    let refused = router.send_request("POST", CHAT_PATH, "Idempotency-Key: 7\r\n", chat_body("m", 2, false));
    assert_eq!(refused.status, 200, "the refusing replica received nothing");
}

#[test]
fn busy_replica_returns_after_retry_after_and_is_never_ejected() {
    let busy = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 503 X\r\nretry-after: 120\r\ncontent-length: 4\r\n\r\nbusy";
        to.write_all(head.as_bytes()).is_ok()
    });
    let good = ScriptedReplica::start(&["m"], respond_ok);
    let router = start_router(&[busy.url(), good.url()], "policy = \"round_robin\"");
    assert!((0..20).all(|_| post_chat(&router).status == 200));
    assert_eq!((busy.received_requests().len(), good.received_requests().len()), (1, 20));
    assert_eq!(replica_state(&router, 0).0, "busy");
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_retries_total", &[]), 0.0, "a busy response uses no retry");
}

#[test]
fn if_all_are_busy_one_answers_the_client() {
    let play = |_: &_, to: &mut std::net::TcpStream| to.write_all(&build_response(429, "text/plain", "full")).is_ok();
    let replicas = [(); 3].map(|()| ScriptedReplica::start(&["m"], play));
    let router =
        TestRouter::start_with_replicas(replicas.each_ref().map(ScriptedReplica::url).iter().map(String::as_str));
    let seen = || replicas.iter().map(|replica| replica.received_requests().len()).sum::<usize>();
    assert_eq!((post_chat(&router).status, seen()), (429, 3), "each replica is tried");
    let reply = post_chat(&router);
    assert_eq!((reply.status, &*reply.text(), seen()), (429, "full", 4), "the replica that is free first");
    assert_eq!(router.get("/readyz").status, 200);
}

#[test]
fn all_replicas_down_is_answered_at_once_and_recovers() {
    let addr = unused_addr();
    let other = unused_addr();
    let replicas = format!("[\"http://{addr} fail_timeout=1s\", \"http://{other} fail_timeout=1s\"]");
    let router = TestRouter::start(&format!("paths = \"any\"\nreplicas = {replicas}"));
    assert_eq!(post_chat(&router).status, 503);
    let reply = post_chat(&router);
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.header("x-should-retry")),
        (503, Some("1"), Some("true"))
    );
    assert_eq!(reply.openai_error()["code"], "no_replica");
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &["reason=\"refused\""]), 2.0);
    let _back =
        EmulatedReplica::start(TcpListener::bind(addr).unwrap(), fast_settings(&["m"]), Clock::start()).unwrap();
    wait_until("the router serves again", || post_chat(&router).status == 200);
}

/// Starts a replica whose `/health` the test can switch to 503; all other paths are healthy.
fn start_sickly_replica() -> (ScriptedReplica, Arc<AtomicBool>) {
    let sick = Arc::new(AtomicBool::new(false));
    let turned = sick.clone();
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let status = if received.target() == "/health" && turned.load(Ordering::SeqCst) { 503 } else { 200 };
        to.write_all(&build_response(status, JSON_CONTENT_TYPE, "{}")).is_ok()
    });
    (replica, sick)
}

#[test]
fn health_checks_eject_and_readmit_all_replicas() {
    let replicas = [start_sickly_replica(), start_sickly_replica()];
    let urls = replicas.each_ref().map(|(replica, _)| replica.url());
    let router = start_router(&urls, "health_check = { interval = \"100ms\", rise = 2, fall = 2 }");
    assert_eq!(post_chat(&router).status, 200);
    replicas.iter().for_each(|(_, sick)| sick.store(true, Ordering::SeqCst));
    wait_until("both are ejected", || (0..2).all(|at| has_state(&router, at, ("ejected", "check"))));
    let reply = post_chat(&router);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &["reason=\"check\""]), 2.0);
    replicas.iter().for_each(|(_, sick)| sick.store(false, Ordering::SeqCst));
    wait_until("both have recovered", || (0..2).all(|at| replica_state(&router, at).0 == "admitted"));
    assert_eq!(post_chat(&router).status, 200);
}

#[test]
fn streaming_replica_is_healthy_despite_a_late_health_page() {
    let checks = Arc::new(AtomicUsize::new(0));
    let count = checks.clone();
    // The replica never answers /health. It streams an event every 20 ms until the client leaves.
    let busy = ScriptedReplica::start(&["m"], move |received, to| {
        if received.target() == "/health" {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(crate::harness::TEST_TIMEOUT);
            return false;
        }
        let head = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut alive = to.write_all(head.as_bytes()).is_ok();
        while alive {
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
            alive = to.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).is_ok();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        false
    });
    let good = ScriptedReplica::start(&["m"], respond_ok);
    let check = "policy = \"round_robin\"\nhealth_check = { interval = \"100ms\", timeout = \"400ms\", fall = 1 }";
    let router = start_router(&[busy.url(), good.url()], check);
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
    assert_eq!(client.read_head().header("x-upstream"), Some(&*busy.addr.to_string()));
    let mut states = Vec::new();
    wait_until("health checks fail", || {
        drop(client.read_piece());
        states.push(replica_state(&router, 0).0);
        checks.load(Ordering::SeqCst) >= 4
    });
    assert!(states.iter().all(|state| state == "admitted"), "{states:?}");
    drop(client);
    wait_until("the replica is ejected once its stream ends", || has_state(&router, 0, ("ejected", "check")));
}

#[test]
fn health_check_may_request_a_token() {
    let well = Arc::new(AtomicBool::new(true));
    let turned = well.clone();
    let engine = ScriptedReplica::start(&["m"], move |_, to| {
        let status = if turned.load(Ordering::SeqCst) { 200 } else { 500 };
        to.write_all(&build_response(status, JSON_CONTENT_TYPE, "{}")).is_ok()
    });
    let _router = start_router(&[engine.url()], "health_check = { model = \"m\", interval = \"100ms\" }");
    wait_until("the engine receives a probe", || !engine.received_requests().is_empty());
    let received = engine.last_request();
    assert_eq!((received.method(), received.target()), ("POST", "/v1/completions"));
    let body: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!((&body["model"], &body["max_tokens"]), (&"m".into(), &1.into()));
    well.store(false, Ordering::SeqCst);
    wait_until("the replica is ejected", || has_state(&_router, 0, ("ejected", "check")));
}

#[test]
fn engine_without_progress_is_ejected_as_stalled() {
    let wedged = ScriptedReplica::start(&["m"], |received, to| {
        if received.target() == "/health" {
            return to.write_all(&build_response(200, JSON_CONTENT_TYPE, "{}")).is_ok();
        }
        // As vLLM does before its engine has started.
        let head = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        drop(to.write_all(head.as_bytes()));
        std::thread::sleep(crate::harness::TEST_TIMEOUT);
        false
    });
    let good = ScriptedReplica::start(&["m"], respond_ok);
    let keys = "policy = \"round_robin\"\nstall_timeout = \"500ms\"\nhealth_check = { interval = \"100ms\" }";
    let router = start_router(&[wedged.url(), good.url()], keys);
    let mut held = router.connect();
    held.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
    wait_until("the wedged replica has a request", || {
        wedged.received_requests().iter().any(|received| received.method() == "POST")
    });
    let id = router.server.fleet().replicas()[0].clone();
    wait_until("the wedged replica is ejected", || {
        // While drained, the wedged replica gets no further request, which it would keep.
        id.set_drained(true);
        assert_eq!(post_chat(&router).status, 200);
        id.set_drained(false);
        has_state(&router, 0, ("ejected", "stalled"))
    });
    assert!((0..6).all(|_| post_chat(&router).status == 200), "other requests are not delayed");
    assert_eq!(wedged.received_requests().iter().filter(|received| received.method() == "POST").count(), 1);
}
