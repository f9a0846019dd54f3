//! Promises about responses that break, stall or end in an error event.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::setup::{
    CHAT_PATH, CONTENT_EVENT, DONE_EVENT, StageRouter, Stopwatch, attempt_count, encode_chunk, read_until_closed,
    sleep_millis, start_router,
};
use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::{ScriptedReplica, respond_ok};
use crate::harness::{chat_body, wait_until};

/// The way in which a response breaks.
#[derive(Clone, Copy, Debug)]
enum StreamBreak {
    Fin,
    Rst,
    BadChunk,
    Stall,
}

/// Returns the client's text of a response that breaks after `event` and half an event, and whether it seems complete.
fn read_broken_stream(path: &str, event: &str, death: StreamBreak) -> (String, bool, StageRouter) {
    let (signal, signals) = channel::<()>();
    let (signals, begun) =
        (Mutex::new(signals), format!("{STREAM_HEAD}{}", encode_chunk(&format!("{event}data: {{\"hal"))));
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(begun.as_bytes()).unwrap();
        // A RST can discard data in flight.
        signals.lock().unwrap().recv().unwrap();
        match death {
            StreamBreak::Fin => false,
            StreamBreak::BadChunk => to.write_all(b"zz\r\n").is_err(),
            StreamBreak::Stall => read_until_closed(to),
            StreamBreak::Rst => socket2::SockRef::from(&*to).set_linger(Some(Duration::ZERO)).is_err(),
        }
    });
    let router = start_router([&replica], "[timeouts]\nidle = \"300ms\"");
    let mut client = router.connect();
    client.send(build_request(
        "POST",
        path,
        "",
        r#"{"model":"m","input":"x","prompt":"x","messages":[],"stream":true}"#,
    ));
    assert_eq!(client.read_head().status, 200);
    let mut body = client.read_piece().unwrap();
    signal.send(()).unwrap();
    body.extend(client.read_remaining_body());
    (String::from_utf8(body).unwrap(), !client.is_broken(), router)
}

/// "Death mid-stream (FIN, RST, malformed chunk, stall): what came is delivered, then `data: {"error": {...}}`, no
/// `[DONE]`, then the body is aborted."
#[test]
fn dying_stream_ends_with_an_error_event_and_abort() {
    for death in [StreamBreak::Fin, StreamBreak::Rst, StreamBreak::BadChunk, StreamBreak::Stall] {
        let (text, whole, router) = read_broken_stream(CHAT_PATH, CONTENT_EVENT, death);
        let ending = text.strip_prefix(CONTENT_EVENT).unwrap_or_else(|| panic!("{death:?}: {text}"));
        let error = ending.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).unwrap();
        let error: serde_json::Value = serde_json::from_str(error).unwrap_or_else(|_| panic!("{death:?}: {text}"));
        assert!(error["error"]["message"].is_string() && !whole && !text.contains("[DONE]"), "{death:?}: {text}");
        wait_until("the outcome is counted", || attempt_count(&router, "failed") == 1.0);
    }
}

/// "(in the endpoint's dialect)"
#[test]
fn dying_stream_ends_in_the_endpoints_dialect() {
    for (path, event, wanted) in [
        ("/v1/completions", "data: {\"choices\":[{\"index\":0,\"text\":\"x\"}]}\n\n", "data: {\"error\":"),
        ("/v1/responses", "event: response.created\ndata: {\"type\":\"response.created\"}\n\n", "event: error\ndata: "),
        ("/v1/messages", "event: message_start\ndata: {\"type\":\"message_start\"}\n\n", "event: error\ndata: "),
    ] {
        let (text, whole, _) = read_broken_stream(path, event, StreamBreak::Fin);
        let ending = text.strip_prefix(event).unwrap_or_else(|| panic!("{path}: {text}"));
        assert!(ending.starts_with(wanted) && !whole && !text.contains("[DONE]"), "{path}: {text}");
    }
}

