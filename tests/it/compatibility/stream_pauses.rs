//! Streams that pause: comments between whole events keep the connections in front of the router open.

use std::io::Write;
use std::time::Duration;

use crate::harness::captures::STREAM_HEAD;
use crate::harness::client::build_request;
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body};

const CHAT_PATH: &str = "/v1/chat/completions";
const COMMENT: &str = ": keep-alive\n\n";
const FIRST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const SECOND: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const PAUSE: Duration = Duration::from_millis(700);

/// Starts a replica that pauses after each piece of a chunked stream.
fn start_pausing(head: &'static str, pieces: Vec<String>) -> ScriptedReplica {
    ScriptedReplica::start(&["m"], move |_, to| {
        to.write_all(head.as_bytes()).unwrap();
        for piece in &pieces {
            to.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
            std::thread::sleep(PAUSE);
        }
        to.write_all(b"0\r\n\r\n").is_ok()
    })
}

/// Returns the text of a stream that is asked for at `path` through a router with comments every `interval`.
fn relayed(replica: &ScriptedReplica, path: &str, interval: &str) -> String {
    let config = format!(
        "replicas = [{:?}]\npaths = [\"/events\"]\n[timeouts]\nwaiting_comment = {interval:?}\nidle = \"1.5s\"\n",
        replica.url()
    );
    let router = TestRouter::start(&config).wait_until_ready();
    let reply = router.post(path, chat_body("m", 4, true));
    assert!(reply.status == 200 && reply.complete, "{} {}", reply.head, reply.text());
    reply.text()
}

#[test]
fn comments_are_sent_while_a_stream_pauses_between_events() {
    let replica = start_pausing(STREAM_HEAD, [FIRST, SECOND, DONE].map(str::to_owned).into());
    let text = relayed(&replica, CHAT_PATH, "150ms");
    let between = text.strip_prefix(FIRST).unwrap().split(SECOND).next().unwrap();
    let comments = between.matches(COMMENT).count();
    assert!((2..=5).contains(&comments) && between == COMMENT.repeat(comments), "{text}");
    assert!(text.ends_with(&format!("{COMMENT}{DONE}")), "none after the end of the answer: {text}");
    assert_eq!(relayed(&replica, CHAT_PATH, "0"), format!("{FIRST}{SECOND}{DONE}"), "none");
    assert_eq!(relayed(&replica, CHAT_PATH, "1s"), format!("{FIRST}{SECOND}{DONE}"), "no silence is so long");
}

#[test]
fn no_comment_is_sent_within_an_event() {
    // The first event is so long that its beginning passes before its end; the second is held until it is whole.
    let long = FIRST.replace("\"a\"", &format!("{:?}", "a".repeat(40_000)));
    let (long_start, long_end) = long.split_at(30_000);
    let (second_start, second_end) = SECOND.split_at(20);
    let crlf = FIRST.replace('\n', "\r\n");
    let (crlf_start, crlf_end) = crlf.split_at(crlf.len() - 1);
    let pieces = [long_start, long_end, second_start, second_end, crlf_start, crlf_end, DONE].map(str::to_owned);
    let replica = start_pausing(STREAM_HEAD, pieces.into());
    for path in [CHAT_PATH, "/events"] {
        let text = relayed(&replica, path, "150ms");
        assert!(text.replace(COMMENT, "") == format!("{long}{SECOND}{crlf}{DONE}"), "{path}");
        assert!(text.starts_with(&format!("{long}{COMMENT}")) && text.contains(&format!("{COMMENT}{crlf}")), "{path}");
        let comments = text.matches(COMMENT).count();
        assert!(comments >= 6, "{path}: {comments}");
    }
}

#[test]
fn streams_with_a_length_or_a_coding_get_no_comment() {
    let body = format!("{FIRST}{SECOND}");
    let replica = ScriptedReplica::start(&["m"], move |received, to| {
        let coding = if received.target() == "/events?coded" { "content-encoding: x\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{coding}");
        let framing = if coding.is_empty() { format!("content-length: {}\r\n", body.len()) } else { String::new() };
        to.write_all(format!("{head}{framing}\r\n{FIRST}").as_bytes()).unwrap();
        std::thread::sleep(PAUSE);
        to.write_all(SECOND.as_bytes()).unwrap();
        !framing.is_empty()
    });
    for path in ["/events", "/events?coded"] {
        assert_eq!(relayed(&replica, path, "150ms"), format!("{FIRST}{SECOND}"), "{path}");
    }
}

#[test]
fn comments_do_not_keep_a_silent_replica() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(format!("{STREAM_HEAD}{:x}\r\n{FIRST}\r\n", FIRST.len()).as_bytes()).unwrap();
        while std::io::Read::read(to, &mut [0; 64]).is_ok_and(|read| read > 0) {}
        false
    });
    let config =
        format!("replicas = [{:?}]\n[timeouts]\nwaiting_comment = \"100ms\"\nidle = \"600ms\"\n", replica.url());
    let router = TestRouter::start(&config).wait_until_ready();
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, true)));
    let reply = client.read_response();
    assert!(
        !reply.complete && reply.text().contains(COMMENT) && reply.text().contains("\"error\""),
        "{}",
        reply.text()
    );
}
