//! Promises about ejection: causes, durations, and replicas that are never ejected.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::setup::{
    CHAT_PATH, CONTENT_EVENT, JSON_CONTENT_TYPE, StageRouter, Stopwatch, ejected_count, encode_chunk, post_chat,
    read_until_closed, sleep_millis, start_fixed_replica, start_good_replica, start_router, start_sick_replica,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TEST_TIMEOUT, chat_body, unused_addr, wait_until};

/// Starts a router over two replicas; `words` are the first one's options.
fn start_two(first: &ScriptedReplica, words: &str, second: &ScriptedReplica, more: &str) -> StageRouter {
    let replicas = [format!("{} {words}", first.url()), second.url()];
    StageRouter::start(&format!("policy = \"round_robin\"\nretry_budget_min = 1000\nreplicas = {replicas:?}\n{more}"))
        .wait_until_ready()
}

/// Returns the times at which a replica receives requests. The pool gets one every 20 ms, and each must succeed.
fn record_request_times(router: &StageRouter, replica: &ScriptedReplica, count: usize, limit: Duration) -> Vec<f64> {
    let (watch, mut times) = (Stopwatch::start(), Vec::new());
    while times.len() < count && watch.elapsed() < limit {
        assert_eq!(post_chat(router).status, 200);
        let request_count = replica.received_requests().len();
        times.resize(request_count.max(times.len()), watch.elapsed().as_secs_f64());
        sleep_millis(20);
    }
    times
}

/// "`max_fails` failures within `fail_timeout` (nginx's meaning; ...) eject for `fail_timeout`"; "unless configured by
/// nginx words alone": then each ejection has the same length.
#[test]
fn max_fails_failures_eject_for_fail_timeout() {
    let (bad, alive) = (start_fixed_replica(500, "{}"), start_good_replica());
    let router = start_two(&bad, "max_fails=3 fail_timeout=1s", &alive, "");
    let times = record_request_times(&router, &bad, 6, TEST_TIMEOUT);
    assert!(times[2] < 0.9, "three failures at first: {times:?}");
    let gaps: Vec<f64> = times.windows(2).skip(2).map(|two| two[1] - two[0]).collect();
    // nginx counts whole seconds, so an ejection takes up to one second more. If they grew, the third would take three.
    assert!(gaps[0] > 0.9, "{times:?}");
    assert!(gaps.iter().all(|gap| *gap < 2.2), "no ejection exceeds `fail_timeout`: {times:?}");
}

