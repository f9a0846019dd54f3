//! What engines move to the usage event when usage is requested, and `stream_options` that clients write themselves.

use std::io::Write;
use std::net::TcpStream;

use crate::harness::TestRouter;
use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};

const CHAT_PATH: &str = "/v1/chat/completions";
const CONTENT: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn write_stream(to: &mut TcpStream, body: &str) -> KeepConnection {
    to.write_all(&build_response(200, "text/event-stream", body)).is_ok()
}

/// Starts a router over a replica that sends `content`, `usage` and the end.
fn start(content: &str, usage: &str) -> (TestRouter, ScriptedReplica) {
    let body = format!("{content}{usage}{DONE}");
    let replica = ScriptedReplica::start(&["m"], move |_, to| write_stream(to, &body));
    (TestRouter::start_with_replicas([&*replica.url()]), replica)
}

fn body_with(options: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"stream":true{options}}}"#)
}

#[test]
fn timings_of_llama_cpp_reach_a_client_that_did_not_ask_for_usage() {
    let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2},\
                 \"timings\":{\"predicted_per_second\":41.5}}\n\n";
    let (router, replica) = start(CONTENT, usage);
    let text = router.post(CHAT_PATH, body_with("")).text();
    let timings = "data: {\"id\":\"c\",\"timings\":{\"predicted_per_second\":41.5},\
                   \"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":null}]}\n\n";
    assert_eq!(text, format!("{CONTENT}{timings}{DONE}"), "without usage, and with a choice that clients can read");
    assert!(String::from_utf8(replica.last_request().body).unwrap().contains("include_usage"));
    assert_eq!(router.sum_metric("tokenweir_completion_tokens_total", &[]), 2.0, "the usage is counted");
    let asked = router.post(CHAT_PATH, body_with(r#","stream_options":{"include_usage":true}"#)).text();
    assert_eq!(asked, format!("{CONTENT}{usage}{DONE}"), "as the engine sent it");
}

#[test]
fn fingerprint_survives_if_no_other_event_has_it() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2},\
                 \"system_fingerprint\":\"vllm-1\"}\n\n";
    let (router, _replica) = start(CONTENT, usage);
    let text = router.post(CHAT_PATH, body_with("")).text();
    assert!(text.contains("\"system_fingerprint\":\"vllm-1\"") && !text.contains("usage"), "{text}");
    let with_fingerprint = CONTENT.replace("\"id\":", "\"system_fingerprint\":\"vllm-1\",\"id\":");
    let (router, _replica) = start(&with_fingerprint, usage);
    assert_eq!(
        router.post(CHAT_PATH, body_with("")).text(),
        format!("{with_fingerprint}{DONE}"),
        "it is there already"
    );
}

#[test]
fn usage_event_without_its_blank_line_is_edited_too() {
    let usage = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2},\"timings\":{}}";
    let replica = ScriptedReplica::start(&["m"], move |_, to| write_stream(to, &format!("{CONTENT}{usage}")));
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    let text = router.post(CHAT_PATH, body_with("")).text();
    assert!(text.ends_with("\n\n") && text.contains("\"timings\":{}") && !text.contains("usage"), "{text}");
}

/// vLLM reports usage if `stream_options` are given without `include_usage`.
fn play_vllm(received: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    let body = String::from_utf8(received.body.clone()).unwrap();
    let reports = body.contains("stream_options") && !body.contains("\"include_usage\":false");
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
    write_stream(to, &format!("{CONTENT}{}{DONE}", if reports { usage } else { "" }))
}

#[test]
fn stream_options_of_the_client_reach_the_replica_unchanged() {
    let replica = ScriptedReplica::start(&["m"], play_vllm);
    let router = TestRouter::start_with_replicas([&*replica.url()]);
    for (options, has_usage) in [
        (r#","stream_options":{}"#, true),
        (r#","stream_options":{"continuous_usage_stats":false}"#, true),
        (r#","stream_options":{"include_usage":true}"#, true),
        (r#","stream_options":{"include_usage":false}"#, false),
        ("", false),
        (r#","stream_options":null"#, false),
    ] {
        let body = body_with(options);
        let text = router.post(CHAT_PATH, &body).text();
        assert_eq!(text.contains("\"usage\""), has_usage, "{options}: {text}");
        if options.contains('{') {
            assert_eq!(replica.last_request().body, body.as_bytes(), "{options}");
        }
    }
}
