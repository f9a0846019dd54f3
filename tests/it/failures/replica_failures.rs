//! Replica failures: retries, errors to clients, and ejection.

use std::io::Write;
use std::net::TcpListener;

use crate::harness::client::{HttpResponse, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response, respond_ok};
use crate::harness::{TestRouter, chat_body, fast_settings, send_request, start_replica, unused_addr, wait_until};
use tokenweir::clock::Clock;
use tokenweir::emulate::EmulatedReplica;

const CHAT_PATH: &str = "/v1/chat/completions";

/// Starts two replicas under round robin, so that every second request would reach a broken one.
fn start_two(options: &str) -> (TestRouter, [EmulatedReplica; 2]) {
    let replicas = [start_replica(&["m"]), start_replica(&["m"])];
    let urls = replicas.each_ref().map(|r| format!("\"{} {options}\"", r.url())).join(",");
    (TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = [{urls}]")).wait_until_ready(), replicas)
}

/// Makes every POST to a replica meet a fault.
fn order_fault(replica: &EmulatedReplica, fault: &str) {
    let order = format!(r#"{{"fault":"{fault}"}}"#);
    assert_eq!(send_request(replica.addr(), "POST", "/emulate/faults", "", order).status, 200);
}

fn post_chat(router: &TestRouter, stream: bool) -> HttpResponse {
    router.post(CHAT_PATH, chat_body("m", 4, stream))
}

fn failed_attempts(router: &TestRouter) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &["outcome=\"failed\""])
}

#[test]
fn refusing_replica_fails_no_request_and_is_ejected() {
    let (router, [mut gone, alive]) = start_two("fail_timeout=60s");
    gone.stop();
    let mut client = router.connect();
    for _ in 0..100 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, false)));
        let reply = client.read_response();
        assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(&*alive.addr().to_string())));
    }
    assert_eq!(failed_attempts(&router), 1.0, "the replica was tried once and then ejected");
    assert_eq!(alive.counters().request_count(CHAT_PATH), 100);
}

#[test]
fn returned_replica_is_probed_after_fail_timeout() {
    let (router, [mut gone, _alive]) = start_two("fail_timeout=1s");
    let addr = gone.addr();
    gone.stop();
    for _ in 0..4 {
        assert_eq!(post_chat(&router, false).status, 200);
    }
    assert_eq!(failed_attempts(&router), 1.0);
    let back = EmulatedReplica::start(TcpListener::bind(addr).unwrap(), fast_settings(&["m"]), Clock::start()).unwrap();
    wait_until("the replica is tried again", || {
        assert_eq!(post_chat(&router, false).status, 200);
        back.counters().request_count(CHAT_PATH) > 2
    });
}

#[test]
fn request_closed_without_answer_is_retried_once() {
    for fault in ["close-before-head", "close-after-head"] {
        for stream in [true, false] {
            let (router, [bad, good]) = start_two("");
            order_fault(&bad, fault);
            for _ in 0..6 {
                let reply = post_chat(&router, stream);
                assert_eq!((reply.status, reply.complete), (200, true), "{fault}: {}", reply.text());
                assert_eq!(reply.header("x-upstream").unwrap(), good.addr().to_string());
            }
            assert_eq!(
                (bad.counters().request_count(CHAT_PATH), good.counters().request_count(CHAT_PATH)),
                (1, 6),
                "{fault}"
            );
        }
    }
}

