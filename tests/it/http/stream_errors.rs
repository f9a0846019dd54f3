//! Broken streams: received events are delivered, then an error event in the endpoint's dialect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::captures::{STREAM_HEAD, decode_chunks, load_captures};
use crate::harness::client::{HttpResponse, build_request};
use crate::harness::scripted::{KeepConnection, ScriptedReplica, build_response};
use crate::harness::{TestRouter, chat_body, start_replica, wait_until};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

const CHAT_PATH: &str = "/v1/chat/completions";
const CONTENT_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
const ABORT_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n";
const USAGE_EVENT: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE_EVENT: &str = "data: [DONE]\n\n";

/// The end of the connection after the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnding {
    Fin,
    Rst,
    BadChunk,
    Silence,
}

fn encode_chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn read_until_closed(to: &mut TcpStream) -> KeepConnection {
    while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
    false
}

/// Starts a router over a replica that sends these bytes after a stream's head.
fn start_playing(bytes: String, options: &str) -> (TestRouter, ScriptedReplica) {
    let replica =
        ScriptedReplica::start(&["m"], move |_, to| to.write_all(format!("{STREAM_HEAD}{bytes}").as_bytes()).is_err());
    (TestRouter::start(&format!("replicas = [{:?}]\n{options}", replica.url())).wait_until_ready(), replica)
}

/// Returns the part after `before` of a stream that must be broken.
fn broken_ending(reply: &HttpResponse, before: &str) -> String {
    assert!(reply.status == 200 && !reply.complete, "{} {}", reply.head, reply.text());
    let text = reply.text();
    let ending = text.strip_prefix(before).unwrap_or_else(|| panic!("{text}"));
    assert!(ending.ends_with("\n\n") && ending.matches("\n\n").count() == 1 && !text.contains("[DONE]"), "{text}");
    ending.to_owned()
}

fn parse_event_data(event: &str) -> Value {
    serde_json::from_str(event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()).unwrap()
}

fn wait_until_counted(router: &TestRouter, outcome: &str) {
    let label = format!("outcome=\"{outcome}\"");
    wait_until("the outcome is counted", || router.sum_metric("tokenweir_attempts_total", &[&label]) == 1.0);
    assert_eq!((router.sum_metric("tokenweir_attempts_total", &[]), router.in_flight()), (1.0, 0));
}

#[test]
fn broken_stream_ends_in_the_endpoints_dialect() {
    let prompt = r#"{"model":"m","input":"x","prompt":"x","messages":[],"stream":true}"#;
    for (path, event) in [
        (CHAT_PATH, CONTENT_EVENT),
        ("/v1/completions", "data: {\"choices\":[{\"index\":0,\"text\":\"x\"}]}\n\n"),
        (
            "/v1/responses",
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n",
        ),
        ("/v1/messages", "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n"),
    ] {
        for then in
            [ConnectionEnding::Fin, ConnectionEnding::Rst, ConnectionEnding::BadChunk, ConnectionEnding::Silence]
        {
            let (signal, signals) = channel::<()>();
            let signals = Mutex::new(signals);
            let replica = ScriptedReplica::start(&["m"], move |_, to| {
                to.write_all(format!("{STREAM_HEAD}{}", encode_chunk(&format!("{event}: half an ev"))).as_bytes())
                    .unwrap();
                // A RST can discard data in flight.
                signals.lock().unwrap().recv().unwrap();
                match then {
                    ConnectionEnding::Rst => {
                        socket2::SockRef::from(&*to).set_linger(Some(Duration::ZERO)).unwrap();
                        false
                    }
                    ConnectionEnding::BadChunk => to.write_all(b"zz\r\n").is_err(),
                    ConnectionEnding::Silence => read_until_closed(to),
                    ConnectionEnding::Fin => false,
                }
            });
            let config = format!("replicas = [{:?}]\n[timeouts]\nidle = \"300ms\"", replica.url());
            let router = TestRouter::start(&config).wait_until_ready();
            let mut client = router.connect();
            client.send(build_request("POST", path, "", prompt));
            let mut reply = client.read_head();
            reply.body = client.read_piece().unwrap();
            signal.send(()).unwrap();
            reply.body.extend(client.read_remaining_body());
            reply.complete = !client.is_broken();
            let ending = broken_ending(&reply, event);
            let data = parse_event_data(&ending);
            match path {
                "/v1/responses" => {
                    assert!(ending.starts_with("event: error\n") && data["type"] == "error", "{ending}");
                    assert!(data["message"].is_string() && data["code"].is_string() && data["param"].is_null());
                    assert_eq!(data["sequence_number"], 1, "the number after the one event");
                }
                "/v1/messages" => {
                    assert!(ending.starts_with("event: error\n") && data["type"] == "error", "{ending}");
                    assert!(data["error"]["type"] == "api_error" && data["error"]["message"].is_string());
                }
                _ => {
                    assert!(ending.starts_with("data: {\"error\":"), "{ending}");
                    let error = &data["error"];
                    assert!(error["type"] == "api_error" && error["message"].is_string() && error["param"].is_null());
                    assert!(!error["message"].as_str().unwrap().contains("127.0.0.1"), "clients see no addresses");
                }
            }
            wait_until_counted(&router, "failed");
        }
    }
}