/// "Unless configured ... by `import`": then each ejection has nginx's length.
#[test]
fn imported_pool_ejects_as_nginx() {
    let (bad, alive) = (start_fixed_replica(500, "{}"), start_good_replica());
    let folder = super::process::create_test_dir("imported");
    let conf = folder.join("nginx.conf");
    let (a, b) = (bad.addr, alive.addr);
    let upstream = format!("upstream u {{ server {a} fail_timeout=1s; server {b}; }}");
    let server = "server { listen 127.0.0.1:8080; location / { proxy_pass http://u; } }";
    std::fs::write(&conf, format!("events {{}}\nhttp {{ {upstream}\n{server} }}\n")).unwrap();
    let output = super::process::tokenweir_command(&["import", conf.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = text.replace("127.0.0.1:8080", "127.0.0.1:0");
    let text = text.lines().filter(|line| !line.starts_with("access =") && !line.starts_with("error ="));
    let router = StageRouter::start(&text.map(|line| format!("{line}\n")).collect::<String>());
    let times = record_request_times(&router, &bad, 5, TEST_TIMEOUT);
    let gaps: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.len() == 4 && gaps.iter().all(|gap| (0.9..1.9).contains(gap)), "{times:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// "(... defaults 1 and 10 s)"
#[test]
fn one_failure_ejects_for_ten_seconds_by_default() {
    let (bad, alive) = (start_fixed_replica(500, "{}"), start_good_replica());
    let router = start_router([&bad, &alive], "");
    let times = record_request_times(&router, &bad, 2, TEST_TIMEOUT);
    assert_eq!(times.len(), 2);
    assert!((9.8..11.5).contains(&(times[1] - times[0])), "{times:?}");
}

/// "The next ejections grow x n ... and n falls back after a served probe."
#[test]
fn ejection_time_grows_until_a_probe_is_served() {
    let ((replica, sick), alive) = (start_sick_replica(), start_good_replica());
    let router = start_two(&replica, "fail_timeout=1s", &alive, "eject_backoff = true");
    let first = record_request_times(&router, &replica, 3, TEST_TIMEOUT);
    let gaps: Vec<f64> = first.windows(2).map(|two| two[1] - two[0]).collect();
    assert!((0.9..1.8).contains(&gaps[0]) && (1.9..2.9).contains(&gaps[1]), "{first:?}");
    // After a served probe the next ejection is as long as the first.
    sick.store(false, Ordering::SeqCst);
    let probed = replica.received_requests().len();
    wait_until("a probe is served", || post_chat(&router).status == 200 && replica.received_requests().len() > probed);
    sick.store(true, Ordering::SeqCst);
    let before = replica.received_requests().len();
    let again = record_request_times(&router, &replica, before + 2, TEST_TIMEOUT);
    let gap = again[before + 1] - again[before];
    assert!((0.9..1.8).contains(&gap), "{again:?}");
}

/// "Passive ejection stops at max(1, 50 %) of a pool (panic mode beyond)."
#[test]
fn failed_requests_eject_at_most_half_of_a_pool() {
    for (size, limit) in [(1, 1.0), (2, 1.0), (4, 2.0), (5, 2.0)] {
        // Alternating statuses, so that no request fails twice in the same way and is at fault.
        let replicas: Vec<_> = (0..size).map(|at| start_fixed_replica([500, 502][at % 2], "{}")).collect();
        let router = start_router(&replicas, "retry_budget_min = 1000");
        for _ in 0..12 {
            assert!([500, 502].contains(&post_chat(&router).status), "a replica still gets the request");
        }
        assert!(ejected_count(&router) <= limit, "{} of {size}", ejected_count(&router));
        let before: usize = replicas.iter().map(|replica| replica.received_requests().len()).sum();
        post_chat(&router);
        assert!(replicas.iter().map(|replica| replica.received_requests().len()).sum::<usize>() > before);
    }
}

/// "Active checks and refused connections may take all."
#[test]
fn health_checks_and_refused_connections_may_eject_all() {
    let gone = [unused_addr(), unused_addr(), unused_addr()].map(|addr| format!("http://{addr}"));
    let router = StageRouter::start(&format!("paths = \"any\"\nmodel = \"m\"\nreplicas = {gone:?}"));
    assert_eq!((post_chat(&router).status, ejected_count(&router)), (503, 3.0));
    let well = Arc::new(AtomicBool::new(true));
    let replicas = [(); 2].map(|()| {
        let well = well.clone();
        ScriptedReplica::start(&["m"], move |received, to| {
            let well = received.target() != "/health" || well.load(Ordering::SeqCst);
            to.write_all(&build_response(if well { 200 } else { 503 }, JSON_CONTENT_TYPE, "{}")).is_ok()
        })
    });
    let router = start_router(&replicas, "health_check = { interval = \"100ms\", rise = 1, fall = 2 }");
    assert_eq!(post_chat(&router).status, 200);
    well.store(false, Ordering::SeqCst);
    wait_until("all are ejected", || ejected_count(&router) == 2.0);
    assert_eq!(post_chat(&router).status, 503);
    well.store(true, Ordering::SeqCst);
    wait_until("all have recovered", || ejected_count(&router) == 0.0);
    assert_eq!(post_chat(&router).status, 200);
}

/// "No progress while others progress (wedged engine) ejects too."
#[test]
fn stalled_engine_is_ejected() {
    let wedged =
        ScriptedReplica::start(&["m"], |_, to| to.write_all(STREAM_HEAD.as_bytes()).is_ok() && read_until_closed(to));
    let alive = start_good_replica();
    let router = start_router([&wedged, &alive], "stall_timeout = \"500ms\"");
    let mut held = router.connect();
    held.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
    wait_until("the wedged replica has the request", || wedged.received_requests().len() == 1);
    let mut more = Vec::new();
    wait_until("the wedged replica is ejected", || {
        // Every second request goes to the wedged replica until it is ejected; the test does not wait for those.
        let mut client = router.connect();
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, false)));
        more.push(client);
        sleep_millis(50);
        router.sum_metric("tokenweir_ejections_total", &["reason=\"stalled\""]) == 1.0
    });
    let before = wedged.received_requests().len();
    assert!((0..6).all(|_| post_chat(&router).status == 200));
    assert_eq!(wedged.received_requests().len(), before, "the ejected replica gets no request");
}