/// "A stream without `[DONE]` ends promptly; none is invented."
#[test]
fn stream_without_done_ends_promptly_without_one() {
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let bytes = format!("{STREAM_HEAD}{}0\r\n\r\n", encode_chunk(&format!("{CONTENT_EVENT}{end}")));
    let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(bytes.as_bytes()).is_ok());
    let router = start_router([&replica], "");
    let watch = Stopwatch::start();
    let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
    assert_eq!((reply.complete, reply.text()), (true, format!("{CONTENT_EVENT}{end}")));
    assert!(watch.elapsed() < Duration::from_secs(2), "promptly");
    wait_until("the outcome is counted", || attempt_count(&router, "completed") == 1.0);
}

/// "First byte (300 s, grows with the prompt; a plain answer 600 s)": here 200 ms plus a second per 1,000 tokens.
#[test]
fn first_byte_timeout_grows_with_the_prompt() {
    let slow = ScriptedReplica::start(&["m"], |received, to| {
        sleep_millis(1_200);
        respond_ok(received, to)
    });
    let router = start_router([&slow], "[timeouts]\nfirst_byte = \"200ms\"\nplain_answer = \"200ms\"");
    let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
    assert!(reply.status == 504 && reply.openai_error()["message"].is_string(), "{}", reply.status);
    let long = chat_body("m", 2, false).replace("hello", &"many words and more of them ".repeat(1_000));
    assert_eq!(router.post(CHAT_PATH, long).status, 200);
}

/// Starts a replica whose stream has `count` events, `millis` apart.
fn start_steady_replica(event: &'static str, count: u32, millis: u64) -> ScriptedReplica {
    ScriptedReplica::start(&["m"], move |_, to| {
        let mut alive = to.write_all(format!("{STREAM_HEAD}{}", encode_chunk(CONTENT_EVENT)).as_bytes()).is_ok();
        for _ in 0..count {
            sleep_millis(millis);
            alive = alive && to.write_all(encode_chunk(event).as_bytes()).is_ok();
        }
        alive && to.write_all(format!("{}0\r\n\r\n", encode_chunk(DONE_EVENT)).as_bytes()).is_ok()
    })
}

/// "Slow but alive is never cut": neither by the first-byte nor by the idle timeout; comments count as data.
#[test]
fn slow_but_alive_is_never_cut() {
    for event in [CONTENT_EVENT, ": still here\n\n"] {
        let replica = start_steady_replica(event, 12, 150);
        let router = start_router([&replica], "[timeouts]\nfirst_byte = \"600ms\"\nidle = \"600ms\"");
        let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
        assert_eq!((reply.complete, reply.text()), (true, format!("{CONTENT_EVENT}{}{DONE_EVENT}", event.repeat(12))));
    }
}

/// "Idle between events (120 s), total (none)": both can be set and then cut the stream.
#[test]
fn idle_and_total_timeouts_cut_a_stream() {
    for (timer, millis) in [("idle = \"300ms\"", 5_000), ("total = \"500ms\"", 100)] {
        let replica = start_steady_replica(CONTENT_EVENT, 30, millis);
        let router = start_router([&replica], &format!("[timeouts]\n{timer}"));
        let watch = Stopwatch::start();
        let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
        assert!(!reply.complete && reply.text().contains("\"error\"") && !reply.text().contains("[DONE]"), "{timer}");
        assert!((250..2_500).contains(&watch.elapsed().as_millis()), "{timer}: {:?}", watch.elapsed());
    }
}

/// "`200` followed by an error event is relayed and counted as a failure."
#[test]
fn error_event_after_200_is_relayed_and_counted_as_failure() {
    let error =
        "data: {\"error\": {\"message\": \"EngineCore\", \"type\": \"InternalServerError\", \"code\": 500}}\n\n";
    for before in ["", CONTENT_EVENT] {
        let text = format!("{before}{error}{DONE_EVENT}");
        let bytes = format!("{STREAM_HEAD}{}0\r\n\r\n", encode_chunk(&text));
        let replica = ScriptedReplica::start(&["m"], move |_, to| to.write_all(bytes.as_bytes()).is_ok());
        let router = start_router([&replica], "");
        let reply = router.post(CHAT_PATH, chat_body("m", 2, true));
        assert_eq!((reply.status, reply.complete, reply.text()), (200, true, text));
        wait_until("the outcome is counted", || attempt_count(&router, "failed") == 1.0);
    }
}