#[test]
fn abort_and_following_bytes_become_the_error_ending() {
    let behind = format!("{ABORT_EVENT}{USAGE_EVENT}{DONE_EVENT}");
    for (at, pieces) in [
        format!("{}{}0\r\n\r\n", encode_chunk(CONTENT_EVENT), encode_chunk(&behind)),
        format!("{}0\r\n\r\n", encode_chunk(&format!("{CONTENT_EVENT}{behind}"))),
        format!(
            "{}{}0\r\n\r\n",
            encode_chunk(&format!("{CONTENT_EVENT}{}", &behind[..30])),
            encode_chunk(&behind[30..])
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (router, _replica) = start_playing(pieces, "");
        let ending = broken_ending(&router.post(CHAT_PATH, chat_body("m", 4, true)), CONTENT_EVENT);
        assert!(parse_event_data(&ending)["error"]["message"].is_string(), "{at}: {ending}");
        wait_until_counted(&router, "failed");
    }
}

/// Reads concurrent streams of one HTTP/2 connection; returns each body and whether it was broken.
async fn read_h2_streams(router: SocketAddr, streams: usize, fault: &str) -> Vec<(String, bool)> {
    let stream = tokio::net::TcpStream::connect(router).await.unwrap();
    let (sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = async |mut sender: http2::SendRequest<Full<Bytes>>| {
        let head = http::Request::post(format!("http://x{CHAT_PATH}")).header("content-type", "application/json");
        let request = head.header("x-emulate-fault", fault).body(Full::from(chat_body("m", 20, true))).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return (String::from_utf8(text).unwrap(), true) };
            text.extend_from_slice(&frame.into_data().unwrap());
        }
        (String::from_utf8(text).unwrap(), false)
    };
    join_all((0..streams).map(|_| ask(sender.clone()))).await
}

#[test]
fn http2_streams_each_get_their_error_ending() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start(&format!("replicas = [\"{} max_fails=0\"]", replica.url())).wait_until_ready();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for fault in ["abort-event=4", "die-midstream=4"] {
        for (text, broken) in runtime.block_on(read_h2_streams(router.addr, 16, fault)) {
            let events: Vec<_> = text.split_inclusive("\n\n").collect();
            assert!(broken && events.len() == 5, "{fault}: {broken} {text}");
            assert!(parse_event_data(events[4])["error"]["message"].is_string(), "{fault}: {text}");
        }
    }
}

