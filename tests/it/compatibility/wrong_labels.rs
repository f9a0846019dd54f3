//! Answers whose content type does not say what they are.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::client::{TestClient, build_request};
use crate::harness::scripted::{ScriptedReplica, build_response};
use crate::harness::{TEST_TIMEOUT, TestRouter, chat_body};

const CHAT_PATH: &str = "/v1/chat/completions";
const EVENTS: [&str; 4] = [
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];
const JSON: &str = "{\"id\":\"c\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}],\
                    \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}";

fn write_chunk(to: &mut TcpStream, piece: &str) {
    to.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
}

/// Starts a replica that sends `pieces` in chunks after a head with this content type, each when it is told to.
fn start_stepwise(content_type: &'static str, pieces: Vec<&'static str>) -> (ScriptedReplica, Sender<()>) {
    let (next, steps) = channel();
    let steps: Mutex<Receiver<()>> = Mutex::new(steps);
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        let label = if content_type.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
        to.write_all(format!("HTTP/1.1 200 OK\r\n{label}transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
        for piece in &pieces {
            steps.lock().unwrap().recv_timeout(TEST_TIMEOUT).expect("the client has received the last piece");
            write_chunk(to, piece);
        }
        to.write_all(b"0\r\n\r\n").is_ok()
    });
    (replica, next)
}

fn start_router(replica: &ScriptedReplica, options: &str) -> TestRouter {
    TestRouter::start(&format!("replicas = [{:?}]\n{options}", replica.url())).wait_until_ready()
}

fn read_until(client: &mut TestClient<TcpStream>, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text += &String::from_utf8(client.read_piece().expect("more of the body")).unwrap();
    }
    text
}

#[test]
fn stream_with_another_label_arrives_event_by_event_and_is_counted() {
    for label in ["application/json", "application/json; charset=utf-8", "text/plain", "application/octet-stream", ""] {
        // The first piece is too short to show what the body is.
        let (first_start, first_end) = EVENTS[0].split_at(3);
        let (replica, next) = start_stepwise(label, vec![first_start, first_end, EVENTS[1], EVENTS[2], EVENTS[3]]);
        let router = start_router(&replica, "gzip = \"1\"\n");
        let mut client = router.connect();
        let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        client.send(build_request("POST", CHAT_PATH, "accept-encoding: gzip\r\n", body));
        next.send(()).unwrap();
        next.send(()).unwrap();
        let head = client.read_head();
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{label}");
        assert_eq!((head.header("x-accel-buffering"), head.header("content-encoding")), (Some("no"), None), "{label}");
        assert_eq!(read_until(&mut client, "\n\n"), EVENTS[0], "{label}");
        next.send(()).unwrap();
        assert_eq!(read_until(&mut client, "\n\n"), EVENTS[1], "{label}");
        next.send(()).unwrap();
        next.send(()).unwrap();
        let rest = String::from_utf8(client.read_remaining_body()).unwrap();
        assert_eq!(rest, EVENTS[3], "{label}: the usage that the router requested is removed");
        assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[]), 2.0, "{label}");
        assert_eq!(router.sum_metric("tokenweir_ttft_seconds_count", &[]), 1.0, "{label}: it has a first token");
        assert_eq!(router.in_flight(), 0);
    }
}

#[test]
fn broken_stream_with_another_label_ends_in_an_error_event() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            .unwrap();
        write_chunk(to, EVENTS[0]);
        false
    });
    let reply = start_router(&replica, "").post(CHAT_PATH, chat_body("m", 4, true));
    let ending = reply.text().strip_prefix(EVENTS[0]).map(str::to_owned);
    assert!(!reply.complete && ending.is_some_and(|end| end.starts_with("data: {\"error\":")), "{}", reply.text());
}

#[test]
fn json_labelled_as_a_stream_stays_as_it_is() {
    for stream in [true, false] {
        for body in [JSON.to_owned(), format!("\r\n\n {JSON}\n"), format!("[{JSON}]")] {
            let counted = if body.starts_with('[') { 0.0 } else { 2.0 };
            let response = build_response(200, "text/event-stream", &body);
            let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(&response).is_ok());
            let router = start_router(&replica, "");
            let reply = router.post(CHAT_PATH, chat_body("m", 4, stream));
            assert_eq!((reply.status, reply.text(), reply.complete), (200, body, true));
            assert_eq!(reply.header("content-type"), Some("text/event-stream"));
            assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[]), counted);
            assert_eq!(router.sum_metric("tokenweir_attempts_total", &["completed"]), 1.0, "it is no failure");
            assert_eq!(replica.received_requests().len(), 1, "it is not asked for again");
        }
    }
}

#[test]
fn text_that_is_neither_passes_as_it_comes() {
    for text in ["database error", "Internal Server Error", "i", "data"] {
        let response = build_response(200, "text/plain", text);
        let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(&response).is_ok());
        let reply = start_router(&replica, "").post(CHAT_PATH, chat_body("m", 4, true));
        assert_eq!((reply.status, reply.text().as_str()), (200, text));
        assert_eq!(
            (reply.header("content-type"), reply.header("content-length").is_some()),
            (Some("text/plain"), true)
        );
    }
}