/// "One request probes": one of many that arrive when the ejection ends.
#[test]
fn one_request_probes_an_ejected_replica() {
    let probes = Arc::new(AtomicU32::new(0));
    let count = probes.clone();
    let bad = ScriptedReplica::start(&["m"], move |_, to| {
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            sleep_millis(800);
        }
        to.write_all(&build_response(500, JSON_CONTENT_TYPE, "{}")).is_ok()
    });
    let alive = start_good_replica();
    let router = start_two(&bad, "fail_timeout=1s", &alive, "");
    wait_until("the replica is ejected", || post_chat(&router).status == 200 && ejected_count(&router) == 1.0);
    sleep_millis(1_100);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(post_chat(&router).status, 200));
        }
    });
    assert_eq!(probes.load(Ordering::SeqCst), 2, "the first failure and one probe");
}

/// "`slow_start` ramps the weight as in nginx."
#[test]
fn slow_start_ramps_the_weight() {
    let ((replica, sick), alive) = (start_sick_replica(), start_good_replica());
    let router = start_two(&replica, "fail_timeout=1s slow_start=4s", &alive, "");
    wait_until("the replica is ejected", || post_chat(&router).status == 200 && ejected_count(&router) == 1.0);
    sick.store(false, Ordering::SeqCst);
    wait_until("the replica has recovered", || post_chat(&router).status == 200 && ejected_count(&router) == 0.0);
    let share = || {
        let before = replica.received_requests().len();
        assert!((0..40).all(|_| post_chat(&router).status == 200));
        (replica.received_requests().len() - before) as f64 / 40.0
    };
    let (early, watch) = (share(), Stopwatch::start());
    while watch.elapsed() < Duration::from_millis(4_500) {
        sleep_millis(50);
    }
    let late = share();
    assert!(early < 0.35 && (0.45..=0.55).contains(&late), "{early} at first, {late} in the end");
}

/// "4xx from clients, client hang-ups, 429/503 back-pressure and our own slowness never eject."
#[test]
fn client_faults_never_eject() {
    for status in [400, 401, 404, 408, 409, 413, 422, 429, 503] {
        let replicas = [start_fixed_replica(status, "{}"), start_fixed_replica(status, "{}")];
        let router = start_router(&replicas, "");
        assert!((0..6).all(|_| post_chat(&router).status == status));
        assert_eq!(
            (router.sum_metric("tokenweir_ejections_total", &[]), ejected_count(&router)),
            (0.0, 0.0),
            "{status}"
        );
    }
    let begun = format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT));
    let open =
        move |_: &_, to: &mut std::net::TcpStream| to.write_all(begun.as_bytes()).is_ok() && read_until_closed(to);
    let replicas = [ScriptedReplica::start(&["m"], open.clone()), ScriptedReplica::start(&["m"], open)];
    let router = start_router(&replicas, "");
    for _ in 0..6 {
        let mut client = router.connect();
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
        assert_eq!(client.read_head().status, 200);
        client.reset_connection();
    }
    wait_until("all clients have left", || router.sum_metric("tokenweir_in_flight", &[]) == 0.0);
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
}

/// "Our own slowness never ejects": a client that stops reading keeps the router from reading for longer than the idle
/// timeout, and the replica is not ejected.
#[test]
fn slow_reader_never_ejects_its_replica() {
    let piece = encode_chunk(&format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(60_000)));
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        if !received.body.windows(13).any(|bytes| bytes == b"include_usage") {
            return respond_ok(received, to);
        }
        let begun = to.write_all(STREAM_HEAD.as_bytes()).is_ok();
        let sent = (0..400).all(|_| to.write_all(piece.as_bytes()).is_ok());
        begun && sent && to.write_all(b"0\r\n\r\n").is_ok()
    });
    let router = start_router([&replica], "stall_timeout = \"500ms\"\n[timeouts]\nidle = \"2s\"");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, true)));
    assert_eq!(client.read_head().status, 200);
    sleep_millis(3_000);
    let read = client.read_remaining_body();
    let end = String::from_utf8_lossy(&read[read.len().saturating_sub(300)..]);
    assert!(!client.is_broken() && read.len() > 400 * 60_000, "{} bytes, then {end}", read.len());
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &[]), 0.0);
}