#[test]
fn closed_request_is_retried_at_most_once() {
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls = replicas.each_ref().map(|r| format!("{:?}", r.url())).join(",");
    let router = TestRouter::start(&format!("policy = \"least_conn\"\nreplicas = [{urls}]")).wait_until_ready();
    replicas.iter().for_each(|replica| order_fault(replica, "close-before-head"));
    let reply = post_chat(&router, false);
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert_eq!(reply.openai_error()["type"], "api_error");
    assert_eq!(replicas.iter().map(|r| r.counters().request_count(CHAT_PATH)).sum::<u64>(), 2);
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn failure_of_all_replicas_is_a_json_error() {
    let (router, mut replicas) = start_two("");
    replicas.iter_mut().for_each(EmulatedReplica::stop);
    let reply = post_chat(&router, true);
    assert_eq!(
        (reply.status, reply.header("retry-after"), &reply.openai_error()["code"]),
        (503, Some("1"), &"no_replica".into())
    );
    // Both replicas are now ejected.
    let reply = post_chat(&router, true);
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.status == 503 && (1..=10).contains(&seconds), "{}", reply.head);
    assert_eq!((router.get("/readyz").status, router.get("/livez").status), (503, 200));

    let slow = start_replica(&["m"]);
    let config = format!("replicas = [{:?}]\n[timeouts]\nfirst_byte = \"50ms\"\nplain_answer = \"50ms\"", slow.url());
    let router = TestRouter::start(&config).wait_until_ready();
    let late =
        router.send_request("POST", CHAT_PATH, "x-emulate-fault: slow-headers=5000\r\n", chat_body("m", 2, false));
    assert_eq!((late.status, &late.openai_error()["type"]), (504, &"api_error".into()), "{}", late.text());
    assert_eq!(slow.counters().request_count(CHAT_PATH), 1, "the slow replica has the request");
}

#[test]
fn dying_stream_is_cut_and_never_retried() {
    for fault in ["die-midstream=3", "bad-chunk=3"] {
        let (router, replicas) = start_two("");
        let headers = format!("x-emulate-fault: {fault}\r\n");
        let reply = router.send_request("POST", CHAT_PATH, &headers, chat_body("m", 40, true));
        assert_eq!((reply.status, reply.complete), (200, false), "{fault}: the client must see an incomplete response");
        assert!(reply.text().starts_with("data: {") && !reply.text().contains("[DONE]"), "{fault}");
        assert_eq!(replicas.iter().map(|r| r.counters().request_count(CHAT_PATH)).sum::<u64>(), 1, "{fault}");
        wait_until("the outcome is counted", || failed_attempts(&router) == 1.0);
        assert_eq!(router.in_flight(), 0);
    }
    let (router, replicas) = start_two("");
    let half = router.send_request("POST", CHAT_PATH, "x-emulate-fault: die-midstream\r\n", chat_body("m", 4, false));
    assert_eq!((half.status, half.complete), (502, true), "the client has no byte of a plain response yet");
    assert_eq!(replicas.iter().map(|r| r.counters().request_count(CHAT_PATH)).sum::<u64>(), 2);
}

#[test]
fn engine_that_ends_cleanly_after_an_error_counts_as_failed() {
    for (fault, whole) in [("error-event=3", true), ("abort-event=3", false)] {
        let (router, replicas) = start_two("");
        let headers = format!("x-emulate-fault: {fault}\r\n");
        let reply = router.send_request("POST", CHAT_PATH, &headers, chat_body("m", 40, true));
        assert!(reply.status == 200 && reply.text().contains("\"error\""), "{fault}: {}", reply.text());
        assert_eq!((reply.complete, reply.text().contains("abort")), (whole, false), "{fault}");
        assert_eq!(replicas.iter().map(|r| r.counters().request_count(CHAT_PATH)).sum::<u64>(), 1, "{fault}");
        wait_until("the outcome is counted", || failed_attempts(&router) == 1.0);
        let next: Vec<_> = (0..4).map(|_| post_chat(&router, false).header("x-upstream").map(str::to_owned)).collect();
        assert!(next.iter().all(|upstream| *upstream == next[0]), "{fault}: the replica is ejected");
    }
}

#[test]
fn aborted_message_counts_as_failed() {
    let ask = |stream| {
        let (router, replicas) = start_two("");
        let reply = router.send_request(
            "POST",
            "/v1/messages",
            "x-emulate-fault: abort-event=4\r\n",
            chat_body("m", 40, stream),
        );
        wait_until("the outcome is counted", || failed_attempts(&router) > 0.0);
        (reply, replicas.iter().map(|r| r.counters().request_count("/v1/messages")).sum::<u64>())
    };
    let (cut, attempts) = ask(true);
    assert_eq!((cut.status, cut.complete, attempts), (200, false, 1), "{}", cut.text());
    assert!(cut.text().contains("event: error") && !cut.text().contains("message_stop"), "{}", cut.text());
    let (short, attempts) = ask(false);
    assert_eq!((short.status, attempts), (200, 2), "the retry was aborted as well");
    assert!(short.json()["stop_reason"].is_null(), "{}", short.text());
}

