//! Plain answers that servers keep alive by blank lines until the JSON is complete, as SGLang and DeepSeek do.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use flate2::read::MultiGzDecoder;

use crate::harness::client::build_request;
use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body};

const CHAT_PATH: &str = "/v1/chat/completions";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
const JSON: &str = "{\"id\":\"c\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}],\
                    \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}";

/// Starts a replica that sends a blank line every 20 ms, and `answer` when it is told to.
fn start_blank_sending(answer: &'static str) -> (ScriptedReplica, Sender<()>) {
    let (finish, finished) = channel();
    let finished: Mutex<Receiver<()>> = Mutex::new(finished);
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        let mut alive = to.write_all(HEAD).is_ok();
        let finished = finished.lock().unwrap();
        while alive && finished.recv_timeout(Duration::from_millis(20)).is_err() {
            alive = to.write_all(b"1\r\n\n\r\n").is_ok();
        }
        alive && to.write_all(format!("{:x}\r\n{answer}\r\n0\r\n\r\n", answer.len()).as_bytes()).is_ok()
    });
    (replica, finish)
}

fn start_router(replica: &ScriptedReplica, options: &str) -> TestRouter {
    TestRouter::start(&format!("replicas = [{:?}]\n{options}", replica.url())).wait_until_ready()
}

#[test]
fn white_space_reaches_the_client_before_the_json() {
    let (replica, finish) = start_blank_sending(JSON);
    let router = start_router(&replica, "[timeouts]\nfirst_event_hold = \"200ms\"\n");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, false)));
    let head = client.read_head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    let first = client.read_piece().unwrap();
    assert!(!first.is_empty() && first.iter().all(|byte| *byte == b'\n'), "{first:?}");
    finish.send(()).unwrap();
    let rest = String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(rest.trim_start() == JSON && !client.is_broken(), "{rest}");
    assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[]), 2.0, "its usage is counted");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["completed"]), 1.0);
    assert_eq!(router.in_flight(), 0);
}

#[test]
fn compressed_white_space_is_not_held_back() {
    let (replica, finish) = start_blank_sending(JSON);
    let router = start_router(&replica, "gzip = \"1\"\n[timeouts]\nfirst_event_hold = 0\n");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "accept-encoding: gzip\r\n", chat_body("m", 4, false)));
    assert_eq!(client.read_head().header("content-encoding"), Some("gzip"));
    // The first piece may be gzip's header alone.
    let mut coded: Vec<u8> = (0..3).flat_map(|_| client.read_piece().unwrap()).collect();
    let mut start = [0; 1];
    MultiGzDecoder::new(&*coded).read_exact(&mut start).unwrap();
    assert_eq!(start, *b"\n", "a blank line can be read before the answer ends");
    finish.send(()).unwrap();
    coded.extend(client.read_remaining_body());
    let mut text = String::new();
    MultiGzDecoder::new(&*coded).read_to_string(&mut text).unwrap();
    assert_eq!(text.trim_start(), JSON);
}

#[test]
fn answer_within_the_hold_can_still_be_asked_elsewhere() {
    let (failing, finish) = start_blank_sending("{\"error\":{\"message\":\"out of memory\",\"code\":500}}");
    let (good, finish_good) = start_blank_sending(JSON);
    for finish in [finish, finish_good] {
        (0..4).for_each(|_| finish.send(()).unwrap());
    }
    let config = format!("policy = \"round_robin\"\nreplicas = [{:?}, {:?}]\n", failing.url(), good.url());
    let router = TestRouter::start(&config).wait_until_ready();
    for _ in 0..2 {
        let reply = router.post(CHAT_PATH, chat_body("m", 4, false));
        assert_eq!((reply.status, reply.text().trim_start()), (200, JSON));
    }
    assert_eq!(failing.received_requests().len(), 1);
}

#[test]
fn failure_after_the_hold_is_relayed_and_counts() {
    let (replica, finish) = start_blank_sending("{\"error\":{\"message\":\"out of memory\",\"code\":500}}");
    let router = start_router(&replica, "[timeouts]\nfirst_event_hold = 0\n");
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, false)));
    assert_eq!(client.read_head().status, 200);
    finish.send(()).unwrap();
    let text = String::from_utf8(client.read_remaining_body()).unwrap();
    assert!(text.trim_start().starts_with("{\"error\""), "{text}");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &["failed"]), 1.0);
}

#[test]
fn silence_after_white_space_ends_at_the_idle_timeout() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        to.write_all(&[HEAD, b"1\r\n\n\r\n"].concat()).unwrap();
        while to.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        false
    });
    let timeouts = "[timeouts]\nfirst_event_hold = \"50ms\"\nidle = \"300ms\"\nfirst_byte = \"300ms\"\n\
                    plain_answer = \"300ms\"\nplain_answer_max = \"300ms\"\n";
    let router = start_router(&replica, timeouts);
    let mut client = router.connect();
    client.send(build_request("POST", CHAT_PATH, "", chat_body("m", 4, false)));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_remaining_body(), b"\n");
    assert!(client.is_broken());
    assert_eq!(router.in_flight(), 0);
}
