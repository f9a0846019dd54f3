//! Promises about operations.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::process::{ServerProcess, create_test_dir, tokenweir_command};
use super::setup::{CHAT_PATH, Stopwatch};
use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::{chat_body, send_request, start_replica, unused_addr, wait_until};

/// Starts a stream in lock-step and reads its head.
fn start_lockstep_stream(process: &ServerProcess, id: &str) -> TestClient<TcpStream> {
    let mut client = TestClient::connect(process.data_addr);
    let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: {id}\r\n");
    client.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 5, true)));
    assert_eq!(client.read_head().status, 200);
    client
}

fn assert_stream_finishes(client: &mut TestClient<TcpStream>, replica: &tokenweir::emulate::EmulatedReplica, id: &str) {
    while send_request(replica.addr(), "POST", &format!("/emulate/next/{id}"), "", "").status == 200 {}
    let text = String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(!client.is_broken() && text.ends_with("data: [DONE]\n\n"), "{id}: {text}");
}

/// "SIGTERM/SIGQUIT: readiness fails, streams finish."
#[test]
fn sigterm_and_sigquit_let_streams_finish() {
    for signal in ["TERM", "QUIT"] {
        let replica = start_replica(&["m"]);
        let mut process =
            ServerProcess::start(&format!("end-{signal}"), &format!("replicas = [{:?}]", replica.url()), 1024);
        let mut client = start_lockstep_stream(&process, signal);
        process.send_signal(signal);
        wait_until("readiness fails", || send_request(process.admin_addr(), "GET", "/readyz", "", "").status == 503);
        assert_eq!(send_request(process.admin_addr(), "GET", "/livez", "", "").status, 200);
        assert_stream_finishes(&mut client, &replica, signal);
        assert_eq!(process.wait_for_exit(), Some(0), "{signal}");
    }
}

/// "Deadline 300 s (here: 300 ms), second signal ends at once."
#[test]
fn drain_deadline_and_second_signal_end_streams() {
    for (drain, signals) in [("300ms", 1), ("300s", 2)] {
        let replica = start_replica(&["m"]);
        let text = format!("replicas = [{:?}]\n[timeouts]\ndrain = \"{drain}\"", replica.url());
        let mut process = ServerProcess::start(&format!("cut-{signals}"), &text, 1024);
        let mut client = start_lockstep_stream(&process, "endless");
        let watch = Stopwatch::start();
        for _ in 0..signals {
            process.send_signal("TERM");
            wait_until("the listener is closed", || TcpStream::connect(process.data_addr).is_err());
        }
        assert!(process.wait_for_exit().is_some() && watch.elapsed() < Duration::from_secs(10));
        client.read_remaining_body();
        assert!(client.is_broken(), "the client sees an incomplete response");
    }
}

/// "SIGHUP: the new file is checked whole before one swap; a bad one changes nothing and says why (file, line, column,
/// hint)."
#[test]
fn bad_file_changes_nothing_and_is_explained() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let process = ServerProcess::start("bad-file", &format!("replicas = [{:?}]\n", replicas[0].url()), 1024);
    // The first line is valid; the last one is not.
    process.write_config(&format!("replicas = [{:?}]\n[limits]\nbody_byte = 1\n", replicas[1].url()));
    process.send_signal("HUP");
    let logged = |words: &str| process.read_log("error.log").contains(words);
    wait_until("the error names the place and the key", || logged("router.toml:3:1") && logged("body_bytes"));
    let reply = send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 1, false));
    assert_eq!(reply.header("x-upstream"), Some(&*replicas[0].addr().to_string()));
    process.write_config(&format!("replicas = [{:?}]\n", replicas[1].url()));
    process.send_signal("HUP");
    let second = replicas[1].addr().to_string();
    wait_until("a valid file is applied", || {
        send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 1, false)).header("x-upstream")
            == Some(&*second)
    });
}