#[test]
fn silent_stream_is_cut_at_the_idle_timeout() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start(&format!("replicas = [{:?}]\n[timeouts]\nidle = \"100ms\"", replica.url()))
        .wait_until_ready();
    let reply = router.send_request("POST", CHAT_PATH, "x-emulate-fault: stall=2\r\n", chat_body("m", 9, true));
    assert_eq!((reply.status, reply.complete), (200, false));
    wait_until("the replica is released", || replica.counters().open_requests() == 0);
    assert_eq!((failed_attempts(&router), router.in_flight()), (1.0, 0));
}

#[test]
fn closed_idle_connections_fail_no_request() {
    let replica = start_replica(&["m"]);
    order_fault(&replica, "close-keepalive");
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    for at in 0..200 {
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 2, at % 2 == 0)));
        let reply = client.read_response();
        assert!(reply.status == 200 && reply.complete, "request {at}: {} {}", reply.status, reply.text());
    }
    assert_eq!((failed_attempts(&router), replica.counters().request_count(CHAT_PATH)), (0.0, 200));
}

#[test]
fn stale_connection_is_detected_with_a_request_on_it() {
    // The replica answers the first request of a connection, and closes without a byte at the second.
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let again = received.header("x-forwarded-for").is_some() && mark_used(to);
        !again && respond_ok(received, to)
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for _ in 0..20 {
        assert_eq!(post_chat(&router, false).status, 200);
    }
    assert_eq!(failed_attempts(&router), 0.0);
}

/// Returns whether a connection has carried a request before; a socket option marks it.
fn mark_used(stream: &std::net::TcpStream) -> bool {
    let seen = stream.write_timeout().unwrap().is_some();
    stream.set_write_timeout(Some(crate::harness::TEST_TIMEOUT)).unwrap();
    seen
}

