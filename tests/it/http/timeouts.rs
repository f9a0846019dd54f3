//! Timeouts for clients and replicas.

use crate::harness::{TestRouter, chat_body, client::build_request, start_replica, unused_addr};

/// Starts a router with a short head timeout and a long idle timeout.
fn start_router(url: &str) -> TestRouter {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nreplicas = [\"{url}\"]\n\
         [timeouts]\nclient_header = \"300ms\"\nclient_body = \"300ms\"\nkeepalive = \"60s\"\nfirst_byte = \"300ms\"\nidle = \"300ms\"\n"
    );
    TestRouter::start(&text).wait_until_ready()
}

#[test]
fn slow_head_is_closed_and_idle_connection_is_not() {
    let replica = start_replica(&["m"]);
    let router = start_router(&replica.url());
    let mut idle = router.connect();
    idle.send(build_request("GET", "/v1/models", "", ""));
    assert_eq!(idle.read_response().status, 200);
    let mut silent = router.connect();
    let mut slow = router.connect();
    slow.send("GET /v1/models HTTP/1.1\r\nHo");
    assert!(slow.wait_for_close(), "a partial head times out");
    assert!(silent.wait_for_close(), "a missing head times out");
    idle.send(build_request("GET", "/v1/models", "", ""));
    assert_eq!(idle.read_response().status, 200);
    idle.send("GET /v1/mod");
    assert!(idle.wait_for_close(), "a partial second head times out");
}

#[test]
fn stalled_body_is_408() {
    let replica = start_replica(&["m"]);
    let router = start_router(&replica.url());
    let mut client = router.connect();
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"model\":");
    let reply = client.read_response();
    assert_eq!((reply.status, reply.openai_error()["type"].as_str().unwrap()), (408, "invalid_request_error"));
}

#[test]
fn replica_without_first_byte_is_504() {
    let replica = start_replica(&["m"]);
    let router = start_router(&replica.url());
    let reply = router.send_request(
        "POST",
        "/v1/chat/completions",
        "x-emulate-fault: slow-headers=60000\r\n",
        chat_body("m", 3, true),
    );
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn silent_stream_is_aborted() {
    let replica = start_replica(&["m"]);
    let router = start_router(&replica.url());
    let reply =
        router.send_request("POST", "/v1/chat/completions", "x-emulate-fault: stall=2\r\n", chat_body("m", 9, true));
    assert_eq!((reply.status, reply.complete), (200, false));
    assert_eq!(reply.text().matches("data: ").count(), 3, "two events and an error event: {}", reply.text());
    assert!(!reply.text().contains("[DONE]"));
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn refused_and_timed_out_connections_differ() {
    let router = TestRouter::start(&format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nreplicas = [\"http://{}\"]\npaths = \"any\"\n",
        unused_addr()
    ));
    let reply = router.get("/x");
    assert_eq!((reply.status, reply.openai_error()["code"].as_str().unwrap()), (503, "no_replica"));
}

#[test]
fn header_timeout_does_not_limit_the_response() {
    let slow = crate::harness::scripted::ScriptedReplica::start(&["m"], |_, stream| {
        std::thread::sleep(std::time::Duration::from_millis(600));
        std::io::Write::write_all(stream, b"HTTP/1.0 200 OK\r\n\r\nlate").unwrap();
        false
    });
    let text =
        format!("replicas = [\"http://{}\"]\npaths = \"any\"\n[timeouts]\nclient_header = \"300ms\"\n", slow.addr);
    let router = TestRouter::start(&text);
    let mut client = router.connect();
    client.send("GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_response().text(), "late");
}
