//! Compression of responses.

use std::io::{Read, Write};

use crate::harness::client::{HttpResponse, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::{TestRouter, chat_body, fast_settings, start_replica_with};
use flate2::read::GzDecoder;

const ACCEPT_GZIP: &str = "Accept-Encoding: br, gzip\r\n";

fn decompress_body(reply: &HttpResponse) -> String {
    let mut text = String::new();
    GzDecoder::new(&*reply.body).read_to_string(&mut text).unwrap();
    text
}

/// Starts a router over a replica that answers with `more` header lines and this body, framed by its length.
fn start_answering(more: &'static str, kind: &'static str, body: String) -> (ScriptedReplica, TestRouter) {
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        let answer = String::from_utf8(build_response(200, kind, &body)).unwrap();
        to.write_all(answer.replacen("200 X", &format!("200 X{more}"), 1).as_bytes()).is_ok()
    });
    let router = TestRouter::start(&format!("gzip = '1KiB'\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    (replica, router)
}

fn post_chat(router: &TestRouter, headers: &str) -> HttpResponse {
    router.send_request("POST", "/v1/chat/completions", headers, chat_body("m", 1, false))
}

#[test]
fn json_is_compressed_for_accepting_clients() {
    let body = format!("[{}1]", "1234567, ".repeat(100_000));
    let (replica, router) =
        start_answering("\r\nETag: \"a\"\r\nVary: Origin", "application/json; charset=utf-8", body.clone());
    let reply = post_chat(&router, ACCEPT_GZIP);
    assert_eq!((reply.header("content-encoding"), reply.header("content-length")), (Some("gzip"), None));
    assert_eq!(reply.header("etag"), Some("W/\"a\""));
    assert!(
        reply.head.contains("vary: Origin\r\n") && reply.head.contains("vary: accept-encoding\r\n"),
        "{}",
        reply.head
    );
    assert!(reply.complete && reply.body.len() < body.len() / 50, "{}", reply.body.len());
    assert!(decompress_body(&reply) == body);
    assert_eq!(replica.last_request().header("accept-encoding"), None);
    let plain = post_chat(&router, "");
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), (None, Some("\"a\"")));
    assert_eq!(plain.header("content-length"), Some(&*body.len().to_string()));
    assert!(plain.head.contains("vary: accept-encoding\r\n") && plain.text() == body);
}

#[test]
fn small_other_and_compressed_answers_are_unchanged() {
    let long = "x".repeat(5_000);
    for (more, kind, body) in [
        ("", "application/json", "x".repeat(1_023)),
        ("", "text/plain", long.clone()),
        ("\r\nContent-Encoding: br", "application/json", long.clone()),
        ("\r\nCache-Control: no-transform", "application/json", long),
    ] {
        let (_replica, router) = start_answering(more, kind, body.clone());
        let reply = post_chat(&router, ACCEPT_GZIP);
        assert_eq!(reply.text(), body, "{more} {kind}");
        assert_ne!(reply.header("content-encoding"), Some("gzip"), "{more} {kind}");
    }
}

#[test]
fn streams_are_never_compressed() {
    let emulated = start_replica_with(fast_settings(&["m"]));
    let router = TestRouter::start(&format!("gzip = '1'\nreplicas = ['{}']", emulated.url())).wait_until_ready();
    let stream = router.send_request("POST", "/v1/chat/completions", ACCEPT_GZIP, chat_body("m", 20, true));
    assert_eq!((stream.header("content-encoding"), stream.header("vary")), (None, None));
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    let models = router.send_request("GET", "/v1/models", ACCEPT_GZIP, "");
    assert!(models.header("content-encoding") == Some("gzip") && decompress_body(&models).contains("\"m\""));
}

#[test]
fn truncated_answer_stays_truncated_when_compressed() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        // Too large to be buffered until it is complete.
        let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n";
        let _ = to.write_all(format!("{head}{}", "x".repeat(2_000_000)).as_bytes());
        false
    });
    let router = TestRouter::start(&format!("gzip = '1KiB'\nreplicas = [{:?}]", replica.url())).wait_until_ready();
    let mut client = router.connect();
    client.send(build_request("POST", "/v1/chat/completions", ACCEPT_GZIP, chat_body("m", 1, false)));
    // The head may not have been sent yet.
    if client.try_read_head().is_some() {
        client.read_remaining_body();
        assert!(client.is_broken());
    }
}

#[test]
fn gzip_is_off_by_default() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(&build_response(200, "application/json", &"1".repeat(9_000))).is_ok()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = post_chat(&router, ACCEPT_GZIP);
    assert_eq!((reply.header("content-encoding"), reply.header("vary"), reply.body.len()), (None, None, 9_000));
}