#[test]
fn errors_of_all_replicas_are_relayed_unchanged() {
    let bodies =
        [(400, r#"{"a":1}"#), (404, "x"), (422, ""), (429, "{}"), (500, "Internal Server Error"), (503, r#"{"b":2}"#)];
    for (status, body) in bodies {
        let play = move |_: &_, to: &mut std::net::TcpStream| {
            to.write_all(&build_response(status, "text/x-own", body)).is_ok()
        };
        let replicas = [ScriptedReplica::start(&["m"], play), ScriptedReplica::start(&["m"], play)];
        let router =
            TestRouter::start_with_replicas(replicas.each_ref().map(ScriptedReplica::url).iter().map(String::as_str));
        let reply = post_chat(&router, true);
        assert_eq!((reply.status, &*reply.text(), reply.header("content-type")), (status, body, Some("text/x-own")));
        let tries = if matches!(status, 429 | 500 | 503) { 2 } else { 1 };
        assert_eq!(replicas.iter().map(|r| r.received_requests().len()).sum::<usize>(), tries, "{status}");
        assert_eq!(failed_attempts(&router), 0.0, "{status}: both answer alike, so neither failed");
        assert_eq!(router.get("/readyz").status, 200, "{status}");
    }
}

#[test]
fn loading_replica_becomes_ready() {
    let addr = unused_addr();
    let router = TestRouter::start(&format!("replicas = [\"http://{addr}\"]"));
    let reply = router.get("/readyz");
    assert_eq!((reply.status, reply.text().contains("no replica is ready")), (503, true), "{}", reply.text());
    let early = post_chat(&router, false);
    assert_eq!((early.status, early.header("retry-after")), (503, Some("5")), "{}", early.text());
    assert_eq!(early.openai_error()["code"], "no_replica");
    let _replica =
        EmulatedReplica::start(TcpListener::bind(addr).unwrap(), fast_settings(&["m"]), Clock::start()).unwrap();
    wait_until("the router is ready", || router.get("/readyz").status == 200);
    assert_eq!(post_chat(&router, false).status, 200);
}

#[test]
fn down_backup_and_full_replicas_are_chosen_as_in_nginx() {
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let [main, backup, down] = &replicas;
    let config = format!(
        "replicas = [\"{} max_conns=1\", \"{} backup max_conns=1\", \"{} down\"]",
        main.url(),
        backup.url(),
        down.url()
    );
    let router = TestRouter::start(&config).wait_until_ready();
    let hold = |name: &str| {
        let mut client = router.connect();
        let headers = format!("x-emulate-lockstep: 1\r\nx-request-id: {name}\r\n");
        client.send(build_request("POST", CHAT_PATH, &headers, chat_body("m", 4, true)));
        let head = client.read_head();
        (client, head.header("x-upstream").map(str::to_owned), head.status)
    };
    let first = hold("a");
    assert_eq!(first.1, Some(main.addr().to_string()));
    let second = hold("b");
    assert_eq!(second.1, Some(backup.addr().to_string()));
    let full = post_chat(&router, false);
    assert_eq!(
        (full.status, full.header("retry-after"), &full.openai_error()["type"]),
        (429, Some("1"), &"rate_limit_error".into())
    );
    drop(first);
    wait_until("the primary replica is free", || post_chat(&router, false).status == 200);
    assert_eq!(down.counters().request_count(CHAT_PATH), 0);
}

#[test]
fn death_of_two_of_three_replicas_fails_none_of_300_requests() {
    let mut replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls = replicas.each_ref().map(|r| r.url());
    let router = TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = {urls:?}")).wait_until_ready();
    let mut client = router.connect();
    let clock = Clock::start();
    for at in 0..300 {
        if at == 100 {
            replicas[..2].iter_mut().for_each(EmulatedReplica::stop);
        }
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
        let reply = client.read_response();
        assert_eq!(reply.status, 200, "request {at}, {:?} after the start: {}", clock.now(), reply.text());
    }
    assert_eq!(failed_attempts(&router), 2.0, "each was tried once more, and the next replica at once");
    assert!(replicas[2].counters().request_count(CHAT_PATH) >= 200 + 33);
}

#[test]
fn down_replica_is_not_used_when_another_dies() {
    let (router, [mut dies, down, alive]) = start_three(["", " down", ""]);
    dies.stop();
    assert!((0..10).all(|_| post_chat(&router, false).status == 200));
    assert_eq!((down.counters().request_count(CHAT_PATH), alive.counters().request_count(CHAT_PATH)), (0, 10));
}

#[test]
fn backup_serves_from_the_first_failed_request() {
    let (router, [mut first, backup, mut second]) = start_three(["", " backup", ""]);
    assert!((0..10).all(|_| post_chat(&router, false).status == 200));
    assert_eq!(backup.counters().request_count(CHAT_PATH), 0);
    first.stop();
    assert!((0..10).all(|_| post_chat(&router, false).status == 200));
    assert_eq!(backup.counters().request_count(CHAT_PATH), 0, "a replica that is no backup is available");
    second.stop();
    assert!((0..10).all(|_| post_chat(&router, false).status == 200));
    assert_eq!(backup.counters().request_count(CHAT_PATH), 10);
}

#[test]
fn max_conns_holds_when_other_replicas_are_dead() {
    let (router, [mut first, limited, mut second]) = start_three(["", " max_conns=1", ""]);
    first.stop();
    second.stop();
    assert!((0..10).all(|_| post_chat(&router, false).status == 200), "sequential requests succeed");
    let mut held = router.connect();
    held.send(build_request(
        "POST",
        CHAT_PATH,
        "x-emulate-lockstep: 1\r\nx-request-id: held\r\n",
        chat_body("m", 2, true),
    ));
    assert_eq!(held.read_head().status, 200);
    assert_eq!(post_chat(&router, false).status, 429, "the replica is at its limit");
    assert_eq!(limited.counters().request_count(CHAT_PATH), 11);
    drop(held);
    wait_until("the replica is free again", || post_chat(&router, false).status == 200);
}

/// Starts three replicas under round robin, each with its own options.
fn start_three(words: [&str; 3]) -> (TestRouter, [EmulatedReplica; 3]) {
    let replicas = [(); 3].map(|()| start_replica(&["m"]));
    let urls: Vec<String> = replicas.iter().zip(words).map(|(r, words)| format!("{}{words}", r.url())).collect();
    (TestRouter::start(&format!("policy = \"round_robin\"\nreplicas = {urls:?}")).wait_until_ready(), replicas)
}
