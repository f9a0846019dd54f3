//! Faulty responses: the router checks a response before the client has any byte, and retries on another replica.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};
use crate::harness::{TestRouter, chat_body, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";
const ROLE_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const DONE_EVENT: &str = "data: [DONE]\n\n";
const ERROR_EVENT: &str = "data: {\"error\": {\"message\": \"EngineCore encountered an issue.\", \"type\": \"InternalServerError\", \
    \"param\": null, \"code\": 500}}\n\n";
const ABORT_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n";
const GOOD_BODY: &str = "{\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}";
const ABORTED_BODY: &str = "{\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"finish_reason\":\"abort\"}]}";

/// The behaviour of a replica.
#[derive(Clone, Copy, Debug)]
enum PlayedAnswer {
    /// A complete stream.
    Stream(&'static str),
    /// The beginning of a stream, then FIN.
    Cut(&'static str),
    /// These bytes, then FIN.
    Bytes(&'static str),
    Json(&'static str),
}

fn play_answer(play: PlayedAnswer, to: &mut TcpStream) -> KeepConnection {
    let chunk = |text: &str| if text.is_empty() { String::new() } else { format!("{:x}\r\n{text}\r\n", text.len()) };
    match play {
        PlayedAnswer::Stream(text) => to.write_all(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(text)).as_bytes()).is_ok(),
        PlayedAnswer::Cut(text) => to.write_all(format!("{STREAM_HEAD}{}", chunk(text)).as_bytes()).is_err(),
        PlayedAnswer::Bytes(text) => to.write_all(text.as_bytes()).is_err(),
        PlayedAnswer::Json(text) => to.write_all(&build_response(200, "application/json", text)).is_ok(),
    }
}

/// Starts a router over a failing replica, which is tried first, and a healthy one.
fn start_two(bad: PlayedAnswer, good: PlayedAnswer) -> (TestRouter, [ScriptedReplica; 2]) {
    let replicas = [bad, good].map(|which| {
        ScriptedReplica::start(&["m"], move |_: &ReceivedRequest, to: &mut TcpStream| play_answer(which, to))
    });
    let [bad, good] = replicas.each_ref().map(ScriptedReplica::url);
    let router = format!("policy = \"round_robin\"\nreplicas = [\"{bad} weight=100\", \"{good} weight=1\"]");
    (TestRouter::start(&router).wait_until_ready(), replicas)
}

fn request_counts(replicas: &[ScriptedReplica; 2]) -> [usize; 2] {
    replicas.each_ref().map(|replica| replica.received_requests().len())
}

fn attempt_count(router: &TestRouter, outcome: &str) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

#[test]
fn stream_failing_at_its_first_event_is_retried() {
    let good = concat!("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n", "data: [DONE]\n\n");
    let bad = [
        PlayedAnswer::Stream(ERROR_EVENT),
        PlayedAnswer::Stream(concat!(": ping\n\n", "data: {\"error\":\"gone\"}\n\n", "data: [DONE]\n\n")),
        PlayedAnswer::Stream(ABORT_EVENT),
        PlayedAnswer::Stream(""),
        PlayedAnswer::Stream(": only a comment\n\n"),
        PlayedAnswer::Stream("data: {\"error\":{\"message\":\"no blank line behind it\"}}"),
        PlayedAnswer::Cut(""),
        PlayedAnswer::Cut(": ping\n\n"),
        PlayedAnswer::Cut("data: {\"choices\":[{\"ind"),
        PlayedAnswer::Bytes(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ),
    ];
    for bad in bad {
        let (router, replicas) = start_two(bad, PlayedAnswer::Stream(good));
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        assert_eq!((reply.status, reply.complete, &*reply.text()), (200, true, good), "{bad:?}");
        assert_eq!(reply.header("x-upstream"), Some(&*replicas[1].addr.to_string()), "{bad:?}");
        assert_eq!(request_counts(&replicas), [1, 1], "{bad:?}");
        wait_until("both are counted", || attempt_count(&router, "completed") == 1.0);
        assert_eq!((attempt_count(&router, "failed"), router.in_flight()), (1.0, 0), "{bad:?}");
    }
}

#[test]
fn error_events_of_every_dialect_are_recognised() {
    let good = "data: [DONE]\n\n";
    for (path, body, bad) in [
        ("/v1/completions", r#"{"model":"m","prompt":"x","stream":true}"#, ERROR_EVENT),
        (
            "/v1/responses",
            r#"{"model":"m","input":"x","stream":true}"#,
            "event: error\ndata: {\"type\":\"error\",\"message\":\"x\"}\n\n",
        ),
        (
            "/v1/messages",
            r#"{"model":"m","messages":[],"stream":true}"#,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}\n\n",
        ),
    ] {
        let (router, replicas) = start_two(PlayedAnswer::Stream(bad), PlayedAnswer::Stream(good));
        let reply = router.post(path, body);
        assert_eq!((reply.status, &*reply.text(), request_counts(&replicas)), (200, good, [1, 1]), "{path}");
    }
}

#[test]
fn failing_answer_without_alternative_is_relayed_and_counted() {
    let streams =
        [concat!("data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n", "data: [DONE]\n\n"), ABORT_EVENT, ""];
    for bad in streams.map(PlayedAnswer::Stream).into_iter().chain([PlayedAnswer::Json(ABORTED_BODY)]) {
        let (router, replicas) = start_two(bad, bad);
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        let (PlayedAnswer::Stream(text) | PlayedAnswer::Json(text)) = bad else { unreachable!() };
        assert_eq!((reply.status, reply.complete, &*reply.text()), (200, true, text), "{bad:?}");
        assert_eq!(request_counts(&replicas), [1, 1], "{bad:?}: retried once");
        wait_until("both are counted", || attempt_count(&router, "failed") == 2.0);
        assert_eq!(router.in_flight(), 0);
    }
}

#[test]
fn request_is_retried_at_most_once() {
    let bad = |_: &ReceivedRequest, to: &mut TcpStream| play_answer(PlayedAnswer::Stream(ERROR_EVENT), to);
    let replicas = [(); 3].map(|()| ScriptedReplica::start(&["m"], bad));
    let router =
        TestRouter::start_with_replicas(replicas.each_ref().map(ScriptedReplica::url).iter().map(String::as_str));
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 4, true)).text(), ERROR_EVENT);
    assert_eq!(replicas.iter().map(|r| r.received_requests().len()).sum::<usize>(), 2);
}

#[test]
fn client_error_event_is_not_retried() {
    let refusal = "data: {\"error\": {\"message\": \"bad grammar\", \"type\": \"BadRequestError\", \"code\": 400}}\n\n";
    let (router, replicas) = start_two(PlayedAnswer::Stream(refusal), PlayedAnswer::Stream(DONE_EVENT));
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    assert_eq!((reply.text().as_str(), request_counts(&replicas)), (refusal, [1, 0]));
    wait_until("the outcome is counted", || attempt_count(&router, "refused") == 1.0);
    assert_eq!(attempt_count(&router, "failed"), 0.0);
}

#[test]
fn role_event_counts_as_first_event() {
    let (router, replicas) = start_two(PlayedAnswer::Cut(ROLE_EVENT), PlayedAnswer::Stream(DONE_EVENT));
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    assert!(reply.status == 200 && !reply.complete && reply.text().starts_with(ROLE_EVENT), "{}", reply.text());
    assert_eq!(request_counts(&replicas), [1, 0], "the client has a byte, so there is no retry");
}

#[test]
fn aborted_or_cut_json_answer_is_retried() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let half: &'static str = format!("{head}content-length: 100\r\n\r\n{{\"half\":").leak();
    let chunked: &'static str = format!("{head}transfer-encoding: chunked\r\n\r\n8\r\n{{\"half\":\r\n").leak();
    let bare: &'static str = format!("{head}content-length: 100\r\n\r\n").leak();
    let error = PlayedAnswer::Json("{\"error\":{\"message\":\"x\"}}");
    for bad in [
        PlayedAnswer::Json(ABORTED_BODY),
        error,
        PlayedAnswer::Bytes(half),
        PlayedAnswer::Bytes(chunked),
        PlayedAnswer::Bytes(bare),
    ] {
        let (router, replicas) = start_two(bad, PlayedAnswer::Json(GOOD_BODY));
        let reply = router.post(CHAT_PATH, chat_body("m", 4, false));
        assert_eq!((reply.status, reply.complete, &*reply.text()), (200, true, GOOD_BODY), "{bad:?}");
        assert_eq!((request_counts(&replicas), attempt_count(&router, "failed")), ([1, 1], 1.0), "{bad:?}");
    }
    for path in ["/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/completions"] {
        let (router, replicas) = start_two(PlayedAnswer::Bytes(half), PlayedAnswer::Json(GOOD_BODY));
        let reply = router.post(path, r#"{"model":"m","input":"x","prompt":"x","messages":[]}"#);
        assert_eq!((reply.status, &*reply.text(), request_counts(&replicas)), (200, GOOD_BODY, [1, 1]), "{path}");
    }
}

#[test]
fn json_answer_cut_at_every_replica_is_502() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"half\":";
    let (router, replicas) = start_two(PlayedAnswer::Bytes(half), PlayedAnswer::Bytes(half));
    let reply = router.post(CHAT_PATH, chat_body("m", 4, false));
    assert_eq!((reply.status, &reply.openai_error()["type"]), (502, &"api_error".into()));
    assert_eq!((request_counts(&replicas), attempt_count(&router, "failed")), ([1, 1], 2.0));
}

#[test]
fn large_json_answer_is_relayed_without_holding() {
    const BYTES: usize = 3 << 20;
    for framing in ["content-length", "chunked"] {
        let replica = ScriptedReplica::start(&["m"], move |_, to: &mut TcpStream| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
            let (head, chunk) = match framing {
                "chunked" => (format!("{head}transfer-encoding: chunked\r\n\r\n"), format!("{BYTES:x}\r\n")),
                _ => (format!("{head}content-length: {BYTES}\r\n\r\n"), String::new()),
            };
            let begun = "{\"data\":\"".to_owned() + &"x".repeat(2 << 20);
            to.write_all((head + &chunk + &begun).as_bytes()).unwrap();
            // Until the router closes, because its client has left.
            while to.read(&mut [0; 8]).is_ok_and(|read| read > 0) {}
            false
        });
        let router = TestRouter::start_with_replicas([&*replica.url()]);
        let mut client = router.connect();
        client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 1, false)));
        assert_eq!(client.read_head().status, 200, "{framing}");
        let mut read = 0;
        while read < 2 << 20 {
            read += client.read_piece().unwrap().len();
        }
        assert_eq!(router.in_flight(), 1);
        drop(client);
        wait_until("the replica is released", || router.in_flight() == 0);
    }
}

#[test]
fn answers_of_other_paths_are_relayed_without_holding() {
    let error = "data: {\"error\":{\"message\":\"of another protocol\"}}\n\n";
    let replica = ScriptedReplica::start(&["m"], move |received, to| match received.target() {
        "/stream" => to.write_all(&build_response(200, "text/event-stream", error)).is_ok(),
        _ => {
            to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{\"a\"")
                .unwrap();
            while to.read(&mut [0; 8]).is_ok_and(|read| read > 0) {}
            false
        }
    });
    let router = TestRouter::start(&format!("replicas = [{:?}]\npaths = \"any\"", replica.url()));
    let reply = router.post("/stream", "x");
    assert_eq!((&*reply.text(), reply.header("content-length")), (error, Some(&*error.len().to_string())));
    let mut client = router.connect();
    client.send(build_request("POST", "/json", "", "x"));
    assert_eq!((client.read_head().status, client.read_piece()), (200, Some(b"{\"a\"".to_vec())));
}
