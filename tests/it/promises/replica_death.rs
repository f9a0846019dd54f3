//! Failing replicas: answers that break off, stand still or fail politely.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::setup::{CHAT, DONE, EVENT, Router, Watch, attempts, chunk, over, pause, until_closed};
use crate::harness::captures::HEAD;
use crate::harness::client::request;
use crate::harness::scripted::{Scripted, friendly};
use crate::harness::{chat, wait_until};

/// How an answer breaks off.
#[derive(Clone, Copy, Debug)]
enum Death {
    Fin,
    Rst,
    BadChunk,
    Stall,
}

/// What a client gets of an answer that begins with `event` and half a one, and breaks off; and whether it seems whole.
fn broken(path: &str, event: &str, death: Death) -> (String, bool, Router) {
    let (tell, told) = channel::<()>();
    let (told, begun) = (Mutex::new(told), format!("{HEAD}{}", chunk(&format!("{event}data: {{\"hal"))));
    let replica = Scripted::start(&["m"], move |_, to| {
        to.write_all(begun.as_bytes()).unwrap();
        // What a RST overtakes is lost.
        told.lock().unwrap().recv().unwrap();
        match death {
            Death::Fin => false,
            Death::BadChunk => to.write_all(b"zz\r\n").is_err(),
            Death::Stall => until_closed(to),
            Death::Rst => socket2::SockRef::from(&*to).set_linger(Some(Duration::ZERO)).is_err(),
        }
    });
    let router = over([&replica], "[timeouts]\nidle = \"300ms\"");
    let mut client = router.client();
    client.send(request("POST", path, "", r#"{"model":"m","input":"x","prompt":"x","messages":[],"stream":true}"#));
    assert_eq!(client.head().status, 200);
    let mut body = client.piece().unwrap();
    tell.send(()).unwrap();
    body.extend(client.rest());
    (String::from_utf8(body).unwrap(), !client.is_broken(), router)
}

/// "Death mid-stream (FIN, RST, malformed chunk, stall): what came is delivered, then `data: {"error": {...}}`, no
/// `[DONE]`, then the body is aborted."
#[test]
fn a_stream_that_dies_is_told_and_aborted() {
    for death in [Death::Fin, Death::Rst, Death::BadChunk, Death::Stall] {
        let (text, whole, router) = broken(CHAT, EVENT, death);
        let told = text.strip_prefix(EVENT).unwrap_or_else(|| panic!("{death:?}: {text}"));
        let error = told.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).unwrap();
        let error: serde_json::Value = serde_json::from_str(error).unwrap_or_else(|_| panic!("{death:?}: {text}"));
        assert!(error["error"]["message"].is_string() && !whole && !text.contains("[DONE]"), "{death:?}: {text}");
        wait_until("it is counted", || attempts(&router, "failed") == 1.0);
    }
}

/// "(in the endpoint's dialect)"
#[test]
fn a_stream_that_dies_is_told_in_the_endpoints_dialect() {
    for (path, event, wanted) in [
        ("/v1/completions", "data: {\"choices\":[{\"index\":0,\"text\":\"x\"}]}\n\n", "data: {\"error\":"),
        ("/v1/responses", "event: response.created\ndata: {\"type\":\"response.created\"}\n\n", "event: error\ndata: "),
        ("/v1/messages", "event: message_start\ndata: {\"type\":\"message_start\"}\n\n", "event: error\ndata: "),
    ] {
        let (text, whole, _) = broken(path, event, Death::Fin);
        let told = text.strip_prefix(event).unwrap_or_else(|| panic!("{path}: {text}"));
        assert!(told.starts_with(wanted) && !whole && !text.contains("[DONE]"), "{path}: {text}");
    }
}

/// "A stream without `[DONE]` ends promptly; none is invented."
#[test]
fn a_stream_without_done_ends_promptly_and_none_is_invented() {
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let bytes = format!("{HEAD}{}0\r\n\r\n", chunk(&format!("{EVENT}{end}")));
    let replica = Scripted::start(&["m"], move |_, to| to.write_all(bytes.as_bytes()).is_ok());
    let router = over([&replica], "");
    let watch = Watch::start();
    let reply = router.post(CHAT, chat("m", 2, true));
    assert_eq!((reply.whole, reply.text()), (true, format!("{EVENT}{end}")));
    assert!(watch.elapsed() < Duration::from_secs(2), "promptly");
    wait_until("it is counted", || attempts(&router, "completed") == 1.0);
}

/// "First byte (300 s, grows with the prompt)": here 200 ms and a second for each 1,000 tokens.
#[test]
fn the_time_to_the_first_byte_grows_with_the_prompt() {
    let slow = Scripted::start(&["m"], |heard, to| {
        pause(1_200);
        friendly(heard, to)
    });
    let router = over([&slow], "[timeouts]\nfirst_byte = \"200ms\"");
    let reply = router.post(CHAT, chat("m", 2, false));
    assert!(reply.status == 504 && reply.error()["message"].is_string(), "{}", reply.status);
    let long = chat("m", 2, false).replace("hello", &"many words and more of them ".repeat(1_000));
    assert_eq!(router.post(CHAT, long).status, 200);
}

/// A stream of so many events, so many milliseconds apart.
fn steady(event: &'static str, count: u32, millis: u64) -> Scripted {
    Scripted::start(&["m"], move |_, to| {
        let mut alive = to.write_all(format!("{HEAD}{}", chunk(EVENT)).as_bytes()).is_ok();
        for _ in 0..count {
            pause(millis);
            alive = alive && to.write_all(chunk(event).as_bytes()).is_ok();
        }
        alive && to.write_all(format!("{}0\r\n\r\n", chunk(DONE)).as_bytes()).is_ok()
    })
}

/// "Slow but alive is never cut": neither by the time to the first byte nor by that between events; comments are life too.
#[test]
fn slow_but_alive_is_never_cut() {
    for event in [EVENT, ": still here\n\n"] {
        let replica = steady(event, 12, 150);
        let router = over([&replica], "[timeouts]\nfirst_byte = \"600ms\"\nidle = \"600ms\"");
        let reply = router.post(CHAT, chat("m", 2, true));
        assert_eq!((reply.whole, reply.text()), (true, format!("{EVENT}{}{DONE}", event.repeat(12))));
    }
}

/// "Idle between events (120 s), total (none)": both can be set, and then they cut.
#[test]
fn the_times_between_events_and_in_all_cut_when_they_are_over() {
    for (timer, millis) in [("idle = \"300ms\"", 5_000), ("total = \"500ms\"", 100)] {
        let replica = steady(EVENT, 30, millis);
        let router = over([&replica], &format!("[timeouts]\n{timer}"));
        let watch = Watch::start();
        let reply = router.post(CHAT, chat("m", 2, true));
        assert!(!reply.whole && reply.text().contains("\"error\"") && !reply.text().contains("[DONE]"), "{timer}");
        assert!((250..2_500).contains(&watch.elapsed().as_millis()), "{timer}: {:?}", watch.elapsed());
    }
}

/// "`200` followed by an error event is relayed and counted as a failure."
#[test]
fn an_error_event_behind_a_200_is_relayed_and_counted_as_a_failure() {
    let error =
        "data: {\"error\": {\"message\": \"EngineCore\", \"type\": \"InternalServerError\", \"code\": 500}}\n\n";
    for before in ["", EVENT] {
        let text = format!("{before}{error}{DONE}");
        let bytes = format!("{HEAD}{}0\r\n\r\n", chunk(&text));
        let replica = Scripted::start(&["m"], move |_, to| to.write_all(bytes.as_bytes()).is_ok());
        let router = over([&replica], "");
        let reply = router.post(CHAT, chat("m", 2, true));
        assert_eq!((reply.status, reply.whole, reply.text()), (200, true, text));
        wait_until("it is counted", || attempts(&router, "failed") == 1.0);
    }
}
