//! Engine metrics: scraped, exported, and used for load from outside this router.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::{
    TestRouter, chat_body, fast_settings, send_request, start_replica, start_replica_with, wait_until,
};
use serde_json::Value;
use tokenweir::emulate::{EmulatedReplica, EmulatorSettings};
use tokenweir::engine::EngineModel;

/// Starts a replica slow enough that a long response outlasts a test.
fn start_slow_replica() -> EmulatedReplica {
    let settings = fast_settings(&["m"]);
    start_replica_with(EmulatorSettings {
        engine_model: EngineModel { speed: 1.0, ..settings.engine_model },
        ..settings
    })
}

fn start_router(replicas: &[&str]) -> TestRouter {
    let replicas: Vec<String> = replicas.iter().map(|url| format!("{url:?}")).collect();
    let replicas = replicas.join(", ");
    TestRouter::start(&format!("policy = \"least_tokens\"\nengine_metrics = \"100ms\"\nreplicas = [{replicas}]\n"))
        .wait_until_ready()
}

/// Returns the exported engine metrics, without comment lines.
fn engine_metric_lines(router: &TestRouter) -> Vec<String> {
    let text = send_request(router.admin_addr, "GET", "/metrics", "", "").text();
    let ours = |line: &&str| line.starts_with("tokenweir_engine_") || line.starts_with("tokenweir_external_");
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// Returns the replicas of the only pool from the admin listener.
fn list_replicas(router: &TestRouter) -> Vec<Value> {
    send_request(router.admin_addr, "GET", "/pools/default", "", "").json()["replicas"].as_array().unwrap().clone()
}

/// Starts a response that continues until it is dropped; reads its first event.
fn start_endless_answer(at: SocketAddr) -> TestClient<std::net::TcpStream> {
    let mut client = TestClient::connect(at);
    client.send(build_request("POST", "/v1/chat/completions", "", chat_body("m", 50_000, true)));
    assert_eq!(client.read_head().status, 200);
    client.read_piece();
    client
}

/// Waits until the replica has been scraped `times` more.
fn wait_for_scrapes(replica: &EmulatedReplica, times: u64) {
    let before = replica.counters().request_count("/metrics");
    wait_until("the replica is scraped again", || replica.counters().request_count("/metrics") >= before + times);
}

#[test]
fn engine_metrics_are_shown_next_to_own_counts() {
    let replica = start_replica(&["m"]);
    let router = start_router(&[&replica.url()]);
    for _ in 0..3 {
        assert_eq!(router.post("/v1/chat/completions", chat_body("m", 7, true)).status, 200);
    }
    let counts = |of: &str| router.sum_metric(&format!("tokenweir_{of}_tokens_total"), &["pool=\"default\""]);
    wait_until("the engine's totals are scraped", || counts("engine_completion") == 21.0);
    assert_eq!(counts("completion"), 21.0);
    assert!(counts("engine_prompt") > 0.0 && counts("engine_prompt") == counts("prompt"));
    assert_eq!(router.sum_metric("tokenweir_engine_kv_tokens", &[]), 430_000.0);
    assert_eq!(engine_metric_lines(&router).len(), 8, "{:?}", engine_metric_lines(&router));
    let listed = &list_replicas(&router)[0];
    let no_load = serde_json::json!({ "prefill_tokens": 0, "decoding_streams": 0, "resident_tokens": 0 });
    assert_eq!(listed["load"], no_load);
    let engine = &listed["engine"];
    assert_eq!((&engine["completion_tokens"], &engine["block_tokens"]), (&21.into(), &16.into()));
    assert!(engine["age_seconds"].as_f64().unwrap() < 1.0, "{engine}");
}

#[test]
fn external_load_moves_requests_until_it_ends() {
    let replicas = [start_slow_replica(), start_slow_replica()];
    let router = start_router(&[&replicas[0].url(), &replicas[1].url()]);
    let direct = [(); 3].map(|()| start_endless_answer(replicas[0].addr()));
    let foreign = || router.sum_metric("tokenweir_external_requests", &[]);
    wait_until("the direct clients' load is scraped", || foreign() == 3.0);
    assert!(router.sum_metric("tokenweir_external_tokens", &[&replicas[0].addr().to_string()]) >= 3.0);
    let picks = |count| -> Vec<String> {
        let pick =
            |_| router.post("/v1/chat/completions", chat_body("m", 1, false)).header("x-upstream").unwrap().to_owned();
        (0..count).map(pick).collect()
    };
    assert_eq!(picks(4), vec![replicas[1].addr().to_string(); 4]);
    let in_flight: Vec<u32> = router.server.fleet().replicas().iter().map(|replica| replica.in_flight()).collect();
    assert_eq!(in_flight, [0, 0], "external requests are not counted as the router's");
    drop(direct);
    wait_until("the end of their load is scraped", || foreign() == 0.0);
    assert!(picks(4).contains(&replicas[0].addr().to_string()));
}

#[test]
fn own_requests_are_not_external() {
    let replica = start_slow_replica();
    let router = start_router(&[&replica.url()]);
    let streams = [(); 4].map(|()| start_endless_answer(router.addr));
    let running = || router.sum_metric("tokenweir_engine_requests_running", &[]);
    wait_until("the streams run", || running() == 4.0);
    wait_for_scrapes(&replica, 4);
    assert_eq!(router.sum_metric("tokenweir_external_requests", &[]), 0.0);
    assert_eq!(router.sum_metric("tokenweir_external_tokens", &[]), 0.0);
    assert_eq!(list_replicas(&router)[0]["load"]["decoding_streams"], 4);
    drop(streams);
    wait_until("the streams have ended", || running() == 0.0);
    assert_eq!(router.sum_metric("tokenweir_external_requests", &[]), 0.0);
}

#[test]
fn metrics_of_a_dead_engine_disappear() {
    let (mut dying, living) = (start_replica(&["m"]), start_replica(&["m"]));
    let name = dying.addr().to_string();
    let router = start_router(&[&dying.url(), &living.url()]);
    let about = |name: &str| engine_metric_lines(&router).iter().filter(|line| line.contains(name)).count();
    wait_until("both replicas are known", || engine_metric_lines(&router).len() == 16);
    dying.stop();
    wait_until("one replica's metrics are gone", || about(&name) == 0);
    assert_eq!(about(&living.addr().to_string()), 8);
    let listed = list_replicas(&router);
    assert!(listed[0]["engine"].is_null() && listed[1]["engine"].is_object(), "{listed:?}");
}

#[test]
fn replica_without_metrics_is_not_polled() {
    let without = ScriptedReplica::start(&["m"], crate::harness::scripted::respond_ok);
    let others = ScriptedReplica::start_with_metrics(&["m"], |_, to| {
        to.write_all(&build_response(200, "text/plain", "process_cpu_seconds_total 5\n")).is_ok()
    });
    let engine = start_replica(&["m"]);
    let router = start_router(&[&without.url(), &others.url(), &engine.url()]);
    wait_for_scrapes(&engine, 8);
    assert_eq!((without.scrape_count(), others.scrape_count()), (1, 1));
    assert_eq!(engine_metric_lines(&router).len(), 8, "only the engine's metrics");
}

#[test]
fn engine_metrics_off_or_any_path_polls_no_replica() {
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let pool = |index: usize, more: &str| {
        let (name, url) = (["a", "b", "c"][index], replicas[index].url());
        format!("[[pool]]\nname = \"{name}\"\nhost = \"{name}\"\nreplicas = [\"{url}\"]\n{more}\n")
    };
    let pools =
        [pool(0, "engine_metrics = \"off\""), pool(1, "paths = \"any\""), pool(2, "engine_metrics = 0.1")].concat();
    let _router = TestRouter::start(&pools);
    wait_for_scrapes(&replicas[2], 5);
    let scraped = replicas.each_ref().map(|replica| replica.counters().request_count("/metrics") > 0);
    assert_eq!(scraped, [false, false, true]);
}

#[test]
fn large_metrics_are_refused_and_silent_replica_delays_no_other() {
    let huge = ScriptedReplica::start_with_metrics(&["m"], |_, to| {
        let line = b"vllm:num_requests_running 5\n";
        let body = [line.as_slice(), &vec![b'x'; 10 << 20]].concat();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body)).is_ok()
    });
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let silent = ScriptedReplica::start_with_metrics(&["m"], move |_, _| {
        // Until the test ends.
        let _ = held.lock().unwrap().recv_timeout(crate::harness::TEST_TIMEOUT);
        false
    });
    let engine = start_replica(&["m"]);
    let router = start_router(&[&huge.url(), &silent.url(), &engine.url()]);
    wait_until("both are scraped", || huge.scrape_count() == 1 && silent.scrape_count() == 1);
    let before = engine.counters().request_count("/metrics");
    crate::harness::wait_at_most(Duration::from_secs(2), "the engine is scraped while a replica is silent", || {
        engine.counters().request_count("/metrics") >= before + 5
    });
    assert_eq!((silent.scrape_count(), huge.scrape_count()), (1, 1));
    wait_until("the silent replica is scraped again", || silent.scrape_count() == 2);
    assert_eq!(engine_metric_lines(&router).len(), 8, "only the engine's metrics");
    assert_eq!(huge.scrape_count(), 1, "an oversized page is not scraped again");
    drop(hold);
}