#[test]
fn stopped_vllm_stream_ends_with_an_error() {
    let streams = load_captures();
    let (_, wire) = streams.iter().find(|(name, _)| name.starts_with("midstream-sigterm")).unwrap();
    let text = String::from_utf8_lossy(&decode_chunks(wire)).into_owned();
    let wire = wire.clone();
    let replica =
        ScriptedReplica::start(&["m"], move |_, to| to.write_all(&[STREAM_HEAD.as_bytes(), &wire].concat()).is_ok());
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(CHAT_PATH, chat_body("m", 400, true));
    let last = text.split_inclusive("\n\n").take_while(|event| !event.contains("\"abort\"")).collect::<String>();
    assert!(last.len() > 1000 && text.len() > last.len());
    assert!(parse_event_data(&broken_ending(&reply, &last))["error"]["type"] == "api_error");
    wait_until_counted(&router, "failed");
}

#[test]
fn error_event_mid_stream_is_relayed_and_counted() {
    let streams = load_captures();
    let (_, wire) = streams.iter().find(|(name, _)| name.starts_with("midstream-engine-killed")).unwrap().clone();
    let body = decode_chunks(&wire);
    let replica =
        ScriptedReplica::start(&["m"], move |_, to| to.write_all(&[STREAM_HEAD.as_bytes(), &wire].concat()).is_ok());
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    assert!(reply.complete && reply.body == body);
    wait_until_counted(&router, "failed");
}

#[test]
fn disconnect_after_an_error_event_counts_as_failure() {
    let error = "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n";
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(format!("{STREAM_HEAD}{}", encode_chunk(&format!("{CONTENT_EVENT}{error}"))).as_bytes()).unwrap();
        read_until_closed(to)
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, true)));
    client.read_head();
    let mut read = Vec::new();
    while !read.ends_with(error.as_bytes()) {
        read.extend(client.read_piece().unwrap());
    }
    drop(client);
    wait_until_counted(&router, "failed");
}

#[test]
fn stream_without_done_ends_cleanly() {
    for end in [CONTENT_EVENT, &CONTENT_EVENT[..CONTENT_EVENT.len() - 2], "data: {\"usage\":null}\n\n: bye"] {
        let text = format!("{CONTENT_EVENT}{end}");
        let (router, _replica) = start_playing(format!("{}0\r\n\r\n", encode_chunk(&text)), "");
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        assert_eq!((reply.complete, reply.text()), (true, text));
        wait_until_counted(&router, "completed");
    }
    // An HTTP/1.0 body ends with its connection.
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(format!("HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{CONTENT_EVENT}").as_bytes())
            .is_err()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    assert_eq!((reply.complete, &*reply.text()), (true, CONTENT_EVENT));
}

#[test]
fn truncated_stream_is_not_complete() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let full =
            String::from_utf8(build_response(200, "text/event-stream", &format!("{CONTENT_EVENT}{}", "x".repeat(400))))
                .unwrap();
        to.write_all(&full.as_bytes()[..full.len() - 400]).is_err()
    });
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    assert!(parse_event_data(&broken_ending(&reply, CONTENT_EVENT))["error"].is_object());
}

#[test]
fn idle_timer_counts_comments_but_not_partial_events() {
    for (drip, lives) in [("x", false), (": ping\n\n", true)] {
        let replica = ScriptedReplica::start(&["m"], move |_, to| {
            let mut sent =
                to.write_all(format!("{STREAM_HEAD}{}", encode_chunk(&format!("{CONTENT_EVENT}data: "))).as_bytes());
            if lives {
                sent = sent.and_then(|()| to.write_all(encode_chunk("1\n\n").as_bytes()));
            }
            for _ in 0..12 {
                sent = sent.and_then(|()| to.write_all(encode_chunk(drip).as_bytes()));
                std::thread::sleep(Duration::from_millis(100));
            }
            sent.and_then(|()| to.write_all(b"0\r\n\r\n")).is_ok()
        });
        let config = format!("replicas = [{:?}]\n[timeouts]\nidle = \"600ms\"", replica.url());
        let router = TestRouter::start(&config).wait_until_ready();
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        assert_eq!(reply.complete, lives, "{}", reply.text());
        if !lives {
            assert!(parse_event_data(&broken_ending(&reply, CONTENT_EVENT))["error"].is_object());
        }
    }
}

