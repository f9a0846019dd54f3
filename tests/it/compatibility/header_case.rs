//! The spelling of header names over HTTP/1.1, which nginx keeps and some scripts compare.

use std::io::Write;

use crate::harness::scripted::ScriptedReplica;
use crate::harness::{TestRouter, chat_body};

const CHAT_PATH: &str = "/v1/chat/completions";

#[test]
fn header_names_keep_their_spelling_where_that_is_configured() {
    let replica = ScriptedReplica::start(&["m"], |_, to| {
        let head = "HTTP/1.1 200 Fine\r\nContent-Type: application/json\r\nX-vLLM-ID: 7\r\nx-lower: 8\r\nX-Twice: 1\r\n\
            x-TWICE: 2\r\nContent-Length: 2\r\n\r\n{}";
        to.write_all(head.as_bytes()).is_ok()
    });
    let sent = "X-My-HEADER: 1\r\nx-small: 2\r\nX-REQUEST-Id: a7\r\n";
    for (keys, to_replica, to_client) in [
        (
            "preserve_header_case = true",
            ["X-My-HEADER: 1", "x-small: 2", "X-REQUEST-Id: a7", "X-Forwarded-For: 127.0.0.1"],
            ["HTTP/1.1 200 Fine", "X-vLLM-ID: 7", "x-lower: 8", "X-Twice: 1\r\nx-TWICE: 2", "X-Upstream: "],
        ),
        (
            "",
            ["x-my-header: 1", "x-small: 2", "x-request-id: a7", "x-forwarded-for: 127.0.0.1"],
            ["HTTP/1.1 200 Fine", "x-vllm-id: 7", "x-lower: 8", "x-twice: 1\r\nx-twice: 2", "x-upstream: "],
        ),
    ] {
        let router = TestRouter::start(&format!("{keys}\nreplicas = [{:?}]", replica.url())).wait_until_ready();
        // The second request uses the first one's connection to the replica.
        for _ in 0..2 {
            let reply = router.send_request("POST", CHAT_PATH, sent, chat_body("m", 2, false));
            let received = replica.last_request().head;
            assert!(to_replica.iter().all(|line| received.contains(line)), "{keys}: {received}");
            assert!(to_client.iter().all(|line| reply.head.contains(line)), "{keys}: {}", reply.head);
            assert_eq!(reply.text(), "{}");
        }
    }
}
