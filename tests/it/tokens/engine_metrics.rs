//! What engines say of themselves: asked for, shown, used for load that did not come through this router.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::client::{Client, request};
use crate::harness::scripted::{Scripted, whole};
use crate::harness::{Router, ask, chat, fast, replica, replica_with, wait_until};
use serde_json::Value;
use tokenweir::emulate::{Replica, Settings};
use tokenweir::engine::Constants;

/// Slow enough that a long answer outlasts a test.
fn slow() -> Replica {
    let settings = fast(&["m"]);
    replica_with(Settings { constants: Constants { speed: 1.0, ..settings.constants }, ..settings })
}

fn over(replicas: &[&str]) -> Router {
    let replicas: Vec<String> = replicas.iter().map(|url| format!("{url:?}")).collect();
    let replicas = replicas.join(", ");
    Router::start(&format!("policy = \"least_tokens\"\nengine_metrics = \"100ms\"\nreplicas = [{replicas}]\n")).ready()
}

/// The lines of the metrics that are about an engine, without their comments.
fn told(router: &Router) -> Vec<String> {
    let text = ask(router.admin, "GET", "/metrics", "", "").text();
    let ours = |line: &&str| line.starts_with("tokenweir_engine_") || line.starts_with("tokenweir_foreign_");
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// The replicas of the one pool, as the admin listener lists them.
fn listed(router: &Router) -> Vec<Value> {
    ask(router.admin, "GET", "/pools/default", "", "").json()["replicas"].as_array().unwrap().clone()
}

/// An answer that goes on until it is dropped, after its first event.
fn endless(at: SocketAddr) -> Client<std::net::TcpStream> {
    let mut client = Client::connect(at);
    client.send(request("POST", "/v1/chat/completions", "", chat("m", 50_000, true)));
    assert_eq!(client.head().status, 200);
    client.piece();
    client
}

/// Waits until the replica has been asked `times` more.
fn looks(replica: &Replica, times: u64) {
    let before = replica.counters().seen("/metrics");
    wait_until("it is asked again", || replica.counters().seen("/metrics") >= before + times);
}

#[test]
fn what_an_engine_says_is_shown_beside_what_we_counted() {
    let replica = replica(&["m"]);
    let router = over(&[&replica.url()]);
    for _ in 0..3 {
        assert_eq!(router.post("/v1/chat/completions", chat("m", 7, true)).status, 200);
    }
    let counts = |of: &str| router.metric(&format!("tokenweir_{of}_tokens_total"), &["pool=\"default\""]);
    wait_until("its totals have come", || counts("engine_completion") == 21.0);
    assert_eq!(counts("completion"), 21.0);
    assert!(counts("engine_prompt") > 0.0 && counts("engine_prompt") == counts("prompt"));
    assert_eq!(router.metric("tokenweir_engine_kv_tokens", &[]), 430_000.0);
    assert_eq!(told(&router).len(), 8, "{:?}", told(&router));
    let listed = &listed(&router)[0];
    assert_eq!(listed["tokens"], serde_json::json!({ "prefill": 0, "decoding": 0, "resident": 0 }));
    let engine = &listed["engine"];
    assert_eq!((&engine["completion_tokens"], &engine["block_tokens"]), (&21.into(), &16.into()));
    assert!(engine["age_seconds"].as_f64().unwrap() < 1.0, "{engine}");
}

#[test]
fn load_of_direct_clients_sends_requests_elsewhere_until_it_ends() {
    let replicas = [slow(), slow()];
    let router = over(&[&replicas[0].url(), &replicas[1].url()]);
    let direct = [(); 3].map(|()| endless(replicas[0].addr()));
    let foreign = || router.metric("tokenweir_foreign_requests", &[]);
    wait_until("the direct clients are seen", || foreign() == 3.0);
    assert!(router.metric("tokenweir_foreign_tokens", &[&replicas[0].addr().to_string()]) >= 3.0);
    let picks = |count| -> Vec<String> {
        let pick =
            |_| router.post("/v1/chat/completions", chat("m", 1, false)).header("x-upstream").unwrap().to_owned();
        (0..count).map(pick).collect()
    };
    assert_eq!(picks(4), vec![replicas[1].addr().to_string(); 4]);
    let in_flight: Vec<u32> = router.server.fleet().replicas().iter().map(|replica| replica.in_flight()).collect();
    assert_eq!(in_flight, [0, 0], "requests from elsewhere are not ours");
    drop(direct);
    wait_until("their end is seen", || foreign() == 0.0);
    assert!(picks(4).contains(&replicas[0].addr().to_string()));
}

#[test]
fn our_own_requests_are_not_foreign() {
    let replica = slow();
    let router = over(&[&replica.url()]);
    let streams = [(); 4].map(|()| endless(router.addr));
    let running = || router.metric("tokenweir_engine_requests_running", &[]);
    wait_until("they are running", || running() == 4.0);
    looks(&replica, 4);
    assert_eq!(router.metric("tokenweir_foreign_requests", &[]), 0.0);
    assert_eq!(router.metric("tokenweir_foreign_tokens", &[]), 0.0);
    assert_eq!(listed(&router)[0]["tokens"]["decoding"], 4);
    drop(streams);
    wait_until("they are gone", || running() == 0.0);
    assert_eq!(router.metric("tokenweir_foreign_requests", &[]), 0.0);
}

#[test]
fn nothing_is_known_of_an_engine_that_has_died() {
    let (mut dying, living) = (replica(&["m"]), replica(&["m"]));
    let name = dying.addr().to_string();
    let router = over(&[&dying.url(), &living.url()]);
    let about = |name: &str| told(&router).iter().filter(|line| line.contains(name)).count();
    wait_until("both are known", || told(&router).len() == 16);
    dying.stop();
    wait_until("one is not any more", || about(&name) == 0);
    assert_eq!(about(&living.addr().to_string()), 8);
    let listed = listed(&router);
    assert!(listed[0]["engine"].is_null() && listed[1]["engine"].is_object(), "{listed:?}");
}

#[test]
fn a_replica_without_an_engines_metrics_is_left_alone() {
    let without = Scripted::start(&["m"], crate::harness::scripted::friendly);
    let others = Scripted::measured(&["m"], |_, to| {
        to.write_all(&whole(200, "text/plain", "process_cpu_seconds_total 5\n")).is_ok()
    });
    let engine = replica(&["m"]);
    let router = over(&[&without.url(), &others.url(), &engine.url()]);
    looks(&engine, 8);
    assert_eq!((without.scraped(), others.scraped()), (1, 1));
    assert_eq!(told(&router).len(), 8, "of the engine alone");
}

#[test]
fn nobody_is_asked_where_it_is_off_or_anything_may_be_behind() {
    let replicas = [(); 3].map(|()| replica(&["m"]));
    let pool = |at: usize, more: &str| {
        let (name, url) = (["a", "b", "c"][at], replicas[at].url());
        format!("[[pool]]\nname = \"{name}\"\nhost = \"{name}\"\nreplicas = [\"{url}\"]\n{more}\n")
    };
    let pools =
        [pool(0, "engine_metrics = \"off\""), pool(1, "paths = \"any\""), pool(2, "engine_metrics = 0.1")].concat();
    let _router = Router::start(&pools);
    looks(&replicas[2], 5);
    let asked = replicas.each_ref().map(|replica| replica.counters().seen("/metrics") > 0);
    assert_eq!(asked, [false, false, true]);
}

#[test]
fn ten_megabytes_are_refused_and_a_silent_replica_delays_nobody() {
    let huge = Scripted::measured(&["m"], |_, to| {
        let line = b"vllm:num_requests_running 5\n";
        let body = [line.as_slice(), &vec![b'x'; 10 << 20]].concat();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body)).is_ok()
    });
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let silent = Scripted::measured(&["m"], move |_, _| {
        // Until the test ends.
        let _ = held.lock().unwrap().recv_timeout(crate::harness::PATIENCE);
        false
    });
    let engine = replica(&["m"]);
    let router = over(&[&huge.url(), &silent.url(), &engine.url()]);
    wait_until("both have been asked", || huge.scraped() == 1 && silent.scraped() == 1);
    let before = engine.counters().seen("/metrics");
    crate::harness::within(Duration::from_secs(2), "the engine is asked while one is silent", || {
        engine.counters().seen("/metrics") >= before + 5
    });
    assert_eq!((silent.scraped(), huge.scraped()), (1, 1));
    wait_until("the silent one is asked again", || silent.scraped() == 2);
    assert_eq!(told(&router).len(), 8, "of the engine alone");
    assert_eq!(huge.scraped(), 1, "what is too large is no engine's");
    drop(hold);
}