#[test]
fn waiting_comments_are_sent_before_the_first_event() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(900));
        let pieces = [&CONTENT_EVENT[..9], &CONTENT_EVENT[9..], DONE_EVENT].map(encode_chunk).concat();
        to.write_all(format!("{pieces}0\r\n\r\n").as_bytes()).is_ok()
    });
    let ask = |waiting: &str| {
        let timeouts = format!("[timeouts]\nfirst_event_hold = \"50ms\"\nwaiting_comment = \"{waiting}\"");
        let router = TestRouter::start(&format!("replicas = [{:?}]\n{timeouts}", replica.url())).wait_until_ready();
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        assert!(reply.complete);
        reply.text()
    };
    let text = ask("100ms");
    let answer = text.trim_start_matches(": waiting\n\n");
    assert_eq!(answer, format!("{CONTENT_EVENT}{DONE_EVENT}"));
    let comments = text.matches(": waiting\n\n").count();
    assert!((3..=9).contains(&comments), "{comments}");
    assert_eq!(ask("0"), answer, "none");
    assert_eq!(ask("60s"), answer, "the timeout has not passed");
}

#[test]
fn stream_without_events_ends_at_the_first_byte_timeout() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        read_until_closed(to)
    });
    for (hold, status) in [("50ms", 200), ("10s", 504)] {
        let timeouts = format!("[timeouts]\nfirst_event_hold = {hold:?}\nfirst_byte = \"400ms\"");
        let router = TestRouter::start(&format!("replicas = [{:?}]\n{timeouts}", replica.url())).wait_until_ready();
        let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
        assert_eq!((reply.status, reply.complete), (status, status == 504), "{}", reply.text());
        if status == 200 {
            assert!(parse_event_data(&broken_ending(&reply, ""))["error"].is_object());
        }
        wait_until_counted(&router, "failed");
    }
}

#[test]
fn long_prompt_extends_the_first_byte_timeout() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        std::thread::sleep(Duration::from_millis(700));
        to.write_all(&build_response(200, "application/json", "{}")).is_ok()
    });
    let config =
        format!("replicas = [{:?}]\n[timeouts]\nfirst_byte = \"300ms\"\nplain_answer = \"300ms\"", replica.url());
    let router = TestRouter::start(&config).wait_until_ready();
    assert_eq!(router.post(CHAT_PATH, chat_body("m", 4, false)).status, 504);
    let long = chat_body("m", 4, false).replace("hello", &"word ".repeat(5_000));
    assert_eq!(router.post(CHAT_PATH, long).status, 200, "5,000 tokens add 5 s to the timeout");
}

#[test]
fn total_timeout_ends_a_request_without_blame() {
    let replica = ScriptedReplica::start(&["m"], |received, to| {
        if received.target().contains("silent") {
            return read_until_closed(to);
        }
        to.write_all(STREAM_HEAD.as_bytes()).unwrap();
        while to.write_all(encode_chunk(CONTENT_EVENT).as_bytes()).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    let start = || {
        TestRouter::start(&format!("replicas = [{:?}]\n[timeouts]\ntotal = \"400ms\"", replica.url()))
            .wait_until_ready()
    };
    let router = start();
    let reply = router.post(CHAT_PATH, chat_body("m", 4, true));
    let text = reply.text();
    let events = text.matches(CONTENT_EVENT).count();
    assert!(events >= 2, "{text}");
    assert!(parse_event_data(&broken_ending(&reply, &CONTENT_EVENT.repeat(events)))["error"].is_object());
    wait_until_counted(&router, "router_error");
    let router = start();
    let reply = router.post(&format!("{CHAT_PATH}?silent"), chat_body("m", 4, false));
    assert_eq!((reply.status, &reply.openai_error()["type"]), (504, &"api_error".into()));
    wait_until_counted(&router, "router_error");
}