/// "No request or stream is lost by a reload."
#[test]
fn reloads_lose_no_request() {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let [a, b] = replicas.each_ref().map(|replica| replica.url());
    let texts = [format!("replicas = [{a:?}]"), format!("policy = \"round_robin\"\nreplicas = [{a:?}, {b:?}]")];
    let process = ServerProcess::start("reloads", &texts[0], 1024);
    let mut streams: Vec<_> = (0..10).map(|at| (at, start_lockstep_stream(&process, &format!("s{at}")))).collect();
    let (done, answered, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let reply = send_request(process.data_addr, "POST", CHAT_PATH, "", chat_body("m", 2, false));
                    lost.fetch_add(u32::from(reply.status != 200 || !reply.complete), Ordering::Relaxed);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=10 {
            let before = answered.load(Ordering::Relaxed);
            process.write_config(&texts[round % 2]);
            process.send_signal("HUP");
            wait_until("requests continue", || answered.load(Ordering::Relaxed) >= before + 15);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0, "of {}", answered.load(Ordering::Relaxed));
    for (at, client) in &mut streams {
        assert_stream_finishes(client, &replicas[0], &format!("s{at}"));
    }
}

/// "Bad config or port in use: exit code 1 and a message with the cause and the fix."
#[test]
fn unusable_configuration_exits_with_1_and_is_explained() {
    let folder = create_test_dir("cannot");
    let bad = folder.join("bad.toml");
    let url = format!("http://{}", unused_addr());
    for (text, words) in [
        (format!("replicas = [{url:?}]\npolcy = \"least_conn\""), ["bad.toml:2:1", "policy"]),
        (format!("replicas = [{url:?}]\npolicy = \"least_con\""), ["bad.toml:2:", "least_conn"]),
        (format!("replicas = [{url:?}]\n[timeouts]\nidle = \"3 parsecs\""), ["bad.toml:3:", "30s"]),
    ] {
        fs::write(&bad, &text).unwrap();
        let output = tokenweir_command(&["serve", "-c", bad.to_str().unwrap()]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{words:?}: {stderr}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = tokenweir_command(&["serve", &url]).env("TOKENWEIR__LISTEN", &addr).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!([&*addr, "in use", "choose another"].iter().all(|word| stderr.contains(word)), "{stderr}");
    fs::remove_dir_all(folder).unwrap();
}

/// "`/livez`, `/readyz`."
#[test]
fn livez_and_readyz_follow_the_state() {
    let alive = start_replica(&["m"]);
    let router = super::setup::StageRouter::start(&format!("replicas = [{:?}]", alive.url())).wait_until_ready();
    assert_eq!((router.get("/livez").status, router.get("/readyz").status), (200, 200));
    let router = super::setup::StageRouter::start(&format!("replicas = [\"http://{}\"]", unused_addr()));
    assert_eq!((router.get("/livez").status, router.get("/readyz").status), (200, 503));
}

/// Returns the series of a page; checks each line against Prometheus' text format.
fn parse_series(page: &str) -> BTreeSet<String> {
    let mut typed = BTreeSet::new();
    let mut found = BTreeSet::new();
    assert!(page.ends_with('\n'));
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with("# HELP ")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert!(typed.insert(name), "{name} has two types");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() || ["+Inf", "-Inf", "NaN"].contains(&value), "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(typed.contains(name) || base.is_some_and(|base| typed.contains(base)), "{line} has no type");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(!value.trim_end_matches('"').contains(['\n', '"']), "{line}");
        }
        assert!(found.insert(series.to_owned()), "{series} is there twice");
    }
    found
}

/// "`/metrics` is valid Prometheus text; invented model names and paths add no series."
#[test]
fn invented_names_add_no_metric_series() {
    let replica = start_replica(&["m"]);
    let router =
        super::setup::StageRouter::start(&format!("engine_metrics = \"off\"\nreplicas = [{:?}]", replica.url()))
            .wait_until_ready();
    let page = || send_request(router.admin_addr(), "GET", "/metrics", "", "").text();
    let ask_for =
        |model: &str, path: &str, method: &str| router.send_request(method, path, "", chat_body(model, 2, true)).status;
    assert_eq!(
        (ask_for("m", CHAT_PATH, "POST"), ask_for("none", CHAT_PATH, "POST"), ask_for("m", "/none", "POST")),
        (200, 404, 404)
    );
    wait_until("the lease has settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 1.0);
    let before = parse_series(&page());
    assert!(before.len() > 20);
    for at in 0..200 {
        ask_for(&format!("invented-{at}\\\"\\n{{}}"), CHAT_PATH, "POST");
        ask_for("m", &format!("/invented/{at}"), "POST");
        ask_for("m", "/v1/models", &format!("METHOD{at}"));
    }
    let after = parse_series(&page());
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

/// "Invented model names add no series": also without a configured list of models.
#[test]
fn invented_models_add_no_series_without_model_lists() {
    let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    let replica = ScriptedReplica::start(&[], move |_, to| {
        to.write_all(&build_response(200, "text/event-stream", &format!("{event}data: [DONE]\n\n"))).is_ok()
    });
    let router = super::setup::StageRouter::start(&format!(
        "paths = \"any\"\nengine_metrics = \"off\"\nreplicas = [{:?}]",
        replica.url()
    ));
    let page = || send_request(router.admin_addr(), "GET", "/metrics", "", "").text();
    assert_eq!(router.post(CHAT_PATH, chat_body("one", 2, true)).status, 200);
    wait_until("the lease has settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 1.0);
    let before = parse_series(&page());
    for at in 0..50 {
        assert_eq!(router.post(CHAT_PATH, chat_body(&format!("invented-{at}"), 2, true)).status, 200);
        assert_eq!(router.get(&format!("/invented/{at}")).status, 200);
    }
    wait_until("all leases have settled", || router.sum_metric("tokenweir_attempts_total", &["completed"]) == 101.0);
    let after = parse_series(&page());
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}
